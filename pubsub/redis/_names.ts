/** Names of keys and channels. */
import { Buffer } from "node:buffer";
import { exceedsBytes, utf8Length } from "../../session/wire/utf8.ts";

/**
 * Most bytes of a topic or key. Redis closes a connection at a name of more than 512 MiB, and every
 * command repeats the name; a topic of Skein has at most 255 bytes.
 */
const MAX_NAME_BYTES = 65_536;

/** Slots of a cluster. */
const SLOTS = 16_384;

/**
 * Names keys and channels of one prefix.
 *
 * All names of a topic share one slot of a cluster: the topic is in braces, behind a character that
 * keeps the braces from being empty. Only the text up to the first closing brace counts for the
 * slot, so topics may contain braces.
 */
export class Names {
  readonly #prefix: string;

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  /** Channel of a topic without history. */
  channel(topic: string): string {
    return this.#name("pub", topic);
  }

  /** Channel of a topic with a history. */
  keptChannel(topic: string): string {
    return this.#name("log", topic);
  }

  /** Hash with the state of a history. */
  meta(topic: string): string {
    return this.#name("meta", topic);
  }

  /** Stream with the kept publications. */
  stream(topic: string): string {
    return this.#name("stream", topic);
  }

  /** Key of the newest number of a producer on a topic. */
  producer(topic: string, producer: string): string {
    return this.#name("producer", topic) + producer;
  }

  /** Key of a row of the store. */
  row(key: string): string {
    return this.#name("row", key);
  }

  /** Key of a scope of claims. */
  claims(scope: string): string {
    return this.#name("claims", scope);
  }

  /** Key of a bucket of tokens. */
  tokens(key: string): string {
    return this.#name("tokens", key);
  }

  #name(kind: string, what: string): string {
    // UTF-8 encodes all lone surrogates alike, so different topics would get the same name.
    const name = what.isWellFormed() ? `/${what}` : `~${JSON.stringify(what)}`;
    return `${this.#prefix}:${kind}:{${name}}`;
  }
}

/** Refuses a topic or key that is too long, before the call has any effect. */
export function checkName(what: string): void {
  if (!exceedsBytes(what, MAX_NAME_BYTES)) return;
  throw new RangeError(
    `Cannot name a key: a topic or key must have at most ${MAX_NAME_BYTES} bytes, received ${
      utf8Length(what)
    }`,
  );
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
