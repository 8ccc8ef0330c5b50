/**
 * An answer that survives a page reload, with a stop button. The server writes the answer to a
 * durable stream, word by word; a page reads the stream, and resumes at its offset after a reload.
 *
 * ```sh
 * deno run -N examples/durable_stream.ts --once
 * ```
 *
 * Without `--once` the server keeps running, on port 8000 or the port given by `--port`. Then `curl
 * "http://localhost:8000/streams/answers/1?offset=-1"` reads the answer, and `curl -N
 * "http://localhost:8000/streams/answers/1?offset=-1&live=sse"` follows it.
 *
 * @module
 */
import { connect, serve } from "../mod.ts"; // jsr:@skein/skein
import { durableStreams, type DurableStreamWriter } from "../streams/mod.ts"; // jsr:@skein/skein/streams
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, once: isOnce } = optionsOf({
  run: "deno run -N examples/durable_stream.ts",
  about: "Writes an answer word by word to a stream that survives a page reload.",
}, { port: PORT, once: ONCE });

const id = "answers/1";

const streams = durableStreams({ path: "/streams", authorize: ({ action }) => action === "read" });
await using server = serve({
  port: isOnce ? 0 : port,
  features: [streams],
  // A real application checks that the session's user owns the answer.
  authorize: (_session, topic, action) =>
    topic === `stream:${id}` && (action === "subscribe" || action === "cancel"),
});

/** Writes an answer until a reader stops it, as a model would. */
async function answer(stream: DurableStreamWriter<string>): Promise<void> {
  // If this block ends without `close`, readers see that the answer is incomplete.
  await using writer = stream;
  for (let i = 1; !writer.signal.aborted; i++) {
    await writer.append(`word ${i}`);
    await new Promise((resolve) => setTimeout(resolve, isOnce ? 5 : 500));
  }
  console.log("the writer stops:", writer.signal.reason.message);
  await writer.close();
}

const answering = answer(await streams.create(id));
if (isOnce) await demonstrate(server.url);
await answering;

async function demonstrate(url: string): Promise<void> {
  let offset: string | undefined; // A real page keeps this in sessionStorage.
  {
    await using page = connect(url);
    const stream = page.durableStream<string>(id);
    for await (const word of stream) {
      console.log("before the refresh:", word);
      offset = stream.offset;
      if (word === "word 3") break;
    }
  }
  await using page = connect(url);
  const stream = page.durableStream<string>(id, { after: offset });
  let isStopped = false;
  for await (const word of stream) {
    if (isStopped) continue;
    console.log("after the refresh:", word);
    isStopped = word === "word 6";
    if (isStopped) await stream.cancel("Enough for me");
  }
  console.log("the answer has ended");
}
