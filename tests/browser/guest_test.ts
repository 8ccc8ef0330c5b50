/**
 * Tests that a page's guest stays the same member of a room through reloads, in real browsers.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import type { ConnectOptions, TransportName } from "../../client.ts";
import { connect, guest, serve, type Server } from "../../mod.ts";
import { type Browser, bundleOf, newPage, type Page, testInBrowsers } from "./browsers.ts";
import { until } from "../waiting.ts";

/** Globals for functions that run in a page. */
declare global {
  /** Opens another client of the page in the room. */
  var enterAgain: () => Promise<void>;
  /** Makes the page's last client forget its guest. */
  var forget: () => void;
}

const HTML = `<!doctype html><title>Page</title><script type="module">
import { connect } from "/client.js";
const { url, ...options } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
globalThis.enterAgain = () => {
  const client = connect(url, options);
  globalThis.forget = () => client.forget();
  return client.subscribe("room:a").ready;
};
enterAgain();
</script>`;

/** A site, with an observer of the room that its pages enter. */
class Site implements AsyncDisposable {
  readonly server: Server<string | typeof guest>;
  /** The guests that the observer has seen, in order. */
  readonly seen = new Set<string>();
  /** The most guests that the observer has seen at once. */
  most = 0;
  /** The guest that subscribed last. */
  #entering: string | undefined;
  readonly #observer: ReturnType<typeof connect>;

  private constructor(script: string) {
    this.server = serve({
      port: 0,
      hostname: "127.0.0.1",
      webTransport: { cacheFolder: null },
      authorize: ({ isGuest, user }) => {
        if (isGuest) this.#entering = user;
        return true;
      },
      authenticate: ({ token }) => token ?? guest,
      rooms: ["room:{name}"],
      onListen() {},
      fetch: ({ url }) =>
        new URL(url).pathname === "/client.js"
          ? new Response(script, { headers: { "content-type": "text/javascript" } })
          : new Response(HTML, { headers: { "content-type": "text/html" } }),
    });
    this.#observer = connect(`${this.server.url}?token=ann`);
    this.#observer.members("room:a").subscribe((members) => {
      const guests = [...members.keys()].filter((user) => user.startsWith("guest:"));
      this.most = Math.max(this.most, guests.length);
      for (const user of guests) this.seen.add(user);
    });
  }

  static async open(): Promise<Site> {
    return new Site(await bundleOf(new URL("../../client.ts", import.meta.url)));
  }

  /** Returns the address of a page whose clients have the given options. */
  address(options: ConnectOptions): string {
    const { url } = this.server;
    const told = encodeURIComponent(JSON.stringify({ url, ...options }));
    return `${url.replace("ws:", "http:")}#${told}`;
  }

  /** Waits until an action has brought a client of a page into the room. */
  async entry(action: () => Promise<unknown>): Promise<void> {
    this.#entering = undefined;
    await action();
    await until(() => {
      const member = this.server.rooms.members("room:a").find(({ user }) =>
        user === this.#entering
      );
      return member !== undefined && member.connections > 0 && this.seen.has(member.user);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#observer.close();
    await this.server.close();
  }
}

/** Opens a page in a new tab, and waits until its client is in the room. */
async function enter(browser: Browser, site: Site, options: ConnectOptions = {}): Promise<Page> {
  const page = await newPage(browser);
  await site.entry(() => page.goto(site.address(options)));
  return page;
}

/** Reloads a page, and waits until its client is in the room again. */
async function reload(page: Page, site: Site): Promise<void> {
  await site.entry(() => page.reload());
}

for (const transport of ["webtransport", "websocket", "http"] as const satisfies TransportName[]) {
  testInBrowsers(
    `a guest over ${transport} is one member through reloads, and a second tab is another`,
    async (browser) => {
      await using site = await Site.open();
      const page = await enter(browser, site, { transports: [transport] });
      for (let times = 0; times < 3; times++) await reload(page, site);
      assertEquals([site.seen.size, site.most], [1, 1]);
      await enter(browser, site, { transports: [transport] });
      assertEquals([site.seen.size, site.most], [2, 2]);
    },
  );
}

testInBrowsers(
  "a duplicated tab and a second client of a page are other guests",
  async (browser) => {
    await using site = await Site.open();
    const page = await enter(browser, site);
    await reload(page, site);
    const [first] = site.seen;
    const opened = new Promise<Page | null>((resolve) => page.once("popup", resolve));
    // The window gets a copy of the page's storage.
    await site.entry(() =>
      page.evaluate(() =>
        void (globalThis as unknown as { open(url: string): void }).open(location.href)
      )
    );
    assertEquals(site.seen.size, 2);
    const copy = await opened;
    await reload(copy!, site);
    assertEquals(site.seen.size, 2);
    await site.entry(() => page.evaluate(() => enterAgain()));
    assertEquals(site.seen.size, 3);
    await copy!.close();
    await reload(page, site);
    const guests = () => site.server.rooms.members("room:a").filter(({ user }) => user !== "ann");
    await until(() => guests().length === 1);
    assertEquals(guests().map(({ user }) => user), [first]);
    assertEquals(site.seen.size, 3);
  },
);

testInBrowsers(
  "a guest is the same member on all pages of a tab, also on the way back",
  async (browser) => {
    await using site = await Site.open();
    const page = await enter(browser, site);
    await site.entry(() => page.goto(site.address({}).replace("/#", "/other#")));
    await site.entry(() => page.goBack());
    assertEquals([site.seen.size, site.most], [1, 1]);
  },
);

testInBrowsers("a page that calls forget() is another guest after a reload", async (browser) => {
  await using site = await Site.open();
  const page = await enter(browser, site);
  await page.evaluate(() => forget());
  await reload(page, site);
  assertEquals(site.seen.size, 2);
  await reload(page, site);
  assertEquals(site.seen.size, 2);
});
