import { assertEquals, assertThrows } from "@std/assert";
import { EngineNode } from "../_engine_node_test.ts";
import { testBroker } from "../conformance/suite.ts";
import { MemoryBroker } from "./broker.ts";

testBroker("MemoryBroker", () => new MemoryBroker(), {
  makePair: () => {
    const engine = new MemoryBroker();
    return [new EngineNode(engine), new EngineNode(engine)];
  },
});

Deno.test("MemoryBroker.publish() delivers before it returns", () => {
  const broker = new MemoryBroker();
  const heard: unknown[] = [];
  broker.subscribe("news", ({ payload }) => heard.push(payload));
  broker.publish({ topic: "news", payload: "1" });
  assertEquals(heard, ["1"]);
});

Deno.test("MemoryBroker.publish() skips members that come or go during the delivery", () => {
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
