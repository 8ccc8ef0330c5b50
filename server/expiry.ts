/** The end of credentials: clients are asked for a renewal in time, or closed at the end. */
import { CloseCode } from "../errors.ts";
import type { SessionCore } from "../session/core.ts";
import { internals, type Session } from "../session/session.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import { MAX_TIMER_MS } from "../base/wait.ts";

/**
 * Time before the end at which a client is asked for a new token, in milliseconds: long enough for
 * a call of an identity provider and a second try. Half of the lifetime for tokens of less than a
 * minute.
 */
export const RENEW_MARGIN_MS = 30_000;

/** A session whose credentials end. */
interface Watched {
  /** End of the credentials, in milliseconds since the Unix epoch. */
  readonly endsAt: number;
  /** Time of asking the client; `undefined` if the client was asked, or cannot be asked. */
  asksAt: number | undefined;
  timer?: Timer;
}

/** Watches the credentials of sessions, with at most one timer for each session. */
export class Expiry {
  readonly #runtime: Runtime;
  // Bounded by the sessions of the manager.
  readonly #watched = new Map<SessionCore, Watched>();
  readonly #onEnd = (session: Session) => {
    const core = session[internals];
    this.#runtime.clearTimeout(this.#watched.get(core)?.timer);
    this.#watched.delete(core);
  };

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Watches a session, or continues with its new credentials.
   *
   * @param session The established session.
   */
  watch(session: Session): void {
    const core = session[internals];
    if (session.isClosed) return;
    const known = this.#watched.get(core);
    this.#runtime.clearTimeout(known?.timer);
    const { endsAt = Infinity, isRenewable = false } = core.credentials ?? {};
    if (known === undefined) {
      if (endsAt === Infinity) return;
      core.whenEnded(this.#onEnd);
    }
    // A new token that ends no later than the previous one is not renewed again.
    const isLater = endsAt > (known?.endsAt ?? -Infinity);
    const leftMs = Math.max(0, endsAt - this.#runtime.now());
    const marginMs = Math.min(RENEW_MARGIN_MS, leftMs / 2);
    const asksAt = isRenewable && core.joins && isLater ? endsAt - marginMs : undefined;
    const watched: Watched = { endsAt, asksAt };
    this.#watched.set(core, watched);
    this.#wait(core, watched);
  }

  #wait(core: SessionCore, watched: Watched): void {
    const dueAt = watched.asksAt ?? watched.endsAt;
    if (dueAt === Infinity) return;
    // Timers drop fractions: a timer that fires early would be set again until the time has come.
    const leftMs = Math.max(0, Math.ceil(dueAt - this.#runtime.now()));
    const waitMs = Math.min(MAX_TIMER_MS, leftMs);
    watched.timer = this.#runtime.setTimeout(() => this.#due(core, watched), waitMs);
  }

  #due(core: SessionCore, watched: Watched): void {
    const { endsAt, asksAt } = watched;
    const now = this.#runtime.now();
    if (now >= endsAt) return core.abort(CloseCode.unauthenticated, "The credentials have expired");
    if (asksAt !== undefined && now >= asksAt) {
      watched.asksAt = undefined;
      core.post({ renew: { withinMs: Math.floor(endsAt - now) } });
    }
    this.#wait(core, watched);
  }
}
