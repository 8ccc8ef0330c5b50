/**
 * Tests publishers: the user of a publication, and clients that exclude themselves from their own
 * publications.
 *
 * @module
 */
import {
  type Client,
  guest,
  type HistoryPosition,
  platformRuntime,
  RequestError,
  type Session,
  type Subscription,
} from "../mod.ts";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import "../client/recovery.ts";
import { type TestServer, testServer, type TestServerOptions } from "../testing/mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { RequestService } from "../session/serving/requests.ts";
import { Network } from "./clients.ts";
import { HELLO, Peer, serverByHand } from "./sessions.ts";
import { turns } from "./waiting.ts";

const backoff = { firstDelayMs: 4, maxDelayMs: 4 };
const history = { "kept:{name}": {} };

function serve(
  options: TestServerOptions<string | typeof guest> = {},
): TestServer<string | typeof guest> {
  return testServer<string | typeof guest>({
    authenticate: ({ token }) => token ?? guest,
    authorize: () => true,
    history,
    ...options,
  });
}

function connect(
  server: TestServer<string | typeof guest>,
  user: string,
  options: { readonly delivery?: "at-least-once" } = {},
): Client {
  return server.connect({ path: `/?token=${user}`, backoff, ...options }) as unknown as Client;
}

/** Reads the data and the publisher's user from a subscription. */
async function reading(subscription: Subscription): Promise<[unknown, string | undefined][]> {
  const got: [unknown, string | undefined][] = [];
  await subscription.ready;
  (async () => {
    for await (const { data, from } of subscription) got.push([data, from]);
  })().catch(() => {});
  return got;
}

Deno.test("Publications of clients name their users, on every transport and node, and in histories", async () => {
  await using broker = new MemoryBroker();
  await using near = serve({ broker, includePublisher: true });
  await using far = serve({ broker });
  await using ann = connect(near, "ann");
  for (const topic of ["live", "kept:a"]) {
    await using bob = connect(near, "bob");
    await using eve = connect(far, "eve");
    const got = await Promise.all([ann, bob, eve].map((one) => reading(one.subscribe(topic))));
    const page = new Peer(await near.open({ protocols: [] }));
    await turns();
    near.subscribe([...near.manager.all()].at(-1)! as never, topic);
    await ann.publish(topic, { a: 1 });
    await ann.publish(topic);
    await ann.publish(topic, Uint8Array.of(7));
    near.publish(topic, "the server's own");
    near.publish(topic, "on behalf", { from: "zoë" });
    await turns(20);
    for (const one of got) {
      assertEquals(one, [
        [{ a: 1 }, "ann"],
        [undefined, "ann"],
        [Uint8Array.of(7), "ann"],
        ["the server's own", undefined],
        ["on behalf", "zoë"],
      ], topic);
    }
    assertEquals(page.envelopes.map(({ data, from }) => [data, from]), [
      [{ a: 1 }, "ann"],
      [undefined, "ann"],
      ["the server's own", undefined],
      ["on behalf", "zoë"],
    ]);
    if (topic === "live") continue;
    await using late = connect(far, "late");
    const since = await reading(late.subscribe(topic, { last: 5 }));
    await turns(20);
    assertEquals(since.map(([, from]) => from), ["ann", "ann", "ann", undefined, "zoë"]);
  }
});

Deno.test("Publications name their users if `authorize` says so, whatever the server's option is", async () => {
  for (const includePublisher of [false, true]) {
    await using server = serve({
      includePublisher,
      authorize: (_session, topic) => {
        if (topic === "named") return Promise.resolve({ from: true });
        return topic === "nameless" ? { from: false } : true;
      },
    });
    await using ann = connect(server, "ann");
    const topics = ["named", "nameless", "other"];
    const got = await Promise.all(topics.map((topic) => reading(ann.subscribe(topic))));
    for (const topic of topics) await ann.publish(topic, 1);
    await turns(20);
    assertEquals(got.map(([first]) => first?.[1]), [
      "ann",
      undefined,
      includePublisher ? "ann" : undefined,
    ]);
  }
});

Deno.test("Publications of a client without a user contain no user", async () => {
  await using server = serve({ includePublisher: true });
  await using guest = server.connect({ backoff }) as unknown as Client;
  const got = await reading(guest.subscribe("live"));
  await guest.publish("live", 1);
  await turns(20);
  assertEquals(got, [[1, undefined]]);
});

Deno.test("A client cannot set its user by `from`", async () => {
  const seen: unknown[] = [];
  const onMessage = (message: { readonly from?: string | undefined }) =>
    void seen.push(message.from);
  await using server = serve({ onMessage, includePublisher: true });
  await using ann = connect(server, "ann");
  const got = await reading(ann.subscribe("live"));
  for (const protocols of [["skein.1"], []]) {
    const peer = new Peer(await server.open({ path: "/?token=eve", protocols }));
    await turns();
    peer.say({ topic: "say", data: 1, from: "ann" });
    peer.say({ topic: "say", data: 1, from: "ann", offset: 1, prev: 0 });
    if (protocols.length > 0) peer.say({ publish: "live", data: 2, from: "ann", id: 1 });
    await turns(20);
  }
  // A server session without services does not accept a publisher from a client either.
  await using hand = serverByHand({ onMessage });
  hand.peer.say({ topic: "say", from: "ann" });
  await turns(20);
  assertEquals(seen, Array(5).fill(undefined));
  assertEquals(got, [[2, "eve"]]);
});

Deno.test("Client.publish() without an echo reaches all other subscribers, and reveals the client's id to none", async () => {
  await using broker = new MemoryBroker();
  await using near = serve({ broker });
  await using far = serve({ broker });
  for (const topic of ["live", "kept:a"]) {
    await using ann = connect(near, "ann");
    await using tab = connect(far, "ann");
    const got = await Promise.all([ann, tab].map((one) => reading(one.subscribe(topic))));
    const peer = new Peer(await far.open());
    await turns();
    peer.say({ subscribe: topic, id: 1 });
    await turns();
    await ann.publish(topic, 1, { except: "self" });
    await ann.publish(topic, 2);
    await turns(20);
    assertEquals(got.map((one) => one.map(([data]) => data)), [[2], [1, 2]], topic);
    const heard = peer.envelopes.filter((envelope) => envelope.topic === topic);
    assertEquals(heard.map(({ data }) => data), [1, 2]);
    for (const envelope of heard) {
      assertEquals(Object.keys(envelope).filter((key) => key === "client" || key === "except"), []);
    }
  }
});

for (const delivery of [undefined, "at-least-once"] as const) {
  const name = delivery ?? "at-most-once";
  Deno.test(`Client.publish() without an echo excludes the client after reconnects with ${name}, also on other nodes`, async () => {
    using time = new FakeTime();
    await using broker = new MemoryBroker();
    await using near = serve({ broker });
    await using far = serve({ broker });
    await using ann = connect(near, "ann", delivery === undefined ? {} : { delivery });
    await using bob = connect(near, "bob");
    const subscription = ann.subscribe("kept:a");
    const got = await reading(subscription);
    await ann.publish("kept:a", 1, { except: "self" });
    await bob.publish("kept:a", 2);
    await turns(20);
    const before = subscription.position;
    // Another session reads from the history the publications that were made while the client was
    // disconnected.
    const session = ann.session!.id;
    near.network.down();
    await turns();
    far.publish("kept:a", 3);
    near.network.up();
    for (let i = 0; i < 50 && !ann.isConnected; i++) await time.tickAsync(4);
    await turns(20);
    assert(ann.session!.id !== session);
    await ann.publish("kept:a", 4, { except: "self" });
    await turns(20);
    assertEquals(got.map(([data]) => data), [2, 3]);
    // The subscription restarts before its own publications. They are skipped, not missing.
    assertEquals(before?.offset, 2);
    assertEquals(subscription.position?.offset, 4);
    await subscription.unsubscribe();
    const again: unknown[] = [];
    const since = { ...before!, offset: 0 } as HistoryPosition;
    const replay = ann.subscribe("kept:a", {
      since,
      onRecovery: ({ recovered }) => void again.push(recovered),
    });
    await replay.ready;
    (async () => {
      for await (const { data } of replay) again.push(data);
    })().catch(() => {});
    await turns(50);
    assertEquals([again, replay.position?.offset], [[true, 2, 3], 4]);
  });
}

Deno.test("Server.publish() excludes a client also after reconnects", async () => {
  using time = new FakeTime();
  let near: Session<string | undefined> | undefined;
  await using server = serve({
    onMessage: (message, session) => {
      server.publish("kept:a", message.data, { except: session });
    },
    onOpen: (session) => void (near = session as never),
  });
  await using ann = connect(server, "ann");
  const subscription = ann.subscribe("kept:a");
  const got = await reading(subscription);
  ann.send("say", 1);
  await turns(20);
  const first = near;
  server.network.disconnect();
  await turns(20);
  for (let i = 0; i < 50 && !ann.isConnected; i++) await time.tickAsync(4);
  await turns(20);
  assert(near !== first);
  await subscription.unsubscribe();
  const all = await reading(ann.subscribe("kept:a", { last: 5 }));
  await ann.publish("kept:a", 2);
  await turns(20);
  assertEquals([got, all], [[], [[2, undefined]]]);
});

Deno.test("A publication without an echo excludes by user and id, so a stolen id excludes no other user", async () => {
  await using server = serve();
  const [ann, eve] = [
    new Peer(await server.open({ path: "/?token=ann" })),
    new Peer(await server.open({ path: "/?token=eve" })),
  ];
  await turns();
  ann.say({ subscribe: "live", id: 1, client: "same" });
  eve.say({ subscribe: "live", id: 1, client: "same" });
  eve.say({ publish: "live", data: 1, id: 2, echo: false });
  await turns(20);
  const heard = (peer: Peer) => peer.envelopes.filter(({ topic }) => topic === "live").length;
  assertEquals([heard(ann), heard(eve)], [1, 0]);
  // Another user's numbered messages with the same id are counted separately.
  eve.say({ topic: "say", data: 1, seq: 1 });
  await turns(20);
  assertEquals(eve.envelopes.at(-1), { ack: 1 });
});

Deno.test("A client without an id is identified by its session if it wants no echo", async () => {
  await using server = serve();
  const peer = new Peer(await server.open());
  await turns();
  peer.say({ subscribe: "live", id: 1 });
  peer.say({ publish: "live", data: 1, id: 2, echo: false });
  peer.say({ publish: "live", data: 2, id: 3, echo: true });
  await turns(20);
  // If a client sends its id later, it is identified by this id from then on.
  peer.say({ publish: "live", data: 3, id: 4, echo: false, client: "c" });
  await turns(20);
  assertEquals(
    peer.envelopes.filter(({ topic }) => topic === "live").map(({ data }) => data),
    [2],
  );
});

Deno.test("A client sends its id once per session, and cannot change it", async () => {
  await using server = serve();
  const peer = new Peer(await server.open());
  await turns();
  const cases: [said: Record<string, unknown>, code: string | undefined][] = [
    [{ subscribe: "a", client: "x".repeat(65) }, "malformed"],
    [{ subscribe: "a", client: 5 }, "malformed"],
    [{ publish: "a", echo: "no" }, "malformed"],
    [{ subscribe: "a", client: "c" }, undefined],
    [{ publish: "a", client: "c" }, undefined],
    [{ publish: "a", client: "d" }, "malformed"],
    [{ subscribe: "b", client: "d" }, "malformed"],
  ];
  for (const [id, [said, code]] of cases.entries()) {
    peer.say({ ...said, id });
    await turns(20);
    const reply = peer.envelopes.find(({ reply }) => reply === id)!;
    assertEquals((reply.error as { code: string } | undefined)?.code, code, JSON.stringify(said));
  }
});

Deno.test("Client sends a random id once per session, the same in all sessions", async () => {
  using time = new FakeTime();
  const said: unknown[] = [];
  const network = new Network();
  const peers: Peer[] = [];
  for (const _ of [1, 2]) network.outcomes.push(network.byHand((peer) => peers.push(peer)));
  await using client = network.client({ backoff });
  for (const topic of ["a", "b"]) client.subscribe(topic);
  for (const i of [0, 1]) {
    for (let waited = 0; waited < 50 && peers.length <= i; waited++) await time.tickAsync(4);
    peers[i]!.say(HELLO);
    await turns(20);
    said.push(peers[i]!.envelopes.map(({ client }) => client));
    peers[i]!.connection.close({ closeCode: 4503 });
    await turns(20);
  }
  const [first] = said[0] as string[];
  // Four numbers of 32 bits.
  assert(/^\d{1,10}(-\d{1,10}){3}$/.test(first!), first);
  assertEquals(said, [[first, undefined], [first, undefined]]);
});

Deno.test("Client.publish() with at-least-once and without an echo is rejected or accepted like any other", async () => {
  const requests: unknown[] = [];
  const network = new Network({
    services: new RequestService(platformRuntime(), {
      sequences: { window: 1_000, newest: () => Promise.resolve(0) } as never,
      publish: (_session, topic, _data, { echo, number }) => {
        requests.push([topic, echo, number?.number]);
        if (topic === "secret") throw new RequestError("forbidden", "Not you");
        return {};
      },
    }),
  });
  await using client = network.client({ delivery: "at-least-once" });
  const made = client.publish("live", 1, { except: "self" });
  await made;
  await client.publish("live", Uint8Array.of(1), { except: "self" });
  await client.publish("live", 2);
  await assertRejects(
    () => client.publish("secret", 3, { except: "self" }),
    RequestError,
    "Not you",
  );
  assertEquals(requests, [
    ["live", false, 1],
    ["live", false, 2],
    ["live", true, 3],
    ["secret", false, 4],
  ]);
});

Deno.test("Numbers of at-least-once messages and publications use the share of the client's network", async () => {
  await using broker = new MemoryBroker();
  const { store } = broker;
  const advance = store.advance.bind(store);
  const owners: (string | undefined)[] = [];
  store.advance = (...args) => {
    owners.push(args[3]?.owner);
    return advance(...args);
  };
  await using server = serve({ broker, clientAddress: () => "203.0.113.66", onMessage() {} });
  const use = async (user: string) => {
    await using client = connect(server, user, { delivery: "at-least-once" });
    await client.publish("news", 1);
    client.send("note", 2);
    await client.flushed();
    return owners.splice(0);
  };
  for (const user of ["zoë", "ann"]) {
    assertEquals(await use(user), ["at 203.0.113.66", "at 203.0.113.66"]);
  }
});
