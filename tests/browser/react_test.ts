/**
 * Tests a React page in StrictMode in real browsers: it opens only one connection, and a streaming
 * response continues after a reload.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { serve } from "../../mod.ts";
import { newPage, type Page, testInBrowsers } from "./browsers.ts";
import { until } from "../waiting.ts";
import { resumable } from "../../streams/mod.ts";

/** Bundles the page with React's development build, whose StrictMode mounts each component twice. */
async function bundlePage(): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--platform", "browser"],
      new URL("./pages/react.ts", import.meta.url).href,
    ],
    stdin: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

async function has(page: Page, id: string, text: string): Promise<void> {
  const isThere = `document.querySelector("#${id}")?.textContent === ${JSON.stringify(text)}`;
  await page.waitForFunction(isThere, { polling: 10 }).catch(async (error) => {
    const found = await page.evaluate("document.body.textContent");
    throw new Error(`The page has "${found}" instead of "${text}"`, { cause: error });
  });
}

testInBrowsers(
  "a React page has one connection, and its response continues after a reload",
  async (browser) => {
    const script = await bundlePage();
    const opened: string[] = [];
    const stopped = Promise.withResolvers<string>();
    let next = Promise.withResolvers<void>();
    let answers = 0;
    await using server = serve({
      port: 0,
      hostname: "127.0.0.1",
      onListen() {},
      webTransport: { cacheFolder: null },
      authenticate: () => "ann",
      authorize: () => true,
      rooms: ["room:{name}"],
      history: { "room:{name}": {} },
      onOpen: ({ id }) => void opened.push(id),
      requests: {
        ask: {
          resume: () => {
            throw new Error("The server is still running");
          },
          resumable,
          async *handle({ signal }: { signal: AbortSignal }) {
            answers++;
            signal.addEventListener("abort", () => {
              stopped.resolve(signal.reason.message);
              next.resolve();
            });
            for (let n = 1; !signal.aborted; n++) {
              yield `${n} `;
              await next.promise;
              next = Promise.withResolvers();
            }
          },
        },
      },
      fetch: ({ url }) =>
        new URL(url).pathname === "/page.js"
          ? new Response(script, { headers: { "content-type": "text/javascript" } })
          : new Response(
            '<!doctype html><title>Page</title><script type="module" src="/page.js"></script>',
            {
              headers: { "content-type": "text/html" },
            },
          ),
    });
    const page = await newPage(browser);
    const faults: string[] = [];
    page.on("pageerror", (error) => void faults.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") faults.push(message.text());
    });
    await page.goto(server.url.replace("ws:", "http:"));
    await has(page, "chat", "connected; ann is here; ");
    await has(page, "answer", "writing: 1 ");
    next.resolve();
    await has(page, "answer", "writing: 1 2 ");
    await page.click("#chat");
    await has(page, "chat", "connected; ann is here; hi");
    // A slow browser may open a second session when it moves to WebTransport.
    await until(() => server.manager.count === 1);
    assertEquals(answers, 1);
    const before = opened.length;

    await page.reload();
    await has(page, "answer", "writing: 1 2 ");
    await has(page, "chat", "connected; ann is here; hi");
    next.resolve();
    await has(page, "answer", "writing: 1 2 3 ");
    assert(opened.length > before);
    assertEquals(answers, 1);

    await page.click("#answer");
    assertEquals(await stopped.promise, "enough");
    await has(page, "answer", "stopped: 1 2 3 ");
    assertEquals(faults.filter((text) => !text.includes("favicon")), []);
  },
);
