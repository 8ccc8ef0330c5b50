/** Parser of the typed messages of a stream, independent of the chunks. */
import { END_TYPE, refusal, STREAM_HEAD_BYTES } from "./structured_format.ts";

/**
 * Size of the first buffer of a message in several chunks: the length is the peer's claim and may
 * be false.
 */
const FIRST_PAYLOAD_BYTES = 16 * 1024;

const NOTHING = new Uint8Array();

/** A received message. */
export interface StructuredFrame {
  /** Number of the message. */
  readonly type: number;
  /** Bytes for the codec, valid until the next chunk. */
  readonly payload: Uint8Array;
}

/** Rules of the caller for a parser. */
export interface StructuredParserRules {
  /** Largest payload; a larger message is refused before any byte is buffered. */
  readonly maxMessageBytes: number;
  /** True if both ends use the end mark. */
  readonly hasEndMark: boolean;
  /**
   * Called with the number of each message, before its payload.
   *
   * @param type The number.
   * @returns True to receive the message; false to skip the payload without a buffer.
   * @throws If reading ends here.
   */
  accepts(type: number): boolean;
}

/** A message that is not complete yet. */
interface OpenFrame {
  readonly type: number;
  readonly length: number;
  filled: number;
  bytes: Uint8Array;
}

/**
 * An incremental parser that returns one message per call. The parser holds one chunk and at most
 * one message, in a buffer of at most 16 KiB or twice the received bytes, whichever is larger.
 */
export class StructuredParser {
  readonly #rules: StructuredParserRules;
  readonly #head: Uint8Array = new Uint8Array(STREAM_HEAD_BYTES);
  #headFilled = 0;
  #chunk: Uint8Array = NOTHING;
  #at = 0;
  #open: OpenFrame | undefined = undefined;
  #skipping = 0;
  #isAtEnd = false;

  /**
   * Creates a parser.
   *
   * @param rules The rules of the caller.
   */
  constructor(rules: StructuredParserRules) {
    this.#rules = rules;
  }

  /** True after the end mark, which ends the messages. */
  get isAtEnd(): boolean {
    return this.#isAtEnd;
  }

  /** Describes the incomplete message, for people; `undefined` between two messages. */
  get gap(): string | undefined {
    const open = this.#open;
    if (open !== undefined) {
      return `${open.filled} of ${open.length} bytes of a message of type ${open.type}`;
    }
    if (this.#skipping > 0) return `a message that lacks ${this.#skipping} bytes`;
    if (this.#headFilled > 0) return `${this.#headFilled} of ${STREAM_HEAD_BYTES} bytes of a head`;
    return undefined;
  }

  /** Number of the incomplete message. */
  get openType(): number | undefined {
    return this.#open?.type;
  }

  /**
   * Takes the next bytes, once {@linkcode StructuredParser.next} has returned `undefined`.
   *
   * @param chunk The bytes, which belong to the parser until the next chunk.
   */
  push(chunk: Uint8Array): void {
    this.#chunk = chunk;
    this.#at = 0;
  }

  /**
   * Returns the last chunk, which the parser no longer needs.
   *
   * @returns The chunk, whose memory may be used again.
   */
  takeUsed(): Uint8Array {
    const chunk = this.#chunk;
    this.#chunk = NOTHING;
    this.#at = 0;
    return chunk;
  }

  /**
   * Reads one message.
   *
   * @returns The message; `undefined` if incomplete, and after the end mark.
   * @throws {StructuredError} If the message is too large, or an end mark has a payload.
   */
  next(): StructuredFrame | undefined {
    while (!this.#isAtEnd) {
      if (this.#skipping > 0) {
        const skipped = Math.min(this.#skipping, this.#chunk.length - this.#at);
        this.#skipping -= skipped;
        this.#at += skipped;
        if (this.#skipping > 0) return undefined;
      }
      if (this.#open !== undefined) return this.#fill(this.#open);
      const frame = this.#readHead();
      if (frame !== "skipped") return frame;
    }
    return undefined;
  }

  #readHead(): StructuredFrame | "skipped" | undefined {
    let head = this.#chunk;
    let at = this.#at;
    const rest = head.length - at;
    if (this.#headFilled > 0 || rest < STREAM_HEAD_BYTES) {
      const taken = Math.min(STREAM_HEAD_BYTES - this.#headFilled, rest);
      this.#head.set(head.subarray(at, at + taken), this.#headFilled);
      this.#headFilled += taken;
      this.#at += taken;
      if (this.#headFilled < STREAM_HEAD_BYTES) return undefined;
      this.#headFilled = 0;
      head = this.#head;
      at = 0;
    } else this.#at += STREAM_HEAD_BYTES;
    const type = head[at]! << 8 | head[at + 1]!;
    const length = (head[at + 2]! << 24 | head[at + 3]! << 16 | head[at + 4]! << 8 |
      head[at + 5]!) >>> 0;
    return this.#begin(type, length);
  }

  #begin(type: number, length: number): StructuredFrame | "skipped" | undefined {
    const { maxMessageBytes, hasEndMark } = this.#rules;
    if (type === END_TYPE && hasEndMark) {
      if (length > 0) {
        throw refusal("malformed", `expected an empty end mark, received ${length} bytes`, {
          type,
        });
      }
      this.#isAtEnd = true;
      return "skipped";
    }
    if (length > maxMessageBytes) {
      const rule = `expected at most ${maxMessageBytes} bytes`;
      throw refusal("too-large", `${rule}, received a message of type ${type} with ${length}`, {
        type,
      });
    }
    if (!this.#rules.accepts(type)) {
      this.#skipping = length;
      return "skipped";
    }
    const end = this.#at + length;
    if (end <= this.#chunk.length) {
      const payload = this.#chunk.subarray(this.#at, end);
      this.#at = end;
      return { type, payload };
    }
    const came = this.#chunk.length - this.#at;
    const size = Math.min(length, Math.max(FIRST_PAYLOAD_BYTES, came * 2));
    return this.#fill(this.#open = { type, length, filled: 0, bytes: new Uint8Array(size) });
  }

  /** Adds bytes to the incomplete message. */
  #fill(open: OpenFrame): StructuredFrame | undefined {
    const { length, filled } = open;
    const taken = Math.min(this.#chunk.length - this.#at, length - filled);
    const end = filled + taken;
    if (end > open.bytes.length) {
      const larger = new Uint8Array(Math.min(length, Math.max(end, open.bytes.length * 2)));
      larger.set(open.bytes.subarray(0, filled));
      open.bytes = larger;
    }
    open.bytes.set(this.#chunk.subarray(this.#at, this.#at + taken), filled);
    open.filled = end;
    this.#at += taken;
    if (end < length) return undefined;
    this.#open = undefined;
    return { type: open.type, payload: open.bytes };
  }
}
