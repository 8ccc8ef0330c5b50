import { assertEquals } from "@std/assert";
import { describe } from "./error_text.ts";

Deno.test("describe() names the type of any value", () => {
  const cases: [value: unknown, word: string][] = [
    [Object.create(null), "an object"],
    [Object.create({ constructor: undefined }), "an object"],
    [new Date(0), "Date"],
    [new (class {})(), "an object"],
    [undefined, "undefined"],
  ];
  for (const [value, word] of cases) assertEquals(describe(value), word);
});
