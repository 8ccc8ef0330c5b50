/** The rows of a keyed stream in memory, kept up to date for all states of a server. */
import { whileUnreachable } from "../repeat.ts";
import { keyedPage } from "../streams.ts";
import { readRowName, type RowMessage, rowName } from "../../session/wire/rows.ts";
import type { LogInfo, LogPage } from "../logs/log.ts";
import type { StreamLogs, StreamPage } from "../logs/stream_logs.ts";
import { BrokerError, RequestError } from "../../errors.ts";
import { damaged } from "../logs/sound_logs.ts";
import type { Runtime } from "../../base/runtime.ts";
import { Signal } from "../../base/signal.ts";
import { pause } from "../../base/wait.ts";
import {
  Collections,
  difference,
  type LiveRow,
  type RowChanges,
  type Rows,
} from "../../session/rows/row_map.ts";
import type { RowSource } from "../../session/state_changes.ts";
import { freezeRow, isSameRow } from "../../session/rows/row_values.ts";
import type { EphemeralRows } from "./ephemeral_rows.ts";
import { serverClosed } from "./rejections.ts";

/** The rows of a state that a change is decided about. */
export interface PresentRows extends Pick<LiveRows, "identity" | "version"> {
  /**
   * The rows by name, `undefined` for a row that does not exist: all that were asked for, or the
   * first of them, of which there is at least one.
   */
  readonly rows: ReadonlyMap<string, LiveRow | undefined>;
}

/** The rows of a state, or of a page with all of them. */
export type CompleteRows = Pick<LiveRows, "identity" | "stored" | "version">;

/** Picks rows by name. */
export function pickRows(all: CompleteRows, names: readonly string[]): PresentRows {
  const rows = names.map((name) => {
    const [type, key] = readRowName(name);
    return [name, all.stored(type).get(key)] as const;
  });
  return { identity: all.identity, version: all.version, rows: new Map(rows) };
}

/** The rows of a page that was read by names. */
export function namedRows(
  { info: { identity, tail }, records, positions = [], next = 0 }: LogPage,
  names: readonly string[],
): PresentRows {
  const rows = new Map<string, LiveRow | undefined>();
  for (const name of names.slice(0, next)) rows.set(name, undefined);
  for (const [i, record] of records.entries()) {
    const { type, key, value }: RowMessage = JSON.parse(record as string);
    rows.set(rowName(type, key), { value: freezeRow(value), version: positions[i]! + 1 });
  }
  return { identity, version: tail, rows };
}

/**
 * The rows of one keyed stream.
 *
 * If the stream has forgotten deletions that these rows may lack, the rows are read anew and
 * replaced in one step. Listeners then receive the rows that differ. Changes that were missed arrive
 * in parts, which may divide a transaction; they take effect in one step, too.
 */
export class LiveRows extends Signal implements RowSource {
  readonly id: string;
  /** Number of states that use the rows. */
  users = 0;
  /** The open handles for which a lost state is created anew. */
  readonly openers: Set<StateOpener> = new Set();
  /** The stream from which the rows were read. */
  #info: LogInfo | undefined;
  /** Position up to which the rows are complete. */
  version = 0;
  /** True if the rows end with their stream, even if the broker has only lost it. */
  readonly #isFixed: boolean;
  /** Called with the changes of each page. Bounded by the states' loops. */
  readonly listeners: Set<(changes: RowChanges) => void> = new Set();
  /** Resolves once the rows are complete. */
  readonly ready: Promise<void>;
  /** The rows that are not stored; absent if the state has no ephemeral collections. */
  readonly ephemeral: EphemeralRows | undefined;
  /** Reason why the rows are no longer kept up to date. */
  failure: unknown;
  /** Called when there is such a reason. Bounded by the states' handles. */
  readonly ends: Set<() => void> = new Set();
  readonly #runtime: Runtime;
  readonly #logs: StreamLogs;
  readonly #bounds: ReturnType<typeof keyedPage>;
  readonly #stop = new AbortController();
  readonly #isReady = Promise.withResolvers<void>();
  #collections = new Collections();
  readonly #onEphemeral = (changes: RowChanges) => this.#tell(changes);
  /** True once a loss was reported, until the rows are complete again. */
  #isLost = false;
  readonly #report: (error: RequestError) => void;
  /** True while the rows need only later changes. */
  #isCurrent = false;

  /**
   * Starts to read.
   *
   * @param id The id of the stream, which has to exist.
   * @param parts Clocks and streams of the node, the maximum size of a transaction, the state's
   * ephemeral rows, and a function that receives a loss of rows.
   */
  constructor(
    id: string,
    { runtime, logs, maxTransactionBytes, ephemeral, report, isFixed }: {
      readonly runtime: Runtime;
      readonly logs: StreamLogs;
      readonly maxTransactionBytes: (id: string) => number;
      readonly ephemeral: EphemeralRows | undefined;
      readonly report: (error: RequestError) => void;
      readonly isFixed: boolean;
    },
  ) {
    super();
    this.id = id;
    this.#runtime = runtime;
    this.#logs = logs;
    this.#report = report;
    this.#isFixed = isFixed;
    // The same bounds as for sessions, which then share the reads of new changes.
    this.#bounds = keyedPage(maxTransactionBytes(id));
    this.ephemeral = ephemeral;
    ephemeral?.listeners.add(this.#onEphemeral);
    this.ready = this.#isReady.promise;
    this.ready.catch(() => {});
    void this.#run();
  }

  collection(name: string): Rows {
    if (this.ephemeral?.names.has(name)) return this.ephemeral.collection(name);
    return this.stored(name);
  }

  /** Returns the rows of a collection in the stream, even if it is ephemeral by now. */
  stored(name: string): Rows {
    return this.#collections.get(name);
  }

  /** Names of all collections that have rows. */
  names(): ReadonlySet<string> {
    return new Set([...this.#collections.names, ...this.ephemeral?.names ?? []]);
  }

  /** True once all rows have been read. */
  get isComplete(): boolean {
    return this.#info !== undefined;
  }

  /** Identity of the stream from which the rows were read. */
  get identity(): string | undefined {
    return this.#info?.identity;
  }

  /** Size of the rows as the broker counted them when they were read, in bytes. */
  get bytes(): number {
    return this.#info?.rows?.bytes ?? 0;
  }

  /**
   * Waits until the rows are those of another stream, because a writer has found this one missing.
   *
   * @param identity Identity of the missing stream.
   * @throws The reason why the rows are no longer kept up to date.
   */
  async replaced(identity: string | undefined): Promise<void> {
    this.#logs.recheck(this.id);
    while (this.identity === identity) {
      if (this.failure !== undefined) throw this.failure;
      await this.changed();
    }
  }

  /**
   * Waits until the rows include a version, or belong to another stream.
   *
   * @param identity Identity of the stream that has the version.
   * @throws The reason why the rows are no longer kept up to date.
   */
  async reached(version: number, identity: string | undefined): Promise<void> {
    while (this.version < version && this.identity === identity) {
      if (this.failure !== undefined) throw this.failure;
      await this.changed();
    }
  }

  close(reason: unknown = serverClosed()): void {
    this.failure ??= reason;
    this.ephemeral?.listeners.delete(this.#onEphemeral);
    this.#stop.abort();
    this.#isReady.reject(reason);
    for (const end of this.ends) end();
    this.ends.clear();
    this.notify();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    try {
      while (!signal.aborted) {
        await whileUnreachable(() => this.#follow(), {
          runtime: this.#runtime,
          signal,
          isOver: () => signal.aborted || this.#logs.isClosed,
        });
      }
    } catch (error) {
      // A row that is no JSON.
      this.close(error instanceof SyntaxError ? damaged(this.id, error) : error);
    }
  }

  /**
   * Reads until the rows have to be read anew.
   *
   * @throws {RequestError} If there is no such stream any more, or if it was closed.
   * @throws {BrokerError} If the broker is unreachable, or too many readers wait.
   */
  async #follow(): Promise<void> {
    const { signal } = this.#stop;
    const isAnew = !this.#isCurrent;
    let identity = isAnew ? undefined : this.identity;
    /** Rows that replace the present ones once they are complete. */
    let next = isAnew ? new Collections() : undefined;
    const after = isAnew ? 0 : this.version;
    const part = { ...this.#bounds, after, identity, signal };
    for await (const page of this.#logs.follow(this.id, part)) {
      // A stream of another identity may have lost records, or may be a new one.
      const isOther = page.kind === "missing" && identity !== undefined;
      if (page.kind === "trimmed" || isOther) {
        this.#isCurrent = false;
        return;
      }
      if (page.kind === "too-many") {
        throw new BrokerError("Cannot read state: too many readers wait", {
          cause: page.rejection,
        });
      }
      if (page.kind !== "page") {
        await this.#appear(page.kind);
        return;
      }
      if (isAnew && identity === undefined) await this.#compare(page.info);
      identity = page.info.identity;
      if (next === undefined && page.isUpToDate) {
        this.#tell(apply(page, this.#collections), page.next);
        continue;
      }
      next ??= this.#collections.copy();
      apply(page, next, this.#collections);
      if (!page.isUpToDate) continue;
      const before = this.#collections;
      this.#info = page.info;
      this.#isCurrent = true;
      this.#isLost = false;
      this.#collections = next;
      next = undefined;
      this.#tell(
        this.listeners.size > 0 ? difference(before, this.#collections) : NO_CHANGES,
        page.next,
      );
      this.#isReady.resolve();
    }
    if (signal.aborted) return;
    if (!this.#logs.isClosed) {
      throw new RequestError("ended", `The stream of the state "${this.id}" was closed`);
    }
    this.close();
  }

  /**
   * Creates a state anew that the broker has lost.
   *
   * @throws {RequestError} With the code `gone` if the state was deleted or has expired, and `lost`
   * if no open handle wants it to be created, or the error of the creation unless it may succeed later.
   */
  async #appear(kind: string): Promise<void> {
    const isLost = kind === "missing" && this.#info !== undefined &&
      await this.#logs.wasLost(this.id, this.#info);
    if (!isLost) throw new RequestError("gone", `The state "${this.id}" was deleted`);
    this.#lose();
    const [opener] = this.openers;
    if (opener === undefined) throw lost(this.id);
    try {
      await opener.create();
    } catch (error) {
      // For example, `onOpen` failed.
      const { retryAfterMs } = error instanceof RequestError ? error.failure : {};
      if (retryAfterMs === undefined) throw error;
      await pause(this.#runtime, retryAfterMs, this.#stop.signal);
    }
  }

  /** Finds out whether rows were lost, if they are now read from another stream. */
  async #compare(info: LogInfo): Promise<void> {
    if (this.#info === undefined || this.#info.identity === info.identity) return;
    if (!await this.#logs.wasLost(this.id, this.#info)) return;
    this.#lose();
    if (this.#isFixed) throw lost(this.id);
  }

  #lose(): void {
    if (!this.#isLost) this.#report(lost(this.id));
    this.#isLost = true;
  }

  #tell(changes: RowChanges, version: number = this.version): void {
    this.version = version;
    if (changes.size > 0) { for (const listen of this.listeners) listen(changes); }
    this.notify();
  }
}

/** An open handle, which creates its state anew if the broker has lost it. */
export interface StateOpener {
  /** Creates the stream, unless it exists. */
  create(): Promise<unknown>;
}

/** The error for a state that the broker has lost. */
function lost(id: string): RequestError {
  return new RequestError(
    "lost",
    `The broker has lost the state "${id}", or its newest rows. No one has deleted it`,
  );
}

const NO_CHANGES: RowChanges = new Map();

/** The collections of a page with all rows. */
export function collectionsOf(page: StreamPage): Collections {
  const collections = new Collections();
  apply(page, collections);
  return collections;
}

/**
 * Applies the changes of a page.
 *
 * @param collections The rows to change.
 * @param shown Rows whose values stay the same objects if they have not changed.
 */
function apply(
  { records, positions = [] }: StreamPage,
  collections: Collections,
  shown?: Collections,
): RowChanges {
  const changes = new Map<string, Map<string, unknown>>();
  for (const [i, record] of records.entries()) {
    const { type, key, value, headers }: RowMessage = JSON.parse(record as string);
    const of = changes.get(type) ?? new Map<string, unknown>();
    changes.set(type, of);
    if (!of.has(key)) of.set(key, collections.get(type).get(key)?.value);
    if (headers.operation === "delete") {
      collections.delete(type, key);
      continue;
    }
    const known = shown?.get(type).get(key)?.value;
    const isSame = known !== undefined && isSameRow(known, value);
    const version = positions[i]! + 1;
    collections.set(type, { key, value: isSame ? known : freezeRow(value), version });
  }
  return changes;
}

/** The value of a row in a conflict; `undefined` if the row does not exist. */
export function rowIn(text: string | undefined, version: number): LiveRow | undefined {
  return text === undefined ? undefined : { value: freezeRow(JSON.parse(text).value), version };
}

/** Describes a row for an error. */
export function describeRow(row: string): string {
  const [type, key] = readRowName(row);
  return `"${key}" of "${type}"`;
}
