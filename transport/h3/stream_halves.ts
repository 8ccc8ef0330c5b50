/**
 * What both directions of a stream have in common: their session, which ends
 * them, and its credit.
 *
 * @module
 */
import { type StreamFailure, streamFailure } from "./quic.ts";
import type { ReceiveCredit, SendCredit } from "../_flow_control.ts";

/** One direction of a stream, which ends with its session at the latest. */
export interface StreamHalf {
  /** Its neighbours in {@linkcode StreamHalves}. */
  previous: StreamHalf | undefined;
  /** See `previous`. */
  next: StreamHalf | undefined;
  /**
   * Ends it at this end.
   *
   * @param error What its user gets.
   */
  fail(error: unknown): void;
  /** Ends one that failed on the wire too, once the peer knows of the session's end. */
  release(): void;
}

/**
 * The halves that are open: a list through the halves themselves. A `Set` that
 * streams come and go by leaves tables behind, which keep the streams that were
 * in them from the quick collections of garbage.
 */
export class StreamHalves {
  #first: StreamHalf | undefined = undefined;
  #size = 0;

  /** How many there are. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds a half.
   *
   * @param half One that is in no list.
   */
  add(half: StreamHalf): void {
    half.next = this.#first;
    if (this.#first !== undefined) this.#first.previous = half;
    this.#first = half;
    this.#size++;
  }

  /**
   * Takes a half off; one that is not in the list stays so.
   *
   * @param half The half.
   */
  delete(half: StreamHalf): void {
    const { previous, next } = half;
    if (previous !== undefined) previous.next = next;
    else if (this.#first === half) this.#first = next;
    else return;
    if (next !== undefined) next.previous = previous;
    half.previous = half.next = undefined;
    this.#size--;
  }

  /** All of them, to be gone through while they come and go. */
  toArray(): StreamHalf[] {
    const halves: StreamHalf[] = [];
    for (let half = this.#first; half !== undefined; half = half.next) halves.push(half);
    return halves;
  }
}

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
