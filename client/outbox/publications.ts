/** The publications of a client, from the call to the server's reply. */
import { isForSize } from "../../transport/close_info.ts";
import { RequestError, SessionClosedError } from "../../errors.ts";
import type { Inside } from "../../session/receiving.ts";
import { type EncodedMessage, oversize } from "../../session/wire/encode.ts";
import { internals, type Session } from "../../session/session.ts";
import type { ClientPublishOptions } from "../client_options.ts";
import { extended, isCrowded, type Outbox } from "./outbox.ts";
import { boundRetryAfter } from "../../base/backoff.ts";
import { pause, waitFor } from "../../base/wait.ts";

/**
 * The longest pause after a rejection by a rate limit, in milliseconds. It equals the time that a
 * server has to reply. If the server asks for a longer pause, the caller receives the rejection.
 */
const MAX_PAUSE_MS = 30_000;

/**
 * The maximum number of unanswered publications. A server handles as many at the same time, and
 * lets at least twice as many wait.
 */
export const MAX_AT_ONCE = 32;

/**
 * How long after its first attempt a publication is sent again, in milliseconds. Brokers recognize
 * a repetition for two minutes after they have stored it, and a server may take 30 s before.
 */
export const MAX_REPEAT_MS = 90_000;

interface PendingPublication extends EncodedMessage {
  /** The number of the call, starting at 1. */
  readonly number: number;
  readonly options: ClientPublishOptions;
  readonly reply: PromiseWithResolvers<void>;
  /** The session that last accepted it; `undefined` if it has to be sent. */
  session: Session | undefined;
  /** The number of sessions that may still bring the reply. */
  requests: number;
  /** The time of the first attempt; `undefined` before it. */
  sentAt: number | undefined;
  /** True if the next session may send it again. */
  mayRepeat: boolean;
  /** The end of the last session that brought no reply. */
  lost?: SessionClosedError;
  /** True if a session rejected it, so that only an earlier attempt can succeed. */
  isRejected?: boolean;
}

/**
 * The publications of a client, in the order of the calls. Each stays in the outbox until the
 * server has replied.
 *
 * - **Session lost:** the next session sends the unanswered publications again, with the same
 *   numbers, before any later one. A server recognizes the repetitions on topics with a history,
 *   and with `at-least-once` on all topics. Otherwise, it does not publish a repetition, and the
 *   caller receives the error of the lost session.
 * - **Rate limit:** if a rate limit rejects a publication, this publication and all later ones wait
 *   as long as the server says, but at most an hour. The server also rejects the publications that
 *   were sent after the rejected one, so none can overtake it.
 */
export class OutboxPublications {
  readonly #outbox: Outbox;
  readonly #signal: AbortSignal;
  readonly #mustWait: (topic: string) => boolean;
  readonly #pending = new Map<number, PendingPublication>();
  /** The number of the newest publication. */
  last = 0;
  /**
   * The length of the current pause, or of the next one, which starts after the last pending reply
   * has arrived. It is 0 if there is no pause.
   */
  #pauseMs = 0;

  /**
   * @param outbox The client's outbox, whose limits include the publications.
   * @param signal Ends each pause when the client closes.
   * @param mustWait Returns whether the publications on a topic must wait.
   */
  constructor(outbox: Outbox, signal: AbortSignal, mustWait: (topic: string) => boolean) {
    this.#outbox = outbox;
    this.#signal = signal;
    this.#mustWait = mustWait;
  }

  /**
   * Publishes in this session or in a later one.
   *
   * @param options The caller's signal and time limit, which end the wait, and the delivery.
   * @returns Resolves once the server has published the message.
   * @throws {QueueFullError} If the outbox is full.
   */
  publish(message: EncodedMessage, options: ClientPublishOptions): Promise<void> {
    this.#outbox.reserve(message.size, "publish");
    const publication: PendingPublication = {
      ...message,
      options,
      number: ++this.last,
      reply: Promise.withResolvers(),
      session: undefined,
      requests: 0,
      sentAt: undefined,
      mayRepeat: true,
    };
    this.#pending.set(publication.number, publication);
    this.#outbox.notify();
    const { signal, timeoutMs } = options;
    const what = `confirmation of the publication on "${message.topic}"`;
    const { runtime } = this.#outbox;
    return waitFor(runtime, publication.reply.promise, { signal, timeoutMs, what }).finally(() => {
      // Nothing is sent after the caller stopped waiting, unless it must arrive.
      if (publication.sentAt === undefined || options.delivery !== "at-least-once") {
        this.#drop(publication);
      }
    });
  }

  /** True if the publications up to a number have replies. */
  isSettled(number: number): boolean {
    for (const first of this.#pending.keys()) return first > number;
    return true;
  }

  /** Ends all publications together with the client. */
  end(error: SessionClosedError): void {
    for (const { reply } of this.#pending.values()) reply.reject(error);
  }

  /** Sends waiting and future publications in a session. Resolves when the session has ended. */
  async sendIn(session: Session): Promise<void> {
    const outbox = this.#outbox;
    const core = session[internals];
    const sent = new Set<PendingPublication>();
    outbox.publishing = 0;
    void session.closed.then(() => outbox.notify());
    while (outbox.isFor(session)) {
      const isFull = sent.size >= (outbox.isSearching ? 1 : MAX_AT_ONCE);
      const next = isFull ? undefined : this.#next(session);
      if (next === undefined || this.#pauseMs > 0 && sent.size > 0) {
        await outbox.changed();
      } else if (this.#pauseMs > 0) {
        await pause(outbox.runtime, this.#pauseMs, this.#signal);
        this.#pauseMs = 0;
      } else if (isCrowded(core, next)) await session.flushed();
      else this.#send(core, next, sent);
    }
  }

  /**
   * Returns the next publication to send in a session. It keeps the order on each topic: an earlier
   * publication blocks its topic while it waits, or while another open session may still make it.
   */
  #next(session: Session): PendingPublication | undefined {
    // Messages are judged first.
    if (this.#outbox.isSearching && this.#outbox.first) return undefined;
    /** The delivery whose repetitions may pass on each blocked topic; `"none"` if none may. */
    const blocked = new Map<string, string>();
    for (const publication of this.#pending.values()) {
      const { requests, isRejected, mayRepeat, options: { delivery = "usual" }, topic } =
        publication;
      const isHere = publication.session === session;
      // An earlier session that is still open may bring the reply.
      const isDue = !isHere && (mayRepeat || requests === 0);
      const passing = blocked.get(topic);
      // Servers recognize repetitions, also if the earlier session is faster than this one.
      const isFree = passing === undefined || requests > 0 && passing === delivery;
      if (isDue && isFree && !this.#mustWait(topic)) return publication;
      const isElsewhere = requests > (isHere && !isRejected ? 1 : 0);
      if (!isDue && !isElsewhere) continue;
      const may = isDue || isRejected || !mayRepeat ? "none" : delivery;
      blocked.set(topic, passing === undefined || passing === may ? may : "none");
    }
    return undefined;
  }

  #send(core: Inside, publication: PendingPublication, sent: Set<PendingPublication>): void {
    const { sending, session } = core as Inside<Session>;
    const outbox = this.#outbox;
    const { runtime } = outbox;
    const { topic, options: { delivery, except, signal, timeoutMs } } = publication;
    const isOnce = delivery === "at-least-once";
    publication.mayRepeat = isOnce ||
      delivery === undefined && sending.features?.includes("history") === true;
    const { requests, lost, mayRepeat } = publication;
    const sentAt = publication.sentAt ??= runtime.now();
    // A clock that was set back doesn't tell the time since then.
    const isLate = Math.abs(runtime.now() - sentAt) > MAX_REPEAT_MS;
    if (lost && !isOnce && (!mayRepeat || isLate)) return this.#reject(publication, lost);
    const isNamed = core.joins && (mayRepeat || except !== undefined);
    const keys = {
      ...(except && { echo: false }),
      ...(mayRepeat && { n: publication.number }),
      ...(mayRepeat && (lost || requests > 0) && { again: true }),
      ...(isOnce && { once: true }),
      ...(isNamed && !sending.isIntroduced && { client: core.settings.client }),
    };
    const encode = (id: number) => {
      const message = extended(publication, { ...keys, id }, "publish");
      const { maxSendBytes: max } = sending;
      if (message.size > max) {
        throw new RequestError("too-large", oversize(`publish "${topic}"`, message, max));
      }
      if (isNamed) sending.isIntroduced = true;
      return message;
    };
    publication.session = session;
    publication.requests++;
    sent.add(publication);
    outbox.publishing = sent.size;
    sending.ask(`confirmation of the publication on "${topic}"`, encode, {
      ...(isOnce ? { timeoutMs: Infinity } : { timeoutMs, signal }),
      onReply: () => {
        publication.reply.resolve();
        this.#drop(publication);
      },
    }).catch((error) => this.#failed(publication, error, session)).finally(() => {
      sent.delete(publication);
      if (outbox.session === session && session.isReady) outbox.publishing = sent.size;
      outbox.notify();
    });
  }

  #failed(publication: PendingPublication, error: unknown, session: Session): void {
    publication.requests--;
    const isLatest = publication.session === session;
    if (error instanceof SessionClosedError) {
      publication.lost = error;
      if (isForSize(error.info)) this.#closedForSize(publication);
      if (!publication.mayRepeat || publication.isRejected) this.#giveUp(publication, error);
      else if (isLatest) publication.session = undefined;
      return;
    }
    const { code, level, retryAfterMs } = (error as Partial<RequestError>).failure ?? {};
    const isOnce = publication.options.delivery === "at-least-once";
    const isRate = code === "too-many" && level;
    if (!isRate || !retryAfterMs || !isOnce && retryAfterMs > MAX_PAUSE_MS) {
      publication.isRejected = true;
      // A failed repetition says nothing about the attempt whose reply was lost.
      const isOpen = code === "unanswered" || code === "unavailable" || code === "failed";
      return this.#giveUp(publication, isOpen && publication.lost || error);
    }
    this.#pauseMs = Math.max(this.#pauseMs, boundRetryAfter(retryAfterMs));
    if (isLatest) publication.session = undefined;
  }

  #closedForSize(publication: PendingPublication): void {
    const outbox = this.#outbox;
    const isAlone = outbox.publishing === 1 && outbox.first === undefined;
    const failure = outbox.closedForSize(isAlone ? publication : undefined, "publish");
    if (failure) this.#reject(publication, new RequestError(failure.code, failure.message));
  }

  /** Rejects a publication if no session can bring its reply any more. */
  #giveUp(publication: PendingPublication, error: unknown): void {
    if (publication.requests === 0) this.#reject(publication, error);
  }

  #reject(publication: PendingPublication, error: unknown): void {
    publication.reply.reject(error);
    this.#drop(publication);
  }

  #drop(publication: PendingPublication): void {
    if (!this.#pending.delete(publication.number)) return;
    this.#outbox.release(publication.size);
  }
}
