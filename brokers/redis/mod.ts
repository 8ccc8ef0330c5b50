/**
 * Topics, histories and shared state across nodes, on an existing Redis.
 *
 * @example Two nodes
 * ```ts ignore
 * import { serve } from "@skein/skein";
 * import { RedisBroker } from "@skein/skein/redis";
 *
 * await using broker = new RedisBroker({ url: "redis://127.0.0.1:6379" });
 * await using server = serve({ port: 8080, broker });
 * ```
 *
 * @module
 */
export { RedisBroker } from "./redis_broker.ts";
export type { RedisBrokerOptions, RedisClient, RedisSource } from "./options.ts";
