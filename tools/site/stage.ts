/**
 * Creates the site's sources from the repository's pages: each page has a route, and each link
 * leads to its target on the site.
 *
 * @module
 */
import { CONTENTS, contentsOf, type Group, slugOf } from "./contents.ts";
import { fencesOf, withoutHidden } from "./fences.ts";

/** The pages, and the files to which they link. */
export interface Sources {
  /** Maps the path of every page, from the root of the repository, to its Markdown. */
  readonly pages: ReadonlyMap<string, string>;
  /** Every file of the repository. */
  readonly paths: ReadonlySet<string>;
}

/** Options of {@linkcode stage}. */
export interface StageOptions {
  /**
   * URL of the repository on a code host, such as `https://github.com/owner/name`. Without it,
   * links to source files become code, and pages have no edit link.
   */
  readonly repository?: string;
}

/** Sources for the generator. */
export interface Staged {
  /** Maps the route of a file, such as `guide/topics.md`, to Markdown. */
  readonly pages: ReadonlyMap<string, string>;
  /** Maps the route of a page to its Markdown with the site's links, but without its layout. */
  readonly bodies: ReadonlyMap<string, string>;
  /**
   * Maps the route of a file that pages show or offer, such as `chat.png`, to its path in the
   * repository.
   */
  readonly files: ReadonlyMap<string, string>;
  /** The sidebar. */
  readonly groups: readonly StagedGroup[];
}

/** A group of the sidebar. */
export interface StagedGroup {
  /** Text of the heading. */
  readonly text: string;
  /** The pages, with their links from the site's root, and a sentence about each. */
  readonly items: readonly {
    readonly text: string;
    readonly link: string;
    readonly description: string;
  }[];
}

/**
 * Thrown if the site cannot be built or checked, because a program failed; the message contains its
 * output.
 */
export class SiteError extends Error {
  /** Creates the error. */
  constructor(message: string) {
    super(message);
    this.name = "SiteError";
  }
}

/** A link of the bar at the top of every page. */
export interface NavItem {
  /** Text of the link. */
  readonly text: string;
  /** The address from the root of the site. */
  readonly link: string;
  /** Path of the pages for which the item is marked. */
  readonly activeMatch?: string;
  /** Opens a page outside VitePress in the same tab. */
  readonly target?: "_self";
}

/** The branch that links to the repository name. */
const BRANCH = "main";

/** Maximum characters of a page's description, which search engines show. */
const DESCRIPTION_CHARS = 160;

/** The front matter of a skill file, which coding agents read and the site does not show. */
export const FRONT_MATTER: RegExp = /^---\n[\s\S]*?\n---\n+/;

/** Folder of the skill for coding agents, which summarizes other pages. */
const SKILLS = "skills/";

const IMAGE = /\.(?:png|svg|jpe?g|webp|gif)$/;

/** A list item with a link, and the text after its dash. */
const ITEM_TEXT = /^(- \[[^\]]+\]\([^)]+\)) [-–] ((?:.|\n(?= {2}\S))*)/gm;

/** Inline code, or a link. Code comes first, because links in code are text. */
const CODE_OR_LINK =
  /(?<code>(?<!`)(?<ticks>`+)(?!`)(?:(?!\n\n)[\s\S])*?(?<!`)\k<ticks>(?!`))|(?<mark>!?)\[(?<label>(?:[^[\]]|\[[^\]]*\])*)\]\((?<target>[^)\s]+)\)/g;

/**
 * Returns the route of a file of the repository: `docs/` is the root of the site, and a README is
 * the index of its folder.
 *
 * @param path Path from the root of the repository.
 * @returns The route, such as `guide/topics.md` or `changelog.md`.
 */
export function routeOf(path: string): string {
  const route = path.startsWith("docs/") ? path.slice("docs/".length) : path.toLowerCase();
  return route.replace(/(^|\/)readme\.md$/i, "$1index.md");
}

/** The link to a page from the root of the site, without an extension. */
function linkOf(path: string): string {
  return `/${routeOf(path).replace(/(^|\/)index\.md$/, "$1").replace(/\.md$/, "")}`;
}

/**
 * Creates the sources of the site.
 *
 * @param sources See {@linkcode Sources}.
 * @param options See {@linkcode StageOptions}.
 * @returns See {@linkcode Staged}.
 */
export function stage(sources: Sources, options: StageOptions = {}): Staged {
  const groups = contentsOf(sources.pages.get(CONTENTS) ?? "");
  const listed = new Set(groups.flatMap(({ entries }) => entries.map(({ path }) => path)));
  const files = new Map<string, string>();
  const site: Site = { ...sources, ...options, listed, files };
  const pages = new Map<string, string>();
  const bodies = new Map<string, string>();
  for (const path of [CONTENTS, ...listed]) {
    const text = sources.pages.get(path);
    if (text === undefined) continue;
    const body = linked(path, text.replace(FRONT_MATTER, ""), site);
    bodies.set(routeOf(path), `${FRONT_MATTER.exec(text)?.[0] ?? ""}${body}`);
    const head = headOf(path, text, site);
    pages.set(routeOf(path), `${head}${path === CONTENTS ? withSections(body, groups) : body}`);
  }
  // Pages may also show pictures in HTML.
  for (const path of sources.paths) {
    if (path.startsWith("docs/") && IMAGE.test(path)) files.set(routeOf(path), path);
  }
  return {
    pages,
    bodies,
    files,
    groups: groups.map(({ title, entries }) => ({
      text: title,
      items: entries.map(({ title, path, hash }) => ({
        text: title,
        link: linkOf(path) + hash,
        description: descriptionOf(sources.pages.get(path) ?? ""),
      })),
    })),
  };
}

interface Site extends Sources, StageOptions {
  readonly listed: ReadonlySet<string>;
  readonly files: Map<string, string>;
}

/** The front matter of a page. */
function headOf(path: string, text: string, { repository }: Site): string {
  const facts: Record<string, unknown> = { description: descriptionOf(text) };
  if (repository !== undefined) facts.edit = `${repository}/edit/${BRANCH}/${path}`;
  if (path === CONTENTS) {
    facts.layout = "home";
    facts.search = false; // The table of contents contains the words of all pages.
  }
  if (path.startsWith(SKILLS)) facts.search = false; // The other pages say more.
  // JSON is valid YAML.
  const lines = Object.entries(facts).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  return `---\n${lines.join("\n")}\n---\n\n`;
}

/** The first paragraph as plain text, cut after a whole sentence if one fits. */
function descriptionOf(page: string): string {
  const paragraph =
    page.replace(FRONT_MATTER, "").split(/\n{2,}/).find((part) =>
      /^(?!```)[\p{L}`*[]/u.test(part)
    ) ?? "";
  const plain = paragraph.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").replace(/[`*]/g, "")
    .replace(/\s+/g, " ").trim();
  if (plain.length <= DESCRIPTION_CHARS) return plain;
  const cut = plain.slice(0, DESCRIPTION_CHARS);
  const sentence = cut.lastIndexOf(". ");
  return sentence > 0 ? cut.slice(0, sentence + 1) : `${cut.slice(0, cut.lastIndexOf(" "))} …`;
}

/** Rewrites the links of a page. */
function linked(path: string, text: string, site: Site): string {
  return outsideFences(text, (prose) =>
    prose.replace(CODE_OR_LINK, (whole, ...rest) => {
      const { code, mark, label, target } = rest.at(-1) as Record<string, string>;
      if (code !== undefined || /^(?:[a-z]+:|#)/.test(target!)) return whole;
      const { pathname, hash } = new URL(target!, `file:///${path}`);
      const to = decodeURIComponent(pathname.slice(1));
      if (site.listed.has(to)) return `${mark}[${label}](${linkOf(to)}${hash})`;
      if (to === CONTENTS) return `${mark}[${label}](/${hash})`;
      // The site's home page replaces the repository's, which has other headings.
      if (to === "README.md") return `${mark}[${label}](/)`;
      if (mark === "!") return whole;
      if (to.startsWith("docs/") && site.paths.has(to)) {
        site.files.set(`public/${routeOf(to)}`, to);
        return `[${label}](/${routeOf(to)})`;
      }
      return toSource(label!, to, hash, site);
    }));
}

/** A link to a file outside the site, or code instead of the link. */
function toSource(label: string, to: string, hash: string, { repository, paths }: Site): string {
  if (repository !== undefined) {
    const kind = paths.has(to) ? "blob" : "tree";
    return `[${label}](${repository}/${kind}/${BRANCH}/${to}${hash})`;
  }
  const plain = label.replaceAll("`", "");
  return to.replace(/\/$/, "").endsWith(plain.replace(/\/$/, ""))
    ? `\`${to}\``
    : `${label} (\`${to}\`)`;
}

/** Changes a page outside code blocks, whose hidden lines are left out. */
function outsideFences(text: string, change: (prose: string) => string): string {
  return fencesOf(text).map(({ isCode, text }) => isCode ? withoutHidden(text) : change(text))
    .join("\n");
}

/**
 * Wraps the parts of the home page in elements for the stylesheet: the introduction, each section,
 * and the groups of the table of contents as one.
 */
function withSections(body: string, groups: readonly Group[]): string {
  const titles = new Set(groups.map(({ title }) => title));
  const [beginning, ...sections] = body.split(/^(?=## )/m);
  const wrapped = [`<div class="beginning">\n\n${beginning}\n</div>\n`];
  let isContents = false;
  for (const section of sections) {
    const title = /^## (.*)/.exec(section)![1]!;
    if (titles.has(title) && !isContents) {
      wrapped.push('<nav class="contents" aria-label="All pages">\n');
      isContents = true;
    }
    const text = section.replace(ITEM_TEXT, "$1 <span>$2</span>");
    wrapped.push(`<section class="${slugOf(title)}">\n\n${text}\n</section>\n`);
  }
  if (isContents) wrapped.push("</nav>\n");
  return wrapped.join("\n");
}
