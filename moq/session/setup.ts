/** The setup of a session by version (see `VersionTraits.setup`), and its failures. */
import { ConnectionError, ProtocolError, StreamError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import type { BidirectionalStream, Connection } from "../../transport/connection.ts";
import { openUnidirectional } from "../../transport/direct.ts";
import { readDraftBody } from "../wire/ietf/messages.ts";
import type { MoqToken } from "../wire/ietf/parameters.ts";
import { moqErrorCode, type MoqErrorFamily, moqErrorName } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import { FieldReader, FieldWriter } from "../wire/fields.ts";
import { TruncatedError } from "../wire/message_reader.ts";
import {
  BidiType,
  decodeClientSetup,
  decodeServerSetup,
  encodeClientSetup,
  encodeServerSetup,
  encodeSetupStream,
  type MoqParameters,
  SERVER_SETUP,
} from "../wire/messages.ts";
import {
  GOMOQT_ALPN,
  type MoqVersion,
  versionOf,
  VERSIONS,
  type VersionTraits,
} from "../wire/versions.ts";
import type { OwnSetup, ReceivedSetup } from "./dialect.ts";
import { Exchange, withType } from "./exchange.ts";

/** The path parameter in the setup of gomoqt and moq-lite-05. */
const PATH_PARAMETER = { session: 0x1, stream: 0x2 } as const;

/** The parameter of the id in hops, in the setup of moq-lite-05. */
const HOP_PARAMETER = 0x5;

/** The parameter of the PROBE level, in the setup of moq-lite-05. */
export const PROBE_PARAMETER = 0x1;

/**
 * The parameter that identifies a Skein end, in every setup. On raw QUIC a crash also closes with
 * 0, so Skein ends mark their closes, and two of them treat an unmarked close as a crash. The
 * number is odd because in the setup of moq-lite-01 and -02 the value of an odd number is bytes,
 * and that of an even number a varint.
 */
const SKEIN_PARAMETER = 0x536b;

/**
 * The PROBE level of an end that measures and reports, but does not send extra data to test the
 * capacity.
 */
const PROBE_LEVEL_REPORT = 1;

/**
 * The time after the end of the streams in which a connection may still report the reason, in
 * milliseconds.
 */
export const END_GRACE_MS = 250;

/** The setup request of a client. */
export interface SetupRequest {
  /** The client's path; empty if it sent none. */
  readonly path: string;
  /**
   * Numbers of the versions that the client offered; only the negotiated one if ALPN or the
   * subprotocol selects the version.
   */
  readonly versions: readonly number[];
  /** Other parameters, by number. */
  readonly extensions: ReadonlyMap<number, Uint8Array>;
}

export interface Agreement {
  readonly traits: VersionTraits;
  /** The request of the client. */
  readonly request: SetupRequest;
  /** Parameters of the server, without the version. */
  readonly serverExtensions: MoqParameters;
  /** The setup stream, which stays open as long as the session, in versions that have one. */
  readonly exchange: Exchange | undefined;
}

/** The options of both sides for the setup. */
export interface SetupOptions {
  /** Accepted versions, in order of preference. */
  readonly versions: readonly MoqVersion[];
  /**
   * The path that the client requests; on a server whose transport has a URL, the path of that URL.
   */
  readonly path: string;
  readonly extensions: MoqParameters;
  /** On a server: admits a client; an error rejects it. */
  readonly onSetup?: ((request: SetupRequest) => void | Promise<void>) | undefined;
}

export async function setUpClient(
  connection: Connection,
  options: SetupOptions,
): Promise<Agreement> {
  const { versions, path, extensions } = options;
  const named = versionOf(connection.protocol);
  const isCompat = (version: MoqVersion) => VERSIONS[version].setup === "compat";
  const chosen = named ?? (versions.includes("gomoqt-dev") ? "gomoqt-dev" : undefined) ??
    versions.find(isCompat) ?? "moq-lite-02";
  if (!versions.includes(chosen)) throw noVersion(`the server chose ${chosen}`);
  const traits = VERSIONS[chosen];
  const request = (offered: readonly number[]): SetupRequest => ({
    path,
    versions: offered,
    extensions,
  });
  if (traits.setup !== "session" && traits.setup !== "compat") {
    return {
      traits,
      request: request([traits.code]),
      serverExtensions: new Map(),
      exchange: undefined,
    };
  }
  const exchange = new Exchange(await connection.createBidirectionalStream());
  if (traits.setup === "session") {
    const parameters = ownParameters(extensions);
    // The WebTransport URL already contains the path.
    if (connection.transport === "quic" && path !== "") {
      parameters.set(PATH_PARAMETER.session, new TextEncoder().encode(path));
    }
    const offered = [traits.code];
    const setup = encodeClientSetup({ versions: offered, parameters }, traits);
    await exchange.write(withType(BidiType.session, setup));
    const response = decodeServerSetup(await exchange.reader.required("SESSION_SERVER"), traits);
    if (response.version !== traits.code) {
      throw noVersion(`the server chose ${hex(response.version)}`, "gomoqt");
    }
    return {
      traits,
      request: request(offered),
      serverExtensions: response.parameters,
      exchange,
    };
  }
  const offered = versions.filter((version) => VERSIONS[version].setup === "compat")
    .map((version) => VERSIONS[version].code);
  const parameters = ownParameters(extensions);
  const setup = encodeClientSetup({ versions: offered, parameters }, traits);
  await exchange.write(setup);
  const type = await exchange.reader.varint();
  if (type === undefined) throw new TruncatedError("Expected SERVER_SETUP, received the end");
  if (type !== SERVER_SETUP) {
    throw new ProtocolError(`Expected SERVER_SETUP, received the message type ${type}`);
  }
  const response = decodeServerSetup(await readDraftBody(exchange.reader), traits);
  const agreed = Object.values(VERSIONS).find(({ code }) => code === response.version);
  if (agreed === undefined || !offered.includes(agreed.code)) {
    throw noVersion(`the server chose ${hex(response.version)}`);
  }
  return {
    traits: agreed,
    request: request(offered),
    serverExtensions: response.parameters,
    exchange,
  };
}

/**
 * Sets up the server's end.
 *
 * @param firstStream Returns the first bidirectional stream of the client, which carries the setup
 * of some versions.
 */
export async function setUpServer(
  connection: Connection,
  firstStream: () => Promise<BidirectionalStream>,
  options: SetupOptions,
): Promise<Agreement> {
  const { versions, path, extensions, onSetup } = options;
  const named = versionOf(connection.protocol);
  if (named !== undefined && !versions.includes(named)) {
    throw noVersion(`the client wants ${named}`);
  }
  const traits = named === undefined ? undefined : VERSIONS[named];
  if (traits !== undefined && traits.setup !== "session") {
    const request = { path, versions: [traits.code], extensions: new Map() };
    if (!isPathInSetup(connection, traits)) await onSetup?.(request);
    return { traits, request, serverExtensions: extensions, exchange: undefined };
  }
  const exchange = new Exchange(await firstStream());
  const type = await exchange.reader.varint();
  if (type === BidiType.session) {
    const gomoqt = VERSIONS["gomoqt-dev"];
    const body = await exchange.reader.required("SESSION_CLIENT");
    const offer = decodeClientSetup(body, gomoqt);
    if (!offer.versions.includes(gomoqt.code) || !versions.includes("gomoqt-dev")) {
      throw noVersion(`the client offers ${listOf(offer.versions)}`, "gomoqt");
    }
    const offeredPath = offer.parameters.get(PATH_PARAMETER.session);
    const request = {
      path: offeredPath === undefined ? path : new TextDecoder().decode(offeredPath),
      versions: offer.versions,
      extensions: offer.parameters,
    };
    await onSetup?.(request);
    const response = { version: gomoqt.code, parameters: ownParameters(extensions) };
    await exchange.write(encodeServerSetup(response, gomoqt));
    return { traits: gomoqt, request, serverExtensions: extensions, exchange };
  }
  if (type !== BidiType.clientSetup || named === "gomoqt-dev") {
    throw new ProtocolError(`Expected a setup message, received a stream of type ${type}`);
  }
  const offer = decodeClientSetup(await readDraftBody(exchange.reader), VERSIONS["moq-lite-02"]);
  const agreed =
    offer.versions.flatMap((code) =>
      versions.map((version) => VERSIONS[version]).filter((one) =>
        one.setup === "compat" && one.code === code
      )
    )[0];
  if (agreed === undefined) {
    throw noVersion(`the client offers ${listOf(offer.versions)}`);
  }
  const request = { path, versions: offer.versions, extensions: offer.parameters };
  await onSetup?.(request);
  const response = { version: agreed.code, parameters: ownParameters(extensions) };
  await exchange.write(encodeServerSetup(response, agreed));
  return { traits: agreed, request, serverExtensions: extensions, exchange };
}

/** Returns true if the parameters of a peer's setup identify it as Skein. */
export function isSkein(parameters: MoqParameters): boolean {
  return parameters.has(SKEIN_PARAMETER);
}

/** Adds the parameter that identifies Skein to the application's parameters. */
export function ownParameters(extensions: MoqParameters | undefined): Map<number, Uint8Array> {
  return new Map(extensions).set(SKEIN_PARAMETER, new Uint8Array());
}

/** Returns true if a server gets the client's path only from SETUP: raw QUIC has no URL. */
export function isPathInSetup({ transport }: Connection, { setup }: VersionTraits): boolean {
  return (setup === "stream" || setup === "control") && transport === "quic";
}

/** SETUP of moq-lite-05, as this side sends it. */
export interface SetupMessage extends Omit<OwnSetup, "authority"> {
  readonly hopId: bigint;
}

/** Sends SETUP of moq-lite-05, alone on a stream. */
export async function sendSetupStream(
  connection: Connection,
  { extensions, path, hopId, isMeasuring }: SetupMessage,
): Promise<void> {
  const parameters = ownParameters(extensions);
  if (isMeasuring && !parameters.has(PROBE_PARAMETER)) {
    parameters.set(PROBE_PARAMETER, Uint8Array.of(PROBE_LEVEL_REPORT));
  }
  parameters.set(HOP_PARAMETER, new FieldWriter().varint62(hopId).finish());
  if (connection.transport === "quic" && path !== "") {
    parameters.set(PATH_PARAMETER.stream, new TextEncoder().encode(path));
  }
  const stream = await openUnidirectional(connection);
  await stream.write(encodeSetupStream(parameters));
  await stream.close();
}

/**
 * Reads the parameters of SETUP in moq-lite-05.
 *
 * @throws {ProtocolError} If a parameter is malformed.
 */
export function receivedSetup(parameters: MoqParameters): ReceivedSetup {
  const hop = parameters.get(HOP_PARAMETER);
  if (hop !== undefined) new FieldReader(hop, "the hop of SETUP").varint62();
  const path = parameters.get(PATH_PARAMETER.stream);
  return {
    parameters,
    path: path === undefined ? undefined : new TextDecoder().decode(path),
    tokens: [],
  };
}

/** The SETUP of a peer, once received. */
export class PeerSetup {
  /** Resolves when SETUP arrives; rejects if the session ends first. */
  readonly arrived: Promise<void>;
  readonly #arrived: PromiseWithResolvers<void> = Promise.withResolvers();
  #received: ReceivedSetup | undefined = undefined;

  constructor() {
    this.arrived = this.#arrived.promise;
    this.arrived.catch(() => {}); // Most sessions don't wait for SETUP.
  }

  /** The parameters; `undefined` before SETUP. */
  get parameters(): MoqParameters | undefined {
    return this.#received?.parameters;
  }

  /** The path, if SETUP has one. */
  get path(): string | undefined {
    return this.#received?.path;
  }

  /** The tokens of the peer; empty before SETUP. */
  get tokens(): readonly MoqToken[] {
    return this.#received?.tokens ?? [];
  }

  /**
   * Accepts SETUP.
   *
   * @throws {ProtocolError} If SETUP has already arrived.
   */
  take(received: ReceivedSetup): void {
    if (this.#received !== undefined) {
      throw new ProtocolError("Expected one SETUP, received a second one");
    }
    this.#received = received;
    this.#arrived.resolve();
  }

  /** Stops waiting for SETUP when the session closes. */
  end(error: unknown): void {
    this.#arrived.reject(error);
  }
}

/**
 * Waits for a setup until the connection closes, and then for the rest of that turn of the event
 * loop: a setup that has finished by then counts, and its error says more than the close of the
 * connection.
 *
 * @throws {ConnectionError} If the connection closes first.
 */
export function whileConnected<T>(
  runtime: Runtime,
  { closed }: Connection,
  setup: Promise<T>,
): Promise<T> {
  let isDone = false;
  const done = () => void (isDone = true);
  setup.then(done, done);
  const ended = async (cause?: unknown): Promise<never> => {
    if (!isDone) await new Promise<void>((resolve) => runtime.schedule(resolve));
    if (cause instanceof ConnectionError) throw cause;
    throw new ConnectionError("The connection ended before the setup", { cause });
  };
  return Promise.race([setup, closed.then(() => ended(), ended)]);
}

/**
 * Finds the reason why the setup of a client failed. If the server closed the connection with a
 * code, the result is an error with that code. Streams may report the end, without a code, before
 * the connection does.
 */
export async function setupFault(
  runtime: Runtime,
  connection: Connection,
  error: unknown,
  family: MoqErrorFamily,
): Promise<unknown> {
  const isOfEnd = [ConnectionError, StreamError, TruncatedError].some((type) =>
    error instanceof type
  );
  if (!isOfEnd) return error;
  const info = await within(runtime, connection.closed, { timeoutMs: END_GRACE_MS })
    .catch(() => undefined);
  const { closeCode: moqCode = 0, reason: text = "" } = info ?? {};
  if (moqCode === 0) return error;
  const families = [family, family === "gomoqt" ? "moq-lite" as const : "gomoqt" as const];
  const reason = families.map((one) => moqErrorName("session", moqCode, one))
    .find((name) => name !== "unknown") ?? "unknown";
  return new MoqError(
    "session",
    reason,
    `The server ended the setup with code ${moqCode} (${reason})${text && `: ${text}`}`,
    { moqCode, by: "remote", cause: error },
  );
}

/** Returns the first stream of a peer. */
export async function nextOf(
  streams: AsyncIterator<BidirectionalStream>,
): Promise<BidirectionalStream> {
  const { done, value } = await streams.next();
  if (done) throw new ConnectionError("The connection ended before the setup");
  return value;
}

/** Guesses the error code family of a peer before its first message. */
export function familyOf(
  { protocol }: Connection,
  { family, versions }: {
    readonly family?: MoqErrorFamily | undefined;
    readonly versions?: readonly MoqVersion[] | undefined;
  },
): MoqErrorFamily {
  if (protocol.startsWith("moqt-")) return "moqt";
  if (family !== undefined) return family;
  const isGomoqt = protocol === GOMOQT_ALPN || protocol === "moq-lite-04" ||
    protocol === "" && versions?.includes("gomoqt-dev") === true;
  return isGomoqt ? "gomoqt" : "moq-lite";
}

/** Closes a connection whose setup failed. */
export function closeRejected(
  connection: Connection,
  error: unknown,
  family: MoqErrorFamily,
): void {
  let closeCode = moqErrorCode("session", "setupFailed", family);
  let reason = "The setup failed";
  if (error instanceof MoqError) {
    closeCode = error.moqCode ?? moqErrorCode("session", error.reason, family);
    reason = error.message;
  } else if (error instanceof ProtocolError) {
    closeCode = moqErrorCode("session", "protocolViolation", family);
    reason = error.message;
  }
  try {
    connection.close({ closeCode, reason });
  } catch {
    // The application chose a number that the transport cannot carry.
    connection.close({ reason });
  }
}

function noVersion(what: string, family: MoqErrorFamily = "moq-lite"): MoqError {
  return new MoqError("session", "unsupportedVersion", `There is no common MoQ version: ${what}`, {
    moqCode: moqErrorCode("session", "unsupportedVersion", family),
  });
}

function listOf(versions: readonly number[]): string {
  return versions.map(hex).join(", ") || "none";
}

function hex(code: number): string {
  return `0x${code.toString(16)}`;
}
