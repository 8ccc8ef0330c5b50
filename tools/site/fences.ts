/**
 * Splits a page into prose and code blocks.
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
