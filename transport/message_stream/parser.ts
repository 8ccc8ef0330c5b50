/** Parses the frames of a message stream, in chunks of any size. */
import { CloseCode } from "../../errors.ts";
import { KIND_BINARY, KIND_END, KIND_TEXT, MARK_0, MARK_1, MARK_BYTES } from "./format.ts";
import type { Frame } from "../connection.ts";

/**
 * First buffer of a frame that comes in parts: the length is the peer's claim, and may be false.
 */
const FIRST_BODY_BYTES = 16 * 1024;

// Keeps a byte order mark at the start of a text.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Receiver of parsed frames. */
export interface FrameSink {
  /** Called with a whole frame: text, or a binary message with its mark. */
  onFrame(frame: Frame): void;
  /** Called at the end mark. No other call follows. */
  onEnd(): void;
  /** Called at malformed input. No other call follows. */
  onRefused(closeCode: number, reason: string): void;
}

/** A frame with an incomplete body. */
interface OpenFrame {
  readonly kind: number;
  /** Length of the body, with the mark of a binary message. */
  readonly length: number;
  filled: number;
  bytes: Uint8Array;
}

/**
 * An incremental parser. Holds at most one frame, in a buffer of at most twice the bytes received.
 */
export class FrameParser {
  readonly #sink: FrameSink;
  readonly #maxFrameBytes: number;
  #head: Uint8Array | undefined;
  #open: OpenFrame | undefined;
  #isDone = false;

  /**
   * Creates a parser.
   *
   * @param sink Receives the parsed frames.
   * @param maxFrameBytes Longest body; a longer one is refused without being buffered.
   */
  constructor(sink: FrameSink, maxFrameBytes: number) {
    this.#sink = sink;
    this.#maxFrameBytes = maxFrameBytes;
  }

  /**
   * Parses the next chunk.
   *
   * @param chunk The bytes, which belong to the parser from now on.
   */
  push(chunk: Uint8Array): void {
    if (this.#isDone) return;
    let bytes = chunk;
    let at = this.#open === undefined ? 0 : this.#fill(this.#open, chunk);
    if (this.#head !== undefined) {
      bytes = joined(this.#head, chunk);
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
      // The head has been read, and has at least the length of the mark written over it.
      bytes[body - 2] = MARK_0;
      bytes[body - 1] = MARK_1;
      this.#sink.onFrame(bytes.slice(body - MARK_BYTES, end));
    } else this.#end();
    return end;
  }

  #accepts(kind: number, length: number): boolean {
    if (length > this.#maxFrameBytes) {
      this.#refuse(CloseCode.tooLarge, `A frame has more than ${this.#maxFrameBytes} bytes`);
    } else if (kind > KIND_END) {
      this.#refuse(CloseCode.malformed, `A frame is of kind ${kind}, which is not known`);
    } else if (kind === KIND_END && length > 0) {
      this.#refuse(CloseCode.malformed, "An end mark has a body");
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
      return this.#refuse(CloseCode.malformed, "A text frame is not UTF-8");
    }
    this.#sink.onFrame(text);
  }

  #end(): void {
    this.#isDone = true;
    this.#sink.onEnd();
  }

  #refuse(closeCode: number, reason: string): void {
    this.#isDone = true;
    this.#sink.onRefused(closeCode, reason);
  }
}

function joined(head: Uint8Array, chunk: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(head.length + chunk.length);
  bytes.set(head);
  bytes.set(chunk, head.length);
  return bytes;
}
