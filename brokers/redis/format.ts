/**
 * Names of keys and channels, and the frames of publications in channels and streams. Payloads are
 * carried without being parsed.
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
import { checkNameBytes, type Publication, type PublicationPosition } from "../../pubsub/broker.ts";
import { announcedLog } from "../../streams/logs/log_names.ts";

/**
 * Maximum size of a topic or key in bytes. Every command contains the name, and Redis closes a
 * connection if a name exceeds 512 MiB. Skein's topics have at most 255 bytes.
 */
const MAX_NAME_BYTES = 65_536;

/** Number of slots in a cluster. */
const SLOTS = 16_384;

/** Number of partitions of the logs. At most as many masters of a cluster can have logs. */
export const LOG_PARTS = 32;

/** Kind of the channels of announcements. */
export const LOG_CHANNEL = "log-pub";

/**
 * Kinds of names:
 *
 * - `pub`, `log`: channels of a topic without and with a history
 * - `meta`, `stream`: hash with the state of a history, and stream with its publications
 * - `keys`: sorted set with the keys of a topic's publications
 * - `producer`: prefix of the keys with each producer's newest numbers on a topic
 * - `row`, `claims`, `tokens`: row, scope of claims, and bucket of tokens in the store
 */
type NameKind =
  | "pub"
  | "log"
  | "meta"
  | "stream"
  | "keys"
  | "producer"
  | "row"
  | "claims"
  | "tokens";

/**
 * Names of the keys and channels with one prefix.
 *
 * All names for a topic map to the same slot of a cluster, because the topic is in braces. A
 * character before the topic prevents empty braces. Only the text up to the first closing brace
 * determines the slot, so topics may contain braces.
 */
export class RedisNames {
  readonly #prefix: string;
  /** Tags of the partitions of logs. */
  readonly #logTags = logTags();

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  /** Key of the version mark. */
  get version(): string {
    return `${this.#prefix}:version`;
  }

  /** Channel of a topic without a history. */
  channel(topic: string): string {
    const log = announcedLog(topic);
    return log === undefined ? this.of("pub", topic) : this.ofLog(LOG_CHANNEL, log);
  }

  /** Key or channel of a kind, for a log. All of a log are in its partition, which is one slot. */
  ofLog(kind: string, id: string): string {
    return this.ofPart(kind, this.partOf(id)) + wellFormed(id);
  }

  /** Number of the partition of a log. */
  partOf(id: string): number {
    return crc16(Buffer.from(id)) % LOG_PARTS;
  }

  /** Key of a kind, for a whole partition of logs. */
  ofPart(kind: string, part: number): string {
    return `${this.#prefix}:${kind}:{${this.#logTags[part]!}}`;
  }

  /** Key or channel of a kind, for a topic, a key or a scope. */
  of(kind: NameKind, what: string): string {
    return `${this.#prefix}:${kind}:{${wellFormed(what)}}`;
  }
}

/**
 * Escapes a text so that it can be encoded as UTF-8. All lone surrogates are encoded alike, so
 * without escaping, different topics would get the same name.
 */
export function wellFormed(text: string): string {
  return text.isWellFormed() ? `/${text}` : `~${JSON.stringify(text)}`;
}

/** Reverses {@linkcode wellFormed}. */
export function readWellFormed(name: string): string {
  return name.startsWith("/") ? name.slice(1) : JSON.parse(name.slice(1));
}

/** Computes the tags of the partitions of logs, one for each equal share of the slots. */
function logTags(): string[] {
  const tags = new Map<number, string>();
  for (let n = 0; tags.size < LOG_PARTS; n++) {
    const tag = `logs:${n}`;
    const share = Math.floor(slotOf(`{${tag}}`) / (SLOTS / LOG_PARTS));
    if (!tags.has(share)) tags.set(share, tag);
  }
  return [...tags.entries()].sort(([a], [b]) => a - b).map(([, tag]) => tag);
}

/** Rejects a topic or key that is too long, before the call has any effect. */
export function checkName(name: string): void {
  checkNameBytes(name, MAX_NAME_BYTES);
}

/** Computes the slot of a name, as a cluster does. */
export function slotOf(name: string): number {
  const bytes = Buffer.from(name);
  const open = bytes.indexOf("{");
  const close = open < 0 ? -1 : bytes.indexOf("}", open + 1);
  return crc16(close > open + 1 ? bytes.subarray(open + 1, close) : bytes) % SLOTS;
}

/** CRC-16/XMODEM. */
function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) {
      crc = (crc & 0x8000) === 0 ? crc << 1 : (crc << 1) ^ 0x1021;
    }
    crc &= 0xffff;
  }
  return crc;
}

/** Bytes of a frame before `except`. */
const HEAD_BYTES = 7;

/** Flag of a binary payload. */
export const BINARY = 1;

const MAX_EXCEPT_BYTES = 65_535;

/** Characters of a tag. */
const TAG_BYTES = 6;

/** Encodes one publication. On a topic with a history, it needs a `tag`. */
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

/** Decodes the publications of a plain message. Malformed frames are skipped. */
export function decodePlain(topic: string, message: Buffer): Publication[] {
  return decodeFrames(topic, message, 0, undefined);
}

/** Decodes the publications of a message on a topic with a history, each with its position. */
export function decodeRetained(topic: string, message: Buffer): Publication[] {
  const end = message.indexOf(0x0a);
  const [epoch, first, before] = message.toString("latin1", 0, Math.max(end, 0)).split(" ");
  const offset = Number(first);
  const prev = before === undefined ? offset - 1 : Number(before);
  if (!epoch || !Number.isSafeInteger(offset) || offset < 1) return [];
  if (!Number.isSafeInteger(prev) || prev < 0 || prev >= offset) return [];
  return decodeFrames(topic, message, end + 1, { epoch, offset, prev });
}

/** Decodes the publications of a page, which are one frame each and have consecutive offsets. */
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
      // The payload is copied, so that keeping it does not keep the whole message in memory.
      payload: message[at + 4] === BINARY
        ? Uint8Array.from(message.subarray(body, end))
        : message.toString("utf8", body, end),
      except: exceptEnd > at + HEAD_BYTES
        ? message.toString("utf8", at + HEAD_BYTES, exceptEnd)
        : undefined,
      position: first && {
        epoch: first.epoch,
        offset,
        prev: publications.length === 0 ? first.prev : offset - 1,
        tag: isTagged ? message.toString("latin1", tagAt, body) : undefined,
      },
    });
    at = end;
  }
  return publications;
}
