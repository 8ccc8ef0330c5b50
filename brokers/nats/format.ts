/**
 * Subjects, payloads and headers of messages, and the replies of a stream. All topics are escaped
 * to subjects in the same way.
 *
 * ```text
 * <prefix>.pub.<topic>              publications without history
 * <prefix>.log.<pattern>.<topic>    kept by the stream of this pattern of topics
 * <prefix>.live.<pattern>.<topic>   the same, published again with its sequence
 * <prefix>.logs.<id>                changes of the log of a durable stream
 * <prefix>.changes.<id>             headers of the same, published again
 * <prefix>.due.<class>.<id>         the next check of a log that may expire
 * ```
 *
 * With several shards, `<pattern>`, `logs` and `due` end with `_` and the number of the shard.
 *
 * A payload consists of a mark, the excepted session (if there is one), and the unchanged data.
 *
 * ```text
 * t<text>                       b<bytes>
 * T<length>:<except><text>      B<length>:<except><bytes>
 * ```
 *
 * With a NATS header in place of the mark, throughput would drop to two thirds.
 */
import type { Publication, PublicationPosition, TopicHistory } from "../../pubsub/broker.ts";
import { digestOf, unnamed } from "../../pubsub/nodes/shared_options.ts";
import type { Msg } from "@nats-io/nats-core";
import { tagOf } from "../../pubsub/tag.ts";
import { BrokerError } from "../../errors.ts";
import { remedyOf } from "./limits.ts";
import { shardSuffix } from "./shards.ts";

const PLAIN = /^[A-Za-z0-9_/-]+(?::[A-Za-z0-9_/-]+)*$/;
const SAFE = /^[A-Za-z0-9_/-]$/;
const PREFIX = /^[A-Za-z0-9_-]{1,32}$/;

/**
 * Maximum length of a topic or key as part of a subject, in characters. The server closes a
 * connection if a line is longer than 4,096 bytes (`max_control_line`). A line contains the subject
 * with its prefix, a subject for the reply, and two lengths. JetStream's own subjects add about 150
 * bytes before a key. A topic of 255 bytes, Skein's maximum, needs 765.
 */
const MAX_PART_LENGTH = 2_048;

const encoder = new TextEncoder();

/**
 * Escapes a topic as a part of a subject, or of a bucket's key.
 *
 * - ASCII letters and digits, `-`, `_` and `/` are kept, so that most topics stay readable.
 * - A colon between two other characters becomes a dot: `chat:7` becomes `chat.7`, and `chat.>`
 *   matches all such topics.
 * - Any other character becomes `=` plus two hexadecimal digits per byte of UTF-8. A lone surrogate
 *   has no UTF-8 form, and becomes `=x` plus four digits. The empty topic becomes a single `=`.
 *
 * Different topics result in different subjects.
 *
 * @param topic Any text.
 * @returns Non-empty tokens separated by dots; at most three times as long as the topic.
 *
 * @example Usage
 * ```ts
 * import { escapeTopic } from "./format.ts";
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
 * Escapes a topic or key like {@linkcode escapeTopic}, and rejects one that is too long for the
 * server.
 *
 * @throws {RangeError} If the part has more than 2,048 characters.
 */
export function subjectPart(topic: string): string {
  const { length } = topic;
  // Escaping never shortens a text, so a long one is rejected without escaping.
  const part = length > MAX_PART_LENGTH ? topic : escapeTopic(topic);
  if (part.length <= MAX_PART_LENGTH) return part;
  throw new RangeError(
    `The topic or key is too long: it must have at most ${MAX_PART_LENGTH} characters once ` +
      `escaped, received ${part === topic ? `${length} unescaped` : part.length}`,
  );
}

function hex(number: number, digits: number): string {
  return number.toString(16).padStart(digits, "0");
}

/**
 * Maximum size of a message in bytes, which is the default of NATS servers. It applies until the
 * server has sent its own maximum.
 */
export const DEFAULT_MAX_PAYLOAD = 1_048_576;

/** The names for one JetStream stream, which keeps all topics with the same pattern. */
export interface StreamNames {
  /** Name of the stream. */
  readonly stream: string;
  /** Prefix of the subjects that the stream keeps. */
  readonly log: string;
  /** Prefix of the subjects on which the stream republishes. */
  readonly live: string;
  /** Number of the shard, if there are several. */
  readonly turn?: number | undefined;
}

/** The names for the two streams of logs. */
export interface LogNames {
  /** Name of the stream that keeps the logs. */
  readonly stream: string;
  /** Prefix of that stream's subjects, one for each log. */
  readonly kept: string;
  /** Prefix of the subjects on which the stream republishes the headers of changes. */
  readonly changes: string;
  /** Name of the stream with the next checks of logs. */
  readonly dueStream: string;
  /** Prefix of that stream's subjects. */
  readonly due: string;
  /** Number of the shard, if there are several. */
  readonly turn?: number | undefined;
}

/**
 * Token of the epoch's subject. No topic is escaped to this, because escaping never puts these
 * letters after `=`.
 */
export const EPOCH_TOKEN = "=epoch";

/** Maximum length of the readable part of a pattern's name, in characters. */
const MAX_PATTERN_LENGTH = 64;

/** Length of the digest in a pattern's name: 48 bits. */
const PATTERN_DIGEST_LENGTH = 8;

/**
 * Names a pattern of topics in subjects and streams: its text, followed by a digest, because other
 * patterns may have the same text without special characters. The names of parameters don't count.
 */
function patternId(pattern: string): string {
  const text = unnamed(pattern);
  const readable = text.replaceAll(/[^A-Za-z0-9]+/g, "-").slice(0, MAX_PATTERN_LENGTH);
  return `${readable}_${digestOf(text).slice(0, PATTERN_DIGEST_LENGTH)}`;
}

/** Names with one prefix. */
export class NatsNames {
  readonly prefix: string;

  /** Throws if the prefix has a character that is not allowed in a stream's name. */
  constructor(prefix: string) {
    if (!PREFIX.test(prefix)) {
      throw new TypeError(
        `Cannot create broker: prefix must be 1 to 32 letters, digits, "-" or "_", received ${
          JSON.stringify(prefix)
        }`,
      );
    }
    this.prefix = prefix;
  }

  /** Subject of a topic without history. */
  plain(topic: string): string {
    return `${this.prefix}.pub.${subjectPart(topic)}`;
  }

  /** Subject of the announcements of a log. */
  changes(id: string): string {
    return `${this.logs().changes}.${subjectPart(id)}`;
  }

  /** The stream of the version mark, and its subject, to which nothing is published. */
  get version(): { readonly stream: string; readonly subject: string } {
    return { stream: `${this.prefix}_version`, subject: `${this.prefix}.version` };
  }

  /**
   * The names for a shard of the stream with these topics. Topics without a pattern share it by
   * bounds.
   */
  stream({ pattern, size, ttlMs, bytes }: TopicHistory, shard = 0, count = 1): StreamNames {
    const topics = pattern === undefined ? `${size}_${ttlMs}_${bytes}` : patternId(pattern);
    const id = `${topics}${shardSuffix(shard, count)}`;
    return {
      stream: `${this.prefix}_${id}`,
      log: `${this.prefix}.log.${id}`,
      live: `${this.prefix}.live.${id}`,
      ...(count > 1 && { turn: shard }),
    };
  }

  /** The names of the streams of a shard of logs. Subjects of announcements name no shard. */
  logs(shard = 0, count = 1): LogNames {
    const { prefix } = this;
    const suffix = shardSuffix(shard, count);
    return {
      stream: `${prefix}_logs${suffix}`,
      kept: `${prefix}.logs${suffix}`,
      changes: `${prefix}.changes`,
      dueStream: `${prefix}_due${suffix}`,
      due: `${prefix}.due${suffix}`,
      ...(count > 1 && { turn: shard }),
    };
  }

  /** The bucket of the store, or the start of the names of several. */
  get bucket(): string {
    return `${this.prefix}_store`;
  }

  /** The same for rows that are remembered for days. */
  get longBucket(): string {
    return `${this.prefix}_store_long`;
  }
}

/** Keeps a byte order mark at the start of a text. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

const [TEXT, TEXT_EXCEPT, BYTES, BYTES_EXCEPT] = [0x74, 0x54, 0x62, 0x42];
const COLON = 0x3a;
/** Maximum number of digits in a length; six digits already mean 2 GB. */
const MAX_LENGTH_DIGITS = 6;

/** Encodes a publication, without its topic and position. */
export function encode({ payload, except }: Publication): Uint8Array {
  if (typeof payload === "string") {
    if (except === undefined) return encoder.encode("t" + payload);
    return encoder.encode(`T${except.length.toString(36)}:${except}${payload}`);
  }
  const excluded = except === undefined ? undefined : encoder.encode(except);
  const head = excluded === undefined ? "b" : `B${excluded.length.toString(36)}:`;
  const message = new Uint8Array(head.length + (excluded?.length ?? 0) + payload.length);
  encoder.encodeInto(head, message);
  if (excluded !== undefined) message.set(excluded, head.length);
  message.set(payload, message.length - payload.length);
  return message;
}

/** Decodes a message. Returns `undefined` if another program published it. */
export function decode(
  topic: string,
  message: Uint8Array,
  position?: PublicationPosition,
): Publication | undefined {
  const parts = split(message);
  if (parts === undefined) return undefined;
  return { topic, payload: parts.payload, except: parts.except, position };
}

interface Parts {
  readonly payload: string | Uint8Array;
  readonly except?: string;
}

function split(message: Uint8Array): Parts | undefined {
  switch (message[0]) {
    case TEXT:
      return { payload: decoder.decode(message.subarray(1)) };
    // The bytes are copied, because the message is a view of the socket's last read and would keep
    // all of it in memory. The client library returns a `Buffer`, whose `slice` is a view, too.
    case BYTES:
      return { payload: new Uint8Array(message.subarray(1)) };
  }
  if (message[0] !== TEXT_EXCEPT && message[0] !== BYTES_EXCEPT) return undefined;
  const colon = message.subarray(0, MAX_LENGTH_DIGITS + 2).indexOf(COLON);
  const length = parseInt(decoder.decode(message.subarray(1, Math.max(colon, 1))), 36);
  if (Number.isNaN(length)) return undefined;
  const rest = message.subarray(colon + 1);
  if (message[0] === BYTES_EXCEPT) {
    const payload = new Uint8Array(rest.subarray(length));
    return { payload, except: decoder.decode(rest.subarray(0, length)) };
  }
  const text = decoder.decode(rest);
  return { payload: text.slice(length), except: text.slice(0, length) };
}

/**
 * Reads a header of a message; returns an empty string if it is absent. The client library throws
 * on malformed headers, and stops reading permanently if a callback throws.
 */
export function headerOf(message: Pick<Msg, "headers">, name: string): string {
  try {
    return message.headers?.get(name) ?? "";
  } catch {
    return "";
  }
}

/** Reads the sequence of a message that a stream republished. Returns 0 for any other message. */
export function sequenceOf(message: Msg): number {
  const seq = Number(headerOf(message, "Nats-Sequence"));
  return Number.isSafeInteger(seq) && seq > 0 ? seq : 0;
}

/** Header of a log change that is not announced, such as a longer time to live. */
export const QUIET_HEADER = "Skein-Quiet";

/** Header with the payload of a small append's announcement, in Base64. */
export const CARRIED_HEADER = "Skein-Carried";

/** Header with a log's entry in the lists of logs. It is set on each change of a listed log. */
export const KEPT_HEADER = "Skein-Kept";

/** Header with the id of a publication; JetStream keeps and republishes it. */
export const ID_HEADER = "Nats-Msg-Id";

/** Derives the tag of a publication from its id. Returns `undefined` if it has no id. */
export function tagIn(message: Pick<Msg, "headers">): string | undefined {
  const id = headerOf(message, ID_HEADER);
  return id === "" ? undefined : tagOf(id);
}

/** Status of a message without a receiver: the stream does not exist or has no leader. */
const NO_RESPONDERS = 503;

/** Error codes of JetStream for an unexpected last sequence. */
const WRONG_SEQUENCE: ReadonlySet<number> = new Set([10070, 10071, 10164]);

/**
 * Error code of a message whose id a cluster is storing at the moment. Only the reply to a later
 * attempt tells whether it was stored.
 */
const IN_PROCESS = 10158;

/** A reply; branch on `name`. */
export type Ack =
  | { readonly name: "stored"; readonly seq: number; readonly isDuplicate: boolean }
  | {
    readonly name: "conflict" | "away" | "rejected";
    /** The reply in words, and as an error. */
    readonly reply: string;
    readonly error: BrokerError;
    /** Error code of JetStream; 0 for any other failure. */
    readonly code: number;
    /** True if a limit was reached, which lasts until someone acts. The reply has the remedy. */
    readonly isLimit: boolean;
  };

/** Parses a reply. An unreadable reply counts as a rejection. */
export function parseAck(message: Msg): Ack {
  try {
    return parse(message);
  } catch {
    return failure("rejected", "an unreadable message");
  }
}

function parse(message: Msg): Ack {
  if (message.data.length === 0) {
    const isAway = message.headers?.code === NO_RESPONDERS;
    return failure(isAway ? "away" : "rejected", message.headers?.status ?? "nothing");
  }
  const { seq, duplicate = false, error } = message.json<AckBody>();
  if (error !== undefined) {
    const { code, err_code = 0, description = `error ${code}` } = error;
    if (WRONG_SEQUENCE.has(err_code)) return failure("conflict", description, err_code);
    const remedy = remedyOf(err_code, description);
    if (remedy !== undefined) {
      return failure("rejected", `${description}; ${remedy}`, err_code, true);
    }
    const isAway = code === NO_RESPONDERS || err_code === IN_PROCESS;
    return failure(isAway ? "away" : "rejected", description, err_code);
  }
  if (seq === undefined) return failure("rejected", message.string().slice(0, 100));
  return { name: "stored", seq, isDuplicate: duplicate };
}

interface AckBody {
  readonly seq?: number;
  readonly duplicate?: boolean;
  readonly error?: {
    readonly code: number;
    readonly err_code?: number;
    readonly description?: string;
  };
}

function failure(
  name: "conflict" | "away" | "rejected",
  text: string,
  code = 0,
  isLimit = false,
): Ack {
  const reply = `JetStream replied ${text}`;
  return { name, reply, error: new BrokerError(`Cannot append: ${reply}`), code, isLimit };
}
