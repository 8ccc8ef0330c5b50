/**
 * A node of the soak test of durable streams: `node.ts <port> <engine>`. Prints `{}` when the node
 * listens. The engine is a URL, or the path of a file for SQLite.
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
  // Requests fail while the engine is down, and are retried.
  onError() {},
  durableStreams: { path: "/streams", authorize: () => true },
  limits: { maxSessionsPerAddress: Infinity },
});
// deno-lint-ignore no-console
console.log("{}");
