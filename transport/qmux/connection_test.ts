import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { decodeRecord, turn } from "../../tests/peers/qmux_wire.ts";
import { ConnectionError } from "../../errors.ts";
import { memoryPair } from "../memory/memory.ts";
import { DEFAULT_PARAMETERS, PARAMETERS_TYPE, RecordWriter } from "./frames.ts";
import { withQmux } from "./connection.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** The capabilities of a WebSocket in memory. */
const WEBSOCKET = { streams: false, datagrams: false };

function record(write: (record: RecordWriter) => void): Uint8Array {
  const writer = new RecordWriter(16_382);
  write(writer);
  return writer.take();
}

const PARAMETERS = record((writer) => writer.parameters(PARAMETERS_TYPE, DEFAULT_PARAMETERS));

/** A QMux server whose client sends the test's bytes. */
function serverOf(receiveFrame: (record: Uint8Array) => void = () => {}) {
  const pair = memoryPair(WEBSOCKET);
  pair.client.frames!.receive({
    receiveFrame: (frame) => receiveFrame(frame as Uint8Array),
    framesEnded() {},
  });
  const server = withQmux(pair.server, { runtime: platformRuntime(), side: "server", version: 1 });
  const send = (frame: Uint8Array | string) => pair.client.frames!.send(frame);
  return { pair, server, send };
}

Deno.test("withQmux() needs a connection of frames without a receiver", async () => {
  await using without = memoryPair({ frames: false });
  const options = { runtime: platformRuntime(), side: "client", version: 1 } as const;
  assertThrows(() => withQmux(without.client, options), TypeError, "no frames");
  await using pair = memoryPair(WEBSOCKET);
  pair.client.frames!.receive({ receiveFrame() {}, framesEnded() {} });
  assertThrows(() => withQmux(pair.client, options), TypeError, "receiver");
});

Deno.test("withQmux() is ready once the peer has sent its limits", async () => {
  const { pair, server, send } = serverOf();
  await using _ = pair;
  let isReady = false;
  void server.ready.then(() => isReady = true);
  await turn();
  assertEquals(isReady, false);
  send(PARAMETERS);
  await server.ready;
});

Deno.test("withQmux() sends the peer the QUIC code of its violation, and closes with 4400", async () => {
  const records: Uint8Array[] = [];
  const { pair, server, send } = serverOf((one) => records.push(one));
  await using _ = pair;
  send(PARAMETERS);
  await server.ready;
  send(record((writer) => writer.control(0x05, 1, 0)));
  const reason = "Received a frame that is invalid for stream 1";
  assertEquals(await server.closed, { closeCode: 4400, reason });
  assertEquals((await pair.client.closed).closeCode, 4400);
  const frames = records.flatMap(decodeRecord);
  assertEquals(frames.at(-1), { kind: "close", isApplication: false, code: 5, reason });
  await assertRejects(() => server.createBidirectionalStream(), ConnectionError);
});

Deno.test("withQmux() closes on a text frame", async () => {
  const { pair, server, send } = serverOf();
  await using _ = pair;
  send("hello");
  assertEquals((await server.closed).closeCode, 4400);
  await assertRejects(() => server.ready, ConnectionError);
});

Deno.test("withQmux() breaks when the peer reports a violation", async () => {
  const { pair, server, send } = serverOf();
  await using _ = pair;
  send(PARAMETERS);
  send(record((writer) => writer.close(3, "too much", 0)));
  const error = await assertRejects(() => server.closed, ConnectionError);
  assertStringIncludes(error.message, "QUIC code 3: too much");
});

Deno.test("withQmux() passes on any code with which a foreign peer closes", async () => {
  const { pair, server, send } = serverOf();
  await using _ = pair;
  send(PARAMETERS);
  send(record((writer) => writer.close(77, "done")));
  assertEquals(await server.closed, { closeCode: 77, reason: "done" });
  assertEquals(await pair.client.closed, { closeCode: 0, reason: "done" });
});

Deno.test("withQmux() breaks when its connection breaks", async () => {
  await using pair = memoryPair(WEBSOCKET);
  const [client, server] = [
    withQmux(pair.client, { runtime: platformRuntime(), side: "client", version: 1 }),
    withQmux(pair.server, { runtime: platformRuntime(), side: "server", version: 1 }),
  ];
  await Promise.all([client.ready, server.ready]);
  const stream = await client.createBidirectionalStream();
  const reading = stream.direct!.read();
  pair.link.disconnect();
  for (const end of [client, server]) await assertRejects(() => end.closed, ConnectionError);
  await assertRejects(() => reading, ConnectionError);
});

Deno.test("withQmux() ends when its connection closes without an earlier frame", async () => {
  const { pair, server } = serverOf();
  await using _ = pair;
  pair.client.close({ closeCode: 4001, reason: "gone" });
  assertEquals(await server.closed, { closeCode: 4001, reason: "gone" });
});

Deno.test("withQmux() closes its connection with 0 if a WebSocket cannot carry the code", async () => {
  for (const [closeCode, carried] of [[0x103, 0], [2 ** 40, 0], [1000, 0], [4507, 4507]] as const) {
    const pair = memoryPair(WEBSOCKET);
    const client = withQmux(pair.client, {
      runtime: platformRuntime(),
      side: "client",
      version: 1,
    });
    const server = withQmux(pair.server, {
      runtime: platformRuntime(),
      side: "server",
      version: 1,
    });
    await Promise.all([client.ready, server.ready]);
    client.close({ closeCode, reason: "enough" });
    for (const end of [client, server]) {
      assertEquals(await end.closed, { closeCode, reason: "enough" });
    }
    assertEquals(await pair.client.closed, { closeCode: carried, reason: "enough" });
  }
});
