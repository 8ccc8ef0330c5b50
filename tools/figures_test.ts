import { assert, assertEquals } from "@std/assert";
import { readRepository } from "./arrows.ts";
import { figuresOf, modulesOf } from "./figures.ts";

const figures = (files: Record<string, string>) =>
  figuresOf({ files: new Map(Object.entries(files)), name: "@skein/skein", exports: {} });

Deno.test("figuresOf() counts files and lines of the library by folder, without tests", () => {
  const { files, lines, folders } = figures({
    "errors.ts": "export const a = 1;\n",
    "session/session.ts": "export const b = 1;\n\nexport const c = 1;\n",
    "session/session_test.ts": "export const d = 1;\n",
    "tools/e.ts": "export const e = 1;\n",
  });
  assertEquals([files, lines], [2, 4]);
  assertEquals(Object.keys(folders), [".", "session"]);
  assertEquals(folders["session"], { files: 1, lines: 3 });
});

Deno.test("figuresOf() counts circles of types and of import()", () => {
  const { circles } = figures({
    "session/a.ts": 'import { b } from "./b.ts";\n',
    "session/b.ts": 'import type { C } from "./c.ts";\n',
    "session/c.ts": 'const a = () => import("./a.ts");\nimport "./d.ts";\n',
    "session/d.ts": "",
    "session/e.ts": 'import type { F } from "./f.ts";\n',
    "session/f.ts": 'import type { E } from "./e.ts";\n',
  });
  assertEquals(circles, [
    ["session/a.ts", "session/b.ts", "session/c.ts"],
    ["session/e.ts", "session/f.ts"],
  ]);
});

Deno.test("figuresOf() counts the modules that mod.ts loads at once and in all", () => {
  const { modules, arrows } = figures({
    "mod.ts": 'export { a } from "./session/a.ts";\nexport type { T } from "./session/t.ts";\n',
    "session/a.ts": 'import "./b.ts";\nconst later = () => import("./later.ts");\n',
    "session/b.ts": 'import "../errors.ts";\n',
    "session/later.ts": 'import "./b.ts";\n',
    "session/t.ts": "",
    "errors.ts": "",
  });
  assertEquals(modules, { atOnce: 4, withLate: 5 });
  assertEquals(arrows, 2);
});

Deno.test("mod.ts loads at most 175 modules at once", async () => {
  const { atOnce } = modulesOf(await readRepository(new URL("../", import.meta.url)));
  assert(atOnce <= 175, `${atOnce} modules`);
});
