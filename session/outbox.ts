/**
 * What a client says while it is not connected.
 *
 * @module
 */
import { QueueFullError, SkeinError } from "../errors.ts";
import type { EncodedMessage } from "./encoded.ts";
import { report } from "./inbound.ts";
import { checkLimits } from "./limits.ts";
import { coreOf, type Session } from "./session.ts";

const LIMITS = { maxMessages: 100, maxBytes: 262_144 };

/** Bounds of an outbox. */
export interface OutboxOptions {
  /**
   * Most messages that wait for a connection.
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
  /** Messages that wait for a connection. */
  readonly messages: number;
  /** Their bytes. */
  readonly bytes: number;
}

/** Messages that wait for a connection, in order, bounded. */
export class Outbox {
  readonly #limits: Required<OutboxOptions>;
  #waiting: EncodedMessage[] = [];
  #bytes = 0;

  /**
   * Creates an empty outbox.
   *
   * @param options See {@linkcode OutboxOptions}.
   * @throws {RangeError} If a bound is not a positive integer.
   */
  constructor(options: OutboxOptions = {}) {
    this.#limits = checkLimits(LIMITS, options, { of: "outbox: " });
  }

  /** What waits. */
  get state(): OutboxState {
    return { messages: this.#waiting.length, bytes: this.#bytes };
  }

  /**
   * Keeps a message.
   *
   * @param message The message, encoded.
   * @throws {QueueFullError} If there is no room for it.
   */
  add(message: EncodedMessage): void {
    const { maxMessages, maxBytes } = this.#limits;
    if (
      this.#waiting.length >= maxMessages || this.#bytes + message.size > maxBytes
    ) {
      throw new QueueFullError(
        `Cannot send: the outbox is full (${this.#waiting.length} messages, ${this.#bytes} bytes)`,
      );
    }
    this.#waiting.push(message);
    this.#bytes += message.size;
  }

  /** The message that waits longest. */
  get first(): EncodedMessage | undefined {
    return this.#waiting[0];
  }

  /** Lets go of the first message, once it was handed over. */
  shift(): void {
    this.#bytes -= this.#waiting.shift()?.size ?? 0;
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
    const core = coreOf(session);
    const { queue, maxSendBytes, settings: { sendQueue } } = core;
    try {
      for (let first; queue && session.isReady && (first = this.first) !== undefined;) {
        const { size, topic } = first;
        const { queuedMessages, queuedBytes } = queue.stats;
        // Half of the send queue, so that what else is sent has room; one message always goes.
        const isBehind = queuedMessages === 0
          ? !queue.isFlushed
          : queuedMessages * 2 >= sendQueue.maxMessages ||
            (queuedBytes + size) * 2 > sendQueue.maxBytes;
        if (size > maxSendBytes) {
          const message =
            `Cannot send "${topic}": a message must have at most ${maxSendBytes} bytes, received ${size}`;
          this.shift();
          core.control({
            kind: "reply",
            id: null,
            data: undefined,
            error: { code: "too-large", message },
          });
        } else if (isBehind) await session.flushed();
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
