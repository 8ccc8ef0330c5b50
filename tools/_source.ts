/**
 * Reads imports, exports and comments of TypeScript.
 *
 * @module
 */

/** An import, or a re-export, of another module. */
export interface Import {
  /** The specifier, as in the source. */
  readonly specifier: string;
  /** Line number, from 1. */
  readonly line: number;
  /** Position of the specifier in the source, after the quote. */
  readonly at: number;
  /** True if the import contains only types, so that it disappears from the compiled program. */
  readonly isTypeOnly: boolean;
  /** True for `import()`, or the type of an `import()`: the module loads without it. */
  readonly isLate: boolean;
}

/** Words after which a slash starts a regular expression. */
const BEFORE_REGEX = /(?:^|[^\w$.])(?:return|typeof|case|in|of|do|else|void|delete|await|yield)$/;

const STATIC = new RegExp(
  String.raw`\b(?:import|export)\s+(?:type\s+)?` +
    String
      .raw`(?:(?:\*(?:\s*as\s+[\w$]+)?|\{[^}]*\}|[\w$]+(?:\s*,\s*(?:\{[^}]*\}|\*\s*as\s+[\w$]+))?)` +
    String.raw`\s*from\s*)?["']([^"']*)["']|\bimport\s*\(\s*["']([^"']*)["']`,
  "g",
);

/** Characters that may start another piece, or open and close the code in a template. */
const SPECIAL = /["'`/{}]/g;

/** A piece of TypeScript of one kind. */
interface Piece {
  readonly kind: "code" | "comment" | "string" | "template" | "regex";
  readonly text: string;
}

/**
 * Blanks everything except code; line breaks and positions stay.
 *
 * @param source TypeScript.
 * @param options `strings: true` keeps the content of quoted strings.
 * @returns The code, of the same length.
 */
export function codeOf(source: string, options: { strings?: boolean } = {}): string {
  return kept(source, (kind) => kind === "code" || (kind === "string" && options.strings === true));
}

/**
 * Blanks everything except comments; line breaks and positions stay.
 *
 * @param source TypeScript.
 * @returns The comments with their markers, of the same length.
 */
export function commentTextOf(source: string): string {
  return kept(source, (kind) => kind === "comment");
}

function kept(source: string, isKept: (kind: Piece["kind"]) => boolean): string {
  return joined(piecesOf(source), isKept);
}

function joined(pieces: readonly Piece[], isKept: (kind: Piece["kind"]) => boolean): string {
  return pieces.map(({ kind, text }) => isKept(kind) ? text : blank(text)).join("");
}

/** Replaces everything except line breaks by spaces. */
function blank(text: string): string {
  return text.split("\n").map((line) => " ".repeat(line.length)).join("\n");
}

/**
 * Lists the comments of a module without their markers.
 *
 * @param source TypeScript.
 * @returns The text of each comment, in the order of the source.
 */
export function commentsOf(source: string): string[] {
  return piecesOf(source).filter(({ kind }) => kind === "comment").map(({ text }) =>
    text.startsWith("//")
      ? text.slice(2).trim()
      : text.slice(2, -2).replace(/^[ \t]*\*+ ?/gm, "").trim()
  );
}

/** Splits a source into pieces; joined, they are the source. */
function piecesOf(source: string): Piece[] {
  const pieces: Piece[] = [];
  /** Number of open braces in the current `${` of each open template. */
  const templates: number[] = [];
  /** End of the code so far, which decides if a slash starts a regular expression. */
  let before = "";
  let at = 0;
  const take = (end: number, kind: Piece["kind"]) => {
    const text = source.slice(at, end);
    pieces.push({ kind, text });
    const last = text.slice(-40);
    before = (before + (kind === "code" ? last : blank(last))).slice(-40);
    at = end;
  };

  while (at < source.length) {
    const two = source.slice(at, at + 2);
    const one = two.charAt(0);
    if (two === "//") take(endOf(source.indexOf("\n", at), source), "comment");
    else if (two === "/*") take(endOf(source.indexOf("*/", at + 2), source, 2), "comment");
    else if (one === '"' || one === "'") {
      const end = closing(source, at + 1, one);
      take(at + 1, "code");
      take(Math.max(at, end - 1), "string");
      take(end, "code");
    } else if (one === "`" || (one === "}" && templates.at(-1) === 0)) {
      if (one === "}") templates.pop();
      take(at + 1, "code");
      const end = templateEnd(source, at);
      if (source.startsWith("${", end)) templates.push(0);
      take(end, "template");
      take(Math.min(source.length, at + (source.startsWith("${", at) ? 2 : 1)), "code");
    } else if (one === "/" && startsRegex(before)) take(regexEnd(source, at + 1), "regex");
    else {
      if (templates.length > 0) {
        if (one === "{") templates[templates.length - 1]!++;
        if (one === "}") templates[templates.length - 1]!--;
      }
      SPECIAL.lastIndex = at + 1;
      take(SPECIAL.exec(source)?.index ?? source.length, "code");
    }
  }
  return pieces;
}

/**
 * Lists the imports and re-exports of a module, including each `import()` of a literal.
 *
 * @param source TypeScript.
 * @returns The imports, in the order of the source.
 */
export function importsOf(source: string): Import[] {
  const pieces = piecesOf(source);
  const bare = joined(pieces, (kind) => kind === "code");
  return [...joined(pieces, (kind) => kind === "code" || kind === "string").matchAll(STATIC)]
    // The keyword is blank in `bare` if it is part of a string.
    .filter((match) => bare.charAt(match.index) !== " ")
    .map((match) => {
      const specifier = match[1] ?? match[2]!;
      return {
        specifier,
        line: lineAt(source, match.index),
        at: match.index + match[0].lastIndexOf(specifier),
        isTypeOnly: isTypeOnly(match[0]),
        isLate: /^import\s*\(/.test(match[0]),
      };
    });
}

/** `import type …`, or braces in which every name is a type. */
function isTypeOnly(statement: string): boolean {
  if (/^(?:import|export)\s+type\b/.test(statement)) return true;
  const names = /^(?:import|export)\s*\{([^}]*)\}/.exec(statement)?.[1]?.split(",")
    .map((name) => name.trim()).filter((name) => name !== "");
  return names !== undefined && names.length > 0 && names.every((name) => /^type\s/.test(name));
}

/**
 * Returns the line number of a position.
 *
 * @param source The text.
 * @param index The position, from 0.
 * @returns The line number, from 1.
 */
export function lineAt(source: string, index: number): number {
  let line = 1;
  for (let at = source.indexOf("\n"); at !== -1 && at < index; line++) {
    at = source.indexOf("\n", at + 1);
  }
  return line;
}

function endOf(index: number, source: string, length = 0): number {
  return index === -1 ? source.length : index + length;
}

/** Returns the position after the quote that closes a string, or the end of the line. */
function closing(source: string, from: number, quote: string): number {
  let at = from;
  while (at < source.length && source[at] !== quote && source[at] !== "\n") {
    at += source[at] === "\\" ? 2 : 1;
  }
  return Math.min(source.length, at + 1);
}

/** Returns the position of the backtick or `${` that ends a piece of template text. */
function templateEnd(source: string, from: number): number {
  let at = from;
  while (at < source.length && source[at] !== "`" && !source.startsWith("${", at)) {
    at += source[at] === "\\" ? 2 : 1;
  }
  return Math.min(source.length, at);
}

function startsRegex(before: string): boolean {
  const text = before.trimEnd();
  if (text === "" || BEFORE_REGEX.test(text)) return true;
  return /[(,=:[!&|?{};+\-*%~^<>]$/.test(text);
}

function regexEnd(source: string, from: number): number {
  let at = from;
  let inClass = false;
  while (at < source.length && source[at] !== "\n") {
    const char = source[at];
    if (char === "\\") at++;
    else if (char === "[") inClass = true;
    else if (char === "]") inClass = false;
    else if (char === "/" && !inClass) return at + 1;
    at++;
  }
  return Math.min(source.length, at);
}
