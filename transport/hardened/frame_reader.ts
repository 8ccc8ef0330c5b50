/**
 * A reader of WebSocket frames (RFC 6455). It turns a client's bytes into messages and control
 * frames.
 */
import { Buffer, isUtf8 } from "node:buffer";
import { FIRST_UTF8, INVALID_UTF8, utf8After } from "./utf8_check.ts";

/** The opcodes of RFC 6455, section 5.2. */
export const Opcode = {
  continuation: 0x0,
  text: 0x1,
  binary: 0x2,
  close: 0x8,
  ping: 0x9,
  pong: 0xa,
} as const;

/** The close codes for a peer's faults (RFC 6455, section 7.4). */
export const FaultCode = {
  protocol: 1002,
  noUtf8: 1007,
  policy: 1008,
  tooLarge: 1009,
} as const;

/** The close code that stands for a close frame without a code. No frame carries this code. */
export const NO_CLOSE_CODE = 1005;

const FIN = 0x80;
const RESERVED_BITS = 0x70;

/** The bit that marks the first frame of a compressed message (RFC 7692). */
export const COMPRESSED = 0x40;

const MASKED = 0x80;

/** The bit of an opcode that marks control frames. */
const CONTROL = 0x8;

/** The largest payload of a control frame, in bytes. */
const MAX_CONTROL_BYTES = 125;

/**
 * The smallest payload that is unmasked in words rather than bytes, in bytes. For a shorter
 * payload, creating the view of words takes longer than unmasking the bytes.
 */
const MIN_WORD_BYTES = 256;

/** The bits of a word that are not set if all its bytes are ASCII. */
const NOT_ASCII = 0x80808080;

/**
 * The capacity of the first buffer of an incomplete message, in bytes. It doubles as bytes arrive.
 */
const FIRST_CAPACITY = 1_024;

/**
 * The receiver of a {@linkcode WebSocketFrameReader}'s events. It is called synchronously and in
 * order.
 */
export interface FrameEvents {
  /** Receives a whole message. The bytes of a binary message have their own buffer. */
  onMessage(data: string | ArrayBuffer): void;
  /** Receives the payload of a compressed message, if compression was agreed. */
  onCompressed(isText: boolean, payload: Buffer): void;
  /** Receives a ping. The payload MUST be copied, because its bytes belong to the chunk. */
  onPing(payload: Uint8Array): void;
  /** Reports a pong. */
  onPong(): void;
  /**
   * Receives the peer's close, which is the last event. The code is 1005 for a close without a
   * code.
   */
  onClose(code: number, reason: string): void;
  /** Reports a fault of the peer, with the code to close with. This is the last event. */
  onFault(closeCode: number, reason: string): void;
}

/** The limits of a {@linkcode WebSocketFrameReader}. */
export interface FrameLimits {
  /** The largest message, in bytes of payload. */
  readonly maxPayloadBytes: number;
  /** The maximum number of frames of one message. */
  readonly maxFragments: number;
  /** True if messages may be compressed. */
  readonly allowsCompression: boolean;
}

/**
 * Reads a client's frames.
 *
 * - **Limits:** a message that is too large is reported as a fault as soon as a frame header
 *   announces the excess. The reader holds no more than about twice the received bytes of one
 *   message.
 * - **Text:** invalid UTF-8 is reported as a fault with the first chunk that rules out valid text.
 * - **Pause:** `pause` stops the events in the middle of a chunk; the rest of the chunk waits for
 *   `resume`.
 * - **Idle:** between messages the reader holds no buffer.
 *
 * A chunk is unmasked in place, so it belongs to the reader.
 */
export class WebSocketFrameReader {
  readonly #events: FrameEvents;
  readonly #limits: FrameLimits;
  /** The bytes of an incomplete head or control frame, or bytes that wait for `resume`. */
  #rest: Buffer | undefined = undefined;
  /** A message whose frames or bytes are not complete yet. */
  #message: PartialMessage | undefined = undefined;
  #isPaused = false;
  #isReading = false;
  #isOver = false;

  constructor(events: FrameEvents, limits: FrameLimits) {
    this.#events = events;
    this.#limits = limits;
  }

  /** True between `pause` and `resume`. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** True after a close, a fault, or `end`. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /**
   * Reads a chunk. Chunks after a close or a fault are ignored.
   *
   * @param chunk The peer's bytes, which the reader may change.
   */
  read(chunk: Buffer): void {
    if (this.#isOver) return;
    this.#rest = this.#rest === undefined ? chunk : Buffer.concat([this.#rest, chunk]);
    if (!this.#isPaused && !this.#isReading) this.#advance();
  }

  /** Holds further events until `resume`. */
  pause(): void {
    this.#isPaused = true;
  }

  /** Continues with the bytes that were held. */
  resume(): void {
    this.#isPaused = false;
    if (!this.#isReading && this.#rest !== undefined) this.#advance();
  }

  /** Ignores all further bytes. */
  end(): void {
    this.#isOver = true;
    this.#rest = undefined;
    this.#message = undefined;
  }

  #advance(): void {
    this.#isReading = true;
    try {
      // The receiver of an event may pause, end or resume the reader.
      while (this.#rest !== undefined && !this.#isPaused && this.#readFrames(this.#rest));
    } finally {
      this.#isReading = false;
    }
  }

  /**
   * Reads all complete frames. Returns `true` if the reader was paused before the end of the bytes.
   */
  #readFrames(bytes: Buffer): boolean {
    this.#rest = undefined;
    let at = 0;
    while (at < bytes.length) {
      const next = this.#readFrame(bytes, at);
      if (this.#isOver) return false;
      if (next === at) {
        // Copy the rest, so that a few bytes do not keep a whole chunk alive.
        this.#rest = Buffer.allocUnsafeSlow(bytes.length - at);
        this.#rest.set(bytes.subarray(at));
        return false;
      }
      at = next;
      if (this.#isPaused && at < bytes.length) {
        this.#rest = bytes.subarray(at);
        return true;
      }
    }
    return false;
  }

  /**
   * Reads one frame, or a part of its payload. Returns the index after it, or `at` if nothing was
   * read.
   */
  #readFrame(bytes: Buffer, at: number): number {
    const message = this.#message;
    if (message !== undefined && message.remaining > 0) {
      return this.#readPayload(message, bytes, at);
    }
    if (bytes.length - at < 2) return at;
    const first = bytes[at]!;
    const fault = headerFault(first, bytes[at + 1]!, {
      isWithinMessage: message !== undefined,
      allowsCompression: this.#limits.allowsCompression,
    });
    if (fault !== undefined) return this.#fault(FaultCode.protocol, fault);
    let length = bytes[at + 1]! & ~MASKED;
    let start = at + 2;
    if (length === 126) {
      if (bytes.length < start + 2) return at;
      length = bytes.readUInt16BE(start);
      start += 2;
    } else if (length === 127) {
      if (bytes.length < start + 8) return at;
      // Above 2^53, the value is inexact, but it is then far above any limit.
      length = bytes.readUInt32BE(start) * 2 ** 32 + bytes.readUInt32BE(start + 4);
      start += 8;
    }
    const opcode = first & 0xf;
    const isControl = (opcode & CONTROL) !== 0;
    // A control frame between the fragments of a message is not part of the message.
    if (!isControl && length + (message?.length ?? 0) > this.#limits.maxPayloadBytes) {
      return this.#fault(FaultCode.tooLarge, "The message is too large");
    }
    start += 4;
    if (bytes.length < start) return at;
    const mask = bytes.readInt32BE(start - 4);
    const end = start + length;
    if (isControl) {
      if (bytes.length < end) return at;
      unmask(bytes, start, end, mask);
      this.#control(opcode, bytes.subarray(start, end));
      return end;
    }
    const isLast = (first & FIN) !== 0;
    // This is the usual case: the frame is a whole message, and is in one chunk.
    if (isLast && message === undefined && end <= bytes.length) {
      const seen = unmask(bytes, start, end, mask);
      if ((first & COMPRESSED) !== 0) {
        this.#events.onCompressed(opcode === Opcode.text, bytes.subarray(start, end));
      } else if (opcode === Opcode.binary) {
        this.#events.onMessage(new Uint8Array(bytes.subarray(start, end)).buffer);
      } else if ((seen & NOT_ASCII) === 0) {
        this.#events.onMessage(bytes.toString("latin1", start, end));
      } else if (isUtf8(bytes.subarray(start, end))) {
        this.#events.onMessage(bytes.toString("utf8", start, end));
      } else return this.#fault(FaultCode.noUtf8, NO_UTF8);
      return end;
    }
    const partial = this.#message ??= new PartialMessage(
      opcode === Opcode.text,
      (first & COMPRESSED) !== 0,
    );
    if (++partial.fragments > this.#limits.maxFragments) {
      return this.#fault(FaultCode.policy, "The message has too many fragments");
    }
    partial.remaining = length;
    partial.mask = mask;
    partial.isLastFrame = isLast;
    return this.#readPayload(partial, bytes, start);
  }

  #readPayload(message: PartialMessage, bytes: Buffer, start: number): number {
    const end = Math.min(bytes.length, start + message.remaining);
    if (!message.add(bytes, start, end)) return this.#fault(FaultCode.noUtf8, NO_UTF8);
    if (message.remaining > 0 || !message.isLastFrame) return end;
    this.#message = undefined;
    if (!message.isComplete) return this.#fault(FaultCode.noUtf8, NO_UTF8);
    if (message.isCompressed) this.#events.onCompressed(message.isText, message.bytes());
    else this.#events.onMessage(message.data());
    return end;
  }

  #control(opcode: number, payload: Buffer): void {
    if (opcode === Opcode.ping) return this.#events.onPing(payload);
    if (opcode === Opcode.pong) return this.#events.onPong();
    if (payload.length === 0) {
      this.end();
      return this.#events.onClose(NO_CLOSE_CODE, "");
    }
    const code = payload.length === 1 ? 0 : payload.readUInt16BE(0);
    if (!isCloseCode(code)) {
      this.#fault(FaultCode.protocol, "The close code is invalid");
    } else if (!isUtf8(payload.subarray(2))) {
      this.#fault(FaultCode.noUtf8, NO_UTF8);
    } else {
      this.end();
      this.#events.onClose(code, payload.toString("utf8", 2));
    }
  }

  #fault(closeCode: number, reason: string): number {
    this.end();
    this.#events.onFault(closeCode, reason);
    return 0;
  }
}

const NO_UTF8 = "The text is not UTF-8";

/** A message whose frames or bytes are not complete yet. */
class PartialMessage {
  readonly isText: boolean;
  /** True for a compressed message. */
  readonly isCompressed: boolean;
  #bytes = Buffer.alloc(0);
  /** The state of the UTF-8 check after the last byte. */
  #utf8 = FIRST_UTF8;
  #isAscii = true;
  /** The number of payload bytes so far. */
  length = 0;
  /** The number of frames so far. */
  fragments = 0;
  /** The number of bytes of the current frame that have not arrived yet. */
  remaining = 0;
  /** The masking key of the next four bytes. */
  mask = 0;
  /** True if the message ends with the current frame. */
  isLastFrame = false;

  constructor(isText: boolean, isCompressed: boolean) {
    this.isText = isText;
    this.isCompressed = isCompressed;
  }

  /** True unless the text ends in the middle of a character. */
  get isComplete(): boolean {
    return this.#utf8 === FIRST_UTF8;
  }

  /** Adds bytes of the current frame. Returns `false` if the text cannot be valid UTF-8. */
  add(bytes: Buffer, start: number, end: number): boolean {
    const count = end - start;
    if (count === 0) return true;
    const isAscii = (unmask(bytes, start, end, this.mask) & NOT_ASCII) === 0;
    this.mask = rotate(this.mask, count);
    this.remaining -= count;
    this.#grow(this.length + count);
    bytes.copy(this.#bytes, this.length, start, end);
    this.length += count;
    if (!this.isText || this.isCompressed || isAscii && this.#utf8 === FIRST_UTF8) return true;
    this.#isAscii = false;
    this.#utf8 = utf8After(this.#utf8, bytes, start, end);
    return this.#utf8 !== INVALID_UTF8;
  }

  /** Returns the whole message. */
  data(): string | ArrayBuffer {
    if (this.isText) {
      return this.#bytes.toString(this.#isAscii ? "latin1" : "utf8", 0, this.length);
    }
    return new Uint8Array(this.bytes()).buffer;
  }

  /** Returns the bytes of the whole message. */
  bytes(): Buffer {
    return this.#bytes.subarray(0, this.length);
  }

  /**
   * Makes room for the bytes that have arrived. No memory is allocated for an announced length
   * alone.
   */
  #grow(length: number): void {
    const { length: capacity } = this.#bytes;
    if (length <= capacity) return;
    const wanted = Math.max(length, 2 * capacity, FIRST_CAPACITY);
    const known = this.isLastFrame ? length + this.remaining : Infinity;
    const bytes = Buffer.allocUnsafeSlow(Math.min(wanted, known));
    this.#bytes.copy(bytes, 0, 0, this.length);
    this.#bytes = bytes;
  }
}

/** Finds the fault of the first two bytes of a frame. */
function headerFault(
  first: number,
  second: number,
  state: { readonly isWithinMessage: boolean; readonly allowsCompression: boolean },
): string | undefined {
  const { isWithinMessage, allowsCompression } = state;
  const mayCompress = allowsCompression && !isWithinMessage && (first & CONTROL) === 0;
  const reserved = mayCompress ? RESERVED_BITS & ~COMPRESSED : RESERVED_BITS;
  if ((first & reserved) !== 0) return "A frame has reserved bits";
  if ((second & MASKED) === 0) return "A frame of a client is not masked";
  const opcode = first & 0xf;
  if ((opcode & CONTROL) !== 0) {
    if (opcode > Opcode.pong) return "A frame has a reserved opcode";
    if ((first & FIN) === 0) return "A control frame is fragmented";
    return (second & ~MASKED) > MAX_CONTROL_BYTES ? "A control frame is too large" : undefined;
  }
  if (opcode > Opcode.binary) return "A frame has a reserved opcode";
  if (opcode === Opcode.continuation) {
    return isWithinMessage ? undefined : "A continuation has no message";
  }
  return isWithinMessage ? "A message is within another message" : undefined;
}

/** Returns whether a close frame may carry a code, according to the registry of RFC 6455. */
function isCloseCode(code: number): boolean {
  if (code >= 3_000) return code < 5_000;
  return code >= 1_000 && code <= 1_014 && (code < 1_004 || code > 1_006);
}

/** Rotates a masking key by a number of bytes. */
function rotate(mask: number, count: number): number {
  const bits = (count & 3) * 8;
  return bits === 0 ? mask : (mask << bits) | (mask >>> (32 - bits));
}

/**
 * Removes the mask from bytes in place. Returns the bitwise OR of all bytes, so that the caller can
 * detect ASCII.
 */
function unmask(bytes: Buffer, start: number, end: number, mask: number): number {
  let seen = 0;
  let at = start;
  if (end - start >= MIN_WORD_BYTES) {
    at += -(bytes.byteOffset + at) & 3;
    seen = unmaskBytes(bytes, start, at, mask);
    mask = rotate(mask, at - start);
    const words = new Int32Array(bytes.buffer, bytes.byteOffset + at, (end - at) >> 2);
    const word = wordOf(mask);
    for (let i = 0; i < words.length; i++) seen |= words[i]! ^= word;
    at += words.length * 4;
  }
  return seen | unmaskBytes(bytes, at, end, mask);
}

function unmaskBytes(bytes: Uint8Array, start: number, end: number, mask: number): number {
  const a = mask >>> 24, b = mask >>> 16 & 0xff, c = mask >>> 8 & 0xff, d = mask & 0xff;
  let seen = 0;
  let at = start;
  for (; at + 3 < end; at += 4) {
    seen |= bytes[at]! ^= a;
    seen |= bytes[at + 1]! ^= b;
    seen |= bytes[at + 2]! ^= c;
    seen |= bytes[at + 3]! ^= d;
  }
  if (at < end) seen |= bytes[at++]! ^= a;
  if (at < end) seen |= bytes[at++]! ^= b;
  if (at < end) seen |= bytes[at]! ^= c;
  return seen;
}

/** Converts a masking key to this machine's byte order. */
function wordOf(mask: number): number {
  const key = Uint8Array.of(mask >>> 24, mask >>> 16, mask >>> 8, mask);
  return new Int32Array(key.buffer)[0]!;
}
