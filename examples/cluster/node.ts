/**
 * One node: a chat with one room, which spans all nodes on the same broker.
 *
 * `cluster.ts` starts the nodes. The program prints `up` once the node is listening. `SIGTERM`
 * drains the node.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import { AuthenticationError, serve } from "../../mod.ts";
import { chat } from "./contract.ts";
import { optionsOf, PORT } from "../shared/options.ts";
import { brokerFor, type BrokerName } from "./broker.ts";

/** Maximum duration of a drain, in milliseconds. */
const DRAIN_MS = 3_000;

const { number, port, broker: name, url, origin } = optionsOf({
  run: "deno run -A examples/cluster/node.ts",
  about: "Serves one node of the cluster, until its standard input ends.",
}, {
  number: { value: "N", default: 1, help: "number of the node" },
  port: PORT,
  broker: { value: "NAME", default: "redis", help: "redis or nats" },
  url: { value: "URL", default: "redis://127.0.0.1:6379", help: "address of the broker" },
  origin: { value: "ORIGIN", default: "http://localhost:8003", help: "origin of the page" },
});
const broker = brokerFor(name as BrokerName, url);
const server = serve({
  port,
  hostname: "127.0.0.1",
  // WebTransport needs UDP, and the balancer forwards only TCP.
  webTransport: false,
  onListen() {},
  origins: [origin],
  contract: chat,

  // With these three options the server is a node of a cluster.
  broker,
  rooms: ["room:{room}"],
  history: { "room:{room}": { size: 100, ttlMs: 600_000 } },

  // The demo has no passwords: a visitor may use any name.
  authenticate({ request }) {
    const name = new URL(request.url).searchParams.get("name") ?? "";
    if (/^[\p{L}\p{N}]{1,20}$/u.test(name)) return name;
    throw new AuthenticationError("A name has 1 to 20 letters and digits", { status: 400 });
  },
  authorize: (_session, topic, action) => action === "subscribe" && topic === "room:lobby",
  onOpen: (session) => session.send("node", number),

  // A line counts as handled once the broker has stored it. If the node dies before that, the
  // client resends the line to the next node.
  async onMessage({ data: { id, text } }, session) {
    const line = { id, from: session.user, text, node: number };
    await server.topics.append("room:lobby", line);
  },
});

Deno.addSignalListener("SIGTERM", async function end() {
  Deno.removeSignalListener("SIGTERM", end); // A second signal exits immediately.
  await server.drain({ withinMs: DRAIN_MS, reason: "Restarting" });
  await broker.close();
  Deno.exit();
});

console.log("up");

// Standard input ends when the parent process exits.
for await (const _ of Deno.stdin.readable);
Deno.exit();
