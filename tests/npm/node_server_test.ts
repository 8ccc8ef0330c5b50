/**
 * Tests the complete server on Node: sessions, topics, presence, streaming responses, and the HTTP
 * API.
 */
import { fileURLToPath } from "node:url";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { connect, dial } from "../../client.ts";
import { isNatsMissing, NatsServer } from "../brokers/nats_server.ts";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { buildRuntimes, builtPeers, type Peer, PeerServer } from "../interop/peers.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { endOf } from "../sessions.ts";

/** The first version of Node that runs the server. */
const FIRST_NODE = 26;

const HEADERS = { authorization: "Bearer s3cret", "content-type": "application/json" };

const CONFIG = fileURLToPath(new URL("../../deno.json", import.meta.url));
const PROGRAM = fileURLToPath(new URL("_node_server.ts", import.meta.url));

/** A page whose program runs on Node. */
const PAGE = new URL("../../docs/recipes/node-server.md", import.meta.url);

/** Bundles a program with the library into one file, which the stack removes. */
async function bundle(stack: AsyncDisposableStack, program: string): Promise<string> {
  const folder = await Deno.makeTempDir();
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const file = `${folder}/server.mjs`;
  const options = ["--quiet", "--no-check", "--config", CONFIG, "--platform", "deno"];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", ...options, "-o", file, program],
    stdin: "null",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return file;
}

/** Runs the program on a broker. */
async function start(
  stack: AsyncDisposableStack,
  peer: Peer,
  broker: readonly string[],
): Promise<PeerServer> {
  const server = stack.use(new PeerServer(peer.start([await bundle(stack, PROGRAM), ...broker])));
  const { port } = await server.next() as { readonly port: number };
  server.port = port;
  return server;
}

async function hasRequests(url: string): Promise<void> {
  for (const transport of ["websocket", "http"] as const) {
    await using ann = connect(url, { token: "ann", transports: [transport] });
    assertEquals((await ann.whenConnected()).transport, transport);
    assertEquals(await ann.request("sum", [1, 2, 3]), 6);
    assertEquals(await Array.fromAsync(ann.requestStream("count", 3)), [1, 2, 3]);
  }
}

async function hasTopics(url: string): Promise<void> {
  await using ann = connect(url, { token: "ann" });
  await using bob = connect(url, { token: "bob" });
  for (const text of ["one", "two"]) await bob.publish("room:tea", text);
  const heard = [];
  for await (const { from, data } of ann.subscribe("room:tea", { last: 2 })) {
    if (heard.push([from, data]) === 2) await bob.publish("room:tea", "three");
    if (heard.length === 3) break;
  }
  assertEquals(heard, [["bob", "one"], ["bob", "two"], ["bob", "three"]]);

  using _bob = bob.members("room:tea").subscribe(() => {});
  for await (const members of ann.members("room:tea")) if (members.size === 2) break;
}

async function hasApi(url: string, origin: string): Promise<void> {
  await using ann = connect(url, { token: "ann" });
  const orders = ann.subscribe("orders");
  await orders.ready;
  const publications = `${origin}/api/topics/orders/publications`;
  const body = JSON.stringify({ data: "sent" });
  const rejected = await fetch(publications, { method: "POST", body });
  assertEquals([rejected.status, (await rejected.json()).code], [401, "unauthenticated"]);
  const response = await fetch(publications, { method: "POST", headers: HEADERS, body });
  assertEquals([response.status, await response.json()], [200, { topic: "orders" }]);
  for await (const { data } of orders) {
    assertEquals(data, "sent");
    break;
  }
}

async function hasDurableStreams(origin: string): Promise<void> {
  const stream = `${origin}/streams/answers/7`;
  const write = async (method: string, body: string, more = {}) => {
    const response = await fetch(stream, { method, headers: { ...HEADERS, ...more }, body });
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await write("PUT", '["Hello"]'), 201);
  const reading = await fetch(`${stream}?offset=-1&live=sse`, { headers: HEADERS });
  assertEquals(await write("POST", '["you"]', { "stream-closed": "true" }), 204);
  const events = await reading.text();
  assertEquals(events.match(/"(?:Hello|you)"/g), ['"Hello"', '"you"']);
  assertMatch(events, /"streamClosed":true/);
}

async function servesPages(origin: string): Promise<void> {
  const text = "a page ".repeat(20_000);
  const response = await fetch(`${origin}/page`, { method: "POST", body: text });
  assertEquals(await response.text(), text.toUpperCase());
}

async function drains(server: PeerServer, url: string): Promise<void> {
  await using session = await dial(url, { token: "ann" });
  server.terminate();
  assertEquals(await endOf(session), { code: 4503, reason: "New version", by: "remote" });
  assertEquals(await server.next(), { closed: 1, cut: 0 });
}

async function runsAll(
  t: Deno.TestContext,
  peer: Peer,
  broker: readonly string[] = [],
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const server = await start(stack, peer, broker);
  const [url = "", origin = ""] = ["ws", "http"].map((it) => `${it}://127.0.0.1:${server.port}`);
  await t.step("requests and streaming responses", () => hasRequests(url));
  await t.step("a topic with history, and presence", () => hasTopics(url));
  await t.step("the HTTP API", () => hasApi(url, origin));
  await t.step("durable streams over HTTP", () => hasDurableStreams(origin));
  await t.step("its own requests", () => servesPages(origin));
  await t.step("a drain", () => drains(server, url));
}

function testServer(peer: Peer): void {
  Deno.test(`${peer.name} runs the complete server`, (t) => runsAll(t, peer));

  Deno.test({
    name: `${peer.name} runs the complete server on Redis`,
    ignore: isRedisMissing,
    async fn(t) {
      await using redis = await RedisServer.start();
      await runsAll(t, peer, ["redis", redis.url]);
    },
  });

  Deno.test({
    name: `${peer.name} runs the complete server on NATS`,
    ignore: isNatsMissing,
    async fn(t) {
      await using nats = await NatsServer.start();
      await runsAll(t, peer, ["nats", nats.servers]);
    },
  });

  Deno.test({
    name: `${peer.name} runs the complete server on NATS over TLS`,
    ignore: isNatsMissing,
    async fn(t) {
      await using stack = new AsyncDisposableStack();
      const folder = await Deno.makeTempDir();
      stack.defer(() => Deno.remove(folder, { recursive: true }));
      const { cert, key } = devCertificate({ cacheFolder: null });
      const [certFile, keyFile] = [`${folder}/cert.pem`, `${folder}/key.pem`];
      await Deno.writeTextFile(certFile, cert);
      await Deno.writeTextFile(keyFile, key);
      const settings = `tls { cert_file: "${certFile}", key_file: "${keyFile}" }`;
      const nats = stack.use(await NatsServer.start({ settings }));
      await runsAll(t, peer, ["nats", `localhost:${nats.port}`, certFile]);
    },
  });

  Deno.test(`${peer.name} runs the server of the page, which exits after a drain`, async () => {
    await using stack = new AsyncDisposableStack();
    const program = await Deno.makeTempFile({ suffix: ".mjs" });
    stack.defer(() => Deno.remove(program));
    const [, code] = (await Deno.readTextFile(PAGE)).match(/file=server\.mjs\n([^]*?)```/)!;
    await Deno.writeTextFile(program, code!.replace("8000", "0"));
    const child = peer.start([await bundle(stack, program)]);
    stack.defer(() => child.stdout.cancel());
    const printed = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
    stack.defer(() => printed.cancel());
    let line = "";
    while (!line.endsWith("\n")) line += (await printed.read()).value!;
    const [, port] = line.match(/^Listening on .*:(\d+)\/\)\n$/)!;
    await using client = connect(`ws://127.0.0.1:${port}`);
    assertEquals(await Array.fromAsync(client.requestStream("count", 3)), [1, 2, 3]);
    assertEquals(await (await fetch(`http://127.0.0.1:${port}`)).text(), "Hello from Node");
    await client.close();
    child.kill("SIGTERM");
    assert((await child.status).success);
  });
}

function testTooOld(peer: Peer): void {
  Deno.test(`${peer.name} is too old for the server`, async () => {
    await using stack = new AsyncDisposableStack();
    const error = await assertRejects(() => start(stack, peer, []), Error);
    assertMatch(error.message, /use Node 26 or newer/);
  });
}

for (const peer of builtPeers(await buildRuntimes())) {
  const [name, major = ""] = peer.name.split(" ");
  if (name !== "Node") continue;
  if (Number(major) >= FIRST_NODE) testServer(peer);
  else if (Number(major) === 24) testTooOld(peer);
}
