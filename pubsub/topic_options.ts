/** Options of topics, and their kinds. */
import { BROKER, COUNT, integer, POSITIVE, recordOf, RUNTIME } from "../base/option_checks.ts";
import type { OptionKinds } from "../base/options.ts";
import type { Runtime } from "../base/runtime.ts";
import { HISTORY } from "../session/call_checks.ts";
import type { Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import { MAX_TOPIC_BYTES } from "../session/wire/envelope.ts";
import type { HistoryOptions, SubscribeAnswer } from "../session/wire/recovery.ts";
import type { Broker, HistoryBounds, PublicationKey } from "./broker.ts";

/** Options for `Topics`. */
export interface TopicsOptions {
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Broker that carries publications between nodes. A broker that is handed in is not closed.
   *
   * @default {new MemoryBroker()}
   */
  readonly broker?: Broker | undefined;
  /** Settings of all sessions that subscribe: these sessions send their messages together. */
  readonly settings?: Pick<SessionSettings, "turn"> | undefined;
  /**
   * Most topics of one session.
   *
   * @default {128}
   */
  readonly maxTopicsPerSession?: number | undefined;
  /**
   * Most bytes of a topic, up to 255.
   *
   * @default {255}
   */
  readonly maxTopicBytes?: number | undefined;
  /**
   * Most bytes of a message.
   *
   * @default {262144}
   */
  readonly maxMessageBytes?: number | undefined;
  /**
   * Topics with a history, by patterns such as `chat:{room}`, each with the bounds for one topic:
   * 1,000 publications, five minutes and 1 MiB by default. The same on every node. Patterns never
   * match topics that begin with `presence:` or `$skein:`.
   *
   * @default {{}}
   */
  readonly history?: Readonly<Record<string, Partial<HistoryBounds>>> | undefined;
}

/** Options for subscribing: the start of the subscription, on a topic with a history. */
export interface SubscribeOptions extends HistoryOptions {
  /**
   * Called once with the start of the subscription, after `subscribe` returned, and before the
   * first publication is sent. Not called when the session is closed.
   */
  readonly onAnswer?: ((answer: SubscribeAnswer) => void) | undefined;
}

/** Options of {@linkcode Topics.join}. */
export interface JoinOptions extends SubscribeOptions {
  /**
   * Marks a subscription that the client requested. `Topics.requestedBy` lists the topic, unless the
   * application subscribes the session too.
   *
   * @default {false}
   */
  readonly isRequested?: boolean | undefined;
  /**
   * Called with the code of {@linkcode UnsubscribeOptions} after the session was unsubscribed, by any
   * call. Not called when the session ends. A later call with another `onLeft` replaces this one.
   */
  readonly onLeft?: ((code: string) => void) | undefined;
}

/** Code and reason for the client of a session that is unsubscribed. */
export interface UnsubscribeOptions {
  /**
   * Stable code that decides the reaction of the client: after `too-many` and `unavailable` the client
   * subscribes again after a while; any other code ends the subscription. At most 64 characters.
   *
   * @default {"removed"}
   */
  readonly code?: string | undefined;
  /**
   * Reason, for people; cut to 1,024 bytes.
   *
   * @default {""}
   */
  readonly reason?: string | undefined;
}

/** Options for publishing. */
export interface PublishOptions {
  /**
   * A session that does not get the publication. If the client sent an id, as Skein's own clients do
   * when subscribing, later sessions of that client do not get the publication either.
   */
  readonly except?: Session | undefined;
  /** The verified user that publishes, sent to every subscriber; 1 to 255 bytes. */
  readonly from?: string | undefined;
}

/** Options for `Topics.append`. */
export interface AppendPublicationOptions extends PublishOptions {
  /** Key by which the engine recognizes the same publication made twice. */
  readonly key?: PublicationKey | undefined;
  /**
   * The party that publishes. An engine that forgets topics begins with the party that made most of
   * them within the last hour. Left out for the application.
   */
  readonly maker?: string | undefined;
  /** Ends the wait; the publication may be made all the same. */
  readonly signal?: AbortSignal | undefined;
}

/** Kinds of the options of a history. */
export const HISTORY_BOUNDS: OptionKinds<HistoryBounds> = {
  bytes: POSITIVE,
  size: POSITIVE,
  ttlMs: POSITIVE,
};

/** Kinds of the options of `Topics`. */
export const TOPICS: OptionKinds<TopicsOptions> = {
  broker: BROKER,
  history: recordOf(HISTORY_BOUNDS),
  maxMessageBytes: POSITIVE,
  maxTopicBytes: integer(1, MAX_TOPIC_BYTES),
  maxTopicsPerSession: POSITIVE,
  runtime: RUNTIME,
  settings: "object",
};

/** Kinds of the options of `subscribe`. */
export const SUBSCRIBE: OptionKinds<SubscribeOptions> = {
  ...HISTORY,
  onAnswer: "function",
};

/** Kinds of the options of `unsubscribe`. */
export const UNSUBSCRIBE: OptionKinds<UnsubscribeOptions> = {
  code: "string",
  reason: "string",
};

/** Kinds of the options of `publish`. */
export const PUBLISH: OptionKinds<PublishOptions> = { except: "object", from: "string" };

/** Kinds of the options of `append`. */
export const APPEND: OptionKinds<AppendPublicationOptions> = {
  ...PUBLISH,
  key: "object",
  maker: "string",
  signal: "AbortSignal",
};

/** Kinds of the options of `read`. */
export const READ: OptionKinds<{ readonly after?: number; readonly signal?: AbortSignal }> = {
  after: COUNT,
  signal: "AbortSignal",
};

/** Kinds of the options of `position`. */
export const POSITION: OptionKinds<{ readonly signal?: AbortSignal }> = { signal: "AbortSignal" };
