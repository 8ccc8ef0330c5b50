/**
 * The direction of a stream that the peer writes.
 *
 * @module
 */
import type { DirectReadable, ReceiveStream } from "../connection.ts";
import { errorOf, type StreamHalf, type StreamOwner } from "./stream_halves.ts";

/** The first read of a stream: its head and a small message fit. A pending read pins its buffer. */
export const FIRST_READ_BYTES = 1_024;

/** After a small message there is most often the end. */
const MIN_READ_BYTES = 256;

/** What the runtime holds of a stream that nobody reads, at most. */
const MAX_UNREAD_BYTES = 1_250_000;

/** The largest read. */
const MAX_READ_BYTES = 65_536;

/** A read that fills its buffer is followed by one so many times larger. */
const GROWTH = 64;

/** After so many small reads in a row a stream carries messages, and no large buffer waits for them. */
const MAX_SMALL_READS = 16;

/** The direction that the peer writes. */
export class ReceiveHalf implements StreamHalf, DirectReadable {
  /** See {@linkcode StreamHalf}. */
  previous: StreamHalf | undefined = undefined;
  /** See {@linkcode StreamHalf}. */
  next: StreamHalf | undefined = undefined;

  readonly #owner: StreamOwner;
  readonly #reader: ReadableStreamBYOBReader;
  readonly #onEnd: (() => void) | undefined;
  #held: Uint8Array | undefined;
  #size = MIN_READ_BYTES;
  #smallReads = 0;
  #isEnded = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #readable: ReceiveStream | undefined = undefined;
  #controller: ReadableByteStreamController | undefined = undefined;
  #ahead: Promise<Uint8Array | null> | undefined = undefined;
  #isFinished = false;

  /**
   * Takes over a reader.
   *
   * @param owner The session.
   * @param reader Reads the stream.
   * @param head What was read of it already, whether there is surely more, and what to do at its end.
   */
  constructor(
    owner: StreamOwner,
    reader: ReadableStreamBYOBReader,
    head: {
      readonly held?: Uint8Array | undefined;
      readonly isFull?: boolean;
      readonly onEnd?: (() => void) | undefined;
    } = {},
  ) {
    this.#owner = owner;
    this.#reader = reader;
    this.#onEnd = head.onEnd;
    const { held } = head;
    if (held !== undefined && held.byteLength > 0) {
      this.#held = held;
      this.#count(held.byteLength);
      if (head.isFull) this.#size = MAX_READ_BYTES;
    }
    owner.halves.add(this);
  }

  /** See {@linkcode DirectStream.read}. */
  read(used?: Uint8Array | null): Promise<Uint8Array | null> {
    const held = this.#held;
    if (held !== undefined) {
      this.#held = undefined;
      this.#owner.dataCredit?.receive.release(held.byteLength);
      return Promise.resolve(held);
    }
    return this.#read(used);
  }

  /** See {@linkcode DirectStream.cancel}. */
  cancel(reason?: unknown): void {
    this.#isFinished = true;
    if (this.#isEnded) return;
    this.#cut();
    this.#reader.cancel(reason).catch(() => {}); // The connection may be gone.
  }

  /** Ends it with the session. */
  fail(error: unknown): void {
    if (this.#isEnded) return;
    this.#failure = { cause: error };
    this.cancel();
    this.#controller?.error(error);
  }

  /** There is nothing left of it. */
  release(): void {}

  /** The same as a byte stream; made when it is asked for. */
  get readable(): ReceiveStream {
    return this.#readable ??= Object.defineProperty(
      new ReadableStream({
        type: "bytes",
        start: (controller) => {
          this.#controller = controller;
        },
        pull: (controller) => this.#pull(controller),
        cancel: (reason) => this.cancel(reason),
      }, { highWaterMark: 0 }),
      "direct",
      { value: this },
    );
  }

  async #read(used?: Uint8Array | null): Promise<Uint8Array | null> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    if (this.#isEnded) return null;
    const view = viewOf(used, this.#size);
    const room = view.byteLength; // It is detached while it is read into.
    let bytes: Uint8Array | undefined;
    try {
      const result = await this.#reader.read(view);
      if (!result.done) bytes = result.value;
    } catch (error) {
      this.#failure ??= { cause: errorOf(this.#owner, error) };
      this.#cut();
    }
    // The session may have ended it meanwhile.
    if (this.#failure !== undefined) throw (this.#failure as { cause: unknown }).cause;
    if (bytes === undefined) {
      this.#end();
      return null;
    }
    const { byteLength } = bytes;
    if (byteLength === room) this.#size = Math.min(MAX_READ_BYTES, this.#size * GROWTH);
    this.#smallReads = byteLength < MIN_READ_BYTES ? this.#smallReads + 1 : 0;
    if (this.#smallReads > MAX_SMALL_READS) this.#size = MIN_READ_BYTES;
    this.#count(byteLength);
    this.#owner.dataCredit?.receive.release(byteLength);
    return bytes;
  }

  async #pull(controller: ReadableByteStreamController): Promise<void> {
    const bytes = await (this.#ahead ?? this.read());
    if (bytes === null) return this.#finish(controller);
    controller.enqueue(bytes as Uint8Array<ArrayBuffer>);
    // One read ahead: an end that nobody reads would give the peer no new stream.
    this.#ahead = this.read();
    this.#ahead.then((next) => next ?? this.#finish(controller), () => {});
  }

  #finish(controller: ReadableByteStreamController): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    try {
      controller.close();
    } catch {
      return; // The end is inside an element that is wider than a byte: the reader was told.
    }
    controller.byobRequest?.respond(0);
  }

  #count(bytes: number): void {
    const owner = this.#owner;
    owner.bytesReceived += bytes;
    if (owner.dataCredit !== undefined && !owner.dataCredit.receive.receive(bytes)) owner.overrun();
  }

  /**
   * Ends it before its end. How much the peer has sent nobody tells; it counts
   * that, and would wait for ever for credit that is not given back.
   */
  #cut(): void {
    if (this.#isEnded) return;
    const held = this.#held?.byteLength ?? 0;
    this.#end();
    this.#owner.dataCredit?.receive.release(held + MAX_UNREAD_BYTES);
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#held = undefined;
    this.#owner.halves.delete(this);
    this.#onEnd?.();
  }
}

/** Where the next bytes go: the memory of earlier ones if it is large enough, or new memory. */
function viewOf(used: Uint8Array | null | undefined, size: number): Uint8Array<ArrayBuffer> {
  const buffer = used?.buffer;
  return buffer instanceof ArrayBuffer && buffer.byteLength >= size
    ? new Uint8Array(buffer)
    : new Uint8Array(size);
}
