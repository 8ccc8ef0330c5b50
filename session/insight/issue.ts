/**
 * Issues that a session finds with itself.
 *
 * @module
 */

/**
 * What can be wrong with a session:
 *
 * - `stuck-connecting`, `stuck-draining`: for more than 10 s, and 30 s.
 * - `missing-heartbeat`: the peer is silent for one and a half of its intervals.
 * - `slow-handler`: it works on one message for more than 10 s, or messages wait for an `onOpen`
 *   that does not return.
 * - `send-queue-nearly-full`, `receive-queue-nearly-full`: above 80 % of a bound.
 * - `unread-streams`: opened by the peer, and nobody takes them.
 * - `refused-streams`: opened by the peer, and not taken within 5 s, or beyond a bound of unread ones.
 * - `leaking-streams`: 64 or more are open after ten minutes, and fewer ended.
 * - `waiting-for-credit`, `peer-without-credit`: this end waits, or the peer used up what it may.
 * - `error-rate`: more than 10 % of at least 50 messages and streams.
 * - `invalid-messages`: half as many as close the session when they come in a minute.
 * - `unread-messages`, `messages-dropped`, `datagrams-dropped`: lost.
 * - `failing-handlers`: the application threw, and `onError` was told.
 * - `idle`: an hour without anything.
 */
export type SessionIssueCode =
  | "stuck-connecting"
  | "stuck-draining"
  | "missing-heartbeat"
  | "slow-handler"
  | "send-queue-nearly-full"
  | "receive-queue-nearly-full"
  | "unread-streams"
  | "refused-streams"
  | "leaking-streams"
  | "waiting-for-credit"
  | "peer-without-credit"
  | "error-rate"
  | "invalid-messages"
  | "unread-messages"
  | "messages-dropped"
  | "datagrams-dropped"
  | "failing-handlers"
  | "idle";

/** Something that is wrong. */
export interface SessionIssue {
  /** What it is, for programs. */
  readonly code: SessionIssueCode;
  /** An `error` ends the session sooner or later, or has hurt it already; a `warning` may. */
  readonly severity: "error" | "warning";
  /** What it is, with its numbers, and what to do, for people. */
  readonly message: string;
}
