import { assertEquals, assertThrows } from "@std/assert";
import {
  checkOptions,
  integer,
  listOf,
  numberIn,
  objectOr,
  objectWith,
  recordOf,
} from "./option_checks.ts";
import type { NumberCheck } from "./options.ts";

const KINDS = {
  any: 0,
  atMost: "number",
  handler: "function",
  isOn: "boolean",
  mode: ["fast", "slow"],
  names: listOf("string"),
  nested: { maxWaiting: "number" },
  nullable: "string or null",
  off: objectOr("boolean", { size: "number" }),
  prefix: "string",
  signal: "AbortSignal",
  store: objectWith("Store", "get"),
  table: recordOf({ size: "number" }),
};

Deno.test("checkOptions() accepts known options of the right types, and absent ones", () => {
  const { signal } = new AbortController();
  const all = {
    ...{ any: Symbol(), atMost: NaN, handler() {}, isOn: false, mode: "slow", names: ["a"] },
    ...{ nested: { maxWaiting: 1 }, nullable: null, off: { size: 1 }, prefix: "", signal },
    ...{ store: { get() {} }, table: { "a:{b}": { size: 1 } } },
  };
  const absent = Object.fromEntries(Object.keys(KINDS).map((name) => [name, undefined]));
  const inherited = Object.create({ prefix: "a" });
  for (const options of [{}, all, absent, { unknown: undefined }, { off: false }, inherited]) {
    checkOptions("create broker", options, KINDS);
  }
});

Deno.test("checkOptions() rejects a value of another type, and names it", () => {
  const cases: [options: unknown, text: string][] = [
    [null, "options must be an object, received null"],
    [() => {}, "options must be an object, received a function"],
    [[], "options must be an object, received an array"],
    [{ atMost: "1" }, 'atMost must be a number, received "1"'],
    [{ handler: true }, "handler must be a function, received true"],
    [{ isOn: "yes" }, "isOn must be a boolean, received a string"],
    [{ mode: "quick" }, 'mode must be "fast" or "slow", received "quick"'],
    [{ mode: 1 }, 'mode must be "fast" or "slow", received 1'],
    [{ names: "a" }, "names must be an array, received a string"],
    [{ names: ["a", 1] }, "names[1] must be a string, received 1"],
    [{ nested: true }, "nested must be an object, received true"],
    [{ nested: { maxWaiting: [] } }, "nested.maxWaiting must be a number, received an array"],
    [{ nullable: 1 }, "nullable must be a string or null, received 1"],
    [{ off: "no" }, "off must be an object or a boolean, received a string"],
    [{ off: { size: "" } }, 'off.size must be a number, received ""'],
    [{ prefix: null }, "prefix must be a string, received null"],
    [{ signal: new AbortController() }, "must be an AbortSignal, received AbortController"],
    [{ store: Promise.resolve({}) }, "store must be a Store, received Promise; await it"],
    [{ table: ["a"] }, "table must be an object, received an array"],
    [{ table: { a: { size: "1" } } }, 'table["a"].size must be a number, received "1"'],
    [Object.create({ prefix: 1 }), "prefix must be a string, received 1"],
  ];
  for (const [options, text] of cases) {
    const error = assertThrows(() => checkOptions("create broker", options, KINDS), TypeError);
    assertEquals(error.message.startsWith("Cannot create broker: "), true);
    assertEquals(error.message.includes(text), true, `${error.message}, expected ${text}`);
  }
});

Deno.test("checkOptions() rejects an unknown name, and suggests a similar one", () => {
  const known = { maxWaiting: 0, prefix: 0, timeoutMs: 0, token: 0, url: 0 };
  const cases: [name: string, hint: string][] = [
    ["maxwaiting", '; did you mean "maxWaiting"?'],
    ["maxWaitng", '; did you mean "maxWaiting"?'],
    ["maxWaitinng", '; did you mean "maxWaiting"?'],
    ["maxWaitnig", '; did you mean "maxWaiting"?'],
    ["prefox", '; did you mean "prefix"?'],
    ["urls", '; did you mean "url"?'],
    ["timeout", '; did you mean "timeoutMs"?'],
    ["auth", `; socket.io's "auth" is token, a string or a function that returns one`],
    // Without a counterpart of socket.io's option.
    ["reconnection", ""],
    ["servers", ""],
    ["__proto__", ""],
    ["constructor", ""],
  ];
  for (const [name, hint] of cases) {
    const options = Object.fromEntries([[name, 1]]);
    const error = assertThrows(() => checkOptions("create broker", options, known), TypeError);
    const rule = "Cannot create broker: unknown option";
    assertEquals(error.message, `${rule} "${name}"${hint}`);
  }
  assertThrows(
    () => checkOptions("create broker", { nested: { maxwaiting: 1 } }, KINDS),
    TypeError,
    'unknown option "maxwaiting" in nested; did you mean "maxWaiting"?',
  );
});

Deno.test("numberIn() accepts its bounds, and names the valid numbers in the error", () => {
  const cases: [NumberCheck, right: number[], wrong: number, rule: string][] = [
    [integer(1), [1, 2 ** 53 - 1], 0.5, "a positive integer"],
    [integer(1, Infinity), [1, Infinity], 0, "a positive integer"],
    [integer(0), [0], -1, "an integer of 0 or more"],
    [integer(1, 5), [1, 5], 6, "an integer from 1 to 5"],
    [integer(Number.MIN_SAFE_INTEGER), [-7], 0.5, "an integer"],
    [numberIn({ min: 0, max: Infinity }), [0, 0.5, Infinity], NaN, "0 or more"],
    [numberIn({ min: 0, max: 1, isAbove: true }), [0.1, 1], 0, "above 0 and up to 1"],
    [numberIn({ min: 0, max: Infinity, isAbove: true }), [0.1], 0, "above 0"],
    [numberIn({ min: 0, max: Number.MAX_VALUE }), [0], Infinity, "a finite number of 0 or more"],
  ];
  for (const [check, right, wrong, rule] of cases) {
    const kinds = { limit: check };
    for (const limit of right) checkOptions("create broker", { limit }, kinds);
    const error = assertThrows(
      () => checkOptions("create broker", { limit: wrong }, kinds),
      RangeError,
    );
    assertEquals(error.message, `Cannot create broker: limit must be ${rule}, received ${wrong}`);
    assertThrows(() => checkOptions("create broker", { limit: "1" }, kinds), TypeError, "number");
  }
});
