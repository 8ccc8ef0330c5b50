/** The paths of programs, workers and data files that code names relative to itself. */
import { assert, assertEquals } from "@std/assert";
import { readRepository } from "../tools/arrows.ts";

const ROOT = new URL("../", import.meta.url);

/** A relative path without a placeholder, in a URL relative to the module. */
const PATHS = [
  /new URL\(\s*["`](\.{1,2}\/[^"`$?]+)["`],\s*import\.meta\.url/g,
  /import\.meta\.resolve\(\s*["`](\.{1,2}\/[^"`$?]+)["`]/g,
];

/** A path in the text of an error, and the path of a test for a missing file. */
const KNOWN = [
  "server/workers/workers.ts names ./app.ts",
  "tests/long/workers_test.ts names ../workers/missing.ts",
];

const COMMENT = /^\s*(?:\*|\/\/|\/\*).*$/gm;

Deno.test("Every file that a module names relative to itself exists", async () => {
  const { files } = await readRepository(ROOT);
  const missing: string[] = [];
  let found = 0;
  for (const [module, text] of files) {
    const code = text.replaceAll(COMMENT, "");
    for (const [, path] of PATHS.flatMap((pattern) => [...code.matchAll(pattern)])) {
      found++;
      const exists = await Deno.stat(new URL(path!, new URL(module, ROOT))).then(
        () => true,
        () => false,
      );
      if (!exists) missing.push(`${module} names ${path}`);
    }
  }
  assert(found > 100, `${found} paths`);
  assertEquals(missing.sort(), KNOWN);
});
