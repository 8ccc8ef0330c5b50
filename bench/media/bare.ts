/**
 * The control of the MoQ benchmark: the same streams on the runtime's QUIC, with the command line
 * of `peer.ts`, in `moq-lite-04`. It sends only the protocol bytes that a peer needs, has no limits
 * and no checks, and is unfit for real use.
 *
 * @module
 */
import { devCertificate } from "../../transport/mod.ts";
import {
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../../transport/quic/varint.ts";
import { emit, type EndOptions, endOptions, pace, stamp, SubscriberMeter } from "./frames.ts";

const ALPN = ["moq-lite-04"];

/** Stream type 2, SUBSCRIBE to the track `video` of `/bench`: number 0, all groups. */
const SUBSCRIBE = Uint8Array.of(
  ...[2, 19, 0, 6, ...new TextEncoder().encode("/bench")],
  ...[5, ...new TextEncoder().encode("video"), 0, 0, 0, 0, 0],
);

/** SUBSCRIBE_OK, with 1 as the first group. */
const SUBSCRIBE_OK = Uint8Array.of(0, 5, 0, 0, 0, 2, 0);

/** Groups in flight, as many as with Skein. */
const MAX_GROUPS = 64;

/** Bytes per write, as many as with Skein. */
const WRITE_BYTES = 65_536;

/** Bytes per read, with room for a partial frame from an earlier read. */
const READ_BYTES = 98_304;

async function publish(conn: Deno.QuicConn, id: number, options: EndOptions): Promise<void> {
  const { frames, size } = options;
  let underWay = 0;
  let wake = () => {};
  await pace(options, async (number) => {
    while (underWay >= MAX_GROUPS) await new Promise<void>((resolve) => wake = resolve);
    // The oldest group goes first: streams of equal priority take turns, so that a subscriber would
    // have many open.
    const how = { waitUntilAvailable: true, sendOrder: -number };
    underWay++;
    void send(conn.createUnidirectionalStream(how), { id, number, frames, size }).finally(() => {
      underWay--;
      wake();
    });
  });
}

/**
 * Sends a group, with as many frames per write as fit. As in Skein, the first frames are stamped
 * before the stream is open.
 */
async function send(
  opening: Promise<Deno.QuicSendStream>,
  { id, number, frames, size }: Record<"id" | "number" | "frames" | "size", number>,
): Promise<void> {
  let writer: WritableStreamDefaultWriter<Uint8Array> | undefined;
  const frameBytes = varintLength(size) + size;
  const perWrite = Math.max(1, Math.floor(WRITE_BYTES / frameBytes));
  const sequence = number + 1;
  for (let frame = 0; frame < frames;) {
    const count = Math.min(perWrite, frames - frame);
    const headBytes = frame === 0 ? 3 + varintLength(sequence) : 0;
    const bytes = new Uint8Array(headBytes + count * frameBytes);
    if (frame === 0) {
      bytes.set([0, 1 + varintLength(sequence), id]);
      writeVarint(bytes, 3, sequence);
    }
    for (let at = headBytes; at < bytes.byteLength; at += frameBytes) {
      const body = writeVarint(bytes, at, size);
      stamp(bytes.subarray(body), number, frame++);
    }
    writer ??= (await opening).getWriter();
    const written = writer.write(bytes);
    // The end is sent with the last bytes.
    if (frame === frames) await Promise.all([written, writer.close()]);
    else await written;
  }
}

async function serve(options: EndOptions): Promise<void> {
  const { cert, key, hashes } = await devCertificate({ cacheFolder: null });
  const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const listener = endpoint.listen({ cert, key, alpnProtocols: ALPN });
  emit({ event: "cert", sha256: new Uint8Array(hashes[0]!.value).toHex() });
  emit({ event: "ready", addr: `127.0.0.1:${endpoint.addr.port}` });
  const conn = await listener.accept();
  for await (const { readable, writable } of conn.incomingBidirectionalStreams) {
    const { value } = await readable.getReader().read();
    if (value === undefined || value[0] !== SUBSCRIBE[0]) continue;
    const writer = writable.getWriter();
    await writer.write(SUBSCRIBE_OK);
    await publish(conn, value[2]!, options);
    // The subscriber disconnects after receiving all frames.
    await conn.closed;
    return;
  }
}

/** Buffers of streams that ended. */
const buffers: ArrayBuffer[] = [];

/** Receives a group in one buffer, which is larger than a frame. */
async function receive(stream: Deno.QuicReceiveStream, meter: SubscriberMeter): Promise<void> {
  const reader = stream.getReader({ mode: "byob" });
  let buffer = buffers.pop() ?? new ArrayBuffer(READ_BYTES);
  let isBegun = false;
  let [at, end] = [0, 0];
  while (true) {
    const { done, value } = await reader.read(new Uint8Array(buffer, end));
    buffer = value!.buffer;
    if (done) {
      buffers.push(buffer);
      return meter.group();
    }
    end += value.byteLength;
    const bytes = new Uint8Array(buffer, 0, end);
    if (!isBegun) at = 2 + bytes[1]!;
    isBegun = true;
    while (at < end) {
      const body = at + varintLengthAt(bytes[at]!);
      if (body > end) break;
      const size = readVarint(bytes, at);
      if (body + size > end) break;
      meter.frame(new DataView(buffer, body), size);
      at = body + size;
    }
    bytes.copyWithin(0, at);
    end -= at;
    at = 0;
  }
}

async function subscribe(options: EndOptions): Promise<void> {
  const { hostname, port } = new URL(options.url.replace(/^moqt:/, "https:"));
  const conn = await Deno.connectQuic({
    hostname,
    port: Number(port),
    alpnProtocols: ALPN,
    maxConcurrentUnidirectionalStreams: 4_096,
    serverCertificateHashes: [{ algorithm: "sha-256", value: Uint8Array.fromHex(options.hash) }],
  } as Deno.ConnectQuicOptions<false>);
  emit({ event: "connected" });
  const meter = new SubscriberMeter(options);
  const { readable, writable } = await conn.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(SUBSCRIBE);
  void (async () => {
    for await (const stream of conn.incomingUnidirectionalStreams) void receive(stream, meter);
  })();
  await meter.done;
  meter.print();
  // Keeps the stream reachable until now, because a garbage-collected stream ends.
  await readable.cancel();
}

if (import.meta.main) {
  const options = endOptions(Deno.args);
  await (options.mode === "client" ? subscribe(options) : serve(options));
  Deno.exit();
}
