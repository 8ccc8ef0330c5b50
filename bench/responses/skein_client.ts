/** A streaming response read by Skein's client. */
import { connect } from "../../client.ts";
import { count } from "./count.mjs";

await count((port: number, onItem: () => void) => {
  const client = connect(`ws://127.0.0.1:${port}/ws`, { transports: ["websocket"] });
  (async () => {
    for await (const _word of client.requestStream("words")) onItem();
  })();
});
