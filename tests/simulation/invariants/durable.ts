/** Durable streams: readers receive the stored records once and in order, followed by the end. */
import type { Fact, Invariant } from "../facts.ts";

/** Codes with which a stream may end after its last record. */
const ENDS: ReadonlySet<string> = new Set(["ended", "aborted", "writer-lost", "cancelled"]);

/**
 * Maximum time after a failover during which the old primary still accepts writes, in milliseconds.
 * All of these writes are lost.
 */
const SPLIT_MS = 5_000;

/** A durable stream as its writer and readers see it. */
interface Log {
  /** Number of records that the writer has started to append. */
  begun: number;
  /** Number of records whose append has resolved. */
  kept: number;
  /** Total number of records, once the writer has closed the stream. */
  records: number | undefined;
  /** True if the broker may have lost records. */
  isUnsure: boolean;
  /** The first records of a producer's later epochs, which the stream accepts even after a loss. */
  readonly anew: Set<number>;
}

/**
 * True for a record after lost records if the stream cannot notice the loss. This is the case if a
 * later epoch of the producer reused the positions of the lost records, including positions that
 * the reader has received.
 */
function isBehindLoss({ isUnsure, anew }: Log, record: number, next: number): boolean {
  return isUnsure && [...anew].some((first) => next <= first && first <= record);
}

/** Readers receive all records in order, from their start to the end. */
export const recordsInOrder: Invariant = {
  name: "records-in-order",
  promise:
    "A reader of a durable stream receives each record once and in order, followed by one end.",
  source: "docs/protocol.md 24.2 to 24.7; docs/guide/durable-streams.md, durable-streams-http.md",
  watch(report) {
    const logs = new Map<string, Log>();
    const readers = new Map<string, { next: number; isOver: boolean }>();
    let lostMs = -Infinity;
    const over: { readonly fact: Fact<"readEnded">; readonly next: number }[] = [];
    const logOf = (stream: string): Log => {
      let log = logs.get(stream);
      if (log === undefined) {
        log = { begun: 0, kept: 0, records: undefined, isUnsure: false, anew: new Set() };
        logs.set(stream, log);
      }
      return log;
    };
    return {
      brokerLost({ atMs }) {
        lostMs = atMs;
        for (const log of logs.values()) log.isUnsure = true;
      },
      appending(fact) {
        const log = logOf(fact.stream);
        log.begun = Math.max(log.begun, fact.first + fact.count);
        if (fact.atMs < lostMs + SPLIT_MS) log.isUnsure = true;
        if (fact.isNewEpoch) log.anew.add(fact.first);
      },
      appended(fact) {
        const log = logOf(fact.stream);
        log.kept = Math.max(log.kept, fact.first + fact.count);
        if (log.records !== undefined && fact.first >= log.records) {
          report(fact, `expected no record after the close of ${fact.stream}, one was appended`);
        }
      },
      appendRejected(fact) {
        const { stream, status } = fact;
        if (logOf(stream).isUnsure) return;
        report(
          fact,
          `expected an append to ${stream}, repeated with its number, to succeed, received ${status}`,
        );
      },
      streamClosed({ stream, records }) {
        logOf(stream).records = records;
      },
      readBegan: ({ reader, after }) => void readers.set(reader, { next: after, isOver: false }),
      readDurable(fact) {
        const { stream, reader, record } = fact;
        const state = readers.get(reader) ?? { next: 0, isOver: false };
        readers.set(reader, state);
        if (state.isOver) {
          report(fact, `expected nothing after the end of ${stream}, received record ${record}`);
        } else if (record !== state.next && !isBehindLoss(logOf(stream), record, state.next)) {
          report(
            fact,
            `expected record ${state.next} of ${stream} (${reader}), received record ${record}`,
          );
        } else if (record >= logOf(stream).begun) {
          report(fact, `expected ${logOf(stream).begun} records of ${stream}, received ${record}`);
        }
        state.next = record + 1;
      },
      readEnded(fact) {
        const state = readers.get(fact.reader) ?? { next: 0, isOver: false };
        if (state.isOver) report(fact, `expected one end of ${fact.reader}, received another one`);
        readers.set(fact.reader, { ...state, isOver: true });
        if (fact.isLeft || fact.code !== undefined && !ENDS.has(fact.code)) return;
        over.push({ fact, next: state.next });
      },
      // The readers may be notified of the close before the writer.
      end() {
        for (const { fact, next } of over) {
          const { kept, records, isUnsure } = logOf(fact.stream);
          const end = fact.code ?? "ended";
          if (end === "ended" && records !== undefined && next !== records) {
            report(
              fact,
              `expected ${records} records of ${fact.stream}, received the end after ${next}`,
            );
          } else if (next < kept && !isUnsure) {
            report(
              fact,
              `expected ${kept} kept records of ${fact.stream}, received "${end}" after ${next}`,
            );
          }
        }
      },
    };
  },
};
