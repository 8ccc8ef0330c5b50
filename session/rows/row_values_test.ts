import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { encodeRow } from "./row_values.ts";

const cycle: Record<string, unknown> = {};
cycle.self = cycle;

/** Values that a row cannot have, each with its description. */
const FAULTS: readonly (readonly [value: unknown, received: string])[] = [
  [new Date(0), "Date"],
  [{ toJSON: () => 1 }, "a function at toJSON"],
  [Object.assign([1], { toJSON: () => 1 }), "an array"],
  [new Map(), "Map"],
  [1n, "bigint"],
  [NaN, "NaN"],
  [() => {}, "a function"],
  [[1, undefined], "undefined at 1"],
  [[, 1], "undefined at 0"],
  [cycle, "Object at self"],
];

Deno.test("encodeRow() returns the row's JSON, or rejects what is not plain JSON by its place", () => {
  const plain = fc.jsonValue({ maxDepth: 4 });
  fc.assert(fc.property(plain, (row) => {
    assertEquals(encodeRow(row), JSON.stringify(row));
    for (const [fault, received] of FAULTS) {
      const [what, at = ""] = received.split(" at ");
      const place = ["rows", "1", "value", ...(at === "" ? [] : [at])].join(".");
      assertThrows(
        () => encodeRow({ row, none: undefined, rows: [row, { value: fault }] }),
        TypeError,
        `Cannot write state: a row must be plain JSON, received ${what} at ${place}`,
      );
    }
  }));
  const bare = Object.assign(Object.create(null), { a: undefined, b: [-0, "a"] });
  assertEquals(encodeRow(bare), '{"b":[0,"a"]}');
});

Deno.test("encodeRow() rejects a row that is nested too deep", () => {
  let deep: unknown = 1;
  for (let depth = 0; depth < 200_000; depth++) deep = [deep];
  assertThrows(() => encodeRow(deep), TypeError, "not nested as deep");
});

Deno.test("encodeRow() says why a row cannot be read", () => {
  const row = {
    get total(): number {
      throw new Error("No prices");
    },
  };
  assertThrows(
    () => encodeRow(row),
    TypeError,
    "a row must be plain JSON: reading it throws No prices",
  );
});
