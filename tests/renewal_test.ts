/**
 * Tests tokens that expire and permissions that change during a session.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { AuthenticationError, RequestError, type Session, SessionClosedError } from "../mod.ts";
import type { AuthenticationContext, SessionRejection } from "../server.ts";
import { testServer, type TestServerOptions } from "../testing/mod.ts";
import { passTime, turns, until } from "./waiting.ts";
import { captureConsole } from "./console_lines.ts";
import { endOf, Peer } from "./sessions.ts";

const MINUTE_MS = 60_000;
/** Time before a token expires at which the server requests another one, in milliseconds. */
const RENEW_MARGIN_MS = 30_000;
const DAY_MS = 86_400_000;

interface Login {
  readonly name: string;
  readonly role: string;
  readonly endsAt: number;
}

/**
 * Reads a token such as `ann editor 60000`. The number is the time until it expires, in
 * milliseconds.
 */
function login({ token, request }: AuthenticationContext): Login {
  const text = token ?? request.headers.get("cookie");
  if (text === null) throw new AuthenticationError("No token");
  const [name = "", role = "", lastsMs] = text.split(" ");
  return { name, role, endsAt: Date.now() + Number(lastsMs) };
}

const LOGIN: TestServerOptions<Login> = {
  authenticate: login,
  userOf: ({ name }) => name,
  tokens: { inMessage: true, expiresAt: ({ endsAt }) => endsAt },
};

/** The token renewals that the server requested from a session. */
function renewals(session: Pick<Session, "events">): number[] {
  const asked: number[] = [];
  session.events.addEventListener("renew", ({ detail }) => void asked.push(detail.withinMs));
  return asked;
}

Deno.test("Server requests a new token in time, and a client with a token function renews it", async () => {
  using time = new FakeTime();
  const values: string[] = [];
  await using server = testServer({
    ...LOGIN,
    tokens: {
      ...LOGIN.tokens,
      onRenewed: ({ value }, before) => void values.push(`${before.role} to ${value.role}`),
    },
  });
  let count = 0;
  await using client = server.connect({ token: () => `ann ${++count} ${10 * MINUTE_MS}` });
  const session = await client.whenConnected();
  const asked = renewals(session);
  await passTime(time, 10 * MINUTE_MS - RENEW_MARGIN_MS - 1);
  assertEquals([asked, count], [[], 1]);
  await passTime(time, 1);
  assertEquals([asked, values], [[RENEW_MARGIN_MS], ["1 to 2"]]);
  await passTime(time, 30 * MINUTE_MS);
  // It is still the same session, after an hour of renewals.
  assertEquals([client.session, session.isReady], [session, true]);
  assertEquals(values, ["1 to 2", "2 to 3", "3 to 4", "4 to 5"]);
});

Deno.test("Server closes sessions without a renewal with 4401 when their credentials expire", async () => {
  using time = new FakeTime();
  await using server = testServer(LOGIN);
  const token = `ann reader ${MINUTE_MS}`;
  const path = `/?token=${encodeURIComponent(token)}`;
  const headers = { cookie: token };
  const sessions = [
    await server.dial({ token }),
    await server.dial({ path }),
    await server.dial({ headers }),
    await server.dial({ path, protocols: [] }),
    await server.dial({ path, protocols: ["qmux-02"] }),
  ];
  const asked = sessions.map((session) => renewals(session));
  await passTime(time, MINUTE_MS - 1);
  assertEquals(sessions.map(({ isReady }) => isReady), sessions.map(() => true));
  // A token cannot renew a cookie, and a plain page can't receive requests, only messages.
  assertEquals(asked.map(({ length }) => length), [1, 1, 0, 0, 0]);
  await passTime(time, 1);
  for (const session of sessions) {
    const { code, reason, by } = await endOf(session);
    assertEquals({ code, reason, by }, {
      code: 4401,
      reason: "The credentials have expired",
      by: "remote",
    });
  }
  assertEquals(server.manager.count, 0);
});

Deno.test("Client reconnects with a new token if its renewal fails", async () => {
  using time = new FakeTime();
  await using server = testServer(LOGIN);
  let count = 0;
  const errors: unknown[] = [];
  await using client = server.connect({
    token: () => {
      if (++count === 2) throw new Error("The provider is down");
      return `ann reader ${MINUTE_MS}`;
    },
  });
  const session = await client.whenConnected();
  session.events.addEventListener("error", ({ detail }) => void errors.push(`${detail}`));
  await passTime(time, MINUTE_MS + 1_000);
  assertEquals({ isClosed: session.isClosed, isConnected: client.isConnected, count }, {
    isClosed: true,
    isConnected: true,
    count: 3,
  });
  assertEquals(errors, ["Error: The provider is down"]);
});

Deno.test("Server supports an expiry that is later than a timer can be", async () => {
  using time = new FakeTime();
  await using server = testServer(LOGIN);
  const path = `/?token=${encodeURIComponent(`ann reader ${60 * DAY_MS}`)}`;
  const session = await server.dial({ path, protocols: [] });
  await passTime(time, 60 * DAY_MS - 1);
  assertEquals(session.isReady, true);
  await passTime(time, 1);
  assertEquals((await endOf(session)).code, 4401);
});

Deno.test("Server never closes a session whose credentials do not expire", async () => {
  using time = new FakeTime();
  for (const endsAt of [Infinity, undefined]) {
    await using server = testServer({
      authenticate: () => "ann",
      tokens: { expiresAt: () => endsAt },
    });
    await using session = await server.dial();
    await passTime(time, 60 * MINUTE_MS);
    assertEquals(session.isReady, true);
  }
});

Deno.test("Server keeps one expiry per session, for any number of renewals", async () => {
  using time = new FakeTime();
  await using server = testServer(LOGIN);
  await using session = await server.dial({ token: `ann reader ${MINUTE_MS}` });
  const asked = renewals(session);
  for (let i = 0; i < 16; i++) await session.authenticate(`ann reader ${2 * MINUTE_MS + i}`);
  await passTime(time, 2 * MINUTE_MS - 1_000);
  assertEquals([session.isReady, asked.length], [true, 1]);
  // A token that expires earlier is accepted, and not requested again.
  await session.authenticate("ann reader 900");
  await passTime(time, 899);
  assertEquals([session.isReady, asked.length], [true, 1]);
  await passTime(time, 1);
  assertEquals((await endOf(session)).code, 4401);
});

Deno.test("Session whose renewal is rejected continues until its credentials expire", async () => {
  using time = new FakeTime();
  await using server = testServer(LOGIN);
  await using session = await server.dial({ token: `ann reader ${MINUTE_MS}` });
  for (const token of ["bob reader 90000", "ann reader -1"]) {
    await assertRejects(() => session.authenticate(token), RequestError);
  }
  await passTime(time, MINUTE_MS - 1);
  assertEquals(session.isReady, true);
  await passTime(time, 1);
  assertEquals((await endOf(session)).code, 4401);
});

Deno.test("Server closes a session that sends too many wrong tokens as renewals", async () => {
  await using server = testServer({ ...LOGIN, session: { maxInvalidMessages: 3 } });
  await using session = await server.dial({ token: `ann reader ${MINUTE_MS}` });
  const guess = () => session.authenticate("bob reader 90000").catch(() => {});
  for (let i = 0; i < 2; i++) await guess();
  assertEquals(session.isReady, true);
  void guess();
  const { code, reason } = await endOf(session);
  assertEquals([code, reason], [4400, "3 invalid messages"]);
});

Deno.test("Server rejects expired credentials, and answers 503 if expiresAt fails", async () => {
  using _time = new FakeTime();
  const told: SessionRejection[] = [];
  const failures: [expiresAt: () => number, code: number, error: string][] = [
    [() => Date.now(), 4401, "undefined"],
    [
      () => NaN,
      4503,
      "TypeError: Cannot decide: tokens.expiresAt must return a number or undefined, received NaN",
    ],
    [
      () => "soon" as never,
      4503,
      "TypeError: Cannot decide: tokens.expiresAt must return a number or undefined, received a string",
    ],
    [
      () => {
        throw new Error("Broken");
      },
      4503,
      "Error: Broken",
    ],
  ];
  for (const [expiresAt, code, error] of failures) {
    await using server = testServer({
      authenticate: () => "ann",
      tokens: { expiresAt },
      onSessionRejected: (rejection) => void told.push(rejection),
    });
    const rejected = await assertRejects(() => server.dial(), SessionClosedError);
    assertEquals([rejected.info?.code, `${told.at(-1)?.error}`], [code, error]);
  }
});

Deno.test("Server removes a client from topics that are no longer allowed before it confirms the token", async () => {
  const errors: unknown[] = [];
  await using server = testServer({
    ...LOGIN,
    rooms: ["room:{name}"],
    authorize: ({ value }, topic) => {
      if (value.role === "broken" && topic === "faulty") throw new Error("No rights table");
      return value.role === "editor" || topic.startsWith("open");
    },
    onError: (error) => void errors.push(`${error}`),
    onOpen: (session) => void server.subscribe(session, "forced"),
  });
  const peer = new Peer(await server.open({ protocols: ["skein.1", "skein.auth"] }));
  const replied = (id: number) => until(() => peer.envelopes.some(({ reply }) => reply === id));
  peer.say({ auth: "ann editor 90000", id: 0 });
  await replied(0);
  const topics = ["drafts", "faulty", "open", "room:a", "forced"];
  topics.forEach((subscribe, i) => peer.say({ subscribe, id: i + 1 }));
  await replied(topics.length);
  for (const topic of topics) server.publish(topic, "before");
  await turns();
  const { length } = peer.envelopes;
  peer.say({ auth: "ann broken 90000", id: 9 });
  await replied(9);
  for (const topic of topics) server.publish(topic, "after");
  await turns();
  const reason = (topic: string) => `This session may not subscribe to "${topic}"`;
  const after = peer.envelopes.slice(length);
  // Permissions are checked concurrently.
  const left = after.splice(0, 3).sort((a, b) =>
    `${a.unsubscribed}` < `${b.unsubscribed}` ? -1 : 1
  );
  assertEquals([...left, ...after], [
    { unsubscribed: "drafts", code: "forbidden", reason: reason("drafts") },
    {
      unsubscribed: "faulty",
      code: "unavailable",
      reason: 'The server cannot tell now if this session may subscribe to "faulty"',
    },
    { unsubscribed: "room:a", code: "forbidden", reason: reason("room:a") },
    { reply: 9 },
    { topic: "open", data: "after" },
    { topic: "forced", data: "after" },
  ]);
  assertEquals(errors, ["Error: No rights table"]);
  assertEquals(server.rooms.members("room:a"), []);
  peer.connection.close();
});

Deno.test("Server removes a client from a topic with the code of authorize, or forbidden if it is no name", async () => {
  const denials = ["expired", "x".repeat(64), "x".repeat(65), ""];
  await using server = testServer({
    ...LOGIN,
    authorize: ({ value }, topic) => {
      if (value.role === "editor") return true;
      throw new RequestError(denials[Number(topic)]!, "The subscription has ended");
    },
  });
  await using client = server.connect({ token: "ann editor 3600000" });
  const session = await client.whenConnected();
  const subscriptions = denials.map((_, topic) => client.subscribe(`${topic}`));
  for (const { ready } of subscriptions) await ready;
  await session.authenticate("ann reader 3600000");
  const codes: string[] = [];
  for (const subscription of subscriptions) {
    const reading = async () => {
      for await (const _ of subscription);
    };
    codes.push((await assertRejects(reading, RequestError)).failure.code);
  }
  assertEquals(codes, [denials[0], denials[1], "forbidden", "forbidden"]);
  assertEquals(denials.flatMap((_, topic) => server.topics.subscribers(`${topic}`)), []);
});

Deno.test("Server confirms a renewal even if onRenewed fails, and removes topics if authorize is too slow", async () => {
  using time = new FakeTime();
  const errors: unknown[] = [];
  let isHanging = false;
  await using server = testServer({
    ...LOGIN,
    authorize: () => isHanging ? new Promise<boolean>(() => {}) : true,
    tokens: { ...LOGIN.tokens, onRenewed: () => Promise.reject(new Error("No audit log")) },
    onError: (error) => void errors.push(`${error}`),
  });
  await using client = server.connect({ token: "ann reader 3600000" });
  const session = await client.whenConnected();
  const news = client.subscribe("news");
  await news.ready;
  await session.authenticate("ann editor 3600000");
  assertEquals(errors, ["Error: No audit log"]);
  assertEquals(server.manager.sessionsOf("ann")[0]?.isReady, true);
  isHanging = true;
  const renewing = session.authenticate("ann reader 3600000", { timeoutMs: MINUTE_MS });
  await passTime(time, 30_000);
  await renewing;
  assertEquals(server.topics.subscribers("news"), []);
  assert(`${errors.at(-1)}`.includes("authorize within 30000 ms"));
  // The client retries.
  isHanging = false;
  await passTime(time, MINUTE_MS);
  assertEquals([news.status.current, server.topics.subscribers("news").length], ["subscribed", 1]);
});

Deno.test("Server accepts a burst of 16 renewals per session, then one per second, whatever they cost", async () => {
  using time = new FakeTime();
  let asked = 0;
  await using server = testServer({ ...LOGIN, authorize: () => ++asked > 0 });
  await using peer = await server.dial({ token: `ann editor ${MINUTE_MS}` });
  for (let i = 0; i < 10; i++) await peer.subscribe(`topic-${i}`);
  asked = 0;
  const renew = () => peer.authenticate(`ann editor ${MINUTE_MS}`);
  const renewals = Array.from({ length: 16 }, renew);
  for (let i = 0; i < 5; i++) {
    const error = await assertRejects(renew, RequestError, "At most 1 renewal a second");
    assertEquals(error.failure, {
      code: "too-many",
      message: "At most 1 renewal a second",
      retryAfterMs: 1_000,
      level: "session",
    });
  }
  await passTime(time, 1_000);
  await Promise.all(renewals);
  assertEquals(asked, 160);
  const renewal = renew();
  await passTime(time, 1_000);
  await renewal;
  assertEquals([asked, peer.isReady], [170, true]);
});

Deno.test("Server requests a token again if it could not check it, and keeps the session", async () => {
  using time = new FakeTime();
  using _printed = captureConsole();
  const asked: string[] = [];
  let isDown = false;
  await using server = testServer({
    ...LOGIN,
    authenticate: (context) => {
      if (isDown) throw new TypeError("The database is away");
      return login(context);
    },
    onSessionRejected: ({ status }) => void asked.push(`${status}`),
  });
  await using client = server.connect({ token: () => "ann reader 60000", onError() {} });
  const { id } = await client.whenConnected();
  isDown = true;
  await passTime(time, 31_000);
  assertEquals(asked, ["503"]);
  isDown = false;
  await passTime(time, 60_000);
  assertEquals([client.session?.id, asked], [id, ["503"]]);
});

Deno.test("Server spreads the checks of a user's renewals over a second, and rejects none", async () => {
  using time = new FakeTime();
  const asked: { readonly user: string; readonly atMs: number }[] = [];
  let startMs = 0;
  await using server = testServer({
    ...LOGIN,
    limits: { maxSessionsPerUser: 20 },
    authorize: ({ value }, topic) => {
      asked.push({ user: value.name, atMs: Date.now() - startMs });
      return value.role === "editor" || topic !== "topic-99";
    },
  });
  await using sessions = new AsyncDisposableStack();
  const open = async (user: string, topics: number) => {
    const session = sessions.use(await server.dial({ token: `${user} editor ${DAY_MS}` }));
    for (let i = 0; i < topics; i++) await session.subscribe(`topic-${i}`);
    return session;
  };
  const anns: Session[] = [];
  for (let i = 0; i < 20; i++) anns.push(await open("ann", 100));
  const bob = await open("bob", 1);
  asked.length = 0;
  startMs = Date.now();
  const late: Session[] = [];
  const renewing = anns.map((session) =>
    session.authenticate(`ann reader ${DAY_MS}`).then(() => void late.push(session))
  );
  await turns(5);
  // Another user does not wait for these checks.
  await bob.authenticate(`bob reader ${DAY_MS}`);
  assertEquals([asked.filter(({ user }) => user === "bob").length, Date.now()], [1, startMs]);
  // The old permissions apply until a topic is checked.
  assertEquals(server.topics.subscribers("topic-99").length, 20);
  await passTime(time, 1_000);
  await Promise.all(renewing);
  assertEquals([late.length, server.topics.subscribers("topic-99")], [20, []]);
  const tenths = Array<number>(10).fill(0);
  for (const { user, atMs } of asked) if (user === "ann") tenths[Math.floor(atMs / 100)]!++;
  for (const count of tenths) assert(count >= 180 && count <= 220, `${tenths}`);
  assertEquals(tenths.reduce((sum, count) => sum + count), 2_000);
});

Deno.test("Server skips the checks of a renewal for a session that closed, or a topic that it left", async () => {
  using time = new FakeTime();
  const asked: string[] = [];
  await using server = testServer({ ...LOGIN, authorize: (_, topic) => asked.push(topic) > 0 });
  const open = async () => {
    const session = await server.dial({ token: `ann editor ${DAY_MS}` });
    for (let i = 0; i < 20; i++) await session.subscribe(`topic-${i}`);
    return session;
  };
  const closing = await open();
  asked.length = 0;
  const renewal = assertRejects(() => closing.authenticate(`ann editor ${DAY_MS}`));
  await passTime(time, 250);
  const { length: before } = asked;
  await closing.close();
  await renewal;
  await passTime(time, 1_000);
  assertEquals([before, asked.length], [5, 5]);
  await using leaving = await open();
  asked.length = 0;
  const renewing = leaving.authenticate(`ann editor ${DAY_MS}`);
  await passTime(time, 250);
  await leaving.unsubscribe("topic-19");
  await passTime(time, 1_000);
  await renewing;
  assertEquals(asked, Array.from({ length: 19 }, (_, i) => `topic-${i}`));
});

Deno.test("Server checks a few topics immediately after a renewal", async () => {
  using _time = new FakeTime();
  await using server = testServer({ ...LOGIN, authorize: () => true });
  await using session = await server.dial({ token: `ann editor ${DAY_MS}` });
  for (let i = 0; i < 16; i++) await session.subscribe(`topic-${i}`);
  await session.authenticate(`ann editor ${DAY_MS}`); // No time passes.
});
