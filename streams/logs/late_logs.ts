/** The logs of a broker, as callers see them, and logs whose code loads with the first call. */
import { abortable } from "@std/async/abortable";
import { textOf } from "../../base/error_text.ts";
import { BrokerError } from "../../errors.ts";
import { Damages } from "../../pubsub/broker/damage.ts";
import type { LogStore } from "./changes.ts";
import type { BrokerLogs } from "./log.ts";

/**
 * Maximum number of calls that wait for the code, which loads within milliseconds. The broker's own
 * bounds apply afterwards.
 */
const MAX_WAITING = 10_000;

/** Properties of logs that callers read without waiting. */
type LogFacts = Pick<BrokerLogs, "keepsRows" | "maxAppendBytes">;

/**
 * Creates the logs of a broker.
 *
 * @param facts Properties of the logs, which may change.
 * @param store The broker, which calls `decide`.
 * @param damages Receives the logs that turn out to be damaged.
 */
export function logsOver(
  facts: LogFacts,
  store: LogStore,
  damages: Damages = new Damages(),
): BrokerLogs {
  const watch = <T>(id: string, call: () => Promise<T>) => damages.watch(nameOf(id), call);
  return {
    get maxAppendBytes() {
      return facts.maxAppendBytes;
    },
    get keepsRows() {
      return facts.keepsRows;
    },
    create: async (id, options) => {
      const created = await watch(id, () => store.change(id, "create", options));
      if (created.kind === "created") damages.forget(nameOf(id));
      return created;
    },
    append: (id, options) => watch(id, () => store.change(id, "append", options)),
    read: (id, options) => watch(id, () => store.read(id, options)),
    delete: async (id, { ifExpired = false } = {}) => {
      const deleted = await watch(id, () => store.change(id, "delete", { ifExpired }));
      if (!ifExpired) damages.forget(nameOf(id));
      return deleted;
    },
    retain: (id, fork, options) =>
      watch(id, () => store.change(id, "retain", { ...options, fork })),
    release: (id, fork) => watch(id, () => store.change(id, "release", { fork })),
    overdue: (options) => store.overdue(options),
    list: (kind, options) => store.list(kind, options),
  };
}

/** The name of a log in an issue. */
function nameOf(id: string): string {
  return `The stream ${JSON.stringify(id)}`;
}

/**
 * Creates logs whose code loads with the first call, so that an application without durable streams
 * does not load it.
 *
 * - **Order:** the store receives all calls in the order in which they were made, and once the code
 *   is there, within the call.
 * - **Failures:** if the code does not load, all calls that wait for it reject with a
 *   `BrokerError`, and the next call tries again. At most 10,000 calls wait; further ones reject.
 *   If the broker closes in the meantime, the calls that wait reject.
 *
 * @param facts Properties of the logs that are known without their code.
 * @param load Loads the code, and creates the store.
 * @param damages See {@linkcode logsOver}.
 */
export function lateLogs(
  facts: LogFacts,
  load: () => Promise<LogStore>,
  damages?: Damages,
): BrokerLogs {
  let store: LogStore | undefined;
  let loading: Promise<LogStore> | undefined;
  /** Number of calls that wait for the code. */
  let waiting = 0;
  const start = async () => {
    try {
      return store = await load();
    } catch (cause) {
      loading = undefined;
      if (cause instanceof BrokerError) throw cause;
      const reason = textOf(cause);
      throw new BrokerError(`Cannot use logs: their code did not load: ${reason}`, { cause });
    }
  };
  const handOn = async <T>(call: (store: LogStore) => Promise<T>): Promise<T> => {
    // A call that does not wait would overtake the ones that do.
    if (store !== undefined && waiting === 0) return await call(store);
    if (waiting >= MAX_WAITING) {
      throw new BrokerError("Cannot use logs: too many calls wait for their code");
    }
    waiting++;
    let loaded: LogStore;
    try {
      loaded = await (loading ??= start());
    } finally {
      waiting--;
    }
    return await call(loaded);
  };
  return logsOver(facts, {
    change: (id, name, options) => handOn((store) => store.change(id, name, options)),
    read: (id, options) => {
      const { signal } = options;
      const isLoading = store === undefined;
      const reading = handOn((store) => {
        signal?.throwIfAborted();
        return store.read(id, options);
      });
      return signal !== undefined && isLoading ? abortable(reading, signal) : reading;
    },
    overdue: (options) => handOn((store) => store.overdue(options)),
    list: (kind, options) => handOn((store) => store.list(kind, options)),
  }, damages);
}
