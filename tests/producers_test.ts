/** Producers as a server sees them, whatever a client sends. */
import { assert, assertEquals } from "@std/assert";
import { guest, RequestError, type ServeOptions } from "../mod.ts";
import { type TestRequestOptions, type TestServer, testServer } from "../testing/mod.ts";
import { Peer } from "./sessions.ts";
import { turns } from "./waiting.ts";

/** A name of a producer that ends with a letter. */
function named(letter: string): string {
  return letter.padStart(22, "p");
}

/** A client that writes its own envelopes. */
class ProducingPeer extends Peer implements Disposable {
  #id = 100;

  static async open(
    server: TestServer,
    options: TestRequestOptions = {},
  ): Promise<ProducingPeer> {
    const peer = new ProducingPeer(await server.open(options));
    await turns(20);
    return peer;
  }

  /** Introduces a producer; returns the newest handled number, or a code. */
  async introduce(
    producer: string,
    of: { user?: string | null; acked?: number; sent?: number; epoch?: number } = {},
  ): Promise<unknown> {
    const id = this.#id++;
    this.say({ producer, id, user: null, acked: 0, sent: 0, epoch: 0, ...of });
    await turns(40);
    const { data, error } = this.replyTo(id) ?? {};
    return error?.code ?? data?.handled;
  }

  /** The reply to a request. */
  replyTo(
    id: number | null,
  ): { data?: { handled: number }; error?: { code: string; retryAfterMs?: number } } | undefined {
    return this.envelopes.find(({ reply }) => reply === id);
  }

  /** Sends envelopes, and returns what the server sends. */
  async tell(...envelopes: unknown[]): Promise<unknown[]> {
    const before = this.envelopes.length;
    for (const envelope of envelopes) this.say(envelope);
    await turns(60);
    return this.envelopes.slice(before).map(short);
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

/** An envelope without the texts of its error. */
function short(envelope: Record<string, unknown>): unknown {
  const { error, ...rest } = envelope;
  return error === undefined ? rest : { ...rest, error: (error as { code: string }).code };
}

/** A server that records what it handles. */
function recording(options: ServeOptions<string> = {}): { server: TestServer; seen: unknown[] } {
  const seen: unknown[] = [];
  const server = testServer({
    authorize: () => true,
    onMessage: ({ data }) => void seen.push(data),
    ...options,
  }) as TestServer;
  return { server, seen };
}

Deno.test("A producer's messages are handled once, and acknowledged, in several sessions", async () => {
  const { server, seen } = recording();
  await using _server = server;
  using first = await ProducingPeer.open(server);
  assert((first.envelopes[0]!.hello as { features: string[] }).features.includes("producers"));
  assertEquals(await first.introduce(named("a")), 0);
  const told = await first.tell(
    { topic: "t", data: 1, seq: 1 },
    { topic: "t", data: 2, seq: 2 },
  );
  assertEquals(told, [{ ack: 1 }, { ack: 2 }]);
  using second = await ProducingPeer.open(server);
  assertEquals(await second.introduce(named("a"), { acked: 1, sent: 2 }), 2);
  assertEquals(
    await second.tell({ topic: "t", data: 2, seq: 2 }, { topic: "t", data: 3, seq: 3 }),
    [{ ack: 2 }, { ack: 3 }],
  );
  assertEquals(seen, [1, 2, 3]);
});

Deno.test("Publications, messages and requests of a producer share one order", async () => {
  const { server, seen } = recording({
    authorize: async (_session, topic) => {
      await turns(topic === "slow" ? 20 : 1);
      seen.push(topic);
      return true;
    },
    onMessage: async (message) => {
      await turns(5);
      seen.push(message.data);
      if (message.isRequest) message.reply("done");
    },
  });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  const told = await peer.tell(
    { publish: "slow", data: 1, id: 1, seq: 1 },
    { topic: "t", data: 2, seq: 2 },
    { topic: "t", data: 3, id: 2, seq: 3 },
    { publish: "quick", data: 4, id: 3, seq: 4 },
  );
  assertEquals(seen, ["slow", 2, 3, "quick"]);
  assertEquals(told, [
    { reply: 1, data: {} },
    { ack: 1 },
    { ack: 2 },
    { reply: 2, data: "done" },
    { ack: 3 },
    { reply: 3, data: {} },
    { ack: 4 },
  ]);
});

Deno.test("A repeated publication is not made again, and a repeated request is unanswered", async () => {
  const { server, seen } = recording({
    onMessage: (message) => {
      seen.push(message.data);
      if (message.isRequest) message.reply("done");
    },
    history: { news: {} },
  });
  await using _server = server;
  using reader = await ProducingPeer.open(server);
  await reader.tell({ subscribe: "news", id: 1 }, { subscribe: "talk", id: 2 });
  const envelopes = [
    { publish: "news", data: 1, id: 1, seq: 1 },
    { publish: "talk", data: 2, id: 2, seq: 2 },
    { topic: "t", data: 3, id: 3, seq: 3 },
  ];
  using first = await ProducingPeer.open(server);
  await first.introduce(named("a"));
  await first.tell(...envelopes);
  using second = await ProducingPeer.open(server);
  assertEquals(await second.introduce(named("a"), { sent: 3 }), 3);
  assertEquals(await second.tell(...envelopes), [
    { reply: 1, data: {} },
    { ack: 1 },
    { reply: 2, data: {} },
    { ack: 2 },
    { reply: 3, error: "unanswered" },
    { ack: 3 },
  ]);
  assertEquals(seen, [3]);
  const published = reader.envelopes.filter(({ topic }) => topic !== undefined);
  assertEquals(published.map(({ data }) => data), [1, 2]);
});

Deno.test("A publication that the server rejects for good is acknowledged", async () => {
  const { server } = recording({ authorize: (_session, topic) => topic === "open" });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  assertEquals(
    await peer.tell(
      { publish: "shut", data: 1, id: 1, seq: 1 },
      { publish: "open", data: 2, id: 2, seq: 2 },
    ),
    [{ reply: 1, error: "forbidden" }, { ack: 1 }, { reply: 2, data: {} }, { ack: 2 }],
  );
});

Deno.test("A publication that can't be made now suspends its producer until it is introduced again", async () => {
  let isReady = false;
  const seen: unknown[] = [];
  const { server } = recording({
    onPublish: ({ data }) => {
      if (!isReady) throw new RequestError("unavailable", "Later", { retryAfterMs: 5 });
      seen.push(data);
    },
  });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  const envelopes = [
    { publish: "t", data: 1, id: 1, seq: 1 },
    { publish: "t", data: 2, id: 2, seq: 2 },
    { topic: "m", data: 3, seq: 3 },
  ];
  assertEquals(await peer.tell(...envelopes), [
    { reply: 1, error: "unavailable" },
    { reply: 2, error: "unavailable" },
  ]);
  isReady = true;
  assertEquals(await peer.tell({ publish: "t", data: 9, id: 9, seq: 9 }), [
    { reply: 9, error: "unavailable" },
  ]);
  assertEquals(await peer.introduce(named("a"), { sent: 9 }), 0);
  assertEquals(await peer.tell(...envelopes), [
    { reply: 1, data: {} },
    { ack: 1 },
    { reply: 2, data: {} },
    { ack: 2 },
    { ack: 3 },
  ]);
  assertEquals(seen, [1, 2]);
});

Deno.test("A producer that the server doesn't know is forgotten if anything was sent", async () => {
  const { server } = recording();
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  assertEquals(await peer.introduce(named("a"), { sent: 1 }), "forgotten");
  assertEquals(await peer.introduce(named("b"), { acked: 1, sent: 1 }), "forgotten");
  assertEquals(await peer.introduce(named("a")), 0);
  // The row exists before the reply, so a lost reply loses nothing.
  assertEquals(await peer.introduce(named("a"), { sent: 5 }), 0);
  await peer.tell({ topic: "t", data: 1, seq: 5 });
  assertEquals(await peer.introduce(named("a"), { acked: 6, sent: 6 }), "forgotten");
  assertEquals(await peer.introduce(named("a"), { acked: 5, sent: 6 }), 5);
});

Deno.test("A producer belongs to a user, or to whoever knows the name of a guest's", async () => {
  const { server } = recording({
    authenticate: ({ token }) => token === undefined ? guest : token,
    userOf: (name: string) => name,
  } as ServeOptions<string>);
  await using _server = server;
  const as = (name: string) => ({ headers: { authorization: `Bearer ${name}` } });
  using ann = await ProducingPeer.open(server, as("ann"));
  assertEquals(await ann.introduce(named("a"), { user: "bob" }), "other-user");
  assertEquals(await ann.introduce(named("a"), { user: null }), "other-user");
  assertEquals(await ann.introduce(named("a"), { user: "ann" }), 0);
  await ann.tell({ topic: "t", data: 1, seq: 1 });
  using bob = await ProducingPeer.open(server, as("bob"));
  assertEquals(await bob.introduce(named("a"), { user: "ann", sent: 1 }), "other-user");
  // The same name is another producer, of which nothing is known.
  assertEquals(await bob.introduce(named("a"), { user: "bob", sent: 1 }), "forgotten");
  using first = await ProducingPeer.open(server);
  assertEquals(await first.introduce(named("a"), { user: "ann", sent: 1 }), "other-user");
  assertEquals(await first.introduce(named("a"), { sent: 1 }), "forgotten");
  assertEquals(await first.introduce(named("g")), 0);
  await first.tell({ topic: "t", data: 1, seq: 1 });
  using second = await ProducingPeer.open(server);
  assertEquals(await second.introduce(named("g"), { sent: 1, epoch: 1 }), 1);
  // The first guest's tab is fenced.
  assertEquals(first.envelopes.filter(({ reply }) => reply === null).map(short), [
    { reply: null, error: "fenced" },
  ]);
  assertEquals(await first.tell({ topic: "t", data: 2, id: 7, seq: 2 }), [
    { reply: 7, error: "fenced" },
  ]);
  assertEquals(await first.introduce(named("g"), { sent: 2 }), "fenced");
});
