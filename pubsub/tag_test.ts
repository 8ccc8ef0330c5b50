import { assert, assertEquals } from "@std/assert";
import { platformRuntime } from "../base/runtime.ts";
import { tagOf, Tags } from "./tag.ts";

Deno.test("Tags.next() generates unique tags, also different from another broker's", () => {
  const [one, other] = [new Tags(platformRuntime()), new Tags(platformRuntime())];
  const all = Array.from({ length: 1_000 }, () => [one.next(), other.next()]);
  assertEquals(new Set(all.flat()).size, 2_000);
  for (const tag of all.flat()) assert(/^[\w-]{6}$/.test(tag), tag);
});

Deno.test("tagOf() spreads similar ids over all tags", () => {
  const producer = crypto.randomUUID();
  const all = new Set(Array.from({ length: 100_000 }, (_, i) => tagOf(`${producer}:${i}`)));
  // Among 2^36 tags, 100,000 random ones collide 0.07 times on average.
  assert(all.size >= 99_998, `${all.size} tags`);
  for (const place of [0, 3, 5]) {
    const seen = new Map<string, number>();
    for (const tag of all) seen.set(tag[place]!, (seen.get(tag[place]!) ?? 0) + 1);
    assertEquals(seen.size, 64);
    for (const count of seen.values()) assert(count > 1_200 && count < 1_950, `${count}`);
  }
});
