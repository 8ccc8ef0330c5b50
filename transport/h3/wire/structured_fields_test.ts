import { assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../../tests/random.ts";
import {
  encodeStringItem,
  encodeStringList,
  parseStringItem,
  parseStringList,
} from "./structured_fields.ts";

const PRINTABLE = Array.from({ length: 0x5f }, (_, index) => String.fromCharCode(0x20 + index));

/** Parameters with every kind of value that may follow a string (RFC 9651 section 3.1.2). */
const PARAMETERS = [
  ";a",
  ";*",
  "; a",
  ";  a=1;b",
  ";a=-1",
  ";a=999999999999999",
  ";a=1.5",
  ";a=-123456789012.123",
  ";a=token",
  ";a=*t/x:y",
  ";a=T!#$%&'*+-.^_`|~",
  ';a="text"',
  ';a="q\\"\\\\q, x"',
  ";a=:aGVsbG8=:",
  ";a=::",
  ";a=?0",
  ";a=?1;b-c_d.e*9=2",
  ";a=@1659578233",
  ";a=@-1",
  ';a=%"f%c3%bc%22"',
  ";a=1;a=2",
];

const WRONG_PARAMETERS = [
  ";",
  " ;a",
  ";A",
  ";1",
  ";a=",
  ";a =1",
  ";a= 1",
  ";a=1.",
  ";a=1.2345",
  ";a=1234567890123.1",
  ";a=1234567890123456",
  ";a=--1",
  ";a=@1.5",
  ";a=?2",
  ";a=:a",
  ';a="x',
  ';a=%"%C3"',
  ";a=(1)",
  "a",
];

Deno.test("parseStringList() reads strings in order", () => {
  const cases: [value: string, strings: string[]][] = [
    ["", []],
    ["   ", []],
    ['""', [""]],
    ['"a"', ["a"]],
    ['"a1", "b2"', ["a1", "b2"]],
    ['  "a","b"\t ,\t "c" \t', ["a", "b", "c"]],
    ['"a", "a"', ["a", "a"]],
    ['"a,b", "c;d=1"', ["a,b", "c;d=1"]],
    ['"a\\"b\\\\c"', ['a"b\\c']],
  ];
  for (const [value, strings] of cases) assertEquals(parseStringList(value), strings, value);
});

Deno.test("parseStringList() returns undefined for any other input", () => {
  const cases = [
    "a",
    "1",
    "?1",
    ":aa==:",
    '"a", b',
    '("a" "b")',
    '"a", ("b")',
    ",",
    '"a",',
    '"a", ',
    ', "a"',
    '"a",, "b"',
    '"a" "b"',
    '"a""b"',
    '"a',
    '"a\\',
    '"a\\x"',
    '"a\tb"',
    '"é"',
    '"a\x7f"',
    "'a'",
    '\t"a"',
    '"a"\n',
    '"a"="b"',
    'x="a"',
  ];
  for (const value of cases) assertEquals(parseStringList(value), undefined, value);
});

Deno.test("parseStringList() and parseStringItem() ignore parameters", () => {
  for (const parameters of PARAMETERS) {
    assertEquals(parseStringItem(`"x"${parameters}`), "x", parameters);
    assertEquals(
      parseStringList(`"x"${parameters}, "y"${parameters}`),
      ["x", "y"],
      parameters,
    );
  }
});

Deno.test("parseStringList() and parseStringItem() reject invalid parameters", () => {
  for (const parameters of WRONG_PARAMETERS) {
    assertEquals(parseStringItem(`"x"${parameters}`), undefined, parameters);
    assertEquals(parseStringList(`"x"${parameters}`), undefined, parameters);
    assertEquals(parseStringList(`"x"${parameters}, "y"`), undefined, parameters);
  }
});

Deno.test("parseStringItem() reads one string", () => {
  assertEquals(parseStringItem('"a1"'), "a1");
  assertEquals(parseStringItem(' "a\\"" '), 'a"');
  assertEquals(parseStringItem('""'), "");
  for (const value of ["", " ", "a", '"a", "b"', '"a" x', '"a"\t', '"a', "1"]) {
    assertEquals(parseStringItem(value), undefined, value);
  }
});

Deno.test("encodeStringItem() and encodeStringList() escape quotes and backslashes", () => {
  assertEquals(encodeStringItem('a"b\\c'), '"a\\"b\\\\c"');
  assertEquals(encodeStringList(['"', "b"]), '"\\"", "b"');
  assertEquals(encodeStringList(new Set<string>()), "");
});

Deno.test("encodeStringItem() and encodeStringList() reject everything except printable ASCII", () => {
  for (const value of ["a\n", "\0", "\x7f", "é", "🎈"]) {
    const message = `Cannot encode string: it must be printable ASCII, received ` +
      JSON.stringify(value);
    assertThrows(() => encodeStringItem(value), TypeError, message);
    assertThrows(() => encodeStringList(["a", value]), TypeError, message);
  }
});

Deno.test("parseStringList() reads the output of encodeStringList() back", () => {
  const random = new Random(9651);
  const draw = () =>
    Array.from({ length: random.below(12) }, () => random.pick(PRINTABLE)).join("");
  for (let run = 0; run < 2000; run++) {
    const strings = Array.from({ length: random.below(6) }, draw);
    assertEquals(parseStringList(encodeStringList(strings)), strings);
    for (const string of strings) assertEquals(parseStringItem(encodeStringItem(string)), string);
  }
});

Deno.test("parseStringList() reads any text without an error", () => {
  const random = new Random(8941);
  const characters = [...'""""\\\\,,;;  \t=ab1.*?:@%()é'];
  for (let run = 0; run < 20_000; run++) {
    const text = Array.from({ length: random.below(24) }, () => random.pick(characters)).join("");
    const strings = parseStringList(text);
    if (strings !== undefined) assertEquals(parseStringList(encodeStringList(strings)), strings);
    parseStringItem(text);
  }
});

Deno.test("parseStringList() reads a long field", () => {
  const strings = Array.from({ length: 5000 }, (_, index) => `protocol-${index}`);
  assertEquals(parseStringList(encodeStringList(strings)), strings);
  assertEquals(parseStringList(`"${"x".repeat(65_000)}"`)?.[0]?.length, 65_000);
  assertEquals(parseStringList(`"${'\\"'.repeat(30_000)}`), undefined);
  assertEquals(parseStringList(" ".repeat(65_000) + "x"), undefined);
  assertEquals(parseStringList('"a"' + " ".repeat(65_000) + "x"), undefined);
  assertEquals(parseStringList('"a"' + ";a=1".repeat(15_000)), ["a"]);
});
