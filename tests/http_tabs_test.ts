/** Tests sessions over HTTP in several tabs of a browser, which share six connections to a host. */
import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { Client } from "../mod.ts";
import { createServer, type Server, type ServerOptions } from "../server.ts";
import { type Tab, TabBrowser, type TabBrowserOptions } from "./networks/tabs.ts";
import { turns } from "./waiting.ts";

const URL = "http://app.example/";

/** The event streams that all tabs may have. */
const PLACES = 3;

const STEP_MS = 50;

/** A browser, and a server with a topic that keeps a history and with a room. */
class Bench implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly browser: TabBrowser;
  /** The server; `undefined` while it is down. */
  server: Server | undefined;
  readonly #serving: ServerOptions;
  readonly clients: Client[] = [];
  /** The codes with which sessions closed, and the notices of the room. */
  readonly closed: number[] = [];

  constructor(options: Omit<TabBrowserOptions, "serve">, serving: ServerOptions = {}) {
    this.#serving = serving;
    this.start();
    this.browser = new TabBrowser({
      ...options,
      serve: (request) => {
        if (!this.server) throw new TypeError("The server is down");
        return this.server.fetch(request);
      },
    });
  }

  start(): void {
    this.server = createServer({
      authorize: () => true,
      authenticate: ({ token }) => token ?? "nobody",
      tokens: { inMessage: true },
      rooms: ["room:{name}"],
      onMessage: (message) => message.reply(message.data),
      onClose: (_session, { code }) => void this.closed.push(code),
      ...this.#serving,
    });
  }

  async open(count: number, url = URL): Promise<Tab[]> {
    const tabs = Array.from({ length: count }, () => this.browser.tab());
    for (const tab of tabs) {
      this.clients.push(tab.connect(url, { token: `user${this.clients.length}` }));
    }
    await this.pass(3_000);
    return tabs;
  }

  async stop(): Promise<void> {
    let isClosed = false;
    void this.server?.close().then(() => isClosed = true);
    while (!isClosed) await this.pass(STEP_MS);
    this.server = undefined;
  }

  async pass(ms: number, stepMs = STEP_MS): Promise<void> {
    for (let left = ms; left > 0; left -= stepMs) {
      await this.time.tickAsync(Math.min(stepMs, left));
      await turns();
    }
  }

  /** The time that a reply takes, to a request from a tab. */
  async replyMs(client: Client): Promise<number> {
    const since = Date.now();
    let ms: number | undefined;
    const reply = client.request("echo", 1).then(() => ms = Date.now() - since);
    for (let waited = 0; ms === undefined && waited < 10_000; waited += STEP_MS) {
      await this.pass(STEP_MS);
    }
    await reply;
    return ms!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closing = Promise.all(this.clients.map((client) => client.close()));
    await this.pass(10_000);
    await closing;
    await this.stop();
    this.time.restore();
  }
}

/** Returns true if the last request of a tab was the poll of a hidden tab. */
function isSeldom(asked: Tab["asked"]): boolean {
  return asked.at(-1)!.poll?.endsWith(";every=60") ?? false;
}

const SHARES = ["locks", "channel", "nothing", "denied"] as const;

for (const shares of SHARES) {
  Deno.test(`Ten tabs over HTTP/1.1 that share ${shares} all receive replies`, async () => {
    await using bench = new Bench({ shares, protocol: "http/1.1" });
    const tabs = await bench.open(10);
    for (const { asked } of tabs) assert(asked.length < 20, `${asked.length} requests`);
    assertEquals(
      bench.clients.map(({ status }) => status.current.name),
      Array(10).fill("connected"),
    );
    const streams = shares === "nothing" || shares === "denied" ? 0 : PLACES;
    assertEquals(bench.browser.mostStreams, streams);
    const replies: number[] = [];
    for (const client of bench.clients) replies.push(await bench.replyMs(client));
    assert(Math.max(...replies) < 6_000, `${replies}`);
    assertEquals(replies.filter((ms) => ms <= STEP_MS).length >= PLACES, streams > 0);
    // A publication arrives without a request of the client.
    const news = bench.clients.map((client) => client.subscribe("news"));
    const ready = Promise.all(news.map(({ ready }) => ready));
    await bench.pass(6_000);
    await ready;
    const got: unknown[] = [];
    for (const topic of news) {
      void (async () => {
        for await (const { data } of topic) got.push(data);
      })();
    }
    await bench.pass(6_000);
    bench.server!.publish("news", 1);
    await turns();
    assertEquals(got.length, streams === 0 ? got.length : PLACES);
    await bench.pass(6_000);
    assertEquals(got, Array(10).fill(1));
    for (const topic of news) topic.unsubscribe();
    assertEquals(bench.closed, []);
  });
}

Deno.test("An idle tab without an event stream polls every 5 s, also after a ping", async () => {
  await using bench = new Bench({ shares: "locks" });
  const tabs = await bench.open(4);
  await bench.pass(10_000);
  const { asked } = tabs.find(({ asked }) => asked.at(-1)!.poll !== null)!;
  const before = asked.length;
  await bench.pass(120_000);
  const perMinute = (asked.length - before) / 2;
  assert(perMinute <= 15, `${perMinute} requests in a minute`);
});

Deno.test("Ten tabs over HTTP/2 each have an event stream", async () => {
  for (const shares of SHARES) {
    await using bench = new Bench({ shares, protocol: "h2" });
    await bench.open(10);
    assertEquals(bench.browser.streams, 10);
    for (const client of bench.clients) assert(await bench.replyMs(client) <= STEP_MS);
    // The streams are the ones from the start.
    assertEquals(bench.browser.streams, 10);
  }
});

for (const shares of ["locks", "channel"] as const) {
  Deno.test(`Tabs that share ${shares} leave the event streams to visible tabs`, async () => {
    await using bench = new Bench({ shares });
    const hidden = await bench.open(3);
    // No visible tab needs a stream.
    for (const tab of hidden) tab.hidden = true;
    await bench.pass(60_000);
    assertEquals([bench.browser.streams, ...hidden.map(({ asked }) => asked.at(-1)!.poll)], [
      ...[3, null, null, null],
    ]);
    const visible = await bench.open(2);
    assertEquals(bench.browser.streams, 3);
    for (const { asked } of visible) assertEquals(asked.at(-1)!.poll, null);
    const given = hidden.filter(({ asked }) => isSeldom(asked));
    assertEquals(given.length, 2);
    // A tab that is shown again gets a stream, and one that was just hidden keeps its own.
    given[0]!.hidden = false;
    await bench.pass(1_000);
    assertEquals([bench.browser.streams, given[0]!.asked.at(-1)!.poll], [3, null]);
    given[1]!.hidden = false;
    visible[0]!.hidden = true;
    await bench.pass(1_500);
    assertEquals(visible[0]!.asked.at(-1)!.poll, null);
    await bench.pass(1_500);
    assert(isSeldom(visible[0]!.asked));
    assertEquals([bench.browser.streams, given[1]!.asked.at(-1)!.poll], [3, null]);
    assertEquals([bench.browser.mostStreams, bench.closed], [3, []]);
  });

  Deno.test(`Tabs that share ${shares} take over the event stream of a tab that ended`, async () => {
    await using bench = new Bench({ shares });
    const tabs = await bench.open(4);
    for (const end of ["crash", "close", "freeze", "crash"]) {
      const at = tabs.findIndex(({ asked, isDead }) => !isDead && asked.at(-1)!.poll === null);
      if (end === "close") {
        void bench.clients[at]!.close();
        tabs[at]!.isDead = true;
      } else if (end === "crash") tabs[at]!.crash();
      else {
        tabs[at]!.document.dispatchEvent(new Event("freeze"));
        tabs[at]!.isDead = true;
      }
      tabs.push(...await bench.open(1));
      await bench.pass(6_000);
      assertEquals(bench.browser.streams, 3, end);
    }
  });

  Deno.test(`Clients of one tab that share ${shares} count separately`, async () => {
    await using bench = new Bench({ shares });
    const [tab] = await bench.open(1);
    for (let i = 0; i < 7; i++) bench.clients.push(tab!.connect(URL));
    await bench.pass(3_000);
    assertEquals([bench.browser.streams, bench.browser.mostStreams], [3, 3]);
    for (const client of bench.clients) assert(await bench.replyMs(client) < 6_000);
    await bench.clients[0]!.close();
    await bench.pass(6_000);
    assertEquals(bench.browser.streams, 3);
    // Another host has its own connections, even if it is the same server.
    await bench.open(4, "http://other.example/");
    assertEquals(bench.browser.streams, 6);
  });

  Deno.test(`Tabs that share ${shares} share again after their server has restarted`, async () => {
    await using bench = new Bench({ shares });
    const tabs = await bench.open(10);
    for (const tab of tabs.slice(0, 5)) tab.hidden = true;
    await bench.pass(10_000);
    for (let restart = 0; restart < 2; restart++) {
      await bench.stop();
      await bench.pass(20_000);
      bench.start();
      await bench.pass(120_000, 500);
      assertEquals(
        bench.clients.map(({ status }) => status.current.name),
        Array(10).fill("connected"),
      );
      assertEquals([bench.browser.streams, bench.browser.mostStreams], [3, 3]);
      const polls = tabs.map(({ asked }) => asked.at(-1)!.poll);
      assertEquals(polls.slice(5).filter((poll) => poll === null).length, 3);
    }
  });

  Deno.test(`A hidden tab that shares ${shares} polls when it loses its stream`, async () => {
    await using bench = new Bench({ shares });
    const [hidden] = await bench.open(4);
    hidden!.hidden = true;
    await bench.pass(10_000);
    assert(isSeldom(hidden!.asked));
    // The next poll of the hidden tab is due later than the server waits after a stream.
    await bench.clients[3]!.close();
    await bench.replyMs(bench.clients[0]!);
    await bench.pass(1_000);
    assertEquals(hidden!.asked.at(-1)!.poll, null);
    await bench.open(1);
    await bench.pass(1_000);
    assert(isSeldom(hidden!.asked));
    await bench.pass(45_000);
    assertEquals([bench.closed, bench.browser.mostStreams], [[0], 3]);
    assertEquals(bench.clients[0]!.status.current.name, "connected");
  });

  Deno.test(`A tab that shares ${shares} gives up its stream if others use all connections`, async () => {
    await using bench = new Bench({ shares });
    const [tab] = await bench.open(1);
    const release = tab!.useConnections("app.example", 5);
    assert(await bench.replyMs(bench.clients[0]!) < 6_000);
    assertEquals([bench.browser.streams, bench.clients[0]!.status.current.name], [0, "connected"]);
    assert(await bench.replyMs(bench.clients[0]!) < 1_000);
    release();
    await bench.pass(40_000);
    assertEquals([bench.browser.streams, bench.closed], [1, []]);
  });

  Deno.test(`A tab that shares ${shares} misses nothing while it is hidden for ten minutes`, async () => {
    await using bench = new Bench({ shares });
    const [hidden] = await bench.open(4);
    const [client, watcher] = [bench.clients[0]!, bench.clients[3]!];
    const [room, news] = [client.subscribe("room:a"), client.subscribe("news")];
    const ready = Promise.all([room.ready, news.ready]);
    const users: string[] = [];
    const watching = watcher.members("room:a").subscribe((members) => {
      users.push([...members.keys()].join());
    });
    await bench.pass(6_000);
    await ready;
    users.splice(0, users.length - 1);
    const got: unknown[] = [];
    void (async () => {
      for await (const { data } of news) got.push(data);
    })();
    const { session } = client;
    const sent: number[] = [];
    hidden!.hidden = true;
    hidden!.isThrottled = shares === "locks"; // Firefox runs timers once a second.
    for (let s = 0; s < 600; s += 5) {
      bench.server!.publish("news", s);
      sent.push(s);
      await bench.pass(5_000, 500);
    }
    assert(isSeldom(hidden!.asked));
    const polls = hidden!.asked.filter(({ at }) => at > 60_000).length;
    // The server's ping arrives with a poll, and another poll follows the pong.
    assert(polls > 8 && polls < 40, `${polls} polls`);
    hidden!.hidden = false;
    await bench.pass(1_000);
    assertEquals(got, sent);
    assert(client.session === session);
    assertEquals([bench.closed, users], [[], ["user0,user3"]]);
    watching();
    room.unsubscribe();
    news.unsubscribe();
  });
}

Deno.test("A hidden tab that receives too much is told why its session closed", async () => {
  await using bench = new Bench({ shares: "locks" }, {
    history: { news: { size: 10_000, ttlMs: 600_000, bytes: 10_000_000 } },
  });
  const [hidden] = await bench.open(4);
  const [client] = bench.clients;
  const news = client!.subscribe("news");
  await bench.pass(6_000);
  await news.ready;
  const got: unknown[] = [];
  void (async () => {
    for await (const { data } of news) got.push((data as string).length);
  })();
  const causes: unknown[] = [];
  client!.status.subscribe((status) => {
    if (status.name === "reconnecting") causes.push([status.cause.code, status.cause.reason]);
  });
  hidden!.hidden = true;
  hidden!.isThrottled = true;
  await bench.pass(10_000);
  for (const count of [200, 1_400]) {
    // The first 200 KB wait at the server; then there is no room.
    for (let i = 0; i < count; i++) {
      bench.server!.publish("news", "x".repeat(1_000));
      await turns(1);
    }
    await bench.pass(180_000, 1_000);
  }
  assertEquals(causes, [[4507, "The send queue is full"]]);
  assertEquals(got.length, 1_600);
  news.unsubscribe();
});
