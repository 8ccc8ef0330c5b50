/**
 * Faults of a peer: unreadable input, data that does not fit the contract, and too much at once.
 *
 * @module
 */
import { CloseCode, RequestError, type RequestFailure } from "../errors.ts";
import type { SessionCore } from "./core.ts";
import type { Meter } from "./message.ts";
import { tellSkipped } from "./settings/settings.ts";
import type { RequestStreamOptions } from "./types.ts";

/** The session, with the part of the receiving half that counts the peer's messages. */
type MeteredCore = SessionCore & { readonly receiving: { readonly meter: Meter | undefined } };

/** Receives data that does not fit the contract. */
export type InvalidHandler = RequestStreamOptions["onInvalid"];

interface Misfit {
  readonly data: unknown;
  /** Receives the error and the data; by default, `onError` receives the error. */
  readonly onInvalid: InvalidHandler;
}

/** The window in which invalid input and data that does not fit are counted, in milliseconds. */
const WINDOW_MS = 60_000;

/** The window in which rejections are counted, in seconds. */
export const REJECTION_WINDOW_S = 10;

/** Default maximum number of rejections of one session in that window. */
export const MAX_REJECTIONS = 100;

/**
 * The shortest interval between two rejections of messages without an id, in milliseconds. It
 * applies once the peer has sent too much data that does not fit.
 */
const REJECTION_INTERVAL_MS = 1_000;

/** Counts the faults of one peer, and notifies both sides. */
export class Faults {
  /** Number of messages that are malformed, or whose data does not fit the contract. */
  messages = 0;
  /** Number of protocol violations. */
  protocolErrors = 0;
  readonly #core: MeteredCore;
  readonly #malformed = new Window(WINDOW_MS);
  readonly #misfits = new Window(WINDOW_MS);
  readonly #rejections = new Window(REJECTION_WINDOW_S * 1_000);
  #rejectedAt = -Infinity;

  constructor(core: MeteredCore) {
    this.#core = core;
  }

  /**
   * Counts invalid input: an unreadable envelope, a violation of the protocol, or a token that is
   * not accepted. If there is too much invalid input within a minute, the session closes. Input
   * that is valid but too much is rejected by {@linkcode reject}.
   *
   * @param what The expected and the received value.
   */
  countInvalid(what: string): void {
    this.messages++;
    this.note(what);
    const { runtime, maxInvalidMessages } = this.#core.settings;
    const count = this.#malformed.add(runtime.now());
    if (count < maxInvalidMessages) return;
    this.#core.abort(CloseCode.malformed, `${count} invalid messages`);
  }

  /**
   * Counts a rejection because of a rate limit, or because too many requests are waiting. An honest
   * peer may send a burst, so this is no invalid input: after far more rejections, the session
   * closes with a code after which clients reconnect at their usual pace.
   *
   * @param limit The limit, for the reason of the close.
   * @returns True if the session closed.
   */
  reject(limit: string): boolean {
    const { receiving: { meter }, settings: { runtime } } = this.#core;
    const { maxRejections = MAX_REJECTIONS } = meter ?? {};
    if (this.#rejections.add(runtime.now()) <= maxRejections) return false;
    meter?.closed();
    const reason = `More than ${maxRejections} rejections in ${REJECTION_WINDOW_S} s: ${limit}`;
    this.#core.abort(CloseCode.tooMany, reason);
    return true;
  }

  /** Records a protocol violation. */
  note(what: string): void {
    this.protocolErrors++;
    this.#core.emit("protocolerror", what);
  }

  /**
   * Counts data that does not fit the contract, and returns the failure to send. Such data never
   * closes the session. After `maxInvalidMessages` within a minute, a server slows the peer down
   * with `too-many`. A client then stops reporting publications to the server, because many other
   * clients receive them too.
   *
   * @param id The id of the request; `null` for a message without an id.
   * @param failure The reason.
   * @returns The failure for the peer; `undefined` if the peer has been notified often enough.
   */
  misfit(id: number | null, failure: RequestFailure): RequestFailure | undefined {
    this.messages++;
    const { runtime, maxInvalidMessages, side } = this.#core.settings;
    const now = runtime.now();
    const count = this.#misfits.add(now);
    if (count <= maxInvalidMessages) return failure;
    if (id === null) {
      if (side === "client") return undefined;
      if (Math.abs(now - this.#rejectedAt) < REJECTION_INTERVAL_MS) return undefined;
      this.#rejectedAt = now;
    }
    return {
      code: "too-many",
      message: `${count} messages in a minute did not fit the contract: ${failure.message}`,
      retryAfterMs: this.#misfits.restMs(now),
    };
  }

  /**
   * Counts data that is skipped because it does not fit the contract, and notifies the application.
   *
   * @param error The reason.
   * @param of The data, and the function that receives the error and the data.
   * @returns The result of that function, which the loop awaits.
   */
  skip(error: RequestError, of: Misfit): unknown {
    this.messages++;
    return this.tell(error, of);
  }

  /**
   * Waits for the check of a reply that this side received, and counts a reply that does not fit
   * the contract.
   *
   * @throws {RequestError} If the reply does not fit the contract.
   */
  async checked(reply: Promise<unknown>): Promise<unknown> {
    try {
      return await this.#core.inTime("the schema of a reply", reply);
    } catch (error) {
      if (error instanceof RequestError) this.messages++;
      throw error;
    }
  }

  /** Reports a message that is too large for this side to the application. */
  missed(topic: string): void {
    const { session, settings } = this.#core;
    const text =
      `Cannot receive a message on "${topic}": it has more than ${settings.maxMessageBytes} bytes`;
    const advice = "the client skipped it: raise maxMessageBytes, or send less";
    tellSkipped(settings, new RequestError("too-large", text), { session, advice });
  }

  /** Reports data that does not fit the contract to the application, as `skip` does. */
  tell(error: RequestError, { data, onInvalid }: Misfit): unknown {
    const { settings, session } = this.#core;
    if (onInvalid !== undefined) return onInvalid(error, data);
    return tellSkipped(settings, error, { session });
  }
}

class Window {
  readonly #lengthMs: number;
  #since = -Infinity;
  #count = 0;

  constructor(lengthMs: number) {
    this.#lengthMs = lengthMs;
  }

  /** Counts an event, and returns the number of events in the current window. */
  add(now: number): number {
    // A clock that was set back also starts a new window.
    if (Math.abs(now - this.#since) > this.#lengthMs) {
      this.#since = now;
      this.#count = 0;
    }
    return ++this.#count;
  }

  /** Time until the current window ends, in milliseconds. */
  restMs(now: number): number {
    return Math.ceil(this.#since + this.#lengthMs - now) || 1;
  }
}
