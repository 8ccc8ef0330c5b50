/**
 * Shared helpers for the tests of the hardened WebSocket engine: a server with its own engine, and
 * connections from several addresses.
 *
 * @module
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { ServeOptions, Server } from "../server.ts";
import {
  type HardenedWebSocket,
  hardenedWebSocket,
  type HardenedWebSocketOptions,
} from "../transport/hardened/mod.ts";
import { listen } from "./servers.ts";

/** Host header of a request to this machine. */
export const HOST = "Host: localhost\r\n";

/** Headers of an upgrade besides {@linkcode HOST}. */
export const UPGRADE =
  "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/** Listens with a new hardened engine, without WebTransport. */
export function listenHardened<V = unknown>(
  options: ServeOptions<V> = {},
  limits: HardenedWebSocketOptions = {},
): { readonly engine: HardenedWebSocket; readonly server: Server<V> } {
  const engine = hardenedWebSocket(limits);
  return { engine, server: listen({ webSocket: engine, webTransport: false, ...options }) };
}

/** Connects from one of this machine's addresses. */
export async function connectFrom(
  localAddress: string,
  port: number,
): Promise<Socket & Disposable> {
  const socket = connect({ host: "127.0.0.1", port, localAddress });
  socket.on("error", () => {});
  await once(socket, "connect");
  return Object.assign(socket, { [Symbol.dispose]: () => void socket.destroy() });
}
