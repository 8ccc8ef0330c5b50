/**
 * Tests Electric's clients with durable streams over HTTP. Each program of the recipe runs in a
 * separate process, because the clients leave response bodies unread.
 */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../", import.meta.url);
const PAGE = new URL("docs/recipes/electric.md", ROOT);

/** Matches each program of the page with the heading above it. */
const PROGRAM = /^## ([^\n]+)\n(?:(?!^## )[^])*?^```ts ignore\n([^]*?)^```/gm;

/** The programs of the page, keyed by heading. */
async function programsOf(page: URL): Promise<[heading: string, code: string][]> {
  const text = await Deno.readTextFile(page);
  return [...text.matchAll(PROGRAM)].map(([, heading = "", code = ""]) => [heading, code]);
}

async function run(code: string): Promise<void> {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, code);
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--check", "--quiet", "--config", "deno.json", file],
      cwd: fileURLToPath(ROOT),
      stdin: "null",
    }).output();
    assert(success, new TextDecoder().decode(stderr));
  } finally {
    await Deno.remove(file);
  }
}

const programs = await programsOf(PAGE);

Deno.test("the page has a program for each of Electric's clients", () => {
  assertEquals(programs.map(([heading]) => heading), [
    "Write and follow a stream",
    "A StreamDB that converges",
    "An AI SDK chat that survives a reload",
  ]);
});

for (const [heading, code] of programs) {
  Deno.test(`Electric's clients: ${heading[0]!.toLowerCase()}${heading.slice(1)}`, () => run(code));
}
