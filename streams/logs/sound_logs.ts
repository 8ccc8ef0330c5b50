/** Logs whose damage is reported once, and rejects with a code that callers and clients receive. */
import { RequestError } from "../../errors.ts";
import { DamageError } from "../../pubsub/broker/damage.ts";
import type { BrokerLogs } from "./log.ts";

/** Maximum number of damaged logs whose report is remembered. Further ones may be reported again. */
const MAX_REPORTED = 1_000;

/**
 * Wraps logs, so that calls on a damaged log reject with a `RequestError` of the code `damaged`. It
 * is not a `BrokerError`, so callers that wait for the broker stop.
 *
 * @param onDamage Receives the first error of each damaged log, until it is deleted or created anew.
 * MUST NOT throw.
 * @returns The wrapped logs.
 */
export function soundLogs(logs: BrokerLogs, onDamage: (error: RequestError) => void): BrokerLogs {
  const reported = new Set<string>();
  const watch = async <T>(id: string, call: Promise<T>): Promise<T> => {
    try {
      return await call;
    } catch (cause) {
      if (!(cause instanceof DamageError)) throw cause;
      const error = damaged(id, cause);
      if (!reported.has(id)) {
        for (const [oldest] of reported.entries()) {
          if (reported.size < MAX_REPORTED) break;
          reported.delete(oldest);
        }
        reported.add(id);
        onDamage(error);
      }
      throw error;
    }
  };
  return {
    get maxAppendBytes() {
      return logs.maxAppendBytes;
    },
    get keepsRows() {
      return logs.keepsRows;
    },
    create: async (id, options) => {
      const created = await watch(id, logs.create(id, options));
      if (created.kind === "created") reported.delete(id);
      return created;
    },
    append: (id, options) => watch(id, logs.append(id, options)),
    read: (id, options) => watch(id, logs.read(id, options)),
    delete: (id, options) => watch(id, logs.delete(id, options)),
    retain: (id, fork, options) => watch(id, logs.retain(id, fork, options)),
    release: (id, fork) => watch(id, logs.release(id, fork)),
    overdue: (options) => logs.overdue(options),
    list: (kind, options) => logs.list(kind, options),
  };
}

/**
 * Creates the error for a damaged stream.
 *
 * @param id The id of the stream.
 * @param cause The reason.
 */
export function damaged(id: string, cause: unknown): RequestError {
  const text = `The stream "${id}" is damaged: the broker has evicted a part of it, or another ` +
    "program has changed it. Delete the stream to drop what is left";
  return new RequestError("damaged", text, { cause });
}

/** True for the error of a damaged log. */
export function isDamaged(error: unknown): boolean {
  return error instanceof RequestError && error.failure.code === "damaged";
}
