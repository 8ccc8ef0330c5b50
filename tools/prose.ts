/**
 * Checks the prose of comments: how they open, and how many pronouns they have.
 *
 * ```sh
 * deno run -A tools/prose.ts
 * deno run -A tools/prose.ts --debts
 * ```
 *
 * A folder that does not keep the rules yet has its figures in `prose_debts.json`, as ceilings that
 * only fall; `--debts` writes that file anew, and refuses where a figure rose.
 *
 * @module
 */
import { isLibrary, readRepository, type Repository, type Violation } from "./arrows.ts";
import { commentsOf } from "./_source.ts";
import { proseOf } from "./figures.ts";

/** Most pronouns per thousand words of a folder's comments. */
const MAX_PRONOUNS = 20;

/** A doc names the thing first. */
const OPENING = /^(?:What|Whatever|Who|Whoever|Whom|Whose|Whether|Things)\b/;

/** Figures of a folder, each the highest that passes. */
export interface ProseFigures {
  /** Comments that open with What, Who, Whether or Things. */
  readonly openings: number;
  /** Pronouns per thousand words, rounded up. */
  readonly pronouns: number;
}

/** Folder to figures; the root is `.`. */
export type ProseDebts = Readonly<Record<string, ProseFigures>>;

/**
 * Measures the comments of the library.
 *
 * @param repository The files, as `readRepository()` of `arrows.ts` gives them.
 * @returns The figures of every folder.
 */
export function proseFigures({ files }: Repository): ProseDebts {
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
 * @param debts What folders may have beyond the rules.
 * @returns The folders above their ceilings, and each "can" that is followed by "not".
 */
export function checkProse(repository: Repository, debts: ProseDebts): Violation[] {
  const violations: Violation[] = [];
  for (const [folder, { openings, pronouns }] of Object.entries(proseFigures(repository))) {
    const most = debts[folder];
    const maxPronouns = Math.max(MAX_PRONOUNS, most?.pronouns ?? 0);
    if (openings > (most?.openings ?? 0)) {
      const message =
        `at most ${most?.openings ?? 0} comments may open with What, Who, Whether or ` +
        `Things, received ${openings}`;
      violations.push({ path: folder, line: 1, message });
    }
    if (pronouns > maxPronouns) {
      const message = `at most ${maxPronouns} pronouns per thousand words, received ${pronouns}`;
      violations.push({ path: folder, line: 1, message });
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

const DEBTS = new URL("prose_debts.json", import.meta.url);

/** Reads the ceilings of folders that do not keep the rules yet. */
export async function readProseDebts(): Promise<ProseDebts> {
  return JSON.parse(await Deno.readTextFile(DEBTS));
}

if (import.meta.main) {
  const repository = await readRepository(new URL("../", import.meta.url));
  const violations = checkProse(repository, await readProseDebts());
  for (const { path, line, message } of violations) console.error(`${path}:${line} ${message}`);
  if (violations.length === 0 && Deno.args.includes("--debts")) {
    const owed = Object.entries(proseFigures(repository))
      .filter(([, { openings, pronouns }]) => openings > 0 || pronouns > MAX_PRONOUNS);
    await Deno.writeTextFile(DEBTS, `${JSON.stringify(Object.fromEntries(owed), null, 2)}\n`);
  }
  console.log(`${violations.length} violations of the rules for prose`);
  Deno.exit(violations.length === 0 ? 0 : 1);
}
