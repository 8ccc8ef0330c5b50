/**
 * Runs a node as a separate process: `http_node.ts redis|nats ADDRESS [FOLDER]`. The node prints
 * its port once it knows the other nodes, serves the files in the folder, and exits when its
 * standard input closes.
 *
 * @module
 */
import type { Broker } from "../../pubsub/broker.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { serve, type Server } from "../../server.ts";

if (import.meta.main) {
  const [store, address, folder = ""] = Deno.args as [string, string, string?];
  const broker: Broker = store === "redis"
    ? new RedisBroker({ url: address })
    : new NatsBroker({ servers: address });
  const server: Server = serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    broker,
    webTransport: false,
    authorize: () => true,
    history: { "room:{name}": { size: 10_000, ttlMs: 60_000, bytes: 10_000_000 } },
    rooms: ["room:{name}"],
    limits: { maxSessionsPerAddress: 10_000, maxSessionsPerUser: Infinity },
    // The publication is stored before the message counts as handled.
    async onMessage(message) {
      if (message.topic === "say") await server.topics.append("room:said", message.data);
      else message.reply(server.nodes!.id);
    },
    async fetch({ url }) {
      const { pathname } = new URL(url);
      const file = pathname === "/" ? "/index.html" : pathname;
      const type = file.endsWith(".js") ? "text/javascript" : "text/html";
      try {
        const body = await Deno.readFile(`${folder}${file}`);
        return new Response(body, { headers: { "content-type": type } });
      } catch {
        return new Response("", { status: 404 });
      }
    },
  });
  await server.nodes!.ready;
  console.log(server.address!.port);
  for await (const _ of Deno.stdin.readable) { /* Nothing is asked. */ }
  await server.close();
  await broker.close();
}
