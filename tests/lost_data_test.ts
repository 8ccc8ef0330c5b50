/**
 * Tests values that JSON cannot represent in every call that sends data: the call throws an error,
 * and nothing is sent.
 */
import { assertEquals, assertInstanceOf, assertMatch, assertRejects } from "@std/assert";
import { RequestError } from "../mod.ts";
import { durableStreams, resumable } from "../streams/mod.ts";
import { jsonCodec } from "../session/streams/codec.ts";
import { testServer } from "../testing/mod.ts";

/** Values that JSON would send as `{}`; `base/json_test.ts` covers more values. */
const LOST: readonly unknown[] = [
  new ArrayBuffer(2),
  Promise.resolve("a forgotten await"),
  new Error("x"),
  new Blob(["x"]),
  /x/,
  new FormData(),
  new Map(),
  new (class Point {
    x = 1;
  })(),
];

Deno.test("Every call that sends data rejects a value that JSON cannot represent, also nested", async () => {
  const errors: unknown[] = [];
  let result: unknown;
  const durable = durableStreams({ path: "/streams", authorize: () => true });
  await using server = testServer({
    history: { "log:{name}": { size: 10 } },
    rooms: ["room:{name}"],
    features: [durable],
    authenticate: () => "ann",
    authorize: () => true,
    onMessage: (message) => {
      if (message.isRequest) message.reply(result);
    },
    requests: {
      returns: () => result,
      async *streams() {
        yield result;
      },
      kept: {
        resumable,
        async *handle() {
          yield result;
        },
      },
    },
    onError: (error) => errors.push(error),
  });
  const received: unknown[] = [];
  await using client = server.connect({ onMessage: ({ data }) => void received.push(data) });
  await using kept = server.connect({ delivery: "at-least-once" });
  const session = await client.whenConnected();
  await kept.whenConnected();
  const [peer] = server.manager.all();
  await using stream = await durable.create("stream");

  /** The application's calls that take data. */
  const calls: Record<string, (data: unknown) => unknown> = {
    "Client.send": (data) => client.send("a", data),
    "Client.send in the outbox": (data) => kept.send("a", data),
    "Client.publish": (data) => client.publish("a", data),
    "Client.publish in the outbox": (data) => kept.publish("a", data),
    "Client.request": (data) => client.request("a", data),
    "Client.requestStream": (data) => Array.fromAsync(client.requestStream("a", data)),
    "Client.presence": (data) => client.presence("room:a", data),
    "Session.send": (data) => session.send("a", data),
    "Session.publish": (data) => session.publish("a", data),
    "Session.request": (data) => session.request("a", data),
    "Session.requestStream": (data) => Array.fromAsync(session.requestStream("a", data)),
    "Session.presence": (data) => session.presence("room:a", data),
    "Session.send at a server": (data) => peer!.send("a", data),
    "Session.request at a server": (data) => peer!.request("a", data),
    "Server.publish": (data) => server.publish("a", data),
    "Server.publish with a history": (data) => server.publish("log:a", data),
    "Server.to.send": (data) => server.to("ann").send("a", data),
    "Topics.append": (data) => server.topics.append("log:a", data),
    "Rooms.join": (data) => server.rooms.join(peer!, "room:b", { data }),
    "Rooms.publish": (data) => server.rooms.publish("room:a", data),
    "Rooms.update": (data) => server.rooms.update(peer!, "room:a", { data }),
    "DurableStreamWriter.append": (data) => stream.append(data),
    "jsonCodec.encode": (data) => jsonCodec.encode(data),
  };
  server.rooms.join(peer!, "room:a");
  for (const value of LOST) {
    for (const data of [value, { rows: [value] }]) {
      for (const [name, call] of Object.entries(calls)) {
        const error = await assertRejects(async () => await call(data), TypeError, "", name);
        assertMatch(error.message, /must be a value that JSON can hold, received [A-Z]/, name);
      }
    }
  }

  /**
   * Results of handlers for which the caller receives `failed` and `onError` receives the reason.
   */
  const handlers: Record<string, () => Promise<unknown>> = {
    "Message.reply": () => client.request("a"),
    "a request handler": () => client.request("returns"),
    "an item": () => Array.fromAsync(client.requestStream("streams")),
    "an item of a resumable response": () =>
      Array.fromAsync(client.requestStream("kept", 1, { id: crypto.randomUUID() })),
  };
  for (const [name, call] of Object.entries(handlers)) {
    result = { rows: [new Map()] };
    errors.length = 0;
    const error = await assertRejects(call, RequestError, undefined, name);
    assertEquals(error.failure.code, "failed", name);
    const [reason] = errors;
    assertInstanceOf(reason, TypeError, name);
    assertMatch(reason.message, /must be a value that JSON can hold, received Map at rows.0/, name);
  }
  assertEquals(received.filter((data) => JSON.stringify(data) === "{}"), []);
});
