/** Tests the presence data of clients in rooms, from `client.presence()` to the notices. */
import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import {
  type Client,
  type Contract,
  defineContract,
  type PresenceNotice,
  QueueFullError,
  RequestError,
  SessionClosedError,
} from "../mod.ts";
import { encodeBinary } from "../session/wire/encode.ts";
import { memorySessions, passTime, testServer, type TestServerOptions } from "../testing/mod.ts";
import { turns } from "./waiting.ts";
import { Peer } from "./sessions.ts";

const OPTIONS: TestServerOptions<string> = {
  authenticate: ({ token }) => token ?? "nobody",
  authorize: () => true,
  rooms: { "room:{name}": {} },
};

const as = (user: string) => ({ headers: { authorization: `Bearer ${user}` } });

/** The notices that a client receives, in short form. */
function hear(client: Client<Contract>): string[] {
  const heard: string[] = [];
  void (async () => {
    for await (const { data } of client) {
      const notice = data as PresenceNotice;
      if (notice.type === "members") {
        heard.push(`members ${notice.members.map((one) => `${one.user}:${one.data}`).join(" ")}`);
      } else if (notice.type === "join" || notice.type === "update") {
        heard.push(`${notice.type} ${notice.user}:${notice.data}`);
      } else if (notice.type === "connections") {
        heard.push(`connections ${notice.user}:${notice.connections}`);
      } else heard.push(notice.type);
    }
  })();
  return heard;
}

Deno.test("Client.presence() sends data with the join, updates it later, and restores it after a lost connection", async () => {
  using time = new FakeTime();
  await using server = testServer(OPTIONS);
  await using ann = server.connect(as("ann"));
  await using bob = server.connect(as("bob"));
  const [toAnn, toBob] = [hear(ann), hear(bob)];
  await ann.subscribe("room:a").ready;
  // The calls are made before there is a session, in any order.
  const joining = bob.subscribe("room:a");
  await Promise.all([bob.presence("room:a", "here"), joining.ready]);
  await passTime(time, 100);
  await bob.presence("room:a", "away");
  await passTime(time, 100);
  server.network.disconnect();
  const returning = bob.presence("room:a", "back");
  await passTime(time, 2_000);
  await Promise.all([ann.whenConnected(), returning, joining.ready]);
  await passTime(time, 100);
  await bob.presence("room:a");
  await passTime(time, 100);
  assertEquals(toAnn.slice(0, 3), ["members ann:undefined", "join bob:here", "update bob:away"]);
  assertEquals(toAnn.at(-1), "update bob:undefined");
  assertEquals(toBob[0], "members ann:undefined bob:here");
  assertEquals(toBob.filter((one) => one.startsWith("members")).at(-1)!.includes("bob:back"), true);
  assertEquals(server.rooms.members("room:a").map(({ data }) => data), [undefined, undefined]);
});

Deno.test("Client.presence() sends only the last data when a session starts", async () => {
  using time = new FakeTime();
  const asked: string[] = [];
  await using server = testServer({
    ...OPTIONS,
    authorize: (_, topic, action) => {
      asked.push(`${action} ${topic}`);
      return true;
    },
  });
  await using client = server.connect(as("ann"));
  const data = { n: 1 };
  const [first, second] = [
    client.presence("room:a", data),
    client.presence("room:a", Object.assign(data, { n: 2 })),
  ];
  data.n = 3;
  client.subscribe("room:a");
  await Promise.all([first, second]);
  await passTime(time, 10);
  assertEquals(asked, ["presence room:a", "subscribe room:a"]);
  assertEquals(server.rooms.members("room:a")[0]!.data, { n: 2 });
});

/** A server whose `authorize` waits for the test, and the presence data that it was asked about. */
function gatedServer(options: TestServerOptions<string> = {}) {
  const asked: ((isAllowed: boolean) => void)[] = [];
  const authorize: typeof OPTIONS["authorize"] = (_, __, action) => {
    if (action !== "presence") return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    asked.push(resolve);
    return promise;
  };
  const server = testServer({ ...OPTIONS, ...options, authorize });
  const dataOf = (room: string) => server.rooms.members(room).map(({ data }) => data);
  return { server, asked, dataOf };
}

Deno.test("Client.presence() skips the values between the one under way and the newest, per room", async () => {
  const { server, asked, dataOf } = gatedServer();
  await using _server = server;
  await using client = server.connect(as("ann"));
  await Promise.all(["room:a", "room:b"].map((room) => client.subscribe(room).ready));
  const settled: string[] = [];
  const set = (room: string, data?: unknown) =>
    client.presence(room, data)
      .then(() => settled.push(`${data}`), ({ message }) => settled.push(`${data}: ${message}`));
  for (let n = 1; n <= 100; n++) set("room:a", n);
  set("room:b", "other");
  await turns();
  assertEquals(asked.length, 1);
  asked[0]!(true);
  await turns();
  assertEquals({ asked: asked.length, settled, dataOfRoomA: dataOf("room:a") }, {
    asked: 2,
    settled: ["1"],
    dataOfRoomA: [1],
  });
  asked[1]!(true);
  await turns();
  assertEquals({ asked: asked.length, settled, dataOfRoomB: dataOf("room:b") }, {
    asked: 3,
    settled: ["1", "other"],
    dataOfRoomB: ["other"],
  });
  asked[2]!(true);
  await turns();
  assertEquals({ asked: asked.length, settled: settled.length, dataOfRoomA: dataOf("room:a") }, {
    asked: 3,
    settled: 101,
    dataOfRoomA: [100],
  });
  // If the newest is rejected, the skipped ones are too, and the last accepted data stays.
  for (const data of ["x", "y", "z"]) set("room:a", data);
  await turns();
  asked[3]!(true);
  await turns();
  asked[4]!(false);
  await turns();
  const why = 'This session may not be present with data in "room:a"';
  assertEquals(settled.slice(101), ["x", `y: ${why}`, `z: ${why}`]);
  assertEquals([asked.length, dataOf("room:a")], [5, ["x"]]);
  // Without data in between, the removal is the newest.
  for (const data of [1, 2, undefined]) set("room:a", data);
  await turns();
  asked[5]!(true);
  await turns();
  asked[6]!(true);
  await turns();
  assertEquals([asked.length, dataOf("room:a")], [7, [undefined]]);
});

Deno.test("Client.presence() sends the newest value in the next session, after a loss and after a move", async () => {
  using time = new FakeTime();
  for (const by of ["loss", "move"]) {
    const { server, asked, dataOf } = gatedServer();
    await using _server = server;
    await using client = server.connect(as("ann"));
    await client.subscribe("room:a").ready;
    const calls = [1, 2, 3].map((n) => client.presence("room:a", n));
    await turns();
    assertEquals(asked.length, 1);
    if (by === "loss") server.network.disconnect();
    else assertEquals(await client.handOver(), true);
    await passTime(time, 3_000);
    assertEquals(asked.length, 2);
    for (const allow of asked) allow(true);
    await passTime(time, 1_000);
    await Promise.all(calls);
    assertEquals([asked.length, dataOf("room:a")], [2, [3]], by);
  }
});

Deno.test("Client.presence() waits with the newest value after a rejection by a rate", async () => {
  using time = new FakeTime();
  await using server = testServer({
    ...OPTIONS,
    rates: { perSession: { messages: { perSecond: 1, burst: 2 } }, maxRejections: 5 },
  });
  await using client = server.connect(as("ann"));
  await client.subscribe("room:a").ready;
  const errors: unknown[] = [];
  for (let n = 1; n <= 200; n++) {
    client.presence("room:a", n).catch((error) => errors.push(error.failure.code));
    await turns(3);
    await time.tickAsync(16);
  }
  await passTime(time, 3_000);
  assertEquals(server.rooms.members("room:a")[0]!.data, 200);
  assertEquals(new Set(errors), new Set(["too-many"]));
  assertEquals(server.manager.stats().rates.closed, 0);
});

Deno.test("Session.presence() rejects more than 64 values that wait for replies", async () => {
  const { server, asked } = gatedServer();
  await using _server = server;
  await using session = await server.dial(as("ann"));
  const calls = Array.from({ length: 64 }, (_, i) => session.presence("room:a", i));
  await assertRejects(
    () => session.presence("room:a", 64),
    QueueFullError,
    "64 values already wait",
  );
  for (let i = 0; i < 64; i++) {
    await turns();
    asked[i]!(true);
  }
  await Promise.all(calls);
  const last = session.presence("room:a", 65);
  await turns();
  asked[64]!(true);
  await last;
});

Deno.test("Client.presence() applies when a server joins the client to a room", async () => {
  await using server = testServer({
    ...OPTIONS,
    onOpen: async (session) => {
      await turns();
      server.rooms.join(session as never, "room:a");
    },
  });
  await using client = server.connect(as("ann"));
  await client.presence("room:a", "here");
  await turns(200);
  assertEquals(server.rooms.members("room:a").map(({ data }) => data), ["here"]);
});

Deno.test("Client.presence() rejects by authorize, size, contract and rooms", async () => {
  const contract = defineContract({
    toClient: { "room:{name}": z.string(), "wall": z.string() },
    presence: {
      "room:{name}": z.object({ n: z.number(), at: z.string().default("home") }),
      "wall": z.string(),
    },
  });
  await using server = testServer<string, typeof contract>({
    contract,
    authenticate: ({ token }) => token ?? "nobody",
    authorize: (_, topic, action) => action !== "presence" || topic !== "room:closed",
    rooms: { "room:{name}": { maxDataBytes: 30 } },
  });
  await using client = server.connect({ contract, ...as("ann") });
  const untyped = client as unknown as Client;
  const codeOf = async (room: string, data: unknown) =>
    (await assertRejects(() => untyped.presence(room, data), RequestError)).failure.code;
  assertEquals(await codeOf("room:closed", { n: 1 }), "forbidden");
  assertEquals(await codeOf("room:a", { n: "1" }), "invalid");
  assertEquals(await codeOf("hall", { n: 1 }), "unknown-topic");
  assertEquals(await codeOf("wall", "not a room"), "unknown-topic");
  assertEquals(await codeOf("room:a", { n: 1, at: "x".repeat(20) }), "too-large");
  assertEquals(await codeOf("presence:room:a", { n: 1 }), "forbidden");
  await assertRejects(() => untyped.presence("room:a", new Uint8Array(1)), TypeError);
  await assertRejects(() => untyped.presence("", 1), TypeError);
  // Rejected data is not sent in the next session.
  await client.subscribe("room:a").ready;
  assertEquals(server.rooms.members("room:a")[0]!.data, undefined);
  // Only the server applies the schema, once.
  await client.presence("room:a", { n: 1 });
  assertEquals(server.rooms.members("room:a")[0]!.data, { n: 1, at: "home" });
  for await (const message of client) {
    if (message.pattern !== "presence:{topic}" || message.data.type !== "update") continue;
    const data: string | { n: number; at: string } | undefined = message.data.data;
    assertEquals(data, { n: 1, at: "home" });
    break;
  }
});

Deno.test("Client.presence() rejects without authorize, and in rooms without a schema", async () => {
  await using closed = testServer({ rooms: ["a"] });
  await using client = closed.connect();
  const denied = await assertRejects(() => client.presence("a", 1), RequestError);
  assertEquals([denied.failure.code, denied.message], [
    "forbidden",
    'This session may not be present with data in "a": the server has no authorize',
  ]);
  const contract = defineContract({ toClient: { a: z.string() } });
  await using server = testServer({ contract, rooms: ["a"], authorize: () => true });
  await using other = server.connect();
  // @ts-expect-error The contract names no room with data.
  const unknown = await assertRejects(() => other.presence("a", 1), RequestError);
  assertEquals(unknown.failure.code, "unknown-topic");
});

Deno.test("Client.presence() sets nothing if its signal was aborted before, not even in the next session", async () => {
  using time = new FakeTime();
  await using server = testServer(OPTIONS);
  await using client = server.connect(as("ann"));
  await Promise.all([client.subscribe("room:a").ready, client.presence("room:a", "here")]);
  const signal = AbortSignal.abort(new Error("Enough"));
  await assertRejects(() => client.presence("room:a", "away", { signal }), Error, "Enough");
  const shown = () => server.rooms.members("room:a").map(({ data }) => data);
  await passTime(time, 100);
  assertEquals(shown(), ["here"]);
  server.network.disconnect();
  await passTime(time, 7_000);
  assertEquals(shown(), ["here"]);
});

Deno.test("Client.presence() allows at most 32 rooms, which are all restored together", async () => {
  using time = new FakeTime();
  await using server = testServer(OPTIONS);
  await using client = server.connect(as("ann"));
  const rooms = Array.from({ length: 32 }, (_, i) => `room:${i}`);
  const subscriptions = rooms.map((room) => client.subscribe(room));
  await Promise.all(rooms.map((room, i) => client.presence(room, i)));
  await Promise.all(subscriptions.map(({ ready }) => ready));
  await assertRejects(() => client.presence("room:32", 1), QueueFullError, "in 32 rooms already");
  server.network.disconnect();
  await passTime(time, 7_000);
  for (const [i, room] of rooms.entries()) {
    assertEquals(server.rooms.members(room).map(({ data }) => data), [i]);
  }
  await client.presence("room:0");
  await client.presence("room:32", 1);
});

Deno.test("Client.presence() reports rejections in a later session, and delays updates above the rate", async () => {
  using time = new FakeTime();
  const rejected: string[] = [];
  let isAllowed = true;
  await using server = testServer({
    ...OPTIONS,
    authorize: () => isAllowed,
    rates: { perSession: { messages: { perSecond: 1, burst: 1 } } },
  });
  await using client = server.connect({
    ...as("ann"),
    onMessageRejected: ({ failure }) => void rejected.push(failure.code),
  });
  await client.presence("room:a", 1);
  await passTime(time, 2_000);
  await client.presence("room:b", 2);
  server.network.disconnect();
  // The second of two updates exceeds the rate, so it is sent a second later.
  await passTime(time, 3_000);
  const [session] = server.manager.sessionsOf("ann");
  server.rooms.join(session!, "room:a");
  server.rooms.join(session!, "room:b");
  const data = ["room:a", "room:b"].map((room) => server.rooms.members(room)[0]!.data);
  assertEquals([data, rejected], [[1, 2], []]);
  isAllowed = false;
  server.network.disconnect();
  await passTime(time, 3_000);
  assertEquals(rejected, ["forbidden", "forbidden"]);
  // Permanently rejected data is not sent again.
  server.network.disconnect();
  await passTime(time, 3_000);
  assertEquals(rejected.length, 2);
});

Deno.test("Client.presence() does not bring back data that was removed when newer data is rejected", async () => {
  using time = new FakeTime();
  let isAllowed = true;
  await using server = testServer({ ...OPTIONS, authorize: () => isAllowed });
  await using client = server.connect(as("ann"));
  await client.subscribe("room:a").ready;
  await client.presence("room:a", "here");
  await client.presence("room:a");
  isAllowed = false;
  await assertRejects(() => client.presence("room:a", "back"), RequestError);
  isAllowed = true;
  server.network.disconnect();
  await passTime(time, 3_000);
  assertEquals(server.rooms.members("room:a").map(({ data }) => data), [undefined]);
});

Deno.test("Client.presence() rejects after the client has closed, and if the peer is not a server", async () => {
  await using server = testServer(OPTIONS);
  const client = server.connect(as("ann"));
  await client.close();
  await assertRejects(() => client.presence("room:a", 1), SessionClosedError);
  await using pair = memorySessions();
  await pair.client.whenReady();
  await assertRejects(() => pair.client.presence("room:a", 1), RequestError, "presence");
});

Deno.test("Two clients of a user are one member, with the latest data", async () => {
  using time = new FakeTime();
  await using server = testServer(OPTIONS);
  await using ann = server.connect(as("ann"));
  const heard = hear(ann);
  await ann.subscribe("room:a").ready;
  const laptop = server.connect(as("bob"));
  await laptop.presence("room:a", "laptop");
  await laptop.subscribe("room:a").ready;
  await using phone = server.connect(as("bob"));
  await phone.presence("room:a", "phone");
  await phone.subscribe("room:a").ready;
  await passTime(time, 100);
  await phone.presence("room:a");
  await passTime(time, 100);
  await phone.presence("room:a", "phone again");
  await passTime(time, 100);
  const closing = phone.close();
  await passTime(time, 100);
  await closing;
  assertEquals(heard, [
    "members ann:undefined",
    "join bob:laptop",
    "connections bob:2",
    "update bob:phone",
    "update bob:laptop",
    "update bob:phone again",
    "connections bob:1",
    "update bob:laptop",
  ]);
  await laptop.close();
});

/** The ids and codes of the replies that a peer received. */
function answersOf(peer: Peer): unknown[] {
  return peer.envelopes.flatMap((envelope) => {
    const { reply, error } = envelope as { reply?: number | null; error?: { code: string } };
    return reply === undefined ? [] : [[reply, error?.code ?? "done"]];
  });
}

Deno.test("Server validates {presence} strictly, and ignores it on a plain WebSocket", async () => {
  await using server = testServer(OPTIONS);
  const peer = new Peer(await server.open());
  await turns();
  peer.say('{"presence":"room:a","data":1}');
  peer.say('{"presence":5,"id":1}');
  peer.say('{"presence":"room:a","data":1e999,"id":2}');
  peer.say(encodeBinary('{"presence":"room:a","id":3}', new Uint8Array(2)));
  peer.say('{"presence":"room:a","id":4}');
  await turns();
  assertEquals(answersOf(peer), [
    [null, "malformed"],
    [1, "malformed"],
    [2, "malformed"],
    [3, "malformed"],
    [4, "done"],
  ]);
  const plain = new Peer(await server.open({ protocols: [] }));
  plain.say('{"presence":"room:a","data":1,"id":5}');
  await turns();
  assertEquals(answersOf(plain), [[5, "malformed"]]);
});
