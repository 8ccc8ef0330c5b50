/**
 * Checks the repository's Markdown: each link has a target, the table of contents lists each page,
 * and the prose follows the rules.
 *
 * ```sh
 * deno run -A tools/pages.ts
 * ```
 *
 * @module
 */
import { filesIn, type Violation } from "./arrows.ts";
import { checkContents, CONTENTS, slugOf } from "./site/contents.ts";
import { findDivided } from "./prose.ts";

/** Maps the path of every page, from the root of the repository, to its Markdown. */
export type Pages = ReadonlyMap<string, string>;

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
 * @returns Each violation.
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
