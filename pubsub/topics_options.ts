/**
 * What topics are created and used with, and what they count.
 *
 * @module
 */
import type { Session } from "../session/session.ts";
import type { Turn } from "../session/queue/turn.ts";
import type { Broker } from "./broker.ts";
import type { HistoryBounds, PublicationKey } from "./history.ts";
import type { SubscribeOptions } from "./history/replay.ts";

/** Options for `Topics`. */
export interface TopicsOptions {
  /**
   * Carries publications between nodes. One that is handed in is not closed.
   *
   * @default {new MemoryBroker()}
   */
  readonly broker?: Broker;
  /**
   * The turn of all sessions that subscribe.
   *
   * @default {new Turn()}
   */
  readonly turn?: Turn;
  /**
   * Topics that one session may subscribe to.
   *
   * @default {128}
   */
  readonly maxTopicsPerSession?: number;
  /**
   * Bytes that a topic may have; at most 255.
   *
   * @default {255}
   */
  readonly maxTopicBytes?: number;
  /**
   * Bytes that one message may have.
   *
   * @default {262144}
   */
  readonly maxMessageBytes?: number;
  /**
   * Topics that keep what was published, by patterns such as `chat:{room}`, each with what is
   * kept of one topic: 1,000 publications, five minutes and 1 MiB by default. The same on every
   * node. Topics that begin with `presence:` or `$skein:` are never meant.
   *
   * @default {{}}
   */
  readonly history?: Readonly<Record<string, Partial<HistoryBounds>>>;
}

/** Options for `Topics.subscribe`. */
export interface TopicSubscribeOptions extends SubscribeOptions {
  /**
   * Marks a topic that the client asked for by itself: `Topics.requestedBy` lists it, unless the
   * application subscribes the session too.
   *
   * @default {false}
   */
  readonly isRequested?: boolean;
  /**
   * Called once the session is off the topic again, by whatever call. Not called when the session
   * is over. A later subscription that has one replaces it.
   */
  readonly onLeft?: (() => void) | undefined;
}

/** Code and reason that a session is told as it is taken off a topic. */
export interface UnsubscribeOptions {
  /**
   * Stable code by which the client goes on: `too-many` and `unavailable` have it ask again after a
   * while, every other one ends its subscription. At most 64 characters.
   *
   * @default {"removed"}
   */
  readonly code?: string;
  /**
   * Why, for people; cut to 1,024 bytes.
   *
   * @default {""}
   */
  readonly reason?: string;
}

/** Options for `Topics.unsubscribe`. */
export interface TopicUnsubscribeOptions extends UnsubscribeOptions {
  /**
   * Tells the session nothing, since its client asked for the end.
   *
   * @default {false}
   */
  readonly isSilent?: boolean;
}

/** Options for publishing. */
export interface PublishOptions {
  /**
   * A session that does not get it. Where its client said its id, as Skein's own do when they
   * subscribe, no later session of that client gets it either.
   */
  readonly except?: Session | undefined;
  /** The verified user who publishes, told to every subscriber; 1 to 255 bytes. */
  readonly from?: string | undefined;
}

/** Options for `Topics.append`. */
export interface AppendPublicationOptions extends PublishOptions {
  /** By which the engine recognizes the same publication made twice. */
  readonly key?: PublicationKey;
  /** Gives up waiting; the publication may be made all the same. */
  readonly signal?: AbortSignal;
}

/** Counters of topics, since they were created. */
export interface TopicsStats {
  /** Topics with subscribers on this node. */
  readonly topics: number;
  /** Publications that `publish` made on topics with a history, and the engine did not take. */
  readonly failedPublications: number;
  /** Why the last of them failed. */
  readonly lastFailure: unknown;
  /** Publications that came again. */
  readonly duplicates: number;
  /** Publications that did not come, and were read from the history. */
  readonly recovered: number;
  /** How often sessions were told that publications are missing. */
  readonly gaps: number;
  /** Pages that were read from the engine. */
  readonly reads: number;
  /** How often a session began at another place than where its topic stood. */
  readonly replays: number;
  /** Publications that were sent for it. */
  readonly replayed: number;
  /** Pages that wait for their turn now. */
  readonly waitingPages: number;
  /** Bytes of pages that were read, and wait for slow sessions now. */
  readonly waitingBytes: number;
  /** Bytes of the newest publications that are kept ready now. */
  readonly tailBytes: number;
}
