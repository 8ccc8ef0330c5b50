/** The live state of a server: collections of rows that all servers of a broker share. */
import { checkOptions, COUNT, TTL } from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import type { Runtime } from "../../base/runtime.ts";
import { untilAborted, within } from "../../base/wait.ts";
import { RequestError, TimeoutError } from "../../errors.ts";
import type {
  Contract,
  IsUntyped,
  SectionOf,
  StateInput,
  StateRow,
  StateRows,
} from "../../session/contract.ts";
import type { LiveRow } from "../../session/rows/row_map.ts";
import { RowReader } from "../../session/rows/row_reader.ts";
import { newestChanges } from "../../session/state_changes.ts";
import { ephemeralRead, runTransaction } from "../../session/mutations/transaction.ts";
import type {
  StateChange,
  StateTransaction,
  StateWriteOptions,
  TypedStateMethods,
} from "../../session/state_types.ts";
import { callUpdate, checkUpdated, encodeRow } from "../../session/rows/row_values.ts";
import { type Change, encodeTransaction } from "../logs/change_message.ts";
import {
  checkCollectionName,
  checkRow,
  countFault,
  NO_EXPECT,
  NO_TTL,
  noRow,
  readRowName,
  rowName,
  unexpected,
} from "../../session/wire/rows.ts";
import type { LogOverShare } from "../logs/log.ts";
import { overShareReason } from "../logs/log_shares.ts";
import { NO_SPACE, type StreamAppended, type StreamLogs } from "../logs/stream_logs.ts";
import { type ChangeGate, ephemeralRejection, otherVersion } from "./gate.ts";
import { type LiveRows, rowIn } from "./live_rows.ts";
import { forNow } from "./rejections.ts";
import { contendedState, presentRow, type RowQueue, type Turn } from "./row_queue.ts";
import { checkUnread, transact } from "./transact.ts";
import { appendUnchanged, type ChangedCollection, type Scans } from "./unchanged.ts";

const EXPECT: OptionKinds<Pick<StateWriteOptions, "expect">> = { expect: COUNT };
const ROW: OptionKinds<Pick<StateWriteOptions, "ttlMs">> = { ttlMs: TTL };
const SIGNAL: OptionKinds<Pick<StateWriteOptions, "signal">> = { signal: "AbortSignal" };
const INSERT: OptionKinds<Omit<StateWriteOptions, "expect">> = { ...ROW, ...SIGNAL };
const WRITE: OptionKinds<StateWriteOptions> = { ...EXPECT, ...INSERT };
const checkRowOptions = (options: object) => checkOptions("write row", options, ROW);

/** Parts that states share. */
export interface StateParts {
  readonly runtime: Runtime;
  readonly logs: Pick<StreamLogs, "append" | "read">;
  /** Checks the changes by the contract. */
  readonly gate: ChangeGate;
  /** The calls of `update`, which run one after another for each row. */
  readonly updates: RowQueue;
  /** Maximum size of a transaction in bytes, so that sessions can read it. */
  readonly maxTransactionBytes: (id: string) => number;
}

/**
 * One state: collections of rows in a keyed stream. All servers of a broker that open it have the
 * same rows, and readers over sessions and HTTP receive their changes.
 *
 * - **Reads are local:** the rows of this server may be behind the broker by the time that a change
 *   travels. Once a write has resolved, its own server shows it.
 * - **The last write wins,** row by row, in the order of the broker. `update` repeats its function
 *   if another writer was first. On one server, updates of a row wait for each other.
 * - **A transaction** changes several rows at once. Either all of its changes take effect, or none.
 * - **Ephemeral rows** of the contract are not stored. The rows that this handle wrote are removed
 *   when it is closed.
 *
 * @example A board that two handles share
 * ```ts
 * import { serve } from "@skein/skein";
 * import { liveState } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const states = liveState();
 * await using server = serve({ port: 0, onListen() {}, features: [states] });
 * await using board = await states.open("board:1");
 * const cards = board.collection<{ title: string; done: boolean }>("cards");
 * await cards.set("1", { title: "Write", done: false });
 * await cards.update("1", (card) => ({ ...card, done: true }));
 * assertEquals([...cards], [["1", { title: "Write", done: true }]]);
 * ```
 */
export class State implements AsyncDisposable {
  /** The id, which is also the id of the durable stream. */
  readonly id: string;
  readonly #rows: LiveRows;
  readonly #parts: StateParts;
  readonly #onClose: () => void;
  readonly #closed = new AbortController();
  /** Aborts with the reason why no more writes are made: this handle or its rows have ended. */
  readonly #ended = new AbortController();
  readonly #onEnd = () => this.#ended.abort(this.#rows.failure);

  /** @ignore */
  constructor(rows: LiveRows, parts: StateParts, onClose: () => void) {
    this.id = rows.id;
    this.#rows = rows;
    this.#parts = parts;
    this.#onClose = onClose;
    if (rows.failure === undefined) rows.ends.add(this.#onEnd);
    else this.#onEnd();
  }

  /** Number of transactions up to which the rows are complete. */
  get version(): number {
    return this.#rows.version;
  }

  /**
   * Returns a collection. A collection exists as long as it has rows.
   *
   * @typeParam T Type of a row.
   * @param name The name, of at most 1,024 bytes.
   * @returns The collection's rows, and calls that write them.
   * @throws {TypeError} If the name is not a text.
   * @throws {RangeError} If the name is empty, too long, or starts with `$skein`.
   */
  collection<T = unknown>(name: string): StateCollection<T> {
    checkCollectionName("open collection", "name", name);
    const { signal: ended } = this.#ended;
    const isEphemeral = this.#rows.ephemeral?.names.has(name);
    const write: WriteRows = (changes, options) =>
      isEphemeral ? this.#writeEphemeral(changes[0]!, options) : this.#write(changes, options);
    const enter: EnterRow = (row, signal) =>
      this.#parts.updates.enter(this.id, [row], { signals: () => [signal, ended] });
    const closed = this.#closed.signal;
    return new StateCollection<T>(name, { rows: this.#rows, closed, ended, write, enter });
  }

  /**
   * Yields each collection that has rows, by name, with its rows as they are now. A collection that
   * the contract no longer defines is included.
   */
  *collections(): IterableIterator<readonly [name: string, rows: ReadonlyMap<string, unknown>]> {
    for (const name of this.#rows.names()) {
      const rows = this.#rows.collection(name);
      if (rows.size > 0) yield [name, rows.view];
    }
  }

  /**
   * Changes several rows at once. A deletion needs no schema: it may be of a row whose collection
   * the contract no longer defines.
   *
   * - **Reads:** if the function reads rows, its changes take effect only if these rows, and the
   *   collections that it has iterated, are still the same. Otherwise, it is called again, after
   *   pauses that grow, for `session.requestTimeoutMs`.
   * - **In turn:** on one server, such transactions of the same rows run one after another.
   *
   * @param change Reads and changes rows. It may be asynchronous and should have no other effects.
   * @param options A signal; see {@linkcode StateWriteOptions}.
   * @returns The version of the changed rows, once this server's rows include them.
   * @throws {TypeError} If a value is not plain JSON, such as a `Date`; the message has its place. Or
   * if this is called in the function of a transaction that has read one of the rows: only that
   * transaction may change it.
   * @throws {RangeError} If there are more than 1,000 changes.
   * @throws {RequestError} With the code `too-large` if the changes do not fit into a message, `full`
   * if the state or the broker has no room, `gone` if the state was deleted, `damaged` if the broker
   * has evicted a part of it, `ended` if its stream was closed, `unknown-collection` or `invalid` if
   * a change does not fit the contract, and `unavailable` with `retryAfterMs` if others were first all
   * the time, or the broker has lost the state and can't be read again within
   * `session.requestTimeoutMs`. In these cases, nothing was changed.
   * @throws {BrokerError} If the broker is unreachable. The changes may have taken effect.
   * @throws The signal's reason.
   */
  async transaction(
    change: (transaction: StateTransaction) => void | Promise<void>,
    options: Pick<StateWriteOptions, "signal"> = {},
  ): Promise<number> {
    checkOptions("write state", options, SIGNAL);
    const { signal } = options;
    signal?.throwIfAborted();
    return await untilAborted(this.#transact(change, options), signal);
  }

  /**
   * Yields each row that changes after the first call of `next`, in no particular order. If a row
   * changes several times while the loop is busy, only its newest value is yielded, so a slow loop
   * uses bounded memory.
   *
   * @typeParam T Type of the rows.
   * @param options Signal that ends the loop with its reason.
   * @returns The changes, until the state is closed.
   * @throws {RequestError} With the code `gone` if the state was deleted.
   */
  async *changes<T = unknown>(
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<StateChange<T>, void, undefined> {
    checkOptions("read changes", options, { signal: "AbortSignal" });
    const { runtime } = this.#parts;
    yield* newestChanges<T>(this.#rows, { ...options, closed: this.#closed.signal, runtime });
  }

  /**
   * Ends the loops of this handle, and rejects the calls that wait for a function or a schema of the
   * application. The rows stay in the broker. Called by `await using`.
   */
  [Symbol.asyncDispose](): Promise<void> {
    if (!this.#closed.signal.aborted) {
      this.#closed.abort();
      this.#ended.abort(closed(this.id));
      this.#rows.ends.delete(this.#onEnd);
      this.#rows.ephemeral?.leave(this);
      this.#onClose();
    }
    return Promise.resolve();
  }

  /** Writes an ephemeral row, which belongs to this handle. */
  async #writeEphemeral(
    change: Change,
    { signal }: Pick<StateWriteOptions, "signal">,
  ): Promise<number> {
    signal?.throwIfAborted();
    this.#checkOpen();
    if (change.ttlMs !== undefined) throw new TypeError(NO_TTL);
    const { type, key, operation, expect } = change;
    const rows = this.#rows.ephemeral!;
    const checkPresent = () => {
      const present = rows.collection(type).get(key);
      const isExpected = expect === undefined || expect === present?.version;
      if (!isExpected) throw new Conflict(rowName(type, key), present);
    };
    checkPresent();
    if (operation === "delete") {
      // It was stored before the collection became ephemeral.
      if (this.#rows.stored(type).has(key)) await this.#write([change], { signal });
      return await untilAborted(rows.remove(type, key), signal);
    }
    const fitting = this.#parts.gate.fit(this.id, change);
    const fitted = fitting instanceof Promise ? await this.#whileOpen(fitting) : fitting;
    signal?.throwIfAborted();
    this.#checkOpen();
    checkPresent();
    return rows.write(this, fitted);
  }

  #checkOpen(): void {
    this.#ended.signal.throwIfAborted();
    if (this.#rows.failure !== undefined) throw this.#rows.failure;
  }

  /** Waits for the application until this handle or its rows end. */
  async #whileOpen<T>(promise: Promise<T>): Promise<T> {
    return await untilAborted(promise, this.#ended.signal);
  }

  async #write(changes: readonly Change[], options: RowWriteOptions): Promise<number> {
    const { signal } = options;
    signal?.throwIfAborted();
    return await untilAborted(this.#append(changes, options), signal);
  }

  async #append(
    changes: readonly Change[],
    { signal, turn }: RowWriteOptions,
  ): Promise<number> {
    if (changes.length === 0) return this.version;
    const { identity, result, checked } = await this.#store(changes, {
      signal,
      untilMs: turn?.untilMs,
    });
    switch (result.kind) {
      case "appended": {
        const version = result.info.tail;
        if (turn !== undefined) {
          turn.hand(turn.rows[0]!, { identity, version, value: checked[0]!.value });
          turn[Symbol.dispose]();
        }
        await this.#rows.reached(version, identity);
        return version;
      }
      case "conflict":
        throw new Conflict(result.row, rowIn(result.text, result.version));
      case "changed":
        throw contendedState(this.id);
      default:
        throw writeRejection(this.id, result);
    }
  }

  /** Checks changes, and appends them to the stream. */
  async #store(
    changes: readonly Change[],
    { signal, scans, seen, untilMs = this.#untilMs() }: Pick<RowWriteOptions, "signal"> & {
      readonly scans?: Scans;
      /** End of the attempts on the monotonic clock. */
      readonly untilMs?: number | undefined;
      /** Identity of the stream whose rows a transaction has read. */
      readonly seen?: string | undefined;
    },
  ): Promise<{
    readonly identity: string | undefined;
    readonly result: StreamAppended | ChangedCollection;
    /** The changes as the schemas returned them. */
    readonly checked: readonly Change[];
  }> {
    const { id } = this;
    const { runtime, logs, gate, maxTransactionBytes } = this.#parts;
    this.#ended.signal.throwIfAborted();
    checkUnread(this.#rows.identity, changes);
    // Otherwise, the deletion of an ephemeral row would seem to succeed.
    const { ephemeral } = this.#rows;
    const unstored = changes.find(({ type, key }) =>
      ephemeral?.names.has(type) && !this.#rows.stored(type).has(key)
    );
    if (unstored !== undefined) throw ephemeralRejection(unstored.type);
    const now = runtime.now();
    const checking = gate.check(id, changes);
    // Without an asynchronous schema, writes stay in the order of their calls.
    const checked = checking instanceof Promise ? await this.#whileOpen(checking) : checking;
    signal?.throwIfAborted();
    const count = countFault(checked.length);
    if (count !== undefined) throw new RangeError(`Cannot write state: ${count}`);
    const encoded = encodeTransaction(checked, { now, maxBytes: maxTransactionBytes(id) });
    if (encoded.fault !== undefined) {
      throw new RequestError("too-large", `Cannot write state: ${encoded.fault}`);
    }
    const append = async () => {
      // Rows of another stream with the same id are not these rows.
      const { identity, failure } = this.#rows;
      if (failure !== undefined) throw failure;
      if (seen !== undefined && seen !== identity) {
        return { identity, result: changedBy(checked), checked };
      }
      const appendAt = (ifTail?: number) =>
        logs.append(id, { identity, records: [], changes: encoded.changes, ifTail });
      const result = scans === undefined || scans.size === 0
        ? await appendAt()
        : await appendUnchanged(id, scans, {
          append: appendAt,
          identity,
          logs,
          runtime,
          untilMs,
        });
      return { identity, result, checked };
    };
    while (true) {
      const appended = await append();
      if (appended.result.kind !== "missing") return appended;
      // If the broker has lost the state, the rows create it anew.
      await this.#replaced(appended.identity, untilMs);
      // A version of the lost rows means nothing for the new ones.
      if (seen !== undefined) return { ...appended, result: changedBy(checked) };
      const versioned = checked.find(({ expect = 0 }) => expect > 0);
      if (versioned === undefined) continue;
      const { type, key } = versioned;
      const present = this.#rows.stored(type).get(key);
      const text = present && JSON.stringify({ value: present.value });
      const { version = 0 } = present ?? {};
      const of = { row: rowName(type, key), version, text, since: this.version };
      return { ...appended, result: { kind: "conflict", ...of } };
    }
  }

  async #transact(
    change: (transaction: StateTransaction) => void | Promise<void>,
    { signal }: Pick<StateWriteOptions, "signal">,
  ): Promise<number> {
    const { updates } = this.#parts;
    const rows = this.#rows;
    const untilMs = this.#untilMs();
    const checkStored = (type: string) => {
      if (rows.ephemeral?.names.has(type)) throw ephemeralRead(type);
    };
    const made = await transact({
      rows: {
        row: (type, key) => {
          checkStored(type);
          const { identity, version } = rows;
          return { identity, version, row: rows.stored(type).get(key) };
        },
        all: (type) => {
          checkStored(type);
          return rows;
        },
        reach: async (version, identity) => {
          if (rows.version < version) await this.#whileOpen(rows.reached(version, identity));
        },
      },
      run: (seen) => {
        signal?.throwIfAborted();
        this.#ended.signal.throwIfAborted();
        const running = runTransaction(seen, change, checkRowOptions);
        return running instanceof Promise ? this.#whileOpen(running) : running;
      },
      enter: (names) =>
        updates.enter(this.id, names, { signals: () => [signal, this.#ended.signal] }),
      append: ({ changes, scans, identity: seen }) =>
        this.#store(changes, { signal, scans, seen, untilMs }),
    });
    if (made.kind === "unchanged" || made.kind === "made") return this.version;
    if (made.kind !== "appended") throw writeRejection(this.id, made);
    const { tail, identity } = made.info;
    await rows.reached(tail, identity);
    return tail;
  }

  /** End of a write that starts now, on the monotonic clock. */
  #untilMs(): number {
    const { runtime, updates } = this.#parts;
    return runtime.monotonic() + updates.parts.timeoutMs;
  }

  /** Waits until the rows are those of another stream. */
  async #replaced(identity: string | undefined, untilMs: number): Promise<void> {
    const { runtime } = this.#parts;
    const timeoutMs = Math.max(0, untilMs - runtime.monotonic());
    try {
      await within(runtime, this.#rows.replaced(identity), { timeoutMs });
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
      throw forNow(`the broker no longer has "${this.id}", and its rows are not read anew yet`);
    }
  }
}

function closed(id: string): RequestError {
  return new RequestError("unavailable", `Cannot write state: "${id}" was closed`);
}

/** The result for a transaction whose rows were read from another stream with the same id. */
function changedBy([change]: readonly Change[]): ChangedCollection {
  return { kind: "changed", type: change!.type, version: 0 };
}

/** The result of a write that did not take effect, for another reason than a conflict. */
export type WriteRejected = Exclude<StreamAppended, { readonly kind: "appended" | "conflict" }>;

/** The error for such a result. */
export function writeRejection(
  id: string,
  result: { readonly kind: WriteRejected["kind"] },
): RequestError {
  switch (result.kind) {
    case "full":
    case "too-many-rows":
      return new RequestError("full", `Cannot write state: "${id}" has no room for more rows`);
    case "no-space":
      return new RequestError("full", `Cannot write state: ${NO_SPACE}`);
    case "over-share":
      return new RequestError("full", overShareReason("write state", result as LogOverShare));
    case "ended":
      return new RequestError("ended", `Cannot write state: the stream "${id}" was closed`);
    case "other-form":
      return otherVersion(id);
    case "other-kind":
      return new RequestError("wrong-type", `Cannot write state: the stream "${id}" is not keyed`);
    case "deleted":
      return new RequestError("gone", `Cannot write state: "${id}" was deleted`);
    default:
      return new RequestError("not-found", `Cannot write state: there is no state "${id}"`);
  }
}

/**
 * Returns the error for a write of a session to a missing state. A client that reads the state keeps
 * the write until it knows, which no code of the application's own makes it do.
 */
export function missingState(id: string): RequestError {
  const { message } = writeRejection(id, { kind: "missing" });
  return new RequestError("not-found", message, { retryAfterMs: 0 });
}

/**
 * A state whose collections a contract defines. It is a {@linkcode State}; only the types differ:
 * the names of the collections, and the types of their rows.
 *
 * @example A board with a contract
 * ```ts
 * import { defineContract, RequestError, serve, type StateRows } from "@skein/skein";
 * import { liveState, type TypedState } from "@skein/skein/streams";
 * import { assertEquals, assertRejects } from "@std/assert";
 * import { z } from "zod";
 *
 * const card = z.object({ title: z.string().min(1), votes: z.number().default(0) });
 * const contract = defineContract({ state: { "board:{id}": { cards: card } } });
 * const states = liveState(contract);
 * await using server = serve({ port: 0, onListen() {}, contract, features: [states] });
 * await using board: TypedState<StateRows<typeof contract, "board:1">> = await states.open("board:1");
 * const cards = board.collection("cards");
 * await cards.set("1", { title: "Write" });
 * assertEquals(cards.get("1")?.votes, 0);
 * await assertRejects(() => cards.set("2", { title: "" }), RequestError, "must fit the contract");
 * ```
 *
 * @typeParam R The collections, as in {@linkcode StateRows}.
 */
export interface TypedState<R>
  extends Omit<State, "collection" | keyof TypedStateMethods<R>>, TypedStateMethods<R> {
  /**
   * Returns a collection.
   *
   * @typeParam N The name.
   * @param name The name of a collection of the contract.
   * @returns The collection's rows, and calls that write them, with the types of the contract.
   */
  collection<N extends keyof R & string>(
    name: N,
  ): StateCollection<StateRow<R, N>, StateInput<R, N>>;
}

/**
 * The type of a state: {@linkcode TypedState} if the contract has states, or {@linkcode State}.
 *
 * @typeParam C The contract.
 * @typeParam Id The id.
 */
export type StateOf<C extends Contract, Id extends string> = IsUntyped<C> extends true ? State
  : [keyof SectionOf<C, "state">] extends [never] ? State
  : TypedState<StateRows<C, Id>>;

/** The rejection of an `update`. If the row exists, the update is repeated. */
class Conflict extends RequestError {
  readonly present: LiveRow | undefined;

  constructor(row: string, present: LiveRow | undefined) {
    const [type, key] = readRowName(row);
    super("conflict", noRow({ type, key }).message);
    this.present = present;
  }
}

interface RowWriteOptions extends Pick<StateWriteOptions, "signal"> {
  /** The turn of an `update`, which ends once the broker has stored the row. */
  readonly turn?: Turn | undefined;
}

/** Appends changes, unless the signal aborts first. */
type WriteRows = (changes: readonly Change[], options: RowWriteOptions) => Promise<number>;

/** Waits for the turn of an `update`. */
type EnterRow = (row: string, signal: AbortSignal | undefined) => Turn | Promise<Turn>;

/**
 * The rows of one type on a server. See {@linkcode RowReader} for reading them.
 *
 * @typeParam T Type of a row.
 * @typeParam Input Type of a row that is written, to which the contract's schema applies.
 */
export class StateCollection<T = unknown, Input = T> extends RowReader<T> {
  readonly #rows: LiveRows;
  readonly #ended: AbortSignal;
  readonly #write: WriteRows;
  readonly #enter: EnterRow;

  /** @ignore */
  constructor(
    name: string,
    { rows, closed, ended, write, enter }: {
      readonly rows: LiveRows;
      readonly closed: AbortSignal;
      readonly ended: AbortSignal;
      readonly write: WriteRows;
      readonly enter: EnterRow;
    },
  ) {
    super(name, { rows, closed });
    this.#rows = rows;
    this.#ended = ended;
    this.#write = write;
    this.#enter = enter;
  }

  /**
   * Returns the version of a row, for the option `expect`.
   *
   * @param key The key of a row.
   * @returns The version; 0 if there is no such row.
   */
  versionOf(key: string): number {
    return this.#rows.collection(this.name).get(key)?.version ?? 0;
  }

  /**
   * Writes a row, whether or not it exists.
   *
   * @param key The key, of at most 1,024 bytes.
   * @param value Plain JSON: texts, finite numbers, booleans, `null`, arrays and objects without a
   * prototype of their own. The row is a copy, in which keys with the value `undefined` are absent.
   * @param options See {@linkcode StateWriteOptions}.
   * @returns The version of the row, once this server's rows include it.
   * @throws {RequestError} With the code `conflict` if the row does not have the expected version,
   * and the errors of {@linkcode State.transaction}.
   */
  async set(key: string, value: Input, options: StateWriteOptions = {}): Promise<number> {
    checkOptions("write state", options, WRITE);
    const { expect } = options;
    return await this.#writeOne(
      { ...setting({ type: this.name, key }, value, options), expect },
      options,
    );
  }

  /**
   * Writes a row that must not exist yet.
   *
   * @param key The key, of at most 1,024 bytes.
   * @param value Plain JSON, as for `set`.
   * @param options See {@linkcode StateWriteOptions}.
   * @returns The version of the row, once this server's rows include it.
   * @throws {RequestError} With the code `conflict` if the row exists, and the errors of
   * {@linkcode State.transaction}.
   */
  async insert(
    key: string,
    value: Input,
    options: Omit<StateWriteOptions, "expect"> = {},
  ): Promise<number> {
    checkOptions("write state", options, INSERT);
    const row = setting({ type: this.name, key }, value, options);
    return await this.#writeOne({ ...row, operation: "insert", expect: 0 }, options);
  }

  /**
   * Deletes a row, if it exists.
   *
   * @param key The key of the row to delete.
   * @param options A signal, and the expected version; see {@linkcode StateWriteOptions}.
   * @returns The version of the state, once this server's rows lack the row.
   * @throws {RequestError} With the code `conflict` if the row does not have the expected version,
   * and the errors of {@linkcode State.transaction}.
   */
  async delete(
    key: string,
    options: Pick<StateWriteOptions, "expect" | "signal"> = {},
  ): Promise<number> {
    checkOptions("write state", options, { ...EXPECT, ...SIGNAL });
    const { expect } = options;
    return await this.#writeOne({ ...deletion(this.name, key), expect }, options);
  }

  /**
   * Changes a row, depending on its present value.
   *
   * - **In turn:** on one server, updates of a row run one after another, in the order of their
   *   calls. At most 10,000 wait.
   * - **Repeated:** if another server, or another kind of write, changes the row first, the function
   *   is called again with the newer value, after pauses that grow, for `session.requestTimeoutMs`.
   * - **Slow functions:** after a quarter of this time, the updates that wait go on. If they change
   *   the row, the function is called again.
   *
   * @param key The key of a row that exists.
   * @param change Returns the new value. It receives a copy of the present one, which it may change.
   * It must not update the same row.
   * @param options A signal, which also ends the wait for other updates; see
   * {@linkcode StateWriteOptions}.
   * @returns The version of the row, once this server's rows include it.
   * @throws {RequestError} With the code `conflict` if the row does not exist; `unavailable` with
   * `retryAfterMs` if other writers were first all the time, or too many updates wait; and the
   * errors of {@linkcode State.transaction}.
   * @throws {TypeError} If the function updates the same row, and would wait for itself.
   */
  async update(
    key: string,
    change: (row: T) => Input | Promise<Input>,
    options: Pick<StateWriteOptions, "signal"> = {},
  ): Promise<number> {
    checkOptions("write state", options, SIGNAL);
    const { signal } = options;
    signal?.throwIfAborted();
    return await untilAborted(this.#update(key, change, options), signal);
  }

  async #writeOne(change: Change, options: Pick<StateWriteOptions, "signal">): Promise<number> {
    const isEphemeral = this.#rows.ephemeral?.names.has(this.name);
    if (isEphemeral && change.expect !== undefined) throw new TypeError(NO_EXPECT);
    try {
      return await this.#write([change], options);
    } catch (error) {
      const isUnexpected = error instanceof Conflict && change.expect !== undefined;
      throw isUnexpected ? unexpected(change, change.expect) : error;
    }
  }

  async #update(
    key: string,
    change: (row: T) => Input | Promise<Input>,
    { signal }: Pick<StateWriteOptions, "signal">,
  ): Promise<number> {
    const of = { type: this.name, key };
    const update = change as (row: unknown) => unknown;
    const name = rowName(this.name, key);
    const entered = this.#enter(name, signal);
    using turn = entered instanceof Promise ? await entered : entered;
    const known = this.#rows.collection(this.name).get(key);
    let row = presentRow(known, { rows: this.#rows, left: turn.left(name) });
    while (true) {
      signal?.throwIfAborted();
      let changed: Change;
      if (row === undefined) {
        // The broker decides: these rows may be behind. This deletion has no effect.
        changed = { ...deletion(this.name, key), expect: Number.MAX_SAFE_INTEGER };
      } else {
        const { value, version } = row;
        const called = turn.during(() => callUpdate(key, update, value));
        const made = called instanceof Promise
          ? await untilAborted(untilAborted(called, signal), this.#ended)
          : await called;
        changed = { ...setting(of, checkUpdated(key, made)), operation: "update", expect: version };
      }
      try {
        return await this.#write([changed], { signal, turn });
      } catch (error) {
        if (!(error instanceof Conflict) || error.present === undefined) throw error;
        row = error.present;
      }
      await turn.again(name, signal, this.#ended);
      this.#ended.throwIfAborted();
    }
  }
}

/** The change that writes a row. */
function setting(
  { type, key }: Pick<Change, "key" | "type">,
  value: unknown,
  { ttlMs }: StateWriteOptions = {},
): Change {
  checkRow(type, key);
  return { type, key, operation: "upsert", value: encodeRow(value), ttlMs };
}

function deletion(type: string, key: string): Change {
  checkRow(type, key);
  return { type, key, operation: "delete" };
}
