/**
 * Reads the frames of a message stream, however its bytes are cut.
 *
 * @module
 */
import { CloseCode } from "../../errors.ts";
import { KIND_BINARY, KIND_END, KIND_TEXT, MARK_0, MARK_1, MARK_BYTES } from "./format.ts";
import type { Frame } from "../connection.ts";

/** The first buffer of a frame that comes in parts: its length is the peer's word, and may be a lie. */
const FIRST_BODY_BYTES = 16 * 1024;

// A mark at the start of a text is the text's own.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What a parser finds. */
export interface FrameSink {
  /** A whole frame: text, or a binary message with its mark. */
  onFrame(frame: Frame): void;
  /** The end mark. Nothing is found after it. */
  onEnd(): void;
  /** What came cannot be read. Nothing is found after it. */
  onRefused(closeCode: number, reason: string): void;
}

/** A frame whose body is not whole yet. */
interface OpenFrame {
  readonly kind: number;
  /** Of the body, with the mark of a binary message. */
  readonly length: number;
  filled: number;
  bytes: Uint8Array;
}

/**
 * An incremental parser. It holds at most one frame, and never more than twice
 * what came of it.
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
   * @param sink Gets what is found.
   * @param maxFrameBytes A longer body is refused before it is held.
   */
  constructor(sink: FrameSink, maxFrameBytes: number) {
    this.#sink = sink;
    this.#maxFrameBytes = maxFrameBytes;
  }

  /**
   * Reads on.
   *
   * @param chunk What came next; it belongs to the parser from now on.
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

  /** Reads one frame, and tells where the next one begins. */
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
      // The head has been read, and is at least as long as the mark that takes its place.
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

  /** Adds to the frame that is not whole, and tells how many bytes that took. */
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
