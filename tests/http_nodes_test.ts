// run_tests: alone, and first, as these tests wait for long in real time.
/** Tests sessions over HTTP behind a proxy that sends their requests to several nodes. */
import { assert, assertEquals, assertGreater } from "@std/assert";
import { CloseCode, SessionClosedError } from "../client.ts";
import { captureConsole } from "./console_lines.ts";
import { countsOf, hear, Site } from "./networks/http_site.ts";
import type { Holding } from "./networks/round_robin.ts";
import { portOf } from "./servers.ts";
import { soon, until } from "./waiting.ts";

const HOLDINGS: readonly Holding[] = ["nothing", "start", "blocks", "streams"];

Deno.test("Sessions over HTTP have messages, requests, topics and presence, even if a proxy buffers responses", async () => {
  // The cases run in parallel, because a client needs 3 s to detect that a proxy buffers streams.
  // On a busy machine, a client may take its server for lost, and reconnect.
  await Promise.all(HOLDINGS.map((holds) => until(() => useAll(holds).catch(isLost))));
});

/** Returns false for the end of a session that was silent for too long. */
function isLost(error: unknown): false {
  if (error instanceof SessionClosedError && error.info?.code === CloseCode.timedOut) return false;
  throw error;
}

/** Returns true if all of this happened in one session. */
async function useAll(holds: Holding): Promise<boolean> {
  await using site = await Site.open({
    holds,
    serving: {
      async onMessage(message, session) {
        if (message.topic === "echo") return message.reply(message.data);
        const answer = await session.request("ask", message.data);
        session.send("heard", `${message.topic} ${answer}`);
      },
    },
  });
  await using ann = site.connect({ token: "ann" });
  await using bob = site.connect({ token: "bob" });
  const [annHears, bobHears] = [hear(ann), hear(bob)];
  const session = await soon(ann.whenConnected());
  assertEquals(session.transport, "http");
  assertEquals(session.connection.capabilities.streams, false);
  for (let i = 0; i < 4; i++) assertEquals(await soon(ann.request("echo", { i })), { i });
  ann.send("say", 7);
  await until(() => annHears.heard.length === 1);
  assertEquals(annHears.heard, ["say answer to 7"]);

  // The POST requests of one session reached both nodes.
  const posts = countsOf(site.proxy, "POST");
  assert(posts[0]! > 0 && posts[1]! > 0, `${posts}`);

  const got: unknown[] = [];
  await site.servers[0]!.topics.append("room:a", 0);
  const room = bob.subscribe("room:a", { last: 10 });
  void (async () => {
    for await (const { data } of room) got.push(data);
  })();
  await soon(room.ready);
  for (let i = 1; i <= 5; i++) await soon(ann.publish("room:a", i));
  await until(() => got.length === 6);
  assertEquals(got, [0, 1, 2, 3, 4, 5]);
  await soon(ann.subscribe("room:a").ready);
  const both = (names: ReadonlyMap<string, unknown>) => names.has("ann") && names.has("bob");
  await until(() => both(annHears.members) && both(bobHears.members));
  return (await ann.whenConnected()).id === session.id;
}

Deno.test("Messages to the server over HTTP arrive exactly once, in order, through any node, even if responses are lost", async () => {
  const handled: unknown[] = [];
  await using site = await Site.open({
    nodes: 3,
    holds: "nothing",
    serving: { onMessage: ({ data }) => void handled.push(data) },
  });
  await using client = site.connect();
  const session = await soon(client.whenConnected());
  let posts = 0;
  site.proxy.losesResponse = ({ method }) => method === "POST" && ++posts % 3 === 1;
  for (let i = 0; i < 300; i++) {
    client.send("say", i);
    // Several messages share a POST request, and there are many requests.
    if (i % 10 === 9) await until(() => handled.length > i - 20);
  }
  await until(() => handled.length >= 300);
  assertEquals(handled, Array.from({ length: 300 }, (_, i) => i));
  assertEquals((await client.whenConnected()).id, session.id);
  assertGreater(posts, 10);
  for (const count of countsOf(site.proxy, "POST")) assertGreater(count, 1);
});

Deno.test("Messages to a client over HTTP arrive exactly once, in order, even if all requests are cut repeatedly", async () => {
  await using site = await Site.open({ nodes: 3, holds: "nothing" });
  await using client = site.connect();
  const { heard } = hear(client);
  const session = await soon(client.whenConnected());
  const peer = site.nodeOf(session.id)!.manager.get(session.id)!;
  const count = 400;
  for (let i = 0; i < count; i++) {
    peer.send("say", i);
    if (i % 40 === 20) site.proxy.cut();
    if (i % 40 === 39) await until(() => heard.length > i - 60);
  }
  await until(() => heard.length >= count);
  assertEquals(heard, Array.from({ length: count }, (_, i) => i));
  assertEquals((await client.whenConnected()).id, session.id);
  const gets = countsOf(site.proxy, "GET");
  assertEquals(gets.length, 3);
});

Deno.test("A session over HTTP survives a proxy that closes silent responses", async () => {
  using printed = captureConsole();
  await using site = await Site.open({ holds: "nothing", idleMs: 200 });
  await using client = site.connect();
  const { heard } = hear(client);
  const session = await soon(client.whenConnected());
  const peer = site.nodeOf(session.id)!.manager.get(session.id)!;
  const gets = () => site.proxy.passed.filter(({ method }) => method === "GET").length;
  const before = gets();
  await until(() => gets() >= before + 3);
  peer.send("say", 1);
  await until(() => heard.length === 1);
  assertEquals((await client.whenConnected()).id, session.id);
  // The proxy also rejects upgrades.
  assertEquals(printed.lines.filter((line) => !line.includes("HTTP works, but WebSocket")), []);
});

Deno.test("A client over HTTP notices immediately that its node closes, and recovers on another node", async () => {
  await using site = await Site.open({ holds: "nothing" });
  await using client = site.connect();
  const got: unknown[] = [];
  const room = client.subscribe("room:a", {
    onRecovery: ({ recovered }) => void got.push(recovered),
  });
  void (async () => {
    for await (const { data } of room) got.push(data);
  })();
  await soon(room.ready);
  const session = await soon(client.whenConnected());
  const node = site.nodeOf(session.id)!;
  const other = site.servers.find((server) => server !== node)!;
  await other.topics.append("room:a", 1);
  await until(() => got.length === 1);
  const closedAt = performance.now();
  await node.close();
  await other.topics.append("room:a", 2);
  await until(() => got.length === 3);
  assertEquals(got, [1, true, 2]);
  const { transport, id } = await client.whenConnected();
  assertEquals([transport, site.nodeOf(id) === other], ["http", true]);
  // Much less than the time until a silent node counts as gone.
  assert(performance.now() - closedAt < 5_000);
});

Deno.test("Sessions over HTTP move off a draining node without losing a message", async () => {
  const handled: unknown[] = [];
  await using site = await Site.open({
    holds: "nothing",
    serving: { onMessage: ({ data }) => void handled.push(data) },
  });
  await using client = site.connect({ delivery: "at-least-once" });
  const session = await soon(client.whenConnected());
  const node = site.nodeOf(session.id)!;
  client.send("say", 1);
  const draining = node.drain({ withinMs: 60_000 });
  client.send("say", 2);
  await draining;
  client.send("say", 3);
  await soon(client.flushed());
  assertEquals(handled, [1, 2, 3]);
  const { id } = await soon(client.whenConnected());
  assert(site.nodeOf(id) !== node);
});

Deno.test("A post with a wrong secret is rejected by every node before its body arrives", async () => {
  await using site = await Site.open({ holds: "nothing" });
  const marks = { "skein-transport": "http" };
  const [first] = site.servers.map((server) => `http://127.0.0.1:${portOf(server)}/`);
  const opened = await fetch(`${first}?protocol=skein.1`, {
    headers: { ...marks, accept: "text/event-stream", "skein-poll": "1" },
  });
  const { session, secret } = JSON.parse(/data: (.*)/.exec(await opened.text())![1]!);
  for (const server of site.servers) {
    const url = `http://127.0.0.1:${portOf(server)}/`;
    const init = (secret: string) => ({
      method: "POST",
      headers: {
        ...marks,
        "skein-session": session,
        "skein-secret": secret,
        "skein-number": "1",
        "last-event-id": "0",
      },
    });
    const good = await soon(fetch(url, { ...init(secret), body: new Uint8Array() }));
    assertEquals([good.status, await good.text()], [204, ""]);
    const body = new TransformStream<Uint8Array, Uint8Array>();
    const writer = body.writable.getWriter();
    void writer.write(new Uint8Array(9));
    const bad = await soon(fetch(url, { ...init("A".repeat(22)), body: body.readable }));
    assertEquals(bad.status, 410);
    await writer.close();
    await bad.text();
  }
  const left = await fetch(first!, {
    method: "DELETE",
    headers: { ...marks, "skein-session": session, "skein-secret": secret },
  });
  assertEquals(left.status, 204);
});
