import { assert, assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { BrokerPorts } from "../../pubsub/ports/broker_port.ts";
import type { WorkerOperation } from "../../pubsub/ports/operations.ts";
import { PortBroker } from "../../pubsub/ports/port_broker.ts";
import { connectTo } from "../../pubsub/ports/ports_fixture.ts";
import { ChannelBroker } from "../../examples/adapters/channel_broker.ts";
import { turns } from "../../tests/waiting.ts";
import { testBrokerLogs } from "../conformance/suite.ts";
import { LOGS_PART, logsOf } from "./logs_of.ts";

testBrokerLogs("PortBroker", () => connectTo(new MemoryBroker(), 1, [LOGS_PART])[0]!, {
  makePair: () => {
    const [one, two] = connectTo(new MemoryBroker(), 2, [LOGS_PART]);
    return [one!, two!];
  },
});

/** A payload of a mebibyte. */
const MEBIBYTE = "x".repeat(1_048_576);

Deno.test("PortBroker rejects log calls beyond its bounds, and ends a wait when its signal aborts", async () => {
  const operations: WorkerOperation[] = [];
  const runtime = platformRuntime();
  const logs = logsOf(
    new PortBroker({
      runtime,
      broker: new BrokerPorts(new MemoryBroker(), runtime, [LOGS_PART]).facts,
      post: ([, , posted]) => void operations.push(...posted),
    }),
  );
  const reading = { after: 0, maxRecords: 1, maxBytes: 1, renews: false };
  const controller = new AbortController();
  const page = logs!.read("log", { ...reading, signal: controller.signal });
  controller.abort(new Error("enough"));
  await assertRejects(() => page, Error, "enough");
  await assertRejects(() => logs!.read("log", { ...reading, signal: controller.signal }), Error);
  await turns();
  assertEquals(operations, [["call", 1, "logs.read", 0, ["log", reading]]]);
  await assertRejects(() => logs!.delete("x".repeat(1_025)), RangeError, "at most 1024 bytes");
  const append = () => logs!.append("log", { records: [MEBIBYTE], maxBytes: 1 });
  for (let i = 0; i < 64; i++) append().catch(() => {});
  await assertRejects(append, BrokerError, "too many operations wait for the main thread");
});

Deno.test("PortBroker carries records of logs without the rest of their buffers", async () => {
  await using store = new MemoryBroker();
  const [broker] = connectTo(store, 1, [LOGS_PART]);
  const [id, identity, contentType] = ["log", "identity", "application/octet-stream"];
  const records = [new Uint8Array(1_000_000).fill(7).subarray(10, 13), "text"];
  await logsOf(broker!)!.create(id, { config: { contentType }, identity, records, maxLogs: 1 });
  const reading = { after: 0, maxRecords: 9, maxBytes: 100, renews: false };
  for (const logs of [logsOf(store)!, logsOf(broker!)!]) {
    const page = await logs.read(id, reading);
    assert(typeof page === "object");
    assertEquals(page.records, [Uint8Array.of(7, 7, 7), "text"]);
    assertEquals((page.records[0] as Uint8Array).buffer.byteLength, 3);
  }
  await broker!.close();
});

Deno.test("logsOf() returns the same logs each time, and none if the broker keeps none", async () => {
  await using store = new MemoryBroker();
  await using plain = new ChannelBroker();
  const [broker] = connectTo(store, 1, [LOGS_PART]);
  const [without] = connectTo(plain, 1, [LOGS_PART]);
  for (const one of [store, broker!]) {
    assert(logsOf(one) !== undefined);
    assertEquals(logsOf(one) === logsOf(one), true);
  }
  assertEquals([logsOf(plain), logsOf(without!)], [undefined, undefined]);
  await broker!.close();
  await without!.close();
});
