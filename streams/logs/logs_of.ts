/** The logs of a broker, wherever it keeps them. */
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { type BrokerPart, compact, type Packed } from "../../pubsub/ports/calls.ts";
import { PortBroker } from "../../pubsub/ports/port_broker.ts";
import type { BrokerLogs, LogBroker, LogRecord } from "./log.ts";
import { MemoryLogs } from "./memory_logs.ts";
import { recordBytes } from "./rules.ts";

/** Key of the logs in the memory of a broker. */
const LOGS = Symbol("logs");

/** The logs of a broker in another thread. */
export const LOGS_PART: BrokerPart<BrokerLogs> = {
  name: "logs",
  calls: {
    create: { pack: packOptions },
    append: { pack: packOptions },
    read: { packResult: (page) => typeof page === "object" ? packRecords(page) : [page, 0] },
    delete: {},
    retain: {},
    release: {},
    overdue: {},
    list: {},
  },
  constants: ["keepsRows", "maxAppendBytes"],
  of: logsOf,
};

/**
 * Returns the logs of a broker.
 *
 * @returns The logs; `undefined` if the broker cannot keep any.
 */
export function logsOf(broker: Broker): BrokerLogs | undefined {
  if (broker instanceof MemoryBroker) {
    return broker.share(LOGS, (memory) => new MemoryLogs(memory)).logs;
  }
  if (broker instanceof PortBroker) return broker.part(LOGS_PART);
  return (broker as Partial<LogBroker>).logs;
}

/** Packs the options of an append, or a page. */
function packRecords<T extends { readonly records: readonly LogRecord[] }>(value: T): Packed<T> {
  return [{ ...value, records: value.records.map(compact) }, recordBytes(value.records)];
}

function packOptions<O extends { readonly records: readonly LogRecord[] }>(
  id: string,
  options: O,
): Packed<[id: string, options: O]> {
  const [packed, bytes] = packRecords(options);
  return [[id, packed], bytes];
}
