/**
 * Reads varints and messages from a stream, without waiting for bytes that have already arrived.
 */
import { ProtocolError } from "../../errors.ts";
import type { DirectReadable } from "../../transport/connection.ts";
import { type IntegerCodec, QUIC_INTEGERS } from "./integers.ts";
import { MAX_MESSAGE_BYTES } from "./messages.ts";

const NOTHING = new Uint8Array(0);

/**
 * The maximum number of bytes allocated for a message whose bytes have not arrived yet, because
 * claiming a length costs the sender nothing. Frames up to this size are assembled without a second
 * copy.
 */
const MAX_PROMISED_BYTES = 262_144;

/**
 * The minimum size at which bytes are copied out of the read buffer, so that the next read can
 * reuse it. A new 64 KiB buffer would have to be cleared: with copies, frames of 16 KiB cost a
 * tenth less CPU. Copying fewer bytes would cost more than a new buffer.
 */
const MIN_COPIED_BYTES = 4_096;

/** The stream ended inside a message: the writer aborted it. */
export class TruncatedError extends ProtocolError {}

/** Reads varints, messages and bytes from a stream; one call at a time. */
export class MessageReader {
  readonly #stream: DirectReadable;
  readonly #integers: IntegerCodec;
  #held: Uint8Array = NOTHING;
  #at = 0;
  #isOver = false;
  /** True if the caller holds a part of the last read, so that its memory cannot be reused. */
  #isShared = true;
  /** True once no more bytes can arrive: the stream has ended or failed, or reading was stopped. */
  #isDone = false;
  #onDone: (() => void) | undefined = undefined;

  /**
   * Starts at the beginning of a stream.
   *
   * @param stream The stream, which the reader then owns.
   * @param integers The encoding of integers.
   */
  constructor(stream: DirectReadable, integers: IntegerCodec = QUIC_INTEGERS) {
    this.#stream = stream;
    this.#integers = integers;
  }

  /** The number of bytes that have arrived and were not read yet. */
  get held(): number {
    return this.#held.byteLength - this.#at;
  }

  /** True once the peer has ended the stream and all bytes were read. */
  get isOver(): boolean {
    return this.#isOver && this.held === 0;
  }

  /**
   * Waits for more bytes.
   *
   * @returns False at the end of the stream.
   */
  more(): Promise<boolean> {
    if (this.#isOver) return Promise.resolve(false);
    const used = this.#isShared || this.held > 0 ? null : this.#held;
    if (used !== null) {
      this.#held = NOTHING;
      this.#at = 0;
    }
    return this.#stream.read(used).then((bytes) => this.#hold(bytes), (error) => {
      this.#done();
      throw error;
    });
  }

  /**
   * Waits until a message has begun. A reader that waits a long time takes less memory here than in
   * `message()`.
   *
   * @returns False at the end of the stream.
   */
  begun(): Promise<boolean> {
    return this.held > 0 ? Promise.resolve(true) : this.more();
  }

  /**
   * Calls back once no more bytes can arrive, because the end or an error of the stream was read,
   * or reading was stopped. It may call back immediately.
   */
  whenDone(callback: () => void): void {
    if (this.#isDone) callback();
    else this.#onDone = callback;
  }

  /** Reads a varint if it has arrived completely. */
  takeVarint(): number | undefined {
    if (this.held === 0) return undefined;
    const length = this.#integers.lengthAt(this.#held[this.#at]!);
    if (this.held < length) return undefined;
    const value = this.#integers.read(this.#held, this.#at);
    this.#at += length;
    return value;
  }

  /** Reads a number of bytes if all have arrived; few bytes without a copy. */
  takeBytes(count: number): Uint8Array | undefined {
    if (this.held < count) return undefined;
    const start = this.#at;
    this.#at += count;
    if (count >= MIN_COPIED_BYTES && !this.#isShared) return this.#held.slice(start, this.#at);
    this.#isShared = true;
    return this.#held.subarray(start, this.#at);
  }

  /**
   * Reads a length and the bytes after it, if all have arrived.
   *
   * @returns The bytes; `undefined` if some are missing, in which case nothing is consumed.
   * @throws {ProtocolError} If the length exceeds `maxBytes`.
   */
  takeSized(maxBytes: number): Uint8Array | undefined {
    const start = this.#at;
    const length = this.takeVarint();
    if (length === undefined) return undefined;
    if (length > maxBytes) throw tooLarge(length, maxBytes);
    const bytes = this.takeBytes(length);
    if (bytes === undefined) this.#at = start;
    return bytes;
  }

  /**
   * Reads a varint.
   *
   * @returns The value; `undefined` at the end of the stream.
   * @throws {TruncatedError} If the stream ends inside the varint.
   */
  async varint(): Promise<number | undefined> {
    while (true) {
      const value = this.takeVarint();
      if (value !== undefined) return value;
      if (await this.more()) continue;
      if (this.held === 0) return undefined;
      throw truncated();
    }
  }

  /**
   * Reads a number of bytes. Memory grows with the received bytes, not with `count`.
   *
   * @throws {TruncatedError} If the stream ends before all bytes have arrived.
   */
  async bytes(count: number): Promise<Uint8Array> {
    const there = this.takeBytes(count);
    if (there !== undefined) return there;
    let bytes = new Uint8Array(Math.min(count, MAX_PROMISED_BYTES));
    for (let filled = 0; filled < count;) {
      if (this.held === 0 && !await this.more()) throw truncated();
      const end = Math.min(this.#held.byteLength, this.#at + count - filled);
      const part = this.#held.subarray(this.#at, end);
      this.#at = end;
      if (filled + part.byteLength > bytes.byteLength) {
        const grown = Math.max(filled + part.byteLength, bytes.byteLength * 2);
        const larger = new Uint8Array(Math.min(count, grown));
        larger.set(bytes.subarray(0, filled));
        bytes = larger;
      }
      bytes.set(part, filled);
      filled += part.byteLength;
    }
    return bytes;
  }

  /**
   * Reads a length, and the body of a message.
   *
   * @returns The body; `undefined` at the end of the stream.
   * @throws {ProtocolError} If the body exceeds `maxBytes`.
   * @throws {TruncatedError} If the stream ends inside the message.
   */
  async message(maxBytes: number = MAX_MESSAGE_BYTES): Promise<Uint8Array | undefined> {
    const length = await this.varint();
    if (length === undefined) return undefined;
    if (length > maxBytes) throw tooLarge(length, maxBytes);
    return await this.bytes(length);
  }

  /**
   * Reads a length, and the body of a message that must follow.
   *
   * @throws {ProtocolError} If the body exceeds `maxBytes`.
   * @throws {TruncatedError} If the stream ends before or inside the message.
   */
  async required(name: string, maxBytes: number = MAX_MESSAGE_BYTES): Promise<Uint8Array> {
    const body = await this.message(maxBytes);
    if (body === undefined) throw new TruncatedError(`Expected ${name}, received the end`);
    return body;
  }

  #hold(bytes: Uint8Array | null): boolean {
    if (bytes === null) {
      this.#isOver = true;
      this.#done();
      return false;
    }
    if (this.held === 0) {
      this.#held = bytes;
      this.#isShared = false;
    } else {
      const joined = new Uint8Array(this.held + bytes.byteLength);
      joined.set(this.#held.subarray(this.#at));
      joined.set(bytes, this.held);
      this.#held = joined;
    }
    this.#at = 0;
    return true;
  }

  cancel(reason?: unknown): void {
    this.#stream.cancel(reason);
    this.#done();
  }

  #done(): void {
    this.#isDone = true;
    this.#onDone?.();
    this.#onDone = undefined;
  }
}

function truncated(): TruncatedError {
  return new TruncatedError("Expected the rest of a message, received the end of the stream");
}

function tooLarge(length: number, maxBytes: number): ProtocolError {
  return new ProtocolError(`Expected at most ${maxBytes} bytes, received a length of ${length}`);
}
