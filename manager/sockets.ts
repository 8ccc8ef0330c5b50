/**
 * How many sockets there may be: they can outlive their sessions.
 *
 * A runtime that cannot drop a socket (Deno's) keeps one whose peer never
 * answers a close for as long as that peer wants. Its session is over and frees
 * its place, so sockets have a bound of their own.
 *
 * @module
 */
import { LimitError } from "../errors.ts";
import type { SocketLease } from "../transport/websocket/server.ts";
import { addTo, countOf } from "./_counts.ts";

/** Sockets for each session that a limit allows: as many may linger as may be in use. */
export const SOCKETS_PER_SESSION = 2;

/** The limits of sessions that bound sockets, too. */
export interface SocketLimits {
  /** Most sessions at once. */
  readonly maxSessions: number;
  /** Most sessions of one network address. */
  readonly maxSessionsPerAddress: number;
}

/** The sockets of a server: those of sessions, of handshakes, and of nobody any more. */
export interface SocketStats {
  /** Sockets that the runtime has now, from the upgrade to their real end. */
  readonly open: number;
  /** Of these, sockets that this end closed, and whose peers did not answer yet: their sessions may be over. */
  readonly lingering: number;
  /** Upgrades that were refused, because there were too many sockets. */
  readonly refused: number;
}

/** One socket that is counted. */
class Lease implements SocketLease {
  readonly #sockets: Sockets;
  readonly #address: string | undefined;
  #state: "open" | "lingering" | "over" = "open";

  constructor(sockets: Sockets, address: string | undefined) {
    this.#sockets = sockets;
    this.#address = address;
  }

  closing(): void {
    if (this.#state !== "open") return;
    this.#state = "lingering";
    this.#sockets.linger(1);
  }

  [Symbol.dispose](): void {
    if (this.#state === "over") return;
    if (this.#state === "lingering") this.#sockets.linger(-1);
    this.#state = "over";
    this.#sockets.release(this.#address);
  }
}

/** Counts the sockets that the runtime has, and refuses those that are too many. */
export class Sockets {
  readonly #maxInAll: number;
  readonly #maxPerAddress: number;
  readonly #addresses = new Map<string, number>(); // Bounded by `#maxInAll`.
  #open = 0;
  #lingering = 0;
  #refused = 0;

  /**
   * Creates a counter of no sockets.
   *
   * @param limits The limits of sessions; {@linkcode SOCKETS_PER_SESSION} times as many sockets are allowed.
   */
  constructor(limits: SocketLimits) {
    this.#maxInAll = limits.maxSessions * SOCKETS_PER_SESSION;
    this.#maxPerAddress = limits.maxSessionsPerAddress * SOCKETS_PER_SESSION;
  }

  /** What was counted. */
  get stats(): SocketStats {
    return { open: this.#open, lingering: this.#lingering, refused: this.#refused };
  }

  /**
   * Counts a socket.
   *
   * @param address The key of its address; `undefined` counts for none.
   * @returns Counts for it until it is disposed of.
   * @throws {LimitError} If there are too many.
   */
  take(address: string | undefined): SocketLease {
    if (this.#open >= this.#maxInAll) this.#refuse("maxSessions", this.#maxInAll, "at once");
    if (countOf(this.#addresses, address) >= this.#maxPerAddress) {
      this.#refuse("maxSessionsPerAddress", this.#maxPerAddress, "per network address");
    }
    this.#open++;
    addTo(this.#addresses, address, 1);
    return new Lease(this, address);
  }

  /** One more lingers, or one less. */
  linger(step: 1 | -1): void {
    this.#lingering += step;
  }

  /** A socket is no more. */
  release(address: string | undefined): void {
    this.#open--;
    addTo(this.#addresses, address, -1);
  }

  /** The message may reach the peer: it names no address. */
  #refuse(limit: keyof SocketLimits, bound: number, what: string): never {
    this.#refused++;
    throw new LimitError(
      limit,
      `Cannot upgrade: at most ${bound} sockets ${what}, received one more`,
    );
  }
}
