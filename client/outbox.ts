/**
 * What a client says while it is not connected.
 *
 * @module
 */
import { QueueFullError, SkeinError } from "../errors.ts";
import { Changing } from "../session/base/signal.ts";
import type { SessionCore } from "../session/core.ts";
import type { EncodedMessage } from "../session/wire/encode.ts";
import { checkLimits } from "../session/base/limits.ts";
import { lasting } from "./chunks.ts";
import { internals, type Session } from "../session/session.ts";
import { report } from "../session/report.ts";

const LIMITS = { maxMessages: 100, maxBytes: 262_144 };

/** Bounds of an outbox. */
export interface OutboxOptions {
  /**
   * Most messages that wait for a connection, or to be acknowledged.
   *
   * @default {100}
   */
  readonly maxMessages?: number;
  /**
   * Most bytes that wait.
   *
   * @default {262144}
   */
  readonly maxBytes?: number;
}

/** What waits in an outbox. */
export interface OutboxState {
  /** Messages that wait for a connection, or to be acknowledged. */
  readonly messages: number;
  /** Their bytes. */
  readonly bytes: number;
}

/** How a message in an outbox is to be published. */
export interface OutboxPublication {
  /** Settled by the answer of the server. */
  readonly answer: PromiseWithResolvers<void>;
  /** False if this client does not get the publication. */
  readonly echo: boolean;
}

/** A message in an outbox. */
export interface OutboxEntry extends EncodedMessage {
  /** Its number, from 1. */
  readonly seq: number;
  /** There if it is to be published. */
  readonly publication: OutboxPublication | undefined;
}

/**
 * Messages that wait for a connection, in order, bounded. It changes with what waits; if it is
 * kept, messages wait until they are acknowledged.
 */
export class Outbox extends Changing {
  /** Whether messages stay until they are acknowledged. */
  readonly isKept: boolean;
  /** Why what waits is not acknowledged. */
  error: unknown;
  readonly #limits: Required<OutboxOptions>;
  /** What waits, in order. */
  readonly waiting: OutboxEntry[] = [];
  /** The number of the newest one. */
  last = 0;
  /** The session that gets what waits. */
  session: Session | undefined;
  #bytes = 0;
  #delivery: { handTo(session: Session): Promise<void> } | undefined;

  /**
   * Creates an empty outbox.
   *
   * @param options See {@linkcode OutboxOptions}.
   * @param isKept Whether messages stay until they are acknowledged.
   * @throws {RangeError} If a bound is not a positive integer.
   */
  constructor(options: OutboxOptions = {}, isKept: boolean = false) {
    super();
    this.#limits = checkLimits(LIMITS, options, { of: "outbox: " });
    this.isKept = isKept;
  }

  /** What waits. */
  get state(): OutboxState {
    return { messages: this.waiting.length, bytes: this.#bytes };
  }

  /**
   * Keeps a message.
   *
   * @param message The message, encoded.
   * @param publication There if it is to be published.
   * @throws {QueueFullError} If there is no room for it.
   */
  add(message: EncodedMessage, publication?: OutboxPublication): void {
    const { maxMessages, maxBytes } = this.#limits;
    if (
      this.waiting.length >= maxMessages || this.#bytes + message.size > maxBytes
    ) {
      throw new QueueFullError(
        `Cannot send: the outbox is full (${this.waiting.length} messages, ${this.#bytes} bytes)`,
      );
    }
    this.waiting.push({ ...message, seq: ++this.last, publication });
    this.#bytes += message.size;
    this.notify();
  }

  /** Whether a session is to get what waits. */
  isFor(session: Session): boolean {
    return this.session === session && session.isReady;
  }

  /** The message that waits longest. */
  get first(): OutboxEntry | undefined {
    return this.waiting[0];
  }

  /** Lets go of a message, the first by default. */
  shift(index = 0): void {
    this.#bytes -= this.waiting.splice(index, 1)[0]?.size ?? 0;
    this.notify();
  }

  /** Nothing is sent any more. */
  end(error: unknown): void {
    this.error ??= error;
    for (const { publication } of this.waiting) publication?.answer.reject(error);
    this.notify();
  }

  /**
   * Hands over what waits, in order, and no faster than the session sends it.
   * What a session that closes did not take waits for the next one; what is
   * larger than its server takes is dropped, and told as the server's own refusals are.
   *
   * @param session A session that was established.
   * @returns Resolves once nothing waits, or the session closed.
   */
  async handTo(session: Session): Promise<void> {
    const core = session[internals];
    this.session = session;
    this.notify();
    try {
      if (this.isKept) {
        this.#delivery ??= new (await lasting()).Delivery(this);
        return await this.#delivery.handTo(session);
      }
      for (let first; this.isFor(session) && (first = this.first) !== undefined;) {
        if (isTooLarge(core, first)) this.shift();
        else if (isBehind(core, first)) await session.flushed();
        else {
          core.push(first, false);
          this.shift();
        }
      }
    } catch (error) {
      // A session that closed over it tells by its end.
      if (!(error instanceof SkeinError)) report(core.settings, error, session);
    }
  }
}

/** Whether a session has to send others first: half of its send queue is for what else is sent, but one message always goes. */
export function isBehind({ queue, settings }: SessionCore, { size }: EncodedMessage): boolean {
  const { queuedMessages, queuedBytes } = queue!.stats;
  const { maxMessages, maxBytes } = settings.sendQueue;
  if (queuedMessages === 0) return !queue!.isFlushed;
  return queuedMessages * 2 >= maxMessages || (queuedBytes + size) * 2 > maxBytes;
}

/** Whether a server does not take a message, which is told. */
export function isTooLarge(core: SessionCore, { size, topic }: EncodedMessage): boolean {
  const { maxSendBytes: max } = core;
  if (size <= max) return false;
  const message =
    `Cannot send "${topic}": a message must have at most ${max} bytes, received ${size}`;
  core.controls.refused({ code: "too-large", message });
  return true;
}
