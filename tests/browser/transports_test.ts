import { createSocket } from "node:dgram";
import { assert, assertEquals, assertMatch } from "@std/assert";
import type { connect, dial } from "../../client.ts";
import { serve, type ServeOptions, type Server, type Session } from "../../mod.ts";
import { directDatagrams, nativeServerDefects } from "../../transport/mod.ts";
import { until } from "../waiting.ts";
import {
  type Browser,
  bundleOf,
  isFirefox,
  newPage,
  type Page,
  testInBrowsers,
} from "./browsers.ts";
import { echoStreams } from "./pages/webtransport.ts";

/** Globals for functions that run in a page. */
declare global {
  var skein: { readonly connect: typeof connect; readonly dial: typeof dial };
  /** True if the page returned from the page cache. */
  var isRestored: boolean;
  /** A session that the server closes. */
  var other: Awaited<ReturnType<typeof dial>>;
}

/**
 * The reason for a fallback without a failure: the head start has elapsed, but the attempt
 * continues.
 */
const HEAD_START_IS_OVER = "Cannot open webtransport within 500 ms";

const HTML = `<!doctype html><title>Page</title><script type="module">
import * as skein from "/client.js";
globalThis.skein = skein;
addEventListener("pageshow", ({ persisted }) => globalThis.isRestored = persisted);
if (location.search === "?connect") {
  globalThis.client = skein.connect(location.origin, { headStartMs: 120_000 });
}
</script>`;

for (const kind of ["silent", "closed"] as const) {
  testInBrowsers(`connect() soon connects over WebSocket if UDP is ${kind}`, async (browser) => {
    const udp = createSocket("udp4");
    await new Promise<void>((resolve) => udp.bind(0, "127.0.0.1", resolve));
    const { port } = udp.address();
    if (kind === "closed") udp.close();
    await using server = await serveClient({
      webTransport: false,
      wellKnown: {
        port,
        hostname: "127.0.0.1",
        serverCertificateHashes: [{ algorithm: "sha-256", value: new Uint8Array(32).toBase64() }],
      },
    });
    const page = await openPage(browser, server);
    const { transport, preferred, reason } = await page.evaluate(async () => {
      const client = skein.connect(location.origin, { connectTimeoutMs: 120_000 });
      for await (const status of client.status) {
        if (status.name !== "connected") continue;
        const { transport, fallback } = status;
        void client.close();
        const { transport: preferred, error } = fallback!;
        return { transport, preferred, reason: (error as Error).message };
      }
      throw new Error("The client was closed");
    });
    assertEquals(transport, "websocket");
    assertEquals(preferred, "webtransport");
    // An attempt to connect to a silent port does not fail this early, so the client did not wait
    // for it.
    if (kind === "silent") assertEquals(reason, HEAD_START_IS_OVER);
    else assertMatch(reason, /^Cannot open web ?transport/i);
    if (kind === "silent") udp.close();
  });
}

testInBrowsers("streams past the server's limit wait", async (browser) => {
  await using server = await serveClient({
    webTransport: { maxStreams: 16, cacheFolder: null },
    onOpen: ({ connection }) => void echoStreams(connection),
  });
  const page = await openPage(browser, server);
  const answers = await page.evaluate(async () => {
    const session = await skein.dial(location.origin, { transports: ["webtransport"] });
    const ask = async (text: string) => {
      const { readable, writable } = await session.connection.createBidirectionalStream();
      const writer = writable.getWriter();
      void writer.write(new TextEncoder().encode(text));
      const [answer] = await Promise.all([new Response(readable).text(), writer.close()]);
      return answer;
    };
    return await Promise.all(Array.from({ length: 100 }, (_, i) => ask(`Question ${i}`)));
  });
  assertEquals(answers, Array.from({ length: 100 }, (_, i) => `Question ${i}`));
});

testInBrowsers("a page has sessions on the runtime's built-in engine", async (browser) => {
  const sessions: Session[] = [];
  await using server = await serveClient({
    origins: ["*"],
    webTransport: { engine: "builtin", cacheFolder: null },
    onOpen(session) {
      sessions.push(session);
      const datagrams = directDatagrams(session.connection.datagrams);
      datagrams.receive((datagram) => datagrams.send(datagram));
    },
    async onStream(stream) {
      if (stream.direction === "unidirectional") return;
      const bytes = await new Response(stream.readable).bytes();
      await stream.writable.getWriter().write(bytes);
    },
    onMessage: (message) => message.reply(message.data),
  });
  const page = await openPage(browser, server);
  const echoed = await page.evaluate(async () => {
    const dial = () =>
      skein.dial(`${location.origin}?protocol=skein.1`, { transports: ["webtransport"] });
    const session = await dial();
    globalThis.other = await dial();
    const { connection } = session;
    const read = async (
      readable: ReadableStream<Uint8Array>,
    ) => [...(await readable.getReader().read()).value!];
    // A datagram may be lost.
    const sending = connection.datagrams.writable.getWriter();
    const timer = setInterval(() => void sending.write(Uint8Array.of(3)), 50);
    const datagram = read(connection.datagrams.readable).finally(() => clearInterval(timer));
    const { readable, writable } = await connection.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(Uint8Array.of(2));
    void writer.close();
    const echoed = [await session.request("echo", 1), await read(readable), await datagram];
    void session.close({ code: 4321, reason: "moved" });
    return echoed;
  });
  assertEquals(echoed, [1, [2], [3]]);
  const [first, second] = sessions;
  const defects = nativeServerDefects();
  assertEquals((await first!.closed).code, defects.includes("close-unseen") ? 0 : 4321);
  void second!.close({ code: 4322 });
  const isLost = defects.includes("close-code-lost");
  const { code, by } = await page.evaluate(() => other.closed);
  assertEquals({ code, by }, isLost ? { code: 1006, by: "network" } : { code: 4322, by: "remote" });
});

testInBrowsers(
  "connect() sends a goodbye when its page is left, and reconnects when the page returns",
  async (browser) => {
    const sessions: Session[] = [];
    await using server = await serveClient({ onOpen: (session) => void sessions.push(session) });
    const page = await openPage(browser, server, "?connect");
    await until(() => sessions.length === 1);
    const [first] = sessions;
    assertEquals(first!.transport, "webtransport");

    const leaving = page.goto("about:blank");
    // The page's goodbye caused this close; without it, the network would end the session.
    const { code, by } = await first!.closed;
    assertEquals({ code, by }, { code: 0, by: "remote" });
    await leaving;

    await page.goBack();
    await until(() => sessions.length === 2);
    assertEquals(sessions[1]!.transport, "webtransport");
    assert(isFirefox(browser) || await page.evaluate(() => isRestored));
  },
);

async function serveClient(
  { wellKnown, ...options }: ServeOptions & { readonly wellKnown?: unknown } = {},
): Promise<Server> {
  const client = await bundleOf(new URL("../../client.ts", import.meta.url));
  return serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    fetch({ url }) {
      const { pathname } = new URL(url);
      if (pathname === "/client.js") return typed(client, "text/javascript");
      if (pathname.startsWith("/.well-known/") && wellKnown) return Response.json(wellKnown);
      return typed(HTML, "text/html");
    },
    ...options,
  });
}

function typed(body: string, type: string): Response {
  return new Response(body, { headers: { "content-type": type } });
}

async function openPage(browser: Browser, server: Server, search = ""): Promise<Page> {
  const page = await newPage(browser);
  await page.goto(`${server.url.replace("ws:", "http:")}${search}`);
  await page.waitForFunction(() => "skein" in globalThis);
  return page;
}
