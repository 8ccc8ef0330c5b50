/**
 * The client for a page in one file. The page has only the transports and features that it imports
 * and passes to {@linkcode connect}, and a bundler leaves out all others. Everything else is as in
 * `@skein/skein/client`, whose types you can import next to this module.
 *
 * With code splitting, use `@skein/skein/client`: there, features load on first use.
 *
 * | page in one file                             | at most, KiB (gzip) |
 * | -------------------------------------------- | ------------------- |
 * | `webSocket()`                                | 44.7                  |
 * | `webSocket()`, `responses()` and `insight()` | 60.8                  |
 * | the same with `states()`                     | 79.7                  |
 * | everything, `@skein/skein/client`            | 113.2               |
 *
 * @example A page with WebSocket alone
 * ```ts
 * import { connect, webSocket } from "@skein/skein/client/slim";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   onMessage: (message) => message.reply("pong"),
 * });
 * await using client = connect(server.url, { transports: [webSocket()] });
 * assertEquals(await client.request("ping"), "pong");
 * await assertRejects(() => client.state("board:1"), "import states");
 * ```
 *
 * @example Other transports and features
 * ```ts
 * import {
 *   connect,
 *   dial,
 *   http,
 *   insight,
 *   race,
 *   responses,
 *   states,
 *   streams,
 *   webSocket,
 *   webTransport,
 * } from "@skein/skein/client/slim";
 * import { serve } from "@skein/skein/server";
 * import { assert } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * const transports = [webTransport(), webSocket({ streams: streams() }), http()];
 * const features = [race(), responses(), insight(), states()];
 * await using client = connect(server.url, { transports, features });
 * const session = await client.whenConnected();
 * assert(await session.ping() >= 0);
 * await using single = await dial(server.url, { transports: [webSocket()] });
 * assert(single.isReady);
 * ```
 *
 * @module
 */
import type { Client } from "../client.ts";
import type { ServerUrl } from "../client_options.ts";
import { connectBy, type ConnectOptions, dialBy, type DialOptions } from "../connect.ts";
import type { Contract } from "../../session/contract.ts";
import type { Session } from "../../session/session.ts";
import { httpBy, webTransportBy } from "../../transport/race/built_in.ts";
import type { Transport } from "../../transport/race/options.ts";
import { nativeLeg } from "../../transport/race/native_leg.ts";
import { webSocketBy, type WebSocketTransportOptions } from "../../transport/websocket/value.ts";
import type { StreamsPart } from "../../transport/websocket/connection.ts";
import { openStreams, withStreams } from "../../transport/websocket/streams.ts";
import { UnsupportedError } from "../../errors.ts";
import {
  DropPolicy,
  openResponse,
  produceResponse,
  RequestTable,
  ResumableResponse,
} from "../../session/responses/responses.ts";
import { readStream } from "../durable_stream.ts";
import { race as racePart } from "../../transport/race/race.ts";
import {
  debugState,
  diagnostics,
  grantCredit,
  grantStreamsCredit,
  incomingStreams,
  issues,
  monitorHealth,
  ping,
  sendDatagram,
  structuredDatagrams,
  structuredStream,
  summary,
  tellLoss,
} from "../../session/insight/insight.ts";
import { openWatched } from "../../session/insight/watch.ts";
import { ClientStates } from "../state/states.ts";
import { fallBackToHttp } from "./chunk_http.ts";
import {
  type SlimFeature,
  type SlimFeatureName,
  type SlimOptions,
  slimPlatform,
} from "./slim_platform.ts";

export { defineContract } from "../../session/contract.ts";
export {
  AuthenticationError,
  BrokerError,
  CloseCode,
  ConnectionError,
  LimitError,
  ProtocolError,
  QueueFullError,
  RequestError,
  SessionClosedError,
  SkeinError,
  StreamError,
  StructuredError,
  TimeoutError,
  UnsupportedError,
} from "../../errors.ts";
export type { SlimFeature, SlimFeatureName, SlimOptions };

/**
 * The options of `connect()` for a page in one file.
 *
 * @typeParam C The contract.
 */
export interface SlimConnectOptions<C extends Contract = Contract>
  extends Omit<ConnectOptions<C>, "transports">, SlimOptions {}

/**
 * The options of `dial()` for a page in one file.
 *
 * @typeParam C The contract.
 */
export interface SlimDialOptions<C extends Contract = Contract>
  extends Omit<DialOptions<C>, "transports">, SlimOptions {}

/** The streams over WebSocket, for the option `streams` of `webSocket()`. */
export interface SlimStreams {
  /**
   * The code of the streams.
   *
   * @ignore
   */
  readonly part: StreamsPart;
}

/** The options of `webSocket()` for a page in one file. */
export interface SlimWebSocketOptions extends WebSocketTransportOptions {
  /** The value of `streams()`, if the page uses streams or datagrams over WebSocket. */
  readonly streams?: SlimStreams | undefined;
}

/**
 * Connects to a server, and reconnects whenever the connection is lost, as `connect` of
 * `@skein/skein/client` does.
 *
 * @typeParam C The contract.
 * @param url The server's URL, a list of URLs, or a function that returns it.
 * @param options The transports, the features, and all other options of a client.
 * @returns The client, which connects in the background.
 * @throws {TypeError} If the URL is invalid, or if a transport is not a value.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 * @throws {UnsupportedError} If an option needs a feature that is missing, or if the runtime is too
 * old.
 */
export function connect<C extends Contract = Contract>(
  url: ServerUrl,
  options: SlimConnectOptions<C>,
): Client<C> {
  const { features: _, ...rest } = Object(options) as typeof options;
  return connectBy(() => slimPlatform(options, rest as ConnectOptions), url, rest);
}

/**
 * Opens a single session, as `dial` of `@skein/skein/client` does.
 *
 * @typeParam C The contract.
 * @param url The server's URL.
 * @param options The transports, the features, and all other options of a session.
 * @returns The established session.
 * @throws {SkeinError} If the session cannot be opened; see `dial` of `@skein/skein/client`.
 * @throws {TypeError} If the URL is invalid, or if a transport is not a value.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 * @throws {UnsupportedError} If an option needs a feature that is missing, or if the runtime is too
 * old.
 */
export async function dial<C extends Contract = Contract>(
  url: string | URL,
  options: SlimDialOptions<C>,
): Promise<Session<unknown, C, "client">> {
  const { features: _, ...rest } = Object(options) as typeof options;
  return await dialBy(() => slimPlatform(options, rest as DialOptions), url, rest);
}

/**
 * Returns WebTransport for the option `transports`.
 *
 * @returns An element of the list `transports`.
 */
export function webTransport(): Transport {
  return webTransportBy(nativeLeg);
}

/**
 * Returns WebSocket for the option `transports`. Without `streams`, it carries messages, and opening
 * a stream rejects with an error that says so.
 *
 * @param options Streams, and what a transport of your own needs.
 * @returns An element of the list `transports`.
 * @throws {TypeError} If there is a `host` without a `socket`.
 */
export function webSocket(options: SlimWebSocketOptions = {}): Transport {
  const { streams, ...rest } = options;
  const missing =
    "Cannot use streams: this WebSocket has none; import streams from the module of " +
    "connect, and pass webSocket({ streams: streams() })";
  const load = () =>
    streams ? Promise.resolve(streams.part) : Promise.reject(new UnsupportedError(missing));
  return webSocketBy(load, rest);
}

/**
 * Returns HTTP for the option `transports`. It is the last resort, whatever its position in the
 * list.
 *
 * @returns An element of the list `transports`.
 */
export function http(): Transport {
  return httpBy(() => Promise.resolve({ fallBackToHttp }));
}

/**
 * Returns the streams and datagrams of a WebSocket, for the option `streams` of `webSocket()`.
 *
 * @returns The value of the option.
 */
export function streams(): SlimStreams {
  return { part: { openStreams, withStreams } };
}

/**
 * Returns live state, for the option `features`.
 *
 * @returns An element of the list `features`.
 */
export function states(): SlimFeature {
  return { name: "states", part: { ClientStates } };
}

/**
 * Returns the race between several transports, for the option `features`. Lists with more than one
 * transport besides `http()` need it.
 *
 * @returns An element of the list `features`.
 */
export function race(): SlimFeature {
  return { name: "race", part: racePart };
}

/**
 * Returns streaming responses, durable streams, handlers of the server's requests, and the policies
 * of `sendQueue`, for the option `features`.
 *
 * @returns An element of the list `features`.
 */
export function responses(): SlimFeature {
  return {
    name: "responses",
    part: {
      DropPolicy,
      openResponse,
      produceResponse,
      RequestTable,
      ResumableResponse,
      readStream,
    },
  };
}

/**
 * Returns diagnostics, pings, datagrams, typed streams and instrumentation, for the option
 * `features`.
 *
 * @returns An element of the list `features`.
 */
export function insight(): SlimFeature {
  return {
    name: "insight",
    part: {
      debugState,
      diagnostics,
      grantCredit,
      grantStreamsCredit,
      incomingStreams,
      issues,
      monitorHealth,
      ping,
      sendDatagram,
      structuredDatagrams,
      structuredStream,
      summary,
      tellLoss,
      openWatched,
    },
  };
}
