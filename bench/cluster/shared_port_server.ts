/**
 * The server that `shared_port.ts` measures: an echo with a handler that computes. `--reuse <port>`
 * shares the port with other processes, `--workers <port> <count>` starts workers; without an
 * option, run the module with `deno serve`.
 *
 * @module
 */
import { createServer, serve, type ServerOptions } from "../../mod.ts";
import { serveWorkers, type WorkerNode } from "../../server.ts";

/** About a third of a millisecond. */
const STEPS = 200_000;

const options: ServerOptions = {
  path: "/ws",
  onMessage({ topic, data }, session) {
    if (topic === "echo" && work() !== undefined) session.send("echo", data);
  },
};

const [flag, port, workers] = Deno.args;
const shared = {
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
} as const;
if (flag === "--reuse") serve({ ...options, ...shared, reusePort: true });
if (flag === "--workers" && import.meta.main) {
  await serveWorkers(new URL(import.meta.url), { ...shared, workers: Number(workers) });
}

/** Starts a worker; its property `fetch` is for `deno serve`. */
function start({ serve }: WorkerNode): void {
  serve(options);
}

export default Object.assign(start, { fetch: createServer(options).fetch });

function work(): number {
  let x = 1;
  for (let i = 0; i < STEPS; i++) x = Math.imul(x, 1_664_525) + 1_013_904_223 | 0;
  return x;
}
