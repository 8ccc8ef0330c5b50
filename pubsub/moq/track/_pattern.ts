/**
 * Patterns of paths, such as `/vod/{title}`.
 *
 * @module
 */
import { broadcastPath } from "../wire/path.ts";

/**
 * Reads a pattern.
 *
 * @param pattern Parts between slashes; `{name}` stands for one part, a last `**` for any number.
 * @returns Its parts.
 * @throws {TypeError} If the pattern makes no sense.
 */
export function patternParts(pattern: string): string[] {
  const parts = broadcastPath(pattern).split("/").slice(1);
  const names = parts.filter((part) => part.startsWith("{"));
  const isWrong = parts.some((part, at) =>
    part === "**" ? at < parts.length - 1 : /[{}]/.test(part) && !/^\{\w+\}$/.test(part)
  );
  if (isWrong || new Set(names).size < names.length) {
    throw new TypeError(
      "Cannot handle pattern: its parts must be texts, {name} once each, or ** as the last one, " +
        `received "${pattern}"`,
    );
  }
  return parts;
}

/**
 * Compares a path with a pattern.
 *
 * @param pattern The parts of the pattern.
 * @param parts The parts of the path.
 * @returns What the braces stand for; `undefined` if the path does not fit.
 */
export function matchPattern(
  pattern: readonly string[],
  parts: readonly string[],
): Record<string, string> | undefined {
  const isOpen = pattern.at(-1) === "**";
  const fixed = isOpen ? pattern.length - 1 : pattern.length;
  if (isOpen ? parts.length < fixed : parts.length !== fixed) return undefined;
  const params: Record<string, string> = {};
  for (let at = 0; at < fixed; at++) {
    const [expected, part] = [pattern[at]!, parts[at]!];
    if (expected.startsWith("{")) params[expected.slice(1, -1)] = part;
    else if (expected !== part) return undefined;
  }
  return params;
}
