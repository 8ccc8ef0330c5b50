/** `connect()` and `dial()` for Deno, with WebTransport on Deno's own QUIC. */
import { isDeno, isPermitted } from "../base/platform.ts";
import type { Client } from "./client.ts";
import type { Dialer, ServerUrl } from "./client_options.ts";
import {
  connectBy,
  type ConnectOptions,
  dialBy,
  type DialOptions,
  type MakePlatform,
} from "./connect.ts";
import { checkCall } from "./call_checks.ts";
import type { ClientPlatform } from "./platform.ts";
import type { Contract } from "../session/contract.ts";
import { RequestTable } from "../session/responses/request_table.ts";
import type { Session } from "../session/session.ts";
import { compileContract } from "../session/settings/check_settings.ts";
import { httpBy, webTransportBy } from "../transport/race/built_in.ts";
import { isQuicAvailable, permittedHost, QUIC_MISSING } from "../transport/quic/deno_quic.ts";
import { UnsupportedError } from "../errors.ts";
import { withLastResort } from "../transport/race/last_resort.ts";
import { race } from "../transport/race/race.ts";
import { parseServerUrl, publicUrl } from "../transport/url.ts";
import { dialWebSocket } from "../transport/websocket/client.ts";
import {
  checkTransports,
  type LoadHttp,
  type Transport,
  type TransportPlatform,
  type WebTransportLeg,
} from "../transport/race/options.ts";
import { webSocketBy, type WebSocketTransportOptions } from "../transport/websocket/value.ts";
import { checkOptions } from "../base/options/option_checks.ts";

export type { ConnectOptions, DialOptions, WebSocketTransportOptions };

/**
 * Connects to a server, and reconnects whenever the connection is lost.
 *
 * The client uses WebTransport if the server supports it and Deno runs with `--unstable-net`, and
 * WebSocket otherwise. If neither opens, it uses HTTP. Each new connection may use a different
 * transport. The client's `status` names the transport and, after a fallback, the reason.
 *
 * @typeParam C The contract.
 * @param url A `ws:`, `wss:`, `http:` or `https:` URL (in a page, it may be relative, such as
 * `"/chat"`); an array of URLs of the same service; or a function that returns the URL for each
 * connection. See {@linkcode ServerUrl}.
 * @param options The client's options.
 * @returns The client, which connects in the background.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 * @throws {TypeError} If the URL or a handler in `requests` is not valid, or if `transports` is empty
 * or names an unknown transport. It is not thrown if Deno runs without `--allow-net` for the server:
 * the client then closes with a `TypeError` as the cause.
 *
 * @example Usage
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   onMessage: (message) => message.reply(`Hello, ${message.data}`),
 * });
 * await using client = connect(server.url);
 * assertEquals(await client.request("greet", "world"), "Hello, world");
 * ```
 */
export function connect<C extends Contract = Contract>(
  url: ServerUrl,
  options: ConnectOptions<C> = {},
): Client<C> {
  return connectBy(platformOf("connect"), url, options);
}

/**
 * Opens a single session, which does not reconnect if the connection is lost. To reconnect, use
 * {@linkcode connect}.
 *
 * @typeParam C The contract.
 * @param url A `ws:`, `wss:`, `http:` or `https:` URL.
 * @param options The options of the session and of the attempt to connect.
 * @returns The established session.
 * @throws {ConnectionError} If the connection cannot be opened.
 * @throws {SessionClosedError} If the server rejected the session; `info` contains the code and the
 * reason.
 * @throws {TimeoutError} If connecting takes longer than `connectTimeoutMs`.
 * @throws {TypeError} If there is a token but the protocols do not include `skein.1`, if
 * `transports` is empty, or if Deno runs without `--allow-net` for the server.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 *
 * @example Over WebSocket only
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * await using session = await dial(server.url, { transports: ["websocket"] });
 * assertEquals(session.transport, "websocket");
 * ```
 */
export async function dial<C extends Contract = Contract>(
  url: string | URL,
  options: DialOptions<C> = {},
): Promise<Session<unknown, C, "client">> {
  return await dialBy(platformOf("dial"), url, options);
}

/**
 * Returns WebTransport as a value for the option `transports`, the same as the name
 * `"webtransport"`.
 *
 * @returns An element of the list `transports`.
 *
 * @example Usage
 * ```ts
 * import { connect, http, serve, webSocket, webTransport } from "@skein/skein";
 * import { assert } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * const transports = [webTransport(), webSocket(), http()];
 * await using client = connect(server.url, { transports });
 * const { transport } = await client.whenConnected();
 * assert(transports.some(({ name }) => name === transport));
 * ```
 */
export function webTransport(): Transport {
  return webTransportBy(async (url, options) => {
    const open = denoWebTransport();
    if (typeof open === "string") throw new UnsupportedError(open);
    return await open(url, options);
  });
}

/**
 * Returns WebSocket as a value for the option `transports`, the same as the name `"websocket"`. With
 * the option `socket`, it is a transport of your own on any object that behaves as a `WebSocket`.
 *
 * @param options The function that creates sockets, and the name and host of such a transport.
 * @returns An element of the list `transports`.
 * @throws {TypeError} If there is a `host` without a `socket`.
 *
 * @example Sockets with a query of their own
 * ```ts
 * import { connect, serve, webSocket } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * const traced = webSocket({
 *   name: "traced",
 *   socket: (url, protocols) => {
 *     url.searchParams.set("trace", "7");
 *     return new WebSocket(url, [...protocols]);
 *   },
 * });
 * await using client = connect(server.url, { transports: [traced] });
 * assertEquals((await client.whenConnected()).transport, "traced");
 * ```
 */
export function webSocket(options: WebSocketTransportOptions = {}): Transport {
  checkOptions("create webSocket", options, {
    host: 0,
    name: "string",
    socket: "function",
  });
  return webSocketBy(() => import("../transport/websocket/streams.ts"), options);
}

/**
 * Returns HTTP as a value for the option `transports`, the same as the name `"http"`. It is the last
 * resort, whatever its position in the list.
 *
 * @returns An element of the list `transports`.
 *
 * @example Only over HTTP
 * ```ts
 * import { dial, http, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * await using session = await dial(server.url, { transports: [http()] });
 * assertEquals(session.transport, "http");
 * ```
 */
export function http(): Transport {
  return httpBy(loadHttp);
}

const loadHttp: LoadHttp = () => import("../transport/race/http_fallback.ts");

function platformOf(call: "connect" | "dial"): MakePlatform {
  return (options) => {
    checkCall(call, options); // This comes first, because the check of the transports trusts the types.
    checkHandlers(options);
    const checked = checkTransports(options);
    const dial = race({ webSocket: dialWebSocket, webTransport: denoWebTransport() }, checked);
    const { transports, elsewhere } = checked;
    const platform = denoPlatform(withPermission(withLastResort(dial, checked, loadHttp)));
    return { ...platform, transports, elsewhere };
  };
}

/** Checks request handlers at the call. In a page, they load later, and the first attempt does it. */
function checkHandlers(options: ConnectOptions): void {
  const { contract, requests } = options;
  if (contract !== undefined) compileContract(contract, "client");
  if (requests !== undefined) {
    new RequestTable({ side: "client", handlers: { contract, requests } });
  }
}

/**
 * Ends the attempts if the process does not have permission to reach the server, because no later
 * attempt could succeed.
 */
function withPermission(dial: Dialer): Dialer {
  return async (url, options) => {
    try {
      return await dial(url, options);
    } catch (cause) {
      const { protocol, hostname, port } = parseServerUrl(url);
      const host = `${hostname}:${port || (/^(?:https|wss):$/.test(protocol) ? 443 : 80)}`;
      if (isPermitted({ name: "net", host }) || options.signal.aborted) throw cause;
      throw new TypeError(
        `Cannot connect to ${publicUrl(url)}: Deno must run with --allow-net=${host}`,
        { cause },
      );
    }
  };
}

/** Creates the platform of a client in Deno from a dialer. */
export function denoPlatform(dial: Dialer): ClientPlatform {
  return {
    dial,
    insight: () => import("./page/chunk_insight.ts"),
    responses: () => import("./page/chunk_responses.ts"),
    state: () => import("./page/chunk_state.ts"),
    recovery: () => import("./recovery.ts"),
    checkOptions: checkCall,
  };
}

/**
 * Returns WebTransport on Deno's QUIC, or the reason why this process does not have it. HTTP/3
 * loads at the first attempt, so that programs that only serve WebSocket don't load it.
 */
export function denoWebTransport(): TransportPlatform["webTransport"] {
  if (!isQuicAvailable()) {
    return isDeno
      ? "Cannot open WebTransport: Deno supports QUIC only with --unstable-net"
      : `Cannot open WebTransport: ${QUIC_MISSING}`;
  }
  // Without the permission, a dial would cause Deno to prompt.
  return permittedHost() === undefined
    ? "Cannot open WebTransport: it needs permission to bind a UDP port, --allow-net=[::]:0"
    : openWebTransport;
}

const openWebTransport: WebTransportLeg = async (url, options) => {
  const [{ dialWebTransport }, { webTransportLeg }] = await Promise.all([
    import("../transport/h3/client.ts"),
    import("../transport/race/webtransport_leg.ts"),
  ]);
  return await webTransportLeg(dialWebTransport)(url, options);
};
