/**
 * The sessions of one client that follow each other by handover, as a server knows them.
 *
 * Section 23 of the protocol has the rules of a handover. Each end follows a rule next to what the
 * rule changes, and a page loads nothing of the server's part:
 *
 * - **Ticket** (23.1, 23.2): `Left` of `client/handover.ts`; at the server `RequestService.ticket()`
 *   and `server/admission.ts`, which also counts both sessions as one (23.4).
 * - **First envelope** (23.3): `Left.assign()`; at the server `serving/first_frames.ts`, then
 *   {@linkcode replacePredecessor}.
 * - **Messages to the user** (23.5): `heir` of `receiving.ts`; at the server `server/users.ts`.
 * - **Topics** (23.6, 23.7): `Subscriptions.move()`, then `client/resume.ts` for a topic with a
 *   history, and `Passage` of `client/handover.ts` for any other; at the server `subscribe` of
 *   `server/client_requests.ts`.
 * - **Numbered messages** (23.8): `client/delivery.ts`; at the server `serving/sequences.ts`.
 * - **End of the old session** (23.9): `finish()` of `client/handover.ts`.
 *
 * @module
 */
import { internals, type Session } from "./session.ts";

/**
 * Lists the sessions to which a client moved from a session, in one or several steps.
 *
 * @param session The session.
 * @returns The sessions, also those that are over; the earliest first.
 */
export function* sessionsAfter(session: Session): Generator<Session, void, undefined> {
  for (
    let next = session[internals].lineage.movedTo;
    next;
    next = next[internals].lineage.movedTo
  ) yield next;
}

/**
 * Lists the sessions that are not over, from which a client moved to a session, in one or several steps.
 *
 * @param session The session.
 * @returns The sessions; the latest first.
 */
export function* sessionsBefore(session: Session): Generator<Session, void, undefined> {
  let before = session[internals].lineage.predecessor;
  for (; before; before = before[internals].lineage.predecessor) if (!before.isClosed) yield before;
}

/**
 * Puts an established session in the place of the one from which its client moves: that one drains,
 * and knows its successor; the new one knows it for as long as it stays open.
 *
 * @param session The session to which the client moves.
 * @returns The replaced session; `undefined` if the client moves from none of its own.
 */
export function replacePredecessor(session: Session): Session | undefined {
  const core = session[internals];
  // Without the latest session, a client that moved again at once still has the one before. A token
  // may belong to another user.
  const isOwn = (before: Session) => before[internals].user === core.user;
  const predecessor = sessionsBefore(session).find(isOwn);
  keep(session, predecessor);
  if (predecessor === undefined) return undefined;
  const before = predecessor[internals];
  before.lineage.movedTo = session;
  if (before.state === "connected") before.startDraining();
  return predecessor;
}

/** Knows the latest session from which the client moved, as long as that session is open. */
function keep(session: Session, predecessor: Session | undefined): void {
  session[internals].lineage.predecessor = predecessor;
  predecessor?.[internals].whenEnded((ended) => {
    keep(session, ended[internals].lineage.predecessor);
  });
}
