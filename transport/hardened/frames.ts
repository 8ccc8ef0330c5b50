/**
 * Frames of a server: not masked, whole, and made once for all who get the same.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import type { Frame } from "../connection.ts";

/** FIN, and that it is text. */
const TEXT = 0x81;

/** FIN, and that it is binary. */
const BINARY = 0x82;

/**
 * Makes frames. The last text is kept: what is published goes to one socket
 * after the other, and is encoded for the first.
 */
export class FrameMaker {
  #text = "";
  #made: Uint8Array = make("");

  /**
   * Makes a frame of WebSocket.
   *
   * @param frame What is sent.
   * @returns Its bytes, for everybody who is sent the same: they MUST NOT be changed.
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
