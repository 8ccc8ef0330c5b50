/** Places for the keys that each topic remembers. */
import { KEY_WINDOW_MS } from "../../pubsub/broker.ts";
import { MAX_TOPIC_KEYS, topicKeysFull } from "../../pubsub/broker/keys.ts";
import { Fifo } from "../../pubsub/broker/queue.ts";

/** Longest time whose keys are counted together, in milliseconds. */
const SLICE_MS = 1_000;

/** Keys that are forgotten together. */
interface Slice {
  readonly endMs: number;
  count: number;
}

/** The keys of one topic, oldest first. */
class TopicKeys {
  readonly slices = new Fifo<Slice>();
  count = 0;

  forgetOld(nowMs: number): void {
    for (let first = this.slices.first; first !== undefined; first = this.slices.first) {
      if (first.endMs > nowMs) return;
      this.slices.shift();
      this.count -= first.count;
      first.count = 0;
    }
  }

  /** Takes a place; returns a function that gives it back. */
  take(nowMs: number): () => void {
    let slice = this.slices.at(-1);
    if (slice === undefined || slice.endMs <= nowMs + KEY_WINDOW_MS) {
      slice = { endMs: nowMs + KEY_WINDOW_MS + SLICE_MS, count: 0 };
      this.slices.push(slice);
    }
    const taken = slice;
    taken.count++;
    this.count++;
    return () => {
      if (taken.count === 0) return; // Its time is over.
      taken.count--;
      this.count--;
    };
  }
}

/**
 * Bounds the keys of each topic that this node appends within the window. JetStream itself remembers
 * the ids of messages without a bound, and does not count them.
 */
export class KeyPlaces {
  readonly #topics = new Map<string, TopicKeys>();
  #tidyAtMs = -Infinity;

  /**
   * Takes a place for a key, which is free again after the window.
   *
   * @param nowMs The time on a monotonic clock, in milliseconds.
   * @returns Gives the place back earlier, because the key was not stored. Called at most once.
   * @throws {LimitError} If the topic has no place.
   */
  take(topic: string, nowMs: number): () => void {
    this.#tidy(nowMs);
    let keys = this.#topics.get(topic);
    keys?.forgetOld(nowMs);
    if (keys !== undefined && keys.count >= MAX_TOPIC_KEYS) {
      throw topicKeysFull(topic, keys.slices.first!.endMs - nowMs);
    }
    if (keys === undefined) this.#topics.set(topic, keys = new TopicKeys());
    return keys.take(nowMs);
  }

  /** Forgets the topics whose keys are forgotten. */
  #tidy(nowMs: number): void {
    if (nowMs < this.#tidyAtMs) return;
    this.#tidyAtMs = nowMs + KEY_WINDOW_MS;
    for (const [topic, keys] of this.#topics) {
      keys.forgetOld(nowMs);
      if (keys.slices.length === 0) this.#topics.delete(topic);
    }
  }
}
