/**
 * Writes the site's files for coding agents: `llms.txt` lists the pages in the format of
 * llmstxt.org, and `llms-full.txt` contains the pages for users, in reading order.
 *
 * @module
 */
import { fencesOf } from "./fences.ts";
import { FRONT_MATTER, type Staged } from "./stage.ts";

/** Groups that users of the library need not read; `llms.txt` lists them under "Optional". */
const OPTIONAL: ReadonlySet<string> = new Set(["Internals"]);

/** Pages outside the guide's folders, and the protocol: for implementers and maintainers. */
const NOT_FOR_USERS = /^\/(?:[^/]+$|bench\/|protocol\/)/;

/** Pages at the root that users read. */
const FOR_USERS: ReadonlySet<string> = new Set(["/", "/troubleshooting"]);

/** Comments and pictures. */
const NOT_TEXT = /^<!--[\s\S]*?-->\n*|^\[?!\[[^\]]*\]\([^)]*\)(?:\]\([^)]*\))?\n*/gm;

/** The opening fence of a block: an agent needs the language and the name of the file. */
const FENCE = /^(?<start>\s*(?:```|~~~)\w*)(?<rest>[^\n]*)/;

/** Files for coding agents, by path below the root of the site. */
export interface AgentFiles {
  /** Maps the path of a file, such as `llms.txt` or `guide/topics.md`, to its text. */
  readonly [path: string]: string;
}

/**
 * Returns the files for coding agents: `llms.txt`, `llms-full.txt`, and the Markdown of every page,
 * whose path is that of the page plus `.md`.
 *
 * @param staged The pages with the site's links.
 * @param address The URL of the site's root, either absolute or only a path, with a trailing slash.
 */
export function agentFiles({ bodies, groups }: Staged, address: string): AgentFiles {
  const texts = new Map(
    [...bodies].map(([route, body]) => [route, withAddress(plain(body), address)]),
  );
  return {
    ...Object.fromEntries(texts),
    "llms.txt": indexOf(texts.get("index.md") ?? "", groups, address),
    "llms-full.txt": fullOf(texts, groups, address),
  };
}

type Groups = Staged["groups"];
type Item = Groups[number]["items"][number];

/** The list of pages, with a line about each. */
function indexOf(home: string, groups: Groups, address: string): string {
  const optional: Item[] = [];
  const sections = groups.map(({ text: title, items }) => {
    const isUser = ({ link }: Item) => isForUsers(title, link);
    optional.push(...items.filter((item) => !isUser(item)));
    return { title, items: items.filter(isUser) };
  });
  const lines = ({ text, link, description }: Item) =>
    `- [${text}](${markdownOf(link, address)}): ${description}`;
  return [
    `# Skein\n\n> ${summaryOf(home)}\n`,
    `[llms-full.txt](${address}llms-full.txt) has the text of all pages for users.\n`,
    ...[...sections, { title: "Optional", items: optional }]
      .filter(({ items }) => items.length > 0)
      .map(({ title, items }) => `## ${title}\n\n${items.map(lines).join("\n")}\n`),
  ].join("\n");
}

/** The text of the pages for users, each after a comment with its URL. */
function fullOf(texts: ReadonlyMap<string, string>, groups: Groups, address: string): string {
  const links = groups.flatMap(({ text: title, items }) =>
    items.map(({ link }) => link).filter((link) => isForUsers(title, link)).map(pathOf)
  );
  return ["/", ...new Set(links)].flatMap((link) => {
    const text = texts.get(routeOfLink(link));
    if (text === undefined) return [];
    const body = link === "/" ? withoutGroups(text, groups) : text.replace(FRONT_MATTER, "");
    return [`<!-- ${markdownOf(link, address)} -->\n\n${body.trim()}\n`];
  }).join("\n");
}

function isForUsers(title: string, link: string): boolean {
  const path = pathOf(link);
  return !OPTIONAL.has(title) && (FOR_USERS.has(path) || !NOT_FOR_USERS.test(path));
}

/** The first paragraph on one line. */
function summaryOf(home: string): string {
  return (home.split(/\n{2,}/).find((part) => /^[\p{L}`*]/u.test(part)) ?? "")
    .replace(/\s+/g, " ").trim();
}

/** A page without its comments and pictures, and with fences that name language and file. */
function plain(page: string): string {
  return fencesOf(page).map(({ isCode, text }) => {
    if (!isCode) return text.replace(NOT_TEXT, "").replace(/\n{2,}$/, "\n");
    return text.replace(FENCE, (_whole, start: string, rest: string) => {
      const file = /\bfile=\S+/.exec(rest)?.[0];
      return file === undefined ? start : `${start} ${file}`;
    });
  }).join("\n");
}

/** Makes links from the site's root absolute; links to pages lead to their Markdown. */
function withAddress(page: string, address: string): string {
  return fencesOf(page).map(({ isCode, text }) =>
    isCode
      ? text
      : text.replace(/\]\((\/[^)\s]*)\)/g, (_, link) => `](${markdownOf(link, address)})`)
  ).join("\n");
}

/** The URL of a page's Markdown, or of a file. */
function markdownOf(link: string, address: string): string {
  const [, path, hash] = /^\/([^#]*)(.*)$/.exec(link)!;
  if (/\.\w+$/.test(path!)) return `${address}${path}${hash}`;
  return `${address}${routeOfLink(`/${path}`)}${hash}`;
}

function routeOfLink(link: string): string {
  const path = link.slice(1);
  return path === "" || path.endsWith("/") ? `${path}index.md` : `${path}.md`;
}

function pathOf(link: string): string {
  return link.replace(/#.*/, "");
}

/** The home page without the list of pages, because the pages follow anyway. */
function withoutGroups(home: string, groups: Groups): string {
  const titles = new Set(groups.map(({ text }) => text));
  const [beginning, ...sections] = home.split(/^(?=## )/m);
  const kept = sections.filter((section) => !titles.has(/^## (.*)/.exec(section)![1]!));
  return [beginning, ...kept].join("");
}
