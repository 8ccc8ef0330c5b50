import { assertEquals } from "@std/assert";
import { z } from "zod";
import { defineContract } from "../mod.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { drawing } from "./sessions.ts";
import { soon, until } from "./waiting.ts";
import { Page } from "./peers/page.ts";

Deno.test("A page without Skein needs only JSON to talk to a server", async () => {
  await using server = listen({
    onOpen: (session) => void server.subscribe(session, "chat"),
    onMessage: (message) => {
      if (message.isRequest) message.reply({ echo: message.data });
      else server.publish("chat", message.data);
    },
  });
  await using page = await Page.open(server.url);
  await until(() => server.manager.count === 1);
  page.say({ topic: "say", data: "hello" });
  page.say({ topic: "ask", data: 1, id: 7 });
  await until(() => page.texts.length === 2);
  assertEquals(page.texts.toSorted(), [
    '{"reply":7,"data":{"echo":1}}',
    '{"topic":"chat","data":"hello"}',
  ]);
  assertEquals(page.socket.protocol, "");
});

Deno.test("A page without Skein receives each message in a separate frame", async () => {
  await using server = listen({
    onOpen: (session) => {
      for (let i = 0; i < 5; i++) session.send("n", i);
    },
  });
  await using page = await Page.open(server.url);
  await until(() => page.frames.length === 5);
  assertEquals(page.frames, [0, 1, 2, 3, 4].map((i) => `{"topic":"n","data":${i}}`));
});

Deno.test("A page without Skein receives an error for a bad message, and no other notice", async () => {
  const contract = defineContract({ toServer: { say: z.string() } });
  await using server = listen({ contract, onMessage: () => {} });
  await using page = await Page.open(server.url);
  page.socket.send("hello?");
  page.say({ topic: "say", data: 5 });
  page.say({ topic: "nope" });
  page.say({ topic: "say", data: "fine" });
  await until(() => server.manager.all()[0]?.stats.receivedMessages === 3);
  await until(() => page.texts.length === 3);
  const replies = page.texts.map((text) => JSON.parse(text));
  assertEquals(replies.map(({ reply, error }) => [reply, error.code]), [
    [null, "malformed"],
    [null, "invalid"],
    [null, "unknown-topic"],
  ]);
});

Deno.test("A page without Skein receives nothing unsolicited: no hello, no ping, no goaway", async () => {
  const heartbeat = { intervalMs: 1_000, timeoutMs: 60_000 };
  const server = listen({ runtime: drawing(0.99), session: { heartbeat } });
  using raw = await RawSocket.open(portOf(server));
  await until(() => server.manager.count === 1);
  const draining = server.drain({ withinMs: 1_500, reason: "New version" });
  const opcodes: number[] = [];
  for (let frame = await raw.read(); frame !== undefined; frame = await raw.read()) {
    opcodes.push(frame.opcode);
    if (frame.opcode === 8) {
      assertEquals(frame.payload[0]! * 256 + frame.payload[1]!, 4503);
      await raw.frame(frame.payload, { head: 0x88 });
      break;
    }
    await raw.frame(frame.payload, { head: 0x8a });
  }
  assertEquals(
    opcodes.filter((opcode) => opcode !== 9),
    [8],
    "at most WebSocket pings, and a close",
  );
  raw[Symbol.dispose]();
  await draining;
});

Deno.test("A dead page without Skein is detected by WebSocket pings", async () => {
  const closed = Promise.withResolvers<number>();
  await using server = listen({
    session: { heartbeat: { intervalMs: 1_000, timeoutMs: 2_000 } },
    onClose: (_session, { code }) => closed.resolve(code),
  });
  using raw = await RawSocket.open(portOf(server));
  await until(() => server.manager.count === 1);
  assertEquals(await soon(closed.promise), 1006);
  assertEquals((await raw.read())?.opcode, 9);
});

Deno.test("A page without Skein receives no binary data, unlike Skein's clients", async () => {
  await using server = listen({ onOpen: (session) => void server.subscribe(session, "b") });
  await using page = await Page.open(server.url);
  await until(() => server.manager.count === 1);
  server.publish("b", new Uint8Array([1]));
  server.publish("b", "text");
  await until(() => page.texts.length === 1);
  assertEquals(page.texts, ['{"topic":"b","data":"text"}']);
  assertEquals(server.manager.all()[0]?.stats.droppedMessages, 1);
});

Deno.test("A page without Skein receives the close code", async () => {
  await using server = listen({
    onMessage: (_message, session) => void session.close({ code: 4010, reason: "Bye" }),
  });
  await using page = await Page.open(server.url);
  page.say({ topic: "a" });
  const { code, reason, wasClean } = await page.closed;
  assertEquals({ code, reason, wasClean }, { code: 4010, reason: "Bye", wasClean: true });
});
