/** Announcements that continue across sessions. */
import { Backoff } from "../../base/backoff.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { pause } from "../../base/wait.ts";
import type { MoqSession } from "../session/session.ts";
import { type Announcement, AnnouncementReader, MAX_ANNOUNCED } from "../track/announcement.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";
import { VERSIONS } from "../wire/versions.ts";
import { isOfSession, isPassingForAnnouncements } from "./retry.ts";

const RETRY = { firstDelayMs: 250, maxDelayMs: 5_000 } as const;

/**
 * The time without an announcement after which the initial broadcasts count as complete, in
 * milliseconds, in versions that do not mark their end.
 */
export const ANNOUNCE_QUIET_MS = 500;

/** The longest wait for such a pause, in milliseconds. */
const ANNOUNCE_SETTLE_MS = 5_000;

/**
 * Announcements of a server below a prefix, across sessions: first the current broadcasts, then
 * each start and end. Use only one loop.
 *
 * - **Between sessions** the reader yields nothing, because the server's state is unknown.
 * - **On a new session** the reader announces broadcasts that ended in the meantime, and new ones;
 *   unchanged ones are not announced again. `moq-lite-04` does not mark the end of the initial
 *   broadcasts. The reader assumes the end when nothing has arrived for half a second, or after
 *   five seconds: broadcasts not announced until then count as ended, and are announced again if
 *   they arrive later.
 * - **Slow readers** don't block the server: see {@linkcode AnnouncementReader}.
 *
 * @example Live broadcasts
 * ```ts
 * import { MoqClient, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * const alice = mux.publish("/live/alice", () => {});
 * await using client = new MoqClient({
 *   async dial(_signal, { mux: clientMux }) {
 *     const pair = memoryPair({ protocol: "moq-lite-05" });
 *     void MoqSession.open(pair.server, { side: "server", mux });
 *     return await MoqSession.open(pair.client, { side: "client", mux: clientMux });
 *   },
 * });
 *
 * const live: string[] = [];
 * for await (const { path, active } of client.acceptAnnounce("/live")) {
 *   live.push(`${path} ${active ? "came" : "went"}`);
 *   if (!active) break;
 *   alice.end();
 * }
 * assertEquals(live, ["/live/alice came", "/live/alice went"]);
 * ```
 */
export class ResumableAnnouncements implements AsyncIterable<Announcement>, AsyncDisposable {
  /** The prefix of all announced paths. */
  readonly prefix: BroadcastPath;

  readonly #reader: AnnouncementReader;
  readonly #known = new Map<BroadcastPath, Announcement>();
  readonly #controller = new AbortController();
  readonly #runtime: Runtime;
  readonly #onEnd: (announcements: ResumableAnnouncements) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.close();
  #session: MoqSession | undefined = undefined;

  /** Called by `MoqClient.acceptAnnounce()`. */
  constructor(
    { runtime, onEnd }: {
      readonly runtime: Runtime;
      readonly onEnd: (announcements: ResumableAnnouncements) => void;
    },
    prefix: string,
    options: { readonly signal?: AbortSignal | undefined },
  ) {
    options.signal?.throwIfAborted();
    this.prefix = broadcastPath(prefix);
    this.#reader = new AnnouncementReader(this.prefix, () => this.#over());
    this.#runtime = runtime;
    this.#onEnd = onEnd;
    this.#signal = options.signal;
    this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** The current broadcasts, read or unread; between sessions, the broadcasts of the last one. */
  get active(): readonly Announcement[] {
    return [...this.#known.values()];
  }

  /**
   * Waits for the next announcement, across sessions.
   *
   * @param options A signal to end the wait.
   * @returns The announcement; `null` after the last one.
   * @throws {MoqError} If the server rejected the request, or the client has stopped.
   */
  next(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Announcement | null> {
    return this.#reader.next(options);
  }

  /** Yields announcements until the last one; leaving the loop closes the reader. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Announcement> {
    return this.#reader[Symbol.asyncIterator]();
  }

  /** Closes the reader. Idempotent. */
  close(): void {
    this.#reader.close();
  }

  /** Closes the reader; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /**
   * Follows a new session.
   *
   * @ignore
   */
  attach(session: MoqSession): void {
    if (this.#controller.signal.aborted) return;
    this.#session = session;
    void this.#follow(session);
  }

  /**
   * Closes the reader. Pending announcements stay readable.
   *
   * @param error The error, if any.
   * @ignore
   */
  finish(error: unknown): void {
    this.#over();
    this.#reader.end(error);
  }

  #over(): void {
    if (this.#controller.signal.aborted) return;
    this.#controller.abort();
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#onEnd(this);
  }

  #isOn(session: MoqSession): boolean {
    return !this.#controller.signal.aborted && this.#session === session;
  }

  async #follow(session: MoqSession): Promise<void> {
    const { signal } = this.#controller;
    const backoff = new Backoff(this.#runtime, RETRY);
    while (this.#isOn(session)) {
      let error: unknown = undefined;
      try {
        await this.#once(session);
      } catch (thrown) {
        error = thrown;
      }
      if (!this.#isOn(session) || session.isClosed || isOfSession(error)) return;
      if (!isPassingForAnnouncements(error)) return this.finish(error);
      await pause(this.#runtime, backoff.next()!, signal, session.signal);
    }
  }

  async #once(session: MoqSession): Promise<void> {
    const runtime = this.#runtime;
    const { signal } = this.#controller;
    const reader = await session.acceptAnnounce(this.prefix, { signal });
    const unseen = new Set(this.#known.keys());
    const settle = () => {
      // After the session has closed, the server's state is unknown.
      if (!this.#isOn(session) || session.isClosed) return;
      const there = new Set(reader.active.map(({ path }) => path));
      for (const path of unseen) if (!there.has(path)) this.#ended(path);
    };
    let isWaiting = unseen.size > 0 && VERSIONS[session.version].announceHead === "none";
    let timer: Timer | undefined;
    const until = runtime.now() + ANNOUNCE_SETTLE_MS;
    const awaitQuiet = () => {
      runtime.clearTimeout(timer);
      const waitMs = Math.max(0, Math.min(ANNOUNCE_QUIET_MS, until - runtime.now()));
      timer = runtime.setTimeout(() => {
        isWaiting = false;
        settle();
      }, waitMs);
    };
    if (isWaiting) awaitQuiet();
    // `settled` also resolves at the end, even if initial broadcasts are missing: check
    // `isSettled`.
    else void reader.settled.then(() => reader.isSettled && settle());
    try {
      for await (const announcement of reader) {
        if (!this.#isOn(session)) return;
        if (isWaiting) awaitQuiet();
        this.#take(announcement, unseen);
      }
    } finally {
      runtime.clearTimeout(timer);
    }
  }

  #take(announcement: Announcement, unseen: Set<BroadcastPath>): void {
    const { path, active } = announcement;
    if (!active) return this.#ended(path, announcement);
    const isKnown = this.#known.has(path);
    if (!isKnown && this.#known.size >= MAX_ANNOUNCED) this.#forget(unseen);
    this.#known.set(path, announcement);
    // The broadcast continued: the reader knows it already.
    if (isKnown && unseen.delete(path)) return;
    this.#reader.take(announcement, true);
  }

  /**
   * Makes room: broadcasts that may have ended count as ended, and are announced again if they
   * arrive later.
   */
  #forget(unseen: Set<BroadcastPath>): void {
    for (const path of unseen) this.#ended(path);
    unseen.clear();
  }

  #ended(path: BroadcastPath, announcement?: Announcement): void {
    const known = this.#known.get(path);
    if (known === undefined) return;
    this.#known.delete(path);
    this.#reader.take(announcement ?? { ...known, active: false }, false);
  }
}
