import { assertEquals, assertStringIncludes } from "@std/assert";
import type { TraceEntry } from "./event_loop.ts";
import { Simulation } from "./simulation.ts";
import { firstDifference, timeline } from "./timeline.ts";

Deno.test("timeline() formats time, host, kind and fact in columns, with arrows", () => {
  const trace: TraceEntry[] = [
    { atMs: 1, host: "", text: "begins" },
    { atMs: 1_234.5, host: "a", to: "client", kind: "packet", text: "42 bytes", lastsMs: 2.25 },
    { atMs: 2_000, host: "a", kind: "life", text: "is killed" },
  ];
  assertEquals(timeline(trace).split("\n"), [
    "     0.0010 s              note    begins",
    "     1.2345 s  a → client  packet  42 bytes (2.3 ms)",
    "     2.0000 s  a           life    is killed",
  ]);
});

Deno.test("timeline() joins repeated facts, on one host with other numbers, or on more hosts", () => {
  const got = (atMs: number, host: string, n: number) => ({ atMs, host, text: `got ${n}` });
  const trace = [
    ...[got(1, "a", 1), got(2, "a", 2), got(3, "a", 3)],
    ...["b", "c", "d", "e", "f"].map((host, i) => got(10 + i, host, 4)),
    { atMs: 20, host: "a", text: "got none" },
  ];
  assertEquals(timeline(trace).split("\n").map((line) => line.slice(15)), [
    "a                   note  got 1 … got 3 (3 times until 0.0030 s)",
    "b, c, d and 2 more  note  got 4 (5 times until 0.0140 s)",
    "a                   note  got none",
  ]);
});

Deno.test("timeline() joins one fact of many hosts, and keeps the facts of each host in order", () => {
  const trace: TraceEntry[] = [];
  for (const [i, text] of ["one", "two"].entries()) {
    for (const [j, host] of ["a", "b", "c"].entries()) {
      trace.push({ atMs: 10 * j + i, host, text: `got ${text}` });
    }
  }
  trace.sort((x, y) => x.atMs - y.atMs);
  trace.push({ atMs: 30, host: "a", text: "got one" });
  assertEquals(timeline(trace).split("\n").map((line) => line.slice(15)), [
    "a, b, c  note  got one (3 times until 0.0200 s)",
    "a, b, c  note  got two (3 times until 0.0210 s)",
    "a        note  got one",
  ]);
});

Deno.test("timeline() shortens UUIDs, and includes the stack of a finding", () => {
  const trace: TraceEntry[] = [{
    atMs: 1,
    host: "a",
    kind: "finding",
    text: "throws at 01234567-89ab-4cde-8f01-23456789abcd",
    more: "Error: no\n    at one\n    at two",
  }];
  assertEquals(timeline(trace).split("\n"), [
    "     0.0010 s  a  finding  throws at 01234567…",
    "               at one",
    "               at two",
  ]);
});

Deno.test("timeline() ends at the last finding, and omits the start", () => {
  const trace: TraceEntry[] = Array.from("abcdefgh", (text, i) => ({
    atMs: i * 1_000,
    host: "x",
    text,
    kind: text === "g" ? "finding" : "note",
  }));
  const factsOf = (text: string) => text.split("\n").map((line) => line.split("  ").at(-1)!.trim());
  assertEquals(factsOf(timeline(trace, { lastMs: 2_000 })), ["e", "f", "g"]);
  assertEquals(factsOf(timeline(trace, { maxLines: 2 })), ["… 5 earlier lines", "f", "g"]);
  assertEquals(factsOf(timeline(trace, { untilMs: 1_000 })), ["a", "b"]);
  assertEquals(timeline([]), "");
});

Deno.test("firstDifference() names the last equal event and the first different fact", async () => {
  const run = async (lateMs: number, events = 5_000) => {
    const simulation = new Simulation({ seed: 1 });
    const host = simulation.host("a");
    for (let i = 0; i < events; i++) host.after(i, () => {});
    host.after(100.5, () => simulation.note("early", "a"));
    host.after(3_000 + lateMs, () => simulation.note("late", "a"));
    await simulation.run(10_000);
    return simulation;
  };
  assertEquals(firstDifference(await run(0), await run(0)), undefined);
  const difference = firstDifference(await run(0.5), await run(0.75))!;
  assertStringIncludes(difference, "equal until event 3000 at 2.9980 s\ndifferent at event 3004, ");
  assertStringIncludes(difference, "one run:      3.0005 s  a  note  late");
  assertStringIncludes(firstDifference(await run(0, 10), await run(0, 11))!, "12 and 13 events");
});
