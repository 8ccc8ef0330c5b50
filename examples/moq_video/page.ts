/**
 * The page's files, and the part of the library that it uses.
 *
 * @module
 */
import { type Page, readPage } from "../shared/site.ts";

const FILES = [
  "index.html",
  "video.css",
  "video.js",
  "broadcast.js",
  "watch.js",
  "drawing.js",
  "frame.js",
  "ticker.js",
  "view.js",
];

/** Reads the files of the page, and bundles the client. */
export async function readVideoPage(): Promise<Page> {
  return await readPage(new URL("page/", import.meta.url), FILES, {
    "/skein-moq.js": new URL("client.ts", import.meta.url),
  });
}
