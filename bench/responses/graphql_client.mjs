/** A subscription read by graphql-ws's client, on Node. */
import { count } from "./count.mjs";

const [{ createClient }, { WebSocket }] = await Promise.all(
  ["graphql-ws", "ws"].map((name) => import(name)),
);
await count((port, onItem) => {
  const client = createClient({ url: `ws://127.0.0.1:${port}`, webSocketImpl: WebSocket });
  const sink = { next: onItem, error: console.error, complete() {} };
  client.subscribe({ query: "subscription{words}" }, sink);
});
