/** Tests what clients read about streams, responses and states that a server has lost. */
import { assertEquals, assertRejects } from "@std/assert";
import { type Broker, connect, MemoryBroker, RequestError, type Server } from "../mod.ts";
import { Cable } from "./networks/cable.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";
import { resumable } from "../streams/mod.ts";

/** A server that loses everything when it stops. */
function volatileServer(broker: Broker = new MemoryBroker()): Server {
  return listen({
    webTransport: false,
    broker,
    features: streamFeatures({ path: "/streams", authorize: () => true }),
    authorize: () => true,
    requests: {
      story: {
        resumable,
        async *handle({ signal }) {
          yield "Once";
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        },
      },
    },
  });
}

function clientOf(url: string) {
  return connect(url, { transports: ["websocket"], backoff: { firstDelayMs: 1, maxDelayMs: 5 } });
}

const portOf = ({ url }: Server) => Number(new URL(url).port);

/** The code and text of a rejection. */
async function failureOf(promise: Promise<unknown>): Promise<readonly [string, string]> {
  const { failure: { code }, message } = await assertRejects(() => promise, RequestError);
  return [code, message];
}

const RESPONSE = "This server no longer has the response; its broker keeps responses in memory";
const STREAM = "This server no longer has the stream; its broker keeps streams in memory";

Deno.test("Readers of a stream or a response that a server has lost read so", async () => {
  await using before = volatileServer();
  await using cable = new Cable(portOf(before));
  await using client = clientOf(cable.url);
  const id = "story-0000000000000001";
  const response = client.requestStream("story", null, { id });
  const stream = client.durableStream("log");
  await using writer = await streamsOf(before).create("log");
  await writer.append("Once");
  const readers = [response, stream].map((reader) => Array.fromAsync(reader));
  const failures = readers.map(failureOf);
  await until(() => response.offset !== undefined && stream.offset !== undefined);
  const { offset } = response;

  await using after = volatileServer();
  cable.port = portOf(after);
  cable.cut();
  assertEquals(await Promise.all(failures), [["gone", RESPONSE], ["gone", STREAM]]);
  const again = client.requestStream("story", null, { id, after: offset });
  assertEquals(await failureOf(Array.fromAsync(again)), ["gone", RESPONSE]);
});

Deno.test("A write to a state that a server has lost tells why its outcome is unknown", async () => {
  const store = new FaultyStore();
  await using before = volatileServer(store.connect());
  await using _before = await statesOf(before).open("list");
  await using cable = new Cable(portOf(before));
  await using client = clientOf(cable.url);
  using state = await client.state("list");
  await state.ready;
  await state.collection("items").set("a", 1);
  // The server has the write, and its reply is lost.
  const begun = Promise.withResolvers<void>();
  store.make("logs.append", () => (begun.resolve(), new Promise(() => {})));
  const failure = failureOf(state.collection("items").set("a", 2));
  await begun.promise;

  await using after = volatileServer();
  await using _after = await statesOf(after).open("list");
  cable.port = portOf(after);
  cable.cut();
  assertEquals(await failure, ["unknown", `Cannot tell if the state was written: ${STREAM}`]);
});

Deno.test("Readers of a deleted stream or state read no guess about the broker", async () => {
  await using server = volatileServer();
  await using client = clientOf(server.url);
  await using _writer = await streamsOf(server).create("log");
  await using _state = await statesOf(server).open("list");
  const stream = client.durableStream("log");
  const failure = failureOf(Array.fromAsync(stream));
  using state = await client.state("list");
  await state.ready;
  await until(() => stream.isUpToDate);
  for (const id of ["log", "list"]) await streamsOf(server).delete(id);
  const text = "This server no longer has the stream";
  assertEquals(await failure, ["gone", text]);
  await until(() => state.status.current === "ended");
  assertEquals((state.error as Error).message, `Cannot read state "list": ${text}`);
});
