/**
 * The reference model of a send queue while the connection is behind. It determines which messages
 * each policy keeps and drops.
 */
import type { OverflowPolicy } from "./send_queue.ts";

export interface ModelMessage {
  /** Name by which the receiver sees the message. */
  readonly name: string;
  /** The topic; empty for a reply. */
  readonly topic: string;
  /** Bytes of the envelope. */
  readonly size: number;
}

/** Bounds of the queue. */
export interface ModelBounds {
  readonly maxMessages: number;
  readonly maxBytes: number;
  readonly policy: (topic: string) => OverflowPolicy;
}

/** The waiting messages, according to the rules in docs/concepts/back-pressure.md. */
export class QueueModel {
  /** Number of dropped messages. */
  dropped = 0;
  readonly #bounds: ModelBounds;
  #waiting: ModelMessage[] = [];

  constructor(bounds: ModelBounds) {
    this.#bounds = bounds;
  }

  /** Names of the waiting messages, in order. */
  get names(): readonly string[] {
    return this.#waiting.map(({ name }) => name);
  }

  /**
   * True if the queue has no room.
   *
   * @param size Bytes of the next message.
   */
  isFullFor(size: number): boolean {
    const { maxMessages, maxBytes } = this.#bounds;
    const { length } = this.#waiting;
    if (length >= maxMessages) return true;
    return length > 0 && this.#waiting.reduce((sum, one) => sum + one.size, size) > maxBytes;
  }

  /**
   * Adds a message, and makes room according to its policy.
   *
   * @param message The message. A reply must have a policy that drops messages.
   */
  add(message: ModelMessage): void {
    const { topic, size } = message;
    const isReply = topic === "";
    const policy = this.#bounds.policy(topic);
    if (policy === "latest" && !isReply) {
      this.#drop(this.#waiting.findIndex((other) => other.topic === topic));
    }
    while (this.isFullFor(size)) {
      if (policy === "drop-newest" && !isReply) {
        this.dropped++;
        return;
      }
      this.#drop(this.#waiting.findIndex((other) => other.topic !== ""));
    }
    this.#waiting.push(message);
  }

  #drop(at: number): void {
    if (at < 0) return;
    this.#waiting.splice(at, 1);
    this.dropped++;
  }
}
