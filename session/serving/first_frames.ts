/**
 * The first frames of a server's session, which contain the token, or the first message after a
 * handover.
 */
import { AuthenticationError, CloseCode, RequestError, type RequestFailure } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import type { Inside } from "../receiving.ts";
import type { Session } from "../session.ts";
import { report } from "../settings/settings.ts";
import { parseEnvelope } from "../wire/server_envelope.ts";
import { exceedsBytes } from "../wire/utf8.ts";

/**
 * The default size limit of the token with its envelope, in bytes. It equals the usual limit for
 * headers, because the sender is not yet known while the server reads the token.
 */
export const MAX_TOKEN_BYTES = 16_384;

/** Receives the first frames of one session instead of its receiving half. */
export class FirstFrames {
  readonly #core: Inside<Session>;
  readonly #maxTokenBytes: number;
  #isChecking = false;

  constructor(
    core: Inside<Session>,
    maxTokenBytes: number = MAX_TOKEN_BYTES,
  ) {
    this.#core = core;
    this.#maxTokenBytes = maxTokenBytes;
  }

  /** Handles a frame. After the last of these frames, the session receives frames itself. */
  receive(frame: Frame): void {
    const core = this.#core;
    if (core.awaitsToken) return void this.#receiveToken(frame);
    // After a handover, the client's first frame establishes the session.
    if (core.state === "connecting" && core.lineage.predecessor !== undefined) {
      core.connected();
      if (core.state === "connecting" || core.ending !== undefined) return;
    }
    core.receiving.firstFrames = undefined;
    core.receiving.receive(frame);
  }

  #reject(code: number, reason: string): void {
    this.#core.windUp({ code, reason, by: "local" });
  }

  async #receiveToken(frame: Frame): Promise<void> {
    const core = this.#core;
    if (this.#isChecking) {
      return this.#reject(
        CloseCode.unauthenticated,
        "Nothing may be sent before the token is accepted",
      );
    }
    this.#isChecking = true;
    core.giveUpAfter(core.settings.requestTimeoutMs, "reply to the token");
    if (typeof frame !== "string" || exceedsBytes(frame, this.#maxTokenBytes)) {
      return this.#reject(
        CloseCode.unauthenticated,
        `A token has at most ${this.#maxTokenBytes} bytes of text: see tokens.maxBytes of the server`,
      );
    }
    const envelope = parseEnvelope(frame);
    if (envelope.kind !== "auth") {
      return this.#reject(CloseCode.unauthenticated, "Expected a token first");
    }
    try {
      await core.receiving.services.signIn(envelope.token);
    } catch (error) {
      if (core.state === "closed") return;
      const failure = requestFailure(error);
      core.sending.post({ reply: envelope.id, error: failure });
      if (!(error instanceof AuthenticationError)) report(core.settings, error, core.session);
      const status = error instanceof AuthenticationError ? error.status : 503;
      return this.#reject(4000 + status, failure.message);
    }
    if (core.state === "closed") return;
    core.sending.post({ reply: envelope.id });
    core.connected();
  }
}

/** Failure codes by the status of an `AuthenticationError`, for statuses whose code differs. */
const CODES: Readonly<Record<number, string>> = {
  403: "forbidden",
  429: "too-many",
  503: "unavailable",
};

/**
 * Rejects a request that is rejected at every attempt, while later requests on the same topic may
 * succeed.
 */
export class LastingRejection extends RequestError {
  /** @param failure The part that is sent to the peer. */
  constructor({ code, message, ...options }: RequestFailure) {
    super(code, message, options);
  }
}

/** The failure that the peer receives. The text of any other error stays on the server. */
export function requestFailure(error: unknown): RequestFailure {
  if (error instanceof RequestError) return error.failure;
  if (error instanceof AuthenticationError) {
    return { code: CODES[error.status] ?? "unauthenticated", message: error.message };
  }
  return { code: "failed", message: "The handler failed" };
}
