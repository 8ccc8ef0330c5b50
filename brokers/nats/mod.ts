/**
 * Topics, histories and shared state across nodes, on an existing NATS server.
 *
 * @example Two nodes
 * ```ts ignore
 * import { serve } from "@skein/skein";
 * import { NatsBroker } from "@skein/skein/nats";
 *
 * await using broker = new NatsBroker({ servers: "127.0.0.1:4222" });
 * await using server = serve({ port: 8080, broker });
 * ```
 *
 * @module
 */
export { NatsBroker } from "./nats_broker.ts";
export type { NatsBrokerOptions, NatsClient, NatsServers, NatsSource } from "./options.ts";
export type { NatsShards } from "./shards.ts";
