/**
 * What a page loads when it first needs streams or datagrams on a WebSocket.
 *
 * @module
 */
import "./common.ts";

export { openStreams, withStreams } from "../transport/websocket/streams.ts";
