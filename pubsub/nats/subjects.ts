/**
 * Names of subjects, streams and buckets; topics become subjects by one escaping.
 *
 * ```text
 * <prefix>.pub.<topic>              publications without history
 * <prefix>.log.<bounds>.<topic>     kept by the stream of these bounds
 * <prefix>.live.<bounds>.<topic>    the same, published again with its sequence
 * ```
 */
import type { HistoryBounds } from "../broker.ts";

const PLAIN = /^[A-Za-z0-9_/-]+(?::[A-Za-z0-9_/-]+)*$/;
const SAFE = /^[A-Za-z0-9_/-]$/;
const PREFIX = /^[A-Za-z0-9_-]{1,32}$/;

/**
 * Most characters of a topic or key as a part of a subject. The server closes a connection at a
 * line of more than 4,096 bytes (`max_control_line`): the subject with its prefix, one for the
 * answer, and two lengths; JetStream's own subjects have some 150 bytes in front of a key. A topic
 * of 255 bytes, Skein's most, takes 765.
 */
const MAX_PART_LENGTH = 2_048;

const encoder = new TextEncoder();

/**
 * Makes a topic a part of a subject, or of a key of a bucket.
 *
 * - Letters and digits of ASCII, `-`, `_` and `/` stay, so that most topics can be read.
 * - A colon between two others becomes a dot: `chat:7` is `chat.7`, and `chat.>` matches all such
 *   topics.
 * - Any other character is `=` and two hexadecimal digits for each byte of UTF-8. A lone surrogate
 *   has no UTF-8, and is `=x` and four digits. The empty topic is a single `=`.
 *
 * Different topics give different subjects.
 *
 * @param topic Any text.
 * @returns Non-empty tokens with dots between; at most three times as long as the topic.
 *
 * @example Usage
 * ```ts
 * import { escapeTopic } from "@skein/skein/nats";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(escapeTopic("chat:7"), "chat.7");
 * assertEquals(escapeTopic("50 %"), "50=20=25");
 * ```
 */
export function escapeTopic(topic: string): string {
  if (PLAIN.test(topic)) return topic.replaceAll(":", ".");
  if (topic === "") return "=";
  let escaped = "";
  let before: string | undefined;
  for (let at = 0; at < topic.length;) {
    const char = String.fromCodePoint(topic.codePointAt(at)!);
    at += char.length;
    const isBetween = before !== undefined && before !== ":" && at < topic.length &&
      topic[at] !== ":";
    if (SAFE.test(char)) escaped += char;
    else if (char === ":" && isBetween) escaped += ".";
    else if (char.isWellFormed()) {
      for (const byte of encoder.encode(char)) escaped += `=${hex(byte, 2)}`;
    } else escaped += `=x${hex(char.charCodeAt(0), 4)}`;
    before = char;
  }
  return escaped;
}

/**
 * Makes a topic or key a part of a subject, as {@linkcode escapeTopic} does, and refuses one that
 * is too long for the server.
 *
 * @param topic Any text.
 * @returns The part.
 * @throws {RangeError} If the part has more than 2,048 characters.
 */
export function subjectPart(topic: string): string {
  const { length } = topic;
  // Escaping makes no text shorter, so a long text is refused without escaping.
  const part = length > MAX_PART_LENGTH ? topic : escapeTopic(topic);
  if (part.length <= MAX_PART_LENGTH) return part;
  throw new RangeError(
    `Cannot name a subject: a topic or key must have at most ${MAX_PART_LENGTH} characters once ` +
      `escaped, received ${part === topic ? `${length} unescaped` : part.length}`,
  );
}

function hex(number: number, digits: number): string {
  return number.toString(16).padStart(digits, "0");
}

/** The names of one stream, which keeps all topics of the same bounds. */
export interface StreamNames {
  /** Name of the stream. */
  readonly stream: string;
  /** Prefix of the subjects that the stream keeps. */
  readonly log: string;
  /** Prefix of the subjects on which the stream publishes again. */
  readonly live: string;
}

/**
 * Token of the epoch's subject. No topic becomes this: escaping never puts these letters after `=`.
 */
export const EPOCH_TOKEN = "=epoch";

/** Names of one prefix. */
export class Names {
  readonly #prefix: string;

  /**
   * Creates the names.
   *
   * @param prefix Prefix of all names.
   * @throws {TypeError} If the prefix has a character that is not allowed in the name of a stream.
   */
  constructor(prefix: string) {
    if (!PREFIX.test(prefix)) {
      throw new TypeError(
        `Cannot create NatsBroker: prefix must be 1 to 32 letters, digits, "-" or "_", received ${
          JSON.stringify(prefix)
        }`,
      );
    }
    this.#prefix = prefix;
  }

  /** Subject of a topic without history. */
  plain(topic: string): string {
    return `${this.#prefix}.pub.${subjectPart(topic)}`;
  }

  /** The names of the stream with these bounds. */
  stream({ size, ttlMs, bytes }: HistoryBounds): StreamNames {
    const bounds = `${size}_${ttlMs}_${bytes}`;
    return {
      stream: `${this.#prefix}_${bounds}`,
      log: `${this.#prefix}.log.${bounds}`,
      live: `${this.#prefix}.live.${bounds}`,
    };
  }

  /** The bucket of the store. */
  get bucket(): string {
    return `${this.#prefix}_store`;
  }
}
