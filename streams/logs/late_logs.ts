/** The logs of a broker, as callers see them. */
import type { LogStore } from "./changes.ts";
import type { BrokerLogs } from "./log.ts";

/**
 * Creates the logs of a broker.
 *
 * @param store The broker, which calls `decide`.
 * @returns The logs.
 */
export function logsOver(store: LogStore): BrokerLogs {
  return {
    get maxAppendBytes() {
      return store.maxAppendBytes;
    },
    get keepsRows() {
      return store.keepsRows;
    },
    create: (id, options) => store.change(id, "create", options),
    append: (id, options) => store.change(id, "append", options),
    read: (id, options) => store.read(id, options),
    delete: (id, { ifExpired = false } = {}) => store.change(id, "delete", { ifExpired }),
    retain: (id, fork, options) => store.change(id, "retain", { ...options, fork }),
    release: (id, fork) => store.change(id, "release", { fork }),
    overdue: (options) => store.overdue(options),
    list: (kind, options) => store.list(kind, options),
  };
}
