import { platformRuntime } from "../base/runtime.ts";
import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError, RequestError, SessionClosedError, TimeoutError } from "../errors.ts";
import { clientByHand, endOf, ends, HELLO, PLAIN, serverByHand } from "../tests/sessions.ts";
import { RequestService } from "./serving/requests.ts";
import type { UntypedMessage } from "./message.ts";
import { soon, turns } from "../tests/waiting.ts";

Deno.test("Session.request() returns the reply, on both sides and with every kind of data", async () => {
  const onMessage = (message: UntypedMessage) => message.reply(message.data);
  await using both = await ends({ onMessage }, { onMessage });
  const binary = new Uint8Array([1, 2]);
  for (const data of [undefined, null, 0, "é", { a: [1] }, binary, new Uint8Array()]) {
    assertEquals(await both.client.request("echo", data), data);
    assertEquals(await both.server.request("echo", data), data);
  }
  assertEquals([both.client.stats.pendingReplies, both.server.stats.pendingReplies], [0, 0]);
});

Deno.test("Session.request() sends an id and receives the reply with that id", async () => {
  await using hand = serverByHand();
  const { session, peer } = hand;
  const asking = [session.request("a", 1), session.request("b")];
  await peer.reach(1);
  assertEquals(peer.envelopes.slice(1), [
    { topic: "a", data: 1, id: 1 },
    { topic: "b", id: 2 },
  ]);
  peer.say({ reply: 2, data: "two" });
  peer.say({ reply: 1, data: "one" });
  assertEquals(await Promise.all(asking), ["one", "two"]);
});

Deno.test("Session.request() rejects with the handler's failure, without details of unknown errors, and the session continues", async () => {
  const fault = new Error("s3cret");
  const taken = { code: "taken", message: "This name is taken", path: ["name", 0] };
  const cases = {
    "a failure that is thrown": {
      onMessage: () => {
        throw new RequestError("taken", taken.message, { path: taken.path });
      },
      failure: taken,
    },
    "a delay with a fraction": {
      onMessage: () => {
        throw new RequestError("busy", "Later", { retryAfterMs: 1_500.2 });
      },
      failure: { code: "busy", message: "Later", retryAfterMs: 1_501 },
    },
    "no reply": {
      onMessage: () => {},
      failure: { code: "unanswered", message: 'The handler for "ask" returned without replying' },
    },
    "a fault": {
      onMessage: () => Promise.reject(fault),
      failure: { code: "failed", message: "The handler failed" },
    },
  };
  for (const [what, { onMessage, failure }] of Object.entries(cases)) {
    const errors: unknown[] = [];
    await using both = await ends({ onMessage, onError: (error) => void errors.push(error) });
    const error = await assertRejects(() => both.client.request("ask"), RequestError);
    assertEquals<unknown>(error.failure, failure, what);
    assertEquals([both.server.state, both.client.state], ["connected", "connected"]);
    assertEquals(errors, what === "a fault" ? [fault] : []);
  }
});

Deno.test("Session.request() rejects for a failed handler before onHandlerError closes", async () => {
  const errors: unknown[] = [];
  const failure = new Error("s3cret");
  await using both = await ends({
    onMessage: () => Promise.reject(failure),
    onHandlerError: "close",
    onError: (error) => void errors.push(error),
  });
  const error = await assertRejects(() => both.client.request("ask"));
  assertEquals(String(error).includes("s3cret"), false);
  assertEquals((await endOf(both.server)).code, 4500);
  assertEquals(await endOf(both.client), {
    code: 4500,
    reason: "The handler failed",
    by: "remote",
  });
  assertStrictEquals(errors[0], failure);
});

Deno.test("Session.request() times out, cancels, and drops the late reply", async () => {
  using time = new FakeTime();
  await using hand = serverByHand({ requestTimeoutMs: 5_000 });
  const { session, peer } = hand;
  const asking = assertRejects(() => session.request("ask"), TimeoutError, 'reply to "ask"');
  const soonOver = assertRejects(
    () => session.request("ask", 1, { timeoutMs: 100 }),
    TimeoutError,
    "within 100 ms",
  );
  await peer.reach(1);
  await time.tickAsync(100);
  await soonOver;
  await time.tickAsync(4_900);
  await asking;
  await turns();
  assertEquals(peer.envelopes.slice(-2), [{ cancel: 2 }, { cancel: 1 }]);
  peer.say({ reply: 1, data: "late" });
  await turns();
  assertEquals([session.stats.lateReplies, session.stats.pendingReplies], [1, 0]);
});

Deno.test("Session.request() is cancelled by its signal, and the handler's signal aborts", async () => {
  const aborted = Promise.withResolvers<unknown>();
  await using both = await ends({
    onMessage: async ({ signal }) => {
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      aborted.resolve(signal.reason);
    },
  });
  const controller = new AbortController();
  const asking = both.client.request("ask", 1, { signal: controller.signal });
  await turns();
  const reason = new Error("never mind");
  controller.abort(reason);
  assertEquals(await assertRejects(() => asking), reason);
  assert(String(await soon(aborted.promise)).includes("The peer cancelled the request"));
  await turns();
  assertEquals(both.client.stats.lateReplies, 0, "no reply is sent");
});

Deno.test("Session aborts the signal of a request that was cancelled before its turn", async () => {
  const gate = Promise.withResolvers<void>();
  const seen: [topic: string, isAborted: boolean][] = [];
  await using hand = serverByHand({
    onMessage: async ({ topic, signal }) => {
      if (topic === "first") await gate.promise;
      seen.push([topic, signal.aborted]);
    },
  });
  hand.peer.say({ topic: "first" });
  hand.peer.say({ topic: "second", id: 1 });
  hand.peer.say({ cancel: 1 });
  await turns();
  gate.resolve();
  await turns();
  assertEquals(seen, [["first", false], ["second", true]]);
});

Deno.test("Session releases a cancelled request without a reply", async () => {
  await using hand = serverByHand({ maxRequests: 2 });
  const { session, peer } = hand;
  await peer.reach(1);
  const loop = session[Symbol.asyncIterator]();
  for (let id = 1; id <= 10; id++) {
    peer.say({ topic: "ask", id });
    assertEquals((await soon(loop.next())).value?.isRequest, true);
    peer.say({ cancel: id });
    await turns(2);
  }
  assertEquals([session.stats.invalidMessages, peer.envelopes.length], [0, 1]);
  await loop.return?.();
});

Deno.test("Session.request() rejects a request beyond the limit", async () => {
  await using hand = serverByHand({ maxRequests: 2 });
  const { session, peer } = hand;
  const asking = [session.request("a"), session.request("a")];
  await assertRejects(
    () => session.request("a"),
    QueueFullError,
    "2 requests already wait for replies; await some first, or raise maxRequests of the client and",
  );
  for (const id of [1, 2]) peer.say({ reply: id });
  await Promise.all(asking);
});

Deno.test("Session rejects and counts requests beyond the limit or with an id that is in use", async () => {
  const cases: [
    ids: number[],
    maxRequests: number,
    rejected: [id: number | null, code: string][],
    invalid: number,
  ][] = [
    [[1, 2, 3], 2, [[3, "too-many"]], 0],
    [[1, 2, 2, 3], 2, [[2, "too-many"], [3, "too-many"]], 0],
    [[1, 2, 1], 8, [[null, "malformed"]], 1],
  ];
  for (const [ids, maxRequests, rejected, invalid] of cases) {
    const gate = Promise.withResolvers<void>();
    const handled: string[] = [];
    await using hand = serverByHand({
      maxRequests,
      concurrency: 10,
      onMessage: async (message) => {
        handled.push(message.topic);
        await gate.promise;
        message.reply("ok");
      },
    });
    for (const [at, id] of ids.entries()) hand.peer.say({ topic: `ask ${at}`, id });
    await turns();
    const rejections = hand.peer.envelopes.slice(1) as { reply: number; error: { code: string } }[];
    assertEquals<unknown>(rejections.map(({ reply, error }) => [reply, error.code]), rejected);
    gate.resolve();
    await turns();
    assertEquals(handled, ["ask 0", "ask 1"]);
    const replies = hand.peer.envelopes.slice(1 + rejected.length);
    assertEquals(replies, [1, 2].map((reply) => ({ reply, data: "ok" })));
    assertEquals(hand.session.stats.invalidMessages, invalid);
  }
});

Deno.test("Session closes with 4429 after 100 requests beyond the limit in ten seconds", async () => {
  const say = [
    (id: number) => ({ topic: "ask", id }),
    (id: number) => ({ publish: "news", data: id, id }),
  ];
  for (const next of say) {
    using time = new FakeTime();
    await using hand = serverByHand({
      maxRequests: 2,
      onMessage: () => new Promise(() => {}),
      services: new RequestService(platformRuntime(), { publish: () => new Promise(() => {}) }),
      closeTimeoutMs: 1,
    });
    const { session, peer } = hand;
    // One more publication is running. No window has more than 100 rejections.
    let id = 0;
    const burst = (count: number) => {
      for (const last = id + count; id < last;) peer.say(next(++id));
    };
    burst(3);
    burst(99);
    await turns();
    await time.tickAsync(10_001);
    burst(99);
    await turns();
    assertEquals([session.isReady, session.stats.invalidMessages], [true, 0]);
    burst(3);
    await turns();
    const reason = "More than 100 rejections in 10 s: at most 2 requests at once";
    assertEquals(await endOf(session), { code: 4429, reason, by: "local" });
  }
});

Deno.test("Session.request() rejects when the session closes, and after it has closed", async () => {
  await using both = await ends({ onMessage: () => new Promise(() => {}), closeTimeoutMs: 1 });
  const asking = both.client.request("ask");
  await turns();
  void both.server.close({ code: 4001, reason: "Bye" });
  const error = await assertRejects(() => asking, SessionClosedError, "4001 Bye, by remote");
  assertEquals(error.info?.code, 4001);
  await assertRejects(() => both.client.request("ask"), SessionClosedError, "is closed");
  assertEquals(both.client.stats.pendingReplies, 0);
});

Deno.test("Message.reply() has no effect once the session has closed", async () => {
  const messages: UntypedMessage[] = [];
  await using hand = serverByHand();
  const { session, peer } = hand;
  await peer.reach(1);
  peer.say({ topic: "ask", id: 1 });
  peer.say({ topic: "ask", id: 2 });
  for await (const message of session) if (messages.push(message) === 2) break;
  peer.connection.close();
  await soon(session.closed);
  assert(messages[0]?.signal.aborted);
  messages[0]?.reply("late");
  messages[1]?.reply(new Uint8Array(1));
  assertEquals(peer.envelopes.length, 1);
});

Deno.test("Message.signal aborts when the session closes, also for a message that is not a request", async () => {
  const signals: AbortSignal[] = [];
  await using hand = serverByHand({
    onMessage: async ({ signal }) => {
      signals.push(signal);
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    },
    closeTimeoutMs: 1,
  });
  hand.peer.say({ topic: "tell" });
  await turns();
  hand.peer.connection.close();
  await soon(hand.session.closed);
  assertEquals(signals.map(({ aborted }) => aborted), [true]);
});

Deno.test("Message.reply() throws for a reply that is too large for the requester", async () => {
  const errors: unknown[] = [];
  await using both = await ends({
    maxMessageBytes: 1_000,
    onMessage: (message) => {
      for (const data of ["x".repeat(1_000), new Uint8Array(1_000)]) {
        errors.push(assertThrows(() => message.reply(data), RangeError, "at most 1000 bytes"));
      }
      message.reply("fits");
    },
  }, { maxMessageBytes: 1_000 });
  assertEquals(await both.client.request("ask"), "fits");
  assertEquals([errors.length, both.client.isReady], [2, true]);
});

Deno.test("Session.publish() rejects invalid data, and sends none of it", async () => {
  await using hand = serverByHand({ maxMessageBytes: 100 });
  const { session, peer } = hand;
  await assertRejects(() => session.publish("", 1), TypeError, "Cannot publish");
  await assertRejects(() => session.publish("x".repeat(256)), RangeError, "256 bytes");
  await assertRejects(() => session.publish("a", "x".repeat(100)), RangeError, "at most 100");
  await assertRejects(() => session.publish("a", 1n), TypeError, "Cannot publish");
  await turns();
  assertEquals([peer.envelopes.length, session.stats.pendingReplies], [1, 0]);
});

Deno.test("Session rejects requests for missing services with forbidden, in order", async () => {
  await using hand = serverByHand({ maxInvalidMessages: 1 });
  hand.peer.say({ subscribe: "a", id: 1 });
  hand.peer.say({ unsubscribe: "a", id: 2 });
  hand.peer.say({ publish: "a", data: 1, id: 3 });
  hand.peer.say({ auth: "t", id: 4 });
  await turns();
  const replies = hand.peer.envelopes.slice(1) as { reply: number; error: { code: string } }[];
  assertEquals(
    replies.map(({ reply, error }) => [reply, error.code]),
    [1, 2, 3, 4].map((id) => [id, "forbidden"]),
  );
  // A rejection is not the peer's fault.
  assertEquals([hand.session.isReady, hand.session.stats.invalidMessages], [true, 0]);
});

Deno.test("Session runs services one at a time, and rejects requests beyond the limit, whatever the size of its message queue", async () => {
  const short = { receiveQueue: { maxMessages: 1, maxBytes: 1_024 } };
  for (const [settings, maxRequests] of [[{}, 2], [short, 3]] as const) {
    const gate = Promise.withResolvers<void>();
    const log: string[] = [];
    await using hand = serverByHand({
      ...settings,
      maxRequests,
      services: new RequestService(platformRuntime(), {
        subscribe: async (_session, topic) => {
          log.push(topic);
          await gate.promise;
          return { topic };
        },
      }),
    });
    // A server keeps 32 places for subscriptions, and one request is running.
    const taken = Array.from({ length: maxRequests + 33 }, (_, i) => i + 1);
    const beyond = maxRequests + 34;
    for (const id of [...taken, beyond]) hand.peer.say({ subscribe: `t${id}`, id });
    await turns();
    assertEquals(log, ["t1"]);
    gate.resolve();
    await turns();
    assertEquals(log, taken.map((id) => `t${id}`));
    const replies = hand.peer.envelopes.slice(1).map(({ reply, data, error }) => [
      reply,
      data ?? (error as { code: string }).code,
    ]);
    assertEquals(replies, [[beyond, "too-many"], ...taken.map((id) => [id, { topic: `t${id}` }])]);
  }
});

Deno.test("Session survives a service whose result JSON cannot hold", async () => {
  const errors: unknown[] = [];
  await using hand = serverByHand({
    services: new RequestService(platformRuntime(), { subscribe: () => Promise.resolve(1n) }),
    onError: (error) => void errors.push(error),
  });
  hand.peer.say({ subscribe: "a", id: 1 });
  await turns();
  assertEquals(hand.peer.envelopes.at(-1), {
    reply: 1,
    error: { code: "failed", message: "The handler failed" },
  });
  assert(errors[0] instanceof TypeError && hand.session.isReady);
});

Deno.test("Session on a plain WebSocket replies to requests", async () => {
  await using hand = serverByHand({ onMessage: (message) => message.reply(2) }, { wire: PLAIN });
  hand.peer.say({ topic: "ask", data: 1, id: 0 });
  await hand.peer.reach(1);
  assertEquals(hand.peer.frames, ['{"reply":0,"data":2}']);
});

Deno.test("Session on a plain WebSocket accepts messages and replies, and nothing else", async () => {
  await using hand = serverByHand({
    services: new RequestService(platformRuntime(), { subscribe: () => ({}) }),
    onMessage: () => {},
  }, { wire: PLAIN });
  hand.peer.say({ subscribe: "a", id: 4 });
  hand.peer.say({ ping: 1 });
  hand.peer.say({ topic: "a" });
  await turns();
  const rejected = hand.peer.envelopes.map(({ reply, error }) => [
    reply,
    (error as { code: string }).code,
  ]);
  assertEquals(rejected, [[4, "malformed"], [null, "malformed"]]);
  assertEquals(hand.session.stats.receivedMessages, 1);
});

/** A server whose `ask` handler sends a request back, and records other messages. */
function askingBack(settings: Parameters<typeof serverByHand>[0] = {}): {
  readonly log: string[];
  readonly hand: ReturnType<typeof serverByHand>;
} {
  const log: string[] = [];
  const hand = serverByHand({
    ...settings,
    onMessage: async (message, session) => {
      const { topic, isRequest } = message;
      log.push(topic);
      if (topic === "ask") await session.request("back");
      else await turns(2);
      log.push(`/${topic}`);
      if (isRequest) message.reply(topic);
    },
  });
  return { log, hand };
}

Deno.test("Session handles a request while a handler waits for the peer, and messages after it", async () => {
  const { log, hand } = askingBack();
  await using _ = hand;
  await hand.peer.reach(1);
  hand.peer.say({ topic: "ask", id: 1 });
  hand.peer.say({ topic: "first" });
  hand.peer.say({ topic: "nested", id: 2 });
  hand.peer.say({ topic: "second" });
  await turns();
  assertEquals(log, ["ask", "nested", "/nested"]);
  assertEquals(hand.peer.envelopes.slice(1), [
    { topic: "back", id: 1 },
    { reply: 2, data: "nested" },
  ]);
  hand.peer.say({ reply: 1 });
  await turns();
  assertEquals(log.slice(3), ["/ask", "first", "/first", "second", "/second"]);
});

Deno.test("Session handles a waiting request once a handler sends a request to the peer", async () => {
  const gate = Promise.withResolvers<void>();
  const log: string[] = [];
  await using hand = serverByHand({
    onMessage: async (message, session) => {
      log.push(message.topic);
      if (message.topic === "nested") return message.reply(1);
      await gate.promise;
      message.reply(await session.request("back"));
    },
  });
  await hand.peer.reach(1);
  hand.peer.say({ topic: "ask", id: 1 });
  hand.peer.say({ topic: "nested", id: 2 });
  await turns();
  assertEquals([log, hand.session.stats.waitingMessages], [["ask"], 1]);
  gate.resolve();
  await turns();
  assertEquals([log, hand.session.stats.waitingMessages], [["ask", "nested"], 0]);
});

Deno.test("Session handles as many nested requests as it has pending ones, and the others after them", async () => {
  const { log, hand } = askingBack();
  await using _ = hand;
  await hand.peer.reach(1);
  hand.peer.say({ topic: "ask", id: 1 });
  for (let id = 2; id <= 40; id++) hand.peer.say({ topic: `t${id}`, id });
  await turns(1);
  assertEquals(log, ["ask", "t2"]);
  await turns(200);
  // No message is rejected, and each was handled separately.
  const others = Array.from({ length: 39 }, (_, i) => [`t${i + 2}`, `/t${i + 2}`]).flat();
  assertEquals(log, ["ask", ...others]);
  assertEquals(hand.peer.envelopes.filter(({ error }) => error !== undefined), []);
  assertEquals(hand.session.stats.invalidMessages, 0);
});

Deno.test("Session replies to more requests than it nests, even if all their handlers send requests back", async () => {
  await using both = await ends({
    onMessage: async (message, session) => message.reply(await session.request("back")),
  }, { onMessage: (message) => message.reply("yes") });
  const replies = Array.from({ length: 40 }, () => both.client.request("ask"));
  assertEquals(await soon(Promise.all(replies)), Array(40).fill("yes"));
});

Deno.test("Session lets further requests wait beyond the nesting limit as long as handlers return", async () => {
  using time = new FakeTime();
  await using hand = serverByHand({
    onMessage: async (message, session) => message.reply(await session.request("back")),
  });
  const { peer } = hand;
  for (let id = 1; id <= 12; id++) peer.say({ topic: "ask", id });
  await turns();
  const codes = () => peer.envelopes.filter(({ error }) => error !== undefined).length;
  for (let id = 1; id <= 2; id++) {
    await time.tickAsync(900);
    peer.say({ reply: id });
    await turns();
    assertEquals(codes(), 0);
  }
  // One of them still waits.
  await time.tickAsync(1_999);
  await turns();
  assertEquals([codes(), hand.session.isReady], [1, true]);
  const rejected = peer.envelopes.find(({ error }) => error !== undefined);
  assertEquals([rejected?.reply, (rejected?.error as { code: string }).code], [12, "too-many"]);
});

Deno.test("Session handles a numbered request in its turn, whatever its handler waits for", async () => {
  const sequences = {
    claimMs: Infinity,
    claim: () => Promise.resolve(true),
    release: () => Promise.resolve(),
    newest: () => Promise.resolve(-1),
    advance: () => Promise.resolve(true),
  };
  const { log, hand } = askingBack({
    services: new RequestService(platformRuntime(), { sequences }),
  });
  await using _ = hand;
  await hand.peer.reach(1);
  hand.peer.say({ topic: "ask", id: 1, seq: 1, client: "c" });
  hand.peer.say({ topic: "numbered", id: 2, seq: 2 });
  hand.peer.say({ topic: "nested", id: 3 });
  await turns();
  assertEquals(log, ["ask", "nested", "/nested"]);
  hand.peer.say({ reply: 1 });
  await turns();
  assertEquals(log.slice(3), ["/ask", "numbered", "/numbered"]);
});

Deno.test("Session keeps requests waiting for onOpen, even while onOpen sends a request to the peer", async () => {
  const log: string[] = [];
  await using hand = serverByHand({
    onOpen: async (session) => {
      await session.request("back");
      log.push("opened");
    },
    onMessage: (message) => void log.push(message.topic),
  });
  await hand.peer.reach(1);
  hand.peer.say({ topic: "early", id: 1 });
  await turns();
  assertEquals(log, []);
  hand.peer.say({ reply: 1 });
  await turns();
  assertEquals(log, ["opened", "early"]);
});

Deno.test("Session.send() throws for messages that exceed the server's limits", async () => {
  await using hand = clientByHand();
  hand.peer.say({ hello: { ...HELLO.hello, maxMessageBytes: 100 } });
  await hand.session.whenReady();
  assertThrows(() => hand.session.send("a", "x".repeat(100)), RangeError, "at most 100 bytes");
  hand.session.send("a", "x");
});

Deno.test("Session reports rejections of the peer to the application", async () => {
  const rejected: unknown[] = [];
  await using hand = serverByHand({
    onMessageRejected: ({ failure }) => void rejected.push(failure),
  });
  const error = { code: "invalid", message: "No", path: ["a"] };
  hand.peer.say({ reply: null, error });
  hand.peer.say({ reply: null });
  await turns();
  assertEquals([rejected, hand.session.stats.rejectedByPeer], [[error], 2]);
});

Deno.test("Message.signal is aborted when read only after the session closed", async () => {
  let kept: UntypedMessage | undefined;
  await using hand = serverByHand({
    onMessage: (message) => {
      kept = message;
      return new Promise(() => {});
    },
    closeTimeoutMs: 1,
  });
  hand.peer.say({ topic: "a" });
  await turns();
  hand.peer.connection.close();
  await endOf(hand.session);
  assert(kept !== undefined && kept.signal.aborted);
});
