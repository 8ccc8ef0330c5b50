/** A reconnecting MoQ client that keeps its broadcasts, subscriptions and announcements. */
import { DIAL } from "./dial.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import {
  ABOVE_ZERO,
  checkOptions,
  LIMIT,
  RUNTIME,
  SIGNAL,
  TIME,
  wrongKind,
} from "../../base/options/option_checks.ts";
import { TimeoutError } from "../../errors.ts";
import { Attempts } from "../../base/attempts.ts";
import { Backoff } from "../../base/backoff.ts";
import { DecisionFault } from "../../base/decision.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { anySignal, pause, startTimer, within } from "../../base/wait.ts";
import { textOf } from "../../base/error_text.ts";
import { type MoqCloseInfo, MoqSession } from "../session/session.ts";
import { TrackMux } from "../track/mux.ts";
import { MoqError } from "../wire/errors.ts";
import { dialMoq, type DialMoqOptions } from "./dial.ts";
import { ResumableAnnouncements } from "./resumable_announcements.ts";
import { ResumableTrack, RESUME, type ResumeOptions } from "./resumable_track.ts";
import { isRejection, type MoqRetry, type MoqRetryOptions, retrySettings } from "./retry.ts";

/** The options for {@linkcode MoqClient}. */
export interface MoqClientOptions {
  /**
   * Opens each session.
   *
   * - The function MUST open the session with the context's mux; otherwise no broadcast is
   *   announced.
   * - The function SHOULD stop when the signal aborts; a session that opens later is closed.
   * - A `TypeError`, a `RangeError`, an `UnsupportedError` or a rejection by the server stops the
   *   client.
   */
  readonly dial: (
    signal: AbortSignal,
    context: {
      /** Broadcasts of the session: pass the mux to `dialMoq()` or `MoqSession.open()`. */
      readonly mux: TrackMux;
      /** The URL of a GOAWAY that the client follows; absent for the usual URL. */
      readonly uri?: string | undefined;
    },
  ) => Promise<MoqSession>;
  /**
   * The URL that `dial` connects to, for comparison with the URL of a GOAWAY; without it, no URL
   * counts as the same origin. If the function throws, the client follows no URL, and the session's
   * `onError` receives the error.
   */
  readonly url?: string | URL | (() => string | URL | undefined) | undefined;
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** Broadcasts to publish to the server; an empty mux by default. */
  readonly mux?: TrackMux | undefined;
  /**
   * Delays between attempts, and limits after which the client stops.
   *
   * @default {{ firstDelayMs: 500, maxDelayMs: 10000, giveUpAfterMs: 300000, stableMs: 10000,
   * leaveAfterMs: 5000 }}
   */
  readonly retry?: MoqRetryOptions | undefined;
  /**
   * The timeout of one attempt, in milliseconds; `Infinity` for none.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number | undefined;
  /**
   * Decides whether to follow the URL of a GOAWAY for one session; an error counts as `false`, and
   * the session's `onError` receives it. By default the client only follows a URL of the same origin
   * (scheme, host and port), because another server would receive the published broadcasts, and
   * could send forged ones. If it does not follow the URL, it reconnects to the usual one.
   */
  readonly allowMigration?: ((to: URL, from: URL | undefined) => boolean) | undefined;
  /**
   * Receives each new session, for example to pass it to a relay that has the client's `mux`. If it
   * throws or rejects, the session is closed, and the client reconnects.
   */
  readonly onSession?: ((session: MoqSession) => unknown) | undefined;
  /** Closes the client permanently. */
  readonly signal?: AbortSignal | undefined;
}

/** How a client ended. */
export interface MoqClientEnd {
  /**
   * `closed` by the application; `rejected` if another attempt would fail as well; `exhausted` if a
   * limit of `retry` was reached.
   */
  readonly name: "closed" | "rejected" | "exhausted";
  /** The error; `undefined` if the application closed the client. */
  readonly error: unknown;
}

/** The state of a client. */
export type MoqClientStatus =
  | { readonly name: "connecting" }
  | { readonly name: "connected"; readonly session: MoqSession }
  | {
    readonly name: "reconnecting";
    /** Attempts since the last stable session. */
    readonly attempt: number;
    /** The delay before the next attempt, in milliseconds. */
    readonly delayMs: number;
    /** The time of the next attempt, in milliseconds since the Unix epoch. */
    readonly retryAt: number;
    /** The reason. After GOAWAY the session stays open for a while, see `leaveAfterMs`. */
    readonly cause: {
      /** The error of the last session, or of the last attempt. */
      readonly error: unknown;
      /**
       * How the session closed; absent after a failed attempt, and while the session stays open
       * after GOAWAY.
       */
      readonly info?: MoqCloseInfo | undefined;
    };
  }
  | MoqClientEnd;

type Cause = Extract<MoqClientStatus, { readonly name: "reconnecting" }>["cause"];

interface MoqSessionOutcome {
  /** The reason why the session closed, or why the attempt failed. */
  readonly cause: Cause;
  /** True if another attempt would fail as well. */
  readonly isFinal: boolean;
  /** The URL to connect to instead. */
  readonly uri?: string | undefined;
}

function isOpen(result: MoqSession | MoqSessionOutcome): result is MoqSession {
  return !("isFinal" in result);
}

const STOPPED: MoqSessionOutcome = { cause: { error: undefined }, isFinal: false };

/**
 * Decides how to continue after a session closed.
 *
 * @param isStable True if the session was stable for `stableMs`: then only a token may have
 * expired.
 */
function endOutcome(info: MoqCloseInfo, isStable: boolean): MoqSessionOutcome {
  const { code: moqCode, reason, message, by } = info;
  const text = `The session closed: ${message || reason}`;
  const error = new MoqError("session", reason, text, { moqCode, by });
  const isFinal = by === "remote" && isRejection(error) && !(isStable && reason === "unauthorized");
  return { cause: { error, info }, isFinal };
}

/**
 * Creates the outcome of a session that stays open for a while after GOAWAY.
 *
 * @param uri The URL to connect to; `undefined` for the usual URL.
 */
function goawayOutcome(
  goaway: { readonly uri: string },
  uri: string | undefined,
): MoqSessionOutcome {
  const message = `The server asked to leave${goaway.uri && ` for ${goaway.uri}`}`;
  const error = new MoqError("session", "goingAway", message, { by: "remote" });
  return { cause: { error }, isFinal: false, uri };
}

function exhaustedError({ error }: Cause, attempts: number, ms: number): MoqError {
  const why = textOf(error);
  return new MoqError(
    "session",
    "timeout",
    `The client gave up after ${attempts} attempts in ${ms} ms: ${why}`,
    { cause: error },
  );
}

/**
 * Decides whether to follow the URL of a GOAWAY.
 *
 * @param uri The URL in GOAWAY: absolute, or relative to the current URL.
 * @param url The current URL, if known.
 * @param allow The application's rule; without it, only the same origin is allowed.
 * @returns The URL to connect to; `undefined` for the usual URL.
 * @throws The error of a function of the application.
 */
function migrationTarget(
  uri: string,
  url: MoqClientOptions["url"],
  allow: MoqClientOptions["allowMigration"],
): string | undefined {
  if (uri === "") return undefined;
  const from = typeof url === "function" ? url() : url;
  if ((from as unknown) instanceof Promise) {
    throw DecisionFault.returned("url", "a URL or undefined", from);
  }
  const here = from === undefined ? undefined : URL.parse(from) ?? undefined;
  const there = URL.parse(uri, here);
  if (there === null) return undefined;
  const isAllowed: unknown = allow === undefined ? isSameOrigin(there, here) : allow(there, here);
  if (typeof isAllowed !== "boolean") {
    throw DecisionFault.returned("allowMigration", "a boolean", isAllowed);
  }
  return isAllowed ? there.href : undefined;
}

/**
 * Compares scheme and host, because `origin` is `null` for schemes unknown to the platform, such as
 * `moqt:`.
 */
function isSameOrigin(there: URL, here: URL | undefined): boolean {
  return here !== undefined && there.protocol === here.protocol && there.host === here.host;
}

/** The maximum number of subscriptions of a client: as many as a server accepts by default. */
const MAX_CLIENT_TRACKS = 16_384;

const MAX_CLIENT_PREFIXES = 1_024;

const DIALED_AS = { verb: "connect", path: "the result of dial" };

const CLIENT: OptionKinds<MoqClientOptions> = {
  allowMigration: "function",
  connectTimeoutMs: TIME,
  dial: "function",
  mux: "object",
  onSession: "function",
  retry: {
    firstDelayMs: ABOVE_ZERO,
    giveUpAfterMs: TIME,
    leaveAfterMs: TIME,
    maxAttempts: LIMIT,
    maxDelayMs: ABOVE_ZERO,
    stableMs: TIME,
  },
  runtime: RUNTIME,
  signal: "AbortSignal",
  url: "string or object or function",
};

/**
 * Keeps a session with a server open: reconnects after a lost connection, after any close by the
 * server, and after GOAWAY.
 *
 * - **Broadcasts:** every session serves {@linkcode MoqClient.mux}, so published broadcasts are
 *   announced again.
 * - **Subscriptions** of {@linkcode MoqClient.subscribe} continue at the newest group, and report
 *   missing groups.
 * - **Announcements** of {@linkcode MoqClient.acceptAnnounce} report what changed in the meantime.
 * - **Delays** double up to `maxDelayMs`, with jitter. The delay, the number of attempts and the
 *   time until the client gives up are only reset once a session has been stable for `stableMs`.
 * - **Rejected:** the client stops immediately if the server replies `unauthorized` or with a
 *   status from 400 to 499 (except 408, 425 and 429), if there is no common version, or if the URL
 *   cannot be dialed at all. If a stable session is closed as unauthorized, the client makes one
 *   more attempt, because the token may have expired.
 * - **GOAWAY:** the client dials the next session while the old one is still open, and then moves
 *   to it. The server may name another URL: see `allowMigration` of {@linkcode MoqClientOptions}.
 * - **Session:** after `session.close()` the client connects again; {@linkcode MoqClient.close}
 *   closes the client.
 *
 * @example A server that restarts
 * ```ts
 * import { MoqClient, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/clock", async (track) => {
 *   const group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("12:00"));
 *   await group.close();
 *   await new Promise((resolve) => track.signal.addEventListener("abort", resolve));
 * });
 *
 * const servers: MoqSession[] = [];
 * await using client = new MoqClient({
 *   async dial(_signal, { mux: clientMux }) {
 *     const pair = memoryPair({ protocol: "moq-lite-05" });
 *     servers.push(await MoqSession.open(pair.server, { side: "server", mux }));
 *     return await MoqSession.open(pair.client, { side: "client", mux: clientMux });
 *   },
 *   retry: { firstDelayMs: 10 },
 * });
 *
 * const track = client.subscribe("/clock", "seconds");
 * const first = await track.nextGroup();
 * servers[0]?.close();
 * assertEquals((await track.nextGroup())?.sequence, first?.sequence);
 * assertEquals(track.resumption?.kind, "again");
 * ```
 */
export class MoqClient implements AsyncDisposable {
  /** Broadcasts published to the server, on every session. */
  readonly mux: TrackMux;
  /** The state of the client: `current`, and each change as an async iterable. */
  readonly status: StatusFeed<MoqClientStatus> = new StatusFeed<MoqClientStatus>({
    name: "connecting",
  });
  /** Resolves with the reason once the client is closed, rejected or exhausted; never rejects. */
  readonly closed: Promise<MoqClientEnd>;

  readonly #runtime: Runtime;
  readonly #options: MoqClientOptions;
  readonly #retry: MoqRetry;
  readonly #backoff: Backoff;
  readonly #stop = new AbortController();
  readonly #tracks = new Set<ResumableTrack>();
  readonly #announcements = new Set<ResumableAnnouncements>();
  readonly #onAbort = () => void this.close();
  #session: MoqSession | undefined = undefined;
  #troubledSince: number;
  #delay: AbortController | undefined = undefined;
  readonly #attempts: Attempts<MoqSession | MoqSessionOutcome>;
  /** The URL to which the last GOAWAY migrates the client. */
  #uri: string | undefined = undefined;
  /** The error of the last attempt or session, for callers that wait for the next session. */
  #lastFailure: unknown = undefined;

  /**
   * Creates a client, and starts to connect.
   *
   * @param options See {@linkcode MoqClientOptions}.
   * @throws {RangeError} If a time or a limit is out of range.
   */
  constructor(options: MoqClientOptions) {
    checkOptions("create client", options, CLIENT);
    const { runtime = platformRuntime(), mux = new TrackMux({ runtime }), retry, signal } = options;
    this.mux = mux;
    this.#runtime = runtime;
    this.#troubledSince = runtime.now();
    this.#options = options;
    this.#retry = retrySettings(retry);
    this.#backoff = new Backoff(runtime, this.#retry);
    this.#attempts = new Attempts({
      runtime,
      open: (signal) => this.#attempt(signal),
      isFinal: (result) => isOpen(result) || result.isFinal,
      discard: (late) => isOpen(late) && late.close(),
    });
    signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (signal?.aborted) this.#stop.abort();
    this.closed = this.#run();
  }

  /**
   * The session; after GOAWAY the old one until the next one is open; `undefined` between sessions.
   */
  get session(): MoqSession | undefined {
    return this.#session;
  }

  /** True while there is a session. */
  get isConnected(): boolean {
    return this.#session !== undefined;
  }

  /** The subscriptions. */
  get subscriptions(): readonly ResumableTrack[] {
    return [...this.#tracks];
  }

  /**
   * Waits for a session, to call its `fetch()` or `probe()`.
   *
   * @param options What ends the wait: a signal, or a timeout in milliseconds.
   * @returns The current session, or the next one.
   * @throws {MoqError} If the client has ended; see {@linkcode MoqClientEnd}.
   * @throws {TimeoutError} If the wait takes longer than `timeoutMs`; the `cause` is the error of
   * the last attempt.
   */
  async whenConnected(
    options: {
      readonly signal?: AbortSignal | undefined;
      readonly timeoutMs?: number | undefined;
    } = {},
  ): Promise<MoqSession> {
    checkOptions("wait for session", options, { ...SIGNAL, timeoutMs: TIME });
    try {
      return await within(this.#runtime, this.#nextSession(), {
        ...options,
        late: "Cannot wait for the session longer than",
      });
    } catch (error) {
      const cause = this.#lastFailure;
      if (!(error instanceof TimeoutError) || cause === undefined) throw error;
      const why = textOf(cause);
      throw new TimeoutError(`${error.message}: ${why}`, error.timeoutMs, { cause });
    }
  }

  /**
   * Subscribes to a track until the client or the subscription is closed. Can be called between
   * sessions.
   *
   * @param path The broadcast.
   * @param name The track.
   * @param options See {@linkcode ResumeOptions}.
   * @returns The groups of the track, across sessions; `ready` settles with the first reply.
   * @throws {MoqError} If the client has ended, or already has 16,384 subscriptions.
   * @throws {RangeError} If an option is out of range.
   */
  subscribe(path: string, name: string, options: ResumeOptions = {}): ResumableTrack {
    checkOptions("subscribe", options, RESUME);
    if (this.status.isEnded) throw this.#ended("subscribe");
    if (this.#tracks.size >= MAX_CLIENT_TRACKS) {
      throw tooMany(`subscribe: there are ${MAX_CLIENT_TRACKS} subscriptions already`);
    }
    const onEnd = (ended: ResumableTrack) => void this.#tracks.delete(ended);
    const track = new ResumableTrack({ runtime: this.#runtime, onEnd }, { path, name }, options);
    this.#tracks.add(track);
    if (this.#session !== undefined) track.attach(this.#session);
    return track;
  }

  /**
   * Follows the server's broadcasts below a prefix, until the client or the returned reader is
   * closed. Can be called between sessions.
   *
   * @param prefix The prefix; `/` for all.
   * @param options A signal that closes the reader.
   * @returns The current broadcasts, and then every start and end, across sessions.
   * @throws {MoqError} If the client has ended, or already watches 1,024 prefixes.
   * @throws {RangeError} If the prefix has too many parts or bytes.
   */
  acceptAnnounce(
    prefix: string = "/",
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): ResumableAnnouncements {
    checkOptions("accept announcements", options, SIGNAL);
    if (this.status.isEnded) throw this.#ended("accept announcements");
    if (this.#announcements.size >= MAX_CLIENT_PREFIXES) {
      throw tooMany(`accept announcements: there are ${MAX_CLIENT_PREFIXES} prefixes already`);
    }
    const onEnd = (ended: ResumableAnnouncements) => void this.#announcements.delete(ended);
    const announcements = new ResumableAnnouncements(
      { runtime: this.#runtime, onEnd },
      prefix,
      options,
    );
    this.#announcements.add(announcements);
    if (this.#session !== undefined) announcements.attach(this.#session);
    return announcements;
  }

  /**
   * Starts the next attempt now if the client is waiting for it. If an attempt is running, another
   * one starts beside it once the first has taken a second; the first session that opens is used.
   * The same happens when a browser comes back online.
   */
  retryNow(): void {
    this.#delay?.abort();
    this.#attempts.hurry();
  }

  /**
   * Closes the client permanently, and ends its session, subscriptions and announcements.
   * Idempotent.
   *
   * @returns Resolves once the connection is closed.
   */
  async close(): Promise<void> {
    const session = this.#session;
    session?.close();
    this.#stop.abort(new MoqError("session", "none", "The client was closed"));
    await this.closed;
    await session?.connection.closed.catch(() => {});
  }

  /** Closes the client; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #run(): Promise<MoqClientEnd> {
    const globals = globalThis as Partial<EventTarget>;
    const onOnline = () => this.retryNow();
    globals.addEventListener?.("online", onOnline);
    const { giveUpAfterMs } = this.#retry;
    const { signal } = this.#stop;
    try {
      let uri: string | undefined;
      while (true) {
        const { cause, isFinal, uri: next } = signal.aborted
          ? STOPPED
          : await this.#runSession(uri);
        if (signal.aborted) return this.#finish({ name: "closed", error: undefined });
        if (isFinal) return this.#finish({ name: "rejected", error: cause.error });
        this.#lastFailure = cause.error;
        const drawnMs = this.#backoff.next();
        const { attempt } = this.#backoff;
        // After the clock was set back, the start would be in the future.
        this.#troubledSince = Math.min(this.#troubledSince, this.#runtime.now());
        const troubledMs = this.#runtime.now() - this.#troubledSince;
        if (drawnMs === undefined || troubledMs >= giveUpAfterMs) {
          return this.#finish({
            name: "exhausted",
            error: exhaustedError(cause, attempt, troubledMs),
          });
        }
        uri = next;
        // The first attempt at another URL needs no delay.
        const delayMs = uri !== undefined && attempt === 1 ? 0 : drawnMs;
        const retryAt = this.#runtime.now() + delayMs;
        this.status.set({ name: "reconnecting", attempt, delayMs, retryAt, cause });
        this.#delay = new AbortController();
        await pause(this.#runtime, delayMs, this.#delay.signal, signal);
        this.#delay = undefined;
        if (!signal.aborted && !this.isConnected) this.status.set({ name: "connecting" });
      }
    } finally {
      globals.removeEventListener?.("online", onOnline);
      this.#options.signal?.removeEventListener("abort", this.#onAbort);
    }
  }

  /** Runs one session, from dialing until it closes or receives GOAWAY. */
  async #runSession(uri: string | undefined): Promise<MoqSessionOutcome> {
    this.#uri = uri;
    const session = await this.#attempts.run();
    if (!isOpen(session)) return session;
    const since = this.#runtime.now();
    this.#begin(session);
    const goaway = await Promise.race([session.draining, session.closed.then(() => undefined)]);
    const isStable = Math.abs(this.#runtime.now() - since) >= this.#retry.stableMs;
    if (isStable) {
      this.#backoff.reset();
      this.#troubledSince = this.#runtime.now();
    }
    if (goaway !== undefined && !session.isClosed) {
      const timer = startTimer(this.#runtime, this.#retry.leaveAfterMs, () => session.close());
      void session.closed.then(() => this.#runtime.clearTimeout(timer));
      const { url, allowMigration } = this.#options;
      let target: string | undefined;
      try {
        target = migrationTarget(goaway.uri, uri ?? url, allowMigration);
      } catch (error) {
        session.reportError(error);
      }
      return goawayOutcome(goaway, target);
    }
    return endOutcome(await session.closed, isStable);
  }

  /** Makes one attempt to open a session. Returns a failure instead of throwing it. */
  async #attempt(signal: AbortSignal): Promise<MoqSession | MoqSessionOutcome> {
    try {
      return await this.#dial(anySignal(this.#stop.signal, signal));
    } catch (error) {
      return { cause: { error }, isFinal: isRejection(error) };
    }
  }

  async #dial(signal: AbortSignal): Promise<MoqSession> {
    const { dial, connectTimeoutMs = 10_000 } = this.#options;
    const { mux } = this;
    const uri = this.#uri;
    const attempt = new AbortController();
    const giveUp = () => attempt.abort(signal.reason);
    signal.addEventListener("abort", giveUp, { once: true });
    const begin = async () => {
      const session = await dial(attempt.signal, { mux, uri });
      if (!(session instanceof MoqSession)) throw wrongKind(session, "MoqSession", DIALED_AS);
      if (session.mux === mux) return session;
      session.close();
      throw new TypeError("Cannot connect: dial must open its session with the mux of its context");
    };
    try {
      return await within(this.#runtime, begin(), {
        late: "Cannot connect within",
        signal,
        timeoutMs: connectTimeoutMs,
        discard: (session) => session.close(),
      });
    } catch (error) {
      attempt.abort(error);
      throw error;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }

  /** Moves all subscriptions and announcements to a new session. */
  #begin(session: MoqSession): void {
    const last = this.#session;
    this.#session = session;
    this.#lastFailure = undefined;
    void session.closed.then(() => {
      if (this.#session === session) this.#session = undefined;
    });
    this.status.set({ name: "connected", session });
    for (const one of [...this.#tracks, ...this.#announcements]) one.attach(session);
    last?.close();
    void this.#announceSession(session);
  }

  async #announceSession(session: MoqSession): Promise<void> {
    try {
      await this.#options.onSession?.(session);
    } catch (error) {
      const why = textOf(error);
      session.closeWithError("internal", `A handler failed: ${why}`);
    }
  }

  #finish(end: MoqClientEnd): MoqClientEnd {
    // A session may stay open after GOAWAY.
    this.#session?.close();
    this.#session = undefined;
    this.status.end(end);
    const error = end.name === "closed" ? undefined : this.#ended("go on");
    for (const one of [...this.#tracks, ...this.#announcements]) {
      if (error === undefined) one.close();
      else one.finish(error);
    }
    return end;
  }

  async #nextSession(): Promise<MoqSession> {
    for await (const _ of this.status) {
      if (this.#session !== undefined && !this.status.isEnded) return this.#session;
    }
    throw this.#ended("wait for the session");
  }

  #ended(verb: string): MoqError {
    const { current } = this.status;
    const cause = "error" in current ? current.error : undefined;
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    const reason = cause instanceof MoqError && cause.scope === "session"
      ? cause.reason
      : "sessionClosed";
    return new MoqError("session", reason, `Cannot ${verb}: the client is ${current.name}${why}`, {
      cause,
      ...(cause instanceof MoqError ? { moqCode: cause.moqCode, by: cause.by } : {}),
    });
  }
}

function tooMany(what: string): MoqError {
  return new MoqError("session", "tooManySubscribes", `Cannot ${what}`);
}

/** The options for {@linkcode connectMoq}. */
export interface ConnectMoqOptions
  extends
    Omit<MoqClientOptions, "dial" | "url">,
    Omit<DialMoqOptions, "mux" | "signal" | "timeoutMs"> {}

const { timeoutMs: _timeout, ...DIALED } = DIAL;

const { dial: _dial, url: _url, ...CLIENT_WITHOUT_DIAL } = CLIENT;

const CONNECT: OptionKinds<ConnectMoqOptions> = { ...DIALED, ...CLIENT_WITHOUT_DIAL };

/**
 * Connects to a server, and keeps a session with it open.
 *
 * @param url The URL, as for {@linkcode dialMoq}. A function is called for each attempt, for
 * example for a fresh token.
 * @param options See {@linkcode ConnectMoqOptions}.
 * @returns The client, which starts to connect immediately.
 * @throws {RangeError} If a time or a limit is out of range.
 *
 * @example Usage
 * ```ts
 * import { connectMoq, listenMoq, TrackMux } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/clock", async (track) => {
 *   const group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("12:00"));
 *   await group.close();
 * });
 * await using server = listenMoq({
 *   hostname: "127.0.0.1",
 *   mux,
 *   authorize: (_session, _path, action) => action !== "publish",
 * });
 *
 * await using client = connectMoq(server.url, {
 *   serverCertificateHashes: server.certificateHashes,
 * });
 * const group = await client.subscribe("/clock", "seconds").nextGroup();
 * assertEquals(new TextDecoder().decode(await group?.readFrame() ?? undefined), "12:00");
 * ```
 */
export function connectMoq(
  url: string | URL | (() => string | URL | Promise<string | URL>),
  options: ConnectMoqOptions = {},
): MoqClient {
  checkOptions("connect MoQ", options, CONNECT);
  const { mux, retry, connectTimeoutMs = 10_000, allowMigration, signal, ...rest } = options;
  const { runtime = platformRuntime(), onSession, ...dialOptions } = rest;
  let last = typeof url === "function" ? undefined : url;
  return new MoqClient({
    runtime,
    connectTimeoutMs,
    mux,
    retry,
    allowMigration,
    onSession,
    signal,
    url: () => last,
    async dial(signal, { mux, uri }) {
      if (uri === undefined && typeof url === "function") last = await url();
      return await dialMoq(uri ?? last!, {
        ...dialOptions,
        runtime,
        mux,
        signal,
        timeoutMs: connectTimeoutMs,
      });
    },
  });
}
