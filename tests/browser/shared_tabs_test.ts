/**
 * Runs the recipe for one connection for all tabs: tabs open and close, and the session breaks,
 * while the server publishes.
 */
import { assertEquals } from "@std/assert";
import { createServer } from "../../mod.ts";
import { pageBlocks } from "../programs/page_server.ts";
import { until } from "../waiting.ts";
import { type Browser, bundleOf, newPage, type Page, testInBrowsers } from "./browsers.ts";

const PAGE = "docs/recipes/shared-tabs.md";
const [TOPIC, USER] = ["news", "ann"] as const;

/** Globals for functions that run in a page. */
declare global {
  /** The events that the tab has received: numbers, gaps and errors. */
  var tabEvents: unknown[];
  /** The result of the recipe's function. */
  var tabLive: { publish(topic: string, data: unknown): Promise<void> };
}

const HTML = `<!doctype html><title>Tab</title><script type="module">
import { connectTabs } from "/tabs.js";
globalThis.tabEvents = [];
globalThis.tabLive = connectTabs();
await tabLive.subscribe("${TOPIC}", ({ message, gap, error }) => {
  tabEvents.push(message?.data ?? gap ?? error);
});
globalThis.isTabReady = true;
</script>`;

async function openTab(browser: Browser, url: string): Promise<Page> {
  const page = await newPage(browser);
  await page.goto(url);
  await page.waitForFunction(() => "isTabReady" in globalThis, { polling: 50 });
  return page;
}

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

testInBrowsers("all tabs share one session, and receive each message once", async (browser) => {
  await using server = createServer({
    authenticate: () => USER,
    authorize: () => true,
    history: { [TOPIC]: { size: 1_000 } },
  });
  const blocks = await pageBlocks(PAGE);
  const scripts: Record<string, string> = {
    "/tabs.js": blocks.get("tabs.js")!,
    "/tabs_worker.js": blocks.get("tabs_worker.js")!.replace("@skein/client", "/client.js"),
    "/client.js": await bundleOf(new URL("../../client.ts", import.meta.url)),
  };
  await using http = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    (request, info) => {
      const { pathname } = new URL(request.url);
      if (pathname === "/live") return server.fetch(request, info);
      const script = scripts[pathname];
      const type = script === undefined ? "text/html" : "text/javascript";
      return new Response(script ?? HTML, { headers: { "content-type": type } });
    },
  );
  const url = `http://127.0.0.1:${http.addr.port}/`;
  let published = 0;
  const publish = (count: number) => {
    for (const number of numbers(published, published + count)) server.publish(TOPIC, number);
    published += count;
  };
  const receives = (page: Page, last: number) =>
    page.waitForFunction((last) => tabEvents.includes(last), { polling: 50 }, last);
  const sessions = () => server.manager.sessionsOf(USER);

  const tabs = await Promise.all(Array.from({ length: 4 }, () => openTab(browser, url)));
  assertEquals(sessions().length, 1);
  publish(50);
  await Promise.all(tabs.map((tab) => receives(tab, 49)));
  await tabs[0]!.close();
  publish(20);
  const [before] = sessions();
  void before!.close({ code: 4408, reason: "The connection broke" });
  publish(20);
  await tabs[1]!.reload();
  await tabs[1]!.waitForFunction(() => "isTabReady" in globalThis, { polling: 50 });
  const late = await openTab(browser, url);
  await tabs[2]!.evaluate((topic) => tabLive.publish(topic, 90), TOPIC);
  published++;
  publish(19);
  const open = [...tabs.slice(1), late];
  await Promise.all(open.map((tab) => receives(tab, published - 1)));
  assertEquals(sessions().length, 1);
  // A tab that was opened, or reloaded, later has up to 100 kept messages.
  for (const tab of open) {
    const events = await tab.evaluate(() => tabEvents);
    assertEquals(events, numbers(published - events.length, published));
    assertEquals(events.length >= 100, true);
  }
  assertEquals(await tabs[3]!.evaluate(() => tabEvents.length), published);

  for (const tab of open) await tab.close();
  await until(() => sessions().length === 0);
});
