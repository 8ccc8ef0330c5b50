import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
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
  [() => {}, "function"],
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
    [{ deep: [1n] }, "Object"],
    [loop, "Object"],
    [{ toJSON() {} }, "Object"],
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
