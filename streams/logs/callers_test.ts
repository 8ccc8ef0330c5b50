import { assertEquals } from "@std/assert";
import { CALLER_MARKS, CallerMarks, IDLE_MARK_MS, MARK_MS, MAX_MARKS } from "./callers.ts";
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

  /** Appends with new producers until there is no room, and returns their number. */
  fill(caller: LogCaller, prefix: string): number {
    for (let i = 0;; i++) {
      const producer = { id: `${prefix}${i}`, epoch: 0, seq: 0 };
      if (this.append(caller, { producer }) === "full") return i;
    }
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

Deno.test("CallerMarks makes room by what is 7 days old", () => {
  const bench = new Bench();
  const sequence = { sequence: "1" };
  assertEquals(bench.append(ANN, sequence), [undefined, undefined]);
  bench.now += MARK_MS - 1;
  assertEquals(bench.fill(ANN, "new"), CALLER_MARKS - 1);
  assertEquals(bench.append(ANN, { sequence: "2" }), [undefined, "1"]);
  bench.now += MARK_MS - 1;
  bench.append(ANN, { producer: { id: "new0", epoch: 0, seq: 1 } });
  bench.now += 1;
  assertEquals([bench.fill(ANN, "next"), bench.marks.size], [CALLER_MARKS - 1, CALLER_MARKS]);
});

Deno.test("CallerMarks lets newer producers of a caller take the place of idle ones", () => {
  const bench = new Bench();
  const started = (id: string) => ({ producer: { id, epoch: 0, seq: 0 } });
  const next = (id: string, seq: number) => ({ producer: { id, epoch: 0, seq } });
  bench.append(ANN, { sequence: "1" });
  assertEquals(bench.fill(ANN, "old"), CALLER_MARKS - 1);
  bench.now += IDLE_MARK_MS - 1;
  assertEquals(bench.append(ANN, next("old0", 1)), [[0, 0], undefined]);
  assertEquals(bench.append(ANN, started("early")), "full");
  bench.now += 1;
  // Neither the sequence, nor the producer that was used in the meantime.
  assertEquals(bench.fill(ANN, "new"), CALLER_MARKS - 2);
  assertEquals(bench.marks.size, CALLER_MARKS);
  assertEquals(bench.append(ANN, { sequence: "2" }), [undefined, "1"]);
  assertEquals(bench.append(ANN, next("old0", 2)), [[0, 1], undefined]);
  assertEquals(bench.append(ANN, next("new0", 1)), [[0, 0], undefined]);
  bench.now += IDLE_MARK_MS - 1;
  bench.append(ANN, next("new0", 2));
  bench.now += 1;
  // The one that was not used for longest, of all that are idle.
  bench.append(ANN, started("last"));
  const gone = [...bench.marks.keys()].filter((name) => name.startsWith("p:")).toSorted();
  assertEquals(gone.includes("p:ann:new1"), false);
  assertEquals([gone.includes("p:ann:new0"), gone.includes("p:ann:old0")], [true, true]);
});

Deno.test("CallerMarks lets no caller take the place of another one's producers", () => {
  const bench = new Bench();
  for (let i = 0; bench.marks.size < MAX_MARKS; i++) {
    bench.fill({ id: `user${i}`, network: `net${i}` }, "p");
  }
  bench.now += IDLE_MARK_MS;
  assertEquals(bench.append(ANN, { producer: { id: "p", epoch: 0, seq: 0 } }), "full");
  const first = { id: "user0", network: "net0" };
  assertEquals(bench.fill(first, "q"), CALLER_MARKS);
  assertEquals(bench.marks.size, MAX_MARKS);
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
