import { assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { checkName, Names, slotOf } from "./_names.ts";

Deno.test("slotOf() is the slot that a cluster has for a name", () => {
  // What `redis-cli cluster keyslot` prints.
  assertEquals(slotOf("123456789"), 12_739);
  assertEquals(slotOf("foo"), 12_182);
  assertEquals(slotOf("{foo}bar"), 12_182);
  assertEquals(slotOf("bar{foo}{other}"), 12_182);
  assertEquals(slotOf("foo{}{bar}"), 8_363);
  assertEquals(slotOf("é😀"), 14_663);
});

Deno.test("Names puts all of one topic in one slot, whatever characters it has", () => {
  const names = new Names("skein");
  for (const topic of ["chat", "", "}", "{", "{}", "a}b{c}", "é😀", "\ud800"]) {
    const all = [
      names.channel(topic),
      names.keptChannel(topic),
      names.meta(topic),
      names.stream(topic),
      names.producer(topic, "}{"),
    ];
    assertEquals(new Set(all).size, all.length, topic);
    assertEquals(new Set(all.map(slotOf)).size, 1, topic);
  }
});

Deno.test("Names spreads topics over slots", () => {
  const names = new Names("skein");
  const slots = Array.from({ length: 100 }, (_, i) => slotOf(names.channel(`}room:${i}`)));
  assertEquals(new Set(slots).size, 1);
  const usual = Array.from({ length: 100 }, (_, i) => slotOf(names.channel(`room:${i}`)));
  assertEquals(new Set(usual).size > 95, true);
});

Deno.test("Names keeps topics apart that are no text in Unicode", () => {
  const names = new Names("skein");
  const bytes = (topic: string) => new TextEncoder().encode(names.channel(topic));
  assertNotEquals(bytes("\ud800"), bytes("\ud801"));
  assertNotEquals(bytes("\ud800"), bytes('"\\ud800"'));
});

Deno.test("checkName() refuses names of more than 64 KiB", () => {
  checkName("ü".repeat(32_768));
  for (const name of [`${"ü".repeat(32_768)}x`, "x".repeat(65_537)]) {
    assertThrows(() => checkName(name), RangeError, "at most 65536 bytes, received 65537");
  }
});
