/**
 * The inspector: a page that shows the sessions, topics, rooms, durable streams and brokers of a
 * server, and of all nodes of its broker. The option `inspector` of `serve` is the usual way:
 *
 * ```ts
 * import { serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, hostname: "127.0.0.1", onListen() {}, inspector: true });
 * const page = `${server.url.replace("ws:", "http:")}inspector/`;
 * const response = await fetch(page);
 * assertEquals(response.status, 200);
 * await response.body?.cancel();
 * ```
 *
 * This entry exports the class behind the option, so that you can serve the page elsewhere.
 *
 * @module
 */
export { Inspector } from "./inspector.ts";
export type { InspectorOptions } from "./options.ts";
export type { InspectedServer } from "./node_view.ts";
