/**
 * Tests `/metrics` and `/healthz` as a scraper sees them.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { createServer, dial } from "../mod.ts";
import { acceptWebSocket, type WebSocketHost } from "../transport/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { listen, RawSocket } from "./servers.ts";
import { until } from "./waiting.ts";
import { metrics, type MetricsOptions } from "../operations/mod.ts";

/** A sample in the text. */
interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A metric family in the text, which starts with `# TYPE`. */
interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: Sample[];
}

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const LABEL = `[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\[\\\\"n])*"`;
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(${LABEL}(?:,${LABEL})*)\\})? (\\S+)$`);

/** Parses version 0.0.4 of the format, and rejects any deviation. */
function parse(text: string): Map<string, Family> {
  assert(text.endsWith("\n"), "The last line must end with a line feed");
  const families = new Map<string, Family>();
  const seen = new Set<string>();
  let current = "";
  let help: [name: string, help: string] | undefined;
  for (const line of text.slice(0, -1).split("\n")) {
    const comment = line.match(new RegExp(`^# (HELP|TYPE) (${NAME}) (.+)$`));
    if (comment !== null) {
      const [, keyword, name, rest] = comment as unknown as string[];
      assert(!families.has(name!), `${name} must be described once, before its samples`);
      if (keyword === "HELP") {
        help = [name!, rest!];
        continue;
      }
      assertMatch(rest!, /^(?:counter|gauge)$/);
      assertEquals(help?.[0], name, `${name} must have a HELP before its TYPE`);
      families.set(name!, { type: rest!, help: help![1], samples: [] });
      current = name!;
      continue;
    }
    const sample = line.match(SAMPLE);
    assert(sample !== null, `Invalid line: ${line}`);
    const [, name, labels = "", number] = sample;
    assertEquals(name, current, "Samples must follow their TYPE");
    assert(!seen.has(`${name}{${labels}}`), `Twice: ${line}`);
    seen.add(`${name}{${labels}}`);
    assert(number !== "" && !Number.isNaN(Number(number)), `Not a number: ${line}`);
    families.get(name!)!.samples.push({
      name: name!,
      labels: Object.fromEntries(
        [...labels.matchAll(new RegExp(LABEL, "g"))].map(([pair]) => {
          const at = pair.indexOf("=");
          const unescape = (_: string, letter: string) => letter === "n" ? "\n" : letter;
          return [pair.slice(0, at), pair.slice(at + 2, -1).replace(/\\(.)/g, unescape)];
        }),
      ),
      value: Number(number),
    });
  }
  return families;
}

/** The value of a sample. */
function valueOf(
  families: ReadonlyMap<string, Family>,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const wanted = JSON.stringify(labels);
  return families.get(name)?.samples.find(({ labels }) => JSON.stringify(labels) === wanted)?.value;
}

/** Sends a request to a server. */
async function ask(
  { address }: { readonly address: Deno.NetAddr | undefined },
  path: string,
  init: RequestInit = {},
): Promise<{ status: number; body: string; headers: Headers }> {
  const response = await fetch(`http://127.0.0.1:${address!.port}${path}`, init);
  return { status: response.status, body: await response.text(), headers: response.headers };
}

/** The request information with a client's address. */
function from(hostname: string): { remoteAddr: Deno.NetAddr } {
  return { remoteAddr: { transport: "tcp", hostname, port: 50_000 } };
}

Deno.test("serve() answers /metrics with text that Prometheus can read", async () => {
  const closed = Promise.withResolvers<void>();
  await using server = listen({
    features: [metrics()],
    onMessage: (message) => message.reply("pong"),
    onClose: () => closed.resolve(),
  });
  await using session = await dial(server.url, { transports: ["websocket"] });
  await session.request("ping");
  const leaving = await dial(server.url, { transports: ["websocket"] });
  await leaving.close({ code: 3210 });
  await closed.promise;

  const { status, body, headers } = await ask(server, "/metrics");
  assertEquals(status, 200);
  assertEquals(headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  assertEquals(headers.get("cache-control"), "no-store");
  const families = parse(body);
  assertEquals(valueOf(families, "skein_sessions", { state: "connected" }), 1);
  assertEquals(valueOf(families, "skein_sessions_opened_total"), 2);
  assertEquals(valueOf(families, "skein_sessions_closed_total", { code: "3210" }), 1);
  assertEquals(valueOf(families, "skein_messages_received_total"), 1);
  assert(valueOf(families, "skein_messages_received_bytes_total")! > 20);
  assertEquals(valueOf(families, "skein_messages_queued_bytes"), 0);
  assertEquals(valueOf(families, "skein_sessions_rejected_total", { reason: "maxSessions" }), 0);
  assertEquals(valueOf(families, "skein_draining"), 0);
  for (const [name, { type, help }] of families) {
    assertMatch(name, /^skein_[a-z_]+$/);
    assertEquals(type === "counter", name.endsWith("_total"), name);
    assertMatch(help, /^[A-Z].*[^.]$/);
  }
});

Deno.test("serve() includes QUIC handshakes in /metrics if WebTransport is on", async () => {
  await using server = listen({ features: [metrics()], webTransport: { cacheFolder: null } });
  const families = parse((await ask(server, "/metrics")).body);
  assertEquals(server.webTransportStats?.handshakes.pending, 0);
  assertEquals(valueOf(families, "skein_webtransport_listening"), 1);
  assertEquals(valueOf(families, "skein_quic_handshakes"), 0);
  for (const reason of ["ignored", "replaced", "tooSlow"]) {
    assertEquals(valueOf(families, "skein_quic_handshakes_dropped_total", { reason }), 0);
  }
  await server.close();
  assertEquals(server.webTransportStats?.isListening, false);
  await using bare = listen({ features: [metrics()], webTransport: false });
  assertEquals(parse((await ask(bare, "/metrics")).body).has("skein_quic_handshakes"), false);
});

Deno.test("serve() includes the bounds that clients share in /metrics", async () => {
  await using server = listen({
    features: [metrics()],
    webTransport: false,
    limits: { maxSessions: 9, maxSessionsPerAddress: 1 },
  });
  await using _session = await dial(server.url, { transports: ["websocket"] });
  await assertRejects(() => dial(server.url, { transports: ["websocket"] }));
  const families = parse((await ask(server, "/metrics")).body);
  const [quota, of] = [{ quota: "maxSessions" }, "skein_quota_"];
  assertEquals(valueOf(families, `${of}taken`, quota), 1);
  assertEquals(valueOf(families, `${of}max`, quota), 9);
  assertEquals(valueOf(families, `${of}rejected_total`, { ...quota, level: "address" }), 1);
  assertEquals(valueOf(families, `${of}rejected_total`, { ...quota, level: "server" }), 0);
});

Deno.test("A closed server does not listen on UDP while its TCP waits for a vanished peer", async () => {
  const vanished = Promise.withResolvers<void>();
  const host: WebSocketHost = {
    accept: acceptWebSocket,
    listen({ hostname, port }, handler) {
      const http = Deno.serve({ hostname, port, onListen() {} }, handler);
      return {
        addr: http.addr,
        async shutdown() {
          await http.shutdown();
          await vanished.promise;
        },
      };
    },
  };
  await using server = listen({ webSocket: host, webTransport: { cacheFolder: null } });
  assertEquals(server.webTransportStats?.isListening, true);
  const closing = server.close();
  await until(() => server.webTransportStats?.isListening === false);
  vanished.resolve();
  await closing;
});

Deno.test("serve() includes the counters of its broker in /metrics", async () => {
  await using server = listen({ features: [metrics()] });
  await using session = await dial(server.url, { transports: ["websocket"] });
  server.subscribe(server.manager.get(session.id) as never, "news");
  server.publish("news", "hello");
  const families = parse((await ask(server, "/metrics")).body);
  assertEquals(valueOf(families, "skein_topics"), 1);
  assertEquals(valueOf(families, "skein_broker_connected"), 1);
  assertEquals(valueOf(families, "skein_broker_published_total"), 1);
});

Deno.test("serve() answers neither /metrics nor /healthz by default", async () => {
  await using server = listen({ fetch: ({ url }) => new Response(new URL(url).pathname) });
  for (const path of ["/metrics", "/healthz"]) {
    assertEquals((await ask(server, path)).body, path);
  }
});

Deno.test("serve() answers at the configured path, and leaves the default path to the application", async () => {
  await using server = listen({
    features: [metrics({ path: "/internal/metrics" })],
    fetch: () => new Response("the application"),
  });
  parse((await ask(server, "/internal/metrics?x=1")).body);
  for (const path of ["/metrics", "/internal/metrics/"]) {
    assertEquals((await ask(server, path)).body, "the application", path);
  }
});

Deno.test("serve() answers metrics only to programs on this machine", async () => {
  await using server = createServer({ features: [metrics()] });
  const request = new Request("http://localhost/metrics", { headers: { host: "localhost:8000" } });
  assertEquals((await server.fetch(request, from("127.0.0.1"))).status, 200);
  assertEquals((await server.fetch(request, from("192.0.2.1"))).status, 403);
  assertEquals((await server.fetch(request)).status, 403, "without a known address");
});

Deno.test("serve() answers metrics to clients that metrics.allow accepts", async () => {
  const asking = async (allow: MetricsOptions["allow"], path: string) => {
    await using server = createServer({ features: [metrics({ allow })] });
    const request = new Request(`http://example.com${path}`, { headers: { host: "example.com" } });
    const response = await server.fetch(request, from("10.1.2.3"));
    if (response.status === 403) return (await response.text()).trim();
    return response.status;
  };
  const local = "Only for programs on this machine; metrics.allow lets others read";
  assertEquals(await asking(undefined, "/healthz"), local);
  assertEquals(await asking("everybody", "/metrics"), 200);
  // Probes may come from anywhere, but Prometheus may only come from its own network.
  const allow = ({ url }: Request, { remoteAddr }: { remoteAddr?: Deno.Addr }) =>
    url.endsWith("/healthz") || (remoteAddr as Deno.NetAddr).hostname.startsWith("192.168.");
  assertEquals(await asking(allow, "/healthz"), 200);
  const rejected = "metrics.allow did not return true";
  assertEquals(await asking(allow, "/metrics"), rejected);
  // The types forbid an asynchronous function. If one is passed anyway, its promise does not allow
  // any request.
  using printed = captureConsole();
  assertEquals(await asking((() => Promise.resolve(true)) as never, "/metrics"), 503);
  assertStringIncludes(printed.lines.join(), "metrics.allow returned a promise");
});

Deno.test("serve() answers metrics to GET and HEAD, and rejects other methods", async () => {
  await using server = listen({ features: [metrics()] });
  const head = await ask(server, "/healthz", { method: "HEAD" });
  assertEquals([head.status, head.body], [200, ""]);
  const post = await ask(server, "/metrics", { method: "POST" });
  assertEquals([post.status, post.headers.get("allow")], [405, "GET, HEAD"]);
});

Deno.test("serve() reports healthy unless it is full or drains", async () => {
  await using server = listen({ features: [metrics()], limits: { maxSessions: 1 } });
  const health = async () => {
    const { status, body } = await ask(server, "/healthz");
    return [status, JSON.parse(body)];
  };
  assertEquals(await health(), [200, { status: "ok", sessions: 0 }]);
  const session = await dial(server.url, { transports: ["websocket"] });
  assertEquals(await health(), [503, { status: "full", sessions: 1 }]);
  const drained = server.manager.drain({ withinMs: 2_000 });
  assertEquals((await health())[1].status, "draining");
  await session.close();
  await drained;
  assertEquals(await health(), [503, { status: "draining", sessions: 0 }]);
});

Deno.test("serve() with metrics answers a request with an invalid host", async () => {
  await using server = listen({ features: [metrics()] });
  for (const host of ["a b", "localhost:99999", "[::1"]) {
    using raw = await RawSocket.open(server.address!.port, { path: "/metrics", headers: { host } });
    assertMatch(raw.head, /^HTTP\/1\.1 (?:101|4\d\d) /, host);
  }
});

Deno.test("serve() rejects invalid metrics options", () => {
  for (
    const options of [
      { path: "metrics" },
      { path: "" },
      { path: true },
      { path: "/metrics?x" },
      { path: "/a b" },
      { path: "/a/../metrics" },
      { path: "//elsewhere/metrics" },
      { path: "/healthz" },
      { path: false },
      { allow: "nobody" },
    ]
  ) {
    assertThrows(() => metrics(options as never), TypeError, "Cannot create metrics(): ");
  }
});
