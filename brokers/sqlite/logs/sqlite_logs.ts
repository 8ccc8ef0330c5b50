/** Logs of durable streams in the file of a broker, as the broker's thread sees them. */
import type { Runtime } from "../../../base/runtime.ts";
import {
  CHANGE_WORDS,
  type LogChangeName,
  type LogChangeOptions,
  type LogChangeResult,
  type LogStore,
} from "../../../streams/logs/changes.ts";
import { requestBytes } from "../../../streams/logs/change_message.ts";
import type {
  AppendLogOptions,
  CreateLogOptions,
  LogPage,
  ReadLogOptions,
} from "../../../streams/logs/log.ts";
import { logTopic, type OwnedKind } from "../../../streams/logs/log_names.ts";
import { rowsStateOf } from "../../../streams/logs/rows.ts";
import { recordBytes, type RetainedLogs } from "../../../streams/logs/rules.ts";
import type { CallFile } from "../commit_queue.ts";

/** Time after which a read renews a log's time to live again, in milliseconds. */
const RENEW_MS = 100;

/** Collaborators and settings of {@linkcode SqliteLogs}. */
interface SqliteLogsOptions {
  readonly runtime: Runtime;
  /** Maximum size of the records of one append, in bytes. */
  readonly maxAppendBytes: number;
  /** Rejects names that the file does not support, and calls after a close. */
  readonly check: (verb: string, ...names: readonly (string | undefined)[]) => void;
  readonly call: CallFile;
  /** Notifies a topic's subscriptions of a change. */
  readonly announce: (topic: string) => void;
  /** Called after each read. */
  readonly onRead: () => void;
}

export class SqliteLogs implements LogStore {
  readonly #options: SqliteLogsOptions;

  constructor(options: SqliteLogsOptions) {
    this.#options = options;
  }

  async change<N extends LogChangeName>(
    id: string,
    name: N,
    options: LogChangeOptions<N>,
  ): Promise<LogChangeResult<N>> {
    const { runtime, check, call, announce } = this.#options;
    const { records = [], changes = [], rows, producer, fork } = options as Partial<
      AppendLogOptions & CreateLogOptions & { readonly fork: string }
    >;
    const verb = CHANGE_WORDS[name];
    check(verb, producer?.id, fork);
    const bytes = this.#checkBytes(recordBytes(records)) + requestBytes(changes) +
      (rows === undefined ? 0 : rowsStateOf(rows).bytes);
    const operation = ["changeLog", id, name, options, runtime.now()] as const;
    const { result, isAnnounced } = await call(operation, { verb, bytes });
    if (isAnnounced) announce(logTopic(id));
    return result as LogChangeResult<N>;
  }

  async read(
    id: string,
    { signal, ...options }: ReadLogOptions,
  ): Promise<LogPage | "expired" | undefined> {
    const { runtime, call, onRead } = this.#options;
    const now = runtime.now();
    const reading = await call(["readLog", id, options, now], { signal });
    onRead();
    if (typeof reading !== "object") return reading;
    const { until, ...page } = reading;
    const { ttlMs, isDeleted } = page.info;
    const isUsed = options.renews && ttlMs !== undefined && !isDeleted && until !== undefined;
    if (isUsed && until < now + ttlMs - RENEW_MS) {
      // Reading continues while the file accepts no writes; the status shows the failure.
      call(["renewLog", id, now]).catch(() => {});
    }
    return page;
  }

  async overdue({ limit }: { readonly limit: number }): Promise<string[]> {
    return await this.#options.call(["overdueLogs", limit, this.#options.runtime.now()]);
  }

  async list(
    kind: OwnedKind,
    { limit, after }: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    return await this.#options.call(["listLogs", kind, limit, after]);
  }

  #checkBytes(bytes: number): number {
    const { maxAppendBytes } = this.#options;
    if (bytes <= maxAppendBytes) return bytes;
    throw new RangeError(
      `Cannot append to a log: records must have at most ${maxAppendBytes} bytes, received ${bytes}`,
    );
  }
}
