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
    return malformed("Expected a JSON object, received text that is not JSON", null);
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
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return malformed(`Expected a JSON object, received ${describe(value)}`, null);
  }
  const raw = value as Record<string, unknown>;
  const { topic, id } = raw;
  if (topic !== undefined && raw.dropped === undefined) {
    if (!isTopic(topic)) return badTopic("topic", topic, id);
    if (id === undefined) return { kind: "message", topic, data: raw.data };
    if (!isId(id)) return badId("topic", id);
    return { kind: "message", topic, data: raw.data, id };
  }
  return readControl(raw, id);
}

function readControl(raw: Record<string, unknown>, id: unknown): Envelope {
  if (raw.reply !== undefined) return readReply(raw);
  if (raw.cancel !== undefined) {
    return isId(raw.cancel) ? { kind: "cancel", id: raw.cancel } : badId("cancel", raw.cancel);
  }
  for (const kind of ["subscribe", "unsubscribe"] as const) {
    const topic = raw[kind];
    if (topic === undefined) continue;
    if (!isTopic(topic)) return badTopic(kind, topic, id);
    return isId(id) ? { kind, topic, id } : badId(kind, id);
  }
  if (raw.publish !== undefined) {
    if (!isTopic(raw.publish)) return badTopic("publish", raw.publish, id);
    if (id === undefined) return { kind: "publish", topic: raw.publish, data: raw.data };
    if (!isId(id)) return badId("publish", id);
    return { kind: "publish", topic: raw.publish, data: raw.data, id };
  }
  if (raw.hello !== undefined) return readHello(raw.hello);
  if (raw.auth !== undefined) {
    if (typeof raw.auth !== "string") {
      return malformed(
        `Expected "auth" to be a token, received ${describe(raw.auth)}`,
        idOrNull(id),
      );
    }
    return isId(id) ? { kind: "auth", token: raw.auth, id } : badId("auth", id);
  }
  if (raw.ping !== undefined) {
    return isId(raw.ping) ? { kind: "ping", n: raw.ping } : badId("ping", raw.ping);
  }
  if (raw.pong !== undefined) {
    return isId(raw.pong) ? { kind: "pong", n: raw.pong } : badId("pong", raw.pong);
  }
  if (raw.goaway !== undefined) return readGoAway(raw.goaway);
  if (raw.dropped !== undefined) {
    if (!isId(raw.dropped)) return badId("dropped", raw.dropped);
    return isTopic(raw.topic)
      ? { kind: "dropped", count: raw.dropped, topic: raw.topic }
      : { kind: "dropped", count: raw.dropped };
  }
  return { kind: "unknown" };
}

function readReply(raw: Record<string, unknown>): Envelope {
  const id = raw.reply;
  if (id !== null && !isId(id)) return badId("reply", id);
  if (raw.error === undefined) return { kind: "reply", id, data: raw.data };
  const error = raw.error as Record<string, unknown> | null;
  if (typeof error !== "object" || error === null || typeof error.code !== "string") {
    return malformed(`Expected "error" to have a code, received ${describe(error)}`, null);
  }
  const failure = { code: error.code, message: textOf(error.message) };
  const path = Array.isArray(error.path) ? error.path as (string | number)[] : undefined;
  return { kind: "reply", id, error: path === undefined ? failure : { ...failure, path } };
}

function readHello(value: unknown): Envelope {
  const hello = value as Record<string, unknown> | null;
  if (
    typeof hello !== "object" || hello === null || typeof hello.session !== "string" ||
    !isId(hello.heartbeatMs) || !isId(hello.maxMessageBytes)
  ) {
    return malformed('Expected "hello" to have session, heartbeatMs and maxMessageBytes', null);
  }
  return {
    kind: "hello",
    hello: {
      session: hello.session,
      heartbeatMs: hello.heartbeatMs,
      maxMessageBytes: hello.maxMessageBytes,
      features: Array.isArray(hello.features) ? hello.features.map(textOf) : [],
    },
  };
}

function readGoAway(value: unknown): Envelope {
  const goaway = value as Record<string, unknown> | null;
  if (typeof goaway !== "object" || goaway === null || !isId(goaway.retryAfterMs)) {
    return malformed('Expected "goaway" to have retryAfterMs', null);
  }
  return {
    kind: "goaway",
    goaway: { retryAfterMs: goaway.retryAfterMs, reason: textOf(goaway.reason) },
  };
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
  let cause: unknown;
  try {
    // In one go: the pieces would be text that has to be joined and walked again.
    const text = JSON.stringify(envelope);
    lost = data === undefined ? undefined : findLost(data);
    // What a `toJSON` left out. Within a string the quotes would be escaped.
    if (hasToJson(data) && !text.includes('"data":')) lost = { value: data, path: [] };
    if (lost === undefined) return text;
  } catch (error) {
    // A cycle, a bigint, or a `toJSON` that throws.
    cause = error;
    lost = { value: data, path: [] };
  }
  const where = lost.path.length === 0 ? "" : ` at ${lost.path.join(".")}`;
  throw new TypeError(
    `Cannot ${verb}: data must be a value that JSON can hold, received ${
      describe(lost.value)
    }${where}`,
    cause === undefined ? undefined : { cause },
  );
}

/** A value that JSON would leave out, or make another one of, and where it is. */
interface Lost {
  readonly value: unknown;
  readonly path: (string | number)[];
}

/** Walks data that has no cycles. A key whose value is `undefined` is no loss: it is none. */
function findLost(value: unknown): Lost | undefined {
  switch (typeof value) {
    case "string":
    case "boolean":
      return undefined;
    case "number":
      return Number.isFinite(value) ? undefined : { value, path: [] };
    case "object":
      break;
    default:
      return { value, path: [] };
  }
  if (value === null || hasToJson(value)) return undefined;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const lost = findLost(value[i]);
      if (lost !== undefined) return within(i, lost);
    }
    return undefined;
  }
  if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value)) {
    return { value, path: [] };
  }
  for (const key of Object.keys(value)) {
    const item = (value as Record<string, unknown>)[key];
    const lost = item === undefined ? undefined : findLost(item);
    if (lost !== undefined) return within(key, lost);
  }
  return undefined;
}

function within(key: string | number, lost: Lost): Lost {
  lost.path.unshift(key);
  return lost;
}

function hasToJson(data: unknown): boolean {
  return typeof data === "object" && data !== null && "toJSON" in data;
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

function idOrNull(id: unknown): number | null {
  return isId(id) ? id : null;
}

function badTopic(key: string, topic: unknown, id: unknown): Envelope {
  const isLong = typeof topic === "string" && topic !== "";
  const received = isLong ? `more than ${MAX_TOPIC_BYTES} bytes` : describe(topic);
  return malformed(`Expected "${key}" to be a topic, received ${received}`, idOrNull(id));
}

function badId(key: string, id: unknown): Envelope {
  return malformed(
    `Expected the number of "${key}" to be a whole number from 0, received ${describe(id)}`,
    null,
  );
}

function malformed(message: string, id: number | null): Envelope {
  return { kind: "malformed", message, id };
}
