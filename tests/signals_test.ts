import { assertEquals } from "@std/assert";
import { filesIn } from "../tools/arrows.ts";

const ROOT = new URL("../", import.meta.url);

/** Matches a TypeScript code block of a page. */
const PROGRAM = /```ts[^\n]*\n([\s\S]*?)```/g;

/**
 * Ways in which a second signal ends the program: either there is no listener, or the listener
 * exits.
 */
const WAYS =
  /removeSignalListener\(|isDraining\)+ (?:Deno\.exit|return impatience)|isDraining \? Deno\.exit|aborted\) Deno\.exit/;

/** Programs that always end at the first signal, because they wait for nothing that could hang. */
const BRIEF: readonly string[] = ["docs/deploy/rolling-restarts.md"];

/** Lists the programs of the documentation, the examples and the CLI. */
async function* programs(): AsyncGenerator<[file: string, code: string]> {
  for (const folder of ["cli/", "docs/", "examples/"]) {
    for await (const file of filesIn(ROOT, folder)) {
      if (!/\.(?:ts|txt|md)$/.test(file)) continue;
      const text = await Deno.readTextFile(new URL(file, ROOT));
      if (!file.endsWith(".md")) yield [file, text];
      else for (const [, code] of text.matchAll(PROGRAM)) yield [file, code!];
    }
  }
}

Deno.test("Each program that handles a signal ends at the second signal", async () => {
  const handling: string[] = [];
  const stuck: string[] = [];
  for await (const [file, code] of programs()) {
    if (!code.includes("addSignalListener(")) continue;
    handling.push(file);
    if (!WAYS.test(code) && !BRIEF.includes(file)) stuck.push(file);
  }
  assertEquals(stuck, []);
  assertEquals(handling.length > 10, true);
});
