import { assertEquals, assertInstanceOf, assertRejects, assertStrictEquals } from "@std/assert";
import { ConnectionError, dial, type Session, StreamError } from "../mod.ts";
import { listen } from "./servers.ts";
import { soon } from "./waiting.ts";

const TRANSPORTS = ["webtransport", "websocket"] as const;

async function echo(session: Session, text: string): Promise<string> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writer = writable.getWriter();
  writer.write(new TextEncoder().encode(text)).catch(() => {});
  writer.close().catch(() => {});
  return await new Response(readable).text();
}

for (const transport of TRANSPORTS) {
  Deno.test(`serve() passes each stream to onStream over ${transport}, in parallel with messages and onOpen`, async () => {
    const gate = Promise.withResolvers<void>();
    const notes: string[] = [];
    const noted = Promise.withResolvers<void>();
    await using server = listen({
      onOpen: () => gate.promise,
      onMessage: (message) => message.reply(message.data),
      async onStream(stream, session) {
        if (stream.direction === "bidirectional") {
          await stream.readable.pipeTo(stream.writable);
        } else {
          notes.push(`${session.transport}: ${await new Response(stream.readable).text()}`);
          noted.resolve();
        }
      },
    });
    await using session = await dial(server.url, { transports: [transport] });
    // Messages wait for onOpen, but streams do not.
    const answers = await soon(Promise.all(["a", "b", "c"].map((text) => echo(session, text))));
    assertEquals(answers, ["a", "b", "c"]);
    const note = await session.createUnidirectionalStream();
    const writer = note.getWriter();
    await writer.write(new TextEncoder().encode("note"));
    await writer.close();
    await soon(noted.promise);
    assertEquals(notes, [`${transport}: note`]);
    gate.resolve();
    assertEquals(await soon(session.request("echo", 1)), 1);
  });
}

for (const transport of TRANSPORTS) {
  for (const by of ["client", "server"] as const) {
    Deno.test(`serve() reports no stream that is open when the ${by} closes the session over ${transport}`, async () => {
      const errors: unknown[] = [];
      const opened = Promise.withResolvers<Session>();
      const failed = Promise.withResolvers<unknown>();
      await using server = listen({
        async onStream({ readable }, session) {
          try {
            for await (const _ of readable) opened.resolve(session as Session);
          } catch (error) {
            failed.resolve(error);
            throw error;
          }
        },
        onError: (error) => void errors.push(error),
      });
      await using session = await dial(server.url, { transports: [transport] });
      const stream = await session.createUnidirectionalStream();
      const writer = stream.getWriter();
      writer.closed.catch(() => {});
      await writer.write(new Uint8Array(1));
      const ends = { client: session, server: await soon(opened.promise) };
      await ends[by].close();
      assertInstanceOf(await soon(failed.promise), ConnectionError);
      await server.close();
      assertEquals(errors, []);
    });
  }
}

Deno.test("serve() resets a stream with 4500 if onStream fails, and the session continues", async () => {
  const failure = new Error("No such file");
  const errors: unknown[] = [];
  await using server = listen({
    onMessage: (message) => message.reply(message.data),
    onStream() {
      throw failure;
    },
    onError: (error) => void errors.push(error),
  });
  await using session = await dial(server.url, { transports: ["websocket"] });
  const error = await assertRejects(() => soon(echo(session, "?")), StreamError);
  assertEquals({ code: error.streamErrorCode, by: error.by }, { code: 4500, by: "remote" });
  assertStrictEquals(errors[0], failure);
  assertEquals(errors.length, 1);
  assertEquals(await soon(session.request("echo", 1)), 1);
});

Deno.test("serve() with onStream also serves plain pages, which have no streams", async () => {
  const errors: unknown[] = [];
  await using server = listen({
    onStream() {},
    onMessage: (message) => message.reply(message.data),
    onError: (error) => void errors.push(error),
  });
  await using session = await dial(server.url, { transports: ["websocket"], protocols: [] });
  assertEquals(await soon(session.request("echo", 1)), 1);
  assertEquals(errors, []);
});
