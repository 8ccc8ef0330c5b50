/**
 * Tests the store in IndexedDB in real browsers: the conformance suite, pages that are killed, and
 * storage that is full, forbidden, deleted or cleared while it is in use.
 *
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { serve, type Server } from "../../mod.ts";
import {
  type Browser,
  type BrowserContext,
  BROWSERS,
  bundleOf,
  newPage,
  type Page,
  testInBrowsers,
} from "./browsers.ts";
import type {} from "./pages/store.ts";
import { until } from "../waiting.ts";

const HTML = `<!doctype html><title>Page</title><script type="module" src="/store.js"></script>`;

/** Replaces a global before the script of the page loads. */
const WITHOUT = `<!doctype html><script>
Object.defineProperty(globalThis, "indexedDB", { value: undefined });
</script>${HTML}`;

/** Keeps the connections that the page opens. */
const WATCHED = `<!doctype html><script>
globalThis.connections = [];
const open = IDBFactory.prototype.open;
IDBFactory.prototype.open = function (...args) {
  const request = open.apply(this, args);
  request.addEventListener("success", () => connections.push(request.result));
  return request;
};
</script>${HTML}`;

declare global {
  var connections: { close(): void }[];
}

async function serveStore(): Promise<Server> {
  const script = await bundleOf(new URL("pages/store.ts", import.meta.url));
  return serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    fetch({ url }) {
      const { pathname } = new URL(url);
      if (pathname === "/store.js") {
        return new Response(script, {
          headers: {
            "content-type": "text/javascript",
            // For the frame without an origin.
            "access-control-allow-origin": "*",
          },
        });
      }
      const headers: HeadersInit = { "content-type": "text/html" };
      if (pathname === "/clear") headers["clear-site-data"] = `"storage"`;
      if (pathname === "/sandbox") headers["content-security-policy"] = "sandbox allow-scripts";
      const pages: Record<string, string> = { "/without": WITHOUT, "/watched": WATCHED };
      return new Response(pages[pathname] ?? HTML, { headers });
    },
  });
}

async function open(
  browser: Browser | BrowserContext,
  server: Server,
  path = "/",
): Promise<Page> {
  const page = await newPage(browser);
  await page.goto(server.url.replace("ws:", "http:").replace(/\/?$/, path));
  await page.waitForFunction(() => globalThis.storePage !== undefined, { polling: 10 });
  return page;
}

testInBrowsers("a store in IndexedDB conforms, also in a private window", async (browser) => {
  await using server = await serveStore();
  const context = await browser.createBrowserContext();
  for (const where of [browser, context]) {
    const page = await open(where, server);
    const results = await page.evaluate(() => storePage.conform());
    assert(results.length > 10);
    assertEquals(results.filter(([, error]) => error !== null), []);
    await page.close();
  }
});

testInBrowsers("a page that is killed while it writes leaves whole batches", async (browser) => {
  await using server = await serveStore();
  let last = 0;
  for (let kill = 0; kill < 5; kill++) {
    const page = await open(browser, server);
    await page.evaluate(() => storePage.writeForever());
    await page.waitForFunction((last) => storePage.written > last + 3, { polling: 1 }, last);
    const written = await page.evaluate(() => storePage.written);
    await page.close();
    const next = await open(browser, server);
    last = await next.evaluate((written) => storePage.checkAfterKill(written), written);
    await next.close();
  }
});

testInBrowsers("a store in IndexedDB ends when its data are deleted", async (browser) => {
  await using server = await serveStore();
  const ann = await open(browser, server);
  assertEquals(await ann.evaluate(() => storePage.write(1)), "relaxed");
  const bob = await open(browser, server);
  assertEquals(await bob.evaluate(() => storePage.deleteDatabase()), "success");
  for (let i = 0; i < 2; i++) {
    assertEquals(
      await ann.evaluate(() => storePage.write(2)),
      "failed: Cannot write in IndexedDB: the database was deleted",
    );
  }
  assertEquals(await bob.evaluate(() => storePage.keys()), []);
});

testInBrowsers("a store in IndexedDB settles when the browser clears its data", async (browser) => {
  await using server = await serveStore();
  const ann = await open(browser, server);
  assertEquals(await ann.evaluate(() => storePage.write(1)), "relaxed");
  const writing = ann.evaluate(async () => {
    for (;;) {
      const outcome = await storePage.write(2, 65_536);
      if (outcome !== "relaxed") return outcome;
    }
  });
  const bob = await open(browser, server, "/clear");
  assertMatch(await writing, /^failed: Cannot write in IndexedDB: /);
  // The first calls may meet the browser while it is still clearing.
  await until(async () => String(await ann.evaluate(() => storePage.keys())).includes("deleted"));
  assertEquals(
    await ann.evaluate(() => storePage.keys()),
    "failed: Cannot read in IndexedDB: the database was deleted",
  );
  await bob.reload();
  const later = await open(browser, server);
  assertEquals(await later.evaluate(() => storePage.keys()), []);
  assertEquals(await later.evaluate(() => storePage.write(3)), "relaxed");
});

testInBrowsers("a store in IndexedDB continues after its connection was lost", async (browser) => {
  await using server = await serveStore();
  const page = await open(browser, server, "/watched");
  assertEquals(await page.evaluate(() => storePage.write(1)), "relaxed");
  const outcomes = await page.evaluate(async () => {
    connections.at(-1)!.close();
    return await Promise.all([storePage.write(2), storePage.remove(), storePage.write(3)]);
  });
  assertEquals(outcomes, ["relaxed", "relaxed", "relaxed"]);
  assertEquals(await page.evaluate(() => storePage.keys()), [3]);
});

testInBrowsers("a store in IndexedDB says that the platform has none", async (browser) => {
  await using server = await serveStore();
  for (const [path, text] of [["/without", "this platform has none"], ["/sandbox", ""]] as const) {
    const page = await open(browser, server, path);
    for (
      const found of await page.evaluate(() => Promise.all([storePage.write(1), storePage.keys()]))
    ) {
      assert(
        String(found).startsWith(`unavailable: Cannot open IndexedDB: ${text}`),
        String(found),
      );
    }
    await page.close();
  }
});

testInBrowsers(
  "a store in IndexedDB says that the quota is used up, and goes on",
  async (browser) => {
    await using server = await serveStore();
    const page = await open(browser, server);
    const session = await page.createCDPSession();
    const { origin } = new URL(page.url());
    await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 200_000 });
    const outcomes: string[] = [];
    for (let key = 1; key < 60 && !outcomes.at(-1)?.startsWith("full"); key++) {
      outcomes.push(await page.evaluate((key) => storePage.write(key, 65_536), key));
    }
    assertEquals(outcomes.at(-1), "full: Cannot write: the browser's quota is used up");
    const keys = await page.evaluate(() => storePage.keys());
    assertEquals(keys.length, outcomes.length - 1);
    assertEquals(await page.evaluate(() => storePage.remove()), "relaxed");
    await session.send("Storage.overrideQuotaForOrigin", { origin });
    assertEquals(await page.evaluate(() => storePage.write(40, 65_536)), "relaxed");
  },
  BROWSERS.slice(0, 1),
);
