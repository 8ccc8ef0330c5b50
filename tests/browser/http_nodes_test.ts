/**
 * Tests pages whose network blocks WebTransport and WebSocket. Their requests alternate between two
 * nodes, and the test kills the node that has their session.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { BROKERS, ProcessSite } from "../brokers/http_nodes.ts";
import type { Holding } from "../networks/round_robin.ts";
import { bundleOf, newPage, type Page, testInBrowsers } from "./browsers.ts";

/** Globals for functions that run in a page. */
declare global {
  /** The state of the page, and commands for it. */
  var httpPage: {
    readonly heard: unknown[];
    /** The results of the recoveries. */
    readonly recovered: boolean[];
    /** Returns the name of the transport and the id of the session. */
    session(): Promise<[transport: string, id: string]>;
    say(data: unknown): void;
    flushed(): Promise<void>;
  };
}

/** A page that chats over HTTP. */
const HTML = `<!doctype html><title>Page</title><script type="module">
import { connect } from "/client.js";
const [heard, recovered] = [[], []];
const client = connect(location.origin.replace("http", "ws"), {
  transports: ["websocket", "http"],
  backoff: { firstDelayMs: 50, maxDelayMs: 500 },
  delivery: "at-least-once",
});
const chat = client.subscribe("room:said", {
  last: 0,
  onRecovery: (recovery) => void recovered.push(recovery.recovered),
});
await chat.ready;
globalThis.httpPage = {
  heard,
  recovered,
  async session() {
    const { transport, id } = await client.whenConnected();
    return [transport, id];
  },
  say: (data) => client.send("say", data),
  flushed: () => client.flushed(),
};
for await (const { data } of chat) heard.push(data);
</script>`;

/** Makes the page send numbers, and waits until they are handled. */
async function say(page: Page, from: number, to: number): Promise<void> {
  await page.evaluate(
    async (from, to) => {
      for (let i = from; i < to; i++) httpPage.say(i);
      await httpPage.flushed();
    },
    from,
    to,
  );
}

for (const holds of ["nothing", "start"] as const satisfies readonly Holding[]) {
  testInBrowsers(
    `a page behind a proxy that blocks sockets and holds ${holds} continues to chat while its node is killed`,
    async (browser) => {
      const [, start] = BROKERS.redis!;
      const folder = await Deno.makeTempDir();
      await Deno.writeTextFile(`${folder}/index.html`, HTML);
      const script = await bundleOf(new URL("../../client.ts", import.meta.url));
      await Deno.writeTextFile(`${folder}/client.js`, script);
      await using site = await ProcessSite.open(await start(), { holds, folder });
      const page = await newPage(browser);
      await page.goto(site.proxy.url);
      await page.waitForFunction(() => globalThis.httpPage !== undefined, { polling: 10 });
      const [transport, id] = await page.evaluate(() => httpPage.session());
      assertEquals(transport, "http");
      await say(page, 0, 20);
      // Kills both nodes, one after the other; one of them has the session.
      for (const node of [0, 1]) {
        const killing = site.kill(node);
        await say(page, 20 + 20 * node, 40 + 20 * node);
        await killing;
      }
      await say(page, 60, 80);
      await page.waitForFunction(() => httpPage.heard.length >= 80, { polling: 10 });
      const [heard, recovered, now] = await page.evaluate(async () =>
        [httpPage.heard, httpPage.recovered, await httpPage.session()] as const
      );
      assertEquals(heard, Array.from({ length: 80 }, (_, i) => i));
      assertEquals([recovered.length > 0, recovered.includes(false)], [true, false]);
      assertEquals([now[0], now[1] === id], ["http", false]);
      await page.close();
      await Deno.remove(folder, { recursive: true });
    },
  );
}
