/**
 * Writes the tables of the reference from the code: options with types, defaults and descriptions.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/reference.ts
 * deno run -A tools/launch.ts run -A tools/reference.ts --check
 * ```
 *
 * @module
 */
import { filesIn } from "./arrows.ts";
import { type Block, blocksOf, filled, formatted } from "./reference/blocks.ts";
import { Declarations } from "./reference/declarations.ts";
import { optionsTable } from "./reference/options.ts";

const ROOT = new URL("../", import.meta.url);

/**
 * Reads the pages that have blocks.
 *
 * @returns The Markdown of each page, by path.
 */
export async function pagesWithBlocks(): Promise<Map<string, string>> {
  const pages = new Map<string, string>();
  for await (const path of filesIn(ROOT)) {
    if (!/^docs\/reference\/.*\.md$/.test(path)) continue;
    const page = await Deno.readTextFile(new URL(path, ROOT));
    if (blocksOf(page).length > 0) pages.set(path, page);
  }
  return pages;
}

/**
 * Writes the blocks of a page.
 *
 * @param page The Markdown of the page.
 * @param declarations The types of the library.
 * @returns The formatted Markdown of the page with current tables.
 */
export async function withReference(page: string, declarations: Declarations): Promise<string> {
  const write = (block: Block) => {
    if (block.kind === "options") return optionsTable(block, declarations);
    throw new TypeError(`Cannot write reference: unknown kind ${block.kind}`);
  };
  return await formatted(await filled(page, write));
}

if (import.meta.main) {
  const declarations = await Declarations.read(ROOT);
  let isCurrent = true;
  for (const [path, page] of await pagesWithBlocks()) {
    const written = await withReference(page, declarations);
    if (written === page) continue;
    if (!Deno.args.includes("--check")) {
      await Deno.writeTextFile(new URL(path, ROOT), written);
      continue;
    }
    console.error(`${path}: run tools/reference.ts`);
    isCurrent = false;
  }
  if (!isCurrent) Deno.exit(1);
}
