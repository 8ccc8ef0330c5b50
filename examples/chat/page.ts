/**
 * Serves the chat's page: static files, and the browser bundle of `client.ts`. The server builds
 * the bundle once at start and keeps it in memory.
 *
 * @module
 */

/** The files of the page, by path. */
export type Page = ReadonlyMap<string, { readonly type: string; readonly body: string }>;

const FILES = {
  "/": ["index.html", "text/html"],
  "/chat.css": ["chat.css", "text/css"],
  "/chat.js": ["chat.js", "text/javascript"],
  "/view.js": ["view.js", "text/javascript"],
} as const;

/** Headers of every response: only resources of this origin may load. */
const HEADERS = {
  "cache-control": "no-cache",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

/** Reads the files of the page, and bundles the client. */
export async function readPage(): Promise<Page> {
  const page = await readFiles(new URL("page/", import.meta.url), FILES);
  const bundle = await bundleClient(new URL("../../client.ts", import.meta.url));
  page.set("/skein-client.js", { type: "text/javascript", body: bundle });
  return page;
}

/**
 * Reads the files of a page.
 *
 * @param folder The folder, with a slash at the end.
 * @param files Name and type of each file, by the path of its URL.
 */
export async function readFiles(
  folder: URL,
  files: Readonly<Record<string, readonly [name: string, type: string]>>,
): Promise<Map<string, { readonly type: string; readonly body: string }>> {
  const page = new Map<string, { type: string; body: string }>();
  for (const [path, [name, type]] of Object.entries(files)) {
    page.set(path, { type, body: await Deno.readTextFile(new URL(name, folder)) });
  }
  return page;
}

/**
 * Bundles a module for browsers with `deno bundle`, which fetches its bundler from npm the first
 * time. The `Deno.bundle` function would need a flag.
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
