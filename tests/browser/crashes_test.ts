/**
 * Tests pages whose server crashes, over every transport: each page must reconnect and resume its
 * subscription.
 */
import { assertEquals } from "@std/assert";
import type { connect, dial } from "../../client.ts";
import { CRASH_CLIENTS, CRASHES, CrashingServer } from "../programs/crashes.ts";
import { bundleOf, newPage, testInBrowsers } from "./browsers.ts";

/** Globals for functions that run in a page. */
declare global {
  var skein: { readonly connect: typeof connect; readonly dial: typeof dial };
  /** The page's clients, one for each server, with the data that their subscriptions received. */
  var clients: { readonly client: ReturnType<typeof connect>; readonly seen: unknown[] }[];
}

const HTML = `<!doctype html><title>Page</title><script type="module">
import * as skein from "/client.js";
globalThis.skein = skein;
</script>`;

/** Serves the page. This server outlives the servers that the page connects to. */
async function serveSite(): Promise<Deno.HttpServer<Deno.NetAddr>> {
  const script = await bundleOf(new URL("../../client.ts", import.meta.url));
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
    const isScript = new URL(url).pathname === "/client.js";
    const headers = { "content-type": isScript ? "text/javascript" : "text/html" };
    return new Response(isScript ? script : HTML, { headers });
  });
}

for (const { name, kind, transport } of CRASH_CLIENTS) {
  testInBrowsers(
    `connect() over ${name} reconnects after each crash of its server and resubscribes`,
    async (browser) => {
      await using site = await serveSite();
      await using stack = new AsyncDisposableStack();
      const started = await Promise.all(CRASHES.map(async (way) => {
        const one = await CrashingServer.start(way, { kind });
        stack.use(one.server);
        return one;
      }));
      const page = await newPage(browser);
      await page.goto(`http://127.0.0.1:${site.addr.port}/`);
      await page.waitForFunction(() => "skein" in globalThis);

      const seen = async (count: number) => {
        await page.waitForFunction(
          (count) => clients.every(({ seen }) => seen.length >= count),
          {},
          count,
        );
        return await page.evaluate(() => clients.map(({ seen }) => seen));
      };
      const ports = started.map(({ server }) => server.port);
      await page.evaluate(
        (ports, transport) => {
          globalThis.clients = ports.map((port) => {
            const client = skein.connect(`ws://127.0.0.1:${port}/`, {
              transports: [transport],
              backoff: { firstDelayMs: 50, maxDelayMs: 500 },
              onError() {},
            });
            const seen: unknown[] = [];
            const runs = client.subscribe("runs", {
              last: 1,
              onRecovery: ({ recovered }) => void seen.push(`recovered: ${recovered}`),
            });
            void (async () => {
              for await (const { data } of runs) seen.push(data);
              seen.push("The loop ended");
            })();
            return { client, seen };
          });
        },
        ports,
        transport,
      );
      const first = started.map(({ report }) => report.run);
      assertEquals(await seen(1), first.map((run) => [run]));

      const second = await Promise.all(started.map(({ server }) => server.crash()));
      const back = second.map(({ run }, i) => [first[i], "recovered: true", run]);
      assertEquals(await seen(3), back);
      await page.evaluate(() =>
        Promise.all(clients.map(({ client }) => client.publish("runs", 1)))
      );
      assertEquals(await seen(4), back.map((seen) => [...seen, 1]));
      const transports = await page.evaluate(() =>
        clients.map(({ client }) => client.session?.transport)
      );
      assertEquals(transports, CRASHES.map(() => transport));
      await page.evaluate(() => Promise.all(clients.map(({ client }) => client.close())));
    },
  );
}
