/**
 * Tests pages that sleep, wake, go offline and lose their network, in real browsers.
 *
 * @module
 */
import type { TransportName } from "../../transport/race/options.ts";
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import type { ClientStatus, ConnectOptions } from "../../client.ts";
import { serve, type ServeOptions, type Server } from "../../mod.ts";
import { portOf } from "../servers.ts";
import { TcpPath } from "../networks/tcp_path.ts";
import {
  type Browser,
  BROWSERS,
  bundleOf,
  newPage,
  type Page,
  testInBrowsers,
} from "./browsers.ts";
import { until } from "../waiting.ts";

/** Globals for functions that run in a page. */
declare global {
  /** Every status of the page's client so far, with its time. */
  var statuses: { readonly at: number; readonly status: ClientStatus }[];
  /** The publications that the page's subscription received. */
  var got: unknown[];
}

/**
 * The browser in which tests can freeze a page or take it offline. A frozen page loses its open
 * connections.
 */
const CHROMIUM = BROWSERS.filter(({ name }) => name === "Chromium");

/** A delay longer than any test. It ends early only if the page wakes up or goes online. */
const NEVER_MS = 600_000;

/**
 * The longest duration of a connection attempt, in milliseconds. A second attempt would come too
 * late for the test.
 */
const ATTEMPT_MS = 120_000;

/** A page on a busy machine may be silent for seconds. */
const HEARTBEAT = { intervalMs: 3_000, timeoutMs: 10_000 };

const HTML = `<!doctype html><title>Page</title><script type="module">
import { connect } from "/client.js";
globalThis.statuses = [];
globalThis.got = [];
const { url, ...options } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
globalThis.client = connect(url, options);
(async () => {
  for await (const status of client.status) statuses.push({ at: Date.now(), status });
})();
(async () => {
  for await (const { data } of client.subscribe("news")) got.push(data);
})();
</script>`;

/** Starts a server, and opens one of its pages with a client that is subscribed to `news`. */
async function openSite(
  browser: Browser,
  { url, ...options }: ConnectOptions & { readonly url?: (server: Server) => string } = {},
  serving: ServeOptions = {},
): Promise<{ readonly server: Server; readonly page: Page }> {
  const script = await bundleOf(new URL("../../client.ts", import.meta.url));
  const server: Server = serve({
    port: 0,
    hostname: "127.0.0.1",
    webTransport: { cacheFolder: null },
    authorize: () => true,
    session: { heartbeat: HEARTBEAT },
    onListen() {},
    fetch: ({ url }) =>
      new URL(url).pathname === "/client.js"
        ? new Response(script, { headers: { "content-type": "text/javascript" } })
        : new Response(HTML, { headers: { "content-type": "text/html" } }),
    ...serving,
  });
  const page = await newPage(browser);
  const told = encodeURIComponent(JSON.stringify({ ...options, url: url?.(server) ?? server.url }));
  await page.goto(`${server.url.replace("ws:", "http:")}#${told}`);
  await subscribed(server);
  return { server, page };
}

/** Waits until one page is connected and its subscription is active. */
async function subscribed(server: Server): Promise<void> {
  await until(() => server.manager.stats().count === 1 && server.topics.size === 1);
}

/**
 * Freezes a page like a browser does in the background, so that no script runs, or resumes it.
 */
async function setState(page: Page, state: "frozen" | "active"): Promise<void> {
  const devTools = await page.createCDPSession();
  await devTools.send("Page.setWebLifecycleState", { state });
  await devTools.detach();
}

/** Returns the page's session and the number of its connections. */
async function connections(page: Page): Promise<string[]> {
  return await page.evaluate(() =>
    statuses.flatMap(({ status }) => status.name === "connected" ? [status.session] : [])
  );
}

/** Waits until the page's client has connected a number of times. */
async function connected(page: Page, times: number): Promise<void> {
  await page.waitForFunction(
    (times) => statuses.filter(({ status }) => status.name === "connected").length === times,
    { polling: 10 },
    times,
  );
}

async function received(page: Page, last: number): Promise<unknown[]> {
  // A hidden page paints no frames.
  await page.waitForFunction((last) => got.includes(last), { polling: 10 }, last);
  return await page.evaluate(() => got);
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

for (const transport of ["websocket", "webtransport"] as const satisfies TransportName[]) {
  for (const isLong of [false, true]) {
    const long = isLong ? "longer than its server waits" : "for a moment";
    testInBrowsers(
      `a page over ${transport} that was frozen ${long} reconnects immediately`,
      async (browser) => {
        const { server, page } = await openSite(browser, {
          transports: [transport],
          backoff: { firstDelayMs: NEVER_MS, maxDelayMs: NEVER_MS },
          connectTimeoutMs: ATTEMPT_MS,
        });
        await using _ = server;
        server.publish("news", 1);
        await received(page, 1);
        await setState(page, "frozen");
        server.publish("news", 2);
        if (isLong) await until(() => server.manager.stats().count === 0);
        else await pause(500);
        await setState(page, "active");
        await connected(page, 2);
        await subscribed(server);
        server.publish("news", 3);
        const got = await received(page, 3);
        assertEquals(got, [...new Set(got)], "Nothing twice");
        const [before, after] = await connections(page);
        assertNotEquals(after, before);
      },
      CHROMIUM,
    );
  }
}

testInBrowsers("a hidden page keeps its session", async (browser) => {
  const { server, page } = await openSite(browser);
  await using _ = server;
  const other = await newPage(browser);
  await other.bringToFront();
  // Waits longer than the server waits for a reply. Arriving data must wake the page even if its
  // timers are late.
  await pause(HEARTBEAT.timeoutMs + 2_000);
  server.publish("news", 1);
  assertEquals(await received(page, 1), [1]);
  assertEquals((await connections(page)).length, 1);
  await page.bringToFront();
  server.publish("news", 2);
  assertEquals(await received(page, 2), [1, 2]);
  assertEquals((await connections(page)).length, 1);
});

testInBrowsers(
  "an offline page makes no attempts, and reconnects when it is online",
  async (browser) => {
    const options: ConnectOptions = {
      transports: ["websocket"],
      backoff: { maxDelayMs: NEVER_MS },
      connectTimeoutMs: ATTEMPT_MS,
    };
    const { server, page } = await openSite(browser, options);
    await using _ = server;
    await page.setOfflineMode(true);
    for (const session of server.manager.all()) void session.close({ code: 4503 });
    await page.waitForFunction(() => statuses.at(-1)!.status.name === "reconnecting", {
      polling: 10,
    });
    const waits = await page.evaluate(() => statuses.at(-1)!.status);
    assert(waits.name === "reconnecting");
    assertEquals([waits.attempt, waits.delayMs], [0, NEVER_MS]);
    await page.setOfflineMode(false);
    await subscribed(server);
  },
  CHROMIUM,
);

testInBrowsers("a page reconnects when its silent network changes", async (browser) => {
  let path: TcpPath | undefined;
  const { server, page } = await openSite(browser, {
    transports: ["websocket"],
    url: (server) => `ws://127.0.0.1:${(path = new TcpPath(portOf(server))).port}`,
  }, { session: {}, origins: ["*"] });
  await using _path = path!;
  await using _server = server;
  // If a reply were still missing, the client would notice the silence without the event.
  server.publish("news", 1);
  await received(page, 1);
  path!.cut();
  path!.restore(); // Affects only new connections.
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await connected(page, 2);
  const reasons = await page.evaluate(() =>
    statuses.flatMap(({ status }) => status.name === "reconnecting" ? [status.cause.reason] : [])
  );
  assertEquals(reasons, ["No sign of life"]);
});
