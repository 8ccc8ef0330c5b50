/**
 * Checks the repository's Markdown: each link has a target, the table of contents lists each page,
 * the map of the repository names existing files, programs are files that a reader can save, and the
 * prose follows the rules.
 *
 * ```sh
 * deno run -A tools/pages.ts
 * ```
 *
 * @module
 */
import { filesIn, type Violation } from "./arrows.ts";
import { checkContents, CONTENTS, slugOf } from "./site/contents.ts";
import { fencesOf, withoutHidden } from "./site/fences.ts";
import { findDivided } from "./prose.ts";

/** Maps the path of every page, from the root of the repository, to its Markdown. */
export type Pages = ReadonlyMap<string, string>;

/** The page that is a map of the repository: the files and folders that it names exist. */
const MAP = "CONTRIBUTING.md";

/** The pages whose programs readers save; the programs of the page on tests are bodies of tests. */
const PROGRAMS = /^docs\/(?!internals\/|protocol|guide\/testing\.md)/;

/** A program that a test runs. */
const PROGRAM = /^```(?:ts|js)\b(?![^\n]*\bignore\b)(?<attributes>[^\n]*)\n/;

/** Lines that only tests need. */
const FOR_TESTS = /from "@std\/assert"|\bport: 0\b/;

/** The name of a file or folder in the text of the map; `*` stands for any characters. */
const NAMED = /`(\*?[\w./-]+(?:\*[\w./-]*)?(?:\/|\.(?:json|md|ts)))`/g;

/** The names in the first column of the map's code blocks. */
const ROW = /^( *)(\w+[/.][\w./]*(?: \w+[/.][\w./]*)*) {2,}\S/;

/** The target of a link, or of an image in HTML. */
const LINK = /\]\(([^)\s]+)\)|\b(?:src|href)="([^"]+)"/g;

/**
 * A paragraph, list item or cell that starts with an interrogative or indefinite pronoun, or with a
 * promise instead of the fact.
 */
const OPENING =
  /^(?:\s*(?:[-*] |\d+\. |\|)\s*)?(?:What|Whatever|Who|Whoever|Whom|Whose|Whether|Nobody|Nothing|After this page|With this recipe)\b/;

/**
 * Checks all pages.
 *
 * @param pages See {@linkcode Pages}.
 * @param paths Every file of the repository, for links to other files.
 */
export function checkPages(pages: Pages, paths: ReadonlySet<string>): Violation[] {
  const anchors = new Map([...pages].map(([path, text]) => [path, anchorsOf(text)]));
  const folders = new Set<string>();
  for (const path of paths) {
    for (let end = 0; (end = path.indexOf("/", end) + 1) > 0;) folders.add(path.slice(0, end));
  }
  const isTarget = (to: string, anchor: string) => {
    const known = anchors.get(to);
    if (known !== undefined) return anchor === "" || known.has(anchor);
    return paths.has(to) || folders.has(to.replace(/\/?$/, "/"));
  };
  const violations = [...pages].flatMap(([path, text]) => [
    ...checkLinks(path, text, isTarget),
    ...checkWords(path, text),
    ...(PROGRAMS.test(path) ? checkPrograms(path, text) : []),
    ...(path === MAP ? checkMap(text, [...paths, ...folders]) : []),
  ]);
  const contents = pages.get(CONTENTS);
  if (contents === undefined) return violations;
  const faults = checkContents(contents, [...pages.keys()]);
  return [...violations, ...faults.map((fault) => ({ path: CONTENTS, ...fault }))];
}

function checkLinks(
  path: string,
  text: string,
  isTarget: (to: string, anchor: string) => boolean,
): Violation[] {
  const violations: Violation[] = [];
  for (const { line, content } of linesOf(text)) {
    for (const [, link, attribute] of content.matchAll(LINK)) {
      const target = link ?? attribute;
      if (target === undefined || /^[a-z]+:/.test(target)) continue;
      const { pathname, hash } = new URL(target, `file:///${path}`);
      if (!isTarget(decodeURIComponent(pathname.slice(1)), decodeURIComponent(hash.slice(1)))) {
        const message = `a link leads to a file and a heading, received ${target}`;
        violations.push({ path, line, message });
      }
    }
  }
  return violations;
}

/**
 * Checks the names of files and folders that are not links. A path starts at the root; a name alone
 * belongs to any folder. In a code block, an indented name belongs to the folder above it, or to the
 * folder of the name before it.
 */
function checkMap(text: string, known: readonly string[]): Violation[] {
  const violations: Violation[] = [];
  const report = (line: number, name: string) =>
    violations.push({ path: MAP, line, message: `the map names existing files, received ${name}` });
  for (const { line, content } of linesOf(text)) {
    for (const [, name] of content.matchAll(NAMED)) {
      const pattern = name!.split("*").map(RegExp.escape).join("[^/]*");
      const isPath = /\/./.test(name!);
      const exists = new RegExp(isPath ? `^${pattern}$` : `(?:^|/)${pattern}$`);
      if (!known.some((path) => exists.test(path))) report(line, name!);
    }
  }
  const all = new Set(known);
  let above = "";
  for (const [index, content] of text.split("\n").entries()) {
    const [, indent, names] = ROW.exec(content) ?? [];
    if (names === undefined) continue;
    let before = above;
    for (const name of names.split(" ")) {
      const path = [before + name, name].find((path) => all.has(path));
      if (indent === "") above = name;
      if (path === undefined) report(index + 1, name);
      else if (indent !== "") before = path.replace(/[^/]+\/?$/, "");
    }
  }
  return violations;
}

/** Checks that programs have the name of a file, and that lines for tests are hidden. */
function checkPrograms(path: string, text: string): Violation[] {
  let line = 1;
  return fencesOf(text).flatMap((part) => {
    const at = line;
    line += part.text.split("\n").length;
    const { attributes } = PROGRAM.exec(part.text)?.groups ?? {};
    if (attributes === undefined) return [];
    const messages: string[] = [];
    if (!/\bfile=\S/.test(attributes)) messages.push("a program has a name: file=NAME");
    const shown = FOR_TESTS.exec(withoutHidden(part.text))?.[0];
    if (shown !== undefined) {
      messages.push(`a line for tests ends with "// hidden", received ${shown}`);
    }
    return messages.map((message) => ({ path, line: at, message }));
  });
}

function checkWords(path: string, text: string): Violation[] {
  const lines = linesOf(text);
  const violations = findDivided(path, lines);
  for (const { line, content } of lines) {
    if (OPENING.test(content)) {
      const start = content.trim().slice(0, 40);
      const message = `no paragraph, item or cell opens so, received "${start}"`;
      violations.push({ path, line, message });
    }
  }
  return violations;
}

/** Returns the lines of a page without code blocks. */
function linesOf(text: string): { readonly line: number; readonly content: string }[] {
  let isCode = false;
  return text.split("\n").flatMap((content, index) => {
    const isFence = /^\s*(?:```|~~~)/.test(content);
    if (isFence) isCode = !isCode;
    return isFence || isCode ? [] : [{ line: index + 1, content }];
  });
}

/** Returns the anchors of a page: headings, as code hosts name them, and `id` attributes. */
function anchorsOf(page: string): ReadonlySet<string> {
  const anchors = new Set<string>();
  for (const { content } of linesOf(page)) {
    const heading = /^#{1,6} (.*)/.exec(content)?.[1];
    if (heading !== undefined) {
      const name = slugOf(heading);
      let anchor = name;
      for (let i = 1; anchors.has(anchor); i++) anchor = `${name}-${i}`;
      anchors.add(anchor);
    }
    for (const [, id] of content.matchAll(/\bid="([^"]+)"/g)) anchors.add(id!);
  }
  return anchors;
}

/**
 * Reads all pages.
 *
 * @param root The repository.
 * @returns The pages, and the paths of all files.
 */
export async function readPages(root: URL): Promise<{ pages: Pages; paths: ReadonlySet<string> }> {
  const pages = new Map<string, string>();
  const paths = new Set<string>();
  for await (const path of filesIn(root)) {
    paths.add(path);
    if (path.endsWith(".md")) pages.set(path, await Deno.readTextFile(new URL(path, root)));
  }
  return { pages: new Map([...pages].sort(([a], [b]) => a < b ? -1 : 1)), paths };
}

if (import.meta.main) {
  const { pages, paths } = await readPages(new URL("../", import.meta.url));
  const violations = checkPages(pages, paths);
  for (const { path, line, message } of violations) console.error(`${path}:${line} ${message}`);
  console.log(`${violations.length} violations of the rules for pages`);
  Deno.exit(violations.length === 0 ? 0 : 1);
}
