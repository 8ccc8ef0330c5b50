/**
 * What both directions of a stream have in common: their session, which ends
 * them, and its credit.
 *
 * @module
 */
import { type StreamFailure, streamFailure } from "./runtime.ts";
import type { ReceiveCredit, SendCredit } from "../_flow_control.ts";
import type { UnreadShare, UnreadStream } from "./unread_streams.ts";
import { type Linked, LinkedList } from "../linked_list.ts";

/** One direction of a stream, which ends with its session at the latest. */
export interface StreamHalf extends Linked<StreamHalf> {
  /**
   * Ends it at this end.
   *
   * @param error What its user gets.
   */
  fail(error: unknown): void;
  /** Ends one that failed on the wire too, once the peer knows of the session's end. */
  release(): void;
}

/** Acts at the end of a turn of the event loop. */
export interface TurnWatcher {
  /** Called once the turn in which it was added is over. */
  endTurn(): void;
}

/** Watchers of this turn; one timer of the runtime serves them all. */
export class TurnEnd {
  #watchers: TurnWatcher[] | undefined = undefined;

  /**
   * Adds a watcher, for this turn alone.
   *
   * @param watcher Is called at the end of it.
   */
  add(watcher: TurnWatcher): void {
    if (this.#watchers !== undefined) return void this.#watchers.push(watcher);
    const watchers = this.#watchers = [watcher];
    setImmediate(() => {
      this.#watchers = undefined;
      for (const one of watchers) one.endTurn();
    });
  }
}

/** The halves that are open. */
export class StreamHalves extends LinkedList<StreamHalf> {}

/** Credit for bytes, where both ends count. */
export interface DataCredit {
  /** What this end may send. */
  readonly send: SendCredit;
  /** What the peer may send. */
  readonly receive: ReceiveCredit;
}

/** Whose streams they are: a session. */
export interface StreamOwner {
  /** Those that are open. */
  readonly halves: StreamHalves;
  /** Bytes handed to the wire on streams that have no account. */
  bytesSent: number;
  /** Bytes taken from the wire on streams that have no account. */
  bytesReceived: number;
  /** Credit for bytes, where both ends count. */
  readonly dataCredit: DataCredit | undefined;
  /** Counts the streams of the peer that are not read; on a server. */
  readonly unread: UnreadShare | undefined;
  /**
   * Refuses a stream of the peer, which the application may have taken, but did not read.
   *
   * @param half The direction that the peer writes.
   * @param error Why.
   */
  refuseUnread(half: StreamHalf & UnreadStream, error: Error): void;
  /** Makes the error of a stream that the peer ended before its end. */
  streamError(failure: StreamFailure): Error;
  /** Makes the error of a stream whose connection is over. */
  connectionError(cause: unknown): Error;
  /** The peer sent more than it may. */
  overrun(): void;
}

/**
 * Makes the error that a user sees of what reading or writing threw.
 *
 * @param owner Whose stream it is.
 * @param error What the runtime threw.
 * @returns The peer's end of the stream, or the connection's.
 */
export function errorOf(owner: StreamOwner, error: unknown): Error {
  const failure = streamFailure(error);
  return failure === undefined ? owner.connectionError(error) : owner.streamError(failure);
}
