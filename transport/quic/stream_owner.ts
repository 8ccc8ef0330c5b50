/** Common parts of both directions of a stream: the owner and flow control. */
import { type StreamFailure, streamFailure } from "../deno_errors.ts";
import type { ReceiveCredit, SendCredit } from "../flow_control.ts";
import type { UnreadShare, UnreadStream } from "./unread_streams.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type Linked, LinkedList } from "../../base/linked_list.ts";

/** One direction of a stream, which ends with the session at the latest. */
export interface StreamHalf extends Linked<StreamHalf> {
  /** Ends the direction locally. */
  fail(error: unknown): void;
  /** Ends a failed direction at the peer, after the end of the session has reached the peer. */
  release(): void;
}

/** The callback for the end of a turn of the event loop. */
export interface TurnWatcher {
  /** Called at the end of the turn in which the watcher was added. */
  endTurn(): void;
}

/** Watchers of the current turn, served by a single call of the runtime. */
export class TurnEnd {
  readonly #runtime: Runtime;
  #watchers: TurnWatcher[] | undefined = undefined;

  /** Creates an empty set, without a call of the runtime. */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Adds a watcher for the current turn.
   *
   * @param watcher Called at the end of the turn.
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

/** Open stream halves. */
export class StreamHalves extends LinkedList<StreamHalf> {}

/** Flow control of bytes, if both ends use credit. */
export interface DataCredit {
  /** The credit for bytes of this end. */
  readonly send: SendCredit;
  /** The credit for bytes of the peer. */
  readonly receive: ReceiveCredit;
}

/** A session or connection as its streams see it. */
export interface StreamOwner {
  /** Open stream halves. */
  readonly halves: StreamHalves;
  /** The bytes written to streams without an account. */
  bytesSent: number;
  /** The bytes read from streams without an account. */
  bytesReceived: number;
  /** Flow control of bytes, if both ends use credit. */
  readonly dataCredit: DataCredit | undefined;
  /** The counters of unread streams, on a server. */
  readonly unread: UnreadShare | undefined;
  /** Rejects an unread stream of the peer; the application may already have taken it. */
  refuseUnread(half: StreamHalf & UnreadStream, error: Error): void;
  /** Creates the error of a stream that the peer ended early. */
  streamError(failure: StreamFailure): Error;
  /** Creates the error of a stream whose connection has ended. */
  connectionError(cause: unknown): Error;
  /** Handles a violation of flow control by the peer. */
  overrun(): void;
}

/**
 * Converts an error of a read or write for the application.
 *
 * @returns The error of the stream, or of the connection.
 */
export function streamErrorOf(owner: StreamOwner, error: unknown): Error {
  const failure = streamFailure(error);
  return failure === undefined ? owner.connectionError(error) : owner.streamError(failure);
}
