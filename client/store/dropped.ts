/** The notice about something that a client kept and won't send any more. */
import type { RequestError } from "../../errors.ts";

/** Kinds of what a client keeps until the server has handled it. */
export type KeptKind =
  | "message"
  | "publication"
  | "request"
  | "set"
  | "delete"
  | "update"
  | "transaction"
  | "mutation";

/**
 * The reason why something kept isn't sent any more:
 *
 * - `unknown`: it was sent, and it can't be told any more whether the server made it. It isn't made
 *   again.
 * - `unanswered`: the server has handled the request, and the reply is lost.
 * - `rejected`: the server rejected it; `error` says why. This is only told if no promise rejects,
 *   because the page that made the call is gone.
 * - `expired`: it was never sent within seven days.
 * - `full`: it was the oldest of more than the outbox may have.
 * - `function`: the function of a transaction that reads rows was lost with its page.
 * - `damaged`: what the store returned isn't what a client has stored.
 * - `newer`: a newer version of Skein has stored it.
 */
export type DropReason =
  | "unknown"
  | "unanswered"
  | "rejected"
  | "expired"
  | "full"
  | "function"
  | "damaged"
  | "newer";

/** Something that a client kept and won't send any more, for `outbox.onDropped`. */
export interface OutboxDrop {
  /** The call that made it; `undefined` if that can't be told. */
  readonly kind: KeptKind | undefined;
  /** Its topic, or the id of the state; `undefined` if that can't be told. */
  readonly topic: string | undefined;
  /** Why it won't be sent any more. */
  readonly reason: DropReason;
  /**
   * The data of the call; `undefined` if that can't be told. Of a mutation, its name and input; of
   * other writes of a state, the changes.
   */
  readonly data?: unknown;
  /** The time of the call, in milliseconds since the Unix epoch. */
  readonly calledAt?: number | undefined;
  /** The server's rejection. */
  readonly error?: RequestError | undefined;
}
