/** Limits on the connections and handshakes of one network address, and of all. */
import { addressKey } from "../../base/network_address.ts";

/** Complete limits of {@linkcode HandshakeLimits}. */
export interface HandshakeLimitsOptions {
  /** Connections per second that one address may open, on average. */
  readonly handshakesPerSecond: number;
  /** Connections that one address may open at once after a pause. */
  readonly handshakeBurst: number;
  /** Connections of one address without a request yet. */
  readonly maxPendingPerAddress: number;
  /** Connections of all addresses without a request yet. */
  readonly maxPending: number;
  /** Connections of one address, in addition to `maxPendingPerAddress`. */
  readonly maxConnectionsPerAddress: number;
  /** Connections of all addresses, in addition to `maxPending`. */
  readonly maxConnections: number;
  /** Addresses to remember that have no connection. */
  readonly maxIdleAddresses: number;
}

/** Counters of connections and handshakes. */
export interface HandshakeStats {
  /** Open connections of any kind. */
  readonly connections: number;
  /** Open connections without a request yet: in the TLS handshake, or in the head of a request. */
  readonly pending: number;
  /** Remembered addresses: those with a connection, and those that had one recently. */
  readonly addresses: number;
  /** Connections dropped, or answered with 429, because the address opens connections too often. */
  readonly tooFrequent: number;
  /**
   * Connections dropped, at once or in favour of a newer one, because too many had no request yet.
   */
  readonly tooManyPending: number;
  /** Connections dropped because there were too many. */
  readonly tooMany: number;
  /** Connections dropped because the first request took too long. */
  readonly tooSlow: number;
}

/** State of one address. */
interface Account {
  readonly key: string;
  connections: number;
  pending: number;
  tokens: number;
  /** Time at which `tokens` was computed, in milliseconds. */
  at: number;
}

/** A connection that may be dropped in favour of a newer one. */
interface Droppable {
  /** Ends the connection at once. */
  destroy(): void;
}

/** Slot of one connection in the limits, held until disposal. */
export class ConnectionSlot implements Disposable {
  /** Seconds until the address may open another connection; 0 for a connection within the rate. */
  readonly retryAfterS: number;
  readonly #limits: HandshakeLimits;
  readonly #account: Account;
  readonly #connection: Droppable;
  #isOver = false;

  /** Takes a slot; called by {@linkcode HandshakeLimits.admit}. */
  constructor(
    limits: HandshakeLimits,
    account: Account,
    { retryAfterS, connection }: {
      readonly retryAfterS: number;
      readonly connection: Droppable;
    },
  ) {
    this.#limits = limits;
    this.#account = account;
    this.#connection = connection;
    this.retryAfterS = retryAfterS;
    limits.count(account, 1);
    limits.addPending(this, account);
  }

  /** Marks the connection as no longer pending: the first request arrived. Idempotent. */
  requested(): void {
    this.#limits.removePending(this, this.#account);
  }

  /** Frees the slot, and drops the connection. */
  drop(): void {
    this[Symbol.dispose]();
    this.#connection.destroy();
  }

  /** Frees the slot of a closed connection. Idempotent. */
  [Symbol.dispose](): void {
    this.requested();
    if (this.#isOver) return;
    this.#isOver = true;
    this.#limits.count(this.#account, -1);
  }
}

/**
 * Counts connections by address; an IPv6 /64 is one address. Each connection takes a token of its
 * address, and tokens come back with time.
 *
 * - **Memory:** an address is forgotten once it has no connection and all its tokens. At most
 *   `maxIdleAddresses` addresses without a connection are remembered; beyond, the oldest is
 *   forgotten first.
 * - **No timer:** tokens are computed when a connection arrives.
 * - **Crowded:** when too many connections have no request yet, the oldest of these is dropped for
 *   the newest. An honest client sends its request at once; an attacker only holds the slot.
 */
export class HandshakeLimits {
  readonly #options: HandshakeLimitsOptions;
  /** Addresses with a connection. Bounded by `maxConnections`. */
  readonly #active = new Map<string, Account>();
  /** Addresses without a connection, in the order in which the last one closed. */
  readonly #idle = new Map<string, Account>();
  /** Slots without a request yet, the oldest first. Bounded by `maxPending`. */
  readonly #pending = new Set<ConnectionSlot>();
  #connections = 0;
  #tooFrequent = 0;
  #tooManyPending = 0;
  #tooMany = 0;
  #tooSlow = 0;

  /** Creates limits with zero counters. */
  constructor(options: HandshakeLimitsOptions) {
    this.#options = options;
  }

  /** Counters of connections and handshakes. */
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
   * @param address Remote network address.
   * @param now Current time, in milliseconds.
   * @param connection The connection, which a newer one may displace later.
   * @returns The slot of the connection; `undefined` if the connection has to be dropped.
   */
  admit(address: string, now: number, connection: Droppable): ConnectionSlot | undefined {
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
    const slot = new ConnectionSlot(this, account, { retryAfterS, connection });
    if (this.#pending.size > maxPending) {
      const [oldest] = this.#pending;
      this.#tooManyPending++;
      oldest!.drop();
    }
    return slot;
  }

  /** Counts a connection whose first request took too long. */
  countLate(): void {
    this.#tooSlow++;
  }

  /** Adds a slot to the pending ones; called by {@linkcode ConnectionSlot}. */
  addPending(slot: ConnectionSlot, account: Account): void {
    this.#pending.add(slot);
    account.pending++;
  }

  /** Removes a slot from the pending ones. Idempotent; called by {@linkcode ConnectionSlot}. */
  removePending(slot: ConnectionSlot, account: Account): void {
    if (this.#pending.delete(slot)) account.pending--;
  }

  /** Adds to the connections of an address; called by {@linkcode ConnectionSlot}. */
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
    // Connections beyond the maximum are admitted while pending, so that a 429 can be sent.
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
    // The oldest come first: each is forgotten once all tokens are back, or when room is needed.
    for (const [key, { tokens, at }] of this.#idle) {
      const isRested = tokens + (account.at - at) / 1_000 * handshakesPerSecond >= handshakeBurst;
      if (!isRested && this.#idle.size <= maxIdleAddresses) return;
      this.#idle.delete(key);
    }
  }
}
