/** Public types of presence. */
import type { Session } from "../../session/session.ts";
import type { Runtime } from "../../base/runtime.ts";
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
} | {
  /** An update: the data of a present user changed. */
  readonly type: "update";
  /** The topic. */
  readonly topic: string;
  /** The user. */
  readonly user: string;
  /** Time of the change, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The new data; absent if the user no longer has data. */
  readonly data?: unknown;
  /** The session that changed the data by entering; absent for any other change. */
  readonly session?: Session | undefined;
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
