/**
 * Code that a page loads for the first stream or datagram on a WebSocket.
 *
 * @module
 */
import "./common.ts";

export { openStreams, withStreams } from "../transport/websocket/streams.ts";
