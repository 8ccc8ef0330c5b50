/**
 * The files of the page, and the browser bundle of `client.ts`.
 *
 * @module
 */
import { bundleClient, type Page, readFiles } from "../chat/page.ts";

const FILES = {
  "/": ["page/index.html", "text/html"],
  // Colours, buttons and the frame of the page are those of the chat.
  "/chat.css": ["../chat/page/chat.css", "text/css"],
  "/ai_chat.css": ["page/ai_chat.css", "text/css"],
  "/ai_chat.js": ["page/ai_chat.js", "text/javascript"],
  "/answer.js": ["page/answer.js", "text/javascript"],
  "/elements.js": ["page/elements.js", "text/javascript"],
  "/markdown.js": ["page/markdown.js", "text/javascript"],
  "/scroll.js": ["page/scroll.js", "text/javascript"],
  "/view.js": ["page/view.js", "text/javascript"],
} as const;

/** Reads the files, and bundles the client. */
export async function readPage(): Promise<Page> {
  const page = await readFiles(new URL("./", import.meta.url), FILES);
  const client = await bundleClient(new URL("../../client.ts", import.meta.url));
  page.set("/skein-client.js", { type: "text/javascript", body: client });
  return page;
}
