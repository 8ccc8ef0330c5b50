import { assertEquals, assertThrows } from "@std/assert";
import { checkOptions, listOf, objectOr, objectWith, recordOf } from "./option_checks.ts";

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

Deno.test("checkOptions() takes known options of the right types, and absent ones", () => {
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
    [null, "options must be of type object, received null"],
    [() => {}, "options must be of type object, received function"],
    [[], "options must be of type object, received an array"],
    [{ atMost: "1" }, "atMost must be of type number, received a string"],
    [{ handler: true }, "handler must be of type function, received boolean"],
    [{ isOn: "yes" }, "isOn must be of type boolean, received a string"],
    [{ mode: "quick" }, "mode must be one of fast, slow, received quick"],
    [{ mode: 1 }, "mode must be one of fast, slow, received 1"],
    [{ names: "a" }, "names must be of type array, received a string"],
    [{ names: ["a", 1] }, "names[1] must be of type string, received 1"],
    [{ nested: true }, "nested must be of type object, received boolean"],
    [{ nested: { maxWaiting: [] } }, "nested.maxWaiting must be of type number, received an array"],
    [{ nullable: 1 }, "nullable must be of type string or null, received 1"],
    [{ off: "no" }, "off must be of type object or boolean, received a string"],
    [{ off: { size: "" } }, "off.size must be of type number, received an empty string"],
    [{ prefix: null }, "prefix must be of type string, received null"],
    [{ signal: new AbortController() }, "must be of type AbortSignal, received AbortController"],
    [{ store: Promise.resolve({}) }, "store must be of type Store, received Promise"],
    [{ table: ["a"] }, "table must be of type object, received an array"],
    [{ table: { a: { size: "1" } } }, 'table["a"].size must be of type number, received a string'],
    [Object.create({ prefix: 1 }), "prefix must be of type string, received 1"],
  ];
  for (const [options, text] of cases) {
    const error = assertThrows(() => checkOptions("create broker", options, KINDS), TypeError);
    assertEquals(error.message.startsWith("Cannot create broker: "), true);
    assertEquals(error.message.includes(text), true, `${error.message}, expected ${text}`);
  }
});

Deno.test("checkOptions() rejects an unknown name, and names the one that may be meant", () => {
  const known = { maxWaiting: 0, prefix: 0, timeoutMs: 0, token: 0, url: 0 };
  const cases: [name: string, hint: string][] = [
    ["maxwaiting", '; "maxWaiting" may be meant'],
    ["maxWaitng", '; "maxWaiting" may be meant'],
    ["maxWaitinng", '; "maxWaiting" may be meant'],
    ["maxWaitnig", '; "maxWaiting" may be meant'],
    ["prefox", '; "prefix" may be meant'],
    ["urls", '; "url" may be meant'],
    ["timeout", '; "timeoutMs" may be meant'],
    ["auth", `; socket.io's "auth" is token, a text or a function that returns one`],
    // Where no option stands for that of socket.io.
    ["reconnection", ""],
    ["servers", ""],
    ["__proto__", ""],
    ["constructor", ""],
  ];
  for (const [name, hint] of cases) {
    const options = Object.fromEntries([[name, 1]]);
    const error = assertThrows(() => checkOptions("create broker", options, known), TypeError);
    const rule = "Cannot create broker: options must have known keys";
    assertEquals(error.message, `${rule}, received "${name}"${hint}`);
  }
  assertThrows(
    () => checkOptions("create broker", { nested: { maxwaiting: 1 } }, KINDS),
    TypeError,
    'nested must have known keys, received "maxwaiting"; "maxWaiting" may be meant',
  );
});
