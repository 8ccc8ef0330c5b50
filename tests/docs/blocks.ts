/**
 * The blocks of a page that a walk runs.
 *
 * @module
 */

import { withoutHidden } from "../../tools/site/fences.ts";

/** A part of a page that a walk runs. */
export type Block =
  /** A file to write. */
  | { readonly kind: "file"; readonly line: number; readonly path: string; readonly text: string }
  /** Commands that exit, and expected lines of output. */
  | {
    readonly kind: "run";
    readonly line: number;
    readonly text: string;
    readonly output: readonly string[];
  }
  /** A background process, and expected lines of output; `until` comes first. */
  | {
    readonly kind: "background";
    readonly line: number;
    readonly text: string;
    readonly until: string | undefined;
    readonly output: readonly string[];
  };

/** An opening fence, the text, and the closing fence with the same indentation. */
const FENCED = /^([ \t]*)```(\w*)([^\n`]*)\n([\s\S]*?)^\1```[ \t]*$/gm;

const COMMENT = /<!--[\s\S]*?-->/g;

/**
 * Lists the blocks that a walk runs, in the order of the page:
 *
 * - `file=PATH` after a language: the text is written to that file, without its hidden lines.
 * - `sh run`: commands that must succeed.
 * - `sh background`, optionally with `until=TEXT`: a background process. The walk continues once
 *   its output includes the text.
 * - `text output` right after a `run` or a `background` block: lines that the output must include,
 *   in this order.
 *
 * A walk ignores all other blocks.
 *
 * @param page The page's name, for errors.
 * @param markdown The text of the page.
 * @throws {SyntaxError} If an attribute is unknown, or if an `output` block does not follow a
 * command.
 */
export function blocksOf(page: string, markdown: string): Block[] {
  const source = markdown.replace(COMMENT, (it) => it.replace(/[^\n]/g, " "));
  const blocks: Block[] = [];
  let end = 0;
  for (const match of source.matchAll(FENCED)) {
    const [whole, indent = "", language = "", rest = "", body = ""] = match;
    const line = source.slice(0, match.index).split("\n").length;
    const text = body.replaceAll(new RegExp(`^${indent}`, "gm"), "");
    const attributes = rest.trim().split(/\s+/).filter((it) => it !== "");
    const value = (name: string) =>
      attributes.find((it) => it.startsWith(`${name}=`))?.slice(name.length + 1);
    const fail = (rule: string) => {
      const fence = `${language} ${attributes.join(" ")}`;
      throw new SyntaxError(`Cannot walk ${page}:${line}: ${rule}, received "${fence}"`);
    };
    const path = value("file");
    if (path !== undefined) {
      blocks.push({ kind: "file", line, path, text: withoutHidden(text) });
    } else if (language === "sh" && attributes.length > 0) {
      const [kind, ...others] = attributes;
      const isBackground = kind === "background";
      if (kind !== "run" && !isBackground) fail('an sh block must be "run" or "background"');
      if (others.some((it) => !isBackground || !it.startsWith("until="))) {
        fail('"until=TEXT" in a background block is the only attribute');
      }
      blocks.push(
        isBackground
          ? { kind, line, text, until: value("until"), output: [] }
          : { kind: "run", line, text, output: [] },
      );
    } else if (language === "text" && attributes[0] === "output") {
      const before = blocks.at(-1);
      const isBehind = source.slice(end, match.index).trim() === "";
      if (before === undefined || before.kind === "file" || !isBehind) {
        return fail("an output block must follow a run or a background block");
      }
      blocks[blocks.length - 1] = {
        ...before,
        output: text.split("\n").filter((it) => it.trim() !== ""),
      };
    }
    end = match.index + whole.length;
  }
  return blocks;
}

/**
 * Finds the first expected line that an output lacks.
 *
 * @param output The output of a command.
 * @param expected Lines that occur in this order; `…` stands for any text within a line.
 * @returns The missing line, or `undefined`.
 */
export function missingLine(output: string, expected: readonly string[]): string | undefined {
  // deno-lint-ignore no-control-regex -- colors are control characters.
  const lines = output.replace(/\x1b\[[0-9;]*m/g, "").split(/\r?\n/);
  let at = 0;
  for (const line of expected) {
    const source = line.trim().split("…").map(RegExp.escape).join(".*");
    const pattern = new RegExp(`^\\s*${source}\\s*$`);
    const found = lines.findIndex((it, i) => i >= at && pattern.test(it));
    if (found === -1) return line;
    at = found + 1;
  }
  return undefined;
}
