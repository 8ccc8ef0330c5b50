/** The late chunk with streams and datagrams on a WebSocket; `page.ts` explains how chunks work. */
import "./page.ts";

export { openStreams, withStreams } from "../../transport/websocket/streams.ts";
