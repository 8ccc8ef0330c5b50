/**
 * How many connections, and handshakes, one network address may have.
 *
 * @module
 */
import { addressKey } from "../address.ts";

/** The limits, complete. */
export interface HandshakeLimitsOptions {
  /** Connections of one address a second, on average. */
  readonly handshakesPerSecond: number;
  /** Connections that one address may open at once after a pause. */
  readonly handshakeBurst: number;
  /** Connections of one address without a request yet. */
  readonly maxPendingPerAddress: number;
  /** Connections of all addresses without a request yet. */
  readonly maxPending: number;
  /** Connections of one address, beside as many as may have no request. */
  readonly maxConnectionsPerAddress: number;
  /** Connections of all addresses, beside as many as may have no request. */
  readonly maxConnections: number;
  /** Addresses without a connection that are remembered. */
  readonly maxIdleAddresses: number;
}

/** What was counted. */
export interface HandshakeStats {
  /** Connections that are open, whatever they are for. */
  readonly connections: number;
  /** Of these, those without a request yet: in the handshake of TLS, or in the head of a request. */
  readonly pending: number;
  /** Addresses that are remembered: those with a connection, and those that had some lately. */
  readonly addresses: number;
  /** Connections that were dropped, or answered with 429, since their address opens too many. */
  readonly tooFrequent: number;
  /** Connections that were dropped, since there were too many without a request. */
  readonly tooManyPending: number;
  /** Connections that were dropped, since there were too many. */
  readonly tooMany: number;
  /** Connections that were dropped, since their request took too long. */
  readonly tooSlow: number;
}

/** What is known of one address. */
interface Account {
  readonly key: string;
  connections: number;
  pending: number;
  tokens: number;
  /** When `tokens` was counted, in milliseconds. */
  at: number;
}

/** Counts for one connection until it is disposed of. */
export class Admitted implements Disposable {
  /** Seconds after which its address may open another one; 0 if this one is within its rate. */
  readonly retryAfterS: number;
  readonly #limits: HandshakeLimits;
  readonly #account: Account;
  #isPending = true;
  #isOver = false;

  /** Counts a connection; called by {@linkcode HandshakeLimits.admit}. */
  constructor(limits: HandshakeLimits, account: Account, retryAfterS: number) {
    this.#limits = limits;
    this.#account = account;
    this.retryAfterS = retryAfterS;
    limits.count(account, 1, 1);
  }

  /** Its request came. Idempotent. */
  asked(): void {
    if (!this.#isPending) return;
    this.#isPending = false;
    this.#limits.count(this.#account, 0, -1);
  }

  /** It is closed. Idempotent. */
  [Symbol.dispose](): void {
    this.asked();
    if (this.#isOver) return;
    this.#isOver = true;
    this.#limits.count(this.#account, -1, 0);
  }
}

/**
 * Counts connections by address; an IPv6 /64 is one address. Each takes a token
 * of its address, and time puts tokens back.
 *
 * - **Memory:** an address is forgotten once it has no connection and all its
 *   tokens. Of those without a connection at most `maxIdleAddresses` are
 *   remembered, and the oldest is forgotten first.
 * - **No timer:** tokens are counted when somebody connects.
 */
export class HandshakeLimits {
  readonly #options: HandshakeLimitsOptions;
  /** Those with a connection: bounded by `maxConnections`. */
  readonly #active = new Map<string, Account>();
  /** Those without one, in the order in which they lost it. */
  readonly #idle = new Map<string, Account>();
  #connections = 0;
  #pending = 0;
  #tooFrequent = 0;
  #tooManyPending = 0;
  #tooMany = 0;
  #tooSlow = 0;

  /** Counts nothing yet. */
  constructor(options: HandshakeLimitsOptions) {
    this.#options = options;
  }

  /** What was counted. */
  get stats(): HandshakeStats {
    return {
      connections: this.#connections,
      pending: this.#pending,
      addresses: this.#active.size + this.#idle.size,
      tooFrequent: this.#tooFrequent,
      tooManyPending: this.#tooManyPending,
      tooMany: this.#tooMany,
      tooSlow: this.#tooSlow,
    };
  }

  /**
   * Counts a connection.
   *
   * @param address Where it comes from.
   * @param now The time in milliseconds.
   * @returns What counts for it; `undefined` if it has to be dropped.
   */
  admit(address: string, now: number): Admitted | undefined {
    const { handshakesPerSecond, handshakeBurst } = this.#options;
    const account = this.#accountOf(addressKey(address), now);
    const elapsedS = Math.max(0, now - account.at) / 1_000;
    account.at = now;
    account.tokens = Math.min(handshakeBurst, account.tokens + elapsedS * handshakesPerSecond);
    if (this.#isFull(account)) {
      if (account.connections === 0) this.#remember(account);
      return undefined;
    }
    const missing = Math.max(0, 1 - account.tokens);
    if (missing === 0) account.tokens--;
    else this.#tooFrequent++;
    this.#active.set(account.key, account);
    return new Admitted(this, account, Math.ceil(missing / handshakesPerSecond));
  }

  /** Counts one whose request took too long. */
  late(): void {
    this.#tooSlow++;
  }

  /** Counts more or fewer for an address; what {@linkcode Admitted} does. */
  count(account: Account, connections: number, pending: number): void {
    this.#connections += connections;
    this.#pending += pending;
    account.connections += connections;
    account.pending += pending;
    if (account.connections > 0) return;
    this.#active.delete(account.key);
    this.#remember(account);
  }

  #isFull({ connections, pending }: Account): boolean {
    const { maxConnections, maxConnectionsPerAddress, maxPending, maxPendingPerAddress } =
      this.#options;
    // Those beyond that have no request yet may come, to be told that they are too many.
    const hasNoRoom = this.#connections >= maxConnections + maxPending ||
      connections >= maxConnectionsPerAddress + maxPendingPerAddress;
    if (hasNoRoom) {
      this.#tooMany++;
      return true;
    }
    if (this.#pending >= maxPending || pending >= maxPendingPerAddress) {
      this.#tooManyPending++;
      return true;
    }
    return false;
  }

  #accountOf(key: string, now: number): Account {
    const known = this.#active.get(key) ?? this.#idle.get(key);
    this.#idle.delete(key);
    if (known !== undefined) return known;
    return { key, connections: 0, pending: 0, tokens: this.#options.handshakeBurst, at: now };
  }

  #remember(account: Account): void {
    const { handshakesPerSecond, handshakeBurst, maxIdleAddresses } = this.#options;
    this.#idle.set(account.key, account);
    // The first ones have rested the longest: they go once they have all their tokens, or must.
    for (const [key, { tokens, at }] of this.#idle) {
      const isRested = tokens + (account.at - at) / 1_000 * handshakesPerSecond >= handshakeBurst;
      if (!isRested && this.#idle.size <= maxIdleAddresses) return;
      this.#idle.delete(key);
    }
  }
}
