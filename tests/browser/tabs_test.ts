/**
 * Tests ten tabs that use HTTP over HTTP/1.1, for which browsers open six connections to a host.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { connect } from "../../client.ts";
import { createServer, type Server } from "../../mod.ts";
import { until } from "../waiting.ts";
import { devCertificate } from "../../transport/mod.ts";
import {
  type Browser,
  type BrowserKind,
  BROWSERS,
  bundleOf,
  findBrowser,
  launchBrowser,
  newPage,
  type Page,
} from "./browsers.ts";

/** Globals for functions that run in a page. */
declare global {
  var tabClients: ReturnType<typeof connect>[];
  /** The times at which each client received a publication, by its number. */
  var arrivals: Record<number, number>[];
  /** The names of the statuses of all clients. */
  var statusNames: string[];
  /** The events of a native `EventSource`. */
  var ticks: string[];
  /** Opens a client, which sends its name with each request. */
  var openClient: (name: string) => Promise<void>;
}

/** The event streams of sessions that all tabs of an origin may open. */
const PLACES = 3;

/**
 * The bounds of a reply or publication, in milliseconds, for a client with and without an event
 * stream. On an idle machine, they take 10 ms and 5 s.
 */
const [WITH_STREAM_MS, WITHOUT_STREAM_MS] = [2_000, 10_000];

/** The polls after which a visible client polls only every 5 s. */
const QUICK_POLLS = 5;

/** A host other than localhost, so that plain HTTP is no secure context. */
const HOST = "app.example";

const HTML = `<!doctype html><title>Tab</title><script type="module">
import { connect } from "/client.js";
Object.assign(globalThis, { tabClients: [], arrivals: [], statusNames: [], ticks: [] });
globalThis.openClient = async (name) => {
  const client = connect(location.origin + "/?name=" + name, { transports: ["http"] });
  const arrived = {};
  tabClients.push(client);
  arrivals.push(arrived);
  client.status.subscribe(({ name }) => statusNames.push(name));
  const news = client.subscribe("news");
  (async () => {
    for await (const { data } of news) arrived[data] = Date.now();
  })();
  await news.ready;
};
</script>`;

/** A server for pages and sessions. */
class Site implements AsyncDisposable {
  readonly server: Server;
  /** The open event streams, by the name of the client. */
  readonly streams: string[] = [];
  mostStreams = 0;
  /** The number of polls, by the name of the client. */
  readonly polls = new Map<string, number>();
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  readonly #isSecure: boolean;
  readonly #ticking = new Set<ReadableStreamDefaultController<Uint8Array>>();

  private constructor(client: string, isSecure: boolean) {
    this.server = createServer({
      hosts: [HOST],
      authorize: () => true,
      onMessage: (message) => message.reply(message.data),
    });
    this.#isSecure = isSecure;
    const { cert, key } = devCertificate({ cacheFolder: null });
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {}, ...isSecure && { cert, key } },
      (request, info) => this.#respond(request, info, client),
    );
  }

  static async start(isSecure: boolean): Promise<Site> {
    return new Site(await bundleOf(new URL("../../client.ts", import.meta.url)), isSecure);
  }

  get url(): string {
    return `http${this.#isSecure ? "s" : ""}://${HOST}:${this.#http.addr.port}`;
  }

  /** Sends an event to each native `EventSource`. */
  tick(text: string): void {
    const event = new TextEncoder().encode(`data: ${text}\n\n`);
    for (const controller of this.#ticking) controller.enqueue(event);
  }

  async #respond(
    request: Request,
    info: Deno.ServeHandlerInfo,
    client: string,
  ): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    const page = (text: string, type: string) =>
      new Response(text, { headers: { "content-type": type } });
    if (pathname === "/client.js") return page(client, "text/javascript");
    if (pathname === "/page") return page(HTML, "text/html");
    if (pathname === "/ticks") return this.#ticks();
    const response = await this.server.fetch(request, info);
    if (request.method !== "GET" || !response.ok) return response;
    const name = searchParams.get("name")!;
    if (!request.headers.has("skein-poll")) return this.#counted(response, name);
    this.polls.set(name, (this.polls.get(name) ?? 0) + 1);
    return response;
  }

  #ticks(): Response {
    let controller: ReadableStreamDefaultController<Uint8Array>;
    const body = new ReadableStream<Uint8Array>({
      start: (created) => {
        this.#ticking.add(controller = created);
      },
      cancel: () => void this.#ticking.delete(controller),
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }

  #counted(response: Response, name: string): Response {
    this.streams.push(name);
    this.mostStreams = Math.max(this.mostStreams, this.streams.length);
    let isOpen = true;
    const end = () => {
      if (isOpen) this.streams.splice(this.streams.indexOf(name), 1);
      isOpen = false;
    };
    const reader = response.body!.getReader();
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (!done) return controller.enqueue(value);
        end();
        controller.close();
      },
      async cancel(reason) {
        end();
        await reader.cancel(reason);
      },
    });
    return new Response(body, response);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const controller of this.#ticking) controller.close();
    await this.server.close();
    await this.#http.shutdown();
  }
}

async function openTab(browser: Browser, site: Site, name: string): Promise<Page> {
  const page = await newPage(browser);
  await page.goto(`${site.url}/page`);
  await page.waitForFunction(() => "openClient" in globalThis, { polling: 50 });
  await page.evaluate((name) => openClient(name), name);
  return page;
}

/** Measures how long an echo takes in a tab, in milliseconds: the median of five. */
function echoMs(page: Page, client = 0): Promise<number> {
  return page.evaluate(async (client) => {
    const times: number[] = [];
    for (let i = 0; i < 5; i++) {
      const since = performance.now();
      await tabClients[client]!.request("echo", i);
      times.push(performance.now() - since);
    }
    return times.sort((a, b) => a - b)[2]!;
  }, client);
}

/** Publishes to all clients of a tab until the delays are within the bounds. */
async function publishesInTime(page: Page, site: Site): Promise<void> {
  let number = 0;
  // On a busy machine, a publication may be late at times, but not always.
  await until(async () => {
    const delays = await publishMs(page, site, number++);
    return delays[PLACES - 1]! < WITH_STREAM_MS && delays.at(-1)! < WITHOUT_STREAM_MS;
  });
}

/** Publishes to all clients of a tab, and returns the sorted delays in milliseconds. */
async function publishMs(page: Page, site: Site, number: number): Promise<number[]> {
  const since = Date.now();
  site.server.publish("news", number);
  const all = (number: number) => arrivals.every((times) => number in times);
  await page.waitForFunction(all, { polling: 50 }, number);
  const times = await page.evaluate((number) => arrivals.map((a) => a[number]!), number);
  return times.map((at) => at - since).sort((a, b) => a - b);
}

/** Waits until the clients without an event stream no longer expect a reply. */
async function untilQuiet(site: Site, names: readonly string[]): Promise<void> {
  const before = new Map(site.polls);
  await until(() =>
    names.every((name) =>
      site.streams.includes(name) ||
      site.polls.get(name)! - (before.get(name) ?? 0) > QUICK_POLLS
    )
  );
}

/** Launches a browser that uses HTTP/1.1, and reaches {@linkcode HOST} on this machine. */
function launch(
  kind: BrowserKind,
  preferences: Readonly<Record<string, unknown>>,
): Promise<Browser> {
  return launchBrowser(
    kind,
    kind.name === "Chromium"
      ? [
        "--disable-http2",
        `--host-resolver-rules=MAP ${HOST} 127.0.0.1`,
        // With acceptInsecureCerts alone, each new connection fails and is retried, and Chromium
        // may give up (ERR_TOO_MANY_RETRIES).
        "--ignore-certificate-errors",
      ]
      : [],
    {
      acceptInsecureCerts: true,
      preferences: {
        "network.http.http2.enabled": false,
        "network.dns.localDomains": HOST,
        ...preferences,
      },
    },
  );
}

/** Registers a test in a browser of its own, and with a site. */
function test(
  kind: BrowserKind,
  name: string,
  { isSecure, preferences = {} }: {
    readonly isSecure: boolean;
    readonly preferences?: Readonly<Record<string, unknown>>;
  },
  run: (browser: Browser, site: Site) => Promise<void>,
): void {
  Deno.test({
    name: `${kind.name}: ${name}`,
    ignore: findBrowser(kind) === undefined && Deno.env.get("CI") !== "true",
    // Puppeteer keeps the browser's process, pipes and timers until after the test.
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      await using site = await Site.start(isSecure);
      const browser = await launch(kind, preferences);
      try {
        await run(browser, site);
      } finally {
        // Before the site, which waits for the end of all responses.
        await browser.close();
      }
    },
  });
}

/** Checks that all clients of a tab have connected once, and stayed connected. */
async function assertConnected(page: Page, clients: number): Promise<void> {
  const names = Array.from({ length: clients }, () => ["connecting", "connected"]).flat();
  assertEquals((await page.evaluate(() => statusNames)).toSorted(), names.toSorted());
}

for (const kind of BROWSERS) {
  for (const scheme of ["http", "https"] as const) {
    const name = `ten tabs on ${scheme} over HTTP/1.1 all send and receive`;
    const isSecure = scheme === "https";
    test(kind, name, { isSecure }, async (browser, site) => {
      const tabs: Page[] = [];
      for (let i = 0; i < 10; i++) tabs.push(await openTab(browser, site, `tab${i}`));
      const front = tabs[9]!;
      const context = await front.evaluate(
        "[isSecureContext, performance.getEntriesByType('navigation')[0].nextHopProtocol]",
      );
      assertEquals(context, [isSecure, "http/1.1"]);
      await front.evaluate(() => {
        new EventSource("/ticks").onmessage = ({ data }) => ticks.push(data);
      });
      // Nine tabs are hidden. A request that times out would fail here.
      for (const tab of tabs) await echoMs(tab);
      for (const [i, tab] of tabs.entries()) {
        await tab.bringToFront();
        await until(() => site.streams.includes(`tab${i}`));
        const ms = await echoMs(tab);
        assert(ms < WITH_STREAM_MS, `${ms} ms with a stream`);
      }
      // Six visible clients, three of them without a stream, beside an `EventSource`.
      const names = ["tab9"];
      for (let i = 1; i < 6; i++) {
        names.push(`more${i}`);
        await front.evaluate((name) => openClient(name), names[i]!);
      }
      await until(() => names.filter((name) => site.streams.includes(name)).length === PLACES);
      for (const [i, name] of names.entries()) {
        const ms = await echoMs(front, i);
        assert(!site.streams.includes(name) || ms < WITH_STREAM_MS, `${ms} ms with a stream`);
        assert(ms < WITHOUT_STREAM_MS, `${ms} ms without a stream`);
      }
      await untilQuiet(site, names);
      await publishesInTime(front, site);
      site.tick("tick");
      await front.waitForFunction(() => ticks.length === 1, { polling: 50 });
      for (const tab of tabs) await assertConnected(tab, tab === front ? names.length : 1);
      // The server notices the end of a stream after the next one has started. Without locks, busy
      // tabs may respond too late, and give surplus places back.
      assert(!isSecure || site.mostStreams <= PLACES + 1, `${site.mostStreams} streams`);
      await until(() => site.streams.length <= PLACES);
    });
  }
}

const FIREFOX = BROWSERS.find(({ name }) => name === "Firefox")!;

// Without storage, Firefox denies Web Locks and channels.
const preferences = { "network.cookie.cookieBehavior": 2 };
test(
  FIREFOX,
  "tabs without storage take turns",
  { isSecure: true, preferences },
  async (browser, site) => {
    const tabs: Page[] = [];
    for (let i = 0; i < 3; i++) tabs.push(await openTab(browser, site, `tab${i}`));
    for (const tab of tabs) {
      await tab.bringToFront();
      await echoMs(tab);
    }
    const isOpened = await tabs[2]!.evaluate(() => {
      try {
        new BroadcastChannel("any").close();
        return true;
      } catch {
        return false;
      }
    });
    assertEquals([isOpened, site.mostStreams], [false, 0]);
    for (const tab of tabs) await assertConnected(tab, 1);
  },
);
