/**
 * Checks the spelling of the pages, which is American, with `cspell` and a list of technical words.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import type { Packages } from "./build.ts";
import { SiteError } from "./stage.ts";

/** The words that are in no dictionary, one per line, sorted. */
export const WORDS: URL = new URL("words.txt", import.meta.url);

/** Code is not checked: blocks, inline code, and link targets. */
const CODE = [
  "/^[ \\t]*(```|~~~)[\\s\\S]*?^[ \\t]*\\1/gm",
  "/(`+)(?!`)(?:(?!\\n\\n)[\\s\\S])*?[^`]\\1(?!`)/g",
  "/\\]\\([^)]*\\)/g",
  "/<[^>]*>/g",
];

/** An unknown word in the output of `cspell`. */
const UNKNOWN = /^(.+?):(\d+):\d+ - Unknown word \((.+?)\)/gm;

/**
 * Checks the spelling.
 *
 * @param packages See {@linkcode Packages}.
 * @param root The repository.
 * @param pages Maps the path of each page, relative to the root, to its Markdown.
 * @returns A message for each unknown word and for each fault in the word list.
 * @throws {SiteError} If `cspell` fails, with its output.
 */
export async function checkSpelling(
  packages: Packages,
  root: URL,
  pages: ReadonlyMap<string, string>,
): Promise<string[]> {
  const folder = await Deno.makeTempDir();
  try {
    const settings = {
      version: "0.2",
      language: "en",
      dictionaryDefinitions: [{ name: "words", path: fileURLToPath(WORDS) }],
      dictionaries: ["words", "software-terms", "typescript", "node", "npm"],
      ignoreRegExpList: CODE,
      minWordLength: 4,
    };
    const paths = [...pages.keys()].map((path) => fileURLToPath(new URL(path, root)));
    await Deno.writeTextFile(`${folder}/cspell.json`, JSON.stringify(settings));
    await Deno.writeTextFile(`${folder}/files.txt`, paths.join("\n"));
    const { passed, output } = await packages.run("cspell/bin.mjs", [
      "lint",
      "--no-progress",
      "--no-color",
      "--no-gitignore",
      "--config",
      `${folder}/cspell.json`,
      "--root",
      fileURLToPath(root),
      "--file-list",
      `${folder}/files.txt`,
    ]);
    const unknown = unknownWords(output, fileURLToPath(root));
    if (!passed && unknown.length === 0) {
      throw new SiteError(`Cannot check spelling: cspell failed\n${output}`);
    }
    return [...unknown, ...checkWords(await Deno.readTextFile(WORDS), pages.values())];
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * Reads the unknown words from the output of `cspell`.
 *
 * @param output The output without colors.
 * @param root The path of the repository, which is removed from the messages.
 * @returns A message for each word.
 */
export function unknownWords(output: string, root: string): string[] {
  return [...output.matchAll(UNKNOWN)].map(([, path, line, word]) =>
    `${path!.replace(root, "")}:${line} no dictionary has the word, received "${word}"`
  );
}

/**
 * Checks that the word list is sorted, has no duplicates, and contains only words that the pages
 * use.
 *
 * @param list The list, one word per line.
 * @param pages The Markdown of all pages.
 * @returns A message for each fault.
 */
export function checkWords(list: string, pages: Iterable<string>): string[] {
  const words = list.trimEnd().split("\n");
  const text = [...pages].join("\n").toLowerCase();
  const faults: string[] = [];
  for (const [index, word] of words.entries()) {
    const previous = words[index - 1];
    if (previous !== undefined && previous.toLowerCase() >= word.toLowerCase()) {
      faults.push(`words.txt:${index + 1} the words are in order, received "${word}"`);
    }
    if (!text.includes(word.toLowerCase())) {
      faults.push(`words.txt:${index + 1} a page has each word, received "${word}"`);
    }
  }
  return faults;
}
