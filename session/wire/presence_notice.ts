/**
 * Notices to clients about the users in a topic. Notices for the topic `chat:lobby` arrive as
 * messages with the topic `presence:chat:lobby`.
 */

/** Prefix of the topics of presence notices. The observed topic follows. */
export const PRESENCE_PREFIX = "presence:";

/**
 * A user who is present in a topic, with one or several connections.
 *
 * @typeParam D The presence data.
 */
export interface PresenceMember<D = unknown> {
  /** The user, as returned by the server's `userOf`. */
  readonly user: string;
  /**
   * Number of the user's sessions in the topic. During the grace period, it is 0 on the server, and
   * clients keep the last number.
   */
  readonly connections: number;
  /** Start of the first of these sessions, in milliseconds since the Unix epoch. */
  readonly joinedAt: number;
  /** The user's presence data, as last set in any of the sessions; absent if there is no data. */
  readonly data?: D | undefined;
}

/**
 * A presence notice; branch on `type`. `updateMembers` maintains a list from these notices.
 *
 * @typeParam D The presence data: with a contract, the type of its `presence`.
 */
export type PresenceNotice<D = unknown> =
  | {
    /**
     * All present users. This is the first notice after a subscription. In a large room, the list
     * is split into several consecutive notices, numbered by `page`. A notice without `page`, or
     * with number 0, starts a new list.
     */
    readonly type: "members";
    /** All present users, or some of them. */
    readonly members: readonly PresenceMember<D>[];
    /** Number of this part of the list, starting at 0; absent if the list has only one part. */
    readonly page?: number | undefined;
    /** Present if another part follows. */
    readonly more?: true | undefined;
    /**
     * Present, in the first part, if users may be missing: another node did not send its users in
     * time, or there are more than a node keeps. Users who are found later join.
     */
    readonly isComplete?: false | undefined;
  }
  | {
    /** A user's first connection has opened. */
    readonly type: "join";
    /** The user who joined. */
    readonly user: string;
    /** Time of the join, in milliseconds since the Unix epoch. */
    readonly at: number;
    /** Number of the user's connections; absent if it is 1. */
    readonly connections?: number | undefined;
    /** The user's presence data; absent if there is no data. */
    readonly data?: D | undefined;
  }
  | {
    /** The number of a present user's connections has changed. */
    readonly type: "connections";
    readonly user: string;
    /** The new number, at least 1. */
    readonly connections: number;
    /** Start of the first connection; present if it has changed. */
    readonly joinedAt?: number | undefined;
  }
  | {
    /** The data of a present user has changed. */
    readonly type: "update";
    readonly user: string;
    /** Time of the change, in milliseconds since the Unix epoch. */
    readonly at: number;
    /** New presence data; absent if the user no longer has any. */
    readonly data?: D | undefined;
  }
  | {
    /** A user's last connection has closed. */
    readonly type: "leave";
    /** The user who left. */
    readonly user: string;
    /** Time at which the user was declared absent, in milliseconds since the Unix epoch. */
    readonly at: number;
    /** Time at which the user's last connection ended; earlier than `at` by the grace period. */
    readonly lastSeenAt: number;
  }
  | {
    /**
     * The net changes in a large room since the last notice. Users who joined and left in the
     * meantime are omitted, and only the last of several updates of a user is included.
     */
    readonly type: "changes";
    /** Users whose first connection has opened, with the time and the data as in a join. */
    readonly joined: readonly {
      readonly user: string;
      readonly at: number;
      readonly connections?: number | undefined;
      readonly data?: D | undefined;
    }[];
    /** Users whose last connection has closed, with the times as in a leave. */
    readonly left: readonly {
      readonly user: string;
      readonly at: number;
      readonly lastSeenAt: number;
    }[];
    /** Users whose data has changed, with the time and the data as in an update. */
    readonly updated?:
      | readonly { readonly user: string; readonly at: number; readonly data?: D | undefined }[]
      | undefined;
    /** Users with a new number of connections, as in a notice `connections`. */
    readonly connections?:
      | readonly {
        readonly user: string;
        readonly connections: number;
        readonly joinedAt?: number | undefined;
      }[]
      | undefined;
  }
  | {
    /** The number of present users, in a room that only publishes this number. */
    readonly type: "count";
    readonly users: number;
    /** Present if users may be missing, as in `members`. */
    readonly isComplete?: false | undefined;
  };

/** Changes in a large room. */
export type PresenceChangesNotice = Extract<PresenceNotice, { readonly type: "changes" }>;
