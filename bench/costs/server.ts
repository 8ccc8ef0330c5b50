/**
 * The server of the table of costs. It has every feature, and a state of many rows. Each line that
 * it receives on its standard input is answered by a line with what it has used so far.
 *
 * @module
 */
import process from "node:process";
import { z } from "zod";
import { defineContract, guest, RequestError, serve } from "../../mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { inspector, metrics } from "../../operations/mod.ts";
import { durableStreams, liveState } from "../../streams/mod.ts";
import { numberArgument } from "../args.ts";

const { args } = Deno;
const ROWS = numberArgument(args, "rows", 20_000);
/** Limits so small that everything is beyond them; none for the other cases. */
const isTight = args.includes("--tight");
const RATE = isTight ? { perSecond: 0.001, burst: 4 } : { perSecond: Infinity };
const FEW = isTight ? 1 : 1_000_000;

/** The streams that the server creates. */
const OWN_STREAMS = 3;

const ANY = z.unknown();

const contract = defineContract({
  toServer: { any: ANY, "t:{n}": ANY, "log:{n}": ANY, "no:{n}": ANY },
  toClient: { "t:{n}": ANY, "log:{n}": ANY, "no:{n}": ANY },
  presence: { "room:{name}": ANY },
  requests: {
    echo: { input: ANY, output: ANY },
    refuse: { input: ANY, output: ANY },
    items: { input: z.number(), stream: z.number() },
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
const server = serve({
  hostname: "127.0.0.1",
  port: 0,
  webTransport: false,
  contract,
  onListen() {},
  onError() {},
  onMessage() {},
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
  },
  rates: {
    perSession: { publications: RATE, subscriptions: RATE },
    perAddress: { connections: { perSecond: Infinity } },
  },
  requests: {
    echo: ({ data }) => data,
    refuse: () => {
      throw new RequestError("no", "No");
    },
    async *items({ data }) {
      for (let i = 0; i < data; i++) yield i;
    },
  },
  features: [
    states,
    streams,
    httpApi({ path: "/api", authorize: ({ id }) => !id.startsWith("no:") }),
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
reply({ url: server.url });
for await (const _line of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const gc = (globalThis as { gc?: () => void }).gc;
  for (let i = 0; i < 3; i++) {
    gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { user, system } = process.cpuUsage();
  const { heapUsed, external, rss } = process.memoryUsage();
  reply({ cpuUs: user + system, heldBytes: heapUsed + external, rssBytes: rss });
}
