/**
 * A node of Skein under measurement, with the public API only: on Redis, on NATS, or without an
 * engine.
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
import { NatsBroker } from "../../pubsub/nats/mod.ts";
import { RedisBroker } from "../../pubsub/redis/mod.ts";
import { argument, portOf } from "../args.ts";

const text = z.string();
const contract = defineContract({
  toServer: { sub: text, bench: text },
  toClient: { subok: z.undefined(), bench: text },
});

const broker = brokerOf(Deno.args);
const server = serve({
  hostname: "127.0.0.1",
  port: portOf(Deno.args),
  path: "/ws",
  onListen() {},
  webTransport: false,
  contract,
  ...(broker === undefined ? {} : { broker }),
  ...(Deno.args.includes("--history") ? { history: { bench: { size: 1_000 } } } : {}),
  limits: { maxSessions: 20_000, maxSessionsPerAddress: Infinity },
  onMessage(message, session) {
    if (message.pattern === "sub") {
      server.subscribe(session, message.data);
      return session.send("subok");
    }
    server.publish(message.topic, message.data);
  },
});

function brokerOf(args: readonly string[]): Broker | undefined {
  const [redis, nats] = [argument(args, "redis"), argument(args, "nats")];
  if (redis !== undefined) return new RedisBroker({ url: redis });
  if (nats !== undefined) return new NatsBroker({ servers: nats });
  return undefined;
}
