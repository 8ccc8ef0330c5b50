import { assert, assertEquals, assertThrows } from "@std/assert";
import { seededRandom } from "../../../transport/memory/path.ts";
import { Corpus } from "./corpus.ts";
import { planOf } from "./toy.ts";

Deno.test("Corpus.add() keeps plans that reach a rare state, and at most the rarest 512", () => {
  const corpus = new Corpus();
  const kept = Array.from({ length: 6 }, (_, i) => corpus.add(planOf(i), ["a", "b"]));
  assertEquals(kept, [true, true, true, true, false, false]);
  assert(corpus.add(planOf(6), ["b", "c"]));
  assertEquals([corpus.size, corpus.states], [5, 3]);
  for (let i = 0; i < 600; i++) corpus.add(planOf(i), [`state ${i}`]);
  assertEquals([corpus.size, corpus.states], [512, 603]);
});

Deno.test("Corpus.mutate() creates valid plans, the same with the same random numbers", () => {
  const make = () => {
    const corpus = new Corpus();
    for (let i = 0; i < 5; i++) corpus.add(planOf(i), [`${i}`]);
    const random = seededRandom(1);
    return Array.from({ length: 300 }, () => corpus.mutate(planOf(9), random));
  };
  const plans = make();
  assertEquals(plans, make());
  assert(new Set(plans.map((plan) => JSON.stringify(plan))).size > 250);
  for (const { actions, seconds } of plans) {
    assertEquals(actions, actions.toSorted((a, b) => a.atMs - b.atMs));
    assert(actions.length <= 256);
    for (const { atMs, lastsMs } of actions) {
      assert(Number.isInteger(atMs) && atMs >= 0 && atMs <= seconds * 1_000);
      assert(Number.isInteger(lastsMs) && lastsMs! >= 0);
    }
  }
});

Deno.test("Corpus.mutate() changes plans without actions, and needs a plan", () => {
  const corpus = new Corpus();
  assertThrows(() => corpus.mutate(planOf(1), Math.random), RangeError, "the corpus is empty");
  corpus.add({ ...planOf(1), actions: [] }, ["a"]);
  const random = seededRandom(1);
  for (let i = 0; i < 50; i++) {
    assertEquals(corpus.mutate({ ...planOf(2), actions: [] }, random).actions, []);
  }
});
