import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { TimeoutError } from "../errors.ts";
import { defineContract } from "../session/contract.ts";
import { assertNoLeaks, watchLeaks } from "./leaks.ts";
import { memorySessions } from "./memory_sessions.ts";
import { testServer } from "./test_server.ts";
import { passTime, turns } from "./turns.ts";

/** Messages of the leaks found, without ids. */
async function leaks(find: () => Promise<void>): Promise<string[]> {
  const error = await assertRejects(find, Error);
  return error.message.split("\n").map((line) => line.replace(/session [\w-]{8}/, "session *"));
}

Deno.test("assertNoLeaks() names leaked sessions, topics, users and clients", async () => {
  using _time = new FakeTime();
  await using server = testServer({
    authenticate: ({ token }) => token!,
    authorize: () => true,
    rooms: ["room:{name}"],
  });
  await using ann = await server.dial({ path: "/?token=ann" });
  await ann.subscribe("news");
  await ann.subscribe("room:a");
  await using _bob = server.connect({ path: "/bob?token=bob" });
  await turns();
  assertEquals(await leaks(() => assertNoLeaks(server, { withinMs: 0 })), [
    "5 leaks found:",
    '- server session * of "ann" is connected, subscribed to news, room:a',
    '- server session * of "bob" is connected',
    '- user "ann" is online, present in room:a',
    '- user "bob" is online',
    "- a client is connected",
  ]);
});

Deno.test("assertNoLeaks() passes once all sessions have closed, within the presence grace period", async () => {
  using _time = new FakeTime();
  await using server = testServer({
    authenticate: ({ token }) => token!,
    onOpen: (session) => void server.rooms.join(session, "lobby"),
  });
  await using _leaks = watchLeaks(server);
  await using _ann = await server.dial({ path: "/?token=ann" });
  await using _bob = server.connect({ path: "/?token=bob" });
  await turns();
  assertEquals(server.manager.count, 2);
});

Deno.test("assertNoLeaks() finds handshakes that never end", async () => {
  const gate = Promise.withResolvers<string>();
  await using server = testServer({ authenticate: () => gate.promise });
  const dialing = server.dial();
  assertEquals(await leaks(() => assertNoLeaks(server, { withinMs: 0 })), [
    "1 leak found:",
    "- 1 handshake under way",
  ]);
  gate.resolve("ann");
  await (await dialing).close();
  await assertNoLeaks(server);
});

Deno.test("assertNoLeaks() finds pending requests, on both sides", async () => {
  const gate = Promise.withResolvers<void>();
  await using pair = memorySessions({
    server: {
      onMessage: async (message) => {
        await gate.promise;
        message.reply(1);
      },
    },
  });
  const asking = pair.client.request("n");
  assertEquals(await leaks(() => assertNoLeaks(pair, { withinMs: 0 })), [
    "2 leaks found:",
    "- server session * has a request of its peer without a reply",
    "- client session * has 1 request without a reply",
  ]);
  gate.resolve();
  await asking;
  await assertNoLeaks(pair);
  await assertNoLeaks(pair.client);
});

Deno.test("assertNoLeaks() finds open streams", async () => {
  await using pair = memorySessions();
  const stream = await pair.client.createUnidirectionalStream();
  assertEquals(await leaks(() => assertNoLeaks(pair.client, { withinMs: 0 })), [
    "1 leak found:",
    "- client session * has 1 stream open",
  ]);
  await stream.close();
  const { value } = await pair.server.connection.incomingUnidirectionalStreams.getReader().read();
  assertEquals(await Array.fromAsync(value!), []);
  await assertNoLeaks(pair);
});

Deno.test("assertNoLeaks() finds a client that is not closed", async () => {
  await using server = testServer();
  await using client = server.connect();
  await client.whenConnected();
  assertEquals(await leaks(() => assertNoLeaks(client, { withinMs: 0 })), [
    "1 leak found:",
    "- a client is connected",
  ]);
  await client.close();
  await assertNoLeaks(client);
});

Deno.test("assertNoLeaks() accepts servers with their own value types and contracts", async () => {
  const contract = defineContract({ toClient: { n: z.number() } });
  await using server = testServer({ contract, authenticate: () => ({ name: "ann" }) });
  await using _leaks = watchLeaks(server);
  await using client = server.connect({ contract });
  await client.whenConnected();
});

Deno.test("assertNoLeaks() waits for sessions that are about to close", async () => {
  await using server = testServer();
  const session = await server.dial();
  setTimeout(() => void session.close(), 20);
  await assertNoLeaks(server);
});

Deno.test("TestServer has no timer left once it is closed", async () => {
  using time = new FakeTime();
  await using server = testServer({
    presence: { graceMs: 0 },
    onMessage: (message) =>
      new Promise<void>((resolve) => {
        message.signal.addEventListener("abort", () => resolve());
      }),
  });
  const client = server.connect();
  await client.whenConnected();
  const asking = client.request("nothing", undefined, { timeoutMs: 1 });
  const late = assertRejects(() => asking, TimeoutError);
  await passTime(time, 1);
  await late;
  await client.close();
  await assertNoLeaks(server);
  await server.close();
  // Moves to the next timer, if there is one.
  assertEquals(time.next(), false);
});
