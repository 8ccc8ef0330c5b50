import { assertEquals } from "@std/assert";
import type { TraceEntry } from "../../simulator/event_loop.ts";
import { describeFound } from "./report.ts";
import { planOf } from "./toy.ts";

Deno.test("describeFound() shows only entries that belong to the finding", () => {
  const trace: TraceEntry[] = [
    { atMs: 1_000, host: "client1", text: "connects", kind: "session" },
    { atMs: 1_000, host: "client2", text: "connects", kind: "session" },
    { atMs: 2_000, host: "client2", text: "sends m:client2.7", kind: "message" },
    { atMs: 2_001, host: "client2", text: "sends m:client2.71", kind: "message" },
    { atMs: 3_000, host: "node0", text: "is killed", kind: "life" },
    { atMs: 4_000, host: "client1", text: "got p:node0.3", kind: "message" },
    { atMs: 9_900, host: "node1", text: "handles m:client3.1", kind: "message" },
    { atMs: 9_950, host: "node1", to: "node0", text: "24 bytes", kind: "packet" },
    { atMs: 10_001, host: "node1", text: "handles m:client2.7", kind: "message" },
  ];
  const finding = {
    invariant: "sent-is-handled",
    atMs: 10_000,
    host: "client1",
    text: "expected m:client2.7 to be handled, received nothing",
  };
  const plan = { ...planOf(1), actions: [] };
  const found = { finding, first: planOf(1), after: 3, plan, runs: 9, isMinimal: false };
  assertEquals(describeFound(found, { path: "a.json", trace }), [
    "FINDING sent-is-handled, at 10.000 s on client1",
    "  expected m:client2.7 to be handled, received nothing",
    "  seed 1, after 3 plans; shrunk to 0 of 10 actions in 9 runs (a smaller plan may exist)",
    "  replay: deno task simulate --replay a.json",
    "  plan: seed 1, 120 s, broker redis, 4 nodes, 50 clients, 10 topics; " +
    "features: presence, requests, direct",
    "  timeline:",
    "       1.0000 s  client1  session  connects",
    "       2.0000 s  client2  message  sends m:client2.7",
    "       3.0000 s  node0    life     is killed",
    "       9.9000 s  node1    message  handles m:client3.1",
  ]);
});
