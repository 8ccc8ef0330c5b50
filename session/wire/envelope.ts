/**
 * The envelopes of `skein.1` and of the plain WebSocket: JSON objects in
 * UTF-8 without raw line feeds, read and written here and nowhere else.
 *
 * The first known key says what an envelope is, in the order of the wire's
 * table; only `dropped` comes before `topic`, which it may have itself. Unknown
 * keys are ignored.
 *
 * @module
 */
import type { RequestFailure } from "../../errors.ts";
import type { Gap, HistoryPosition, RecoveryReason, Unsubscribed } from "./recovery.ts";
import { exceedsBytes } from "./utf8.ts";

/** What the server says first on `skein.1`. */
export interface Hello {
  /** Id of the session. */
  readonly session: string;
  /** How often the server shows that it is alive, in milliseconds. */
  readonly heartbeatMs: number;
  /** The largest envelope that the server takes, in bytes. */
  readonly maxMessageBytes: number;
  /** Names of optional features. */
  readonly features: readonly string[];
  /** Names this session in the request of the one to which its client moves; a secret. */
  readonly ticket?: string | undefined;
}

/** What the peer is told before a server goes away. */
export interface GoAway {
  /** When to come back, in milliseconds from now. */
  readonly retryAfterMs: number;
  /** Why, for people. */
  readonly reason: string;
}

/**
 * The place of a message in a trace: the headers of the same names in W3C Trace Context, by which two
 * ends of a session make one trace.
 */
export interface TraceContext {
  /** Version, trace id, span id and flags: 55 characters. */
  readonly traceparent: string;
  /** Additions of vendors, at most 512 characters. */
  readonly tracestate?: string;
}

/** One envelope, read. `unknown` has no key that this version knows. */
export type Envelope =
  | {
    readonly kind: "message";
    readonly topic: string;
    readonly data: unknown;
    readonly id?: number;
    /** Where it stands in the history of its topic; never without `prev`. */
    readonly offset?: number;
    /** The offset before it. */
    readonly prev?: number;
    /** Names the publication. */
    readonly tag?: string;
    /** Its number, where each is to be handled once. */
    readonly seq?: number;
    /** The id of the client, said once a session. */
    readonly client?: string;
    /** The verified user whose client published it; a server says so, a client never. */
    readonly from?: string;
    /** Where it belongs in a trace of its sender. */
    readonly trace?: TraceContext;
  }
  | {
    readonly kind: "reply";
    readonly id: number | null;
    readonly data?: unknown;
    readonly error?: RequestFailure;
  }
  | { readonly kind: "cancel"; readonly id: number }
  | {
    readonly kind: "subscribe";
    readonly topic: string;
    readonly id: number;
    /** What the client has already. */
    readonly since?: HistoryPosition;
    /** How many of the newest messages it wants to begin with. */
    readonly last?: number;
    /** The id of the client, said once a session. */
    readonly client?: string;
  }
  | { readonly kind: "unsubscribe"; readonly topic: string; readonly id: number }
  | {
    readonly kind: "publish";
    readonly topic: string;
    readonly data: unknown;
    readonly id?: number;
    readonly seq?: number;
    /** The id of the client, said once a session. */
    readonly client?: string;
    /** There if the client that publishes does not get the publication. */
    readonly echo?: false;
  }
  | {
    readonly kind: "presence";
    readonly topic: string;
    /** With what the session is to be present; `undefined` takes it back. */
    readonly data: unknown;
    readonly id: number;
  }
  | { readonly kind: "hello"; readonly hello: Hello }
  | { readonly kind: "auth"; readonly token: string; readonly id: number }
  | { readonly kind: "ping"; readonly n: number }
  | { readonly kind: "pong"; readonly n: number }
  | { readonly kind: "goaway"; readonly goaway: GoAway }
  | { readonly kind: "dropped"; readonly count: number; readonly topic?: string }
  | { readonly kind: "gap"; readonly topic: string; readonly gap: Gap }
  | {
    /** A publication that this peer does not get: only its place in the history. */
    readonly kind: "skip";
    readonly topic: string;
    readonly offset: number;
    readonly prev: number;
    readonly tag?: string;
  }
  | {
    readonly kind: "unsubscribed";
    readonly topic: string;
    readonly unsubscribed: Unsubscribed;
  }
  | { readonly kind: "ack"; readonly n: number }
  /** The credentials end, and the server asks for a new token. */
  | { readonly kind: "renew"; readonly withinMs: number }
  /** The server waits for a token, since it refused the request that came without one. */
  | { readonly kind: "expects"; readonly what: "auth"; readonly reason: string }
  | { readonly kind: "service"; readonly service: ServiceKind; readonly id: number | null }
  | { readonly kind: "unknown" }
  | { readonly kind: "malformed"; readonly message: string; readonly id: number | null };

/** An envelope that was not read. */
export type Raw = Readonly<Record<string, unknown>>;

/** Envelopes by which a peer asks its server for something. */
export type ServiceKind = "auth" | "presence" | "publish" | "subscribe" | "unsubscribe";

/** Reads what only a server gets: a service that is asked for, or a message with a number. */
export type ServiceReader = (
  kind: ServiceKind | "message",
  value: unknown,
  raw: Raw,
) => Envelope;

/** Bytes that a topic may have by default. */
export const MAX_TOPIC_BYTES = 255;

/** Characters that the id of a client, an epoch, or the code of an `unsubscribed` may have. */
export const MAX_NAME_LENGTH = 64;

/**
 * Reads one envelope. Never throws: what cannot be read comes back as
 * `malformed`, with what was expected and what came.
 *
 * @param text One JSON object.
 * @param readService Reads what only servers are asked for; without it, that comes back as `service`.
 * @returns The envelope.
 */
export function readEnvelope(text: string, readService?: ServiceReader): Envelope {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return malformed("Expected a JSON object, received text that is not JSON");
  }
  if (!isObject(value) || Array.isArray(value)) {
    return malformed(`Expected a JSON object, received ${describe(value)}`);
  }
  const { topic, id } = value;
  if (topic !== undefined && value.dropped === undefined) {
    const message = readMessage(topic, value, readService);
    if (message.kind !== "message" || value.trace === undefined) return message;
    const trace = readTrace(value.trace);
    return trace === undefined ? message : { ...message, trace };
  }
  const kind = KINDS.find((key) => value[key] !== undefined);
  if (kind === undefined) return { kind: "unknown" };
  switch (kind) {
    case "auth":
    case "presence":
    case "publish":
    case "subscribe":
    case "unsubscribe":
      if (readService) return readService(kind, value[kind], value);
      return { kind: "service", service: kind, id: isId(id) ? id : null };
    default:
      return readControl(kind, value);
  }
}

function readMessage(topic: unknown, raw: Raw, readService?: ServiceReader): Envelope {
  const { id, data, from } = raw;
  if (!isTopic(topic)) return badTopic("topic", topic, id);
  // A server's word only: its peers are known by their sessions.
  const sender = !readService && typeof from === "string" ? { from } : undefined;
  if (raw.offset !== undefined) return readPlaced("message", topic, raw, sender);
  if (raw.seq !== undefined && readService) return readService("message", topic, raw);
  if (id === undefined) return { kind: "message", topic, data, ...sender };
  return isId(id) ? { kind: "message", topic, data, id, ...sender } : badId("topic", id);
}

/** A version but ff, and ids that are not all zeros. */
const TRACEPARENT = /^(?!ff)[\da-f]{2}-(?!0{32})[\da-f]{32}-(?!0{16})[\da-f]{16}-[\da-f]{2}$/;

/** Printable ASCII within the length that W3C Trace Context has everybody hand on. */
const TRACESTATE = /^[ -~]{1,512}$/;

/**
 * Reads a trace context. One that is wrong is none: no message is refused for its trace.
 *
 * @param trace Any value.
 * @returns The trace context, without keys that are not known; `undefined` if it is none.
 */
export function readTrace(trace: unknown): TraceContext | undefined {
  if (!isObject(trace)) return undefined;
  const { traceparent, tracestate } = trace;
  if (typeof traceparent !== "string" || !TRACEPARENT.test(traceparent)) return undefined;
  return typeof tracestate === "string" && TRACESTATE.test(tracestate)
    ? { traceparent, tracestate }
    : { traceparent };
}

/** The keys of all other envelopes; the first that is there says what it is. */
const KINDS = [
  "reply",
  "cancel",
  "subscribe",
  "unsubscribe",
  "publish",
  "presence",
  "hello",
  "auth",
  "ping",
  "pong",
  "goaway",
  "dropped",
  "gap",
  "skip",
  "unsubscribed",
  "ack",
  "expects",
  "renew",
] as const;

function readControl(kind: Exclude<typeof KINDS[number], ServiceKind>, raw: Raw): Envelope {
  const { [kind]: value, topic } = raw;
  switch (kind) {
    case "reply":
      return readReply(raw);
    case "hello":
      return readHello(value);
    case "goaway":
      return readGoAway(value);
    case "gap":
      return readGap(raw);
    case "unsubscribed":
      return readUnsubscribed(raw);
    case "skip":
      return isTopic(value) ? readPlaced(kind, value, raw) : badTopic(kind, value, undefined);
    case "renew":
      if (!isObject(value) || !isId(value.withinMs)) {
        return malformed('Expected "renew" to have withinMs');
      }
      return { kind, withinMs: value.withinMs };
    case "expects":
      if (value !== "auth") return { kind: "unknown" };
      return { kind, what: value, reason: textOf(raw.reason) };
  }
  if (!isId(value)) return badId(kind, value);
  if (kind === "cancel") return { kind, id: value };
  if (kind !== "dropped") return { kind, n: value };
  return isTopic(topic) ? { kind, count: value, topic } : { kind, count: value };
}

function readReply({ reply: id, data, error }: Raw): Envelope {
  if (id !== null && !isId(id)) return badId("reply", id);
  if (error === undefined) return { kind: "reply", id, data };
  if (!isObject(error) || typeof error.code !== "string") {
    return malformed(`Expected "error" to have a code, received ${describe(error)}`);
  }
  const { code, message, path, retryAfterMs } = error;
  return {
    kind: "reply",
    id,
    error: {
      code,
      message: textOf(message),
      ...(Array.isArray(path) && { path }),
      ...(isId(retryAfterMs) && { retryAfterMs }),
    },
  };
}

function readHello(hello: unknown): Envelope {
  if (isObject(hello)) {
    const { session, heartbeatMs, maxMessageBytes, features, ticket } = hello;
    if (typeof session === "string" && isId(heartbeatMs) && isId(maxMessageBytes)) {
      const names = Array.isArray(features) ? features.map(textOf) : [];
      const read = { session, heartbeatMs, maxMessageBytes, features: names };
      return { kind: "hello", hello: isName(ticket) ? { ...read, ticket } : read };
    }
  }
  return malformed('Expected "hello" to have session, heartbeatMs and maxMessageBytes');
}

function readGoAway(goaway: unknown): Envelope {
  if (!isObject(goaway) || !isId(goaway.retryAfterMs)) {
    return malformed('Expected "goaway" to have retryAfterMs');
  }
  const { retryAfterMs, reason } = goaway;
  return { kind: "goaway", goaway: { retryAfterMs, reason: textOf(reason) } };
}

/** A publication of a topic with a history, which nobody asks by, or its place alone. */
function readPlaced(
  kind: "message" | "skip",
  topic: string,
  { data, offset, prev, tag }: Raw,
  sender?: { readonly from: string },
): Envelope {
  if (!isId(offset) || !isId(prev)) {
    return malformed('Expected "offset" and "prev" to be whole numbers from 0');
  }
  if (!isTag(tag)) return badTag(tag);
  const place = tag === undefined ? { offset, prev } : { offset, prev, tag };
  return kind === "skip" ? { kind, topic, ...place } : { kind, topic, data, ...place, ...sender };
}

function readGap({ gap: topic, reason, epoch, offset, tag }: Raw): Envelope {
  if (!isTopic(topic)) return badTopic("gap", topic, undefined);
  // A reason that a later version adds is passed on as it came.
  const gap = { gap: topic, reason: textOf(reason) as RecoveryReason };
  if (!isName(epoch) || !isId(offset)) return { kind: "gap", topic, gap };
  if (!isTag(tag)) return badTag(tag);
  return { kind: "gap", topic, gap: { ...gap, epoch, offset, ...(tag && { tag }) } };
}

function readUnsubscribed({ unsubscribed: topic, code, reason }: Raw): Envelope {
  if (!isTopic(topic)) return badTopic("unsubscribed", topic, undefined);
  if (!isName(code)) {
    return malformed(`Expected "unsubscribed" to have a code, received ${describe(code)}`);
  }
  return {
    kind: "unsubscribed",
    topic,
    unsubscribed: { unsubscribed: topic, code, reason: textOf(reason) },
  };
}

/** An envelope to be written; keys that are `undefined` are left out. */
export type OutgoingEnvelope =
  | {
    readonly topic: string;
    readonly data?: unknown;
    readonly id?: number | undefined;
    readonly from?: string | undefined;
    readonly trace?: TraceContext | undefined;
    readonly offset?: number;
    readonly prev?: number;
    readonly tag?: string | undefined;
    readonly seq?: number | undefined;
    readonly client?: string | undefined;
  }
  | { readonly reply: number | null; readonly data?: unknown; readonly error?: RequestFailure }
  | {
    readonly publish: string;
    readonly data?: unknown;
    readonly id: number;
    readonly seq?: number | undefined;
    readonly client?: string | undefined;
    readonly echo?: false | undefined;
  }
  | {
    readonly subscribe: string;
    readonly id: number;
    readonly since?: HistoryPosition | undefined;
    readonly last?: number | undefined;
    readonly client?: string | undefined;
  }
  | { readonly unsubscribe: string; readonly id: number }
  | { readonly presence: string; readonly data?: unknown; readonly id: number }
  | { readonly cancel: number }
  | { readonly hello: Hello }
  | { readonly auth: string; readonly id: number }
  | { readonly ping: number }
  | { readonly pong: number }
  | { readonly goaway: GoAway }
  | { readonly dropped: number; readonly topic?: string }
  | Gap
  | {
    readonly skip: string;
    readonly offset: number;
    readonly prev: number;
    readonly tag?: string | undefined;
  }
  | Unsubscribed
  | { readonly ack: number }
  | { readonly renew: { readonly withinMs: number } }
  | { readonly expects: "auth"; readonly reason: string };

/**
 * Writes an envelope, or says why that cannot be.
 *
 * @param envelope What to write; its `data` may be any value that JSON can hold.
 * @param verb What is being done, for the error.
 * @returns JSON text without raw line feeds.
 * @throws {TypeError} If JSON cannot hold the data.
 */
export function encodeEnvelope(envelope: OutgoingEnvelope, verb = "send"): string {
  const data = "data" in envelope ? envelope.data : undefined;
  let lost: Lost | undefined;
  let options: ErrorOptions | undefined;
  try {
    // In one go: the pieces would be text that has to be joined and walked again.
    const text = JSON.stringify(envelope);
    lost = data === undefined ? undefined : findLost(data);
    // What a `toJSON` left out. Within a string the quotes would be escaped.
    if (hasToJson(data) && !text.includes('"data":')) lost = { value: data, path: "" };
    if (lost === undefined) return text;
  } catch (cause) {
    // A cycle, a bigint, or a `toJSON` that throws.
    options = { cause };
    lost = { value: data, path: "" };
  }
  const { value, path } = lost;
  throw new TypeError(
    `Cannot ${verb}: data must be a value that JSON can hold, received ${describe(value)}` +
      path.replace(".", " at "),
    options,
  );
}

/** A value that JSON would leave out, or make another one of, and where it is. */
interface Lost {
  readonly value: unknown;
  /** Each key behind a dot. */
  readonly path: string;
}

/** Walks data that has no cycles. A key whose value is `undefined` is no loss: it is none. */
function findLost(value: unknown): Lost | undefined {
  switch (typeof value) {
    case "string":
    case "boolean":
      return undefined;
    case "number":
      return Number.isFinite(value) ? undefined : { value, path: "" };
    case "object":
      break;
    default:
      return { value, path: "" };
  }
  if (value === null || hasToJson(value)) return undefined;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const lost = findLost(value[i]);
      if (lost !== undefined) return under(i, lost);
    }
    return undefined;
  }
  if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value)) {
    return { value, path: "" };
  }
  for (const key of Object.keys(value)) {
    const item = (value as Record<string, unknown>)[key];
    const lost = item === undefined ? undefined : findLost(item);
    if (lost !== undefined) return under(key, lost);
  }
  return undefined;
}

function under(key: string | number, { value, path }: Lost): Lost {
  return { value, path: `.${key}${path}` };
}

function hasToJson(data: unknown): boolean {
  return isObject(data) && "toJSON" in data;
}

/**
 * Says what a value is, for an error message: its type, never its content.
 *
 * @param value Any value.
 * @returns A word or two.
 */
export function describe(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "number") return String(value);
  if (typeof value === "string") return value === "" ? "an empty string" : "a string";
  if (typeof value === "object") {
    // The prototype's: a key "constructor" of what a peer sent says nothing.
    const name: unknown = Object.getPrototypeOf(value)?.constructor?.name;
    return typeof name === "string" && name !== "" ? name : "an object";
  }
  return typeof value;
}

/** For people only: what is no text is left out, since turning it into one can throw. */
function textOf(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}

/** Whether it can be a topic. */
export function isTopic(value: unknown): value is string {
  return typeof value === "string" && value !== "" && !exceedsBytes(value, MAX_TOPIC_BYTES);
}

/** Whether it is a whole number from 0. */
export function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Tells whether a value can be the id of a client, an epoch, or the code of an `unsubscribed`. */
export function isName(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.length <= MAX_NAME_LENGTH;
}

/** True for the tag of a publication, and where there is none. */
export function isTag(value: unknown): value is string | undefined {
  return value === undefined || isName(value);
}

/** Makes the malformed envelope for a value that is no tag. */
export function badTag(tag: unknown, id?: unknown): Envelope {
  return malformed(`Expected "tag" to be a name, received ${describe(tag)}`, id);
}

/** Whether it has keys. */
export function isObject(value: unknown): value is Raw {
  return typeof value === "object" && value !== null;
}

/** What comes of something that is no topic. */
export function badTopic(key: string, topic: unknown, id: unknown): Envelope {
  const isLong = typeof topic === "string" && topic !== "";
  const received = isLong ? `more than ${MAX_TOPIC_BYTES} bytes` : describe(topic);
  return malformed(`Expected "${key}" to be a topic, received ${received}`, id);
}

/** What comes of something that is no number. */
export function badId(key: string, value: unknown, id?: unknown): Envelope {
  return malformed(
    `Expected the number of "${key}" to be a whole number from 0, received ${describe(value)}`,
    id,
  );
}

/** What comes of an envelope that cannot be read; `id` is answered. */
export function malformed(message: string, id?: unknown): Envelope {
  return { kind: "malformed", message, id: isId(id) ? id : null };
}
