/**
 * Tests the errors for wrong arguments of a server's calls: each names the call, the argument and
 * what was received.
 *
 * @module
 */
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { connect } from "../mod.ts";
import { liveState } from "../streams/mod.ts";
import { testServer } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";

Deno.test("A server's calls reject arguments of another type by name", async () => {
  const states = liveState();
  await using server = testServer({ features: [states] });
  await using state = await states.open("board");
  const rows = state.collection<object>("cards");
  await rows.set("k", { n: 1 });
  const ann = "ann" as never;
  const missing = undefined as never;
  const session =
    'session must be a Session, received "ann"; server.sessions("ann") lists a user\'s sessions';
  const cases: [call: () => unknown, message: string][] = [
    [() => server.subscribe(ann, "chat"), `Cannot subscribe: ${session}`],
    [() => server.unsubscribe(ann, "chat"), `Cannot unsubscribe: ${session}`],
    [() => server.rooms.join(ann, "tea"), `Cannot join: ${session}`],
    [() => server.rooms.leave(ann, "tea"), `Cannot leave: ${session}`],
    [() => server.rooms.update(ann, "tea"), `Cannot update: ${session}`],
    [
      () => server.subscribe(missing, "chat"),
      "Cannot subscribe: session must be a Session, received undefined",
    ],
    [() => server.to(missing).send("x"), "Cannot send: user must be a string, received undefined"],
    [() => server.sessions(5 as never), "Cannot list sessions: user must be a string, received 5"],
    [() => server.disconnect(5 as never), "Cannot disconnect: user must be a string, received 5"],
    [() => states.open(missing), "Cannot open state: id must be a string, received undefined"],
    [
      () => state.transaction(missing),
      "Cannot run transaction: change must be a function, received undefined",
    ],
    [
      () => rows.update("k", { n: 1 } as never),
      'Cannot update "k": change must be a function, received Object',
    ],
    [
      () => rows.update("k", (() => {}) as never),
      'Cannot update "k": its function must return the changed row, received undefined',
    ],
    [
      () => rows.update("k", (async () => {}) as never),
      'Cannot update "k": its function must return the changed row, received undefined',
    ],
  ];
  for (const [call, message] of cases) {
    await assertRejects(async () => await call(), TypeError, message);
  }
});

Deno.test("A client's update and transaction say what their function must return", async () => {
  const states = liveState();
  await using server = testServer({ features: [states], authorize: () => true });
  await using own = await states.open("board");
  await own.collection<object>("cards").set("k", { n: 1 });
  await using client = server.connect();
  const state = await client.state("board");
  await state.ready;
  const rows = state.collection<object>("cards");
  const mustReturn = 'Cannot update "k": its function must return the changed row';
  const changes: [change: unknown, message: string][] = [
    [() => {}, `${mustReturn}, received undefined`],
    [async () => {}, `${mustReturn} and must not be async, received Promise`],
    [
      () => Promise.reject(new Error("Lost")),
      `${mustReturn} and must not be async, received Promise`,
    ],
    [{ n: 2 }, 'Cannot update "k": change must be a function, received Object'],
  ];
  for (const [change, message] of changes) {
    await assertRejects(() => rows.update("k", change as never), TypeError, message);
    await assertRejects(
      () => state.transaction(async (tx) => await tx.update("cards", "k", change as never)),
      TypeError,
      message,
    );
  }
  await assertRejects(
    () => state.transaction(undefined as never),
    TypeError,
    "Cannot run transaction: change must be a function, received undefined",
  );
  assertEquals(rows.get("k"), { n: 1 });
});

Deno.test("subscribe() of states, rooms and statuses throws if the callback is not a function", async () => {
  using printed = captureConsole();
  const states = liveState();
  await using server = testServer({ features: [states], authorize: () => true, rooms: ["tea"] });
  await using own = await states.open("board");
  await own.collection<object>("cards").set("k", { n: 1 });
  await using client = server.connect();
  const state = await client.state("board");
  await state.ready;
  const readers = [
    client.status,
    client.members("tea"),
    state.status,
    state.collection("cards"),
    own.collection("cards"),
  ];
  for (const reader of readers) {
    assertThrows(
      () => reader.subscribe("callback" as never),
      TypeError,
      "Cannot subscribe: callback must be a function, received a string",
    );
  }
  await own.collection<object>("cards").set("k", { n: 2 });
  assertEquals([printed.lines, server.rooms.members("tea")], [[], []]);
});

Deno.test("connect() throws if connectAfter is no promise, which it could not wait for", () => {
  for (const connectAfter of [{}, { then() {} }]) {
    assertThrows(
      () => connect("ws://localhost", { connectAfter: connectAfter as never }),
      TypeError,
      "Cannot connect: connectAfter must be a Promise, received Object",
    );
  }
});

Deno.test("request() and requestStream() name themselves if their arguments cannot be sent", async () => {
  await using server = testServer();
  await using client = server.connect();
  const session = await client.whenConnected();
  const id = "0123456789abcdef";
  const calls: [verb: string, call: (topic: string, data: unknown) => Promise<unknown>][] = [
    ["request", (topic, data) => client.request(topic, data)],
    ["request", (topic, data) => session.request(topic, data)],
    ["request stream", (topic, data) => Array.fromAsync(client.requestStream(topic, data))],
    ["request stream", (topic, data) => Array.fromAsync(client.requestStream(topic, data, { id }))],
    ["request stream", (topic, data) => Array.fromAsync(session.requestStream(topic, data))],
  ];
  for (const [verb, call] of calls) {
    const rule = `Cannot ${verb}: data must be a value that JSON can hold, received Promise`;
    await assertRejects(() => call("sum", Promise.resolve(1)), TypeError, rule);
    await assertRejects(() => call("", 1), TypeError, `Cannot ${verb}: a topic must be`);
  }
});
