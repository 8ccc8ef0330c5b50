import { assertEquals } from "@std/assert";
import { codeOf, importsOf } from "./_source.ts";

Deno.test("importsOf() finds every form of import", () => {
  const source = `/** Doc: import { no } from "./doc.ts"; */
import { a } from "./a.ts";
import type { B } from './b.ts';
import c, { d } from "./c.ts";
import * as e from "./e.ts";
import "./f.ts";
import {
  g,
  h, // from "./comment.ts"
} from "./g.ts";
export { i } from "./i.ts";
export * from "./j.ts";
export * as k from "./k.ts";
const l = await import("./l.ts");
const text = 'import { no } from "./string.ts"';
const template = \`import { no } from "./template.ts"; \${await import("./m.ts")}\`;
`;
  assertEquals(
    importsOf(source).map(({ specifier, line }) => `${specifier} ${line}`),
    [
      "./a.ts 2",
      "./b.ts 3",
      "./c.ts 4",
      "./e.ts 5",
      "./f.ts 6",
      "./g.ts 7",
      "./i.ts 11",
      "./j.ts 12",
      "./k.ts 13",
      "./l.ts 14",
      "./m.ts 16",
    ],
  );
});

Deno.test("codeOf() blanks everything except code and keeps every position", () => {
  const cases: [source: string, code: string][] = [
    ["a; // b", "a;     "],
    ["a /* b\nc */ d", "a     \n     d"],
    ['f("x//y", 1)', 'f("    ", 1)'],
    ['"a\\"b" + c', '"    " + c'],
    ["`a ${b + `c ${d}`} e` + f", "`  ${b + `  ${d}`}  ` + f"],
    ["`${{ a: 1 }.a}` + b", "`${{ a: 1 }.a}` + b"],
    ["x = /[/\"]'/g; y", "x =        g; y"],
    ["a / b / c", "a / b / c"],
    ["return /'/.test(x)", "return    .test(x)"],
  ];
  for (const [source, code] of cases) assertEquals(codeOf(source), code, source);
});
