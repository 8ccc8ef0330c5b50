import { assertEquals, assertNotEquals } from "@std/assert";
import { logTopic } from "../../../streams/logs/log_names.ts";
import { RedisNames, slotOf } from "../format.ts";
import { RedisLogNames } from "./names.ts";

Deno.test("RedisLogNames maps each log to one slot, together with its index and its announcements", () => {
  const plain = new RedisNames("skein");
  const names = new RedisLogNames(plain);
  for (const id of ["chat", "", "}", "{", "{}", "a}b{c}", "é😀", "\ud800"]) {
    const keys = names.of(id);
    const all = Object.values(keys);
    assertEquals(new Set(all).size, all.length, id);
    assertEquals(new Set(all.map(slotOf)).size, 1, id);
    assertEquals(names.indexes.stream.includes(keys.index), true, id);
    assertEquals(plain.channel(logTopic(id)), keys.channel, id);
  }
  assertNotEquals(names.of("\ud800").state, names.of("\ud801").state);
});

Deno.test("RedisLogNames spreads logs evenly over the masters of a cluster", () => {
  const plain = new RedisNames("skein");
  const names = new RedisLogNames(plain);
  const parts = names.indexes.answer.map((index) => Math.floor(slotOf(index) / 512));
  assertEquals(parts, Array.from({ length: 32 }, (_, i) => i));
  const used = Array.from({ length: 1_000 }, (_, i) => names.of(`answer-${i}`).index);
  assertEquals(new Set(used).size, 32);
});
