import { assertEquals, assertRejects } from "@std/assert";
import { testEnd, TestPair, type TestEnd } from "../../tests/qmux_wire.ts";
import { directReadable, directWritable } from "../direct.ts";
import { decodeRecord, PARAMETERS_TYPE, type QmuxFrame } from "./frames.ts";
import { RecordWriter } from "./record.ts";
import { DEFAULT_PARAMETERS, type TransportParameters } from "./transport_parameters.ts";
import type { QmuxOptions } from "./qmux.ts";
const GENEROUS: TransportParameters = { ...DEFAULT_PARAMETERS, maxData: 2 ** 40, maxStreamDataBidiLocal: 2 ** 40, maxStreamDataBidiRemote: 2 ** 40, maxStreamDataUni: 2 ** 40, maxStreamsBidi: 2 ** 20, maxStreamsUni: 2 ** 20, maxDatagramFrameSize: 16_382, maxRecordSize: 65_536 };
function record(write: (record: RecordWriter) => void): Uint8Array {
  const writer = new RecordWriter(1_000_000, { isSingle: false, isLegacy: false });
  write(writer);
  return writer.take();
}
const parameters = (change: Partial<TransportParameters> = {}) => record((w) => w.parameters(PARAMETERS_TYPE, { ...GENEROUS, ...change }));
const stream = (id: number, offset: number, length: number, isFin = false) => record((w) => w.stream(id, offset, { bytes: new Uint8Array(length), start: 0, end: length }, isFin));
const control = (type: number, ...n: number[]) => record((w) => w.control(type, ...n));
async function sent({ link }: TestEnd): Promise<QmuxFrame[]> {
  await new Promise((resolve) => setTimeout(resolve, 0));
  const frames: QmuxFrame[] = [];
  for (let one; (one = link.take()) !== undefined;) frames.push(...decodeRecord(one));
  return frames.filter(({ kind }) => kind !== "parameters");
}
function serverOf(options: Partial<QmuxOptions> = {}, theirs?: Partial<TransportParameters>) {
  const end = testEnd("server", options);
  end.qmux.receive(parameters(theirs));
  return { ...end, [Symbol.dispose]: () => end.qmux.end(new Error("Over"), false) };
}
Deno.test("A: write then end sends what a write reported done", async () => {
  const server = serverOf();
  const near = directWritable(await server.qmux.createUnidirectionalStream());
  await near.write(new Uint8Array(7));
  server.qmux.end(new Error("Over"), false);
  const frames = await sent(server);
  assertEquals(frames.map((f) => f.kind), ["stream"]);
});
Deno.test("B: close behind a write that gives up", async () => {
  using server = serverOf({}, { maxData: 10 });
  const one = await server.qmux.createBidirectionalStream();
  await one.write(new Uint8Array(10));
  const w = one.write(Uint8Array.of(1), { timeoutMs: 20 });
  const c = one.close();
  await assertRejects(() => w);
  const r = await Promise.race([c.then(() => "closed"), new Promise((r) => setTimeout(() => r("hangs"), 200))]);
  assertEquals(r, "closed");
});
Deno.test("C: dead streams in control while the wire is blocked", async () => {
  using server = serverOf();
  const { qmux, link } = server;
  const near = directWritable(await qmux.createUnidirectionalStream());
  near.write(new Uint8Array(1_000_000)).catch(() => {});
  await new Promise((r) => setTimeout(r, 10));
  console.log("under way", link.bufferedAmount);
  const reader = qmux.incomingUnidirectionalStreams.getReader();
  let n = 0;
  const before = Deno.memoryUsage().heapUsed;
  for (let i = 0; i < 200_000; i++) {
    const id = 4 * i + 2;
    qmux.receive(stream(id, 0, 1));
    if (link.faults.length) { console.log(link.faults); break; }
    const { value } = await reader.read();
    directReadable(value!).cancel();
    qmux.receive(control(4, id, 0, 1));
    n++;
  }
  (globalThis as any).gc?.();
  console.log(n, qmux.openStreams, (Deno.memoryUsage().heapUsed - before) / 1e6, "MB");
});
Deno.test("D: blocked leak", async () => {
  using server = serverOf({}, { maxData: 0 });
  const { qmux, link } = server;
  const before = Deno.memoryUsage().heapUsed;
  for (let i = 0; i < 50_000; i++) {
    const near = directWritable(await qmux.createUnidirectionalStream());
    near.write(new Uint8Array(10)).catch(() => {});
    near.abort();
    if (i % 100 === 0) { await new Promise((r) => setTimeout(r)); while (link.take()); }
  }
  (globalThis as any).gc?.();
  console.log(qmux.openStreams, (Deno.memoryUsage().heapUsed - before) / 1e6, "MB");
});
Deno.test("E: detached", async () => {
  for (const taken of [0, 5]) {
    using server = serverOf({}, { maxData: taken });
    const { qmux } = server;
    const near = directWritable(await qmux.createUnidirectionalStream());
    const bytes = new Uint8Array(10);
    const w = near.write(bytes).then(() => "done", String);
    await new Promise((r) => setTimeout(r));
    structuredClone(bytes, { transfer: [bytes.buffer] });
    qmux.receive(control(0x10, 1000));
    console.log(taken, await Promise.race([w, new Promise((r) => setTimeout(() => r("hangs"), 100))]), server.link.faults, await sent(server));
  }
});
Deno.test("F: pings for a tiny timeout", async () => {
  using server = serverOf({}, { maxIdleTimeoutMs: 1 });
  await new Promise((r) => setTimeout(r, 300));
  console.log("records in 300 ms", server.link.records.length);
});
Deno.test("G: datagram early to a peer that takes none", async () => {
  const server = testEnd("server");
  (server.qmux.datagrams as any).direct.send(new Uint8Array(16_000));
  server.qmux.receive(parameters({ maxDatagramFrameSize: 100 }));
  console.log((await sent(server)).map((f) => f.kind), server.qmux.ledger.datagramsDropped);
  server.qmux.end(new Error("x"), false);
});
Deno.test("H: receiver throws", async () => {
  using server = serverOf();
  (server.qmux.datagrams as any).direct.receive(() => { throw new Error("user"); });
  server.qmux.receive(record((w) => w.datagram(new Uint8Array(3))));
  console.log(server.link.faults);
});
Deno.test("I: many stream windows lies", async () => {
  using pair = new TestPair();
  const { client } = pair;
  const o = client.qmux.createBidirectionalStream();
  await pair.settle();
  const s = await o;
  for (const code of [-1, NaN, 2 ** 32 - 1, 2 ** 32, 1.5, "x", Infinity]) {
    const p = client.qmux.createBidirectionalStream();
    await pair.settle();
    const a = await p;
    a.abort({ streamErrorCode: code });
    await pair.settle();
  }
  const reader = pair.server.qmux.incomingBidirectionalStreams.getReader();
  for (let i = 0; i < 8; i++) {
    const { value } = await reader.read();
    if (i === 0) continue;
    console.log(await value!.read().catch((e) => e.streamErrorCode));
  }
  s.abort();
});
