/**
 * The measured stream server: it echoes text messages, and answers requests. With `--streams` it
 * also echoes streams of `skein.1`.
 *
 * ```sh
 * deno run -A bench/streams_server.ts --port 9100 --streams
 * ```
 *
 * @module
 */
import { serve, type Session } from "../mod.ts";
import { type DirectStream, directStream } from "../transport/mod.ts";
import { portOf } from "./args.ts";

const hasStreams = Deno.args.includes("--streams");

serve({
  hostname: "127.0.0.1",
  port: portOf(Deno.args),
  webTransport: false,
  onListen() {},
  limits: { maxSessions: 20_000, maxSessionsPerAddress: Infinity },
  onOpen(session) {
    if (hasStreams) void Promise.allSettled([echoStreams(session), drainStreams(session)]);
  },
  onMessage(message, session) {
    if (message.isRequest) message.reply(message.data);
    else session.send(message.topic, message.data);
  },
});

async function echoStreams({ connection }: Session): Promise<void> {
  for await (const stream of connection.incomingBidirectionalStreams) {
    void echo(directStream(stream));
  }
}

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

async function drainStreams({ connection }: Session): Promise<void> {
  for await (const stream of connection.incomingUnidirectionalStreams) {
    const readable = directStream(stream);
    const drain = async () => {
      for (let bytes = await readable.read(); bytes !== null;) bytes = await readable.read(bytes);
    };
    drain().catch(() => {});
  }
}
