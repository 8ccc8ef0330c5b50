import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type GuardedRequest, HttpGuard, type HttpGuardOptions } from "./guard.ts";
import { RequestGate } from "./gate.ts";
import { Problem } from "./problem.ts";
import { DecisionFault } from "../../base/decision.ts";
import { Rejected } from "../admission/rejection.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Decisions } from "../../pubsub/decisions.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { pathBelow } from "../../transport/url.ts";

type Action = "read" | "write";

/** A guard whose errors and users are visible to a test. */
function guarded(
  options: Partial<HttpGuardOptions<Action>> = {},
  identify: (request: Request) => Promise<string | undefined> = () => Promise.resolve(undefined),
) {
  const reports: string[] = [];
  const guard = new HttpGuard<Action>({
    name: "notes",
    path: "/notes",
    methods: ["GET", "POST"],
    authorize: () => true,
    ...options,
  }, {
    runtime: platformRuntime(),
    gate: new RequestGate(),
    quotas: new Quotas(platformRuntime()),
    decisions: new Decisions(),
    identify,
    addressOf: (_request, { remoteAddr }) => (remoteAddr as Deno.NetAddr | undefined)?.hostname,
    report: (what, error) => void reports.push(`${what}: ${error}`),
  });
  return { guard, reports };
}

const LOOPBACK = from("127.0.0.1");

function from(hostname: string): { remoteAddr: Deno.NetAddr } {
  return { remoteAddr: { transport: "tcp", hostname, port: 50_000 } };
}

/** Requests one action, with GET by default. */
async function ask(
  { guard }: { readonly guard: HttpGuard<Action> },
  init: RequestInit & { readonly from?: { remoteAddr: Deno.NetAddr }; readonly url?: string } = {},
  handle: (asked: GuardedRequest<Action>) => Promise<Response> = async ({ authorize }) => {
    await authorize("read", "mine");
    return new Response("hello");
  },
) {
  const { from = LOOPBACK, url = "http://localhost:8000/notes/mine", ...rest } = init;
  const response = await guard.respond(new Request(url, rest), from, handle);
  const text = await response.text();
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  return {
    status: response.status,
    headers: response.headers,
    text,
    code: isProblem ? JSON.parse(text).code as string : undefined,
  };
}

/** Creates a handler that calls `authorize` first. */
function authorized(handle: (asked: GuardedRequest<Action>) => Response | Promise<Response>) {
  return async (asked: GuardedRequest<Action>) => {
    await asked.authorize("read", "mine");
    return await handle(asked);
  };
}

Deno.test("HttpGuard() rejects malformed origins, hosts and rates", () => {
  assertThrows(() => guarded({ origins: ["example.com"] }), TypeError, "origins");
  assertThrows(() => guarded({ hosts: ["example.com:80"] }), TypeError, "hosts");
  assertThrows(() => guarded({ rate: { perSecond: 0 } }), RangeError, "notes.rate.perSecond");
});

Deno.test("pathBelow() finds paths of a feature, but no path with only the same prefix", () => {
  const cases: [url: string, rest: string | undefined][] = [
    ["http://localhost/notes", ""],
    ["http://localhost/notes/", "/"],
    ["http://localhost/notes/a%2Fb?x=1", "/a%2Fb"],
    ["http://localhost/notes2", undefined],
    ["http://localhost/other/../notes/a", "/a"],
    ["http://localhost/notes/../secret", undefined],
    ["http://localhost/notes/%2e%2e/secret", undefined],
    ["http://localhost/%6Eotes", undefined],
    ["http://", undefined],
  ];
  for (const [url, rest] of cases) assertEquals(pathBelow(url, "/notes"), rest, url);
});

Deno.test("HttpGuard.respond() denies every action without authorize", async () => {
  const closed = guarded({ authorize: undefined });
  const { status, code, text } = await ask(closed);
  assertEquals([status, code], [403, "forbidden"]);
  assertMatch(
    text,
    /Cannot read: the server has no authorize that allows it; see notes\.authorize/,
  );
});

Deno.test("HttpGuard.respond() opens a feature only on loopback, if its options allow this", async () => {
  const open = guarded({ authorize: undefined, opensOnLoopback: true, hosts: ["notes.test"] });
  const header = (name: string, value: string) => ({ headers: { [name]: value } });
  const cases: [what: string, init: Parameters<typeof ask>[1], status: number][] = [
    ["this machine", {}, 200],
    ["by IPv6", { from: from("::1"), url: "http://[::1]:8000/notes/a" }, 200],
    ["by a mapped address", { from: from("::ffff:127.0.0.1") }, 200],
    ["by an allowed host", header("host", "notes.test:8000"), 200],
    ["another machine", { from: from("192.0.2.1") }, 403],
    ["an unknown peer", { from: {} as never }, 403],
    ["a foreign host", header("host", "evil.example"), 403],
    ["Forwarded", header("forwarded", "for=192.0.2.1"), 403],
    ["X-Forwarded-For", header("x-forwarded-for", "192.0.2.1"), 403],
    ["X-Forwarded-Proto", header("x-forwarded-proto", "https"), 403],
    ["Via", header("via", "1.1 proxy"), 403],
  ];
  for (const [what, init, status] of cases) {
    assertEquals((await ask(open, init)).status, status, what);
  }
});

Deno.test("HttpGuard.respond() opens no feature on loopback for pages that only * allows", async () => {
  const open = guarded({
    authorize: undefined,
    opensOnLoopback: true,
    origins: ["*", "null", "https://app.example"],
  });
  const statusOf = async (origin: string, method: string) =>
    (await ask(open, { method, headers: { origin } })).status;
  for (const method of ["GET", "POST"]) {
    assertEquals(await statusOf("https://evil.example", method), 403, method);
    assertEquals(await statusOf("null", method), 403, method);
    assertEquals(await statusOf("https://app.example", method), 200, method);
    assertEquals(await statusOf("http://localhost:8000", method), 200, method);
  }
});

Deno.test("HttpGuard.respond() passes the request, the user, the action and the id to authorize", async () => {
  const asked: unknown[] = [];
  const feature = guarded({
    authorize: ({ request, user, action, id, signal }) => {
      asked.push([request.method, user, action, id, signal.aborted]);
      return id === "mine";
    },
  }, () => Promise.resolve("ann"));
  assertEquals((await ask(feature)).status, 200);
  const denied = await ask(feature, { method: "POST" }, async ({ authorize }) => {
    await authorize("read", "mine");
    await authorize("write", "other");
    return new Response();
  });
  assertEquals([denied.status, denied.code], [403, "forbidden"]);
  assertEquals(asked, [
    ["GET", "ann", "read", "mine", false],
    ["POST", "ann", "read", "mine", false],
    ["POST", "ann", "write", "other", false],
  ]);
});

Deno.test("HttpGuard.respond() identifies a request once, and only for authorize", async () => {
  let calls = 0;
  const feature = guarded({}, () => Promise.resolve(`user ${++calls}`));
  await ask(feature, {}, async ({ authorize }) => {
    await authorize("read", "one");
    await authorize("read", "two");
    return new Response();
  });
  await ask(feature, {}, () => Promise.resolve(new Response()));
  assertEquals(calls, 1);
});

Deno.test("GuardedRequest.account has the user, and publisher the caller, once a request is authorized", async () => {
  for (const [response, publisher] of [[true, "ann"], [{ caller: "shop" }, "shop"]] as const) {
    const feature = guarded({ authorize: () => response }, () => Promise.resolve("ann"));
    const users: (string | undefined)[] = [];
    await ask(feature, { from: from("192.0.2.1") }, async (asked) => {
      users.push(asked.account.user);
      await asked.authorize("read", "mine");
      users.push(asked.account.user, asked.publisher.user);
      return new Response();
    });
    assertEquals(users, [undefined, "ann", publisher]);
  }
});

Deno.test("HttpGuard.respond() denies an action if authorize returns nothing, and reports other values", async () => {
  const cases: [unknown, number][] = [
    [undefined, 403],
    [null, 403],
    [1, 503],
    ["yes", 503],
    [{}, 503],
  ];
  for (const [response, status] of cases) {
    const feature = guarded({ authorize: () => response as boolean });
    assertEquals((await ask(feature)).status, status, String(response));
  }
});

Deno.test("HttpGuard.respond() lets authorize decide about a request that authenticate rejects", async () => {
  const users: unknown[] = [];
  const guest = guarded(
    { authorize: ({ user, action }) => users.push(user) > 0 && action === "read" },
    () => Promise.reject(new Rejected(401, "Unknown token")),
  );
  assertEquals((await ask(guest)).status, 200);
  const denied = await ask(guest, {}, async ({ authorize }) => {
    await authorize("write", "mine");
    return new Response();
  });
  assertEquals([denied.status, denied.code], [401, "unauthenticated"]);
  assertEquals(denied.headers.get("www-authenticate"), "Bearer");
  assertMatch(denied.text, /Cannot write: Unknown token/);
  assertEquals(users, [undefined, undefined]);
});

Deno.test("HttpGuard.respond() responds with 503 without calling authorize while users are unknown", async () => {
  const cause = new Error("the database is down");
  const feature = guarded(
    { authorize: () => assert(false) as never },
    () => {
      const fault = DecisionFault.thrown("authenticate", cause);
      return Promise.reject(new Rejected(503, "Try again later", { cause, fault }));
    },
  );
  const { status, code, headers, text } = await ask(feature);
  assertEquals({ status, code, retryAfter: headers.get("retry-after") }, {
    status: 503,
    code: "unavailable",
    retryAfter: "5",
  });
  assert(!text.includes("database"));
  assertEquals(feature.reports, [
    "authenticate: DecisionFault: authenticate threw Error: the database is down",
  ]);
});

Deno.test("HttpGuard.respond() reports errors of authorize and of the handler, without details for the client", async () => {
  const failing = guarded({ authorize: () => Promise.reject(new Error("secret")) });
  const broken = guarded();
  for (
    const [feature, response, status, code] of [
      [failing, await ask(failing), 503, "unavailable"],
      [broken, await ask(broken, {}, () => Promise.reject(new Error("secret"))), 500, "internal"],
    ] as const
  ) {
    assertEquals([response.status, response.code], [status, code]);
    assert(!response.text.includes("secret"));
    assertEquals(feature.reports.length, 1);
    assertMatch(feature.reports[0]!, /Error: secret$/);
  }
});

Deno.test("HttpGuard.respond() aborts the signal of authorize after ten seconds", async () => {
  using time = new FakeTime();
  let aborted: AbortSignal | undefined;
  const feature = guarded({
    authorize: ({ signal }) => {
      aborted = signal;
      return new Promise(() => {});
    },
  });
  const response = ask(feature);
  await time.tickAsync(10_000);
  const { status, code } = await response;
  assertEquals({ status, code, isAborted: aborted?.aborted }, {
    status: 503,
    code: "unavailable",
    isAborted: true,
  });
});

Deno.test("HttpGuard.respond() lets only trusted pages make changes, and decides before it reads the body", async () => {
  const feature = guarded({ origins: ["https://app.example", "*", "null"] });
  const strict = guarded({ origins: ["https://app.example"] });
  const cookie = "session=1";
  const host = "localhost:8000";
  const cases: [
    what: string,
    feature: typeof feature,
    headers: Record<string, string>,
    status: number,
  ][] = [
    ["a program", strict, {}, 200],
    ["a listed page", strict, { origin: "https://app.example" }, 200],
    ["a listed page with cookies", strict, { origin: "https://app.example", cookie }, 200],
    ["an own page with cookies", strict, { origin: `http://${host}`, host, cookie }, 200],
    ["an own page over HTTP/2", strict, { origin: `http://${host}`, cookie }, 200],
    ["cookies without an origin", strict, { cookie }, 403],
    ["a foreign page", strict, { origin: "https://evil.example" }, 403],
    ["a foreign page with cookies", strict, { origin: "https://evil.example", cookie }, 403],
    [
      "a rebound name",
      strict,
      { origin: "http://evil.example", host: "evil.example", cookie },
      403,
    ],
    ["any page, where all are allowed", feature, { origin: "https://other.example" }, 200],
    ["any page with cookies", feature, { origin: "https://other.example", cookie }, 403],
    ["a sandbox with cookies", feature, { origin: "null", cookie }, 403],
  ];
  for (const [what, feature, headers, status] of cases) {
    let isRead = false;
    const body = new ReadableStream({ pull: () => void (isRead = true) }, { highWaterMark: 0 });
    const response = await ask(
      feature,
      { method: "POST", headers, body },
      async ({ authorize }) => {
        await authorize("write", "mine");
        return new Response("done");
      },
    );
    assertEquals(response.status, status, what);
    assertEquals(response.code, status === 403 ? "origin" : undefined, what);
    assertEquals(isRead, false, what);
  }
  const read = await ask(strict, { headers: { origin: "https://evil.example", cookie } });
  assertEquals([read.status, read.headers.get("access-control-allow-origin")], [200, null]);
});

Deno.test("HttpGuard.respond() allows credentials only for pages of exact origins", async () => {
  const feature = guarded({
    origins: ["https://app.example", "null", "*"],
    exposedHeaders: ["stream-offset"],
  });
  const cors = async (origin: string) => {
    const { headers } = await ask(feature, { headers: { origin } });
    return ["origin", "credentials"].map((name) => headers.get(`access-control-allow-${name}`));
  };
  assertEquals(await cors("https://app.example"), ["https://app.example", "true"]);
  assertEquals(await cors("http://localhost:8000"), ["http://localhost:8000", "true"]);
  assertEquals(await cors("https://other.example"), ["*", null]);
  assertEquals(await cors("null"), ["*", null]);
  const { headers } = await ask(feature, { headers: { origin: "https://app.example" } });
  assertEquals(headers.get("access-control-expose-headers"), "retry-after, stream-offset");
});

Deno.test("HttpGuard.respond() responds to preflights by the rules, without calling authorize", async () => {
  const feature = guarded({
    authorize: () => assert(false) as never,
    origins: ["https://app.example"],
    requestHeaders: ["idempotency-key"],
  });
  const preflight = (origin: string) =>
    ask(feature, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST" },
    });
  const { status, headers } = await preflight("https://app.example");
  assertEquals(status, 204);
  assertEquals(headers.get("access-control-allow-origin"), "https://app.example");
  assertEquals(headers.get("access-control-allow-methods"), "GET, POST");
  assertEquals(
    headers.get("access-control-allow-headers"),
    "authorization, content-type, idempotency-key",
  );
  const foreign = await preflight("https://evil.example");
  assertEquals([foreign.status, foreign.headers.get("access-control-allow-origin")], [403, null]);
  const plain = await ask(feature, { method: "OPTIONS" });
  assertEquals([plain.status, plain.headers.get("allow")], [204, "GET, POST, OPTIONS"]);
});

Deno.test("HttpGuard.respond() prevents responses from being executed and from shared caching", async () => {
  const typed = (type: string, caching?: string) =>
    authorized(() =>
      new Response("x", {
        headers: { "content-type": type, ...(caching && { "cache-control": caching }) },
      })
    );
  const feature = guarded();
  const html = await ask(feature, {}, typed("text/html"));
  assertEquals(html.headers.get("x-content-type-options"), "nosniff");
  assertEquals(html.headers.get("content-security-policy"), "sandbox");
  assertEquals(html.headers.get("content-disposition"), "attachment");
  assertEquals(html.headers.get("cache-control"), "private");
  assertEquals(html.headers.get("vary"), "Authorization, Cookie, Origin");
  const cases: [type: string, disposition: string | null][] = [
    ["text/plain; charset=utf-8", null],
    ["application/json", null],
    ["application/geo+json", null],
    ["application/vnd.api+json;v=1", null],
    ["text/html", "attachment"],
    ["image/svg+xml", "attachment"],
    ["application/jsonx", "attachment"],
    ["text/plainish", "attachment"],
    ["text/plain;,text/html", "attachment"],
    ["application/json; a=b,text/html", "attachment"],
  ];
  for (const [type, disposition] of cases) {
    const { headers } = await ask(feature, {}, typed(type));
    assertEquals(headers.get("content-disposition"), disposition, type);
  }
  const caching = async (feature: ReturnType<typeof guarded>, directives: string) =>
    (await ask(feature, {}, typed("text/plain", directives))).headers.get("cache-control");
  const shared = guarded({ isPublic: true });
  assertEquals(await caching(feature, "max-age=60"), "private, max-age=60");
  assertEquals(await caching(shared, "max-age=60"), "public, max-age=60");
  assertEquals(await caching(shared, "no-store"), "no-store");
  assertEquals((await ask(shared)).headers.get("vary"), "Origin");
  const problem = await ask(guarded({ isPublic: true, authorize: () => false }));
  assertEquals(problem.headers.get("cache-control"), "no-store");
  assertEquals(problem.headers.get("x-content-type-options"), "nosniff");
});

Deno.test("HttpGuard.respond() limits the rate per network address", async () => {
  using time = new FakeTime();
  const feature = guarded({ rate: { perSecond: 1, burst: 2 } });
  const statuses = async (address: string, times: number) => {
    const all = [];
    for (let i = 0; i < times; i++) all.push((await ask(feature, { from: from(address) })).status);
    return all;
  };
  assertEquals(await statuses("192.0.2.1", 3), [200, 200, 429]);
  // A whole IPv6 /64 is one address.
  assertEquals(await statuses("2001:db8::1", 1), [200]);
  assertEquals(await statuses("2001:db8::2", 2), [200, 429]);
  const { headers, text } = await ask(feature, { from: from("192.0.2.1") });
  assertEquals(headers.get("retry-after"), "1");
  assertMatch(text, /Too many requests: at most 1 a second per network address/);
  await time.tickAsync(1_000);
  assertEquals(await statuses("192.0.2.1", 1), [200]);
  assertEquals(feature.guard.stats, { active: 0, responses: { 200: 5, 429: 3 } });
});

Deno.test("HttpGuard.respond() determines the address of a request once", async () => {
  const asked = guarded({ rate: { perSecond: 10 } });
  let reads = 0;
  const info = {
    get remoteAddr() {
      reads++;
      return LOOPBACK.remoteAddr;
    },
  };
  await ask(asked, { method: "POST", from: info }, async (request) => {
    await request.authorize("write", "mine");
    assertEquals(request.account.networks, [{ key: "127.0.0.1", factor: 1 }]);
    return new Response();
  });
  assertEquals(reads, 1);
});

Deno.test("HttpGuard.respond() limits concurrent requests", async () => {
  const feature = guarded({ maxRequests: 1 });
  const gate = Promise.withResolvers<Response>();
  const first = ask(feature, {}, authorized(() => gate.promise));
  const second = await ask(feature);
  assertEquals({ status: second.status, code: second.code, active: feature.guard.stats.active }, {
    status: 429,
    code: "too-many",
    active: 1,
  });
  gate.resolve(new Response("done"));
  assertEquals((await first).status, 200);
  assertEquals((await ask(feature)).status, 200);
});

Deno.test("HttpGuard.respond() reserves waiting slots for requests without side effects", async () => {
  const feature = guarded({ maxRequests: 1, maxWaiting: 2 });
  const gate = Promise.withResolvers<void>();
  let last = 0;
  const other = () => from(`192.0.2.${++last}`);
  const begin = (method: string) =>
    ask(feature, { method, from: other() }, async ({ authorize }) => {
      await authorize("read", "mine");
      await gate.promise;
      return new Response("done");
    });
  const started = [begin("POST"), begin("GET")];
  assertEquals((await ask(feature, { method: "POST", from: other() })).status, 429);
  started.push(begin("GET"));
  assertEquals((await ask(feature, { from: other() })).status, 429);
  gate.resolve();
  for (const { status } of await Promise.all(started)) assertEquals(status, 200);
  assertEquals((await ask(feature, { method: "POST" })).status, 200);
});

Deno.test("HttpGuard.respond() reserves half of the concurrent requests for other addresses", async () => {
  const feature = guarded({ maxRequests: 200 });
  const gate = Promise.withResolvers<Response>();
  const handle = authorized(() => gate.promise);
  const from = (hostname: string) => {
    const info = { remoteAddr: { transport: "tcp" as const, hostname, port: 1 } };
    return feature.guard.respond(new Request("http://localhost/notes/a"), info, handle);
  };
  const started = Array.from({ length: 150 }, () => from("192.0.2.1"));
  started.push(from("192.0.2.2"));
  assertEquals(feature.guard.stats.active, 101);
  gate.resolve(new Response("done"));
  const statuses = (await Promise.all(started)).map(({ status }) => status);
  assertEquals([statuses.filter((status) => status === 429).length, statuses.at(-1)], [50, 200]);
  assertEquals(feature.guard.stats.active, 0);
});

Deno.test("HttpGuard.respond() responds to HEAD without a body, and cancels the body", async () => {
  const feature = guarded();
  let isCancelled = false;
  const body = new ReadableStream({ cancel: () => void (isCancelled = true) });
  const { status, text, headers } = await ask(
    feature,
    { method: "HEAD" },
    authorized(() => new Response(body, { headers: { "content-type": "text/plain" } })),
  );
  assertEquals({ status, text, contentType: headers.get("content-type") }, {
    status: 200,
    text: "",
    contentType: "text/plain",
  });
  assertEquals(isCancelled, true);
});

Deno.test("GuardedRequest.readBody() limits the announced and the received bytes", async () => {
  const feature = guarded();
  const read = (init: RequestInit, maxBytes = 4) =>
    ask(
      feature,
      { method: "POST", ...init },
      authorized(async ({ readBody }) => new Response(await readBody(maxBytes))),
    );
  assertEquals((await read({ body: "four" })).text, "four");
  assertEquals((await read({})).text, "");
  let pulls = 0;
  const endless = () =>
    new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull: (controller) => {
        pulls++;
        controller.enqueue(new Uint8Array(3));
      },
    }, { highWaterMark: 0 });
  const announced = await read({ body: endless(), headers: { "content-length": "5" } });
  assertEquals({ status: announced.status, code: announced.code, pulls }, {
    status: 413,
    code: "too-large",
    pulls: 0,
  });
  const received = await read({ body: endless() });
  assertEquals({ status: received.status, code: received.code, pulls }, {
    status: 413,
    code: "too-large",
    pulls: 2,
  });
  const lying = await read({ body: endless(), headers: { "content-length": "2" } });
  assertEquals(lying.status, 413);
});

Deno.test("GuardedRequest.readBody() returns bytes without keeping a larger buffer in memory", async () => {
  const buffer = new Uint8Array(65_536);
  const bodyOf = (...sizes: number[]) =>
    ReadableStream.from(sizes.map((size) => buffer.subarray(0, size)));
  for (const body of [bodyOf(5), bodyOf(5, 7)]) {
    const handle = authorized(async ({ readBody }) => {
      const bytes = await readBody(100);
      return new Response(`${bytes.buffer.byteLength - bytes.length}`);
    });
    const { text } = await ask(guarded(), { method: "POST", body }, handle);
    assertEquals(text, "0");
  }
});

Deno.test("GuardedRequest.readBody() rejects a body that never ends, and an incomplete one", async () => {
  using time = new FakeTime();
  const feature = guarded({ bodyTimeoutMs: 5_000 });
  let isCancelled = false;
  const silent = new ReadableStream<Uint8Array<ArrayBuffer>>({
    cancel: () => void (isCancelled = true),
  });
  const read = (body: ReadableStream<Uint8Array<ArrayBuffer>>) =>
    ask(feature, { method: "POST", body }, async ({ readBody }) => new Response(await readBody(9)));
  const response = read(silent);
  await time.tickAsync(5_000);
  const { status, code } = await response;
  assertEquals({ status, code, isCancelled }, { status: 408, code: "too-slow", isCancelled: true });
  const broken = await read(
    new ReadableStream({ pull: (controller) => controller.error(new Error("reset")) }),
  );
  assertEquals([broken.status, broken.code], [400, "incomplete"]);
  assertEquals(feature.reports, []);
});

Deno.test("Problem.toResponse() has stable members, and no client's line break in a header", async () => {
  const problem = new Problem(409, {
    code: "in-progress",
    detail: "Cannot publish: x",
    members: { key: "a\r\nb" },
  });
  const response = problem.toResponse();
  assertEquals(response.headers.get("content-type"), "application/problem+json");
  assertEquals(await response.json(), {
    type: "urn:skein:problem:in-progress",
    title: "In progress",
    status: 409,
    code: "in-progress",
    detail: "Cannot publish: x",
    key: "a\r\nb",
  });
  await assertRejects(() => Promise.reject(problem), Problem, "Cannot publish");
});

Deno.test("HttpGuard allows closeAction only for { close: true }, which allows nothing elsewhere", async () => {
  const cases: [permission: unknown, read: number, write: number][] = [
    [true, 200, 403],
    [{ caller: "shop" }, 200, 403],
    [{ caller: "shop", close: true }, 200, 200],
    [{ close: true }, 200, 200],
    [{ close: true, caller: undefined }, 403, 403],
    [{ close: "yes" }, 503, 503],
    [{}, 503, 503],
    [null, 403, 403],
    [undefined, 403, 403],
    [1, 503, 503],
  ];
  for (const [permission, read, write] of cases) {
    const authorize = () => permission as true;
    const status = async (action: Action, closeAction?: Action) => {
      const guard = guarded({ authorize, closeAction });
      return (await ask(guard, {}, async ({ authorize }) => {
        await authorize(action, "mine");
        return new Response("hello");
      })).status;
    };
    const about = JSON.stringify(permission);
    assertEquals(
      [await status("read", "write"), await status("write", "write")],
      [read, write],
      about,
    );
    // Without a closeAction, `close` is no member.
    const hasClose = Object.hasOwn(Object(permission), "close");
    assertEquals(await status("write"), hasClose ? 503 : read, about);
  }
});
