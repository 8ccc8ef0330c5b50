/**
 * Tests a page without any Skein script that follows a topic with `EventSource`.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { MemoryBroker, serve } from "../../mod.ts";
import { lowPort } from "../networks/ports.ts";
import { newPage, type Page, PATIENCE_MS, testInBrowsers } from "./browsers.ts";
import { httpApi } from "../../operations/http_api/mod.ts";

/** Globals for functions that run in a page. */
declare global {
  /** The data of the events, and the reasons of gaps. */
  var heard: unknown[];
  /** The data of the events of a topic that has no publication at first. */
  var quiet: unknown[];
  var quietEvents: EventSource;
}

const HTML = `<!doctype html><title>Events</title><script>
globalThis.heard = [];
const events = new EventSource("/api/topics/log%3Ax/publications?last=1");
events.onmessage = ({ data }) => heard.push(JSON.parse(data).data);
events.addEventListener("gap", ({ data }) => heard.push(JSON.parse(data).reason));
globalThis.quiet = [];
globalThis.quietEvents = new EventSource("/api/topics/log%3Aquiet/publications");
quietEvents.onmessage = ({ data }) => quiet.push(JSON.parse(data).data);
</script>`;

/** Starts a server whose API accepts the user in a cookie. */
function start(broker: MemoryBroker, port: number) {
  return serve({
    port,
    onListen() {},
    broker,
    history: { "log:{name}": { size: 3 } },
    authenticate: ({ cookies }) => cookies["user"] ?? null,
    features: [
      httpApi({
        path: "/api",
        authorize: ({ user, action }) => user === "ann" && action === "follow",
      }),
    ],
    fetch: () =>
      new Response(HTML, {
        headers: { "content-type": "text/html", "set-cookie": "user=ann; SameSite=Strict" },
      }),
  });
}

async function hears(page: Page, expected: readonly unknown[]): Promise<void> {
  const options = { timeout: PATIENCE_MS, polling: 50 };
  await page.waitForFunction((count) => heard.length >= count, options, expected.length);
  assertEquals(await page.evaluate(() => heard), expected);
}

testInBrowsers(
  "EventSource resumes a topic on the next server, and is notified of gaps",
  async (browser) => {
    await using broker = new MemoryBroker();
    const port = lowPort();
    const first = start(broker, port);
    for (const text of ["a", "b"]) first.publish("log:x", text);
    const page = await newPage(browser);
    await page.goto(`http://localhost:${port}/`);
    await hears(page, ["b"]);
    first.publish("log:x", "c");
    await hears(page, ["b", "c"]);

    await page.waitForFunction(() => quietEvents.readyState === EventSource.OPEN);
    await first.drain();
    const second = start(broker, port);
    second.publish("log:quiet", "e");
    second.publish("log:x", "d");
    await hears(page, ["b", "c", "d"]);
    await page.waitForFunction(() => quiet.length > 0, { timeout: PATIENCE_MS, polling: 50 });
    assertEquals(await page.evaluate(() => quiet), ["e"]);

    await second.drain();
    await using third = start(broker, port);
    for (let i = 0; i < 5; i++) third.publish("log:x", i);
    await hears(page, ["b", "c", "d", "too-old", 2, 3, 4]);
  },
);
