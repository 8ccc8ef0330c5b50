/**
 * One node: a chat of one room, which every other node on the same engine has too.
 *
 * `node.ts <number> <port> <redis or nats> <its url> <origin of the page>`; it prints `up` once it
 * listens. `SIGTERM` drains it.
 *
 * Users write `jsr:@skein/skein` in the place of `../../mod.ts`.
 *
 * @module
 */
import { AuthenticationError, serve } from "../../mod.ts";
import { chat } from "./contract.ts";
import { brokerFor, type EngineName } from "./engine.ts";

/** How long a drain may take. */
const DRAIN_MS = 3_000;

const [number, port, engine, url, origin] = Deno.args as [string, string, EngineName, ...string[]];
const broker = brokerFor(engine, url!);
const server = serve({
  port: Number(port),
  hostname: "127.0.0.1",
  // Behind a balancer for TCP nothing comes by UDP.
  webTransport: false,
  onListen() {},
  origins: [origin!],
  contract: chat,

  // All that it takes to be one of many.
  broker,
  rooms: ["room:{room}"],
  history: { "room:{room}": { size: 100, ttlMs: 600_000 } },

  // No password: visitors are who they say they are.
  authenticate({ request }) {
    const name = new URL(request.url).searchParams.get("name") ?? "";
    if (/^[\p{L}\p{N}]{1,20}$/u.test(name)) return name;
    throw new AuthenticationError("A name has 1 to 20 letters and digits", { status: 400 });
  },
  authorize: (_session, topic, action) => action === "subscribe" && topic === "room:lobby",
  onOpen: (session) => session.send("node", Number(number)),

  // A line counts as handled once the engine has it; a node that dies before leaves it to the next.
  async onMessage({ data: { id, text } }, session) {
    const line = { id, from: session.user, text, node: Number(number) };
    await server.topics.append("room:lobby", line);
  },
});

Deno.addSignalListener("SIGTERM", async () => {
  await server.drain({ withinMs: DRAIN_MS, reason: "Restarting" });
  await broker.close();
  Deno.exit();
});

console.log("up");

// Whoever started it is gone.
for await (const _ of Deno.stdin.readable);
Deno.exit();
