/**
 * The frames of a message stream: `length(varint) kind(u8) body`, where the length is the number of
 * bytes of the body, and the varint is QUIC's (RFC 9000, section 16).
 */
import { concat } from "../../base/bytes.ts";
import { CloseCode } from "../../errors.ts";
import type { Frame, FramePart } from "../connection.ts";

/** The body is text in UTF-8: one or more envelopes, joined by line feeds. */
const KIND_TEXT = 0;

/** The body is a binary message without its mark. */
const KIND_BINARY = 1;

/** An end mark: no frame follows it. The body is empty. */
const KIND_END = 2;

/**
 * The first byte of the mark of a binary message, on transports that also have other binary frames.
 * On a message stream, the kind replaces the mark: the sender removes the mark, and the receiver
 * adds it.
 */
const MARK_0 = 0x40;

/** The second byte of the mark. */
const MARK_1 = 0x53;

/** The length of the mark. It is at most the length of the shortest frame head. */
const MARK_BYTES = 2;

/**
 * The size of the first buffer for a frame that arrives in parts, because the length that the peer
 * announced may be false.
 */
const FIRST_BODY_BYTES = 16 * 1024;

/** The maximum bytes of one write, so that the number of buffered bytes decreases step by step. */
export const MAX_WRITE_BYTES = 256 * 1024;

/**
 * The size from which a message is not copied into the next piece, so that a broadcast is in memory
 * only once.
 */
const SHARED_BYTES = 16 * 1024;

/** The size of the first buffer. Most sessions send little at a time. */
const FIRST_BUFFER_BYTES = 512;

/**
 * The largest buffer that is kept for the next write. It is small because every idle session holds
 * one.
 */
const SPARE_BUFFER_BYTES = 4096;

/** The longest head of a frame: a length of four bytes plus the kind. */
const MAX_HEAD_BYTES = 5;

/** The number of bytes reserved in addition to the size of an ASCII text. */
const SLACK_BYTES = 16;
const encoder = /* @__PURE__ */ new TextEncoder();

// Keeps a byte order mark at the start of a text.
const decoder = /* @__PURE__ */ new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Returns whether bytes are a binary message with its mark.
 *
 * @returns `true` if the bytes start with the mark.
 */
function isMarked(frame: Uint8Array): boolean {
  return frame.length >= MARK_BYTES && frame[0] === MARK_0 && frame[1] === MARK_1;
}

/** The receiver of parsed frames. */
export interface FrameSink {
  /** Called with each whole frame: text, or a binary message with its mark. */
  onFrame(frame: Frame): void;
  /** Called at the end mark. No other call follows. */
  onEnd(): void;
  /** Called for malformed input. No other call follows. */
  onRejected(closeCode: number, reason: string): void;
}

/** A frame with an incomplete body. */
interface OpenFrame {
  readonly kind: number;
  /** The length of the body, including the mark of a binary message. */
  readonly length: number;
  filled: number;
  bytes: Uint8Array;
}

/**
 * An incremental parser. It holds at most one frame, in a buffer of at most twice the bytes
 * received.
 */
export class StreamFrameParser {
  readonly #sink: FrameSink;
  readonly #maxFrameBytes: number;
  #head: Uint8Array | undefined;
  #open: OpenFrame | undefined;
  #isDone = false;

  /**
   * Creates a parser.
   *
   * @param maxFrameBytes The maximum length of a body. A longer body is rejected without being
   * buffered.
   */
  constructor(sink: FrameSink, maxFrameBytes: number) {
    this.#sink = sink;
    this.#maxFrameBytes = maxFrameBytes;
  }

  /** The number of bytes of the incomplete frame. */
  get partialBytes(): number {
    return this.#open?.filled ?? this.#head?.length ?? 0;
  }

  /**
   * Parses the next chunk.
   *
   * @param chunk The bytes, which the parser owns from then on.
   */
  push(chunk: Uint8Array): void {
    if (this.#isDone) return;
    let bytes = chunk;
    let at = this.#open === undefined ? 0 : this.#fill(this.#open, chunk);
    if (this.#head !== undefined) {
      bytes = concat([this.#head, chunk]);
      this.#head = undefined;
    }
    while (at < bytes.length && !this.#isDone) at = this.#readFrame(bytes, at);
  }

  /** Reads one frame, and returns the index of the next one. */
  #readFrame(bytes: Uint8Array, at: number): number {
    const first = bytes[at]!;
    const size = 1 << (first >> 6);
    const body = at + size + 1;
    if (body > bytes.length) {
      this.#head = bytes.slice(at);
      return bytes.length;
    }
    let length = first & 0x3f;
    for (let i = 1; i < size; i++) length = length * 256 + bytes[at + i]!;
    const kind = bytes[body - 1]!;
    if (!this.#accepts(kind, length)) return bytes.length;
    const end = body + length;
    if (end > bytes.length) {
      this.#begin(kind, length, bytes.subarray(body));
      return bytes.length;
    }
    if (kind === KIND_TEXT) this.#emitText(bytes.subarray(body, end));
    else if (kind === KIND_BINARY) {
      // The head has been read; it is at least as long as the mark that replaces it.
      bytes[body - 2] = MARK_0;
      bytes[body - 1] = MARK_1;
      this.#sink.onFrame(bytes.slice(body - MARK_BYTES, end));
    } else this.#end();
    return end;
  }

  #accepts(kind: number, length: number): boolean {
    if (length > this.#maxFrameBytes) {
      this.#reject(CloseCode.tooLarge, `A frame has more than ${this.#maxFrameBytes} bytes`);
    } else if (kind > KIND_END) {
      this.#reject(CloseCode.malformed, `A frame has the unknown kind ${kind}`);
    } else if (kind === KIND_END && length > 0) {
      this.#reject(CloseCode.malformed, "An end mark has a body");
    } else return true;
    return false;
  }

  #begin(kind: number, bodyLength: number, start: Uint8Array): void {
    const mark = kind === KIND_BINARY ? MARK_BYTES : 0;
    const length = mark + bodyLength;
    const bytes = new Uint8Array(Math.min(length, Math.max(FIRST_BODY_BYTES, start.length * 2)));
    if (mark > 0) {
      bytes[0] = MARK_0;
      bytes[1] = MARK_1;
    }
    this.#open = { kind, length, filled: mark, bytes };
    this.#fill(this.#open, start);
  }

  /** Adds to the incomplete frame, and returns the number of bytes taken. */
  #fill(open: OpenFrame, chunk: Uint8Array): number {
    const { length, filled } = open;
    const taken = Math.min(chunk.length, length - filled);
    const end = filled + taken;
    if (end > open.bytes.length) {
      const larger = new Uint8Array(Math.min(length, Math.max(end, open.bytes.length * 2)));
      larger.set(open.bytes.subarray(0, filled));
      open.bytes = larger;
    }
    open.bytes.set(taken === chunk.length ? chunk : chunk.subarray(0, taken), filled);
    open.filled = end;
    if (end === length) {
      this.#open = undefined;
      if (open.kind === KIND_TEXT) this.#emitText(open.bytes);
      else this.#sink.onFrame(open.bytes);
    }
    return taken;
  }

  #emitText(bytes: Uint8Array): void {
    let text: string;
    try {
      text = decoder.decode(bytes);
    } catch {
      return this.#reject(CloseCode.malformed, "A text frame is not UTF-8");
    }
    this.#sink.onFrame(text);
  }

  #end(): void {
    this.#isDone = true;
    this.#sink.onEnd();
  }

  #reject(closeCode: number, reason: string): void {
    this.#isDone = true;
    this.#sink.onRejected(closeCode, reason);
  }
}

/** The bytes that are ready to be written. */
interface Piece {
  readonly bytes: Uint8Array;
  /** `true` if the buffer can be used again after the write. */
  readonly isOwn: boolean;
}

/**
 * A queue that turns frames into bytes. All frames since the last write form one piece.
 *
 * - **Order:** first in, first out.
 * - **Copies:** text is encoded directly into the piece. A large binary message is a piece of its
 *   own. A frame for many queues is encoded once, and is a piece of its own if it is large or if
 *   nothing else is waiting.
 * - **Limits:** the queue has no limit, so the caller must watch {@linkcode FrameQueue.bytes}.
 */
export class FrameQueue {
  // This is shared by all queues, because an encoded frame depends only on its parts.
  static readonly #encoded = new WeakMap<readonly FramePart[], Uint8Array>();

  #pieces: Piece[] = [];
  #buffer: Uint8Array | undefined;
  /**
   * False if other queues share the buffer. A shared buffer is full, so adding to it replaces it.
   */
  #isOwn = true;
  #used = 0;
  #spare: Uint8Array | undefined;
  #lent: Piece | undefined;
  #written = 0;
  #writing = 0;
  #lastBytes = 0;
  #bytes = 0;

  /** The number of bytes that were added but not yet confirmed as written. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Adds a frame.
   *
   * @param frame The text, or a binary message with its mark.
   * @param parts The parts of a frame that many queues send. Pass the same array to all queues.
   * @throws {TypeError} If the bytes have no mark, because no kind of frame carries other bytes.
   */
  add(frame: Frame, parts?: readonly FramePart[]): void {
    if (parts !== undefined) this.#addShared(FrameQueue.#encode(frame, parts));
    else if (typeof frame === "string") this.#addText(frame);
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
   * Returns the next bytes to write, one piece at a time. Call {@linkcode FrameQueue.confirm}
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
    if (lent === undefined) return; // Cleared in the meantime.
    this.#bytes -= this.#writing;
    this.#written += this.#writing;
    if (this.#written < lent.bytes.length) return;
    this.#lent = undefined;
    const { buffer } = lent.bytes;
    // A transport may have detached the buffer, which then has no bytes.
    if (lent.isOwn && buffer.byteLength > 0 && buffer.byteLength <= SPARE_BUFFER_BYTES) {
      this.#spare = new Uint8Array(buffer);
    }
  }

  clear(): void {
    this.#pieces = [];
    this.#buffer = undefined;
    this.#spare = undefined;
    this.#lent = undefined;
    this.#isOwn = true;
    this.#used = 0;
    this.#bytes = 0;
  }

  static #encode(frame: Frame, parts: readonly FramePart[]): Uint8Array {
    let encoded = this.#encoded.get(parts);
    if (encoded === undefined) {
      const queue = new FrameQueue();
      queue.add(frame);
      queue.#seal();
      encoded = concat(queue.#pieces.map(({ bytes }) => bytes));
      this.#encoded.set(parts, encoded);
    }
    return encoded;
  }

  #addShared(frame: Uint8Array): void {
    const { length } = frame;
    this.#bytes += length;
    if (length >= SHARED_BYTES) {
      this.#seal();
      this.#pieces.push({ bytes: frame, isOwn: false });
    } else if (this.#buffer === undefined) {
      this.#buffer = frame;
      this.#isOwn = false;
      this.#used = length;
    } else {
      this.#reserve(length);
      this.#buffer.set(frame, this.#used);
      this.#used += length;
    }
  }

  #addText(text: string): void {
    // Reserve space for ASCII. A text with many other characters is encoded in two steps.
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

  /** Ensures space in the current buffer, or switches to a new one. */
  #reserve(bytes: number): void {
    if (this.#used > 0 && this.#used + bytes > MAX_WRITE_BYTES) this.#seal();
    if (this.#buffer !== undefined) return this.#grow(this.#used + bytes);
    const spare = this.#spare;
    this.#spare = undefined;
    // Make it as large as the last buffer, so that a busy session does not have to grow each
    // buffer.
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
    this.#isOwn = true;
  }

  #seal(): void {
    if (this.#used === 0) return;
    this.#pieces.push({ bytes: this.#buffer!.subarray(0, this.#used), isOwn: this.#isOwn });
    if (this.#isOwn) this.#lastBytes = Math.min(this.#used, MAX_WRITE_BYTES);
    this.#buffer = undefined;
    this.#isOwn = true;
    this.#used = 0;
  }
}

/**
 * Returns the number of bytes that a length occupies.
 *
 * @param length The length, which is below 2^30 because the frame fits in memory.
 * @returns 1, 2 or 4.
 */
export function lengthBytes(length: number): 1 | 2 | 4 {
  return length < 64 ? 1 : length < 16_384 ? 2 : 4;
}

/**
 * Writes the head of a frame.
 *
 * @param at The index of the first byte.
 * @param head The kind of the frame, and the length of the body.
 */
export function writeHead(
  target: Uint8Array,
  at: number,
  { kind, length }: { readonly kind: number; readonly length: number },
): void {
  const size = lengthBytes(length);
  if (size === 1) target[at] = length;
  else if (size === 2) {
    target[at] = 0x40 | length >> 8;
    target[at + 1] = length;
  } else {
    target[at] = 0x80 | length >> 24;
    target[at + 1] = length >> 16;
    target[at + 2] = length >> 8;
    target[at + 3] = length;
  }
  target[at + size] = kind;
}
