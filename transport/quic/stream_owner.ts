/** The parts that both directions of a stream share: the owner and flow control. */
import { type StreamFailure, streamFailure } from "../deno_errors.ts";
import type { ReceiveCredit, SendCredit } from "../flow_control.ts";
import type { UnreadShare, UnreadStream } from "./unread_streams.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type Linked, LinkedList } from "../../base/linked_list.ts";

/** One direction of a stream, which ends at the latest when the session ends. */
export interface StreamHalf extends Linked<StreamHalf> {
  /** Ends the direction on this side. */
  fail(error: unknown): void;
  /** Ends a failed direction for the peer, once the peer has received the end of the session. */
  release(): void;
}

/** A callback for the end of a turn of the event loop. */
export interface TurnWatcher {
  /** Called at the end of the turn in which the watcher was added. */
  endTurn(): void;
}

/** The watchers of the current turn, all of which share one call of the runtime. */
export class TurnEnd {
  readonly #runtime: Runtime;
  #watchers: TurnWatcher[] | undefined = undefined;

  /** Creates an empty set, and makes no call of the runtime yet. */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Adds a watcher for the current turn.
   *
   * @param watcher Its `endTurn` is called at the end of the turn.
   */
  add(watcher: TurnWatcher): void {
    if (this.#watchers !== undefined) return void this.#watchers.push(watcher);
    const watchers = this.#watchers = [watcher];
    this.#runtime.schedule(() => {
      this.#watchers = undefined;
      for (const one of watchers) one.endTurn();
    });
  }
}

/** The open stream halves. */
export class StreamHalves extends LinkedList<StreamHalf> {}

/** The flow control of bytes, if both sides use credit. */
export interface DataCredit {
  /** The credit for bytes that this side sends. */
  readonly send: SendCredit;
  /** The credit for bytes that the peer sends. */
  readonly receive: ReceiveCredit;
}

/** The part of a session or connection that its streams use. */
export interface StreamOwner {
  /** The open stream halves. */
  readonly halves: StreamHalves;
  /** The number of bytes written to streams that have no account. */
  bytesSent: number;
  /** The number of bytes read from streams that have no account. */
  bytesReceived: number;
  /** The flow control of bytes, if both sides use credit. */
  readonly dataCredit: DataCredit | undefined;
  /** The counters of unread streams, on a server. */
  readonly unread: UnreadShare | undefined;
  /** Rejects an unread stream of the peer, which the application may already have taken. */
  rejectUnread(half: StreamHalf & UnreadStream, error: Error): void;
  /** Creates the error for a stream that the peer ended early. */
  streamError(failure: StreamFailure): Error;
  /** Creates the error for a stream whose connection has ended. */
  connectionError(cause: unknown): Error;
  /** Handles a violation of flow control by the peer. */
  overrun(): void;
}

/**
 * Converts the error of a read or write to an error for the application.
 *
 * @returns The error of the stream or of the connection.
 */
export function streamErrorOf(owner: StreamOwner, error: unknown): Error {
  const failure = streamFailure(error);
  return failure === undefined ? owner.connectionError(error) : owner.streamError(failure);
}
