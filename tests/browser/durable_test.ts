/**
 * Tests durable streams in real browsers: over each transport, a reloaded page resumes at its
 * offset, a stop button reaches the writer, and the page can continue over HTTP.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { serve, type Server } from "../../mod.ts";
import { bundleOf, newPage, type Page, testInBrowsers } from "./browsers.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";

/** Globals for functions that run in a page. */
declare global {
  /** The state of the page, and commands for it. */
  var durablePage: {
    /** The words read since the page was loaded. */
    readonly words: string[];
    /** The session's transport. */
    readonly transport: string | undefined;
    /** How the stream ended: `"complete"`, or the error code. */
    readonly end: string | undefined;
    readonly offset: string | undefined;
    stop(reason: string): Promise<void>;
  };
}

const ID = "answers/1";

/** A page that reads a durable stream, and keeps its offset across reloads. */
const HTML = `<!doctype html><title>Page</title><script type="module">
import { connect } from "/client.js";
const transports = [location.hash.slice(1)];
const client = connect(location.origin, { transports });
const stream = client.durableStream("${ID}", { after: sessionStorage.getItem("offset") });
globalThis.durablePage = {
  words: [],
  end: undefined,
  get offset() { return stream.offset; },
  get transport() { return client.status.current.transport; },
  stop: (reason) => stream.cancel(reason),
};
try {
  for await (const word of stream) {
    durablePage.words.push(word);
    sessionStorage.setItem("offset", stream.offset);
  }
  durablePage.end = "complete";
} catch (error) {
  durablePage.end = error.failure?.code ?? String(error);
}
</script>`;

async function serveStreams(): Promise<Server> {
  const script = await bundleOf(new URL("../../client.ts", import.meta.url));
  return serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    webTransport: { cacheFolder: null },
    features: streamFeatures({ path: "/streams", authorize: ({ action }) => action === "read" }),
    authorize: (_session, topic) => topic === `stream:${ID}`,
    fetch: ({ url }) =>
      new URL(url).pathname === "/client.js"
        ? new Response(script, { headers: { "content-type": "text/javascript" } })
        : new Response(HTML, { headers: { "content-type": "text/html" } }),
  });
}

/** Waits until the page has read a word, and returns all words since it was loaded. */
async function readUpTo(page: Page, last: string): Promise<string[]> {
  const options = { polling: 10 };
  await page.waitForFunction((last) => globalThis.durablePage?.words.includes(last), options, last);
  return await page.evaluate(() => durablePage.words);
}

for (const transport of ["webtransport", "websocket"]) {
  testInBrowsers(
    `a page resumes at its offset after a reload, and stops the writer, over ${transport}`,
    async (browser) => {
      await using server = await serveStreams();
      await using writer = await streamsOf(server).create<string>(ID);
      for (const word of ["one", "two"]) await writer.append(word);
      const page = await newPage(browser);
      await page.goto(`${server.url.replace("ws:", "http:")}#${transport}`);
      assertEquals(await readUpTo(page, "two"), ["one", "two"]);
      assertEquals(await page.evaluate(() => durablePage.transport), transport);

      await writer.append("three");
      await readUpTo(page, "three");
      await page.reload();
      await writer.append("four");
      assertEquals(await readUpTo(page, "four"), ["four"]);

      const stopped = new Promise((resolve) => writer.signal.addEventListener("abort", resolve));
      await page.evaluate(() => durablePage.stop("enough"));
      await stopped;
      assertEquals(writer.signal.reason.message, "enough");
      await writer.close();
      await page.waitForFunction(() => durablePage.end === "complete", { polling: 10 });
    },
  );
}

testInBrowsers(
  "a page continues over HTTP at the session's position, and is notified of an aborted stream",
  async (browser) => {
    await using server = await serveStreams();
    await using writer = await streamsOf(server).create<string>(ID);
    await writer.append("one");
    const page = await newPage(browser);
    await page.goto(`${server.url.replace("ws:", "http:")}#websocket`);
    await readUpTo(page, "one");
    const offset = await page.evaluate(() => durablePage.offset);
    const reading = page.evaluate(async (offset) => {
      const url = `/streams/answers/1?live=sse&offset=${offset}`;
      const source = new EventSource(url);
      const events: unknown[] = [];
      await new Promise<void>((resolve) => {
        source.addEventListener("data", ({ data }) => events.push(...JSON.parse(data)));
        source.addEventListener("control", ({ data }) => {
          const { streamClosed, skeinStreamError } = JSON.parse(data);
          if (!streamClosed) return;
          events.push(skeinStreamError);
          resolve();
        });
      });
      source.close();
      return events;
    }, offset);
    await writer.append("two");
    await writer.abort("The model failed");
    assertEquals(await reading, ["two", "The model failed"]);
    await page.waitForFunction(() => durablePage.end === "aborted", { polling: 10 });
    assert((await page.evaluate(() => durablePage.words)).includes("two"));
  },
);
