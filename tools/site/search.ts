/**
 * Defines the site's search: how a page is split into sections, which words lead to a section, and
 * how results are ranked. The VitePress settings and the tests share this file, so both search the
 * same index.
 *
 * Below its heading, a page can have a comment with words that readers search for but that its text
 * doesn't use:
 *
 * ```md
 * <!-- search: logout, kick, ban -->
 * ```
 *
 * VitePress sends the functions of {@linkcode SEARCH} to the browser as text, so these functions
 * must not refer to anything outside themselves.
 *
 * @module
 */
import { slugOf } from "./contents.ts";

/** A part of a page from one heading to the next. */
export interface Section {
  /** The anchor of the heading. */
  readonly anchor: string;
  /** The headings above, outermost first, and the section's own heading last. */
  readonly titles: readonly string[];
  /** The text, then a form feed, then the words of the comment. */
  readonly text: string;
}

/** A section in the index, as VitePress adds it. */
export interface SearchDocument {
  /** The path of the page, with the anchor. */
  readonly id: string;
  /** The section's own heading. */
  readonly title: string;
  /** The headings above, outermost first. */
  readonly titles: readonly string[];
  /** See {@linkcode Section.text}. */
  readonly text: string;
}

/** Options of MiniSearch: `options` for the index, `searchOptions` for each query. */
export const SEARCH = {
  options: {
    fields: ["title", "titles", "keywords", "text"],
    storeFields: ["title", "titles"],
    extractField: (section: SearchDocument, name: string): unknown => {
      const [text, keywords] = section.text.split("\f");
      if (name === "text") return text;
      return name === "keywords" ? keywords : section[name as keyof SearchDocument];
    },
    /** Drops question words, and replaces plurals by singulars. */
    processTerm: (term: string): string | null => {
      const word = term.toLowerCase();
      if (
        /^(?:an?|and|are|as|at|be|by|can|do|does|for|from|how|i|in|is|it|my|of|on|or|the|to|with)$/
          .test(word)
      ) {
        return null;
      }
      return /[^isu]s$/.test(word) && word.length > 3 ? word.slice(0, -1) : word;
    },
  },
  searchOptions: {
    fuzzy: 0.15,
    prefix: true,
    // Exact matches rank above similar words, in titles too.
    weights: { fuzzy: 0.05, prefix: 0.25 },
    boost: { title: 6, keywords: 6, text: 2, titles: 2 },
    /** Pages for maintainers and implementers rank below those for users. */
    boostDocument: (id: string): number =>
      /\/(?:bench|changelog|contributing|internals|protocol)(?:[/#]|$)/.test(id) ? 0.1 : 1,
  },
};

/** The search words, in a comment on its own lines. */
const KEYWORDS = /^<!-- search: ([\s\S]*?) -->$/gm;

/**
 * Splits a page at its headings.
 *
 * @param page The Markdown of the page, with or without front matter.
 * @returns The sections in order, or an empty array if the front matter contains `search: false`.
 */
export function sectionsOf(page: string): Section[] {
  const [, head = "", body = page] = /^---\n([\s\S]*?)\n---\n([\s\S]*)$/.exec(page) ?? [];
  if (/^search: false$/m.test(head)) return [];
  const sections: Section[] = [];
  const anchors = new Set<string>();
  let titles: string[] = [];
  for (const { level, title, lines } of partsOf(body)) {
    titles = [...titles.slice(0, level - 1), title];
    const name = slugOf(title);
    let anchor = name;
    for (let at = 1; anchors.has(anchor); at++) anchor = `${name}-${at}`;
    anchors.add(anchor);
    const text = lines.join("\n");
    const keywords = [...text.matchAll(KEYWORDS)].map(([, words]) => words).join(" ");
    const shown = titles.filter((title) => title !== undefined).map(htmlOf);
    sections.push({ anchor, titles: shown, text: `${plainOf(text)}\f${keywords}` });
  }
  return sections;
}

interface Part {
  readonly level: number;
  readonly title: string;
  readonly lines: string[];
}

/** Headings, each with the lines below it; lines before the first heading belong to no section. */
function partsOf(body: string): Part[] {
  const parts: Part[] = [];
  let isCode = false;
  for (const line of body.split("\n")) {
    const isFence = /^\s*(?:```|~~~)/.test(line);
    if (isFence) isCode = !isCode;
    const [, marks, title] = (isCode || isFence ? null : /^(#{1,6}) (.*)/.exec(line)) ?? [];
    if (marks !== undefined) parts.push({ level: marks.length, title: title!, lines: [] });
    else if (!isFence) parts.at(-1)?.lines.push(line);
  }
  return parts;
}

/** A heading as the results show it, namely as HTML. */
function htmlOf(title: string): string {
  return plainOf(title).replaceAll("*", "").replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

/** Markdown without comments, link targets and code marks. */
function plainOf(text: string): string {
  return text.replace(/<!--[\s\S]*?-->/g, "").replace(/\]\([^)\s]*\)/g, "]").replaceAll("`", "")
    .trim();
}
