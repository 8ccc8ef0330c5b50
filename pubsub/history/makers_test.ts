import { assertEquals } from "@std/assert";
import { Holders, Makers, MAX_MADE } from "./makers.ts";

const HOUR_MS = 3_600_000;

Deno.test("Makers.first() finds nothing while no maker created many histories", () => {
  const makers = new Makers(10_000);
  for (let i = 0; i < MAX_MADE; i++) makers.note(`a${i}`, "ann", 0);
  for (let i = 0; i < 10 * MAX_MADE; i++) makers.note(`n${i}`, undefined, 0);
  assertEquals(makers.first(0), undefined);
});

Deno.test("Makers.first() finds the oldest history of the maker that created the most", () => {
  const makers = new Makers(10_000);
  for (let i = 0; i < MAX_MADE + 2; i++) makers.note(`a${i}`, "ann", 0);
  for (let i = 0; i < MAX_MADE + 5; i++) makers.note(`e${i}`, "eve", 0);
  for (const topic of ["e0", "e1", "e2"]) {
    assertEquals(makers.first(0), topic);
    makers.forget(topic);
  }
  assertEquals(makers.first(0), "a0");
  makers.note("a0", "bob", 0); // Created again by another maker.
  assertEquals(makers.first(0), "e3");
});

Deno.test("Makers forgets the makers of histories after an hour, and everything on clear()", () => {
  const makers = new Makers(10_000);
  for (let i = 0; i <= MAX_MADE; i++) makers.note(`a${i}`, "ann", i);
  assertEquals(makers.first(HOUR_MS - 1), "a0");
  assertEquals(makers.first(HOUR_MS), undefined);
  for (let i = 0; i <= MAX_MADE; i++) makers.note(`b${i}`, "bob", HOUR_MS);
  makers.forget("unknown");
  assertEquals(makers.first(HOUR_MS), "b0");
  makers.clear();
  assertEquals(makers.first(HOUR_MS), undefined);
});

Deno.test("Makers.first() finds a maker that created more than half of a few topics", () => {
  const makers = new Makers(10);
  for (let i = 0; i < 5; i++) makers.note(`e${i}`, "eve", 0);
  assertEquals(makers.first(0), undefined);
  makers.note("e5", "eve", 0);
  assertEquals(makers.first(0), "e0");
});

/** Holders of these histories: the topic, its maker and its bytes, the quietest first. */
function holding(...histories: readonly (readonly [string, string | undefined, number])[]) {
  const holders = new Holders();
  for (const [topic, maker, bytes] of histories) {
    holders.note(topic, maker);
    holders.count(topic, bytes);
  }
  return holders;
}

Deno.test("Holders.first() finds the quietest history of the maker with the most bytes", () => {
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
  holders.note("a", "bob"); // Created again by another maker.
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
