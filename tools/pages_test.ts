import { assertEquals } from "@std/assert";
import { checkPages } from "./pages.ts";

const check = (pages: Record<string, string>) => {
  const all = new Map(Object.entries(pages));
  const paths = new Set([...all.keys(), "examples/echo.ts"]);
  return checkPages(all, paths).map(({ path, line, message }) => `${path}:${line} ${message}`);
};

/** Two words, joined at run time so that the check does not find them in this file. */
const DIVIDED = ["can", "not"].join(" ");

Deno.test("checkPages() accepts links to files, folders, headings and other sites", () => {
  const readme = [
    "# Skein",
    "[a](docs/a.md), [b](docs/a.md#two-words-twice), [c](#skein), [d](examples/)",
    "[e](examples/echo.ts), [f](https://deno.com/x#y)",
    "```md\n[not a link](nowhere.md)\n```",
  ].join("\n");
  const page = '# Two words: `twice`\n\n# Two words, twice\n\n<a id="own"></a> [own](#own)\n' +
    "[second](#two-words-twice-1)\n";
  assertEquals(check({ "README.md": readme, "docs/a.md": page }), []);
});

Deno.test("checkPages() reports links that lead nowhere", () => {
  const expected = "a link leads to a file and a heading, received";
  assertEquals(check({ "docs/a.md": '# A\n\n[a](b.md)\n\n[b](#c)\n<img src="d.png">\n' }), [
    `docs/a.md:3 ${expected} b.md`,
    `docs/a.md:5 ${expected} #c`,
    `docs/a.md:6 ${expected} d.png`,
  ]);
});

Deno.test("checkPages() reports files and folders that the map names and that don't exist", () => {
  const map = (lines: string) =>
    check({ "CONTRIBUTING.md": lines, "docs/b/c/a.md": "# A\n", "docs/e/f.md": "# F\n" });
  const expected = (line: number, name: string) =>
    `CONTRIBUTING.md:${line} the map names existing files, received ${name}`;
  assertEquals(map("`a.md`, `docs/b/`, `docs/b/c/a*.md`, `b/`, `*.ts`, `skein`\n"), []);
  assertEquals(map("`b.md` and `b/c/a.md`\n\n`d/`\n"), [
    expected(1, "b.md"),
    expected(1, "b/c/a.md"),
    expected(3, "d/"),
  ]);
  assertEquals(map("```text\ndeno task ok   the gate\ndocs/   all\n  b/   a part\n```\n"), []);
  assertEquals(map("```text\nexamples/   all\n  docs/b/ e/   parts\n  b/   none\n```\n"), [
    expected(4, "b/"),
  ]);
});

Deno.test("checkPages() reports prose that breaks the rules", () => {
  const riddles = `They know what it is.\n- Who ${DIVIDED}\n\n\`\`\`ts\nWhat it is\n\`\`\`\n`;
  assertEquals(check({ "a.md": riddles, "b.md": "# B\n\nAfter this page you can.\n" }), [
    'a.md:2 "cannot" is one word',
    'a.md:2 no paragraph, item or cell opens so, received "- Who ' + DIVIDED + '"',
    'b.md:3 no paragraph, item or cell opens so, received "After this page you can."',
  ]);
});

Deno.test("checkPages() requires a name for each program, and hidden lines for tests", () => {
  const fence = "```";
  const page = [
    "# A",
    "",
    `${fence}ts file=server.ts`,
    "serve({",
    "  port: 0, // hidden",
    "});",
    fence,
    "",
    `${fence}ts`,
    'import { assert } from "@std/assert";',
    fence,
    `${fence}ts ignore`,
    "serve({ port: 0 });",
    fence,
    "",
  ].join("\n");
  const rules = (path: string) =>
    check({ [path]: page }).filter((it) => it.includes("program") || it.includes("tests"));
  assertEquals(rules("docs/guide/a.md"), [
    "docs/guide/a.md:9 a program has a name: file=NAME",
    'docs/guide/a.md:9 a line for tests ends with "// hidden", received from "@std/assert"',
  ]);
  assertEquals(rules("docs/internals/a.md"), []);
});
