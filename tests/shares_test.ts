/**
 * Tests each limit of a whole server: one network address exhausts its share of the limit while the
 * server still serves a user from another address. Without shares, the first client could use the
 * whole capacity.
 *
 * @module
 */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { createServer, guest, type ServeOptions } from "../server.ts";
import { dial, platformRuntime, SessionClosedError } from "../mod.ts";
import { durableStreams, resumable } from "../streams/mod.ts";
import { MoqRelay, MoqServer } from "../moq/mod.ts";
import { headOf, TextSocket } from "./peers/text_socket.ts";
import { Caller } from "./peers/caller.ts";
import type { Reply } from "./peers/page.ts";
import { captureConsole } from "./console_lines.ts";
import { listen, portOf } from "./servers.ts";
import { until } from "./waiting.ts";
import { streamFeatures, streamsOf } from "./stream_features.ts";

/** The address of a client that takes every slot it can get. */
const GREEDY = "203.0.113.66";

/** The address of a user who needs one slot. */
const HONEST = "198.51.100.7";

const OPTIONS: ServeOptions<string | typeof guest> = {
  webTransport: false,
  clientAddress: (request) => new URL(request.url).searchParams.get("from") ?? HONEST,
  authenticate: ({ request }) => new URL(request.url).searchParams.get("user") || guest,
  requests: {
    chat: {
      resumable,
      async *handle({ signal }) {
        yield 1;
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
    },
  },
};

/** No rates of costs, for tests of other limits. */
const FREE: ServeOptions["rates"] = {
  perUser: { cost: { perSecond: Infinity } },
  perAddress: { cost: { perSecond: Infinity } },
};

/** Takes slots until one is rejected; returns the number of slots taken and the rejection. */
async function takeAll(
  take: (i: number) => Promise<Reply>,
): Promise<{ readonly count: number; readonly error: Reply["error"] }> {
  for (let count = 0;; count++) {
    const { error } = await take(count);
    if (error !== undefined) return { count, error };
  }
}

Deno.test("serve() lets a user read a stream while another address uses its whole share of readers", async () => {
  const features = streamFeatures(
    { path: "/streams", maxReaders: 2_200 },
    { maxRunningPerAddress: 1_000, maxRunningPerUser: 1_000 },
  );
  await using server = listen({ ...OPTIONS, rates: FREE, features });
  using stack = new DisposableStack();
  const ids: string[] = [];
  using first = await Caller.dial(server, { from: GREEDY });
  for (let i = 0; i < 128; i++) {
    ids.push(`stream:${(await first.response(crypto.randomUUID())).data!["stream"]}`);
  }
  let caller: Caller | undefined;
  const { count, error } = await takeAll(async (i) => {
    if (i % ids.length === 0) caller = stack.use(await Caller.dial(server, { from: GREEDY }));
    return await caller!.ask({ subscribe: ids[i % ids.length] });
  });
  assertEquals([count, error?.code], [1_100, "too-many"]);
  assertStringIncludes(error!.message, "your address may have at most 1024 readers that wait");
  using ann = await Caller.dial(server, { from: HONEST, user: "ann" });
  const { data } = await ann.response("ann");
  assertEquals((await ann.ask({ subscribe: `stream:${data!["stream"]}` })).error, undefined);
});

Deno.test("serve() limits the readers of one user over HTTP, across all addresses", async () => {
  const options = { path: "/streams", authorize: () => true, maxReadersPerUser: 1 };
  await using server = listen({ ...OPTIONS, features: streamFeatures(options) });
  await using _writer = await streamsOf(server).create("a");
  const url = `http://127.0.0.1:${portOf(server)}/streams/a?offset=-1&live=sse`;
  const ann = await fetch(`${url}&user=ann&from=192.0.2.1`);
  const again = await fetch(`${url}&user=ann&from=192.0.2.2`);
  assertEquals([ann.status, again.status], [200, 429]);
  assertStringIncludes((await again.json()).detail, "your user may have at most 1 readers");
  const bob = await fetch(`${url}&user=bob&from=192.0.2.2`);
  assertEquals(bob.status, 200);
  for (const { body } of [ann, bob]) await body!.cancel();
});

Deno.test("serve() answers a write while another address uses its whole share of writes", async () => {
  const open = { path: "/streams", maxRequests: 150, authorize: () => true };
  await using server = listen({ ...OPTIONS, features: streamFeatures(open) });
  const url = (from: string) => `http://127.0.0.1:${portOf(server)}/streams/a?from=${from}`;
  const init = { headers: { "content-type": "text/plain" }, body: "x" };
  await (await fetch(url(HONEST), { ...init, method: "PUT" })).body?.cancel();
  using stack = new DisposableStack();
  const sockets: TextSocket[] = [];
  for (let i = 0; i < 120; i++) {
    // A body that never ends.
    const head = headOf(`POST /streams/a?from=${GREEDY}`, {
      host: "localhost",
      "content-type": "text/plain",
      "content-length": "10",
    });
    const socket = stack.use(await TextSocket.send(portOf(server), `${head}x`));
    sockets.push(socket);
  }
  await until(() => server.httpStats.durableStreams!.responses[429] === 45);
  const { status } = await fetch(url(HONEST), { ...init, method: "POST" });
  assertEquals(status, 204);
  const rejection = "your address may have at most 64 concurrent requests";
  assertStringIncludes(await sockets.at(-1)!.until(rejection), rejection);
});

Deno.test("serve() rejects a list of forwarded addresses as a client address", async () => {
  await using server = listen({
    webTransport: false,
    clientAddress: (request) => request.headers.get("x-forwarded-for") ?? undefined,
    onError() {},
    features: [durableStreams({ path: "/streams", authorize: () => true })],
  });
  const url = `http://127.0.0.1:${portOf(server)}/streams/a?offset=-1&live=sse`;
  const response = await fetch(url, { headers: { "x-forwarded-for": "192.0.2.1, 192.0.2.2" } });
  assertEquals([response.status, (await response.json()).code], [503, "unavailable"]);
});

Deno.test("createServer() prints once that a limit per address has no effect without addresses", async () => {
  using print = captureConsole();
  await using limited = createServer({ limits: { maxSessionsPerAddress: 5 } });
  await using plain = createServer();
  for (const server of [limited, limited, plain]) {
    assertEquals((await server.fetch(new Request("http://localhost/"))).status, 426);
  }
  await limited.fetch(new Request("http://localhost/"), {
    remoteAddr: { transport: "tcp", hostname: "192.0.2.1", port: 1 },
  });
  assertEquals(print.lines.length, 1);
  assertStringIncludes(print.lines[0]!, "server.fetch(request, info)");
});

Deno.test("serve() prints once that shares don't apply to a proxy, when half of a limit is in use", async () => {
  using print = captureConsole();
  const limits = { maxSessions: 4 };
  await using server = listen({ limits, webTransport: false });
  using stack = new DisposableStack();
  const connect = async () => void stack.use(await Caller.dial(server, { from: GREEDY }));
  await connect();
  await connect();
  assertEquals(print.lines, []);
  await connect();
  await connect();
  assertEquals(print.lines.length, 1);
  assertStringIncludes(
    print.lines[0]!,
    "can't tell the clients of 127.0.0.1, probably a proxy, apart",
  );
  assertStringIncludes(print.lines[0]!, "clientAddress: forwardedAddress({ trusted: 1 })");
  assertEquals(server.quotaStats["maxSessions"]?.taken, 4);

  let last = 0;
  const clientAddress = () => `10.0.0.${++last}`;
  await using told = listen({ limits, webTransport: false, clientAddress });
  for (let i = 0; i < 4; i++) stack.use(await Caller.dial(told, { from: GREEDY }));
  assertEquals(print.lines.length, 1);
});

Deno.test("serve() gives all clients behind a UDP proxy half of a limit, and prints so once", async () => {
  using print = captureConsole();
  await using server = listen({
    limits: { maxSessions: 6 },
    // As on the page about nginx.
    clientAddress: (_request, info) => info.remoteAddr?.transport === "udp" ? undefined : HONEST,
    authenticate: ({ request }) => new URL(request.url).searchParams.get("user") || guest,
    onSessionRejected() {},
    onMessage: (message, session) => message.reply(session.address ?? null),
  });
  await using stack = new AsyncDisposableStack();
  const join = async (transport: "webtransport" | "websocket", user: string) => {
    const url = new URL(`?user=${user}`, server.url);
    return stack.use(await dial(url, { transports: [transport] }));
  };
  // Neither more guests nor more users have more than half.
  for (const user of ["", "eve-1", "eve-2"]) {
    const session = await join("webtransport", user);
    assertEquals(await session.request("address"), null);
  }
  for (const user of ["", "eve-3"]) {
    const error = await assertRejects(() => join("webtransport", user), SessionClosedError);
    assertEquals(error.info?.code, 4429);
  }
  assertEquals(server.manager.stats().rejected.maxSessionsPerAddress, 2);
  for (const user of ["ann", "bob", ""]) {
    assertEquals(await (await join("websocket", user)).request("address"), HONEST);
  }
  assertEquals(print.lines.length, 1);
  assertStringIncludes(print.lines[0]!, "Clients over WebTransport have no network address");
});

Deno.test("serve() counts a user who connected an hour ago separately from the guests of the address", async () => {
  let passedMs = 0;
  const runtime = Object.assign(platformRuntime(), {
    monotonic: () => performance.now() + passedMs,
  });
  await using server = listen({
    ...OPTIONS,
    runtime,
    rates: FREE,
    features: [resumable({ maxRunningPerAddress: 1, maxRunningPerUser: 100 })],
  });
  using ann = await Caller.dial(server, { from: HONEST, user: "ann" });
  passedMs = 3_600_000;
  using stranger = await Caller.dial(server, { from: HONEST });
  assertEquals((await stranger.response("first")).error, undefined);
  assertEquals((await stranger.response("second")).error?.code, "too-many");
  for (let i = 0; i < 10; i++) assertEquals((await ann.response(`ann-${i}`)).error, undefined);
  assertStringIncludes(
    (await ann.response("ann-10")).error!.message,
    "at most 10 running responses",
  );
});

Deno.test("Server.quotaStats includes the limits of a mounted MoqServer's relay", async () => {
  await using relay = new MoqRelay({ maxBroadcasts: 7, maxTracks: 8 });
  await using server = createServer({ features: [new MoqServer({ mux: relay.mux })] });
  const { "moq.maxBroadcasts": broadcasts, "moq.maxTracks": tracks } = server.quotaStats;
  assertEquals([broadcasts?.max, tracks?.max], [7, 8]);
});
