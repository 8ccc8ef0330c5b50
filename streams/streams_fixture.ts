/** Durable streams of two nodes on one broker, for tests. */
import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../base/runtime.ts";
import { RequestError } from "../errors.ts";
import type { AppendLogOptions } from "./logs/log.ts";
import { type StreamBounds, StreamLogs } from "./logs/stream_logs.ts";
import { MemoryBroker } from "../pubsub/memory/broker.ts";
import { streamSettings } from "./options.ts";
import { StreamStore } from "./streams.ts";
import { type FaultyBroker, FaultyStore } from "../tests/faulty_broker.ts";

/** Limits that no test reaches by accident. */
const BOUNDS = {
  maxStreams: 100,
  maxRetained: 100,
  maxStreamBytes: 262_144,
  maxForks: 100,
  maxReaders: 100,
  maxRows: 100,
};

/** Two nodes on one broker; a test controls the calls of the first. */
export class TwoNodes implements AsyncDisposable {
  readonly memory: MemoryBroker = new MemoryBroker();
  /** The broker of `node`. */
  readonly broker: FaultyBroker = new FaultyStore({ make: () => this.memory }).connect();
  readonly errors: unknown[] = [];
  readonly node: StreamStore;
  readonly other: StreamStore;
  readonly #logs: StreamLogs[];

  constructor(bounds: Partial<StreamBounds> = {}, maxMessageBytes = 1_000) {
    const runtime = platformRuntime();
    this.#logs = [this.broker, this.memory].map((broker) =>
      new StreamLogs({
        runtime,
        broker,
        bounds: { ...BOUNDS, ...bounds },
        onError: (error) => this.errors.push(error),
      })
    );
    const [node, other] = this.#logs.map((streams) =>
      new StreamStore({ runtime, streams, tail: streamSettings().tail, maxMessageBytes })
    );
    this.node = node!;
    this.other = other!;
  }

  /** The appends of `node`. */
  get appends(): AppendLogOptions[] {
    return this.broker.callsOf("logs.append").map(([, options]) => options);
  }

  /** Reads the existing records. */
  async read(id: string, options: { readonly after?: string } = {}): Promise<unknown[]> {
    const items = await Array.fromAsync(this.other.read(id, options));
    return items.map(({ data }) => data);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.node.close();
    for (const logs of this.#logs) await logs.close();
    await this.memory.close();
    assertEquals(this.errors, []);
  }
}

/** Waits for a `RequestError`, and returns its code. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, RequestError)).failure.code;
}
