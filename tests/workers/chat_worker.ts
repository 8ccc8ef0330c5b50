/** A worker for the tests: a chat with users, rooms and a history. */
import { guest, type WorkerNode } from "../../server.ts";
import { inspector, metrics } from "../../operations/mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";
import type { DurableStreams } from "../../streams/mod.ts";

export default function start({ serve, index, data }: WorkerNode): void {
  const server = serve({
    authenticate: ({ token }) => token ?? guest,
    authorize: () => true,
    history: { "kept:{name}": { size: 10_000 } },
    rooms: ["room:{name}"],
    features: [
      metrics(),
      inspector(),
      httpApi({ path: "/api" }),
      ...streamFeatures({ path: "/streams", authorize: () => true }),
    ],
    presence: { graceMs: 200 },
    limits: { maxSessionsPerUser: 3 },
    rates: { perAddress: {} },
    onOpen: (session) => session.send("worker", index),
    onMessage(message, session): void | Promise<void> {
      switch (message.topic) {
        case "data":
          return void message.reply(data);
        case "tell":
          return void server.to("ann").send("told", message.data);
        case "write":
          return writeUntilStopped(streamsOf(server), `${message.data}`);
        case "publish":
          return server.publish("news", message.data);
        case "crash":
          return void queueMicrotask(() => {
            throw new Error("The worker crashed");
          });
        case "exit":
          return Deno.exit(3);
        case "hang":
          for (const until = Date.now() + 30_000; Date.now() < until;);
          return;
        case "leak": {
          const kept: unknown[] = [];
          while (true) kept.push({ at: kept.length });
        }
      }
      session.send("unknown", message.topic);
    },
  });
}

/** Writes numbers to a durable stream until a reader stops the writer. */
async function writeUntilStopped(streams: DurableStreams, id: string): Promise<void> {
  await using writer = await streams.create<number>(id);
  for (let i = 0; !writer.signal.aborted; i++) {
    await writer.append(i);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await writer.close();
}
