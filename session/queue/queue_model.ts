/** Reference of a send queue whose connection is behind: what a policy keeps, and what is dropped. */
import type { OverflowPolicy } from "./turn.ts";

/** A message of the reference. */
export interface ModelMessage {
  /** Name, as the receiver sees the message. */
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

/** The messages that wait, by docs/guide/limits.md, Back-pressure. */
export class QueueModel {
  /** Count of the dropped messages. */
  dropped = 0;
  readonly #bounds: ModelBounds;
  #waiting: ModelMessage[] = [];

  /** Creates an empty queue. */
  constructor(bounds: ModelBounds) {
    this.#bounds = bounds;
  }

  /** Names of the waiting messages, in order. */
  get names(): readonly string[] {
    return this.#waiting.map(({ name }) => name);
  }

  /**
   * Tells if the queue has no room.
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
   * Adds a message, which makes room by its policy.
   *
   * @param message The message. A reply needs a policy that drops.
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
