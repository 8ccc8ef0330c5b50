/** Outbox of a client: messages that wait for a connection, and their delivery at least once. */
import {
  QueueFullError,
  RequestError,
  SessionClosedError,
  SkeinError,
  UnsupportedError,
} from "../errors.ts";
import type { Frame } from "../transport/connection.ts";
import { Changing } from "../base/signal.ts";
import type { SessionCore } from "../session/core.ts";
import { decodeBinary, encodeBinary, type EncodedMessage, framed } from "../session/wire/encode.ts";
import { checkLimits } from "../base/options.ts";
import type { Runtime } from "../base/runtime.ts";
import { waitFor } from "../base/wait.ts";
import type { WaitOptions } from "../session/types.ts";
import { internals, type Session } from "../session/session.ts";
import { report } from "../session/settings.ts";

const LIMITS = { maxMessages: 100, maxBytes: 262_144 };

/**
 * Most unacknowledged messages at once: well below the number that may wait for a server's handler.
 */
const MAX_ON_THE_WAY = 1024;

/** Most unacknowledged bytes at once, for the same reason; one message is always allowed. */
const MAX_BYTES_ON_THE_WAY = 524_288;

/**
 * Most unanswered publications at once. Each publication is a request, and a server lets 64
 * requests wait by default, other requests of the client included.
 */
const MAX_PUBLICATIONS_ON_THE_WAY = 32;

/** Limits of an outbox. */
export interface OutboxOptions {
  /**
   * Most messages that wait for a connection or for an acknowledgment.
   *
   * @default {100}
   */
  readonly maxMessages?: number;
  /**
   * Most bytes of waiting messages.
   *
   * @default {262144}
   */
  readonly maxBytes?: number;
}

/** Size of an outbox. */
export interface OutboxState {
  /** Messages that wait for a connection or for an acknowledgment. */
  readonly messages: number;
  /** Bytes of these messages. */
  readonly bytes: number;
}

/** Publication that belongs to a message in an outbox. */
export interface OutboxPublication {
  /** Settled with the answer of the server. */
  readonly answer: PromiseWithResolvers<void>;
  /** False if this client does not receive the publication. */
  readonly echo: boolean;
}

/** A message in an outbox. */
interface OutboxEntry extends EncodedMessage {
  /** The number of the message, from 1. */
  readonly seq: number;
  /** Present if the message is a publication. */
  readonly publication: OutboxPublication | undefined;
}

/**
 * A bounded queue of messages that wait for a connection. The outbox notifies of each change to the
 * queue. With `isKept`, each message stays until the server acknowledges receipt.
 */
export class Outbox extends Changing {
  /** True if messages stay until acknowledged. */
  readonly isKept: boolean;
  /** The reason why waiting messages are not acknowledged. */
  error: unknown;
  readonly #runtime: Runtime;
  readonly #limits: Required<OutboxOptions>;
  /** The waiting messages, in order. */
  readonly waiting: OutboxEntry[] = [];
  /** The number of the newest message. */
  last = 0;
  /** The session that gets the waiting messages. */
  session: Session | undefined;
  #bytes = 0;
  #delivery: Delivery | undefined;

  /**
   * Creates an empty outbox.
   *
   * @param runtime Timers of the client.
   * @param options See {@linkcode OutboxOptions}.
   * @param isKept True if messages stay until acknowledged.
   * @throws {RangeError} If a limit is not a positive integer.
   */
  constructor(runtime: Runtime, options: OutboxOptions = {}, isKept: boolean = false) {
    super();
    this.#runtime = runtime;
    this.#limits = checkLimits(LIMITS, options, { of: "outbox: " });
    this.isKept = isKept;
  }

  /** The size of the outbox. */
  get state(): OutboxState {
    return { messages: this.waiting.length, bytes: this.#bytes };
  }

  /**
   * Adds a message.
   *
   * @param message The message, encoded.
   * @param publication Present if the message is a publication.
   * @throws {QueueFullError} If the outbox has no room for the message.
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

  /** True if a session is ready and still the one that gets the waiting messages. */
  isFor(session: Session): boolean {
    return this.session === session && session.isReady;
  }

  /** The oldest waiting message. */
  get first(): OutboxEntry | undefined {
    return this.waiting[0];
  }

  /** Removes a message, the first by default. */
  shift(index = 0): void {
    this.#bytes -= this.waiting.splice(index, 1)[0]?.size ?? 0;
    this.notify();
  }

  /** Ends the outbox: no message is sent any more, and waiting publications fail. */
  end(error: unknown): void {
    this.error ??= error;
    for (const { publication } of this.waiting) publication?.answer.reject(error);
    this.notify();
  }

  /**
   * Waits until all messages up to a number are acknowledged; without acknowledgments, until a
   * session took these messages.
   */
  flushed(last: number, options: WaitOptions): Promise<void> {
    let isAwaited = true;
    const done = async () => {
      while (isAwaited) {
        const { error, first } = this;
        const isDone = first === undefined || first.seq > last;
        if (error !== undefined && !(isDone && error instanceof SessionClosedError)) throw error;
        if (isDone) return;
        await this.changed();
      }
    };
    return waitFor(this.#runtime, done(), { ...options, what: "the outbox" }).finally(() =>
      isAwaited = false
    );
  }

  /**
   * Hands the waiting messages to a session, in order, and no faster than the session sends.
   * Messages that a closing session did not take wait for the next session. A message above the
   * server's size limit is dropped, and reported like a refusal by the server.
   *
   * @param session An established session.
   * @returns Resolves when no message waits, or when the session closed.
   */
  async handTo(session: Session): Promise<void> {
    const core = session[internals];
    this.session = session;
    this.notify();
    try {
      if (this.isKept) {
        this.#delivery ??= new Delivery(this);
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
      // A `SkeinError` comes with the end of the session, which is reported elsewhere.
      if (!(error instanceof SkeinError)) report(core.settings, error, session);
    }
  }
}

/** Keys that are added to a message when a session takes the message. */
interface Keys {
  readonly seq?: number;
  readonly client?: string;
  readonly id?: number;
  readonly echo?: false;
}

/**
 * Hands an outbox to one session after the other. Each session gets all remaining messages anew,
 * with numbers. The delivery removes messages that the server acknowledges, and the server drops
 * messages that were handled already.
 */
class Delivery {
  readonly #outbox: Outbox;
  /** Number of messages, from the start of the outbox, that are sent but not acknowledged. */
  #handed = 0;
  #bytes = 0;
  #acknowledged = 0;
  /** Publications that the session has yet to answer. */
  #publishing = new Set<OutboxEntry>();

  /** Creates the delivery of an outbox. */
  constructor(outbox: Outbox) {
    this.#outbox = outbox;
  }

  /** Hands over waiting and future messages; resolves when the session has ended. */
  async handTo(session: Session): Promise<void> {
    const outbox = this.#outbox;
    if (!outbox.isFor(session)) return;
    const core = session[internals];
    const isNumbered = core.features?.includes("seq") === true;
    this.#handed = this.#bytes = 0;
    this.#publishing = new Set();
    outbox.error = isNumbered ? undefined : new UnsupportedError(
      "Cannot deliver at least once: the server acknowledges no messages",
    );
    if (!isNumbered) report(core.settings, outbox.error, session);
    core.onAck = (n) => this.#acked(n);
    void session.closed.then(() => outbox.notify());
    while (outbox.isFor(session)) {
      const next = outbox.waiting[this.#handed];
      if (next === undefined || this.#isFull(next)) await outbox.changed();
      else if (isBehind(core, next)) await session.flushed();
      else {
        const keys = keysOf(next, core, isNumbered);
        if (!this.#hand(core, next, keys)) continue;
        if (keys.client !== undefined) core.isIntroduced = true;
        if (isNumbered) {
          this.#handed++;
          this.#bytes += next.size;
        } else outbox.shift();
      }
    }
  }

  #isFull({ publication, size }: OutboxEntry): boolean {
    if (publication && this.#publishing.size >= MAX_PUBLICATIONS_ON_THE_WAY) return true;
    if (this.#handed === 0) return false;
    return this.#handed >= MAX_ON_THE_WAY || this.#bytes + size > MAX_BYTES_ON_THE_WAY;
  }

  /** Hands over one message; false if the server does not accept the message. */
  #hand(core: SessionCore, entry: OutboxEntry, keys: Keys): boolean {
    const { publication, topic } = entry;
    const answer = publication?.answer;
    const message = complete(entry, answer ? { ...keys, id: Number.MAX_SAFE_INTEGER } : keys);
    const refusal = refusalOf(core, message, keys);
    if (refusal !== undefined) {
      this.#outbox.shift(this.#handed);
      answer?.reject(refusal);
      return false;
    }
    if (answer === undefined) {
      // No policy may drop this message: a later acknowledgment would cover the message too.
      core.push(message, true);
      return true;
    }
    const publishing = this.#publishing.add(entry);
    core.ask(`the publication on "${topic}"`, (id) => complete(entry, { ...keys, id }), {
      timeoutMs: Infinity,
      onAnswer: () => answer.resolve(),
    }).catch((error) => {
      if (keys.seq === undefined || !(error instanceof SessionClosedError)) answer.reject(error);
      // If not acknowledged yet, the publication is sent again with the next session.
      else if (entry.seq <= this.#acknowledged) answer.resolve();
    }).finally(() => {
      publishing.delete(entry);
      this.#outbox.notify();
    });
    return true;
  }

  /**
   * Removes messages up to an acknowledged number; publications among them were answered before.
   */
  #acked(n: number): void {
    // An earlier session may still acknowledge messages after a later session did.
    this.#acknowledged = Math.max(this.#acknowledged, n);
    for (let first; this.#handed > 0 && (first = this.#outbox.first!).seq <= n;) {
      this.#handed--;
      this.#bytes -= first.size;
      this.#outbox.shift();
    }
  }
}

/**
 * Tells if the outbox must wait until a session has sent more. Half of the send queue stays free
 * for other messages, but an empty queue always takes one message.
 */
function isBehind({ queue, settings }: SessionCore, { size }: EncodedMessage): boolean {
  const { queuedMessages, queuedBytes } = queue!.stats;
  const { maxMessages, maxBytes } = settings.sendQueue;
  if (queuedMessages === 0) return !queue!.isFlushed;
  return queuedMessages * 2 >= maxMessages || (queuedBytes + size) * 2 > maxBytes;
}

/** Tells if a message is above the server's size limit, and reports the refusal. */
function isTooLarge(core: SessionCore, { size, topic }: EncodedMessage): boolean {
  const { maxSendBytes: max } = core;
  if (size <= max) return false;
  const message =
    `Cannot send "${topic}": a message must have at most ${max} bytes, received ${size}`;
  core.refusedByPeer({ code: "too-large", message });
  return true;
}

function keysOf({ seq, publication }: OutboxEntry, core: SessionCore, isNumbered: boolean): Keys {
  const isQuiet = publication?.echo === false;
  const isSaid = !core.isIntroduced && (isNumbered || isQuiet && core.canOmitEcho);
  return {
    ...(isNumbered && { seq }),
    ...(isSaid && { client: core.settings.client }),
    ...(isQuiet && { echo: false as const }),
  };
}

/** Returns the reason why a server would refuse a message; `undefined` if there is no reason. */
function refusalOf(core: SessionCore, message: EncodedMessage, keys: Keys): Error | undefined {
  if (keys.echo === false && core.echoError !== undefined) return core.echoError;
  if (!isTooLarge(core, message)) return undefined;
  const text = `The server does not take "${message.topic}": it is too large`;
  return new RequestError("too-large", text);
}

function complete({ frame, topic, publication }: OutboxEntry, keys: Keys): EncodedMessage {
  return framed(extend(frame, keys, publication !== undefined), topic);
}

/** Appends keys to a message, and turns the message into a publication if required. */
function extend(frame: Frame, keys: Keys, isPublished: boolean): Frame {
  if (typeof frame !== "string") {
    const { head, data } = decodeBinary(frame)!;
    return encodeBinary(extend(head, keys, isPublished) as string, data);
  }
  const head = isPublished ? frame.replace('{"topic"', '{"publish"') : frame;
  const tail = JSON.stringify(keys).slice(1);
  return tail === "}" ? head : `${head.slice(0, -1)},${tail}`;
}
