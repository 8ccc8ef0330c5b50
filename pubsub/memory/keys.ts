/** Keys of publications in the memory of one process. */
import { KEY_WINDOW_MS } from "../broker.ts";
import { keysFull, MAX_TOPIC_KEYS, topicKeysFull } from "../broker/keys.ts";
import { COSTS, type Counted } from "./space.ts";

/** Fraction of a broker's memory that keys may use. */
const MAX_SHARE = 1 / 4;

/**
 * The texts that each topic remembers as keys. They outlive the topic's history, which may be
 * forgotten at any time, and are never forgotten early.
 */
export class RememberedKeys implements Counted {
  counted = 0;
  /** The time at which each key is forgotten, by topic and key. A topic's oldest key is the first. */
  readonly #topics = new Map<string, Map<string, number>>();
  #bytes = 0;

  get cost(): number {
    return this.#bytes;
  }

  /**
   * Remembers a key.
   *
   * @param options The time on a monotonic clock, in milliseconds, and the maximum number of bytes
   * of the broker.
   * @returns False if the topic remembers the key already.
   * @throws {LimitError} If there is no room for another key.
   */
  admit(
    topic: string,
    key: string,
    { nowMs, maxBytes }: { readonly nowMs: number; readonly maxBytes: number },
  ): boolean {
    let keys = this.#topics.get(topic);
    if (keys !== undefined) this.#forgetOld(topic, keys, nowMs);
    if (keys?.has(key)) return false;
    if (keys !== undefined && keys.size >= MAX_TOPIC_KEYS) {
      throw topicKeysFull(topic, keys.values().next().value! - nowMs);
    }
    const bytes = COSTS.key + key.length;
    const isFull = () => this.#bytes + COSTS.topic + bytes > maxBytes * MAX_SHARE;
    if (isFull()) this.tidy(nowMs);
    if (isFull()) {
      throw keysFull(
        `all keys must use at most ${Math.floor(maxBytes * MAX_SHARE)} bytes, a quarter of ` +
          "maxTotalBytes; append later, without a key, or raise maxTotalBytes",
        KEY_WINDOW_MS,
      );
    }
    if (keys === undefined || keys.size === 0) {
      this.#topics.set(topic, keys = new Map());
      this.#bytes += COSTS.topic;
    }
    keys.set(key, nowMs + KEY_WINDOW_MS);
    this.#bytes += bytes;
    return true;
  }

  /** Forgets the keys whose time is over, on all topics. */
  tidy(nowMs: number): void {
    for (const [topic, keys] of this.#topics) this.#forgetOld(topic, keys, nowMs);
  }

  clear(): void {
    this.#topics.clear();
    this.#bytes = 0;
  }

  #forgetOld(topic: string, keys: Map<string, number>, nowMs: number): void {
    for (const [key, untilMs] of keys) {
      if (untilMs > nowMs) return;
      keys.delete(key);
      this.#bytes -= COSTS.key + key.length;
    }
    this.#topics.delete(topic);
    this.#bytes -= COSTS.topic;
  }
}
