/**
 * The server of the benchmark of live state: each message of a client becomes a publication on a
 * topic with a history, a record of a durable stream, or a write of one of 100 rows.
 *
 * ```sh
 * deno run -A bench/state/server.ts --port 9100 --work state --redis redis://127.0.0.1:6379
 * ```
 *
 * @module
 */
import { serve } from "../../mod.ts";
import { durableStreams, liveState } from "@skein/skein/streams";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { argument, portOf } from "../args.ts";

const ROWS = 100;

const streams = durableStreams({ path: "/streams" });
const states = liveState();

/** Writes one message to the readers, with the methods of a server. */
const WORK: Readonly<Record<string, () => Promise<(data: unknown) => unknown>>> = {
  history: () => Promise.resolve((data) => server.publish("bench", data)),
  stream: async () => {
    const writer = await streams.create("bench");
    return (data) => writer.append(data);
  },
  state: async () => {
    const state = await states.open("bench");
    const rows = state.collection("rows");
    let writes = 0;
    return (data) => rows.set(`${writes++ % ROWS}`, data);
  },
};

const { args } = Deno;
const redis = argument(args, "redis");

const server = serve({
  hostname: "127.0.0.1",
  port: portOf(args),
  path: "/ws",
  onListen() {},
  webTransport: false,
  broker: redis === undefined ? undefined : new RedisBroker({ url: redis }),
  history: { bench: { size: 1_000, ttlMs: 300_000 } },
  features: [streams, states],
  // The clients answer no pings.
  session: { heartbeat: { intervalMs: 3_600_000, timeoutMs: 7_200_000 } },
  authorize: () => true,
  async onMessage({ data }) {
    await write(data);
  },
});
const write = await WORK[argument(args, "work") ?? "state"]!();
