/**
 * Serves the page: static files, and the browser bundle of `client.ts`.
 *
 * @module
 */
import { bundleClient, type Page, readFiles } from "../chat/page.ts";

const FILES = {
  "/": ["index.html", "text/html"],
  "/video.css": ["video.css", "text/css"],
  "/video.js": ["video.js", "text/javascript"],
  "/broadcast.js": ["broadcast.js", "text/javascript"],
  "/watch.js": ["watch.js", "text/javascript"],
  "/drawing.js": ["drawing.js", "text/javascript"],
  "/frame.js": ["frame.js", "text/javascript"],
  "/ticker.js": ["ticker.js", "text/javascript"],
  "/view.js": ["view.js", "text/javascript"],
} as const;

/** Reads the files of the page, and bundles the client. */
export async function readPage(): Promise<Page> {
  const page = await readFiles(new URL("page/", import.meta.url), FILES);
  const client = await bundleClient(new URL("client.ts", import.meta.url));
  page.set("/skein-moq.js", { type: "text/javascript", body: client });
  return page;
}
