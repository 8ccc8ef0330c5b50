/** Tests the template `hooks` with backends that misbehave. */
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { delay } from "@std/async/delay";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { dial, type RequestError, type Session, SessionClosedError } from "../../mod.ts";
import { devCertificate } from "../../transport/mod.ts";
import { API_KEY, ENV, type HooksTemplate, loadHooks, SECRET } from "./template.ts";
import { soon, until } from "../waiting.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

const QUIET = { port: 0, onListen() {} };

/** Time limit of a call with a hostile backend, in milliseconds. */
const TIMEOUT_MS = 200;

/** The headers and the body of a call. */
interface Received {
  readonly head: string;
  readonly body: string;
}

/** Answers a call on its connection, which is closed afterwards. */
type Move = (connection: Deno.TcpConn, received: Received) => Promise<void>;

/** Reads one request. */
async function readCall(connection: Deno.TcpConn): Promise<Received | undefined> {
  let text = "";
  const buffer = new Uint8Array(16_384);
  while (true) {
    const count = await connection.read(buffer);
    if (count === null) return undefined;
    text += new TextDecoder().decode(buffer.subarray(0, count));
    const [head = "", ...rest] = text.split("\r\n\r\n");
    const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? NaN);
    const body = rest.join("\r\n\r\n");
    if (body.length >= length) return { head, body };
  }
}

/** Runs a backend that writes bytes of its own to each connection. */
function openBackend(moveOf: (call: Received) => Move) {
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const open = new Set<Deno.TcpConn>();
  const stats = { calls: 0, open: 0, peak: 0 };
  const serve = async (connection: Deno.TcpConn) => {
    open.add(connection);
    stats.open++;
    stats.peak = Math.max(stats.peak, stats.open);
    try {
      const call = await readCall(connection);
      if (call === undefined) return;
      stats.calls++;
      await moveOf(call)(connection, call);
    } catch {
      // The caller has gone.
    } finally {
      if (open.delete(connection)) connection.close();
      stats.open--;
    }
  };
  const serving: Promise<void>[] = [];
  const accepting = (async () => {
    for await (const connection of listener) serving.push(serve(connection));
  })();
  return {
    url: `http://127.0.0.1:${listener.addr.port}/`,
    stats,
    /** Closes all connections. */
    drop() {
      for (const connection of open) if (open.delete(connection)) connection.close();
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      this.drop();
      await accepting;
      await Promise.all(serving);
    },
  };
}

async function write(connection: Deno.TcpConn, ...parts: (string | Uint8Array)[]): Promise<void> {
  for (const part of parts) {
    let bytes = typeof part === "string" ? new TextEncoder().encode(part) : part;
    while (bytes.length > 0) bytes = bytes.subarray(await connection.write(bytes));
  }
}

/** Waits until the caller closes the connection. */
async function untilClosed(connection: Deno.TcpConn): Promise<void> {
  while (await connection.read(new Uint8Array(1_024)) !== null);
}

const responding = (status: number, body: string | Uint8Array): Move => async (connection) => {
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const head = `HTTP/1.1 ${status} X\r\ncontent-length: ${bytes.length}\r\n`;
  await write(connection, `${head}connection: close\r\n\r\n`, bytes);
};

/** Bodies that allow, by the type of the call. */
const ALLOWS: Readonly<Record<string, string>> = {
  connect: '{"allow":true,"user":"ann"}',
  subscribe: '{"allow":true}',
  publish: '{"allow":true}',
  request: '{"allow":true,"reply":"pong"}',
};

const typeOf = ({ body }: Received): string => JSON.parse(body).type;
const allow: Move = (connection, call) => responding(200, ALLOWS[typeOf(call)]!)(connection, call);
const hang: Move = (connection) => untilClosed(connection);

/** A move of a hostile backend, with its name in a failure. */
interface NamedMove {
  readonly name: string;
  readonly move: Move;
}

const named = (name: string, move: Move): NamedMove => ({ name, move });

/** Moves that decide nothing. */
function hostileMoves(elsewhere: string): fc.Arbitrary<NamedMove> {
  const good = new TextEncoder().encode(ALLOWS["request"]!);
  return fc.oneof(
    fc.constant(named("hang", hang)),
    fc.constant(named("drop", () => Promise.resolve())),
    fc.constantFrom(301, 302, 303, 307, 308).map((status) =>
      named(`redirect ${status}`, async (connection) => {
        const head = `HTTP/1.1 ${status} X\r\nlocation: ${elsewhere}\r\ncontent-length: 0\r\n`;
        await write(connection, `${head}connection: close\r\n\r\n`);
      })
    ),
    fc.constantFrom(201, 299, 400, 401, 403, 404, 429, 500, 503, 599).chain((status) =>
      fc.constantFrom("", "null", "[]", "{}", '{"allow":1}', '{"allow":"true"}', '{"alow":true}')
        .map((body) => named(`status ${status} ${body}`, responding(status, body)))
    ),
    fc.constantFrom(400, 404, 500).map((status) =>
      named(
        `allows with ${status}`,
        (connection, call) => responding(status, ALLOWS[typeOf(call)]!)(connection, call),
      )
    ),
    fc.json().filter((json) => Object(JSON.parse(json)).allow === undefined)
      .map((json) => named(`json ${json}`, responding(200, json))),
    fc.constant(named("unknown members", responding(200, '{"allow":true,"admin":true,"x":1}'))),
    fc.uint8Array({ minLength: 1, maxLength: 64 }).filter((bytes) => bytes[0]! > 127)
      .map((bytes) => named(`bytes ${bytes}`, responding(200, bytes))),
    fc.string().map((text) =>
      named(`no http ${text}`, (connection) => write(connection, `${text}\r\n\r\n`))
    ),
    fc.nat(good.length - 1).map((count) =>
      named(`cut after ${count}`, async (connection) => {
        const head = `HTTP/1.1 200 X\r\ncontent-length: ${good.length}\r\n\r\n`;
        await write(connection, head, good.subarray(0, count));
      })
    ),
    fc.constant(
      named("slow", async (connection) => {
        await write(connection, `HTTP/1.1 200 X\r\ncontent-length: ${good.length}\r\n\r\n`);
        for (const byte of good) {
          await write(connection, new Uint8Array([byte]));
          await delay(TIMEOUT_MS / 4);
        }
      }),
    ),
    fc.constant(
      named("huge", async (connection, call) => {
        const body = ALLOWS[typeOf(call)]! + " ".repeat(65_536);
        await responding(200, body)(connection, call);
      }),
    ),
    fc.constant(
      named("bomb", async (connection, call) => {
        const text = new Blob([ALLOWS[typeOf(call)]!, " ".repeat(16_777_216)]).stream();
        const zipped = text.pipeThrough(new CompressionStream("gzip"));
        const bytes = await new Response(zipped).bytes();
        const head = `HTTP/1.1 200 X\r\ncontent-length: ${bytes.length}\r\n`;
        await write(connection, `${head}content-encoding: gzip\r\n\r\n`, bytes);
      }),
    ),
    fc.constant(
      named("endless", async (connection) => {
        await write(connection, "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n");
        const chunk = `4000\r\n${" ".repeat(0x4000)}\r\n`;
        while (true) await write(connection, chunk);
      }),
    ),
  );
}

/** Actions of a client about which the server asks the backend. */
const ACTIONS: Readonly<Record<string, (session: Session, url: string) => Promise<unknown>>> = {
  connect: async (_session, url) => await (await open(url)).close(),
  subscribe: (session) => session.subscribe(`a:${crypto.randomUUID()}`),
  publish: (session) => session.publish("a:b", "hello"),
  request: (session) => session.request("ping"),
};

const open = (url: string) => dial(url, { transports: ["websocket"] });

const settings = (url: string, options: object = {}) =>
  JSON.stringify({
    backend: {
      url,
      hooks: ["connect", "subscribe", "publish", "request"],
      requests: ["ping"],
      ...options,
    },
  });

Deno.test("A server with hooks refuses when its backend is hostile, and serves on", async () => {
  await using template = await loadHooks();
  let hostile: NamedMove | undefined;
  let hostileType = "";
  let followed = 0;
  await using elsewhere = openBackend(() => (connection, call) => {
    followed++;
    return allow(connection, call);
  });
  await using backend = openBackend((call) =>
    hostile !== undefined && typeOf(call) === hostileType ? hostile.move : allow
  );
  // One slot for all actions of an address: a slot that is not given back would refuse them all.
  const config = template.checkConfig(
    settings(backend.url, { maxCalls: 16, maxCallsPerAddress: 1, timeoutMs: TIMEOUT_MS }),
    ENV,
  );
  await using server = template.start(config, QUIET);
  // A busy backend may be too late.
  await using session = await until(() => open(server.url).catch(() => undefined));
  await fc.assert(
    fc.asyncProperty(
      hostileMoves(elsewhere.url),
      fc.constantFrom(...Object.keys(ACTIONS)),
      async (move, type) => {
        [hostile, hostileType] = [move, type];
        const act = () => ACTIONS[type]!(session, server.url);
        await assertRejects(() => soon(act()), Error, undefined, `${type}: ${move.name}`);
        hostile = undefined;
        await until(() => act().then(() => true, () => false));
      },
    ),
    { numRuns: 120, seed: 68 },
  );
  assertEquals(followed, 0);
});

slowTest("10,000 calls while the backend hangs stay within the bounds", async () => {
  await using template = await loadHooks();
  let move = hang;
  await using backend = openBackend(() => move);
  const config = template.checkConfig(settings(backend.url), ENV);
  const { hooks, done } = decisions(template, config);
  const rejected: RequestError[] = [];
  const ask = (i: number, address: string) =>
    hooks.authorize({ id: `${i}`, value: { user: "ann" }, address }, `a:${i}`, "subscribe")
      .catch((error) => void rejected.push(error));
  try {
    const calls = Array.from({ length: 10_000 }, (_, i) => ask(i, `192.0.2.${i % 250}`));
    await until(() => backend.stats.calls === 512 && rejected.length === 10_000 - 512);
    backend.drop();
    await soon(Promise.all(calls));
    assertEquals([backend.stats.calls, backend.stats.peak, rejected.length], [512, 512, 10_000]);
    assertEquals(new Set(rejected.map(({ failure }) => failure.code)), new Set(["unavailable"]));

    // One address has its share, and others are served meanwhile.
    rejected.length = 0;
    const greedy = Array.from({ length: 10_000 }, (_, i) => ask(i, `2001:db8::${i.toString(16)}`));
    await until(() => backend.stats.calls === 512 + 32 && rejected.length === 10_000 - 32);
    move = allow;
    assertEquals(await ask(0, "192.0.2.1"), true);
    backend.drop();
    await soon(Promise.all(greedy));
    assertEquals(await ask(0, "2001:db8::1"), true);
    assertEquals(backend.stats.calls, 512 + 32 + 2);
  } finally {
    done();
  }
});

Deno.test("One address can't use all calls with its handshakes", async () => {
  const address = `import { forwardedAddress } from "@skein/skein";
    export const clientAddress = forwardedAddress({ trusted: 1 });`;
  await using template = await loadHooks({ "address.ts": address });
  let isHanging = true;
  await using backend = openBackend(() => isHanging ? hang : allow);
  const config = template.checkConfig(
    settings(backend.url, { maxCalls: 16, maxCallsPerAddress: 4 }),
    ENV,
  );
  await using server = template.start(config, QUIET);
  const from = (address: string) =>
    dial(server.url, { transports: ["websocket"], headers: { "x-forwarded-for": address } });
  const greedy = Array.from({ length: 12 }, () => from("192.0.2.1").catch((error) => error));
  const rejected = Array.from(greedy, async (one) => {
    assert(await one instanceof SessionClosedError);
  });
  await until(() => backend.stats.calls === 4);
  isHanging = false;
  await using other = await soon(from("192.0.2.2"));
  assertEquals(other.isClosed, false);
  assertEquals(backend.stats.calls, 5);
  await server.close();
  await Promise.all(rejected);
});

/** The decisions of the template, without a server. */
function decisions(template: HooksTemplate, config: ReturnType<HooksTemplate["checkConfig"]>) {
  const backend = new template.Backend(
    config.backend as unknown as ConstructorParameters<HooksTemplate["Backend"]>[0],
  );
  const events = new template.Events(backend, { kinds: [], settleMs: 1, log() {} });
  return {
    hooks: template.hooksOf(config, { backend, events, log() {} }),
    done: () => backend.close(),
  };
}

Deno.test("Calls are signed with each secret, and never have credentials after the first", async () => {
  await using template = await loadHooks();
  const calls: Received[] = [];
  await using backend = openBackend((call) => {
    calls.push(call);
    return allow;
  });
  const OLD = `whsec_${new Uint8Array(32).fill(8).toBase64()}`;
  const env = { get: (name: string) => name === "HOOKS_SECRET_OLD" ? OLD : ENV.get(name) };
  await using server = template.start(template.checkConfig(settings(backend.url), env), QUIET);
  const headers = { cookie: "sid=1", "x-secret": "no", authorization: "Bearer t" };
  await using session = await dial(server.url, { transports: ["websocket"], headers });
  for (const type of ["subscribe", "publish", "request"]) {
    await ACTIONS[type]!(session, server.url);
  }
  assertEquals(calls.map(typeOf), ["connect", "subscribe", "publish", "request"]);
  assertEquals(JSON.parse(calls[0]!.body), {
    type: "connect",
    credentials: { authorization: "Bearer t", cookie: "sid=1", origin: null, token: "t" },
  });
  for (const { body } of calls.slice(1)) {
    const { user, info, session: id, address } = JSON.parse(body);
    assertEquals({ user, info, id, address }, {
      user: "ann",
      info: null,
      id: JSON.parse(calls[1]!.body).session,
      address: "127.0.0.1",
    });
    assert(!/sid=1|Bearer|x-secret/.test(body));
  }
  calls.length = 4;
  await session.publish("a:b", new Uint8Array([1, 2]));
  assertEquals(JSON.parse(calls.pop()!.body).base64, "AQI=");
  for (const { head, body } of calls) {
    const value = (name: string) => new RegExp(`^${name}: (.*)$`, "im").exec(head)![1]!;
    assert(Math.abs(Number(value("webhook-timestamp")) - Date.now() / 1_000) < 60);
    const signed = `${value("webhook-id")}.${value("webhook-timestamp")}.${body}`;
    const expected = await Promise.all([SECRET, OLD].map((secret) => macOf(secret, signed)));
    assertEquals(value("webhook-signature"), expected.map((mac) => `v1,${mac}`).join(" "));
    assert(!/cookie|sid=1|Bearer/i.test(head));
    assertEquals(value("host"), new URL(backend.url).host);
    assertMatch(head, /^POST \/ HTTP\/1\.1\r\n/);
  }
});

async function macOf(secret: string, text: string): Promise<string> {
  const key = await crypto.subtle.importKey(
    "raw",
    Uint8Array.fromBase64(secret.slice("whsec_".length)),
    { name: "HMAC", hash: "SHA-256" },
    false,
    ["sign"],
  );
  const mac = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(text));
  return new Uint8Array(mac).toBase64();
}

Deno.test("Calls over http go only to the private address that was checked", async () => {
  await using template = await loadHooks();
  const hosts: string[] = [];
  await using backend = openBackend(({ head }) => {
    hosts.push(/^host: (.*)$/im.exec(head)![1]!);
    return responding(200, "1");
  });
  const { port } = new URL(backend.url);
  const post = async (name: string, ...answers: readonly string[][]) => {
    const asked: string[] = [];
    const caller = new template.Backend({
      url: `http://${name}:${port}/`,
      secrets: [SECRET],
      timeoutMs: 5_000,
      resolve: (of) => {
        asked.push(of);
        return Promise.resolve(answers[asked.length - 1] ?? ["203.0.113.1"]);
      },
    });
    try {
      return await caller.post({}, { id: "1" });
    } finally {
      caller.close();
      assertEquals(asked, [name.replace(/[[\]]/g, "")]);
    }
  };
  // The name is resolved once for a call, and not again by the connection.
  assertEquals(await post("rebinding.example", ["127.0.0.1"], ["203.0.113.1"]), 1);
  assertEquals(hosts, [`rebinding.example:${port}`]);
  const refused = [["203.0.113.1"], ["127.0.0.1", "203.0.113.1"], ["169.254.169.254"], []];
  for (const addresses of refused) {
    await assertRejects(() => post("public.example", addresses), Error, "private addresses only");
  }
  assertEquals(hosts.length, 1);
});

Deno.test("Calls over https go only to a backend whose certificate is valid", async () => {
  await using template = await loadHooks();
  let calls = 0;
  const { cert, key } = devCertificate({ cacheFolder: null });
  const options = { port: 0, hostname: "127.0.0.1", onListen() {}, cert, key };
  await using stranger = Deno.serve(options, () => {
    calls++;
    return Response.json(1);
  });
  const url = `https://127.0.0.1:${stranger.addr.port}/`;
  const caller = new template.Backend({ url, secrets: [SECRET], timeoutMs: 5_000 });
  await assertRejects(() => caller.post({}, { id: "1" }), Error, "certificate");
  caller.close();
  assertEquals(calls, 0);
});

Deno.test("isPrivate() knows private and loopback addresses", async () => {
  await using template = await loadHooks();
  const own = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.9.9", "192.168.1.1", "::1"];
  const addresses = [...own, "fd00::1", "fc12::", "::ffff:10.0.0.1"];
  assertEquals(addresses.filter((address) => !template.isPrivate(address)), []);
  const foreign = ["8.8.8.8", "172.15.0.1", "172.32.0.1", "192.169.0.1", "169.254.169.254"];
  const others = [...foreign, "0.0.0.0", "::", "fe80::1", "2001:db8::1", "::ffff:8.8.8.8", ""];
  assertEquals(others.filter((address) => template.isPrivate(address)), []);
});

Deno.test("networkOf() counts an IPv6 /64 as one address", async () => {
  await using template = await loadHooks();
  const cases = {
    "192.0.2.1": "192.0.2.1",
    "::ffff:192.0.2.1": "192.0.2.1",
    "2001:db8::1": "2001:db8:0:0",
    "2001:DB8:0:0:1:2:3:4": "2001:db8:0:0",
    "2001:0db8:0001::": "2001:db8:1:0",
    "::1": "0:0:0:0",
  };
  const found = Object.keys(cases).map((address) => template.networkOf(address));
  assertEquals(found, Object.values(cases));
});

Deno.test("A mistake in skein.json is named with its path", async () => {
  await using template = await loadHooks();
  const good = { url: "http://localhost:9000", hooks: ["connect"] };
  const check = (config: unknown, env = ENV) =>
    template.checkConfig(typeof config === "string" ? config : JSON.stringify(config), env);
  const cases: [config: unknown, text: string][] = [
    ["{", "skein.json is not JSON: "],
    ["null", "(the whole file): "],
    [{}, "\n  backend: "],
    [{ backend: { ...good, url: "file:///etc" } }, "\n  backend.url: "],
    [{ backend: { ...good, hooks: ["conect"] } }, "\n  backend.hooks[0]: "],
    [{ backend: { ...good, maxCalls: 8 } }, "\n  backend.maxCallsPerAddress: Must be at most"],
    [{ backend: { ...good, timeoutMs: 6_000 } }, "\n  backend.timeoutMs: "],
    [{ backend: good, serve: { port: "80" } }, "\n  serve.port: "],
    [{ backend: good, serve: { prot: 80 } }, '\n  serve: Unrecognized key: "prot"'],
    [
      { backend: good, serve: { history: { "room:{name}": { size: 0 } } } },
      '\n  serve.history["room:{name}"].size: ',
    ],
    [
      { backend: good, serve: { limits: { maxSessionsPerAddress: 257 } } },
      "\n  serve.limits.maxSessionsPerAddress: Must be at most a quarter of backend.maxCalls (256)",
    ],
  ];
  for (const [config, text] of cases) {
    const { message } = assertThrows(() => check(config), Error);
    assert(message.startsWith("Cannot start: "), message);
    assert(message.includes(text), message);
  }
  for (
    const secret of ["", "short", "whsec_c2hvcnQ=", "whsec_not base64 but long enough for one"]
  ) {
    const env = { get: (name: string) => name === "HOOKS_SECRET" ? secret : ENV.get(name) };
    assertThrows(() => check({ backend: good }, env), Error, "HOOKS_SECRET must be set");
  }
  const keyless = { get: (name: string) => name === "API_KEY" ? "short" : ENV.get(name) };
  const config = { backend: good, api: { path: "/api" } };
  assertThrows(() => check(config, keyless), Error, "API_KEY must be set");
  const { serve } = check({ backend: good, serve: { limits: { maxSessions: 9 } } });
  assertEquals(serve.limits, { maxSessions: 9, maxSessionsPerAddress: 256 });
});

Deno.test("dev.ts names skein.json if it is not JSON", async () => {
  await using template = await loadHooks({ "skein.json": '{ "serve": { } "backend": { } }' });
  const config = fileURLToPath(new URL("../../deno.json", import.meta.url));
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--config", config, `${template.folder}/dev.ts`],
    stdin: "null",
  }).output();
  assertEquals(code, 1);
  assertMatch(
    new TextDecoder().decode(stderr),
    /^Cannot start: skein\.json is not JSON: Expected /m,
  );
});

Deno.test("Calls of the backend's own HTTP requests are not sent to the backend", async () => {
  await using template = await loadHooks();
  await using backend = openBackend(() => allow);
  const text = JSON.stringify({ ...JSON.parse(settings(backend.url)), api: { path: "/api" } });
  await using server = template.start(template.checkConfig(text, ENV), QUIET);
  const url = `${server.url.replace("ws:", "http:")}api/topics/a%3Ab/publications`;
  const publish = async (key: string) => {
    const { status, body } = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: '{ "data": 1 }',
    });
    await body?.cancel();
    return status;
  };
  assertEquals([await publish(API_KEY), await publish(`${API_KEY}x`)], [200, 401]);
  assertEquals(backend.stats.calls, 0);
});
