/**
 * A stream of QMux, by plain calls or as web streams: its two directions follow RFC 9000, section 3.
 *
 * @module
 */
import { StreamError, TimeoutError } from "../../errors.ts";
import { ReceiveCredit } from "../_flow_control.ts";
import type { StreamAccount } from "../_ledger.ts";
import { writableOf } from "../_send_writable.ts";
import type {
  BidirectionalStream,
  DirectReadable,
  DirectStream,
  DirectWritable,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
  StreamDirection,
} from "../connection.ts";
import { MAX_VARINT } from "../quic/varint.ts";
import { startTimer } from "../within.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import { FrameType } from "./frames.ts";
import type { RecordWriter } from "./record.ts";

/** Below so many bytes a chunk is put together with those that follow. */
const SMALL_BYTES = 4_096;

/** Small chunks are put together up to so many bytes. */
const MAX_JOINED_BYTES = 16_384;

/** The memory of small chunks that are put together, at first. */
const FIRST_CAPACITY = 256;

/**
 * A queue of chunks. Small ones are put together: a peer that sends byte by byte
 * would else make this end hold a hundred times what it sends. So at most about
 * twice the bytes are held.
 */
class Chunks {
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  #head = 0;
  /** The memory of the last chunk, if it has room. */
  #tail: Uint8Array<ArrayBuffer> | undefined = undefined;
  #tailLength = 0;
  #byteLength = 0;

  /** Bytes in it. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /**
   * Adds bytes at the end.
   *
   * @param bytes What came.
   * @param isOwn Whether the bytes have their memory for themselves.
   */
  push(bytes: Uint8Array, isOwn: boolean): void {
    const { byteLength } = bytes;
    this.#byteLength += byteLength;
    if (byteLength < SMALL_BYTES) return this.#join(bytes);
    this.#closeTail();
    this.#chunks.push(isOwn ? bytes as Uint8Array<ArrayBuffer> : bytes.slice());
  }

  /** Takes the first chunk out. */
  shift(): Uint8Array<ArrayBuffer> | undefined {
    if (this.#head === this.#chunks.length) this.#closeTail();
    const chunk = this.#chunks[this.#head];
    if (chunk === undefined) return undefined;
    this.#head++;
    if (this.#head === this.#chunks.length) {
      this.#chunks = [];
      this.#head = 0;
    }
    this.#byteLength -= chunk.byteLength;
    return chunk;
  }

  #join(bytes: Uint8Array): void {
    const needed = this.#tailLength + bytes.byteLength;
    if (needed > MAX_JOINED_BYTES) this.#closeTail();
    const length = this.#tailLength;
    let tail = this.#tail;
    if (tail === undefined) {
      // Most often it is the only one.
      this.#tail = bytes.slice();
      this.#tailLength = bytes.byteLength;
      return;
    }
    if (length + bytes.byteLength > tail.byteLength) {
      const capacity = Math.max(FIRST_CAPACITY, (length + bytes.byteLength) * 2);
      const grown = new Uint8Array(Math.min(MAX_JOINED_BYTES, capacity));
      grown.set(tail.subarray(0, length));
      this.#tail = tail = grown;
    }
    tail.set(bytes, length);
    this.#tailLength = length + bytes.byteLength;
  }

  #closeTail(): void {
    const tail = this.#tail;
    if (tail === undefined) return;
    this.#chunks.push(tail.subarray(0, this.#tailLength));
    this.#tail = undefined;
    this.#tailLength = 0;
  }
}

/** A connection, as its streams see it. */
export interface StreamHost {
  /** Bytes of all streams that the peer may send. */
  readonly dataReceived: ReceiveCredit;
  /** Bytes of all streams that this end may send now. */
  readonly dataLeft: number;
  /** Counts bytes of streams that were put into a record. */
  dataSent(byteLength: number): void;
  /** Puts bytes of a stream into a record at once, if nothing is ahead of them; tells how many. */
  sendNow(half: SendHalf, bytes: Uint8Array): number;
  /** A stream has something to send. */
  wantsToSend(half: SendHalf): void;
  /** A stream has nothing to send any more. */
  withdrawn(half: SendHalf): void;
  /** A stream has a frame without a payload to send. */
  wantsControl(stream: QmuxStream): void;
  /** A direction of a stream is over. */
  halfEnded(stream: QmuxStream): void;
}

/**
 * Reads the code that an abort or a cancel carries.
 *
 * @param reason What the application gave.
 * @returns Its `streamErrorCode`, or 0 where it has none that is an unsigned number of 32 bits.
 */
export function codeOf(reason: unknown): number {
  if (typeof reason !== "object" || reason === null) return 0;
  const { streamErrorCode } = reason as { streamErrorCode?: unknown };
  return typeof streamErrorCode === "number" && streamErrorCode >>> 0 === streamErrorCode
    ? streamErrorCode
    : 0;
}

/** What a write, or the end, waits for. */
export type SendWait = "nothing" | "wire" | "stream" | "connection";

/** What there is to wait for, in the words of an error. */
const WAITS: Readonly<Record<SendWait, string>> = {
  nothing: "the wire took nothing",
  wire: "the wire took nothing",
  stream: "the peer granted no bytes of the stream",
  connection: "the peer granted no bytes of the connection",
};

const DONE: Promise<void> = Promise.resolve();
const EMPTY = new Uint8Array();

/** A write that did not go out at once. */
interface Write {
  readonly bytes: Uint8Array;
  /** How many there were. */
  readonly end: number;
  at: number;
  readonly done: PromiseWithResolvers<void>;
}

/** The direction that this end writes. */
export class SendHalf implements DirectWritable {
  /** Higher goes first. */
  sendOrder: number;
  /** What it waits for; the connection keeps it in one list at most. */
  waitsFor: SendWait = "nothing";

  readonly #stream: QmuxStream;
  readonly #host: StreamHost;
  readonly #writes: Write[] = [];
  #end: PromiseWithResolvers<void> | undefined = undefined;
  #limit: number;
  #offset = 0;
  #isKnown = false;
  #isBlockedTold = false;
  #toTellBlocked = false;
  #resetCode: number | undefined = undefined;
  #isClosing = false;
  #isOver = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #writable: SendStream | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;

  /**
   * Creates the direction.
   *
   * @param stream The stream.
   * @param host Its connection.
   * @param options What the peer allowed of it at first, and its order.
   */
  constructor(
    stream: QmuxStream,
    host: StreamHost,
    options: { readonly limit: number; readonly sendOrder?: number | undefined },
  ) {
    this.#stream = stream;
    this.#host = host;
    this.#limit = options.limit;
    this.sendOrder = options.sendOrder ?? 0;
  }

  /** Whether nothing of it is left to be sent. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** The stream that it is a direction of. */
  get stream(): QmuxStream {
    return this.#stream;
  }

  /** Whether the peer may take bytes that were not sent yet. */
  get hasRoom(): boolean {
    return this.#offset < this.#limit;
  }

  /**
   * See {@linkcode DirectWritable.write}. A write that gives up when a part of it was sent resets the
   * stream, which could not be understood any more.
   *
   * @param bytes What. They MUST NOT be changed before the write is done.
   * @param options Its `signal` and `timeoutMs` give up.
   * @throws {TimeoutError} If `timeoutMs` passed first; it says what was waited for.
   */
  write(
    bytes: Uint8Array,
    options?: Pick<OpenStreamOptions, "signal" | "timeoutMs">,
  ): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isClosing) return Promise.reject(new TypeError("Cannot write: the stream is closed"));
    if (options?.signal?.aborted) return Promise.reject(options.signal.reason);
    const sent = this.#writes.length > 0 ? 0 : this.#host.sendNow(this, bytes);
    if (sent === bytes.byteLength) return DONE;
    const end = bytes.byteLength;
    const write: Write = { bytes, end, at: sent, done: Promise.withResolvers() };
    this.#writes.push(write);
    this.#host.wantsToSend(this);
    return options === undefined ? write.done.promise : this.#within(write, options);
  }

  /** See {@linkcode DirectWritable.close}. */
  close(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isClosing) return this.#end?.promise ?? DONE;
    this.#isClosing = true;
    this.#end = Promise.withResolvers();
    this.#host.wantsToSend(this);
    return this.#end.promise;
  }

  /** See {@linkcode DirectWritable.abort}. */
  abort(reason?: unknown): void {
    if (this.#isOver || this.#failure !== undefined) return;
    const code = codeOf(reason);
    this.#reset(
      code,
      reason ?? new StreamError("The stream was aborted", {
        streamErrorCode: code,
        by: "local",
      }),
    );
  }

  /** The peer reads no more. */
  stopped(code: number): void {
    if (this.#isOver || this.#failure !== undefined) return;
    const message = `The peer stopped reading the stream with code ${code}`;
    const error = new StreamError(message, { streamErrorCode: code, by: "remote" });
    // One that is not exact cannot be sent back.
    this.#reset(Math.min(code, MAX_VARINT), error);
    this.#controller?.error(error);
  }

  /** The peer takes more. */
  raise(limit: number): void {
    if (limit <= this.#limit || this.#isOver) return;
    this.#limit = limit;
    this.#isBlockedTold = false;
    if (this.waitsFor !== "stream") return;
    this.waitsFor = "nothing";
    this.#host.wantsToSend(this);
  }

  /** Ends it with the connection. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#failure !== undefined) return;
    this.#fail(error);
    this.#controller?.error(error);
    this.#stream.account.ended(error);
  }

  /** Lets the peer know of the stream, if nothing else did. */
  announce(): void {
    if (this.#isKnown || this.#isOver || this.#failure !== undefined) return;
    if (this.#writes.length === 0) this.#writes.push(NOTHING);
    this.#host.wantsToSend(this);
  }

  /** The same as a writable stream; made when it is asked for. */
  get writable(): SendStream {
    return this.#writable ??= writableOf(this, (controller) => {
      this.#controller = controller;
      if (this.#failure !== undefined) controller.error(this.#failure.cause);
    });
  }

  /**
   * Puts bytes into a record.
   *
   * @param record The record.
   * @param bytes What is to be sent, from `at` on.
   * @param at Where in it.
   * @param quantum How many at most.
   * @returns How many: none where there is no room, or the peer takes none.
   */
  put(record: RecordWriter, bytes: Uint8Array, at: number, quantum: number): number {
    const { id } = this.#stream;
    const count = Math.min(
      bytes.byteLength - at,
      quantum,
      this.#limit - this.#offset,
      this.#host.dataLeft,
      record.payloadRoom(id, this.#offset),
    );
    if (count <= 0) return 0;
    record.stream(id, this.#offset, { bytes, start: at, end: at + count }, false);
    this.#sent(count);
    return count;
  }

  /**
   * Puts what is to be sent into a record, as far as it fits.
   *
   * @param record The record, with some room.
   * @param quantum How many bytes of payload at most.
   * @returns Whether there is more.
   */
  fill(record: RecordWriter, quantum: number): boolean {
    if (this.#isOver || this.#failure !== undefined) return false;
    const { id } = this.#stream;
    let left = quantum;
    while (true) {
      const write = this.#writes[0];
      if (write === undefined && !this.#isClosing) return false;
      const { bytes, at, end } = write ?? NOTHING;
      if (bytes.byteLength !== end) {
        this.#reset(
          0,
          new TypeError("Cannot write: the bytes went elsewhere before they were sent"),
        );
        return false;
      }
      const wanted = end - at;
      const allowed = Math.min(this.#limit - this.#offset, this.#host.dataLeft);
      const room = Math.min(left, record.payloadRoom(id, this.#offset));
      if (room < 0 || room === 0 && wanted > 0) return true;
      const count = Math.min(wanted, allowed, room);
      if (count <= 0 && wanted > 0) return this.#blocked();
      const isFin = this.#isClosing && count === wanted && this.#writes.length <= 1;
      record.stream(id, this.#offset, { bytes, start: at, end: at + count }, isFin);
      this.#sent(count);
      left -= count;
      if (write !== undefined) {
        write.at += count;
        if (count === wanted) {
          this.#writes.shift();
          write.done.resolve();
        }
      }
      if (isFin) {
        this.#isOver = true;
        this.#end?.resolve();
        this.#stream.account.ended();
        this.#host.halfEnded(this.#stream);
        return false;
      }
      if (record.isFull) return this.#writes.length > 0 || this.#isClosing;
    }
  }

  /** Puts the frames without a payload into a record. */
  fillControl(record: RecordWriter): void {
    const { id } = this.#stream;
    if (this.#toTellBlocked) {
      this.#toTellBlocked = false;
      if (this.#failure === undefined && !this.#isOver && !this.hasRoom) {
        record.control(FrameType.streamDataBlocked, id, this.#limit);
      }
    }
    if (this.#resetCode === undefined || this.#isOver) return;
    record.reset(id, this.#resetCode, this.#offset);
    this.#isOver = true;
    this.#host.halfEnded(this.#stream);
  }

  /** Whether there are frames without a payload to be sent. */
  get hasControl(): boolean {
    return !this.#isOver && (this.#toTellBlocked || this.#resetCode !== undefined);
  }

  #sent(count: number): void {
    this.#offset += count;
    this.#isKnown = true;
    if (count === 0) return;
    this.#stream.account.ledger.streamBytesSent += count;
    this.#host.dataSent(count);
  }

  /** There are bytes that the peer does not take. */
  #blocked(): boolean {
    if (this.hasRoom) {
      this.waitsFor = "connection";
      return true;
    }
    this.waitsFor = "stream";
    if (!this.#isBlockedTold) {
      this.#isBlockedTold = this.#toTellBlocked = true;
      this.#host.wantsControl(this.#stream);
    }
    return true;
  }

  #reset(code: number, error: unknown): void {
    this.#resetCode = code;
    this.#fail(error);
    this.#host.withdrawn(this);
    this.#stream.account.ended(error);
    this.#host.wantsControl(this.#stream);
  }

  #fail(error: unknown): void {
    this.#failure = { cause: error };
    this.#isClosing = true;
    for (const { done } of this.#writes.splice(0)) done.reject(error);
    if (this.#end !== undefined) {
      this.#end.promise.catch(() => {});
      this.#end.reject(error);
    }
  }

  /** Waits for a write, but not for ever. */
  async #within(
    write: Write,
    { signal, timeoutMs }: Pick<OpenStreamOptions, "signal" | "timeoutMs">,
  ): Promise<void> {
    const giveUp = (error: unknown) => {
      const at = this.#writes.indexOf(write);
      if (at < 0) return;
      write.done.reject(error);
      if (write.at > 0) return this.#reset(0, error);
      this.#writes.splice(at, 1);
      this.#host.withdrawn(this);
      // What is behind it, be it the end alone, may not have to wait.
      if (this.#writes.length > 0 || this.#isClosing) this.#host.wantsToSend(this);
    };
    const onAbort = () => giveUp(signal?.reason);
    const timer = startTimer(timeoutMs, (ms) => {
      giveUp(new TimeoutError(`Cannot write: ${WAITS[this.waitsFor]} within ${ms} ms`, ms));
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await write.done.promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

/** A write of no bytes, for which nobody waits. */
const NOTHING: Write = {
  bytes: EMPTY,
  end: 0,
  at: 0,
  done: { promise: DONE, resolve() {}, reject() {} },
};

/** The direction that the peer writes. */
export class ReceiveHalf implements DirectReadable {
  readonly #stream: QmuxStream;
  readonly #host: StreamHost;
  #chunks: Chunks | undefined = undefined;
  readonly #credit: ReceiveCredit | undefined;
  #received = 0;
  #grantToSend: number | undefined = undefined;
  #stopCode: number | undefined = undefined;
  #finalSize: number | undefined = undefined;
  /** Nobody reads any more; the peer may not know of it yet. */
  #isCut = false;
  #isOver = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #waiting: PromiseWithResolvers<Uint8Array | null> | undefined = undefined;
  #readable: ReceiveStream | undefined = undefined;
  #controller: ReadableByteStreamController | undefined = undefined;
  #isWanted = false;
  #isFinished = false;

  /**
   * Creates the direction.
   *
   * @param stream The stream.
   * @param host Its connection.
   * @param window Bytes that the peer may be ahead of who reads; `undefined` where nobody counts.
   */
  constructor(stream: QmuxStream, host: StreamHost, window: number | undefined) {
    this.#stream = stream;
    this.#host = host;
    if (window === undefined) return;
    this.#credit = new ReceiveCredit(window, (limit) => {
      this.#grantToSend = limit;
      host.wantsControl(stream);
    });
  }

  /** Whether nothing comes any more. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Bytes that came. */
  get received(): number {
    return this.#received;
  }

  /** Bytes that came and were not read. */
  get heldBytes(): number {
    return this.#chunks?.byteLength ?? 0;
  }

  /** See {@linkcode DirectReadable.read}. */
  read(): Promise<Uint8Array | null> {
    const chunk = this.#take();
    if (chunk !== undefined) return Promise.resolve(chunk);
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isOver || this.#isCut) return Promise.resolve(null);
    if (this.#waiting !== undefined) {
      return Promise.reject(new TypeError("Cannot read: a read of the stream waits already"));
    }
    this.#waiting = Promise.withResolvers();
    return this.#waiting.promise;
  }

  /** See {@linkcode DirectReadable.cancel}. */
  cancel(reason?: unknown): void {
    this.#isFinished = true;
    if (this.#isOver || this.#isCut) return;
    this.#isCut = true;
    this.#stream.account.cut(reason, "stopped reading");
    this.#drop();
    this.#waiting?.resolve(null);
    this.#waiting = undefined;
    if (this.#finalSize !== undefined) return this.#over();
    this.#stopCode = codeOf(reason);
    this.#host.wantsControl(this.#stream);
  }

  /**
   * Takes bytes that came.
   *
   * @param offset Where they are in the stream.
   * @param bytes The bytes.
   * @param options Whether they are the last ones, and have their memory for themselves.
   * @throws {QmuxError} If they may not come.
   */
  deliver(
    offset: number,
    bytes: Uint8Array,
    options: { readonly isFin: boolean; readonly isOwn: boolean },
  ): void {
    const { byteLength } = bytes;
    const end = this.#received + byteLength;
    if (this.#finalSize !== undefined) {
      if (end === this.#finalSize && offset === this.#received) return; // It says so again.
      throw new QmuxError(QuicError.finalSizeError, "Bytes came behind the end of their stream");
    }
    if (offset < this.#received || offset > this.#received) {
      throw new QmuxError(
        QuicError.protocolViolation,
        `Expected bytes from ${this.#received} of the stream on, received those from ${offset} on`,
      );
    }
    if (byteLength > 0) {
      this.#stream.account.ledger.streamBytesReceived += byteLength;
      this.#count(byteLength);
      this.#accept(bytes, options.isOwn);
    }
    if (options.isFin) this.#finish();
  }

  /**
   * The peer cut its direction.
   *
   * @param code The application's code.
   * @param finalSize Bytes that it sent of it; `undefined` where the framing does not say.
   * @throws {QmuxError} If that cannot be.
   */
  reset(code: number, finalSize: number = this.#received): void {
    if (finalSize < this.#received || (this.#finalSize ?? finalSize) !== finalSize) {
      throw new QmuxError(
        QuicError.finalSizeError,
        `Expected ${
          this.#finalSize ?? `at least ${this.#received}`
        } bytes of the stream, received a reset after ${finalSize}`,
      );
    }
    if (this.#isOver) return;
    const isCut = this.#isCut;
    const unseen = finalSize - this.#received;
    this.#count(unseen);
    if (unseen > 0) this.#host.dataReceived.release(unseen);
    this.#drop();
    this.#finalSize = finalSize;
    this.#isCut = true;
    if (!isCut) {
      const message = `The peer reset the stream with code ${code}`;
      const error = new StreamError(message, { streamErrorCode: code, by: "remote" });
      this.#fail(error);
      this.#stream.account.ended(error);
    }
    this.#over();
  }

  /** Ends it with the connection; what came whole can still be read. */
  fail(error: unknown): void {
    if (this.#isOver || this.#finalSize !== undefined && !this.#isCut) return;
    this.#chunks = undefined;
    this.#isOver = true;
    if (this.#isCut) return;
    this.#isCut = true;
    this.#fail(error);
    this.#stream.account.ended(error);
  }

  /** The peer waits for credit of the stream. */
  grantAll(): void {
    if (!this.#isCut) this.#credit?.grantAll();
  }

  /** Whether there are frames without a payload to be sent. */
  get hasControl(): boolean {
    return !this.#isOver && (this.#grantToSend !== undefined || this.#stopCode !== undefined);
  }

  /** Puts the frames without a payload into a record. */
  fillControl(record: RecordWriter): void {
    const { id } = this.#stream;
    const stop = this.#stopCode;
    const grant = this.#grantToSend;
    this.#stopCode = this.#grantToSend = undefined;
    // The peer has sent all, and waits for nothing.
    if (this.#isOver || this.#finalSize !== undefined) return;
    if (stop !== undefined) record.control(FrameType.stopSending, id, stop);
    else if (grant !== undefined && !this.#isCut) {
      record.control(FrameType.maxStreamData, id, grant);
    }
  }

  /** The same as a byte stream; made when it is asked for. */
  get readable(): ReceiveStream {
    return this.#readable ??= Object.defineProperty(
      new ReadableStream({
        type: "bytes",
        start: (controller) => {
          this.#controller = controller;
          if (this.#failure !== undefined) controller.error(this.#failure.cause);
        },
        pull: () => this.#pull(),
        cancel: (reason) => this.cancel(reason),
      }, { highWaterMark: 0 }),
      "direct",
      { value: this },
    );
  }

  /** Takes what was not read out, and tells the peer that there is room for more. */
  #take(): Uint8Array<ArrayBuffer> | undefined {
    const chunk = this.#chunks?.shift();
    if (chunk === undefined) return undefined;
    this.#release(chunk.byteLength);
    if (this.#finalSize !== undefined && this.heldBytes === 0) this.#readWhole();
    return chunk;
  }

  #accept(bytes: Uint8Array, isOwn: boolean): void {
    if (this.#isCut) return this.#host.dataReceived.release(bytes.byteLength);
    if (this.#waiting === undefined && !this.#isWanted) {
      this.#chunks ??= new Chunks();
      return this.#chunks.push(bytes, isOwn);
    }
    this.#release(bytes.byteLength);
    const chunk = (isOwn ? bytes : bytes.slice()) as Uint8Array<ArrayBuffer>;
    if (this.#waiting === undefined) {
      this.#isWanted = false;
      return this.#controller!.enqueue(chunk);
    }
    this.#waiting.resolve(chunk);
    this.#waiting = undefined;
  }

  #count(byteLength: number): void {
    const isAllowed = (this.#credit?.receive(byteLength) ?? true) &&
      this.#host.dataReceived.receive(byteLength);
    this.#received += byteLength;
    if (isAllowed) return;
    throw new QmuxError(QuicError.flowControlError, "More bytes came than were allowed");
  }

  #release(byteLength: number): void {
    if (this.#finalSize === undefined) this.#credit?.release(byteLength);
    // What carries messages must not wait for who grants by hand.
    if (this.#stream.carriesMessages) this.#host.dataReceived.giveBack(byteLength);
    else this.#host.dataReceived.release(byteLength);
  }

  /** The peer has sent all. */
  #finish(): void {
    this.#finalSize = this.#received;
    if (this.#isCut) return this.#over();
    if (this.heldBytes > 0) return;
    this.#readWhole();
    if (this.#controller !== undefined) this.#finishReadable();
  }

  /** All of it was read. */
  #readWhole(): void {
    this.#isCut = true;
    this.#waiting?.resolve(null);
    this.#waiting = undefined;
    this.#stream.account.ended();
    this.#over();
  }

  #pull(): void {
    const chunk = this.#take();
    if (chunk === undefined) {
      this.#isWanted = !this.#isOver;
      if (this.#isOver) this.#finishReadable();
      return;
    }
    this.#controller!.enqueue(chunk);
    if (this.#isOver) this.#finishReadable();
  }

  /** Idempotent. */
  #finishReadable(): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    const controller = this.#controller!;
    try {
      controller.close();
    } catch {
      return; // The end is inside an element that is wider than a byte: the reader was told.
    }
    controller.byobRequest?.respond(0);
  }

  /** Forgets what nobody will read; the peer may use that credit for other streams. */
  #drop(): void {
    const held = this.heldBytes;
    this.#chunks = undefined;
    if (held > 0) this.#host.dataReceived.release(held);
  }

  #fail(error: unknown): void {
    this.#failure = { cause: error };
    this.#waiting?.reject(error);
    this.#waiting = undefined;
    this.#isFinished = true;
    this.#controller?.error(error);
  }

  #over(): void {
    this.#isOver = true;
    this.#host.halfEnded(this.#stream);
  }
}

/** A stream of either direction; one that goes one way lacks a half. */
export class QmuxStream implements BidirectionalStream, DirectStream {
  /** Its number, which says who opened it and which way it goes. */
  readonly id: number;
  /** Which way it goes. */
  readonly direction: StreamDirection;
  /** Whether the peer opened it. */
  readonly isRemote: boolean;
  /** Counts it. */
  readonly account: StreamAccount;
  /** Whether it is in the list of those that have a frame without a payload to send. */
  hasControl = false;
  /** Whether it is no stream of the application, but carries its messages. */
  carriesMessages = false;
  /** Whether the application has it, or never will. */
  isAccepted: boolean;
  /** What this end writes. */
  send: SendHalf | undefined = undefined;
  /** What the peer writes. */
  receive: ReceiveHalf | undefined = undefined;

  /** Creates a stream, whose halves follow. */
  constructor(
    id: number,
    options: {
      readonly direction: StreamDirection;
      readonly isRemote: boolean;
      readonly account: StreamAccount;
    },
  ) {
    this.id = id;
    this.direction = options.direction;
    this.isRemote = options.isRemote;
    this.isAccepted = !options.isRemote;
    this.account = options.account;
  }

  /** What the peer writes. */
  get readable(): ReadableStream<Uint8Array> {
    return this.receive!.readable;
  }

  /** What this end writes. */
  get writable(): WritableStream<Uint8Array> {
    return this.send!.writable;
  }

  /** This stream, by plain calls. */
  get direct(): DirectStream {
    return this;
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.send!.sendOrder;
  }

  set sendOrder(value: number) {
    this.send!.sendOrder = value;
  }

  /** Whether all of it is over. */
  get isOver(): boolean {
    return (this.send?.isOver ?? true) && (this.receive?.isOver ?? true);
  }

  /** See {@linkcode DirectStream.read}. */
  read(): Promise<Uint8Array | null> {
    return this.receive!.read();
  }

  /** See {@linkcode DirectStream.write}, and {@linkcode SendHalf.write} of its options. */
  write(bytes: Uint8Array, options?: Parameters<SendHalf["write"]>[1]): Promise<void> {
    return this.send!.write(bytes, options);
  }

  /** See {@linkcode DirectStream.close}. */
  close(): Promise<void> {
    return this.send!.close();
  }

  /** See {@linkcode DirectStream.cancel}. */
  cancel(reason?: unknown): void {
    this.receive?.cancel(reason);
  }

  /** See {@linkcode DirectStream.abort}. */
  abort(reason?: unknown): void {
    this.send?.abort(reason);
  }

  /** Ends it with the connection. */
  fail(error: unknown): void {
    this.send?.fail(error);
    this.receive?.fail(error);
  }
}
