/** The frames that a message stream still has to write, already encoded. */
import {
  isMarked,
  KIND_BINARY,
  KIND_END,
  KIND_TEXT,
  lengthBytes,
  MARK_BYTES,
  writeHead,
} from "./format.ts";
import type { Frame } from "../connection.ts";

/** Most bytes of one write, so that the buffered bytes shrink step by step. */
export const MAX_WRITE_BYTES = 256 * 1024;

/** Size from which on a binary message is not copied: a broadcast is in memory once. */
const SHARED_BYTES = 16 * 1024;

/** Size of the first buffer: most sessions send little at a time. */
const FIRST_BUFFER_BYTES = 512;

/** Largest buffer that is kept for the next write; ten thousand idle sessions hold one each. */
const SPARE_BUFFER_BYTES = 4096;

/** Longest head of a frame: a length of four bytes, and the kind. */
const MAX_HEAD_BYTES = 5;

/** Bytes reserved beyond those of a text in ASCII. */
const SLACK_BYTES = 16;

const encoder = new TextEncoder();

/** Bytes that are ready to be written. */
interface Piece {
  readonly bytes: Uint8Array;
  /** `true` if the buffer can be used again after the write. */
  readonly isOwn: boolean;
}

/**
 * Frames in, bytes out: all frames since the last write are one piece.
 *
 * - **Order:** first in, first out.
 * - **Copies:** text is encoded straight into the piece; large binary messages
 *   are pieces themselves.
 * - **Bounds:** the caller has to watch {@linkcode FrameQueue.bytes}; the queue has no bound.
 */
export class FrameQueue {
  #pieces: Piece[] = [];
  #buffer: Uint8Array | undefined;
  #used = 0;
  #spare: Uint8Array | undefined;
  #lent: Piece | undefined;
  #written = 0;
  #writing = 0;
  #lastBytes = 0;
  #bytes = 0;

  /** Bytes that were added and not confirmed as written. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Adds a frame.
   *
   * @param frame Text, or a binary message with its mark.
   * @throws {TypeError} If the bytes have no mark, as there is no kind for other bytes.
   */
  add(frame: Frame): void {
    if (typeof frame === "string") this.#addText(frame);
    else if (isMarked(frame)) this.#addBinary(frame.subarray(MARK_BYTES));
    else {
      throw new TypeError(
        `Cannot send frame: bytes must be a binary message, which begins with 40 53, received ${frame.length} bytes without it`,
      );
    }
  }

  /** Adds the end mark. */
  addEnd(): void {
    this.#addHead(KIND_END, 0);
  }

  /**
   * Returns the next bytes to write, one piece at a time: {@linkcode FrameQueue.confirm} comes
   * before the next call.
   *
   * @returns The bytes, or `undefined` if the queue is empty.
   */
  next(): Uint8Array | undefined {
    if (this.#lent === undefined) {
      if (this.#pieces.length === 0) this.#seal();
      this.#lent = this.#pieces.shift();
      if (this.#lent === undefined) return undefined;
      this.#written = 0;
    }
    const { bytes } = this.#lent;
    const isWhole = bytes.length <= MAX_WRITE_BYTES;
    const next = isWhole ? bytes : bytes.subarray(this.#written, this.#written + MAX_WRITE_BYTES);
    this.#writing = next.length;
    return next;
  }

  /** Confirms that the bytes of {@linkcode FrameQueue.next} were written. */
  confirm(): void {
    const lent = this.#lent;
    if (lent === undefined) return; // Cleared meanwhile.
    this.#bytes -= this.#writing;
    this.#written += this.#writing;
    if (this.#written < lent.bytes.length) return;
    this.#lent = undefined;
    const { buffer } = lent.bytes;
    // A wire may have detached the buffer, which then has no bytes.
    if (lent.isOwn && buffer.byteLength > 0 && buffer.byteLength <= SPARE_BUFFER_BYTES) {
      this.#spare = new Uint8Array(buffer);
    }
  }

  /** Drops all frames. */
  clear(): void {
    this.#pieces = [];
    this.#buffer = undefined;
    this.#spare = undefined;
    this.#lent = undefined;
    this.#used = 0;
    this.#bytes = 0;
  }

  #addText(text: string): void {
    // Reserves room for ASCII; a text with many other characters is encoded in two steps.
    let size = lengthBytes(text.length);
    this.#reserve(text.length + SLACK_BYTES);
    const at = this.#used;
    let body = at + size + 1;
    let { read, written } = encoder.encodeInto(text, this.#buffer!.subarray(body));
    if (read < text.length) {
      const rest = text.slice(read);
      this.#grow(body + written + rest.length * 3 + MAX_HEAD_BYTES);
      written += encoder.encodeInto(rest, this.#buffer!.subarray(body + written)).written;
    }
    if (lengthBytes(written) !== size) {
      size = lengthBytes(written);
      const moved = at + size + 1;
      this.#grow(moved + written);
      this.#buffer!.copyWithin(moved, body, body + written);
      body = moved;
    }
    writeHead(this.#buffer!, at, { kind: KIND_TEXT, length: written });
    this.#used = body + written;
    this.#bytes += this.#used - at;
  }

  #addBinary(body: Uint8Array): void {
    const isShared = body.length >= SHARED_BYTES;
    this.#addHead(KIND_BINARY, body.length, isShared ? 0 : body.length);
    this.#bytes += body.length;
    if (isShared) {
      this.#seal();
      this.#pieces.push({ bytes: body, isOwn: false });
    } else {
      this.#buffer!.set(body, this.#used);
      this.#used += body.length;
    }
  }

  #addHead(kind: number, length: number, room = 0): void {
    this.#reserve(room + MAX_HEAD_BYTES);
    writeHead(this.#buffer!, this.#used, { kind, length });
    const size = lengthBytes(length) + 1;
    this.#used += size;
    this.#bytes += size;
  }

  /** Makes room in the current buffer, or takes a new one. */
  #reserve(bytes: number): void {
    if (this.#used > 0 && this.#used + bytes > MAX_WRITE_BYTES) this.#seal();
    if (this.#buffer !== undefined) return this.#grow(this.#used + bytes);
    const spare = this.#spare;
    this.#spare = undefined;
    // As large as the last buffer: a busy session need not grow each one anew.
    this.#buffer = spare !== undefined && spare.length >= bytes
      ? spare
      : new Uint8Array(Math.max(bytes, this.#lastBytes, FIRST_BUFFER_BYTES));
  }

  #grow(bytes: number): void {
    const old = this.#buffer!;
    if (bytes <= old.length) return;
    const larger = new Uint8Array(Math.max(bytes, Math.min(old.length * 2, MAX_WRITE_BYTES)));
    larger.set(old);
    this.#buffer = larger;
  }

  #seal(): void {
    if (this.#used === 0) return;
    this.#pieces.push({ bytes: this.#buffer!.subarray(0, this.#used), isOwn: true });
    this.#lastBytes = Math.min(this.#used, MAX_WRITE_BYTES);
    this.#buffer = undefined;
    this.#used = 0;
  }
}
