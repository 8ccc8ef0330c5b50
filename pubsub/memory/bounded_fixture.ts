/** A broker in memory with few bytes, for tests. */
import { MemoryBroker } from "./broker.ts";

/** Bounds of a history that tests do not reach. */
export const BOUNDS = { size: 1_000, ttlMs: 60_000, bytes: 1_000_000 };
/** A broker with a bound on all bytes, and helpers. */
export class Bounded {
  readonly broker: MemoryBroker;

  constructor(maxTotalBytes: number) {
    this.broker = new MemoryBroker({ maxTotalBytes });
  }

  /** Publishes this many bytes on a topic with a history. */
  async publish(topic: string, bytes: number, producer?: string): Promise<void> {
    const key = producer === undefined ? {} : { key: { producer, number: 1 } };
    const payload = "x".repeat(bytes);
    await this.broker.history.append({ topic, payload }, { bounds: BOUNDS, ...key });
  }

  /** Publishes this many bytes as a client. */
  async publishAs(publisher: string, topic: string, bytes: number): Promise<void> {
    const payload = "x".repeat(bytes);
    await this.broker.history.append({ topic, payload }, { bounds: BOUNDS, publisher });
  }

  /** Counts the kept publications of topics. */
  async kept(...topics: readonly string[]): Promise<number[]> {
    const reading = { bounds: BOUNDS, maxMessages: 1_000, maxBytes: 1e9 };
    const pages = topics.map((topic) => this.broker.history.read(topic, reading));
    return (await Promise.all(pages)).map(({ publications }) => publications.length);
  }
}
