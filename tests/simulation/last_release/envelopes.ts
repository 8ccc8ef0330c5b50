/** Envelopes of version 0.1: a filter that gives an end of today the envelopes of the last release. */
import { decodeBinary, isBinaryMessage } from "../../../session/wire/encode.ts";

/** An addition to the protocol since 0.1. */
export interface Addition {
  /** Section or rule of docs/protocol.md. */
  readonly rule: string;
  /** First known key of the envelope. */
  readonly envelope: string;
  /** Added key; absent if the whole envelope was added. */
  readonly key?: string;
}

/** All additions of version 0.2 to the envelopes of version 0.1. */
export const ADDITIONS: readonly Addition[] = [
  { rule: "9.11", envelope: "topic", key: "from" },
  { rule: "6.13", envelope: "topic", key: "trace" },
  { rule: "25.1", envelope: "topic", key: "items" },
  { rule: "24.9", envelope: "topic", key: "stream" },
  { rule: "24.11", envelope: "topic", key: "begun" },
  { rule: "10.2", envelope: "topic", key: "tag" },
  { rule: "24.3", envelope: "topic", key: "slice" },
  { rule: "9.14", envelope: "subscribe", key: "client" },
  { rule: "9.12", envelope: "publish", key: "echo" },
  { rule: "12.7", envelope: "presence" },
  { rule: "23.2", envelope: "hello", key: "ticket" },
  { rule: "23.2", envelope: "hello", key: "predecessor" },
  { rule: "10.13", envelope: "gap", key: "tag" },
  { rule: "10.16", envelope: "skip", key: "tag" },
  { rule: "9.7", envelope: "unsubscribed" },
  { rule: "8.9", envelope: "expects" },
  { rule: "8.12", envelope: "renew" },
  { rule: "25.2", envelope: "part" },
  { rule: "25.2", envelope: "end" },
  { rule: "25.3", envelope: "more" },
  { rule: "7.15", envelope: "bounds" },
];

/** Envelopes of version 0.1 by their first key, in the order of reading, with the other keys. */
export const KNOWN: Readonly<Record<string, readonly string[]>> = {
  dropped: ["topic"],
  topic: ["data", "id", "offset", "prev", "seq", "client"],
  reply: ["data", "error"],
  cancel: [],
  subscribe: ["id", "since", "last"],
  unsubscribe: ["id"],
  publish: ["data", "id", "seq", "client"],
  hello: [],
  auth: ["id"],
  ping: [],
  pong: [],
  goaway: [],
  gap: ["reason", "epoch", "offset"],
  skip: ["offset", "prev"],
  ack: [],
};

/** Features of `hello` that version 0.1 has. */
const FEATURES = ["history", "seq"];

/** Fields of `hello` that version 0.1 has. */
const HELLO = ["session", "heartbeatMs", "maxMessageBytes", "features"];

/** Codes of failures since 0.1, each with the code of version 0.1 for the same. */
const CODES: Readonly<Record<string, string>> = { superseded: "unavailable" };

/** An envelope, or a part of an envelope. */
type Fields = Readonly<Record<string, unknown>>;

/**
 * Reduces an envelope to the keys of version 0.1.
 *
 * @param envelope The envelope.
 * @returns The rest; `undefined` for an envelope that version 0.1 does not know.
 */
export function asOfLastRelease(envelope: Fields): Fields | undefined {
  const kind = Object.keys(KNOWN).find((key) => key in envelope);
  if (kind === undefined) return undefined;
  const known = pick(envelope, [kind, ...KNOWN[kind]!]);
  if (kind === "hello") {
    const hello = pick(known.hello as Fields, HELLO);
    const features = (hello.features as string[]).filter((name) => FEATURES.includes(name));
    return { hello: { ...hello, features } };
  }
  if (kind === "subscribe" && isFields(known.since)) {
    return { ...known, since: pick(known.since, ["epoch", "offset"]) };
  }
  if (kind === "reply" && isFields(known.error)) {
    const { code } = known.error;
    return { ...known, error: { ...known.error, code: CODES[String(code)] ?? code } };
  }
  if (kind === "reply" && isFields(known.data) && "epoch" in known.data) {
    const { tag: _added, ...data } = known.data;
    return { ...known, data };
  }
  if (kind === "topic" && String(known.topic).startsWith("presence:")) return notice(known);
  return known;
}

/** Reduces a notice of presence to the fields of version 0.1 (12.7 to 12.9). */
function notice(envelope: Fields): Fields | undefined {
  const { data } = envelope;
  if (!isFields(data)) return envelope;
  if (data.type === "update") return undefined;
  const without = (one: unknown) => {
    if (!isFields(one)) return one;
    const { data: _added, ...rest } = one;
    return rest;
  };
  const { data: _added, updated: _alsoAdded, ...rest } = data;
  return {
    ...envelope,
    data: {
      ...rest,
      ...(Array.isArray(rest.members) && { members: rest.members.map(without) }),
      ...(Array.isArray(rest.joined) && { joined: rest.joined.map(without) }),
    },
  };
}

/** Keys whose value is a topic of the application. */
const TOPICS = ["topic", "subscribe", "unsubscribe", "publish", "gap", "skip"];

/** Options of {@linkcode filterFrame}. */
export interface FilterOptions {
  /** Text in place of an unknown envelope; by default the envelope is left out. */
  readonly unknown?: string;
  /** Gives topics another name. */
  readonly rename?: (topic: string) => string;
}

/**
 * Filters a frame.
 *
 * @param frame A frame of `skein.1`.
 * @param options See {@linkcode FilterOptions}.
 * @returns The frame; `undefined` if nothing is left.
 */
export function filterFrame(
  frame: string | Uint8Array,
  { unknown, rename = (topic) => topic }: FilterOptions = {},
): string | Uint8Array | undefined {
  if (typeof frame === "string") {
    const lines = frame.split("\n").flatMap((line) => filterText(line, rename) ?? unknown ?? []);
    return lines.length === 0 ? undefined : lines.join("\n");
  }
  // Records of streams are as in version 0.1.
  const message = isBinaryMessage(frame) ? decodeBinary(frame) : undefined;
  if (message === undefined) return frame;
  const head = filterText(message.head, rename);
  return head === undefined ? unknown : binaryFrame(head, message.data);
}

function filterText(text: string, rename: (topic: string) => string): string | undefined {
  let envelope: unknown;
  try {
    envelope = JSON.parse(text);
  } catch {
    return text; // The receiver reports a malformed text.
  }
  if (!isFields(envelope)) return text;
  const known = asOfLastRelease(envelope);
  if (known === undefined) return undefined;
  const renamed = Object.entries(known).map(([key, value]) =>
    [key, TOPICS.includes(key) && typeof value === "string" ? rename(value) : value] as const
  );
  return JSON.stringify(Object.fromEntries(renamed));
}

/** Writes a binary message, with a length of two bytes. */
function binaryFrame(head: string, data: Uint8Array): Uint8Array {
  const bytes = new TextEncoder().encode(head);
  return Uint8Array.of(
    0x40,
    0x53,
    0x40 | bytes.length >> 8,
    bytes.length & 0xff,
    ...bytes,
    ...data,
  );
}

function pick(fields: Fields, keys: readonly string[]): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([key]) => keys.includes(key)));
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
