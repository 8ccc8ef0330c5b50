/**
 * Builds the API reference with `deno doc --html`, in the colors of the site and with its bar.
 *
 * @module
 */
import { type NavItem, SiteError } from "./stage.ts";

/** Options of {@linkcode buildApi}. */
export interface ApiOptions {
  /** The folder of the reference. */
  readonly out: URL;
  /** The repository. */
  readonly root: URL;
  /** The path of the site. */
  readonly base: string;
  /** Address of the repository on a code host, if known. */
  readonly repository: string | undefined;
  /** The site's font. */
  readonly font: URL;
  /** Links of the bar at the top. */
  readonly nav: readonly NavItem[];
  /** Subpath to file, as in `deno.json`. */
  readonly exports: Readonly<Record<string, string>>;
}

/** Files that are changed at a time: most of the work is waiting for the disk. */
const FILES_AT_ONCE = 16;

/** A link to a source file. */
const SOURCE_LINK = /<a\s+class="sourceButton"\s+href="([^"]*)"[^>]*>[\s\S]*?<\/a>/g;

/** A link to a part of a page. */
const ANCHOR_LINK = /(<a href=")((?:[^"#]|(?<=&)#)*)((?<!&)#[^"]*)"([^>]*>)/g;

/** The page of the main entry. */
const FIRST_PAGE = /<title>Skein documentation</;

/**
 * Builds the reference.
 *
 * @param options See {@linkcode ApiOptions}.
 * @throws {SiteError} If `deno doc` fails, with its output.
 */
export async function buildApi(options: ApiOptions): Promise<void> {
  const { out, root, base, nav, exports, font, repository } = options;
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "doc",
      "--html",
      "--name=Skein",
      "--strip-trailing-html",
      `--output=${out.pathname}`,
      ...new Set(Object.values(exports)),
    ],
    cwd: root,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
  }).output();
  if (!success) {
    const output = new TextDecoder().decode(stderr);
    throw new SiteError(`Cannot build reference of the API: deno doc failed\n${output}`);
  }
  for (const name of ["api.css", "darkmode_toggle.js"]) {
    await Deno.copyFile(new URL(`api/${name}`, import.meta.url), new URL(name, out));
  }
  await Deno.copyFile(font, new URL("inter-roman-latin.woff2", out));
  const pages = new Map<string, { readonly url: URL; readonly html: string }>();
  const anchors = new Set<string>();
  for await (const url of htmlIn(out)) {
    const html = await Deno.readTextFile(url);
    const page = url.href.replace(/\.html$/, "");
    pages.set(page, { url, html });
    anchors.add(page);
    for (const [, id] of html.matchAll(/\sid="([^"]*)"/g)) anchors.add(`${page}#${id}`);
  }
  const look: Look = {
    base,
    bar: barOf(base, nav),
    entries: Object.keys(exports),
    sources: repository === undefined ? undefined : `${repository}/blob/main/`,
    root: root.href,
    hasTarget: (page, link) => {
      const url = new URL(link, page);
      if (url.pathname.endsWith("/")) url.pathname += "index";
      return anchors.has(url.href);
    },
  };
  const next = pages.entries();
  await Promise.all(Array.from({ length: FILES_AT_ONCE }, async () => {
    for (const [page, { url, html }] of next) {
      await Deno.writeTextFile(url, withLook(html, page, look));
    }
  }));
}

/** Additions to each page of the reference. */
export interface Look {
  /** The path of the site. */
  readonly base: string;
  /** HTML of the bar at the top. */
  readonly bar: string;
  /** Subpaths of the package, as in `deno.json`. */
  readonly entries: readonly string[];
  /** Address of the sources on a code host; without an address, no page links to its source. */
  readonly sources: string | undefined;
  /** URL of the folder to which links to sources lead. */
  readonly root: string;
  /**
   * Returns true if a link leads to an existing page and anchor.
   *
   * @param page URL of the page with the link.
   */
  hasTarget(page: string, link: string): boolean;
}

/**
 * Adds the site's look to a page of `deno doc`, and fixes its links:
 *
 * - **Look:** the page gets the site's bar, colors and language.
 * - **Entries:** the first page lists the entries, and imports show the name of the package.
 * - **Sources:** links lead to the code host, never to the local machine.
 * - **Anchors:** `deno doc` links to anchors that don't exist, such as those of accessors without a
 *   getter, or of type parameters of an inferred type. These links are changed to lead to the page,
 *   or are removed.
 *
 * @param html The page.
 * @param page URL of the page, without an extension.
 * @param look See {@linkcode Look}.
 * @returns The changed HTML.
 */
export function withLook(html: string, page: string, look: Look): string {
  const { base, bar, entries, sources, root } = look;
  const names = new Set(entries.map((entry) => entry.replace("./", "")));
  return html
    .replace(SOURCE_LINK, (link: string, href: string) => {
      const path = plain(href);
      if (sources === undefined || !path.startsWith(root)) return "";
      return link.replace(href, `${sources}${path.slice(root.length)}`);
    })
    .replace(
      ANCHOR_LINK,
      (link: string, before: string, path: string, hash: string, after: string) => {
        if (look.hasTarget(page, plain(`${path}${hash}`))) return link;
        return path === "" ? `<a${after}` : `${before}${path}"${after}`;
      },
    )
    // The option that omits extensions also treats a member's name as an index.
    .replace(/(?<= href="[^"]*\w\.)(?=")/g, "index")
    .replace("<html>", '<html lang="en-GB">')
    .replace(
      "</head>",
      `<link rel="icon" type="image/svg+xml" href="${base}mark.svg">` +
        `<link rel="stylesheet" href="${base}api/api.css"></head>`,
    )
    .replace(/<body[^>]*>/, (body) => `${body}\n${bar}`)
    // Labels for screen readers, and scrolling by keyboard.
    .replaceAll('class="copyButton"', 'class="copyButton" aria-label="Copy"')
    .replaceAll("<pre class=", '<pre tabindex="0" class=')
    .replace('id="searchbar"', 'id="searchbar" aria-label="Search the reference"')
    .replace(
      FIRST_PAGE.test(html) ? '<div class="space-y-2 flex-1">' : /$^/,
      (it) => entryList(entries) + it,
    )
    .replace(/(?<=class="contextLink">)default(?=<)/, "@skein/skein")
    .replace(
      /(?<= from &quot;)[^&]*(?=&quot;)/g,
      (name) => names.has(name) ? `@skein/skein${name === "." ? "" : `/${name}`}` : name,
    );
}

/** Text of an attribute; `deno doc` writes slashes as entities. */
function plain(attribute: string): string {
  return attribute.replaceAll("&#x2F;", "/").replaceAll("&amp;", "&");
}

/** A list of links to the package's entries, except the first, which the page describes. */
function entryList(entries: readonly string[]): string {
  const links = entries.filter((entry) => entry !== ".").map((entry) => {
    const name = entry.replace("./", "");
    return `<li><a href="${name}/"><code>@skein/skein/${name}</code></a></li>`;
  });
  return `<nav class="entries" aria-labelledby="entries"><h2 id="entries">Entries</h2>` +
    `<ul>${links.join("")}</ul></nav>`;
}

/**
 * Returns the bar at the top of a page.
 *
 * @param base The path of the site.
 * @param nav The links to show in the bar.
 * @returns HTML.
 */
export function barOf(base: string, nav: readonly NavItem[]): string {
  const links = nav.map(({ text, link }) => {
    const here = link === "/api/" ? ' aria-current="page"' : "";
    return `<a href="${base}${link.slice(1)}"${here}>${text}</a>`;
  });
  const home = `<a class="site-home" href="${base}">` +
    `<img src="${base}mark.svg" alt="" width="26" height="26">Skein</a>`;
  return `<header class="site-bar">${home}<nav aria-label="Site">${links.join("")}</nav></header>`;
}

async function* htmlIn(folder: URL): AsyncGenerator<URL> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    const url = new URL(`${encodeURIComponent(name)}${isDirectory ? "/" : ""}`, folder);
    if (isDirectory) yield* htmlIn(url);
    else if (name.endsWith(".html")) yield url;
  }
}
