/**
 * The direction of a stream that the peer writes, RFC 9000 section 3.2.
 *
 * @module
 */
import { StreamError } from "../../errors.ts";
import { ReceiveCredit } from "../_flow_control.ts";
import type { DirectReadable, ReceiveStream } from "../connection.ts";
import { Chunks } from "./_chunks.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import { FrameType } from "./frames.ts";
import type { RecordWriter } from "./record.ts";
import type { QmuxStream } from "./stream.ts";
import { codeOf, type StreamHost } from "./stream_host.ts";

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
   * @throws {QmuxError} If that can not be.
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
