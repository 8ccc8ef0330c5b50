/**
 * Sends each page's pointer to the other pages on the same board. Pointers are sent in datagrams,
 * since only the newest position counts, or in messages if the transport has no datagrams.
 *
 * A page repeats its own pointer's position, and removes the pointers of other pages that stop
 * repeating theirs. So a lost datagram leaves no stale pointer.
 *
 * @module
 */
import type { Session, StructuredDatagrams } from "../../mod.ts"; // jsr:@skein/skein
import type { Topics } from "../../pubsub/mod.ts"; // jsr:@skein/skein/pubsub
import { type Cursor, type CursorNews, datagrams } from "./contract.ts";

/** Interval between rounds, in milliseconds. */
const ROUND_MS = 33;

/** Maximum pointers of a board per round; the others follow with their next move. */
const MAX_CURSORS = 40;

/** Pointers per datagram: four, each with a name of 24 letters, fit into 1,200 bytes. */
const CURSORS_PER_DATAGRAM = 4;

interface Watcher {
  readonly id: number;
  readonly datagrams: StructuredDatagrams<typeof datagrams> | undefined;
  /** The pointer as last reported. */
  cursor: Cursor | undefined;
}

/** Relays pointers between the sessions of each board. */
export class Cursors {
  readonly #topics: Topics;
  readonly #watchers = new Map<Session, Watcher>();
  /** Pointers that moved since the last round. */
  readonly #moved = new Map<Watcher, { readonly user: string; readonly cursor: Cursor }>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sequence = 0;
  #ids = 0;

  /** Relays between the subscribers of each board. */
  constructor(topics: Topics) {
    this.#topics = topics;
  }

  /** Sends pointers to a session, and reads its own, until the session ends. */
  async watch(session: Session): Promise<void> {
    const hasDatagrams = session.connection.capabilities.datagrams !== "none";
    const watcher: Watcher = {
      id: ++this.#ids,
      datagrams: hasDatagrams
        ? await session.structuredDatagrams({ registry: datagrams, maxQueued: 8 })
        : undefined,
      cursor: undefined,
    };
    this.#watchers.set(session, watcher);
    for await (const { type, data } of watcher.datagrams ?? []) {
      if (type === 1) this.move(session, data);
    }
    await session.closed;
    this.#watchers.delete(session);
    if (watcher.cursor) this.#tell(watcher, session.user, { ...watcher.cursor, at: null });
    // Without watchers, this ends the rounds.
    if (this.#watchers.size === 0) this.#round();
  }

  /** Stores a session's pointer, unless the session has not opened that board. */
  move(session: Session, cursor: Cursor): void {
    const watcher = this.#watchers.get(session);
    const isThere = this.#topics.has(session, `board:${cursor.board}`);
    if (watcher === undefined || !isThere) return;
    const { cursor: before } = watcher;
    if (before && before.board !== cursor.board) {
      this.#tell(watcher, session.user, { ...before, at: null });
      this.#round();
    }
    watcher.cursor = cursor.at === null ? undefined : cursor;
    this.#tell(watcher, session.user, cursor);
  }

  #tell(watcher: Watcher, user: string, cursor: Cursor): void {
    this.#moved.set(watcher, { user, cursor });
    this.#timer ??= setTimeout(() => this.#round(), ROUND_MS);
  }

  #round(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const boards = Map.groupBy(this.#moved, ([, { cursor }]) => cursor.board);
    this.#moved.clear();
    for (const [board, moved] of boards) {
      const sequence = ++this.#sequence;
      for (const session of this.#topics.subscribers(`board:${board}`)) {
        const watcher = this.#watchers.get(session);
        if (watcher === undefined) continue;
        const cursors = moved.slice(0, MAX_CURSORS)
          .filter(([other]) => other !== watcher)
          .map(([{ id }, { user, cursor: { at, pen } }]) => ({
            id,
            user,
            at,
            pen,
          }));
        this.#send(session, watcher, { board, sequence, cursors });
      }
    }
  }

  #send(session: Session, { datagrams }: Watcher, { cursors, ...news }: CursorNews): void {
    for (let i = 0; i < cursors.length; i += CURSORS_PER_DATAGRAM) {
      const some = { ...news, cursors: cursors.slice(i, i + CURSORS_PER_DATAGRAM) };
      // The session may have just ended; the next round replaces a lost datagram.
      if (datagrams !== undefined) void datagrams.send(2, some).catch(() => {});
      else if (session.isReady) session.send("cursors", some);
    }
  }
}
