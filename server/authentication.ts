/** Authentication: calls the application with a time limit, and converts its errors to refusals. */
import type { AdmissionOptions } from "./admission_options.ts";
import { Refused } from "./refusal.ts";
import { AuthenticationError, CloseCode } from "../errors.ts";
import { exceedsBytes, utf8Length } from "../session/wire/utf8.ts";
import { internals, type Session } from "../session/session.ts";
import type { SessionIdentity } from "../session/types.ts";
import { MAX_TIMER_MS, startTimer } from "../base/wait.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import type { SessionCore } from "../session/core.ts";

/** Most bytes of a user in UTF-8: engines use it in the names of topics, rows and buckets. */
export const MAX_USER_BYTES = 255;

/** Identity of a peer. */
export interface Identity<V> {
  /** Value returned by `authenticate`. */
  readonly value: V;
  /** The user of the value, if there is one. */
  readonly user: string | undefined;
  /** End of the credentials, where there is one. */
  readonly credentials: SessionIdentity["credentials"];
}

/** Text for a peer without an identity; gives no reason. */
const UNAUTHENTICATED = "Unauthenticated";

/** Text for a client that announced a token in band, if the server accepts no such token. */
export const TAKES_NO_TOKEN =
  "No token is taken in band: the server needs authenticate and acceptsTokenInBand";

/** Text for credentials that have ended. */
const EXPIRED = "The credentials have expired";

/** Text for clients of 0.1, which may have a token in band and do not announce it. */
const NOT_IN_BAND = `${UNAUTHENTICATED}: this server takes no token in band`;

/** Identifies peers through the application. */
export class Authenticator<V> {
  readonly #runtime: Runtime;
  readonly #options: AdmissionOptions<V>;

  constructor(runtime: Runtime, options: AdmissionOptions<V>) {
    this.#runtime = runtime;
    this.#options = options;
  }

  /**
   * Identifies a peer.
   *
   * @param request The request, or a copy with the headers that were kept.
   * @param token The bearer token.
   * @param signal Aborted at the end of the session.
   * @returns The identity.
   * @throws {Refused} If the application refuses the peer, fails, or takes too long.
   */
  async identify(
    request: Request,
    token: string | undefined,
    signal?: AbortSignal,
  ): Promise<Identity<V>> {
    const { authenticate, authenticateTimeoutMs = 10_000 } = this.#options;
    const ended = new AbortController();
    const timer = startTimer(
      this.#runtime,
      authenticateTimeoutMs,
      () => ended.abort(new Refused(503, "Authentication took too long")),
    );
    const { promise: late, reject } = Promise.withResolvers<never>();
    ended.signal.addEventListener("abort", () => reject(ended.signal.reason));
    const onAbort = () => ended.abort(signal?.reason);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener("abort", onAbort, { once: true });
    const ask = async () => await authenticate?.({ request, token, signal: ended.signal }) as V;
    try {
      const value = await Promise.race([ask(), late]);
      const user = this.#userOf(value);
      const endsAt = this.#endOf(value);
      if (endsAt <= this.#runtime.now()) throw new Refused(401, EXPIRED);
      const isRenewable = token !== undefined;
      const credentials = endsAt === Infinity ? undefined : { endsAt, isRenewable };
      return { value, user, credentials };
    } catch (error) {
      // If the client disconnected during authentication, the error is not a fault of the
      // application.
      throw refusalOf(error, !signal?.aborted);
    } finally {
      this.#runtime.clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  #userOf(value: V): string | undefined {
    const user = this.#askedUser(value);
    if (user === undefined || !exceedsBytes(user, MAX_USER_BYTES)) return user;
    const cause = new RangeError(
      `Cannot identify: a user must have at most ${MAX_USER_BYTES} bytes in UTF-8, received ${
        utf8Length(user)
      }`,
    );
    // With status 503 the client would come back for ever.
    throw new Refused(403, `A user has at most ${MAX_USER_BYTES} bytes`, { cause });
  }

  /**
   * Returns the end of the credentials, in milliseconds since the Unix epoch; `Infinity` without an
   * end.
   */
  #endOf(value: V): number {
    const { expiresAt } = this.#options;
    return this.#asked(() => {
      const endsAt: unknown = expiresAt?.(value) ?? Infinity;
      if (typeof endsAt === "number" && !Number.isNaN(endsAt)) return endsAt;
      throw new TypeError(
        `Cannot identify: expiresAt must return a number or undefined, received ${
          typeof endsAt === "number" ? endsAt : typeof endsAt
        }`,
      );
    });
  }

  #askedUser(value: V): string | undefined {
    const { userOf } = this.#options;
    if (userOf === undefined) return typeof value === "string" ? value : undefined;
    return this.#asked(() => {
      const user: unknown = userOf(value);
      if (typeof user === "string") return user;
      throw new TypeError(`Cannot identify: userOf must return a string, received ${typeof user}`);
    });
  }

  /** Refuses with 503 where the application fails, so that the peer comes back after a repair. */
  #asked<T>(ask: () => T): T {
    try {
      return ask();
    } catch (cause) {
      if (cause instanceof AuthenticationError) throw cause;
      throw new Refused(503, "Authentication failed, try again later", { cause, isFault: true });
    }
  }
}

/** Gives the reason to a client that did not announce a token, and may have one nevertheless. */
export function withInBandHint(error: unknown): unknown {
  if (!(error instanceof Refused) || error.status !== 401) return error;
  const { cause, isFault } = error;
  if (cause instanceof AuthenticationError) return error;
  return new Refused(401, NOT_IN_BAND, { cause, isFault });
}

/**
 * Converts an error to a refusal. Only the text of an `AuthenticationError` is sent to the peer.
 */
function refusalOf(error: unknown, isAwaited: boolean): Refused {
  if (error instanceof Refused) return error;
  if (error instanceof AuthenticationError) {
    return new Refused(error.status, error.message, { cause: error });
  }
  return new Refused(401, UNAUTHENTICATED, {
    cause: error,
    isFault: isAwaited && error !== undefined,
  });
}

/**
 * Time before the end at which a client is asked for a new token, in milliseconds: long enough for
 * a call of an identity provider and a second try. Half of the lifetime for tokens of less than a
 * minute.
 */
export const RENEW_MARGIN_MS = 30_000;

/** A session whose credentials end. */
interface WatchedCredentials {
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
  readonly #watched = new Map<SessionCore, WatchedCredentials>();
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
    const watched: WatchedCredentials = { endsAt, asksAt };
    this.#watched.set(core, watched);
    this.#wait(core, watched);
  }

  #wait(core: SessionCore, watched: WatchedCredentials): void {
    const dueAt = watched.asksAt ?? watched.endsAt;
    if (dueAt === Infinity) return;
    // Timers drop fractions: a timer that fires early would be set again until the time has come.
    const leftMs = Math.max(0, Math.ceil(dueAt - this.#runtime.now()));
    const waitMs = Math.min(MAX_TIMER_MS, leftMs);
    watched.timer = this.#runtime.setTimeout(() => this.#due(core, watched), waitMs);
  }

  #due(core: SessionCore, watched: WatchedCredentials): void {
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
