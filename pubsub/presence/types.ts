/** Public types of presence. */
import type { Session } from "../../session/session.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import type { Nodes } from "../nodes/nodes.ts";

/** A join, an update, or a leave of a user; branch on `type`. */
export type PresenceEvent = {
  /** A join: a user's first session entered. */
  readonly type: "join";
  /** The topic; `undefined` means that the user came online. */
  readonly topic: string | undefined;
  /** The user that joined. */
  readonly user: string;
  /** Time of the join, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The data with which the user is present; absent if there is none. */
  readonly data?: unknown;
  /** The session that entered; absent if the session is on another node. */
  readonly session?: Session | undefined;
  /** Id of the node that the user joined; absent without nodes. */
  readonly node?: string | undefined;
} | {
  /** An update: the data of a present user changed. */
  readonly type: "update";
  readonly topic: string;
  readonly user: string;
  /** Time of the change, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The new data; absent if the user no longer has data. */
  readonly data?: unknown;
  /** The session that changed the data by entering; absent for any other change. */
  readonly session?: Session | undefined;
  /** Id of the node of the change; absent without nodes. */
  readonly node?: string | undefined;
} | {
  /** A leave: the user's last session left, and the user did not return within the grace period. */
  readonly type: "leave";
  /** The topic; `undefined` means that the user went offline. */
  readonly topic: string | undefined;
  /** The user that left. */
  readonly user: string;
  /** Time at which the user was declared absent, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** Time at which the last session left; earlier than `at` by the grace period. */
  readonly lastSeenAt: number;
  /** The last data with which the user was present; absent if there was none. */
  readonly data?: unknown;
  /** Id of the node that the user left last, which may be gone; absent without nodes. */
  readonly node?: string | undefined;
};

/** Options for {@linkcode Presence}. */
export interface PresenceOptions {
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {nodes?.runtime ?? platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Time within which a user without sessions can return without having left, in milliseconds, so
   * that reloading a page doesn't count as a leave. With 0, a user leaves immediately.
   *
   * @default {5000}
   */
  readonly graceMs?: number | undefined;
  /**
   * Maximum number of offline users whose `lastSeenAt` is remembered. The users that went offline
   * first are forgotten first.
   *
   * @default {10000}
   */
  readonly maxLastSeen?: number | undefined;
  /**
   * Nodes that share presence, so that it includes users on other nodes. Disposing of the presence
   * does not close the nodes. By default, the presence covers only this process.
   */
  readonly nodes?: Nodes | undefined;
  /**
   * If true, every node tracks the online users of all nodes, which takes about 200 bytes per user
   * on each node. If false, `online()`, `isOnline()` and `lastSeenAt()` cover only the users of
   * this node. Topics are always shared between the nodes that have users in the topic.
   *
   * @default {true}
   */
  readonly acrossNodes?: boolean | undefined;
  /**
   * Receives the errors that listeners throw; the other listeners still run.
   *
   * @default {console.error, at most 16 times a minute}
   */
  readonly onError?: ((error: unknown) => void) | undefined;
}

/** A member of a topic, or an online user, in {@linkcode PresenceListing}. */
export interface ListedMember extends PresenceMember {
  /** The topic; `undefined` means that the user is online. */
  readonly topic: string | undefined;
}

/** The users that are present, in {@linkcode Presence.events}. */
export interface PresenceListing {
  /** The kind of event. */
  readonly kind: "present";
  /**
   * The first listing has the online users, and the users in all topics that this node tracks. A
   * later one has users that were present before this node began to track their topic.
   */
  readonly members: readonly ListedMember[];
}

/** A join, an update, or a leave of a user, in {@linkcode Presence.events}. */
export interface PresenceChange {
  /** The kind of event, as in {@linkcode PresenceEvent}. */
  readonly kind: "join" | "update" | "leave";
  /**
   * Identifies the change. The `id` of a join or a leave is the same on all nodes, and when the
   * change is repeated; ASCII text of at most 2,600 characters.
   */
  readonly id: string;
  /** The topic; `undefined` means that the user came online or went offline. */
  readonly topic: string | undefined;
  /** The user. */
  readonly user: string;
  /** Time of the change, in milliseconds since the Unix epoch. */
  readonly at: number;
  /**
   * Time of the join, in milliseconds since the Unix epoch. It is the same in a join and its leave,
   * and increases with each join of the user.
   */
  readonly joinedAt: number;
  /** For a leave: the time at which the last session left. */
  readonly lastSeenAt?: number | undefined;
  /** The data with which the user is or was present; absent if there is none. */
  readonly data?: unknown;
  /** Id of the node on which it happened, which may be gone; absent without nodes. */
  readonly node?: string | undefined;
  /** True on exactly one of the nodes that read their events. */
  readonly isResponsible: boolean;
  /**
   * True if another node was responsible and is gone, or may have been. It may have acted on the
   * change before.
   */
  readonly isRepeat: boolean;
}

/** A topic whose users are no longer known, in {@linkcode Presence.events}. */
export interface PresenceGap {
  /** The kind of event. */
  readonly kind: "unknown";
  /** Identifies the event. It stays the same when the event is repeated; ASCII text. */
  readonly id: string;
  /**
   * The topic; `undefined` means the online users of the node that is gone, if the nodes don't
   * share them.
   */
  readonly topic: string | undefined;
  /**
   * `gone` if the only node that tracked the topic is gone, so that no node knows when its users
   * left. `untracked` if this node no longer tracks the topic, so that it receives no events of
   * the users on other nodes.
   */
  readonly reason: "gone" | "untracked";
  /** Id of the node that is gone; of this node if the reason is `untracked`. */
  readonly node: string;
  /** If the reason is `gone`: true on exactly one node; otherwise false. */
  readonly isResponsible: boolean;
}

/** An event of {@linkcode Presence.events}; branch on `kind`. */
export type PresenceFeedEvent = PresenceListing | PresenceChange | PresenceGap;
