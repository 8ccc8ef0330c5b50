/** Announcements of broadcasts. */
import { checkOptions, SIGNAL } from "../../base/options/option_checks.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { PendingReads } from "./loops.ts";

/** The start or end of a broadcast. */
export interface Announcement {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** True if the broadcast started, false if it ended. */
  readonly active: boolean;
  /**
   * Ids of the relays that the announcement passed, first one first; empty in versions without
   * hops. In the IETF's drafts, a random id stands for the peer.
   */
  readonly hops: readonly bigint[];
}

/** The maximum number of broadcasts that a reader of announcements keeps. */
export const MAX_ANNOUNCED = 100_000;

/**
 * Announcements of a peer below a prefix: first the current broadcasts, then each start and end.
 * Use one loop per reader.
 *
 * - **Slow readers** don't block the peer: a broadcast that started and ended in the meantime is
 *   skipped, and for other broadcasts the reader receives the last state.
 * - **Bounded:** the reader closes with an error if the peer announces more than 100,000
 *   broadcasts.
 * - **Leaving** the loop closes the reader. When the session closes, the reader closes with an
 *   error. Over Deno's QUIC the streams of a closing session appear to end cleanly, so the loop may
 *   end without an error.
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
   * that point, so there the promise only resolves at the end.
   */
  readonly settled: Promise<void>;

  readonly #settled: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #leave: (reason: MoqErrorName) => void;
  readonly #known = new Map<BroadcastPath, Announcement>();
  readonly #pending = new Map<BroadcastPath, Announcement[]>();
  /**
   * An iterator that keeps its position: a new iterator would first skip the slots of all deleted
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

  /** True once all initial broadcasts were announced, in versions that mark that point. */
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
   * @throws {MoqError} If the peer rejected or aborted the announcements; every later call throws,
   * too.
   */
  next(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Announcement | null> {
    checkOptions("read announcement", options, SIGNAL);
    return this.#reads.next(options.signal);
  }

  /** Yields announcements until the last one; leaving the loop closes the reader. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Announcement> {
    return this.#reads.loop(() => this.close());
  }

  /**
   * Closes the reader. Idempotent.
   *
   * @param reason The reason for the peer, if the transport can carry one.
   */
  close(reason: MoqErrorName = "uninterested"): void {
    if (this.#isOver) return;
    this.#pending.clear();
    this.end();
    this.#leave(reason);
  }

  /** Closes the reader; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /**
   * Accepts an announcement of the peer.
   *
   * @param restarts True if a second announcement of the same path means that the route changed.
   * @throws {MoqError} If the path was already announced, or there are too many broadcasts.
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
   * Closes the reader. Pending announcements stay readable.
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

  /** Takes the next announcement or the end; `undefined` if there is neither yet. */
  #takeNow(): Announcement | null | undefined {
    const announcement = this.#take();
    if (announcement !== undefined || !this.#isOver) return announcement;
    if (this.#failure !== undefined) throw this.#failure.cause;
    return null;
  }

  /** Takes the announcement that has waited longest. */
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
      // The start was not read yet: an end cancels it, and another start replaces it.
      if (active) this.#pending.set(path, [announcement]);
      else this.#pending.delete(path);
    } else this.#pending.set(path, active ? [waiting[0]!, announcement] : [waiting[0]!]);
    this.#reads.deliver();
  }
}
