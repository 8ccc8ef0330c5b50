/** Names of the keys of logs. */
import { type LogKind, logKind } from "../../../streams/logs/log_names.ts";
import { LOG_CHANNEL, LOG_PARTS, type RedisNames } from "../format.ts";

/**
 * Names of all keys of a log, which share one slot of a cluster, in the order in which scripts
 * expect them.
 */
export interface LogKeys {
  /** Hash with the state. */
  readonly state: string;
  /** Stream with chunks of records. */
  readonly records: string;
  /** A string with the newest records, which are not in `records` yet. */
  readonly newest: string;
  /** Hash with the newest number of each producer; of a keyed log, also with the marks of callers. */
  readonly producers: string;
  /** Set of the forks. */
  readonly forks: string;
  /**
   * A sorted set of all logs of the same kind in the partition, by the time at which each becomes
   * overdue.
   */
  readonly index: string;
  /** Channel of announcements. */
  readonly channel: string;
  /** Hash with the rows of a keyed log. */
  readonly rows: string;
  /** Sorted set of these rows, by position. */
  readonly order: string;
  /** Sorted set of the deleted ones, by position. */
  readonly gone: string;
  /** Sorted set of the ones that expire, by time. */
  readonly due: string;
}

/** Names of the keys of all logs with one prefix. */
export class RedisLogNames {
  /** Indexes of the logs in all partitions, by kind of log. */
  readonly indexes: Readonly<Record<LogKind, readonly string[]>>;
  readonly #names: RedisNames;

  constructor(names: RedisNames) {
    this.#names = names;
    const indexes = (kind: LogKind) => {
      return Array.from({ length: LOG_PARTS }, (_, part) => names.ofPart(indexOf(kind), part));
    };
    this.indexes = {
      answer: indexes("answer"),
      request: indexes("request"),
      stream: indexes("stream"),
    };
  }

  /** Keys and channel of a log. */
  of(id: string): LogKeys {
    const name = (kind: string) => this.#names.ofLog(kind, id);
    return {
      state: name("log-state"),
      records: name("log-records"),
      newest: name("log-newest"),
      producers: name("log-producers"),
      forks: name("log-forks"),
      index: this.indexes[logKind(id)][this.#names.partOf(id)]!,
      channel: name(LOG_CHANNEL),
      rows: name("log-rows"),
      order: name("log-row-order"),
      gone: name("log-row-gone"),
      due: name("log-row-due"),
    };
  }
}

function indexOf(kind: LogKind): string {
  return `log-index-${kind}`;
}
