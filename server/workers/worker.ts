/** The program of a worker. Importing this module outside a worker of `serveWorkers` does nothing. */
import { parentPort, workerData } from "node:worker_threads";
import { INIT_KEY, runWorker, type WorkerInit } from "./worker_node.ts";

const init = (workerData as { readonly [INIT_KEY]?: WorkerInit } | null)?.[INIT_KEY];
if (parentPort !== null && init !== undefined) runWorker(parentPort, init);
