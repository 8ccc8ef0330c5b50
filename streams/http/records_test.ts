import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { bodyOf, eventDataOf, readRecords } from "./records.ts";
import { slicesOf } from "../stream_sender.ts";
import { Problem } from "../../server/http/problem.ts";

const JSON_TYPE = "application/json";
const encode = (text: string) => new TextEncoder().encode(text);

Deno.test("readRecords() keeps the text of each element of an array", () => {
  const cases: [body: string, records: string[]][] = [
    ['{"a":1}', ['{"a":1}']],
    [" 1 \n", ["1"]],
    ["null", ["null"]],
    ["[]", []],
    [" [ ] ", []],
    ["[1,2 , 3.0e1]", ["1", "2", "3.0e1"]],
    ['[{"a": [1, {"b": "],"}]},\n[[]] , "x" ]', ['{"a": [1, {"b": "],"}]}', "[[]]", '"x"']],
    ['["\\"", "\\\\", "\\\\\\",[", ""]', ['"\\""', '"\\\\"', '"\\\\\\",["', '""']],
    ["[[[1,2,3]]]", ["[[1,2,3]]"]],
    ['["ä€😀\\u0000"]', ['"ä€😀\\u0000"']],
    ['{"b":1,"b":2}', ['{"b":1,"b":2}']],
  ];
  for (const [body, records] of cases) {
    assertEquals(readRecords(encode(body), JSON_TYPE), records, body);
  }
});

Deno.test("readRecords() splits random arrays only at their own commas", () => {
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % below;
  };
  const value = (depth: number): unknown => {
    const texts = ["", '"', "\\", '\\"', "[", "]", "{,}", "a,b", "\n", "é"];
    switch (random(depth > 3 ? 4 : 6)) {
      case 0:
        return random(1_000) - 500;
      case 1:
        return [true, false, null][random(3)];
      case 2:
      case 3:
        return texts[random(10)]! + texts[random(10)]!;
      case 4:
        return Array.from({ length: random(4) }, () => value(depth + 1));
      default:
        return Object.fromEntries(
          Array.from({ length: random(4) }, () => [texts[random(10)]!, value(depth + 1)]),
        );
    }
  };
  for (let round = 0; round < 2_000; round++) {
    const elements = Array.from({ length: 1 + random(5) }, () => JSON.stringify(value(0)));
    const space = ["", " ", "\n\t"][random(3)]!;
    const text = `${space}[${space}${elements.join(`${space},${space}`)}${space}]`;
    const records = readRecords(encode(text), JSON_TYPE);
    assertEquals(records, elements, text);
    assertEquals(bodyOf(records, JSON_TYPE), `[${elements.join(",")}]`);
  }
});

Deno.test("readRecords() keeps no white space in memory", () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const heapBytes = () => (collect(), Deno.memoryUsage().heapUsed);
  const space = " ".repeat(1_000_000);
  const [record, other] = [`"${"a".repeat(30)}"`, `"${"b".repeat(30)}"`];
  const kept: unknown[] = [];
  const before = heapBytes();
  for (const [text, count] of [[`[${space}${record}, ${other}]`, 2], [`${record}${space}`, 1]]) {
    for (let i = 0; i < 20; i++) kept.push(readRecords(encode(text as string), JSON_TYPE));
    assertEquals(kept.at(-1), [record, other].slice(0, count as number));
  }
  const bytes = heapBytes() - before;
  assert(bytes < 5_000_000, `${bytes} bytes for ${kept.length} appends`);
});

Deno.test("readRecords() rejects invalid JSON, and too many elements", () => {
  const bodies = [encode("{"), encode("[1,]"), encode("\ufeff1"), Uint8Array.of(0x22, 0xff, 0x22)];
  for (const body of bodies) {
    const problem = assertThrows(() => readRecords(body, JSON_TYPE), Problem);
    assertEquals([problem.status, problem.code], [400, "bad-json"]);
  }
  const ones = (count: number) => encode(JSON.stringify(Array(count).fill(1)));
  assertEquals(readRecords(ones(10_000), JSON_TYPE).length, 10_000);
  assertEquals(assertThrows(() => readRecords(ones(10_001), JSON_TYPE), Problem).status, 413);
});

Deno.test("readRecords() decodes UTF-8 to a text, and keeps other bytes", () => {
  const mark = encode("\ufeffhello");
  const cut = encode("é").slice(0, 1);
  assertEquals(readRecords(mark, "text/plain; charset=utf-8"), ["\ufeffhello"]);
  assertEquals(readRecords(cut, "text/plain"), [cut]);
  assertEquals(readRecords(mark, "application/x-ndjson"), [mark]);
  assertEquals(readRecords(new Uint8Array(), "text/plain"), []);
});

Deno.test("bodyOf() and eventDataOf() join records of texts and bytes", () => {
  const [first, second] = [encode("é").slice(0, 1), encode("é").slice(1)];
  assertEquals(bodyOf(["a", "b"], "text/plain"), "ab");
  const mixed = bodyOf(["a", first, second], "text/plain");
  assert(mixed instanceof Uint8Array);
  assertEquals(new TextDecoder().decode(mixed), "aé");
  assertEquals(eventDataOf(["a", first, second], "text/plain"), "aé");
  assertEquals(eventDataOf([Uint8Array.of(1, 2, 3)], "application/octet-stream"), "AQID");
  assertEquals(eventDataOf(["1", "2"], JSON_TYPE), "[1,2]");
  assertEquals(bodyOf([], JSON_TYPE), "[]");
});

Deno.test("slicesOf() splits bytes anywhere, and texts between characters", () => {
  const smile = "\u{1f600}";
  const bytes = new Uint8Array(150_000).map((_, i) => i);
  const slices = [...slicesOf(bytes, 65_536)] as Uint8Array[];
  assertEquals(slices.map(({ length }) => length), [65_536, 65_536, 18_928]);
  assertEquals(bodyOf(slices, "application/octet-stream"), bytes);
  for (const text of ["short", smile.repeat(700), "\n".repeat(700), `a${smile.repeat(400)}`]) {
    const parts = [...slicesOf(text, 64)] as string[];
    assertEquals(parts.join(""), text);
    for (const part of parts) {
      assertEquals([part.isWellFormed(), encode(JSON.stringify(part)).length <= 64], [true, true]);
    }
  }
});

Deno.test("readRecords() rejects an element that is too large for a message", () => {
  const body = encode(JSON.stringify([1, "x".repeat(100)]));
  assertEquals(assertThrows(() => readRecords(body, JSON_TYPE, 100), Problem).status, 413);
  assertEquals(readRecords(body, JSON_TYPE, 102).length, 2);
});
