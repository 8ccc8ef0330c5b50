/**
 * A node of the soak test of durable streams. Usage: `node.ts <port> <broker>`. The broker is a URL
 * or, for SQLite, the path of a file. The process prints `{}` when it is listening.
 *
 * @module
 */
import { serve } from "../../../mod.ts";
import { durableBroker } from "./brokers.ts";
import { streamFeatures } from "../../stream_features.ts";

const [port, broker] = Deno.args;
serve({
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  broker: await durableBroker(broker!),
  authorize: () => true,
  // Requests fail while the broker is down, and the clients retry them.
  onError() {},
  features: streamFeatures({ path: "/streams", authorize: () => true }),
  limits: { maxSessionsPerAddress: Infinity },
});
// deno-lint-ignore no-console
console.log("{}");
