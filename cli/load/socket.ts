/**
 * Two WebSocket clients on raw TCP or TLS. One sends and receives frames; the other has the members
 * of the platform's `WebSocket` class. The runtime's own class delays a small frame by up to 40 ms,
 * until the server has acknowledged the previous frame (Nagle's algorithm). A load generator would
 * measure this delay instead of the server.
 */
import { concat } from "../../base/bytes.ts";
import { ConnectionError } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import type { WebSocketLike } from "../../transport/websocket/connection.ts";
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

/** Largest message, in bytes. A larger message ends the connection. */
const MAX_MESSAGE_BYTES = 67_108_864;

/** Bytes of masking keys that are drawn together. */
const MASK_BYTES = 4_096;

/** Options for {@linkcode RawSocket.open} and {@linkcode FastSocket}. */
export interface SocketOptions {
  /** Subprotocols to offer. */
  readonly protocols?: readonly string[] | undefined;
  /** Request headers. */
  readonly headers?: HeadersInit | undefined;
  /** Cancels the opening. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Initial size of the buffer for received bytes. It is doubled for larger messages.
   *
   * @default {8192}
   */
  readonly bufferBytes?: number | undefined;
  /**
   * False for a masking key of zero, which takes no CPU time on the client.
   *
   * @default {true}
   */
  readonly mask?: boolean | undefined;
}

/** The close of a socket. */
export interface RawClose {
  /** Code of the peer's close frame, or 1006 without one. */
  readonly code: number;
  readonly reason: string;
  /** The cause, if the connection broke. */
  readonly error?: unknown;
}

/**
 * A WebSocket that sends and receives frames. It can also pause, stop in the middle of a frame, and
 * disconnect without a close frame.
 *
 * - **Writes:** all frames of one turn of the event loop are sent in one write, without delay.
 * - **Reads:** reading begins when you call `start`, so that no frame is lost before `onFrame` is
 *   set.
 * - **Order:** the close frame is sent after all earlier frames.
 */
export class RawSocket {
  /** Receives each message. The bytes are valid only during the call. */
  onFrame: (payload: Uint8Array, isText: boolean) => void = () => {};
  /** Called after each read, after all of its frames. */
  onRead: () => void = () => {};
  /** Resolves once the socket is closed. */
  readonly closed: Promise<RawClose>;
  /** Subprotocol that the server chose. */
  readonly protocol: string;

  readonly #conn: Deno.Conn;
  readonly #ended = Promise.withResolvers<RawClose>();
  #buffer: Uint8Array;
  #start = 0;
  #end: number;
  /**
   * Frames of this turn, and frames that wait for a write. The caller bounds them by checking
   * `bufferedAmount`.
   */
  #out: Uint8Array[] = [];
  #outBytes = 0;
  #isReading = false;
  #isPaused = false;
  #writeError: unknown;
  #isWriting = false;
  #isClosing = false;
  #isOver = false;
  /** Masking keys; absent for a key of zero. */
  readonly #masks: Uint8Array<ArrayBuffer> | undefined;
  #nextMask = MASK_BYTES;
  #partial: { readonly opcode: number; readonly parts: Uint8Array[]; bytes: number } | undefined;

  private constructor(
    conn: Deno.Conn,
    head: HttpHead,
    { bufferBytes = 8_192, mask = true }: SocketOptions,
  ) {
    this.#conn = conn;
    this.closed = this.#ended.promise;
    this.protocol = head.headers.get("sec-websocket-protocol") ?? "";
    this.#buffer = head.rest.length > bufferBytes ? head.rest : new Uint8Array(bufferBytes);
    if (head.rest !== this.#buffer) this.#buffer.set(head.rest);
    this.#end = head.rest.length;
    this.#masks = mask ? new Uint8Array(MASK_BYTES) : undefined;
  }

  /**
   * Opens a WebSocket.
   *
   * @param url A URL with `ws:`, `wss:`, `http:` or `https:`.
   * @param options See {@linkcode SocketOptions}.
   * @returns The open socket, which reads nothing until you call `start`.
   * @throws {ConnectionError} If the server cannot be reached or rejects the upgrade. In the latter
   * case, `status` is the HTTP status.
   */
  static async open(url: string | URL, options: SocketOptions = {}): Promise<RawSocket> {
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
          `Cannot open WebSocket to ${place}: the server responded with ${status}${
            text && `, ${text}`
          }`,
          { status },
        );
      }
      return new RawSocket(conn, head, options);
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

  /** True once a close was sent or received, or the socket is closed. */
  get isClosing(): boolean {
    return this.#isClosing;
  }

  /** True once the socket is closed. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Bytes that the operating system has not accepted yet. */
  get bufferedAmount(): number {
    return this.#isOver ? 0 : this.#outBytes;
  }

  /** Reads until the socket is closed or paused. */
  start(): void {
    this.#isPaused = false;
    if (!this.#isReading) void this.#read();
  }

  /** Stops reading after the current read, so that the kernel's buffers fill up. */
  pause(): void {
    this.#isPaused = true;
  }

  /** Sends a text, or the bytes of a binary message. */
  send(message: Frame): void {
    if (typeof message === "string") this.#put(TEXT, encoder.encode(message));
    else this.#put(BINARY, message);
  }

  /** Sends raw bytes, such as half a frame. */
  sendRaw(bytes: Uint8Array): void {
    this.#out.push(bytes);
    this.#outBytes += bytes.length;
    if (!this.#isWriting) void this.#write();
  }

  /**
   * Sends a close frame. The socket is closed once the server replies.
   *
   * @param code Close code. By default, the frame contains none.
   * @param reason Reason for the peer.
   */
  close(code?: number, reason = ""): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#put(CLOSE, code === undefined ? new Uint8Array() : closePayload(code, reason));
  }

  /** Closes the connection immediately, without a close frame. */
  abort(): void {
    this.#finish({ code: 1006, reason: "" });
    this.#disconnect();
  }

  async #read(): Promise<void> {
    this.#isReading = true;
    try {
      while (!this.#isPaused && !this.#isOver) {
        this.#readFrames();
        this.onRead();
        if (this.#isOver) return;
        if (this.#end === this.#buffer.length) this.#makeRoom();
        const count = await this.#conn.read(this.#buffer.subarray(this.#end));
        if (count === null) return this.#finish(this.#broken());
        this.#end += count;
      }
    } catch (error) {
      this.#finish({ code: 1006, reason: "", error: this.#writeError ?? error });
    } finally {
      this.#isReading = false;
    }
  }

  #broken(): RawClose {
    const close = { code: 1006, reason: "" };
    return this.#writeError === undefined ? close : { ...close, error: this.#writeError };
  }

  /** Reads all complete frames from the buffer. */
  #readFrames(): void {
    const buffer = this.#buffer;
    let at = this.#start;
    while (this.#end - at >= 2 && !this.#isOver) {
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
    if (opcode !== CONTINUATION && isLast) return this.onFrame(payload, opcode === TEXT);
    const partial = this.#partial ??= { opcode, parts: [], bytes: 0 };
    partial.parts.push(payload.slice());
    partial.bytes += payload.length;
    if (partial.bytes > MAX_MESSAGE_BYTES) throw new Error(tooLarge());
    if (!isLast) return;
    this.#partial = undefined;
    this.onFrame(concat(partial.parts), partial.opcode === TEXT);
  }

  #onClose(payload: Uint8Array): void {
    const code = payload.length < 2 ? 1005 : payload[0]! * 256 + payload[1]!;
    const reason = decoder.decode(payload.subarray(2));
    if (!this.#isClosing) this.#put(CLOSE, payload.slice(0, 2));
    this.#isClosing = true;
    // The reply to the close is sent with this turn.
    queueMicrotask(() => this.#finish({ code, reason }));
  }

  #finish(close: RawClose): void {
    if (this.#isOver) return;
    this.#isOver = this.#isClosing = true;
    if (!this.#isWriting) this.#disconnect();
    this.#ended.resolve(close);
  }

  #disconnect(): void {
    try {
      this.#conn.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
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
    frame.set(payload, head);
    if (this.#masks !== undefined) {
      const key = this.#mask(this.#masks);
      frame.set(key, head - 4);
      for (let i = 0; i < length; i++) frame[head + i]! ^= key[i & 3]!;
    }
    this.sendRaw(frame);
  }

  /** Draws a masking key, which must be unpredictable (RFC 6455). */
  #mask(masks: Uint8Array<ArrayBuffer>): Uint8Array {
    if (this.#nextMask === MASK_BYTES) {
      crypto.getRandomValues(masks);
      this.#nextMask = 0;
    }
    return masks.subarray(this.#nextMask, this.#nextMask += 4);
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
      }
    } catch (error) {
      this.#out = [];
      // The peer may have sent a close frame before it closed the connection, which is still to be
      // read.
      if (this.#isReading) this.#writeError = error;
      else this.#finish({ code: 1006, reason: "", error });
    } finally {
      this.#isWriting = false;
      if (this.#isOver) this.#disconnect();
    }
  }
}

/** An event of a socket, with the members that a connection reads. */
type SocketEvent =
  & { readonly type: "open" | "message" | "close" | "error" }
  & Partial<MessageEvent & CloseEvent & ErrorEvent>;

/** A {@linkcode RawSocket} with the members of the platform's `WebSocket`. */
export class FastSocket implements WebSocketLike {
  /** State of a socket that is opening. */
  static readonly CONNECTING = 0;
  /** State of an open socket. */
  static readonly OPEN = 1;
  /** State of a socket that is closing. */
  static readonly CLOSING = 2;
  /** State of a closed socket. */
  static readonly CLOSED = 3;

  /** Always `arraybuffer`. */
  binaryType: BinaryType = "arraybuffer";
  /** URL of the server. */
  readonly url: string;
  /** Called once the socket is open. */
  onopen: ((event: Event) => void) | null = null;
  /** Called with each message. */
  onmessage: ((event: MessageEvent) => void) | null = null;
  /** Called once the socket is closed. */
  onclose: ((event: CloseEvent) => void) | null = null;
  /** Called if the socket breaks, or cannot be opened. */
  onerror: ((event: Event) => void) | null = null;

  /** Absent while the socket opens. */
  #raw: RawSocket | undefined;
  #hasFailed = false;
  readonly #stop = new AbortController();
  /** Bounded by the listeners of one connection or generator. */
  #listeners: readonly (readonly [string, EventListenerOrEventListenerObject])[] = [];

  /**
   * Opens a WebSocket, as the platform's constructor does: an `open` event, or `error` and `close`,
   * reports the result. It reads once it is open.
   *
   * @param url A URL with `ws:`, `wss:`, `http:` or `https:`.
   * @param source See {@linkcode SocketOptions}, or a socket that is open.
   */
  constructor(url: string | URL, source: SocketOptions | RawSocket = {}) {
    this.url = String(url);
    if (source instanceof RawSocket) this.#use(source);
    else void this.#open(source);
  }

  /**
   * Opens a WebSocket, as {@linkcode RawSocket.open} does.
   *
   * @param url A URL with `ws:`, `wss:`, `http:` or `https:`.
   * @param options See {@linkcode SocketOptions}.
   * @returns The open socket, which reads nothing until `start` is called.
   * @throws {ConnectionError} If the server cannot be reached or rejects the upgrade.
   */
  static async open(url: string | URL, options: SocketOptions = {}): Promise<FastSocket> {
    return new FastSocket(url, await RawSocket.open(url, options));
  }

  /** State of the socket, as on the web platform. */
  get readyState(): number {
    if (this.#hasFailed || this.#raw?.isOver) return FastSocket.CLOSED;
    if (this.#raw === undefined) return FastSocket.CONNECTING;
    return this.#raw.isClosing ? FastSocket.CLOSING : FastSocket.OPEN;
  }

  /** Subprotocol that the server chose. */
  get protocol(): string {
    return this.#raw?.protocol ?? "";
  }

  /** Bytes that the operating system has not accepted yet. */
  get bufferedAmount(): number {
    return this.#raw?.bufferedAmount ?? 0;
  }

  /** Starts to read, until the socket closes. */
  start(): void {
    this.#raw?.start();
  }

  /** Adds a listener of `open`, `message`, `close` or `error`. */
  addEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    this.#listeners = [...this.#listeners, [type, listener]];
  }

  removeEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    this.#listeners = this.#listeners.filter((known) => known[0] !== type || known[1] !== listener);
  }

  /** Sends a message, unless the socket is closing. */
  send(data: Frame | ArrayBuffer): void {
    if (this.#raw!.isClosing) return;
    this.#raw!.send(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
  }

  /** Closes the socket after all earlier frames, or cancels its opening. */
  close(code?: number, reason?: string): void {
    if (this.#raw === undefined) this.#stop.abort();
    else this.#raw.close(code, reason);
  }

  /** Closes the connection immediately, without a close frame. */
  terminate(): void {
    this.#stop.abort();
    this.#raw?.abort();
  }

  async #open(options: SocketOptions): Promise<void> {
    const signals = options.signal ? [options.signal, this.#stop.signal] : [this.#stop.signal];
    const opening = RawSocket.open(this.url, { ...options, signal: AbortSignal.any(signals) });
    await opening.then((raw) => {
      this.#use(raw);
      this.#emit({ type: "open" });
      raw.start();
    }, (error) => {
      this.#hasFailed = true;
      this.#emit({ type: "error", error });
      this.#emit({ type: "close", code: 1006, reason: "", wasClean: false });
    });
  }

  #use(raw: RawSocket): void {
    this.#raw = raw;
    raw.onFrame = (payload, isText) =>
      this.#emit({
        type: "message",
        data: isText ? strictDecoder.decode(payload) : payload.slice().buffer,
      });
    void raw.closed.then(({ error, ...close }) => {
      if (error !== undefined) this.#emit({ type: "error", error });
      this.#emit({ type: "close", ...close, wasClean: close.code !== 1006 });
    });
  }

  #emit(event: SocketEvent): void {
    this[`on${event.type}`]?.(event as never);
    for (const [type, listener] of this.#listeners) {
      if (type !== event.type) continue;
      if (typeof listener === "function") listener(event as Event);
      else listener.handleEvent(event as Event);
    }
  }
}

async function connect(target: URL, signal: AbortSignal | undefined): Promise<Deno.Conn> {
  const isSecure = target.protocol === "wss:";
  const hostname = target.hostname.replace(/^\[|\]$/g, "");
  const port = Number(target.port || (isSecure ? 443 : 80));
  const tcp = await Deno.connect({ hostname, port, signal });
  // By default, Deno's sockets wait for acknowledgments.
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
