/** The program of the worker that owns a file. Importing this module elsewhere has no effect. */
import { parentPort, workerData } from "node:worker_threads";
import { textOf } from "../../base/error_text.ts";
import {
  type OperationOutcome,
  OPTIONS_KEY,
  SqliteFile,
  type SqliteFileOptions,
  type WorkerRequest,
} from "./file.ts";

/** The URL of this program. A bundle changes it. */
export const url: string = import.meta.url;

const options = (workerData as { readonly [OPTIONS_KEY]?: SqliteFileOptions } | null)
  ?.[OPTIONS_KEY];
if (parentPort !== null && options !== undefined) {
  const port = parentPort;
  const reply = (act: () => unknown) => {
    let outcome: OperationOutcome;
    try {
      outcome = ["done", act()];
    } catch (error) {
      outcome = ["failed", textOf(error)];
    }
    port.postMessage(outcome);
  };
  reply(() => {
    const file = new SqliteFile(options);
    port.on("message", async (request: WorkerRequest) => {
      if (request[0] === "run") await file.load(request[1]);
      reply(() => request[0] === "run" ? file.run(request[1], request[2]) : file.close());
    });
    return file.epoch;
  });
}
