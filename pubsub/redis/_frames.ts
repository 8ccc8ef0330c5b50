/**
 * Frames of publications in channels and streams; payloads are carried without parsing.
 *
 * ```text
 * frame   = length(u32) flags(u8) exceptLength(u16) except payload   length counts the bytes after it
 * except  = session that is left out [NUL tag]                       a tag if the topic has a history
 * plain   = frame...
 * kept    = epoch " " offset [" " prev] "\n" frame...                offset of the first frame;
 *                                                                    prev unless it is offset - 1
 * ```
 */
import { Buffer } from "node:buffer";
import type { Publication, PublicationPosition } from "../broker.ts";

/** Bytes in front of a frame's `except`. */
const HEAD_BYTES = 7;

/** Flag of a binary payload. */
const BINARY = 1;

const MAX_EXCEPT_BYTES = 65_535;

/** Characters of a tag. */
const TAG_BYTES = 6;

/** Encodes one publication; topics with a history need a `tag`. */
export function encodeFrame(publication: Publication, tag?: string): Buffer {
  const { payload } = publication;
  const except = (publication.except ?? "") + (tag === undefined ? "" : `\0${tag}`);
  const exceptBytes = Buffer.byteLength(except);
  if (exceptBytes > MAX_EXCEPT_BYTES) {
    throw new RangeError(
      `Cannot publish: except must be at most ${MAX_EXCEPT_BYTES} bytes, received ${exceptBytes}`,
    );
  }
  const isText = typeof payload === "string";
  const payloadBytes = isText ? Buffer.byteLength(payload) : payload.byteLength;
  const frame = Buffer.allocUnsafe(HEAD_BYTES + exceptBytes + payloadBytes);
  frame.writeUInt32BE(frame.length - 4, 0);
  frame[4] = isText ? 0 : BINARY;
  frame.writeUInt16BE(exceptBytes, 5);
  if (exceptBytes > 0) frame.write(except, HEAD_BYTES);
  if (isText) frame.write(payload, HEAD_BYTES + exceptBytes);
  else frame.set(payload, HEAD_BYTES + exceptBytes);
  return frame;
}

/** Decodes the publications of a plain message; malformed frames are left out. */
export function decodePlain(topic: string, message: Buffer): Publication[] {
  return decodeFrames(topic, message, 0, undefined);
}

/** Decodes the publications of a kept message, each with its position. */
export function decodeKept(topic: string, message: Buffer): Publication[] {
  const end = message.indexOf(0x0a);
  const [epoch, first, before] = message.toString("latin1", 0, Math.max(end, 0)).split(" ");
  const offset = Number(first);
  const prev = before === undefined ? offset - 1 : Number(before);
  if (!epoch || !Number.isSafeInteger(offset) || offset < 1) return [];
  if (!Number.isSafeInteger(prev) || prev < 0 || prev >= offset) return [];
  return decodeFrames(topic, message, end + 1, { epoch, offset, prev });
}

/** Decodes the publications of a page: one frame each, at consecutive offsets from the first. */
export function decodeStored(
  topic: string,
  frames: readonly Buffer[],
  { epoch, offset: first, prev }: PublicationPosition,
): Publication[] {
  return frames.flatMap((frame, i) => {
    const offset = first + i;
    return decodeFrames(topic, frame, 0, { epoch, offset, prev: i === 0 ? prev : offset - 1 });
  });
}

function decodeFrames(
  topic: string,
  message: Buffer,
  start: number,
  first: PublicationPosition | undefined,
): Publication[] {
  const publications: Publication[] = [];
  for (let at = start; at + HEAD_BYTES <= message.length;) {
    const end = at + 4 + message.readUInt32BE(at);
    const body = at + HEAD_BYTES + message.readUInt16BE(at + 5);
    if (end > message.length || body > end) break;
    const tagAt = body - TAG_BYTES;
    const isTagged = first !== undefined && tagAt > at + HEAD_BYTES && message[tagAt - 1] === 0;
    const exceptEnd = isTagged ? tagAt - 1 : body;
    const offset = first === undefined ? 0 : first.offset + publications.length;
    publications.push({
      topic,
      // Copied, so that a kept payload does not keep the whole message in memory.
      payload: message[at + 4] === BINARY
        ? Uint8Array.from(message.subarray(body, end))
        : message.toString("utf8", body, end),
      ...(exceptEnd > at + HEAD_BYTES
        ? { except: message.toString("utf8", at + HEAD_BYTES, exceptEnd) }
        : {}),
      ...(first === undefined ? {} : {
        position: {
          epoch: first.epoch,
          offset,
          prev: publications.length === 0 ? first.prev : offset - 1,
          ...(isTagged ? { tag: message.toString("latin1", tagAt, body) } : {}),
        },
      }),
    });
    at = end;
  }
  return publications;
}
