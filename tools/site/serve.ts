/**
 * Serves the built site.
 *
 * @module
 */

/** Content types by extension. */
const TYPES: Readonly<Record<string, string>> = {
  css: "text/css; charset=utf-8",
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  json: "application/json",
  md: "text/markdown; charset=utf-8",
  png: "image/png",
  svg: "image/svg+xml",
  txt: "text/plain; charset=utf-8",
  woff2: "font/woff2",
};

/**
 * Creates a handler for `Deno.serve` that serves a folder: the paths of pages have no `.html`, the
 * path of a folder serves its index, and all other paths serve `404.html`.
 *
 * @param folder The folder, with a slash at the end.
 * @param base The path of the site, with a slash on both sides.
 */
export function siteHandler(
  folder: URL,
  base: string = "/",
): (request: Request) => Promise<Response> {
  return async ({ method, url }) => {
    if (method !== "GET" && method !== "HEAD") {
      return new Response("Only GET and HEAD", { status: 405, headers: { allow: "GET, HEAD" } });
    }
    const { pathname, search } = new URL(url);
    const path = pathname.startsWith(base) ? pathname.slice(base.length - 1) : undefined;
    const file = path === undefined ? undefined : await fileOf(folder, path);
    if (typeof file === "string") {
      const location = base + file.slice(1) + search;
      return new Response(null, { status: 308, headers: { location } });
    }
    const body = file === undefined ? undefined : await Deno.readFile(file);
    if (file !== undefined && body !== undefined) {
      const type = TYPES[/[^.]*$/.exec(file.pathname)![0]] ?? "application/octet-stream";
      // The names of these files change with their content.
      const cache = path?.startsWith("/assets/") ? "max-age=31536000, immutable" : "no-cache";
      return answer(method, body, 200, { "content-type": type, "cache-control": cache });
    }
    const missing = await Deno.readFile(new URL("404.html", folder));
    return answer(method, missing, 404, { "content-type": TYPES.html! });
  };
}

function answer(
  method: string,
  body: Uint8Array<ArrayBuffer>,
  status: number,
  headers: Record<string, string>,
): Response {
  return new Response(method === "HEAD" ? null : body, {
    status,
    headers: { ...headers, "content-length": String(body.length) },
  });
}

/**
 * Finds the file for a path.
 *
 * @returns The file, a path to redirect to, or `undefined` for an unknown path.
 */
async function fileOf(folder: URL, pathname: string): Promise<URL | string | undefined> {
  // The URL parser has resolved dots; an encoded slash could still leave the folder.
  if (/%(?:2f|5c|00|(?![0-9a-f]{2}))/i.test(pathname)) return undefined;
  const path = `.${pathname}`;
  if (pathname.endsWith("/")) {
    const index = new URL(`${path}index.html`, folder);
    if (await isFile(index)) return index;
    return undefined;
  }
  const exact = new URL(path, folder);
  if (await isFile(exact)) {
    const clean = pathname.replace(/(?:(?<=\/)index)?\.html$/, "");
    return clean === pathname || pathname === "/404.html" ? exact : clean;
  }
  const page = new URL(`${path}.html`, folder);
  if (await isFile(page)) return page;
  return await isFile(new URL(`${path}/index.html`, folder)) ? `${pathname}/` : undefined;
}

async function isFile(url: URL): Promise<boolean> {
  try {
    return (await Deno.stat(url)).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return false;
    }
    throw error;
  }
}
