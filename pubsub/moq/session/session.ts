/**
 * A session of MoQ: what both ends ask of each other, over any connection that has streams.
 *
 * @module
 */
import { UnsupportedError } from "../../../errors.ts";
import { describe } from "../../../session/wire/envelope.ts";
import { platformSchedule } from "../../../session/queue/schedule.ts";
import type { Connection } from "../../../transport/connection.ts";
import { startTimer, within } from "../../../transport/within.ts";
import { Asking } from "./_asking.ts";
import type { SessionContext } from "./_context.ts";
import { endError, localEnd, remoteEnd } from "./_ending.ts";
import { Incoming } from "./_incoming.ts";
import { causeOf, familyOf, nextOf, refuse, whileConnected } from "./_opening.ts";
import { type MoqLimits, sessionLimits } from "./limits.ts";
import { PeerReports } from "./_peer_reports.ts";
import { PeerSetup } from "./_peer_setup.ts";
import { Serving } from "./_serving.ts";
import {
  type Agreement,
  isSetupLate,
  sendSetupStream,
  setUpClient,
  type SetupRequest,
  setUpServer,
} from "./_setup.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import type { MoqErrorFamily, MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import type { GroupReader } from "../track/group_reader.ts";
import {
  BidiType,
  encodeGoaway,
  type MoqParameters,
  type TrackInfoMessage,
} from "../wire/messages.ts";
import { TrackMux } from "../track/mux.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";
import type { Goaway, MoqCloseInfo, PeerUpdate } from "./session_info.ts";
import type { SubscribeOptions } from "../track/subscribe_options.ts";
import type { TrackReader } from "../track/track_reader.ts";
import { DEFAULT_VERSIONS, type MoqVersion } from "../wire/versions.ts";
import type { MoqAction, MoqGrant } from "./access.ts";
import type { BitrateMonitorOptions } from "./bitrate_monitor.ts";

export type { MoqLimits } from "./limits.ts";
export type { SetupRequest } from "./_setup.ts";

/**
 * Decides what a peer may do: asked for each subscription, fetch and question about a track
 * (`subscribe`), each request for announcements (`announce`, with the prefix as the path) and each broadcast
 * that the peer announces (`publish`). Without it a peer may do everything.
 *
 * - **At once:** a no is told by the version's code: `unauthorized` (4) and `bannedPrefix` (4) to gomoqt.
 *   moq-lite has neither: a subscription ends as `notFound` (0x33), and announcements are an empty list,
 *   since a code would end a session of moq-rs.
 * - **Slow** decisions hold up nothing but what they are about, and the announcements behind it on the same
 *   stream. After the end of the session they count for nothing.
 * - **What it throws** is a no, and goes to `onError`; so is a grant that makes no sense.
 *
 * @example Everybody watches, for an hour; nobody publishes
 * ```ts
 * import { type MoqAuthorize, MoqError, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const authorize: MoqAuthorize = (_session, path, action) =>
 *   action !== "publish" && path.startsWith("/public/") &&
 *   { until: new Date(Date.now() + 3_600_000) };
 *
 * const mux = new TrackMux();
 * mux.publish("/public/clock", (track) => track.close());
 * mux.publish("/secret/clock", (track) => track.close());
 * const pair = memoryPair({ protocol: "moq-lite-04" });
 * const [server, client] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux, authorize }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 * await using _server = server;
 * await using _client = client;
 *
 * await (await client.subscribe("/public/clock", "seconds")).ready;
 * const secret = await client.subscribe("/secret/clock", "seconds");
 * const error = await assertRejects(() => secret.ready, MoqError);
 * assertEquals(error.reason, "unauthorized");
 * ```
 *
 * @param session The session that asks.
 * @param path What it is about, without the style of the peer.
 * @param action What the peer wants.
 * @returns The grant.
 */
export type MoqAuthorize = (
  session: MoqSession,
  path: BroadcastPath,
  action: MoqAction,
) => MoqGrant | Promise<MoqGrant>;

/** Options for {@linkcode MoqSession.open}. */
export interface MoqSessionOptions {
  /** Which end this is. */
  readonly side: "client" | "server";
  /**
   * The versions that may be spoken, the best first.
   *
   * @default {["moq-lite-05", "moq-lite-04", "moq-lite-02", "moq-lite-01"]}
   */
  readonly versions?: readonly MoqVersion[];
  /** What is published to the peer; nothing by default. */
  readonly mux?: TrackMux;
  /** Chooses the mux for a client, once it was let in, in place of `mux`. A server's only. */
  readonly muxOf?: (request: SetupRequest) => TrackMux;
  /**
   * Where a client wants to be, or came in.
   *
   * @default {""}
   */
  readonly path?: string;
  /** Parameters of this end's setup, on versions that have one; none by default. */
  readonly extensions?: MoqParameters;
  /** Decides what the peer may do; everything without it. */
  readonly authorize?: MoqAuthorize;
  /** Decides about a client before it is answered; what it throws refuses it. A server's only. */
  readonly onSetup?: (request: SetupRequest) => void | Promise<void>;
  /** Whose error numbers the peer uses; found out as far as possible by default. */
  readonly family?: MoqErrorFamily;
  /**
   * How this end measures what it sends, and when it tells the peer; see {@linkcode BitrateMonitorOptions}.
   *
   * By default it measures while the peer probes, which is on `moq-lite-04` and `-05`. With options it
   * also sends SESSION_UPDATE, on the versions that have it, where no peer asks for it. With `false` it
   * does neither, and `report()` is the application's.
   */
  readonly bitrate?: BitrateMonitorOptions | false;
  /** Bounds. */
  readonly limits?: MoqLimits;
  /**
   * Gives up the setup after this many milliseconds.
   *
   * @default {10000}
   */
  readonly setupTimeoutMs?: number;
  /** Closes the session, from its setup on. */
  readonly signal?: AbortSignal;
  /** Gets what a handler of the application threw. Lost by default. */
  readonly onError?: (error: unknown) => void;
}

/**
 * A session with one peer. Both ends may publish, through their mux, and subscribe.
 *
 * @example Both ends in one process
 * ```ts
 * import { MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/clock", async (track) => {
 *   const group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("12:00"));
 *   await group.close();
 * });
 *
 * const pair = memoryPair({ protocol: "moq-lite-05" });
 * const [publisher, subscriber] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 * await using _publisher = publisher;
 * await using _subscriber = subscriber;
 *
 * const track = await subscriber.subscribe("/clock", "seconds");
 * for await (const group of track) {
 *   for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "12:00");
 * }
 * ```
 */
export class MoqSession implements AsyncDisposable {
  /** What carries it. */
  readonly connection: Connection;
  /** Which end this is. */
  readonly side: "client" | "server";
  /** Resolves when the session is over, with how it ended; never rejects. */
  readonly closed: Promise<MoqCloseInfo>;
  /** Resolves when the peer wants to end. */
  readonly draining: Promise<Goaway>;

  readonly #context: SessionContext;
  readonly #agreement: Agreement;
  readonly #asking: Asking;
  readonly #serving: Serving;
  readonly #reports: PeerReports;
  readonly #incoming: Incoming;
  readonly #controller = new AbortController();
  readonly #closed: PromiseWithResolvers<MoqCloseInfo> = Promise.withResolvers();
  readonly #draining: PromiseWithResolvers<Goaway> = Promise.withResolvers();
  readonly #peerSetup = new PeerSetup();
  readonly #letGo: () => void;

  /** Is made by {@linkcode MoqSession.open}. */
  private constructor(
    connection: Connection,
    agreement: Agreement,
    options: MoqSessionOptions,
  ) {
    const { side, mux = new TrackMux(), authorize, limits, onError, signal } = options;
    const { traits } = agreement;
    this.connection = connection;
    this.side = side;
    this.closed = this.#closed.promise;
    this.draining = this.#draining.promise;
    this.#agreement = agreement;
    this.#context = {
      session: this,
      closed: this.closed,
      closeWithError: (reason, message) => this.closeWithError(reason, message),
      connection,
      traits,
      mux,
      authorize: authorize && ((path, action) => authorize(this, path, action)),
      share: undefined,
      limits: sessionLimits(limits),
      schedule: platformSchedule(),
      signal: this.#controller.signal,
      // Who speaks moq-lite-04 and shows no other style is gomoqt, or Skein, which does as gomoqt there.
      family: options.family ?? (traits.slashedPaths ? "gomoqt" : "moq-lite"),
      isFamilyOpen: options.family === undefined && traits.setup === "none",
      report: (error) => {
        try {
          onError?.(error);
        } catch {
          // There is nobody left to tell.
        }
      },
      violated: (error) => this.#violated(error),
    };
    this.#asking = new Asking(this.#context);
    this.#serving = new Serving(this.#context);
    this.#reports = new PeerReports(this.#context, agreement.exchange, options.bitrate);
    this.#incoming = new Incoming(this.#context, {
      asking: this.#asking,
      serving: this.#serving,
      reports: this.#reports,
      onSetup: (parameters) => this.#peerSetup.take(parameters),
      onGoaway: (uri) => this.#draining.resolve({ uri }),
    });
    const onAbort = () => this.close();
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#letGo = () => signal?.removeEventListener("abort", onAbort);
    this.#incoming.takeUnidirectional();
    void this.#run();
  }

  /**
   * Begins a session: agrees on a version, and exchanges what its setup has.
   *
   * @param connection Has streams; its `protocol` says the version, or SETUP does.
   * @param options See {@linkcode MoqSessionOptions}.
   * @returns The session.
   * @throws {UnsupportedError} If the connection has no streams.
   * @throws {RangeError} If a limit is not a positive integer.
   * @throws {MoqError} If there is no common version, or the peer refused.
   * @throws {ProtocolError} If the peer's setup makes no sense.
   * @throws {ConnectionError} If the connection ended before.
   * @throws {TimeoutError} If it takes too long.
   */
  static async open(connection: Connection, options: MoqSessionOptions): Promise<MoqSession> {
    const { setupTimeoutMs = 10_000, side, signal } = options;
    sessionLimits(options.limits);
    try {
      return await within(whileConnected(connection, MoqSession.#begin(connection, options)), {
        late: "The peer did not finish the setup within",
        signal,
        timeoutMs: setupTimeoutMs,
        discard: (session) => session.close(),
      });
    } catch (error) {
      const family = familyOf(connection, options);
      const isTold = side === "client" && !signal?.aborted;
      const cause = isTold ? await causeOf(connection, error, family) : error;
      refuse(connection, cause, family);
      throw cause;
    }
  }

  static async #begin(connection: Connection, options: MoqSessionOptions): Promise<MoqSession> {
    const { side, versions = DEFAULT_VERSIONS, onSetup } = options;
    const { path = "", extensions = new Map() } = options;
    await connection.ready;
    if (!connection.capabilities.streams) {
      throw new UnsupportedError(
        `Cannot speak MoQ: the ${connection.transport} connection has no streams`,
      );
    }
    const bidis = connection.incomingBidirectionalStreams[Symbol.asyncIterator]();
    const setup = { versions, path, extensions, onSetup };
    try {
      const agreement = side === "client"
        ? await setUpClient(connection, setup)
        : await setUpServer(connection, () => nextOf(bidis), setup);
      const session = new MoqSession(connection, agreement, options);
      await session.#setUp(options);
      void session.#incoming.takeBidirectional(bidis);
      return session;
    } catch (error) {
      void bidis.return?.()?.catch(() => {});
      throw error;
    }
  }

  /** What is published to the peer. */
  get mux(): TrackMux {
    return this.#context.mux;
  }

  /** The version that both ends speak. */
  get version(): MoqVersion {
    return this.#agreement.traits.version;
  }

  /** The numbers of the versions that the client offered. */
  get versions(): readonly number[] {
    return this.#agreement.request.versions;
  }

  /** Where the client wanted to be. */
  get path(): string {
    const { path } = this.#agreement.request;
    return this.side === "server" ? this.#peerSetup.path ?? path : path;
  }

  /** What the client said in its setup; empty on versions without one, and until it came. */
  get clientExtensions(): MoqParameters {
    const { extensions } = this.#agreement.request;
    return this.side === "server" ? this.#peerSetup.parameters ?? extensions : extensions;
  }

  /** What the server said in its setup; empty on versions without one, and until it came. */
  get serverExtensions(): MoqParameters {
    const { serverExtensions } = this.#agreement;
    return this.side === "client"
      ? this.#peerSetup.parameters ?? serverExtensions
      : serverExtensions;
  }

  /** All that the client asked for. */
  get setupRequest(): SetupRequest {
    return { path: this.path, versions: this.versions, extensions: this.clientExtensions };
  }

  /**
   * Aborted when the session is over. Its reason is a {@linkcode MoqError}, whose `cause` is the raw error:
   * a `ConnectionError` where the connection broke or the peer closed it, or what the peer got wrong. A
   * session that this end closed has none.
   */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Whether the session is over. */
  get isClosed(): boolean {
    return this.#controller.signal.aborted;
  }

  /** True if an `authorize` decides about the peer's rights. */
  get hasAuthorize(): boolean {
    return this.#context.authorize !== undefined;
  }

  /** The part of a relay's places that `authorize` gave to the peer; `undefined` for the relay's default. */
  get share(): number | undefined {
    return this.#context.share;
  }

  /** Subscriptions of the peer that are served now. */
  get servedSubscriptions(): number {
    return this.#serving.size;
  }

  /** Subscriptions of this end. */
  get subscriptions(): readonly TrackReader[] {
    return this.#asking.tracks;
  }

  /** What the peer told last of the path to it. */
  get peer(): PeerUpdate {
    return this.#reports.latest;
  }

  /**
   * What the peer tells of the path to it, each time that it does; a slow reader gets the last of it.
   * Over SESSION_UPDATE, or, where the version has it, over a probe that is opened by the first loop.
   */
  get updated(): AsyncIterable<PeerUpdate> {
    return this.#reports.updated();
  }

  /**
   * Asks what the peer has below a prefix.
   *
   * @param prefix The prefix; `/` for all.
   * @param options Ends it.
   * @returns What is there, and then what comes and goes.
   * @throws {MoqError} If the session is over.
   * @throws {RangeError} If the prefix has too many parts or bytes.
   */
  acceptAnnounce(
    prefix: string = "/",
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<AnnouncementReader> {
    return this.#asking.announce(broadcastPath(prefix), options);
  }

  /**
   * Subscribes to a track. It resolves once that is asked for; `ready` of the track tells the answer.
   *
   * @param path The broadcast.
   * @param name The track.
   * @param options See {@linkcode SubscribeOptions}.
   * @returns The groups of the track.
   * @throws {MoqError} If the session is over.
   * @throws {RangeError} If an option makes no sense.
   * @throws {TypeError} If the path or the name is no string.
   */
  subscribe(path: string, name: string, options: SubscribeOptions = {}): Promise<TrackReader> {
    if (typeof name !== "string") {
      throw new TypeError(`Cannot subscribe: name must be a string, received ${describe(name)}`);
    }
    return this.#asking.subscribe(broadcastPath(path), name, options);
  }

  /**
   * Fetches one group from the publisher's cache.
   *
   * @param path The broadcast.
   * @param name The track.
   * @param options Which group, how urgent, and when to give up.
   * @returns The group.
   * @throws {UnsupportedError} If the version has no FETCH.
   */
  fetch(
    path: string,
    name: string,
    options: { readonly group: number; readonly priority?: number; readonly signal?: AbortSignal },
  ): Promise<GroupReader> {
    return this.#asking.fetch(broadcastPath(path), name, options);
  }

  /**
   * Asks what stays true of a track.
   *
   * @param path The broadcast.
   * @param name The track.
   * @param options Gives up waiting.
   * @returns Its priority, order, cache and timescale.
   * @throws {UnsupportedError} If the version has no such question.
   */
  trackInfo(
    path: string,
    name: string,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<TrackInfoMessage> {
    return this.#asking.trackInfo(broadcastPath(path), name, options);
  }

  /**
   * Asks the peer how much the path to it carries, again and again, until the loop is left.
   *
   * @param options What would be needed, in bits a second, and when to stop.
   * @returns What the peer measures.
   * @throws {UnsupportedError} If the version has no PROBE.
   */
  probe(
    options: { readonly targetBitrate?: number; readonly signal?: AbortSignal } = {},
  ): AsyncIterable<PeerUpdate> {
    return this.#reports.probe(options);
  }

  /**
   * Tells the peer how much this end sends: by SESSION_UPDATE, or to all its probes.
   *
   * @param update What was measured.
   */
  report(update: PeerUpdate): void {
    this.#reports.report(update);
  }

  /**
   * Asks the peer to end the session.
   *
   * @param options Where to go instead, after how long the session is closed from here (never by
   * default), and what gives up waiting; the session stays then.
   * @returns Resolves when the peer left.
   * @throws {UnsupportedError} If neither the version nor the wire can say so.
   */
  async goaway(
    options: {
      readonly uri?: string;
      readonly timeoutMs?: number;
      readonly signal?: AbortSignal;
    } = {},
  ): Promise<void> {
    const { uri = "", timeoutMs, signal } = options;
    signal?.throwIfAborted();
    if (this.#agreement.traits.requests) {
      const exchange = await this.#asking.open(BidiType.goaway, encodeGoaway(uri), options);
      void exchange.end();
    } else if (this.connection.drain !== undefined) {
      this.connection.drain();
    } else {
      throw new UnsupportedError(
        `Cannot ask the peer to leave: ${this.version} over ${this.connection.transport} has no way to`,
      );
    }
    const timer = startTimer(timeoutMs, () => {
      this.closeWithError("goawayTimeout", "The peer did not leave");
    });
    try {
      await within(this.closed, { signal });
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the session: nothing went wrong. Idempotent. */
  close(): void {
    this.closeWithError("none", "");
  }

  /**
   * Ends the session, and everything in it. Idempotent.
   *
   * @param reason Why: a name of {@linkcode MoqSessionCode}, or a number of one's own.
   * @param message In words.
   * @throws {RangeError} If the wire cannot carry the number: every wire can carry those from 0 to 2^32 - 1.
   */
  closeWithError(reason: MoqErrorName | number, message: string): void {
    this.#close(reason, message);
  }

  /** Ends the session; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.connection.closed.catch(() => {});
  }

  /** What is left to do before the first request of the peer is looked at. */
  async #setUp(options: MoqSessionOptions): Promise<void> {
    const { extensions, onSetup, muxOf, bitrate } = options;
    const { connection, side } = this;
    const context = this.#context;
    if (side === "server") {
      if (isSetupLate(connection, context.traits)) {
        await this.#peerSetup.arrived;
        await onSetup?.(this.setupRequest);
      }
      if (muxOf !== undefined) context.mux = muxOf(this.setupRequest);
    }
    if (context.traits.setup !== "stream") return;
    // Nobody waits for the other's, but where only it tells the path.
    await sendSetupStream(connection, {
      extensions,
      path: side === "client" ? this.path : "",
      hopId: context.mux.hopId,
      isMeasuring: bitrate !== false,
    });
  }

  #close(reason: MoqErrorName | number, message: string, cause?: unknown): void {
    if (this.isClosed) return;
    const info = localEnd(reason, message, this.#context.family);
    this.connection.close({ closeCode: info.code, reason: message });
    this.#over(info, cause);
  }

  async #run(): Promise<void> {
    const { connection } = this;
    connection.draining.then(() => this.#draining.resolve({ uri: "" }), () => {});
    const { info, cause } = await remoteEnd(connection, () => this.#context.family);
    this.#over(info, cause);
  }

  #violated(error: unknown): void {
    const reason = error instanceof MoqError ? error.moqCode ?? error.reason : "protocolViolation";
    this.#close(reason, error instanceof Error ? error.message : String(error), error);
  }

  #over(info: MoqCloseInfo, cause: unknown): void {
    if (this.isClosed) return;
    const error = endError(info, cause);
    this.#controller.abort(error);
    this.#letGo();
    this.#peerSetup.end(error);
    this.#asking.end(error);
    this.#serving.end(error);
    this.#reports.end();
    this.#closed.resolve(info);
  }
}
