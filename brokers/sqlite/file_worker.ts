/** The program of the worker that has a file. Importing this module elsewhere does nothing. */
import { parentPort, workerData } from "node:worker_threads";
import { textOf } from "../../base/error_text.ts";
import { SqliteFile, type SqliteFileOptions } from "./file.ts";
import { OPTIONS_KEY, type WorkerAnswer, type WorkerRequest } from "./worker_file.ts";

const options = (workerData as { readonly [OPTIONS_KEY]?: SqliteFileOptions } | null)
  ?.[OPTIONS_KEY];
if (parentPort !== null && options !== undefined) {
  const port = parentPort;
  const answer = (message: WorkerAnswer) => port.postMessage(message);
  try {
    const file = new SqliteFile(options);
    port.on("message", (request: WorkerRequest) => {
      try {
        if (request[0] === "run") return answer(["outcomes", file.run(request[1], request[2])]);
        file.close();
        answer(["closed"]);
      } catch (error) {
        answer(["failed", textOf(error)]);
      }
    });
    answer(["opened", file.epoch]);
  } catch (error) {
    answer(["failed", textOf(error)]);
  }
}
