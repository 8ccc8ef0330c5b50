import { assertEquals, assertThrows } from "@std/assert";
import { testBroker } from "./broker_conformance.ts";
import { MemoryBroker } from "./memory_broker.ts";

testBroker("MemoryBroker", () => new MemoryBroker(), {
  makePair: () => {
    const engine = new MemoryBroker();
    return [new Node(engine), new Node(engine)];
  },
});

/** A node of its own on an engine that several share, as `Topics` of several servers do. */
class Node extends MemoryBroker {
  readonly #engine: MemoryBroker;
  readonly #subscriptions = new AsyncDisposableStack();

  constructor(engine: MemoryBroker) {
    super();
    this.#engine = engine;
  }

  override publish(publication: Parameters<MemoryBroker["publish"]>[0]): void {
    super.publish(publication);
    this.#engine.publish(publication);
  }

  override subscribe(
    ...[topic, listener]: Parameters<MemoryBroker["subscribe"]>
  ): ReturnType<MemoryBroker["subscribe"]> {
    // Only to have the node refuse after its close; the engine delivers.
    void super.subscribe(topic, () => {})[Symbol.asyncDispose]();
    return this.#subscriptions.use(this.#engine.subscribe(topic, listener));
  }

  override async close(): Promise<void> {
    await super.close();
    await this.#subscriptions.disposeAsync();
  }
}

Deno.test("MemoryBroker.publish() delivers before it returns", () => {
  const broker = new MemoryBroker();
  const heard: unknown[] = [];
  broker.subscribe("news", ({ payload }) => heard.push(payload));
  broker.publish({ topic: "news", payload: "1" });
  assertEquals(heard, ["1"]);
});

Deno.test("MemoryBroker.publish() passes over whoever comes or goes while it delivers", () => {
  const broker = new MemoryBroker();
  const heard: string[] = [];
  broker.subscribe("news", () => {
    void second[Symbol.asyncDispose]();
    broker.subscribe("news", ({ payload }) => heard.push(`late ${payload}`));
  });
  const second = broker.subscribe("news", ({ payload }) => heard.push(`gone ${payload}`));
  broker.publish({ topic: "news", payload: "1" });
  assertEquals(heard, []);
});

Deno.test("MemoryBroker.publish() works on after a listener that threw", () => {
  const broker = new MemoryBroker();
  const heard: unknown[] = [];
  const subscription = broker.subscribe("news", () => {
    throw new Error("must not");
  });
  assertThrows(() => broker.publish({ topic: "news", payload: "1" }), Error, "must not");
  void subscription[Symbol.asyncDispose]();
  broker.subscribe("news", ({ payload }) => heard.push(payload));
  broker.publish({ topic: "news", payload: "2" });
  assertEquals(heard, ["2"]);
});
