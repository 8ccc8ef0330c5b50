/**
 * Checks the prose of comments: the opening words, and "cannot" in one word.
 *
 * ```sh
 * deno run -A tools/prose.ts
 * ```
 *
 * @module
 */
import { filesIn, readRepository, type Repository, type Violation } from "./arrows.ts";
import { commentsOf } from "./_source.ts";

/** Openings that are not allowed: a comment starts by naming the thing. */
const OPENING = /^(?:What|Whatever|Who|Whoever|Whom|Whose|Whether|Things)\b/;

/** Replacements with the comments of other projects. */
const FOREIGN = "tools/std/";

/**
 * Checks the comments of all files, tests included.
 *
 * @param repository The files; see {@linkcode readProse}.
 * @returns A violation for each comment that starts with a forbidden word, and for each "cannot"
 * that is written as two words.
 */
export function checkProse(repository: Pick<Repository, "files">): Violation[] {
  const violations: Violation[] = [];
  for (const [path, source] of repository.files) {
    if (path.startsWith(FOREIGN)) continue;
    for (const comment of commentsOf(source)) {
      if (!OPENING.test(comment)) continue;
      const start = comment.trim().slice(0, 40);
      const message = `no comment may open with What, Who, Whether or Things, received "${start}"`;
      violations.push({ path, line: 1, message });
    }
    const lines = source.split("\n").map((content, index) => ({ line: index + 1, content }));
    violations.push(...findDivided(path, lines));
  }
  return violations;
}

/**
 * Finds "cannot" written as two words.
 *
 * @param path The file.
 * @param lines The lines to search, with their numbers.
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
