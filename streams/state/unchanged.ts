/** Appends that depend on collections which a transaction has iterated. */
import type { Runtime } from "../../base/runtime.ts";
import type { StreamAppended, StreamLogs } from "../logs/stream_logs.ts";
import { contendedState } from "./row_queue.ts";

/** Maximum number of bytes of the changes that are read at a time. */
const PAGE_BYTES = 262_144;

/** Maximum number of transactions that are read at a time. */
const PAGE_RECORDS = 256;

/** A condition on a collection: none of its rows has changed after a version of the state. */
export type Scans = ReadonlyMap<string, number>;

export interface ChangedCollection {
  /** Distinguishes this result from others. */
  readonly kind: "changed";
  /** Name of the collection. */
  readonly type: string;
  /** Version of the state in which it has other rows. */
  readonly version: number;
}

/**
 * Appends changes on condition that no row of some collections has changed. The stream only knows
 * whether anything has: if so, the changes since tell whether these collections have.
 *
 * @param id The id of the state.
 * @param scans The collections, at least one, each with the version after which it must be as it was.
 * @param appending The append, which takes effect at one tail only, the identity of the stream, the
 * streams, and the end of the attempts on the monotonic clock.
 * @returns The result of the append, or the collection that has changed.
 * @throws {RequestError} With the code `unavailable` if others change the state during each attempt.
 * @throws {BrokerError} If the broker is unreachable.
 */
export async function appendUnchanged(
  id: string,
  scans: Scans,
  { append, identity, logs, runtime, untilMs }: {
    readonly append: (ifTail: number) => Promise<StreamAppended>;
    readonly identity: string | undefined;
    readonly logs: Pick<StreamLogs, "read">;
    readonly runtime: Runtime;
    readonly untilMs: number;
  },
): Promise<StreamAppended | ChangedCollection> {
  /** Version up to which the collections are known to be as they were. */
  let at = Math.min(...scans.values());
  while (true) {
    const result = await append(at);
    if (result.kind !== "moved") return result;
    const { tail } = result.info;
    // Another stream has other versions.
    if (tail < at) return { kind: "missing" };
    while (at < tail) {
      const bounds = { maxBytes: PAGE_BYTES, maxRecords: PAGE_RECORDS };
      const page = await logs.read(id, { after: at, identity, eachChange: "always", ...bounds });
      if (page.kind !== "page") {
        if (page.kind !== "trimmed") return { kind: "missing" };
        // The changes are no longer known.
        const [[type]] = scans as unknown as [[string]];
        return { kind: "changed", type, version: tail };
      }
      for (const [i, record] of page.records.entries()) {
        for (const { type } of JSON.parse(`[${record}]`)) {
          const version = at + i + 1;
          if (version > (scans.get(type) ?? Infinity)) return { kind: "changed", type, version };
        }
      }
      if (page.next <= at) break;
      at = page.next;
    }
    if (runtime.monotonic() > untilMs) throw contendedState(id);
  }
}
