import { assertEquals, assertInstanceOf, assertRejects, assertStrictEquals } from "@std/assert";
import { z } from "zod";
import { QueueFullError, StreamError, StructuredError, UnsupportedError } from "../../errors.ts";
import { ends, PLAIN } from "../../tests/sessions.ts";
import {
  accept,
  anything,
  byHand,
  bytesCodec,
  END_MARK,
  failureOf,
  framed,
  HandStream,
  joined,
  registry,
  type TestRegistry as R,
} from "../../tests/structured.ts";
import { wires } from "../../tests/pairs/wires.ts";
import type { Codec } from "./codec.ts";
import type { StructuredMessage } from "./registry.ts";
import { Session } from "../session.ts";
import { structuredStream as open } from "./structured.ts";
import { sessionSettings } from "../settings/session_settings.ts";
import { soon, turns } from "../../tests/waiting.ts";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
  : false;
function expectType<_T extends true>(): void {}

for (const { name, makePair } of wires) {
  Deno.test(`structuredStream() carries messages in both directions, and ends as agreed, over ${name}`, async () => {
    await using pair = await makePair();
    await using client = new Session(pair.client, sessionSettings({ side: "client" }));
    await using server = new Session(pair.server, sessionSettings({ side: "server" }));
    await soon(client.ready);
    await using near = await open(client, { registry });
    await near.send(1, { x: 1 });
    await using far = await accept(server);
    const sending = (async () => {
      await near.send(2, "é".repeat(300_000));
      await near.send(40_000, null);
      await near.close();
    })();
    const came: StructuredMessage<R>[] = [];
    for await (const message of far) {
      came.push(message);
      await far.send(2, `${message.type}`);
    }
    await soon(sending);
    assertEquals(came, [
      { type: 1, data: { x: 1, note: "none" } },
      { type: 2, data: "é".repeat(300_000) },
      { type: 40_000, data: null },
    ]);
    await far.close();
    const replies = await soon(Array.fromAsync(near));
    assertEquals(replies.map(({ data }) => data), ["1", "2", "40000"]);
    await soon(Promise.all([near.closed, far.closed]));
  });

  Deno.test(`StructuredStream.abort() arrives as an abort over ${name}`, async () => {
    await using pair = await makePair();
    await using client = new Session(pair.client, sessionSettings({ side: "client" }));
    await using server = new Session(pair.server, sessionSettings({ side: "server" }));
    await soon(client.ready);
    const near = await open(client, { registry });
    await near.send(2, "first");
    const far = await accept(server);
    const loop = far[Symbol.asyncIterator]();
    assertEquals((await soon(loop.next())).value, { type: 2, data: "first" });
    near.abort(77);
    near.abort(78);
    const error = await soon(assertRejects(() => loop.next(), StreamError));
    const isTold = pair.client.capabilities.resetCodes;
    assertEquals([error.by, error.streamErrorCode], ["remote", isTold ? 77 : 0]);
    await assertRejects(() => far.closed, StreamError);
    const local = await assertRejects(() => near.closed, StreamError);
    assertEquals([local.by, local.streamErrorCode], ["local", 77]);
    await assertRejects(() => near.send(2, "late"), StreamError);
    await assertRejects(() => Array.fromAsync(near), StreamError);
    assertEquals([client.state, server.state], ["connected", "connected"]);
  });

  Deno.test(`StructuredStream does not affect the session when a message is rejected over ${name}`, async () => {
    await using pair = await makePair();
    await using client = new Session(pair.client, sessionSettings({ side: "client" }));
    await using server = new Session(
      pair.server,
      sessionSettings({ side: "server", onMessage: (message) => message.reply("pong") }),
    );
    await soon(client.ready);
    const near = await open(client, { registry: { 9: z.string() } });
    await near.send(9, "unknown to the other side");
    const far = await accept(server);
    const error = await failureOf(far);
    assertInstanceOf(error, StructuredError);
    assertEquals([error.reason, error.type], ["unknown-type", 9]);
    const told = await failureOf(near);
    assertInstanceOf(told, StreamError);
    assertEquals(told.streamErrorCode, pair.client.capabilities.resetCodes ? 4400 : 0);
    await using again = await open(client, { registry });
    await again.send(2, "goes on");
    await using there = await accept(server);
    for await (const { data } of there) {
      assertEquals(data, "goes on");
      break;
    }
    assertEquals(await soon(client.request("ping")), "pong");
  });

  Deno.test(`StructuredStream.send() waits for a peer that does not read over ${name}`, async () => {
    await using pair = await makePair();
    await using client = new Session(pair.client, sessionSettings({ side: "client" }));
    await using server = new Session(
      pair.server,
      sessionSettings({ side: "server", onMessage: (message) => message.reply("pong") }),
    );
    await soon(client.ready);
    await using near = await open(client, { registry });
    await near.send(2, "first");
    await using far = await accept(server);
    let sent = 0;
    const text = "x".repeat(256 * 1024);
    const sending = (async () => {
      for (; sent < 64; sent++) await near.send(2, text); // More than any connection buffers.
      await near.close();
    })();
    // Until the queue is empty, by the connection's clock.
    for (let [before, still] = [sent, 0]; still < 20; still = sent === before ? still + 1 : 0) {
      before = sent;
      assertEquals(await soon(client.request("ping")), "pong");
    }
    assertEquals(sent < 64, true, `${sent} messages were sent that no one read`);
    assertEquals((await soon(Array.fromAsync(far))).length, 65);
    await soon(sending);
  });
}

Deno.test("structuredStream() infers sent and received types", async () => {
  await using stream = await byHand(new HandStream());
  // @ts-expect-error Not in the registry.
  const unknown = stream.send(3, "a");
  await assertRejects(
    () => unknown,
    TypeError,
    "Cannot send message: type must be 1, 2 or 40000, received 3",
  );
  // @ts-expect-error Not the input of the schema.
  await stream.send(2, 5);
  await stream.send(1, { x: 1 });
  const read = async () => {
    for await (const message of stream) {
      expectType<Equal<typeof message, StructuredMessage<R>>>();
      if (message.type === 1) expectType<Equal<typeof message.data.note, string>>();
    }
  };
  assertInstanceOf(read, Function);
});

Deno.test("structuredStream() opens no stream if its options are invalid", async () => {
  await using pair = await ends();
  const { client, server } = pair;
  await assertRejects(() => open(client, { registry: {} }), TypeError, "at least one type");
  for (const maxMessageBytes of [0, -1, 1.5, NaN, 2 ** 32]) {
    await assertRejects(
      () => open(client, { registry, maxMessageBytes }),
      RangeError,
      `maxMessageBytes must be an integer from 1 to 4294967295, received ${maxMessageBytes}`,
    );
  }
  const wrong: readonly [option: string, value: unknown, rule: string][] = [
    ["codec", {}, "codec must have the methods encode and decode, received Object"],
    [
      "codec",
      () => bytesCodec,
      "codec must have the methods encode and decode, received a function",
    ],
    ["onInvalid", "ignore", 'onInvalid must be "throw", "skip" or a function, received "ignore"'],
    ["stream", { readable: new ReadableStream() }, "a readable and a writable end"],
  ];
  for (const [option, value, rule] of wrong) {
    await assertRejects(() => open(client, { registry, [option]: value }), TypeError, rule);
  }
  let opened = 0;
  void server.connection.incomingBidirectionalStreams.getReader().read()
    .then(({ value }) => opened += value ? 1 : 0, () => {});
  await turns();
  assertEquals(opened, 0);
});

Deno.test("structuredStream() rejects on a connection without streams", async () => {
  await using pair = await ends({}, {}, { wire: PLAIN });
  await assertRejects(() => open(pair.client, { registry }), UnsupportedError);
});

Deno.test("structuredStream() stops waiting for a stream when its signal aborts", async () => {
  await using pair = await ends();
  const signal = AbortSignal.abort(new Error("Enough"));
  await assertRejects(() => open(pair.client, { registry, signal }), Error, "Enough");
});

Deno.test("StructuredStream.send() writes type, length and payload in network byte order", async () => {
  const wire = new HandStream();
  const stream = await byHand(wire, { registry: { 40_000: z.string() } as unknown as R });
  await stream.send(40_000 as 2, "é");
  await stream.close();
  await stream.close();
  assertEquals(wire.written.map((bytes) => bytes.toHex()), [
    "9c4000000004" + "22c3a922",
    "ffff00000000",
  ]);
  assertEquals(wire.isClosed, true);
});

Deno.test("StructuredStream.close() sends no end mark to a peer other than Skein", async () => {
  for (const options of [{ protocol: "" }, { protocol: "qmux-01" }, { endMark: false }]) {
    const wire = new HandStream(framed(2, "a"), null);
    const stream = await byHand(wire, options);
    assertEquals(await Array.fromAsync(stream), [{ type: 2, data: "a" }]);
    await stream.close();
    assertEquals([wire.written.length, wire.isClosed], [0, true]);
    await stream.closed;
  }
});

Deno.test("StructuredStream.send() rejects messages above the limit before any byte is sent", async () => {
  const wire = new HandStream();
  const stream = await byHand(wire, { maxMessageBytes: 10 });
  await assertRejects(
    () => stream.send(2, "123456789"),
    RangeError,
    "Cannot send message: one of type 2 must have at most 10 bytes, received 11",
  );
  assertEquals(wire.written, []);
  await stream.send(2, "12345678");
  assertEquals(wire.written.length, 1);

  const usual = await byHand(new HandStream());
  await usual.send(2, "x".repeat(1024 * 1024 - 2));
  await assertRejects(() => usual.send(2, "x".repeat(1024 * 1024 - 1)), RangeError, "1048576");
});

Deno.test("StructuredStream.send() sends no data that the codec cannot encode", async () => {
  const wire = new HandStream();
  const json = await byHand(wire, { registry: { 1: anything } as unknown as R });
  await assertRejects(() => json.send(1, undefined as never), TypeError, "received undefined");
  const cause = new Error("Out of colors");
  const picky: Codec = {
    ...bytesCodec,
    name: "colors",
    encode() {
      throw cause;
    },
  };
  const pale = await byHand(wire, { registry: { 1: anything } as unknown as R, codec: picky });
  const error = await assertRejects(
    () => pale.send(1, "gray" as never),
    TypeError,
    "Cannot send message: the data of type 1 must be what codec colors can encode, which says: Out of colors",
  );
  assertStrictEquals(error.cause, cause);
  const codec: Codec = { ...bytesCodec, name: "none" };
  const broken = await byHand(wire, { registry: { 1: anything } as unknown as R, codec });
  await assertRejects(
    () => broken.send(1, "text" as never),
    TypeError,
    "Cannot send message: codec none must make a Uint8Array, received string",
  );
  assertEquals(wire.written, []);
});

Deno.test("StructuredStream.send() without await keeps the order of messages, and joins them", async () => {
  const wire = new HandStream();
  const gate = Promise.withResolvers<void>();
  wire.gate = gate.promise;
  const stream = await byHand(wire);
  const texts = Array.from({ length: 50 }, (_, n) => `${n}`);
  const sent = Promise.all(texts.map((text) => stream.send(2, text)));
  const closed = stream.close();
  await assertRejects(() => stream.send(2, "late"), StreamError, "the stream is closed");
  await turns();
  assertEquals(wire.written.length, 1);
  gate.resolve();
  await Promise.all([sent, closed]);
  assertEquals(wire.written.length, 2);
  const expected = joined(...texts.map((text) => framed(2, text)), END_MARK);
  assertEquals(joined(...wire.written), expected);
});

Deno.test("StructuredStream.send() resolves once the connection has accepted the message", async () => {
  const wire = new HandStream();
  const gate = Promise.withResolvers<void>();
  wire.gate = gate.promise;
  const stream = await byHand(wire);
  let isTaken = false;
  const sent = stream.send(2, "a").then(() => isTaken = true);
  await turns();
  assertEquals(isTaken, false);
  gate.resolve();
  await sent;
});

Deno.test("StructuredStream.send() without await aborts the stream when 4 MiB wait, and not before", async () => {
  const wire = new HandStream();
  const stream = await byHand(wire);
  const text = "x".repeat(1024 * 1024 - 100);
  const send = (count: number) => Array.from({ length: count }, () => stream.send(2, text));
  // Four messages of each round wait, just below the limit; written ones no longer count.
  for (let round = 0; round < 3; round++) {
    const gate = Promise.withResolvers<void>();
    wire.gate = gate.promise;
    const sends = Promise.all(send(5));
    gate.resolve();
    await sends;
  }
  wire.gate = new Promise(() => {});
  const sends = send(6);
  const failures = await Promise.allSettled(sends.slice(1));
  for (const failure of failures) {
    assertEquals(failure.status, "rejected");
    assertInstanceOf((failure as PromiseRejectedResult).reason, QueueFullError);
  }
  await assertRejects(() => stream.closed, QueueFullError, "await send()");
  assertEquals(wire.aborted, [4507]);
});

Deno.test("StructuredStream reports a failed write without await only through closed", async () => {
  const wire = new HandStream(framed(2, "still readable"), END_MARK.slice(), null);
  const stopped = new StreamError("The peer stopped reading", { streamErrorCode: 5, by: "remote" });
  wire.write = () => Promise.reject(stopped);
  const stream = await byHand(wire);
  void stream.send(2, "a");
  void stream.send(2, "b");
  assertStrictEquals(await assertRejects(() => stream.closed), stopped);
  void stream.send(2, "c");
  assertStrictEquals(await assertRejects(() => stream.close()), stopped);
  assertEquals(await Array.fromAsync(stream), [{ type: 2, data: "still readable" }]);
});

for (const end of ["the write fails", "the joined write fails", "the stream is aborted"]) {
  Deno.test(`StructuredStream.send() and close() reject while waiting if ${end}`, async () => {
    const wire = new HandStream();
    const { promise, reject } = Promise.withResolvers<void>();
    let writes = 0;
    wire.write = () => ++writes === 1 && end.includes("joined") ? Promise.resolve() : promise;
    const stream = await byHand(wire);
    const [, ...sends] = ["a", "b", "c"].map((text) => stream.send(2, text));
    const outcomes = Promise.allSettled([...sends, stream.close()]);
    await turns();
    if (end.endsWith("aborted")) stream.abort(77);
    else reject(new StreamError("Enough", { streamErrorCode: 77, by: "remote" }));
    for (const outcome of await outcomes) {
      assertEquals(outcome.status, "rejected");
      assertEquals((outcome as PromiseRejectedResult).reason.streamErrorCode, 77);
    }
  });
}
