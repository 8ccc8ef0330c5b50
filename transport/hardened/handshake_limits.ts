/** The limits on the connections and handshakes of one network address, and of all addresses. */
import { addressKey } from "../../base/network_address.ts";
import { socketAccount } from "../../base/quotas/accounts.ts";
import { type Quota, quotaIn, type Quotas, sharesOf, type Slot } from "../../base/quotas/shares.ts";
import { type Rate, TokenBucket } from "../../base/quotas/token_bucket.ts";
import { connectionQuota } from "../connection_quota.ts";

/** The default number of connections without a request that one address may have. */
const MAX_PENDING_PER_ADDRESS = 200;

/** The complete limits of {@linkcode HandshakeLimits}. */
export interface HandshakeLimitsOptions {
  /** The number of connections per second that one address may open, on average. */
  readonly handshakesPerSecond: number;
  /** The number of connections that one address may open in a burst after a pause. */
  readonly handshakeBurst: number;
  /**
   * The number of connections of one address that may be open without having sent a request. By
   * default, an address is limited to a share once more than half of `maxPending` is in use.
   */
  readonly maxPendingPerAddress?: number | undefined;
  /** The number of connections of all addresses that may be open without having sent a request. */
  readonly maxPending: number;
  /**
   * The number of connections of one address, in addition to `maxPendingPerAddress`; see
   * `connectionQuota`.
   */
  readonly maxConnectionsPerAddress?: number | undefined;
  /** The number of connections of all addresses, in addition to `maxPending`. */
  readonly maxConnections: number;
  /** The number of addresses to remember until their tokens are refilled. */
  readonly maxIdleAddresses: number;
  /** All quotas of the server, if there is a server. */
  readonly quotas?: Quotas | undefined;
}

/** The counters of connections and handshakes. */
export interface HandshakeStats {
  /** Open connections of any kind. */
  readonly connections: number;
  /**
   * Open connections that have not sent a request yet: they are in the TLS handshake, or in the
   * head of a request.
   */
  readonly pending: number;
  /** Addresses that opened a connection recently, and are therefore remembered. */
  readonly addresses: number;
  /**
   * Connections dropped, or rejected with 429, because the address opened connections too often.
   */
  readonly tooFrequent: number;
  /**
   * Connections dropped, immediately or in favor of a newer one, because too many had not sent a
   * request yet.
   */
  readonly tooManyPending: number;
  /** Connections dropped because there were too many. */
  readonly tooMany: number;
  /** Connections dropped because the first request took too long. */
  readonly tooSlow: number;
}

/** A connection that may be dropped in favor of a newer one. */
interface Droppable {
  destroy(): void;
}

/** The slots that one connection uses in the limits, held until disposal. */
export class ConnectionSlot implements Disposable {
  /**
   * The number of seconds until the address may open another connection, or 0 if this connection is
   * within the rate.
   */
  readonly retryAfterS: number;
  readonly #waiting: Set<ConnectionSlot>;
  readonly #slot: Slot;
  readonly #pending: Slot;
  readonly #connection: Droppable;

  /** Holds the slots; called by {@linkcode HandshakeLimits.admit}. */
  constructor(
    waiting: Set<ConnectionSlot>,
    { slot, pending, retryAfterS, connection }: {
      readonly slot: Slot;
      readonly pending: Slot;
      readonly retryAfterS: number;
      readonly connection: Droppable;
    },
  ) {
    this.#waiting = waiting;
    this.#slot = slot;
    this.#pending = pending;
    this.#connection = connection;
    this.retryAfterS = retryAfterS;
    waiting.add(this);
  }

  /**
   * Marks the connection as no longer pending, because the first request has arrived. Idempotent.
   */
  requested(): void {
    this.#waiting.delete(this);
    this.#pending[Symbol.dispose]();
  }

  /** Frees the slot, and drops the connection. */
  drop(): void {
    this[Symbol.dispose]();
    this.#connection.destroy();
  }

  /** Frees the slot of a closed connection. Idempotent. */
  [Symbol.dispose](): void {
    this.requested();
    this.#slot[Symbol.dispose]();
  }
}

/**
 * Counts connections by address. An IPv6 /64 counts as one address. Each connection uses a token of
 * its address, and tokens are refilled over time.
 *
 * - **Memory:** an address is forgotten when all its tokens are refilled. At most
 *   `maxIdleAddresses` are remembered. If there are more, the address that has been quiet for the
 *   longest time is forgotten first.
 * - **No timer:** tokens are computed when a connection arrives.
 * - **Crowded:** when too many connections have not sent a request yet, a new one replaces the
 *   oldest of them. An honest client sends its request immediately, while an attacker only holds
 *   the slot.
 */
export class HandshakeLimits {
  readonly #rate: Required<Rate>;
  readonly #maxIdleAddresses: number;
  /** The tokens by address, in the order of the last connection. At most `maxIdleAddresses`. */
  readonly #buckets = new Map<string, TokenBucket>();
  readonly #connections: Quota;
  readonly #pending: Quota;
  /**
   * The slots of connections that have not sent a request yet, oldest first. Bounded by
   * `maxPending`.
   */
  readonly #waiting = new Set<ConnectionSlot>();
  #tooFrequent = 0;
  #replaced = 0;
  #tooSlow = 0;

  /** Creates limits with zero counters. */
  constructor(options: HandshakeLimitsOptions) {
    const { handshakesPerSecond, handshakeBurst, maxIdleAddresses, quotas } = options;
    const { maxConnections, maxConnectionsPerAddress, maxPending } = options;
    const pendingShares = sharesOf(
      { address: options.maxPendingPerAddress },
      { address: MAX_PENDING_PER_ADDRESS },
    );
    this.#rate = { perSecond: handshakesPerSecond, burst: handshakeBurst };
    this.#maxIdleAddresses = maxIdleAddresses;
    this.#connections = connectionQuota({
      name: "connections",
      maxConnections,
      maxConnectionsPerAddress,
      // Connections above the maximum are admitted while they are pending, so that a 429 can be
      // sent.
      more: [maxPending, pendingShares.shares.address!],
      quotas,
    });
    this.#pending = quotaIn(quotas, {
      limit: "maxPending",
      shareLimits: { address: "maxPendingPerAddress" },
      verb: "connect",
      what: "connections without a request",
      max: maxPending,
      ...pendingShares,
    });
  }

  /** The counters of connections and handshakes. */
  get stats(): HandshakeStats {
    const { taken: connections, rejected: { server, address } } = this.#connections.stats;
    const { taken: pending, rejected } = this.#pending.stats;
    return {
      connections,
      pending,
      addresses: this.#buckets.size,
      tooFrequent: this.#tooFrequent,
      tooManyPending: this.#replaced + rejected.server + rejected.address,
      tooMany: server + address,
      tooSlow: this.#tooSlow,
    };
  }

  /**
   * Counts a connection.
   *
   * @param now The current time, in milliseconds.
   * @param connection The connection. A newer connection may displace it later.
   * @returns The connection's slot, or `undefined` if the connection must be dropped.
   */
  admit(address: string, now: number, connection: Droppable): ConnectionSlot | undefined {
    const account = socketAccount(address);
    const slot = this.#connections.tryTake(account);
    if (typeof slot === "string") return undefined;
    // An address that exceeds its own share cannot displace the connections of others.
    if (this.#pending.isFull && this.#pending.levelFull(account) === "server") this.#dropOldest();
    const pending = this.#pending.tryTake(account);
    if (typeof pending === "string") {
      slot[Symbol.dispose]();
      return undefined;
    }
    const retryAfterS = Math.ceil(this.#takeToken(addressKey(address), now) / 1_000);
    return new ConnectionSlot(this.#waiting, { slot, pending, retryAfterS, connection });
  }

  /** Counts a connection whose first request took too long. */
  countLate(): void {
    this.#tooSlow++;
  }

  #dropOldest(): void {
    const [oldest] = this.#waiting;
    if (oldest === undefined) return;
    this.#replaced++;
    oldest.drop();
  }

  /** Takes a token of an address. Returns the time until a token is available, in milliseconds. */
  #takeToken(key: string, now: number): number {
    const bucket = this.#buckets.get(key) ?? new TokenBucket(this.#rate, now);
    const waitMs = bucket.waitMs(1, now);
    if (waitMs === 0) bucket.take(1, now);
    else this.#tooFrequent++;
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    for (const [oldest, tokens] of this.#buckets) {
      if (!tokens.isFull(now) && this.#buckets.size <= this.#maxIdleAddresses) break;
      this.#buckets.delete(oldest);
    }
    return waitMs;
  }
}
