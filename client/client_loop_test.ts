import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError } from "../errors.ts";
import { captureConsole } from "../tests/console_lines.ts";
import { Network, settled } from "../tests/clients.ts";
import { turns } from "../tests/waiting.ts";
import { MAX_UNREAD_SESSIONS } from "./unread_sessions.ts";

/** A network whose sessions send their name three times each. */
function talking(): Network {
  return new Network({
    onOpen: (session) => {
      for (let i = 0; i < 3; i++) session.send("m", `${session.id} ${i}`);
    },
  });
}

Deno.test("Client iteration starts with the session at the time of its first loop", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client();
  assertEquals(await settled(client), "connected");
  await network.reconnect(time);
  const messages = client[Symbol.asyncIterator]();
  assertEquals((await messages.next()).value?.data, "s-2 0");
  await messages.return();
  await client.close();
  const rest = await Array.fromAsync(client);
  assertEquals(rest.map(({ data }) => data), ["s-2 1", "s-2 2"]);
});

Deno.test("Client iteration throws if more sessions wait than its bound, then continues", async () => {
  using time = new FakeTime();
  const network = talking();
  const client = network.client();
  const got: unknown[] = [];
  const read = async (most = Infinity) => {
    for await (const { data } of client) if (got.push(data) >= most) break;
  };
  await read(1);
  for (let i = 0; i < MAX_UNREAD_SESSIONS + 2; i++) {
    network.cut();
    await turns();
    await time.tickAsync(30_000);
    assertEquals(await settled(client), "connected");
  }
  await assertRejects(() => read(), QueueFullError, "8 sessions wait to be read");
  const said = (id: number) => [0, 1, 2].map((i) => `s-${id} ${i}`);
  assertEquals(got.splice(0), [1, 2, 3, 4, 5, 6, 7, 8].flatMap(said));
  // Another loop starts with the newest session.
  await read(1);
  await client.close();
  await read();
  assertEquals(got, said(11));
});

Deno.test("Client keeps its session while no loop reads, and tells the next loop what it discarded", async () => {
  using printed = captureConsole();
  const network = new Network({ sendQueue: { maxMessages: 10_000 } });
  await using client = network.client();
  assertEquals(await settled(client), "connected");
  const { session } = client;
  const got: unknown[] = [];
  const read = async (most: number) => {
    for await (const { data } of client) if (got.push(data) >= most) break;
  };
  const reading = read(1);
  network.last.send("m", 0);
  await reading;
  for (let i = 1; i <= 5_000; i++) network.last.send("m", i);
  await turns();
  assertEquals([client.session, client.isConnected], [session, true]);
  await assertRejects(() => read(1), QueueFullError, "its receive queue was full");
  await read(4_097);
  assertEquals({ count: got.length, first: got[0], second: got[1], last: got.at(-1) }, {
    count: 4_097,
    first: 0,
    second: 905,
    last: 5_000,
  });
  assertEquals(printed.lines, [
    'Skein: Messages on "m" have no reader: set onMessage, or loop over the client, or subscribe to it',
  ]);
  // A loop that is running, but too slow, still ends the session.
  network.last.send("m", 0);
  await assertRejects(
    async () => {
      for await (const _ of client) {
        for (let i = 0; i < 5_000 && client.session === session; i++) network.last.send("m", i);
        await turns(20);
      }
    },
    QueueFullError,
    "its receive queue was full",
  );
});

Deno.test("Client iteration rejects a second loop, and a loop in addition to a handler", async () => {
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
