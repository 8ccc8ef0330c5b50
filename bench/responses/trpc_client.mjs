/** A subscription read by tRPC's client, on Node. */
import { count } from "./count.mjs";

const [{ createTRPCClient, createWSClient, wsLink }, { WebSocket }] = await Promise.all(
  ["@trpc/client", "ws"].map((name) => import(name)),
);
globalThis.WebSocket ??= WebSocket;
await count((port, onItem) => {
  const client = createWSClient({ url: `ws://127.0.0.1:${port}` });
  const trpc = createTRPCClient({ links: [wsLink({ client })] });
  trpc.words.subscribe(undefined, { onData: onItem });
});
