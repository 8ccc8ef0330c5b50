// run_tests: alone, and first, as these tests take longest.
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { once } from "node:events";
import * as net from "node:net";
import { AuthenticationError } from "../../errors.ts";
import { serve } from "../../server.ts";
import type { ServeOptions } from "../../server.ts";
import { fakeContext } from "../../tests/cli_context.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { selfSign } from "../../transport/certificate/x509.ts";
import { listenQuic } from "../../transport/quic/server.ts";
import { doctor } from "../commands/doctor.ts";
import { main } from "../skein.ts";
import type { Check } from "./check.ts";
import type { Examination } from "./examine.ts";
import { versionsOf } from "./webtransport.ts";
import { metrics } from "../../operations/mod.ts";

/** Runs `skein doctor --json` with short time limits. */
async function examine(url: string | URL, args: readonly string[] = []) {
  const context = fakeContext();
  const given = [...(args.some((arg) => arg.startsWith("--timeout")) ? [] : ["--timeout=20s"])];
  const code = await main(["doctor", String(url), "--json", ...given, ...args], context, [doctor]);
  assertEquals(context.err, "");
  const result = JSON.parse(context.out) as Examination;
  const check = (id: string): Check => {
    const found = result.checks.find((one) => one.id === id);
    assert(found !== undefined, `${id} is missing in ${context.out}`);
    return found;
  };
  const states = Object.fromEntries(result.checks.map(({ id, state }) => [id, state]));
  return { code, result, check, states };
}

/** Checks that a failure has a cause and a fix, in plain sentences. */
function assertFault(check: Check, { detail, cause, cure }: Record<string, RegExp>): void {
  assertEquals(check.state, "failed", JSON.stringify(check));
  if (detail !== undefined) assertMatch(check.detail, detail);
  if (cause !== undefined) assertMatch(check.cause ?? "", cause);
  if (cure !== undefined) assertMatch(check.cure ?? "", cure);
}

function start(options: ServeOptions = {}) {
  return serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
    onSessionRejected() {},
    ...options,
  });
}

/** An HTTP server that responds to all requests in the same way. */
function responding(response: (request: Request) => Response | Promise<Response>) {
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
    // A proxy whose client disconnected.
    onError: () => new Response(null, { status: 502 }),
  }, response);
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** A TCP port on which no server listens. */
function deadPort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

Deno.test("skein doctor strips control characters of a server from causes", async () => {
  // Deno's server cannot send such a header.
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end("HTTP/1.1 307 Go\r\nLocation: /a\x1b[2J\r\n\r\n"));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as net.AddressInfo;
  const { check } = await examine(`http://127.0.0.1:${port}`);
  server.close();
  assertEquals(
    check("websocket.upgrade").cause,
    "The server redirects to /a , which a WebSocket does not follow",
  );
});

Deno.test("skein doctor reports all transports of a Skein server as open", async () => {
  await using server = start({ features: [metrics()] });
  const { code, result, states, check } = await examine(server.url);
  assertEquals(code, 0);
  assertEquals(result.transports, { webtransport: "ok", websocket: "ok", http: "ok" });
  assertEquals(result.recommended, ["webtransport", "websocket", "http"]);
  assertEquals(states, {
    dns: "skipped",
    tcp: "ok",
    http: "ok",
    clock: "ok",
    health: "ok",
    "websocket.upgrade": "ok",
    "websocket.session": "ok",
    "webtransport.endpoint": "ok",
    "webtransport.udp": "ok",
    "webtransport.quic": "ok",
    "webtransport.session": "ok",
    "http.session": "ok",
    "http.events": "ok",
  });
  assertMatch(check("webtransport.session").detail, /datagrams \d+ B/);
  assertMatch(check("websocket.session").detail, /round trip \d/);
  assert((check("tcp").ms ?? -1) >= 0);
});

Deno.test("skein doctor prints a table with a cause and a fix for each failure", async () => {
  const context = fakeContext({ columns: 60 });
  const url = `http://127.0.0.1:${deadPort()}`;
  const code = await main(["doctor", url, "--timeout=20s"], context, [doctor]);
  assertEquals([code, context.err], [1, ""]);
  assertMatch(context.out, /^Examining 127\.0\.0\.1:\d+\n\nNetwork\n {2}– DNS /);
  assertMatch(context.out, / {2}✗ TCP .* ms {2}port \d+ refuses/);
  assertMatch(context.out, /^ {23}Cause: No server listens on/m);
  assertMatch(context.out, /^ {23}Cure: Start the server/m);
  assertMatch(context.out, /No transport works: start with the first ✗ above\n$/);
  for (const line of context.out.split("\n")) assert(line.length <= 75, line);
});

Deno.test("skein doctor reports a closed port", async () => {
  const { code, result, check } = await examine(`http://127.0.0.1:${deadPort()}`);
  assertEquals({ code, isReachable: result.isReachable, recommended: result.recommended }, {
    code: 1,
    isReachable: false,
    recommended: [],
  });
  assertFault(check("tcp"), { detail: /refuses connections/, cure: /Start the server/ });
  assertEquals(check("websocket.session").state, "skipped");
});

Deno.test("skein doctor reports a name that does not exist", async () => {
  const { code, check, result } = await examine("https://nothing.invalid/chat?token=secret");
  assertEquals(code, 1);
  assertFault(check("dns"), { detail: /nothing\.invalid does not resolve/, cure: /A and AAAA/ });
  assertEquals(result.url, "https://nothing.invalid/chat");
  assertEquals(result.transports.websocket, "failed");
});

Deno.test("skein doctor reports a server that never responds", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const conns: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const conn of listener) conns.push(conn);
  })().catch(() => {});
  const { port } = listener.addr as Deno.NetAddr;
  const { code, check } = await examine(`http://127.0.0.1:${port}`, ["--timeout=1500ms"]);
  assertEquals([code, check("tcp").state], [1, "ok"]);
  assertFault(check("http"), { detail: /no response within 1\.5 s/, cure: /--timeout/ });
  listener.close();
  await accepting;
  for (const conn of conns) conn.close();
});

Deno.test("skein doctor reports WebTransport without a QUIC server", async () => {
  await using server = start({ webTransport: false });
  const without = await examine(server.url);
  assertEquals([without.code, without.result.transports.webtransport], [0, "failed"]);
  assertFault(without.check("webtransport.endpoint"), { cure: /--unstable-net/ });
  assertEquals(without.result.recommended, ["websocket", "http"]);

  const hash = `--cert-hash=${"ab".repeat(32)}`;
  const closed = await examine(server.url, [hash, "--timeout=900ms"]);
  assertFault(closed.check("webtransport.udp"), { cause: /No QUIC server listens on UDP port/ });
  assertEquals(closed.check("webtransport.quic").state, "skipped");
});

Deno.test("skein doctor reports a wrong hash, and a QUIC server without HTTP/3", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  await using server = start({
    webTransport: { certificate },
  });
  const { port } = new URL(server.webTransportUrl);
  // The hash of another certificate.
  const wrong = await examine(`http://127.0.0.1:${port}`, [`--cert-hash=${"ab".repeat(32)}`]);
  assertFault(wrong.check("webtransport.quic"), {
    detail: /certificate is not accepted/,
    cure: /Read the hash again/,
  });

  const listener = listenQuic({
    hostname: "127.0.0.1",
    port: 0,
    protocols: ["other"],
    cert: certificate.cert,
    key: certificate.key,
  });
  const accepting = (async () => {
    for await (const _ of listener);
  })().catch(() => {});
  const hash = `--cert-hash=${new Uint8Array(certificate.hashes[0]!.value as Uint8Array).toHex()}`;
  const other = await examine(`http://127.0.0.1:${listener.address.port}`, [hash]);
  assertEquals(other.check("webtransport.udp").state, "ok");
  assertFault(other.check("webtransport.quic"), { detail: /does not speak HTTP\/3/ });
  await listener.close();
  await accepting;
});

Deno.test("skein doctor reports a WebSocket server without Skein", async () => {
  await using server = responding((request) => {
    if (request.headers.get("upgrade") === null) return new Response("", { status: 426 });
    return Deno.upgradeWebSocket(request).response;
  });
  const { code, check, result } = await examine(server.url);
  assertEquals([code, result.transports.websocket], [1, "failed"]);
  assertEquals(check("websocket.upgrade").state, "ok");
  assertFault(check("websocket.session"), {
    detail: /did not choose the subprotocol skein\.1/,
    cause: /not a Skein server/,
  });
  assertFault(check("http.session"), {
    detail: /status 426 is not from a Skein server/,
    cure: /path/,
  });
});

Deno.test("skein doctor reports a server without Skein that accepts any subprotocol", async () => {
  await using server = responding((request) => {
    if (request.headers.get("upgrade") === null) return new Response("", { status: 426 });
    return Deno.upgradeWebSocket(request, { protocol: "skein.1" }).response;
  });
  const { code, check } = await examine(server.url, ["--timeout=3s"]);
  assertEquals([code, check("websocket.upgrade").state], [1, "ok"]);
  assertFault(check("websocket.session"), {
    detail: /no response within 3 s/,
    cause: /accepts the subprotocol skein\.1 but sends no first message: it is not a Skein server/,
  });
});

Deno.test("skein doctor reports a wrong path if the network is open", async () => {
  await using server = start({ path: "/chat" });
  const { code, check, result } = await examine(server.url);
  assertEquals({
    code,
    websocket: result.transports.websocket,
    webtransport: result.transports.webtransport,
  }, { code: 1, websocket: "rejected", webtransport: "rejected" });
  for (const id of ["websocket.session", "webtransport.session"]) {
    assertFault(check(id), { detail: /^rejected with 404: /, cure: /Add the session path/ });
  }
  const right = await examine(new URL("/chat", server.url));
  assertEquals(right.code, 0);
});

Deno.test("versionsOf() reads versions only from a version negotiation packet", () => {
  const bytes = (hex: string) => Uint8Array.fromHex(hex);
  const ids = "02aabb03ccddee";
  assertEquals(versionsOf(bytes(`c000000000${ids}000000016b3343cfff00001d0a1a2a3a`)), [
    "1",
    "2",
    "draft-29",
  ]);
  for (const other of ["", "40", `c000000001${ids}00000001`, `4000000000${ids}00000001`]) {
    assertEquals(versionsOf(bytes(other)), undefined, other);
  }
});

Deno.test("skein doctor explains responses of web servers and proxies by status", async () => {
  const cases: [number, Record<string, string>, string, RegExp, RegExp][] = [
    [200, {}, "<html>", /as a web server/, /path in the URL/],
    [
      200,
      { server: "nginx/1.24" },
      "<html>",
      /nginx removes the headers Upgrade/,
      /proxy_http_version/,
    ],
    [404, {}, "Not found", /No WebSocket is served/, /Add the session path/],
    [426, {}, "Upgrade required", /removes the headers Upgrade/, /proxy_set_header Upgrade/],
    [
      502,
      { server: "nginx/1.24" },
      "",
      /cannot reach the server behind/,
      /configuration of the proxy/,
    ],
    [504, {}, "", /does not respond/, /timeouts of the proxy/],
    [401, {}, "", /requires credentials/, /--token/],
    [403, {}, "Forbidden by rule 7", /forbids/, /rules of the proxy/],
    [429, {}, "", /rejects more connections/, /maxSessionsPerAddress/],
    [503, {}, "", /is draining or full/, /Try later/],
    [500, {}, "", /does not accept the upgrade/, /logs/],
    [
      301,
      { location: "https://other.example/" },
      "",
      /redirects to https:\/\/other/,
      /the redirect/,
    ],
  ];
  for (const [status, headers, text, cause, cure] of cases) {
    await using server = responding(() => new Response(text, { status, headers }));
    const { code, check } = await examine(server.url);
    assertEquals(code, 1);
    const upgrade = check("websocket.upgrade");
    assertFault(upgrade, { detail: new RegExp(`^${status}`), cause, cure });
  }
});

Deno.test("skein doctor reports a proxy that strips upgrades, and recommends HTTP", async () => {
  await using server = start({ webTransport: false });
  const behind = new URL(server.url.replace("ws", "http"));
  await using proxy = responding(async (request) => {
    const url = new URL(request.url);
    url.host = behind.host;
    const headers = new Headers(request.headers);
    for (const name of ["upgrade", "connection", "sec-websocket-key"]) headers.delete(name);
    const response = await fetch(url, {
      method: request.method,
      headers,
      body: request.body,
      signal: request.signal,
    });
    const seen = new Headers(response.headers);
    seen.set("via", "1.1 proxy");
    const body = response.status === 204 ? null : response.body;
    return new Response(body, { status: response.status, headers: seen });
  });
  const { code, check, result } = await examine(proxy.url);
  assertFault(check("websocket.upgrade"), {
    detail: /^426/,
    cause: /removes the headers Upgrade and Connection/,
  });
  assertEquals([code, result.transports.http], [0, "ok"]);
  assertEquals(result.recommended, ["http"]);
});

Deno.test("skein doctor reports a proxy that buffers event streams", async () => {
  await using server = start({ webTransport: false });
  const behind = new URL(server.url.replace("ws", "http"));
  await using proxy = responding(async (request) => {
    const url = new URL(request.url);
    url.host = behind.host;
    const response = await fetch(url, {
      method: request.method,
      headers: request.headers,
      body: request.body,
      signal: request.signal,
    });
    // Buffers the whole response.
    const body = await response.arrayBuffer();
    return new Response(response.status === 204 ? null : body, response);
  });
  const { check, result } = await examine(proxy.url);
  assertEquals([check("http.session").state, result.transports.http], ["ok", "ok"]);
  assertEquals(check("http.events").state, "warning");
  assertMatch(check("http.events").cure ?? "", /proxy_buffering off/);
});

/** A certificate that is valid between two days relative to now. */
function lasting(fromDays: number, toDays: number): { cert: string; key: string } {
  const dateOf = (days: number) => new Date(Date.now() + days * 86_400_000 + 3_600_000);
  const { der, key } = selfSign({
    names: ["localhost"],
    notBefore: dateOf(fromDays),
    notAfter: dateOf(toDays),
  });
  const cert = `-----BEGIN CERTIFICATE-----\n${der.toBase64()}\n-----END CERTIFICATE-----\n`;
  return { cert, key };
}

Deno.test("skein doctor reports certificates that are self-signed, expired or for another name", async () => {
  const self = devCertificate({ cacheFolder: null });
  const other = devCertificate({ cacheFolder: null, names: ["other.example"] });
  const cases: [{ cert: string; key: string }, RegExp, RegExp][] = [
    [self, /self-signed/, /Let's Encrypt.*serverCertificateHashes, sha-256 [0-9a-f]{64}/],
    [other, /for other names: other\.example/, /name of the certificate in the URL/],
    [lasting(-10, -3), /expired 3 days ago/, /Renew/],
    [lasting(2, 9), /not valid before/, /clocks of both machines/],
  ];
  for (const [{ cert, key }, detail, cure] of cases) {
    await using server = start({ tls: { cert, key } });
    const { port } = server.address!;
    const { code, check, states } = await examine(`https://localhost:${port}`);
    assertEquals(code, 1);
    assertFault(check("tls"), { detail, cure });
    // Later checks still run.
    assertEquals([states["http"], states["websocket.upgrade"]], ["ok", "ok"]);
    assertFault(check("websocket.session"), { cure: /Fix the certificate/ });
  }
});

Deno.test("skein doctor reports a URL with TLS for a server without it, and vice versa", async () => {
  await using server = start();
  const { port } = server.address!;
  const secure = await examine(`https://127.0.0.1:${port}`);
  assertFault(secure.check("tls"), { detail: /does not speak TLS/, cure: /http: or ws:/ });

  const { cert, key } = devCertificate({ cacheFolder: null });
  await using other = start({ tls: { cert, key }, webTransport: false });
  const plain = await examine(`http://127.0.0.1:${other.address!.port}`);
  assertEquals(plain.code, 1);
  assertEquals(plain.check("http").state, "failed");
});

Deno.test("skein doctor trusts a development certificate by its hash, over WebTransport only", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  const { cert, key } = certificate;
  await using server = start({ tls: { cert, key } });
  const hash = new Uint8Array(certificate.hashes[0]!.value as Uint8Array).toHex();
  const { code, result } = await examine(`https://localhost:${server.address!.port}`, [
    `--cert-hash=${hash}`,
  ]);
  assertEquals(result.transports, { webtransport: "ok", websocket: "failed", http: "failed" });
  assertEquals([code, result.recommended], [0, ["webtransport"]]);
});

Deno.test("skein doctor reports a server that listens on only one address of its name", async () => {
  const listener = Deno.listen({ hostname: "::1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  await using _server = start({ hostname: "::1", port, webTransport: false });
  const six = await examine(`http://[::1]:${port}`);
  assertEquals([six.code, six.check("tcp").state], [0, "ok"]);
  assertStringIncludes(six.check("tcp").detail, "::1 in ");

  const named = await examine(`http://localhost:${port}`);
  const { ipv4 } = named.check("dns").facts as { ipv4: readonly string[] };
  // On most machines the name has both addresses.
  if (ipv4.length > 0) assertFault4(named.check("tcp"));
});

function assertFault4({ state, cause = "" }: Check): void {
  assert(state === "warning" || state === "failed", state);
  if (state === "warning") assertMatch(cause, /127\.0\.0\.1 does not respond/);
}

Deno.test("skein doctor rejects an --origin without a scheme", async () => {
  for (const origin of ["app.example.com", "localhost:5173", "https://"]) {
    const context = fakeContext();
    const code = await main(["doctor", "localhost:1", "--origin", origin], context, [doctor]);
    assertEquals([code, context.out], [2, ""]);
    assertStringIncludes(context.err, `like https://app.example.com, received "${origin}"`);
  }
});

Deno.test("skein doctor reports an origin that the server rejects, for WebSocket and HTTP", async () => {
  await using server = start({ origins: ["https://app.example.com"] });
  const rejected = await examine(server.url, ["--origin=https://evil.example"]);
  assertFault(rejected.check("websocket.origin"), {
    detail: /^403 for pages of https:\/\/evil\.example/,
    cure: /Add "https:\/\/evil\.example" to `origins`/,
  });
  assertEquals(rejected.check("http.cors").state, "warning");
  // The URL of a page, as copied from the browser.
  const allowed = await examine(server.url, ["--origin=https://app.example.com:443/chat"]);
  assertEquals(
    [allowed.check("websocket.origin").state, allowed.check("http.cors").state],
    ["ok", "ok"],
  );
});

Deno.test("skein doctor distinguishes a rejected session from a blocked network", async () => {
  await using server = start({
    tokens: { inMessage: true },
    authenticate: ({ token }) => {
      if (token !== "right") throw new AuthenticationError("Who are you");
      return "ann";
    },
  });
  for (const args of [[], ["--token=wrong"]]) {
    const { code, check, result } = await examine(server.url, args);
    assertEquals(code, 1);
    assertEquals(result.transports, {
      webtransport: "rejected",
      websocket: "rejected",
      http: "rejected",
    });
    assertFault(check("websocket.session"), {
      detail: /rejected with 401: Who are you/,
      cause: args.length === 0 ? /none was given/ : /does not accept this token/,
      cure: /--token/,
    });
  }
  const { code, result } = await examine(server.url, ["--token=right"]);
  assertEquals([code, result.recommended], [0, ["webtransport", "websocket", "http"]]);
});

Deno.test("skein doctor reports a draining server", async () => {
  await using server = start({ features: [metrics()] });
  const { url } = server;
  const session = new WebSocket(url);
  // The drain may close the session at any time.
  const closed = new Promise((resolve) => session.onclose = resolve);
  await new Promise((resolve) => session.onopen = resolve);
  server.manager.drain({ withinMs: 60_000 }).catch(() => {});
  const { code, check } = await examine(url);
  assertEquals(code, 1);
  assertFault(check("health"), { detail: /is draining/, cure: /another node/ });
  assertFault(check("websocket.session"), { cause: /drain/ });
  session.close();
  await closed;
});

Deno.test("skein doctor reports a wrong clock", async () => {
  const headers = { date: new Date(Date.now() - 600_000).toUTCString() };
  await using server = responding(() => new Response("", { status: 404, headers }));
  const { check } = await examine(server.url);
  const { state, detail, cure } = check("clock");
  assertEquals(state, "warning");
  assertMatch(detail, /clock is (?:599|600|601) s behind/);
  assertMatch(cure ?? "", /NTP/);
});

Deno.test("skein doctor reports a port of another protocol", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const exchange = (async () => {
    const conn = await listener.accept();
    conn.close();
    const second = await listener.accept();
    await second.write(new TextEncoder().encode("SSH-2.0-OpenSSH_9.6\r\n"));
    return second;
  })();
  const { port } = listener.addr as Deno.NetAddr;
  const { check } = await examine(`http://127.0.0.1:${port}`);
  assertFault(check("http"), { detail: /starts with "SSH-2\.0/, cause: /does not speak HTTP/ });
  (await exchange).close();
});

Deno.test("skein doctor stops at Ctrl-C during a check", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const context = fakeContext();
  const running = main(["doctor", `http://127.0.0.1:${port}`], context, [doctor]);
  await context.until("TCP");
  context.interrupt();
  assertEquals(await running, 130);
  (await listener.accept()).close();
});

Deno.test("skein doctor rejects wrong options, with the exit code 2", async () => {
  for (const args of [["ftp://x"], ["http://x", "--timeout=soon"], ["http://x", "-H", "x"], []]) {
    const context = fakeContext();
    assertEquals(await main(["doctor", ...args], context, [doctor]), 2, context.err);
    assertEquals(context.out, "");
  }
});
