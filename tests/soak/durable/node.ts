/**
 * A node of the soak test of durable streams. Usage: `node.ts <port> <engine>`. The engine is a URL
 * or, for SQLite, the path of a file. The process prints `{}` when it is listening.
 *
 * @module
 */
import { serve } from "../../../mod.ts";
import { durableBroker } from "./engines.ts";

const [port, engine] = Deno.args;
serve({
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  broker: await durableBroker(engine!),
  authorize: () => true,
  // Requests fail while the engine is down, and the clients retry them.
  onError() {},
  durableStreams: { path: "/streams", authorize: () => true },
  limits: { maxSessionsPerAddress: Infinity },
});
// deno-lint-ignore no-console
console.log("{}");
