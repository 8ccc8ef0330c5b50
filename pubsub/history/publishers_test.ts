import { assertEquals } from "@std/assert";
import { Holders, MAX_MADE, Publishers } from "./publishers.ts";

const HOUR_MS = 3_600_000;

Deno.test("Publishers.first() finds nothing while no publisher created many histories", () => {
  const publishers = new Publishers(10_000);
  for (let i = 0; i < MAX_MADE; i++) publishers.note(`a${i}`, "ann", 0);
  for (let i = 0; i < 10 * MAX_MADE; i++) publishers.note(`n${i}`, undefined, 0);
  assertEquals(publishers.first(0), undefined);
});

Deno.test("Publishers.first() finds the oldest history of the publisher that created the most", () => {
  const publishers = new Publishers(10_000);
  for (let i = 0; i < MAX_MADE + 2; i++) publishers.note(`a${i}`, "ann", 0);
  for (let i = 0; i < MAX_MADE + 5; i++) publishers.note(`e${i}`, "eve", 0);
  for (const topic of ["e0", "e1", "e2"]) {
    assertEquals(publishers.first(0), topic);
    publishers.forget(topic);
  }
  assertEquals(publishers.first(0), "a0");
  publishers.note("a0", "bob", 0); // Created again by another publisher.
  assertEquals(publishers.first(0), "e3");
});

Deno.test("Publishers forgets the publishers of histories after an hour, and everything on clear()", () => {
  const publishers = new Publishers(10_000);
  for (let i = 0; i <= MAX_MADE; i++) publishers.note(`a${i}`, "ann", i);
  assertEquals(publishers.first(HOUR_MS - 1), "a0");
  assertEquals(publishers.first(HOUR_MS), undefined);
  for (let i = 0; i <= MAX_MADE; i++) publishers.note(`b${i}`, "bob", HOUR_MS);
  publishers.forget("unknown");
  assertEquals(publishers.first(HOUR_MS), "b0");
  publishers.clear();
  assertEquals(publishers.first(HOUR_MS), undefined);
});

Deno.test("Publishers.first() finds a publisher that created more than half of a few topics", () => {
  const publishers = new Publishers(10);
  for (let i = 0; i < 5; i++) publishers.note(`e${i}`, "eve", 0);
  assertEquals(publishers.first(0), undefined);
  publishers.note("e5", "eve", 0);
  assertEquals(publishers.first(0), "e0");
});

/** Holders of these histories: the topic, its publisher and its bytes, the quietest first. */
function holding(...histories: readonly (readonly [string, string | undefined, number])[]) {
  const holders = new Holders();
  for (const [topic, publisher, bytes] of histories) {
    holders.note(topic, publisher);
    holders.count(topic, bytes);
  }
  return holders;
}

Deno.test("Holders.first() finds the quietest history of the publisher with the most bytes", () => {
  const holders = holding(["a", "ann", 100], ["e", "eve", 300], ["f", "eve", 700], [
    "n",
    undefined,
    9_000,
  ]);
  assertEquals(holders.first(8_000 - 1), "e");
  holders.use("e");
  assertEquals(holders.first(8_000 - 1), "f");
  assertEquals(holders.first(8_000), undefined);
  holders.forget("f");
  assertEquals(holders.first(1_000), "e");
  holders.count("e", 1);
  assertEquals(holders.first(500), "a");
  holders.note("a", "bob"); // Created again by another publisher.
  holders.count("a", 200);
  assertEquals(holders.first(500), "a");
  for (const topic of ["a", "e", "unknown"]) holders.forget(topic);
  assertEquals(holders.first(0), undefined);
  holders.note("e", "eve");
  holders.count("e", 10);
  assertEquals(holders.first(10), "e");
  holders.clear();
  assertEquals(holders.first(0), undefined);
});
