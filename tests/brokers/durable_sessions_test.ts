/**
 * Tests durable streams over sessions on two nodes that share Redis or NATS, including an outage.
 */
import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { connect } from "../../mod.ts";
import { RequestError } from "../../errors.ts";
import { listen } from "../servers.ts";
import { soon, until } from "../waiting.ts";
import { BROKERS } from "./stores.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";

/** Options of one server with durable streams. */
function withStreams() {
  return { authorize: () => true, features: streamFeatures({ path: "/streams" }) };
}

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `client.durableStream() reads and cancels a stream of another node on ${name}`,
    ignore,
    fn: async () => {
      const { store, open } = await start();
      await using _store = store;
      await using near = open();
      await using far = open();
      await using one = listen({ ...withStreams(), broker: near });
      await using two = listen({ ...withStreams(), broker: far });
      await using client = connect(two.url, { transports: ["websocket"] });
      await using writer = await streamsOf(one).create<number>("a");
      const stopped = Promise.withResolvers<unknown>();
      writer.signal.addEventListener("abort", () => stopped.resolve(writer.signal.reason));
      const stream = client.durableStream<number>("a");
      const seen: number[] = [];
      const reading = (async () => {
        for await (const item of stream) seen.push(item);
      })();
      await writer.append(0);
      await until(() => seen.length === 1);
      await stream.cancel("enough");
      const reason = await soon(stopped.promise);
      assertInstanceOf(reason, RequestError);
      assertEquals(reason.message, "enough");
      for (let i = 1; i < 50; i++) void writer.append(i);
      await writer.close();
      await soon(reading);
      for (const id of ["", ".", "a b*>", "x".repeat(248)]) {
        const none = client.durableStream(id);
        for (const asking of [Array.fromAsync(none), none.cancel()]) {
          const error = await assertRejects(() => soon<unknown>(asking), RequestError);
          assertEquals(error.failure.code, "not-found", id);
        }
      }
      assertEquals(seen, Array.from({ length: 50 }, (_, i) => i));
    },
  });

  Deno.test({
    name: `A writer and a reader on ${name} continue after an outage, without duplicate records`,
    ignore,
    fn: async () => {
      const { store, open } = await start();
      await using _store = store;
      await using broker = open();
      await using server = listen({ ...withStreams(), broker });
      await using client = connect(server.url, { transports: ["websocket"] });
      await using writer = await streamsOf(server).create<number>("a");
      const stream = client.durableStream<number>("a");
      const reading = Array.fromAsync(stream);
      await writer.append(0);
      await until(() => stream.isUpToDate);
      await store.kill();
      const appends = [1, 2, 3].map((i) => writer.append(i));
      await store.restart();
      await soon(Promise.all(appends));
      await writer.close();
      assertEquals(await soon(reading), [0, 1, 2, 3]);
    },
  });
}
