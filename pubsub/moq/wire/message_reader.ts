/**
 * Reading a stream of messages: as much as came, as little waiting as possible.
 *
 * @module
 */
import { ProtocolError } from "../../../errors.ts";
import type { DirectReadable } from "../../../transport/connection.ts";
import { readVarint, varintLengthAt } from "../../../transport/quic/varint.ts";
import { MAX_MESSAGE_BYTES } from "./stream_types.ts";

const NOTHING = new Uint8Array(0);

/**
 * What is set aside for bytes that were promised and did not come yet: a length costs its sender
 * nothing. Frames up to this size are put together without a second copy.
 */
const MAX_PROMISED_BYTES = 262_144;

/** The stream ended inside a message: who wrote it gave up. */
export class TruncatedError extends ProtocolError {}

/** Reads varints, messages and bytes off a stream; one call at a time. */
export class MessageReader {
  readonly #stream: DirectReadable;
  #held: Uint8Array = NOTHING;
  #at = 0;
  #isOver = false;

  /**
   * Begins at the start of a stream.
   *
   * @param stream The stream, which is this one's from now on.
   */
  constructor(stream: DirectReadable) {
    this.#stream = stream;
  }

  /** Bytes that came and were not read yet. */
  get held(): number {
    return this.#held.byteLength - this.#at;
  }

  /** Whether the peer ended the stream, and all of it was read. */
  get isOver(): boolean {
    return this.#isOver && this.held === 0;
  }

  /**
   * Waits for more.
   *
   * @returns Whether something came; not so at the end.
   */
  async more(): Promise<boolean> {
    if (this.#isOver) return false;
    const bytes = await this.#stream.read();
    if (bytes === null) {
      this.#isOver = true;
      return false;
    }
    if (this.held === 0) {
      this.#held = bytes;
    } else {
      const joined = new Uint8Array(this.held + bytes.byteLength);
      joined.set(this.#held.subarray(this.#at));
      joined.set(bytes, this.held);
      this.#held = joined;
    }
    this.#at = 0;
    return true;
  }

  /** Reads a varint if all of it is there. */
  takeVarint(): number | undefined {
    if (this.held === 0) return undefined;
    const length = varintLengthAt(this.#held[this.#at]!);
    if (this.held < length) return undefined;
    const value = readVarint(this.#held, this.#at);
    this.#at += length;
    return value;
  }

  /** Reads so many bytes if they are there; they stay where they are in memory. */
  takeBytes(count: number): Uint8Array | undefined {
    if (this.held < count) return undefined;
    const start = this.#at;
    this.#at += count;
    return this.#held.subarray(start, this.#at);
  }

  /**
   * Reads a length, and what it is of, if both are there.
   *
   * @param maxBytes What it may be at most.
   * @returns The bytes; `undefined` if not all of them came, and nothing was read then.
   * @throws {ProtocolError} If it is larger.
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
   * @throws {TruncatedError} If the stream ends inside it.
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
   * Reads so many bytes. What is held grows with what came, not with what was promised.
   *
   * @param count How many.
   * @returns The bytes.
   * @throws {TruncatedError} If the stream ends before.
   */
  async bytes(count: number): Promise<Uint8Array> {
    const there = this.takeBytes(count);
    if (there !== undefined) return there;
    let bytes = new Uint8Array(Math.min(count, MAX_PROMISED_BYTES));
    for (let filled = 0; filled < count;) {
      if (this.held === 0 && !await this.more()) throw truncated();
      const part = this.takeBytes(Math.min(this.held, count - filled))!;
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
   * Reads the body of a message, behind its length.
   *
   * @param maxBytes What it may be at most.
   * @returns The body; `undefined` at the end of the stream.
   * @throws {ProtocolError} If it is larger.
   * @throws {TruncatedError} If the stream ends inside it.
   */
  async message(maxBytes: number = MAX_MESSAGE_BYTES): Promise<Uint8Array | undefined> {
    const length = await this.varint();
    if (length === undefined) return undefined;
    if (length > maxBytes) throw tooLarge(length, maxBytes);
    return await this.bytes(length);
  }

  /**
   * Reads the body of a message that has to come.
   *
   * @param name Its name, for errors.
   * @param maxBytes What it may be at most.
   * @returns The body.
   * @throws {ProtocolError} If it is larger.
   * @throws {TruncatedError} If the stream ends before it, or inside it.
   */
  async required(name: string, maxBytes: number = MAX_MESSAGE_BYTES): Promise<Uint8Array> {
    const body = await this.message(maxBytes);
    if (body === undefined) throw new TruncatedError(`Expected ${name}, received the end`);
    return body;
  }

  /** Reads no more. */
  cancel(reason?: unknown): void {
    this.#stream.cancel(reason);
  }
}

function truncated(): TruncatedError {
  return new TruncatedError("Expected the rest of a message, received the end of the stream");
}

function tooLarge(length: number, maxBytes: number): ProtocolError {
  return new ProtocolError(`Expected at most ${maxBytes} bytes, received a length of ${length}`);
}
