/**
 * What there is to say of presence.
 *
 * @module
 */
import type { Session } from "../../session/session.ts";
import type { Nodes } from "../nodes/nodes.ts";

/** A user's first session came. */
export interface PresenceJoinEvent {
  /** Tells the events apart. */
  readonly type: "join";
  /** Where; `undefined` means that the user came online. */
  readonly topic: string | undefined;
  /** Who. */
  readonly user: string;
  /** When, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The data with which the user is present; absent where there is none. */
  readonly data?: unknown;
  /** The session that came; absent where it came to another node. */
  readonly session?: Session;
}

/** The data of a user who is present is other than before. */
export interface PresenceUpdateEvent {
  /** Tells the events apart. */
  readonly type: "update";
  /** The topic. */
  readonly topic: string;
  /** The user. */
  readonly user: string;
  /** When it changed, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The data now; absent where the user has none any more. */
  readonly data?: unknown;
  /** The session that changed it by coming; absent where none did. */
  readonly session?: Session;
}

/** A user's last session has gone, and none came back within the grace. */
export interface PresenceLeaveEvent {
  /** Tells the events apart. */
  readonly type: "leave";
  /** Where; `undefined` means that the user went offline. */
  readonly topic: string | undefined;
  /** Who. */
  readonly user: string;
  /** When the user was declared absent, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** When the last session went; earlier than `at` by the grace. */
  readonly lastSeenAt: number;
  /** The data with which the user was present last; absent where there was none. */
  readonly data?: unknown;
}

/** A user came or went, or is present with other data; branch on `type`. */
export type PresenceEvent = PresenceJoinEvent | PresenceUpdateEvent | PresenceLeaveEvent;

/** Gets the events of a {@linkcode Presence}. */
export type PresenceListener = (event: PresenceEvent) => void;

/** Options for {@linkcode Presence}. */
export interface PresenceOptions {
  /**
   * How long a user whose last session went may stay away without having left,
   * in milliseconds: a reload is no leave. With 0, a user leaves at once.
   *
   * @default {5000}
   */
  readonly graceMs?: number;
  /**
   * Users who went offline and whose `lastSeenAt` is remembered; those who went
   * first are forgotten first.
   *
   * @default {10000}
   */
  readonly maxLastSeen?: number;
  /**
   * The nodes with which presence is shared; users of other nodes count then. They are not closed.
   * Without them it is about this process alone.
   */
  readonly nodes?: Nodes;
  /**
   * Whether every node knows who is online on all of them. That takes some 200 bytes for each user
   * on each node; without it `online()`, `isOnline()` and `lastSeenAt()` are about this node's users.
   * Topics are shared in any case, between the nodes on which somebody is in them.
   *
   * @default {true}
   */
  readonly sharesOnline?: boolean;
  /**
   * Sees what a listener threw; the other listeners run all the same.
   *
   * @default {console.error}
   */
  readonly onError?: (error: unknown) => void;
}
