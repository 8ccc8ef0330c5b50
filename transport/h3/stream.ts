/**
 * Streams of a WebTransport session over QUIC's own, read with buffers that
 * grow with what comes, and written with their head and first bytes in one.
 *
 * What the runtime's QUIC can not do, and what follows: it can not reset a
 * stream, so `abort` looks like a normal end to the peer, and it stops reading
 * with code 0 only. The codes of a peer are read. A peer that stops reading is
 * noticed by the next write.
 *
 * @module
 */
import type {
  BidirectionalStream,
  DirectReadable,
  DirectStream,
  DirectWritable,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { type StreamFailure, streamFailure } from "./quic.ts";
import type { ReceiveCredit, SendCredit } from "./flow_control.ts";

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

/** One direction of a stream, which ends with its session at the latest. */
export interface StreamHalf {
  /** Its neighbours in {@linkcode StreamHalves}. */
  previous: StreamHalf | undefined;
  /** See `previous`. */
  next: StreamHalf | undefined;
  /**
   * Ends it at this end.
   *
   * @param error What its user gets.
   */
  fail(error: unknown): void;
  /** Ends one that failed on the wire too, once the peer knows of the session's end. */
  release(): void;
}

/**
 * The halves that are open: a list through the halves themselves. A `Set` that
 * streams come and go by leaves tables behind, which keep the streams that were
 * in them from the quick collections of garbage.
 */
export class StreamHalves {
  #first: StreamHalf | undefined = undefined;
  #size = 0;

  /** How many there are. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds a half.
   *
   * @param half One that is in no list.
   */
  add(half: StreamHalf): void {
    half.next = this.#first;
    if (this.#first !== undefined) this.#first.previous = half;
    this.#first = half;
    this.#size++;
  }

  /**
   * Takes a half off; one that is not in the list stays so.
   *
   * @param half The half.
   */
  delete(half: StreamHalf): void {
    const { previous, next } = half;
    if (previous !== undefined) previous.next = next;
    else if (this.#first === half) this.#first = next;
    else return;
    if (next !== undefined) next.previous = previous;
    half.previous = half.next = undefined;
    this.#size--;
  }

  /** All of them, to be gone through while they come and go. */
  toArray(): StreamHalf[] {
    const halves: StreamHalf[] = [];
    for (let half = this.#first; half !== undefined; half = half.next) halves.push(half);
    return halves;
  }
}

/** Credit for bytes, where both ends count. */
export interface DataCredit {
  /** What this end may send. */
  readonly send: SendCredit;
  /** What the peer may send. */
  readonly receive: ReceiveCredit;
}

/** Whose streams they are: a session. */
export interface StreamOwner {
  /** Those that are open. */
  readonly halves: StreamHalves;
  /** Bytes handed to the wire. */
  bytesSent: number;
  /** Bytes taken from the wire. */
  bytesReceived: number;
  /** Credit for bytes, where both ends count. */
  readonly credit: DataCredit | undefined;
  /** Makes the error of a stream that the peer ended before its end. */
  streamError(failure: StreamFailure): Error;
  /** Makes the error of a stream whose connection is over. */
  connectionError(cause: unknown): Error;
  /** The peer sent more than it may. */
  overrun(): void;
}

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
      this.#owner.credit?.receive.release(held.byteLength);
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
      this.#failure ??= { cause: this.#errorOf(error) };
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
    this.#owner.credit?.receive.release(byteLength);
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
    controller.close();
    controller.byobRequest?.respond(0);
  }

  #count(bytes: number): void {
    const owner = this.#owner;
    owner.bytesReceived += bytes;
    if (owner.credit !== undefined && !owner.credit.receive.receive(bytes)) owner.overrun();
  }

  /**
   * Ends it before its end. How much the peer has sent nobody tells; it counts
   * that, and would wait for ever for credit that is not given back.
   */
  #cut(): void {
    if (this.#isEnded) return;
    const held = this.#held?.byteLength ?? 0;
    this.#end();
    this.#owner.credit?.receive.release(held + MAX_UNREAD_BYTES);
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#held = undefined;
    this.#owner.halves.delete(this);
    this.#onEnd?.();
  }

  #errorOf(error: unknown): Error {
    const failure = streamFailure(error);
    return failure === undefined
      ? this.#owner.connectionError(error)
      : this.#owner.streamError(failure);
  }
}

/** The direction that this end writes. */
export class SendHalf implements StreamHalf, DirectWritable {
  /** See {@linkcode StreamHalf}. */
  previous: StreamHalf | undefined = undefined;
  /** See {@linkcode StreamHalf}. */
  next: StreamHalf | undefined = undefined;

  readonly #owner: StreamOwner;
  readonly #stream: Deno.QuicSendStream;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #onEnd: (() => void) | undefined;
  #pending: PromiseWithResolvers<void> | undefined = undefined;
  #morePending: Set<PromiseWithResolvers<void>> | undefined = undefined;
  #head: Uint8Array | undefined;
  /** Writes that wait for credit, in order; never rejects. */
  #waiting: Promise<void> | undefined = undefined;
  #givingUp: AbortController | undefined = undefined;
  #isClosing = false;
  #isEnded = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #writable: SendStream | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;

  /**
   * Takes over a stream.
   *
   * @param owner The session.
   * @param stream Is written to.
   * @param options What has to go out ahead of everything else, if anything, and what to do at the end.
   */
  constructor(
    owner: StreamOwner,
    stream: Deno.QuicSendStream,
    options: {
      readonly head?: Uint8Array | undefined;
      readonly onEnd?: (() => void) | undefined;
    } = {},
  ) {
    this.#owner = owner;
    this.#stream = stream;
    this.#writer = stream.getWriter();
    this.#writer.closed.catch(() => {}); // Whoever writes is told.
    this.#head = options.head;
    this.#onEnd = options.onEnd;
    owner.halves.add(this);
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.#stream.sendOrder;
  }

  set sendOrder(value: number) {
    this.#stream.sendOrder = value;
  }

  /** See {@linkcode DirectStream.write}. */
  write(bytes: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isClosing) return Promise.reject(new TypeError("Cannot write: the stream is closed"));
    const credit = this.#owner.credit?.send;
    const isFree = credit === undefined ||
      this.#waiting === undefined && credit.takeNow(bytes.byteLength);
    return isFree ? this.#write(bytes) : this.#writeInTurn(bytes);
  }

  /** Sends the head by itself, if nothing was written yet. */
  flushHead(): void {
    if (this.#head !== undefined && !this.#isEnded) this.#write(EMPTY).catch(() => {});
  }

  /** See {@linkcode DirectStream.close}. */
  async close(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    if (this.#isClosing) return;
    this.flushHead();
    this.#isClosing = true;
    if (this.#waiting !== undefined) await this.#waiting;
    if (this.#failure !== undefined) throw (this.#failure as { cause: unknown }).cause;
    await this.#settle(this.#writer.close());
    this.#end();
  }

  /** See {@linkcode DirectStream.abort}; to the peer it looks like a normal end. */
  abort(reason?: unknown): void {
    if (this.#isEnded || this.#isClosing && this.#waiting === undefined) return;
    this.flushHead();
    this.#fail(reason ?? new TypeError("The stream was aborted"));
    this.#writer.abort(reason).catch(() => {});
  }

  /** Ends it with the session. */
  fail(error: unknown): void {
    if (this.#isEnded) return;
    this.#fail(error);
    this.#controller?.error(error);
  }

  /** Not before the peer knows: to it this looks like a normal end. */
  release(): void {
    this.#writer.abort().catch(() => {});
  }

  /** The same as a writable stream; made when it is asked for. */
  get writable(): SendStream {
    if (this.#writable !== undefined) return this.#writable;
    const writable = new WritableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        if (this.#failure !== undefined) controller.error(this.#failure.cause);
        // A write that waits for the peer would hold up the abort otherwise.
        controller.signal.addEventListener(
          "abort",
          () => this.abort(controller.signal.reason),
          { once: true },
        );
      },
      write: (chunk) => this.write(checkChunk(chunk)),
      close: () => this.close(),
      abort: (reason) => this.abort(reason),
    });
    return this.#writable = Object.defineProperty(writable, "direct", { value: this });
  }

  #write(bytes: Uint8Array): Promise<void> {
    const owner = this.#owner;
    const head = this.#head;
    let data = bytes;
    if (head !== undefined) {
      this.#head = undefined;
      data = concat(head, bytes);
    }
    owner.bytesSent += bytes.byteLength;
    return this.#settle(this.#writer.write(data));
  }

  /** What the runtime does, unless the session ends first. */
  #settle(done: Promise<void>): Promise<void> {
    const write = Promise.withResolvers<void>();
    // Most often there is one at a time.
    if (this.#pending === undefined) this.#pending = write;
    else (this.#morePending ??= new Set()).add(write);
    done.then(
      () => {
        this.#forget(write);
        write.resolve();
      },
      (error) => {
        this.#forget(write);
        if (this.#failure === undefined) this.#fail(this.#errorOf(error));
        const { cause } = this.#failure!;
        write.reject(cause);
        this.#controller?.error(cause);
      },
    );
    return write.promise;
  }

  #forget(write: PromiseWithResolvers<void>): void {
    if (this.#pending === write) this.#pending = undefined;
    else this.#morePending?.delete(write);
  }

  #fail(error: unknown): void {
    this.#failure = { cause: error };
    this.#isClosing = true;
    this.#end();
    this.#pending?.reject(error);
    for (const write of this.#morePending ?? []) write.reject(error);
    this.#givingUp?.abort(error);
  }

  /** One after the other: what is written in parts must not be mixed. */
  #writeInTurn(bytes: Uint8Array): Promise<void> {
    const write = (this.#waiting ?? Promise.resolve()).then(() => this.#writeWithCredit(bytes));
    const waiting = this.#waiting = write.then(() => {}, () => {}).then(() => {
      if (this.#waiting === waiting) this.#waiting = undefined;
    });
    return write;
  }

  async #writeWithCredit(bytes: Uint8Array): Promise<void> {
    const { send } = this.#owner.credit!;
    const { signal } = this.#givingUp ??= new AbortController();
    for (let rest = bytes; rest.byteLength > 0;) {
      if (this.#failure !== undefined) throw this.#failure.cause;
      const count = await send.take(rest.byteLength, { signal });
      await this.#write(rest.subarray(0, count));
      rest = rest.subarray(count);
    }
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#owner.halves.delete(this);
    this.#onEnd?.();
  }

  #errorOf(error: unknown): Error {
    const failure = streamFailure(error);
    return failure === undefined
      ? this.#owner.connectionError(error)
      : this.#owner.streamError(failure);
  }
}

/** A bidirectional stream: both halves, by plain calls or as web streams. */
export class Http3Stream implements BidirectionalStream, DirectStream {
  readonly #receive: ReceiveHalf;
  readonly #send: SendHalf;

  /**
   * Joins two halves.
   *
   * @param receive What the peer writes.
   * @param send What this end writes.
   */
  constructor(receive: ReceiveHalf, send: SendHalf) {
    this.#receive = receive;
    this.#send = send;
  }

  /** What the peer writes. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#receive.readable;
  }

  /** What this end writes. */
  get writable(): WritableStream<Uint8Array> {
    return this.#send.writable;
  }

  /** This stream, by plain calls. */
  get direct(): DirectStream {
    return this;
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.#send.sendOrder;
  }

  set sendOrder(value: number) {
    this.#send.sendOrder = value;
  }

  /** See {@linkcode DirectStream.read}. */
  read(used?: Uint8Array | null): Promise<Uint8Array | null> {
    return this.#receive.read(used);
  }

  /** See {@linkcode DirectStream.write}. */
  write(bytes: Uint8Array): Promise<void> {
    return this.#send.write(bytes);
  }

  /** See {@linkcode DirectStream.close}. */
  close(): Promise<void> {
    return this.#send.close();
  }

  /** See {@linkcode DirectStream.cancel}. */
  cancel(reason?: unknown): void {
    this.#receive.cancel(reason);
  }

  /** See {@linkcode DirectStream.abort}. */
  abort(reason?: unknown): void {
    this.#send.abort(reason);
  }
}

const EMPTY = new Uint8Array();

/** Where the next bytes go: the memory of earlier ones if it is large enough, or new memory. */
function viewOf(used: Uint8Array | null | undefined, size: number): Uint8Array<ArrayBuffer> {
  const buffer = used?.buffer;
  return buffer instanceof ArrayBuffer && buffer.byteLength >= size
    ? new Uint8Array(buffer)
    : new Uint8Array(size);
}

/** Joins two pieces. */
export function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.byteLength + b.byteLength);
  joined.set(a);
  joined.set(b, a.byteLength);
  return joined;
}

function checkChunk(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  if (chunk instanceof ArrayBuffer) return new Uint8Array(chunk);
  if (ArrayBuffer.isView(chunk)) {
    return new Uint8Array(chunk.buffer as ArrayBuffer, chunk.byteOffset, chunk.byteLength);
  }
  throw new TypeError(`Cannot write to stream: chunk must be bytes, received ${typeof chunk}`);
}
