/**
 * Announcements that outlive the sessions that carry them.
 *
 * @module
 */
import { Backoff } from "../../../session/base/backoff.ts";
import { pause } from "./_pause.ts";
import { isOfSession, isPassingForAnnouncements } from "./_retrying.ts";
import { type Announcement, AnnouncementReader, MAX_ANNOUNCED } from "../track/announcement.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";
import type { MoqSession } from "../session/session.ts";
import { VERSIONS } from "../wire/versions.ts";

/** Delays between questions on the same session, in milliseconds. */
const RETRY = { firstDelayMs: 250, maxDelayMs: 5_000 } as const;

/** Where the version does not tell when all was told: how long nothing comes then, in milliseconds. */
export const ANNOUNCE_QUIET_MS = 500;

/** The same at most, where something comes all the time. */
export const ANNOUNCE_SETTLE_MS = 5_000;

/**
 * What the server has below a prefix, over as many sessions as it takes: first what is there already,
 * then what comes and goes. Read it by one loop.
 *
 * - **While there is no session** nothing is told: what is there, nobody knows.
 * - **On a new session** what vanished meanwhile is told as ended, what is new as active, and what
 *   stayed is not told again. `moq-lite-04` has no word for "that was all": what is not told within
 *   half a second of quiet, or five seconds, counts as gone there, and is told again if it comes.
 * - **Slow readers** hold nobody up: see {@linkcode AnnouncementReader}.
 *
 * @example Who is live
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
  /** Below what. */
  readonly prefix: BroadcastPath;

  readonly #outlet: AnnouncementReader;
  readonly #known = new Map<BroadcastPath, Announcement>();
  readonly #controller = new AbortController();
  readonly #onEnd: (announcements: ResumableAnnouncements) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.close();
  #session: MoqSession | undefined = undefined;

  /** Is made by `MoqClient.acceptAnnounce()`. */
  constructor(
    prefix: string,
    options: { readonly signal?: AbortSignal },
    onEnd: (announcements: ResumableAnnouncements) => void,
  ) {
    options.signal?.throwIfAborted();
    this.prefix = broadcastPath(prefix);
    this.#outlet = new AnnouncementReader(this.prefix, () => this.#over());
    this.#onEnd = onEnd;
    this.#signal = options.signal;
    this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** The broadcasts that are there now, or were when the last session ended; whether they were read or not. */
  get active(): readonly Announcement[] {
    return [...this.#known.values()];
  }

  /**
   * Waits for the next announcement, over as many sessions as it takes.
   *
   * @param options Gives up waiting.
   * @returns The announcement; `null` once there will be no more.
   * @throws {MoqError} If the server refused, or the client gave up.
   */
  next(options: { readonly signal?: AbortSignal } = {}): Promise<Announcement | null> {
    return this.#outlet.next(options);
  }

  /** Yields announcements until there will be no more; leaving the loop ends it. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Announcement> {
    return this.#outlet[Symbol.asyncIterator]();
  }

  /** Wants no more. Idempotent. */
  close(): void {
    this.#outlet.close();
  }

  /** Wants no more; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /**
   * There is a session.
   *
   * @param session The session.
   * @ignore
   */
  attach(session: MoqSession): void {
    if (this.#controller.signal.aborted) return;
    this.#session = session;
    void this.#follow(session);
  }

  /**
   * There will be no more. What was announced stays readable.
   *
   * @param error Why, if it is no plain end.
   * @ignore
   */
  finish(error: unknown): void {
    this.#over();
    this.#outlet.end(error);
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
    const backoff = new Backoff(RETRY);
    while (this.#isOn(session)) {
      let error: unknown = undefined;
      try {
        await this.#once(session);
      } catch (thrown) {
        error = thrown;
      }
      if (!this.#isOn(session) || session.isClosed || isOfSession(error)) return;
      if (!isPassingForAnnouncements(error)) return this.finish(error);
      await pause(backoff.next()!, [signal, session.signal]);
    }
  }

  /** Follows what one session tells. */
  async #once(session: MoqSession): Promise<void> {
    const { signal } = this.#controller;
    const reader = await session.acceptAnnounce(this.prefix, { signal });
    const unseen = new Set(this.#known.keys());
    const settle = () => {
      // After the session nobody knows what is there.
      if (!this.#isOn(session) || session.isClosed) return;
      const there = new Set(reader.active.map(({ path }) => path));
      for (const path of unseen) if (!there.has(path)) this.#ended(path);
    };
    let isWaiting = unseen.size > 0 && VERSIONS[session.version].announceHead === "none";
    let timer: ReturnType<typeof setTimeout> | undefined;
    const until = Date.now() + ANNOUNCE_SETTLE_MS;
    const awaitQuiet = () => {
      clearTimeout(timer);
      const waitMs = Math.max(0, Math.min(ANNOUNCE_QUIET_MS, until - Date.now()));
      timer = setTimeout(() => {
        isWaiting = false;
        settle();
      }, waitMs);
    };
    if (isWaiting) awaitQuiet();
    // It is so at the end too, however that came.
    else void reader.settled.then(() => reader.isSettled && settle());
    try {
      for await (const announcement of reader) {
        if (!this.#isOn(session)) return;
        if (isWaiting) awaitQuiet();
        this.#take(announcement, unseen);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #take(announcement: Announcement, unseen: Set<BroadcastPath>): void {
    const { path, active } = announcement;
    if (!active) return this.#ended(path, announcement);
    const isKnown = this.#known.has(path);
    if (!isKnown && this.#known.size >= MAX_ANNOUNCED) this.#forget(unseen);
    this.#known.set(path, announcement);
    // It stayed: who reads knows of it.
    if (isKnown && unseen.delete(path)) return;
    this.#outlet.take(announcement, true);
  }

  /** There is no room for what may be gone: it counts as gone, and is told again if it comes. */
  #forget(unseen: Set<BroadcastPath>): void {
    for (const path of unseen) this.#ended(path);
    unseen.clear();
  }

  #ended(path: BroadcastPath, announcement?: Announcement): void {
    const known = this.#known.get(path);
    if (known === undefined) return;
    this.#known.delete(path);
    this.#outlet.take(announcement ?? { ...known, active: false }, false);
  }
}
