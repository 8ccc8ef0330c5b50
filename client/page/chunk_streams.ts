/** Late chunk of streams and datagrams on a WebSocket; `page.ts` says how chunks work. */
import "./page.ts";

export { openStreams, withStreams } from "../../transport/websocket/streams.ts";
