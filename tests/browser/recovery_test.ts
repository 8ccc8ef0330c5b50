/**
 * Tests pages that lose their server and continue on another one, in real browsers.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { Balancer } from "../../examples/cluster/balancer.ts";
import { type Recovery, serve, type ServeOptions, type Server } from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import { portOf } from "../servers.ts";
import { type Browser, bundleOf, newPage, type Page, testInBrowsers } from "./browsers.ts";
import { until } from "../waiting.ts";

/** Globals for functions that run in a page. */
declare global {
  /** The state of the page, and commands for it. */
  var chatPage: {
    /** The events of the subscription: data, and a notice after each interruption. */
    readonly heard: unknown[];
    readonly shown: string;
    say(data: unknown): void;
    publish(data: unknown): Promise<void>;
    flushed(): Promise<void>;
    close(): Promise<void>;
  };
}

const TOPIC = "chat:lobby";

/** A page whose subscription resumes at its last position after a reload. */
const HTML = `<!doctype html><title>Page</title><output></output><script type="module">
import { connect } from "/client.js";
const output = document.querySelector("output");
const heard = [];
const client = connect(location.origin.replace("http", "ws"), {
  transports: ["websocket"],
  backoff: { firstDelayMs: 50, maxDelayMs: 100 },
  delivery: "at-least-once",
});
globalThis.chatPage = {
  heard,
  get shown() { return output.textContent; },
  say: (data) => client.send("say", data),
  publish: (data) => client.publish("${TOPIC}", data),
  flushed: () => client.flushed(),
  close: () => client.close(),
};
const chat = client.subscribe("${TOPIC}", {
  since: JSON.parse(localStorage.getItem("position")),
  onRecovery(recovery) {
    const { recovered, reason = "" } = recovery;
    heard.push(recovery);
    output.textContent = ("recovered: " + recovered + " " + reason).trim();
  },
});
chat.ready.then(() => output.textContent ||= "ready");
for await (const { data } of chat) {
  heard.push(data);
  localStorage.setItem("position", JSON.stringify(chat.position));
}
</script>`;

/** Nodes behind a load balancer, and the messages that their handlers received. */
class Site implements AsyncDisposable {
  readonly handled: unknown[] = [];
  readonly balancer = new Balancer(0, []);
  readonly #script: string;
  readonly #nodes: Server[] = [];
  readonly #brokers: MemoryBroker[] = [];

  private constructor(script: string) {
    this.#script = script;
  }

  static async open(): Promise<Site> {
    return new Site(await bundleOf(new URL("../../client.ts", import.meta.url)));
  }

  /** Returns options for a store that keeps the given number of messages per topic. */
  store(size: number): Pick<ServeOptions, "broker" | "history"> {
    const broker = new MemoryBroker();
    this.#brokers.push(broker);
    return { broker, history: { "chat:{room}": { size, ttlMs: 60_000 } } };
  }

  /** Starts a node that is not yet behind the load balancer. */
  node(store: ServeOptions): Server {
    const script = this.#script;
    const node: Server = serve({
      port: 0,
      hostname: "127.0.0.1",
      webTransport: false,
      authorize: () => true,
      onListen() {},
      onMessage: async ({ data }) => {
        await new Promise((resolve) => setTimeout(resolve, 1));
        this.handled.push(data);
      },
      fetch: ({ url }) =>
        new URL(url).pathname === "/client.js"
          ? new Response(script, { headers: { "content-type": "text/javascript" } })
          : new Response(HTML, { headers: { "content-type": "text/html" } }),
      ...store,
    });
    this.#nodes.push(node);
    return node;
  }

  /** Makes the load balancer send pages to one node. */
  use(node: Server): void {
    this.balancer.use([portOf(node)]);
  }

  /** Opens a page whose subscription is active. */
  async page(browser: Browser): Promise<Page> {
    const page = await newPage(browser);
    await page.goto(`http://127.0.0.1:${this.balancer.port}/`);
    await shows(page, "ready");
    return page;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.balancer[Symbol.asyncDispose]();
    for (const node of this.#nodes) await node.close();
    for (const broker of this.#brokers) await broker.close();
  }
}

async function shows(page: Page, text: string): Promise<void> {
  await page.waitForFunction((text) => chatPage.shown === text, { polling: 10 }, text);
}

/** Waits until the page has received a publication; returns everything received so far. */
async function heardUpTo(page: Page, last: unknown): Promise<unknown[]> {
  await page.waitForFunction((last) => chatPage.heard.includes(last), { polling: 10 }, last);
  return await page.evaluate(() => chatPage.heard);
}

/** Makes the page send numbers and publish every tenth number. */
async function speak(page: Page, from: number, to: number): Promise<void> {
  await page.evaluate(
    (from, to) => {
      for (let i = from; i <= to; i++) {
        if (i % 10 === 0) void chatPage.publish(i);
        else chatPage.say(i);
      }
    },
    from,
    to,
  );
}

const numbers = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

function publish(node: Server, from: number, to: number): void {
  for (const i of numbers(from, to)) node.publish(TOPIC, i);
}

testInBrowsers(
  "a page that loses its server continues on another, and receives exactly what it missed",
  async (browser) => {
    await using site = await Site.open();
    const store = site.store(1_000);
    const [one, two] = [site.node(store), site.node(store)];
    site.use(one);
    const page = await site.page(browser);
    publish(one, 1, 3);
    assertEquals(await heardUpTo(page, 3), [1, 2, 3]);

    // For a while, no node accepts connections, so the page misses more than a send queue holds.
    site.balancer.use([]);
    const closing = one.close();
    await until(() => two.topics.subscribers(TOPIC).length === 0 && one.manager.count === 0);
    publish(two, 4, 703);
    await closing;
    site.use(two);
    await shows(page, "recovered: true");
    publish(two, 704, 705);
    const all = await heardUpTo(page, 705);
    const recovery = all.splice(3, 1)[0] as Recovery;
    assertEquals([recovery.recovered, recovery.position?.offset], [true, 3]);
    assertEquals(all, numbers(1, 705));

    // A reloaded page also continues on the other node.
    await page.evaluate(() => chatPage.close());
    publish(two, 706, 709);
    await page.reload();
    await shows(page, "recovered: true");
    const after = await heardUpTo(page, 709);
    assertEquals((after[0] as Recovery).position?.offset, 705);
    assertEquals(after.slice(1), numbers(706, 709));
  },
);

testInBrowsers(
  "a page whose history is gone is notified with the reason, and continues",
  async (browser) => {
    await using site = await Site.open();
    const small = site.store(5);
    const [one, two] = [site.node(small), site.node(small)];
    site.use(one);
    const page = await site.page(browser);
    publish(one, 1, 2);
    await heardUpTo(page, 2);
    site.balancer.use([]);
    await one.close();
    publish(two, 3, 20);
    site.use(two);
    await shows(page, "recovered: false too-old");
    publish(two, 21, 21);
    const [, , recovery, ...rest] = await heardUpTo(page, 21);
    assertEquals(rest, [21]);
    assertEquals((recovery as Recovery).position?.offset, 20);

    // Starts a node on another store, which lacks the first one's history.
    const other = site.node(site.store(1_000));
    site.use(other);
    publish(other, 100, 110);
    await two.close();
    await shows(page, "recovered: false new-epoch");
    publish(other, 111, 111);
    const all = await heardUpTo(page, 111);
    assertEquals(all.at(-1), 111);
    assertEquals((all.at(-2) as Recovery).position?.offset, 11);
  },
);

testInBrowsers(
  "an at-least-once message from a page arrives once, even if its server crashes",
  async (browser) => {
    await using site = await Site.open();
    const store = site.store(1_000);
    const nodes = [site.node(store), site.node(store), site.node(store)];
    const [one, two, three] = nodes as [Server, Server, Server];
    site.use(one);
    const page = await site.page(browser);
    await speak(page, 1, 60);
    await until(() => site.handled.length > 10);
    // The connection breaks while the handlers run, then the server stops.
    site.use(two);
    site.balancer.cut(Infinity);
    await speak(page, 61, 90);
    await one.close();
    await page.evaluate(() => chatPage.flushed());
    await speak(page, 91, 120);
    site.use(three);
    await two.close();
    await page.evaluate(() => chatPage.flushed());
    const isSaid = (i: number) => i % 10 !== 0;
    assertEquals(site.handled, numbers(1, 120).filter(isSaid));
    const heard = await heardUpTo(page, 120);
    assertEquals(heard.filter(Number.isInteger), numbers(1, 120).filter((i) => !isSaid(i)));
    const recoveries = heard.filter((item) => typeof item === "object") as Recovery[];
    assert(recoveries.length > 0 && recoveries.every(({ recovered }) => recovered));
  },
);
