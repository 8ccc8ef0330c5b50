/** Bodies of requests and responses in transit between two hosts. */
import type { Link } from "./link.ts";
import type { NetworkPath } from "./path.ts";

/** Bytes in transit or unread at which a sender waits, as in the initial window of HTTP/2. */
const WINDOW_BYTES = 65_535;

/** Most bytes of one packet of a body, as in an HTTP/2 frame. */
const FRAME_BYTES = 16_384;

/** Options of a {@linkcode Body}. */
export interface BodyOptions {
  /** The connection. */
  readonly link: Link;
  /** The sending side. */
  readonly from: "client" | "server";
  /** Called on the receiving side when the reader cancels before the end. */
  readonly onCancel: () => void;
}

/** A body from one host to the other, with a window as over HTTP/2. */
export class Body {
  readonly #out: NetworkPath;
  readonly #back: NetworkPath;
  // State of the sender.
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #unread = 0;
  #room: PromiseWithResolvers<void> | undefined;
  #isStopped = false;
  // State of the receiver.
  readonly #parts: Uint8Array[] = [];
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #isWanted = false;
  #isWhole = false;
  #isOver = false;

  /** The body on the receiving side. */
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;

  /** Creates a body without bytes in transit. */
  constructor({ link, from, onCancel }: BodyOptions) {
    this.#out = link.pathOf(from);
    this.#back = link.pathOf(from === "client" ? "server" : "client");
    this.readable = new ReadableStream({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => {
        this.#isWanted = true;
        this.#pump();
      },
      cancel: () => {
        this.#isOver = true;
        if (!this.#isWhole) onCancel();
      },
    }, { highWaterMark: 0 });
  }

  /**
   * Sends all bytes of a stream, at the pace of the receiver.
   *
   * @param source The bytes; `null` for none.
   * @returns Resolves with `true` once all bytes are sent, or with `false` after {@linkcode
   * Body.stop}.
   * @throws The error of the source.
   */
  async send(source: ReadableStream<Uint8Array> | null): Promise<boolean> {
    this.#reader = source?.getReader();
    while (this.#reader !== undefined && !this.#isStopped) {
      const { done, value } = await this.#reader.read();
      if (done) break;
      for (const part of this.#divide(value)) {
        if (this.#unread >= WINDOW_BYTES) {
          this.#room = Promise.withResolvers();
          await this.#room.promise;
        }
        if (this.#isStopped) return false;
        this.#unread += part.byteLength;
        this.#out.send(() => this.#arrive(part), part.byteLength);
      }
    }
    if (this.#isStopped) return false;
    this.#out.send(() => {
      this.#isWhole = true;
      this.#pump();
    });
    return true;
  }

  /** Stops on the sending side, because the receiver has left. Idempotent. */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#room?.resolve();
    this.#reader?.cancel().catch(() => {});
  }

  /**
   * Fails on the receiving side, after the bytes that have arrived.
   *
   * @param error The error of the reader.
   */
  fail(error: unknown): void {
    if (this.#isOver || this.#isWhole) return;
    this.#isOver = true;
    this.#controller.error(error);
  }

  #arrive(part: Uint8Array): void {
    if (this.#isOver) return;
    this.#parts.push(part);
    this.#pump();
  }

  #pump(): void {
    if (this.#isOver) return;
    const part = this.#isWanted ? this.#parts.shift() : undefined;
    if (part !== undefined) {
      this.#isWanted = false;
      const { byteLength } = part;
      this.#back.send(() => this.#taken(byteLength));
      this.#controller.enqueue(part);
    }
    if (!this.#isWhole || this.#parts.length > 0) return;
    this.#isOver = true;
    this.#controller.close();
  }

  #taken(bytes: number): void {
    this.#unread -= bytes;
    this.#room?.resolve();
  }

  /** Splits bytes into packets, by size and at random. */
  *#divide(bytes: Uint8Array): Generator<Uint8Array> {
    for (let start = 0; start < bytes.byteLength;) {
      const end = start + this.#out.split(Math.min(bytes.byteLength - start, FRAME_BYTES));
      yield bytes.slice(start, end);
      start = end;
    }
  }
}
