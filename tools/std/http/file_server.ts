/** A stand-in for the part of `@std/http/file-server` that the documentation's programs use. */

/** The options of {@linkcode serveDir}. */
export interface ServeDirOptions {
  /** The folder to serve. */
  readonly fsRoot?: string;
  /** Logs no requests. The stand-in never does. */
  readonly quiet?: boolean;
}

const TYPES: Readonly<Record<string, string>> = {
  css: "text/css; charset=UTF-8",
  html: "text/html; charset=UTF-8",
  js: "text/javascript; charset=UTF-8",
};

/**
 * Serves the files of a folder, and `index.html` for the folder itself.
 *
 * @param options See {@linkcode ServeDirOptions}.
 * @returns The file, or a response with status 404.
 */
export async function serveDir(
  request: Request,
  { fsRoot = "." }: ServeDirOptions = {},
): Promise<Response> {
  // A URL has no ".." segments.
  const path = decodeURIComponent(new URL(request.url).pathname).replace(/\/$/, "/index.html");
  try {
    const file = await Deno.readFile(`${fsRoot}${path}`);
    const type = TYPES[path.split(".").at(-1)!] ?? "application/octet-stream";
    return new Response(file, { headers: { "content-type": type } });
  } catch {
    return new Response("Not Found", { status: 404 });
  }
}
