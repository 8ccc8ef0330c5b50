/**
 * A second WebSocket engine, with hard limits, for servers that face the internet without a proxy.
 * It is a separate entry point, because only this engine needs `node:` modules.
 *
 * @example A server without a proxy
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { hardenedWebSocket } from "@skein/skein/ws";
 * import { assert, assertEquals } from "@std/assert";
 *
 * const engine = hardenedWebSocket();
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   webSocket: engine,
 *   onMessage: (message, session) => session.send("echo", message.data),
 * });
 * await using session = await dial(server.url);
 * session.send("say", "hello");
 * for await (const message of session) {
 *   assertEquals(message.data, "hello");
 *   break;
 * }
 * assert(engine.stats().connections > 0);
 * ```
 *
 * @module
 */
export { hardenedWebSocket } from "./engine.ts";
export type { HardenedWebSocket, HardenedWebSocketOptions } from "./engine.ts";
export type { HandshakeStats } from "./handshake_limits.ts";
