/** Limits on sockets, which can outlive their sessions. */
import type { Account } from "../base/quotas/accounts.ts";
import type { Quota, QuotaOptions, Quotas, Slot } from "../base/quotas/shares.ts";
import type { SocketLease } from "../transport/websocket/server.ts";

/** Sockets for each session that a limit allows. As many sockets may linger as are in use. */
export const SOCKETS_PER_SESSION = 2;

/** The same for a client that moves. Its two sessions count once, but each has a socket. */
const SOCKETS_BESIDE = SOCKETS_PER_SESSION + 1;

class Lease implements SocketLease {
  readonly #sockets: Sockets;
  readonly #slot: Slot;
  #isLingering = false;

  constructor(sockets: Sockets, slot: Slot) {
    this.#sockets = sockets;
    this.#slot = slot;
  }

  closing(): void {
    if (this.#isLingering || !this.#slot.isHeld) return;
    this.#isLingering = true;
    this.#sockets.linger(1);
  }

  [Symbol.dispose](): void {
    if (!this.#slot.isHeld) return;
    if (this.#isLingering) this.#sockets.linger(-1);
    this.#slot[Symbol.dispose]();
  }
}

/**
 * Counts the runtime's sockets, and rejects those beyond a limit.
 *
 * Deno cannot drop a socket: a socket stays open until the peer responds to the close, however long
 * that takes. By then, its session has freed its slot, so sockets have a separate limit.
 */
export class Sockets {
  readonly #slots: Quota;
  #lingering = 0;

  /**
   * Creates a counter without sockets.
   *
   * @param sessions The quota of sessions; {@linkcode SOCKETS_PER_SESSION} times as many sockets
   * are allowed.
   */
  constructor(quotas: Quotas, sessions: QuotaOptions) {
    const { shareLimits, strict, max, shares: { address = Infinity } } = sessions;
    this.#slots = quotas.open({
      limit: sessions.limit,
      name: "sockets",
      shareLimits: shareLimits ?? {},
      verb: "upgrade",
      what: "sockets at once",
      max: max * SOCKETS_PER_SESSION,
      shares: { address: address * SOCKETS_PER_SESSION },
      strict: strict?.filter((level) => level === "address") ?? [],
    });
  }

  get stats(): { readonly open: number; readonly lingering: number; readonly rejected: number } {
    const { taken, rejected: { server, address } } = this.#slots.stats;
    return { open: taken, lingering: this.#lingering, rejected: server + address };
  }

  /**
   * Counts a socket.
   *
   * @param account The account of the network address.
   * @param isBeside True for a client that is moving here from another session.
   * @returns The lease of the socket; disposing of it ends the count.
   * @throws {LimitError} If there are too many sockets.
   */
  take(account: Account, isBeside: boolean): SocketLease {
    const factor = isBeside ? SOCKETS_BESIDE / SOCKETS_PER_SESSION : 1;
    return new Lease(this, this.#slots.take(account, { factor }));
  }

  /** Counts one more or one fewer lingering socket. */
  linger(step: 1 | -1): void {
    this.#lingering += step;
  }
}
