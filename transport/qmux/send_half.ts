/**
 * The direction of a stream that this end writes, RFC 9000 section 3.1.
 *
 * @module
 */
import { StreamError, TimeoutError } from "../../errors.ts";
import { writableOf } from "../_send_writable.ts";
import type { DirectWritable, OpenStreamOptions, SendStream } from "../connection.ts";
import { MAX_VARINT } from "../quic/varint.ts";
import { startTimer } from "../within.ts";
import { FrameType } from "./frames.ts";
import type { RecordWriter } from "./record.ts";
import type { QmuxStream } from "./stream.ts";
import { codeOf, type StreamHost } from "./stream_host.ts";

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
    // One that is not exact can not be sent back.
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
