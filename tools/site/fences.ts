/**
 * Splits a page into prose and code blocks, and leaves out lines that only tests need.
 *
 * @module
 */

/** A part of a page. */
export interface Part {
  /** True for a code block with its fences, false for prose. */
  readonly isCode: boolean;
  /** The lines; the parts joined by line feeds are the page. */
  readonly text: string;
}

/**
 * Splits a page at its fences.
 *
 * @param page The Markdown.
 * @returns Alternating prose and code.
 */
export function fencesOf(page: string): Part[] {
  const parts: Part[] = [];
  let isCode = false;
  let lines: string[] = [];
  /** The opening fence has ended the prose, and the closing one ends the code. */
  const end = () => {
    parts.push({ isCode, text: lines.join("\n") });
    lines = [];
  };
  for (const line of page.split("\n")) {
    const isFence = /^\s*(?:```|~~~)/.test(line);
    if (isFence && !isCode) end();
    lines.push(line);
    if (!isFence) continue;
    if (isCode) end();
    isCode = !isCode;
  }
  end();
  return parts;
}

/** The end of a line that readers don't need, such as an assertion or the port of a test. */
const HIDDEN = /\/\/ hidden$/;

/**
 * Leaves out the lines of a code block that end with `// hidden`. Tests run the whole block; the
 * site, `llms.txt` and a reader's files have only the other lines. Empty lines that would then be
 * first, last or doubled are left out too, and an object without lines becomes `{}`.
 *
 * @param code The lines of the block, with or without its fences.
 * @returns The lines that readers see.
 */
export function withoutHidden(code: string): string {
  if (!code.includes("// hidden")) return code;
  const kept: string[] = [];
  let hasGap = false;
  for (const line of code.split("\n")) {
    if (HIDDEN.test(line)) {
      hasGap = true;
      continue;
    }
    const before = kept.at(-1);
    const isEdge = before === undefined || before.trim() === "" || /^\s*```/.test(before);
    if (hasGap && line.trim() === "" && isEdge) continue;
    if (hasGap && /^\s*```/.test(line) && before?.trim() === "") kept.pop();
    hasGap &&= line.trim() === "";
    kept.push(line);
  }
  return kept.join("\n").replace(/\{\n\s*\}/g, "{}");
}
