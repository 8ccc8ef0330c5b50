import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { POLICIES } from "../session/queue/overflow.ts";
import { CloseCode, QueueFullError, RequestError } from "../errors.ts";
import { type DialOutcome, Network, settled } from "../tests/clients.ts";
import { clockAhead } from "../tests/globals/clock.ts";
import { HELLO, type Peer } from "../tests/sessions.ts";
import { platformRuntime } from "../base/runtime.ts";
import { RequestService } from "../session/serving/requests.ts";
import { turns } from "../tests/waiting.ts";

const PAD = "x".repeat(1_000);
const numbers = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => from + index);

/** A network that records the received numbers, and does not read at first. */
function stalling(seen: number[]): { network: Network; stalled: DialOutcome } {
  const network = new Network({
    onMessage: ({ data }) => void seen.push((data as { i: number }).i),
  });
  const stalled = () => {
    const connection = network.accept();
    network.pairs.at(-1)!.link.stall("to-server");
    return connection;
  };
  return { network, stalled };
}

Deno.test("Client sends its outbox no faster than the server reads it, in order", async () => {
  const seen: number[] = [];
  const { network, stalled } = stalling(seen);
  network.outcomes.push(stalled);
  await using client = network.client({ outbox: { maxMessages: 2_001, maxBytes: 4_000_000 } });
  for (let i = 0; i < 2_000; i++) client.send("a", { i, pad: PAD });
  assertEquals(await settled(client), "connected");
  assert(client.outbox.messages > 1_500, `${client.outbox.messages} are still in the outbox`);
  assertEquals(seen, []);
  // Queued after the others, although there is a session.
  client.send("a", { i: 2_000, pad: PAD });
  const left = 2_001 - client.outbox.messages;
  for (let i = 0; i < left; i++) client.send("b", { i: 2_001 + i, pad: PAD });
  assertThrows(() => client.send("b"), QueueFullError, "the outbox is full");
  network.pairs[0]!.link.resume("to-server");
  await turns(100);
  assertEquals(seen, numbers(0, 2_001 + left));
  assertEquals([client.outbox, client.isConnected], [{ messages: 0, bytes: 0 }, true]);
  assertEquals(network.sessions.length, 1);
});

Deno.test("Client.publish() sends nothing if aborted or timed out before a session accepts it, with any delivery", async () => {
  using time = new FakeTime();
  for (const delivery of ["at-most-once", "at-least-once"] as const) {
    const published: unknown[] = [];
    const network = new Network({
      services: new RequestService(platformRuntime(), {
        publish: (_session, _topic, data) => (published.push(data), {}),
      }),
    });
    network.outcomes.push(network.nobody);
    await using client = network.client({ delivery, backoff: { firstDelayMs: 4_000 } });
    const abort = new AbortController();
    const { signal } = abort;
    const given = Promise.allSettled([
      client.publish("h", "before", { signal: AbortSignal.abort() }),
      client.publish("h", "aborted", { signal }),
      client.publish("h", "late", { timeoutMs: 200 }),
      client.publish("h", "in time", { timeoutMs: 60_000 }),
    ]);
    await time.tickAsync(100);
    abort.abort();
    await time.tickAsync(400);
    assertEquals(client.outbox.messages, 1);
    await time.tickAsync(2_000);
    await turns(12);
    const names = (await given).map((one) => one.status === "rejected" ? one.reason.name : "made");
    assertEquals(names, ["AbortError", "AbortError", "TimeoutError", "made"], delivery);
    assertEquals(published, ["in time"], delivery);
  }
});

Deno.test("Client.publish() keeps an accepted publication in the outbox after its caller stops waiting", async () => {
  using time = new FakeTime();
  const network = new Network({
    services: new RequestService(platformRuntime(), { publish: () => new Promise(() => {}) }),
  });
  network.outcomes.push(network.byHand((peer) => {
    peer.say(HELLO);
  }));
  await using client = network.client({ delivery: "at-least-once" });
  assertEquals(await settled(client), "connected");
  const abort = new AbortController();
  const given = assertRejects(() => client.publish("h", 1, { signal: abort.signal }));
  await turns(12);
  abort.abort();
  await given;
  await time.tickAsync(0);
  assertEquals(client.outbox.messages, 1);
});

Deno.test("Client.publish() sends a publication again for 90 s, however the clock is set", async () => {
  for (
    const [afterMs, setMs, isSentAgain] of [
      [80_000, 0, true],
      [100_000, 0, false],
      [1_000, -3_600_000, false],
    ] as const
  ) {
    using time = new FakeTime();
    const network = new Network();
    const peers: Peer[] = [];
    const features = ["history"];
    const serving = network.byHand((peer) => {
      peers.push(peer);
      peer.say({ hello: { ...HELLO.hello, features } });
    });
    network.outcomes.push(serving);
    await using client = network.client({ backoff: { firstDelayMs: 1_000, maxDelayMs: 1_000 } });
    assertEquals(await settled(client), "connected");
    const outcome = client.publish("news", 1, { timeoutMs: 600_000 })
      .then(() => "made", ({ name }) => name);
    await turns(12);
    network.outcomes.push(...Array.from({ length: 500 }, () => network.nobody));
    peers[0]!.connection.close({ closeCode: 4503 });
    await time.tickAsync(afterMs);
    using _set = clockAhead(setMs);
    network.outcomes.splice(0, Infinity, serving);
    await time.tickAsync(2_000);
    await turns(12);
    const sent = peers.map(({ envelopes }) => envelopes.filter(({ publish }) => publish).length);
    assertEquals(sent, [1, isSentAgain ? 1 : 0], `${afterMs} ${setMs}`);
    if (!isSentAgain) assertEquals(await outcome, "SessionClosedError");
  }
});

Deno.test("Client.publish() waits for the longest of the delays that a server asks for", async () => {
  using time = new FakeTime();
  const network = new Network();
  const peers: Peer[] = [];
  network.outcomes.push(network.byHand((peer) => {
    peers.push(peer);
    peer.say({ ...HELLO });
  }));
  await using client = network.client();
  assertEquals(await settled(client), "connected");
  for (const topic of ["a", "b"]) client.publish(topic, 1).catch(() => {});
  await turns(12);
  const [peer] = peers as [Peer];
  const sent = () => peer.envelopes.filter(({ publish }) => publish);
  for (const [i, retryAfterMs] of [5_000, 100].entries()) {
    const error = { code: "too-many", message: "Later", level: "session", retryAfterMs };
    peer.say({ reply: sent()[i]!.id, error });
  }
  await turns(12);
  await time.tickAsync(4_900);
  await turns(12);
  assertEquals(sent().length, 2);
  await time.tickAsync(200);
  await turns(12);
  assertEquals(sent().length, 4);
});

Deno.test("Client.publish() with at-least-once waits for at most an hour, whatever the server asks for", async () => {
  using time = new FakeTime();
  const published: string[] = [];
  const network = new Network({
    services: new RequestService(platformRuntime(), {
      publish: (_session, topic) => {
        published.push(topic);
        if (published.length > 1) return {};
        throw new RequestError("too-many", "Later", { level: "user", retryAfterMs: 3e9 });
      },
    }),
  });
  await using client = network.client({ delivery: "at-least-once" });
  assertEquals(await settled(client), "connected");
  const first = client.publish("a", 1);
  await turns(12);
  const later = client.publish("b", 1);
  await time.tickAsync(3_599_000);
  await turns(12);
  assertEquals(published, ["a"]);
  await time.tickAsync(1_000);
  await Promise.all([first, later]);
  assertEquals(published, ["a", "a", "b"]);
});

Deno.test("Client keeps the newest acknowledged number when an earlier session acknowledges less", async () => {
  using _time = new FakeTime();
  const network = new Network();
  const peers: Peer[] = [];
  const hello = { hello: { ...HELLO.hello, ticket: "t" } };
  for (let i = 0; i < 3; i++) {
    network.outcomes.push(network.byHand((peer) => {
      peers.push(peer);
      peer.say(hello);
      const replyToPings = () => {
        for (const { ping } of peer.envelopes) if (ping !== undefined) peer.say({ pong: ping });
      };
      void peer.reach(1).then(replyToPings);
    }));
  }
  await using client = network.client({ delivery: "at-least-once" });
  assertEquals(await settled(client), "connected");
  for (const data of [1, 2]) client.send("a", data);
  await turns();
  const moving = client.handOver();
  await turns();
  assertEquals(await moving, true);
  await turns();
  // The new session acknowledges both, then the old one acknowledges the first.
  peers[1]!.say({ ack: 2 });
  await turns();
  peers[0]!.say({ ack: 1 });
  await turns();
  assertEquals(client.outbox.messages, 0);
});

Deno.test("Client sends unsent messages of a session in the next one, once and in order", async () => {
  using time = new FakeTime();
  const seen: number[] = [];
  const { network, stalled } = stalling(seen);
  network.outcomes.push(stalled);
  await using client = network.client({ outbox: { maxMessages: 2_000, maxBytes: 4_000_000 } });
  for (let i = 0; i < 1_000; i++) client.send("a", { i, pad: PAD });
  assertEquals(await settled(client), "connected");
  const left = client.outbox.messages;
  assert(left > 500 && left < 1_000);
  network.cut();
  await turns();
  client.send("a", { i: 1_000 });
  await time.tickAsync(250);
  await turns(100);
  assertEquals(seen, numbers(1_000 - left, 1_001));
  assertEquals(client.outbox.messages, 0);
});

Deno.test("Client sends its outbox with any bounds and overflow policy of its send queue", async () => {
  for (const policy of POLICIES) {
    for (const bounds of [{ maxMessages: 1 }, { maxMessages: 3 }, { maxBytes: 1_200 }]) {
      const seen: number[] = [];
      const { network, stalled } = stalling(seen);
      network.outcomes.push(stalled);
      await using client = network.client({
        sendQueue: { ...bounds, policy },
        outbox: { maxMessages: 200, maxBytes: 1_000_000 },
      });
      for (let i = 0; i < 200; i++) client.send("a", { i, pad: PAD });
      await client.whenConnected(); // Policies that drop messages are loaded before.
      await turns();
      network.pairs[0]!.link.resume("to-server");
      await turns(300);
      assertEquals(seen, numbers(0, 200), `${policy} ${JSON.stringify(bounds)}`);
      assertEquals(client.session?.stats.droppedMessages, 0);
    }
  }
});

Deno.test("Client with a policy that drops messages keeps its session when the send queue is full", async () => {
  const seen: number[] = [];
  const { network, stalled } = stalling(seen);
  network.outcomes.push(stalled);
  await using client = network.client({ sendQueue: { maxMessages: 3, policy: "drop-oldest" } });
  const session = await client.whenConnected();
  for (let i = 0; i < 200; i++) session.send("a", { i, pad: PAD });
  const { droppedMessages } = session.stats;
  assert(droppedMessages > 0);
  network.pairs[0]!.link.resume("to-server");
  await turns(300);
  assertEquals([seen.length, seen.at(-1)], [200 - droppedMessages, 199]);
  assert(session.isReady);
});

Deno.test("Client drops outbox messages that are too large for the server, reports them, and continues", async () => {
  const seen: unknown[] = [];
  const network = new Network({
    maxMessageBytes: 1_000,
    onMessage: ({ data }) => void seen.push(data),
  });
  const rejected: RequestError[] = [];
  await using client = network.client({ onMessageRejected: (error) => void rejected.push(error) });
  client.send("a", 1);
  client.send("big", PAD);
  client.send("a", 2);
  client.send("a", 3);
  assertEquals(await settled(client), "connected");
  await turns();
  assertEquals([seen, client.outbox], [[1, 2, 3], { messages: 0, bytes: 0 }]);
  assertEquals(rejected.map(({ failure }) => failure), [{
    code: "too-large",
    message: 'Cannot send "big": a message must have at most 1000 bytes, received 1025',
  }]);
  assertEquals([network.sessions.length, client.isConnected], [1, true]);
});

Deno.test("Client.send() rejects messages that are too large for the server immediately, even if the outbox is full", async () => {
  const seen: number[] = [];
  const { network, stalled } = stalling(seen);
  network.server = { ...network.server, maxMessageBytes: 2_000 };
  network.outcomes.push(stalled);
  await using client = network.client({ outbox: { maxMessages: 500, maxBytes: 1_000_000 } });
  for (let i = 0; i < 300; i++) client.send("a", { i, pad: PAD });
  assertEquals(await settled(client), "connected");
  assert(client.outbox.messages > 0);
  assertThrows(() => client.send("a", PAD + PAD), RangeError, "at most 2000 bytes");
  network.pairs[0]!.link.resume("to-server");
  await turns(20);
  assertEquals(seen, numbers(0, 300));
});

Deno.test("Client ends its search for a publication that is too large, although new ones follow", async () => {
  using time = new FakeTime();
  const waiting: (() => void)[] = [];
  const network = new Network({
    services: new RequestService(platformRuntime(), {
      publish: () => new Promise((resolve) => waiting.push(() => resolve({}))),
    }),
  });
  await using client = network.client({ delivery: "at-least-once" });
  let topics = 0;
  const publish = (count: number) => {
    for (let i = 0; i < count; i++) client.publish(`t${topics++}`).catch(() => {});
  };
  publish(3);
  assertEquals(await settled(client), "connected");
  await turns();
  assertEquals(waiting.splice(0).length, 3);
  void network.last.close({ code: CloseCode.tooLarge });
  await time.tickAsync(1_000);
  for (let searched = 0; searched < 3; searched++) {
    publish(2);
    await turns();
    assertEquals(waiting.length, 1);
    waiting.shift()!();
  }
  await turns();
  assertEquals([waiting.length, client.outbox.messages], [6, 6]);
});
