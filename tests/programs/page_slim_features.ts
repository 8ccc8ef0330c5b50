/**
 * The client of a page in one file with WebSocket, responses and insight; `bundle_test.ts` measures
 * its bundle.
 *
 * @module
 */
import { connect, insight, responses, webSocket } from "../../client/page/slim.ts";
import type { Client, ServerUrl } from "../../client.ts";

/** Connects as such a page does. */
export const open = (url: ServerUrl): Client =>
  connect(url, { transports: [webSocket()], features: [responses(), insight()] });
