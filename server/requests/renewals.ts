/** Tokens that clients send in messages: the first one, renewals, and the expiry of both. */
import { AuthenticationError, RequestError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type Rate, TokenBucket } from "../../base/quotas/token_bucket.ts";
import { internals, type Session } from "../../session/session.ts";
import type { Admission } from "../admission/admission.ts";
import { Expiry, type Identity } from "../admission/authentication.ts";

/**
 * Limit on token renewals of one session. Each renewal calls `authenticate` once, and `authorize`
 * for each subscribed topic.
 */
const RENEWALS: Required<Rate> = { perSecond: 1, burst: 16 };

/** Called after a client has renewed its token. */
export type RenewedHandler = (session: Session, before: unknown) => unknown;

/** Parts of the server that {@linkcode Renewals} uses. */
export interface RenewalsParts {
  readonly runtime: Runtime;
  /** Calls `authenticate`. */
  readonly admission: Pick<Admission<unknown>, "renew">;
  /** The application's handler. */
  readonly onRenewed: RenewedHandler | undefined;
}

/** Checks tokens of clients, and requests new ones before they expire. */
export class Renewals {
  readonly #parts: RenewalsParts;
  readonly #expiry: Expiry;
  readonly #buckets = new WeakMap<Session, TokenBucket>();

  constructor(parts: RenewalsParts) {
    this.#parts = parts;
    this.#expiry = new Expiry(parts.runtime);
  }

  /** Watches the expiry of a session's credentials. */
  watch(session: Session): void {
    this.#expiry.watch(session);
  }

  /** Checks a token, and returns the new identity. */
  async authenticate(session: Session, token: string, signal: AbortSignal): Promise<Identity> {
    const isFirst = session.state === "connecting";
    if (!isFirst) this.#count(session);
    const identity = await this.#parts.admission.renew(session, token, signal).catch((error) => {
      if (error instanceof AuthenticationError && error.status === 503) {
        this.#expiry.askAgain(session);
      }
      throw error;
    });
    // Without a user, a change of user cannot be detected.
    if (!isFirst && identity.user === undefined) {
      throw new RequestError(
        "forbidden",
        "Cannot renew the token: the server must know the user, by userOf",
      );
    }
    if (!isFirst && identity.user !== session.user) {
      throw new RequestError("forbidden", "The token belongs to another user");
    }
    return identity;
  }

  /** Notifies the application that a session has a new identity. Never rejects. */
  async renewed(session: Session, before: unknown): Promise<void> {
    this.watch(session);
    const core = session[internals];
    const notify = async () => await this.#parts.onRenewed?.(session, before);
    await core.inTime("tokens.onRenewed", notify())
      .catch((error) => core.handlerFailed(error, "A handler failed"));
  }

  #count(session: Session): void {
    const now = this.#parts.runtime.now();
    let bucket = this.#buckets.get(session);
    if (bucket === undefined) {
      bucket = new TokenBucket(RENEWALS, now);
      this.#buckets.set(session, bucket);
    }
    const retryAfterMs = bucket.waitMs(1, now);
    if (retryAfterMs > 0) {
      const message = `At most ${RENEWALS.perSecond} renewal a second`;
      throw new RequestError("too-many", message, { retryAfterMs, level: "session" });
    }
    bucket.take(1, now);
  }
}
