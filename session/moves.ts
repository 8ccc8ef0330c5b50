/** The sessions of a client that moves from session to session. */
import { internals, type Session } from "./session.ts";

/**
 * Lists the sessions to which a client moved from a session, in one or several steps.
 *
 * @param session The session.
 * @returns The sessions, also those that are over; the earliest first.
 */
export function* sessionsAfter(session: Session): Generator<Session, void, undefined> {
  for (let next = session[internals].movedTo; next; next = next[internals].movedTo) yield next;
}

/**
 * Lists the open sessions from which a client moved to a session, in one or several steps.
 *
 * @param session The session.
 * @returns The sessions; the latest first.
 */
export function* sessionsBefore(session: Session): Generator<Session, void, undefined> {
  let before = session[internals].predecessor;
  for (; before; before = before[internals].predecessor) if (before.isReady) yield before;
}
