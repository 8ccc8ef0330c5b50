/**
 * The sessions whose messages a loop over the client has yet to read. This module is loaded with
 * the first loop.
 */
import { CloseCode, QueueFullError } from "../errors.ts";
import { internals, type Session } from "../session/session.ts";
import type { StatusFeed } from "../base/status_feed.ts";
import type { UntypedMessage } from "../session/message.ts";
import type { ClientStatus } from "./client_options.ts";

/**
 * The maximum number of sessions whose messages wait for a slow reader. Each session has a bounded
 * receive queue.
 */
export const MAX_UNREAD_SESSIONS = 8;

/**
 * A queue of unread sessions. It is used once there is a loop; a client without a loop keeps no
 * sessions.
 */
export class UnreadSessions {
  /** The sessions, each with the number of messages that it had discarded when it was added. */
  #sessions: Map<Session, number> | undefined;
  #isGap = false;

  /** Expects the sessions since the first loop started. */
  constructor(sessions: Iterable<Session>) {
    this.#sessions = new Map();
    for (const session of sessions) this.add(session);
  }

  /**
   * Yields the messages of one session after another, until the client closes.
   *
   * @param current The current session, with which the loop continues after a gap.
   * @throws {QueueFullError} If messages are missing; thrown at their position.
   */
  async *read(
    status: StatusFeed<ClientStatus>,
    current: Session | undefined,
  ): AsyncGenerator<UntypedMessage, void, undefined> {
    if (this.#sessions === undefined) {
      this.#sessions = new Map();
      if (current !== undefined) this.add(current);
    }
    while (true) {
      for (let session; (session = this.#next()) !== undefined; this.#done(session)) {
        yield* session;
      }
      if (status.isEnded) return;
      for await (const _ of status.follow()) if (this.#sessions?.size || this.#isGap) break;
    }
  }

  add(session: Session): void {
    const sessions = this.#sessions;
    if (sessions === undefined) return;
    // Removes ended sessions that have neither unread messages nor a gap to report.
    for (const old of sessions.keys()) {
      if (old.isClosed && old.stats.waitingMessages === 0 && !this.#misses(old)) {
        sessions.delete(old);
      }
    }
    if (sessions.size >= MAX_UNREAD_SESSIONS) this.#isGap = true;
    else if (!this.#isGap) sessions.set(session, session.stats.unreadMessages);
  }

  /** @throws {QueueFullError} Once, in place of missing messages. */
  #next(): Session | undefined {
    const [session] = this.#sessions!.keys();
    if (session === undefined) {
      if (!this.#isGap) return undefined;
      // The next loop starts with the session that is then the current one.
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

  /** @throws {QueueFullError} If the session closed because the reader was too slow. */
  #done(session: Session): void {
    this.#sessions?.delete(session);
    if (isLagged(session)) throw behind("its receive queue was full");
  }

  #misses(session: Session): boolean {
    return isLagged(session) || session.stats.unreadMessages > this.#sessions!.get(session)!;
  }
}

/**
 * Returns whether a session closed because of a slow reader, and discarded the waiting messages.
 */
function isLagged(session: Session): boolean {
  const { info } = session[internals];
  return info?.code === CloseCode.queueFull && info.by === "local" && info.error === undefined;
}

function behind(why: string): QueueFullError {
  return new QueueFullError(`Cannot keep up: the loop over the client fell behind, and ${why}`);
}
