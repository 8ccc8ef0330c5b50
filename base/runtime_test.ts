import { assertEquals, assertMatch } from "@std/assert";
import { platformRuntime } from "./runtime.ts";

Deno.test("Runtime.randomUUID() makes UUIDs of version 4 on a page without crypto.randomUUID()", () => {
  Object.defineProperty(crypto, "randomUUID", { value: undefined, configurable: true });
  try {
    const ids = Array.from({ length: 100 }, () => platformRuntime().randomUUID());
    for (const id of ids) {
      assertMatch(id, /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
    }
    // Each digit is random: none is the same in all of them, except the dashes and the version.
    const fixed = Array.from(ids[0]!, (_, at) => at)
      .filter((at) => ids.every((id) => id[at] === ids[0]![at]));
    assertEquals(fixed, [8, 13, 14, 18, 23]);
  } finally {
    delete (crypto as Partial<Crypto>).randomUUID;
  }
});
