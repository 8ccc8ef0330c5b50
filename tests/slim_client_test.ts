/**
 * Tests the client for a page in one file, and its errors about what the page leaves out.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import * as slim from "../client/page/slim.ts";
import { insight, race, responses, states, streams, webSocket } from "../client/page/slim.ts";
import type { SlimConnectOptions } from "../client/page/slim.ts";
import type { Transport } from "../client.ts";
import { UnsupportedError } from "../mod.ts";
import { dialWebSocket, directStream } from "../transport/mod.ts";
import { listen } from "./servers.ts";
import { soon } from "./waiting.ts";

const connect = (url: string, options: Partial<SlimConnectOptions> = {}) =>
  slim.connect(url, { transports: [webSocket()], ...options });

/** A text of an error about a missing feature. */
const missing = (name: string) => `import ${name} from the module of connect`;

Deno.test("connect() of the slim client has messages, requests, topics and presence", async () => {
  await using server = listen({
    authorize: () => true,
    authenticate: () => "ann",
    rooms: ["room:{name}"],
    onMessage: (message) => message.reply(message.data),
  });
  await using client = connect(server.url);
  assertEquals(await soon(client.request("echo", 1)), 1);
  await using news = client.subscribe("news");
  await soon(news.ready);
  await soon(client.publish("news", "hello"));
  for await (const { data } of news) {
    assertEquals(data, "hello");
    break;
  }
  for await (const members of client.members("room:tea")) if (members.has("ann")) break;
  await using session = await soon(slim.dial(server.url, { transports: [webSocket()] }));
  assertEquals(await soon(session.request("echo", 2)), 2);
});

Deno.test("connect() of the slim client says which feature a call needs", async () => {
  await using server = listen();
  await using client = connect(server.url);
  const session = await soon(client.whenConnected());
  for (
    const [name, call] of [
      ["states", () => client.state("board:1")],
      ["responses", () => Array.fromAsync(client.requestStream("count"))],
      ["responses", () => Array.fromAsync(client.durableStream("a"))],
      ["insight", () => session.ping()],
      ["insight", () => session.diagnostics()],
      ["insight", () => session.sendDatagram(Uint8Array.of(1))],
      ["streams", () => session.createBidirectionalStream()],
    ] as const
  ) {
    const error = await assertRejects(() => soon<unknown>(call()), UnsupportedError);
    assertStringIncludes(error.message, missing(name));
  }
});

Deno.test("connect() of the slim client says which feature an option needs", () => {
  for (
    const [name, options] of [
      ["insight", { instrumentation: {} }],
      ["responses", { requests: {} }],
      ["responses", { sendQueue: { policy: "drop-oldest" } }],
      ["race", { transports: [webSocket(), { name: "own", dial: () => Promise.reject() }] }],
    ] as const
  ) {
    const error = assertThrows(() => connect("ws://127.0.0.1:1", options), UnsupportedError);
    assertStringIncludes(error.message, missing(name));
  }
});

Deno.test("connect() of the slim client accepts values only, and known options only", () => {
  for (
    const [transports, received] of [
      [["websocket"], "websocket"],
      [[], "none"],
      [undefined, "none"],
    ] as const
  ) {
    assertThrows(
      () => connect("ws://127.0.0.1:1", { transports: transports as unknown as Transport[] }),
      TypeError,
      `transports must be values such as webSocket(), received ${received}`,
    );
  }
  const options = { tokn: "ann" } as Partial<SlimConnectOptions>;
  assertThrows(() => connect("ws://127.0.0.1:1", options), TypeError, 'unknown option "tokn"');
});

Deno.test("connect() of the slim client has the features that it was given", async () => {
  await using server = listen({
    onOpen: (session) => void echo(session.connection.incomingBidirectionalStreams),
    requests: {
      async *count({ data }) {
        for (let n = 1; n <= Number(data); n++) yield n;
      },
    },
  });
  const own: Transport = {
    name: "own",
    dial: (url, { protocols, signal }) => dialWebSocket(url, { protocols, signal }),
  };
  await using client = connect(server.url, {
    transports: [slim.webTransport(), webSocket({ streams: streams() }), own, slim.http()],
    features: [race(), responses(), insight(), states()],
    requests: { hi: () => "there" },
  });
  assertEquals(await soon(Array.fromAsync(client.requestStream("count", 3))), [1, 2, 3]);
  const session = client.session!;
  assert(await soon(session.ping()) >= 0);
  const stream = directStream(await soon(session.createBidirectionalStream()));
  await soon(stream.write(Uint8Array.of(1)));
  assertEquals(await soon(stream.read()), Uint8Array.of(1));
  await soon(stream.close());
});

Deno.test("dial() of the slim client uses HTTP alone, and an own transport alone", async () => {
  await using server = listen({ onMessage: (message) => message.reply("pong") });
  const own = { name: "own", dial: dialWebSocket } as Transport;
  for (const transport of [slim.http(), own]) {
    await using session = await soon(slim.dial(server.url, { transports: [transport] }));
    assertEquals(await soon(session.request("ping")), "pong");
  }
  const broken = { name: "own", dial: () => Promise.reject(new Error("No port")) };
  const error = await assertRejects(() => soon(slim.dial(server.url, { transports: [broken] })));
  assertStringIncludes(String(error), "Cannot open own: No port");
});

Deno.test("connect() of the slim client reports losses without insight", async () => {
  const told = Promise.withResolvers<unknown>();
  await using server = listen({ authorize: () => false });
  await using client = connect(server.url, { onError: told.resolve });
  client.subscribe("news");
  assertStringIncludes(String(await soon(told.promise)), "may not subscribe");
});

async function echo(
  streams: ReadableStream<{ readable: ReadableStream; writable: WritableStream }>,
): Promise<void> {
  for await (const { readable, writable } of streams) readable.pipeTo(writable).catch(() => {});
}
