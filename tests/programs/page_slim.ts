/**
 * The client of a page in one file with WebSocket alone; `bundle_test.ts` measures its bundle.
 *
 * @module
 */
import { connect, webSocket } from "../../client/page/slim.ts";
import type { Client, ServerUrl } from "../../client.ts";

/** Connects as such a page does. */
export const open = (url: ServerUrl): Client => connect(url, { transports: [webSocket()] });
