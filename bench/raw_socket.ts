/**
 * A WebSocket client on bare TCP, for measurements and for misbehaviour. The client uses little
 * CPU, can stop reading, can break off in the middle of a frame, and can vanish without a close.
 *
 * @module
 */
import { concat } from "../base/bytes.ts";

/** Options for {@linkcode RawSocket.open}. */
export interface RawSocketOptions {
  /**
   * Path of the request.
   *
   * @default {"/ws"}
   */
  readonly path?: string;
  /** Subprotocol to offer. */
  readonly protocol?: string | undefined;
  /**
   * Size of the read buffer; a larger frame enlarges the buffer.
   *
   * @default {65536}
   */
  readonly bufferBytes?: number;
}

/** The end of a socket: the code of the peer's close frame, or 1006 without one. */
export interface RawClose {
  /** The code. */
  readonly code: number;
  /** The reason. */
  readonly reason: string;
}

const CONTINUATION = 0;
const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/**
 * One client. Reading begins with {@linkcode RawSocket.start}.
 *
 * The masking key is zero, which costs no time.
 */
export class RawSocket {
  /**
   * Receives the payload of each text or binary frame; the bytes are valid during the call only.
   */
  onFrame: (payload: Uint8Array, isText: boolean) => void = () => {};
  /** Called once after each read, after all frames of the read. */
  onRead: () => void = () => {};
  /** Resolves once the socket is closed. */
  readonly closed: Promise<RawClose>;

  readonly #conn: Deno.TcpConn;
  readonly #ended = Promise.withResolvers<RawClose>();
  #buffer: Uint8Array<ArrayBuffer>;
  #start = 0;
  #end: number;
  #out: Uint8Array[] = [];
  #bufferedBytes = 0;
  #isWriting = false;
  #isPaused = false;
  #close: RawClose = { code: 1006, reason: "" };
  #isOver = false;

  private constructor(conn: Deno.TcpConn, buffer: Uint8Array<ArrayBuffer>, end: number) {
    this.#conn = conn;
    this.#buffer = buffer;
    this.#end = end;
    this.closed = this.#ended.promise;
  }

  /** True once the socket is closed. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /**
   * Connects and performs the handshake.
   *
   * @param port Port on this machine.
   * @param options See {@linkcode RawSocketOptions}.
   * @returns The client.
   * @throws {Error} If the server does not upgrade; the message is the status line.
   */
  static async open(port: number, options: RawSocketOptions = {}): Promise<RawSocket> {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    try {
      conn.setNoDelay(true);
      await writeAll(conn, encoder.encode(requestOf(port, options)));
      const buffer = new Uint8Array(options.bufferBytes ?? 65_536);
      let end = 0;
      while (true) {
        const count = await conn.read(buffer.subarray(end));
        if (count === null) throw new Error("Cannot open: the server closed the connection");
        end += count;
        const head = decoder.decode(buffer.subarray(0, end));
        const at = head.indexOf("\r\n\r\n");
        if (at < 0) continue;
        if (!head.startsWith("HTTP/1.1 101")) {
          throw new Error(`Cannot open: ${head.slice(0, head.indexOf("\r\n"))}`);
        }
        // Bytes after the response belong to the frames. The head is ASCII.
        buffer.copyWithin(0, at + 4, end);
        return new RawSocket(conn, buffer, end - at - 4);
      }
    } catch (error) {
      conn.close();
      throw error;
    }
  }

  /** Reads until the socket is closed or paused. */
  start(): void {
    this.#isPaused = false;
    void this.#read();
  }

  /** Stops reading after the read that is under way; the kernel's buffers fill up. */
  pause(): void {
    this.#isPaused = true;
  }

  /**
   * Sends a text frame.
   *
   * @param text The text.
   */
  send(text: string): void {
    this.#put(TEXT, encoder.encode(text));
  }

  /**
   * Sends a binary frame.
   *
   * @param bytes The payload.
   */
  sendBytes(bytes: Uint8Array): void {
    this.#put(BINARY, bytes);
  }

  /** The number of unwritten bytes. */
  get bufferedAmount(): number {
    return this.#bufferedBytes;
  }

  /**
   * Sends raw bytes, such as half a frame.
   *
   * @param bytes Any bytes.
   */
  sendRaw(bytes: Uint8Array): void {
    this.#bufferedBytes += bytes.length;
    this.#out.push(bytes);
    if (!this.#isWriting) void this.#write();
  }

  /**
   * Sends a close frame; the socket is closed once the server replies.
   *
   * @param code The close code.
   */
  close(code = 1000): void {
    this.#put(CLOSE, new Uint8Array([code >> 8, code & 255]));
  }

  /** Closes the TCP connection without a close frame. */
  abort(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#conn.close();
    this.#ended.resolve(this.#close);
  }

  async #read(): Promise<void> {
    try {
      while (!this.#isPaused && !this.#isOver) {
        this.#parse();
        this.onRead();
        if (this.#end === this.#buffer.length) this.#makeRoom();
        const count = await this.#conn.read(this.#buffer.subarray(this.#end));
        if (count === null) return this.abort();
        this.#end += count;
      }
    } catch (error) {
      if (!isBroken(error)) throw error;
      this.abort();
    }
  }

  #parse(): void {
    const buffer = this.#buffer;
    let at = this.#start;
    while (this.#end - at >= 2) {
      let length = buffer[at + 1]! & 0x7f;
      let head = 2;
      if (length >= 126) {
        head = length === 126 ? 4 : 10;
        if (this.#end - at < head) break;
        length = 0;
        for (let i = 2; i < head; i++) length = length * 256 + buffer[at + i]!;
      }
      if (this.#end - at < head + length) break;
      const first = buffer[at]!;
      if ((first & 0x80) === 0 || (first & 15) === CONTINUATION) {
        throw new Error("Cannot read: fragmented messages are not supported");
      }
      this.#frame(first & 15, buffer.subarray(at + head, at + head + length));
      at += head + length;
    }
    this.#start = at;
    if (at !== this.#end) return;
    this.#start = this.#end = 0;
  }

  #frame(kind: number, payload: Uint8Array): void {
    if (kind === PING) this.#put(PONG, payload.slice());
    else if (kind === CLOSE) {
      const code = payload.length < 2 ? 1005 : payload[0]! * 256 + payload[1]!;
      this.#close = { code, reason: decoder.decode(payload.subarray(2)) };
      this.#put(CLOSE, payload.slice(0, 2));
    } else if (kind !== PONG) this.onFrame(payload, kind === TEXT);
  }

  #makeRoom(): void {
    const used = this.#end - this.#start;
    const target = used * 2 > this.#buffer.length
      ? new Uint8Array(this.#buffer.length * 2)
      : this.#buffer;
    target.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer = target;
    this.#start = 0;
    this.#end = used;
  }

  #put(kind: number, payload: Uint8Array): void {
    const { length } = payload;
    const head = length < 126 ? 6 : length < 65_536 ? 8 : 14;
    const frame = new Uint8Array(head + length);
    frame[0] = 0x80 | kind;
    if (head === 6) frame[1] = 0x80 | length;
    else {
      frame[1] = 0x80 | (head === 8 ? 126 : 127);
      for (let i = head - 5, rest = length; i > 1; i--, rest = Math.floor(rest / 256)) {
        frame[i] = rest & 255;
      }
    }
    frame.set(payload, head);
    this.sendRaw(frame);
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    // All frames of one turn leave in one write.
    await Promise.resolve();
    try {
      while (this.#out.length > 0 && !this.#isOver) {
        const frames = this.#out;
        this.#out = [];
        const bytes = frames.length === 1 ? frames[0]! : concat(frames);
        await writeAll(this.#conn, bytes);
        this.#bufferedBytes -= bytes.length;
      }
    } catch (error) {
      if (!isBroken(error)) throw error;
    } finally {
      this.#isWriting = false;
    }
  }
}

function requestOf(port: number, { path = "/ws", protocol }: RawSocketOptions): string {
  const key = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(16))));
  return [
    `GET ${path} HTTP/1.1`,
    `Host: 127.0.0.1:${port}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: ${key}`,
    ...(protocol === undefined ? [] : [`Sec-WebSocket-Protocol: ${protocol}`]),
    "\r\n",
  ].join("\r\n");
}

async function writeAll(conn: Deno.TcpConn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
}

function isBroken(error: unknown): boolean {
  return error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted ||
    error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.ConnectionAborted || error instanceof Deno.errors.NotConnected;
}
