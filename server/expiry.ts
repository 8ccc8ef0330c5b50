/**
 * The end of credentials: clients are asked to renew them in time, and closed if they do not.
 *
 * @module
 */
import { CloseCode } from "../errors.ts";
import type { SessionCore } from "../session/core.ts";
import { internals, type Session } from "../session/session.ts";
import { MAX_TIMER_MS } from "../session/base/wait.ts";

/**
 * How long before the end a client is asked for a new token, in milliseconds: time for its own call
 * of an identity provider, and a second try. Of a token that lasts less than a minute, half of that.
 */
export const RENEW_MARGIN_MS = 30_000;

/** A session whose credentials end. */
interface Watched {
  /** When they end, in milliseconds since the Unix epoch. */
  readonly endsAt: number;
  /** When the client is asked; `undefined` if it was, or cannot be. */
  asksAt: number | undefined;
  timer?: ReturnType<typeof setTimeout>;
}

/** Watches the credentials of sessions, with at most one timer for each. */
export class Expiry {
  // Bounded by the sessions of the manager.
  readonly #watched = new Map<SessionCore, Watched>();
  readonly #onEnd = (session: Session) => {
    const core = session[internals];
    clearTimeout(this.#watched.get(core)?.timer);
    this.#watched.delete(core);
  };

  /**
   * Watches a session, or goes on with its new credentials.
   *
   * @param session The session, established.
   */
  watch(session: Session): void {
    const core = session[internals];
    if (session.isClosed) return;
    const known = this.#watched.get(core);
    clearTimeout(known?.timer);
    const { endsAt = Infinity, isRenewable = false } = core.credentials ?? {};
    if (known === undefined) {
      if (endsAt === Infinity) return;
      core.whenEnded(this.#onEnd);
    }
    // A token that ends no later than the one before it is not asked for again.
    const isLater = endsAt > (known?.endsAt ?? -Infinity);
    const leftMs = Math.max(0, endsAt - Date.now());
    const marginMs = Math.min(RENEW_MARGIN_MS, leftMs / 2);
    const asksAt = isRenewable && core.joins && isLater ? endsAt - marginMs : undefined;
    const watched: Watched = { endsAt, asksAt };
    this.#watched.set(core, watched);
    this.#wait(core, watched);
  }

  #wait(core: SessionCore, watched: Watched): void {
    const dueAt = watched.asksAt ?? watched.endsAt;
    if (dueAt === Infinity) return;
    // Timers cut fractions off: one that is early would be set again and again until it is due.
    const waitMs = Math.min(MAX_TIMER_MS, Math.max(0, Math.ceil(dueAt - Date.now())));
    watched.timer = setTimeout(() => this.#due(core, watched), waitMs);
  }

  #due(core: SessionCore, watched: Watched): void {
    const { endsAt, asksAt } = watched;
    const now = Date.now();
    if (now >= endsAt) return core.abort(CloseCode.unauthenticated, "The credentials have expired");
    if (asksAt !== undefined && now >= asksAt) {
      watched.asksAt = undefined;
      core.post({ renew: { withinMs: Math.floor(endsAt - now) } });
    }
    this.#wait(core, watched);
  }
}
