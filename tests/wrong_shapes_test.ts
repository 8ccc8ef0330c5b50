/**
 * Tests options of a wrong shape, as newcomers write them. They cause an error at the start or one
 * console line.
 */
import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { createServer, defineContract, type ServerOptions } from "../mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { testServer } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { z } from "zod";

Deno.test("createServer() throws if options have a wrong shape", () => {
  const cases: [options: object, text: string][] = [
    [{ history: ["chat"] }, "history must be an object, received an array"],
    [
      { history: { "chat:*": {} } },
      "Cannot create server: a pattern has parameters such as {name}, and no *",
    ],
    [{ rooms: "room:{name}" }, "rooms must be an array or an object, received a string"],
    [
      { rooms: ["room:*"] },
      "Cannot create server: a pattern has parameters such as {name}, and no *",
    ],
    [{ requests: { "sum:*": () => 1 } }, "a pattern has parameters such as {name}, and no *"],
    [{ authorize: true }, "authorize must be a function, received true"],
    [
      { broker: Promise.resolve(new MemoryBroker()) },
      "broker must be a Broker, received Promise; await it",
    ],
    [{ cors: { origin: "*" } }, `unknown option "cors"; socket.io's "cors" is origins`],
  ];
  for (const [options, text] of cases) {
    const error = assertThrows(() => createServer(options as ServerOptions), TypeError);
    assertEquals(error.message.includes(text), true, error.message);
  }
  assertThrows(() => defineContract({ toClient: { "chat:*": z.string() } }), TypeError, "no *");
});

Deno.test("Client.subscribe() throws for a negative last", async () => {
  await using server = testServer();
  await using client = server.connect();
  assertThrows(
    () => client.subscribe("a", { last: -1 }),
    RangeError,
    "last must be an integer",
  );
  assertThrows(
    () => client.subscribe("a", { last: 0.5 }),
    RangeError,
    "last must be an integer",
  );
});

Deno.test("A subscription with last prints one line if its topic has no history", async () => {
  using printed = captureConsole();
  await using server = testServer({ authorize: () => true, history: { "kept:{name}": {} } });
  await using client = server.connect();
  for (const topic of ["a", "a", "kept:a"]) {
    const subscription = client.subscribe(topic, { last: 5 });
    await subscription.ready;
    await subscription.unsubscribe();
  }
  assertEquals(printed.lines.length, 1);
  assertMatch(printed.lines[0]!, /subscribed to "a" with last: 5, and the topic has no history/);
});
