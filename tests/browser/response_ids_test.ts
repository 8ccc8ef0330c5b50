/**
 * Tests a page that requests a resumable response by a new id each time it loads, in real browsers:
 * once the guest's responses use the share, the page shows why soon, and not after half a minute.
 *
 * @module
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { serve, type Server } from "../../mod.ts";
import { resumable } from "../../streams/mod.ts";
import { bundleOf, newPage, testInBrowsers } from "./browsers.ts";

const HTML = `<!doctype html><title>Page</title><p></p><script type="module">
import { connect, newId } from "/client.js";
const text = document.querySelector("p");
const client = connect(location.origin, { transports: ["websocket"] });
try {
  for await (const word of client.requestStream("ask", 1, { id: newId() })) text.append(word);
} catch (error) {
  text.textContent = error.failure?.code + ": " + error.message;
}
</script>`;

async function serveWords(): Promise<Server> {
  const script = await bundleOf(new URL("../../client.ts", import.meta.url));
  return serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    webTransport: false,
    requests: {
      ask: {
        resumable,
        async *handle({ signal }) {
          yield "word";
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        },
      },
    },
    fetch: ({ url }) =>
      new URL(url).pathname === "/client.js"
        ? new Response(script, { headers: { "content-type": "text/javascript" } })
        : new Response(HTML, { headers: { "content-type": "text/html" } }),
  });
}

testInBrowsers(
  "a page with a new id at each load shows eight responses, then why it gets no more",
  async (browser) => {
    await using server = await serveWords();
    const page = await newPage(browser);
    const shown = async () => {
      await page.waitForSelector("p:not(:empty)");
      return await page.$eval("p", ({ textContent }) => textContent);
    };
    await page.goto(server.url.replace("ws:", "http:"));
    for (let load = 1; load < 8; load++) {
      assertEquals(await shown(), "word");
      await page.reload();
    }
    assertEquals(await shown(), "word");
    await page.reload();
    const text = await shown();
    assertStringIncludes(text, "too-many: Cannot start a response: your user may have at most 8");
    assertStringIncludes(text, "a page should keep across reloads, or raise maxRunningPerUser");
    // The client asked twice, and not for the time of a reply.
    assertEquals(server.quotaStats["responses.maxRunning"]!.rejected.user, 2);
  },
);
