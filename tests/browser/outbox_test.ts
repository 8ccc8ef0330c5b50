/**
 * Tests what a client keeps in IndexedDB, while its pages are reloaded and killed in mid-send, users
 * sign out and in, and the server is killed. `offline/storm.ts` runs it by hand for longer.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { serve } from "../../mod.ts";
import { until } from "../waiting.ts";
import { type Browser, bundleOf, isFirefox, newPage, testInBrowsers } from "./browsers.ts";
import type {} from "./pages/outbox.ts";
import { storm, type StormOptions } from "./offline/storm.ts";

const KINDS = ["message", "history", "once", "request"];

async function assertStorm(browser: Browser, options: Partial<StormOptions>): Promise<void> {
  const [reloads, kills] = isFirefox(browser) ? [8, 3] : [30, 10];
  const judgment = await storm(browser, { reloads, kills, kinds: KINDS, ...options });
  assertEquals(judgment.faults, []);
  assert(judgment.writes > reloads + kills);
}

testInBrowsers("what pages write arrives after reloads and kills, in order", async (browser) => {
  await assertStorm(browser, {});
});

testInBrowsers("what users and guests write arrives as theirs only", async (browser) => {
  await assertStorm(browser, { users: ["ann", "bob", null], seed: 2 });
});

testInBrowsers(
  "what a page left in the browser's cache is sent by another tab",
  async (browser) => {
    const script = await bundleOf(new URL("pages/outbox.ts", import.meta.url));
    const received: unknown[] = [];
    await using server = serve({
      port: 0,
      hostname: "127.0.0.1",
      onListen() {},
      onMessage: ({ data }) => void received.push(data),
      fetch: ({ url }) =>
        new URL(url).pathname === "/page.js"
          ? new Response(script, { headers: { "content-type": "text/javascript" } })
          : new Response(`<!doctype html><script type="module" src="/page.js"></script>`, {
            headers: { "content-type": "text/html" },
          }),
    });
    const open = async (page: Awaited<ReturnType<typeof newPage>>, query: object) => {
      const search = new URLSearchParams({ kinds: "message", idle: "", ...query });
      await page.goto(`${server.url.replace("ws:", "http:")}?${search}`);
      await page.waitForFunction(() => globalThis.outboxPage !== undefined, { polling: 10 });
    };
    const [leaving, staying] = [await newPage(browser), await newPage(browser)];
    const entries = async () => (await staying.evaluate(() => outboxPage.kept()))[2] ?? 0;

    // Nothing listens on the port.
    await open(leaving, { server: "ws://127.0.0.1:1/" });
    await leaving.evaluate(() => outboxPage.write(3));
    await open(staying, { server: server.url });
    assertEquals(await entries(), 3);
    await open(leaving, { server: server.url, user: "bob" });
    await until(async () => await entries() === 0);
    assertEquals(received.length, 3);
  },
);
