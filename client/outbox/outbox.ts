/** Holds a client's messages that are waiting for a connection, and counts its publications. */
import { checkLimits } from "../../base/options/options.ts";
import {
  QueueFullError,
  type RequestFailure,
  type SessionClosedError,
  SkeinError,
} from "../../errors.ts";
import { Signal } from "../../base/signal.ts";
import type { Inside } from "../../session/receiving.ts";
import type { Frame } from "../../transport/connection.ts";
import {
  decodeBinary,
  encodeBinary,
  type EncodedMessage,
  framed,
  oversize,
} from "../../session/wire/encode.ts";
import type { Runtime } from "../../base/runtime.ts";
import { internals, type Session } from "../../session/session.ts";
import { report } from "../../session/settings/settings.ts";

/**
 * The default limits of an outbox. A server accepts a burst of as many publications, and a send
 * queue has as many bytes.
 */
export const LIMITS = { maxMessages: 1_000, maxBytes: 1_048_576 };

export interface OutboxEntry extends EncodedMessage {
  /** The number of the message, starting at 1. */
  readonly seq: number;
}

/**
 * A bounded queue of messages that are waiting for a connection. The outbox notifies waiters of
 * each change. If `awaitsAcks` is true, each message stays until the server acknowledges it.
 */
export class Outbox extends Signal {
  /** True if messages stay until they are acknowledged. */
  declare readonly awaitsAcks: boolean;
  /** Set once the outbox has ended together with the client. */
  declare error: SessionClosedError | undefined;
  declare readonly runtime: Runtime;
  readonly #limits: Readonly<typeof LIMITS>;
  readonly waiting: OutboxEntry[] = [];
  /** The number of the newest message. */
  last = 0;
  /** The number of publications that the session accepted and that have no reply. */
  publishing = 0;
  /** The session that receives the waiting messages. */
  declare session: Session | undefined;
  #messages = 0;
  #bytes = 0;
  /** The number of messages that are still searched; 0 or less after a search. */
  #searched = 0;
  /** The message in flight at the last close because of a message's size, if it was the only one. */
  #suspect: EncodedMessage | undefined;
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
    this.awaitsAcks = deliver !== undefined;
  }

  /**
   * True after a session closed because of a message's size, until all messages that were in the
   * outbox then have left it. During that time messages, and then publications, are sent one at a
   * time, to find the one that is too large.
   */
  get isSearching(): boolean {
    return this.#searched > 0;
  }

  get state(): { readonly messages: number; readonly bytes: number } {
    return { messages: this.#messages, bytes: this.#bytes };
  }

  /**
   * Counts a message toward the limits. An empty outbox accepts a message of any size.
   *
   * @throws {QueueFullError} If the outbox is full.
   */
  reserve(size: number, verb: string): void {
    const { maxMessages, maxBytes } = this.#limits;
    const isFull = this.#messages >= maxMessages || this.#bytes + size > maxBytes;
    if (this.#messages > 0 && isFull) {
      throw new QueueFullError(
        `Cannot ${verb}: the outbox is full (${this.#messages} messages, ${this.#bytes} bytes)`,
      );
    }
    this.#messages++;
    this.#bytes += size;
  }

  /** Removes a message from the count. */
  release(size: number): void {
    this.#messages--;
    this.#bytes -= size;
    this.#searched--;
    this.notify();
  }

  /**
   * Handles a close because of a message's size, which happens if a peer or proxy has a lower limit
   * than `hello` announced. Starts to search for the message.
   *
   * @param message The message in flight, if it was the only one.
   * @param verb The call that added the message.
   * @returns The failure of the message, if it was the only one in flight at two such closes in a
   * row. It must be dropped, because it would end every later session too.
   */
  closedForSize(
    message: EncodedMessage | undefined,
    verb: "send" | "publish",
  ): RequestFailure | undefined {
    const isFound = message !== undefined && message === this.#suspect;
    this.#searched = this.#messages;
    this.#suspect = message;
    if (!isFound) return undefined;
    const { size, topic } = message;
    const why = `two connections were closed because of its size, ${size} bytes`;
    return { code: "too-large", message: `Cannot ${verb} "${topic}": ${why}` };
  }

  /**
   * Adds a message.
   *
   * @throws {QueueFullError} If the outbox is full.
   */
  add(message: EncodedMessage): void {
    this.reserve(message.size, "send");
    this.waiting.push({ ...message, seq: ++this.last });
    this.notify();
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
    const [removed] = this.waiting.splice(index, 1);
    if (removed) this.release(removed.size);
  }

  /** Ends the outbox. No further messages are sent. */
  end(error: SessionClosedError): void {
    this.error = error;
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
  async sendIn(session: Session): Promise<void> {
    const core = session[internals];
    this.session = session;
    this.notify();
    await this.run(session, async () => {
      if (this.#deliver) return await this.#deliver(session);
      for (let first; this.isFor(session) && (first = this.first) !== undefined;) {
        if (isTooLarge(core, first)) this.shift();
        else if (isBehind(core, first)) await session.flushed();
        else {
          core.sending.push(first, false);
          this.shift();
        }
      }
    });
  }

  /** Sends in a session, and reports errors. */
  async run(session: Session, send: () => Promise<void>): Promise<void> {
    try {
      await send();
    } catch (error) {
      // A `SkeinError` means that the session ended, which is reported elsewhere.
      if (!(error instanceof SkeinError)) report(session[internals].settings, error, session);
    }
  }
}

/**
 * Returns whether the outbox must wait until a session has sent more of its queue. An empty queue
 * accepts one message, once the connection has taken the earlier ones.
 */
export function isBehind(core: Inside, message: EncodedMessage): boolean {
  const { isFlushed, stats } = core.queue!;
  return stats.queuedMessages === 0 ? !isFlushed : isCrowded(core, message);
}

/** Returns whether a message would take more than half of a send queue that is not empty. */
export function isCrowded({ queue, settings }: Inside, { size }: EncodedMessage): boolean {
  const { queuedMessages, queuedBytes } = queue!.stats;
  const { maxMessages, maxBytes } = settings.sendQueue;
  if (queuedMessages === 0) return false;
  return queuedMessages * 2 >= maxMessages || (queuedBytes + size) * 2 > maxBytes;
}

/**
 * Returns whether a message is above the server's size limit. If so, reports this as a rejection.
 */
export function isTooLarge(core: Inside, message: EncodedMessage): boolean {
  const { maxSendBytes: max } = core.sending;
  if (message.size <= max) return false;
  core.sending.rejectedByPeer({
    code: "too-large",
    message: oversize(`send "${message.topic}"`, message, max),
  });
  return true;
}

/** Adds keys to an encoded message, which becomes a publication if `kind` says so. */
export function extended(
  { frame, topic }: EncodedMessage,
  keys: object,
  kind: "topic" | "publish" = "topic",
): EncodedMessage {
  return framed(extend(frame, keys, kind), topic);
}

function extend(frame: Frame, keys: object, kind: "topic" | "publish"): Frame {
  if (typeof frame !== "string") {
    const { head, data } = decodeBinary(frame)!;
    return encodeBinary(extend(head, keys, kind) as string, data);
  }
  const head = frame.replace('{"topic"', `{"${kind}"`);
  const tail = JSON.stringify(keys).slice(1);
  return tail === "}" ? head : `${head.slice(0, -1)},${tail}`;
}
