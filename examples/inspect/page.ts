/**
 * Serves the inspector's page: static files, and the browser bundle of `client.ts`.
 *
 * @module
 */
import { bundleClient, type Page } from "../chat/page.ts";

const FILES = {
  "/": ["index.html", "text/html"],
  "/inspect.css": ["inspect.css", "text/css"],
  "/inspect.js": ["inspect.js", "text/javascript"],
  "/draw.js": ["draw.js", "text/javascript"],
  "/detail.js": ["detail.js", "text/javascript"],
  "/words.js": ["words.js", "text/javascript"],
} as const;

/** Reads the files of the page, and bundles the client. */
export async function readPage(): Promise<Page> {
  const page = new Map<string, { type: string; body: string }>();
  for (const [path, [name, type]] of Object.entries(FILES)) {
    const body = await Deno.readTextFile(new URL(`page/${name}`, import.meta.url));
    page.set(path, { type, body });
  }
  const client = await bundleClient(new URL("../../client.ts", import.meta.url));
  page.set("/skein-client.js", { type: "text/javascript", body: client });
  return page;
}
