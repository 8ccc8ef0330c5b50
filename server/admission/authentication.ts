/**
 * Authentication: calls the application with a time limit, and converts its results to rejections.
 */
import type { AdmissionOptions } from "./admission_options.ts";
import { guest } from "./guest.ts";
import { Rejected } from "./rejection.ts";
import { AuthenticationError, CloseCode } from "../../errors.ts";
import { exceedsBytes, utf8Length } from "../../session/wire/utf8.ts";
import { internals, type Session } from "../../session/session.ts";
import { GUEST_PREFIX } from "../../session/serving/requests.ts";
import type { SessionIdentity } from "../../session/types.ts";
import { decide, DecisionFault } from "../../base/decision.ts";
import type { Login } from "../../pubsub/decisions.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { Inside } from "../../session/receiving.ts";

/**
 * Time limit of `authenticate`, in milliseconds; other decisions of the application have the same
 * limit. Clients wait equally long for a connection.
 */
export const AUTHENTICATE_TIMEOUT_MS = 10_000;

/**
 * Maximum size of a user in bytes of UTF-8. Brokers use it in the names of topics, rows and
 * buckets.
 */
export const MAX_USER_BYTES = 255;

/** Identity of a peer. */
export interface Identity {
  /** Value returned by `authenticate`; `undefined` for a guest. */
  readonly value: unknown;
  /** The value's user, if any. */
  readonly user: string | undefined;
  /** `true` if the peer was admitted without an identity. */
  readonly isGuest: boolean;
  /** Expiry of the credentials, if any. */
  readonly credentials: SessionIdentity["credentials"];
}

/** A peer without an identity. */
export const GUEST: Identity = {
  value: undefined,
  user: undefined,
  isGuest: true,
  credentials: undefined,
};

/** Text for a peer without an identity. It does not give a reason. */
const UNAUTHENTICATED = "Unauthenticated";

/** Text for a peer if `authenticate` fails. */
export const LATER = "Authentication failed, try again later";

/** Text for a client that announced a token message although the server accepts none. */
export const TAKES_NO_TOKEN =
  "The server accepts no token messages: it needs authenticate and tokens.inMessage";

const EXPIRED = "The credentials have expired";

/** Text for a page whose cookies would decide; it connects over another transport. */
const NO_COOKIES = "Browsers send no cookies over WebTransport";

/** Identifies peers through the application. */
export class Authenticator<V> {
  readonly #runtime: Runtime;
  readonly #options: AdmissionOptions<V>;
  readonly #console: ConsoleReport;

  constructor(runtime: Runtime, options: AdmissionOptions<V>, console: ConsoleReport) {
    this.#runtime = runtime;
    this.#options = options;
    this.#console = console;
  }

  /**
   * Identifies a peer. If the user is disconnected in the meantime, `authenticate` is called once
   * more, within the same time limit, and its second result counts.
   *
   * @param request The request, or a copy with the kept headers.
   * @param options The token; the login, which the caller ends; a signal that aborts when the
   * session closes; and true if the transport carries no cookies, so that a peer that is rejected
   * or a guest without them must come over another one.
   * @throws {Rejected} If the application rejects the peer, fails, or takes too long.
   */
  async identify(
    request: Request,
    { token, login, signal, isCookieless = false }: {
      readonly token: string | undefined;
      readonly login: Login;
      readonly signal?: AbortSignal | undefined;
      readonly isCookieless?: boolean | undefined;
    },
  ): Promise<Identity> {
    const { authenticate } = this.#options;
    if (authenticate === undefined) return GUEST;
    const wait = new Wait();
    const timer = this.#runtime.setTimeout(
      () => wait.end(new Rejected(503, "Authentication took too long")),
      AUTHENTICATE_TIMEOUT_MS,
    );
    const onAbort = () => wait.end(signal!.reason);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener("abort", onAbort, { once: true });
    let lacksCookies = false;
    // Most applications use only the token.
    const ask = () =>
      authenticate({
        request,
        token,
        get cookies() {
          lacksCookies = isCookieless;
          return cookiesOf(request.headers);
        },
        get signal() {
          return wait.signal;
        },
      });
    const identify = async () => {
      lacksCookies = false;
      const deciding = login.during(() => decide("authenticate", ask, [AuthenticationError]));
      const identity = await this.#identityOf(await Promise.race([deciding, wait.ended]), token);
      if (lacksCookies && identity.isGuest) throw new Rejected(401, UNAUTHENTICATED);
      return identity;
    };
    try {
      const first = await identify();
      if (login.revocationFor(first.user) === undefined) return first;
      const second = await identify();
      login.restart();
      return second;
    } catch (error) {
      // If the client disconnected during authentication, the error is not the application's fault.
      const rejection = rejectionOf(error, !signal?.aborted);
      if (!lacksCookies || rejection.fault !== undefined) throw rejection;
      throw new Rejected(401, NO_COOKIES, { isRoutine: true });
    } finally {
      this.#runtime.clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  async #identityOf(decided: unknown, token: string | undefined): Promise<Identity> {
    if (decided === null || decided === false) throw new Rejected(401, UNAUTHENTICATED);
    if (decided === guest) return GUEST;
    if (decided === undefined) {
      throw DecisionFault.returned("authenticate", "a value, guest, or null to reject", decided);
    }
    const value = decided as Exclude<V, typeof guest>;
    const user = await this.#userOf(value);
    const endsAt = await this.#endOf(value);
    if (endsAt <= this.#runtime.now()) throw new Rejected(401, EXPIRED);
    const credentials = endsAt === Infinity
      ? undefined
      : { endsAt, isRenewable: token !== undefined };
    return { value, user, isGuest: false, credentials };
  }

  async #userOf(value: Exclude<V, typeof guest>): Promise<string | undefined> {
    const user = await this.#askedUser(value);
    if (user === undefined) return undefined;
    // With status 503 the client would reconnect forever.
    if (user === "") {
      const by = this.#options.userOf === undefined ? "authenticate" : "userOf";
      const cause = new RangeError(
        `Cannot identify: a user must not be empty, received "" from ${by}; return guest from ` +
          "authenticate to admit a client without a user",
      );
      throw new Rejected(403, "A user must not be empty", { cause });
    }
    if (user.startsWith(GUEST_PREFIX)) {
      const cause = new RangeError(
        `Cannot identify: a user must not start with "${GUEST_PREFIX}", received "${user}"`,
      );
      throw new Rejected(403, `Only guests have a name that starts with "${GUEST_PREFIX}"`, {
        cause,
      });
    }
    if (!exceedsBytes(user, MAX_USER_BYTES)) return user;
    const cause = new RangeError(
      `Cannot identify: a user must have at most ${MAX_USER_BYTES} bytes in UTF-8, received ${
        utf8Length(user)
      }`,
    );
    throw new Rejected(403, `A user has at most ${MAX_USER_BYTES} bytes`, { cause });
  }

  /**
   * Returns when the credentials expire, in milliseconds since the Unix epoch; `Infinity` if never.
   */
  #endOf(value: Exclude<V, typeof guest>): Promise<number> {
    const { expiresAt } = this.#options.tokens ?? {};
    return decide("tokens.expiresAt", () => {
      const endsAt: unknown = expiresAt?.(value) ?? Infinity;
      if (typeof endsAt === "number" && !Number.isNaN(endsAt)) return endsAt;
      throw DecisionFault.returned("tokens.expiresAt", "a number or undefined", endsAt);
    }, [AuthenticationError]);
  }

  async #askedUser(value: Exclude<V, typeof guest>): Promise<string | undefined> {
    const { userOf } = this.#options;
    if (userOf === undefined) {
      if (typeof value === "string") return value;
      this.#tellNoUser(value);
      return undefined;
    }
    return await decide("userOf", () => {
      const user: unknown = userOf(value);
      if (typeof user === "string") return user;
      const isNumber = typeof user === "number" || typeof user === "bigint";
      const expected = isNumber ? "a string, such as String(id)" : "a string";
      throw DecisionFault.returned("userOf", expected, user);
    }, [AuthenticationError]);
  }

  /** Prints that sessions have no user, because `userOf` is probably missing. */
  #tellNoUser(value: unknown): void {
    // `true` only says that the client is known.
    if (value === true) return;
    const [what, cure] = Object(value) === value
      ? ["an object", "(value) => value.name"]
      : [`a ${typeof value}`, "(value) => String(value)"];
    this.#console.tell(
      "no-user",
      `authenticate returned ${what}, and there is no userOf: sessions have no user; set userOf: ${cure}`,
      { silentMs: Infinity },
    );
  }
}

/** The wait for `authenticate`, which ends early if the peer leaves or the call takes too long. */
class Wait {
  readonly #ended = Promise.withResolvers<never>();
  #controller: AbortController | undefined;
  #reason: { readonly value: unknown } | undefined;

  /** Rejects with the reason once the wait has ended early. */
  get ended(): Promise<never> {
    return this.#ended.promise;
  }

  /** Aborts once the wait has ended early. Created on first access. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(this.#reason.value);
    }
    return this.#controller.signal;
  }

  /** Ends the wait. Only the first call has an effect. */
  end(reason: unknown): void {
    if (this.#reason !== undefined) return;
    this.#reason = { value: reason };
    this.#ended.reject(reason);
    this.#controller?.abort(reason);
  }
}

/**
 * Reads the cookies of a request. A browser sends all cookies of a host, including malformed ones
 * that other programs of the host have set, so nothing here throws.
 *
 * @returns The values by name, as sent. A pair without a name is left out, and a pair without `=`
 * is a name with an empty value. If a name is repeated, the last value counts.
 */
function cookiesOf(headers: Headers): Record<string, string | undefined> {
  const cookies: Record<string, string | undefined> = Object.create(null);
  for (const pair of headers.get("cookie")?.split(";") ?? []) {
    const [name = "", ...value] = pair.split("=");
    const key = name.trim();
    if (key !== "") cookies[key] = value.join("=");
  }
  return cookies;
}

/**
 * Converts an error to a rejection. Only the text of an `AuthenticationError` is sent to the peer.
 *
 * @param error What was thrown.
 * @param isAwaited `false` if the peer has left; an error is then not the application's fault.
 */
function rejectionOf(error: unknown, isAwaited: boolean): Rejected {
  if (error instanceof Rejected) return error;
  if (error instanceof AuthenticationError) {
    return new Rejected(error.status, error.message, { cause: error });
  }
  const fault = DecisionFault.thrown("authenticate", error);
  return new Rejected(503, LATER, { cause: fault.cause, fault: isAwaited ? fault : undefined });
}

/**
 * Time before the expiry at which the server requests a new token, in milliseconds. It is long
 * enough for a call to an identity provider and a retry. If less than a minute of the lifetime
 * remains, half of it is used instead.
 */
export const RENEW_MARGIN_MS = 30_000;

/** Shortest remaining lifetime for which the server requests a token again, in milliseconds. */
const MIN_ASK_AGAIN_MS = 1_000;

/** A session whose credentials expire. */
interface WatchedCredentials {
  /** Expiry, in milliseconds since the Unix epoch. */
  readonly endsAt: number;
  /** Time of the token request; `undefined` if it was sent, or cannot be sent. */
  asksAt: number | undefined;
  timer?: Timer;
}

/** Watches the expiry of sessions' credentials, with at most one timer per session. */
export class Expiry {
  readonly #runtime: Runtime;
  // Bounded by the manager's sessions.
  readonly #watched = new Map<Inside, WatchedCredentials>();
  readonly #onEnd = (session: Session) => {
    const core = session[internals];
    this.#runtime.clearTimeout(this.#watched.get(core)?.timer);
    this.#watched.delete(core);
  };

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Watches a session, or updates its credentials. */
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
    // If a new token expires no later than the previous one, the server does not request another.
    const isLater = endsAt > (known?.endsAt ?? -Infinity);
    const leftMs = Math.max(0, endsAt - this.#runtime.now());
    const marginMs = Math.min(RENEW_MARGIN_MS, leftMs / 2);
    const asksAt = isRenewable && core.joins && isLater ? endsAt - marginMs : undefined;
    const watched: WatchedCredentials = { endsAt, asksAt };
    this.#watched.set(core, watched);
    this.#wait(core, watched);
  }

  /**
   * Requests a token again, halfway to the expiry, because the last token could not be checked.
   */
  askAgain(session: Session): void {
    const core = session[internals];
    const known = this.#watched.get(core);
    const leftMs = (known?.endsAt ?? -Infinity) - this.#runtime.now();
    if (known === undefined || known.asksAt !== undefined || leftMs < MIN_ASK_AGAIN_MS) return;
    this.#runtime.clearTimeout(known.timer);
    known.asksAt = known.endsAt - leftMs / 2;
    this.#wait(core, known);
  }

  #wait(core: Inside, watched: WatchedCredentials): void {
    const dueAt = watched.asksAt ?? watched.endsAt;
    if (dueAt === Infinity) return;
    // Timers drop fractions of a millisecond; a timer that fires early would be set again and
    // again.
    const leftMs = Math.max(0, Math.ceil(dueAt - this.#runtime.now()));
    const waitMs = Math.min(MAX_TIMER_MS, leftMs);
    watched.timer = this.#runtime.setTimeout(() => this.#due(core, watched), waitMs);
  }

  #due(core: Inside, watched: WatchedCredentials): void {
    const { endsAt, asksAt } = watched;
    const now = this.#runtime.now();
    if (now >= endsAt) return core.abort(CloseCode.unauthenticated, "The credentials have expired");
    if (asksAt !== undefined && now >= asksAt) {
      watched.asksAt = undefined;
      core.sending.post({ renew: { withinMs: Math.floor(endsAt - now) } });
    }
    this.#wait(core, watched);
  }
}
