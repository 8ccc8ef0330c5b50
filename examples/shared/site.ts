/**
 * Serves an example's page: its files, the shared styles and header, and bundles for the browser. A
 * server reads and bundles them when it starts, and keeps them in memory.
 *
 * @module
 */

/** The files of a page, by path. */
export type Page = ReadonlyMap<string, PageFile>;

interface PageFile {
  readonly type: string;
  readonly body: string;
  /** Hashes of the scripts in a document itself, for its Content-Security-Policy. */
  readonly scripts?: readonly string[];
}

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

/** The text of a script in a document, such as an import map. */
const INLINE_SCRIPT = /<script(?![^>]*\bsrc=)[^>]*>([\s\S]*?)<\/script>/g;

/**
 * Creates the Content-Security-Policy of a page: it loads only files of its own server, talks only
 * to that server, and is shown in no frame.
 *
 * @param url The URL of the document.
 * @param scripts Hashes of scripts in the document itself.
 * @param others Other origins that the page talks to.
 */
function policyOf(
  { hostname, port }: URL,
  scripts: readonly string[],
  others: readonly string[],
): string {
  // On this machine, the client reaches WebTransport by the address.
  const ownAddress = hostname === "localhost" ? [`https://127.0.0.1:${port}`] : [];
  return [
    "default-src 'none'",
    ["script-src 'self'", ...scripts].join(" "),
    "style-src 'self'",
    ["connect-src 'self'", ...ownAddress, ...others].join(" "), // Also for WebSocket and WebTransport.
    "img-src 'self'",
    "base-uri 'none'",
    "form-action 'self'",
    "frame-ancestors 'none'",
  ].join("; ");
}

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
  const page = new Map<string, PageFile>();
  const add = async (path: string, url: URL) => {
    const type = TYPES[path.slice(path.lastIndexOf(".") + 1)]!;
    const body = await Deno.readTextFile(url);
    if (type !== TYPES.html) {
      page.set(path, { type, body });
      return;
    }
    const scripts = await Promise.all(
      body.matchAll(INLINE_SCRIPT).map(([, text]) => hashOf(text!)),
    );
    page.set(path === "/index.html" ? "/" : path, { type, body, scripts });
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

/**
 * Adds the service worker with which a page starts without its server. It keeps these files, and
 * changes with each of them.
 *
 * @param page The files.
 */
export async function withWorker(page: Page): Promise<Page> {
  const hashes: Record<string, string> = {};
  for (const [path, { body }] of page) hashes[path] = await digestOf(body);
  const script = await Deno.readTextFile(new URL("worker.js", import.meta.url));
  const body = `const FILES = ${JSON.stringify(hashes)};\n${script}`;
  return new Map([...page, ["/worker.js", { type: TYPES.js!, body }]]);
}

/** Names a script by its hash, as in a Content-Security-Policy. */
async function hashOf(script: string): Promise<string> {
  return `'${await digestOf(script)}'`;
}

/** Returns the hash of a text, as in the attribute `integrity`. */
async function digestOf(text: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return `sha256-${new Uint8Array(hash).toBase64()}`;
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

/**
 * Answers a request for the page.
 *
 * @param page The files.
 * @param others Other origins that the page talks to.
 */
export function servePage(
  page: Page,
  request: Request,
  others: (url: URL) => readonly string[] = () => [],
): Response {
  const url = new URL(request.url);
  const file = page.get(url.pathname);
  if (file === undefined) return new Response("Not found", { status: 404 });
  if (request.method !== "GET" && request.method !== "HEAD") {
    return new Response("Method not allowed", { status: 405, headers: { allow: "GET, HEAD" } });
  }
  const { type, body, scripts = [] } = file;
  return new Response(request.method === "HEAD" ? null : body, {
    headers: {
      ...HEADERS,
      "content-type": `${type}; charset=utf-8`,
      "content-security-policy": policyOf(url, scripts, others(url)),
    },
  });
}
