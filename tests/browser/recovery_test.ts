/**
 * Pages that lose their server, and go on with another one, in real browsers.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { bundleClient } from "../../examples/chat/page.ts";
import { Balancer } from "../../examples/cluster/balancer.ts";
import { MemoryBroker, type Recovery, serve, type ServeOptions, type Server } from "../../mod.ts";
import { portOf, until } from "../servers.ts";
import { type Browser, type Page, PATIENCE_MS, testInBrowsers } from "./_browsers.ts";

/** What functions that run in a page can name. */
declare global {
  /** What the page's subscription got: data, and what it was told after each loss. */
  var heard: unknown[];
  /** What can be done with the page's client. */
  var say: (data: unknown) => void;
  var publish: (data: unknown) => Promise<void>;
  var flushed: () => Promise<void>;
  var closeClient: () => Promise<void>;
}

const TOPIC = "chat:lobby";

/** A page whose subscription goes on where the page was before it was loaded anew. */
const HTML = `<!doctype html><title>Page</title><output></output><script type="module">
import { connect } from "/client.js";
globalThis.heard = [];
const show = document.querySelector("output");
const client = connect(location.origin.replace("http", "ws"), {
  transports: ["websocket"],
  backoff: { firstDelayMs: 50, maxDelayMs: 100 },
  delivery: "at-least-once",
});
globalThis.say = (data) => client.send("say", data);
globalThis.publish = (data) => client.publish("${TOPIC}", data);
globalThis.flushed = () => client.flushed();
globalThis.closeClient = () => client.close();
const chat = client.subscribe("${TOPIC}", {
  since: JSON.parse(localStorage.getItem("position")),
  onRecovery(recovery) {
    heard.push(recovery);
    show.textContent = "recovered: " + recovery.recovered + (recovery.reason ? " " + recovery.reason : "");
  },
});
chat.ready.then(() => show.textContent = "ready");
for await (const { data } of chat) {
  heard.push(data);
  localStorage.setItem("position", JSON.stringify(chat.position));
}
</script>`;

/** Nodes behind a balancer, and what their handlers were given. */
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
    return new Site(await bundleClient(new URL("../../client.ts", import.meta.url)));
  }

  /** Starts an engine that keeps so many messages of each topic. */
  engine(size: number): Pick<ServeOptions, "broker" | "history"> {
    const broker = new MemoryBroker();
    this.#brokers.push(broker);
    return { broker, history: { "chat:{room}": { size, ttlMs: 60_000 } } };
  }

  /** Starts a node; the balancer does not know it yet. */
  node(engine: ServeOptions): Server {
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
      ...engine,
    });
    this.#nodes.push(node);
    return node;
  }

  /** Has the balancer hand pages to one node. */
  use(node: Server): void {
    this.balancer.use([portOf(node)]);
  }

  /** Opens a page whose subscription is in force. */
  async page(browser: Browser): Promise<Page> {
    const page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
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

/** Waits until the page shows a text. */
async function shows(page: Page, text: string): Promise<void> {
  await page.waitForFunction(
    (text) => document.querySelector("output")?.textContent === text,
    { polling: 10 },
    text,
  );
}

/** Waits until the page has heard something, and returns all that it heard. */
async function heard(page: Page, last: unknown): Promise<unknown[]> {
  await page.waitForFunction((last) => heard.includes(last), { polling: 10 }, last);
  return await page.evaluate(() => heard);
}

const numbers = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

function publish(node: Server, from: number, to: number): void {
  for (const i of numbers(from, to)) node.publish(TOPIC, i);
}

testInBrowsers(
  "a page that loses its server goes on with another one, with exactly what it missed",
  async (browser) => {
    await using site = await Site.open();
    const engine = site.engine(1_000);
    const [one, two] = [site.node(engine), site.node(engine)];
    site.use(one);
    const page = await site.page(browser);
    publish(one, 1, 3);
    assertEquals(await heard(page, 3), [1, 2, 3]);

    // Nobody takes connections for a while: more is missed than a send queue holds.
    site.balancer.use([]);
    const closing = one.close();
    await until(() => two.topics.subscribers(TOPIC).length === 0 && one.manager.count === 0);
    publish(two, 4, 703);
    await closing;
    site.use(two);
    await shows(page, "recovered: true");
    publish(two, 704, 705);
    const all = await heard(page, 705);
    const recovery = all.splice(3, 1)[0] as Recovery;
    assertEquals([recovery.recovered, recovery.position?.offset], [true, 3]);
    assertEquals(all, numbers(1, 705));

    // Loaded anew it goes on there too.
    await page.evaluate(() => closeClient());
    publish(two, 706, 709);
    await page.reload();
    await shows(page, "recovered: true");
    const after = await heard(page, 709);
    assertEquals((after[0] as Recovery).position?.offset, 705);
    assertEquals(after.slice(1), numbers(706, 709));
  },
);

testInBrowsers(
  "a page whose history is gone is told so, with the reason, and goes on",
  async (browser) => {
    await using site = await Site.open();
    const small = site.engine(5);
    const [one, two] = [site.node(small), site.node(small)];
    site.use(one);
    const page = await site.page(browser);
    publish(one, 1, 2);
    await heard(page, 2);
    site.balancer.use([]);
    await one.close();
    publish(two, 3, 20);
    site.use(two);
    await shows(page, "recovered: false too-old");
    publish(two, 21, 21);
    const [, , recovery, ...rest] = await heard(page, 21);
    assertEquals(rest, [21]);
    assertEquals((recovery as Recovery).position?.offset, 20);

    // Another engine: what the first one had is unknown there.
    const other = site.node(site.engine(1_000));
    site.use(other);
    publish(other, 100, 110);
    await two.close();
    await shows(page, "recovered: false new-epoch");
    publish(other, 111, 111);
    const all = await heard(page, 111);
    assertEquals(all.at(-1), 111);
    assertEquals((all.at(-2) as Recovery).position?.offset, 11);
  },
);

testInBrowsers(
  "what a page says at least once arrives once, whatever becomes of its server",
  async (browser) => {
    await using site = await Site.open();
    const engine = site.engine(1_000);
    const nodes = [site.node(engine), site.node(engine), site.node(engine)];
    const [one, two, three] = nodes as [Server, Server, Server];
    site.use(one);
    const page = await site.page(browser);
    const speak = (from: number, to: number) =>
      page.evaluate(
        (from, to) => {
          for (let i = from; i <= to; i++) {
            if (i % 10 === 0) publish(i);
            else say(i);
          }
        },
        from,
        to,
      );
    await speak(1, 60);
    await until(() => site.handled.length > 10);
    // Its connection breaks while the handlers run, then its server goes.
    site.use(two);
    site.balancer.cut(Infinity);
    await speak(61, 90);
    await one.close();
    await page.evaluate(() => flushed());
    await speak(91, 120);
    site.use(three);
    await two.close();
    await page.evaluate(() => flushed());
    const isSaid = (i: number) => i % 10 !== 0;
    assertEquals(site.handled, numbers(1, 120).filter(isSaid));
    const published = (await heard(page, 120)).filter((item) => typeof item === "number");
    assertEquals(published, numbers(1, 120).filter((i) => !isSaid(i)));
    const recoveries = (await page.evaluate(() => heard)).filter((item) =>
      typeof item === "object"
    );
    assert(recoveries.every((recovery) => (recovery as Recovery).recovered));
  },
);
