/**
 * Writes the tables of the reference from the code: options with types, defaults and descriptions,
 * metrics, close codes, entries, sizes, and the help of the command.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/reference.ts
 * deno run -A tools/launch.ts run -A tools/reference.ts --check
 * ```
 *
 * @module
 */
import { readPages } from "./pages.ts";
import { type Block, blocksOf, filled, formatted } from "./reference/blocks.ts";
import { Declarations } from "./reference/declarations.ts";
import {
  closeCodesTable,
  entriesTable,
  helpText,
  type Metric,
  metricsTable,
  servedMetrics,
  sizesTable,
} from "./reference/lists.ts";
import { callsTables, optionsTable } from "./reference/options.ts";

const ROOT = new URL("../", import.meta.url);

/**
 * Reads the pages that have blocks.
 *
 * @returns The Markdown of each page, by path.
 */
export async function pagesWithBlocks(): Promise<Map<string, string>> {
  const { pages } = await readPages(ROOT);
  return new Map(
    [...pages].filter(([path, page]) =>
      path.startsWith("docs/reference/") && blocksOf(page).length > 0
    ),
  );
}

/** The sources of the tables. */
export interface Sources {
  /** The types of the library. */
  readonly declarations: Declarations;
  /** The metrics of a server. */
  readonly metrics: readonly Metric[];
}

/** Reads the sources of the tables. */
export async function readSources(): Promise<Sources> {
  const [declarations, metrics] = await Promise.all([Declarations.read(ROOT), servedMetrics()]);
  return { declarations, metrics };
}

/**
 * Writes the blocks of a page.
 *
 * @param page The Markdown of the page.
 * @param sources See {@linkcode Sources}.
 * @returns The formatted Markdown of the page with current tables.
 */
export async function withReference(page: string, sources: Sources): Promise<string> {
  return await formatted(await filled(page, (block) => contentOf(block, sources)));
}

function contentOf(block: Block, { declarations, metrics }: Sources): string | Promise<string> {
  switch (block.kind) {
    case "options":
      return optionsTable(block, declarations);
    case "calls":
      return callsTables(block, declarations);
    case "metrics":
      return metricsTable(block, metrics);
    case "codes":
      return closeCodesTable(declarations);
    case "sizes":
      return sizesTable();
    case "entries":
      return entriesTable(declarations);
    case "help":
      return helpText(block);
    default:
      throw new TypeError(`Cannot write reference: unknown kind ${block.kind}`);
  }
}

if (import.meta.main) {
  const sources = await readSources();
  let isCurrent = true;
  for (const [path, page] of await pagesWithBlocks()) {
    const written = await withReference(page, sources);
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
