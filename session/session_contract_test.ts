import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { RequestError } from "../errors.ts";
import { clientByHand, endOf, ends, HELLO, serverByHand } from "../tests/sessions.ts";
import { defineContract } from "./contract.ts";
import type { StandardSchema } from "../base/standard_schema.ts";
import { turns } from "../tests/waiting.ts";

const text = z.object({ text: z.string() });

const contract = defineContract({
  toServer: { "chat:{room}": text, count: z.coerce.number() },
  toClient: { "chat:{room}": text.extend({ from: z.string() }) },
  requests: { join: { input: z.string(), output: z.array(z.string()) } },
});

/** A schema that returns on demand. */
function schemaOf(validate: (value: unknown) => unknown): StandardSchema {
  return {
    "~standard": { version: 1, vendor: "test", validate },
  } as StandardSchema;
}

Deno.test("Session gives a message its pattern, its parameters and the schema's output", async () => {
  const seen: unknown[] = [];
  await using both = await ends({
    contract,
    onMessage: (message) => {
      if (message.pattern === "chat:{room}") seen.push([message.params.room, message.data.text]);
      else if (message.pattern === "count") seen.push(message.data + 1);
    },
  }, { contract });
  both.client.send("chat:lobby", { text: "hi" });
  both.client.send("count", 41);
  await turns();
  assertEquals(seen, [["lobby", "hi"], 42]);
});

Deno.test("Session rejects invalid data, names the path, and continues", async () => {
  const seen: unknown[] = [];
  await using hand = serverByHand({ contract, onMessage: ({ data }) => void seen.push(data) });
  const { session, peer } = hand;
  await peer.reach(1);
  peer.say({ topic: "chat:a", data: { text: 1 } });
  peer.say({ topic: "chat:a", data: { text: "fits" } });
  await turns();
  const [reply] = peer.envelopes.slice(1) as { reply: null; error: RequestError["failure"] }[];
  assertEquals({ reply: reply?.reply, code: reply?.error.code, path: reply?.error.path }, {
    reply: null,
    code: "invalid",
    path: ["text"],
  });
  assertEquals([seen, session.stats.invalidMessages], [[{ text: "fits" }], 1]);
});

Deno.test("Session rejects topics that are not in the contract", async () => {
  await using hand = serverByHand({ contract });
  const { session, peer } = hand;
  await peer.reach(1);
  const loop = session[Symbol.asyncIterator]().next();
  const topics = ["nope", "chat", "chat:", "presence:a"];
  for (const [id, topic] of topics.entries()) peer.say({ topic, data: {}, id });
  await turns();
  const replies = peer.envelopes.slice(1) as { reply: number; error: { code: string } }[];
  assertEquals(
    replies.map(({ reply, error }) => [reply, error.code]),
    topics.map((_, id) => [id, "unknown-topic"]),
  );
  assertEquals(session.stats.invalidMessages, 4);
  await session.close();
  assertEquals((await loop).done, true);
});

Deno.test("Session slows down a peer whose data does not fit, but never closes because of it", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  await using hand = serverByHand({
    contract,
    maxInvalidMessages: 2,
    onMessage: ({ data }) => void seen.push(data),
  });
  const { session, peer } = hand;
  await peer.reach(1);
  for (let id = 1; id <= 100; id++) {
    peer.say(id % 2 ? { topic: "chat:a", data: 1, id } : { topic: "nope", id });
  }
  peer.say({ topic: "chat:a", data: { text: "fits" } });
  await turns();
  const errors = (peer.envelopes.slice(1) as { error: RequestError["failure"] }[])
    .map(({ error }) => error);
  assertEquals(errors.map(({ code }) => code).slice(0, 3), [
    "invalid",
    "unknown-topic",
    "too-many",
  ]);
  assertEquals([errors.length, errors.at(-1)?.code], [100, "too-many"]);
  assertEquals(errors.at(-1)?.retryAfterMs, 60_000);
  assertEquals(seen, [{ text: "fits" }]);

  // Messages without an id are rejected together, once per second.
  const count = peer.envelopes.length;
  for (let i = 0; i < 30; i++) {
    peer.say({ topic: "chat:a", data: 1 });
    await time.tickAsync(100);
  }
  const notices = peer.envelopes.slice(count) as { reply: null; error: { code: string } }[];
  assertEquals(notices.map(({ reply, error }) => [reply, error.code]), [
    [null, "too-many"],
    [null, "too-many"],
    [null, "too-many"],
  ]);
  await time.tickAsync(58_000);
  peer.say({ topic: "chat:a", data: 1, id: 200 });
  await turns();
  const last = peer.envelopes.find(({ reply }) => reply === 200) as
    | typeof notices[number]
    | undefined;
  assertEquals(last?.error.code, "invalid");
  assertEquals([session.isReady, session.stats.invalidMessages], [true, 131]);
  assertEquals(session.stats.protocolErrors, 0);
});

Deno.test("Session closes with 4400 after too many unreadable envelopes", async () => {
  await using hand = serverByHand({ contract, maxInvalidMessages: 2, onMessage: () => {} });
  hand.peer.say({ topic: "chat:a", data: 1 });
  hand.peer.say("no envelope");
  hand.peer.say({ topic: 1 });
  assertEquals(await endOf(hand.session), {
    code: 4400,
    reason: "2 invalid messages",
    by: "local",
  });
});

Deno.test("Session rejects a request without an id, and a message topic used for a request", async () => {
  await using hand = serverByHand({ contract, onMessage: (message) => message.reply([] as never) });
  hand.peer.say({ topic: "join", data: "a" });
  hand.peer.say({ topic: "join", data: 1, id: 1 });
  hand.peer.say({ topic: "join", data: "a", id: 2 });
  await turns();
  const replies = hand.peer.envelopes.slice(1) as {
    reply: number | null;
    error?: { code: string; message: string };
  }[];
  assertEquals(replies.map(({ reply, error }) => [reply, error?.code]), [
    [null, "invalid"],
    [1, "invalid"],
    [2, undefined],
  ]);
  assertEquals(replies[0]?.error?.message, '"join" is a request: it needs an id');
});

Deno.test("Session.request() checks the reply, and names the path of a mismatch", async () => {
  await using both = await ends({
    contract,
    onMessage: (message) => message.reply(["a", 1] as never),
  }, { contract });
  const error = await assertRejects(
    () => both.client.request("join", "room"),
    RequestError,
    'The response to "join" does not fit the contract',
  );
  assertEquals([error.failure.code, error.failure.path], ["invalid", [1]]);
  assert(both.client.isReady);
});

Deno.test("Session validates one message at a time, even if validation is asynchronous", async () => {
  const log: string[] = [];
  const gate = Promise.withResolvers<void>();
  const slow = schemaOf(async (value) => {
    log.push(`check ${value}`);
    if (value === 1) await gate.promise;
    return { value };
  });
  await using hand = serverByHand({
    contract: defineContract({ toServer: { a: slow } }),
    onMessage: ({ data }) => void log.push(`handle ${data}`),
  });
  for (const data of [1, 2]) hand.peer.say({ topic: "a", data });
  await turns();
  assertEquals(log, ["check 1"]);
  gate.resolve();
  await turns();
  assertEquals(log, ["check 1", "handle 1", "check 2", "handle 2"]);
});

Deno.test("Session iteration validates too, and skips invalid messages", async () => {
  const slow = schemaOf((value) =>
    Promise.resolve(value === "bad" ? { issues: [{ message: "Bad" }] } : { value })
  );
  await using hand = serverByHand({ contract: defineContract({ toServer: { a: slow } }) });
  for (const data of [1, "bad", 2]) hand.peer.say({ topic: "a", data });
  const got: unknown[] = [];
  for await (const { data } of hand.session) {
    if (got.push(data) === 2) break;
  }
  assertEquals([got, hand.session.stats.invalidMessages], [[1, 2], 1]);
});

Deno.test("Session replies failed when a schema throws, calls onError, and continues", async () => {
  const fail = () => {
    throw new Error("s3cret");
  };
  for (const validate of [fail, () => Promise.reject(new Error("s3cret"))]) {
    const errors: unknown[] = [];
    await using hand = serverByHand({
      contract: defineContract({ toServer: { a: schemaOf(validate) } }),
      onMessage: () => {},
      onError: (error) => void errors.push(error),
    });
    await hand.peer.reach(1);
    hand.peer.say({ topic: "a", id: 1 });
    hand.peer.say({ topic: "a" });
    await turns();
    const error = { code: "failed", message: "The schema failed" };
    assertEquals(hand.peer.envelopes.slice(1), [{ reply: 1, error }, { reply: null, error }]);
    assertEquals(errors.map(String), ["Error: s3cret", "Error: s3cret"]);
    assertEquals([hand.session.state, hand.session.stats.invalidMessages], ["connected", 0]);
    assertEquals(JSON.stringify(hand.peer.frames).includes("s3cret"), false);
  }
});

Deno.test("Session survives a validation that finishes after the close", async () => {
  const gate = Promise.withResolvers<unknown>();
  let handled = 0;
  await using hand = serverByHand({
    contract: defineContract({ toServer: { a: schemaOf(() => gate.promise) } }),
    onMessage: () => void handled++,
    closeTimeoutMs: 1,
  });
  hand.peer.say({ topic: "a", id: 1 });
  await turns();
  hand.peer.connection.close();
  await hand.session.closed;
  gate.resolve({ issues: [{ message: "Bad" }] });
  await turns();
  assertEquals([handled, hand.session.isClosed], [0, true]);
});

Deno.test("Session on a client accepts presence notices under every contract", async () => {
  const topics: string[] = [];
  await using hand = clientByHand({
    contract,
    onMessage: (message) => {
      if (message.pattern === "presence:{topic}") topics.push(message.params.topic);
    },
  });
  hand.peer.say(HELLO);
  hand.peer.say({ topic: "presence:chat:a", data: { type: "leave" } });
  await turns();
  assertEquals(topics, ["chat:a"]);
});
