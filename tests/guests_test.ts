/**
 * Tests guests and signed-in users. One hook decides about both: it is called once per session,
 * with all of the client's credentials, in the same way on every transport.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import "../client/recovery.ts";
import {
  AuthenticationError,
  type Client,
  type CloseInfo,
  connect,
  dial,
  type Session,
  Session as ClientSession,
  SessionClosedError,
} from "../mod.ts";
import { guest } from "../server.ts";
import type { AuthenticationContext, ServerOptions, SessionRejection } from "../server.ts";
import { receiveOne, testServer } from "../testing/mod.ts";
import { internals } from "../session/session.ts";
import { dialWebTransport, withMessages } from "../transport/mod.ts";
import { sessionSettings } from "../session/mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { passTime, soon, until } from "./waiting.ts";
import { captureConsole } from "./console_lines.ts";
import { listen, portOf, RawSocket } from "./servers.ts";

const TOKEN = "s3cret-t0ken";

/** The outcome of a client's connection. */
interface Outcome {
  /** The user on the server; `undefined` for a rejected client. */
  readonly user?: string | undefined;
  readonly rejected?: Pick<CloseInfo, "code" | "reason">;
}

/** A way to connect to a server. */
interface Way {
  readonly name: string;
  /** True if the token is sent in band; otherwise the URL contains it. */
  readonly isInBand: boolean;
  /** Connects once, and returns the user of the session, or the rejection. */
  come(options: ServerOptions<string | typeof guest>, token: string | undefined): Promise<Outcome>;
}

/** Waits until a client that reconnects by itself is connected, or permanently rejected. */
async function outcomeOf(client: Client, opened: readonly Session[]): Promise<Outcome> {
  for await (const status of client.status) {
    assert(status.name !== "reconnecting", "an admitted or rejected client must not reconnect");
    if (status.name !== "connected") continue;
    await until(() => opened.length > 0);
    return { user: opened[0]!.user };
  }
  const { code, reason } = await client.closed;
  assertEquals(client.status.current.name, "rejected");
  return { rejected: { code, reason } };
}

async function over(
  transport: "websocket" | "webtransport",
  options: ServerOptions<string | typeof guest>,
  token: string | undefined,
): Promise<Outcome> {
  const opened: Session[] = [];
  const onOpen = (session: Session) => void opened.push(session);
  await using server = listen({ ...options, onOpen });
  await using client = connect(server.url, {
    transports: [transport],
    endOnRejection: true,
    ...(token !== undefined && { token }),
  });
  return await soon(outcomeOf(client, opened));
}

const WAYS: readonly Way[] = [
  { name: "WebSocket skein.1", isInBand: true, come: over.bind(null, "websocket") },
  { name: "WebTransport", isInBand: true, come: over.bind(null, "webtransport") },
  {
    name: "memory",
    isInBand: true,
    async come(options, token) {
      const opened: Session[] = [];
      const onOpen = (session: Session) => void opened.push(session);
      await using server = testServer({ ...options, onOpen });
      await using client = server.connect({ endOnRejection: true, token });
      return await soon(outcomeOf(client as Client, opened));
    },
  },
  {
    name: "a plain page",
    isInBand: false,
    async come(options, token) {
      const opened: Session[] = [];
      const onOpen = (session: Session) => void opened.push(session);
      await using server = listen({ ...options, onOpen });
      const path = token === undefined ? "/" : `/?token=${token}`;
      using raw = await RawSocket.open(portOf(server), { path });
      if (raw.status !== 101) return { rejected: { code: 4000 + raw.status, reason: "" } };
      await until(() => opened.length > 0);
      return { user: opened[0]!.user };
    },
  },
];

/** Accepts one token; a client without a token becomes a guest, or is rejected. */
function hook(takesGuests: boolean, asked: (string | undefined)[]) {
  return ({ token }: AuthenticationContext): string | typeof guest => {
    asked.push(token);
    if (token === TOKEN) return "ann";
    if (takesGuests && token === undefined) return guest;
    throw new AuthenticationError("No token");
  };
}

for (const way of WAYS) {
  for (const hasToken of [true, false]) {
    for (const inMessage of [true, false]) {
      for (const takesGuests of [true, false]) {
        const who = `${hasToken ? "a token" : "no token"}, ${inMessage ? "" : "not "}in band, ${
          takesGuests ? "guests" : "no guests"
        }`;
        Deno.test(`Server calls authenticate once over ${way.name}: ${who}`, async () => {
          const asked: (string | undefined)[] = [];
          const told: SessionRejection[] = [];
          const token = hasToken ? TOKEN : undefined;
          const { user, rejected } = await way.come({
            tokens: { inMessage },
            authenticate: hook(takesGuests, asked),
            onSessionRejected: (rejection) => void told.push(rejection),
          }, token);
          const isMisplaced = hasToken && way.isInBand && !inMessage;
          if (isMisplaced) {
            // The client sent no request, because it knows which features the server doesn't have.
            assertEquals({ user, code: rejected?.code, asked, told: told.length }, {
              user: undefined,
              code: 4401,
              asked: [],
              told: 1,
            });
            assertStringIncludes(rejected!.reason, "tokens.inMessage");
          } else if (hasToken || takesGuests) {
            assertEquals([user?.split(":")[0], rejected], [hasToken ? "ann" : "guest", undefined]);
            assertEquals([asked, told], [[token], []]);
          } else {
            assertEquals({ user, code: rejected?.code, asked }, {
              user: undefined,
              code: 4401,
              asked: [undefined],
            });
            assertEquals(told.map(({ status, reason }) => [status, reason]), [
              [401, told[0]!.reason],
            ]);
            assertStringIncludes(told[0]!.reason, "No token");
          }
        });
      }
    }
  }
}

Deno.test("Server permanently rejects a token in band if it has no authenticate", async () => {
  let opened = 0;
  await using server = listen({ onOpen: () => void opened++ });
  await using client = connect(server.url, { token: TOKEN, endOnRejection: true });
  const { code, reason } = await soon(client.closed);
  assertEquals({ code, opened, name: client.status.current.name }, {
    code: 4401,
    opened: 0,
    name: "rejected",
  });
  assertStringIncludes(reason, "tokens.inMessage");
});

Deno.test("Server passes the cookies of the request to authenticate for a token in band", async () => {
  const asked: unknown[] = [];
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: ({ request, token }) => {
      asked.push([token, request.headers.get("cookie"), request.headers.get("x-build")]);
      return "ann";
    },
  });
  const headers = { cookie: "sid=1", "x-build": "7" };
  await using session = await dial(server.url, { token: TOKEN, headers });
  const near = server.manager.sessionsOf("ann")[0]!;
  assertEquals([asked, near.headers.get("cookie")], [[[TOKEN, "sid=1", "7"]], null]);
  // A renewal receives only the parts of the request that the session keeps.
  await session.authenticate("again");
  assertEquals(asked[1], ["again", null, null]);
});

Deno.test("Server prefers a client's token in band to another one in its URL", async () => {
  const asked: unknown[] = [];
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: ({ token, request }) => {
      asked.push([token, new URL(request.url).search]);
      return token!;
    },
  });
  await using _session = await dial(`${server.url}/?room=a&token=other`, { token: TOKEN });
  assertEquals(asked, [[TOKEN, "?room=a"]]);
  assertEquals(server.manager.sessionsOf(TOKEN).length, 1);
});

Deno.test("Server keeps at most 16 KiB of headers until the token in band arrives", async () => {
  await using server = testServer({ tokens: { inMessage: true }, authenticate: () => "ann" });
  const rejected = await server.dial({ token: TOKEN, headers: { cookie: "x".repeat(16_384) } })
    .catch((error) => error);
  assert(rejected instanceof SessionClosedError);
  assertEquals(rejected.info?.code, 4400);
});

Deno.test("Server reads the announcement of a token in band from the query, and keeps neither in the URL", async () => {
  const asked: unknown[] = [];
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: ({ token }) => {
      asked.push(token);
      return token ?? guest;
    },
  });
  const connection = await soon(dialWebTransport(
    `${server.webTransportUrl}?protocol=skein.1&room=a&auth=in-band`,
    { serverCertificateHashes: server.certificateHashes! },
  ));
  // The handshake of a browser that cannot offer subprotocols.
  Object.defineProperty(connection, "protocol", { value: "skein.1" });
  await using session = new ClientSession(
    withMessages(connection, { side: "client" }),
    sessionSettings({ side: "client" }),
    { token: TOKEN },
  );
  await soon(session.ready);
  const near = server.manager.sessionsOf(TOKEN)[0]!;
  assertEquals([asked, new URL(near.url).search], [[TOKEN], "?protocol=skein.1&room=a"]);
});

Deno.test("Server never selects the subprotocol that announces a token in band", async () => {
  await using server = listen({ tokens: { inMessage: true }, authenticate: () => "ann" });
  const cases: [offered: string, chosen: string | undefined][] = [
    ["skein.auth, skein.1", "skein.1"],
    ["skein.auth, qmux-02.skein.1", "qmux-02.skein.1"],
    ["skein.auth", undefined],
  ];
  for (const [protocol, chosen] of cases) {
    using raw = await RawSocket.open(portOf(server), { protocol });
    assertEquals(raw.status, 101);
    assertEquals(/sec-websocket-protocol: (.*)\r/i.exec(raw.head)?.[1], chosen);
  }
});

Deno.test("dial() sends a token in band over qmux-02.skein.1", async () => {
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token ?? guest,
  });
  await using session = await dial(server.url, {
    protocols: ["qmux-02.skein.1"],
    token: "ann",
    transports: ["websocket"],
  });
  assertEquals(server.manager.sessionsOf("ann").map(({ id }) => id), [session.id]);
});

Deno.test("Client without a token connects as a guest if its token function allows it", async () => {
  const users: string[] = [];
  const tokens = [undefined, "ann"];
  await using server = testServer({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token ?? guest,
    onOpen: ({ user }) => void users.push(user.split(":")[0]!),
  });
  await using client = server.connect({ token: () => tokens.shift() });
  await soon(client.whenConnected());
  server.network.disconnect();
  await until(() => users.length === 2);
  assertEquals(users, ["guest", "ann"]);
});

Deno.test("Server keeps a guest a guest if an unannounced token arrives", async () => {
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token === undefined ? guest : "ann",
  });
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
  await raw.envelope();
  await raw.frame(`{"auth":"${TOKEN}","id":1}`);
  const { reply, error } = await raw.envelope() as { reply: number; error: { code: string } };
  assertEquals([reply, error.code], [1, "forbidden"]);
  assertEquals([server.manager.sessionsOf("ann").length, server.manager.count], [0, 1]);
});

for (const way of WAYS.filter(({ isInBand }) => isInBand)) {
  Deno.test(`Server accepts a token of tokens.maxBytes over ${way.name}, and reports a longer one`, async () => {
    for (const maxBytes of [undefined, 100, 65_536]) {
      const told: SessionRejection[] = [];
      const options: ServerOptions<string | typeof guest> = {
        tokens: { inMessage: true, maxBytes },
        authenticate: ({ token }) => token ? "ann" : guest,
        onSessionRejected: (rejection) => void told.push(rejection),
      };
      const most = (maxBytes ?? 16_384) - `{"auth":"","id":1}`.length;
      assertEquals((await way.come(options, "x".repeat(most))).user, "ann");
      const { rejected } = await way.come(options, "x".repeat(most + 1));
      assertEquals(rejected?.code, 4401);
      assertStringIncludes(rejected!.reason, `at most ${maxBytes ?? 16_384} bytes`);
      await until(() => told.length > 0);
      assert(told.every(({ status, reason }) => status === 401 && reason === rejected!.reason));
    }
  });
}

Deno.test("Server gives each guest its own identity, without calling userOf and expiresAt", async () => {
  const opened: Session<{ readonly name: string } | undefined>[] = [];
  const asked: unknown[] = [];
  await using server = testServer({
    authenticate: ({ token }) => token === undefined ? guest : { name: token },
    userOf: (value) => (asked.push(value), value.name),
    tokens: { expiresAt: (value) => (asked.push(value), undefined) },
    onOpen: (session) => void opened.push(session as typeof opened[number]),
  });
  await using _one = await server.dial();
  await using two = await server.dial();
  await using _ann = await server.dial({ path: "/?token=ann" });
  assertEquals(opened.map(({ isGuest, value }) => [isGuest, value]), [
    [true, undefined],
    [true, undefined],
    [false, { name: "ann" }],
  ]);
  assertEquals(asked, [{ name: "ann" }, { name: "ann" }]);
  const users = opened.map(({ user }) => user);
  assertEquals([new Set(users).size, users[2]], [3, "ann"]);
  for (const user of users.slice(0, 2)) assertMatch(user, /^guest:[\w-]{22}$/);
  // A message to one guest reaches no other guest, and no name addresses all guests.
  assertEquals([server.to(users[1]!).send("dm"), server.to("guest").send("dm")], [1, 0]);
  assertEquals((await receiveOne(two)).topic, "dm");
  assertEquals(server.manager.stats().users, 1);
});

Deno.test("Server without authenticate has only guests", async () => {
  const opened: Session[] = [];
  await using server = listen({ onOpen: (session) => opened.push(session) });
  await using _session = await dial(server.url);
  using _page = await RawSocket.open(portOf(server));
  await until(() => opened.length === 2);
  assertEquals(
    opened.map(({ isGuest, value }) => [isGuest, value]),
    Array(2).fill([true, undefined]),
  );
  assert(opened.every(({ user }) => user.startsWith("guest:")));
});

Deno.test("Server rejects with 403 a user whose name could be a guest's", async () => {
  const told: SessionRejection[] = [];
  const onSessionRejected = (rejection: SessionRejection) => void told.push(rejection);
  for (
    const options of [
      { authenticate: () => "guest:ann" },
      { authenticate: () => ({}), userOf: () => "guest:" },
    ]
  ) {
    await using server = testServer({ ...options as ServerOptions, onSessionRejected });
    const { closed } = await server.open();
    assertEquals((await soon(closed)).closeCode, 4403);
  }
  assertEquals(told.map(({ status }) => status), [403, 403]);
});

Deno.test("Client stays the same guest after a reconnect, also on another node, unlike any other client", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const users: string[] = [];
  const urls: string[] = [];
  const options: ServerOptions<typeof guest> = {
    authenticate: () => guest,
    authorize: () => true,
    rooms: ["room:{name}"],
    broker,
    onOpen: ({ user, url }) => void [users.push(user), urls.push(url)],
  };
  await using server = testServer(options);
  await using other = testServer(options);
  await using client = server.connect();
  await client.subscribe("room:a").ready;
  const [member] = server.rooms.members("room:a");
  server.network.disconnect();
  await passTime(time, 20_000);
  assertEquals(client.isConnected, true);
  assertEquals(users, [member!.user, member!.user]);
  assertEquals(server.rooms.members("room:a").map(({ user }) => user), [member!.user]);
  assert(urls.every((url) => !url.includes("ticket")), urls.join());

  const { ticket } = client.session![internals].lineage;
  const secret = ticket!.slice(ticket!.indexOf("."));
  for (const [name, isSame] of [[`ticket=${secret}`, true], [`ticket=.${"A".repeat(22)}`, false]]) {
    await using _again = await other.dial({ path: `/?${name}` });
    assertEquals(users.pop() === member!.user, isSame);
  }
  // The identity does not reveal the secret, and a malformed ticket is ignored.
  assert(!member!.user.includes(secret.slice(1)));
  await using _odd = await other.dial({ path: `/?ticket=.${member!.user}` });
  assert(users.pop() !== member!.user);
});

Deno.test("Client that signs in is no longer a guest, and later becomes the same guest again", async () => {
  using time = new FakeTime();
  const users: string[] = [];
  const tokens = [undefined, "ann", undefined, undefined];
  await using server = testServer({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token ?? guest,
    onOpen: ({ user, isGuest }) => void users.push(isGuest ? user : `user ${user}`),
  });
  await using client = server.connect({ token: () => tokens.shift() });
  for (let i = 1; i < 4; i++) {
    await passTime(time, 20_000);
    server.network.disconnect();
  }
  await passTime(time, 20_000);
  assertEquals([users.length, users[1]], [4, "user ann"]);
  assertEquals(users[2], users[3]);
  assert(users[0] !== users[2], "a user's ticket must not work as a guest's");
  assertEquals(client.isConnected, true);
});

Deno.test("Server prints a hint once if many addresses have the same user", async () => {
  using printed = captureConsole();
  await using server = testServer({
    authenticate: ({ token }) => token ?? "visitor",
    limits: { maxSessionsPerUser: 200 },
  });
  for (let i = 0; i < 70; i++) {
    await server.dial({ address: `192.0.2.${i}` });
    await server.dial({ address: "198.51.100.1", path: "/?token=ann" });
  }
  assertEquals(printed.lines.length, 1);
  assertStringIncludes(
    printed.lines[0]!,
    'The user "visitor" has sessions from 16 network addresses',
  );
  assertStringIncludes(printed.lines[0]!, "return guest from authenticate");
});
