/**
 * Envelopes of `skein.1` and of the plain WebSocket: JSON objects in UTF-8 without raw line feeds.
 * Only this module reads and writes envelopes.
 *
 * The first known key, in the order of the protocol's table, determines the kind of an envelope.
 * Only `dropped` precedes `topic`, because a `dropped` envelope may have a topic. Unknown keys are
 * ignored.
 */
import type { LimitLevel, RequestFailure } from "../../errors.ts";
import type { Gap, HistoryPosition, RecoveryReason, Unsubscribed } from "./recovery.ts";
import { describe } from "../../base/error_text.ts";
import { exceedsBytes } from "./utf8.ts";

/** First envelope of the server on `skein.1`. */
export interface Hello {
  /** Id of the session. */
  readonly session: string;
  /** The interval at which the server sends pings, in milliseconds. */
  readonly heartbeatMs: number;
  /** Largest envelope that the server accepts, in bytes. */
  readonly maxMessageBytes: number;
  /** Names of optional features. */
  readonly features: readonly string[];
  /**
   * The secret with which the client can move to another session. The request for the new session
   * includes this ticket.
   */
  readonly ticket?: string | undefined;
  /**
   * The session that is identified by the ticket in the request, if the server knows that session.
   */
  readonly predecessor?: string | undefined;
  /**
   * Tag of the user or guest as whom the server knows the client; the same on every node. Clients
   * only compare it with others.
   */
  readonly user?: unknown;
}

/** The notice that a server sends before it shuts down. */
export interface GoAway {
  /** Time until the client should reconnect, in whole milliseconds from now. */
  readonly retryAfterMs: number;
  /** Reason, for humans. */
  readonly reason: string;
}

/**
 * The trace context of a message. It contains the W3C Trace Context headers with the same names,
 * which join both sides of a session in one trace.
 */
export interface TraceContext {
  /** Version, trace id, span id and flags: 55 characters. */
  readonly traceparent: string;
  /** Vendor-specific data, at most 512 characters. */
  readonly tracestate?: string | undefined;
}

/**
 * The position of a slice in a record: the start of the slice and the length of the record, in
 * bytes, or for text in UTF-16 units.
 */
export type RecordSlice = readonly [start: number, length: number];

/** A parsed envelope. An envelope of kind `unknown` has no key that this version knows. */
export type Envelope =
  | {
    readonly kind: "message";
    readonly topic: string;
    readonly data: unknown;
    readonly id?: number | undefined;
    /** Offset in the history of the topic. Always set together with `prev`. */
    readonly offset?: number | undefined;
    /** Offset of the previous message. */
    readonly prev?: number | undefined;
    /** Tag of the publication. */
    readonly tag?: string | undefined;
    /** As received: the newest offset of the stream, if this message does not reach it. */
    readonly head?: unknown;
    /** As received: a {@linkcode RecordSlice}, for a record that is larger than a message. */
    readonly slice?: unknown;
    /** Number of a message that is handled exactly once. */
    readonly seq?: number | undefined;
    /** Id of the client, sent once per session. */
    readonly client?: string | undefined;
    /**
     * The verified user whose client published the message. It is set by a server, never by a
     * client.
     */
    readonly from?: string | undefined;
    /** Trace context of the sender, as received; `insight/watch.ts` reads it. */
    readonly trace?: unknown;
    /** Initial credit of a streaming response, in items; {@linkcode FIRST_CREDIT} if absent. */
    readonly items?: number | undefined;
    /** Name of a resumable response, chosen by the requester. */
    readonly stream?: string | undefined;
    /**
     * True if the requester has already received a part of that response, so that the request must
     * not start a new one.
     */
    readonly begun?: true | undefined;
  }
  | {
    readonly kind: "reply";
    readonly id: number | null;
    readonly data?: unknown;
    readonly error?: RequestFailure | undefined;
  }
  | { readonly kind: "cancel"; readonly id: number }
  /** One item of a streaming response. */
  | { readonly kind: "part"; readonly id: number; readonly data: unknown }
  /** The end of a streaming response. */
  | { readonly kind: "end"; readonly id: number; readonly error?: RequestFailure | undefined }
  /** Credit for further items of a streaming response. */
  | { readonly kind: "more"; readonly id: number; readonly items: number }
  | {
    readonly kind: "subscribe";
    readonly topic: string;
    readonly id: number;
    /** Newest position that the client knows. */
    readonly since?: HistoryPosition | undefined;
    /** Number of newest messages that the client requests first. */
    readonly last?: number | undefined;
    /** Id of the client, sent once per session. */
    readonly client?: string | undefined;
  }
  | { readonly kind: "unsubscribe"; readonly topic: string; readonly id: number }
  | {
    readonly kind: "publish";
    readonly topic: string;
    readonly data: unknown;
    readonly id?: number | undefined;
    /** Number of the publication. The numbers of a client increase. */
    readonly n?: number | undefined;
    /** Number of a publication that is made in the order of its producer. */
    readonly seq?: number | undefined;
    /** Present if the server may have received the publication in an earlier session. */
    readonly again?: true | undefined;
    /** Present if a repetition must be recognized on a topic without a history, too. */
    readonly once?: true | undefined;
    /** Id of the client, sent once per session. */
    readonly client?: string | undefined;
    /** Present if the publishing client must not receive the publication. */
    readonly echo?: false | undefined;
  }
  | {
    readonly kind: "presence";
    readonly topic: string;
    /** Presence data of the session; `undefined` ends the presence. */
    readonly data: unknown;
    readonly id: number;
  }
  | {
    /** The producer that the following numbered envelopes of the session belong to. */
    readonly kind: "producer";
    /** Its random name. */
    readonly name: string;
    readonly id: number;
    /** The user whose envelopes these are; `null` for a guest. */
    readonly user: string | null;
    /** The newest number that the client knows to be acknowledged; 0 if none is. */
    readonly acked: number;
    /** No number above this one was ever sent. */
    readonly sent: number;
    /** Number of times that another client has taken over the producer. */
    readonly epoch: number;
  }
  | { readonly kind: "hello"; readonly hello: Hello }
  | { readonly kind: "auth"; readonly token: string; readonly id: number }
  | { readonly kind: "ping"; readonly n: number }
  | { readonly kind: "pong"; readonly n: number }
  | { readonly kind: "goaway"; readonly goaway: GoAway }
  | { readonly kind: "dropped"; readonly count: number; readonly topic?: string | undefined }
  | { readonly kind: "gap"; readonly topic: string; readonly gap: Gap }
  | {
    /** The place in the history of a publication that this peer does not receive. */
    readonly kind: "skip";
    readonly topic: string;
    readonly offset: number;
    readonly prev: number;
    readonly tag?: string | undefined;
    /** Set by a client that could not accept the publication and therefore lost it. */
    readonly reason?: RecoveryReason | undefined;
  }
  | {
    readonly kind: "unsubscribed";
    readonly topic: string;
    readonly unsubscribed: Unsubscribed;
  }
  | { readonly kind: "ack"; readonly n: number }
  /** The largest envelope that the client accepts, in bytes. */
  | { readonly kind: "bounds"; readonly maxMessageBytes: number }
  /** The credentials are about to expire, and the server requests a new token. */
  | { readonly kind: "renew"; readonly withinMs: number }
  /** A request for a service that this side does not support. */
  | { readonly kind: "service"; readonly service: ServiceKind; readonly id: number | null }
  | { readonly kind: "unknown" }
  | { readonly kind: "malformed"; readonly message: string; readonly id: number | null };

/** A parsed JSON object that is not checked yet. */
export type Raw = Readonly<Record<string, unknown>>;

/** Envelopes by which a peer requests a service of its server. */
export type ServiceKind =
  | "auth"
  | "presence"
  | "producer"
  | "publish"
  | "subscribe"
  | "unsubscribe";

/**
 * Reads an envelope that only a server accepts, which is a request for a service or a numbered
 * message.
 */
export type ServiceReader = (
  kind: ServiceKind | "message",
  value: unknown,
  raw: Raw,
) => Envelope;

/** Default size limit of a topic, in bytes. */
export const MAX_TOPIC_BYTES = 255;

/** Default initial credit of a streaming response, in items. */
export const FIRST_CREDIT = 64;

/** Maximum credit of a streaming response, in items. More credit is malformed. */
export const MAX_CREDIT = 65_536;

/** If parts for which no credit was returned have this many bytes, the producer stops sending. */
export const MAX_UNPAID_BYTES = 1_048_576;

/**
 * Maximum length of a client id, of an epoch, and of the code of an `unsubscribed`, in characters.
 */
export const MAX_NAME_LENGTH = 64;

/**
 * Reads one envelope. Never throws. An unreadable envelope is returned as `malformed`, with the
 * expected and the received value.
 *
 * @param text One JSON object.
 * @param readService Reads requests to a server. Without this function, such a request is returned
 * as `service`.
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
    const { trace } = value;
    return message.kind !== "message" || trace === undefined ? message : { ...message, trace };
  }
  const kind = KINDS.find((key) => value[key] !== undefined);
  if (kind === undefined) return { kind: "unknown" };
  switch (kind) {
    case "auth":
    case "presence":
    case "producer":
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
  // Accepted only from a server: a server identifies its peers by their sessions.
  const sender = !readService && typeof from === "string" ? { from } : undefined;
  if (raw.offset !== undefined) return readPlaced("message", topic, raw, sender);
  if ((raw.seq ?? raw.stream) !== undefined && readService) {
    return readService("message", topic, raw);
  }
  if (id === undefined) return { kind: "message", topic, data, ...sender };
  if (!isId(id)) return badId("topic", id);
  const request = { kind: "message", topic, data, id, ...sender } as const;
  const { items } = raw;
  if (items === undefined) return request;
  return isCredit(items) ? { ...request, items } : badCredit(items, id);
}

/** The keys of all envelopes without a `topic`. The first key that is present determines the kind. */
export const KINDS = [
  "reply",
  "cancel",
  "subscribe",
  "unsubscribe",
  "publish",
  "presence",
  "producer",
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
  "bounds",
  "renew",
  "part",
  "end",
  "more",
] as const;

function readControl(kind: Exclude<typeof KINDS[number], ServiceKind>, raw: Raw): Envelope {
  const { [kind]: value, topic } = raw;
  switch (kind) {
    case "reply":
      return readReply(raw);
    case "part":
      return isId(value) ? { kind, id: value, data: raw.data } : badId(kind, value);
    case "end": {
      if (!isId(value)) return badId(kind, value);
      const read = readReply({ reply: value, error: raw.error });
      if (read.kind !== "reply") return read;
      return { kind, id: value, error: read.error };
    }
    case "more":
      if (!isId(value)) return badId(kind, value);
      return isCredit(raw.items) ? { kind, id: value, items: raw.items } : badCredit(raw.items);
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
    case "bounds":
      if (!isObject(value) || !isId(value.maxMessageBytes) || value.maxMessageBytes === 0) {
        return malformed('Expected "bounds" to have maxMessageBytes');
      }
      return { kind, maxMessageBytes: value.maxMessageBytes };
    case "renew":
      if (!isObject(value) || !isId(value.withinMs)) {
        return malformed('Expected "renew" to have withinMs');
      }
      return { kind, withinMs: value.withinMs };
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
  const { code, message, path, retryAfterMs, level } = error;
  return {
    kind: "reply",
    id,
    error: {
      code,
      message: plainText(message),
      path: Array.isArray(path) ? path : undefined,
      retryAfterMs: isId(retryAfterMs) ? retryAfterMs : undefined,
      level: typeof level === "string" ? level as LimitLevel : undefined,
    },
  };
}

function readHello(hello: unknown): Envelope {
  if (isObject(hello)) {
    const { session, heartbeatMs, maxMessageBytes, features, ticket, predecessor } = hello;
    if (typeof session === "string" && isId(heartbeatMs) && isId(maxMessageBytes)) {
      const read = {
        ...hello as unknown as Hello,
        features: Array.isArray(features) ? features.map(plainText) : [],
        ticket: isName(ticket) ? ticket : undefined,
        predecessor: isName(predecessor) ? predecessor : undefined,
      };
      return { kind: "hello", hello: read };
    }
  }
  return malformed('Expected "hello" to have session, heartbeatMs and maxMessageBytes');
}

function readGoAway(goaway: unknown): Envelope {
  if (!isObject(goaway) || !isId(goaway.retryAfterMs)) {
    return malformed('Expected "goaway" to have retryAfterMs');
  }
  const { retryAfterMs, reason } = goaway;
  return { kind: "goaway", goaway: { retryAfterMs, reason: plainText(reason) } };
}

/**
 * Reads a publication on a topic with a history, or only its place. Such a publication never has an
 * id.
 */
function readPlaced(
  kind: "message" | "skip",
  topic: string,
  { data, offset, prev, tag, slice, head }: Raw,
  sender?: { readonly from: string },
): Envelope {
  if (!isId(offset) || !isId(prev)) {
    return malformed('Expected "offset" and "prev" to be integers');
  }
  if (!isTag(tag)) return badTag(tag);
  const place = tag === undefined ? { offset, prev } : { offset, prev, tag };
  if (kind === "skip") return { kind, topic, ...place };
  const message = { kind, topic, data, ...place, ...sender };
  return slice || head ? { ...message, slice, head } : message;
}

function readGap({ gap: topic, reason, epoch, offset, tag }: Raw): Envelope {
  if (!isTopic(topic)) return badTopic("gap", topic, undefined);
  // A reason from a later version is passed on as received.
  const gap = { gap: topic, reason: plainText(reason) as RecoveryReason };
  if (!isName(epoch) || !isId(offset)) return { kind: "gap", topic, gap };
  if (!isTag(tag)) return badTag(tag);
  return { kind: "gap", topic, gap: { ...gap, epoch, offset, tag } };
}

function readUnsubscribed({ unsubscribed: topic, code, reason }: Raw): Envelope {
  if (!isTopic(topic)) return badTopic("unsubscribed", topic, undefined);
  if (!isName(code)) {
    return malformed(`Expected "unsubscribed" to have a code, received ${describe(code)}`);
  }
  return {
    kind: "unsubscribed",
    topic,
    unsubscribed: { unsubscribed: topic, code, reason: plainText(reason) },
  };
}

/** An envelope to write. Keys with the value `undefined` are omitted. */
export type OutgoingEnvelope =
  | {
    readonly topic: string;
    readonly data?: unknown;
    readonly id?: number | undefined;
    readonly from?: string | undefined;
    readonly trace?: TraceContext | undefined;
    readonly offset?: number | undefined;
    readonly prev?: number | undefined;
    readonly tag?: string | undefined;
    readonly seq?: number | undefined;
    readonly client?: string | undefined;
    readonly items?: number | undefined;
    readonly stream?: string | undefined;
    readonly begun?: true | undefined;
  }
  | {
    readonly reply: number | null;
    readonly data?: unknown;
    readonly error?: RequestFailure | undefined;
  }
  | {
    readonly publish: string;
    readonly data?: unknown;
    readonly id: number;
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
  | { readonly part: number; readonly data?: unknown }
  | { readonly end: number; readonly error?: RequestFailure | undefined }
  | { readonly more: number; readonly items: number }
  | { readonly hello: Hello }
  | { readonly auth: string; readonly id: number }
  | { readonly ping: number }
  | { readonly pong: number }
  | { readonly goaway: GoAway }
  | { readonly dropped: number; readonly topic?: string | undefined }
  | Gap
  | {
    readonly skip: string;
    readonly offset: number;
    readonly prev: number;
    readonly tag?: string | undefined;
  }
  | Unsubscribed
  | { readonly ack: number }
  | { readonly bounds: { readonly maxMessageBytes: number } }
  | { readonly renew: { readonly withinMs: number } };

/**
 * Returns text for people. It is empty for a value that is neither text nor a number, because
 * converting such a value can throw.
 */
function plainText(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}

/** Returns true if the value can be a topic. */
export function isTopic(value: unknown): value is string {
  if (typeof value !== "string" || value === "") return false;
  return value.length * 3 <= MAX_TOPIC_BYTES || !exceedsBytes(value, MAX_TOPIC_BYTES);
}

/** Returns true for a whole number of 0 or more. */
export function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Returns true for valid credit of a streaming response. */
export function isCredit(value: unknown): value is number {
  return isId(value) && value > 0 && value <= MAX_CREDIT;
}

/** Returns true if the value can be a client id, an epoch, or the code of an `unsubscribed`. */
export function isName(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.length <= MAX_NAME_LENGTH;
}

/** Returns true for the tag of a publication, and for `undefined`. */
export function isTag(value: unknown): value is string | undefined {
  return value === undefined || isName(value);
}

/** Returns the `malformed` envelope for an invalid tag. */
export function badTag(tag: unknown, id?: unknown): Envelope {
  return malformed(`Expected "tag" to be a name, received ${describe(tag)}`, id);
}

export function isObject(value: unknown): value is Raw {
  return typeof value === "object" && value !== null;
}

/** Returns the `malformed` envelope for invalid credit. */
export function badCredit(items: unknown, id?: unknown): Envelope {
  return malformed(
    `Expected "items" to be an integer from 1 to ${MAX_CREDIT}, received ${describe(items)}`,
    id,
  );
}

/** Returns the `malformed` envelope for an invalid topic. */
export function badTopic(key: string, topic: unknown, id: unknown): Envelope {
  const isLong = typeof topic === "string" && topic !== "";
  const received = isLong ? `more than ${MAX_TOPIC_BYTES} bytes` : describe(topic);
  return malformed(`Expected "${key}" to be a topic, received ${received}`, id);
}

/** Returns the `malformed` envelope for an invalid number. */
export function badId(key: string, value: unknown, id?: unknown): Envelope {
  return malformed(
    `Expected the number of "${key}" to be an integer of 0 or more, received ${describe(value)}`,
    id,
  );
}

/** Returns the envelope for unreadable input. The peer receives a reply with `id`. */
export function malformed(message: string, id?: unknown): Envelope {
  return { kind: "malformed", message, id: isId(id) ? id : null };
}
