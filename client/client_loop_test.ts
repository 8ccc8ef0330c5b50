import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError } from "../errors.ts";
import { Network, settled } from "../tests/clients.ts";
import { turns } from "../tests/waiting.ts";
import type { Client } from "./client.ts";
import { MAX_UNREAD_SESSIONS } from "./unread_sessions.ts";

/** A network whose sessions send their names, three times each. */
function talking(): Network {
  const network = new Network({
    onOpen: (session) => {
      for (let i = 0; i < 3; i++) session.send("m", `${session.id} ${i}`);
    },
  });
  return network;
}

/** Cuts the session, and waits for the next one. */
async function next(network: Network, client: Client, time: FakeTime): Promise<void> {
  network.cut();
  await turns();
  await time.tickAsync(30_000);
  assertEquals(await settled(client), "connected");
}

/** Reads the waiting messages: the client is closed first. */
async function rest(client: Client): Promise<unknown[]> {
  await client.close();
  return (await Array.fromAsync(client)).map(({ data }) => data);
}

const said = (...sessions: number[]) =>
  sessions.flatMap((id) => [0, 1, 2].map((i) => `s-${id} ${i}`));

Deno.test("Client iteration misses no session while its reader pauses", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client();
  const got: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  const over = (async () => {
    for await (const { data } of client) {
      got.push(data);
      if (got.length === 1) await gate.promise;
    }
  })();
  assertEquals(await settled(client), "connected");
  for (let i = 0; i < 3; i++) await next(network, client, time);
  gate.resolve();
  await turns();
  await client.close();
  await over;
  assertEquals(got, said(1, 2, 3, 4));
});

Deno.test("Client iteration misses nothing between two loops", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client();
  for await (const { data } of client) {
    assertEquals(data, "s-1 0");
    break;
  }
  await next(network, client, time);
  await next(network, client, time);
  assertEquals(await rest(client), said(1, 2, 3).slice(1));
});

Deno.test("Client iteration begins with the session of its first loop", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client();
  assertEquals(await settled(client), "connected");
  await next(network, client, time);
  const messages = client[Symbol.asyncIterator]();
  assertEquals((await messages.next()).value?.data, "s-2 0");
  await messages.return();
  assertEquals(await rest(client), said(2).slice(1));
});

Deno.test("Client iteration throws where more sessions wait than its bound, then continues", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client();
  const got: unknown[] = [];
  for await (const { data } of client) {
    got.push(data);
    break;
  }
  for (let i = 0; i < MAX_UNREAD_SESSIONS + 2; i++) await next(network, client, time);
  await assertRejects(
    async () => {
      for await (const { data } of client) got.push(data);
    },
    QueueFullError,
    "8 sessions wait to be read",
  );
  assertEquals(got, said(1, 2, 3, 4, 5, 6, 7, 8));
  const messages = client[Symbol.asyncIterator]();
  assertEquals((await messages.next()).value?.data, "s-11 0");
  await messages.return();
  assertEquals(await rest(client), said(11).slice(1));
});

Deno.test("Client iteration skips sessions without a message", async () => {
  using time = new FakeTime();
  const network = new Network();
  const client = network.client();
  const messages = client[Symbol.asyncIterator]();
  const first = messages.next();
  assertEquals(await settled(client), "connected");
  network.last.send("m", 1);
  await first;
  for (let i = 0; i < MAX_UNREAD_SESSIONS * 2; i++) await next(network, client, time);
  network.last.send("m", 2);
  await turns();
  assertEquals((await messages.next()).value?.data, 2);
  await messages.return();
  await client.close();
});

Deno.test("Client iteration throws where a session closed because its reader was too slow", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client({ receiveQueue: { maxMessages: 5 } });
  const messages = client[Symbol.asyncIterator]();
  assertEquals((await messages.next()).value?.data, "s-1 0");
  for (let i = 0; i < 5; i++) network.last.send("m", i);
  await turns();
  assertEquals(client.status.current.name, "reconnecting");
  await time.tickAsync(250);
  assertEquals(await settled(client), "connected");
  await assertRejects(() => messages.next(), QueueFullError, "fell behind");
  assertEquals(await rest(client), said(2));
});

Deno.test("Client iteration throws where a session that waits to be read had no room", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client({ receiveQueue: { maxMessages: 5 } });
  const messages = client[Symbol.asyncIterator]();
  assertEquals((await messages.next()).value?.data, "s-1 0");
  await next(network, client, time);
  for (let i = 0; i < 3; i++) network.last.send("m", i);
  await turns();
  assertEquals(client.session?.stats.unreadMessages, 1);
  for (const data of ["s-1 1", "s-1 2"]) assertEquals((await messages.next()).value?.data, data);
  await assertRejects(() => messages.next(), QueueFullError, "fell behind");
  assertEquals(await rest(client), ["s-2 1", "s-2 2", 0, 1, 2]);
});

Deno.test("Client iteration refuses a second loop, and one beside a handler", async () => {
  const network = talking();
  await using client = network.client();
  const messages = client[Symbol.asyncIterator]();
  assert(!(await messages.next()).done);
  await assertRejects(() => client[Symbol.asyncIterator]().next(), TypeError, "another loop");
  assertEquals((await messages.next()).value?.data, "s-1 1");
  await messages.return();
  const again = client[Symbol.asyncIterator]();
  assertEquals((await again.next()).value?.data, "s-1 2");
  await again.return();
  await using handled = network.client({ onMessage() {} });
  await assertRejects(() => handled[Symbol.asyncIterator]().next(), TypeError, "onMessage handler");
});
