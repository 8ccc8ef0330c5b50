/**
 * A complete server as a program for Node: prints its port, and drains on SIGTERM.
 *
 * ```sh
 * node server.mjs            # on memory
 * node server.mjs redis URL  # on a broker: Redis, or NATS with the file of an authority for TLS
 * node server.mjs nats ADDRESS [FILE]
 * ```
 *
 * @module
 */
import process from "node:process";
import { type Broker, MemoryBroker, serve } from "../../mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { hardenedWebSocket } from "../../transport/hardened/mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { streamFeatures } from "../stream_features.ts";

function brokerOf([broker, at = "", caFile]: readonly string[]): Broker & AsyncDisposable {
  if (broker === "redis") return new RedisBroker({ url: at });
  if (broker !== "nats") return new MemoryBroker();
  return new NatsBroker({ servers: at, ...(caFile === undefined ? {} : { tls: { caFile } }) });
}

const isAllowed = ({ request }: { readonly request: Request }): boolean =>
  request.headers.get("authorization") === "Bearer s3cret";

const broker = brokerOf(process.argv.slice(2));
const server = serve({
  port: 0,
  hostname: "127.0.0.1",
  webSocket: hardenedWebSocket(),
  broker,
  onListen: ({ port }) => console.log(JSON.stringify({ port })),
  tokens: { inMessage: true },
  authenticate: ({ token }) => token ?? null,
  authorize: () => true,
  includePublisher: true,
  rooms: ["room:{name}"],
  history: { "room:{name}": { size: 100, ttlMs: 60_000 } },
  presence: { graceMs: 0 },
  requests: {
    sum: ({ data }) => (data as number[]).reduce((a, b) => a + b, 0),
    async *count({ data }) {
      for (let number = 1; number <= Number(data); number++) yield await number;
    },
  },
  features: [
    httpApi({ path: "/api", authorize: isAllowed }),
    ...streamFeatures({ path: "/streams", authorize: isAllowed }),
  ],
  fetch: async (request) => new Response((await request.text()).toUpperCase()),
});

process.once("SIGTERM", async () => {
  const { closed, cut } = await server.drain({ withinMs: 5_000, reason: "New version" });
  await broker[Symbol.asyncDispose]();
  console.log(JSON.stringify({ closed, cut }));
});
