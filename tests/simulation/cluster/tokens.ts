/** A token service that all nodes and clients trust. It has its own clock. */
import type { EventLoop } from "../../simulator/event_loop.ts";
import { AuthenticationError } from "../../../errors.ts";

/** The wall-clock time of the service at the start of a run. */
const START_MS = Date.UTC(2030, 0, 1);

/** The user behind a token. */
export interface Identity {
  readonly user: string;
  /**
   * Expiry of the token, in milliseconds since the Unix epoch. It is absent if the token does not
   * expire.
   */
  readonly endsAt?: number;
}

/** The tokens of a run. */
export class Tokens {
  readonly #events: EventLoop;
  readonly #lastsMs: number | undefined;

  /**
   * Creates the service that issues the tokens of a run.
   *
   * @param events The simulation's event loop, whose time decides when a token expires.
   * @param lastsMs Lifetime of a token in milliseconds, or `undefined` for tokens that don't
   * expire.
   */
  constructor(events: EventLoop, lastsMs: number | undefined) {
    this.#events = events;
    this.#lastsMs = lastsMs;
  }

  /**
   * Creates a token.
   *
   * @returns The token.
   */
  make(user: string): string {
    if (this.#lastsMs === undefined) return user;
    return `${user}.${START_MS + Math.floor(this.#events.nowMs) + this.#lastsMs}`;
  }

  /**
   * Reads a token.
   *
   * @returns The user and the expiry.
   * @throws {AuthenticationError} If there is no token.
   */
  read(token: string | undefined): Identity {
    const [user, endsAt] = (token ?? "").split(".");
    if (!user) throw new AuthenticationError("A token is needed");
    return { user, ...(endsAt !== undefined && { endsAt: Number(endsAt) }) };
  }
}
