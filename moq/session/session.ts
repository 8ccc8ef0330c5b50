/** A MoQ session: requests in both directions, over any connection with streams. */
import { BITRATE } from "./bitrate_monitor.ts";
import type { NumberCheck, OptionKinds } from "../../base/options/options.ts";
import {
  checkGiven,
  checkKinds,
  checkOptions,
  COUNT,
  numberIn,
  objectOr,
  objectWith,
  POSITIVE,
  RUNTIME,
  SIGNAL,
  TIME,
} from "../../base/options/option_checks.ts";
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import { DecisionFault } from "../../base/decision.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { startTimer, within } from "../../base/wait.ts";
import { checkType, textOf } from "../../base/error_text.ts";
import type { Connection } from "../../transport/connection.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import type { GroupReader } from "../track/group_reader.ts";
import { TrackMux } from "../track/mux.ts";
import {
  type MoqSubscribeOptions,
  PRIORITY,
  SEQUENCE,
  SUBSCRIBE,
  type TrackReader,
} from "../track/track_reader.ts";
import {
  moqErrorCode,
  type MoqErrorFamily,
  type MoqErrorName,
  moqErrorName,
} from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import type { MoqToken } from "../wire/ietf/parameters.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";
import { DEFAULT_VERSIONS, type MoqVersion } from "../wire/versions.ts";
import { type MoqGrant, sessionLimits } from "./access.ts";
import type { PeerUpdate } from "./bitrate_monitor.ts";
import type { BitrateMonitorOptions } from "./bitrate_monitor.ts";
import { reportTo, type SessionContext } from "./context.ts";
import type { DialectEvents, ReceivedSetup, SessionDialect } from "./dialect.ts";
import { DraftDialect } from "./ietf/dialect.ts";
import { LiteDialect } from "./lite_dialect.ts";
import { PeerReports } from "./peer_reports.ts";
import {
  type Agreement,
  closeRejected,
  familyOf,
  isPathInSetup,
  isSkein,
  nextOf,
  PeerSetup,
  setUpClient,
  setupFault,
  type SetupRequest,
  setUpServer,
  whileConnected,
} from "./setup.ts";
import type { StreamShare } from "./stream_share.ts";

/**
 * Authorizes the actions of a peer. Called for each subscription, fetch and track info request
 * (`subscribe`), each request for announcements (`announce`, with the prefix as the path) and each
 * broadcast that the peer announces (`publish`). Without this function a peer may do everything.
 *
 * - **Rejection:** the peer receives the version's code: `unauthorized` (4) and `bannedPrefix` (4)
 *   in gomoqt. moq-lite has neither: a subscription ends as `notFound` (0x33), and a request for
 *   announcements is handled with an empty list, because a code would close a moq-rs session.
 * - **Slow decision:** it only delays its request, and later announcements on the same stream. A
 *   decision after the session has closed has no effect.
 * - **Error:** an `AuthenticationError` rejects the action. Any other error and an invalid grant
 *   are passed to `onError`; the peer receives `internal`, and may retry.
 *
 * @example Permission to watch for an hour, but not to publish
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
 * @param session The session of the peer.
 * @param path The path, in normalized form.
 * @param action The action that the peer requests: to announce a broadcast here (`publish`), to
 * receive a broadcast from here (`subscribe`), or to follow the announcements below a prefix
 * (`announce`).
 * @param request The tokens that the peer sent in its setup and with this request, in the IETF's
 * drafts; empty in other versions. Only tokens by value are accepted: this side stores none.
 * @returns The grant.
 */
export type MoqAuthorize = (
  session: MoqSession,
  path: BroadcastPath,
  action: "publish" | "subscribe" | "announce",
  request: { readonly tokens: readonly MoqToken[] },
) => MoqGrant | Promise<MoqGrant>;

/** How a session closed. */
export interface MoqCloseInfo {
  /** The number on the wire. */
  readonly code: number;
  /** The name of the number; `unknown` if it is in no table. */
  readonly reason: MoqErrorName;
  /** The reason in words; may be empty. */
  readonly message: string;
  /** The end that closed the session, or the network. */
  readonly by: "local" | "remote" | "network";
}

/** The options for {@linkcode MoqSession.open}. */
export interface MoqSessionOptions {
  /** The role of this side. */
  readonly side: "client" | "server";
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Accepted versions, in order of preference.
   *
   * @default {["moq-lite-05", "moq-lite-04", "moq-lite-02", "moq-lite-01", "moqt-18", "moqt-20", "moqt-22"]}
   */
  readonly versions?: readonly MoqVersion[] | undefined;
  /**
   * Broadcasts to publish to the peer.
   *
   * @default {an empty mux}
   */
  readonly mux?: TrackMux | undefined;
  /**
   * Chooses the mux for an admitted client, instead of `mux`; an error rejects the client. Servers
   * only.
   */
  readonly muxOf?: ((request: SetupRequest) => TrackMux) | undefined;
  /**
   * The path that a client requests, or under which a server accepted the client.
   *
   * @default {""}
   */
  readonly path?: string | undefined;
  /** Network address of the peer, for the shares of a relay. */
  readonly address?: string | undefined;
  /**
   * Host and port that a client requests over raw QUIC, in the IETF's drafts.
   *
   * @default {""}
   */
  readonly authority?: string | undefined;
  /**
   * Parameters of this side's setup, by number, in versions with a setup.
   *
   * @default {none}
   */
  readonly extensions?: ReadonlyMap<number, Uint8Array> | undefined;
  /**
   * Allows or denies each request of the peer.
   *
   * @default {allows all}
   */
  readonly authorize?: MoqAuthorize | undefined;
  /** Admits a client before the reply; an error rejects the client. Servers only. */
  readonly onSetup?: ((request: SetupRequest) => void | Promise<void>) | undefined;
  /**
   * The error code family of the peer.
   *
   * @default {detected as far as possible}
   */
  readonly family?: "gomoqt" | "moq-lite" | undefined;
  /**
   * Measures the outgoing bitrate and reports it to the peer; `false` leaves it to you.
   *
   * See {@linkcode BitrateMonitorOptions} for the options.
   *
   * By default this side measures while the peer probes, which is possible in `moq-lite-04` and
   * `-05`. With options it also sends SESSION_UPDATE unasked, in versions that have this message.
   * With `false` it does neither, and the application calls `report()`.
   *
   * @default {while the peer probes}
   */
  readonly bitrate?: BitrateMonitorOptions | false | undefined;
  /** The limits of the session. */
  readonly limits?: {
    /**
     * The maximum number of subscriptions of the peer; one more closes the session with
     * `tooManySubscribes`.
     *
     * @default {16384}
     */
    readonly maxSubscriptions?: number | undefined;
    /**
     * The maximum number of other requests of the peer, such as fetches and announce interests; one
     * more is rejected with `sessionLimit`.
     *
     * Track info counts, too, and so do streams whose type has not arrived yet.
     *
     * @default {1024}
     */
    readonly maxRequests?: number | undefined;
    /**
     * The largest frame to read, in bytes.
     *
     * @default {16777216}
     */
    readonly maxFrameBytes?: number | undefined;
  } | undefined;
  /**
   * The timeout of the setup, in milliseconds.
   *
   * @default {10000}
   */
  readonly setupTimeoutMs?: number | undefined;
  /** Closes the session, also during the setup. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Receives errors that handlers of the application threw.
   *
   * @default {ignored}
   */
  readonly onError?: ((error: unknown) => void) | undefined;
  /**
   * The streams of the peer that count for its server.
   *
   * @ignore
   */
  readonly streams?: StreamShare | undefined;
}

export const MOQ_SESSION: OptionKinds<MoqSessionOptions> = {
  address: "string",
  authority: "string",
  authorize: "function",
  bitrate: objectOr("boolean", BITRATE),
  extensions: "object",
  family: ["gomoqt", "moq-lite"],
  limits: { maxFrameBytes: POSITIVE, maxRequests: POSITIVE, maxSubscriptions: POSITIVE },
  mux: "object",
  muxOf: "function",
  onError: "function",
  onSetup: "function",
  path: "string",
  runtime: RUNTIME,
  setupTimeoutMs: TIME,
  side: ["client", "server"],
  signal: "AbortSignal",
  streams: "object",
  versions: "array",
};

const FETCH: OptionKinds<Parameters<MoqSession["fetch"]>[2]> = {
  group: SEQUENCE,
  priority: PRIORITY,
  signal: "AbortSignal",
};

const PROBE: OptionKinds<NonNullable<Parameters<MoqSession["probe"]>[0]>> = {
  signal: "AbortSignal",
  targetBitrate: COUNT,
};

const MEASURED: NumberCheck = numberIn({ min: 0, max: Number.MAX_VALUE });

const REPORT: OptionKinds<PeerUpdate> = { bitrate: MEASURED, rttMs: MEASURED };

const GOAWAY: OptionKinds<NonNullable<Parameters<MoqSession["goaway"]>[0]>> = {
  signal: "AbortSignal",
  timeoutMs: TIME,
  uri: "string",
};

const CONNECTION = objectWith("Connection", "close");

type ResolvedOptions = MoqSessionOptions & { readonly runtime: Runtime };

/**
 * A session with one peer. Both sides may publish, through a mux, and subscribe.
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
  /** The connection that carries the session. */
  readonly connection: Connection;
  /** The role of this side. */
  readonly side: "client" | "server";
  /** Network address of the peer, if known. */
  readonly address: string | undefined;
  /** Resolves with how the session closed; never rejects. */
  readonly closed: Promise<MoqCloseInfo>;
  /**
   * Resolves when the peer requests the end of the session. `uri` is the URL to connect to instead;
   * empty for the same URL.
   */
  readonly draining: Promise<{ readonly uri: string }>;

  readonly #context: SessionContext;
  readonly #agreement: Agreement;
  readonly #dialect: SessionDialect;
  readonly #reports: PeerReports;
  readonly #controller = new AbortController();
  readonly #closed: PromiseWithResolvers<MoqCloseInfo> = Promise.withResolvers();
  readonly #draining: PromiseWithResolvers<{ readonly uri: string }> = Promise.withResolvers();
  readonly #peerSetup = new PeerSetup();
  readonly #removeAbortListener: () => void;

  /** Called by {@linkcode MoqSession.open}. */
  private constructor(
    connection: Connection,
    agreement: Agreement,
    options: ResolvedOptions,
  ) {
    const { runtime, side, mux = new TrackMux({ runtime }), authorize, limits, onError, signal } =
      options;
    const { traits } = agreement;
    this.connection = connection;
    this.side = side;
    this.address = options.address;
    this.closed = this.#closed.promise;
    this.draining = this.#draining.promise;
    this.#agreement = agreement;
    this.#context = {
      runtime,
      session: this,
      closed: this.closed,
      closeWithError: (reason, message) => this.closeWithError(reason, message),
      connection,
      traits,
      mux,
      authorize: authorize &&
        ((path, action, tokens) =>
          authorize(this, path, action, { tokens: [...this.#peerSetup.tokens, ...tokens] })),
      share: undefined,
      streams: options.streams,
      limits: sessionLimits(limits),
      signal: this.#controller.signal,
      // A peer in moq-lite-04 that shows no other style is gomoqt, or Skein, which behaves like
      // gomoqt there.
      family: traits.draft === undefined
        ? options.family ?? (traits.slashedPaths ? "gomoqt" : "moq-lite")
        : "moqt",
      isFamilyOpen: options.family === undefined && traits.setup === "none",
      report: (error) => reportTo(onError, error),
      violated: (error) => this.#violated(error),
    };
    this.#reports = new PeerReports(this.#context, agreement.exchange, options.bitrate);
    const events: DialectEvents = {
      onSetup: (setup) => this.#takeSetup(setup),
      onGoaway: (uri) => this.#draining.resolve({ uri }),
    };
    this.#dialect = traits.draft === undefined
      ? new LiteDialect(this.#context, this.#reports, events)
      : new DraftDialect(this.#context, traits.draft, events);
    const onAbort = () => this.close();
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#removeAbortListener = () => signal?.removeEventListener("abort", onAbort);
    this.#requireClose();
    this.#dialect.takeUnidirectional();
    void this.#run();
  }

  /**
   * Opens a session: negotiates a version, and exchanges its setup.
   *
   * @param connection The connection, which must have streams. Its `protocol` or SETUP selects the
   * version.
   * @param options See {@linkcode MoqSessionOptions}.
   * @returns The session, after its setup.
   * @throws {UnsupportedError} If the connection has no streams.
   * @throws {RangeError} If a limit is not a positive integer.
   * @throws {TypeError} If the first argument is not a connection.
   * @throws {MoqError} If there is no common version, or the peer rejected the setup.
   * @throws {ProtocolError} If the peer's setup is malformed.
   * @throws {ConnectionError} If the connection closed during the setup.
   * @throws {TimeoutError} If the setup takes too long.
   */
  static async open(connection: Connection, options: MoqSessionOptions): Promise<MoqSession> {
    checkOptions("open session", options, MOQ_SESSION);
    CONNECTION(connection, { verb: "open session", path: "connection" });
    const { setupTimeoutMs = 10_000, side, signal, runtime = platformRuntime() } = options;
    try {
      return await within(
        runtime,
        whileConnected(runtime, connection, MoqSession.#begin(connection, { ...options, runtime })),
        {
          late: "The peer did not finish the setup within",
          signal,
          timeoutMs: setupTimeoutMs,
          discard: (session) => session.close(),
        },
      );
    } catch (error) {
      const family = familyOf(connection, options);
      const mayKnowCause = side === "client" && !signal?.aborted;
      const cause = mayKnowCause ? await setupFault(runtime, connection, error, family) : error;
      closeRejected(connection, cause, family);
      throw cause;
    }
  }

  static async #begin(connection: Connection, options: ResolvedOptions): Promise<MoqSession> {
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
      void session.#dialect.takeBidirectional(bidis);
      return session;
    } catch (error) {
      void bidis.return?.()?.catch(() => {});
      throw error;
    }
  }

  /** Broadcasts published to the peer. */
  get mux(): TrackMux {
    return this.#context.mux;
  }

  /** The negotiated version. */
  get version(): MoqVersion {
    return this.#agreement.traits.version;
  }

  /** The numbers of the versions that the client offered. */
  get versions(): readonly number[] {
    return this.#agreement.request.versions;
  }

  /** The path that the client requested. */
  get path(): string {
    const { path } = this.#agreement.request;
    return this.side === "server" ? this.#peerSetup.path ?? path : path;
  }

  /**
   * Parameters of the client's setup, by number; empty in versions without a setup, and before the
   * setup has arrived.
   */
  get clientExtensions(): ReadonlyMap<number, Uint8Array> {
    const { extensions } = this.#agreement.request;
    return this.side === "server" ? this.#peerSetup.parameters ?? extensions : extensions;
  }

  /**
   * Parameters of the server's setup, by number; empty in versions without a setup, and before the
   * setup has arrived.
   */
  get serverExtensions(): ReadonlyMap<number, Uint8Array> {
    const { serverExtensions } = this.#agreement;
    return this.side === "client"
      ? this.#peerSetup.parameters ?? serverExtensions
      : serverExtensions;
  }

  /** The complete setup request of the client. */
  get setupRequest(): SetupRequest {
    return { path: this.path, versions: this.versions, extensions: this.clientExtensions };
  }

  /**
   * Aborted with a {@linkcode MoqError} when the session closes. Its `cause` is the original error:
   * a `ConnectionError` if the connection broke or the peer closed it, or the peer's protocol
   * violation. If this side closed the session, there is no `cause`.
   */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** True once the session has closed. */
  get isClosed(): boolean {
    return this.#controller.signal.aborted;
  }

  /** True if `authorize` decides about the peer's requests. */
  get hasAuthorize(): boolean {
    return this.#context.authorize !== undefined;
  }

  /**
   * The fraction of a relay's slots that `authorize` granted to the peer; `undefined` for the
   * relay's default.
   */
  get share(): number | undefined {
    return this.#context.share;
  }

  /** The number of the peer's subscriptions that are currently served. */
  get servedSubscriptions(): number {
    return this.#dialect.served;
  }

  /** Subscriptions of this side. */
  get subscriptions(): readonly TrackReader[] {
    return this.#dialect.tracks;
  }

  /** The last report of the peer about the network path to it. */
  get peer(): PeerUpdate {
    return this.#reports.latest;
  }

  /**
   * Reports of the peer about the network path to it; a slow reader receives only the latest one.
   * The reports arrive in SESSION_UPDATE or, in versions with PROBE, through a probe that the first
   * loop opens.
   */
  get updated(): AsyncIterable<PeerUpdate> {
    return this.#reports.updated();
  }

  /**
   * Follows the peer's broadcasts below a prefix.
   *
   * @param prefix The prefix; `/` for all.
   * @param options A signal that closes the reader.
   * @returns The current broadcasts, and then every start and end.
   * @throws {MoqError} If the session has closed.
   * @throws {RangeError} If the prefix has too many parts or bytes.
   */
  async acceptAnnounce(
    prefix: string = "/",
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<AnnouncementReader> {
    checkOptions("accept announcements", options, SIGNAL);
    return await this.#dialect.announce(broadcastPath(prefix), options);
  }

  /**
   * Subscribes to a track. Resolves once the request is sent; `ready` of the track settles with the
   * reply.
   *
   * @param path The broadcast.
   * @param name The track.
   * @param options See {@linkcode MoqSubscribeOptions}.
   * @returns The groups of the track.
   * @throws {MoqError} If the session has closed.
   * @throws {RangeError} If an option is out of range.
   * @throws {TypeError} If the path or the name is not a string.
   */
  subscribe(path: string, name: string, options: MoqSubscribeOptions = {}): Promise<TrackReader> {
    checkOptions("subscribe", options, SUBSCRIBE);
    checkType("subscribe", "name", name, "string");
    return this.#dialect.subscribe(broadcastPath(path), name, options);
  }

  /**
   * Fetches one group from the publisher's cache. The publisher sends it after the groups that you
   * have subscribed to with the same priority.
   *
   * @param path The broadcast.
   * @param name The track.
   * @param options The number of the group, the priority, and an abort signal.
   * @returns The frames of the group, as they arrive.
   * @throws {UnsupportedError} If the version has no FETCH.
   * @throws {TypeError} If the path or the name is not a string, or `group` is missing.
   */
  async fetch(
    path: string,
    name: string,
    options: {
      readonly group: number;
      readonly priority?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<GroupReader> {
    checkOptions("fetch", options, FETCH);
    checkGiven(options.group, "number", { verb: "fetch", path: "group" });
    checkType("fetch", "name", name, "string");
    return await this.#dialect.fetch(broadcastPath(path), name, options);
  }

  /**
   * Requests the fixed properties of a track.
   *
   * @param path The broadcast.
   * @param name The name of the track within the broadcast.
   * @param options A signal that ends the wait.
   * @returns The priority, order, cache and timescale of the track.
   * @throws {UnsupportedError} If the version has no such request.
   * @throws {TypeError} If the path or the name is not a string.
   */
  async trackInfo(
    path: string,
    name: string,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<TrackInfoMessage> {
    checkOptions("read track info", options, SIGNAL);
    checkType("read track info", "name", name, "string");
    return await this.#dialect.trackInfo(broadcastPath(path), name, options);
  }

  /**
   * Requests measurements of the network path from the peer, until the loop is left.
   *
   * @param options The needed bitrate, in bits per second, and an abort signal.
   * @returns The peer's measurements.
   * @throws {UnsupportedError} If the version has no PROBE.
   */
  probe(
    options: {
      readonly targetBitrate?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    } = {},
  ): AsyncIterable<PeerUpdate> {
    checkOptions("probe", options, PROBE);
    return this.#reports.probe(options);
  }

  /**
   * Reports the outgoing bitrate to the peer: by SESSION_UPDATE, or to all probes of the peer.
   *
   * @param update The measurement.
   * @throws {RangeError} If a number is negative or not finite.
   */
  report(update: PeerUpdate): void {
    checkKinds(update, REPORT, { verb: "report", path: "update" });
    this.#reports.report(update);
  }

  /**
   * Asks the peer to leave the session.
   *
   * @param options A URL to connect to instead, a time in milliseconds after which this side closes
   * the session (never by default), and a signal that ends the wait but not the session.
   * @returns Resolves when the peer has left.
   * @throws {UnsupportedError} If neither the version nor the transport has such a request.
   */
  async goaway(
    options: {
      readonly uri?: string | undefined;
      readonly timeoutMs?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    } = {},
  ): Promise<void> {
    checkOptions("send goaway", options, GOAWAY);
    const { uri = "", timeoutMs, signal } = options;
    signal?.throwIfAborted();
    if (!await this.#dialect.goaway(uri, { timeoutMs, signal })) {
      if (this.connection.drain === undefined) {
        throw new UnsupportedError(
          `Cannot ask the peer to leave: ${this.version} over ${this.connection.transport} has no message for that`,
        );
      }
      this.connection.drain();
    }
    const { runtime } = this.#context;
    const timer = startTimer(runtime, timeoutMs, () => {
      this.closeWithError("goawayTimeout", "The peer did not leave");
    });
    try {
      await within(runtime, this.closed, { signal });
    } finally {
      runtime.clearTimeout(timer);
    }
  }

  /**
   * Passes an error of the application's code to `onError`.
   *
   * @ignore
   */
  reportError(error: unknown): void {
    this.#context.report(error);
  }

  /** Closes the session without an error. Idempotent. */
  close(): void {
    this.closeWithError("none", "");
  }

  /**
   * Closes the session and all of its streams. Idempotent.
   *
   * @param reason The name of a session error, or an application-defined error code.
   * @param message The reason in words.
   * @throws {RangeError} If the transport cannot carry the number: every transport can carry 0 to
   * 2^32 - 1.
   */
  closeWithError(reason: MoqErrorName | number, message: string): void {
    this.#close(reason, message);
  }

  /** Closes the session; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.connection.closed.catch(() => {});
  }

  /** Finishes the setup before the first request of the peer is read. */
  async #setUp(options: MoqSessionOptions): Promise<void> {
    const { authority = "", extensions, onSetup, muxOf, bitrate } = options;
    const { connection, side } = this;
    const context = this.#context;
    if (side === "server") {
      if (isPathInSetup(connection, context.traits)) {
        await this.#peerSetup.arrived;
        await onSetup?.(this.setupRequest);
      }
      if (muxOf !== undefined) {
        const mux: unknown = muxOf(this.setupRequest);
        if (!(mux instanceof TrackMux)) throw DecisionFault.returned("muxOf", "a TrackMux", mux);
        context.mux = mux;
      }
    }
    // Only a server on raw QUIC waits for SETUP of the other side, which contains the path.
    await this.#dialect.sendSetup({
      extensions,
      path: side === "client" ? this.path : "",
      authority,
      isMeasuring: bitrate !== false,
    });
  }

  #close(reason: MoqErrorName | number, message: string, cause?: unknown): void {
    if (this.isClosed) return;
    const info = localEnd(reason, message, this.#context.family);
    // The peer may recognize this side as Skein before its own setup arrives.
    if (this.#isSetupPending) this.connection.inspect?.requireClose?.();
    this.connection.close({ closeCode: info.code, reason: message });
    this.#over(info, cause);
  }

  /** True if the peer's setup has not arrived yet, in parallel to other streams. */
  get #isSetupPending(): boolean {
    const { setup } = this.#context.traits;
    const isParallel = setup === "stream" || setup === "control";
    return isParallel && this.#peerSetup.parameters === undefined;
  }

  #takeSetup(setup: ReceivedSetup): void {
    this.#peerSetup.take(setup);
    this.#requireClose();
  }

  /**
   * Treats an end without a close as a lost connection if the peer's setup identifies it as Skein.
   */
  #requireClose(): void {
    const theirs = this.side === "server" ? this.clientExtensions : this.serverExtensions;
    if (isSkein(theirs)) this.connection.inspect?.requireClose?.();
  }

  async #run(): Promise<void> {
    const { connection } = this;
    connection.draining.then(() => this.#draining.resolve({ uri: "" }), () => {});
    const { info, cause } = await remoteEnd(connection, () => this.#context.family);
    this.#over(info, cause);
  }

  #violated(error: unknown): void {
    const reason = error instanceof MoqError ? error.moqCode ?? error.reason : "protocolViolation";
    this.#close(reason, textOf(error), error);
  }

  #over(info: MoqCloseInfo, cause: unknown): void {
    if (this.isClosed) return;
    const error = endError(info, cause);
    this.#controller.abort(error);
    this.#removeAbortListener();
    this.#peerSetup.end(error);
    this.#dialect.end(error);
    this.#reports.end();
    this.#context.streams?.end();
    this.#closed.resolve(info);
  }
}

function localEnd(
  reason: MoqErrorName | number,
  message: string,
  family: MoqErrorFamily,
): MoqCloseInfo {
  const isNumber = typeof reason === "number";
  const code = isNumber ? reason : moqErrorCode("session", reason, family);
  const name = isNumber ? moqErrorName("session", reason, family) : reason;
  return { code, reason: name, message, by: "local" };
}

interface RemoteEnd {
  readonly info: MoqCloseInfo;
  /** The error of the connection, or an error for the peer's close. */
  readonly cause: unknown;
}

/**
 * Waits until a connection closes, and describes how.
 *
 * @param familyOf Returns the error code family of the peer; called once the connection is closed.
 * @returns How the connection closed; never rejects.
 */
async function remoteEnd(
  { closed }: Connection,
  familyOf: () => MoqErrorFamily,
): Promise<RemoteEnd> {
  try {
    const { closeCode: code = 0, reason: message = "" } = await closed;
    const reason = moqErrorName("session", code, familyOf());
    const words = `The peer closed the connection with code ${code}${message && `: ${message}`}`;
    return { info: { code, reason, message, by: "remote" }, cause: new ConnectionError(words) };
  } catch (cause) {
    const message = textOf(cause);
    return { info: { code: 0, reason: "unknown", message, by: "network" }, cause };
  }
}

/**
 * Creates the error of everything that ends with a session.
 *
 * @param cause The original error, if any.
 */
function endError(info: MoqCloseInfo, cause?: unknown): MoqError {
  const { code: moqCode, reason, message, by } = info;
  const words = `The session has ended: ${message || wordsOf(info)}`;
  const options = cause === undefined ? {} : { cause };
  return new MoqError("session", reason, words, { ...options, moqCode, by });
}

function wordsOf({ reason, by }: MoqCloseInfo): string {
  if (reason !== "none") return reason;
  return by === "local" ? "it was closed here" : "the peer closed it";
}
