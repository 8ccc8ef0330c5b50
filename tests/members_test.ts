/** Tests the members of rooms, from `client.members()` to the server's notices. */
import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { z } from "zod";
import { FakeTime } from "@std/testing/time";
import {
  Client,
  defineContract,
  type Members,
  RequestError,
  type RoomMembers,
  SessionClosedError,
} from "../client.ts";
import { denoPlatform } from "../client/deno.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { testServer, type TestServerOptions } from "../testing/mod.ts";
import { passTime, turns } from "./waiting.ts";

const OPTIONS: TestServerOptions<string> = {
  authenticate: ({ token }) => token ?? "nobody",
  authorize: (_session, topic) => topic !== "room:secret",
  rooms: { "room:{name}": {}, "stadium:{name}": { members: "count" } },
  presence: { graceMs: 0 },
};

const as = (user: string) => ({ headers: { authorization: `Bearer ${user}` } });

const names = (members: RoomMembers) => [...members.keys()].sort().join(",");

/** Waits for a state of a room without leaving it. */
async function reach<D>(
  members: Members<D>,
  isReached: (now: RoomMembers<D>) => boolean,
): Promise<RoomMembers<D>> {
  for await (const now of members) if (isReached(now)) return now;
  throw new Error("The client has ended");
}

Deno.test("Client.members() contains the users with their data, and reports each change", async () => {
  await using server = testServer(OPTIONS);
  await using ann = server.connect(as("ann"));
  await using bob = server.connect(as("bob"));
  const room = ann.members("room:a");
  assertEquals({ room: room.room, current: room.current.size, status: room.current.status }, {
    room: "room:a",
    current: 0,
    status: "pending",
  });
  const seen: RoomMembers[] = [];
  using _watch = room.subscribe((now) => void seen.push(now));
  assertEquals(seen.map(names), [""]); // Immediately.
  const alone = await reach(room, ({ size }) => size === 1);
  assertEquals({ names: names(alone), count: alone.count, status: alone.status }, {
    names: "ann",
    count: 1,
    status: "subscribed",
  });
  await bob.presence("room:a", { is: "here" });
  const joined = bob.subscribe("room:a");
  await reach(room, ({ size }) => size === 2);
  await bob.presence("room:a", { is: "away" });
  const away = await reach(room, (now) => Object(now.get("bob")?.data).is === "away");
  assertEquals([...away.keys()], ["ann", "bob"]); // Members are in the order in which they joined.
  await joined.unsubscribe();
  await reach(room, ({ size }) => size === 1);
  assertStrictEquals(room.current, seen.at(-1));
  assertEquals(names(away), "ann,bob"); // A reported state never changes.
});

Deno.test("Client.members() joins with the first subscriber, and leaves with the last one", async () => {
  await using server = testServer(OPTIONS);
  await using client = server.connect(as("ann"));
  const members = () => server.rooms.members("room:a").map(({ user }) => user);
  const [one, two] = [client.members("room:a"), client.members("room:a")];
  await client.whenConnected();
  await turns(50);
  assertEquals(members(), []); // The call alone does not join.
  const unsubscribe = one.subscribe(() => {});
  await reach(two, ({ size }) => size === 1);
  assertEquals(names(one.current), "ann");
  unsubscribe();
  unsubscribe();
  await turns(50);
  assertEquals([members(), names(one.current)], [[], ""]);
  // A subscriber that unsubscribes in the same turn, like Svelte's `get(store)`, does not join.
  one.subscribe(() => {})();
  await turns(50);
  assertEquals(members(), []);
});

Deno.test("Client.members() receives the list of a room that was left and joined in the same tick", async () => {
  await using server = testServer(OPTIONS);
  await using ann = server.connect(as("ann"));
  const room = ann.members("room:a");
  for (let i = 0; i < 3; i++) {
    const leave = room.subscribe(() => {});
    await reach(room, ({ size }) => size === 1);
    leave();
  }
  // This happens twice in one tick. The client never sends the first of these requests.
  room.subscribe(() => {})();
  using _watch = room.subscribe(() => {});
  await reach(room, ({ size }) => size === 1);
});

Deno.test("Client.members() survives a notice that it cannot read", async () => {
  await using server = testServer(OPTIONS);
  await using ann = server.connect(as("ann"));
  const room = ann.members("room:a");
  using _watch = room.subscribe(() => {});
  await reach(room, ({ size }) => size === 1);
  for (const session of server.manager.all()) session.send("presence:room:a", null);
  await using bob = server.connect(as("bob"));
  bob.subscribe("room:a");
  assertEquals(names(await reach(room, ({ size }) => size === 2)), "ann,bob");
});

Deno.test("Client.members() also receives the list after a subscription, and leaves messages to it", async () => {
  const received: string[] = [];
  await using server = testServer({
    ...OPTIONS,
    history: { "room:old": { size: 5 } },
  });
  await using ann = server.connect({
    ...as("ann"),
    onMessage: ({ topic }) => void received.push(topic),
  });
  for (const name of ["room:a", "room:old"]) {
    const lines = ann.subscribe(name, name === "room:old" ? { last: 5 } : {});
    await lines.ready;
    await turns(50); // The list arrived with the join.
    const room = ann.members(name);
    using watch = room.subscribe(() => {});
    await reach(room, ({ size }) => size === 1);
    server.publish(name, "hello");
    for await (const { data } of lines) {
      assertEquals(data, "hello");
      break;
    }
    watch[Symbol.dispose]();
    await turns(50);
    assertEquals(server.rooms.members(name).length, 1); // The subscription continues.
    await lines.unsubscribe();
    assertEquals(server.rooms.members(name), []);
  }
  assert(
    received.every((topic) => topic.startsWith("presence:")),
    "Notices must also reach the handler",
  );
});

Deno.test("Client.members() keeps the last list while the connection is lost, and then receives the next", async () => {
  await using server = testServer(OPTIONS);
  await using ann = server.connect({ ...as("ann"), backoff: { firstDelayMs: 1, maxDelayMs: 1 } });
  await using bob = server.connect({ ...as("bob"), backoff: { maxAttempts: 1 } });
  bob.subscribe("room:a");
  const room = ann.members("room:a");
  const seen: string[] = [];
  using _watch = room.subscribe((now) => void seen.push(`${now.status} ${names(now)}`));
  await reach(room, ({ size }) => size === 2);
  await bob.close();
  await reach(room, ({ size }) => size === 1);
  server.network.disconnect();
  await reach(room, ({ status }) => status === "lost");
  await reach(room, ({ status, size }) => status === "subscribed" && size === 1);
  assert(seen.includes("lost ann"), seen.join());
  assert(!seen.slice(seen.indexOf("lost ann")).some((one) => one.endsWith(" ")), seen.join());
});

Deno.test("Client.members() follows a client that moves to another session", async () => {
  await using server = testServer(OPTIONS);
  await using ann = server.connect(as("ann"));
  await using bob = server.connect(as("bob"));
  const room = ann.members("room:a");
  using _watch = room.subscribe(() => {});
  await reach(room, ({ size }) => size === 1);
  assert(await ann.handOver());
  bob.subscribe("room:a");
  assertEquals(names(await reach(room, ({ size }) => size === 2)), "ann,bob");
});

Deno.test("Client.members() reports a rejection, and retries with the next subscriber", async () => {
  let isAllowed = false;
  await using server = testServer({ ...OPTIONS, authorize: () => isAllowed });
  await using client = server.connect(as("ann"));
  const room = client.members("room:a");
  const seen: RoomMembers[] = [];
  using _watch = room.subscribe((now) => void seen.push(now));
  const error = await assertRejects(() => Array.fromAsync(room), RequestError);
  assertEquals(error.failure.code, "forbidden");
  assertStrictEquals(seen.at(-1)!.error, error);
  assertEquals([seen.at(-1)!.status, seen.at(-1)!.size], ["ended", 0]);
  isAllowed = true;
  await reach(room, ({ size }) => size === 1);
});

Deno.test("Client.members() retries to load its code after pauses", async () => {
  using time = new FakeTime();
  await using server = testServer(OPTIONS);
  const platform = denoPlatform((_url, { protocols = [] }) => server.open({ protocols }));
  let loads = 0;
  let isThere = false;
  await using client = new Client("ws://localhost/", {
    ...platform,
    recovery: () => ++loads && isThere ? platform.recovery() : Promise.reject(new Error("404")),
  });
  const room = client.members("room:a");
  using _watch = room.subscribe(() => {});
  await passTime(time, 60_000);
  assert(loads > 2 && loads < 50, `${loads} loads in a minute`);
  assertEquals(room.current.status, "pending");
  isThere = true;
  await passTime(time, 60_000);
  assertEquals(names(room.current), "nobody");
});

Deno.test("Client.members() ends with the client, and rejects subscribers afterwards", async () => {
  await using server = testServer(OPTIONS);
  const client = server.connect(as("ann"));
  const room = client.members("room:a");
  const states = Array.fromAsync(room, ({ status }) => status);
  await reach(room, ({ size }) => size === 1);
  await client.close();
  assertEquals((await states).at(-1), "ended");
  assertThrows(() => room.subscribe(() => {}), SessionClosedError, "Cannot watch members");
  assertThrows(() => client.members(""), TypeError);
});

Deno.test("Client.members() contains only the count in a room that sends no names", async () => {
  await using server = testServer(OPTIONS);
  await using ann = server.connect(as("ann"));
  await using bob = server.connect(as("bob"));
  bob.subscribe("stadium:a");
  const now = await reach(ann.members("stadium:a"), ({ count }) => count === 2);
  assertEquals(now.size, 0);
});

Deno.test("Client.members() waits for the whole list of a large room", async () => {
  await using server = testServer({
    ...OPTIONS,
    rooms: { "room:{name}": { gatherAbove: 1, gatherMs: 0 } },
    session: { maxMessageBytes: 8_192 },
  });
  const USERS = 150;
  const clients = Array.from(
    { length: USERS },
    (_, i) => server.connect(as(`user-with-a-rather-long-name-${i}`)),
  );
  try {
    await Promise.all(clients.map((client) => client.subscribe("room:a").ready));
    const room = clients[0]!.members("room:a");
    const sizes = new Set<number>();
    using _watch = room.subscribe(({ size }) => void sizes.add(size));
    await reach(room, ({ size }) => size === USERS);
    assertEquals([...sizes], [0, USERS]);
  } finally {
    await Promise.all(clients.map((client) => client.close()));
  }
});

Deno.test("Client.members() is typed by the presence data of a contract", async () => {
  const contract = defineContract({
    toClient: { "room:{name}": z.string() },
    presence: { "room:{name}": z.object({ isTyping: z.boolean() }) },
  });
  await using server = testServer({ ...OPTIONS, contract });
  await using client = server.connect({ ...as("ann"), contract });
  await client.presence("room:a", { isTyping: true });
  for await (const now of client.members("room:a")) {
    const isTyping: boolean | undefined = now.get("ann")?.data?.isTyping;
    if (isTyping) break;
  }
  // @ts-expect-error The contract has no such room.
  assertEquals(client.members("hall").current.size, 0);
});

Deno.test("Client.members() has the same connections for early and late watchers, on all nodes", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  await using one = testServer({ ...OPTIONS, broker });
  await using two = testServer({ ...OPTIONS, broker });
  await passTime(time, 300); // The nodes compare their options.
  await using early = one.connect(as("early"));
  await using late = two.connect(as("late"));
  const rooms = [early.members("room:a"), late.members("room:a")];
  using _early = rooms[0]!.subscribe(() => {});
  const known = () => rooms.map(({ current }) => current.get("ann")?.connections);
  const tabs: Client[] = [];
  for (const server of [one, one, two]) {
    tabs.push(server.connect(as("ann")));
    await tabs.at(-1)!.subscribe("room:a").ready;
    await passTime(time, 1_000);
    assertEquals(known()[0], tabs.length);
  }
  using _late = rooms[1]!.subscribe(() => {});
  await passTime(time, 1_000);
  assertEquals(known(), [3, 3]);
  for (const left of [2, 1, undefined]) {
    await tabs.pop()!.close();
    await passTime(time, 1_000);
    assertEquals(known(), [left, left]);
  }
  assertEquals(rooms[0]!.current.get("early"), rooms[1]!.current.get("early"));
});
