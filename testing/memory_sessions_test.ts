import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { RequestError } from "../errors.ts";
import { defineContract } from "../session/contract.ts";
import { assertNoLeaks } from "./leaks.ts";
import { memorySessions } from "./memory_sessions.ts";
import { receive, receiveOne } from "./receive.ts";
import { passTime, turns } from "./turns.ts";

Deno.test("memorySessions() types both sides by one contract", async () => {
  const contract = defineContract({
    toClient: { "score:{game}": z.number() },
    requests: { double: { input: z.number(), output: z.number() } },
  });
  await using pair = memorySessions({
    contract,
    server: {
      onMessage: (message, session) => {
        message.reply(message.data * 2);
        session.send("score:chess", message.data);
      },
    },
  });
  const answer: number = await pair.client.request("double", 21);
  const message = await receiveOne(pair.client);
  assert(message.pattern === "score:{game}");
  assertEquals({ answer, data: message.data, game: message.params.game }, {
    answer: 42,
    data: 21,
    game: "chess",
  });
  await assertNoLeaks(pair);
  await assertNoLeaks(pair.server);
  // @ts-expect-error The compiler knows the type of requests.
  await assertRejects(() => pair.client.request("double", "21"), RequestError, "number");
});

Deno.test("memorySessions() names the user of the client", async () => {
  await using pair = memorySessions({
    identity: {
      value: { name: "Ann" },
      user: "ann",
      url: "https://example.com/rooms/a?x=1",
      headers: { "user-agent": "test" },
      address: "192.0.2.1",
    },
  });
  const { value, user, path, headers, address } = pair.server;
  assertEquals({ name: value.name, user, path, address }, {
    name: "Ann",
    user: "ann",
    path: "/rooms/a",
    address: "192.0.2.1",
  });
  assertEquals(headers.get("user-agent"), "test");
});

Deno.test("memorySessions() creates the given transport", async () => {
  await using plain = memorySessions({ wire: { protocol: "", streams: false, datagrams: false } });
  plain.server.send("hello");
  assertEquals((await receiveOne(plain.client)).topic, "hello");
  assertEquals(plain.client.protocol, "");
  assertThrows(() => plain.server.send("bytes", new Uint8Array(1)));
});

Deno.test("memorySessions() rejects invalid limits, and leaves nothing behind", () => {
  assertThrows(() => memorySessions({ server: { maxRequests: 0 } }), RangeError, "maxRequests");
  assertThrows(() => memorySessions({ client: { maxRequests: 0 } }), RangeError, "maxRequests");
});

Deno.test("memorySessions() closes immediately in fake time, with any link", async () => {
  using _time = new FakeTime();
  for (const fault of ["none", "stall", "silent", "delay"]) {
    const pair = memorySessions();
    await pair.client.ready;
    if (fault === "stall") {
      pair.link.stall();
      // More bytes than the transport accepts, so that a close would wait.
      for (let i = 0; i < 4; i++) pair.server.send("much", "x".repeat(100_000));
      await turns();
    }
    if (fault === "silent") pair.link.disconnect({ silent: true });
    if (fault === "delay") pair.link.setFaults({ delayMs: 60_000 });
    await pair[Symbol.asyncDispose]();
    assertEquals([pair.server.state, pair.client.state], ["closed", "closed"], fault);
  }
});

Deno.test("memorySessions() detects a silent peer in fake time", async () => {
  using time = new FakeTime();
  await using pair = memorySessions();
  await pair.client.ready;
  pair.link.disconnect({ silent: true });
  await passTime(time, 61_000);
  const { code, by } = await pair.server.closed;
  assertEquals([code, by], [4408, "network"]);
});

Deno.test("memorySessions() supports streams", async () => {
  await using pair = memorySessions();
  const writer = (await pair.client.createUnidirectionalStream()).getWriter();
  await writer.write(Uint8Array.of(1, 2, 3));
  await writer.close();
  const { value: stream } = await pair.server.connection.incomingUnidirectionalStreams.getReader()
    .read();
  assertEquals(await receive(stream!, 1), [Uint8Array.of(1, 2, 3)]);
});
