/**
 * Checks the prose of comments: the opening words, and the number of pronouns.
 *
 * ```sh
 * deno run -A tools/prose.ts
 * ```
 *
 * @module
 */
import { filesIn, readRepository, type Repository, type Violation } from "./arrows.ts";
import { commentsOf } from "./_source.ts";
import { proseOf } from "./figures.ts";

/** Most pronouns per thousand words of a folder's comments, and of a page. */
export const MAX_PRONOUNS: number = 20;

/** A doc names the thing first. */
const OPENING = /^(?:What|Whatever|Who|Whoever|Whom|Whose|Whether|Things)\b/;

/** Stand-ins with the comments of other projects. */
const FOREIGN = "tools/std/";

/** Figures of a folder. */
export interface ProseFigures {
  /** Comments that open with What, Who, Whether or Things. */
  readonly openings: number;
  /** Pronouns per thousand words, rounded up. */
  readonly pronouns: number;
}

/**
 * Measures the comments of all files, tests included.
 *
 * @param repository The files; see {@linkcode readProse}.
 * @returns Figures by folder; the root is `.`.
 */
export function proseFigures(
  { files }: Pick<Repository, "files">,
): Readonly<Record<string, ProseFigures>> {
  const sums = new Map<string, { openings: number; words: number; pronouns: number }>();
  for (const [path, source] of files) {
    if (path.startsWith(FOREIGN)) continue;
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
 * Checks the comments of all files, tests included.
 *
 * @param repository The files; see {@linkcode readProse}.
 * @returns The folders that break a rule, and each "cannot" in two words.
 */
export function checkProse(repository: Pick<Repository, "files">): Violation[] {
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
    if (path.startsWith(FOREIGN)) continue;
    const lines = source.split("\n").map((content, index) => ({ line: index + 1, content }));
    violations.push(...findDivided(path, lines));
  }
  return violations;
}

/**
 * Finds "cannot" in two words.
 *
 * @param path The file.
 * @param lines Lines to search, with their numbers.
 * @returns A violation for each line.
 */
export function findDivided(
  path: string,
  lines: readonly { readonly line: number; readonly content: string }[],
): Violation[] {
  return lines.filter(({ content }) => /\bcan not\b(?! only)/.test(content))
    .map(({ line }) => ({ path, line, message: '"cannot" is one word' }));
}

/**
 * Adds the JavaScript of examples and benchmarks to the TypeScript of a repository.
 *
 * @param root The folder of the repository.
 * @param repository The TypeScript files.
 * @returns The files of both languages.
 */
export async function readProse(
  root: URL,
  repository: Pick<Repository, "files">,
): Promise<Pick<Repository, "files">> {
  const files = new Map(repository.files);
  for (const folder of ["bench/", "examples/"]) {
    for await (const path of filesIn(root, folder)) {
      if (/\.m?js$/.test(path)) files.set(path, await Deno.readTextFile(new URL(path, root)));
    }
  }
  return { files };
}

if (import.meta.main) {
  const root = new URL("../", import.meta.url);
  const violations = checkProse(await readProse(root, await readRepository(root)));
  for (const { path, line, message } of violations) console.error(`${path}:${line} ${message}`);
  console.log(`${violations.length} violations of the rules for prose`);
  Deno.exit(violations.length === 0 ? 0 : 1);
}
