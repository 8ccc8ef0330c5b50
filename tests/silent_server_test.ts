/** Tests clients whose server falls silent while they wait for it. */
import { assertEquals, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Client, type ClientOptions, ConnectionError, SessionClosedError } from "../mod.ts";
import { denoPlatform } from "../client/deno.ts";
import { internals } from "../session/core.ts";
import {
  passTime,
  receiveOne,
  type TestServer,
  testServer,
  type TestServerOptions,
  turns,
} from "../testing/mod.ts";

/**
 * Maximum time from the start of a wait until a silent session closes, in milliseconds. It is the
 * sum of 2 s of silence, 1 s after the ping, up to 1 s of jitter, 100 ms after the new connection
 * has opened, and the steps of the fake time.
 */
const NOTICED_MS = 4_400;

/** A server that a test can kill and restart at the same address. */
class Site implements AsyncDisposable {
  readonly #options: TestServerOptions;
  /** The running server. */
  server: TestServer;
  /** Paths of all connection attempts. */
  readonly dials: string[] = [];

  constructor(options: TestServerOptions) {
    this.#options = options;
    this.server = testServer(options);
  }

  connect(options: ClientOptions = {}): Client {
    const client = new Client(
      "http://localhost/",
      denoPlatform((url, { protocols, signal }) => {
        signal.throwIfAborted();
        const { pathname, search } = new URL(url);
        this.dials.push(pathname + search);
        return this.server.open({ path: pathname + search, protocols });
      }),
      options,
    );
    client.status.subscribe(() => {});
    return client;
  }

  /** Kills the server without notifying any peer, like SIGKILL over UDP, and starts another. */
  async restart(): Promise<void> {
    const { server } = this;
    for (const { link } of server.network.pairs) link.disconnect({ silent: true });
    await turns();
    await server[Symbol.asyncDispose]();
    this.server = testServer(this.#options);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.server[Symbol.asyncDispose]();
  }
}

/** A site with a log of the handled messages and a connected client. */
async function connected(options: TestServerOptions = {}, own: ClientOptions = {}) {
  const handled: unknown[] = [];
  const site = new Site({
    authorize: () => true,
    onMessage: (message) => {
      handled.push(message.data);
      if (message.isRequest) message.reply(message.data);
    },
    ...options,
  });
  const client = site.connect(own);
  const session = await client.whenConnected();
  await turns();
  return {
    site,
    client,
    session,
    handled,
    async [Symbol.asyncDispose]() {
      await client.close();
      await site[Symbol.asyncDispose]();
    },
  };
}

Deno.test("Client notices a killed server while it waits for a reply, and reports that the outcome is unknown", async () => {
  using time = new FakeTime();
  await using it = await connected();
  await it.site.restart();
  const failed = assertRejects(() => it.client.request("say", 1), SessionClosedError);
  await passTime(time, NOTICED_MS);
  const error = await failed;
  assertStringIncludes(error.message, "so the outcome is unknown");
  assertEquals([error.info?.code, error.info?.by], [4408, "network"]);
  assertEquals(it.handled, [], "nothing is sent twice without retry");
  assertEquals(await it.client.request("say", 2), 2);
  assertEquals(it.site.dials.length, 2);
});

for (
  const [what, own, act] of [
    [
      "a request with retry",
      {},
      (client: Client) => client.request("say", "x", { retry: true }),
    ],
    [
      "an at-least-once message",
      { delivery: "at-least-once" },
      async (client: Client) => {
        client.send("say", "x");
        await client.flushed();
      },
    ],
  ] as const
) {
  Deno.test(`Client delivers ${what} to the next server, once`, async () => {
    using time = new FakeTime();
    await using it = await connected({}, own);
    await it.site.restart();
    const done = act(it.client);
    await passTime(time, NOTICED_MS);
    await done;
    assertEquals(it.handled, ["x"]);
  });
}

Deno.test("Client delivers an at-least-once publication to the next server, once", async () => {
  using time = new FakeTime();
  await using it = await connected({ history: { log: {} } }, { delivery: "at-least-once" });
  await it.site.restart();
  const published = it.client.publish("log", "x");
  await passTime(time, NOTICED_MS);
  await published;
  const reader = it.site.connect();
  assertEquals((await receiveOne(reader.subscribe("log", { last: 10 }))).data, "x");
  await reader.close();
});

for (
  const [what, wait] of [
    ["the reply to a subscription", (client: Client) => void client.subscribe("news")],
    [
      "an item of a streaming response",
      (client: Client) => {
        const items = client.requestStream("count")[Symbol.asyncIterator]();
        items.next().catch(() => {});
      },
    ],
    [
      "an item of a resumable response",
      (client: Client) => {
        const items = client.requestStream("count", 1, { id: "a-kept-response-1" })
          [Symbol.asyncIterator]();
        items.next().catch(() => {});
      },
    ],
    ["the acknowledgment of presence data", (client: Client) => {
      client.presence("room:a", 1).catch(() => {});
    }],
  ] as const
) {
  Deno.test(`Client notices a killed server while it waits for ${what}`, async () => {
    using time = new FakeTime();
    await using it = await connected({ rooms: ["room:{name}"] });
    await it.site.restart();
    wait(it.client);
    await passTime(time, NOTICED_MS);
    assertNotEquals(it.client.session?.id, it.session.id);
    assertEquals(it.client.isConnected, true);
  });
}

Deno.test("Client keeps a silent session while it waits for nothing", async () => {
  using time = new FakeTime();
  await using it = await connected();
  await it.site.restart();
  await passTime(time, 50_000);
  assertEquals([it.client.session?.id, it.site.dials.length], [it.session.id, 1]);
});

Deno.test("Client reconnects if no second connection opens next to the silent one", async () => {
  using time = new FakeTime();
  await using it = await connected();
  it.site.server.network.down({ silent: true });
  const failed = assertRejects(() => it.client.request("say", 1), SessionClosedError);
  await passTime(time, NOTICED_MS);
  await failed;
  assertEquals(it.client.status.current.name, "reconnecting");
  it.site.server.network.up();
  await passTime(time, 5_000);
  assertEquals(it.client.isConnected, true);
});

for (
  const [what, options, own] of [
    ["without a token", {}, {}],
    [
      "with a token in band",
      { authenticate: ({ token }) => `user ${token}`, tokens: { inMessage: true } },
      { token: () => "ann" },
    ],
  ] as [string, TestServerOptions, ClientOptions][]
) {
  Deno.test(`Client ${what} moves off a silent connection to a live server, and pending requests still finish`, async () => {
    using time = new FakeTime();
    await using it = await connected(options, own);
    const { link } = it.site.server.network.pairs[0]!;
    link.stall("to-client");
    const reply = it.client.request("say", 1);
    await passTime(time, NOTICED_MS);
    assertNotEquals(it.client.session?.id, it.session.id);
    assertStringIncludes(it.site.dials[1]!, `?ticket=${it.session.id}.`);
    assertEquals(it.client.session![internals].lineage.follows, it.session.id);
    assertEquals(await it.client.request("say", 2), 2);
    link.resume();
    await passTime(time, 2_000);
    assertEquals([await reply, it.handled], [1, [1, 2]]);
    assertEquals(it.site.server.manager.count, 1);
  });

  Deno.test(`Client ${what} keeps its session if the server answers before the new connection is used`, async () => {
    using time = new FakeTime();
    const closed: string[] = [];
    await using it = await connected(
      { ...options, onClose: ({ id }) => void closed.push(id) },
      own,
    );
    const { link } = it.site.server.network.pairs[0]!;
    link.stall();
    const reply = it.client.request("say", 1);
    await passTime(time, 3_000);
    while (it.site.dials.length === 1) await passTime(time, 20);
    link.resume();
    await passTime(time, 1_000);
    assertEquals(await reply, 1);
    assertEquals([it.client.session?.id, it.handled], [it.session.id, [1]]);
    assertEquals(
      [closed, it.site.server.network.size],
      [[], 1],
      "the application must see one session",
    );
  });
}

Deno.test("Client counts only once in each limit while it dials next to a silent session", async () => {
  using time = new FakeTime();
  await using it = await connected({
    authenticate: () => "ann",
    clientAddress: () => "192.0.2.1",
    limits: { maxSessions: 1, maxSessionsPerUser: 1, maxSessionsPerAddress: 1 },
  });
  it.site.server.network.pairs[0]!.link.stall("to-client");
  void it.client.request("say", 1).catch(() => {});
  await passTime(time, NOTICED_MS);
  assertNotEquals(it.client.session?.id, it.session.id);
  assertEquals(await it.client.request("say", 2), 2);
  const { rejected } = it.site.server.manager.stats();
  assertEquals(Object.values(rejected).filter((count) => count > 0), []);
});

Deno.test("Client keeps its session if the server rejects the connection next to it", async () => {
  using time = new FakeTime();
  let admits = true;
  await using it = await connected({
    authenticate: () => admits ? "ann" : Promise.reject(new ConnectionError("Away")),
    onSessionRejected() {},
  });
  admits = false;
  const { link } = it.site.server.network.pairs[0]!;
  link.stall("to-client");
  const reply = it.client.request("say", 1);
  await passTime(time, NOTICED_MS);
  assertEquals([it.client.session?.id, it.client.isConnected], [it.session.id, true]);
  link.resume();
  await turns();
  assertEquals(await reply, 1);
});
