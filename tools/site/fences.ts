/**
 * Splits a page into prose and blocks of code.
 *
 * @module
 */

/** A part of a page. */
export interface Part {
  /** A block of code with both of its fences, otherwise prose. */
  readonly isCode: boolean;
  /** The lines; parts joined by line feeds are the page again. */
  readonly text: string;
}

/**
 * Splits a page at its fences.
 *
 * @param page The Markdown.
 * @returns Prose and code in turn.
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
