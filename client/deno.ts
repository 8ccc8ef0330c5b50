/**
 * `connect()` and `dial()` for Deno: WebTransport on Deno's own QUIC.
 *
 * @module
 */
import type { Client } from "./client.ts";
import type { ServerUrl } from "./client_options.ts";
import { connectBy, type ConnectOptions, dialBy, type DialOptions } from "./connect.ts";
import type { AnyContract } from "../session/contract.ts";
import type { Session } from "../session/session.ts";
import { permittedHost } from "../transport/quic/runtime.ts";
import { raceTransports } from "../transport/race/race.ts";
import { dialWebSocket } from "../transport/websocket/client.ts";
import { dialWebTransport, isWebTransportAvailable } from "../transport/h3/client.ts";
import { webTransportLeg } from "../transport/race/webtransport_leg.ts";
import type {
  RacingDialer,
  TransportOptions,
  TransportPlatform,
} from "../transport/race/options.ts";

export type { ConnectOptions, DialOptions };

/**
 * Connects, and stays connected: the client comes back by itself after a loss.
 *
 * It takes WebTransport where the server has it and Deno runs with
 * `--unstable-net`, and WebSocket where not; each new connection may take
 * another one. Which, and why not the preferred one, is in its `status`.
 *
 * @typeParam C The contract.
 * @param url `ws:`, `wss:`, `http:` or `https:`, in a page also a relative one, such as `"/chat"`;
 * several of one service; or a function that tells one for each connection. See {@linkcode ServerUrl}.
 * @param options See {@linkcode ConnectOptions}.
 * @returns The client, which connects in the background.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 * @throws {TypeError} If the URL is none of these, `transports` is empty, or one of them is none.
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
export function connect<C extends AnyContract = AnyContract>(
  url: ServerUrl,
  options: ConnectOptions<C> = {},
): Client<C> {
  return connectBy(makeDialer, url, options);
}

/**
 * Opens one session. It does not come back after a loss; see {@linkcode connect}.
 *
 * @typeParam C The contract.
 * @param url `ws:`, `wss:`, `http:` or `https:`.
 * @param options See {@linkcode DialOptions}.
 * @returns The session, established.
 * @throws {ConnectionError} If it cannot be opened.
 * @throws {SessionClosedError} If the server refused it; `info` has code and reason.
 * @throws {TimeoutError} If it takes longer than `connectTimeoutMs`.
 * @throws {TypeError} If there is a token, but no `skein.1` among the protocols, or `transports` is empty.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 *
 * @example Over WebSocket alone
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * await using session = await dial(server.url, { transports: ["websocket"] });
 * assertEquals(session.transport, "websocket");
 * ```
 */
export async function dial<C extends AnyContract = AnyContract>(
  url: string | URL,
  options: DialOptions<C> = {},
): Promise<Session<unknown, C, "client">> {
  return await dialBy(makeDialer, url, options);
}

function makeDialer(options: TransportOptions): RacingDialer {
  return raceTransports({ webSocket: dialWebSocket, webTransport: quic() }, options);
}

function quic(): TransportPlatform["webTransport"] {
  if (!isWebTransportAvailable()) {
    return "Cannot open WebTransport: Deno has QUIC only when it runs with --unstable-net";
  }
  // Whoever left the transport to the client is not asked for a permission.
  return permittedHost() === undefined
    ? "Cannot open WebTransport: it takes the permission to bind a UDP port, --allow-net=[::]:0"
    : webTransportLeg(dialWebTransport);
}
