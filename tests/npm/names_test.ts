import { assertEquals } from "@std/assert";
import type { Repository } from "../../tools/arrows.ts";
import { conditionalSpreads, doubleNames, oneUserInterfaces } from "../../tools/names.ts";

const repository = (
  files: Record<string, string>,
  exports: Record<string, string> = {},
): Repository => ({ files: new Map(Object.entries(files)), name: "@skein/skein", exports });

Deno.test("doubleNames() lists types and functions that the library declares twice", () => {
  const files = repository({
    "base/a.ts":
      "export function keyOf(a: 1): 1;\nexport function keyOf(a: number) { return a; }\n",
    "base/b.ts": "class B { keyOf() {} }\nconst keyOf = (b: string) => b;\ninterface Entry {}\n",
    "session/c.ts":
      "\ntype Entry = 1;\nconst value = 1;\nfunction outer() { function inner() {} }\n",
    "session/d.ts": "const value = 2;\nfunction inner() {}\n",
    "session/d_test.ts": "function inner() {}\nclass B {}\n",
  });
  assertEquals(doubleNames(files), [
    { kind: "type", name: "Entry", places: ["base/b.ts:3", "session/c.ts:2"] },
    { kind: "function", name: "keyOf", places: ["base/a.ts:1", "base/b.ts:2"] },
  ]);
});

Deno.test("conditionalSpreads() lists spreads into objects that depend on a condition", () => {
  const files = repository({
    "base/a.ts": "const a = { ...(b === undefined ? {} : { b }),\n  ...(c && { c }), ...d };\n" +
      "const e = [...(f ? [] : [1])]; // ...(g ? {} : { g })\n",
    "base/a_test.ts": "const a = { ...(b ? {} : { b }) };\n",
  });
  assertEquals(conditionalSpreads(files), ["base/a.ts:1", "base/a.ts:2"]);
});

Deno.test("oneUserInterfaces() lists interfaces with one class or object and no double", () => {
  const imports = 'import { A, B, C, D, E, F } from "./taken.ts";\n';
  const taken = "ABCDEF".replace(
    /\w/g,
    "export interface $&Host { send(): void }\n" +
      "export class $& { constructor(host: $&Host) { host.send(); } }\n",
  );
  const files = {
    "session/taken.ts": taken,
    "session/user.ts": `${imports}export class User {\n  a = new A(this);\n` +
      "  b = new B({ send() {} });\n  c = new C(this);\n  d = new D(this);\n  e = new E(this);\n" +
      "  send(): void {}\n}\n",
    "session/other.ts": `${imports}new C({ send() {} });\n`,
    "session/taken_test.ts": `${imports}new D({ send() {} });\nnew F({ send() {} });\n`,
    "session/mod.ts": 'export type { EHost } from "./taken.ts";\n',
    "session/record.ts": "interface Wait { end(): void }\nexport const waits: Wait[] = [];\n" +
      "waits.push({ end() {} });\n",
  };
  assertEquals(oneUserInterfaces(repository(files, { "./session": "./session/mod.ts" })), [
    { name: "AHost", place: "session/taken.ts:1", implementer: "User (session/user.ts:2)" },
    { name: "BHost", place: "session/taken.ts:3", implementer: "session/user.ts:4" },
  ]);
});
