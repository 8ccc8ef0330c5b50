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
  /** Connections that were dropped for another one, or at once, since too many had no request. */
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
  readonly #drop: () => void;
  #isOver = false;

  /** Counts a connection; called by {@linkcode HandshakeLimits.admit}. */
  constructor(
    limits: HandshakeLimits,
    account: Account,
    { retryAfterS, drop }: { readonly retryAfterS: number; readonly drop: () => void },
  ) {
    this.#limits = limits;
    this.#account = account;
    this.#drop = drop;
    this.retryAfterS = retryAfterS;
    limits.count(account, 1);
    limits.await(this, account);
  }

  /** Its request came. Idempotent. */
  asked(): void {
    this.#limits.heard(this, this.#account);
  }

  /** Drops the connection, and counts it no more. */
  drop(): void {
    this[Symbol.dispose]();
    this.#drop();
  }

  /** It is closed. Idempotent. */
  [Symbol.dispose](): void {
    this.asked();
    if (this.#isOver) return;
    this.#isOver = true;
    this.#limits.count(this.#account, -1);
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
 * - **Crowded:** where too many have no request yet, the oldest of them is dropped for the newest:
 *   who means to ask does so at once, and who only holds the place does not.
 */
export class HandshakeLimits {
  readonly #options: HandshakeLimitsOptions;
  /** Those with a connection: bounded by `maxConnections`. */
  readonly #active = new Map<string, Account>();
  /** Those without one, in the order in which they lost it. */
  readonly #idle = new Map<string, Account>();
  /** Those without a request yet, the oldest first: bounded by `maxPending`. */
  readonly #pending = new Set<Admitted>();
  #connections = 0;
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
      pending: this.#pending.size,
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
   * @param drop Drops it later, for one that is newer.
   * @returns What counts for it; `undefined` if it has to be dropped.
   */
  admit(address: string, now: number, drop: () => void): Admitted | undefined {
    const { handshakesPerSecond, handshakeBurst, maxPending } = this.#options;
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
    const retryAfterS = Math.ceil(missing / handshakesPerSecond);
    const admitted = new Admitted(this, account, { retryAfterS, drop });
    if (this.#pending.size > maxPending) {
      const [oldest] = this.#pending;
      this.#tooManyPending++;
      oldest!.drop();
    }
    return admitted;
  }

  /** Counts one whose request took too long. */
  late(): void {
    this.#tooSlow++;
  }

  /** Waits for the request of a connection; called by {@linkcode Admitted}. */
  await(admitted: Admitted, account: Account): void {
    this.#pending.add(admitted);
    account.pending++;
  }

  /** Waits for it no more. Idempotent; called by {@linkcode Admitted}. */
  heard(admitted: Admitted, account: Account): void {
    if (this.#pending.delete(admitted)) account.pending--;
  }

  /** Counts connections of an address; called by {@linkcode Admitted}. */
  count(account: Account, connections: number): void {
    this.#connections += connections;
    account.connections += connections;
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
    if (pending >= maxPendingPerAddress) {
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
