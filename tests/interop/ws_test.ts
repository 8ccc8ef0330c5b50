/**
 * Tests Skein with `npm:ws`, the WebSocket implementation for Node: its client with Skein's server,
 * and Skein's client with its server.
 */
import { assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { once } from "node:events";
import { WebSocket as Ws, WebSocketServer } from "npm:ws@8.23.0";
import { dial } from "../../client.ts";
import { hardenedWebSocket } from "../../transport/hardened/mod.ts";
import { listen } from "../servers.ts";

/** Frames that a foreign socket received, as text or bytes, in order. */
class Frames {
  readonly #frames: (string | Uint8Array)[] = [];
  #wake = Promise.withResolvers<void>();

  constructor(socket: Ws) {
    socket.on("message", (data: Uint8Array, isBinary: boolean) => {
      this.#frames.push(isBinary ? new Uint8Array(data) : new TextDecoder().decode(data));
      this.#wake.resolve();
      this.#wake = Promise.withResolvers();
    });
  }

  async next(): Promise<string | Uint8Array> {
    while (this.#frames.length === 0) await deadline(this.#wake.promise, 100_000);
    return this.#frames.shift()!;
  }
}

async function open(url: string, protocols: string[] = []): Promise<[Ws, Frames]> {
  const socket = new Ws(url, protocols);
  const frames = new Frames(socket);
  await once(socket, "open");
  return [socket, frames];
}

async function closeOf(socket: Ws): Promise<[code: number, reason: string]> {
  const [code, reason] = await once(socket, "close");
  return [code, String(reason)];
}

Deno.test("a client of ws uses plain messages, and is closed with code and reason", async () => {
  await using server = listen({
    onMessage(message, session) {
      session.send("echo", message.data);
      if (message.data === "bye") session.close({ code: 4009, reason: "so long – bye" });
    },
  });
  const [socket, frames] = await open(server.url);
  assertEquals(socket.protocol, "");
  socket.send('{"topic":"say","data":{"n":1}}');
  assertEquals(await frames.next(), '{"topic":"echo","data":{"n":1}}');
  const closed = closeOf(socket);
  socket.send('{"topic":"say","data":"bye"}');
  assertEquals(await frames.next(), '{"topic":"echo","data":"bye"}');
  assertEquals(await closed, [4009, "so long – bye"]);
});

Deno.test("a client of ws speaks skein.1: hello, joined frames, bytes, replies", async () => {
  await using server = listen({
    onMessage(message, session) {
      if (message.isRequest) return message.reply(message.data);
      for (let n = 0; n < 3; n++) session.send("n", n);
      session.send("bytes", Uint8Array.of(1, 2, 255));
    },
  });
  const [socket, frames] = await open(server.url, ["other", "skein.1"]);
  assertEquals(socket.protocol, "skein.1");
  const { hello } = JSON.parse(await frames.next() as string);
  const keys = ["session", "heartbeatMs", "maxMessageBytes", "features", "ticket", "user"];
  assertEquals(Object.keys(hello), keys);
  socket.send('{"topic":"go"}');
  const joined = '{"topic":"n","data":0}\n{"topic":"n","data":1}\n{"topic":"n","data":2}';
  assertEquals(await frames.next(), joined);
  const binary = await frames.next() as Uint8Array;
  assertEquals(
    Buffer.from(binary).toString("hex"),
    "4053117b22746f706963223a226279746573227d0102ff",
  );
  socket.send('{"topic":"ask","data":[1],"id":1}\n{"topic":"ask","data":[2],"id":2}');
  assertEquals(await frames.next(), '{"reply":1,"data":[1]}\n{"reply":2,"data":[2]}');
  const closed = closeOf(socket);
  socket.close(4001, "enough");
  assertEquals(await closed, [4001, "enough"]);
});

Deno.test("a client of ws compresses, and reads compressed publications of the hardened engine", async () => {
  const received: unknown[] = [];
  await using server = listen({
    webSocket: hardenedWebSocket({ compression: { minBytes: 0 } }),
    session: { maxMessageBytes: 2 ** 20 },
    onMessage(message, session) {
      received.push(message.data);
      server.subscribe(session, "echo");
      server.publish("echo", message.data);
    },
  });
  for (const limits of [{}, { serverMaxWindowBits: 9 }, { clientMaxWindowBits: 9 }]) {
    const perMessageDeflate = { ...limits, threshold: 0 };
    const socket = new Ws(server.url, { perMessageDeflate, maxPayload: 2 ** 22 });
    const frames = new Frames(socket);
    await once(socket, "open");
    assertEquals(socket.extensions, "permessage-deflate");
    for (const length of [0, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 131_072]) {
      const data = Array.from({ length: length / 8 }, (_, i) => `€ ${i * 7_919 % 100_003}`);
      socket.send(JSON.stringify({ topic: "echo", data }));
      assertEquals(JSON.parse(await frames.next() as string).data, data);
      assertEquals(received.pop(), data);
    }
    const closed = closeOf(socket);
    socket.close(4001, "enough");
    assertEquals(await closed, [4001, "enough"]);
  }
});

Deno.test("a rejected client of ws sees the status, or the close code if it offers skein.1", async () => {
  await using server = listen({ authenticate: () => null });
  const plain = new Ws(server.url);
  // Handled, so that the rejection is not reported as uncaught.
  const failed = once(plain, "error");
  const [, response] = await once(plain, "unexpected-response");
  assertEquals(response.statusCode, 401);
  plain.terminate();
  await failed;
  const [socket] = await open(server.url, ["skein.1"]);
  assertEquals((await closeOf(socket))[0], 4401);
});

Deno.test("a session dials a server of ws, with plain messages and skein.1, including fragments", async () => {
  const foreign = new WebSocketServer({
    port: 0,
    host: "127.0.0.1",
    handleProtocols: (offered: Set<string>) => offered.has("skein.1") ? "skein.1" : false,
  });
  await once(foreign, "listening");
  foreign.on("connection", (socket: Ws) => {
    const isSkein = socket.protocol === "skein.1";
    if (isSkein) {
      socket.send(
        '{"hello":{"session":"s","heartbeatMs":25000,"maxMessageBytes":1000,"features":[]}}',
      );
    }
    socket.on("message", (data: Uint8Array) => {
      const { topic, id } = JSON.parse(new TextDecoder().decode(data));
      if (topic === "bye") return socket.close(4003, "gone");
      // In fragments with a ping in between, as the standard allows.
      socket.send(`{"reply":${id},`, { fin: false });
      socket.ping();
      socket.send('"data":"pong"}', { fin: true });
    });
  });
  const { port } = foreign.address() as { port: number };
  try {
    for (const protocols of [["skein.1"], []]) {
      const session = await dial(`ws://127.0.0.1:${port}`, { protocols });
      assertEquals(await session.request("ping"), "pong");
      session.send("bye");
      const { code, reason, by } = await session.closed;
      assertEquals({ code, reason, by }, { code: 4003, reason: "gone", by: "remote" });
    }
  } finally {
    foreign.close();
    await once(foreign, "close");
  }
});
