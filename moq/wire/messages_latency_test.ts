import { assertEquals } from "@std/assert";
import { fromWireLatency, toWireLatency } from "./messages.ts";

const read = (maxLatencyMs: number, family: "gomoqt" | "moq-lite") =>
  fromWireLatency({ maxLatencyMs }, family).maxLatencyMs;

Deno.test("toWireLatency() encodes no limit so that every peer reads it", () => {
  const { maxLatencyMs } = toWireLatency({ maxLatencyMs: 0 });
  for (const family of ["gomoqt", "moq-lite"] as const) {
    assertEquals(read(maxLatencyMs, family), 0);
    assertEquals(read(toWireLatency({ maxLatencyMs: 500 }).maxLatencyMs, family), 500);
  }
});

Deno.test("fromWireLatency() reads 0 by family", () => {
  assertEquals(read(0, "gomoqt"), 0);
  // A moq-rs peer that only wants the newest group.
  assertEquals(read(0, "moq-lite"), 1);
});
