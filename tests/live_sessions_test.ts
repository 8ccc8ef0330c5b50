import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { guest, QueueFullError, type Session, SessionClosedError } from "../mod.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";
import { Page } from "./peers/page.ts";

/**
 * The URL of a server with a user in its query, as in the document's section on presence tracking.
 */
const asUser = (url: string, user: string): string => `${url}?token=${user}`;

Deno.test("A live session goes from authenticate over messages to one onClose", async () => {
  const log: string[] = [];
  await using server = listen({
    authenticate: ({ token }) => {
      log.push(`authenticate ${token}`);
      return { id: "123", name: token };
    },
    onOpen: (session) => void log.push(`open ${session.value.name}`),
    onMessage: ({ topic, data }, session) =>
      void log.push(`${session.value.id} ${topic} ${data} ${session.isClosed}`),
    onClose: (session, { by }) => void log.push(`close by ${by} ${session.isClosed}`),
  });
  const page = await Page.open(asUser(server.url, "ann"));
  page.say({ topic: "a", data: 1 });
  page.say({ topic: "b", data: 2 });
  await until(() => log.length === 4);
  await page[Symbol.asyncDispose]();
  await until(() => log.length === 5);
  assertEquals(log, [
    "authenticate ann",
    "open ann",
    "123 a 1 false",
    "123 b 2 false",
    "close by remote true",
  ]);
});

Deno.test("A live session is rejected where authenticate throws, before any upgrade", async () => {
  await using server = listen({
    authenticate: () => Promise.reject(new Error("invalid token")),
    onSessionRejected() {},
    onError() {},
  });
  await using page = new Page(server.url);
  assertEquals((await page.closed).wasClean, false);
  const response = await fetch(server.url.replace("ws:", "http:"), {
    headers: {
      "upgrade": "websocket",
      "connection": "upgrade",
      "sec-websocket-version": "13",
      "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    },
  });
  await response.body?.cancel();
  assertEquals([response.status, server.manager.count], [401, 0]);
});

Deno.test("A live session is sent to, kicked, and rejects messages afterwards", async () => {
  await using server = listen({
    authenticate: ({ token }) => token ?? guest,
    onOpen: (session) => void session.send("notification", { title: "Hello" }),
  });
  const page = await Page.open(server.url);
  await until(() => page.frames.length === 1);
  const [session] = server.manager.all() as readonly Session<unknown>[];
  assert(session !== undefined);
  assertEquals([session.isClosed, session.closeError], [false, undefined]);
  await session.close();
  assertEquals((await page.closed).code, 1000);
  assertEquals(page.envelopes, [{ topic: "notification", data: { title: "Hello" } }]);
  assertEquals([session.isClosed, session.closeError], [true, undefined]);
  assertThrows(() => session.send("late", 1), SessionClosedError);
});

Deno.test("A live session whose queue is full is closed, and its close error names the reason", async () => {
  const { promise: closed, resolve } = Promise.withResolvers<unknown>();
  let thrown: unknown;
  await using server = listen({
    session: { sendQueue: { maxMessages: 2 } },
    onOpen: (session) => {
      try {
        for (let i = 0; i < 100_000; i++) session.send("n", "x".repeat(10_000));
      } catch (error) {
        thrown = error;
      }
    },
    onClose: (session) => resolve(session.closeError),
  });
  await using page = await Page.open(server.url);
  assertInstanceOf(await soon(closed), QueueFullError);
  assertInstanceOf(thrown, QueueFullError);
  assertEquals((await page.closed).code, 4507);
});

Deno.test("A live session subscribes on connect, without an init message, and leaves all by closing", async () => {
  await using server = listen({
    authenticate: ({ token }) => token ?? guest,
    onOpen: (session) => {
      server.subscribe(session, `user:${session.user}`);
      server.subscribe(session, "global");
      session.send("welcome", { status: "connected" });
    },
    onMessage: ({ topic }, session) => {
      if (topic === "quiet") server.unsubscribe(session, "global");
      session.send("done", topic);
    },
  });
  const page = await Page.open(asUser(server.url, "ann"));
  await until(() => page.frames.length === 1);
  server.publish("user:ann", 1);
  server.publish("user:bob", 2);
  server.publish("global", 3);
  page.say({ topic: "quiet", data: {} });
  await until(() => page.on("done").length === 1);
  server.publish("global", 4);
  page.say({ topic: "again", data: {} });
  await until(() => page.on("done").length === 2);
  assertEquals(page.on("user:ann"), [1]);
  assertEquals(page.on("user:bob"), []);
  assertEquals(page.on("global"), [3]);
  await page[Symbol.asyncDispose]();
  await until(() => server.manager.count === 0);
  assertEquals(server.topics.subscribers("user:ann").length, 0);
});

Deno.test("A live session checks permissions by its value", async () => {
  await using server = listen({
    authenticate: ({ token }) => ({ role: token }),
    onMessage: ({ topic }, session) => {
      const isAllowed = topic !== "admin" || session.value.role === "admin";
      session.send(isAllowed ? "ok" : "error", topic);
    },
  });
  for (const [role, answer] of [["admin", "ok"], ["reader", "error"]] as const) {
    await using page = await Page.open(asUser(server.url, role));
    page.say({ topic: "admin", data: {} });
    await until(() => page.frames.length === 1);
    assertEquals(page.envelopes, [{ topic: answer, data: "admin" }]);
  }
});

Deno.test("Live sessions send direct messages to every tab of a user", async () => {
  await using server = listen({
    authenticate: ({ token }) => token ?? guest,
    onMessage: ({ data }, session) => {
      const { to, text } = data as { to: string; text: string };
      server.to(to).send("dm", { from: session.user, text });
    },
  });
  await using ann = await Page.open(asUser(server.url, "ann"));
  await using bob = await Page.open(asUser(server.url, "bob"));
  await using tab = await Page.open(asUser(server.url, "bob"));
  await until(() => server.manager.count === 3);
  ann.say({ topic: "dm", data: { to: "bob", text: "Hi" } });
  await until(() => bob.frames.length + tab.frames.length === 2);
  for (const page of [bob, tab]) {
    assertEquals(page.envelopes, [{ topic: "dm", data: { from: "ann", text: "Hi" } }]);
  }
  assertEquals(ann.envelopes, []);
});

Deno.test("Live sessions join rooms, send messages there, and leave by a message or by closing", async () => {
  await using server = listen({
    authenticate: ({ token }) => token ?? guest,
    rooms: ["room:{name}"],
    presence: { graceMs: 0 },
    onMessage: ({ topic, data }, session) => {
      const { room, text } = data as { room: string; text?: string };
      if (topic === "join_room") server.rooms.join(session, `room:${room}`);
      else if (topic === "leave_room") server.rooms.leave(session, `room:${room}`);
      else server.publish(`room:${room}`, { user: session.user, text });
    },
  });
  await using ann = await Page.open(asUser(server.url, "ann"));
  ann.say({ topic: "join_room", data: { room: "a" } });
  await until(() => ann.on("presence:room:a").length === 1);
  const bob = await Page.open(asUser(server.url, "bob"));
  bob.say({ topic: "join_room", data: { room: "a" } });
  await until(() => ann.on("presence:room:a").length === 2);
  bob.say({ topic: "room_message", data: { room: "a", text: "Hi" } });
  await until(() => ann.on("room:a").length === 1);
  assertEquals(ann.on("room:a"), [{ user: "bob", text: "Hi" }]);
  bob.say({ topic: "leave_room", data: { room: "a" } });
  await until(() => ann.on("presence:room:a").length === 3);
  bob.say({ topic: "join_room", data: { room: "a" } });
  await until(() => ann.on("presence:room:a").length === 4);
  await bob[Symbol.asyncDispose]();
  await until(() => ann.on("presence:room:a").length === 5);
  const kinds = ann.on("presence:room:a").map((notice) => (notice as { type: string }).type);
  assertEquals(kinds, ["members", "join", "leave", "join", "leave"]);
});

Deno.test("A live session that reconnects begins anew, with the state from onOpen", async () => {
  const ids = new Set<string>();
  await using server = listen({
    authenticate: ({ token }) => token ?? guest,
    onOpen: (session) => {
      ids.add(session.id);
      server.subscribe(session, "global");
      session.send("welcome", session.user);
    },
  });
  for (let i = 1; i <= 3; i++) {
    await using page = await Page.open(asUser(server.url, "ann"));
    await until(() => page.frames.length === 1);
    server.publish("global", i);
    await until(() => page.frames.length === 2);
    assertEquals(page.envelopes.map(({ data }) => data), ["ann", i]);
  }
  assertEquals(ids.size, 3);
});
