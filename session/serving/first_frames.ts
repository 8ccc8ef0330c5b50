/**
 * First frames of a server's session: the token, a token that the client did not announce, or the
 * first message of a client that moves here.
 */
import { AuthenticationError, CloseCode, RequestError, type RequestFailure } from "../../errors.ts";
import type { Backpressure, Frame, FrameReceiver } from "../../transport/connection.ts";
import { internals, type SessionCore } from "../core.ts";
import type { Session } from "../session.ts";
import { report } from "../settings.ts";
import { parseEnvelope } from "../wire/server_envelope.ts";
import { exceedsBytes } from "../wire/utf8.ts";

/**
 * Longest token in bytes by default, with its envelope: as long as servers let headers be. The sender
 * is unknown while the server reads the token.
 */
export const MAX_TOKEN_BYTES = 16_384;

/** Frames that a client may send while a late token is checked, enough to subscribe again. */
const MAX_HELD_FRAMES = 256;

/** Bytes of the held frames after the first one: as much as one frame of several envelopes. */
const MAX_HELD_BYTES = 65_536;

/** Receives the first frames of one session, in place of its receiving half. */
export class FirstFrames {
  readonly #core: SessionCore<Session>;
  readonly #maxTokenBytes: number;
  #isChecking = false;

  /** Creates the receiver of frames that have not come yet. */
  constructor(core: SessionCore<Session>, maxTokenBytes: number = MAX_TOKEN_BYTES) {
    this.#core = core;
    this.#maxTokenBytes = maxTokenBytes;
  }

  /** Handles a frame; after the last of the first frames, the session receives frames itself. */
  receive(frame: Frame): void {
    const core = this.#core;
    if (core.awaitsToken) return void this.#receiveToken(frame);
    // The first frame of a client that moves here establishes the session.
    if (core.state === "connecting" && core.predecessor !== undefined) {
      core.connected();
      if (core.state === "connecting" || core.ending !== undefined) return;
    }
    const { successor } = core;
    core.firstFrames = undefined;
    core.successor = undefined;
    // A frame that begins with a token may hold more envelopes, as the client has received `hello`.
    const [first = "", ...rest] = typeof frame === "string" ? frame.split("\n") : [];
    if (successor === undefined || parseEnvelope(first).kind !== "auth") {
      return core.inbound.receive(frame);
    }
    // `hello` goes out first.
    core.settings.turn.flush();
    core.queue?.flush();
    core.finish({ code: CloseCode.normal, reason: "The peer signed in", by: "remote" });
    const session = successor();
    core.heir = session && new LateToken(session[internals]);
    core.backpressure = core.heir?.backpressure;
    core.heir?.receiveFrame(first);
    if (rest.length > 0) core.heir?.receiveFrame(rest.join("\n"));
  }

  /** Reads the first frame of a peer that MUST send a token before anything else. */
  async #receiveToken(frame: Frame): Promise<void> {
    const core = this.#core;
    if (this.#isChecking) {
      return core.refuse(
        CloseCode.unauthenticated,
        "Nothing may be sent before the token is accepted",
      );
    }
    this.#isChecking = true;
    core.giveUpAfter(core.settings.requestTimeoutMs, "answer to the token");
    if (typeof frame !== "string" || exceedsBytes(frame, this.#maxTokenBytes)) {
      return core.refuse(
        CloseCode.unauthenticated,
        `A token has at most ${this.#maxTokenBytes} bytes of text: see maxTokenBytes of the server`,
      );
    }
    const envelope = parseEnvelope(frame);
    if (envelope.kind !== "auth") {
      return core.refuse(CloseCode.unauthenticated, "Expected a token first");
    }
    try {
      await core.serving?.signIn(envelope.token);
    } catch (error) {
      if (core.state === "closed") return;
      const failure = failureOf(error);
      core.post({ reply: envelope.id, error: failure });
      if (!(error instanceof AuthenticationError)) report(core.settings, error, core.session);
      const status = error instanceof AuthenticationError ? error.status : 503;
      return core.refuse(4000 + status, failure.message);
    }
    if (core.state === "closed") return;
    core.post({ reply: envelope.id });
    core.connected();
  }
}

/**
 * Holds the frames behind a token that the client did not announce. Such a client has received
 * `hello` and does not wait for the answer to the token.
 */
class LateToken implements FrameReceiver {
  readonly #core: SessionCore<Session>;
  #held: Frame[] | undefined;
  #heldBytes = 0;

  constructor(core: SessionCore<Session>) {
    this.#core = core;
  }

  get backpressure(): Backpressure | undefined {
    return this.#core.backpressure;
  }

  receiveFrame(frame: Frame): void {
    const core = this.#core;
    if (this.#held !== undefined) return this.#hold(this.#held, frame);
    if (core.state !== "connecting") return core.receiveFrame(frame);
    this.#held = [];
    core.ready.then(() => this.#release(), () => this.#held = undefined);
    core.receiveFrame(frame);
  }

  framesEnded(): void {
    this.#release();
    this.#core.framesEnded();
  }

  #hold(held: Frame[], frame: Frame): void {
    held.push(frame);
    if (held.length > 1) this.#heldBytes += frame.length;
    if (held.length <= MAX_HELD_FRAMES && this.#heldBytes <= MAX_HELD_BYTES) return;
    this.#core.refuse(CloseCode.queueFull, "Too much came before the token was checked");
  }

  #release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    if (this.#core.state !== "connecting") held.forEach((frame) => this.#core.receiveFrame(frame));
  }
}

/** Codes of failures by the status of an `AuthenticationError`, where they differ. */
const CODES: Readonly<Record<number, string>> = {
  403: "forbidden",
  429: "too-many",
  503: "unavailable",
};

/** Failure as the peer receives it: the text of any other error stays on the server. */
export function failureOf(error: unknown): RequestFailure {
  if (error instanceof RequestError) return error.failure;
  if (error instanceof AuthenticationError) {
    return { code: CODES[error.status] ?? "unauthenticated", message: error.message };
  }
  return { code: "failed", message: "The handler failed" };
}
