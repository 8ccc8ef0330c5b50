import { assertEquals } from "@std/assert";
import { CallerMarks, MARK_MS } from "./callers.ts";
import type { LogCaller, LogProducer } from "./log.ts";

/** The marks of a log, at a time that the test sets. */
class Bench {
  now = 1_000_000_000_000.5;
  readonly marks = new Map<string, string>();

  /** Makes an append, and returns what was known before, or that there is no room. */
  append(caller: LogCaller, append: { producer?: LogProducer; sequence?: string }): unknown {
    const view = {
      mark: (name: string) => this.marks.get(name),
      allMarks: () => this.marks,
    };
    const marks = new CallerMarks(view, { ...append, caller }, this.now);
    const writes = marks.after(append);
    if (writes === undefined) return "full";
    for (const name of writes.drop) this.marks.delete(name);
    for (const [name, mark] of writes.set) this.marks.set(name, mark);
    return [marks.numbers, marks.sequence];
  }
}

const ANN: LogCaller = { id: "ann", network: "home" };

Deno.test("CallerMarks forgets a producer and a sequence 7 days after the last append", () => {
  const bench = new Bench();
  const append = (seq: number) => ({
    producer: { id: "p", epoch: 1, seq },
    sequence: `a b ${seq}`,
  });
  assertEquals(bench.append(ANN, append(0)), [undefined, undefined]);
  bench.now += MARK_MS - 1;
  assertEquals(bench.append(ANN, append(1)), [[1, 0], "a b 0"]);
  bench.now += MARK_MS - 1;
  assertEquals(bench.append(ANN, append(2)), [[1, 1], "a b 1"]);
  bench.now += MARK_MS;
  assertEquals(bench.append(ANN, append(3)), [undefined, undefined]);
});

Deno.test("CallerMarks keeps what it knows if the clock is set back", () => {
  const bench = new Bench();
  const producer = { id: "p", epoch: 0, seq: 0 };
  bench.append(ANN, { producer });
  bench.now -= 2 * MARK_MS;
  assertEquals(bench.append(ANN, { producer }), [[0, 0], undefined]);
});

Deno.test("CallerMarks makes room by what is 7 days old, and drops nothing newer", () => {
  const bench = new Bench();
  const fill = (prefix: string) => {
    for (let i = 0;; i++) {
      const producer = { id: `${prefix}${i}`, epoch: 0, seq: 0 };
      if (bench.append(ANN, { producer }) === "full") return i;
    }
  };
  const most = fill("old");
  bench.now += MARK_MS - 1;
  assertEquals([fill("new"), bench.marks.size], [0, most]);
  // A known producer needs no room.
  const known = { producer: { id: "old0", epoch: 0, seq: 1 } };
  assertEquals(bench.append(ANN, known), [[0, 0], undefined]);
  bench.now += 1;
  assertEquals([fill("new"), bench.marks.size], [most - 1, most]);
  assertEquals(bench.append(ANN, known), [[0, 1], undefined]);
});

Deno.test("CallerMarks tells callers apart from guests, and guests by network", () => {
  const bench = new Bench();
  const guest = (network: string): LogCaller => ({ id: "", network });
  assertEquals(bench.append(ANN, { sequence: "9" }), [undefined, undefined]);
  for (const by of [guest("home"), guest("work"), guest("")]) {
    assertEquals(bench.append(by, { sequence: "1" }), [undefined, undefined]);
    assertEquals(bench.append(by, { sequence: "2" }), [undefined, "1"]);
  }
  assertEquals(bench.append({ ...ANN, network: "work" }, { sequence: "9" }), [undefined, "9"]);
});
