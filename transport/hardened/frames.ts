/** WebSocket frames of a server, encoded once for all receivers of the same message. */
import { Buffer } from "node:buffer";
import type { Frame } from "../connection.ts";

/** FIN bit and the opcode of text. */
const TEXT = 0x81;

/** FIN bit and the opcode of binary data. */
const BINARY = 0x82;

/**
 * Encodes frames, neither masked nor fragmented, and keeps the last text: a publication goes to one
 * socket after the other, and only the first one pays for the encoding.
 */
export class FrameMaker {
  #text = "";
  #made: Uint8Array = make("");

  /**
   * Encodes a WebSocket frame.
   *
   * @param frame Message to send.
   * @returns Encoded frame. All sockets that send the same message share these bytes, which MUST
   * NOT be changed.
   */
  make(frame: Frame): Uint8Array {
    if (typeof frame !== "string") return make(frame);
    if (this.#text !== frame) {
      this.#made = make(frame);
      this.#text = frame;
    }
    return this.#made;
  }
}

function make(frame: Frame): Uint8Array {
  const isText = typeof frame === "string";
  const length = isText ? Buffer.byteLength(frame) : frame.length;
  const start = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const made = Buffer.allocUnsafe(start + length);
  made[0] = isText ? TEXT : BINARY;
  made[1] = start === 2 ? length : start === 4 ? 126 : 127;
  if (start === 4) made.writeUInt16BE(length, 2);
  if (start === 10) made.writeBigUInt64BE(BigInt(length), 2);
  if (isText) made.write(frame, start);
  else made.set(frame, start);
  return made;
}
