import { assertEquals } from "@std/assert";
import type { TraceEntry } from "../../simulator/event_loop.ts";
import { coverageOf, shapeOf } from "./coverage.ts";

Deno.test("shapeOf() keeps the words of a text", () => {
  for (
    const [text, shape] of [
      ["got 17 of 2.5 s", "got # of # s"],
      ['to node1: {"lossRate":0.25}', "to node#: {#:#}"],
      ["session 0f3a2b1c-aaaa-4bbb-8ccc-000011112222 ends", "session # ends"],
      ["x".repeat(200), "x".repeat(80)],
    ] as const
  ) assertEquals(shapeOf(text), shape);
});

Deno.test("coverageOf() has the texts of the cluster, pairs with faults, and counts", () => {
  const trace: TraceEntry[] = [
    { atMs: 0, host: "node0", text: "is killed", kind: "life" },
    { atMs: 4_000, host: "client1", text: "closed 4503" },
    { atMs: 5_001, host: "client1", text: "closed 4401" },
    { atMs: 5_002, host: "client1", text: "closed 4401" },
    { atMs: 5_003, host: "", text: "packet", kind: "packet" },
  ];
  assertEquals(coverageOf({ coverage: ["own"], trace }), [
    "own",
    "is killed → closed #",
    "is killed ×1",
    "closed # ×2",
  ]);
});
