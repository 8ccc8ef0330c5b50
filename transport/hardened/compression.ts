/**
 * Compression of messages (permessage-deflate, RFC 7692), without state between messages. Each
 * message is compressed separately, so that all receivers can share its bytes, and so that a secret
 * in one message cannot affect the size of another.
 */
import { Buffer } from "node:buffer";
import { constants, deflateRawSync, inflateRaw, inflateRawSync } from "node:zlib";
import type { Frame, FramePart } from "../connection.ts";
import { COMPRESSED, Opcode } from "./frame_reader.ts";
import { encodeFrame } from "./frame_writer.ts";

const finishFlush = constants.Z_SYNC_FLUSH;

/** The end of each flushed block, which is omitted at the end of a message. */
const TAIL = Buffer.of(0x00, 0x00, 0xff, 0xff);

/** The largest compressed message that is inflated on this thread, in bytes. */
export const MAX_SYNC_INFLATE_BYTES = 16_384;

/**
 * The maximum size to which a message may inflate on this thread, in bytes. This takes about a
 * millisecond.
 */
export const MAX_SYNC_INFLATED_BYTES = 1_048_576;

/** The maximum bytes of a stored deflate block. */
const MAX_STORED_BYTES = 65_535;

/** The parameters of an agreement. */
export interface CompressionAgreement {
  /** The window of the server's compression, as an exponent of two. */
  readonly windowBits: number;
  /** The value of `Sec-WebSocket-Extensions` in the response. */
  readonly header: string;
}

/**
 * Finds the first offer of permessage-deflate that this side supports. The agreement makes both
 * sides compress each message separately.
 *
 * @param offers The value of `Sec-WebSocket-Extensions` in the request.
 * @returns The agreement, or `undefined` if no offer is acceptable.
 */
export function agreeOnCompression(offers: string | null): CompressionAgreement | undefined {
  for (const offer of offers?.split(",") ?? []) {
    const [name, ...parameters] = offer.split(";").map((part) => part.trim());
    if (name !== "permessage-deflate") continue;
    const windowBits = windowOf(parameters);
    if (windowBits === undefined) continue;
    const header = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    return windowBits === "default"
      ? { windowBits: constants.Z_MAX_WINDOWBITS, header }
      : { windowBits, header: `${header}; server_max_window_bits=${windowBits}` };
  }
  return undefined;
}

/**
 * Returns the window that an offer allows this side to use, or `undefined` if the offer must be
 * declined.
 */
function windowOf(parameters: readonly string[]): number | "default" | undefined {
  const seen = new Set<string>();
  let windowBits: number | "default" = "default";
  for (const parameter of parameters) {
    const [name = "", value] = parameter.split("=").map((part) => part.trim());
    if (seen.has(name)) return undefined;
    seen.add(name);
    const bits = value?.replace(/^"(.*)"$/, "$1");
    const isWindow = bits !== undefined && /^([89]|1[0-5])$/.test(bits);
    if (name === "server_max_window_bits") {
      // zlib has no window of 2^8 bytes for raw deflate.
      if (!isWindow || bits === "8") return undefined;
      windowBits = Number(bits);
    } else if (name === "client_max_window_bits") {
      if (value !== undefined && !isWindow) return undefined;
    } else if (!/^(server|client)_no_context_takeover$/.test(name) || value !== undefined) {
      return undefined;
    }
  }
  return windowBits;
}

/**
 * Compresses messages that are sent to many sockets. Each part is compressed once, as its own
 * block. A frame of several parts is built by joining their blocks.
 */
export class SharedDeflater {
  readonly #windowBits: number;
  readonly #minBytes: number;
  /** The blocks by part, which are kept while a part waits in a queue. */
  readonly #blocks = new WeakMap<FramePart, Buffer>();
  /** The frames by their parts; `undefined` for a frame that would not become smaller. */
  readonly #frames = new WeakMap<readonly FramePart[], { readonly frame: Buffer | undefined }>();

  /** Expects the window as an exponent of two, and the smallest part to compress, in bytes. */
  constructor(windowBits: number, minBytes: number) {
    this.#windowBits = windowBits;
    this.#minBytes = minBytes;
  }

  /**
   * Encodes a compressed frame, once for all sockets that send the same parts.
   *
   * @param parts The parts of the frame. In the frame, line feeds separate them.
   * @returns The frame, or `undefined` if it would not become smaller.
   */
  encode(parts: readonly FramePart[]): Buffer | undefined {
    let known = this.#frames.get(parts);
    if (known === undefined) this.#frames.set(parts, known = { frame: this.#encode(parts) });
    return known.frame;
  }

  #encode(parts: readonly FramePart[]): Buffer | undefined {
    if (parts.every(({ size }) => size < this.#minBytes)) return undefined;
    const blocks: Buffer[] = [];
    let plainBytes = -1;
    for (const part of parts) {
      if (blocks.length > 0) blocks.push(LINE_FEED);
      blocks.push(this.#blockOf(part));
      plainBytes += 1 + part.size;
    }
    const whole = Buffer.concat(blocks);
    // If the last block is a stored one, an empty block follows it, of which only the header is
    // kept.
    const payload = whole.subarray(-TAIL.length).equals(TAIL)
      ? whole.subarray(0, -TAIL.length)
      : Buffer.concat([whole, Buffer.of(0)]);
    if (payload.length >= plainBytes) return undefined;
    const isText = typeof parts[0]!.frame === "string";
    return encodeFrame(COMPRESSED | (isText ? Opcode.text : Opcode.binary), payload);
  }

  #blockOf(part: FramePart): Buffer {
    const known = this.#blocks.get(part);
    if (known !== undefined) return known;
    const block = part.size < this.#minBytes ? storedBlock(part.frame) : this.#deflate(part.frame);
    this.#blocks.set(part, block);
    return block;
  }

  #deflate(frame: Frame): Buffer {
    return deflateRawSync(frame, {
      windowBits: this.#windowBits,
      finishFlush,
    });
  }
}

/** Creates deflate blocks that store bytes unchanged, followed by an empty block. */
function storedBlock(frame: Frame): Buffer {
  const bytes = Buffer.from(frame as string);
  const blocks: Buffer[] = [];
  for (let from = 0; from < bytes.length; from += MAX_STORED_BYTES) {
    const stored = bytes.subarray(from, from + MAX_STORED_BYTES);
    const head = Buffer.alloc(5);
    head.writeUInt16LE(stored.length, 1);
    head.writeUInt16LE(0xffff - stored.length, 3);
    blocks.push(head, stored);
  }
  return Buffer.concat(blocks);
}

const LINE_FEED = storedBlock("\n");

/** The result of {@linkcode inflateSync} and {@linkcode inflate}. */
export type Inflated =
  | { readonly bytes: Buffer }
  | { readonly fault: InflateFault };

/** The fault of a compressed message: it is above the size limit, or invalid. */
type InflateFault = "too large" | "invalid";

/**
 * Inflates a small message.
 *
 * @param maxOutputLength The maximum number of inflated bytes.
 * @returns The message, or the peer's fault.
 */
export function inflateSync(payload: Buffer, maxOutputLength: number): Inflated {
  try {
    const bytes = inflateRawSync(Buffer.concat([payload, TAIL]), { maxOutputLength, finishFlush });
    return { bytes };
  } catch (error) {
    return { fault: inflateFault(error) };
  }
}

/**
 * Inflates a message on another thread.
 *
 * @param maxOutputLength The maximum number of inflated bytes.
 * @param done Receives the message, or the peer's fault.
 */
export function inflate(
  payload: Buffer,
  maxOutputLength: number,
  done: (inflated: Inflated) => void,
): void {
  const options = { maxOutputLength, finishFlush };
  inflateRaw(Buffer.concat([payload, TAIL]), options, (error, bytes) => {
    done(error === null ? { bytes } : { fault: inflateFault(error) });
  });
}

function inflateFault(error: unknown): InflateFault {
  const isTooLarge = (error as { code?: unknown }).code === "ERR_BUFFER_TOO_LARGE";
  return isTooLarge ? "too large" : "invalid";
}
