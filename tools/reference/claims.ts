/**
 * Checks options and their defaults that pages name in their own words.
 *
 * @module
 */
import { filesIn } from "../arrows.ts";
import type { Declarations } from "./declarations.ts";

/** The text of a page that is not its own words: code, and what the reference writes. */
const NOT_WORDS = /^```[^]*?^```|<!-- reference:[^]*?<!-- end of reference -->/gm;

/** A name that only options have, such as `session.maxRequests`, `graceMs` or `tokens.inMessage`. */
const OPTION =
  /`(?:(?:\w+\.)*(max[A-Z]\w*|[a-z]\w*Ms)|(?:backoff|limits|outbox|rates|tokens|webTransport)(?:\.\w+)*\.(\w+))`/g;

/** A default next to the name of its option: `graceMs` (5 s), or `graceMs` (5 s by default). */
const DEFAULT =
  /`(?<path>[\w.]+)`\s\((?<amount>\d[\d,]*(?:\.\d+)?)\s?(?<unit>ms|s|min|h|KiB|MiB|GiB|MB)?(?:\sby\sdefault)?\)/g;

const UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  min: 60_000,
  h: 3_600_000,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  MB: 1_000_000,
};

/** Further defaults, which depend on another option. */
const OTHER_DEFAULTS: Readonly<Record<string, number>> = {
  // With the option `store`.
  "outbox.maxBytes": 5 * 2 ** 20,
};

/**
 * Finds the names of options in the command, the templates and the examples.
 *
 * @param root The URL of the repository.
 */
export async function namesOfPrograms(root: URL): Promise<Set<string>> {
  const names = new Set<string>();
  for await (const path of filesIn(root)) {
    if (!/^(?:cli|examples)\/.*\.tsx?(?:\.txt)?$/.test(path)) continue;
    const source = await Deno.readTextFile(new URL(path, root));
    for (const [name] of source.matchAll(/\b(?:max[A-Z]\w*|[a-z]\w*Ms)\b/g)) names.add(name);
  }
  return names;
}

/**
 * Compares the options and defaults that a page names with the code.
 *
 * @param page The Markdown of the page.
 * @param declarations The types of the library.
 * @param programs The names of options in programs.
 * @returns Each option that does not exist, and each default that no option of this name has.
 */
export function wrongClaims(
  page: string,
  declarations: Declarations,
  programs: ReadonlySet<string> = new Set(),
): string[] {
  const words = page.replace(NOT_WORDS, "");
  const unknown = [...words.matchAll(OPTION)]
    .filter(([, name, member]) => {
      const last = (name ?? member)!;
      return !declarations.names.has(last) && !programs.has(last);
    })
    .map(([text]) => `${text} is no option`);
  const wrong = [...words.matchAll(DEFAULT)].filter(({ groups }) => {
    const { path, amount, unit } = groups as Record<string, string | undefined>;
    const defaults = declarations.defaults.get(path!.split(".").at(-1)!);
    const value = Number(amount!.replaceAll(",", "")) * (unit === undefined ? 1 : UNITS[unit]!);
    return defaults !== undefined && !defaults.has(value) && OTHER_DEFAULTS[path!] !== value;
  }).map(([text]) => `${text} is not the default`);
  return [...unknown, ...wrong];
}
