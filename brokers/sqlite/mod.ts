/**
 * Topics, histories, logs and shared state of one machine, in one SQLite file.
 *
 * @example A server whose histories survive a restart
 * ```ts ignore
 * import { serve } from "@skein/skein";
 * import { SqliteBroker } from "@skein/skein/sqlite";
 *
 * await using broker = await SqliteBroker.open("chat.db");
 * await using server = serve({ port: 8080, broker, history: { "chat:{room}": { size: 1_000 } } });
 * ```
 *
 * @module
 */
export { SqliteBroker } from "./sqlite_broker.ts";
export type { SqliteBrokerOptions } from "./options.ts";
