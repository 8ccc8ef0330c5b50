import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { describe } from "./error_text.ts";
import { encodeJson } from "./json.ts";

class Point {
  constructor(readonly x: number, readonly y: number) {}
}

class Amount extends Point {
  toJSON(): number {
    return this.x;
  }
}

/** Values that JSON cannot hold, each with its description in the error. */
export const LOST: readonly (readonly [value: unknown, received: string])[] = [
  [() => {}, "a function"],
  [Symbol(), "symbol"],
  [NaN, "NaN"],
  [Infinity, "Infinity"],
  [new Map(), "Map"],
  [new Set(), "Set"],
  [new WeakMap(), "WeakMap"],
  [new ArrayBuffer(1), "ArrayBuffer"],
  [new DataView(new ArrayBuffer(1)), "DataView"],
  [Promise.resolve("a forgotten await"), "Promise"],
  [new Error("x"), "Error"],
  [new TypeError("x"), "TypeError"],
  [new Blob(["x"]), "Blob"],
  [/x/, "RegExp"],
  [new FormData(), "FormData"],
  [new Headers(), "Headers"],
  [new URLSearchParams(), "URLSearchParams"],
  [new Response(), "Response"],
  [new ReadableStream(), "ReadableStream"],
  [new AbortController().signal, "AbortSignal"],
  [Object("boxed"), "String"],
  [Object.create({ inherited: 1 }), "Object"],
  [(function* () {})(), "an object"],
  [new Point(1, 2), "Point"],
];

Deno.test("encodeJson() rejects values that JSON would drop or change, at any depth", () => {
  for (const [value, received] of [...LOST, [new Uint8Array(1), "Uint8Array"] as const]) {
    const rule = "Cannot send: data must be a value that JSON can hold, received ";
    const cases: [data: unknown, text: string][] = [
      [value, received],
      [{ a: [1, { b: value }] }, `${received} at a.1.b`],
      [[value], `${received} at 0`],
    ];
    for (const [data, text] of cases) {
      const error = assertThrows(() => encodeJson(data, "send"), TypeError);
      assertEquals(error.message, rule + text);
      assertThrows(() => encodeJson(data, "send", { topic: "a", data }), TypeError, rule + text);
    }
  }
});

Deno.test("encodeJson() rejects cycles, bigints and a toJSON without a result", () => {
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  const cases: [data: unknown, received: string][] = [
    [undefined, "undefined"],
    [[undefined], "undefined at 0"],
    [1n, "bigint"],
    [{ deep: [1n] }, "bigint at deep.0"],
    [[loop], "Object at 0.self"],
    [{ toJSON() {} }, "Object"],
    [{
      get broken() {
        throw new Error("Broken");
      },
    }, "Object"],
  ];
  for (const [data, received] of cases) {
    assertThrows(() => encodeJson(data, "send"), TypeError, `received ${received}`);
  }
  const data = { toJSON() {} };
  assertThrows(() => encodeJson(data, "send", { topic: "a", data }), TypeError, "received Object");
});

Deno.test("encodeJson() accepts plain objects of any realm, arrays, and objects with a toJSON", () => {
  const bare = Object.assign(Object.create(null), { a: 1 });
  // As in an object of another realm, the prototype itself has no prototype.
  const foreign = Object.assign(Object.create(Object.create(null)), { a: 1 });
  const cases: [data: unknown, text: string][] = [
    [null, "null"],
    ["a\nb\u2028", '"a\\nb\u2028"'],
    [{ a: 1, none: undefined }, '{"a":1}'],
    [bare, '{"a":1}'],
    [foreign, '{"a":1}'],
    [[1, [true]], "[1,[true]]"],
    [new Date(0), '"1970-01-01T00:00:00.000Z"'],
    [new URL("http://a/"), '"http://a/"'],
    [{ amount: new Amount(1, 2) }, '{"amount":1}'],
    [{ ...new Point(1, 2) }, '{"x":1,"y":2}'],
  ];
  for (const [data, text] of cases) assertStrictEquals(encodeJson(data, "send"), text);
});

/** An object whose `toJSON` is not among its keys, and that contains itself. */
function hidden(result: unknown): object {
  const object: Record<string, unknown> = { a: 1 };
  object.self = object;
  object.children = [object, object];
  return Object.defineProperty(object, "toJSON", { value: () => result });
}

Deno.test("encodeJson() doesn't enter what a toJSON replaces", () => {
  assertEquals(encodeJson(hidden(1), "send"), "1");
  assertEquals(encodeJson({ rows: [hidden([2])], at: hidden(3) }, "send"), '{"rows":[[2]],"at":3}');
  const large = [hidden("a".repeat(100_000))];
  assertEquals(encodeJson(large, "send"), JSON.stringify(large));
  const data = hidden(undefined);
  assertThrows(() => encodeJson(data, "send"), TypeError, "received Object");
  assertThrows(() => encodeJson(data, "send", { topic: "a", data }), TypeError, "received Object");
});

/** The first value that JSON would drop or change, in the order of keys, with its path. */
function firstLost(value: unknown, path: readonly string[] = []): [unknown, string] | undefined {
  if (value === null || typeof value === "string" || typeof value === "boolean") return undefined;
  if (typeof value === "number" && Number.isFinite(value)) return undefined;
  if ((value as { toJSON?: unknown } | undefined)?.toJSON && typeof value === "object") {
    return undefined;
  }
  const isArray = Array.isArray(value);
  const chain = typeof value === "object" ? Object.getPrototypeOf(value) : undefined;
  const isPlain = chain === null || chain !== undefined && Object.getPrototypeOf(chain) === null;
  if (!isArray && !isPlain) return [value, path.join(".")];
  const entries = isArray
    ? Array.from(value, (item, i) => [`${i}`, item] as const)
    : Object.entries(value as object).filter(([, item]) => item !== undefined);
  for (const [key, item] of entries) {
    const lost = firstLost(item, [...path, key]);
    if (lost) return lost;
  }
  return undefined;
}

Deno.test("encodeJson() returns the text of JSON, or rejects the first lost value: any data", () => {
  const odd: readonly unknown[] = [
    ...LOST.map(([value]) => value),
    undefined,
    -Infinity,
    new Date(0),
    new Amount(1, 2),
    hidden(4),
    { toJSON: 5 },
    { toJSON: undefined, then: NaN },
    Object.assign(Object.create(null), { a: 1 }),
    Object.assign(Object.create(Object.create(null)), { a: 1 }),
    { a: 1, [Symbol()]: NaN },
    Object.defineProperty({ a: 1 }, "unlisted", { value: NaN }),
    { constructor: Object },
    JSON.parse('{"__proto__":{"toJSON":1}}'),
    [1, , 3],
  ];
  const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
    tree: fc.oneof(
      { maxDepth: 4, withCrossShrink: true },
      { weight: 6, arbitrary: fc.constantFrom(null, true, 0, -0, 1.5, 2 ** 53, "", "a\u2028\n") },
      { weight: 1, arbitrary: fc.constantFrom(...odd) },
      { weight: 2, arbitrary: fc.array(tie("tree"), { maxLength: 4 }) },
      {
        weight: 3,
        arbitrary: fc.dictionary(fc.constantFrom("a", "b", "1", "data", "toJSON"), tie("tree"), {
          maxKeys: 4,
        }),
      },
    ),
  }));
  fc.assert(
    fc.property(tree, fc.boolean(), (data, isAlone) => {
      const holder = isAlone ? data : { topic: "a", data };
      const lost = firstLost(data);
      const isUsable = typeof data !== "object" || JSON.stringify(data) !== undefined;
      if (lost === undefined && isUsable) {
        assertStrictEquals(encodeJson(data, "send", holder), JSON.stringify(holder));
        return;
      }
      const [value, path] = lost ?? [data, ""];
      const error = assertThrows(() => encodeJson(data, "send", holder), TypeError);
      const at = path === "" ? "" : ` at ${path}`;
      const rule = "Cannot send: data must be a value that JSON can hold, received ";
      assertEquals(error.message, rule + describe(value) + at);
    }),
    { numRuns: 3_000 },
  );
});
