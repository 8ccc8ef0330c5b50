/**
 * What a client is told when it comes back to a topic with a history.
 *
 * @module
 */

/** A place in the history of a topic: everything up to this offset is known. */
export interface HistoryPosition {
  /** Names one unbroken history. Offsets of different epochs have nothing in common. */
  readonly epoch: string;
  /** The number of the newest publication that is known; 0 before the first one. */
  readonly offset: number;
  /**
   * Names the publication at the offset: a history that has another one there is told apart by it.
   * Absent where none stands there, or its engine gave it no tag.
   */
  readonly tag?: string | undefined;
}

/**
 * Why messages are missing, or may be.
 *
 * - `no-history`: the topic keeps none.
 * - `new-epoch`: the history began anew; the engine may have lost what it had.
 * - `too-old`: what came next is not kept any more.
 * - `beyond-head`: the position is newer than everything that the engine has.
 * - `interrupted`: the engine was away, and the topic has no history to catch up from.
 * - `unavailable`: the engine could not be read.
 * - `dropped`: the peer's send queue was full, and its policy dropped them.
 */
export type RecoveryReason =
  | "no-history"
  | "new-epoch"
  | "too-old"
  | "beyond-head"
  | "interrupted"
  | "unavailable"
  | "dropped";

/** What a subscription is answered by; all empty for a topic without history. */
export interface SubscribeAnswer {
  /** The epoch of what follows. */
  readonly epoch?: string;
  /** What follows comes after this offset: the first message that follows has it as its `prev`. */
  readonly offset?: number;
  /** Names the publication at `offset`, where that is known. */
  readonly tag?: string | undefined;
  /** The newest offset there was; whoever has it has caught up. */
  readonly head?: number;
  /** Whether everything since the position that was asked for follows. */
  readonly recovered?: boolean;
  /** Why it does not. */
  readonly reason?: RecoveryReason;
  /**
   * Present, and alone, where the session asked for the topic again, or left it, before this
   * question was answered. Clients get the failure `superseded` for it.
   */
  readonly isSuperseded?: true;
}

/** Messages of a topic are missing here, or may be. */
export interface Gap {
  /** The topic. */
  readonly gap: string;
  /** Why. */
  readonly reason: RecoveryReason;
  /** The epoch of what follows, if the topic has a history. */
  readonly epoch?: string;
  /** What follows comes after this offset. */
  readonly offset?: number;
  /** Names the publication at `offset`, where that is known. */
  readonly tag?: string | undefined;
}

/** The server took this session off a topic: nothing of it follows. */
export interface Unsubscribed {
  /** The topic. */
  readonly unsubscribed: string;
  /**
   * Stable code to branch on: `removed` by the application, `forbidden` since its rights changed,
   * `too-many` and `unavailable` for now, or one of the application's own.
   */
  readonly code: string;
  /** Why, for people; may be empty. */
  readonly reason: string;
}

/**
 * Codes of refusals that hold for now: a client asks again after a while. All others are final.
 */
export const CODES_FOR_NOW: ReadonlySet<string> = new Set([
  "too-many",
  "unavailable",
  "superseded",
]);

/** Code of an `unsubscribed` that says that the topic goes on in the session to which the client moved. */
export const MOVED = "handover";

/** From where on the messages of a topic with a history are wanted. */
export interface HistoryOptions {
  /** What is known already: what came after it follows; by default what is published from now on. */
  readonly since?: HistoryPosition | undefined;
  /** So many of the newest are wanted, at most, if there is no `since` or it is of no use; none by default. */
  readonly last?: number | undefined;
}

/** How a subscription went on after messages may have been missed. */
export interface Recovery {
  /** Whether everything follows that was missed. */
  readonly recovered: boolean;
  /** Why it does not. */
  readonly reason?: RecoveryReason;
  /** What follows comes after it; absent if that is not known, as for a topic without history. */
  readonly position?: HistoryPosition;
}
