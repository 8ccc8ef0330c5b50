/** A QMux stream, with plain calls and web streams (RFC 9000 section 3). */
import { StreamError, TimeoutError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { startTimer } from "../../base/wait.ts";
import { closeBytes } from "../byte_stream.ts";
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
import type { StreamAccount } from "../counters.ts";
import { writableOf } from "../direct.ts";
import { ReceiveCredit } from "../flow_control.ts";
import { MAX_VARINT } from "../quic/varint.ts";
import { streamErrorCodeOf } from "../wire_close.ts";
import { FrameType, QmuxError, QuicError, type RecordWriter } from "./frames.ts";

/** The size below which a chunk is joined with the next chunks. */
const SMALL_BYTES = 4_096;

const MAX_JOINED_BYTES = 16_384;

const FIRST_CAPACITY = 256;

/**
 * A queue of chunks. It joins small chunks, so its memory is at most about twice the number of
 * received bytes. Otherwise, a peer that sends single bytes could make this side hold a hundred
 * times that number.
 */
class Chunks {
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  #head = 0;
  /** The buffer of the last chunk, as long as it has room. */
  #tail: Uint8Array<ArrayBuffer> | undefined = undefined;
  #tailLength = 0;
  #byteLength = 0;

  get byteLength(): number {
    return this.#byteLength;
  }

  /**
   * Adds bytes at the end.
   *
   * @param isOwn True if the bytes have a buffer of their own.
   */
  push(bytes: Uint8Array, isOwn: boolean): void {
    const { byteLength } = bytes;
    this.#byteLength += byteLength;
    if (byteLength < SMALL_BYTES) return this.#join(bytes);
    this.#closeTail();
    this.#chunks.push(isOwn ? bytes as Uint8Array<ArrayBuffer> : bytes.slice());
  }

  /** Removes and returns the first chunk. */
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
      // Usually, this chunk remains the only one.
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

/** The part of a connection's scheduler that its streams use. */
export interface StreamScheduler {
  /**
   * Puts stream bytes into a record immediately, if no other frame must be sent first. Returns the
   * number of bytes put.
   */
  sendNow(half: QmuxSendHalf, bytes: Uint8Array): number;
  /** Called when a stream has bytes or its end to send. */
  wantsToSend(half: QmuxSendHalf): void;
  /** Called when a stream has nothing more to send. */
  withdrawn(half: QmuxSendHalf): void;
  /** Called when a stream has a frame without a payload to send. */
  wantsControl(stream: QmuxStream): void;
}

/** The part of a connection that its streams use. */
export interface StreamHost {
  readonly runtime: Runtime;
  /** The receive credit for the bytes of all streams. */
  readonly dataReceived: ReceiveCredit;
  /** The number of bytes, across all streams, that this side can send now. */
  readonly dataLeft: number;
  /** Counts stream bytes written to a record. */
  dataSent(byteLength: number): void;
  /** The scheduler, which determines the order in which streams send. */
  readonly scheduler: StreamScheduler;
  /** Called when one direction of a stream has ended. */
  halfEnded(stream: QmuxStream): void;
}

/** The reason why a write or the end of a stream waits. */
export type SendWait = "nothing" | "wire" | "stream" | "connection";

const WAITS: Readonly<Record<SendWait, string>> = {
  nothing: "the connection accepted no bytes",
  wire: "the connection accepted no bytes",
  stream: "the peer granted no bytes for the stream",
  connection: "the peer granted no bytes for the connection",
};

const DONE: Promise<void> = Promise.resolve();
const EMPTY = new Uint8Array();

interface QmuxWrite {
  readonly bytes: Uint8Array;
  /** The initial length of `bytes`. If the length is smaller later, the buffer was transferred. */
  readonly end: number;
  at: number;
  readonly done: PromiseWithResolvers<void>;
}

/** The direction of a stream that this side writes. */
export class QmuxSendHalf implements DirectWritable {
  sendOrder: number;
  /**
   * The reason why the direction currently waits. The connection keeps a direction in at most one
   * list.
   */
  waitsFor: SendWait = "nothing";

  readonly #stream: QmuxStream;
  readonly #host: StreamHost;
  readonly #writes: QmuxWrite[] = [];
  #end: PromiseWithResolvers<void> | undefined = undefined;
  #limit: number;
  #offset = 0;
  #isKnown = false;
  #isBlockedAnnounced = false;
  #isBlockedPending = false;
  #resetCode: number | undefined = undefined;
  #isClosing = false;
  #isOver = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #writable: SendStream | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;

  /**
   * @param options `limit` is the peer's first limit, and `sendOrder` is the priority.
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

  /** Tells whether all bytes and the end have been sent. */
  get isOver(): boolean {
    return this.#isOver;
  }

  get stream(): QmuxStream {
    return this.#stream;
  }

  /** Tells whether the stream has credit left. */
  get hasRoom(): boolean {
    return this.#offset < this.#limit;
  }

  /**
   * Writes bytes. If a write is cancelled after some of its bytes were sent, the stream is reset,
   * because the reader could not interpret the rest.
   *
   * @param bytes The bytes to send. They MUST NOT change before the write is done.
   * @param options `signal` and `timeoutMs` limit how long the write waits.
   * @throws {TimeoutError} If `timeoutMs` passes first. The message says what the write waited for.
   */
  write(
    bytes: Uint8Array,
    options?: Pick<OpenStreamOptions, "signal" | "timeoutMs">,
  ): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isClosing) return Promise.reject(new TypeError("Cannot write: the stream is closed"));
    if (options?.signal?.aborted) return Promise.reject(options.signal.reason);
    const sent = this.#writes.length > 0 ? 0 : this.#host.scheduler.sendNow(this, bytes);
    if (sent === bytes.byteLength) return DONE;
    const end = bytes.byteLength;
    const write: QmuxWrite = { bytes, end, at: sent, done: Promise.withResolvers() };
    this.#writes.push(write);
    this.#host.scheduler.wantsToSend(this);
    return options === undefined ? write.done.promise : this.#within(write, options);
  }

  close(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isClosing) return this.#end?.promise ?? DONE;
    this.#isClosing = true;
    this.#end = Promise.withResolvers();
    this.#host.scheduler.wantsToSend(this);
    return this.#end.promise;
  }

  abort(reason?: unknown): void {
    if (this.#isOver || this.#failure !== undefined) return;
    const code = streamErrorCodeOf(reason);
    this.#reset(
      code,
      reason ?? new StreamError("The stream was aborted", {
        streamErrorCode: code,
        by: "local",
      }),
    );
  }

  /** Handles the peer's STOP_SENDING. */
  stopped(code: number): void {
    if (this.#isOver || this.#failure !== undefined) return;
    const message = `The peer stopped reading the stream with code ${code}`;
    const error = new StreamError(message, { streamErrorCode: code, by: "remote" });
    // A code above 2^53 - 1 is not exact, so it cannot be sent back.
    this.#reset(Math.min(code, MAX_VARINT), error);
    this.#controller?.error(error);
  }

  /** Raises the limit that the peer grants. */
  raise(limit: number): void {
    if (limit <= this.#limit || this.#isOver) return;
    this.#limit = limit;
    this.#isBlockedAnnounced = false;
    if (this.waitsFor !== "stream") return;
    this.waitsFor = "nothing";
    this.#host.scheduler.wantsToSend(this);
  }

  /** Ends the direction when the connection ends. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#failure !== undefined) return;
    this.#fail(error);
    this.#controller?.error(error);
    this.#stream.account.ended(error);
  }

  /** Announces the stream to the peer with an empty frame, if no frame has been sent yet. */
  announce(): void {
    if (this.#isKnown || this.#isOver || this.#failure !== undefined) return;
    if (this.#writes.length === 0) this.#writes.push(NOTHING);
    this.#host.scheduler.wantsToSend(this);
  }

  /** This direction as a writable stream, which is created on first use. */
  get writable(): SendStream {
    return this.#writable ??= writableOf(this, (controller) => {
      this.#controller = controller;
      if (this.#failure !== undefined) controller.error(this.#failure.cause);
    });
  }

  /**
   * Puts bytes into a record.
   *
   * @param at The offset of the first byte to put.
   * @param quantum The maximum number of bytes to put.
   * @returns The number of bytes put; 0 if there is no room or no credit.
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
   * Puts pending bytes into a record, as far as they fit.
   *
   * @param record A record that has some room.
   * @param quantum The maximum number of payload bytes.
   * @returns True if there is more to send.
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
          new TypeError("Cannot write: the buffer was transferred before the bytes were sent"),
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

  /** Puts pending frames without a payload into a record. */
  fillControl(record: RecordWriter): void {
    const { id } = this.#stream;
    if (this.#isBlockedPending) {
      this.#isBlockedPending = false;
      if (this.#failure === undefined && !this.#isOver && !this.hasRoom) {
        record.control(FrameType.streamDataBlocked, id, this.#limit);
      }
    }
    if (this.#resetCode === undefined || this.#isOver) return;
    record.reset(id, this.#resetCode, this.#offset);
    this.#isOver = true;
    this.#host.halfEnded(this.#stream);
  }

  /** Tells whether frames without a payload are pending. */
  get hasControl(): boolean {
    return !this.#isOver && (this.#isBlockedPending || this.#resetCode !== undefined);
  }

  #sent(count: number): void {
    this.#offset += count;
    this.#isKnown = true;
    if (count === 0) return;
    this.#stream.account.ledger.streamBytesSent += count;
    this.#host.dataSent(count);
  }

  /** Records what pending bytes wait for, if the peer does not accept them yet. */
  #blocked(): boolean {
    if (this.hasRoom) {
      this.waitsFor = "connection";
      return true;
    }
    this.waitsFor = "stream";
    if (!this.#isBlockedAnnounced) {
      this.#isBlockedAnnounced = this.#isBlockedPending = true;
      this.#host.scheduler.wantsControl(this.#stream);
    }
    return true;
  }

  #reset(code: number, error: unknown): void {
    this.#resetCode = code;
    this.#fail(error);
    this.#host.scheduler.withdrawn(this);
    this.#stream.account.ended(error);
    this.#host.scheduler.wantsControl(this.#stream);
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

  async #within(
    write: QmuxWrite,
    { signal, timeoutMs }: Pick<OpenStreamOptions, "signal" | "timeoutMs">,
  ): Promise<void> {
    const giveUp = (error: unknown) => {
      const at = this.#writes.indexOf(write);
      if (at < 0) return;
      write.done.reject(error);
      if (write.at > 0) return this.#reset(0, error);
      this.#writes.splice(at, 1);
      this.#host.scheduler.withdrawn(this);
      // The next write or the end may not have to wait.
      if (this.#writes.length > 0 || this.#isClosing) this.#host.scheduler.wantsToSend(this);
    };
    const onAbort = () => giveUp(signal?.reason);
    const timer = startTimer(this.#host.runtime, timeoutMs, (ms) => {
      giveUp(new TimeoutError(`Cannot write: ${WAITS[this.waitsFor]} within ${ms} ms`, ms));
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await write.done.promise;
    } finally {
      this.#host.runtime.clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

/** An empty write that no caller waits for. */
const NOTHING: QmuxWrite = {
  bytes: EMPTY,
  end: 0,
  at: 0,
  done: { promise: DONE, resolve() {}, reject() {} },
};

/** The direction of a stream that the peer writes. */
export class QmuxReceiveHalf implements DirectReadable {
  readonly #stream: QmuxStream;
  readonly #host: StreamHost;
  #chunks: Chunks | undefined = undefined;
  readonly #credit: ReceiveCredit;
  #received = 0;
  #grantToSend: number | undefined = undefined;
  #stopCode: number | undefined = undefined;
  #finalSize: number | undefined = undefined;
  /** True if reading has ended. The peer may not know this yet. */
  #isCut = false;
  #isOver = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #waiting: PromiseWithResolvers<Uint8Array | null> | undefined = undefined;
  #readable: ReceiveStream | undefined = undefined;
  #controller: ReadableByteStreamController | undefined = undefined;
  #isWanted = false;
  #isFinished = false;

  /**
   * @param window The number of bytes that the peer can send before they are read.
   */
  constructor(stream: QmuxStream, host: StreamHost, window: number) {
    this.#stream = stream;
    this.#host = host;
    this.#credit = new ReceiveCredit(window, (limit) => {
      this.#grantToSend = limit;
      host.scheduler.wantsControl(stream);
    });
  }

  /** Tells whether the direction has ended. */
  get isOver(): boolean {
    return this.#isOver;
  }

  get received(): number {
    return this.#received;
  }

  /** The number of bytes that were received but have not been read yet. */
  get heldBytes(): number {
    return this.#chunks?.byteLength ?? 0;
  }

  read(): Promise<Uint8Array | null> {
    const chunk = this.#take();
    if (chunk !== undefined) return Promise.resolve(chunk);
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isOver || this.#isCut) return Promise.resolve(null);
    if (this.#waiting !== undefined) {
      return Promise.reject(new TypeError("Cannot read: another read of the stream is pending"));
    }
    this.#waiting = Promise.withResolvers();
    return this.#waiting.promise;
  }

  cancel(reason?: unknown): void {
    this.#isFinished = true;
    if (this.#isOver || this.#isCut) return;
    this.#isCut = true;
    this.#stream.account.cut(reason, "stopped reading");
    this.#drop();
    this.#waiting?.resolve(null);
    this.#waiting = undefined;
    if (this.#finalSize !== undefined) return this.#over();
    this.#stopCode = streamErrorCodeOf(reason);
    this.#host.scheduler.wantsControl(this.#stream);
  }

  /**
   * Delivers received bytes.
   *
   * @param options `isFin` marks the last bytes. If `isOwn` is true, the bytes have a buffer of
   * their own.
   * @throws {QmuxError} If the offset or the size violates the protocol.
   */
  deliver(
    offset: number,
    bytes: Uint8Array,
    options: { readonly isFin: boolean; readonly isOwn: boolean },
  ): void {
    const { byteLength } = bytes;
    const end = this.#received + byteLength;
    if (this.#finalSize !== undefined) {
      if (end === this.#finalSize && offset === this.#received) return; // The end was repeated.
      throw new QmuxError(QuicError.finalSizeError, "Received bytes after the end of the stream");
    }
    if (offset < this.#received || offset > this.#received) {
      throw new QmuxError(
        QuicError.protocolViolation,
        `Expected bytes at offset ${this.#received} of the stream, received offset ${offset}`,
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
   * Handles the peer's RESET_STREAM.
   *
   * @param code The application error code.
   * @param finalSize The total number of bytes in the stream. The default is the number received so
   * far.
   * @throws {QmuxError} If the final size contradicts the received bytes.
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

  /**
   * Ends the direction when the connection ends. A stream that has arrived completely can still be
   * read.
   */
  fail(error: unknown): void {
    if (this.#isOver || this.#finalSize !== undefined && !this.#isCut) return;
    this.#chunks = undefined;
    this.#isOver = true;
    if (this.#isCut) return;
    this.#isCut = true;
    this.#fail(error);
    this.#stream.account.ended(error);
  }

  /** Grants the full window, because the peer waits for the stream's credit. */
  grantAll(): void {
    if (!this.#isCut) this.#credit.grantAll();
  }

  /** Tells whether frames without a payload are pending. */
  get hasControl(): boolean {
    return !this.#isOver && (this.#grantToSend !== undefined || this.#stopCode !== undefined);
  }

  /** Puts pending frames without a payload into a record. */
  fillControl(record: RecordWriter): void {
    const { id } = this.#stream;
    const stop = this.#stopCode;
    const grant = this.#grantToSend;
    this.#stopCode = this.#grantToSend = undefined;
    // The peer has sent all bytes, so it needs neither frame.
    if (this.#isOver || this.#finalSize !== undefined) return;
    if (stop !== undefined) record.control(FrameType.stopSending, id, stop);
    else if (grant !== undefined && !this.#isCut) {
      record.control(FrameType.maxStreamData, id, grant);
    }
  }

  /** This direction as a byte stream, which is created on first use. */
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

  /** Takes an unread chunk, and grants the peer more credit. */
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
    const isAllowed = this.#credit.receive(byteLength) &&
      this.#host.dataReceived.receive(byteLength);
    this.#received += byteLength;
    if (isAllowed) return;
    throw new QmuxError(QuicError.flowControlError, "Received more bytes than granted");
  }

  #release(byteLength: number): void {
    if (this.#finalSize === undefined) this.#credit.release(byteLength);
    // The stream that carries the session's messages must not wait for credit that the application
    // grants explicitly.
    if (this.#stream.carriesMessages) this.#host.dataReceived.giveBack(byteLength);
    else this.#host.dataReceived.release(byteLength);
  }

  #finish(): void {
    this.#finalSize = this.#received;
    if (this.#isCut) return this.#over();
    if (this.heldBytes > 0) return;
    this.#readWhole();
    if (this.#controller !== undefined) this.#finishReadable();
  }

  /** Ends the direction once the last byte has been read. */
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

  #finishReadable(): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    closeBytes(this.#controller!);
  }

  /** Discards unread bytes and returns their credit to the connection. */
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

/** A stream. A unidirectional stream has only one half. */
export class QmuxStream implements BidirectionalStream, DirectStream {
  /** The stream number, which encodes the opener and the direction. */
  readonly id: number;
  readonly direction: StreamDirection;
  readonly isRemote: boolean;
  readonly account: StreamAccount;
  /** True if the stream is in the list of streams that have pending frames without a payload. */
  hasControl = false;
  /** True if the stream carries the session's messages and is hidden from the application. */
  carriesMessages = false;
  /** True if the application has accepted the stream, or never will accept it. */
  isAccepted: boolean;
  /** The half that this side writes. */
  send: QmuxSendHalf | undefined = undefined;
  /** The half that the peer writes. */
  receive: QmuxReceiveHalf | undefined = undefined;

  /** Creates a stream without halves. The caller sets them. */
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

  get readable(): ReadableStream<Uint8Array> {
    return this.receive!.readable;
  }

  get writable(): WritableStream<Uint8Array> {
    return this.send!.writable;
  }

  get direct(): DirectStream {
    return this;
  }

  get sendOrder(): number {
    return this.send!.sendOrder;
  }

  set sendOrder(value: number) {
    this.send!.sendOrder = value;
  }

  /** Tells whether both directions have ended. */
  get isOver(): boolean {
    return (this.send?.isOver ?? true) && (this.receive?.isOver ?? true);
  }

  read(): Promise<Uint8Array | null> {
    return this.receive!.read();
  }

  write(bytes: Uint8Array, options?: Parameters<QmuxSendHalf["write"]>[1]): Promise<void> {
    return this.send!.write(bytes, options);
  }

  close(): Promise<void> {
    return this.send!.close();
  }

  cancel(reason?: unknown): void {
    this.receive?.cancel(reason);
  }

  abort(reason?: unknown): void {
    this.send?.abort(reason);
  }

  fail(error: unknown): void {
    this.send?.fail(error);
    this.receive?.fail(error);
  }
}
