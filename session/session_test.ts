import { platformRuntime } from "../base/runtime.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { SessionClosedError, TimeoutError, UnsupportedError } from "../errors.ts";
import { clientByHand, endOf, ends, HELLO, Peer, PLAIN, serverByHand } from "../tests/sessions.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { Session, SKEIN_PROTOCOL } from "./session.ts";
import { RequestService } from "./serving/requests.ts";
import { sessionSettings } from "./settings/session_settings.ts";
import { turns } from "../tests/waiting.ts";

Deno.test("Session knows the user and the address of its peer", async () => {
  const identity = {
    id: "s-1",
    value: { name: "ann" },
    user: "ann",
    url: "https://example.com/rooms/a?token=x",
    headers: [["cookie", "c=1"]] as [string, string][],
    address: "192.0.2.1",
  };
  await using hand = serverByHand({}, { identity });
  const { session } = hand;
  assertEquals({ id: session.id, value: session.value, user: session.user }, {
    id: "s-1",
    value: { name: "ann" },
    user: "ann",
  });
  assertEquals([session.path, session.address], ["/rooms/a", "192.0.2.1"]);
  assertEquals(session.headers.get("cookie"), "c=1");
  session.headers.set("cookie", "another");
  assertEquals(session.headers.get("cookie"), "c=1", "a copy");
  assertEquals([session.protocol, session.transport], [SKEIN_PROTOCOL, "memory"]);
});

Deno.test("Session has its own id and user name by default", async () => {
  await using one = serverByHand();
  await using other = serverByHand();
  assertEquals(one.session.user, one.session.id);
  assert(one.session.id !== other.session.id);
  assertEquals({ url: one.session.url, path: one.session.path, address: one.session.address }, {
    url: "",
    path: "",
    address: undefined,
  });
  assertEquals([...one.session.headers], []);
});

Deno.test("Session on a client uses the id from the server's hello", async () => {
  await using both = await ends({}, {}, { identity: { id: "s-9" } });
  assertEquals([both.server.id, both.client.id], ["s-9", "s-9"]);
});

Deno.test("Session on a server sends hello first, and is connected immediately", async () => {
  await using hand = serverByHand({ maxMessageBytes: 999 }, { identity: { id: "s-1" } });
  const { session, peer } = hand;
  assertEquals([session.state, session.isReady], ["connected", true]);
  session.send("a");
  await peer.reach(1);
  const hello = {
    session: "s-1",
    heartbeatMs: 25_000,
    maxMessageBytes: 999,
    features: [],
  };
  assertEquals(peer.envelopes, [{ hello }, { topic: "a" }]);
});

Deno.test("Session on a client is connecting until hello arrives", async () => {
  await using hand = clientByHand();
  const { session, peer } = hand;
  assertEquals({ state: session.state, isReady: session.isReady, isClosed: session.isClosed }, {
    state: "connecting",
    isReady: false,
    isClosed: false,
  });
  assertThrows(() => session.send("a"), SessionClosedError, "the session is connecting");
  peer.say(HELLO);
  await session.ready;
  assertEquals({ state: session.state, isReady: session.isReady, id: session.id }, {
    state: "connected",
    isReady: true,
    id: "s-1",
  });
  await session.whenReady();
  session.send("a");
  await peer.reach(1);
  assertEquals(peer.envelopes, [{ topic: "a" }]);
});

Deno.test("Session on a plain WebSocket is connected immediately, on both sides", async () => {
  const { client, server } = memoryPair(PLAIN);
  await using near = new Session(server, sessionSettings({ side: "server" }));
  await using far = new Session(client, sessionSettings({ side: "client" }));
  assertEquals({ nearState: near.state, farState: far.state, protocol: far.protocol }, {
    nearState: "connected",
    farState: "connected",
    protocol: "",
  });
});

Deno.test("Session.whenReady() rejects by timeout and by signal; the session continues", async () => {
  await using hand = clientByHand();
  const { session, peer } = hand;
  {
    using time = new FakeTime();
    const waiting = assertRejects(
      () => session.whenReady({ timeoutMs: 200 }),
      TimeoutError,
      "No session within 200 ms",
    );
    await time.tickAsync(200);
    await waiting;
  }
  const reason = new Error("enough");
  const error = await assertRejects(() => session.whenReady({ signal: AbortSignal.abort(reason) }));
  assertEquals(error, reason);
  peer.say(HELLO);
  await session.whenReady();
});

Deno.test("Session.whenReady() waits for 30 seconds by default", async () => {
  using time = new FakeTime();
  await using hand = clientByHand({ handshakeTimeoutMs: 120_000 });
  let failure: unknown;
  hand.session.whenReady().catch((error) => failure = error);
  await time.tickAsync(29_999);
  assertEquals(failure, undefined);
  await time.tickAsync(1);
  assert(failure instanceof TimeoutError && failure.timeoutMs === 30_000);
});

Deno.test("Session closes with 4408 when hello does not arrive in time", async () => {
  using time = new FakeTime();
  await using hand = clientByHand({ handshakeTimeoutMs: 1_000 });
  const { session, peer } = hand;
  const { ready } = session;
  const rejected = assertRejects(() => ready, SessionClosedError, "before it was ready");
  await time.tickAsync(999);
  assertEquals(session.state, "connecting");
  await time.tickAsync(1);
  await rejected;
  assertEquals(await endOf(session), { code: 4408, reason: "No hello in time", by: "local" });
  assert(session.closeError instanceof TimeoutError);
  assertEquals(await peer.closed, { closeCode: 4408, reason: "No hello in time" });
});

Deno.test("Session.ready rejects with the reason when the peer closes first", async () => {
  await using hand = clientByHand();
  hand.peer.connection.close({ closeCode: 4401, reason: "No token" });
  const error = await assertRejects(() => hand.session.ready, SessionClosedError, "4401 No token");
  assertEquals(error.info, { code: 4401, reason: "No token", by: "remote" });
  await assertRejects(() => hand.session.whenReady(), SessionClosedError);
});

Deno.test("Session without listeners leaves no unhandled rejection", async () => {
  const hand = clientByHand();
  hand.link.disconnect();
  await turns();
  assert(hand.session.isClosed);
});

Deno.test("Session accepts hello once; a second one, or one from a client, is invalid", async () => {
  await using client = clientByHand();
  client.peer.say(HELLO);
  client.peer.say({ hello: { ...HELLO.hello, session: "forged" } });
  await turns();
  assertEquals([client.session.id, client.session.stats.invalidMessages], ["s-1", 1]);
  await using server = serverByHand({}, { identity: { id: "s-2" } });
  server.peer.say(HELLO);
  await turns();
  assertEquals([server.session.id, server.session.stats.invalidMessages], ["s-2", 1]);
});

Deno.test("Session survives a hello with absurd numbers", async () => {
  for (const heartbeatMs of [0, 1, Number.MAX_SAFE_INTEGER]) {
    await using hand = clientByHand();
    hand.peer.say({ hello: { ...HELLO.hello, heartbeatMs } });
    await hand.session.ready;
    assertEquals(hand.session.state, "connected", `${heartbeatMs}`);
  }
});

Deno.test("Session calls admit before onOpen, and no handler after a rejection", async () => {
  const log: string[] = [];
  await using admitted = serverByHand({
    services: new RequestService(platformRuntime(), {
      admit: (session) => void log.push(`admit ${session.state}`) as undefined,
    }),
    onOpen: (session) => void log.push(`open ${session.state}`),
  });
  assertEquals([log, admitted.session.isReady], [["admit connecting", "open connected"], true]);
  const rejection = { code: 4429, reason: "Too many" };
  await using rejected = serverByHand({
    services: new RequestService(platformRuntime(), { admit: () => rejection }),
    onOpen: () => void log.push("never"),
    onClose: () => void log.push("never"),
  });
  assertEquals(await endOf(rejected.session), { ...rejection, by: "local" });
  assertEquals(await rejected.peer.closed, { closeCode: 4429, reason: "Too many" });
  await turns();
  assertEquals([log.length, rejected.peer.frames], [2, []]);
});

Deno.test("Session without message frames names its missing features", async () => {
  const pair = memoryPair({ frames: false });
  await using session = new Session(pair.server, sessionSettings({ side: "server" }));
  assertEquals([session.state, session.stats.sentMessages], ["connected", 0]);
  assertThrows(() => session.send("a"), UnsupportedError, "streams and datagrams only");
  await assertRejects(() => session.request("a"), UnsupportedError);
  await assertRejects(() => session.flushed(), UnsupportedError);
});

Deno.test("Session.stats counts, and contains no secrets", async () => {
  const secret = "s3cret";
  await using hand = serverByHand({}, {
    identity: {
      id: "s-1",
      url: `https://example.com/?token=${secret}`,
      headers: { authorization: `Bearer ${secret}`, cookie: secret },
    },
  });
  const { session, peer } = hand;
  session.send("a", "é");
  peer.say({ topic: "b" });
  peer.say({ future: 1 });
  peer.say({ reply: 9 });
  peer.say({ reply: null, error: { code: "x", message: secret } });
  peer.say("nonsense");
  peer.say({ dropped: 3 });
  await turns();
  const { createdAt, readyAt, uptimeMs, sentBytes, receivedBytes, ...stats } = session.stats
    .toJSON();
  assertEquals(stats, {
    id: "s-1",
    state: "connected",
    closedAt: undefined,
    queuedMessages: 0,
    queuedBytes: 0,
    sentMessages: 3,
    droppedMessages: 0,
    receivedMessages: 1,
    waitingMessages: 1,
    waitingBytes: `{"topic":"b"}`.length,
    unreadMessages: 0,
    invalidMessages: 1,
    unknownEnvelopes: 1,
    protocolErrors: 1,
    lateReplies: 1,
    droppedByPeer: 3,
    rejectedByPeer: 1,
    handlerFailures: 0,
    pendingReplies: 0,
    streamsCreated: 0,
    streamsClosed: 0,
    activeStreams: 0,
    streamErrors: 0,
    streamsRejected: 0,
    bidirectionalStreams: 0,
    unidirectionalStreams: 0,
    streamBytesSent: 0,
    streamBytesReceived: 0,
    datagramsSent: 0,
    datagramBytesSent: 0,
    datagramsReceived: 0,
    datagramBytesReceived: 0,
    datagramsDropped: 0,
  });
  assert(createdAt <= Date.now() && sentBytes > 0 && receivedBytes > 0);
  assert(readyAt! >= createdAt && uptimeMs >= 0);
  assertEquals(JSON.stringify(session.stats).includes(secret), false);
});

for (const state of ["is open", "has closed", "is broken"]) {
  Deno.test(`Session() receives frames that arrived before its creation on a connection that ${state}`, async () => {
    const pair = memoryPair();
    const peer = new Peer(pair.client);
    peer.say({ topic: "early" });
    await turns();
    if (state === "has closed") pair.client.close({ closeCode: 4000, reason: "late" });
    if (state === "is broken") pair.link.disconnect();
    if (state !== "is open") await pair.server.closed.catch(() => {});
    await using session = new Session(pair.server, sessionSettings({ side: "server" }));
    const request = session.request("hold");
    request.catch(() => {});
    for await (const message of session) {
      assertEquals(message.topic, "early");
      break;
    }
    if (state === "is open") return;
    const { by, code, reason } = await session.closed;
    const expected = state === "has closed" ? ["remote", 4000, "late"] : ["network", 1006, reason];
    assertEquals([by, code, reason], expected);
    await assertRejects(() => request, SessionClosedError);
  });
}

Deno.test("sessionSettings() rejects limits that are not positive integers", () => {
  const names = [
    "maxMessageBytes",
    "maxInvalidMessages",
    "maxRequests",
    "concurrency",
    "requestTimeoutMs",
    "closeTimeoutMs",
    "handshakeTimeoutMs",
  ];
  for (const value of [0, -1, 1.5, NaN, Infinity]) {
    for (const name of names) {
      assertThrows(
        () => sessionSettings({ side: "server", [name]: value }),
        RangeError,
        `Cannot create session: ${name} must be `,
      );
    }
    for (const queue of ["sendQueue", "receiveQueue"]) {
      for (const name of ["maxMessages", "maxBytes"]) {
        assertThrows(
          () => sessionSettings({ side: "server", [queue]: { [name]: value } }),
          RangeError,
          `${queue}.${name} must be a positive integer`,
        );
      }
    }
  }
  const sendQueue = { policy: "block" as "close" };
  assertThrows(() => sessionSettings({ side: "server", sendQueue }), TypeError, 'received "block"');
});
