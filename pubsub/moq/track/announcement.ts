/**
 * Announcements: which broadcasts are there.
 *
 * @module
 */
import type { MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { Waiters } from "./_waiters.ts";

/** A broadcast that came or went. */
export interface Announcement {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** Whether it is there. */
  readonly active: boolean;
  /** The ids of the relays that it passed, the first one first; empty on versions without. */
  readonly hops: readonly bigint[];
}

/** Broadcasts that a reader of announcements knows of, at most. */
export const MAX_ANNOUNCED = 100_000;

/**
 * What a peer has below a prefix: first what is there already, then what comes and goes. Read it by one loop.
 *
 * - **Slow readers** do not hold up the peer: of a broadcast that came and went meanwhile they get
 *   nothing, of others the last state.
 * - **Bounded:** a peer that announces more than {@linkcode MAX_ANNOUNCED} broadcasts ends it.
 * - **Leaving** the loop ends it; so does the end of the session, with an error. Over Deno's QUIC a
 *   session that closes ends its streams like a clean end, and the loop may end without an error then.
 *
 * @example What is there, and what goes
 * ```ts
 * import { MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * const alice = mux.publish("/live/alice", () => {});
 * const pair = memoryPair({ protocol: "moq-lite-04" });
 * const [server, client] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 *
 * const seen: string[] = [];
 * for await (const { path, active } of await client.acceptAnnounce("/live")) {
 *   seen.push(`${path} ${active ? "came" : "went"}`);
 *   if (!active) break;
 *   alice.end();
 * }
 * assertEquals(seen, ["/live/alice came", "/live/alice went"]);
 * client.close();
 * await server.closed;
 * ```
 */
export class AnnouncementReader implements AsyncIterable<Announcement>, AsyncDisposable {
  /** Below what. */
  readonly prefix: BroadcastPath;
  /**
   * Resolves once all that was there at first was told, or at the end. `moq-lite-04` has no word for
   * that: there it resolves at the end alone.
   */
  readonly settled: Promise<void>;

  readonly #settled: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #leave: (reason: MoqErrorName) => void;
  readonly #known = new Map<BroadcastPath, Announcement>();
  readonly #pending = new Map<BroadcastPath, Announcement[]>();
  /** Stays where it is: from the front a map would be searched past all that was taken. */
  #place: MapIterator<[BroadcastPath, Announcement[]]> | undefined = undefined;
  readonly #waiters = new Waiters<Announcement>(() => this.#takeNow());
  #isSettled = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #isOver = false;

  /** Is made by `MoqSession.acceptAnnounce()`. */
  constructor(prefix: BroadcastPath, leave: (reason: MoqErrorName) => void) {
    this.prefix = prefix;
    this.settled = this.#settled.promise;
    this.#leave = leave;
  }

  /** Whether all that was there at first was told, as far as the version says so. */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** The broadcasts that are there now, whether they were read or not. */
  get active(): readonly Announcement[] {
    return [...this.#known.values()];
  }

  /**
   * Waits for the next announcement.
   *
   * @param options Gives up waiting.
   * @returns The announcement; `null` once there will be no more.
   * @throws {MoqError} If the peer refused or broke it off; each time that somebody asks.
   */
  next(options: { readonly signal?: AbortSignal } = {}): Promise<Announcement | null> {
    return this.#waiters.next(options.signal);
  }

  /** Yields announcements until there will be no more; leaving the loop ends it. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Announcement> {
    return this.#waiters.loop(() => this.close());
  }

  /**
   * Wants no more. Idempotent.
   *
   * @param reason Told to the peer, where the wire can.
   */
  close(reason: MoqErrorName = "uninterested"): void {
    if (this.#isOver) return;
    this.#pending.clear();
    this.end();
    this.#leave(reason);
  }

  /** Wants no more; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /**
   * The peer announced something.
   *
   * @param announcement What.
   * @param restarts Whether a second announcement of the same path says that its route changed.
   * @throws {MoqError} If it was announced already, or there are too many.
   * @ignore
   */
  take(announcement: Announcement, restarts: boolean): void {
    if (this.#isOver) return;
    const { path, active } = announcement;
    const isKnown = this.#known.has(path);
    if (!active) {
      if (!isKnown) return;
      this.#known.delete(path);
      return this.#put(announcement);
    }
    if (isKnown && !restarts) {
      throw new MoqError("announce", "duplicated", `The peer announced ${path} twice`, {
        by: "remote",
      });
    }
    if (this.#known.size >= MAX_ANNOUNCED) {
      throw new MoqError(
        "announce",
        "internal",
        `The peer announced more than ${MAX_ANNOUNCED} broadcasts`,
      );
    }
    this.#known.set(path, announcement);
    if (isKnown) this.#put({ ...announcement, active: false });
    this.#put(announcement);
  }

  /**
   * The peer told all that was there at first.
   *
   * @ignore
   */
  settle(): void {
    this.#isSettled = true;
    this.#settled.resolve();
  }

  /**
   * There will be no more. What was announced stays readable.
   *
   * @ignore
   */
  end(error?: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (error !== undefined) this.#failure = { cause: error };
    this.#settled.resolve();
    this.#waiters.deliver();
  }

  /** What there is without waiting; `undefined` if there is nothing yet. */
  #takeNow(): Announcement | null | undefined {
    const announcement = this.#take();
    if (announcement !== undefined || !this.#isOver) return announcement;
    if (this.#failure !== undefined) throw this.#failure.cause;
    return null;
  }

  /** Takes the one that waited longest. */
  #take(): Announcement | undefined {
    if (this.#pending.size === 0) return undefined;
    this.#place ??= this.#pending.entries();
    const { done, value } = this.#place.next();
    if (done) {
      this.#place = undefined;
      return this.#take();
    }
    const [path, [first, ...rest]] = value;
    this.#pending.delete(path);
    if (rest.length > 0) this.#pending.set(path, rest);
    return first;
  }

  #put(announcement: Announcement): void {
    const { path, active } = announcement;
    const waiting = this.#pending.get(path);
    if (waiting === undefined) this.#pending.set(path, [announcement]);
    else if (waiting[0]!.active) {
      // Nobody heard of it yet: it may go unheard, or be the newer one.
      if (active) this.#pending.set(path, [announcement]);
      else this.#pending.delete(path);
    } else this.#pending.set(path, active ? [waiting[0]!, announcement] : [waiting[0]!]);
    this.#waiters.deliver();
  }
}
