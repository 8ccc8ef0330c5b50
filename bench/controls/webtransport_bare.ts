/**
 * The baseline for WebTransport: an echo server on the runtime's QUIC with BYOB reads. It sends
 * only the HTTP/3 bytes that a client needs. It has no sessions and no checks, and is not fit for
 * real use.
 *
 *     deno run -A --unstable-net bench/controls/webtransport_bare.ts PORT CERT.pem KEY.pem
 *
 * With `--fan-out`, it publishes the messages that arrive on bidirectional streams to subscribers,
 * as `bare.ts` does: with one frame per message, and a loop over a Set. Messages that arrive in one
 * read are sent to each subscriber in one write.
 *
 * @module
 */
import { concat } from "../../base/bytes.ts";
import { eachText, textFrame } from "../text_frames.ts";

/** Type 0x00 and SETTINGS: QPACK 0/0, 0x8, 0x33, 0xffd277, 0x2b603742, 0xc671706a, 0x14e9cd29, 0x2c7cf000. */
// deno-fmt-ignore
const CONTROL = Uint8Array.of(
  0x00, 0x04, 0x25, 0x01, 0x00, 0x07, 0x00, 0x08, 0x01, 0x33, 0x01, 0x80,
  0xff, 0xd2, 0x77, 0x01, 0xab, 0x60, 0x37, 0x42, 0x01, 0xc0, 0x00, 0x00,
  0x00, 0xc6, 0x71, 0x70, 0x6a, 0x10, 0x94, 0xe9, 0xcd, 0x29, 0x10, 0xac,
  0x7c, 0xf0, 0x00, 0x01,
);

/** A HEADERS frame with `:status 200`, which is number 25 of the static table. */
const ACCEPTED = Uint8Array.of(0x01, 3, 0, 0, 0xc0 | 25);

type Writer = WritableStreamDefaultWriter<Uint8Array>;

const [port, cert, key] = Deno.args;
const onStream = Deno.args.includes("--fan-out") ? publish : echo;
const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: Number(port) });
const listener = endpoint.listen({
  cert: Deno.readTextFileSync(cert!),
  key: Deno.readTextFileSync(key!),
  alpnProtocols: ["h3"],
  maxIdleTimeout: 20_000,
  keepAliveInterval: 8_000,
});
console.log(`ready ${endpoint.addr.port}`);

/**
 * Keeps the stream reachable as long as the connection, because a garbage-collected stream ends.
 */
const controls = new Set<Writer>();

const topics = new Map<string, Set<Writer>>();
const encoder = new TextEncoder();
const decoder = new TextDecoder();

while (true) {
  const incoming = await listener.incoming();
  incoming.accept<false>().then(serve).catch(() => {});
}

async function serve(conn: Deno.QuicConn): Promise<void> {
  const control = (await conn.createUnidirectionalStream()).getWriter();
  controls.add(control);
  const forget = () => void controls.delete(control);
  conn.closed.then(forget, forget);
  control.closed.catch(() => {});
  control.write(CONTROL).catch(() => {});
  void echoDatagrams(conn).catch(() => {});
  void drainAll(conn).catch(() => {});
  let isFirst = true;
  for await (const stream of conn.incomingBidirectionalStreams) {
    (isFirst ? accept(stream) : onStream(stream)).catch(() => {});
    isFirst = false;
  }
}

async function accept({ readable, writable }: Deno.QuicBidirectionalStream): Promise<void> {
  const reader = readable.getReader({ mode: "byob" });
  const writer = writable.getWriter();
  writer.closed.catch(() => {});
  await reader.read(new Uint8Array(2_048));
  await writer.write(ACCEPTED);
  while (!(await reader.read(new Uint8Array(256))).done);
  await writer.close();
}

async function echo({ readable, writable }: Deno.QuicBidirectionalStream): Promise<void> {
  const reader = readable.getReader({ mode: "byob" });
  const writer = writable.getWriter();
  let size = 2_048;
  let head = 3;
  while (true) {
    const { done, value } = await reader.read(new Uint8Array(size));
    if (done) break;
    if (value.byteLength === size) size = 65_536;
    await writer.write(head === 0 ? value : value.subarray(head));
    head = 0;
  }
  await writer.close();
}

async function echoDatagrams(conn: Deno.QuicConn): Promise<void> {
  const ignore = () => {};
  while (true) conn.sendDatagram(await conn.readDatagram()).catch(ignore);
}

async function drainAll(conn: Deno.QuicConn): Promise<void> {
  for await (const stream of conn.incomingUnidirectionalStreams) drain(stream).catch(() => {});
}

async function drain(stream: Deno.QuicReceiveStream): Promise<void> {
  const reader = stream.getReader({ mode: "byob" });
  let size = 2_048;
  while (true) {
    const { done, value } = await reader.read(new Uint8Array(size));
    if (done) return;
    if (value.byteLength === size) size = 65_536;
  }
}

async function publish({ readable, writable }: Deno.QuicBidirectionalStream): Promise<void> {
  const reader = readable.getReader({ mode: "byob" });
  const writer = writable.getWriter();
  writer.closed.catch(() => {});
  const mine: Set<Writer>[] = [];
  const send = (to: Writer, frames: Uint8Array) => void to.write(frames).catch(() => {});
  let rest: Uint8Array = new Uint8Array(0);
  try {
    for (let size = 2_048, head = 3;; head = 0) {
      const { done, value } = await reader.read(new Uint8Array(size));
      if (done) break;
      if (value.byteLength === size) size = 65_536;
      const published = new Map<string, Uint8Array[]>();
      rest = eachText(concat([rest, value.subarray(head)]), (body) => {
        if (body.length === 0) return; // The greeting, which makes the stream visible.
        const message = JSON.parse(decoder.decode(body));
        const { topic, data } = message;
        if (topic === "sub") {
          const subscribers = topics.get(data) ?? new Set();
          topics.set(data, subscribers.add(writer));
          mine.push(subscribers);
          return send(writer, textFrame(encoder.encode('{"topic":"subok"}')));
        }
        const frames = published.get(topic) ?? [];
        published.set(topic, frames);
        frames.push(textFrame(encoder.encode(JSON.stringify(message))));
      });
      for (const [topic, frames] of published) {
        const all = concat(frames);
        for (const subscriber of topics.get(topic) ?? []) send(subscriber, all);
      }
    }
  } finally {
    mine.forEach((subscribers) => subscribers.delete(writer));
  }
}
