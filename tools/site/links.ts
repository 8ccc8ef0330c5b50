/**
 * Checks the links of the built site: every link, picture and anchor has a target.
 *
 * @module
 */
import { fileURLToPath } from "node:url";

/** An attribute that is a URL or an anchor. */
const ATTRIBUTE = /\s(href|src|id|name)=(?:"([^"]*)"|'([^']*)')/g;

/** Parts of a page whose text may look like attributes. */
const NOT_MARKUP = /<(script|style)\b[^>]*>[\s\S]*?<\/\1>|<!--[\s\S]*?-->|data-copy="[^"]*"/g;

/** Fragments that mean the top of a page. */
const TOP: ReadonlySet<string> = new Set(["", "top"]);

/** The links and anchors of a page. */
interface Page {
  readonly targets: readonly string[];
  readonly anchors: ReadonlySet<string>;
}

/**
 * Checks the links of a site.
 *
 * @param folder The built site, with a slash at the end.
 * @param base The path of the site, with a slash on both sides.
 * @returns A message for each link without a target, sorted by page, and the number of links.
 */
export async function checkLinks(
  folder: URL,
  base: string = "/",
): Promise<{ readonly faults: string[]; readonly count: number }> {
  const files = new Set<string>();
  const pages = new Map<string, Page>();
  for await (const path of filesIn(folder)) {
    files.add(path);
    if (path.endsWith(".html")) {
      pages.set(path, pageOf(await Deno.readTextFile(new URL(encoded(path), folder))));
    }
  }
  const faults: string[] = [];
  let count = 0;
  for (const [path, { targets }] of pages) {
    const own = new URL(addressOf(path), `https://site.invalid${base}`);
    for (const target of targets) {
      count++;
      const fault = faultOf(target, own);
      if (fault !== undefined) faults.push(`${path}: ${fault}, received "${target}"`);
    }
  }
  return { faults: faults.sort(), count };

  function faultOf(target: string, own: URL): string | undefined {
    if (!URL.canParse(target, own)) return "a link is an address";
    const { protocol, host, pathname, hash } = new URL(target, own);
    if (!["https:", "http:", "mailto:", "data:"].includes(protocol)) return "a link is of the web";
    if (host !== own.host) return undefined;
    if (!pathname.startsWith(base)) return "a link stays below the path of the site";
    const path = decodeURIComponent(pathname.slice(base.length));
    const file = fileFor(path);
    if (file === undefined) return "a link leads to a page or a file";
    const anchor = decodeURIComponent(hash.slice(1));
    const anchors = pages.get(file)?.anchors;
    if (TOP.has(anchor) || anchors === undefined || anchors.has(anchor)) return undefined;
    return "a link leads to an anchor of the page";
  }

  /** The file that a host serves for a path, as in `serve.ts` but without redirects. */
  function fileFor(path: string): string | undefined {
    const candidates = path === "" || path.endsWith("/")
      ? [`${path}index.html`]
      : [path, `${path}.html`, `${path}/index.html`];
    return candidates.find((it) => files.has(it));
  }
}

/** The path of a page below the site's path. */
function addressOf(path: string): string {
  return encoded(path).replace(/(^|\/)index\.html$/, "$1").replace(/\.html$/, "");
}

function encoded(path: string): string {
  return `./${path.split("/").map(encodeURIComponent).join("/")}`;
}

function pageOf(html: string): Page {
  const targets: string[] = [];
  const anchors = new Set<string>();
  for (const [, name, double, single] of html.replace(NOT_MARKUP, "").matchAll(ATTRIBUTE)) {
    const value = decoded(double ?? single!);
    if (name === "href" || name === "src") targets.push(value);
    else anchors.add(value);
  }
  return { targets, anchors };
}

function decoded(text: string): string {
  return text.replace(/&#x([0-9a-f]+);|&#(\d+);|&(amp|quot|lt|gt);/gi, (_, hex, number, name) => {
    if (name !== undefined) return { amp: "&", quot: '"', lt: "<", gt: ">" }[name as "amp"]!;
    return String.fromCodePoint(hex === undefined ? Number(number) : parseInt(hex, 16));
  });
}

async function* filesIn(folder: URL): AsyncGenerator<string> {
  const root = fileURLToPath(folder);
  const walk = async function* (below: string): AsyncGenerator<string> {
    for await (const { name, isDirectory } of Deno.readDir(`${root}${below}`)) {
      if (isDirectory) yield* walk(`${below}${name}/`);
      else yield `${below}${name}`;
    }
  };
  yield* walk("");
}
