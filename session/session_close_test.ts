import { memorySessions } from "../testing/memory_sessions.ts";
import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import { FakeTime } from "@std/testing/time";
import { type CloseInfo, SessionClosedError, TimeoutError } from "../errors.ts";
import { clientByHand, endOf, ends, HELLO, PLAIN, serverByHand } from "../tests/sessions.ts";
import { clockAhead } from "../tests/globals/clock.ts";
import type { OverflowPolicy } from "./queue/send_queue.ts";
import { sessionSettings } from "./settings/session_settings.ts";
import { soon, turns } from "../tests/waiting.ts";

Deno.test("Session.close() reports code, reason and closing side to both sides; a normal close is no error", async () => {
  for (const options of [undefined, { code: 4003, reason: "Enough" }]) {
    await using both = await ends();
    const { code = 0, reason = "" } = options ?? {};
    assertEquals(await both.server.close(options), { code, reason, by: "local" });
    assertEquals(await endOf(both.client), { code, reason, by: "remote" });
    assertEquals([both.server.state, both.client.state], ["closed", "closed"]);
    const { closeError } = both.client;
    assertEquals(closeError instanceof SessionClosedError, code !== 0);
    assertEquals(closeError === undefined, code === 0);
  }
});

Deno.test("Session.close() rejects codes outside the application's range, and stays open", async () => {
  await using hand = serverByHand();
  for (const code of [1, 1000, 2999, 5000, NaN, 3000.5]) {
    assertThrows(() => hand.session.close({ code }), RangeError, "0 or 3000 to 4999");
    await assertRejects(() => hand.session.drain({ code }), RangeError);
  }
  assertEquals(hand.session.state, "connected");
});

Deno.test("Session.close() is idempotent; the first call decides", async () => {
  const infos: CloseInfo[] = [];
  await using hand = serverByHand({ onClose: (_session, info) => void infos.push(info) });
  const { session } = hand;
  const first = session.close({ code: 4001, reason: "first" });
  const second = session.close({ code: 4002, reason: "second" });
  assertStrictEquals(await first, await second);
  assertStrictEquals(await session.close(), await first);
  await session[Symbol.asyncDispose]();
  assertEquals([infos.length, infos[0]?.reason], [1, "first"]);
});

Deno.test("Session.close() flushes earlier messages, and accepts no more", async () => {
  await using hand = serverByHand();
  const { session, peer } = hand;
  for (let i = 0; i < 200; i++) session.send("a", "x".repeat(1_000));
  const closing = session.close();
  assertEquals([session.state, session.isReady], ["draining", false]);
  assertThrows(() => session.send("b"), SessionClosedError, "Cannot send: the session is draining");
  await assertRejects(() => session.request("b"), SessionClosedError);
  await closing;
  await peer.closed;
  assertEquals(peer.envelopes.filter(({ topic }) => topic === "a").length, 200);
});

Deno.test("Session closes with await using, and waits until it has closed", async () => {
  const { server, client } = await ends();
  {
    await using closing = server;
    closing.send("last");
  }
  assert(server.isClosed);
  assertEquals((await Array.fromAsync(client)).map(({ topic }) => topic), ["last"]);
});

Deno.test("Session.close() while connecting rejects every waiting call", async () => {
  let opened = 0;
  const count = () => void opened++;
  await using hand = clientByHand({ onOpen: count, onClose: count });
  const waiting = assertRejects(() => hand.session.whenReady(), SessionClosedError);
  await hand.session.close();
  await waiting;
  hand.peer.say(HELLO);
  await turns();
  assertEquals([opened, hand.session.state], [0, "closed"]);
});

Deno.test("Session runs onClose once, after the handlers of earlier messages", async () => {
  const log: string[] = [];
  const gate = Promise.withResolvers<void>();
  await using hand = serverByHand({
    onMessage: async ({ topic }) => {
      await gate.promise;
      log.push(topic);
    },
    onClose: (session, { code }) => void log.push(`close ${code} ${session.isClosed}`),
  });
  hand.peer.say({ topic: "a" });
  hand.peer.say({ topic: "b" });
  await turns();
  hand.peer.connection.close({ closeCode: 4005 });
  await soon(hand.session.closed);
  await turns();
  assertEquals(log, []);
  gate.resolve();
  await turns();
  assertEquals(log, ["a", "b", "close 4005 true"]);
});

Deno.test("Message.isCancelled is true for messages and requests handled after the close", async () => {
  const seen: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  await using hand = serverByHand({
    onMessage: async (message) => {
      await gate.promise;
      const { topic, isCancelled, signal } = message;
      seen.push([topic, isCancelled, signal.aborted]);
      if (message.isRequest) message.reply(1);
    },
  });
  hand.peer.say({ topic: "running" });
  hand.peer.say({ topic: "message" });
  hand.peer.say({ topic: "request", id: 1 });
  await turns();
  hand.peer.connection.close();
  await soon(hand.session.closed);
  gate.resolve();
  await turns();
  assertEquals(seen, [["running", true, true], ["message", true, true], ["request", true, true]]);
});

Deno.test("Session runs onClose even if a handler never returns", async () => {
  using time = new FakeTime();
  let closes = 0;
  await using hand = serverByHand({
    onMessage: () => new Promise(() => {}),
    onClose: () => void closes++,
    closeTimeoutMs: 2_000,
  });
  hand.peer.say({ topic: "a" });
  hand.peer.say({ topic: "b" });
  await turns();
  hand.peer.connection.close();
  await turns();
  await time.tickAsync(1_999);
  assertEquals(closes, 0);
  await time.tickAsync(1);
  await turns(1);
  assertEquals([closes, hand.session.stats.waitingMessages], [1, 0]);
});

Deno.test("Session replies failed when a handler throws, calls onError, and continues", async () => {
  const failure = new Error("s3cret");
  const fail = () => {
    throw failure;
  };
  const rejection = { reply: null, error: { code: "x", message: "" } };
  const goaway = { goaway: { retryAfterMs: 1, reason: "" } };
  const reply = (reply: number | null) => ({
    reply,
    error: { code: "failed", message: "The handler failed" },
  });
  const cases = [
    ["onMessage", fail, { topic: "a", id: 1 }, [reply(1)]],
    ["onMessage", () => Promise.reject(failure), { topic: "a", id: 1 }, [reply(1)]],
    ["onMessage", fail, { topic: "a" }, [reply(null)]],
    ["onMessageRejected", fail, rejection, []],
    ["onMessageRejected", () => Promise.reject(failure), rejection, []],
    ["onDropped", fail, { dropped: 1 }, []],
    ["onGoAway", fail, goaway, []],
  ] as const;
  for (const [name, handler, envelope, replies] of cases) {
    const errors: unknown[] = [];
    const told: unknown[] = [];
    await using hand = serverByHand({
      [name]: handler,
      onError: (error) => void errors.push(error),
    });
    hand.session.events.addEventListener("error", ({ detail }) => told.push(detail));
    await hand.peer.reach(1);
    hand.peer.say(envelope);
    hand.peer.say({ ping: 1 });
    await turns();
    assertEquals(hand.peer.envelopes.slice(1).filter(({ pong }) => pong === undefined), [
      ...replies,
    ]);
    assertEquals([errors, told], [[failure], [failure]], name);
    const { state, stats } = hand.session;
    assertEquals(
      { state, handlerFailures: stats.handlerFailures, waitingMessages: stats.waitingMessages },
      { state: "connected", handlerFailures: 1, waitingMessages: 0 },
      name,
    );
    const issues = await hand.session.issues();
    assert(issues.some(({ code }) => code === "failing-handlers"), name);
    assertEquals(JSON.stringify(hand.peer.frames).includes("s3cret"), false);
  }
});

Deno.test("Session handles the messages after one whose handler fails", async () => {
  const handled: unknown[] = [];
  await using hand = serverByHand({
    async onMessage({ data }) {
      await Promise.resolve();
      handled.push(data);
      if (data === 1) throw new Error("no");
    },
    onError: () => {},
  });
  for (const data of [0, 1, 2, 3]) hand.peer.say({ topic: "a", data });
  await turns();
  assertEquals([handled, hand.session.state], [[0, 1, 2, 3], "connected"]);
});

Deno.test("Message.reply() to a message that is not a request only fails its handler", async () => {
  const errors: unknown[] = [];
  await using hand = serverByHand({
    onMessage: (message) => message.reply("pong"),
    onError: (error) => void errors.push(error),
  });
  await hand.peer.reach(1);
  hand.peer.say({ topic: "a" });
  hand.peer.say({ topic: "a", id: 1 });
  await turns();
  assertEquals(hand.peer.envelopes.slice(1), [
    { reply: null, error: { code: "failed", message: "The handler failed" } },
    { reply: 1, data: "pong" },
  ]);
  assertEquals(
    errors.map(String),
    ['TypeError: Cannot reply: the message on "a" is not a request'],
  );
});

Deno.test("Session closes with 4500 at the 21st handler failure within a minute", async () => {
  using time = new FakeTime();
  // A plain WebSocket, whose peer has no heartbeat to reply meanwhile.
  const wire = PLAIN;
  const errors: unknown[] = [];
  await using hand = serverByHand({
    onMessage: ({ data }) => {
      throw new Error(String(data));
    },
    onError: (error) => void errors.push(error),
  }, { wire });
  const fail = async (count: number) => {
    for (let i = 0; i < count; i++) hand.peer.say({ topic: "a", data: i });
    await turns();
  };
  // The window moves: no minute has more than 20 failures.
  await fail(10);
  await time.tickAsync(30_000);
  await fail(10);
  await time.tickAsync(30_000);
  await fail(10);
  assertEquals([hand.session.state, hand.session.stats.handlerFailures], ["connected", 30]);
  await fail(1);
  assertEquals(await endOf(hand.session), {
    code: 4500,
    reason: "More than 20 handler failures in a minute",
    by: "local",
  });
  assertEquals(errors.length, 31);
  assertStrictEquals(hand.session.closeError, errors.at(-1));
});

Deno.test("Session counts handler failures of a minute, however the clock is set", async () => {
  using time = new FakeTime();
  const wire = PLAIN;
  await using hand = serverByHand({
    onMessage: () => {
      throw new Error("failed");
    },
    onError() {},
  }, { wire });
  const fail = async (count: number) => {
    for (let i = 0; i < count; i++) {
      hand.peer.say({ topic: "a" });
      await turns();
      await time.tickAsync(90_000);
    }
  };
  await fail(20);
  using _set = clockAhead(-3_600_000);
  await fail(40);
  assertEquals([hand.session.state, hand.session.stats.handlerFailures], ["connected", 60]);
  assert(hand.session.stats.uptimeMs >= 0);
});

Deno.test("Session with onHandlerError close closes at the first failure, and runs onClose once", async () => {
  const failure = new Error("s3cret");
  const cases = {
    onMessage: () => {
      throw failure;
    },
    onMessageRejected: () => {
      throw failure;
    },
  };
  for (const [name, handler] of Object.entries(cases)) {
    const errors: unknown[] = [];
    let closes = 0;
    await using hand = serverByHand({
      [name]: handler,
      onHandlerError: "close",
      onError: (error) => void errors.push(error),
      onClose: () => void closes++,
    });
    hand.peer.say({ topic: "a" });
    hand.peer.say({ reply: null, error: { code: "x", message: "" } });
    assertEquals(await endOf(hand.session), {
      code: 4500,
      reason: name === "onMessageRejected" ? "A handler failed" : "The handler failed",
      by: "local",
    }, name);
    await turns();
    assertEquals([errors, closes], [[failure], 1], name);
    assertStrictEquals(hand.session.closeError, failure);
    assertEquals(JSON.stringify(hand.peer.frames).includes("s3cret"), false);
  }
});

Deno.test("Session closes with 4500 when onOpen throws or rejects", async () => {
  const fail = () => {
    throw new Error("no");
  };
  for (const onOpen of [fail, () => Promise.reject(new Error("no"))]) {
    let closes = 0;
    await using hand = serverByHand({ onOpen, onError: () => {}, onClose: () => void closes++ });
    assertEquals(await endOf(hand.session), {
      code: 4500,
      reason: "The handler failed",
      by: "local",
    });
    await turns();
    assertEquals([closes, (await hand.peer.closed).closeCode], [1, 4500]);
  }
});

Deno.test("sessionSettings() rejects an invalid onHandlerError", () => {
  assertThrows(
    () => sessionSettings({ side: "server", onHandlerError: "ignore" as "close" }),
    TypeError,
    'Cannot create session: onHandlerError must be "reply" or "close", received "ignore"',
  );
});

Deno.test("Session survives rejected promises of handlers that are not awaited", async () => {
  const errors: unknown[] = [];
  const failure = new Error("late");
  await using hand = serverByHand({
    onMessageRejected: (() => Promise.reject(failure)) as () => void,
    onError: (error) => void errors.push(error),
  });
  hand.peer.say({ reply: null, error: { code: "x", message: "" } });
  await turns();
  assertEquals([errors, hand.session.state], [[failure], "connected"]);
});

Deno.test("Session survives an onError that throws or rejects, and prints all errors", async () => {
  const failing: (() => void)[] = [
    () => {
      throw new Error("onError failed");
    },
    (() => Promise.reject(new Error("onError failed"))) as () => void,
  ];
  for (const onError of failing) {
    using print = stub(console, "error");
    await using hand = serverByHand({ onMessage: () => Promise.reject(new Error("a")), onError });
    hand.peer.say({ topic: "a" });
    await turns();
    assert(print.calls.some(({ args }) => String(args).includes("onError failed")));
  }
});

Deno.test("Session prints the error of a handler without onError", async () => {
  using print = stub(console, "error");
  await using hand = serverByHand({ onMessage: () => Promise.reject(new Error("a")) });
  hand.peer.say({ topic: "a" });
  await turns();
  assertEquals(print.calls.length, 1);
  assert(String(print.calls[0]?.args[0]).includes(hand.session.id));
});

Deno.test("Session reports a failed onClose to onError, and closes anyway", async () => {
  const errors: unknown[] = [];
  await using hand = serverByHand({
    onClose: () => Promise.reject(new Error("no")),
    onError: (error) => void errors.push(error),
  });
  await hand.session.close();
  await turns();
  assertEquals([String(errors), hand.session.isClosed], ["Error: no", true]);
});

Deno.test("Session reports no handler error after it has closed", async () => {
  const errors: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  await using hand = serverByHand({
    onMessage: async (_message, session) => {
      await gate.promise;
      session.send("reply");
    },
    onError: (error) => void errors.push(error),
  });
  hand.peer.say({ topic: "a" });
  await turns();
  hand.peer.connection.close();
  await soon(hand.session.closed);
  gate.resolve();
  await turns();
  assertEquals(errors, []);
});

Deno.test("Session closes within closeTimeoutMs for a stalled peer, under each policy", async () => {
  const policies: OverflowPolicy[] = ["close", "drop-oldest", "drop-newest", "latest"];
  for (const policy of policies) {
    using time = new FakeTime();
    let closes = 0;
    await using hand = serverByHand({
      sendQueue: { policy },
      closeTimeoutMs: 3_000,
      onClose: () => void closes++,
    });
    const { session, link } = hand;
    await turns();
    link.stall();
    let error: unknown;
    for (let i = 0; i < 2_000 && error === undefined; i++) {
      try {
        session.send(`t${i % 300}`, "x".repeat(2_000));
      } catch (thrown) {
        error = thrown;
      }
      if (i % 100 === 0) await turns(1);
      assert(session.stats.queuedMessages <= 258, policy);
      assert(session.stats.queuedBytes <= 1_050_000, policy);
      assert(session.connection.frames!.bufferedAmount <= 65_536 * 2 + 2_100, policy);
    }
    assertEquals(error !== undefined, policy === "close", policy);
    void session.close();
    await time.tickAsync(policy === "close" ? 0 : 2_999);
    assertEquals(session.isClosed, policy === "close", policy);
    await time.tickAsync(1);
    assertEquals([session.isClosed, closes], [true, 1], policy);
    assertEquals([session.stats.queuedMessages, session.stats.queuedBytes], [0, 0]);
  }
});

Deno.test("Session detects a dead peer after 60 seconds, on either side", async () => {
  using time = new FakeTime();
  const both = await ends();
  await turns();
  both.link.disconnect({ silent: true });
  await time.tickAsync(59_000);
  assertEquals([both.server.state, both.client.state], ["connected", "connected"]);
  await time.tickAsync(2_000);
  for (const session of [both.server, both.client]) {
    assertEquals(await endOf(session), { code: 4408, reason: "No sign of life", by: "network" });
    assert(session.closeError instanceof TimeoutError);
  }
});

Deno.test("Session keeps a silent peer that replies to pings, on both sides", async () => {
  using time = new FakeTime();
  await using both = await ends();
  for (let second = 0; second < 300; second++) {
    await time.tickAsync(1_000);
    await turns(2);
  }
  assertEquals([both.server.state, both.client.state], ["connected", "connected"]);
  const { sentMessages } = both.client.stats;
  assert(sentMessages >= 10 && sentMessages <= 13, `${sentMessages} pongs in 300 s`);
});

Deno.test("Session.close() accepts the result of another session's closed, whatever closed it", async () => {
  const cases = [[4001, 4001], [0, 0], [1001, 4503], [1006, 4503], [91141958514954, 4503]] as const;
  for (const [code, sent] of cases) {
    await using pair = memorySessions();
    const end: CloseInfo = { code, reason: "gone", by: "network", error: new Error("lost") };
    await pair.server.close(end);
    const { code: received, reason } = await pair.client.closed;
    assertEquals([received, reason], [sent, "gone"]);
  }
});
