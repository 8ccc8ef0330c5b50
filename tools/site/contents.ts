/**
 * Reads and checks the table of contents (the groups of links in `docs/README.md`), and names the
 * anchors of headings.
 *
 * @module
 */

/** The headings of the groups, in order. */
export const GROUPS = [
  "Start",
  "How do I send and receive?",
  "How do I know my users?",
  "How do I stream AI responses?",
  "How do I connect a page or an app?",
  "How do I test and debug?",
  "How do I deploy?",
  "How do I run several servers?",
  "How does it work?",
  "Reference",
  "Internals",
] as const;

/** The page with the table of contents. */
export const CONTENTS = "docs/README.md";

/** A line of the table of contents. */
export interface Entry {
  /** Text of the link. */
  readonly title: string;
  /** The page from the root of the repository, such as `docs/guide/topics.md`. */
  readonly path: string;
  /** The heading on the page, with the number sign; empty for the whole page. */
  readonly hash: string;
  /** Text after the dash; empty without one. */
  readonly text: string;
  /** Line number, from 1. */
  readonly line: number;
}

/** A group of the table of contents. */
export interface Group {
  /** Text of the heading. */
  readonly title: string;
  /** Line number of the heading, from 1. */
  readonly line: number;
  /** The pages, in order. */
  readonly entries: readonly Entry[];
}

/**
 * Pages without an entry: the site's home page replaces the first and is made from the second, and
 * the last belongs to the npm package.
 */
const OUTSIDE: ReadonlySet<string> = new Set(["README.md", CONTENTS, "tools/npm/README.md"]);

/** Folders with notes and tables for readers of the code; the site does not show them either. */
const CODE = ["tests/", "bench/results/"];

/** A list item: a link, optionally with a dash and a text. */
const ITEM = /^- \[(?<title>[^\]]+)\]\((?<target>[^)\s]+)\)(?: [-–] (?<text>.*))?$/;

/**
 * Reads the groups of a table of contents. Sections with other headings are not groups.
 *
 * @param page The Markdown of {@linkcode CONTENTS}.
 * @returns The groups in the order of the page.
 */
export function contentsOf(page: string): Group[] {
  const groups: { title: string; line: number; entries: Entry[] }[] = [];
  let group: (typeof groups)[number] | undefined;
  const lines = page.split("\n");
  for (let at = 0; at < lines.length; at++) {
    const line = at + 1;
    const title = /^## (.*)/.exec(lines[at]!)?.[1]?.trim();
    if (title !== undefined) {
      group = isGroup(title) ? { title, line, entries: [] } : undefined;
      if (group !== undefined) groups.push(group);
    }
    let item = lines[at]!;
    if (group === undefined || !item.startsWith("- ")) continue;
    // The formatter wraps long items.
    while (/^ {2}\S/.test(lines[at + 1] ?? "")) item += ` ${lines[++at]!.trim()}`;
    const parts = ITEM.exec(item)?.groups;
    if (parts === undefined) throw new SyntaxError(messageOf(item, line));
    const { pathname, hash } = new URL(parts.target!, `file:///${CONTENTS}`);
    const path = decodeURIComponent(pathname.slice(1));
    group.entries.push({ title: parts.title!, path, hash, text: parts.text ?? "", line });
  }
  return groups;
}

/**
 * Returns the anchor that code hosts generate for a heading.
 *
 * @param heading The text of the heading, with or without Markdown.
 * @returns The anchor, without the suffix (`-1`, `-2`, …) that tells repeated headings of a page
 * apart.
 */
export function slugOf(heading: string): string {
  const plain = heading.replace(/<[^>]*>/g, "").replace(/\]\([^)]*\)/g, "]").trim();
  return plain.toLowerCase().replace(/[^\p{L}\p{N}_\- ]/gu, "").replaceAll(" ", "-");
}

function isGroup(title: string): boolean {
  return (GROUPS as readonly string[]).includes(title);
}

function messageOf(item: string, line: number): string {
  return `Cannot read contents: line ${line} must be "- [Title](page.md) - text", received "${item}"`;
}

/** A fault in the table of contents. */
export interface Fault {
  /** Line number, from 1. */
  readonly line: number;
  /** The broken rule. */
  readonly message: string;
}

/**
 * Checks that the groups of a table of contents are in order, and that every page is listed exactly
 * once.
 *
 * @param page The Markdown of {@linkcode CONTENTS}.
 * @param paths All pages of the repository.
 */
export function checkContents(page: string, paths: readonly string[]): Fault[] {
  let groups: Group[];
  try {
    groups = contentsOf(page);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return [{ line: 1, message: error.message }];
  }
  const faults: Fault[] = [];
  const order = groups.map(({ title }) => title);
  const expected = GROUPS.filter((title) => order.includes(title));
  if (order.join() !== expected.join()) {
    const message = `the groups are ${expected.join(", ")}, received ${order.join(", ")}`;
    faults.push({ line: groups[0]!.line, message });
  }
  const listed = new Set<string>();
  for (const { title, line, entries } of groups) {
    if (entries.length === 0) faults.push({ line, message: `the group ${title} lists no page` });
    for (const { path, line } of entries) {
      if (!paths.includes(path)) {
        faults.push({ line, message: `a listed page exists, received ${path}` });
      }
      if (listed.has(path)) {
        faults.push({ line, message: `a page is listed once, received ${path}` });
      }
      listed.add(path);
    }
  }
  for (const path of paths) {
    if (OUTSIDE.has(path) || CODE.some((folder) => path.startsWith(folder)) || listed.has(path)) {
      continue;
    }
    faults.push({ line: 1, message: `every page is listed, missing ${path}` });
  }
  return faults;
}
