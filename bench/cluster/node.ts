/**
 * A measured Skein node, which uses only the public API: on Redis, on NATS, or without a broker;
 * with `--workers 2`, two workers of one process.
 *
 * ```sh
 * deno run -A bench/cluster/node.ts --port 9100 --redis redis://127.0.0.1:6379
 * ```
 *
 * With `--history` the topics keep a thousand messages.
 *
 * @module
 */
import { z } from "zod";
import { type Broker, defineContract, serve } from "../../mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { serveWorkers, type WorkerNode } from "../../server.ts";
import { argument, numberArgument, portOf } from "../args.ts";

const text = z.string();
const contract = defineContract({
  toServer: { sub: text, bench: text },
  toClient: { subok: z.undefined(), bench: text },
});

export default function start({ serve, data }: WorkerNode): void {
  run(serve, data === "history");
}

if (import.meta.main) {
  const workers = numberArgument(Deno.args, "workers", 0);
  const broker = brokerOf(Deno.args);
  const hasHistory = Deno.args.includes("--history");
  const shared = {
    hostname: "127.0.0.1",
    port: portOf(Deno.args),
    onListen() {},
    webTransport: false,
    ...(broker === undefined ? {} : { broker }),
  };
  if (workers === 0) run((options) => serve({ ...options, ...shared }), hasHistory);
  else {
    const data = hasHistory ? "history" : undefined;
    await serveWorkers(new URL(import.meta.url), { ...shared, workers, data });
  }
}

function run(listen: WorkerNode["serve"], hasHistory: boolean): void {
  const server = listen({
    path: "/ws",
    contract,
    ...(hasHistory ? { history: { bench: { size: 1_000 } } } : {}),
    limits: { maxSessions: 20_000, maxSessionsPerAddress: Infinity },
    rates: { perAddress: {} },
    async onMessage(message, session) {
      if (message.pattern === "sub") {
        await server.subscribe(session, message.data);
        return session.send("subok");
      }
      server.publish(message.topic, message.data);
    },
  });
}

function brokerOf(args: readonly string[]): Broker | undefined {
  const [redis, nats] = [argument(args, "redis"), argument(args, "nats")];
  if (redis !== undefined) return new RedisBroker({ url: redis });
  if (nats !== undefined) return new NatsBroker({ servers: nats });
  return undefined;
}
