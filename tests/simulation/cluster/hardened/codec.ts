/** WebSocket frames (RFC 6455). Encodes a client's frames, and validates a server's frames. */
import { Buffer } from "node:buffer";
import { deflateRawSync, inflateRawSync } from "node:zlib";

/** Opcodes of the frames. */
export const [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10] as const;

/** The bit that marks a compressed message. */
const COMPRESSED = 0x40;

/** The bytes at the end of each flushed deflate block. */
const TAIL = Buffer.of(0, 0, 0xff, 0xff);

/** `Z_SYNC_FLUSH` of zlib. */
const finishFlush = 2;

export interface ServerFrame {
  readonly opcode: number;
  readonly payload: Buffer;
}

/** Options of {@linkcode encodeFrame}. */
export interface EncodeOptions {
  /** False if other frames continue this frame. */
  readonly isLast?: boolean;
  /** True for the first frame of a compressed message. */
  readonly isCompressed?: boolean;
  /** Random numbers for the mask. */
  readonly random: () => number;
}

/**
 * Encodes a client frame.
 *
 * @param opcode Kind of the frame.
 * @param payload Bytes, which are copied.
 * @param options See {@linkcode EncodeOptions}.
 */
export function encodeFrame(
  opcode: number,
  payload: Uint8Array,
  { isLast = true, isCompressed = false, random }: EncodeOptions,
): Buffer {
  const { length } = payload;
  const head = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const frame = Buffer.alloc(head + 4 + length);
  frame[0] = (isLast ? 0x80 : 0) | (isCompressed ? COMPRESSED : 0) | opcode;
  frame[1] = 0x80 | (head === 2 ? length : head === 4 ? 126 : 127);
  if (head === 4) frame.writeUInt16BE(length, 2);
  if (head === 10) frame.writeUInt32BE(length, 6);
  const mask = Math.floor(random() * 2 ** 32);
  frame.writeUInt32BE(mask, head);
  for (let i = 0; i < length; i++) {
    frame[head + 4 + i] = payload[i]! ^ (mask >>> (24 - 8 * (i & 3))) & 0xff;
  }
  return frame;
}

/** Compresses the payload of a message, without context takeover. */
export function compressed(payload: Uint8Array): Buffer {
  return deflateRawSync(payload, { finishFlush }).subarray(0, -TAIL.length);
}

/** Encodes the payload of a close frame. It is empty without a code. */
export function closePayload(code: number | undefined, reason: string): Buffer {
  if (code === undefined) return Buffer.alloc(0);
  return Buffer.concat([Buffer.from([code >> 8, code & 0xff]), Buffer.from(reason)]);
}

/** Reads the frames of a server. */
export class ServerFrames {
  readonly #mayCompress: boolean;
  readonly #windowBits: number;
  #bytes = Buffer.alloc(0);
  #isOver = false;

  /**
   * Creates a reader that starts before the first frame.
   *
   * @param windowBits Negotiated window of the server's compression, or 0 without compression.
   */
  constructor(windowBits: number) {
    this.#mayCompress = windowBits > 0;
    this.#windowBits = windowBits;
  }

  /**
   * Reads bytes.
   *
   * @param chunk The bytes.
   * @returns All complete frames.
   * @throws {Error} If the server violated the protocol.
   */
  *read(chunk: Buffer): Generator<ServerFrame> {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    for (;;) {
      const bytes = this.#bytes;
      if (bytes.length === 0) return;
      if (this.#isOver) throw new Error("a server sent bytes after its close");
      if (bytes.length < 2) return;
      const [first, second] = [bytes[0]!, bytes[1]!];
      const opcode = first & 0xf;
      const isCompressed = (first & COMPRESSED) !== 0;
      if ((first & 0x80) === 0 || (first & 0x30) !== 0) {
        throw new Error("a server's frame has bits");
      }
      if (second > 127) throw new Error("a server's frame is masked");
      if (isCompressed && !(this.#mayCompress && opcode <= BINARY)) {
        throw new Error("a server compressed without an agreement");
      }
      if (![TEXT, BINARY, CLOSE, PING, PONG].includes(opcode as never)) {
        throw new Error(`a server's frame has opcode ${opcode}`);
      }
      const head = second < 126 ? 2 : second === 126 ? 4 : 10;
      if (bytes.length < head) return;
      const length = head === 2
        ? second
        : head === 4
        ? bytes.readUInt16BE(2)
        : Number(bytes.readBigUInt64BE(2));
      const isMinimal = length >= (head === 2 ? 0 : head === 4 ? 126 : 65_536);
      if (!isMinimal || opcode >= CLOSE && head > 2) {
        throw new Error("a server's frame is too long");
      }
      if (bytes.length < head + length) return;
      const payload = bytes.subarray(head, head + length);
      this.#bytes = bytes.subarray(head + length);
      if (opcode === CLOSE) this.#isOver = true;
      yield { opcode, payload: isCompressed ? this.#inflated(payload) : payload };
    }
  }

  #inflated(payload: Buffer): Buffer {
    const windowBits = this.#windowBits;
    return inflateRawSync(Buffer.concat([payload, TAIL]), { windowBits, finishFlush });
  }
}
