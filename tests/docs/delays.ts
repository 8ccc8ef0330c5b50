/**
 * Measures how long events take to arrive through a proxy and directly. The server and its clients
 * share this process and its clock. `--cert` makes the clients trust the proxy's certificate.
 *
 * ```sh
 * deno run -A --cert cert.pem tests/docs/delays.ts 8001 8002 https://localhost:8443
 * ```
 *
 * The program prints `listening`, waits for a line on stdin, and prints each {@linkcode Delays} as
 * a line of JSON, then `measured`.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { httpApi } from "../../operations/http_api/mod.ts";
import { metrics } from "../../operations/mod.ts";
import { durableStreams } from "../../streams/mod.ts";
import { connect, serve } from "../../mod.ts";

/** Delays of one kind of events. */
export interface Delays {
  readonly kind: string;
  /** Delays through the proxy, in milliseconds. */
  readonly proxied: readonly number[];
  /** Delays of the same events without the proxy. */
  readonly direct: readonly number[];
}

/** Number of measured events of each kind. */
const ROUNDS = 10;

/** Longest wait for an event, in milliseconds. */
const PATIENCE_MS = 20_000;

type Reader = AsyncGenerator<number, void, undefined>;

/** A kind of events. */
interface Kind {
  /** Opens a reader at an origin. Its first value says that the reader is ready. */
  readonly open: (origin: string) => Reader;
  /** Sends a number to all readers. */
  readonly send: (n: number) => unknown;
}

const [one, two, proxy] = Deno.args as [string, string, string];
const authorize = () => true;
const streams = durableStreams({ path: "/streams", authorize });
const responses = new Set<ReadableStreamDefaultController<number>>();

await using server = serve({
  port: Number(one),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  authorize,
  fetch: ({ headers }) => new Response(headers.get("x-forwarded-for")),
  features: [metrics(), httpApi({ path: "/api", authorize }), streams],
  requests: {
    numbers: () => {
      let response: ReadableStreamDefaultController<number>;
      return new ReadableStream<number>({
        start(controller) {
          responses.add(response = controller);
          controller.enqueue(0);
        },
        cancel: () => void responses.delete(response),
      });
    },
  },
});
// The proxies' files name two nodes; here both are one server.
await using _other = Deno.serve({
  port: Number(two),
  hostname: "127.0.0.1",
  onListen() {},
}, (request, info) => server.fetch(request, info));
await using stream = await streams.create<number>("numbers");

/** Reads numbers from a topic in a session. */
function sessions(transport: "http" | "websocket"): Kind {
  return {
    async *open(origin) {
      await using client = connect(origin, { transports: [transport] });
      const numbers = client.subscribe(transport);
      await numbers.ready;
      yield 0;
      for await (const { data } of numbers) yield Number(data);
    },
    send: (n) => server.publish(transport, n),
  };
}

/** Reads the numbers in server-sent events. */
async function* numbersIn(url: string): AsyncGenerator<number, void, undefined> {
  const { ok, status, body } = await fetch(url);
  if (!ok) throw new Error(`${url} responded with ${status}`);
  yield 0;
  let rest = "";
  for await (const text of body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const [, number] = /^data: ?(?:\{"data":|\[)(\d+)/.exec(line) ?? [];
      if (number !== undefined) yield Number(number);
    }
  }
}

const KINDS: Readonly<Record<string, Kind>> = {
  "session over WebSocket": sessions("websocket"),
  "session over HTTP": sessions("http"),
  "streaming response over HTTP": {
    async *open(origin) {
      await using client = connect(origin, { transports: ["http"] });
      for await (const item of client.requestStream("numbers")) yield Number(item);
    },
    send: (n) => responses.forEach((response) => response.enqueue(n)),
  },
  "topic for EventSource": {
    open: (origin) => numbersIn(`${origin}/api/topics/events/publications`),
    send: (n) => server.publish("events", n),
  },
  "durable stream as events": {
    open: (origin) => numbersIn(`${origin}/streams/numbers?offset=now&live=sse`),
    send: (n) => stream.append(n),
  },
};

/** Both readers receive each event, so that a busy machine delays both. */
async function measure(kind: string, { open, send }: Kind): Promise<Delays> {
  const readers = [proxy, `http://127.0.0.1:${one}`].map(open) as [Reader, Reader];
  const [proxied, direct]: [number[], number[]] = [[], []];
  for (let n = 0; n <= ROUNDS; n++) {
    const startMs = performance.now();
    if (n > 0) await send(n);
    const arrival = async (reader: Reader, delays: number[]) => {
      const { value } = await deadline(reader.next(), PATIENCE_MS);
      if (value !== n) throw new Error(`${kind}: received ${value} in place of ${n}`);
      if (n > 0) delays.push(performance.now() - startMs);
    };
    await Promise.all([arrival(readers[0], proxied), arrival(readers[1], direct)]);
  }
  for (const reader of readers) await reader.return();
  return { kind, proxied, direct };
}

console.log("listening");
await Deno.stdin.read(new Uint8Array(1));
for (const [name, kind] of Object.entries(KINDS)) {
  console.log(JSON.stringify(await measure(name, kind)));
}
console.log("measured");
