/** A subscription that continues across sessions. */
import { type OptionKinds, withoutUndefined } from "../../base/options/options.ts";
import { checkOptions, SIGNAL, TIME } from "../../base/options/option_checks.ts";
import { Backoff } from "../../base/backoff.ts";
import type { Runtime } from "../../base/runtime.ts";
import { Signal } from "../../base/signal.ts";
import { pause, startTimer, within } from "../../base/wait.ts";
import type { MoqSession } from "../session/session.ts";
import type { GroupReader } from "../track/group_reader.ts";
import {
  type MoqSubscribeOptions,
  SUBSCRIBE,
  subscribeFields,
  type TrackReader,
  UPDATE,
} from "../track/track_reader.ts";
import { type MissedGroups, MoqLaggedError } from "../wire/errors.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";
import { isOfSession, isPassingForTrack } from "./retry.ts";

/**
 * How a track continues after a lost session: the first group of the new subscription in relation
 * to the groups before.
 */
export interface TrackResumption {
  /** The highest number that was yielded before. */
  readonly after: number;
  /** The number of the first group after it. */
  readonly sequence: number;
  /** The lost groups between the two; `undefined` if there is no gap, or the gap is unknown. */
  readonly missed: MissedGroups | undefined;
  /**
   * `next`: there is no gap. `gap`: groups are missing. `again`: the last group is repeated from
   * its start. `restarted`: the numbers are lower, because the publisher restarted, and the gap is
   * unknown.
   */
  readonly kind: "next" | "gap" | "again" | "restarted";
}

class Resumptions {
  #reading: TrackReader | undefined = undefined;
  #last: number | undefined = undefined;
  #latest: TrackResumption | undefined = undefined;
  #count = 0;

  /** The continuation, if the last group was the first after a loss. */
  get latest(): TrackResumption | undefined {
    return this.#latest;
  }

  /** The number of continuations after a loss. */
  get count(): number {
    return this.#count;
  }

  /**
   * Records a group.
   *
   * @returns The continuation, if the group is the first after a loss.
   */
  note(reader: TrackReader, sequence: number): TrackResumption | undefined {
    const after = this.#last;
    const isSame = reader === this.#reading;
    this.#reading = reader;
    this.#latest = undefined;
    if (isSame || after === undefined) {
      this.#last = Math.max(after ?? 0, sequence);
      return undefined;
    }
    this.#last = sequence;
    this.#count++;
    const kind = resumptionKind(after, sequence);
    const missed = kind === "gap" ? { first: after + 1, last: sequence - 1 } : undefined;
    return this.#latest = { after, sequence, missed, kind };
  }
}

function resumptionKind(after: number, sequence: number): TrackResumption["kind"] {
  if (sequence === after + 1) return "next";
  if (sequence === after) return "again";
  return sequence < after ? "restarted" : "gap";
}

interface BroadcastReturnsOptions {
  readonly path: BroadcastPath;
  /** The longest wait, in milliseconds. */
  readonly leftMs: number;
  /**
   * The shortest wait, in milliseconds: an announced broadcast may still reject the subscription.
   */
  readonly delayMs: number;
  readonly signal: AbortSignal;
}

/**
 * Waits until a session announces a broadcast, but at least for `delayMs`.
 *
 * @param session The session to watch; the wait ends when it closes.
 * @returns Resolves when the wait has ended, successful or not; never rejects.
 */
async function broadcastReturns(
  runtime: Runtime,
  session: MoqSession,
  { path, leftMs, delayMs, signal }: BroadcastReturnsOptions,
): Promise<void> {
  const since = runtime.now();
  const over = new AbortController();
  const timer = startTimer(runtime, leftMs, () => over.abort());
  const onEnd = () => over.abort();
  const signals = [signal, session.signal];
  for (const one of signals) one.addEventListener("abort", onEnd, { once: true });
  try {
    const parent = path.slice(0, path.lastIndexOf("/")) || "/";
    const announcements = await session.acceptAnnounce(parent, { signal: over.signal });
    for await (const announcement of announcements) {
      if (announcement.active && announcement.path === path) break;
    }
  } catch {
    // Without permission to follow announcements, only the delay counts.
  } finally {
    runtime.clearTimeout(timer);
    for (const one of signals) one.removeEventListener("abort", onEnd);
  }
  // After the clock was set back, the start would be in the future.
  const passedMs = Math.max(0, runtime.now() - since);
  await pause(runtime, Math.min(leftMs, delayMs) - passedMs, ...signals);
}

export const RESUME: OptionKinds<ResumeOptions> = {
  ...SUBSCRIBE,
  onResumed: "function",
  resumeTimeoutMs: TIME,
  waitForBroadcast: "boolean",
};

/** The options for a subscription that continues across sessions. */
export interface ResumeOptions extends MoqSubscribeOptions {
  /**
   * The first group of the first subscription; the newest one by default. Every later subscription
   * starts at the newest group.
   */
  readonly startGroup?: number | undefined;
  /**
   * The time that an accepted track may be without a publisher, in milliseconds, before the track
   * ends with the error of the rejection. Meanwhile the track waits until the broadcast is
   * announced.
   *
   * @default {60000}
   */
  readonly resumeTimeoutMs?: number | undefined;
  /**
   * Also waits for a track that was never accepted. Otherwise the first rejection ends the track.
   *
   * @default {false}
   */
  readonly waitForBroadcast?: boolean | undefined;
  /**
   * Called just before the first group of a new subscription is yielded. If it throws or rejects,
   * the session's `onError` receives the error.
   */
  readonly onResumed?: ((resumption: TrackResumption) => void) | undefined;
}

const RETRY = { firstDelayMs: 250, maxDelayMs: 5_000 } as const;

/** The time after acceptance after which a subscription counts as stable, in milliseconds. */
const STABLE_MS = 5_000;

/** The number of subscriptions whose groups may wait for a slow reader: the last two. */
const MAX_HELD_READERS = 2;

/**
 * The groups of a track, across sessions, to iterate over. Leaving the loop does not unsubscribe;
 * `close()` and `await using` do.
 *
 * - **After a lost session** the track subscribes again, at the newest group. It reports the gap to
 *   `onResumed` and as `resumption`, and the missing numbers to `onMissed` with the reason
 *   `sessionClosed`.
 * - **A group in progress** throws when the session closes; read the next one.
 * - **Without a publisher** the track waits up to `resumeTimeoutMs` for the broadcast to be
 *   announced again.
 * - **End:** the loop ends once the publisher has ended the track. If the track is rejected, or the
 *   client has stopped, the loop and every later read throw.
 *
 * @example Every group, across all sessions
 * ```ts
 * import { MoqClient, MoqError, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/clock", async (track) => {
 *   for (const sequence of [4, 5]) await (await track.openGroup(sequence)).close();
 * });
 * await using client = new MoqClient({
 *   async dial(_signal, { mux: clientMux }) {
 *     const pair = memoryPair({ protocol: "moq-lite-05" });
 *     void MoqSession.open(pair.server, { side: "server", mux });
 *     return await MoqSession.open(pair.client, { side: "client", mux: clientMux });
 *   },
 * });
 *
 * await using track = client.subscribe("/clock", "seconds", { ordered: true });
 * const got: number[] = [];
 * for await (const group of track) {
 *   if (track.resumption?.kind === "gap") console.warn("Missed", track.resumption.missed);
 *   try {
 *     for await (const frame of group) console.log(frame);
 *     got.push(group.sequence);
 *   } catch (error) {
 *     // The group ended with the session; the next group follows.
 *     if (!(error instanceof MoqError)) throw error;
 *   }
 * }
 * assertEquals(got, [4, 5]);
 * ```
 */
export class ResumableTrack implements AsyncIterable<GroupReader>, AsyncDisposable {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** The track. */
  readonly name: string;
  /**
   * Resolves once a publisher has accepted for the first time; rejects if the track ends before
   * that.
   */
  readonly ready: Promise<void>;
  /** Resolves when the track ends, with or without an error. */
  readonly closed: Promise<void>;

  readonly #runtime: Runtime;
  readonly #onEnd: (track: ResumableTrack) => void;
  readonly #ready: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #closed: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #controller = new AbortController();
  readonly #changes = new Signal();
  readonly #readers: TrackReader[] = [];
  readonly #resumptions = new Resumptions();
  readonly #onAbort = () => this.close();
  #options: ResumeOptions;
  #session: MoqSession | undefined = undefined;
  #isAccepted = false;
  #absentSince: number | undefined = undefined;
  #end: { readonly error: unknown } | undefined = undefined;

  /** Called by `MoqClient.subscribe()`. */
  constructor(
    { runtime, onEnd }: {
      readonly runtime: Runtime;
      readonly onEnd: (track: ResumableTrack) => void;
    },
    about: { readonly path: string; readonly name: string },
    options: ResumeOptions,
  ) {
    subscribeFields(options);
    options.signal?.throwIfAborted();
    this.path = broadcastPath(about.path);
    this.name = about.name;
    this.#options = options;
    this.#runtime = runtime;
    this.#onEnd = onEnd;
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
    this.closed = this.#closed.promise;
    options.signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** The subscription on the current session; `undefined` without one. */
  get subscription(): TrackReader | undefined {
    return this.#readers.at(-1);
  }

  /** The continuation, if the last group was the first after a loss. */
  get resumption(): TrackResumption | undefined {
    return this.#resumptions.latest;
  }

  /** The number of continuations after a loss. */
  get resumptions(): number {
    return this.#resumptions.count;
  }

  /** True once the track has ended; groups may still wait for the reader. */
  get isEnded(): boolean {
    return this.#end !== undefined;
  }

  /** The error that ended the track; `undefined` for a normal end, and before the end. */
  get error(): unknown {
    return this.#end?.error;
  }

  /**
   * Waits for the next group, across sessions.
   *
   * @param options A signal to end the wait.
   * @returns The group; `null` at the end of the track.
   * @throws {MoqLaggedError} If this reader has fallen behind; the next call continues.
   * @throws {MoqError} If the track was rejected, or the client has stopped.
   */
  async nextGroup(
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<GroupReader | null> {
    checkOptions("read group", options, SIGNAL);
    const { signal } = options;
    while (true) {
      signal?.throwIfAborted();
      const reader = this.#readers[0];
      if (reader === undefined) {
        if (this.#end === undefined) {
          await within(this.#runtime, this.#changes.changed(), { signal });
          continue;
        }
        if (this.#end.error === undefined) return null;
        throw this.#end.error;
      }
      let group: GroupReader | null = null;
      try {
        group = await reader.nextGroup(options);
      } catch (error) {
        if (signal?.aborted || error instanceof MoqLaggedError) throw error;
        // `#follow()` gets the same error, and decides.
      }
      if (group !== null) {
        this.#note(reader, group);
        return group;
      }
      if (this.#readers[0] === reader) this.#readers.shift();
    }
  }

  /** Yields groups until the track ends. */
  async *[Symbol.asyncIterator](): AsyncGenerator<GroupReader, void, undefined> {
    for (let group; (group = await this.nextGroup()) !== null;) yield group;
  }

  /**
   * Changes the subscription, in this session and later ones.
   *
   * @param options The options to change.
   * @throws {RangeError} If a value is out of range.
   */
  async update(
    options: Pick<MoqSubscribeOptions, "priority" | "ordered" | "maxLatencyMs" | "endGroup">,
  ): Promise<void> {
    checkOptions("update subscription", options, UPDATE);
    const changed = { ...this.#options, ...withoutUndefined(options) };
    subscribeFields(changed);
    this.#options = changed;
    // If the session has closed, the next session uses the changed options.
    await this.subscription?.update(options).catch((error) => {
      if (!isOfSession(error)) throw error;
    });
  }

  /** Unsubscribes permanently. Unread groups are cancelled. Idempotent. */
  close(): void {
    for (const reader of this.#readers.splice(0)) reader.close();
    this.finish(undefined);
  }

  /** Unsubscribes; called by `await using`. */
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
    if (this.#end !== undefined) return;
    this.#session = session;
    void this.#follow(session);
  }

  /**
   * Ends the track. Groups that arrived stay readable.
   *
   * @param error The error, if any.
   * @ignore
   */
  finish(error: unknown): void {
    if (this.#end !== undefined) return;
    this.#end = { error };
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    this.#controller.abort();
    if (error === undefined) this.#ready.resolve();
    else this.#ready.reject(error);
    this.#closed.resolve();
    this.#changes.notify();
    this.#onEnd(this);
  }

  async #follow(session: MoqSession): Promise<void> {
    const backoff = new Backoff(this.#runtime, RETRY);
    while (this.#isOn(session)) {
      const { error, heldMs } = await this.#once(session);
      if (!this.#isOn(session)) return;
      if (error === undefined) return this.finish(undefined);
      // The next session subscribes again.
      if (session.isClosed || isOfSession(error)) return;
      const { waitForBroadcast = false, resumeTimeoutMs = 60_000 } = this.#options;
      const mayWait = (this.#isAccepted || waitForBroadcast) && isPassingForTrack(error);
      if (heldMs >= STABLE_MS) {
        backoff.reset();
        this.#absentSince = undefined;
      }
      const now = this.#runtime.now();
      // After the clock was set back, the start would be in the future.
      this.#absentSince = Math.min(this.#absentSince ?? now, now);
      const leftMs = resumeTimeoutMs - (now - this.#absentSince);
      if (!mayWait || leftMs <= 0) return this.finish(error);
      const { path } = this;
      const { signal } = this.#controller;
      const delayMs = backoff.next()!;
      await broadcastReturns(this.#runtime, session, { path, leftMs, delayMs, signal });
    }
  }

  #isOn(session: MoqSession): boolean {
    return this.#end === undefined && this.#session === session;
  }

  /** Runs one subscription to its end; returns its error, and the time since it was accepted. */
  async #once(
    session: MoqSession,
  ): Promise<{ readonly error: unknown; readonly heldMs: number }> {
    const { path, name } = this;
    const { startGroup, onMissed, priority, ordered, maxLatencyMs, endGroup, maxQueuedGroups } =
      this.#options;
    const isFirst = !this.#isAccepted && startGroup !== undefined;
    let reader: TrackReader;
    try {
      reader = await session.subscribe(path, name, {
        startGroup: isFirst ? startGroup : undefined,
        onMissed,
        priority,
        ordered,
        maxLatencyMs,
        endGroup,
        maxQueuedGroups,
      });
    } catch (error) {
      return { error, heldMs: 0 };
    }
    if (!this.#isOn(session)) {
      reader.close();
      return { error: undefined, heldMs: 0 };
    }
    this.#hold(reader);
    try {
      await reader.ready;
    } catch (error) {
      return { error, heldMs: 0 };
    }
    const since = this.#runtime.now();
    this.#isAccepted = true;
    this.#ready.resolve();
    await reader.closed;
    return { error: reader.error, heldMs: Math.abs(this.#runtime.now() - since) };
  }

  #hold(reader: TrackReader): void {
    this.#readers.push(reader);
    while (this.#readers.length > MAX_HELD_READERS) this.#readers.shift()!.close();
    this.#changes.notify();
  }

  #note(reader: TrackReader, { sequence }: GroupReader): void {
    const resumption = this.#resumptions.note(reader, sequence);
    if (resumption === undefined) return;
    const { missed } = resumption;
    const { onMissed, onResumed } = this.#options;
    reader.notify(() => onResumed?.(resumption));
    if (missed !== undefined) reader.notify(() => onMissed?.(missed, "sessionClosed"));
  }
}
