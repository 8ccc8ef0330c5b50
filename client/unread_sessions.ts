/**
 * The sessions of a client that its loop has not read to their end.
 *
 * @module
 */
import { CloseCode, QueueFullError } from "../errors.ts";
import { internals, type Session } from "../session/session.ts";

/** Sessions with messages that wait for a reader who is slow; the receive queue of each is bounded. */
export const MAX_UNREAD_SESSIONS = 8;

/**
 * One session after the other, from the first loop on: a client that is never
 * iterated over keeps none.
 */
export class UnreadSessions {
  /** Whether a loop runs. */
  isRead = false;
  /** Each with how many messages it had discarded when it came. */
  #sessions: Map<Session, number> | undefined;
  #isGap = false;

  /** How many are left, a gap among them. */
  get size(): number {
    return (this.#sessions?.size ?? 0) + Number(this.#isGap);
  }

  /** A loop begins, with the session that there is. */
  begin(current: Session | undefined): void {
    if (this.#sessions !== undefined) return;
    this.#sessions = new Map();
    if (current !== undefined) this.add(current);
  }

  /** Keeps a session. */
  add(session: Session): void {
    const sessions = this.#sessions;
    if (sessions === undefined) return;
    // Those that ended, and have nothing left, take no room.
    for (const old of sessions.keys()) {
      if (old.isClosed && old.stats.waitingMessages === 0 && !this.#misses(old)) {
        sessions.delete(old);
      }
    }
    if (sessions.size >= MAX_UNREAD_SESSIONS) this.#isGap = true;
    else if (!this.#isGap) sessions.set(session, session.stats.unreadMessages);
  }

  /**
   * The session to read next.
   *
   * @throws {QueueFullError} Once, in the place of what is missing.
   */
  next(): Session | undefined {
    const [session] = this.#sessions!.keys();
    if (session === undefined) {
      if (!this.#isGap) return undefined;
      // The next loop begins with the session that there is then.
      this.#isGap = false;
      this.#sessions = undefined;
      throw behind(`${MAX_UNREAD_SESSIONS} sessions wait to be read`);
    }
    const { unreadMessages } = session.stats;
    if (unreadMessages > this.#sessions!.get(session)!) {
      this.#sessions!.set(session, unreadMessages);
      throw behind("its receive queue was full");
    }
    return session;
  }

  /**
   * A session was read to its end.
   *
   * @throws {QueueFullError} If that end was made because its reader was too slow.
   */
  done(session: Session): void {
    this.#sessions?.delete(session);
    if (isLagged(session)) throw behind("its receive queue was full");
  }

  #misses(session: Session): boolean {
    return isLagged(session) || session.stats.unreadMessages > this.#sessions!.get(session)!;
  }
}

/** Whether a session closed over its reader, and threw away what waited. */
function isLagged(session: Session): boolean {
  const { info } = session[internals];
  return info?.code === CloseCode.queueFull && info.by === "local" && info.error === undefined;
}

function behind(why: string): QueueFullError {
  return new QueueFullError(`Cannot keep up: the loop over the client fell behind, and ${why}`);
}
