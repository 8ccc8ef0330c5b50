/**
 * A client of Skein's messages over WebTransport, for measurements; the counterpart of
 * `RawSocket`.
 *
 * @module
 */
import { concat } from "../base/bytes.ts";
import type { Connection, DirectStream } from "../transport/connection.ts";
import { directStream } from "../transport/direct.ts";
import { dialWebTransport } from "../transport/h3/client.ts";
import type { RawClose } from "../cli/load/socket.ts";
import { eachText, textFrame } from "./text_frames.ts";
import type { Target } from "./webtransport_target.ts";

const encoder = new TextEncoder();

/**
 * A client. It starts reading when you call {@linkcode RawStream.start}. All frames use the
 * client's first stream.
 */
export class RawStream {
  /** Receives the body of each text frame; the bytes are valid during the call only. */
  onFrame: (payload: Uint8Array) => void = () => {};
  /** Called once after each read, after all frames of the read. */
  onRead: () => void = () => {};
  /** Resolves once the session is closed. */
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
    // An empty text makes the stream visible to the server.
    this.send("");
  }

  /** True once the session is closed. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /**
   * Opens a session and the message stream.
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

  /** Reads until the session is closed. */
  start(): void {
    void this.#read();
  }

  /** Sends a frame of text. */
  send(text: string): void {
    this.#out.push(textFrame(encoder.encode(text)));
    if (!this.#isWriting) void this.#write();
  }

  /** Closes the session without waiting for the peer. */
  abort(): void {
    this.#isOver = true;
    this.#connection.close();
  }

  async #read(): Promise<void> {
    try {
      for (let bytes; (bytes = await this.#stream.read()) !== null;) {
        const all = this.#rest.length === 0 ? bytes : concat([this.#rest, bytes]);
        this.#rest = eachText(all, (body) => this.onFrame(body));
        this.onRead();
      }
    } catch (error) {
      if (!this.#isOver) throw error;
    }
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    // All frames of one turn leave in one write.
    await Promise.resolve();
    try {
      while (this.#out.length > 0 && !this.#isOver) {
        const frames = this.#out;
        this.#out = [];
        await this.#stream.write(frames.length === 1 ? frames[0]! : concat(frames));
      }
    } catch (error) {
      if (!this.#isOver) throw error;
    } finally {
      this.#isWriting = false;
    }
  }
}
