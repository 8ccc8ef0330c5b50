/** Durable streams of two nodes on one broker, for tests. */
import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError, RequestError } from "../../errors.ts";
import type { Broker } from "../../pubsub/broker.ts";
import type { AppendLogOptions, BrokerLogs, LogAppended } from "../../pubsub/logs/log.ts";
import { type StreamBounds, StreamLogs } from "../../pubsub/logs/stream_logs.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { DurableStreams } from "./streams.ts";

/** Bounds that no test reaches by accident. */
const BOUNDS = {
  maxStreams: 100,
  maxKept: 100,
  maxStreamBytes: 262_144,
  maxForks: 100,
  maxReaders: 100,
};

/** Two nodes on one broker, whose appends can fail before or after they take effect. */
export class TwoNodes implements AsyncDisposable {
  readonly memory: MemoryBroker = new MemoryBroker();
  readonly errors: unknown[] = [];
  /** Appends as the engine got them. */
  readonly appends: AppendLogOptions[] = [];
  readonly node: DurableStreams;
  readonly other: DurableStreams;
  /** Called for each append; an error fails the append, after it took effect if `isDone`. */
  fault: ((options: AppendLogOptions) => "before" | "after" | undefined) | undefined;
  readonly #logs: StreamLogs[];

  constructor(bounds: Partial<StreamBounds> = {}, maxMessageBytes = 1_000) {
    const runtime = platformRuntime();
    this.#logs = [this.#faulty(), this.memory].map((broker) =>
      new StreamLogs({
        runtime,
        broker,
        bounds: { ...BOUNDS, ...bounds },
        onError: (error) => this.errors.push(error),
      })
    );
    const [node, other] = this.#logs.map((streams) =>
      new DurableStreams({ runtime, streams, maxMessageBytes })
    );
    this.node = node!;
    this.other = other!;
  }

  /** Reads the records that there are. */
  async read(id: string): Promise<unknown[]> {
    const items = await Array.fromAsync(this.other.read(id));
    return items.map(({ data }) => data);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.node.close();
    for (const logs of this.#logs) await logs.close();
    await this.memory.close();
    assertEquals(this.errors, []);
  }

  #faulty(): Broker {
    const { memory } = this;
    const append = async (id: string, options: AppendLogOptions): Promise<LogAppended> => {
      this.appends.push(options);
      const fault = this.fault?.(options);
      if (fault === "before") throw new BrokerError("Cannot append: the engine is away");
      const result = await memory.logs.append(id, options);
      if (fault === "after") throw new BrokerError("Cannot append: the engine is away");
      return result;
    };
    const logs: BrokerLogs = Object.create(memory.logs, {
      append: { value: append },
      create: { value: memory.logs.create.bind(memory.logs) },
      read: { value: memory.logs.read.bind(memory.logs) },
      overdue: { value: memory.logs.overdue.bind(memory.logs) },
      delete: { value: memory.logs.delete.bind(memory.logs) },
    });
    return Object.create(memory, {
      logs: { value: logs },
      subscribe: { value: memory.subscribe.bind(memory) },
    });
  }
}

/** Waits for a `RequestError`, and returns its code. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, RequestError)).failure.code;
}
