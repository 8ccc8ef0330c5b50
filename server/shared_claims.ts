/** Claims of user sessions, each shared by a session and the one to which its client moves. */
import { internals, type Session } from "../session/session.ts";

/**
 * Most sessions that share a claim; without a bound a client could hold any number in one place.
 */
const MAX_HOLDERS = 2;

/** A claim with the number of sessions that hold it. */
interface Shared {
  readonly user: string;
  readonly claim: Disposable;
  holders: number;
}

/** Claims of sessions, each held by one session or by two. */
export class SharedClaims {
  readonly #make: (user: string) => Promise<Disposable> | undefined;
  readonly #held = new WeakMap<Disposable, Shared>();
  readonly #ofSessions = new WeakMap<Session, Shared>();

  /**
   * Creates an empty registry.
   *
   * @param make Claims a place; `undefined` if no other node counts.
   */
  constructor(make: (user: string) => Promise<Disposable> | undefined) {
    this.#make = make;
  }

  /**
   * Claims a place for a session.
   *
   * @param user The user of the session.
   * @param beside The session from which the client moves, whose claim is shared.
   * @returns The share, to dispose of if the session does not begin.
   */
  async claim(user: string, beside: Session | undefined): Promise<Disposable | undefined> {
    const known = beside && this.#ofSessions.get(beside);
    if (known?.user === user && known.holders > 0 && known.holders < MAX_HOLDERS) {
      known.holders++;
      return this.#shareOf(known);
    }
    const claim = await this.#make(user);
    return claim && this.#shareOf({ user, claim, holders: 1 });
  }

  /** Assigns a share to a session, until the end of the session. */
  give(session: Session, share: Disposable): void {
    this.#ofSessions.set(session, this.#held.get(share)!);
    session[internals].whenEnded(() => share[Symbol.dispose]());
  }

  #shareOf(shared: Shared): Disposable {
    let isHeld = true;
    const share: Disposable = {
      [Symbol.dispose]() {
        if (!isHeld) return;
        isHeld = false;
        if (--shared.holders === 0) shared.claim[Symbol.dispose]();
      },
    };
    this.#held.set(share, shared);
    return share;
  }
}
