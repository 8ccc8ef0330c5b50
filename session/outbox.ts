/**
 * What a client says while it is not connected.
 *
 * @module
 */
import { QueueFullError } from "../errors.ts";
import type { EncodedMessage } from "./encoded.ts";

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
  readonly #maxMessages: number;
  readonly #maxBytes: number;
  #waiting: EncodedMessage[] = [];
  #bytes = 0;

  /**
   * Creates an empty outbox.
   *
   * @param options See {@linkcode OutboxOptions}.
   * @throws {RangeError} If a bound is not a positive integer.
   */
  constructor(options: OutboxOptions = {}) {
    const { maxMessages = 100, maxBytes = 262_144 } = options;
    for (const [name, value] of Object.entries({ maxMessages, maxBytes })) {
      if (Number.isInteger(value) && value > 0) continue;
      throw new RangeError(
        `Cannot create outbox: ${name} must be a positive integer, received ${value}`,
      );
    }
    this.#maxMessages = maxMessages;
    this.#maxBytes = maxBytes;
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
    if (
      this.#waiting.length >= this.#maxMessages || this.#bytes + message.size > this.#maxBytes
    ) {
      throw new QueueFullError(
        `Cannot send: not connected, and the outbox is full (${this.#waiting.length} messages, ${this.#bytes} bytes)`,
      );
    }
    this.#waiting.push(message);
    this.#bytes += message.size;
  }

  /**
   * Hands over what waits, in order. A message leaves the outbox once it was taken.
   *
   * @param take Takes one; what it throws stops the hand-over.
   */
  empty(take: (message: EncodedMessage) => void): void {
    let taken = 0;
    try {
      for (const message of this.#waiting) {
        take(message);
        taken++;
      }
    } finally {
      for (const message of this.#waiting.splice(0, taken)) this.#bytes -= message.size;
    }
  }
}
