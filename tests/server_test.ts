import { assert, assertEquals, assertObjectMatch, assertRejects, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import { z } from "zod";
import {
  connect,
  type Contract,
  defineContract,
  dial,
  RequestError,
  type Session,
  SessionClosedError,
} from "../client.ts";
import { createServer, type ServeOptions, type Server } from "../server.ts";
import { internals } from "../session/session.ts";
import { captureConsole } from "./console_lines.ts";
import { lowPort } from "./networks/ports.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { endOf } from "./sessions.ts";
import { soon, until } from "./waiting.ts";
import { metrics } from "../operations/mod.ts";

const named = {
  authenticate: ({ token }: { token: string | undefined }) => token ?? "nobody",
};

const as = (server: { readonly url: string }, user: string) => `${server.url}?token=${user}`;

/** The next message of a session. */
async function next(session: Session): Promise<[topic: string, data: unknown]> {
  for await (const { topic, data } of session) return [topic, data];
  throw new Error("The session ended");
}

Deno.test("serve() names the address that is in use", async () => {
  for (const hostname of ["127.0.0.1", "::1"]) {
    await using server = listen({ hostname, webTransport: false });
    const port = portOf(server);
    const host = hostname === "::1" ? "[::1]" : hostname;
    assertThrows(
      () => listen({ hostname, port, webTransport: false }),
      Deno.errors.AddrInUse,
      `Cannot listen on ${host}:${port} (TCP): the address is in use`,
    );
  }
});

Deno.test("serve() listens on a free port and reports it", async () => {
  await using server = listen();
  assert(portOf(server) > 0);
  assertEquals(server.url, `ws://127.0.0.1:${portOf(server)}/`);
  await using session = await dial(server.url);
  assertEquals([session.protocol, session.transport], ["skein.1", "websocket"]);
  assertEquals(server.manager.get(session.id)?.id, session.id);
});

/** Starts a server; returns the calls of the platform's timers made during the start. */
function startCounted(options: ServeOptions): { readonly server: Server; readonly calls: number } {
  using set = stub(globalThis, "setTimeout");
  using cleared = stub(globalThis, "clearTimeout");
  const server = listen(options);
  return { server, calls: set.calls.length + cleared.calls.length };
}

Deno.test("serve() calls no platform timer, because Deno loads timers at the first call", async () => {
  const { server, calls } = startCounted({
    webTransport: false,
    rooms: ["room:{id}"],
    history: { "room:{id}": {} },
    features: [metrics()],
  });
  await server.close();
  assertEquals(calls, 0);
});

Deno.test("createServer() mounts in another server, and does not listen", async () => {
  await using server = createServer({ onMessage: (message) => message.reply("pong") });
  await using http = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    (request, info) =>
      new URL(request.url).pathname === "/live"
        ? server.fetch(request, info)
        : new Response("a page"),
  );
  assertEquals([server.address, server.url], [undefined, ""]);
  const { port } = http.addr;
  assertEquals(await (await fetch(`http://127.0.0.1:${port}/`)).text(), "a page");
  await using session = await dial(`ws://127.0.0.1:${port}/live`);
  assertEquals(await session.request("ping"), "pong");
  assertEquals(server.manager.all()[0]?.address, "127.0.0.1");
});

Deno.test("Server passes the request's data to its sessions", async () => {
  const opened = Promise.withResolvers<Session>();
  await using server = listen({
    onOpen: (session) => opened.resolve(session),
    keepHeaders: ["x-test"],
  });
  await using session = await dial(`${server.url}rooms/a?x=1`, { headers: { "x-test": "yes" } });
  const near = await soon(opened.promise);
  assertEquals({ id: near.id, path: near.path, address: near.address }, {
    id: session.id,
    path: "/rooms/a",
    address: "127.0.0.1",
  });
  assertEquals([near.headers.get("x-test"), near.user], ["yes", `guest:${near.user.slice(6)}`]);
  assertEquals([near.isGuest, near.value], [true, undefined]);
});

Deno.test("Server.publish() reaches subscribers in order, except an excluded session", async () => {
  await using server = listen({ ...named, onOpen: (one) => void server.subscribe(one, "news") });
  await using ann = await dial(as(server, "ann"));
  await using bob = await dial(as(server, "bob"));
  const near = (await server.sessions("ann"))[0]?.session;
  server.publish("news", 1, { except: near! });
  server.publish("news", 2);
  assertEquals(await next(ann), ["news", 2]);
  assertEquals([await next(bob), await next(bob)], [["news", 1], ["news", 2]]);
  assertEquals(server.unsubscribe(near!, "news"), true);
  assertEquals(server.topics.subscribers("news").length, 1);
});

Deno.test("Server.to() sends to every session of a user, and to no other", async () => {
  await using server = listen(named);
  await using one = await dial(as(server, "ann"));
  await using two = await dial(as(server, "ann"));
  await using bob = await dial(as(server, "bob"));
  assertEquals([server.to("ann").send("hi", 1), server.to("eve").send("hi", 1)], [2, 0]);
  assertEquals([await next(one), await next(two)], [["hi", 1], ["hi", 1]]);
  server.to("bob").send("last");
  assertEquals((await next(bob))[0], "last");
  assertEquals(server.manager.sessionsOf("ann").length, 2);
  const listed = await server.sessions("ann");
  assertEquals(
    listed.map(({ id, session }) => [id, session?.id]),
    [one, two].map(({ id }) => [id, id]),
  );
  assertEquals({ node: listed[0]!.node, user: listed[0]!.user, transport: listed[0]!.transport }, {
    node: "",
    user: "ann",
    transport: "websocket",
  });
  assertThrows(() => server.to("ann").send("", 1), TypeError);
});

Deno.test("Server.disconnect() closes every session of a user", async () => {
  let closes = 0;
  await using server = listen({ ...named, onClose: () => void closes++ });
  const one = await dial(as(server, "ann"));
  const two = await dial(as(server, "ann"));
  await using bob = await dial(as(server, "bob"));
  assertEquals(await server.disconnect("ann", { code: 4403, reason: "Banned" }), {
    closed: 2,
    isComplete: true,
  });
  for (const session of [one, two]) {
    assertEquals(await endOf(session), { code: 4403, reason: "Banned", by: "remote" });
  }
  assertEquals({ sessionsOfAnn: server.manager.sessionsOf("ann"), isReady: bob.isReady, closes }, {
    sessionsOfAnn: [],
    isReady: true,
    closes: 2,
  });
  assertEquals(await server.disconnect("nobody"), { closed: 0, isComplete: true });
  await assertRejects(() => server.disconnect("nobody", { code: 5 }), RangeError);
});

Deno.test("Server denies clients every topic unless authorize allows it", async () => {
  await using closed = listen();
  await using session = await dial(closed.url);
  const actions = [() => session.subscribe("a"), () => session.publish("a", 1)];
  for (const action of actions) {
    const error = await assertRejects(action, RequestError, "This session may not");
    assertEquals(error.failure.code, "forbidden");
  }
  assertEquals([closed.topics.size, session.isReady], [0, true]);

  const asked: string[] = [];
  await using open = listen({
    authorize: (_session, topic, action) => {
      asked.push(`${action} ${topic}`);
      return Promise.resolve(topic === "open");
    },
  });
  await using other = await dial(open.url);
  await other.subscribe("open");
  await other.publish("open", 7);
  assertEquals(await next(other), ["open", 7]);
  await assertRejects(() => other.publish("shut", 1), RequestError);
  await other.unsubscribe("open");
  assertEquals([asked, open.topics.size], [["subscribe open", "publish open", "publish shut"], 0]);
});

Deno.test("Server denies topics of presence and of nodes without calling authorize", async () => {
  const asked: string[] = [];
  await using server = listen({ authorize: (_session, topic) => asked.push(topic) > 0 });
  await using session = await dial(server.url);
  for (const topic of ["$skein:nodes", "presence:lobby"]) {
    for (const action of [() => session.subscribe(topic), () => session.publish(topic, 1)]) {
      const error = await assertRejects(action, RequestError, "This session may not");
      assertEquals(error.failure.code, "forbidden");
    }
  }
  const publishing = () => session.publish("stream:$skein:nodes", { cancel: "x" });
  const error = await assertRejects(publishing, RequestError, "This server has no durable streams");
  assertEquals(error.failure.code, "not-found");
  assertEquals({ asked, topics: server.topics.size, isReady: session.isReady }, {
    asked: [],
    topics: 0,
    isReady: true,
  });
});

Deno.test("Server validates publications of clients, and forwards them unchanged", async () => {
  const contract = defineContract({
    toClient: { "count:{name}": z.string().transform((text) => text.length) },
    requests: { "ask:{name}": { input: z.string(), output: z.string() } },
  });
  await using server = listen({ contract, authorize: () => true });
  await using session = await dial(server.url, { contract });
  await session.subscribe("count:a");
  const cases: [topic: string, data: unknown, code: string][] = [
    ["count:a", 5, "invalid"],
    ["nope", "x", "unknown-topic"],
    ["ask:a", "x", "unknown-topic"],
    ["presence:count:a", { type: "leave", user: "ann" }, "forbidden"],
  ];
  for (const [topic, data, code] of cases) {
    const error = await assertRejects(
      () => session.publish(topic as "count:a", data as string),
      RequestError,
    );
    assertEquals(error.failure.code, code, topic);
  }
  await session.publish("count:a", "four");
  for await (const message of session) {
    assertEquals(message.data, 4, "transformed once, by the receiver");
    break;
  }
});

Deno.test("Server with a contract allows subscriptions to the contract's topics and to rooms", async () => {
  const contract = defineContract({
    toClient: { "count:{name}": z.number() },
    requests: { "ask:{name}": { input: z.string(), output: z.string() } },
  });
  const asked: string[] = [];
  await using server = listen({
    contract,
    rooms: ["room:{name}"],
    authorize: (_session, topic) => asked.push(topic) > 0,
  });
  await using session = await dial(server.url);
  for (const topic of ["cuont:a", "ask:a", "room", "count:"]) {
    const error = await assertRejects(() => session.subscribe(topic), RequestError, `"${topic}"`);
    assertEquals(error.failure.code, "unknown-topic", topic);
  }
  assertEquals([asked, server.topics.size], [[], 0]);
  for (const topic of ["count:a", "room:a"]) await session.subscribe(topic);
  assertEquals(asked, ["count:a", "room:a"]);
});

Deno.test("Server treats a topic that looks like a pattern literally, and prints one line", async () => {
  using console = captureConsole();
  await using server = listen({
    authorize: () => true,
    onOpen: (session) => void server.subscribe(session, "news:*"),
  });
  await using session = await dial(server.url);
  for (const topic of ["chat:{room}", "chat:{room}", "chat:{}", "plain"]) {
    await session.subscribe(topic);
  }
  server.publish("chat:lobby", 1);
  server.publish("chat:{room}", 2);
  assertEquals(await next(session), ["chat:{room}", 2]);
  assertEquals(
    console.lines.map((line) => [line.includes("Topics are literal"), line.match(/"(.*?)"/)?.[1]]),
    [[true, "news:*"], [true, "chat:{room}"]],
  );
});

Deno.test("Server rejects a publication that grows beyond the limit, and the session stays open", async () => {
  const errors: unknown[] = [];
  await using server = listen({
    authorize: () => true,
    onError: (error) => void errors.push(error),
  });
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
  assert("hello" in await raw.envelope());
  const numbers = Array.from({ length: 50_000 }, () => "9e20").join(",");
  await raw.frame(`{"publish":"a","id":1,"data":[${numbers}]}`);
  const { reply, error } = await raw.envelope() as { reply: number; error: { code: string } };
  assertEquals({ reply, code: error.code, errors }, { reply: 1, code: "too-large", errors: [] });
  assertEquals(server.manager.count, 1);
});

Deno.test("Server answers unavailable when authorize throws, and the session continues", async () => {
  const errors: unknown[] = [];
  await using server = listen({
    authorize: () => Promise.reject(new Error("s3cret")),
    onError: (error) => void errors.push(error),
  });
  await using session = await dial(server.url);
  const error = await assertRejects(() => session.subscribe("a"), RequestError);
  assertEquals(error.failure, {
    code: "unavailable",
    message: 'The server cannot tell now if this session may subscribe to "a"',
  });
  await assertRejects(() => session.publish("a"), RequestError);
  assertEquals([session.state, errors.map(String)], [
    "connected",
    ["Error: s3cret", "Error: s3cret"],
  ]);
});

Deno.test("serve({ session }) and dial() apply each limit to the session", async () => {
  const limits = {
    maxMessageBytes: 300_000,
    maxInvalidMessages: 3,
    maxRequests: 70,
    concurrency: 2,
    requestTimeoutMs: 20_000,
    closeTimeoutMs: 4_000,
    handshakeTimeoutMs: 6_000,
    sendQueue: { maxMessages: 200, maxBytes: 1_000_000, policy: "latest" as const },
    receiveQueue: { maxMessages: 4_000, maxBytes: 900_000 },
  };
  await using server = listen({ session: limits, onHandlerError: "close" });
  await using client = await dial(server.url, { ...limits, onHandlerError: "close" });
  for (const end of [client, server.manager.get(client.id)!]) {
    assertObjectMatch(end[internals].settings, { ...limits, onHandlerError: "close" });
  }
});

Deno.test("Server's onMessageRejected receives each message that a client rejects", async () => {
  const contract = defineContract({ toClient: { price: z.number() } });
  const codes: string[] = [];
  await using server = listen({
    onMessageRejected: ({ failure }) => void codes.push(failure.code),
  });
  await using client = await dial(server.url, { contract, onMessage() {} });
  const session = server.manager.get(client.id)!;
  session.send("price", "high"); // The server has no contract, so it can send this.
  await session.ping();
  assertEquals(codes, ["invalid"]);
});

Deno.test("Server lets clients join rooms, and sends the members", async () => {
  await using server = listen({
    ...named,
    rooms: ["room:{name}"],
    authorize: () => true,
    presence: { graceMs: 0 },
  });
  await using ann = await dial(as(server, "ann"));
  await ann.subscribe("room:a");
  const [topic, notice] = await next(ann);
  assertEquals(topic, "presence:room:a");
  const { type, members } = notice as { type: string; members: { user: string }[] };
  assertEquals([type, members.map(({ user }) => user)], ["members", ["ann"]]);
  const bob = await dial(as(server, "bob"));
  await bob.subscribe("room:a");
  assertEquals((await next(ann))[1], { ...(await nextJoin()), user: "bob" });
  await bob.close();
  const [, left] = await next(ann) as [string, { type: string; user: string }];
  assertEquals([left.type, left.user], ["leave", "bob"]);
  await ann.unsubscribe("room:a");
  assertEquals(server.topics.size, 0);

  function nextJoin(): Promise<{ type: string; at: number }> {
    const at = server.presence.members("room:a").at(-1)!.joinedAt;
    return Promise.resolve({ type: "join", at });
  }
});

Deno.test("Server.unsubscribe() from a room leaves the room, however the session joined it", async () => {
  const sessions = new Map<string, Session<string, Contract, "server">>();
  await using server = listen({
    ...named,
    rooms: ["room:{name}"],
    authorize: () => true,
    presence: { graceMs: 0 },
    onOpen: (session) => void sessions.set(session.user, session),
  });
  await using ann = await dial(as(server, "ann"));
  await using bob = await dial(as(server, "bob"));
  for (const room of ["room:asked", "room:joined", "other"]) {
    const near = sessions.get("ann")!;
    const far = sessions.get("bob") as Session;
    server.rooms.join(far, room);
    if (room === "room:asked") await ann.subscribe(room);
    else server.rooms.join(near as Session, room);
    const heard: unknown[] = [];
    const isOff = new Promise((resolve) => {
      ann.events.addEventListener("unsubscribed", ({ detail }) => resolve(detail), { once: true });
    });
    assertEquals(server.unsubscribe(near, room, { code: "banned", reason: "Be kind" }), true);
    assertEquals(server.unsubscribe(near, room), false);
    assertEquals(server.rooms.members(room).map(({ user }) => user), ["bob"], room);
    assertEquals(server.rooms.roomsOf(near as Session), []);
    assertEquals(await soon(isOff), { unsubscribed: room, code: "banned", reason: "Be kind" });
    // The next message follows the last presence notice.
    server.rooms.leave(far, room);
    near.send("end", room);
    for await (const { topic, data } of ann) {
      if (topic === "end") break;
      const { type, user } = data as { type: string; user?: string };
      heard.push([type, user]);
    }
    assertEquals(heard.filter((one) => String(one).includes("leave")), [], room);
  }
  await bob.close();
});

Deno.test("Session.unsubscribe() leaves a room that the server joined the session to", async () => {
  let near: Session | undefined;
  await using server = listen({
    ...named,
    rooms: ["room:{name}"],
    presence: { graceMs: 0 },
    onOpen: (session) => {
      near = session as Session;
      for (const room of ["room:a", "other"]) server.rooms.join(near, room);
    },
  });
  await using ann = await dial(as(server, "ann"));
  for (const room of ["room:a", "other"]) {
    let isTold = false;
    ann.events.addEventListener("unsubscribed", () => isTold = true);
    await ann.unsubscribe(room);
    assertEquals([server.rooms.members(room), server.rooms.isMember(near!, room)], [[], false]);
    assertEquals(
      [server.topics.has(near!, room), isTold],
      [false, false],
      "no notice after its own request",
    );
  }
});

Deno.test("Server serves only at its path, exact or as a pattern", async () => {
  await using exact = listen({ path: "/live" });
  await using pattern = listen({ path: "/rooms/:id" });
  const cases: [server: Server, path: string, status: number][] = [
    [exact, "/live", 101],
    [exact, "/live?x=1", 101],
    [exact, "/live/", 404],
    [exact, "/", 404],
    [pattern, "/rooms/a", 101],
    [pattern, "/rooms/", 404],
    [pattern, "/rooms/a/b", 404],
  ];
  for (const [server, path, status] of cases) {
    using raw = await RawSocket.open(portOf(server), { path });
    assertEquals(raw.status, status, path);
  }
  const error = await assertRejects(() => dial(`${exact.url}nope`), SessionClosedError);
  assertEquals(error.info?.code, 4404);
  const http = exact.url.replace("ws", "http");
  const responses = await Promise.all([fetch(`${http}live`), fetch(`${http}nope`)]);
  assertEquals(responses.map(({ status }) => status), [426, 404]);
  for (const response of responses) await response.body?.cancel();
  assertThrows(() => createServer({ path: "live" }), TypeError, 'must start with "/"');
});

Deno.test("Server accepts as many sessions as its limits allow, and more after one closes", async () => {
  const cases = [
    { limits: { maxSessions: 2 }, users: ["a", "b", "c"] },
    { limits: { maxSessionsPerUser: 2 }, users: ["a", "a", "a"] },
    { limits: { maxSessionsPerAddress: 2 }, users: ["a", "b", "c"] },
  ];
  for (const authenticate of [undefined, named.authenticate]) {
    for (const { limits, users } of cases) {
      if (authenticate === undefined && "maxSessionsPerUser" in limits) continue;
      await using server = listen(
        authenticate === undefined ? { limits } : { limits, authenticate },
      );
      const [a, b, c] = users.map((user) => as(server, user)) as [string, string, string];
      const first = await dial(a);
      await using _second = await dial(b);
      const error = await assertRejects(() => dial(c), SessionClosedError);
      assertEquals(error.info?.code, 4429, JSON.stringify(limits));
      using raw = await RawSocket.open(portOf(server), {
        path: new URL(c).search.replace("?", "/?"),
      });
      assertEquals([raw.status, /retry-after: 5/i.test(raw.head)], [429, true]);
      await first.close();
      await until(() => server.manager.count === 1);
      await using third = await dial(c);
      assert(third.isReady, JSON.stringify(limits));
    }
  }
});

Deno.test("Server.close() closes every session with 4503, once, and frees the port", async () => {
  const closed: number[] = [];
  const port = lowPort();
  const server = listen({ port, onClose: (_session, { code }) => void closed.push(code) });
  const session = await dial(server.url);
  const closing = server.close();
  await Promise.all([closing, server.close(), server[Symbol.asyncDispose]()]);
  assertEquals([await endOf(session), closed], [
    { code: 4503, reason: "", by: "remote" },
    [4503],
  ]);
  using listener = Deno.listen({ port, hostname: "127.0.0.1" });
  assertEquals(listener.addr.port, port);
});

Deno.test("Server.close() leaves no listener on the signal of serve()", async () => {
  const { signal } = new AbortController();
  const listeners = new Set<unknown>();
  signal.addEventListener = (_type: string, listener: unknown) => void listeners.add(listener);
  signal.removeEventListener = (_type: string, listener: unknown) =>
    void listeners.delete(listener);
  const server = listen({ signal });
  assertEquals(listeners.size, 1);
  await server.close();
  assertEquals(listeners.size, 0);
});

Deno.test("serve() closes if its signal aborts in onListen", async () => {
  const controller = new AbortController();
  const server = listen({ signal: controller.signal, onListen: () => controller.abort() });
  await until(() => server.manager.isDraining);
  await server.close();
});

Deno.test("Server closes by its signal", async () => {
  const controller = new AbortController();
  const server = listen({ signal: controller.signal });
  const session = await dial(server.url);
  controller.abort();
  assertEquals((await endOf(session)).code, 4503);
  await server.close();
});

Deno.test("Server rejects all requests after it has closed", async () => {
  const server = createServer();
  await using http = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, server.fetch);
  await server.close();
  using raw = await RawSocket.open(http.addr.port);
  assertEquals(raw.status, 503);
  await using client = connect(`ws://127.0.0.1:${http.addr.port}`);
  for await (const status of client.status) {
    if (status.name !== "reconnecting") continue;
    assertEquals(status.cause.code, 4503);
    break;
  }
});

Deno.test("Server rejects token renewals if it does not know its users", async () => {
  await using server = listen({ authenticate: ({ token }) => ({ name: token }) });
  await using session = await dial(`${server.url}?token=ann`);
  const error = await assertRejects(() => session.authenticate("bob"), RequestError);
  assertEquals(error.failure.code, "forbidden");
  const [own] = server.manager.all();
  assertEquals(own!.value, { name: "ann" });
});

Deno.test("Server.presence reports a join when the session can already receive messages", async () => {
  await using server = listen({ authenticate: ({ token }) => token ?? "anybody" });
  using _greeting = server.presence.subscribe((event) => {
    if (event.type === "join") server.to(event.user).send("welcome", event.user);
  });
  await using session = await dial(`${server.url}?token=ann`);
  for await (const { topic, data } of session) {
    assertEquals([topic, data], ["welcome", "ann"]);
    break;
  }
});

Deno.test("Server delays publications of a policy function to the next turn", async () => {
  let published = 0;
  await using server = listen({
    session: {
      sendQueue: {
        policy: (topic) => {
          if (topic === "news" && published++ === 0) server.publish("notes", "from the policy");
          return "drop-oldest";
        },
      },
    },
    onOpen(session) {
      server.subscribe(session, "news");
      server.subscribe(session, "notes");
    },
  });
  await using session = await dial(server.url);
  // This is more than can be sent in one turn, so the policy is called.
  for (let i = 0; i < 5; i++) server.publish("news", "x".repeat(50_000));
  server.publish("notes", "last");
  const notes: unknown[] = [];
  for await (const { topic, data } of session) {
    if (topic === "notes") notes.push(data);
    if (notes.length === 2) break;
  }
  assertEquals(notes.toSorted(), ["from the policy", "last"]);
});

Deno.test("Server reports no handler failure if a handler sends more than its peer reads", async () => {
  const flood = (session: Pick<Session, "send">) => {
    for (let i = 0; i < 10; i++) session.send("row", "x".repeat(60_000));
  };
  const handlers: ServeOptions[] = [
    { onOpen: flood },
    { onMessage: (_message, session) => flood(session) },
  ];
  for (const handler of handlers) {
    const errors: unknown[] = [];
    const closed = Promise.withResolvers<number>();
    await using server = listen({
      session: { sendQueue: { maxMessages: 1 } },
      ...handler,
      onClose: (_session, { code }) => closed.resolve(code),
      onError: (error) => void errors.push(error),
    });
    await using client = connect(server.url, { backoff: { maxAttempts: 1, firstDelayMs: 1 } });
    client.send("go");
    assertEquals([await closed.promise, errors], [4507, []], Object.keys(handler)[0]);
  }
});

Deno.test("serve({ rooms }) decides by pattern how rooms list their members", async () => {
  await using server = listen({
    ...named,
    authorize: () => true,
    rooms: { "stadium:{name}": { members: "count", gatherMs: 1 }, "room:{name}": {} },
  });
  await using ann = await dial(as(server, "ann"));
  await ann.subscribe("stadium:a");
  assertEquals(await next(ann), ["presence:stadium:a", { type: "count", users: 1 }]);
  await ann.subscribe("room:a");
  const [topic, data] = await next(ann);
  assertEquals([topic, (data as { type: string }).type], ["presence:room:a", "members"]);
});

Deno.test("serve() starts without Node's modules, which cost a fifth of the start", async () => {
  const program = new URL("programs/plain_start.ts", import.meta.url).href;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--no-check", program],
  }).output();
  const [out, error] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  assertEquals([out, error], ['{"text":"a page","uses":[]}\n', ""]);
});
