/**
 * Fills the blocks of a page: each starts with a comment that names a kind of table and its rows, and
 * ends with another comment.
 *
 * ```md
 * <!-- reference: options ConnectOptions
 * token [Fetch a token](../guide/users.md#fetch-a-token)
 * backoff.*
 * -->
 *
 * <!-- end of reference -->
 * ```
 *
 * @module
 */

/** A block of a page. */
export interface Block {
  /** The kind of the table, such as `options`. */
  readonly kind: string;
  /** The words after the kind, such as the name of a type. */
  readonly argument: string;
  /** The rows that the block asks for. */
  readonly rows: readonly RowRequest[];
}

/** A row that a block asks for. */
export interface RowRequest {
  readonly name: string;
  /** The name to show; by default `name`. */
  readonly shown: string;
  /** Links to add to the description, in Markdown. */
  readonly links: readonly string[];
}

const BLOCK = /(<!-- reference: (\w+)(.*?)(?:\n([^]*?))??-->\n)[^]*?(<!-- end of reference -->)/g;

/**
 * Lists the blocks of a page.
 *
 * @param page The Markdown of the page.
 * @returns The blocks, in order.
 */
export function blocksOf(page: string): Block[] {
  return [...page.matchAll(BLOCK)].map(([, , kind, argument, rows]) =>
    blockOf(kind, argument, rows)
  );
}

/**
 * Fills the blocks of a page.
 *
 * @param page The Markdown of the page.
 * @param write Writes the Markdown of a block.
 * @returns The Markdown of the page with current blocks, not formatted.
 */
export async function filled(
  page: string,
  write: (block: Block) => string | Promise<string>,
): Promise<string> {
  const texts = await Promise.all(blocksOf(page).map(write));
  return page.replace(BLOCK, (...[, begin, , , , end]) => `${begin}\n${texts.shift()}\n\n${end}`);
}

/**
 * Writes a table.
 *
 * @param rows The heading, and the rows.
 * @returns The table in Markdown, not formatted.
 */
export function tableOf(rows: readonly (readonly string[])[]): string {
  const [heading, ...others] = rows;
  return [heading!, heading!.map(() => "---"), ...others]
    .map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/**
 * Formats Markdown as `deno fmt` does.
 *
 * @param text The Markdown.
 * @returns The formatted Markdown.
 */
export async function formatted(text: string): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext=md", "-"],
    cwd: new URL("../../", import.meta.url),
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const output = child.output();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  return new TextDecoder().decode((await output).stdout);
}

function blockOf(kind: string | undefined, argument = "", rows = ""): Block {
  return {
    kind: kind!,
    argument: argument.trim(),
    rows: rows.split("\n").filter((line) => line.trim() !== "").map((line) => {
      const [, name, shown = name] = /^(\S+)(?: ([^[\s]\S*))?/.exec(line)!;
      return { name: name!, shown: shown!, links: line.match(/\[[^\]]+\]\([^)]+\)/g) ?? [] };
    }),
  };
}
