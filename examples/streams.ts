/**
 * Echoes messages, requests, streams and datagrams, over WebTransport and WebSocket.
 *
 * ```sh
 * deno run -N --unstable-net examples/streams.ts
 * deno run -N --unstable-net examples/streams.ts --port 4433
 * ```
 *
 * With `--once` the program connects to its own server, prints the replies, and exits. With
 * `--load` one address may open any number of sessions at any rate, for a load generator. By
 * default the server responds with 429 beyond 1,000 sessions per address, and beyond 100 connection
 * attempts per second after a burst of 1,000.
 *
 * @module
 */
// In your own project: jsr:@skein/skein, and jsr:@skein/skein/transport
import { dial, serve } from "../mod.ts";
import { directDatagrams, receiveBidirectional, receiveUnidirectional } from "../transport/mod.ts";
import type { DirectReadable, DirectStream } from "../transport/mod.ts";
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, load, once: isOnce } = optionsOf({
  run: "deno run -N --unstable-net examples/streams.ts",
  about: "Sends everything back: messages, requests, streams and datagrams.",
}, {
  port: PORT,
  load: { help: "allows any number of sessions per address, for a load generator" },
  once: ONCE,
});

await using server = serve({
  port: isOnce ? 0 : port,
  ...(load && { limits: { maxSessionsPerAddress: Infinity } }),
  onOpen({ connection }) {
    const datagrams = directDatagrams(connection.datagrams);
    datagrams.receive((datagram) => datagrams.send(datagram));
    receiveBidirectional(connection, echo);
    receiveUnidirectional(connection, drain);
  },
  onMessage(message, session) {
    if (message.isRequest) message.reply(message.data);
    else session.send(message.topic, message.data);
  },
});

if (isOnce) await talk(server.url);
else await new Promise(() => {});

async function echo(stream: DirectStream): Promise<void> {
  try {
    let bytes = await stream.read();
    for (; bytes !== null; bytes = await stream.read(bytes)) await stream.write(bytes);
    await stream.close();
  } catch { // Only this stream ends.
    stream.cancel();
    stream.abort();
  }
}

/**
 * Reads and discards a unidirectional stream, which cannot carry a reply. Unread streams would use
 * up the client's credit.
 */
async function drain(stream: DirectReadable): Promise<void> {
  try {
    for (let bytes = await stream.read(); bytes !== null;) bytes = await stream.read(bytes);
  } catch { // Only this stream ends.
    stream.cancel();
  }
}

async function talk(url: string): Promise<void> {
  await using session = await dial(url);

  session.send("hello", { to: "the server" });
  for await (const message of session) {
    console.log("a message came back:", message.topic, message.data);
    break;
  }

  console.log("a request was answered:", await session.request("sum", [1, 2, 3]));
}
