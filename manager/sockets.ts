/** Limits of sockets, which can outlive their sessions. */
import { isContended } from "../base/shares.ts";
import { LimitError } from "../errors.ts";
import type { SocketLease } from "../transport/websocket/server.ts";

/** Sockets for each session that a limit allows: as many may linger as are in use. */
export const SOCKETS_PER_SESSION = 2;

/** The same for a client that moves: its two sessions count once, and have a socket each. */
const SOCKETS_BESIDE = SOCKETS_PER_SESSION + 1;

/** The limits of sessions that also bound sockets. */
export interface SocketLimits {
  /** Most sessions at once. */
  readonly maxSessions: number;
  /** Most sessions of one network address. */
  readonly maxSessionsPerAddress: number;
  /** True if the share of an address always counts, and not only in contention. */
  readonly isStrict: boolean;
}

/** The count of one socket. */
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

/**
 * Counts the sockets of the runtime, and refuses those beyond a limit.
 *
 * A runtime that cannot drop a socket (Deno's) keeps a socket until the peer answers the close, for
 * as long as the peer likes. The session is over and frees its place, so sockets have their own
 * bound.
 */
export class Sockets {
  readonly #limits: SocketLimits;
  readonly #addresses = new Map<string, number>(); // Bounded by the limits.
  #open = 0;
  #lingering = 0;
  #refused = 0;

  /**
   * Creates a counter of no sockets.
   *
   * @param limits The limits of sessions; {@linkcode SOCKETS_PER_SESSION} times as many sockets are allowed.
   */
  constructor(limits: SocketLimits) {
    this.#limits = limits;
  }

  /** Counters of sockets. */
  get stats() {
    return { open: this.#open, lingering: this.#lingering, refused: this.#refused };
  }

  /**
   * Counts a socket.
   *
   * @param address The key of the network address; `undefined` is not counted.
   * @param isBeside True for a client that moves here from another session.
   * @returns The count of the socket, which ends at disposal.
   * @throws {LimitError} If there are too many sockets.
   */
  take(address: string | undefined, isBeside: boolean): SocketLease {
    const perSession = isBeside ? SOCKETS_BESIDE : SOCKETS_PER_SESSION;
    const { maxSessions, maxSessionsPerAddress, isStrict } = this.#limits;
    const [most, mostPerAddress] = [maxSessions * perSession, maxSessionsPerAddress * perSession];
    if (this.#open >= most) this.#refuse("maxSessions", most, "at once");
    const bites = isStrict || isContended(this.#open, most);
    if (bites && countOf(this.#addresses, address) >= mostPerAddress) {
      this.#refuse("maxSessionsPerAddress", mostPerAddress, "per network address");
    }
    this.#open++;
    addTo(this.#addresses, address, 1);
    return new Lease(this, address);
  }

  /** Counts one lingering socket more or less. */
  linger(step: 1 | -1): void {
    this.#lingering += step;
  }

  /** Ends the count of a socket. */
  release(address: string | undefined): void {
    this.#open--;
    addTo(this.#addresses, address, -1);
  }

  /** The message may reach the peer, and so names no address. */
  #refuse(limit: "maxSessions" | "maxSessionsPerAddress", bound: number, what: string): never {
    this.#refused++;
    throw new LimitError(
      limit,
      `Cannot upgrade: at most ${bound} sockets ${what}, received one more`,
    );
  }
}

/** Reads the count of a key; 0 for `undefined`. */
export function countOf(counts: ReadonlyMap<string, number>, key: string | undefined): number {
  return key === undefined ? 0 : counts.get(key) ?? 0;
}

/**
 * Counts up or down. An `undefined` key is not counted; a key at zero is removed, which bounds the
 * map.
 */
export function addTo(counts: Map<string, number>, key: string | undefined, step: 1 | -1): void {
  if (key === undefined) return;
  const count = countOf(counts, key) + step;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}
