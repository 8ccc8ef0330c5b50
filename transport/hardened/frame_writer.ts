/** Encodes a server's WebSocket frames (RFC 6455), and writes all frames of a turn together. */
import { Buffer } from "node:buffer";
import type { Runtime } from "../../base/runtime.ts";
import type { Frame, FramePart } from "../connection.ts";
import { Opcode } from "./frame_reader.ts";

const FIN = 0x80;

/** The longest reason of a close frame, in bytes. */
const MAX_REASON_BYTES = 123;

/**
 * Encodes a frame, without a mask and without fragments.
 *
 * @returns A new buffer with a copy of the payload.
 */
export function encodeFrame(opcode: number, payload: Frame): Buffer {
  const isText = typeof payload === "string";
  const length = isText ? Buffer.byteLength(payload) : payload.length;
  const start = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const bytes = Buffer.allocUnsafe(start + length);
  bytes[0] = FIN | opcode;
  bytes[1] = start === 2 ? length : start === 4 ? 126 : 127;
  if (start === 4) bytes.writeUInt16BE(length, 2);
  if (start === 10) bytes.writeBigUInt64BE(BigInt(length), 2);
  if (isText) bytes.write(payload, start);
  else bytes.set(payload, start);
  return bytes;
}

/**
 * Encodes a close frame.
 *
 * @param code The close code; `undefined` for a frame without a code and reason.
 * @param reason The reason, which is truncated to 123 bytes.
 */
export function encodeClose(code: number | undefined, reason: string): Buffer {
  if (code === undefined) return encodeFrame(Opcode.close, "");
  const payload = new Uint8Array(2 + MAX_REASON_BYTES);
  // `encodeInto` writes only whole characters.
  const { written } = new TextEncoder().encodeInto(reason, payload.subarray(2));
  payload.set([code >> 8, code & 0xff]);
  return encodeFrame(Opcode.close, payload.subarray(0, 2 + written));
}

/**
 * Encodes each message once for all sockets, whatever its size. The encoded frame is kept for as
 * long as the parts exist if many sessions share the message, and otherwise until the next message.
 */
export class FrameEncoder {
  readonly #shared = new WeakMap<readonly FramePart[], Buffer>();
  #last: Frame = "";
  #encoded: Buffer = encodeMessage("");

  /**
   * Encodes a message.
   *
   * @param frame The message to send. Bytes MUST NOT be changed afterwards.
   * @param parts The parts of a message that many sessions share. Pass the same array for all
   * sessions.
   * @returns The encoded frame. All sockets that send the same message share these bytes, so they
   * MUST NOT be changed.
   */
  encode(frame: Frame, parts?: readonly FramePart[]): Buffer {
    if (parts !== undefined) {
      let encoded = this.#shared.get(parts);
      if (encoded === undefined) this.#shared.set(parts, encoded = encodeMessage(frame));
      return encoded;
    }
    if (this.#last !== frame) {
      this.#encoded = encodeMessage(frame);
      this.#last = frame;
    }
    return this.#encoded;
  }
}

function encodeMessage(frame: Frame): Buffer {
  return encodeFrame(typeof frame === "string" ? Opcode.text : Opcode.binary, frame);
}

/** A socket whose frames wait for the end of the turn. */
export interface FrameSource {
  /** Writes all waiting frames. */
  flush(): void;
}

/**
 * The writes of one turn for all sockets of an engine. The frames of a socket become one write, and
 * sockets with the same frames share the joined bytes.
 */
export class WriteTurn {
  /** The encoder of all sockets. */
  readonly encoder: FrameEncoder = new FrameEncoder();
  #sources: FrameSource[] = [];
  /**
   * The new sockets. Bounded by the connections that are accepted in one turn of the event loop.
   */
  #greeting: FrameSource[] = [];
  #parts: readonly Buffer[] = [];
  #joined: Buffer | undefined = undefined;

  /** Flushes a socket at the end of the turn. Call this once before each flush. */
  mark(source: FrameSource): void {
    if (this.#sources.push(source) === 1) queueMicrotask(() => this.#flush());
  }

  /**
   * Flushes a new socket at the end of the next turn of the event loop. A session's first messages,
   * which wait for the end of this turn, are then sent together with the response to the handshake,
   * in one write instead of two.
   *
   * @param source The socket, which holds the response to its handshake.
   */
  greet(source: FrameSource, runtime: Runtime): void {
    if (this.#greeting.push(source) > 1) return;
    runtime.schedule(() =>
      runtime.schedule(() => {
        const sources = this.#greeting;
        this.#greeting = [];
        for (const source of sources) source.flush();
      })
    );
  }

  /**
   * Joins frames, once for all sockets that send the same frames.
   *
   * @param parts The frames of one socket, in order.
   * @returns The bytes of all frames. They MUST NOT be changed.
   */
  join(parts: readonly Buffer[]): Buffer {
    if (parts.length === 1) return parts[0]!;
    const known = this.#parts;
    if (known.length !== parts.length || parts.some((part, i) => part !== known[i])) {
      this.#joined = Buffer.concat(parts);
      this.#parts = parts.slice();
    }
    return this.#joined!;
  }

  #flush(): void {
    const sources = this.#sources;
    this.#sources = [];
    for (const source of sources) source.flush();
    this.#parts = [];
    this.#joined = undefined;
  }
}
