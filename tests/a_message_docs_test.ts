/** The page that follows a message through the code names existing files and functions. */
import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../", import.meta.url);
const PAGE = new URL("docs/internals/a-message.md", ROOT);
const page = await Deno.readTextFile(PAGE);

/** Most files of the walk of a message. */
const MAX_FILES = 16;

/** Most entries of that walk into one file. */
const MAX_ENTRIES = 2;

/** A function that the application calls, named without a file. */
const APPLICATION_CALL = "nextGroup";

/** A file, and the names that the page finds in the file. */
interface Place {
  readonly path: string;
  readonly names: readonly string[];
}

/** Walks of the page, each with the rows of the table and the helpers below. */
const walks = page.split(/^## /m).slice(1).map((text) => ({
  text,
  rows: [...text.matchAll(/^\| +\d+ \| \[([^\]]+)\]\(([^)]+)\) +\| (.*?) +\| (.*?) +\|$/gm)]
    .map(([, path, link, names, words]) => ({
      path: path!,
      link: link!,
      names: namesIn(names!),
      words: words!,
    })),
  helpers: placesIn(/^Helpers: [\s\S]*?\.$/m.exec(text)?.[0] ?? ""),
}));

function namesIn(text: string): string[] {
  return [...text.matchAll(/`((?:\w+\.)?#?\w+)\(\)`/g)].map(([, name]) => name!);
}

function placesIn(text: string): Place[] {
  return [...text.matchAll(/\[([^\]]+)\]\([^)]+\)((?:\s+`[^`]+`)+)/g)]
    .map(([, path, names]) => ({ path: path!, names: namesIn(names!) }));
}

/** Tells whether a file declares a function, or a method of a class. */
function declares(source: string, name: string): boolean {
  const [method, owner] = name.split(".").reverse();
  if (owner === undefined) {
    return new RegExp(`^(?:export )?(?:async )?function ${method}\\b`, "m").test(source);
  }
  const body = new RegExp(`^(?:export )?class ${owner}\\b[\\s\\S]*?^}$`, "m").exec(source)?.[0];
  return new RegExp(`^  (?:(?:private|protected|override|async|static) )*${method}[(<]`, "m")
    .test(body ?? "");
}

Deno.test("docs/internals/a-message.md has three walks with numbered rows", () => {
  assertEquals(walks.length, 3);
  for (const { text, rows } of walks) {
    const numbers = [...text.matchAll(/^\| +(\d+) \|/gm)].map(([, number]) => Number(number));
    assertEquals(numbers, rows.map((_, at) => at + 1));
    assert(rows.length >= 20, text.slice(0, 40));
  }
});

Deno.test("docs/internals/a-message.md names files and functions that exist", async () => {
  for (const { rows, helpers } of walks) {
    for (const { path, names } of [...rows, ...helpers]) {
      assert(names.length > 0, path);
      const source = await Deno.readTextFile(new URL(path, ROOT));
      for (const name of names) assert(declares(source, name), `${path} has no ${name}()`);
    }
    for (const { path, link } of rows) assertEquals(new URL(link, PAGE), new URL(path, ROOT));
  }
});

Deno.test("docs/internals/a-message.md lists every helper that a row names", () => {
  for (const { rows, helpers } of walks) {
    const known = new Set([...rows, ...helpers].flatMap(({ names }) => names));
    for (const name of rows.flatMap(({ words }) => namesIn(words))) {
      assert(known.has(name) || name === APPLICATION_CALL, name);
    }
  }
});

Deno.test("a message enters 16 files at most, and each at most twice", () => {
  const { rows } = walks[0]!;
  const entries = Map.groupBy(
    rows.filter(({ path }, at) => path !== rows[at - 1]?.path),
    ({ path }) => path,
  );
  assert(entries.size <= MAX_FILES);
  for (const [path, of] of entries) assert(of.length <= MAX_ENTRIES, path);
});
