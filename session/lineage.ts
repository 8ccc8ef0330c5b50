/**
 * The sessions of one client that replace each other in a handover, as the server tracks them.
 *
 * Section 23 of the protocol defines the rules of a handover. Each rule is implemented next to the
 * code that it affects, so that a page does not load the server's part:
 *
 * - **Ticket** (23.1, 23.2): `LeftSession` of `client/handover.ts`; on the server
 *   `RequestService.ticket()` and `server/admission/admission.ts`, which also counts both sessions as one
 *   (23.4).
 * - **First envelope** (23.3): `LeftSession.assign()`; on the server `serving/first_frames.ts`,
 *   then {@linkcode replacePredecessor}.
 * - **Messages to the user** (23.5): `heir` of `receiving.ts`; on the server `server/users.ts`.
 * - **Topics** (23.6, 23.7): `ClientSubscriptions.move()`, then `client/subscriptions/resume.ts`
 *   for a topic with a history, and `Passage` of `client/handover.ts` for any other; on the server
 *   `server/requests/subscriptions.ts`.
 * - **Numbered messages** (23.8): `client/outbox/delivery.ts`; on the server `serving/sequences.ts`.
 * - **Numbered publications** (23.8): `client/outbox/publications.ts`; on the server
 *   `server/requests/publications.ts`.
 * - **End of the old session** (23.9): `finish()` of `client/handover.ts`.
 *
 * @module
 */
import { internals, type Session } from "./session.ts";

/**
 * Lists the sessions to which a client moved from the given session, in one or several steps.
 *
 * @returns The sessions, including closed ones; the earliest first.
 */
export function* sessionsAfter(session: Session): Generator<Session, void, undefined> {
  for (
    let next = session[internals].lineage.movedTo;
    next;
    next = next[internals].lineage.movedTo
  ) yield next;
}

/**
 * Lists the open sessions from which a client moved to the given session, in one or several steps.
 *
 * @returns The sessions; the latest first.
 */
export function* sessionsBefore(session: Session): Generator<Session, void, undefined> {
  let before = session[internals].lineage.predecessor;
  for (; before; before = before[internals].lineage.predecessor) if (!before.isClosed) yield before;
}

/**
 * Replaces the session from which a client moves with an established session. The old session
 * drains and refers to its successor. The new session refers to the old one while the old one is
 * open.
 *
 * @param session The session to which the client moves.
 * @returns The replaced session; `undefined` if the client is not moving from one of its own
 * sessions.
 */
export function replacePredecessor(session: Session): Session | undefined {
  const core = session[internals];
  // If the latest session has closed, a client that moved twice in a row may still have the session
  // before it. A token may belong to another user.
  const isOwn = (before: Session) => before[internals].user === core.user;
  const predecessor = sessionsBefore(session).find(isOwn);
  keep(session, predecessor);
  if (predecessor === undefined) return undefined;
  const before = predecessor[internals];
  before.lineage.movedTo = session;
  if (before.state === "connected") before.startDraining();
  return predecessor;
}

/** Refers to the latest session from which the client moved, while that session is open. */
function keep(session: Session, predecessor: Session | undefined): void {
  session[internals].lineage.predecessor = predecessor;
  predecessor?.[internals].whenEnded((ended) => {
    keep(session, ended[internals].lineage.predecessor);
  });
}
