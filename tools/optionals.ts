/**
 * Checks that the whole library treats a member that is `undefined` as absent.
 *
 * - Optional members are assigned directly: `{ signal }` instead of `{ ...(signal && { signal })
 *   }`. Quoted names, such as header names, are an exception, because an `undefined` header
 *   value would become text.
 * - Optional members of exported interfaces are declared `name?: Type | undefined`, so that programs
 *   with `exactOptionalPropertyTypes` can pass `undefined`.
 *
 * ```sh
 * deno run -A tools/optionals.ts
 * ```
 *
 * @module
 */
import { isLibrary, readRepository, type Repository, type Violation } from "./arrows.ts";
import { codeOf, lineAt } from "./_source.ts";

const VALUE = String.raw`([\w$.#]+(?:\[\w+\])?)`;
const MEMBER = String.raw`\{\s*(?:[\w$]+:\s*)?\1\s*,?\s*\}`;
const NONE = String.raw`\{\s*\}`;

/** Spreads that omit a member if its value is `undefined`. */
const SPREADS: readonly RegExp[] = [
  String.raw`${VALUE}(?:\s*!==\s*undefined)?\s*&&\s*${MEMBER}`,
  String.raw`${VALUE}(?:\s*!==\s*undefined)?\s*\?\s*${MEMBER}\s*:\s*${NONE}`,
  String.raw`${VALUE}\s*===\s*undefined\s*\?\s*${NONE}\s*:\s*${MEMBER}`,
].map((spread) => new RegExp(String.raw`\.\.\.\(?\s*${spread}`, "g"));

const INTERFACE = /\bexport interface\b[^{]*\{/g;
const OPTIONAL = /([\w$]+)\?:\s*/g;

/**
 * Finds conditional spreads of one member, and optional members without `undefined`.
 *
 * @param repository The files, as returned by `readRepository()` in `arrows.ts`.
 */
export function checkOptionals({ files }: Repository): Violation[] {
  const violations: Violation[] = [];
  for (const [path, source] of files) {
    if (!isLibrary(path)) continue;
    const code = codeOf(source);
    const add = (index: number, message: string) =>
      violations.push({ path, line: lineAt(code, index), message });
    for (const { 0: spread, 1: value, index } of SPREADS.flatMap((it) => [...code.matchAll(it)])) {
      add(index, `assign ${value} itself: undefined counts as absent, received ${flat(spread)}`);
    }
    for (const { 1: name, index } of optionalsOf(code)) {
      add(index, `declare the member of an exported interface as ${name}?: … | undefined`);
    }
  }
  return violations;
}

/** Finds the optional members of exported interfaces whose type lacks `undefined`. */
function* optionalsOf(code: string): Generator<RegExpExecArray> {
  for (const { 0: head, index } of code.matchAll(INTERFACE)) {
    const start = index + head.length;
    const body = withoutCalls(code.slice(start, endOf(code, start, "}")));
    for (const member of body.matchAll(OPTIONAL)) {
      const at = member.index + member[0].length;
      const type = body.slice(at, endOf(body, at, ";"));
      if (/(?:^|\|)\s*(?:undefined|unknown)\s*(?:$|\|)/.test(type)) continue;
      member.index += start;
      yield member;
    }
  }
}

/** Blanks all parentheses: an optional parameter accepts `undefined` anyway. */
function withoutCalls(code: string): string {
  const next = code.replace(/\([^()]*\)/g, (found) => found.replace(/[^\n]/g, " "));
  return next === code ? code : withoutCalls(next);
}

/**
 * Returns the position of a mark, or of the closing bracket, whichever comes first outside inner
 * brackets.
 */
function endOf(code: string, start: number, mark: string): number {
  for (let at = start, depth = 0; at < code.length; at++) {
    const char = code[at]!;
    const isArrow = char === ">" && code[at - 1] === "=";
    if (depth === 0 && (char === mark || ")]},".includes(char))) return at;
    if ("([{<".includes(char)) depth++;
    else if (")]}>".includes(char) && !isArrow) depth--;
  }
  return code.length;
}

function flat(text: string): string {
  return text.replace(/\s+/g, " ");
}

if (import.meta.main) {
  const violations = checkOptionals(await readRepository(new URL("../", import.meta.url)));
  for (const { path, line, message } of violations) console.log(`${path}:${line} ${message}`);
  console.log(`${violations.length} violations of the rules for optional members`);
  Deno.exit(violations.length === 0 ? 0 : 1);
}
