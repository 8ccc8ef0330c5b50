/**
 * What a page loads when it first needs streams or datagrams on a WebSocket.
 *
 * @module
 */
import "./_common_part.ts";

export { openStreams, withStreams } from "./transport/websocket/streams.ts";
