/** Tests the credit for streams and bytes, in both directions. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { nextBidirectional, nextUnidirectional } from "../../tests/incoming.ts";
import { StreamError, TimeoutError } from "../../errors.ts";
import { control, sent, serverOf, stream, TestPair } from "../../tests/peers/qmux_wire.ts";
import type { ConnectionEvent } from "../connection.ts";
import { directStream } from "../direct.ts";

Deno.test("Qmux reports once for each total that it is blocked, and when it continues", async () => {
  using server = serverOf({}, { maxData: 100, maxStreamDataUni: 60, maxStreamsUni: 2 });
  const { qmux } = server;
  const events: ConnectionEvent[] = [];
  qmux.observe((event) => void events.push(event));
  const near = directStream(await qmux.createUnidirectionalStream());
  const writing = [near.write(new Uint8Array(50)), near.write(new Uint8Array(50))];
  const kinds = async () => (await sent(server)).map(({ kind }) => kind);
  assertEquals(await kinds(), ["stream", "stream", "streamDataBlocked"]);
  qmux.receive(control(0x11, 3, 200));
  await Promise.all(writing);
  assertEquals(await kinds(), ["stream"]);
  const late = [near.write(new Uint8Array(30)), near.write(new Uint8Array(30))];
  assertEquals(await kinds(), ["dataBlocked"]);
  assertEquals(qmux.credit.state("data"), {
    granted: 1_048_576,
    received: 0,
    allowed: 100,
    sent: 100,
    waiting: 1,
  });
  assertEquals(await kinds(), []);
  qmux.receive(control(0x10, 90)); // A lower limit has no effect.
  qmux.receive(control(0x10, 110));
  assertEquals(await kinds(), ["stream", "dataBlocked"]);
  qmux.receive(control(0x10, 1_000));
  await Promise.all(late);
  assertEquals(await kinds(), ["stream", "stream"]);
  await qmux.createUnidirectionalStream();
  const third = qmux.createUnidirectionalStream();
  assertEquals(qmux.credit.state("unidirectional").waiting, 1);
  assertEquals((await kinds()).toSorted(), ["stream", "streamsBlocked"]);
  qmux.receive(control(0x13, 3));
  await third;
  assertEquals(events.filter(({ type }) => type === "blocked" || type === "credit"), [
    { type: "blocked", what: "data", by: "local", limit: 100 },
    { type: "credit", what: "data", limit: 110 },
    { type: "blocked", what: "data", by: "local", limit: 110 },
    { type: "credit", what: "data", limit: 1_000 },
    { type: "blocked", what: "unidirectional", by: "local", limit: 2 },
    { type: "credit", what: "unidirectional", limit: 3 },
  ]);
});

Deno.test("Qmux ends a stream although others wait for credit of the connection", async () => {
  using server = serverOf({}, { maxData: 10 });
  const [one, other] = [
    await server.qmux.createBidirectionalStream(),
    await server.qmux.createBidirectionalStream(),
  ];
  await other.write(new Uint8Array(5));
  const writing = one.write(new Uint8Array(100));
  await other.close();
  const ends = (await sent(server)).filter((frame) => frame.kind === "stream" && frame.isFin);
  assertEquals(ends.map((frame) => (frame as { id: number }).id), [other.id]);
  one.abort();
  await writing.catch(() => {});
});

Deno.test("Qmux names the awaited event in its timeout errors", async () => {
  using server = serverOf({}, { maxData: 10, maxStreamDataBidiRemote: 5, maxStreamsUni: 0 });
  const { qmux } = server;
  const late = (promise: () => Promise<unknown>) => assertRejects(promise, TimeoutError);
  const opening = await late(() => qmux.createUnidirectionalStream({ timeoutMs: 1 }));
  assertStringIncludes(opening.message, "no unidirectional stream within 1 ms");
  const one = await qmux.createBidirectionalStream();
  await one.write(new Uint8Array(5));
  const ofStream = await late(() => one.write(Uint8Array.of(1), { timeoutMs: 1 }));
  assertStringIncludes(ofStream.message, "granted no bytes for the stream within 1 ms");
  qmux.receive(control(0x11, one.id, 100));
  await one.write(new Uint8Array(5));
  const ofAll = await late(() => one.write(Uint8Array.of(1), { timeoutMs: 1 }));
  assertStringIncludes(ofAll.message, "granted no bytes for the connection within 1 ms");
  const reason = new Error("changed my mind");
  const controller = new AbortController();
  const waiting = one.write(Uint8Array.of(1), { signal: controller.signal });
  controller.abort(reason);
  assertEquals(await assertRejects(() => waiting), reason);
  // The bytes of the abandoned write were never sent, and the stream can still be used.
  qmux.receive(control(0x10, 11));
  await one.write(Uint8Array.of(7));
  await one.close();
  const frames = (await sent(server)).filter((frame) => frame.kind === "stream");
  const bytes = frames.flatMap(({ data }) => [...data]);
  assertEquals([bytes.length, bytes.at(-1), qmux.credit.state("data").waiting], [11, 7, 0]);
});

Deno.test("Qmux ends a stream after a cancelled write although it waits for credit", async () => {
  using server = serverOf({}, { maxData: 10 });
  const one = await server.qmux.createBidirectionalStream();
  await one.write(new Uint8Array(10));
  await assertRejects(() => one.write(Uint8Array.of(1), { timeoutMs: 1 }), TimeoutError);
  await one.close();
  const last = (await sent(server)).filter((frame) => frame.kind === "stream").at(-1);
  assertEquals(last?.isFin, true);
});

Deno.test("Qmux resets a stream whose write was cancelled halfway", async () => {
  using server = serverOf({}, { maxData: 10 });
  const one = await server.qmux.createBidirectionalStream();
  await assertRejects(() => one.write(new Uint8Array(11), { timeoutMs: 1 }), TimeoutError);
  await assertRejects(() => one.write(Uint8Array.of(1)), TimeoutError);
  const frames = await sent(server);
  assertEquals(frames.at(-1), { kind: "reset", id: one.id, code: 0, finalSize: 10 });
});

Deno.test("Qmux ends a stream whose last write is cancelled after its close", async () => {
  using server = serverOf({}, { maxData: 10 });
  const one = await server.qmux.createBidirectionalStream();
  await one.write(new Uint8Array(10));
  const late = assertRejects(() => one.write(Uint8Array.of(1), { timeoutMs: 1 }), TimeoutError);
  await Promise.all([late, one.close()]);
  const last = (await sent(server)).filter((frame) => frame.kind === "stream").at(-1);
  assertEquals([last?.isFin, last?.data.byteLength], [true, 0]);
});

Deno.test("Qmux returns the credit of bytes that are never read", async () => {
  using pair = new TestPair({ flowControl: { maxData: 10_000, maxStreamData: 10_000 } });
  const { client, server } = pair;
  const opening = client.qmux.createUnidirectionalStream();
  await pair.settle();
  for (let i = 0; i < 10; i++) {
    const near = directStream(
      i === 0 ? await opening : await client.qmux.createUnidirectionalStream(),
    );
    const writing = near.write(new Uint8Array(10_000));
    await pair.settle();
    await writing;
    const far = await nextUnidirectional(server.qmux);
    if (i % 2 === 0) far.cancel({ streamErrorCode: i });
    else near.abort({ streamErrorCode: i });
    await pair.settle();
    if (i % 2 === 0) {
      const error = await assertRejects(() => near.write(Uint8Array.of(1)), StreamError);
      assertEquals([error.streamErrorCode, error.by], [i, "remote"]);
    } else {
      const error = await assertRejects(() => far.read(), StreamError);
      assertEquals([error.streamErrorCode, error.by], [i, "remote"]);
    }
  }
  assertEquals([client.qmux.openStreams, server.qmux.openStreams], [0, 0]);
  assertEquals(server.qmux.credit.state("data").received, 100_000);
});

Deno.test("Qmux returns the credit of bytes that a reset stream never sent", async () => {
  using server = serverOf({ flowControl: { maxData: 1_000, maxStreamData: 1_000 } });
  for (let index = 0; index < 3; index++) {
    server.qmux.receive(control(0x04, 4 * index + 2, 0, 1_000));
    const grants = (await sent(server)).filter(({ kind }) => kind === "maxData");
    assertEquals(grants, [{ kind: "maxData", limit: 1_000 * (index + 2) }]);
  }
  assertEquals(server.link.faults, []);
});

Deno.test("Qmux grants only explicitly if windows are not automatic", async () => {
  using pair = new TestPair({}, {
    server: { flowControl: { maxData: 100, maxStreamsUni: 1, automatic: false } },
  });
  const { client, server } = pair;
  const opening = client.qmux.createUnidirectionalStream();
  await pair.settle();
  const near = directStream(await opening);
  const writing = near.write(new Uint8Array(300));
  await pair.settle();
  const far = await nextUnidirectional(server.qmux);
  assertEquals((await far.read())!.byteLength, 100);
  await pair.settle();
  assertEquals(server.qmux.credit.state("data").granted, 100);
  server.qmux.credit.grant("data", 250);
  await pair.settle();
  assertEquals((await far.read())!.byteLength, 150);
  server.qmux.credit.grant("data", 1_000);
  await pair.settle();
  await writing;
  await near.close();
  await pair.settle();
  assertEquals([(await far.read())!.byteLength, await far.read()], [50, null]);
  const second = client.qmux.createUnidirectionalStream();
  await pair.settle();
  assertEquals(client.qmux.credit.state("unidirectional").waiting, 1);
  server.qmux.credit.grant("unidirectional", 2);
  await pair.settle();
  await second;
});

Deno.test("Qmux grants nothing for bytes that are never read if windows are not automatic", async () => {
  using server = serverOf({ flowControl: { maxData: 100, automatic: false } });
  const { qmux } = server;
  qmux.receive(stream(2, 0, 30));
  (await nextUnidirectional(qmux)).cancel();
  qmux.receive(stream(2, 30, 30));
  qmux.receive(control(0x04, 2, 0, 70));
  qmux.receive(control(0x04, 6, 0, 30));
  const { granted, received } = qmux.credit.state("data");
  assertEquals([granted, received], [100, 100]);
  assertEquals((await sent(server)).map(({ kind }) => kind), ["stop"]);
  qmux.receive(stream(10, 0, 1));
  assertEquals(server.link.faults.map(({ code }) => code), [3]);
});

Deno.test("Qmux grants nothing to a stream whose end arrived with its last bytes", async () => {
  using server = serverOf({ flowControl: { maxStreamData: 100 } });
  server.qmux.receive(stream(0, 0, 0));
  const incoming = await nextBidirectional(server.qmux);
  const reading = incoming.read();
  const both = new Uint8Array([...stream(0, 0, 60), ...stream(0, 60, 40, true)]);
  server.qmux.receive(both);
  assertEquals((await reading)!.byteLength, 60);
  assertEquals(await sent(server), []);
  assertEquals([(await incoming.read())!.byteLength, await incoming.read()], [40, null]);
});

Deno.test("Qmux grants no new stream for a stream that was not accepted", async () => {
  using server = serverOf({ flowControl: { maxStreamsUni: 4 } });
  for (let i = 0; i < 4; i++) server.qmux.receive(control(0x04, 2 + 4 * i, 0, 0));
  server.qmux.receive(control(0x17, 4));
  assertEquals(await sent(server), []);
  const reader = server.qmux.incomingUnidirectionalStreams.getReader();
  for (let i = 0; i < 4; i++) await reader.read();
  const grants = (await sent(server)).filter(({ kind }) => kind === "maxStreams");
  assertEquals(grants.at(-1), { kind: "maxStreams", direction: "unidirectional", limit: 8 });
});
