/**
 * The server of the table of costs. It has every feature, and a state of many rows. Each line that
 * it receives on its standard input is answered by a line with what it has used so far.
 *
 * @module
 */
import process from "node:process";
import { z } from "zod";
import { AuthenticationError, defineContract, guest, RequestError, serve } from "../../mod.ts";
import { LiveBroadcast, MoqRelay, MoqServer } from "../../moq/mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { inspector, metrics } from "../../operations/mod.ts";
import { durableStreams, liveState, resumable } from "../../streams/mod.ts";
import { directDatagrams, type DirectStream, receiveBidirectional } from "../../transport/mod.ts";
import { STREAM_WINDOW_BYTES } from "../../transport/quic/unread_streams.ts";
import { numberArgument } from "../args.ts";

const { args } = Deno;
const ROWS = numberArgument(args, "rows", 20_000);
/** Limits so small that everything is beyond them; none for the other cases. */
const isTight = args.includes("--tight");
const RATE = isTight ? { perSecond: 0.001, burst: 4 } : { perSecond: Infinity };
const FEW = isTight ? 1 : 1_000_000;

/** The streams that the server creates. */
const OWN_STREAMS = 3;

/** A garbage collection that frees less has nothing left to free. */
const SETTLED_BYTES = 4_096;

const MAX_COLLECTIONS = 12;

const ANY = z.unknown();

const contract = defineContract({
  toServer: { any: ANY, "t:{n}": ANY, "log:{n}": ANY, "no:{n}": ANY },
  toClient: { "t:{n}": ANY, "log:{n}": ANY, "no:{n}": ANY },
  presence: { "room:{name}": ANY },
  requests: {
    echo: { input: ANY, output: ANY },
    refuse: { input: ANY, output: ANY },
    items: { input: z.number(), stream: z.number() },
    words: { input: ANY, stream: z.number(), resume: true },
    endless: { input: ANY, stream: z.number(), resume: true },
  },
  state: { "board:{id}": { cards: z.string().max(1_000) } },
});

const states = liveState();
const streams = durableStreams({
  path: "/streams",
  maxRows: ROWS,
  maxStreams: isTight ? OWN_STREAMS : FEW,
  maxReaders: FEW,
  maxReadersPerUser: FEW,
  maxReadersPerAddress: FEW,
  authorize: ({ id }) => !id.startsWith("no:"),
});
const relay = new MoqRelay({ maxBroadcasts: FEW, maxBroadcastsPerAddress: FEW });
const moq = new MoqServer({
  path: "/moq",
  mux: relay.mux,
  authorize: (_session, path) => !path.startsWith("/no"),
  onSetup({ path }) {
    if (path.includes("bad")) throw new AuthenticationError("No");
  },
  onSession: (session) => relay.accept(session),
  limits: { maxSessionsPerAddress: isTight ? 3 : FEW, maxStreamsPerAddress: FEW },
});
const media = new LiveBroadcast();
relay.mux.publish("/live/media", media);
// A track with a group in the cache, and one whose group does not end.
using group = media.track("clip").openGroup();
group.writeFrame(new Uint8Array(1_000));
group.close();
media.track("endless").openGroup().writeFrame(new Uint8Array(10));

/** Sends everything back. */
async function echo(stream: DirectStream): Promise<void> {
  try {
    let bytes = await stream.read();
    for (; bytes !== null; bytes = await stream.read(bytes)) await stream.write(bytes);
    await stream.close();
  } catch { // Only this stream ends.
    stream.cancel();
    stream.abort();
  }
}

const server = serve({
  hostname: "127.0.0.1",
  port: 0,
  webTransport: { cacheFolder: null },
  contract,
  onListen() {},
  onError() {},
  onMessage() {},
  onOpen({ user, connection }) {
    // The streams of other sessions are never read.
    if (user !== "streams" || isTight) return;
    receiveBidirectional(connection, echo);
    const datagrams = directDatagrams(connection.datagrams);
    datagrams.receive((datagram) => datagrams.send(datagram));
  },
  clientAddress: () => "192.0.2.1",
  authenticate: ({ token }) => token === "bad" ? null : token ?? guest,
  authorize: (_session, topic) => !topic.includes("no:"),
  // Clients may not fork states whose rows are checked.
  authorizeChange: isTight ? undefined : ({ key }) => !key.startsWith("no:"),
  history: { "log:{name}": { size: 10 } },
  rooms: ["room:{name}"],
  limits: {
    maxSessions: 1_000_000,
    maxSessionsPerAddress: isTight ? 3 : 1_000_000,
    maxSessionsPerUser: 1_000_000,
    maxTopicsPerSession: isTight ? 2 : 1_000_000,
    unreadStreams: { maxBytes: (isTight ? 1 : 1_000) * STREAM_WINDOW_BYTES },
  },
  rates: {
    perSession: { publications: RATE, subscriptions: RATE },
    perAddress: { connections: { perSecond: Infinity }, cost: RATE },
    perUser: { cost: RATE },
  },
  requests: {
    echo: ({ data }) => data,
    refuse: () => {
      throw new RequestError("no", "No");
    },
    async *items({ data }) {
      for (let i = 0; i < data; i++) yield i;
    },
    words: {
      resumable,
      async *handle() {
        for (let i = 0; i < 3; i++) yield i;
      },
    },
    endless: {
      resumable,
      async *handle({ signal }) {
        yield 0;
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
    },
  },
  features: [
    states,
    streams,
    resumable({
      maxRetained: FEW,
      maxRetainedPerUser: FEW,
      maxRetainedPerAddress: FEW,
      maxRunning: FEW,
      maxRunningPerUser: FEW,
      maxRunningPerAddress: FEW,
    }),
    moq,
    httpApi({
      path: "/api",
      authorize: ({ id }) => !id.startsWith("no:"),
      rate: { perSecond: Infinity },
    }),
    metrics(),
    inspector({ authorize: () => false }),
  ],
});
for (const id of ["board:big", "board:no:big"]) {
  await using big = await states.open(id as "board:big");
  for (let first = 0; first < ROWS; first += 1_000) {
    await big.transaction((rows) => {
      for (let i = first; i < first + 1_000; i++) rows.set("cards", `${i}`, "a card of a board");
    });
  }
}
await using plain = await streams.create("plain", { contentType: "application/json" });
await plain.append({ n: 1 });

const reply = (line: object) => console.log(JSON.stringify(line));
reply({
  url: server.url,
  port: Number(new URL(server.webTransportUrl).port),
  hash: server.certificateHashes[0]!.value.toBase64(),
});
/** The CPU time of this process, in microseconds. */
function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

/** CPU time that the collections have taken, which is not that of a request. */
let collectUs = 0;
for await (const _line of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const before = cpuUs();
  const usedUs = before - collectUs;
  const heldBytes = await collect();
  const { rss } = process.memoryUsage();
  collectUs += cpuUs() - before;
  reply({ cpuUs: usedUs, heldBytes, rssBytes: rss });
}

/** Collects garbage until nothing more is freed; returns the bytes that are left. */
async function collect(): Promise<number> {
  const { gc } = globalThis as { gc?: () => void };
  for (let left = Infinity, i = 0;; i++) {
    gc?.();
    // Finalizers, and what they release.
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { heapUsed, external } = process.memoryUsage();
    const held = heapUsed + external;
    if (left - held < SETTLED_BYTES && i >= 2 || i === MAX_COLLECTIONS) return Math.min(left, held);
    left = Math.min(left, held);
  }
}
