/**
 * Checks the prose of comments: how they open, and how many pronouns they have.
 *
 * ```sh
 * deno run -A tools/prose.ts
 * ```
 *
 * @module
 */
import { isLibrary, readRepository, type Repository, type Violation } from "./arrows.ts";
import { commentsOf } from "./_source.ts";
import { proseOf } from "./figures.ts";

/** Most pronouns per thousand words of a folder's comments, and of a page. */
export const MAX_PRONOUNS: number = 20;

/** A doc names the thing first. */
const OPENING = /^(?:What|Whatever|Who|Whoever|Whom|Whose|Whether|Things)\b/;

/** Figures of a folder. */
export interface ProseFigures {
  /** Comments that open with What, Who, Whether or Things. */
  readonly openings: number;
  /** Pronouns per thousand words, rounded up. */
  readonly pronouns: number;
}

/**
 * Measures the comments of the library.
 *
 * @param repository The files, as `readRepository()` of `arrows.ts` gives them.
 * @returns Folder to figures; the root is `.`.
 */
export function proseFigures({ files }: Repository): Readonly<Record<string, ProseFigures>> {
  const sums = new Map<string, { openings: number; words: number; pronouns: number }>();
  for (const [path, source] of files) {
    if (!isLibrary(path)) continue;
    const folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : ".";
    const sum = sums.get(folder) ?? { openings: 0, words: 0, pronouns: 0 };
    sums.set(folder, sum);
    const { words, pronouns } = proseOf(source);
    sum.words += words;
    sum.pronouns += pronouns;
    sum.openings += commentsOf(source).filter((comment) => OPENING.test(comment)).length;
  }
  return Object.fromEntries(
    [...sums].sort(([a], [b]) => a < b ? -1 : 1).map(([folder, { openings, words, pronouns }]) => [
      folder,
      { openings, pronouns: Math.ceil(pronouns / Math.max(words, 1) * 1_000) },
    ]),
  );
}

/**
 * Checks the comments of the library.
 *
 * @param repository The files.
 * @returns The folders that break a rule, and each "can" that is followed by "not".
 */
export function checkProse(repository: Repository): Violation[] {
  const violations: Violation[] = [];
  for (const [path, { openings, pronouns }] of Object.entries(proseFigures(repository))) {
    if (openings > 0) {
      const message = `no comment may open with What, Who, Whether or Things, received ${openings}`;
      violations.push({ path, line: 1, message });
    }
    if (pronouns > MAX_PRONOUNS) {
      const message = `at most ${MAX_PRONOUNS} pronouns per thousand words, received ${pronouns}`;
      violations.push({ path, line: 1, message });
    }
  }
  for (const [path, source] of repository.files) {
    if (!isLibrary(path)) continue;
    for (const [index, text] of source.split("\n").entries()) {
      if (!/\bcan not\b(?! only)/.test(text)) continue;
      violations.push({ path, line: index + 1, message: '"cannot" is one word' });
    }
  }
  return violations;
}

if (import.meta.main) {
  const violations = checkProse(await readRepository(new URL("../", import.meta.url)));
  for (const { path, line, message } of violations) console.error(`${path}:${line} ${message}`);
  console.log(`${violations.length} violations of the rules for prose`);
  Deno.exit(violations.length === 0 ? 0 : 1);
}
