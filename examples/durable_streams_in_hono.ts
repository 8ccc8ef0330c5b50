/**
 * A streamed answer that doesn't depend on its readers: a durable stream in a Hono app. A backend
 * writes the answer word by word, one reader follows live, and another one resumes from the middle.
 *
 * ```sh
 * deno run -N examples/durable_streams_in_hono.ts --once
 * ```
 *
 * Without `--once` the app keeps running, on port 8000; send requests with `curl -X POST
 * localhost:8000/ask` and `curl -N 'localhost:8000/answers/1?offset=-1&live=sse'`.
 *
 * @module
 */
import { Hono } from "npm:hono@^4";
import { MemoryBroker } from "../pubsub/mod.ts"; // jsr:@skein/skein/pubsub
import type { RequestInfo } from "../server.ts"; // jsr:@skein/skein/server
import { DurableStreamsHandler } from "../streams/mod.ts"; // jsr:@skein/skein/streams
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, once: isOnce } = optionsOf({
  run: "deno run -N examples/durable_streams_in_hono.ts",
  about: "Serves durable streams from a Hono app.",
}, { port: PORT, once: ONCE });
const HEADERS = { "content-type": "text/plain", authorization: "Bearer s3cret" };
const ANSWER = "A stream keeps every word, and readers see where it ends.";

await using broker = new MemoryBroker(); // Or a SqliteBroker, RedisBroker or NatsBroker.
await using streams = new DurableStreamsHandler({
  broker,
  path: "/answers",
  authorize: ({ request, action }) =>
    action === "read" || request.headers.get("authorization") === "Bearer s3cret",
});

const app = new Hono<{ Bindings: RequestInfo }>();
app.all("/answers/*", (c) => streams.fetch(c.req.raw, c.env));

let answers = 0;
app.post("/ask", async (c) => {
  const url = new URL(`/answers/${++answers}`, c.req.url).href;
  await send(url, { method: "PUT", headers: HEADERS });
  write(url).catch((error) => console.error("The answer failed:", error));
  return c.text(`${url}\n`, 202);
});

/** Writes an answer; each word is appended once, even if a request is retried. */
async function write(url: string): Promise<void> {
  const words = ANSWER.split(/(?<= )/);
  for (const [seq, word] of words.entries()) {
    await send(url, {
      method: "POST",
      body: word,
      headers: {
        ...HEADERS,
        "producer-id": "writer",
        "producer-epoch": "0",
        "producer-seq": `${seq}`,
        ...(seq === words.length - 1 && { "stream-closed": "true" }),
      },
    });
  }
}

async function send(url: string, init: RequestInit): Promise<void> {
  const response = await fetch(url, init);
  await response.body?.cancel();
  if (!response.ok) throw new Error(`${init.method} ${url} responded with ${response.status}`);
}

await using http = Deno.serve({ port: isOnce ? 0 : port }, app.fetch);

if (isOnce) await demonstrate(`http://localhost:${http.addr.port}`);
else await http.finished;

async function demonstrate(origin: string): Promise<void> {
  const asked = await fetch(`${origin}/ask`, { method: "POST" });
  const url = (await asked.text()).trim();

  let text = "";
  let middle = "";
  for (let offset = "-1", isClosed = false; !isClosed;) {
    const page = await fetch(`${url}?offset=${offset}&live=long-poll`);
    offset = page.headers.get("stream-next-offset")!;
    isClosed = page.headers.has("stream-closed");
    text += await page.text();
    if (middle === "" && text.includes(",")) middle = offset;
  }
  console.log("followed:", text);

  const rest = await (await fetch(`${url}?offset=${middle}`)).text();
  console.log("resumed:", text.endsWith(rest));
  const events = await (await fetch(`${url}?offset=${middle}&live=sse`)).text();
  console.log("events report the end:", events.includes('"streamClosed":true'));
}
