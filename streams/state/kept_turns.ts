/** Turns that are kept for clients, which repeat their updates after a conflict. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Session } from "../../session/session.ts";
import type { Turn } from "./row_queue.ts";

/** Time for which a turn is kept, in milliseconds. Most clients reply sooner. */
export const KEPT_MS = 500;

/**
 * Turns of clients whose `update` met a row that others had changed. Only the client can compute
 * the new value. Until it has done so, the other updates of the row wait, because a client far away
 * would otherwise always be later than clients nearby.
 *
 * - **Only if others wait:** nothing is kept otherwise.
 * - **Unused:** the next turn is kept for the client only after it has made an update, so that
 *   rows wait for a client at most as often as it changes one.
 */
export class KeptTurns {
  /** At most one turn for each session. */
  readonly #kept = new Map<Session, Turn>();
  readonly #unused: Deadlines<Session>;
  /** Sessions that did not use their last kept turn. */
  readonly #idle = new WeakSet<Session>();
  /** Sessions whose kept turn ends with them. */
  readonly #followed = new WeakSet<Session>();

  constructor(runtime: Runtime) {
    this.#unused = new Deadlines(runtime, KEPT_MS, (session) => this.#end(session));
  }

  /** Keeps a turn, which others must wait for. Returns false if it is not kept. */
  keep(session: Session, turn: Turn): boolean {
    const isIdle = this.#idle.has(session) || this.#kept.has(session) || session.isClosed;
    if (isIdle || !turn.isContended) return false;
    if (!this.#followed.has(session)) {
      this.#followed.add(session);
      void session.closed.then(() => this.#end(session));
    }
    this.#kept.set(session, turn);
    this.#unused.add(session);
    return true;
  }

  /** Takes the turn that is kept for a row; `undefined` if there is none. */
  take(session: Session, id: string, row: string): Turn | undefined {
    const turn = this.#kept.get(session);
    if (turn === undefined || turn.id !== id || turn.rows[0] !== row) return undefined;
    this.#kept.delete(session);
    this.#unused.delete(session);
    return turn.isOver ? undefined : turn;
  }

  /** Notes that a client has made an update. */
  made(session: Session): void {
    this.#idle.delete(session);
  }

  close(): void {
    this.#unused.clear();
  }

  #end(session: Session): void {
    const turn = this.#kept.get(session);
    if (turn === undefined) return;
    this.#kept.delete(session);
    this.#unused.delete(session);
    this.#idle.add(session);
    turn[Symbol.dispose]();
  }
}
