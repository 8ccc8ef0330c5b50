import { assert, assertEquals, assertMatch } from "@std/assert";
import type { connect, dial } from "../../client.ts";
import { createServer, type Server, type ServerOptions } from "../../mod.ts";
import {
  type Browser,
  BROWSERS,
  bundleOf,
  clientInParts,
  newPage,
  type Page,
  testInBrowsers,
} from "./browsers.ts";

/** Globals for functions that run in a page. */
declare global {
  var skein: { readonly connect: typeof connect; readonly dial: typeof dial };
  var client: ReturnType<typeof connect>;
}

const HTML = `<!doctype html><title>Page</title><script type="module">
import * as skein from "/client.js";
globalThis.skein = skein;
</script>`;

/** A proxy without support for upgrades, in front of a server. */
class Proxy implements AsyncDisposable {
  readonly server: Server;
  /** True if the proxy buffers event streams. */
  holds = false;
  /** The methods of the transport's requests. */
  readonly methods: string[] = [];
  /** The code of the client's chunks, keyed by path. */
  parts: ReadonlyMap<string, string> = new Map();
  /**
   * The chunks that were requested. The first request for the chunk of the HTTP transport fails.
   */
  readonly asked: string[] = [];
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  readonly #client: string;

  private constructor(client: string, options: ServerOptions) {
    this.#client = client;
    this.server = createServer(options);
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request, info) => this.#answer(request, info),
    );
  }

  static async start(options: ServerOptions): Promise<Proxy> {
    return new Proxy(await bundleOf(new URL("../../client.ts", import.meta.url)), options);
  }

  get port(): number {
    return this.#http.addr.port;
  }

  async #answer(request: Request, info: Deno.ServeHandlerInfo): Promise<Response> {
    const { headers, method, url } = request;
    if (headers.has("upgrade")) return new Response(null, { status: 502 });
    const { pathname } = new URL(url);
    const part = this.parts.get(pathname);
    if (part !== undefined) {
      const isFailed = pathname.startsWith("/chunk_http") && !this.asked.includes(pathname);
      this.asked.push(pathname);
      return new Response(part, {
        status: isFailed ? 503 : 200,
        headers: { "content-type": "text/javascript" },
      });
    }
    if (pathname === "/client.js") {
      return new Response(this.#client, { headers: { "content-type": "text/javascript" } });
    }
    if (pathname === "/page") {
      return new Response(HTML, { headers: { "content-type": "text/html" } });
    }
    this.methods.push(headers.has("skein-poll") ? "poll" : method);
    if (pathname === "/old") return Response.redirect(new URL("/new", url), 302);
    const response = await this.server.fetch(request, info);
    const isStream = response.headers.get("content-type") === "text/event-stream" &&
      !response.headers.has("content-length");
    if (!isStream || !this.holds) return response;
    const held = new ReadableStream<Uint8Array>({ cancel: () => response.body!.cancel() });
    return new Response(held, response);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#http.shutdown();
  }
}

async function openPage(browser: Browser, { port }: Proxy): Promise<Page> {
  const page = await newPage(browser);
  await page.goto(`http://localhost:${port}/page`);
  await page.waitForFunction(() => "skein" in globalThis);
  return page;
}

/** Connects a page; returns a response, and one publication each as text and as bytes. */
async function talk(page: Page, url: string) {
  return await page.evaluate(async (url) => {
    const client = globalThis.client = skein.connect(url);
    const news = client.subscribe("news");
    await news.ready;
    const answer = await client.request("echo", { text: "héllo 𝄞" });
    client.publish("news", "a\nb\r");
    client.publish("news", Uint8Array.of(0, 128, 255));
    const got: unknown[] = [];
    for await (const { data } of news) {
      got.push(data instanceof Uint8Array ? [...data] : data);
      if (got.length === 2) break;
    }
    const text = "x".repeat(200_000);
    const large = await client.request<string>("echo", text);
    return { transport: client.session!.transport, answer, got, isWhole: large === text };
  }, url);
}

const TALK = {
  transport: "http",
  answer: { text: "héllo 𝄞" },
  got: ["a\nb\r", [0, 128, 255]],
  isWhole: true,
};

const OPTIONS: ServerOptions = {
  authorize: () => true,
  onMessage: (message) => message.reply(message.data),
};

testInBrowsers(
  "a page falls back to HTTP if upgrades are blocked, and sends a goodbye",
  async (browser) => {
    await using proxy = await Proxy.start(OPTIONS);
    let page: Page;
    // A page polls if it gets no event for three seconds, as on a machine that is busy for so long.
    for (let times = 0; times === 0 || times < 3 && proxy.methods.includes("poll"); times++) {
      proxy.methods.length = 0;
      page = await openPage(browser, proxy);
      assertEquals(await talk(page, `http://localhost:${proxy.port}/`), TALK);
    }
    assert(!proxy.methods.includes("poll"));
    const session = proxy.server.manager.all().at(-1);
    await page!.goto("about:blank");
    // The page said goodbye; otherwise, the session would time out with another code.
    assertEquals((await session!.closed).code, 0);
  },
);

testInBrowsers("a page polls if a proxy buffers event streams", async (browser) => {
  await using proxy = await Proxy.start(OPTIONS);
  proxy.holds = true;
  const page = await openPage(browser, proxy);
  assertEquals(await talk(page, `http://localhost:${proxy.port}/`), TALK);
  assert(proxy.methods.includes("poll"));
  // The server may not know yet that the first attempt failed.
  const session = proxy.server.manager.all().at(-1)!;
  await page.evaluate(() => client.close());
  assertEquals((await session.closed).code, 0);
});

testInBrowsers(
  "a page loads the code for HTTP after other transports failed, and retries after a failure",
  async (browser) => {
    await using proxy = await Proxy.start(OPTIONS);
    proxy.parts = await clientInParts();
    const page = await openPage(browser, proxy);
    const isHttp = (path: string) => path.startsWith("/chunk_http");
    assert(!proxy.asked.some(isHttp));
    assertEquals(await talk(page, `http://localhost:${proxy.port}/`), TALK);
    assertEquals(proxy.asked.filter(isHttp).length, 2);
  },
  // Firefox 153 remembers a failed import until the page is reloaded.
  BROWSERS.filter(({ name }) => name === "Chromium"),
);

testInBrowsers("a page of another origin uses HTTP only if the rules allow it", async (browser) => {
  await using pages = await Proxy.start({});
  const origins = [`http://localhost:${pages.port}`];
  await using open = await Proxy.start({ ...OPTIONS, origins });
  await using shut = await Proxy.start({ ...OPTIONS, onSessionRejected() {} });
  const page = await openPage(browser, pages);
  assertEquals(await talk(page, `http://localhost:${open.port}/`), TALK);
  const error = await page.evaluate(async (url) => {
    const client = skein.connect(url, { transports: ["http"], onError() {} });
    for await (const status of client.status) {
      if (status.name === "connected") return "connected";
      if (status.name === "reconnecting") return status.cause.by;
    }
    return "closed";
  }, `http://localhost:${shut.port}/`);
  assertEquals(error, "network");
  assertEquals(shut.server.manager.count, 0);
});

testInBrowsers("a page names a redirect, and does not follow it", async (browser) => {
  await using proxy = await Proxy.start(OPTIONS);
  const page = await openPage(browser, proxy);
  const reason = await page.evaluate(async (url) => {
    await using client = skein.connect(url, { onError() {} });
    for await (const status of client.status) {
      if (status.name === "reconnecting") return status.cause.reason;
    }
    return "closed";
  }, `http://localhost:${proxy.port}/old`);
  assertMatch(reason, /The server redirects to another URL; use that URL/);
  assert(proxy.methods.length > 0);
  assertEquals(proxy.server.manager.count, 0);
});
