import { platformRuntime } from "../base/runtime.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError, SessionClosedError, TimeoutError } from "../errors.ts";
import { Network, settled } from "../tests/clients.ts";
import { HELLO, type Peer } from "../tests/sessions.ts";
import { RequestService } from "../session/serving/requests.ts";
import { turns } from "../tests/waiting.ts";

Deno.test("Client connects, and reports session and transport", async () => {
  const network = new Network();
  await using client = network.client();
  assertEquals([client.status.current.name, client.isConnected], ["connecting", false]);
  const session = await client.whenConnected();
  assertEquals({
    id: session.id,
    isCurrent: session === client.session,
    isConnected: client.isConnected,
  }, { id: "s-1", isCurrent: true, isConnected: true });
  await turns();
  assertEquals(client.status.current, { name: "connected", session: "s-1", transport: "memory" });
  assertEquals(network.dials.map(({ url }) => url), ["memory://server/"]);
  assertEquals(network.dials[0]?.protocols, ["skein.1"]);
});

Deno.test("Client with endOnRejection throws the rejection in a loop after the earlier messages", async () => {
  const network = new Network({ onOpen: (session) => session.send("m", 1) });
  await using client = network.client({ endOnRejection: true });
  const got: unknown[] = [];
  const loop = (async () => {
    for await (const { data } of client) got.push(data);
  })();
  assertEquals(await settled(client), "connected");
  const request = client.request("never replied to");
  await Promise.all([
    assertRejects(() => loop, SessionClosedError, "(4403 Banned, by remote)"),
    assertRejects(() => request, SessionClosedError, "(4403 Banned, by remote)"),
    network.last.close({ code: 4403, reason: "Banned" }),
  ]);
  assertEquals(got, [1]);
});

Deno.test("Client throws in its loop after the last attempt", async () => {
  const network = new Network();
  network.outcomes.push(network.nobody, network.nobody);
  await using client = network.client({ backoff: { maxAttempts: 1 } });
  const loop = Array.fromAsync(client);
  assertEquals(await settled(client), "reconnecting");
  client.retryNow();
  await assertRejects(() => loop, SessionClosedError, "Nobody is there");
});

Deno.test("Client gets a token for each attempt, and retries after an expired one", async () => {
  using time = new FakeTime();
  const tokens: string[] = [];
  const network = new Network({
    services: new RequestService(platformRuntime(), {
      authenticate: (_session, token) => {
        tokens.push(token);
        return Promise.resolve({ value: token, user: undefined });
      },
    }),
  });
  network.outcomes.push(
    () => network.accept(true),
    () => network.accept(true),
    network.reject(4401),
    network.reject(4401),
  );
  let count = 0;
  await using client = network.client({ token: () => Promise.resolve(`t-${++count}`) });
  assertEquals(await settled(client), "connected");
  void network.last.close({ code: 4401, reason: "Expired" });
  assertEquals(await settled(client), "reconnecting");
  await time.tickAsync(250);
  assertEquals(await settled(client), "connected");
  assertEquals(tokens, ["t-1", "t-2"]);
  network.cut();
  await turns();
  await time.tickAsync(500);
  assertEquals(await settled(client), "reconnecting");
  await time.tickAsync(1_500);
  assertEquals(await settled(client), "rejected");
  assertEquals(count, 4);
});

Deno.test("Client is rejected by the server's close, even if it follows the reply late", async () => {
  for (const code of [4401, 4403, 4503]) {
    const network = new Network();
    network.outcomes.push(network.byHand(async (peer) => {
      await peer.reach(1);
      peer.say({ reply: 1, error: { code: "unauthenticated", message: "No" } });
      await turns();
      peer.connection.close({ closeCode: code, reason: "No" });
    }));
    await using client = network.client({ token: "bad" });
    await turns(12);
    assertEquals(client.status.current.name, code === 4503 ? "reconnecting" : "rejected");
    const { current } = client.status;
    assert("cause" in current && current.cause.code === code);
  }
});

Deno.test("Client reconnects if the server sends no hello in time", async () => {
  using time = new FakeTime();
  const network = new Network();
  network.outcomes.push(network.byHand(() => {}));
  await using client = network.client();
  await turns();
  await time.tickAsync(5_000);
  await turns();
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.cause.code === 4408);
});

Deno.test("Client closes after maxAttempts", async () => {
  using time = new FakeTime();
  const network = new Network();
  network.outcomes.push(network.nobody, network.nobody, network.nobody);
  await using client = network.client({ backoff: { maxAttempts: 2 } });
  await turns();
  await time.tickAsync(250);
  await turns();
  await time.tickAsync(500);
  const { code, reason, by } = await client.closed;
  assertEquals({ code, reason, by }, { code: 1006, reason: "Nobody is there", by: "network" });
  assertEquals([client.status.current.name, network.dials.length], ["closed", 3]);
});

Deno.test("Client keeps messages while disconnected, in order and bounded", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  const network = new Network({ onMessage: ({ data }) => void seen.push(data) });
  network.outcomes.push(network.nobody);
  await using client = network.client({ outbox: { maxMessages: 3 } });
  for (const data of [1, 2, 3]) client.send("a", data);
  assertThrows(() => client.send("a", 4), QueueFullError, "the outbox is full");
  assertThrows(() => client.send("a", 1n), TypeError);
  assertEquals(client.outbox.messages, 3);
  await turns();
  await time.tickAsync(250);
  assertEquals(await settled(client), "connected");
  client.send("a", 5);
  await turns();
  assertEquals([seen, client.outbox], [[1, 2, 3, 5], { messages: 0, bytes: 0 }]);
});

Deno.test("Client keeps its outbox if the session ends as it starts", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  const network = new Network({ onMessage: ({ data }) => void seen.push(data) });
  network.outcomes.push(network.byHand(async (peer) => {
    await turns(5);
    peer.say(HELLO);
    peer.connection.close({ closeCode: 4503 });
  }));
  await using client = network.client();
  await turns(2);
  client.send("a", 1);
  client.send("a", 2);
  await turns(8);
  assertEquals([client.status.current.name, client.outbox.messages], ["reconnecting", 2]);
  await time.tickAsync(250);
  await turns();
  assertEquals(seen, [1, 2]);
});

Deno.test("Client.request() waits for a session, and repeats the request only with retry", async () => {
  using time = new FakeTime();
  const gate = Promise.withResolvers<void>();
  const network = new Network({
    onMessage: async (message) => {
      if (network.sessions.length === 1) await gate.promise;
      message.reply(network.sessions.length);
    },
  });
  await using client = network.client();
  const again = client.request("ask", 1, { retry: true });
  const once = assertRejects(() => client.request("ask"), SessionClosedError);
  await turns();
  network.cut();
  await once;
  await time.tickAsync(250);
  assertEquals(await again, 2);
  gate.resolve();
});

Deno.test("Client.request() has one deadline across all attempts", async () => {
  using time = new FakeTime();
  const network = new Network();
  network.outcomes.push(network.never);
  await using client = network.client();
  const waiting = [
    assertRejects(() => client.request("ask", 1, { timeoutMs: 900, retry: true }), TimeoutError),
    assertRejects(() => client.whenConnected({ timeoutMs: 900 }), TimeoutError, "No connection"),
  ];
  await turns();
  await time.tickAsync(900);
  await Promise.all(waiting);
});

Deno.test("Client's timeouts name the time that the caller chose, however long the connection took", async () => {
  using time = new FakeTime();
  const network = new Network();
  let server: Peer | undefined;
  network.outcomes.push(network.byHand((peer) => server = peer));
  await using client = network.client();
  const wait = { timeoutMs: 900 };
  const calls: Record<string, () => Promise<unknown>> = {
    'reply to "ask"': () => client.request("ask", 1, wait),
    'reply to "again"': () => client.request("again", 1, { ...wait, retry: true }),
    'confirmation of the publication on "news"': () => client.publish("news", 1, wait),
    'end of the response to "story"': () => Array.fromAsync(client.requestStream("story", 1, wait)),
    'reply to the presence data in "room"': () => client.presence("room", 1, wait),
  };
  const late = Object.entries(calls).map(async ([what, call]) => {
    const error = await assertRejects(
      call,
      TimeoutError,
      `No ${what} within 900 ms`,
    );
    assertEquals(error.timeoutMs, 900);
  });
  await turns();
  await time.tickAsync(300);
  server!.say(HELLO);
  await turns();
  await time.tickAsync(900);
  await Promise.all(late);
});

/** A response of each kind, by the name of its kind. */
const RESPONSES = { plain: {}, resumable: { id: "0123456789abcdef" } };

for (const [kind, options] of Object.entries(RESPONSES)) {
  Deno.test(`Client.requestStream() ends a ${kind} response within timeoutMs if there is no session`, async () => {
    using time = new FakeTime();
    const network = new Network();
    network.outcomes.push(network.never);
    await using client = network.client();
    const response = client.requestStream("story", 1, { ...options, timeoutMs: 900 });
    const late = assertRejects(() => Array.fromAsync(response), TimeoutError, "within 900 ms");
    await turns();
    await time.tickAsync(900);
    await late;
  });

  Deno.test(`StreamingResponse.cancel() of a ${kind} response ends the wait for a session, and nothing is sent`, async () => {
    const network = new Network();
    let server: Peer | undefined;
    network.outcomes.push(network.byHand((peer) => server = peer));
    await using client = network.client();
    const response = client.requestStream("story", 1, options);
    const loop = Array.fromAsync(response).catch(({ failure }) => failure.code);
    await turns();
    await response.cancel();
    assertEquals(await loop, kind === "plain" ? [] : "cancelled");
    server!.say(HELLO);
    await client.whenConnected();
    await turns();
    assertEquals(server!.frames, []);
  });
}

Deno.test("Client.request() waits at most another timeoutMs if the clock is set back", async () => {
  using time = new FakeTime();
  let offsetMs = 0;
  const runtime = Object.assign(platformRuntime(), { now: () => Date.now() + offsetMs });
  const network = new Network({ onMessage: () => new Promise(() => {}) });
  await using client = network.client({ runtime });
  const options = { retry: true, timeoutMs: 900 };
  const waiting = assertRejects(() => client.request("ask", 1, options), TimeoutError);
  await turns();
  offsetMs = -3_600_000;
  network.cut();
  await time.tickAsync(1_800);
  await waiting;
});

Deno.test("Client.publish() has one deadline for the connection and the reply", async () => {
  // Found by a simulated cluster: seed 3127764432 on Redis, which freezes after a node was cut off.
  using time = new FakeTime();
  const network = new Network();
  let server: Peer | undefined;
  network.outcomes.push(network.byHand((peer) => server = peer));
  await using client = network.client();
  let isOver = false;
  const late = assertRejects(
    () => client.publish("news", 1, { timeoutMs: 900 }).finally(() => isOver = true),
    TimeoutError,
    "the publication",
  );
  await turns();
  await time.tickAsync(600);
  server!.say(HELLO);
  await turns();
  await time.tickAsync(290);
  assertEquals([client.isConnected, isOver], [true, false]);
  await time.tickAsync(10);
  await late;
});

Deno.test("Client reports each status, then ends the feed", async () => {
  using time = new FakeTime();
  const network = new Network();
  const client = network.client();
  const names: string[] = [];
  const told = (async () => {
    for await (const { name } of client.status) names.push(name);
  })();
  await turns();
  await network.reconnect(time);
  await client.close();
  await told;
  const away = ["reconnecting", "connecting"];
  assertEquals(names, ["connecting", "connected", ...away, "connected", "closed"]);
  assertEquals(await client.closed, { code: 0, reason: "", by: "local" });
  await client.close();
});

Deno.test("Client.close() aborts an attempt at any step", async () => {
  const never = new Promise<never>(() => {});
  const cases: [what: string, start: (network: Network) => ReturnType<Network["client"]>][] = [
    ["a token", (network) => network.client({ token: () => never })],
    ["the dialer", (network) => (network.outcomes.push(network.never), network.client())],
    ["hello", (network) => (network.outcomes.push(network.byHand(() => {})), network.client())],
    ["the delay", (network) => (network.outcomes.push(network.nobody), network.client())],
    ["a session", (network) => network.client()],
  ];
  for (const [what, start] of cases) {
    const client = start(new Network());
    await turns();
    const waiting = what === "a session"
      ? Promise.resolve()
      : assertRejects(() => client.whenConnected(), SessionClosedError);
    await client.close();
    await waiting;
    assertEquals(client.status.current.name, "closed", what);
    assertEquals(await client.closed, { code: 0, reason: "", by: "local" }, what);
  }
});

Deno.test("Client closes when its signal aborts, also if aborted before", async () => {
  const network = new Network();
  const controller = new AbortController();
  const client = network.client({ signal: controller.signal });
  await client.whenConnected();
  controller.abort();
  assertEquals((await client.closed).by, "local");
  assert(network.last.isClosed);
  const late = network.client({ signal: AbortSignal.abort() });
  assertEquals((await late.closed).by, "local");
  assertEquals(network.dials.length, 1);
});

Deno.test("Client stays disconnected when the application closes its session normally, and not otherwise", async () => {
  for (const [code, name] of [[0, "closed"], [4000, "reconnecting"]] as const) {
    const network = new Network();
    await using client = network.client();
    const session = await client.whenConnected();
    await session.close({ code });
    assertEquals(await settled(client), name);
  }
});

Deno.test("Client survives a goaway and a hello with absurd numbers", async () => {
  using time = new FakeTime();
  const network = new Network();
  let peer: Peer | undefined;
  network.outcomes.push(network.byHand((made) => peer = made));
  await using client = network.client();
  await turns();
  peer!.say(HELLO);
  peer!.say({ goaway: { retryAfterMs: Number.MAX_SAFE_INTEGER } });
  peer!.connection.close({ closeCode: 4503 });
  await turns();
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.delayMs <= 2 ** 31 - 1);
  await time.tickAsync(1_000);
  assertEquals(network.dials.length, 1);
});

Deno.test("Client closes its session when the page is left, and reconnects with the page", async () => {
  using time = new FakeTime();
  const network = new Network();
  await using client = network.client();
  assertEquals(await settled(client), "connected");
  const closed = network.last.closed;
  globalThis.dispatchEvent(new Event("pagehide"));
  assertEquals(await settled(client), "reconnecting");
  const { code, by } = await closed;
  assertEquals([code, by], [0, "remote"]);
  await time.tickAsync(1_000);
  assertEquals(await settled(client), "connected");
  assertEquals(network.sessions.length, 2);
});
