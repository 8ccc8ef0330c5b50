/** Issues of a session. */

/**
 * Possible issues of a session:
 *
 * - `stuck-connecting`, `stuck-draining`: for more than 10 s, and 30 s.
 * - `missing-heartbeat`: the peer has been silent for one and a half of its intervals.
 * - `slow-handler`: a message is handled for more than 10 s, or messages wait for an `onOpen` that
 *   does not return.
 * - `send-queue-nearly-full`, `receive-queue-nearly-full`: above 80 % of a bound.
 * - `unread-streams`: the peer opened streams that the application does not take.
 * - `refused-streams`: the peer opened streams that were not taken within 5 s, or that exceeded a
 *   bound of unread streams.
 * - `leaking-streams`: 64 or more are open after ten minutes, and fewer ended.
 * - `waiting-for-credit`, `peer-without-credit`: this end waits for credit, or the peer has used up
 *   its credit.
 * - `error-rate`: more than 10 % of at least 50 messages and streams.
 * - `invalid-messages`: half as many as close the session within a minute.
 * - `unread-messages`, `messages-dropped`, `datagrams-dropped`: data was lost.
 * - `failing-handlers`: a handler of the application threw, and `onError` was called.
 * - `idle`: an hour without messages, streams and datagrams.
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

/** An issue of a session. */
export interface SessionIssue {
  /** The kind of issue, for programs. */
  readonly code: SessionIssueCode;
  /** An `error` has hurt the session or will end the session sooner or later; a `warning` may. */
  readonly severity: "error" | "warning";
  /** Description with figures and a remedy, for people. */
  readonly message: string;
}
