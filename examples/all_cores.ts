/**
 * Uses all cores of a machine: two workers serve one port, each on its own core, and share one chat
 * with presence and a history.
 *
 * ```sh
 * deno run -N -R --unstable-net examples/all_cores.ts
 * ```
 *
 * With `--once` two visitors, each on a different worker, chat with each other. Then one worker
 * fails, and its visitor misses no message.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../mod.ts`, and
 * `jsr:@skein/skein/server` in place of `../server.ts`.
 *
 * @module
 */
import { type Client, connect, guest } from "../mod.ts";
import { serveWorkers, type WorkerNode, type Workers } from "../server.ts";
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

/** Starts the server of one worker. Each worker loads this module and calls this function. */
export default function start({ serve, index }: WorkerNode): void {
  serve({
    authenticate: ({ token }) => token ?? guest,
    authorize: () => true,
    rooms: ["chat:{room}"],
    history: { "chat:{room}": { size: 1_000 } },
    onOpen: (session) => session.send("worker", index),
    onMessage(message): void {
      if (message.topic !== "fail") return;
      // No handler catches this error, so the worker ends.
      setTimeout(() => {
        throw new Error("a bug in the program");
      });
    },
  });
}

// Workers load this module too, and must not start workers themselves.
if (import.meta.main) {
  const { port, once } = optionsOf({
    run: "deno run -N -R --unstable-net examples/all_cores.ts",
    about: "Serves one chat from two workers, each on its own core, on one port.",
  }, { port: PORT, once: ONCE });
  await using workers = await serveWorkers(new URL(import.meta.url), {
    workers: 2,
    port: once ? 0 : port,
    onWorkerEnd: ({ index }) => console.log(`worker ${index} ended, and another one starts`),
  });
  if (once) await showOnce(workers);
  else await interrupted();
}

/** Waits for Ctrl-C. */
function interrupted(): Promise<void> {
  return new Promise((resolve) => {
    Deno.addSignalListener("SIGINT", function end() {
      Deno.removeSignalListener("SIGINT", end); // A second Ctrl-C exits immediately.
      resolve();
    });
  });
}

/** Connects two visitors to two workers, and makes one worker fail. */
async function showOnce(workers: Workers): Promise<void> {
  const [ann, bob] = [await visit(workers, "ann", 0), await visit(workers, "bob", 1)];
  const lines = ann.subscribe("chat:lobby", { last: 10 });
  await lines.ready;
  const chat = lines[Symbol.asyncIterator]();
  const next = async () => (await chat.next()).value?.data;

  await bob.publish("chat:lobby", "Hello from worker 1");
  console.log("ann sees:", await next());

  const before = ann.session;
  ann.send("fail");
  await before?.closed;
  await bob.publish("chat:lobby", "Are you still there?");
  console.log("ann sees:", await next());
  await Promise.all([ann.close(), bob.close()]);
}

/** Reconnects until the kernel chooses this worker. */
async function visit({ url }: Workers, name: string, index: number): Promise<Client> {
  while (true) {
    const worker = Promise.withResolvers<unknown>();
    const client = connect(`${url}?token=${name}`, {
      transports: ["websocket"],
      delivery: "at-least-once",
      backoff: { firstDelayMs: 100 },
      onMessage({ topic, data }) {
        if (topic === "worker") worker.resolve(data);
      },
    });
    const [isThere] = [await worker.promise === index, await client.whenConnected()];
    if (isThere) {
      console.log(`${name} is on worker ${index}`);
      return client;
    }
    await client.close();
  }
}
