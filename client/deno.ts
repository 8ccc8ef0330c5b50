/** `connect()` and `dial()` for Deno, with WebTransport on Deno's own QUIC. */
import { isDeno, isPermitted } from "../base/platform.ts";
import type { Client } from "./client.ts";
import type { ClientPlatform, Dialer, ServerUrl } from "./client_options.ts";
import {
  connectBy,
  type ConnectOptions,
  dialBy,
  type DialOptions,
  type MakePlatform,
} from "./connect.ts";
import { checkCall } from "./call_checks.ts";
import type { Contract } from "../session/contract.ts";
import type { Session } from "../session/session.ts";
import { isQuicAvailable, permittedHost, QUIC_MISSING } from "../transport/quic/deno_quic.ts";
import { withLastResort } from "../transport/race/last_resort.ts";
import { race } from "../transport/race/race.ts";
import { parseServerUrl, publicUrl } from "../transport/url.ts";
import { dialWebSocket } from "../transport/websocket/client.ts";
import {
  checkTransports,
  type TransportPlatform,
  type WebTransportLeg,
} from "../transport/race/options.ts";

export type { ConnectOptions, DialOptions };

/**
 * Connects to a server, and reconnects after each loss.
 *
 * The client uses WebTransport if the server supports it and Deno runs with `--unstable-net`,
 * otherwise WebSocket, and HTTP if neither opens. Each new connection may use another transport.
 * The client's `status` names the transport, and the reason for a fallback.
 *
 * @typeParam C The contract.
 * @param url A URL with `ws:`, `wss:`, `http:` or `https:`, in a page also a relative one, such as
 * `"/chat"`; several URLs of one service; or a function that returns a URL for each connection. See
 * {@linkcode ServerUrl}.
 * @param options Options of the client.
 * @returns The client, which connects in the background.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 * @throws {TypeError} If the URL is not valid, or `transports` is empty or names an unknown
 * transport. If Deno runs without `--allow-net` for the server, the client closes with that cause.
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
 * Opens one session, without a reconnect after a loss; {@linkcode connect} reconnects.
 *
 * @typeParam C The contract.
 * @param url A URL with `ws:`, `wss:`, `http:` or `https:`.
 * @param options Options of the session and the attempt to connect.
 * @returns The session, established.
 * @throws {ConnectionError} If the connection cannot be opened.
 * @throws {SessionClosedError} If the server refused the session; `info` has code and reason.
 * @throws {TimeoutError} If connecting takes longer than `connectTimeoutMs`.
 * @throws {TypeError} If there is a token, but no `skein.1` among the protocols, or `transports` is
 * empty, or Deno runs without `--allow-net` for the server.
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

function platformOf(call: "connect" | "dial"): MakePlatform {
  return (options) => {
    checkCall(call, options); // First, because the check of the transports trusts the types.
    const checked = checkTransports(options);
    const dial = race({ webSocket: dialWebSocket, webTransport: denoWebTransport() }, checked);
    const loadHttp = () => import("../transport/race/http_fallback.ts");
    return denoPlatform(withPermission(withLastResort(dial, checked, loadHttp)));
  };
}

/**
 * Ends the attempts if the process lacks permission to reach the server: no later attempt could
 * succeed.
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
    answers: () => import("./page/chunk_answers.ts"),
    recovery: () => import("./recovery.ts"),
    checkOptions: checkCall,
  };
}

/**
 * WebTransport on Deno's QUIC, or the reason why this process has none. HTTP/3 loads at the first
 * attempt, so that programs which only serve WebSocket don't load it.
 */
export function denoWebTransport(): TransportPlatform["webTransport"] {
  if (!isQuicAvailable()) {
    return isDeno
      ? "Cannot open WebTransport: Deno supports QUIC only with --unstable-net"
      : `Cannot open WebTransport: ${QUIC_MISSING}`;
  }
  // Without the permission, a dial would make Deno prompt.
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
