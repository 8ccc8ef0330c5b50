/**
 * A WebSocket client on bare TCP or TLS. The runtime's own class delays a small frame until the
 * server has acknowledged the one before (Nagle's algorithm), up to 40 ms: a load generator would
 * measure that delay in place of the server.
 */
import { concat } from "../../base/bytes.ts";
import { ConnectionError } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import type { Socket } from "../../transport/websocket/connection.ts";
import { parseServerUrl, publicUrl } from "../../transport/url.ts";
import { bodyOf, type HttpHead, readHead, requestText } from "../http_head.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const CONTINUATION = 0;
const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

/** First capacity of the buffer for received bytes; doubled for larger messages. */
const BUFFER_BYTES = 8_192;

/** Largest message, in bytes; a larger one ends the connection. */
export const MAX_MESSAGE_BYTES = 67_108_864;

/** Bytes of masking keys that are drawn at once. */
const MASK_BYTES = 4_096;

/** Options for {@linkcode ClientSocket.open}. */
export interface ClientSocketOptions {
  /** Subprotocols to offer. */
  readonly protocols?: readonly string[];
  /** Request headers. */
  readonly headers?: HeadersInit | undefined;
  /** Cancels the opening. */
  readonly signal?: AbortSignal;
}

/** An event of a socket, with the members that a connection reads. */
type SocketEvent = { readonly type: string } & Partial<MessageEvent & CloseEvent & ErrorEvent>;

/**
 * An open WebSocket, with the members that a connection uses.
 *
 * - **Writes:** all frames of one turn of the event loop leave in one write, without delay.
 * - **Reads:** begin with `start`, so that no frame is lost before a listener is there.
 * - **Order:** `close` comes behind all frames that were sent before.
 */
export class ClientSocket implements Socket {
  /** Always `arraybuffer`. */
  binaryType: BinaryType = "arraybuffer";
  /** State of the socket, as on the web platform. */
  readyState: number = WebSocket.OPEN;
  /** Subprotocol that the server chose. */
  readonly protocol: string;
  /** URL of the server. */
  readonly url: string;
  /** Bytes received, frames of control included. */
  receivedBytes = 0;
  /** Bytes sent, frames of control included. */
  sentBytes = 0;

  readonly #conn: Deno.Conn;
  /** Bounded by the listeners of one connection, or of one generator. */
  #listeners: readonly (readonly [string, EventListenerOrEventListenerObject])[] = [];
  #buffer: Uint8Array;
  #start = 0;
  #end: number;
  /** Frames of this turn, and those behind a write; the caller bounds these by `bufferedAmount`. */
  #out: Uint8Array[] = [];
  #outBytes = 0;
  #isWriting = false;
  #isEnded = false;
  #masks = new Uint8Array(MASK_BYTES);
  #nextMask = MASK_BYTES;
  #partial: { readonly opcode: number; readonly parts: Uint8Array[]; bytes: number } | undefined;

  private constructor(conn: Deno.Conn, url: URL, head: HttpHead) {
    this.#conn = conn;
    this.url = url.href;
    this.protocol = head.headers.get("sec-websocket-protocol") ?? "";
    this.#buffer = head.rest.length > BUFFER_BYTES ? head.rest : new Uint8Array(BUFFER_BYTES);
    if (head.rest !== this.#buffer) this.#buffer.set(head.rest);
    this.#end = head.rest.length;
  }

  /**
   * Opens a WebSocket.
   *
   * @param url A URL with `ws:`, `wss:`, `http:` or `https:`.
   * @param options See {@linkcode ClientSocketOptions}.
   * @returns The open socket, which does not read before `start`.
   * @throws {ConnectionError} If the server cannot be reached or refuses the upgrade; `status` is
   * that of the refusal.
   */
  static async open(url: string | URL, options: ClientSocketOptions = {}): Promise<ClientSocket> {
    const { protocols = [], headers, signal } = options;
    const target = parseServerUrl(url);
    target.protocol = target.protocol.replace("http", "ws");
    const place = publicUrl(target);
    const conn = await connect(target, signal).catch((cause) => {
      signal?.throwIfAborted();
      throw new ConnectionError(`Cannot open WebSocket to ${place}: ${cause.message}`, { cause });
    });
    let isClosed = false;
    const abort = () => {
      if (!isClosed) conn.close();
      isClosed = true;
    };
    signal?.addEventListener("abort", abort, { once: true });
    try {
      signal?.throwIfAborted();
      const key = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(16))));
      await writeAll(
        conn,
        encoder.encode(requestText(target, upgradeFields(key, protocols), headers)),
      );
      const head = await readHead(conn);
      if (head.status !== 101) {
        const text = await bodyOf(conn, head);
        const { status } = head;
        throw new ConnectionError(
          `Cannot open WebSocket to ${place}: the server answered ${status}${text && `, ${text}`}`,
          { status },
        );
      }
      return new ClientSocket(conn, target, head);
    } catch (error) {
      abort();
      signal?.throwIfAborted();
      if (error instanceof ConnectionError) throw error;
      throw new ConnectionError(
        `Cannot open WebSocket to ${place}: ${(error as Error).message}`,
        { cause: error },
      );
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Bytes that the system has not taken yet. */
  get bufferedAmount(): number {
    return this.#isEnded ? 0 : this.#outBytes;
  }

  /** Begins to read, until the end of the socket. */
  start(): void {
    void this.#read();
  }

  /** Adds a listener of `message`, `close` or `error`. */
  addEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    this.#listeners = [...this.#listeners, [type, listener]];
  }

  /** Removes a listener. */
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    this.#listeners = this.#listeners.filter((known) => known[0] !== type || known[1] !== listener);
  }

  /** Sends a message, unless the socket is closing. */
  send(frame: Frame): void {
    if (this.readyState !== WebSocket.OPEN) return;
    if (typeof frame === "string") this.#put(TEXT, encoder.encode(frame));
    else this.#put(BINARY, frame);
  }

  /**
   * Closes the socket behind all frames sent before.
   *
   * @param code Close code; by default none.
   * @param reason Reason for the peer.
   */
  close(code?: number, reason = ""): void {
    if (this.readyState !== WebSocket.OPEN) return;
    this.readyState = WebSocket.CLOSING;
    this.#put(CLOSE, code === undefined ? new Uint8Array() : closePayload(code, reason));
  }

  /** Ends the connection at once, without a close frame. */
  terminate(): void {
    this.#finish(1006, "");
  }

  async #read(): Promise<void> {
    try {
      while (!this.#isEnded) {
        this.#readFrames();
        if (this.#isEnded) return;
        if (this.#end === this.#buffer.length) this.#makeRoom();
        const count = await this.#conn.read(this.#buffer.subarray(this.#end));
        if (count === null) break;
        this.#end += count;
        this.receivedBytes += count;
      }
      this.#finish(1006, "");
    } catch (error) {
      if (!this.#isEnded) this.#emit({ type: "error", error });
      this.#finish(1006, "");
    }
  }

  /** Reads all complete frames of the buffer. */
  #readFrames(): void {
    const buffer = this.#buffer;
    let at = this.#start;
    while (this.#end - at >= 2 && !this.#isEnded) {
      let length = buffer[at + 1]! & 0x7f;
      let head = 2;
      if (length >= 126) {
        head = length === 126 ? 4 : 10;
        if (this.#end - at < head) break;
        length = 0;
        for (let i = 2; i < head; i++) length = length * 256 + buffer[at + i]!;
      }
      if (length > MAX_MESSAGE_BYTES) throw new Error(tooLarge());
      if (this.#end - at < head + length) break;
      this.#frame(buffer[at]!, buffer.subarray(at + head, at + head + length));
      at += head + length;
    }
    this.#start = at;
    if (at === this.#end) this.#start = this.#end = 0;
  }

  #frame(first: number, payload: Uint8Array): void {
    const opcode = first & 15;
    const isLast = (first & 0x80) !== 0;
    if (opcode === PING) return this.#put(PONG, payload.slice());
    if (opcode === PONG) return;
    if (opcode === CLOSE) return this.#onClose(payload);
    if (opcode !== CONTINUATION && isLast) return this.#message(opcode, payload);
    const partial = this.#partial ??= { opcode, parts: [], bytes: 0 };
    partial.parts.push(payload.slice());
    partial.bytes += payload.length;
    if (partial.bytes > MAX_MESSAGE_BYTES) throw new Error(tooLarge());
    if (!isLast) return;
    this.#partial = undefined;
    this.#message(partial.opcode, concat(partial.parts));
  }

  #message(opcode: number, payload: Uint8Array): void {
    const data = opcode === TEXT ? strictDecoder.decode(payload) : payload.slice().buffer;
    this.#emit({ type: "message", data });
  }

  #onClose(payload: Uint8Array): void {
    const code = payload.length < 2 ? 1005 : payload[0]! * 256 + payload[1]!;
    const reason = decoder.decode(payload.subarray(2));
    if (this.readyState === WebSocket.OPEN) this.#put(CLOSE, payload.slice(0, 2));
    this.readyState = WebSocket.CLOSING;
    // The answer to the close leaves with this turn.
    queueMicrotask(() => this.#finish(code, reason));
  }

  #finish(code: number, reason: string): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.readyState = WebSocket.CLOSED;
    const end = () => {
      try {
        this.#conn.close();
      } catch (error) {
        if (!(error instanceof Deno.errors.BadResource)) throw error;
      }
    };
    if (this.#isWriting) this.#afterWrite = end;
    else end();
    this.#emit({ type: "close", code, reason, wasClean: code !== 1006 });
  }

  #afterWrite: (() => void) | undefined;

  #emit(event: SocketEvent): void {
    for (const [type, listener] of this.#listeners) {
      if (type !== event.type) continue;
      if (typeof listener === "function") listener(event as Event);
      else listener.handleEvent(event as Event);
    }
  }

  #makeRoom(): void {
    const used = this.#end - this.#start;
    const isFull = used * 2 > this.#buffer.length;
    const target = isFull ? new Uint8Array(this.#buffer.length * 2) : this.#buffer;
    target.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer = target;
    this.#start = 0;
    this.#end = used;
  }

  #put(opcode: number, payload: Uint8Array): void {
    const { length } = payload;
    const head = length < 126 ? 6 : length < 65_536 ? 8 : 14;
    const frame = new Uint8Array(head + length);
    frame[0] = 0x80 | opcode;
    if (head === 6) frame[1] = 0x80 | length;
    else {
      frame[1] = 0x80 | (head === 8 ? 126 : 127);
      for (let i = head - 5, rest = length; i > 1; i--, rest = Math.floor(rest / 256)) {
        frame[i] = rest & 255;
      }
    }
    const [a, b, c, d] = this.#mask();
    frame[head - 4] = a!;
    frame[head - 3] = b!;
    frame[head - 2] = c!;
    frame[head - 1] = d!;
    const key = [a!, b!, c!, d!];
    for (let i = 0; i < length; i++) frame[head + i] = payload[i]! ^ key[i & 3]!;
    this.#out.push(frame);
    this.#outBytes += frame.length;
    if (!this.#isWriting) void this.#write();
  }

  /** Draws a masking key, which RFC 6455 wants unpredictable. */
  #mask(): Uint8Array {
    if (this.#nextMask === MASK_BYTES) {
      crypto.getRandomValues(this.#masks);
      this.#nextMask = 0;
    }
    return this.#masks.subarray(this.#nextMask, this.#nextMask += 4);
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    await Promise.resolve();
    try {
      while (this.#out.length > 0) {
        const frames = this.#out;
        this.#out = [];
        const bytes = frames.length === 1 ? frames[0]! : concat(frames);
        await writeAll(this.#conn, bytes);
        this.#outBytes -= bytes.length;
        this.sentBytes += bytes.length;
      }
    } catch (error) {
      this.#out = [];
      if (!this.#isEnded) this.#emit({ type: "error", error });
      this.#finish(1006, "");
    } finally {
      this.#isWriting = false;
      this.#afterWrite?.();
    }
  }
}

async function connect(target: URL, signal: AbortSignal | undefined): Promise<Deno.Conn> {
  const isSecure = target.protocol === "wss:";
  const hostname = target.hostname.replace(/^\[|\]$/g, "");
  const port = Number(target.port || (isSecure ? 443 : 80));
  const tcp = await Deno.connect({ hostname, port, ...(signal && { signal }) });
  // Deno's sockets wait for acknowledgments by default.
  tcp.setNoDelay(true);
  if (!isSecure) return tcp;
  const tls = await Deno.startTls(tcp, { hostname, alpnProtocols: ["http/1.1"] });
  try {
    await tls.handshake();
    return tls;
  } catch (error) {
    tls.close();
    throw error;
  }
}

function upgradeFields(key: string, protocols: readonly string[]): readonly string[] {
  return [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: ${key}`,
    ...(protocols.length === 0 ? [] : [`Sec-WebSocket-Protocol: ${protocols.join(", ")}`]),
  ];
}

function closePayload(code: number, reason: string): Uint8Array {
  const text = encoder.encode(reason);
  const payload = new Uint8Array(2 + text.length);
  payload.set([code >> 8, code & 255]);
  payload.set(text, 2);
  return payload;
}

function tooLarge(): string {
  return `Cannot read: a message must have at most ${MAX_MESSAGE_BYTES} bytes`;
}

async function writeAll(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
}
