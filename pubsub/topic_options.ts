/** Options of topics, and their kinds. */
import { describe } from "../base/error_text.ts";
import {
  BROKER,
  checkKinds,
  COUNT,
  integer,
  POSITIVE,
  recordOf,
  RUNTIME,
  TTL,
} from "../base/options/option_checks.ts";
import type { OptionKinds, OptionPlace } from "../base/options/options.ts";
import type { Runtime } from "../base/runtime.ts";
import { HISTORY } from "../session/settings/call_checks.ts";
import { internals, type Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings/settings.ts";
import { MAX_TOPIC_BYTES } from "../session/wire/envelope.ts";
import type { HistoryOptions, SubscribeReply } from "../session/wire/recovery.ts";
import { exceedsBytes, utf8Length } from "../session/wire/utf8.ts";
import { type Broker, type HistoryBounds, MAX_KEY_BYTES, type PublicationKey } from "./broker.ts";

/**
 * Rejects an argument that is no session, such as a user.
 *
 * @throws {TypeError} If it is no session.
 */
export function checkSession(verb: string, session: unknown): asserts session is Session {
  if (Object(session)[internals] !== undefined) return;
  const user = typeof session === "string" ? JSON.stringify(session) : undefined;
  const cure = user === undefined ? "" : `; server.sessions(${user}) lists a user's sessions`;
  throw new TypeError(
    `Cannot ${verb}: session must be a Session, received ${user ?? describe(session)}${cure}`,
  );
}

/** Options for `Topics`. */
export interface TopicsOptions {
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Broker that carries publications between nodes. If you pass one in, it is not closed with the
   * topics.
   *
   * @default {new MemoryBroker()}
   */
  readonly broker?: Broker | undefined;
  /** Settings of all sessions that subscribe, which send their messages together. */
  readonly settings?: Pick<SessionSettings, "flusher"> | undefined;
  /**
   * Maximum number of topics per session.
   *
   * @default {128}
   */
  readonly maxTopicsPerSession?: number | undefined;
  /**
   * Maximum size of a topic in bytes, up to 255.
   *
   * @default {255}
   */
  readonly maxTopicBytes?: number | undefined;
  /**
   * Maximum size of a message in bytes.
   *
   * @default {262144}
   */
  readonly maxMessageBytes?: number | undefined;
  /**
   * Topics with a history, by pattern, such as `chat:{room}`. A pattern's bounds apply to each
   * topic separately: by default, 1,000 publications, five minutes and 1 MiB. While
   * nodes have different bounds, the widest ones are kept. Patterns never match topics that begin
   * with `presence:` or `$skein:`.
   *
   * @default {{}}
   */
  readonly history?: Readonly<Record<string, Partial<HistoryBounds>>> | undefined;
}

/** Options for subscribing: the start position on a topic with a history. */
export interface SubscribeOptions extends HistoryOptions {
  /**
   * Called once with the start position, after `subscribe` returned, and before the first
   * publication is sent. Not called when the session is closed.
   */
  readonly onReply?: ((reply: SubscribeReply) => void) | undefined;
}

/** Options of {@linkcode Topics.join}. */
export interface JoinOptions extends SubscribeOptions {
  /**
   * Marks a subscription that the client requested. `Topics.requestedBy` lists the topic, unless
   * the application also subscribes the session.
   *
   * @default {false}
   */
  readonly isRequested?: boolean | undefined;
  /**
   * Called with the code of {@linkcode UnsubscribeOptions} after any call has unsubscribed the
   * session. It is not called when the session ends. A later call with another `onLeft` replaces
   * this function.
   */
  readonly onLeft?: ((code: string) => void) | undefined;
}

/** Code and reason that the client of an unsubscribed session receives. */
export interface UnsubscribeOptions {
  /**
   * Stable code that determines the client's reaction, of at most 64 characters. After `too-many`
   * and `unavailable`, the client subscribes again after a while.
   *
   * Any other code ends the subscription.
   *
   * @default {"removed"}
   */
  readonly code?: string | undefined;
  /**
   * Reason for people to read; cut to 1,024 bytes.
   *
   * @default {""}
   */
  readonly reason?: string | undefined;
}

/** Options for publishing. */
export interface PublishOptions {
  /**
   * A session that does not receive the publication, and neither do later sessions of its client.
   *
   * The later sessions are known if the client sent an id, as Skein's own clients do when
   * subscribing.
   */
  readonly except?: Session | undefined;
  /** The verified user who publishes, which is sent to every subscriber; 1 to 255 bytes. */
  readonly from?: string | undefined;
}

/** Options for `Topics.append`. */
export interface AppendPublicationOptions extends PublishOptions {
  /**
   * Key by which all nodes recognize a repeated publication for at least two minutes, such as
   * `order-7`: 1 to 128 bytes. A topic remembers at most 100,000.
   *
   * The order of keys doesn't matter. If a topic has too many keys, an append with another key is
   * rejected until the oldest is two minutes old. A producer that repeats only its last 64
   * publications can use `{ producer, number }` instead, which needs no room for each key.
   *
   * A topic remembers at most 100,000 keys; beyond that, an append with another key is rejected
   * until the oldest is two minutes old. A producer that repeats only its last 64 publications can
   * use `{ producer, number }` instead, which needs no room for each key.
   */
  readonly key?: PublicationKey | undefined;
  /**
   * The client that publishes; left out for the application.
   *
   * If a broker has to forget topics, it starts with the topics of the client that created the most
   * within the last hour.
   */
  readonly publisher?: string | undefined;
  /** Ends the wait. The publication may still be made. */
  readonly signal?: AbortSignal | undefined;
}

export const HISTORY_BOUNDS: OptionKinds<HistoryBounds> = {
  bytes: POSITIVE,
  size: POSITIVE,
  ttlMs: TTL,
};

export const TOPICS: OptionKinds<TopicsOptions> = {
  broker: BROKER,
  history: recordOf(HISTORY_BOUNDS),
  maxMessageBytes: POSITIVE,
  maxTopicBytes: integer(1, MAX_TOPIC_BYTES),
  maxTopicsPerSession: POSITIVE,
  runtime: RUNTIME,
  settings: "object",
};

export const SUBSCRIBE: OptionKinds<SubscribeOptions> = {
  ...HISTORY,
  onReply: "function",
};

export const UNSUBSCRIBE: OptionKinds<UnsubscribeOptions> = {
  code: "string",
  reason: "string",
};

export const PUBLISH: OptionKinds<PublishOptions> = { except: "object", from: "string" };

export const APPEND: OptionKinds<AppendPublicationOptions> = {
  ...PUBLISH,
  key: checkKey,
  publisher: "string",
  signal: "AbortSignal",
};

/** Checks a key of a publication. */
function checkKey(key: unknown, place: OptionPlace): void {
  const { verb, path } = place;
  if (typeof key === "string") return checkText(key, place);
  if (typeof key !== "object" || key === null || Array.isArray(key)) {
    throw new TypeError(
      `Cannot ${verb}: ${path} must be a string or { producer, number }, received ${describe(key)}`,
    );
  }
  checkKinds(key, NUMBERED_KEY, place);
  const { producer, number } = key as Partial<Exclude<PublicationKey, string>>;
  if (producer === undefined || number === undefined) {
    throw new TypeError(
      `Cannot ${verb}: ${path} must have producer and number, received ${
        producer === undefined ? "no producer" : "no number"
      }`,
    );
  }
}

const NUMBERED_KEY = { producer: checkText, number: COUNT };

/** Checks a text that brokers store as a part of a key. */
function checkText(text: unknown, { verb, path }: OptionPlace): void {
  const isText = typeof text === "string" && text.isWellFormed() && !text.includes("\0");
  if (isText && text !== "" && !exceedsBytes(text, MAX_KEY_BYTES)) return;
  const rule =
    `must be a well-formed string of 1 to ${MAX_KEY_BYTES} bytes without zero characters`;
  const received = isText ? `${utf8Length(text)} bytes` : describe(text);
  const type = isText ? RangeError : TypeError;
  throw new type(`Cannot ${verb}: ${path} ${rule}, received ${received}`);
}

export const READ: OptionKinds<{ readonly after?: number; readonly signal?: AbortSignal }> = {
  after: COUNT,
  signal: "AbortSignal",
};

export const POSITION: OptionKinds<{ readonly signal?: AbortSignal }> = { signal: "AbortSignal" };
