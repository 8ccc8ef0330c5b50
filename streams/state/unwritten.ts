/** States that no one has written yet: what their readers see, and how the first write stores it. */
import { describe } from "../../base/error_text.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import { rejectionOf } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { waitFor } from "../../base/wait.ts";
import { LimitError, RequestError } from "../../errors.ts";
import type { Rows } from "../../session/rows/row_map.ts";
import { checkRow } from "../../session/wire/rows.ts";
import { type Change, encodeTransaction } from "../logs/change_message.ts";
import { type FirstRows, firstRows } from "../logs/memory_rows.ts";
import type { LogTail, RowChange } from "../logs/log.ts";
import { logKind } from "../logs/log_names.ts";
import { rowsStateOf } from "../logs/rows.ts";
import { JSON_TYPE, recordBytes } from "../logs/rules.ts";
import {
  type CreateStreamOptions,
  isId,
  outcomeText,
  type StreamAppended,
  type StreamBounds,
  type StreamCreated,
  type StreamLogs,
  type StreamPage,
} from "../logs/stream_logs.ts";
import type { ClientStreams } from "../http/client_streams.ts";
import type { ChangeGate } from "./gate.ts";
import { collectionsOf, type CompleteRows } from "./live_rows.ts";
import { encodeRow } from "../../session/rows/row_values.ts";
import { serverClosed } from "./rejections.ts";

/** Pause after which a client reads a state again whose first rows are not known, in milliseconds. */
const RETRY_MS = 2_000;

/** Maximum number of times that a write is repeated because others create and delete the state. */
const MAX_ATTEMPTS = 5;

/** Rows by collection and key, which a new state has. */
export type InitialRows = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/** Returns the rows of a state that does not exist. */
export type OnOpen = (
  opened: { readonly id: string },
) => InitialRows | undefined | Promise<InitialRows | undefined>;

/** Parts of {@linkcode UnwrittenStates}. */
export interface UnwrittenParts {
  readonly runtime: Runtime;
  readonly logs: StreamLogs;
  readonly gate: ChangeGate;
  /** Counts the streams that clients create. */
  readonly clients: ClientStreams;
  readonly bounds: Pick<StreamBounds, "maxRows" | "maxStreamBytes">;
  /** The tail of new streams. */
  readonly tail: LogTail;
  /** See `StateParts.maxTransactionBytes`. */
  readonly maxTransactionBytes: (id: string) => number;
  /** Time limit for `onOpen`, in milliseconds. */
  readonly timeoutMs: number;
  /** Returns the first rows; by default, a state has none. */
  readonly onOpen: OnOpen | undefined;
  /** Reports that `onOpen` failed. */
  readonly report: (error: unknown) => void;
}

/** An append of changes, as `StreamLogs.append` takes it. */
type AppendedChanges = Parameters<StreamLogs["append"]>[1];

/** The first rows of a new stream, and the identity with which readers have received them. */
type FirstFacts = FirstRows & Required<Pick<CreateStreamOptions, "identity">>;

/** Creates a stream with these rows. */
type Create = (first: FirstFacts) => Promise<StreamCreated>;

/**
 * The states of a server's contract that are not stored. Such a state takes memory while someone
 * reads or writes it, and nothing else: no stream, and no timer.
 */
export class UnwrittenStates {
  readonly #parts: StateParts;
  /** By id; bounded by the readers and the writes under way. */
  readonly #states = new Map<string, Unwritten>();
  readonly #closed = new AbortController();

  constructor(parts: UnwrittenParts) {
    this.#parts = {
      ...parts,
      firstRows: (transactions) => this.firstRows(transactions),
      closed: this.#closed.signal,
    };
  }

  /** Number of ids in use. */
  get size(): number {
    return this.#states.size;
  }

  /**
   * Returns why there is no stream: a text that follows the reason, and is empty unless the id could
   * only be that of a state.
   */
  hintFor(id: string): string {
    const isUnknown = this.#parts.gate.fits(id) === false;
    return isUnknown ? "; the id fits no pattern of the contract's section state" : "";
  }

  /** Applies the first transactions of a state that does not exist. */
  firstRows(transactions: readonly (readonly RowChange[])[]): ReturnType<typeof firstRows> {
    const { bounds: { maxRows: rows, maxStreamBytes: maxBytes }, runtime, tail } = this.#parts;
    const rowBounds = { rows, deletions: Infinity, deletionMs: Infinity };
    return firstRows(transactions, { maxBytes, rowBounds, tail, now: runtime.now() });
  }

  /** Returns a state that is in use. */
  get(id: string): Unwritten | undefined {
    return this.#states.get(id);
  }

  /** Rejects the calls that wait for `onOpen`. */
  close(): void {
    this.#closed.abort(
      serverClosed(),
    );
  }

  /**
   * Creates a stream, unless it exists. If its id fits a pattern of the contract, and it is no fork,
   * it starts with the first rows of the state.
   *
   * @param options Properties of the stream.
   * @param create Creates the stream with these properties, to which the first rows were added.
   * @returns The result.
   * @throws {RequestError} With the code `unavailable` if the first rows are not known.
   */
  async create<T extends CreateStreamOptions>(
    id: string,
    options: T,
    create: (options: T) => Promise<StreamCreated> = (all) => this.#parts.logs.create(id, all),
  ): Promise<StreamCreated> {
    using state = options.fork === undefined ? this.enter(id) : undefined;
    if (state === undefined) return await create(options);
    while (true) {
      // A repeated creation does not call `onOpen`.
      const present = await this.#parts.logs.existing(id, options);
      if (present !== undefined) return present;
      const created = await state.create((first) => create({ ...options, ...first }));
      if (created !== "again") return created;
    }
  }

  /**
   * Takes part in the use of a state, which may or may not exist. The caller has to dispose it.
   *
   * @returns The state; `undefined` if its id fits no pattern of the contract.
   */
  enter(id: string): Unwritten | undefined {
    const isState = isId(id) && logKind(id) === "stream" && this.#parts.gate.fits(id) === true;
    if (!isState) return undefined;
    const unwritten = this.#states.get(id) ??
      new Unwritten(id, this.#parts, () => this.#states.delete(id));
    this.#states.set(id, unwritten);
    unwritten.users++;
    return unwritten;
  }
}

/** The rows of a state that all clients of this server see until it is stored. */
export class FirstView implements CompleteRows {
  /** The page that readers receive. */
  readonly page: StreamPage;
  /** The first transaction, with the rows of `onOpen`; empty without rows. */
  readonly changes: readonly RowChange[];
  /** The rows and records that this transaction stores. */
  readonly first: FirstRows;
  #collections: ReturnType<typeof collectionsOf> | undefined;

  constructor(page: StreamPage, changes: readonly RowChange[], first: FirstRows) {
    this.page = page;
    this.changes = changes;
    this.first = first;
  }

  /** The identity that the stream gets if a write on this server is the first. */
  get identity(): string {
    return this.page.info.identity;
  }

  get version(): number {
    return this.page.next;
  }

  stored(name: string): Rows {
    this.#collections ??= collectionsOf(this.page);
    return this.#collections.get(name);
  }
}

type StateParts = UnwrittenParts & Pick<UnwrittenStates, "firstRows"> & {
  /** Aborts when the server closes. */
  readonly closed: AbortSignal;
};

/** A state of the contract, for as long as clients read or write it. */
class Unwritten implements Disposable {
  /** Number of readers and writes. */
  users = 0;
  readonly #id: string;
  readonly #parts: StateParts;
  readonly #onUnused: () => void;
  /** The first view; absent before the first use, and after someone has created the stream. */
  #view: Promise<FirstView> | undefined;
  /** The result of `#view`, once known. */
  #current: FirstView | undefined;
  /** The creation under way. */
  #creating: Promise<unknown> | undefined;

  constructor(id: string, parts: StateParts, onUnused: () => void) {
    this.#id = id;
    this.#parts = parts;
    this.#onUnused = onUnused;
  }

  /**
   * Returns what readers see. `onOpen` is called once for all callers.
   *
   * @throws {RequestError} With the code `unavailable` if `onOpen` failed, which is reported.
   */
  view(): Promise<FirstView> {
    if (this.#view !== undefined) return this.#view;
    const view = this.#view = this.#open();
    view.then((current) => this.#current = current, () => this.#retire());
    return view;
  }

  /**
   * Appends changes of a client. If the state does not exist, creates it with its first rows and the
   * changes, in one step.
   *
   * @param options The changes, and the identity that the stream must have, or will have.
   * @param by The client, which the new stream counts for, and whether this server is about to
   * create the state anyway.
   * @returns The result of the append.
   * @throws {RequestError} With the code `full` if the client or the server has too many streams, and
   * `unavailable` if the first rows are not known.
   * @throws {BrokerError} If the broker is unreachable. The changes may have taken effect.
   */
  async append(
    options: AppendedChanges,
    { account, isAwaited }: { readonly account: Account; readonly isAwaited: () => boolean },
  ): Promise<StreamAppended> {
    const { clients, logs, tail: keyed } = this.#parts;
    const id = this.#id;
    const create: Create = (first) =>
      clients.create({ id, account }, (owner) => {
        return logs.create(id, { ...first, contentType: JSON_TYPE, keyed, owner });
      });
    for (let attempt = 0; attempt < MAX_ATTEMPTS;) {
      const result = await logs.append(id, options);
      if (result.kind !== "missing" || isAwaited()) return result;
      const view = await this.view();
      if (options.identity !== undefined && options.identity !== view.identity) return result;
      if (this.#isBusy(view)) {
        await this.#created();
        continue;
      }
      const first = this.#parts.firstRows([view.changes, options.changes ?? []]);
      if ("kind" in first) return first as StreamAppended;
      const { identity, page: { info } } = view;
      // For example the deletion of a row that does not exist.
      if (first.records.length === info.tail) return { kind: "appended", info };
      const created = await this.#create({ ...first, identity }, create).catch((error) => {
        throw error instanceof LimitError ? rejectionOf(error, "full") : error;
      });
      const appended = this.#appended(created, identity);
      if (appended !== undefined) return appended;
      // Another server was first, with another identity.
      if (options.identity !== undefined) return result;
      attempt++;
    }
    const message = `Cannot write state: other programs create and delete "${id}" repeatedly`;
    throw new RequestError("unavailable", message, { retryAfterMs: RETRY_MS });
  }

  /**
   * Creates the state with its first rows only, unless it exists.
   *
   * @param create Creates the stream with these rows.
   * @returns The result; `again` if another creation was under way, which may have failed.
   * @throws {RequestError} With the code `unavailable` if the first rows are not known.
   */
  async create(create: Create): Promise<StreamCreated | "again"> {
    const view = await this.view();
    if (!this.#isBusy(view)) {
      return await this.#create({ ...view.first, identity: view.identity }, create);
    }
    await this.#created();
    return "again";
  }

  [Symbol.dispose](): void {
    if (--this.users === 0) this.#onUnused();
  }

  /** True if the view is no longer current, or may soon not be. */
  #isBusy(view: FirstView): boolean {
    return this.#creating !== undefined || this.#current !== view;
  }

  /** Waits for the creation under way, if any. */
  async #created(): Promise<void> {
    await this.#creating?.catch(() => {});
  }

  /** Creates the stream, without waiting before: only one creation is under way at a time. */
  async #create(first: FirstFacts, create: Create): Promise<StreamCreated> {
    const creating = this.#creating = create(first);
    try {
      const created = await creating;
      if (created.kind === "created" || created.kind === "exists") this.#retire();
      return created;
    } catch (error) {
      // Otherwise, the stream may exist.
      if (!(error instanceof LimitError)) this.#retire();
      throw error;
    } finally {
      this.#creating = undefined;
    }
  }

  /** The result of the first write; `undefined` if another server was first. */
  #appended(created: StreamCreated, identity: string): StreamAppended | undefined {
    switch (created.kind) {
      case "created":
      case "exists":
        return created.info.identity === identity
          ? { kind: "appended", info: created.info }
          : undefined;
      case "deleted":
      case "full":
      case "no-space":
      case "over-share":
        return created as StreamAppended;
      default:
        throw new RequestError(
          "full",
          `Cannot write state: this server has no room for "${this.#id}": ${outcomeText(created)}`,
        );
    }
  }

  /** Later readers and writers get a new view. */
  #retire(): void {
    this.#view = this.#current = undefined;
  }

  async #open(): Promise<FirstView> {
    const { closed, logs, onOpen, report, runtime, tail, timeoutMs } = this.#parts;
    const id = this.#id;
    const read = async () => {
      const changes = await encodeInitial(id, await onOpen?.({ id }), this.#parts);
      const first = this.#parts.firstRows([changes]);
      if ("kind" in first) throw new RangeError(`Cannot open state: ${outcomeText(first)}`);
      return new FirstView(pageOf(first, { tail, identity: logs.newIdentity() }), changes, first);
    };
    try {
      return await waitFor(runtime, read(), {
        what: "result from onOpen",
        timeoutMs,
        signal: closed,
      });
    } catch (cause) {
      closed.throwIfAborted();
      report(cause);
      const message = `Cannot open state "${id}": onOpen of its first rows failed or took too long`;
      throw new RequestError("unavailable", message, { retryAfterMs: RETRY_MS, cause });
    }
  }
}

/** The page of all rows of a state that does not exist. */
function pageOf(
  { records, rows }: FirstRows,
  { tail: keyed, identity }: { readonly tail: LogTail; readonly identity: string },
): StreamPage {
  const { length: tail } = records;
  return {
    kind: "page",
    info: {
      identity,
      contentType: JSON_TYPE,
      keyed,
      first: 0,
      start: 0,
      tail,
      bytes: recordBytes(records),
      rows: rowsStateOf(rows!),
    },
    records: rows!.set.map(({ text }) => text),
    positions: rows!.set.map(({ position }) => position),
    after: 0,
    next: tail,
    isUpToDate: true,
  };
}

/**
 * Checks the first rows of a state, and encodes them as one transaction.
 *
 * @param id The id of the state.
 * @param parts The contract, and the maximum size of a transaction.
 * @returns The changes; none without rows.
 * @throws {TypeError} If the rows are no objects, or not plain JSON.
 * @throws {RangeError} If there are more than 1,000 rows, or they do not fit into a message.
 * @throws {RequestError} If a row does not fit the contract.
 */
export async function encodeInitial(
  id: string,
  rows: InitialRows | undefined,
  { gate, runtime, maxTransactionBytes }: Pick<
    UnwrittenParts,
    "gate" | "maxTransactionBytes" | "runtime"
  >,
): Promise<readonly RowChange[]> {
  const changes = Object.entries(checkObject(rows ?? {})).flatMap(([type, collection]) =>
    Object.entries(checkObject(collection)).map(([key, value]): Change => {
      checkRow(type, key);
      return { type, key, operation: "upsert", value: encodeRow(value, "open state") };
    })
  );
  if (changes.length === 0) return [];
  const checked = await gate.check(id, changes);
  const options = { now: runtime.now(), maxBytes: maxTransactionBytes(id) };
  const encoded = encodeTransaction(checked, options);
  if (encoded.fault === undefined) return encoded.changes;
  throw new RangeError(`Cannot open state: ${encoded.fault}`);
}

function checkObject<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new TypeError(
    "Cannot open state: the first rows must be an object of collections, each an object of rows " +
      `by key, received ${describe(value)}`,
  );
}
