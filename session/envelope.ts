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
import type { RequestFailure } from "../errors.ts";
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
}

/** What the peer is told before a server goes away. */
export interface GoAway {
  /** When to come back, in milliseconds from now. */
  readonly retryAfterMs: number;
  /** Why, for people. */
  readonly reason: string;
}

/** One envelope, read. `unknown` has no key that this version knows. */
export type Envelope =
  | {
    readonly kind: "message";
    readonly topic: string;
    readonly data: unknown;
    readonly id?: number;
  }
  | {
    readonly kind: "reply";
    readonly id: number | null;
    readonly data?: unknown;
    readonly error?: RequestFailure;
  }
  | { readonly kind: "cancel"; readonly id: number }
  | { readonly kind: "subscribe"; readonly topic: string; readonly id: number }
  | { readonly kind: "unsubscribe"; readonly topic: string; readonly id: number }
  | {
    readonly kind: "publish";
    readonly topic: string;
    readonly data: unknown;
    readonly id?: number;
  }
  | { readonly kind: "hello"; readonly hello: Hello }
  | { readonly kind: "auth"; readonly token: string; readonly id: number }
  | { readonly kind: "ping"; readonly n: number }
  | { readonly kind: "pong"; readonly n: number }
  | { readonly kind: "goaway"; readonly goaway: GoAway }
  | { readonly kind: "dropped"; readonly count: number; readonly topic?: string }
  | { readonly kind: "unknown" }
  | { readonly kind: "malformed"; readonly message: string; readonly id: number | null };

type Raw = Readonly<Record<string, unknown>>;

/** Bytes that a topic may have by default. */
export const MAX_TOPIC_BYTES = 255;

/**
 * Reads one envelope. Never throws: what can not be read comes back as
 * `malformed`, with what was expected and what came.
 *
 * @param text One JSON object.
 * @returns The envelope.
 *
 * @example Usage
 * ```ts
 * import { parseEnvelope } from "@skein/skein/session";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseEnvelope('{"topic":"chat","data":"hi"}'), {
 *   kind: "message",
 *   topic: "chat",
 *   data: "hi",
 * });
 * assertEquals(parseEnvelope("[]").kind, "malformed");
 * ```
 */
export function parseEnvelope(text: string): Envelope {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return malformed("Expected a JSON object, received text that is not JSON");
  }
  return readEnvelope(value);
}

/**
 * Reads an envelope from a JSON value.
 *
 * @param value What `JSON.parse` returned.
 * @returns The envelope; see {@linkcode parseEnvelope}.
 */
export function readEnvelope(value: unknown): Envelope {
  if (!isObject(value) || Array.isArray(value)) {
    return malformed(`Expected a JSON object, received ${describe(value)}`);
  }
  const { topic, id, data } = value;
  if (topic !== undefined && value.dropped === undefined) {
    if (!isTopic(topic)) return badTopic("topic", topic, id);
    if (id === undefined) return { kind: "message", topic, data };
    return isId(id) ? { kind: "message", topic, data, id } : badId("topic", id);
  }
  const kind = KINDS.find((key) => value[key] !== undefined);
  return kind === undefined ? { kind: "unknown" } : readControl(kind, value);
}

/** The keys of all other envelopes; the first that is there says what it is. */
const KINDS = [
  "reply",
  "cancel",
  "subscribe",
  "unsubscribe",
  "publish",
  "hello",
  "auth",
  "ping",
  "pong",
  "goaway",
  "dropped",
] as const;

function readControl(kind: typeof KINDS[number], raw: Raw): Envelope {
  const { [kind]: value, id, data, topic } = raw;
  switch (kind) {
    case "reply":
      return readReply(raw);
    case "hello":
      return readHello(value);
    case "goaway":
      return readGoAway(value);
    case "auth":
      if (typeof value !== "string") {
        return malformed(`Expected "auth" to be a token, received ${describe(value)}`, id);
      }
      return isId(id) ? { kind, token: value, id } : badId(kind, id);
    case "publish":
      if (!isTopic(value)) return badTopic(kind, value, id);
      if (id === undefined) return { kind, topic: value, data };
      return isId(id) ? { kind, topic: value, data, id } : badId(kind, id);
    case "subscribe":
    case "unsubscribe":
      if (!isTopic(value)) return badTopic(kind, value, id);
      return isId(id) ? { kind, topic: value, id } : badId(kind, id);
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
  const { code, message, path } = error;
  const failure = { code, message: textOf(message) };
  return {
    kind: "reply",
    id,
    error: Array.isArray(path) ? { ...failure, path } : failure,
  };
}

function readHello(hello: unknown): Envelope {
  if (isObject(hello)) {
    const { session, heartbeatMs, maxMessageBytes, features } = hello;
    if (typeof session === "string" && isId(heartbeatMs) && isId(maxMessageBytes)) {
      const names = Array.isArray(features) ? features.map(textOf) : [];
      return { kind: "hello", hello: { session, heartbeatMs, maxMessageBytes, features: names } };
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

/** An envelope to be written; keys that are `undefined` are left out. */
export type OutgoingEnvelope =
  | { readonly topic: string; readonly data?: unknown; readonly id?: number | undefined }
  | { readonly reply: number | null; readonly data?: unknown; readonly error?: RequestFailure }
  | { readonly publish: string; readonly data?: unknown; readonly id: number }
  | { readonly subscribe: string; readonly id: number }
  | { readonly unsubscribe: string; readonly id: number }
  | { readonly cancel: number }
  | { readonly hello: Hello }
  | { readonly auth: string; readonly id: number }
  | { readonly ping: number }
  | { readonly pong: number }
  | { readonly goaway: GoAway }
  | { readonly dropped: number; readonly topic?: string };

/**
 * Writes an envelope, or says why that can not be.
 *
 * @param envelope What to write; its `data` may be any value that JSON can hold.
 * @param verb What is being done, for the error.
 * @returns JSON text without raw line feeds.
 * @throws {TypeError} If JSON can not hold the data.
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

function isTopic(value: unknown): value is string {
  return typeof value === "string" && value !== "" && !exceedsBytes(value, MAX_TOPIC_BYTES);
}

function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isObject(value: unknown): value is Raw {
  return typeof value === "object" && value !== null;
}

function badTopic(key: string, topic: unknown, id: unknown): Envelope {
  const isLong = typeof topic === "string" && topic !== "";
  const received = isLong ? `more than ${MAX_TOPIC_BYTES} bytes` : describe(topic);
  return malformed(`Expected "${key}" to be a topic, received ${received}`, id);
}

function badId(key: string, id: unknown): Envelope {
  return malformed(
    `Expected the number of "${key}" to be a whole number from 0, received ${describe(id)}`,
  );
}

function malformed(message: string, id?: unknown): Envelope {
  return { kind: "malformed", message, id: isId(id) ? id : null };
}
