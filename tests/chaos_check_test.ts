/**
 * Tests the program that checks the log of the chaos test: it must find every kind of fault.
 *
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import { check, type Truth } from "./soak/chaos/check.ts";
import { type Published, Recorder } from "./soak/chaos/log.ts";

const TRUTH: Truth = { size: 1_000, ttlMs: 60_000, outages: [], slackMs: 1_000 };

/** The log of one client, composed by a test. */
class Story {
  readonly #recorder = new Recorder("c1", "t1", 1_000);
  #offset = 0;
  #at = 1_000;

  gets(...numbers: number[]): this {
    for (const number of numbers) {
      this.#recorder.message("p1", number, { epoch: "e", offset: ++this.#offset }, this.#at++);
    }
    return this;
  }

  isTold(reason: Parameters<Recorder["gap"]>[0]): this {
    this.#recorder.gap(reason, this.#at++);
    return this;
  }

  check(published: Partial<Published> = {}, truth: Partial<Truth> = {}) {
    const all: Published = {
      publisher: "p1",
      topic: "t1",
      last: 5,
      unsure: [],
      times: [1_000],
      ...published,
    };
    return check([this.#recorder.read()], [all], { ...TRUTH, ...truth });
  }
}

const RESTART = { outages: [{ from: 900, to: 1_100 }] };

Deno.test("check() finds no fault if every message arrives exactly once and in order", () => {
  assertEquals(new Story().gets(1, 2, 3, 4, 5).check(), {
    delivered: 5,
    missing: 0,
    repeated: 0,
    gaps: {},
    faults: [],
  });
});

Deno.test("check() finds an unreported gap, also at the end, or of a whole topic", () => {
  const silent = /are missing without a report/;
  assertMatch(new Story().gets(1, 2, 4, 5).check().faults[0]!, silent);
  assertMatch(new Story().gets(1, 2, 3, 4).check().faults[0]!, silent);
  assertMatch(new Story().check().faults[0]!, silent);
  // A report about one gap does not cover the next gap.
  const twice = new Story().gets(1).isTold("new-epoch").gets(3, 5).check({}, RESTART);
  assertEquals([twice.faults.length, twice.missing], [1, 2]);
});

Deno.test("check() finds repeated and late messages", () => {
  assertMatch(new Story().gets(1, 2, 2, 3, 4, 5).check().faults[0]!, /p1 2 came after 2/);
  assertMatch(new Story().gets(1, 3, 2, 4, 5).check().faults[1]!, /p1 2 came after 3/);
  const again = new Story().gets(1, 2).isTold("too-old").gets(2, 3, 4, 5).check({}, RESTART);
  assertMatch(again.faults[0]!, /p1 2 came after 2/);
  const anew = new Story().gets(1, 2).isTold("new-epoch").gets(2, 3, 4, 5).check({}, RESTART);
  assertEquals([anew.faults, anew.repeated], [[], 1]);
  const twice = new Story().gets(1).isTold("new-epoch").gets(1, 2, 2, 3, 4, 5).check({}, RESTART);
  assertMatch(twice.faults[0]!, /p1 2 came after 2/);
});

Deno.test("check() finds offsets that do not increase, and messages without a position", () => {
  const recorder = new Recorder("c1", "t1", 0);
  recorder.message("p1", 1, { epoch: "e", offset: 2 }, 0);
  recorder.message("p1", 2, { epoch: "e", offset: 2 }, 0);
  recorder.message("p1", 3, undefined, 0);
  assertEquals(recorder.read().faults, ["offset 2 after 2 of e", "p1 3 has no place"]);
  assertEquals(recorder.last("p1"), 3);
});

Deno.test("check() accepts an unacknowledged message that is missing or arrives", () => {
  assertEquals(new Story().gets(1, 2, 4, 5).check({ unsure: [3] }).faults, []);
  assertEquals(new Story().gets(1, 2, 3, 4, 5).check({ unsure: [3, 5] }).faults, []);
});

Deno.test("check() accepts a reported gap with a true reason", () => {
  const story = () => new Story().gets(1, 2).isTold("new-epoch").gets(5);
  assertEquals(story().check({}, RESTART), {
    delivered: 3,
    missing: 2,
    repeated: 0,
    gaps: { "new-epoch": 1 },
    faults: [],
  });
  assertMatch(story().check().faults[0]!, /"new-epoch" is wrong/);
  const late = { outages: [{ from: 90_000, to: 91_000 }] };
  assertMatch(story().check({}, late).faults[0]!, /"new-epoch" is wrong/);
});

Deno.test("check() accepts gaps of messages that expired by number or by age", () => {
  const story = () => new Story().gets(1, 2).isTold("too-old").gets(5);
  assertMatch(story().check().faults[0]!, /"too-old" is wrong/);
  assertEquals(story().check({}, { ttlMs: 900 }).faults, []);
  const many = new Story().gets(1).isTold("too-old").gets(1_500);
  assertEquals(many.check({ last: 1_500 }).faults, []);
});
