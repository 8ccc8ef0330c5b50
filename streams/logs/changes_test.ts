import { assertEquals } from "@std/assert";
import { decide, type LogView } from "./changes.ts";

/** A log with one producer and one fork, which records when they are counted. */
function countedLog(isDeleted?: true) {
  const counted: string[] = [];
  const log: LogView = {
    state: {
      contentType: "text/plain",
      identity: "a",
      first: 0,
      start: 0,
      tail: 1,
      bytes: 1,
      isDeleted,
    },
    get producerCount() {
      counted.push("producers");
      return 1;
    },
    get forkCount() {
      counted.push("forks");
      return 1;
    },
    numbersOf: (producer) => producer === "ann" ? [0, 0] : undefined,
    hasFork: (fork) => fork === "fork",
  };
  return { log, counted };
}

const MOMENT = { now: 1_000, count: 1 };

Deno.test("decide() counts the producers of a log only for an append of a new one", () => {
  const { log, counted } = countedLog();
  const append = (id: string, seq: number) => {
    const options = { records: ["x"], maxBytes: 1_000, producer: { id, epoch: 0, seq } };
    return decide(log, ["append", options], MOMENT).kind;
  };
  assertEquals([append("ann", 0), append("ann", 1)], ["none", "write"]);
  assertEquals(counted, []);
  assertEquals(append("bob", 0), "write");
  assertEquals(counted, ["producers"]);
});

Deno.test("decide() counts the forks of a log only if their number matters", () => {
  const present = countedLog();
  decide(present.log, ["delete", { ifExpired: true }], MOMENT);
  decide(present.log, ["release", { fork: "fork" }], MOMENT);
  assertEquals(present.counted, []);
  const deleted = countedLog(true);
  assertEquals(decide(deleted.log, ["release", { fork: "fork" }], MOMENT).kind, "remove");
  assertEquals(deleted.counted, ["forks"]);
});
