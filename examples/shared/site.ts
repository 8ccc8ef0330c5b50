/**
 * Serves an example's page: its files, the shared styles and header, and bundles for the browser. A
 * server reads and bundles them when it starts, and keeps them in memory.
 *
 * @module
 */

/** The files of a page, by path. */
export type Page = ReadonlyMap<string, { readonly type: string; readonly body: string }>;

const TYPES: Readonly<Record<string, string>> = {
  html: "text/html",
  css: "text/css",
  js: "text/javascript",
  svg: "image/svg+xml",
};

/** Shared styles, header script and logo; the files are part of the library's inspector. */
const LOOK = ["skein.css", "skein.js", "skein.svg"];

const INSPECTOR = new URL("../../operations/inspector/page/", import.meta.url);

/** Files that several examples load. */
const PARTS = ["boards.css", "elements.js", "links.js"];

/** Headers of every response: no content sniffing, and no referrer for other sites. */
const HEADERS = {
  "cache-control": "no-cache",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

/**
 * Reads a page's files, and bundles its modules.
 *
 * @param folder The folder of the page, with a slash at the end.
 * @param files Paths relative to the folder. Each file is served under its base name, and
 * `index.html` at `/`. The shared files are always served below `/shared/`.
 * @param bundles Modules to bundle for browsers. The keys are the paths at which the bundles are
 * served.
 */
export async function readPage(
  folder: URL,
  files: readonly string[],
  bundles: Readonly<Record<string, URL>> = {},
): Promise<Page> {
  const page = new Map<string, { type: string; body: string }>();
  const add = async (path: string, url: URL) => {
    const type = TYPES[path.slice(path.lastIndexOf(".") + 1)]!;
    page.set(path === "/index.html" ? "/" : path, { type, body: await Deno.readTextFile(url) });
  };
  for (const name of LOOK) await add(`/shared/${name}`, new URL(name, INSPECTOR));
  for (const name of PARTS) await add(`/shared/${name}`, new URL(name, import.meta.url));
  for (const name of files) {
    await add(`/${name.slice(name.lastIndexOf("/") + 1)}`, new URL(name, folder));
  }
  for (const [path, module] of Object.entries(bundles)) {
    page.set(path, { type: TYPES.js!, body: await bundleClient(module) });
  }
  return page;
}

/** The client for pages, as a bundle: pages import it through an import map. */
export const CLIENT = { "/skein-client.js": new URL("../../client.ts", import.meta.url) };

/**
 * Bundles a module for browsers with `deno bundle`, which fetches its bundler from npm the first
 * time. `Deno.bundle` would need a flag.
 */
export async function bundleClient(module: URL): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", "--minify", module.href],
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (success && stdout.length > 0) return decoder.decode(stdout);
  throw new Error(`Cannot bundle the page's client: ${decoder.decode(stderr).trim()}`);
}

/** Answers a request for the page. */
export function servePage(page: Page, request: Request): Response {
  const file = page.get(new URL(request.url).pathname);
  if (file === undefined) return new Response("Not found", { status: 404 });
  if (request.method !== "GET" && request.method !== "HEAD") {
    return new Response("Method not allowed", { status: 405, headers: { allow: "GET, HEAD" } });
  }
  return new Response(request.method === "HEAD" ? null : file.body, {
    headers: { "content-type": `${file.type}; charset=utf-8`, ...HEADERS },
  });
}
