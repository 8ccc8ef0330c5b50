import { assert, assertEquals } from "@std/assert";
import { isUnshown, rulesOfProtocol, UNSHOWN, UNSHOWN_SECTIONS } from "./rules.ts";
import { vectorFiles } from "./vectors.ts";

const FILES = [...vectorFiles("client"), ...vectorFiles("server")];
const CITED = new Set(
  FILES.flatMap(([, { vectors }]) => vectors.flatMap(({ rules }) => rules)),
);

Deno.test("protocol.md numbers its rules by section, from 1 and without gaps", () => {
  const last = new Map<number, number>();
  for (const rule of rulesOfProtocol()) {
    const [section, number] = rule.split(".").map(Number) as [number, number];
    assertEquals(number, (last.get(section) ?? 0) + 1, rule);
    last.set(section, number);
  }
  assertEquals([...last.keys()], Array.from(last, (_, i) => i + 1));
});

Deno.test("protocol.md refers only to rules that exist", () => {
  const rules = new Set(rulesOfProtocol());
  const text = Deno.readTextFileSync(new URL("../../docs/protocol.md", import.meta.url));
  for (
    const [, list] of text.matchAll(/\b(?:rules?|table) (\d+\.\d+(?:(?:,| to| and) \d+\.\d+)*)/g)
  ) {
    for (const [rule] of list!.matchAll(/\d+\.\d+/g)) assert(rules.has(rule), rule);
  }
});

Deno.test("vectors have unique names, and cite existing rules of protocol.md", () => {
  const rules = new Set(rulesOfProtocol());
  for (const [file, { vectors }] of FILES) {
    assertEquals(new Set(vectors.map(({ name }) => name)).size, vectors.length, file);
    for (const { name, rules: cited } of vectors) {
      assert(cited.length > 0, `${file}: ${name}`);
      for (const rule of cited) assert(rules.has(rule), `${file}: ${name}: ${rule}`);
    }
  }
});

Deno.test("vectors show every rule except those listed with a reason", () => {
  const unshown = rulesOfProtocol().filter((rule) => !CITED.has(rule));
  assertEquals(unshown.filter((rule) => !isUnshown(rule)), []);
  const stale = Object.keys(UNSHOWN).filter((rule) => !unshown.includes(rule));
  assertEquals(stale, [], "Shown by a vector, or removed");
});

Deno.test("reasons why a rule is not shown name existing tests", () => {
  for (const reason of Object.values({ ...UNSHOWN, ...UNSHOWN_SECTIONS })) {
    const file = /\S+_test\.ts$/.exec(reason)?.[0];
    if (file !== undefined) assert(Deno.statSync(new URL(`../../${file}`, import.meta.url)).isFile);
  }
});
