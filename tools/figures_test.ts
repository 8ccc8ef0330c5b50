import { assert, assertEquals } from "@std/assert";
import { readRepository } from "./arrows.ts";
import config from "../deno.json" with { type: "json" };
import { figuresOf, loadedAtOnce } from "./figures.ts";

const figures = (files: Record<string, string>) =>
  figuresOf({ files: new Map(Object.entries(files)), name: "@skein/skein", exports: {} });

Deno.test("figuresOf() counts files and lines of the library by folder, without tests", () => {
  const { files, lines, folders, rooms, testLines } = figures({
    "errors.ts": "export const a = 1;\n",
    "session/session.ts": "export const b = 1;\n\nexport const c = 1;\n",
    "session/session_test.ts": "export const d = 1;\n",
    "session/wire/f.ts": "export const f = 1;\n",
    "tests/helper.ts": "export const g = 1;\n\n",
    "tools/e.ts": "export const e = 1;\n",
  });
  assertEquals({ files, lines, testLines }, { files: 3, lines: 5, testLines: 3 });
  assertEquals(Object.keys(folders), [".", "session", "session/wire"]);
  assertEquals(folders["session"], { files: 1, lines: 3, code: 2, comments: 0 });
  assertEquals(rooms["session"], { files: 2, lines: 4, code: 3, comments: 0 });
});

Deno.test("figuresOf() counts lines of code and of comments separately, and no blank lines", () => {
  const { lines, code, comments } = figures({
    "base/a.ts": "/**\n * Text.\n *\n */\nconst a = 1; // One.\n\n  // Two.\nconst b = `\n// c`;\n",
  });
  assertEquals({ lines, code, comments }, { lines: 9, code: 3, comments: 5 });
});

Deno.test("figuresOf() counts arrows of the core, back and to wings, once for each pair of rooms", () => {
  const { arrows } = figures({
    "server.ts": 'import "./server/a.ts";\n',
    "server/a.ts": 'import "../session/b.ts";\nimport type { M } from "../moq/m.ts";\n',
    "server/c.ts": 'import "../session/b.ts";\n',
    "session/b.ts": 'import "../server/c.ts";\n',
    "moq/m.ts": 'import "../session/b.ts";\n',
    "cli/d.ts": 'import "../server.ts";\nimport config from "../deno.json";\n',
  });
  assertEquals(arrows, { all: 5, core: 2, back: 1, coreToWing: 1 });
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
  assertEquals(arrows.all, 2);
});

Deno.test("mod.ts loads no wing at once, and no package of npm", async () => {
  const loaded = loadedAtOnce(await readRepository(new URL("../", import.meta.url)));
  const npm = Object.entries(config.imports).flatMap(([name, target]) =>
    target.startsWith("npm:") ? [name] : []
  );
  const isLate = (name: string) =>
    /^(?:brokers|cli|moq|operations|streams|testing)\//.test(name) ||
    npm.some((one) => name === one || name.startsWith(`${one}/`));
  assert(loaded.has("server/server.ts"));
  assertEquals([...loaded].filter(isLate), []);
});

Deno.test("A broker loads no code of logs at once, except their names", async () => {
  const repository = await readRepository(new URL("../", import.meta.url));
  const known = ["streams/logs/late_logs.ts", "streams/logs/log_names.ts"];
  for (const entry of ["redis/mod.ts", "nats/mod.ts", "sqlite/mod.ts", "sqlite/file_worker.ts"]) {
    const loaded = [...loadedAtOnce(repository, `brokers/${entry}`)];
    assert(loaded.length > 5, entry);
    const logs = loaded.filter((path) => path.includes("/logs/") && !known.includes(path));
    assertEquals(logs, [], entry);
  }
});
