/** Announcements of broadcasts. */
import { checkOptions, SIGNAL } from "../../base/option_checks.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { PendingReads } from "./loops.ts";

/** The start or end of a broadcast. */
export interface Announcement {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** True if the broadcast started, false if the broadcast ended. */
  readonly active: boolean;
  /**
   * Ids of the relays that the announcement passed, the first one first; empty on versions without
   * hops.
   */
  readonly hops: readonly bigint[];
}

/** Broadcasts that a reader of announcements keeps, at most. */
export const MAX_ANNOUNCED = 100_000;

/**
 * Announcements of a peer below a prefix: first the current broadcasts, then each start and end.
 * Use one loop per reader.
 *
 * - **Slow readers** do not hold up the peer: a broadcast that started and ended in the meantime is
 *   skipped, and of other broadcasts the reader gets the last state.
 * - **Bounded:** the reader ends with an error if the peer announces more than
 *   100,000 broadcasts.
 * - **Leaving** the loop ends the reader. The end of the session does, too, with an error; but
 *   Deno's QUIC ends the streams of a closing session like a clean end, and the loop may end
 *   without an error there.
 *
 * @example Current broadcasts, and the end of one
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
  /** The prefix of all announced paths. */
  readonly prefix: BroadcastPath;
  /**
   * Resolves once all initial broadcasts were announced, or at the end. `moq-lite-04` does not mark
   * that point: there the promise resolves at the end only.
   */
  readonly settled: Promise<void>;

  readonly #settled: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #leave: (reason: MoqErrorName) => void;
  readonly #known = new Map<BroadcastPath, Announcement>();
  readonly #pending = new Map<BroadcastPath, Announcement[]>();
  /**
   * An iterator that keeps the position: a new iterator would first skip the slots of all deleted
   * entries.
   */
  #cursor: MapIterator<[BroadcastPath, Announcement[]]> | undefined = undefined;
  readonly #reads = new PendingReads<Announcement>(() => this.#takeNow());
  #isSettled = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #isOver = false;

  /** Called by `MoqSession.acceptAnnounce()`. */
  constructor(prefix: BroadcastPath, leave: (reason: MoqErrorName) => void) {
    this.prefix = prefix;
    this.settled = this.#settled.promise;
    this.#leave = leave;
  }

  /** True once all initial broadcasts were announced, on versions that mark that point. */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** The current broadcasts, read or unread. */
  get active(): readonly Announcement[] {
    return [...this.#known.values()];
  }

  /**
   * Waits for the next announcement.
   *
   * @param options A signal to end the wait.
   * @returns The announcement; `null` after the last one.
   * @throws {MoqError} If the peer refused or broke off the announcements; on every call.
   */
  next(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Announcement | null> {
    checkOptions("read announcement", options, SIGNAL);
    return this.#reads.next(options.signal);
  }

  /** Yields announcements until the last one; leaving the loop ends the reader. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Announcement> {
    return this.#reads.loop(() => this.close());
  }

  /**
   * Ends the reader. Idempotent.
   *
   * @param reason Reason for the peer, where the wire can carry a reason.
   */
  close(reason: MoqErrorName = "uninterested"): void {
    if (this.#isOver) return;
    this.#pending.clear();
    this.end();
    this.#leave(reason);
  }

  /** Ends the reader; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /**
   * Takes an announcement of the peer.
   *
   * @param announcement The announcement.
   * @param restarts True if a second announcement of the same path means that the route changed.
   * @throws {MoqError} If the path was announced already, or there are too many broadcasts.
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
   * Marks that the peer announced all initial broadcasts.
   *
   * @ignore
   */
  settle(): void {
    this.#isSettled = true;
    this.#settled.resolve();
  }

  /**
   * Ends the reader. Pending announcements stay readable.
   *
   * @ignore
   */
  end(error?: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (error !== undefined) this.#failure = { cause: error };
    this.#settled.resolve();
    this.#reads.deliver();
  }

  /** Takes the next announcement or the end; `undefined` while neither is there. */
  #takeNow(): Announcement | null | undefined {
    const announcement = this.#take();
    if (announcement !== undefined || !this.#isOver) return announcement;
    if (this.#failure !== undefined) throw this.#failure.cause;
    return null;
  }

  /** Takes the announcement that waited longest. */
  #take(): Announcement | undefined {
    if (this.#pending.size === 0) return undefined;
    this.#cursor ??= this.#pending.entries();
    const { done, value } = this.#cursor.next();
    if (done) {
      this.#cursor = undefined;
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
      // The start was not read yet: an end cancels that start, and another start replaces that one.
      if (active) this.#pending.set(path, [announcement]);
      else this.#pending.delete(path);
    } else this.#pending.set(path, active ? [waiting[0]!, announcement] : [waiting[0]!]);
    this.#reads.deliver();
  }
}
