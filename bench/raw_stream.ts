/**
 * A client of Skein's messages over WebTransport, for measuring: what
 * `raw_socket.ts` is over WebSocket.
 *
 * @module
 */
import type { Connection, DirectStream } from "../transport/connection.ts";
import { directStream } from "../transport/direct.ts";
import { dialWebTransport } from "../transport/h3/client.ts";
import type { RawClose } from "./raw_socket.ts";
import type { Target } from "./webtransport_target.ts";

/** The kind of a frame of text. */
const TEXT = 0;

const encoder = new TextEncoder();

/**
 * One client. Nothing is read before {@linkcode RawStream.start}. Its frames are
 * `length(varint) kind(u8) body`, on the first stream that it opens.
 */
export class RawStream {
  /** Sees the body of each frame of text; the bytes are valid during the call only. */
  onFrame: (payload: Uint8Array) => void = () => {};
  /** Called once after each read, when its frames were seen. */
  onRead: () => void = () => {};
  /** Resolves once the session is over. */
  readonly closed: Promise<RawClose>;

  readonly #connection: Connection;
  readonly #stream: DirectStream;
  #rest: Uint8Array = new Uint8Array(0);
  #out: Uint8Array[] = [];
  #isWriting = false;
  #isOver = false;

  private constructor(connection: Connection, stream: DirectStream) {
    this.#connection = connection;
    this.#stream = stream;
    this.closed = connection.closed.then(
      ({ closeCode = 0, reason = "" }) => ({ code: closeCode, reason }),
      (error: Error) => ({ code: 1006, reason: error.message }),
    );
    this.closed.then(() => this.#isOver = true);
    // An empty text tells the server of the stream.
    this.send("");
  }

  /** Whether the session is over. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /**
   * Opens a session and its stream.
   *
   * @param target The server.
   * @param options The subprotocol to offer.
   * @returns The client.
   */
  static async open(
    target: Target,
    { protocol }: { readonly protocol?: string } = {},
  ): Promise<RawStream> {
    const { url, serverCertificateHashes } = target;
    const connection = await dialWebTransport(url, {
      serverCertificateHashes,
      ...(protocol === undefined ? {} : { protocols: [protocol] }),
    });
    return new RawStream(connection, directStream(await connection.createBidirectionalStream()));
  }

  /** Reads until the session is over. */
  start(): void {
    void this.#read();
  }

  /**
   * Sends a frame of text.
   *
   * @param text Its text.
   */
  send(text: string): void {
    this.#out.push(frameOf(encoder.encode(text)));
    if (!this.#isWriting) void this.#write();
  }

  /** Closes the session without waiting for anything. */
  abort(): void {
    this.#isOver = true;
    this.#connection.close();
  }

  async #read(): Promise<void> {
    try {
      for (let bytes; (bytes = await this.#stream.read()) !== null;) {
        this.#parse(this.#rest.length === 0 ? bytes : joined([this.#rest, bytes]));
        this.onRead();
      }
    } catch (error) {
      if (!this.#isOver) throw error;
    }
  }

  #parse(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      const size = 1 << (bytes[at]! >> 6);
      const body = at + size + 1;
      if (body > bytes.length) break;
      let length = bytes[at]! & 0x3f;
      for (let i = 1; i < size; i++) length = length * 256 + bytes[at + i]!;
      if (body + length > bytes.length) break;
      if (bytes[body - 1] === TEXT) this.onFrame(bytes.subarray(body, body + length));
      at = body + length;
    }
    this.#rest = bytes.subarray(at);
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    // What is sent in one go leaves in one write.
    await Promise.resolve();
    try {
      while (this.#out.length > 0 && !this.#isOver) {
        const frames = this.#out;
        this.#out = [];
        await this.#stream.write(frames.length === 1 ? frames[0]! : joined(frames));
      }
    } catch (error) {
      if (!this.#isOver) throw error;
    } finally {
      this.#isWriting = false;
    }
  }
}

function frameOf(body: Uint8Array): Uint8Array {
  const { length } = body;
  const size = length < 64 ? 1 : length < 16_384 ? 2 : 4;
  const frame = new Uint8Array(size + 1 + length);
  for (let i = size - 1, rest = length; i >= 0; i--, rest >>= 8) frame[i] = rest;
  frame[0]! |= Math.log2(size) << 6;
  frame[size] = TEXT;
  frame.set(body, size + 1);
  return frame;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const all = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
