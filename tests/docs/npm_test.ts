/**
 * Tests the recipes for npm and Vite on the oldest supported version of Node, with the pages opened
 * in Chromium.
 *
 * @module
 */
import { type Browser, BROWSERS, findBrowser, launchBrowser } from "../browser/browsers.ts";
import { buildRuntimes, builtPeers } from "../interop/peers.ts";
import { tabOf } from "./tab.ts";
import { walk } from "./walk.ts";

const CHROMIUM = BROWSERS[0]!;
const VITE = "docs/recipes/vite-and-cors.md";

const runtimes = builtPeers(await buildRuntimes());
const pathOf = (name: string) => runtimes.find((peer) => peer.name === name)?.command[0];
const [node, bun] = [pathOf("Node 22"), pathOf("Bun")];
const programs = { ...(node && { node }), ...(bun && { bun }) };
const isMissing = Deno.env.get("CI") !== "true" &&
  (node === undefined || bun === undefined || findBrowser(CHROMIUM) === undefined);

async function seesGreeting(browser: Browser, port: number, transport: string): Promise<void> {
  const tab = await tabOf(browser, `http://localhost:${port}`);
  await tab.hasStatus(`connected over ${transport}`);
  await tab.hasText("#greeting", "Hello, Vite");
}

walk(["docs/recipes/npm.md"], { programs, ignore: isMissing });
walk([VITE], {
  programs,
  ports: [5173],
  ignore: isMissing,
  then: {
    async [VITE]({ port }) {
      const browser = await launchBrowser(CHROMIUM);
      try {
        await seesGreeting(browser, port(5173), "w");
        await seesGreeting(browser, port(8001), "websocket");
        await seesGreeting(browser, port(8000), "w");
      } finally {
        await browser.close();
      }
    },
  },
});
