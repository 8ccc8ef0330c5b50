/** Starts workers, whose features reach all parts of the broker in the main thread. */
import { startWorkers, type Workers, type WorkersOptions } from "./server/workers/workers.ts";

/**
 * Serves sessions with several workers on one port, by default with one thread per core. The
 * default function of a module starts the server of each worker. The workers share topics,
 * histories, durable streams, presence, users and limits, as the nodes of a cluster do.
 *
 * - **A worker that fails** (because of an uncaught error, a hang or a full heap) is replaced after
 *   a delay that grows to up to half a minute. Its clients reconnect to other workers, and recover
 *   missed messages from histories.
 * - **WebTransport** is served by one worker, because UDP cannot be shared. If that worker ends,
 *   another worker takes over.
 * - **The main thread** runs the broker, and forwards publications between the workers.
 *
 * @example All cores
 * ```ts ignore
 * import { serveWorkers, type WorkerNode } from "@skein/skein/server";
 *
 * export default function start({ serve }: WorkerNode) {
 *   const server = serve({
 *     authorize: () => true,
 *     onMessage: (message) => void server.publish("news", message.data),
 *   });
 * }
 *
 * if (import.meta.main) await serveWorkers(new URL(import.meta.url), { port: 8000 });
 * ```
 *
 * @param module URL of the module that each worker loads, such as
 * `new URL("./app.ts", import.meta.url)`.
 * @param options See {@linkcode WorkersOptions}.
 * @returns The workers, once all of them listen.
 * @throws {TypeError} If the module does not load or has no default function, if its function does
 * not call `serve`, or if an option is unknown or cannot be cloned.
 * @throws {RangeError} If a number is out of range.
 * @throws {UnsupportedError} If several workers are requested on a system other than Linux.
 */
export async function serveWorkers(module: URL, options: WorkersOptions = {}): Promise<Workers> {
  // The default broker has no code for logs, which workers may use.
  return await startWorkers(module, options, async () => {
    const { LOGS_PART } = await import("./streams/logs/logs_of.ts");
    return [LOGS_PART];
  });
}
