/** Dials a URL, and opens a MoQ session. */
import { MOQ_SESSION } from "../session/session.ts";
import { attempt } from "../../base/call_safely.ts";
import { type OptionKinds, optionsFor } from "../../base/options/options.ts";
import { checkOptions, POSITIVE, TIME } from "../../base/options/option_checks.ts";
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { textOf } from "../../base/error_text.ts";
import { reportTo } from "../session/context.ts";
import type { Connection } from "../../transport/connection.ts";
import { dialNativeWebTransport } from "../../transport/native/client.ts";
import { engineDefect } from "../../transport/native/engines.ts";
import { isNoCommonProtocol } from "../../transport/deno_errors.ts";
import { isNativeWebTransportAvailable } from "../../transport/webtransport.ts";
import type { TransportFallback, TransportName } from "../../transport/race/options.ts";
import { raceTransports } from "../../transport/race/race.ts";
import { dialWebSocket } from "../../transport/websocket/client.ts";
import type { CertificateHash, DialWebTransportOptions } from "../../transport/webtransport.ts";
import { MoqSession, type MoqSessionOptions } from "../session/session.ts";
import { MOQ_LITE_SESSION_CODES } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import {
  checkVersions,
  DEFAULT_VERSIONS,
  HASH_PATH,
  MAX_STREAMS,
  type MoqVersion,
  offeredVersions,
  protocolsOf,
  VERSIONS,
  webSocketOffers,
} from "../wire/versions.ts";

/** Hint for a silent server: gomoqt before moq-lite-03 waits for another first message. */
const NO_SETUP_RESPONSE =
  'the server does not respond SETUP (for gomoqt up to 0.11 set versions: ["gomoqt-dev"])';

/**
 * The credit for a WebTransport server: large enough that no capsule with more credit is ever sent,
 * while QUIC's own limits apply. gomoqt 0.16 ignores a client's initial credit, and closes the
 * session on the first such capsule.
 */
const UNLIMITED_CREDIT = {
  maxData: Number.MAX_SAFE_INTEGER,
  maxStreamsBidi: Number.MAX_SAFE_INTEGER,
  maxStreamsUni: Number.MAX_SAFE_INTEGER,
};

/** The maximum number of characters read from a response that should be a hash. */
const MAX_HASH_RESPONSE = 256;

/** The options for {@linkcode dialMoq}. */
export interface DialMoqOptions extends
  Omit<
    MoqSessionOptions,
    "side" | "path" | "authority" | "onSetup" | "setupTimeoutMs" | "signal"
  > {
  /**
   * The versions to offer, in order of preference. The default is `moq-lite-05`, `-04`, `-02` and
   * `-01`, and then `moqt-18`, `-20` and `-22`, which exist only over raw QUIC and WebTransport.
   * `gomoqt-dev` is never offered by default: its ALPN name, `moq-00`, selects draft 14 on
   * relays that speak the IETF drafts.
   */
  readonly versions?: readonly MoqVersion[] | undefined;
  /**
   * Hashes of certificates to trust without an authority: short-lived ones, for development. Not
   * for WebSocket.
   */
  readonly serverCertificateHashes?: readonly CertificateHash[] | undefined;
  /** Request headers, empty by default; Deno only, and not over `moqt:`. */
  readonly headers?: HeadersInit | undefined;
  /**
   * Also dials a WebSocket, after {@linkcode DialMoqOptions.headStartMs} or when WebTransport has
   * failed: at the same host and port, or at this URL. The first open connection wins;
   * `session.connection.transport` names its transport.
   *
   * @default {false}
   */
  readonly fallback?: boolean | string | URL | undefined;
  /**
   * Head start of WebTransport, in milliseconds.
   *
   * @default {500}
   */
  readonly headStartMs?: number | undefined;
  /**
   * The preferred transport with a {@linkcode DialMoqOptions.fallback}. By default WebTransport,
   * except in browser engines with a known defect, which use WebTransport only if the WebSocket
   * fails: WebKit, and Firefox below 153.
   *
   * @default {["webtransport", "websocket"]}
   */
  readonly transports?: readonly Exclude<TransportName, "http">[] | undefined;
  /**
   * Called before the session opens, if the WebSocket won, with the reason why WebTransport did
   * not. If it throws or rejects, `onError` receives the error.
   */
  readonly onFallback?: ((fallback: TransportFallback) => void) | undefined;
  /**
   * The unidirectional streams that the server may have open: groups in flight. Browsers have their
   * own limit.
   *
   * @default {1024}
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /** Aborts dialing; afterwards closes the session. */
  readonly signal?: AbortSignal | undefined;
  /**
   * The timeout of dialing and setup together, in milliseconds.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number | undefined;
  /**
   * The idle time after which a QUIC connection is closed, in milliseconds. Detecting a server that
   * vanished without a close may take up to a third longer. The client pings the server three times
   * within this time. Browsers and WebSockets have their own timeouts.
   *
   * @default {10000}
   */
  readonly idleTimeoutMs?: number | undefined;
}

/** The options, with the values that every transport needs. */
interface Dialing extends DialMoqOptions {
  readonly runtime: Runtime;
  readonly versions: readonly MoqVersion[];
  readonly maxUnidirectionalStreams: number;
  readonly timeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly signal: AbortSignal;
}

const SCHEMES: readonly string[] = ["moqt:", "https:", "http:", "wss:", "ws:"];

const {
  side: _side,
  path: _path,
  authority: _authority,
  onSetup: _setup,
  setupTimeoutMs: _timeout,
  ...SESSION
} = MOQ_SESSION;

type DialedSession = Omit<
  MoqSessionOptions,
  "side" | "path" | "authority" | "onSetup" | "setupTimeoutMs"
>;

export const DIAL: OptionKinds<DialMoqOptions> = {
  ...SESSION,
  fallback: "boolean or string or object",
  headStartMs: TIME,
  headers: 0,
  idleTimeoutMs: POSITIVE,
  maxUnidirectionalStreams: POSITIVE,
  onFallback: "function",
  serverCertificateHashes: "array",
  signal: "AbortSignal",
  timeoutMs: TIME,
  transports: "array",
};

/**
 * Opens a session with a server.
 *
 * - **`moqt:`** is raw QUIC; Deno only. The setup includes path and query, in versions that can
 *   carry them.
 * - **`https:`** is WebTransport: the browser's own, or in Deno that of Skein.
 * - **`http:`** is WebTransport to a development server, which serves the hash of its certificate
 *   at `/certificate.sha256` over plain HTTP. If a page comes from another origin, even just from
 *   another port, the server's `origins` must allow it.
 * - **`wss:`** and **`ws:`** are a WebSocket with QMux streams.
 *
 * @param url The URL of the server.
 * @param options See {@linkcode DialMoqOptions}.
 * @returns The session, after its setup.
 * @throws {ConnectionError} If the connection fails. If the server rejected it, `status` is the
 * HTTP status.
 * @throws {MoqError} If there is no common version, or the server rejected the setup.
 * @throws {ProtocolError} If the server's setup is malformed.
 * @throws {TimeoutError} If dialing and setup take longer than `timeoutMs`.
 * @throws {UnsupportedError} If the platform lacks the transport of the URL.
 * @throws {TypeError} If the URL or an option is invalid.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 *
 * @example Usage
 * ```ts
 * import { dialMoq, listenMoq, TrackMux } from "@skein/skein/moq";
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
 * await using session = await dialMoq(server.url, {
 *   serverCertificateHashes: server.certificateHashes,
 * });
 * const track = await session.subscribe("/clock", "seconds");
 * for await (const group of track) {
 *   for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "12:00");
 * }
 * ```
 */
export async function dialMoq(
  url: string | URL,
  options: DialMoqOptions = {},
): Promise<MoqSession> {
  checkOptions("dial MoQ", options, DIAL);
  const target = URL.parse(url);
  if (target === null || !SCHEMES.includes(target.protocol)) {
    throw new TypeError(
      // Without the query, which may contain tokens.
      `Cannot dial MoQ: url must begin with ${SCHEMES.join(", ")}, received "${
        String(url).split("?")[0]
      }"`,
    );
  }
  target.hash = "";
  const {
    versions = DEFAULT_VERSIONS,
    runtime = platformRuntime(),
    maxUnidirectionalStreams = MAX_STREAMS,
    signal,
    timeoutMs = 10_000,
    idleTimeoutMs = 10_000,
  } = options;
  checkVersions(versions, "dial MoQ");
  if (options.fallback && !/^https?:$/.test(target.protocol)) {
    throw new TypeError(
      `Cannot dial MoQ: fallback is for https: and http:, received ${target.protocol}`,
    );
  }
  signal?.throwIfAborted();
  const ending = new AbortController();
  const whole = signal === undefined ? ending.signal : AbortSignal.any([signal, ending.signal]);
  const dialing = {
    ...options,
    runtime,
    versions,
    maxUnidirectionalStreams,
    timeoutMs,
    idleTimeoutMs,
    signal: whole,
  };
  let chosen: string | undefined;
  const onConnected = ({ protocol }: Connection) => void (chosen = protocol);
  try {
    return await within(runtime, begin(target, { ...dialing, onConnected }), {
      late: `Cannot open a MoQ session with ${target.host} within`,
      signal,
      timeoutMs,
      discard: (session) => session.close(),
    });
  } catch (error) {
    ending.abort(error);
    throw withVersions(error, namesOf(target, versions), { versions, chosen });
  }
}

/** Adds the offered names, and the server's choice, to the error of a setup without a reply. */
function withVersions(
  error: unknown,
  offered: readonly string[],
  { versions, chosen }: {
    readonly versions: readonly MoqVersion[];
    readonly chosen: string | undefined;
  },
): unknown {
  // Before the connection is open, a timeout says nothing about versions.
  if (!(error instanceof TimeoutError) || chosen === undefined) return error;
  const [first] = offeredVersions(chosen, versions);
  const isSetupSent = first !== undefined && VERSIONS[first].setup === "compat";
  const hint = isSetupSent && !versions.includes("gomoqt-dev") ? `; ${NO_SETUP_RESPONSE}` : "";
  const choice = chosen === "" ? "none" : chosen;
  const offer = offered.length === 0
    ? ""
    : `: offered ${offered.join(", ")}; the server chose ${choice}`;
  return new TimeoutError(`${error.message}${offer}${hint}`, error.timeoutMs);
}

/** Adds the offered names to the error of a connection that the server rejected with a status. */
function withOffer(error: unknown, offered: readonly string[]): unknown {
  if (!(error instanceof ConnectionError) || error.status === undefined) return error;
  const { message, status } = error;
  const offer = `${message}; offered ${offered.join(", ") || "no version by name"}`;
  return new ConnectionError(offer, { status, cause: error });
}

/** Lists the names that offer the versions on the transport of a URL. */
function namesOf({ protocol }: URL, versions: readonly MoqVersion[]): readonly string[] {
  if (/^wss?:$/.test(protocol)) return webSocketOffers(versions);
  return protocolsOf(versions, protocol === "moqt:" ? "quic" : "webtransport");
}

async function begin(
  target: URL,
  options: Dialing & { readonly onConnected: (connection: Connection) => void },
): Promise<MoqSession> {
  const { protocol } = target;
  const connection = protocol === "moqt:"
    ? await openRawQuic(target, options)
    : /^wss?:$/.test(protocol)
    ? await openWebSocket(target, options)
    : options.fallback
    ? await raceWebTransport(target, options)
    : await openWebTransport(target, options);
  const versions = offeredVersions(connection.protocol, options.versions);
  if (versions.length === 0) {
    const moqCode = MOQ_LITE_SESSION_CODES.unsupportedVersion;
    const reason = "There is no common MoQ version: the server chose none of the offered versions";
    connection.close({ closeCode: moqCode, reason });
    const names = namesOf(target, options.versions).join(", ");
    throw new MoqError("session", "unsupportedVersion", `${reason} (${names})`, { moqCode });
  }
  options.onConnected(connection);
  return await MoqSession.open(connection, {
    ...optionsFor<DialedSession>(SESSION, options),
    side: "client",
    versions,
    path: target.pathname + target.search,
    authority: target.host,
    // `dialMoq()` limits the time of dialing and setup together.
    setupTimeoutMs: Infinity,
  });
}

async function openRawQuic(target: URL, options: Dialing): Promise<Connection> {
  if (options.headers !== undefined) {
    throw new TypeError("Cannot dial MoQ: a moqt: URL sends no headers; use https:");
  }
  const { dialQuic } = await import("../../transport/quic/client.ts");
  const { versions, serverCertificateHashes, maxUnidirectionalStreams, signal } = options;
  const { idleTimeoutMs } = options;
  const protocols = protocolsOf(versions, "quic");
  try {
    return await dialQuic(target, {
      runtime: options.runtime,
      protocols,
      maxBidirectionalStreams: MAX_STREAMS,
      maxUnidirectionalStreams,
      idleTimeoutMs,
      keepAliveIntervalMs: Math.max(1, Math.round(idleTimeoutMs / 3)),
      signal,
      serverCertificateHashes,
    });
  } catch (error) {
    if (!(error instanceof ConnectionError) || !isNoCommonProtocol(error)) throw error;
    throw new MoqError(
      "session",
      "unsupportedVersion",
      `There is no common MoQ version: the server speaks none of ${protocols.join(", ")}`,
      { by: "remote", cause: error },
    );
  }
}

async function openWebSocket(target: URL, options: Dialing): Promise<Connection> {
  const { versions, headers, maxUnidirectionalStreams, signal, timeoutMs } = options;
  const protocols = webSocketOffers(versions);
  const connection = await dialWebSocket(target, {
    runtime: options.runtime,
    protocols,
    flowControl: {
      maxStreamsUni: maxUnidirectionalStreams,
      maxStreamsBidi: MAX_STREAMS,
    },
    signal,
    timeoutMs,
    headers,
  }).catch((error) => {
    throw withOffer(error, protocols);
  });
  if (connection.capabilities.streams) return connection;
  connection.close();
  throw new ConnectionError("The server does not speak MoQ over WebSocket");
}

async function openWebTransport(target: URL, options: Dialing): Promise<Connection> {
  const { versions, headers, maxUnidirectionalStreams, idleTimeoutMs, signal, timeoutMs } = options;
  const { url, hashes } = await webTransportTarget(target, options);
  const protocols = protocolsOf(versions, "webtransport");
  const dialOptions: DialWebTransportOptions = {
    runtime: options.runtime,
    protocols,
    flowControl: UNLIMITED_CREDIT,
    maxUnidirectionalStreams,
    maxBidirectionalStreams: MAX_STREAMS,
    idleTimeoutMs,
    signal,
    timeoutMs,
    headers,
    serverCertificateHashes: hashes,
  };
  if (isNativeWebTransportAvailable()) {
    // A browser that cannot report the negotiated protocol gets the version from the first message.
    const offered = "protocol" in WebTransport.prototype ? protocols : [];
    return await dialNativeWebTransport(url, { ...dialOptions, protocols: offered });
  }
  // Advice about command-line flags doesn't help on a page.
  if (!("Deno" in globalThis)) throw new UnsupportedError("This platform has no WebTransport");
  const { dialWebTransport } = await import("../../transport/h3/client.ts");
  try {
    return await dialWebTransport(url, dialOptions);
  } catch (error) {
    throw withOffer(error, protocols);
  }
}

async function raceWebTransport(target: URL, options: Dialing): Promise<Connection> {
  const { runtime, fallback, headStartMs, transports, onFallback, signal, timeoutMs } = options;
  const webSocketUrl = fallback === true ? target : new URL(fallback as string | URL);
  const dial = raceTransports({
    webSocket: (_url, { signal }) => openWebSocket(webSocketUrl, { ...options, signal: signal! }),
    webTransport: (_url, { signal }) => openWebTransport(target, { ...options, signal: signal! }),
    defect: engineDefect("moq"),
  }, {
    headStartMs,
    transports,
  });
  return await dial(target, {
    runtime,
    signal,
    timeoutMs,
    onFallback: onFallback && ((fallback) => {
      attempt(() => onFallback(fallback), (error) => reportTo(options.onError, error));
    }),
  });
}

interface WebTransportTarget {
  /** The URL, with the scheme `https:`. */
  readonly url: URL;
  /** Hashes of certificates to trust; `undefined` to trust the authorities. */
  readonly hashes: readonly CertificateHash[] | undefined;
}

/**
 * Finds the WebTransport server of a URL, and the certificates to trust.
 *
 * @param target An `https:` URL, or the `http:` URL of a development server that provides the hash
 * of its certificate.
 * @param options Certificates that the application trusts, and an abort signal.
 * @throws {ConnectionError} If the server is unreachable, or rejects the request for the hash.
 * @throws {UnsupportedError} If the response is not a hash.
 */
async function webTransportTarget(
  target: URL,
  { serverCertificateHashes: hashes, signal }: {
    readonly serverCertificateHashes?: readonly CertificateHash[];
    readonly signal: AbortSignal;
  },
): Promise<WebTransportTarget> {
  if (target.protocol === "https:") return { url: target, hashes };
  const url = new URL(target);
  url.protocol = "https:";
  // The default ports of `http:` and `https:` differ.
  url.port = target.port || "80";
  return {
    url,
    hashes: hashes ?? [{ algorithm: "sha-256", value: await fetchHash(target, signal) }],
  };
}

async function fetchHash(
  { host, href }: URL,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  let text: string;
  try {
    const response = await fetch(new URL(HASH_PATH, href), {
      cache: "no-store",
      credentials: "omit",
      signal,
    });
    const { ok, status } = response;
    if (!ok) {
      await response.body?.cancel();
      const message =
        `The server at ${host} responds with ${status} for the hash of its certificate`;
      throw new ConnectionError(message, { status });
    }
    text = await boundedText(response);
  } catch (cause) {
    signal.throwIfAborted();
    if (cause instanceof ConnectionError) throw cause;
    const reason = textOf(cause);
    throw new ConnectionError(
      `Cannot connect to ${host}: the request for the hash of its certificate failed: ${reason}`,
      { cause },
    );
  }
  const hex = text.trim();
  if (/^[0-9a-f]{64}$/i.test(hex)) {
    return Uint8Array.from(hex.match(/../g)!, (byte) => Number.parseInt(byte, 16));
  }
  throw new UnsupportedError(
    `Cannot dial MoQ: the server at ${host} provides no certificate hash`,
  );
}

/** Reads the start of a text: slightly more than the length of a hash. */
async function boundedText({ body }: Response): Promise<string> {
  let text = "";
  if (body === null) return text;
  const decoder = new TextDecoder();
  const reader = body.getReader();
  for (let part; !(part = await reader.read()).done;) {
    text += decoder.decode(part.value, { stream: true });
    if (text.length <= MAX_HASH_RESPONSE) continue;
    await reader.cancel();
    break;
  }
  return text;
}
