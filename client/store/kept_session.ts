/** Sends what a client keeps, in one session. */
import { RequestError, SessionClosedError, SkeinError } from "../../errors.ts";
import { Backoff, boundRetryAfter } from "../../base/backoff.ts";
import { pause } from "../../base/wait.ts";
import { isForSize } from "../../transport/close_info.ts";
import { extended, isBehind, isTooLarge, type Outbox } from "../outbox/outbox.ts";
import type { Inside } from "../../session/receiving.ts";
import { framed } from "../../session/wire/encode.ts";
import { isPostponed } from "../../session/wire/producer.ts";
import { internals, type Session } from "../../session/session.ts";
import type { KeptItem, Producer } from "./kept_items.ts";
import { type KeptOutbox, nameOf } from "./kept_outbox.ts";

/** Maximum number of unacknowledged messages, see `Delivery`. */
const MAX_IN_FLIGHT = 1_024;

/** Maximum number of unacknowledged bytes. A single item may exceed it. */
const MAX_BYTES_IN_FLIGHT = 524_288;

/** Maximum number of publications and requests without a reply. */
const MAX_ASKED = 32;

/** The pauses before a producer is introduced again, in milliseconds. */
const PAUSES = { firstDelayMs: 500, maxDelayMs: 30_000 };

/** The parts of a client that {@linkcode KeptSession} uses. */
export interface KeptSessionParts {
  readonly kept: KeptOutbox;
  readonly outbox: Outbox;
  /** The user to whom everything belongs that is kept. */
  readonly user: string | null;
  /** Tells if publications on a topic must wait. */
  readonly mustWait: (topic: string) => boolean;
}

/** The sending of kept items in one session: one producer after another. */
export class KeptSession {
  readonly #session: Session;
  readonly #core: Inside;
  readonly #parts: KeptSessionParts;
  readonly #gone = new AbortController();
  readonly #backoff: Backoff;
  /** The producer that the server has been told last; `undefined` if it has to be told again. */
  #current: Producer | undefined;
  /** The newest number of that producer that this session has accepted. */
  #last = 0;
  /** The items that this session has accepted and that aren't settled. */
  readonly #inFlight = new Set<KeptItem>();
  #bytes = 0;
  /** Number of publications and requests among them. */
  #asked = 0;
  /** Time to wait before the producer is introduced again, in milliseconds. */
  #pauseMs: number | undefined;

  constructor(session: Session, parts: KeptSessionParts) {
    this.#session = session;
    this.#core = session[internals] as Inside;
    this.#parts = parts;
    this.#backoff = new Backoff(this.#core.settings.runtime, PAUSES);
    this.#core.whenEnded(() => this.#gone.abort());
  }

  /** Number of items that the session has accepted and that aren't settled. */
  get unsettled(): number {
    return this.#inFlight.size;
  }

  /**
   * Introduces the first producer, so that the server checks the user.
   *
   * @throws {RequestError} With the code `other-user`.
   * @throws {SessionClosedError} If the session closes first.
   */
  async begin(): Promise<void> {
    const { kept } = this.#parts;
    await kept.opened;
    while (this.#current === undefined) await this.#introduce(kept.due ?? kept.own);
  }

  /** Sends waiting and future items. Resolves when the session has ended. */
  async run(): Promise<void> {
    const { outbox, kept } = this.#parts;
    await kept.opened;
    this.#core.sending.onAck = (n) => this.#acked(n);
    void this.#session.closed.then((info) => {
      if (outbox.session === this.#session && isForSize(info)) this.#closedForSize();
      outbox.notify();
    });
    while (outbox.isFor(this.#session)) await this.#step();
  }

  /** Sends one item, or waits until that is possible. */
  async #step(): Promise<void> {
    const { outbox, kept } = this.#parts;
    const producer = kept.due;
    const isIdle = this.#inFlight.size === 0;
    if (this.#pauseMs !== undefined) return isIdle ? await this.#pause() : await outbox.changed();
    if (producer === undefined) return await outbox.changed();
    if (producer !== this.#current) {
      return isIdle ? await this.#introduce(producer) : await outbox.changed();
    }
    const item = producer.items[producer.indexAfter(this.#last)];
    if (item === undefined || this.#mustWait(item)) return await outbox.changed();
    if (isBehind(this.#core, item)) return await this.#session.flushed();
    if (item.seq > producer.sent) return await kept.mark(producer, item);
    this.#send(producer, item);
  }

  #mustWait(item: KeptItem): boolean {
    const { outbox, mustWait } = this.#parts;
    const inFlight = this.#inFlight.size;
    if (item.kind === "publication" && mustWait(item.topic)) return true;
    if (inFlight === 0) return false;
    return outbox.isSearching || inFlight >= MAX_IN_FLIGHT || this.#asked >= MAX_ASKED ||
      this.#bytes + item.size > MAX_BYTES_IN_FLIGHT;
  }

  #send(producer: Producer, item: KeptItem): void {
    this.#last = item.seq;
    this.#inFlight.add(item);
    this.#bytes += item.size;
    item.isSent = true;
    if (item.kind === "message") this.#sendMessage(producer, item);
    else this.#ask(producer, item);
    this.#core.receiving.liveness?.began();
  }

  #sendMessage(producer: Producer, item: KeptItem): void {
    const { kept } = this.#parts;
    const message = extended(item, { seq: item.seq });
    if (!isTooLarge(this.#core, message)) return this.#core.sending.push(message, true);
    this.#settled(item);
    kept.replied(producer, item, undefined); // `isTooLarge` has reported it.
  }

  #ask(producer: Producer, item: KeptItem): void {
    const { kept } = this.#parts;
    const { sending } = this.#core;
    this.#asked++;
    const encode = (id: number) => {
      const quiet = item.isQuiet ? { echo: false, ...sending.introduce() } : {};
      const kind = item.kind === "publication" ? "publish" : "topic";
      const message = extended(item, { ...quiet, id, seq: item.seq }, kind);
      if (message.size <= sending.maxSendBytes) return message;
      const text = `${message.size} bytes are more than the server accepts`;
      throw new RequestError("too-large", `Cannot send ${nameOf(item)}: ${text}`);
    };
    sending.ask(`reply to ${nameOf(item)}`, encode, {
      timeoutMs: Infinity,
      onReply: (data) => kept.replied(producer, item, data),
    }).catch((error) => this.#failed(producer, item, error)).finally(() => {
      this.#asked--;
      this.#settled(item);
    });
  }

  #failed(producer: Producer, item: KeptItem, error: unknown): void {
    const { kept, outbox } = this.#parts;
    // The next session sends it again. A late failure of an earlier session doesn't count.
    if (error instanceof SessionClosedError || outbox.session !== this.#session) return;
    if (!(error instanceof RequestError)) {
      // The send queue is full, which closes the session.
      if (!(error instanceof SkeinError)) kept.failed(producer, item, error);
      return;
    }
    const { failure } = error;
    if (isPostponed(failure)) this.#giveBack(failure.retryAfterMs);
    else if (failure.code === "fenced") this.#fenced(producer);
    else kept.failed(producer, item, error);
  }

  /** The server handles nothing until the producer is introduced again. */
  #giveBack(retryAfterMs = 0): void {
    this.#pauseMs = Math.max(this.#pauseMs ?? 0, boundRetryAfter(retryAfterMs));
    this.#current = undefined;
    // Messages, which have no reply, are not handled either.
    for (const item of this.#inFlight) if (item.kind === "message") this.#settled(item);
  }

  /** Another client sends what the producer has. */
  #fenced(producer: Producer): void {
    if (this.#current === producer) this.#current = undefined;
    for (const item of this.#inFlight) if (item.kind === "message") this.#settled(item);
    this.#parts.kept.fenced(producer);
  }

  async #pause(): Promise<void> {
    const pauseMs = Math.max(this.#pauseMs ?? 0, this.#backoff.next() ?? PAUSES.maxDelayMs);
    await pause(this.#core.settings.runtime, pauseMs, this.#gone.signal).catch(() => {});
    this.#pauseMs = undefined;
  }

  /** Names the producer of the following numbers, and learns which ones the server has handled. */
  async #introduce(producer: Producer): Promise<void> {
    const { kept, user } = this.#parts;
    kept.expire(producer);
    const { name, acked, sent, epoch } = producer;
    try {
      const reply = await this.#core.sending.ask(
        "the introduction of the outbox",
        (id) => framed(JSON.stringify({ producer: name, id, user, acked, sent, epoch }), ""),
        { timeoutMs: Infinity, onReply() {} },
      );
      const { handled } = Object(reply);
      this.#current = producer;
      this.#last = 0;
      this.#backoff.reset();
      if (Number.isInteger(handled)) kept.handled(producer, handled);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      const { code, retryAfterMs } = error.failure;
      if (code === "other-user") throw error;
      if (code === "forgotten") return kept.forgotten(producer);
      if (code === "fenced") return this.#fenced(producer);
      this.#giveBack(retryAfterMs);
      await this.#pause();
    }
  }

  #acked(n: number): void {
    const producer = this.#current;
    if (producer === undefined) return;
    for (const item of this.#inFlight) {
      if (item.kind === "message" && item.seq <= n) this.#settled(item);
    }
    this.#parts.kept.handled(producer, Math.min(n, this.#last));
  }

  #settled(item: KeptItem): void {
    if (!this.#inFlight.delete(item)) return;
    this.#bytes -= item.size;
    this.#parts.outbox.notify();
  }

  #closedForSize(): void {
    const { outbox, kept } = this.#parts;
    const [item] = this.#inFlight;
    const producer = this.#current;
    const isAlone = this.#inFlight.size === 1 && outbox.publishing === 0;
    const verb = item?.kind === "publication" ? "publish" : "send";
    const failure = outbox.closedForSize(isAlone ? item : undefined, verb);
    if (failure === undefined || item === undefined || producer === undefined) return;
    kept.failed(producer, item, new RequestError(failure.code, failure.message));
  }
}
