/**
 * Shared helpers for server tests: a server on a free port, and a WebSocket client that writes raw
 * bytes, so that it can misbehave.
 *
 * @module
 */
import { assert } from "@std/assert";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import { dial, type DialOptions, type Session } from "../mod.ts";
import { serve, type ServeOptions, type Server } from "../server.ts";
import type { Contract } from "../session/contract.ts";
import {
  acceptWebSocket,
  type WebSocketEngine,
  type WebSocketHost,
} from "../transport/websocket/server.ts";
import { headOf } from "./peers/text_socket.ts";
import { soon, until } from "./waiting.ts";

/**
 * Listens on a free port of the loopback interface.
 *
 * @param options Options of the server.
 */
export function listen<V = unknown, C extends Contract = Contract>(
  options: ServeOptions<V, C> = {},
): Server<V, C> {
  return serve<V, C>({ port: 0, hostname: "127.0.0.1", onListen() {}, ...options });
}

/** Both sides of a session. Disposing of them also closes the server. */
export interface ServedEnds extends AsyncDisposable {
  /** The client's end. */
  readonly client: Session<unknown>;
  /** The server's end. */
  readonly server: Session<unknown>;
}

/**
 * Opens a session between a server and a client in this process, over real sockets.
 *
 * @param options Options of the server, apart from `onOpen`.
 * @param dialing Options of the client.
 * @returns Both sides.
 */
export async function served(
  options: ServeOptions = {},
  dialing: DialOptions = {},
): Promise<ServedEnds> {
  const opened = Promise.withResolvers<Session<unknown>>();
  const server = listen({ ...options, onOpen: (session) => opened.resolve(session) });
  try {
    const client = await soon(dial(server.url, dialing));
    return {
      client,
      server: await soon(opened.promise),
      async [Symbol.asyncDispose](): Promise<void> {
        await client.close();
        await server.close();
      },
    };
  } catch (error) {
    await server.close();
    throw error;
  }
}

/**
 * Returns the platform's runtime, in which some timers have another duration. By default, these are
 * the ten-second timers: the time limit for the application's decisions, which no option changes.
 *
 * @param soonMs Their duration, in milliseconds.
 * @param hurries Tells if a timer that starts now is one of them.
 */
export function hurried(
  soonMs: number,
  hurries: (ms: number) => boolean = (ms) => ms === 10_000,
): Runtime {
  return Object.assign(platformRuntime(), {
    setTimeout: (callback: () => void, ms: number) =>
      setTimeout(callback, hurries(ms) ? soonMs : ms),
  });
}

/**
 * Creates a WebSocket host on the runtime's own HTTP server, in which a test can answer requests
 * and accept upgrades.
 *
 * @param test Answers requests instead of the server, and accepts upgrades instead of the runtime.
 */
export function hostBetween(
  { answer, accept = acceptWebSocket }: {
    readonly answer?: (request: Request) => Response | undefined;
    readonly accept?: WebSocketEngine;
  },
): WebSocketHost {
  return {
    accept,
    listen({ hostname, port }, handler) {
      const http = Deno.serve(
        { hostname, port, onListen() {} },
        (request, info) => answer?.(request) ?? handler(request, info),
      );
      return { addr: http.addr, shutdown: () => http.shutdown() };
    },
  };
}

export const UPGRADE_HEADERS = {
  upgrade: "websocket",
  connection: "Upgrade",
  "sec-websocket-version": "13",
  "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  host: "localhost",
};

/** Options for a raw socket. */
export interface RawOptions {
  /** The request method; GET by default. */
  readonly method?: string;
  /** The HTTP version; 1.1 by default. */
  readonly version?: string;
  readonly path?: string;
  /** Headers that extend or replace the headers of an upgrade. An empty header is omitted. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The subprotocols to offer. */
  readonly protocol?: string;
}

/** A received frame. */
export interface RawFrame {
  /** 1 text, 2 binary, 8 close, 9 ping, 10 pong. */
  readonly opcode: number;
  /** True for a compressed message. */
  readonly isCompressed: boolean;
  readonly payload: Uint8Array;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A WebSocket client that reads and writes raw bytes. */
export class RawSocket implements Disposable {
  readonly conn: Deno.TcpConn;
  /** The head of the response. */
  head = "";
  #buffer = new Uint8Array();

  private constructor(conn: Deno.TcpConn) {
    this.conn = conn;
  }

  /**
   * Connects, requests an upgrade, and reads the head of the response.
   *
   * @param port Port of the server.
   * @param options See {@linkcode RawOptions}.
   */
  static async open(port: number, options: RawOptions = {}): Promise<RawSocket> {
    const socket = await RawSocket.ask(port, options);
    await socket.readHead();
    return socket;
  }

  /**
   * Connects and requests an upgrade.
   *
   * @param port Port of the server.
   * @param options See {@linkcode RawOptions}.
   * @returns The socket, before any response.
   */
  static async ask(port: number, options: RawOptions = {}): Promise<RawSocket> {
    const { method = "GET", version = "1.1", path = "/", headers = {}, protocol } = options;
    const socket = new RawSocket(await Deno.connect({ hostname: "127.0.0.1", port }));
    const all = {
      ...UPGRADE_HEADERS,
      host: `127.0.0.1:${port}`,
      ...(protocol === undefined ? {} : { "sec-websocket-protocol": protocol }),
      ...headers,
    };
    const given = Object.entries(all).filter(([, value]) => value !== "");
    const head = headOf(`${method} ${path}`, Object.fromEntries(given), version);
    await socket.write(encoder.encode(head));
    return socket;
  }

  get status(): number {
    return Number(this.head.split(" ")[1]);
  }

  /** Reads the head of the response. */
  async readHead(): Promise<void> {
    while (!this.head.includes("\r\n\r\n")) {
      assert(await this.#more(), "the connection ended before a response");
      this.head = decoder.decode(this.#buffer);
    }
    const length = this.head.indexOf("\r\n\r\n") + 4;
    this.head = this.head.slice(0, length);
    this.#buffer = this.#buffer.slice(length);
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.conn.write(bytes.subarray(at));
  }

  /**
   * Writes a frame.
   *
   * @param payload Text or bytes.
   * @param options The first byte (by default, that of a final text frame), and whether to mask
   * the frame.
   */
  async frame(
    payload: string | Uint8Array,
    options: { readonly head?: number; readonly masked?: boolean } = {},
  ): Promise<void> {
    await this.write(frameOf(payload, options));
  }

  /**
   * Reads a frame.
   *
   * @returns The frame; `undefined` once the connection has ended.
   */
  async read(): Promise<RawFrame | undefined> {
    while (true) {
      const buffer = this.#buffer;
      const short = buffer[1] ?? 0;
      const start = short === 127 ? 10 : short === 126 ? 4 : 2;
      if (buffer.length >= start) {
        const view = new DataView(buffer.buffer, buffer.byteOffset);
        const length = short === 127
          ? Number(view.getBigUint64(2))
          : short === 126
          ? view.getUint16(2)
          : short;
        if (buffer.length >= start + length) {
          this.#buffer = buffer.slice(start + length);
          const isCompressed = (buffer[0]! & 0x40) !== 0;
          const payload = buffer.slice(start, start + length);
          return { opcode: buffer[0]! & 15, isCompressed, payload };
        }
      }
      if (!await this.#more()) return undefined;
    }
  }

  /** Reads a text frame that contains one envelope. */
  async envelope(): Promise<Record<string, unknown>> {
    const frame = await this.read();
    assert(frame?.opcode === 1, `expected a text frame, received ${frame?.opcode}`);
    return JSON.parse(decoder.decode(frame.payload));
  }

  /**
   * Reads frames up to and including the close frame.
   *
   * @returns The code and the reason; `undefined` if the connection ended without a close frame.
   */
  async closed(): Promise<{ code: number; reason: string } | undefined> {
    while (true) {
      const frame = await this.read();
      if (frame === undefined) return undefined;
      if (frame.opcode !== 8) continue;
      const [high = 3, low = 0xed] = frame.payload;
      return { code: high * 256 + low, reason: decoder.decode(frame.payload.subarray(2)) };
    }
  }

  /** Drops the connection. */
  [Symbol.dispose](): void {
    try {
      this.conn.close();
    } catch { /* It is gone already. */ }
  }

  async #more(): Promise<boolean> {
    const chunk = new Uint8Array(65_536);
    const count = await soon(this.conn.read(chunk).catch(() => null));
    if (count === null) return false;
    const buffer = new Uint8Array(this.#buffer.length + count);
    buffer.set(this.#buffer);
    buffer.set(chunk.subarray(0, count), this.#buffer.length);
    this.#buffer = buffer;
    return true;
  }
}

/**
 * Creates a frame masked with zeros.
 *
 * @param payload Text or bytes.
 * @param options The first byte (by default, that of a final text frame), and whether to mask the
 * frame.
 * @returns The bytes of the frame.
 */
export function frameOf(
  payload: string | Uint8Array,
  options: { readonly head?: number; readonly masked?: boolean } = {},
): Uint8Array {
  const { head = 0x81, masked = true } = options;
  const bytes = typeof payload === "string" ? encoder.encode(payload) : payload;
  const extra = bytes.length < 126 ? 0 : bytes.length < 65_536 ? 2 : 8;
  const frame = new Uint8Array(2 + extra + (masked ? 4 : 0) + bytes.length);
  const view = new DataView(frame.buffer);
  frame[0] = head;
  frame[1] = (masked ? 0x80 : 0) | (extra === 0 ? bytes.length : extra === 2 ? 126 : 127);
  if (extra === 2) view.setUint16(2, bytes.length);
  if (extra === 8) view.setBigUint64(2, BigInt(bytes.length));
  frame.set(bytes, frame.length - bytes.length);
  return frame;
}

/** Waits until a TCP port of this machine is free. */
export async function untilFree(port: number): Promise<void> {
  await until(() => {
    try {
      Deno.listen({ port, hostname: "127.0.0.1" }).close();
      return true;
    } catch {
      return false;
    }
  });
}

/** Returns the port of a listening server. */
export function portOf(server: Pick<Server, "address">): number {
  return server.address!.port;
}
