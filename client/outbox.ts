/**
 * Holds a client's messages that are waiting for a connection, and publications that a rate limit
 * holds back.
 */
import { checkLimits } from "../base/options.ts";
import { QueueFullError, RequestError, type SessionClosedError, SkeinError } from "../errors.ts";
import { Signal } from "../base/signal.ts";
import type { Inside } from "../session/receiving.ts";
import type { EncodedMessage } from "../session/wire/encode.ts";
import type { Runtime } from "../base/runtime.ts";
import { internals, type Session } from "../session/session.ts";
import { report } from "../session/settings.ts";
import { pause } from "../base/wait.ts";

/** The default limits of an outbox. */
export const LIMITS = { maxMessages: 100, maxBytes: 262_144 };

/**
 * The longest pause after a rejection by a rate limit, in milliseconds. It equals the time that a
 * server has to reply. If the server asks for a longer pause, the caller receives the rejection.
 */
const MAX_PAUSE_MS = 30_000;

/**
 * The pause before a rejected publication is sent again if the session has too many pending
 * requests after the first pause, in milliseconds.
 */
const FULL_PAUSE_MS = 100;

/** The publication that belongs to a message in the outbox. */
export interface OutboxPublication {
  /** Settles with the server's reply. */
  readonly answer: PromiseWithResolvers<void>;
  /** False if this client does not receive the publication itself. */
  readonly echo: boolean;
}

export interface OutboxEntry extends EncodedMessage {
  /** The number of the message, starting at 1. */
  readonly seq: number;
  /** Present if the message is a publication. */
  readonly publication: OutboxPublication | undefined;
  /** True once a session accepted the message, so that the server may have received it. */
  isHanded?: boolean | undefined;
}

/**
 * A bounded queue of messages that are waiting for a connection. The outbox notifies waiters of
 * each change. If `isKept` is true, each message stays until the server acknowledges it.
 */
export class Outbox extends Signal {
  /** True if messages stay until they are acknowledged. */
  declare readonly isKept: boolean;
  /** Set once the outbox has ended together with the client. */
  declare error: SessionClosedError | undefined;
  declare readonly runtime: Runtime;
  readonly #limits: Readonly<typeof LIMITS>;
  readonly waiting: OutboxEntry[] = [];
  /** The number of the newest message. */
  last = 0;
  /** The session that receives the waiting messages. */
  declare session: Session | undefined;
  #bytes = 0;
  readonly #deliver: ((session: Session) => Promise<void>) | undefined;

  /**
   * @param runtime The client's timers.
   * @param limits The maximum number of messages and bytes; see `outbox` of `ClientOptions`.
   * @param deliver Delivers messages at least once. Without it, messages leave the outbox once a
   *   session has accepted them.
   * @throws {RangeError} If a limit is not a positive integer.
   */
  constructor(
    runtime: Runtime,
    limits: Partial<typeof LIMITS> = {},
    deliver?: (session: Session) => Promise<void>,
  ) {
    super();
    this.runtime = runtime;
    this.#limits = checkLimits(LIMITS, limits, { of: "outbox: " });
    this.#deliver = deliver;
    this.isKept = deliver !== undefined;
  }

  get state(): { readonly messages: number; readonly bytes: number } {
    return { messages: this.waiting.length, bytes: this.#bytes };
  }

  /**
   * Adds a message.
   *
   * @param message The encoded message.
   * @param publication Present if the message is a publication.
   * @returns The message in the outbox.
   * @throws {QueueFullError} If the outbox is full.
   */
  add(message: EncodedMessage, publication?: OutboxPublication): OutboxEntry {
    const { maxMessages, maxBytes } = this.#limits;
    if (
      this.waiting.length >= maxMessages || this.#bytes + message.size > maxBytes
    ) {
      throw new QueueFullError(
        `Cannot send: the outbox is full (${this.waiting.length} messages, ${this.#bytes} bytes)`,
      );
    }
    const entry = { ...message, seq: ++this.last, publication };
    this.waiting.push(entry);
    this.#bytes += message.size;
    this.notify();
    return entry;
  }

  /** Withdraws a message that no session has accepted yet. */
  withdraw(entry: OutboxEntry): void {
    const index = entry.isHanded ? -1 : this.waiting.indexOf(entry);
    if (index >= 0) this.shift(index);
  }

  /** True if a session is ready and is still the one that receives the waiting messages. */
  isFor(session: Session): boolean {
    return this.session === session && session.isReady;
  }

  get first(): OutboxEntry | undefined {
    return this.waiting[0];
  }

  /** Removes a message. The default is the first one. */
  shift(index = 0): void {
    this.#bytes -= this.waiting.splice(index, 1)[0]?.size ?? 0;
    this.notify();
  }

  /** Ends the outbox. No further messages are sent, and waiting publications fail. */
  end(error: SessionClosedError): void {
    this.error = error;
    for (const { publication } of this.waiting) publication?.answer.reject(error);
    this.notify();
  }

  /**
   * Sends the waiting messages in a session, in order, and no faster than the session can send
   * them. Messages that a closing session did not accept wait for the next session. A message
   * larger than the server's limit is dropped and reported like a rejection by the server.
   *
   * @param session An established session.
   * @returns Resolves when no messages are waiting, or when the session has closed.
   */
  async handTo(session: Session): Promise<void> {
    const core = session[internals];
    this.session = session;
    this.notify();
    try {
      if (this.#deliver) return await this.#deliver(session);
      for (let first; this.isFor(session) && (first = this.first) !== undefined;) {
        if (isTooLarge(core, first)) this.shift();
        else if (isBehind(core, first)) await session.flushed();
        else {
          core.sending.push(first, false);
          this.shift();
        }
      }
    } catch (error) {
      // A `SkeinError` means that the session ended, which is reported elsewhere.
      if (!(error instanceof SkeinError)) report(core.settings, error, session);
    }
  }
}

/**
 * The publications of a client that does not number them, in the order of the calls. If a rate
 * limit rejects a publication, this publication and all later ones wait as long as the server says,
 * and are then sent in order. The server also rejects the publications that were sent after the
 * rejected one, so none can overtake it.
 */
export class Publications {
  readonly #runtime: Runtime;
  readonly #max: number;
  readonly #signal: AbortSignal;
  /** The functions that send the waiting publications, by call number. There are at most `max`. */
  readonly #waiting = new Map<number, () => void>();
  #last = 0;
  #unanswered = 0;
  /**
   * The length of the current pause, or of the next one, which starts after the last pending reply
   * has arrived. It is 0 if there is no pause.
   */
  #pauseMs = 0;

  /**
   * @param runtime The client's timers.
   * @param max The maximum number of publications that wait for a reply or for the end of a pause.
   * @param signal Ends each pause when the client closes.
   */
  constructor(runtime: Runtime, max: number, signal: AbortSignal) {
    this.#runtime = runtime;
    this.#max = max;
    this.#signal = signal;
  }

  /**
   * Publishes now or after a pause.
   *
   * @param send Sends the publication to the server and waits for the reply.
   * @param limited The caller's signal or time limit, which ends the wait.
   * @returns Resolves once the server has published the message.
   * @throws {QueueFullError} If too many publications are waiting.
   */
  publish(
    send: () => Promise<void>,
    limited: (answer: Promise<void>) => Promise<void>,
  ): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const number = ++this.#last;
    let isRefused = false;
    let isOver = false;
    const go = () => {
      this.#unanswered++;
      send().then(resolve, (error) => {
        const waitMs = error instanceof RequestError
          ? error.failure.level && error.failure.retryAfterMs
          : isRefused && error instanceof QueueFullError && FULL_PAUSE_MS;
        if (!waitMs || waitMs > MAX_PAUSE_MS) return reject(error);
        isRefused = true;
        this.#pauseMs = Math.max(this.#pauseMs, waitMs);
        if (!isOver) this.#waiting.set(number, go);
      }).finally(() => {
        if (--this.#unanswered === 0 && this.#pauseMs > 0) void this.#resume();
      });
    };
    if (this.#pauseMs === 0) go();
    else if (this.#waiting.size + this.#unanswered < this.#max) this.#waiting.set(number, go);
    else reject(new QueueFullError(`Cannot publish: ${this.#max} publications are waiting`));
    return limited(promise).finally(() => {
      isOver = true;
      this.#waiting.delete(number);
    });
  }

  async #resume(): Promise<void> {
    await pause(this.#runtime, this.#pauseMs, this.#signal);
    this.#pauseMs = 0;
    const waiting = [...this.#waiting].sort(([a], [b]) => a - b);
    this.#waiting.clear();
    for (const [, go] of waiting) go();
  }
}

/**
 * Returns whether the outbox must wait until a session has sent more of its queue. Half of the send
 * queue stays free for other messages, but an empty queue always accepts one message.
 */
export function isBehind({ queue, settings }: Inside, { size }: EncodedMessage): boolean {
  const { queuedMessages, queuedBytes } = queue!.stats;
  const { maxMessages, maxBytes } = settings.sendQueue;
  if (queuedMessages === 0) return !queue!.isFlushed;
  return queuedMessages * 2 >= maxMessages || (queuedBytes + size) * 2 > maxBytes;
}

/**
 * Returns whether a message is above the server's size limit. If so, reports this as a rejection.
 */
export function isTooLarge(core: Inside, { size, topic }: EncodedMessage): boolean {
  const { maxSendBytes: max } = core.sending;
  if (size <= max) return false;
  const message =
    `Cannot send "${topic}": a message must have at most ${max} bytes, received ${size}`;
  core.sending.refusedByPeer({ code: "too-large", message });
  return true;
}
