import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  AuthenticationError,
  connect,
  dial,
  RequestError,
  type Session,
  SessionClosedError,
} from "../client.ts";
import {
  type AuthenticationContext,
  createServer,
  guest,
  type SessionRejection,
} from "../server.ts";
import { dial as dialFromDeno } from "../mod.ts";
import { captureConsole } from "./console_lines.ts";
import { hurried, listen, portOf, RawSocket } from "./servers.ts";
import { HELD_MS, HeldTimers } from "./movable_clock.ts";
import { endOf } from "./sessions.ts";
import { soon, until } from "./waiting.ts";

const SECRET = "s3cret-t0ken";

/** Accepts two tokens for ann and one for bob. */
function users({ token }: AuthenticationContext): { name: string; token: string } {
  if (token === undefined) throw new AuthenticationError("No token");
  const name = { [SECRET]: "ann", "ann-2": "ann", "bob-1": "bob" }[token];
  if (name === undefined) throw new AuthenticationError("Unknown token", { status: 403 });
  return { name, token };
}

const named = { authenticate: users, userOf: ({ name }: { name: string }) => name };

/**
 * Returns how a server rejects clients: plain clients with an HTTP status, Skein's client with a
 * close.
 */
async function rejections(server: { readonly url: string; address: Deno.NetAddr | undefined }) {
  using raw = await RawSocket.open(portOf(server as never));
  const error = await assertRejects(() => dial(server.url), SessionClosedError);
  return { status: raw.status, code: error.info?.code, reason: error.info?.reason };
}

Deno.test("Server uses the result of authenticate as the session's value", async () => {
  const opened: Session<{ name: string }>[] = [];
  await using server = listen({ ...named, onOpen: (one) => void opened.push(one as never) });
  const cases: [query: string, headers: Record<string, string>][] = [
    [`?token=${SECRET}`, {}],
    ["", { authorization: `Bearer ${SECRET}` }],
    ["", { authorization: `bearer ${SECRET}` }],
    ["?token=bob-1", { authorization: `Bearer ${SECRET}` }],
  ];
  for (const [query, headers] of cases) {
    await using _session = await dial(server.url + query, { headers });
    assertEquals(opened.at(-1)?.value.name, "ann", query);
    assertEquals(opened.at(-1)?.user, "ann");
  }
});

Deno.test("Server rejects with the status that authenticate throws, before any upgrade", async () => {
  for (const status of [400, 401, 403, 404, 429, 503] as const) {
    const told: SessionRejection[] = [];
    await using server = listen({
      authenticate: () => {
        throw new AuthenticationError("Go away", { status });
      },
      onSessionRejected: (rejection) => void told.push(rejection),
    });
    const rejected = await rejections(server);
    assertEquals(rejected, { status, code: 4000 + status, reason: "Go away" });
    assertEquals(told.map(({ status, reason }) => [status, reason]), [
      [status, "Go away"],
      [status, "Go away"],
    ]);
    assertEquals([told[0]?.address, server.manager.count], ["127.0.0.1", 0]);
    assertEquals(server.manager.stats().reserved, 0);
  }
});

Deno.test("Server rejects with 401, without a reason, if authenticate returns null or false", async () => {
  for (const answer of [null, false] as const) {
    const told: SessionRejection[] = [];
    const authenticate = () => answer;
    await using server = listen({ authenticate, onSessionRejected: (one) => void told.push(one) });
    const reason = "Unauthenticated";
    assertEquals(await rejections(server), { status: 401, code: 4401, reason });
    assertEquals(told.map((one) => [one.status, one.error]), [[401, undefined], [401, undefined]]);
    await assertRejects(() => dial(`${server.url}?token=x`), SessionClosedError);
    assertEquals(told.map(({ reason }) => reason), [reason, reason, reason]);
  }
});

Deno.test("Server prints an error of authenticate once, without the token", async () => {
  using printed = captureConsole();
  let isDown = true;
  await using server = listen({
    authenticate: ({ token }) => {
      if (token === undefined) return null;
      if (token === "unknown") throw new AuthenticationError("Unknown token");
      if (isDown) throw new Error(`No row\nfor ${token}\x1b[2J`);
      return token;
    },
  });
  const { port } = server.address!;
  const statuses: number[] = [];
  for (const path of ["/", "/?token=unknown", `/?token=${SECRET}`, `/?token=${SECRET}`]) {
    using raw = await RawSocket.open(port, { path });
    statuses.push(raw.status);
  }
  assertEquals(statuses, [401, 401, 401, 401]);
  // The server only counts repeated lines, so that they cannot fill a disk.
  assertEquals(printed.lines.slice(2), [
    "Skein: authenticate threw Error: No row for <token> [2J: clients will try again; " +
    "throw AuthenticationError to reject",
  ]);
  isDown = false;
  await using session = await dial(`${server.url}?token=${SECRET}`);
  assert(session.isReady);
});

Deno.test("Client reconnects when authenticate fails temporarily", async () => {
  let failures = 2;
  await using server = listen({
    authenticate: () => {
      if (failures-- === 0) return "ann";
      throw new AuthenticationError("Try again later", { status: 503 });
    },
  });
  await using client = connect(server.url, { backoff: { firstDelayMs: 1 } });
  const session = await soon(client.whenConnected());
  assertEquals([session.isReady, failures], [true, -1]);
});

Deno.test("Server lets clients retry when userOf throws or returns no string, and reports the error", async () => {
  const failures: [error: string, userOf: () => string][] = [
    ["Error: Broken", () => {
      throw new Error("Broken");
    }],
    [
      "TypeError: Cannot decide: userOf must return a string, such as String(id), received 7",
      () => 7 as never,
    ],
    [
      "TypeError: Cannot decide: userOf must return a string, received undefined",
      () => undefined as never,
    ],
  ];
  for (const [error, userOf] of failures) {
    const told: SessionRejection[] = [];
    const authenticate = () => ({ name: "ann" });
    await using server = listen({
      authenticate,
      userOf,
      onSessionRejected: (one) => void told.push(one),
    });
    assertEquals(await rejections(server), {
      status: 401,
      code: 4503,
      reason: "Authentication failed, try again later",
    });
    assertEquals(told.map((one) => `${one.error}`), [error, error]);
    assertEquals([server.manager.count, server.manager.stats().reserved], [0, 0]);
  }
});

Deno.test("Server prints once that sessions have no user, if authenticate returns an object without userOf", async () => {
  const cases: [value: unknown, line: string | undefined][] = [
    [
      { name: "ann" },
      "authenticate returned an object, and there is no userOf: sessions have no user; " +
      "set userOf: (value) => value.name",
    ],
    [
      7,
      "authenticate returned a number, and there is no userOf: sessions have no user; " +
      "set userOf: (value) => String(value)",
    ],
    [true, undefined],
    ["ann", undefined],
  ];
  for (const [value, line] of cases) {
    using printed = captureConsole();
    await using server = listen({ authenticate: () => value });
    for (let i = 0; i < 2; i++) {
      await using _session = await dial(server.url);
    }
    assertEquals(printed.lines, line === undefined ? [] : [`Skein: ${line}`]);
  }
});

Deno.test("Server permanently rejects an empty user with 403", async () => {
  const told: SessionRejection[] = [];
  const onSessionRejected = (one: SessionRejection) => void told.push(one);
  await using plain = listen({ authenticate: () => "", onSessionRejected });
  await using named = listen({
    authenticate: () => ({ name: "" }),
    userOf: ({ name }) => name,
    onSessionRejected,
  });
  for (const [server, by] of [[plain, "authenticate"], [named, "userOf"]] as const) {
    assertEquals(await rejections(server as typeof plain), {
      status: 403,
      code: 4403,
      reason: "A user must not be empty",
    });
    assertEquals(
      `${told.at(-1)?.error}`,
      `RangeError: Cannot identify: a user must not be empty, received "" from ${by}; ` +
        "return guest from authenticate to admit a client without a user",
    );
  }
});

Deno.test("Server accepts a user of 255 bytes, and permanently rejects a longer one with 403", async () => {
  const told: SessionRejection[] = [];
  await using server = listen({
    authenticate: ({ token = "" }) => ({ name: token }),
    userOf: ({ name }) => name,
    tokens: { inMessage: true },
    onSessionRejected: (one) => void told.push(one),
  });
  const longest = `${"ü".repeat(127)}x`;
  await using session = await dial(`${server.url}?token=${encodeURIComponent(longest)}`);
  assertEquals(server.manager.sessionsOf(longest).length, 1);
  for (const user of [`${longest}x`, "x".repeat(256), "ü".repeat(1_000)]) {
    const path = `/?token=${encodeURIComponent(user)}`;
    using plain = await RawSocket.open(server.address!.port, { path });
    assertEquals(plain.status, 403);
    const { info } = await assertRejects(
      () => dial(server.url + path.slice(1)),
      SessionClosedError,
    );
    assertEquals([info?.code, info?.reason], [4403, "A user has at most 255 bytes"]);
    const inBand = await assertRejects(
      () => dial(server.url, { token: user }),
      SessionClosedError,
    );
    assertEquals(inBand.info?.code, 4403);
    const bytes = new TextEncoder().encode(user).length;
    const error = "RangeError: Cannot identify: a user must have at most 255 bytes in UTF-8, " +
      `received ${bytes}`;
    assertEquals(
      told.splice(0).map((one) => [one.status, `${one.error}`]),
      Array(3).fill([403, error]),
    );
  }
  await assertRejects(() => session.authenticate("x".repeat(256)), RequestError);
  assertEquals([session.state, server.manager.count], ["connected", 1]);
  assertEquals(server.to("x".repeat(10_000)).send("news"), 0);
});

Deno.test("createServer() rejects invalid admission options", () => {
  for (const keepHeaders of ["host", 3, ["host", 3], ["two words"], [""], {}] as never[]) {
    assertThrows(() => createServer({ keepHeaders }), TypeError, "keepHeaders");
  }
  for (const path of ["rooms", "", 3, "ws://localhost/"] as never[]) {
    assertThrows(() => createServer({ path }), TypeError, "path must ");
  }
});

Deno.test("Server creates the signal of authenticate only if the application reads it", async () => {
  let created = 0;
  const { AbortController: Platform } = globalThis;
  globalThis.AbortController = class extends Platform {
    constructor() {
      super();
      created++;
    }
  };
  try {
    for (const reads of [false, true]) {
      const signals: (AbortSignal | undefined)[] = [];
      await using server = listen({
        authenticate: (context) => {
          signals.push(reads ? context.signal : undefined, reads ? context.signal : undefined);
          return "ann";
        },
      });
      created = 0;
      using raw = await RawSocket.open(portOf(server));
      assertEquals([raw.status, created, signals[0] === signals[1]], [101, reads ? 1 : 0, true]);
    }
  } finally {
    globalThis.AbortController = Platform;
  }
});

Deno.test("Server rejects with 503 when authenticate takes too long, and aborts the call", async () => {
  const signals: AbortSignal[] = [];
  await using server = listen({
    runtime: hurried(20),
    authenticate: ({ signal }) => {
      signals.push(signal);
      return new Promise(() => {});
    },
  });
  assertEquals((await rejections(server)).status, 503);
  assertEquals(signals.map(({ aborted }) => aborted), [true, true]);
});

/** The subprotocols offered by a client that sends its token in band. */
const ANNOUNCED = "skein.1, skein.auth";

Deno.test("Server reads a token in band before any other message", async () => {
  const messages: unknown[] = [];
  await using server = listen({
    ...named,
    tokens: { inMessage: true },
    onMessage: ({ data }) => void messages.push(data),
  });
  await using session = await dial(server.url, { token: SECRET });
  assertEquals(server.manager.sessionsOf("ann").map(({ id }) => id), [session.id]);
  assertEquals(session.url.includes(SECRET), false);
  const early = await RawSocket.open(portOf(server), { protocol: ANNOUNCED });
  await early.frame('{"topic":"a","data":1}');
  assertEquals(await early.closed(), { code: 4401, reason: "Expected a token first" });
  early[Symbol.dispose]();
  assertEquals(messages, []);
});

Deno.test("Server rejects a token in band that is wrong, too long, not text, or followed by early messages", async () => {
  const told: number[] = [];
  const gate = Promise.withResolvers<void>();
  await using server = listen({
    authenticate: async (context) => {
      if (context.token === SECRET) await gate.promise;
      return users(context);
    },
    tokens: { inMessage: true },
    onSessionRejected: ({ status }) => void told.push(status),
  });
  const long = "A token has at most 16384 bytes of text: see tokens.maxBytes of the server";
  const early = "Nothing may be sent before the token is accepted";
  const cases: [frames: (string | Uint8Array)[], code: number, reason: string][] = [
    [['{"auth":"wrong","id":1}'], 4403, "Unknown token"],
    [[JSON.stringify({ auth: "x".repeat(16_384), id: 1 })], 4401, long],
    [[JSON.stringify({ auth: "é".repeat(9_000), id: 1 })], 4401, long],
    [[new Uint8Array([0x40, 0x53, 2, 0x7b, 0x7d])], 4401, long],
    [["nonsense"], 4401, "Expected a token first"],
    [[`{"auth":"${SECRET}","id":1}`, '{"topic":"a"}'], 4401, early],
  ];
  for (const [frames, code, reason] of cases) {
    using raw = await RawSocket.open(portOf(server), { protocol: ANNOUNCED });
    for (const frame of frames) {
      await raw.frame(frame, typeof frame === "string" ? {} : { head: 0x82 });
    }
    assertEquals(await raw.closed(), { code, reason });
  }
  gate.resolve();
  await until(() => server.manager.stats().reserved === 0);
  // Only the last token reached authenticate, which returned its decision after the close.
  assertEquals([server.manager.count, told], [0, [403, 401, 401, 401, 401]]);
});

Deno.test("Server closes a peer that sends no token in time, and frees its slot", async () => {
  const timers = new HeldTimers();
  await using server = listen({
    ...named,
    tokens: { inMessage: true },
    limits: { maxSessions: 1 },
    session: { handshakeTimeoutMs: HELD_MS },
    runtime: timers.runtime,
  });
  using raw = await RawSocket.open(portOf(server), { protocol: ANNOUNCED });
  await until(() => server.manager.stats().reserved === 1);
  timers.fire();
  assertEquals(await raw.closed(), { code: 4408, reason: "No token in time" });
  await until(() => server.manager.stats().reserved === 0);
  await using session = await dial(server.url, { token: SECRET });
  assert(session.isReady);
});

Deno.test("Server.close() does not wait for peers that have not sent a token", async () => {
  const server = listen({ ...named, tokens: { inMessage: true } });
  using raw = await RawSocket.open(portOf(server), { protocol: ANNOUNCED });
  await until(() => server.manager.stats().reserved === 1);
  const closing = server.close();
  assertEquals((await raw.closed())?.code, 4503);
  raw[Symbol.dispose]();
  await soon(closing);
});

Deno.test("Client stops if its token is rejected in band, also over a real socket", async () => {
  for (const throws of [() => null, users]) {
    await using server = listen({
      authenticate: throws as typeof users,
      tokens: { inMessage: true },
      onSessionRejected() {},
    });
    await using client = connect(server.url, { token: "wrong", endOnRejection: true });
    const { code, by } = await soon(client.closed);
    assertEquals([code, by], [throws === users ? 4403 : 4401, "remote"]);
    assertEquals(client.status.current.name, "rejected");
  }
});

Deno.test("Session.authenticate() updates the session's value, but never the user", async () => {
  const errors: unknown[] = [];
  await using server = listen({ ...named, onError: (error) => void errors.push(error) });
  await using session = await dial(`${server.url}?token=${SECRET}`);
  const near = (await server.sessions("ann"))[0]?.session;
  await session.authenticate("ann-2");
  assertEquals([near?.value.token, near?.user], ["ann-2", "ann"]);
  const other = await assertRejects(() => session.authenticate("bob-1"), RequestError);
  assertEquals(other.failure, { code: "forbidden", message: "The token belongs to another user" });
  const wrong = await assertRejects(() => session.authenticate("wrong"), RequestError);
  assertEquals(wrong.failure, { code: "forbidden", message: "Unknown token" });
  assertEquals({ token: near?.value.token, user: near?.user, isReady: near?.isReady, errors }, {
    token: "ann-2",
    user: "ann",
    isReady: true,
    errors: [],
  });
});

Deno.test("Session.authenticate() leaves the session unchanged if authenticate fails", async () => {
  let isFirst = true;
  const errors: unknown[] = [];
  const told: SessionRejection[] = [];
  await using server = listen({
    authenticate: () => {
      if (!isFirst) return Promise.reject(new Error(SECRET));
      isFirst = false;
      return "ann";
    },
    onSessionRejected: (rejection) => void told.push(rejection),
    onError: (error) => void errors.push(error),
  });
  await using session = await dial(server.url);
  const error = await assertRejects(() => session.authenticate("x"), RequestError);
  assertEquals(error.failure, {
    code: "unavailable",
    message: "Authentication failed, try again later",
  });
  assertEquals([session.isReady, errors], [true, []]);
  assertEquals(told.map((one) => `${one.status} ${one.error}`), [`503 Error: ${SECRET}`]);
});

Deno.test("Session.authenticate() rejects when the response takes too long", async () => {
  let isFirst = true;
  await using server = listen({
    runtime: hurried(20),
    authorize: () => true,
    authenticate: () => {
      if (!isFirst) return new Promise<string>(() => {});
      isFirst = false;
      return "ann";
    },
  });
  await using session = await dial(server.url);
  const error = await assertRejects(() => session.authenticate("x"), RequestError);
  assertEquals(error.failure.message, "Authentication took too long");
  await session.subscribe("a");
});

Deno.test("Server aborts an authentication if its session closes", async () => {
  const aborted = Promise.withResolvers<unknown>();
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: ({ signal }) => {
      signal.addEventListener("abort", () => aborted.resolve(signal.reason), { once: true });
      return new Promise<string>(() => {});
    },
  });
  const raw = await RawSocket.open(portOf(server), { protocol: "skein.1, skein.auth" });
  await raw.frame('{"auth":"x","id":1}');
  await until(() => server.manager.stats().reserved === 1);
  raw[Symbol.dispose]();
  assert(await soon(aborted.promise) instanceof SessionClosedError);
  await until(() => server.manager.stats().reserved === 0);
});

Deno.test("authenticate receives the cookies of the request by name, also with a token in band", async () => {
  const asked: unknown[] = [];
  await using server = listen({
    tokens: { inMessage: true },
    authenticate({ cookies, token }) {
      asked.push([token, { ...cookies }]);
      return cookies["sid"] ?? null;
    },
    onMessage: (message, session) => message.reply(session.value),
  });
  const headers = { cookie: "theme=dark; sid=ann=1" };
  await using session = await dial(server.url, { headers });
  assertEquals(await session.request("user"), "ann=1");
  await using late = await dial(server.url, { headers, token: "t" });
  assertEquals(await late.request("user"), "ann=1");
  await assertRejects(() => dial(server.url), SessionClosedError);
  const cookies = { theme: "dark", sid: "ann=1" };
  assertEquals(asked, [[undefined, cookies], ["t", cookies], [undefined, {}]]);
});

Deno.test("A page whose cookies decide connects over another transport than WebTransport, which has none", async () => {
  const rejected: SessionRejection[] = [];
  const users: (string | undefined)[] = [];
  for (
    const without of [guest, null, false, new AuthenticationError("Sign in")] as const
  ) {
    await using server = listen({
      authenticate({ cookies, token }) {
        if (token === "t") return "token";
        const user = cookies["sid"];
        if (user === undefined && without instanceof AuthenticationError) throw without;
        return user ?? without as typeof guest;
      },
      onOpen: (session) => void users.push(session.user),
      onSessionRejected: (rejection) => void rejected.push(rejection),
    });
    const { origin } = new URL(server.url.replace("ws", "http"));
    const come = (headers: Record<string, string>) =>
      dialFromDeno(server.url, { transports: ["webtransport"], headers });
    const error = await assertRejects(() => come({ origin }), SessionClosedError);
    assertEquals(error.info?.code, 4401);
    assertEquals(rejected.splice(0), []);
    {
      await using _ = await come({ origin, cookie: "sid=ann" });
      await using _other = await dial(server.url, { headers: { origin, cookie: "sid=bob" } });
      await using _token = await come({ origin, authorization: "Bearer t" });
      if (without === guest) await (await come({})).close();
      else await assertRejects(() => come({}), SessionClosedError);
    }
    assertEquals(rejected.splice(0).length, without === guest ? 0 : 1);
    assertEquals(users.splice(0).slice(0, 3), ["ann", "bob", "token"]);
  }
});

Deno.test("Secrets appear in no statistics, rejection or error text", async () => {
  const texts: string[] = [];
  const note = (value: unknown) => void texts.push(Deno.inspect(value, { depth: 3 }));
  await using server = listen({
    ...named,
    onHandlerError: "close",
    onMessage: () => Promise.reject(new Error("Broken")),
    onError: note,
    onSessionRejected: ({ status, reason, address }) => note({ status, reason, address }),
  });
  const headers = { authorization: `Bearer ${SECRET}`, cookie: `sid=${SECRET}` };
  const session = await dial(`${server.url}?token=${SECRET}`, { headers });
  const near = (await server.sessions("ann"))[0]?.session;
  note(near?.stats);
  note(server.manager.stats());
  note(await session.authenticate(`${SECRET}-wrong`).catch((error) => error));
  session.send("a");
  note(await endOf(session));
  note((session.closeError as Error).message);
  note((near?.closeError as Error).message);
  note(await dial(`${server.url}?token=${SECRET}x`).catch((error) => [error.message, error.info]));
  assertEquals(texts.filter((text) => text.includes(SECRET)), []);
  assertEquals(texts.length, 9);
});
