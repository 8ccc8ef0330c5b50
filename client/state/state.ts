/**
 * Live state in a client: rows that all clients and servers share, with writes that are shown at
 * once. This module loads with the first state.
 */
import { StatusFeed } from "../../base/status_feed.ts";
import { settlesWithin, waitFor } from "../../base/wait.ts";
import type {
  Contract,
  IsUntyped,
  SectionOf,
  StateInput,
  StateRow,
  StateRows,
} from "../../session/contract.ts";
import { type AnyMutationCalls, callsOf, keptFunction } from "./mutation_calls.ts";
import { newestChanges } from "../../session/state_changes.ts";
import type { MutationCalls, Mutations } from "../../session/mutations/mutations.ts";
import { runTransaction } from "../../session/mutations/transaction.ts";
import type {
  StateChange,
  StateTransaction,
  StateWriteOptions,
  TypedStateMethods,
} from "../../session/state_types.ts";
import type { WaitOptions } from "../../session/types.ts";
import {
  checkCollectionName,
  checkExpected,
  checkRow,
  checkTtl,
  noRow,
} from "../../session/wire/rows.ts";
import { RowReader } from "../../session/rows/row_reader.ts";
import { rowOf, updatedRow } from "../../session/rows/row_values.ts";
import type { ClientRows } from "./rows.ts";
import {
  type ClientStateParts,
  type ClientStateStatus,
  closed,
  pending,
  type SharedState,
  type StateHandle,
} from "./shared_state.ts";
import type { NewProgram, NewWrite, OnConflict, WriteChange } from "./write.ts";

/** Options for opening a state in a client. */
export interface ClientStateOptions<C extends Contract = Contract> {
  /**
   * Called before a write is sent if others changed its row after the write was made, for example
   * while this client was offline. It decides which value wins.
   *
   * `"theirs"` rejects the write with the code `conflict`. It is not called for `insert`, `update`
   * and `expect`, nor in a client that may not read the row. It applies to the writes of this
   * handle, also if the client has other handles of the state.
   *
   * @default {the last write wins}
   */
  readonly onConflict?: OnConflict | undefined;
  /**
   * The functions of the state's mutations, from `defineMutations()`: the page shows their changes
   * at once, before the server has made them.
   *
   * Without them, `mutate` shows nothing until the server has made the changes.
   */
  readonly mutations?: Mutations<C> | undefined;
  /**
   * Keeps the rows in the `store` of `connect`, so that they are shown at once when the state is
   * opened again, also without a network.
   *
   * They have the status `stale` until the server's rows have arrived. Ephemeral rows are not kept.
   *
   * @default {false}
   */
  readonly store?: boolean | undefined;
  /** The client's user, for the context of these functions. The server uses its own. */
  readonly user?: string | undefined;
}

/**
 * A handle of one state in a client: collections of rows that all clients and servers share.
 *
 * - **Reads** are local and synchronous. The rows are complete once `ready` has resolved.
 * - **Writes** are shown at once. They resolve once the server has made them, and reject if it
 *   rejects them; the rows are then shown without them. Writes made while the client is offline are
 *   sent once it is connected again, in order.
 * - **The last write wins,** row by row. `update` repeats its function with the newer row if others
 *   were first.
 * - **Not now:** a write that the server can't make for now is sent again after a pause, before later
 *   writes of its rows.
 * - **Write-only:** if `authorize` allows this client to publish but not to subscribe, the status
 *   is `ended`, and `ready`, `update` and loops reject with the code `forbidden`. Other writes
 *   settle as usual; no rows are shown. Ephemeral rows can't be written.
 * - **Rejected:** while the server rejects the client, for example because its token has expired,
 *   the status is `ended`, `error` is the rejection, and writes wait. The state continues, with its
 *   rows and its writes, once `client.retryNow()` has connected the client again.
 * - **Ephemeral rows** of the contract are not stored, and arrive after `ready`. The rows that this
 *   handle wrote are removed when it is closed, and a while after the connection is lost.
 * - **Several handles** of a state in one client share one subscription and one copy of the rows,
 *   with the writes of all. Each has its own `onConflict`, and closing one ends only its own loops
 *   and writes.
 * - **Closing:** `await using` waits for the handle's writes, at most `closeTimeoutMs` of the
 *   client. `using` does not wait. Writes that are still waiting then are rejected, and a line on
 *   the console names their number.
 * - **Outcome:** each write takes effect at most once. If the connection is lost before the reply,
 *   and others change the row in the meantime, the write rejects with the code `unknown`: the rows
 *   are right, but whether this write was among their changes cannot be told. If a server handles a
 *   write late, after the client has sent it again through another server, it may replace a row
 *   that others were changing again and again when the write was made.
 *
 * @example A list that two clients share
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { liveState } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const states = liveState();
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   features: [states],
 *   authorize: (_session, topic) => topic === "stream:todos",
 * });
 * await using _todos = await states.open("todos");
 *
 * await using ann = connect(server.url);
 * using list = await ann.state("todos");
 * await list.ready;
 * const items = list.collection<{ text: string; done: boolean }>("items");
 * const writing = items.set("1", { text: "Tea", done: false });
 * assertEquals(items.get("1")?.text, "Tea"); // Shown at once.
 * await writing;
 *
 * await using bob = connect(server.url);
 * using other = await bob.state("todos");
 * await other.ready;
 * assertEquals([...other.collection("items").keys()], ["1"]);
 * ```
 */
export class ClientState implements Disposable, AsyncDisposable {
  /** The id, which is also the id of the durable stream. */
  readonly id: string;
  /** The status. Read it from `current`, or follow it in a loop or with `subscribe`. */
  readonly status: StatusFeed<ClientStateStatus>;
  /**
   * The number of writes of this handle whose outcome is not known yet, as a feed: a page shows
   * that it is saving while the number is above 0. Ephemeral rows don't count.
   */
  readonly pendingWrites: StatusFeed<number> = new StatusFeed(0);
  readonly #parts: ClientStateParts;
  readonly #shared: SharedState;
  readonly #handle: StateHandle;
  readonly #closed = new AbortController();
  readonly #unfollow: () => void;
  /** Rejects when this handle is closed. */
  readonly #closing = pending();
  #ready: { readonly shared: Promise<void>; readonly own: Promise<void> } | undefined;
  readonly #options: ClientStateOptions;
  #calls: AnyMutationCalls | undefined;
  /** True while `await using` waits for the writes. */
  #isClosing = false;
  #isClosed = false;

  /** @ignore */
  constructor(shared: SharedState, options: ClientStateOptions, parts: ClientStateParts) {
    const { onConflict } = options;
    this.id = shared.id;
    this.#options = options;
    this.#parts = parts;
    this.#shared = shared;
    this.status = new StatusFeed(shared.status.current);
    const { pendingWrites } = this;
    const isReading = () => shared.isReading;
    this.#handle = {
      onConflict,
      pendingWrites,
      ended: () => this.#end(),
      functionOf: (call) => keptFunction(this.id, call, { ...parts, ...options, isReading }),
    };
    this.#unfollow = shared.status.observe((status) => {
      if (status !== this.status.current) this.status.set(status);
    });
    if (shared.status.isEnded) this.#end();
    else shared.join(this.#handle);
  }

  /**
   * Resolves once the rows are complete; rejects if the state cannot be read, or the server rejects
   * the client. After a rejection, the next attempt to connect has a new promise. Rows that were kept
   * in the store count as complete: `status` tells whether they are up to date.
   */
  get ready(): Promise<void> {
    const shared = this.#shared.ready;
    if (this.#ready?.shared !== shared) {
      const own = Promise.race([shared, this.#closing.promise]);
      own.catch(() => {});
      this.#ready = { shared, own };
    }
    return this.#ready.own;
  }

  /**
   * While the status is `stale`, the time at which the rows were last up to date, in milliseconds
   * since the Unix epoch; otherwise `undefined`.
   */
  get keptAt(): number | undefined {
    return this.#shared.keptAt;
  }

  /**
   * The error that ended the state, or the rejection of the client; none if the state was closed.
   */
  get error(): unknown {
    return this.#isClosed ? undefined : this.#shared.error;
  }

  /**
   * Returns a collection. A collection exists as long as it has rows.
   *
   * @typeParam T The type of a row.
   * @param name The name, of at most 1,024 bytes.
   * @returns The collection's rows, and calls that write them.
   * @throws {TypeError} If the name is not a text.
   * @throws {RangeError} If the name is empty, too long, or starts with `$skein`.
   */
  collection<T = unknown>(name: string): ClientCollection<T> {
    checkCollectionName("open collection", "name", name);
    return new ClientCollection<T>(name, {
      rows: this.#shared.rows,
      closed: this.#closed.signal,
      check: this.#parts.check,
      write: (write) => this.#write(write),
      transact: (change, options) => this.transaction(change, options),
    });
  }

  /** Yields each collection that has rows, by name, with its rows as they are now. */
  collections(): IterableIterator<readonly [name: string, rows: ReadonlyMap<string, unknown>]> {
    return this.#shared.rows.collections();
  }

  /**
   * Changes several rows at once. Either all of the changes take effect, or none.
   *
   * - **Without reads,** the function is called once, and the last write wins, row by row.
   * - **With reads,** the changes take effect only if the rows that it has read are still the same.
   *   Otherwise it is called again with the newer rows. Before the first rows have arrived, it waits
   *   for them.
   *
   * @param change Reads and changes rows. It should have no other effects.
   * @param options A signal; see {@linkcode StateWriteOptions}.
   * @returns The version of the changed rows, once the server has made the changes.
   * @throws What the function throws.
   * @throws {TypeError} If a value is not plain JSON, such as a `Date`; the message has its place.
   * @throws {RangeError} If there are more than 1,000 changes.
   * @throws {TimeoutError} If the function takes longer than `requestTimeoutMs` of the client.
   * @throws {RequestError} With the code `too-large` if the changes do not fit into a message. If the
   * server rejects the changes: with the code `forbidden`, `full`, `gone`, `invalid` or another one.
   * With `other-user` if the client has become another user before they were sent, and with
   * `unknown` if the outcome cannot be told.
   * @throws {QueueFullError} If 1,000 writes or 4 MiB of writes already wait.
   * @throws The signal's reason.
   */
  async transaction(
    change: (transaction: StateTransaction) => void | Promise<void>,
    options: Pick<StateWriteOptions, "signal"> = {},
  ): Promise<number> {
    const { check } = this.#parts;
    check("update state", options);
    return await this.#run({
      function: {
        run: (rows) => runTransaction(rows, change, (options) => check("write row", options)),
      },
      signal: options.signal,
    });
  }

  /**
   * Calls the mutations of this state, by name.
   *
   * - **Shown at once:** with the option `mutations`, the function of a mutation runs on the rows of
   *   this page, and again if they change before the server has run it too. Then the rows of the
   *   server are shown, whatever the function has done here. Without complete rows, it waits for them.
   * - **Order:** mutations whose rows overlap take effect in the order of their calls, after earlier
   *   writes of these rows. A function that takes longer than 100 ms doesn't delay later writes.
   * - **Once:** a mutation whose reply is lost is sent again, and the server doesn't run it twice. If
   *   the server can no longer tell, the call rejects with the code `unknown`.
   *
   * Each call takes the input and the option `signal`, and returns a promise. It resolves with a
   * version of the state once this client has the rows as the server has changed them. It rejects
   * with what the function throws, here or on the server, and with the errors of
   * {@linkcode ClientState.transaction}.
   *
   * @throws {TypeError} If neither the client's contract nor the option `mutations` has mutations of
   * this state.
   */
  get mutate(): AnyMutationCalls {
    return this.#calls ??= callsOf(this.id, {
      ...this.#parts,
      ...this.#options,
      isReading: () => this.#shared.isReading,
      run: (program) => this.#run(program),
    });
  }

  /**
   * Yields each row that changes after the first call of `next`, also by this client, in no
   * particular order. If a row changes several times while the loop is busy, only its newest value
   * is yielded.
   *
   * @typeParam T The type of the rows.
   * @param options A signal that ends the loop with its reason.
   * @returns The changes, until the state is closed.
   * @throws {RequestError} If the state cannot be read any more.
   */
  changes<T = unknown>(
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<StateChange<T>, void, undefined> {
    this.#parts.check("read changes", options);
    return this.#changes<T>(options);
  }

  /**
   * Resolves at the next change of any row, and when the state ends.
   *
   * @ignore
   */
  changed(): Promise<void> {
    return this.#shared.rows.changed();
  }

  async *#changes<T>(
    options: { readonly signal?: AbortSignal | undefined },
  ): AsyncGenerator<StateChange<T>, void, undefined> {
    const { runtime } = this.#parts.settings;
    const { signal: closed } = this.#closed;
    yield* newestChanges<T>(this.#shared.rows, { ...options, closed, runtime });
    if (!this.#isClosed && this.#shared.rows.failure !== undefined) throw this.#shared.rows.failure;
  }

  /**
   * Waits until the outcome of each write that this handle has made so far is known. It does not
   * matter whether the server stores or rejects them; the promise of each write tells. Ephemeral
   * rows don't count.
   *
   * @param options A signal or time limit that ends the wait.
   * @throws {TimeoutError} If the wait takes longer than `timeoutMs`.
   * @throws The signal's reason.
   */
  async flush(options: WaitOptions = {}): Promise<void> {
    this.#parts.check("wait", options);
    const { runtime } = this.#parts.settings;
    const settled = this.#shared.writes.settled(this.#handle);
    await waitFor(runtime, settled, { ...options, what: "outcome of all writes" });
  }

  /**
   * Ends this handle immediately. Its writes that wait reject, with the code `unknown` if they may
   * have taken effect, and a line on the console names their number. Called by `using`; with
   * `await using`, the handle waits for its writes first.
   */
  [Symbol.dispose](): void {
    if (this.#closed.signal.aborted) return;
    const { current: count } = this.pendingWrites;
    this.#isClosed = true;
    this.#end();
    this.#shared.leave(this.#handle);
    if (count === 0 || this.#shared.isKept) return;
    const writes = count === 1 ? "1 write" : `${count} writes`;
    const line = `The state "${this.id}" was closed while ${writes} waited for the server; ` +
      'wait with flush() or "await using"';
    this.#parts.settings.console.tell("dropped-writes", line, { about: this.id });
  }

  /** Waits for the writes of this handle, at most `closeTimeoutMs`. Called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true;
    const { runtime, closeTimeoutMs } = this.#parts.settings;
    await settlesWithin(runtime, this.#shared.writes.settled(this.#handle), closeTimeoutMs);
    this[Symbol.dispose]();
  }

  #write(write: Omit<NewWrite, "writer">): Promise<number> {
    this.#checkOpen(write);
    return this.#shared.write({ ...write, writer: this.#handle });
  }

  #run(program: Omit<NewProgram, "writer">): Promise<number> {
    this.#checkOpen(program);
    return this.#shared.writes.addProgram({ ...program, writer: this.#handle });
  }

  #checkOpen({ signal }: Pick<NewWrite, "signal">): void {
    signal?.throwIfAborted();
    if (this.#isClosing || this.#isClosed || this.status.isEnded) {
      throw this.error ?? closed(this.id);
    }
  }

  #end(): void {
    this.#unfollow();
    this.status.end("ended");
    this.pendingWrites.end(0);
    this.#closed.abort();
    this.#closing.reject(closed(this.id));
  }
}

/**
 * A {@linkcode ClientState} whose collections the contract defines. A row is shown as it was
 * written until the server has returned it as the schema converts it.
 *
 * @example A board in a page
 * ```ts
 * import { connect, defineContract, serve } from "@skein/skein";
 * import type { StateRows, TypedClientState } from "@skein/skein";
 * import { liveState } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const card = z.object({ title: z.string(), isDone: z.boolean() });
 * const contract = defineContract({ state: { "board:{id}": { cards: card } } });
 * const states = liveState(contract);
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   contract,
 *   features: [states],
 *   authorize: () => true,
 * });
 * await using _board = await states.open("board:1");
 *
 * await using client = connect(server.url, { contract });
 * using board: TypedClientState<StateRows<typeof contract, "board:1">> = await client.state("board:1");
 * await board.ready;
 * const cards = board.collection("cards");
 * await cards.set("1", { title: "Write", isDone: false });
 * await cards.update("1", (card) => ({ ...card, isDone: true }));
 * assertEquals(cards.get("1")?.isDone, true);
 * ```
 *
 * @typeParam R The collections, as in {@linkcode StateRows}.
 * @typeParam M The calls of the mutations, as in {@linkcode MutationCalls}.
 */
export interface TypedClientState<R, M = AnyMutationCalls>
  extends
    Omit<ClientState, "collection" | "mutate" | keyof TypedStateMethods<R>>,
    TypedStateMethods<R> {
  /** Calls the mutations of this state. See {@linkcode ClientState.mutate}. */
  readonly mutate: M;
  /**
   * Returns a collection.
   *
   * @typeParam N The name.
   * @param name The name of a collection of the contract.
   * @returns The collection's rows, and calls that write them, with the types of the contract.
   */
  collection<N extends keyof R & string>(
    name: N,
  ): ClientCollection<StateRow<R, N>, StateInput<R, N>>;
}

/**
 * The type of a state in a client: {@linkcode TypedClientState} if the contract has states, or
 * {@linkcode ClientState}.
 *
 * @typeParam C The contract.
 * @typeParam Id The id.
 */
export type ClientStateOf<C extends Contract, Id extends string> = IsUntyped<C> extends true
  ? ClientState
  : [keyof SectionOf<C, "state">] extends [never] ? ClientState
  : TypedClientState<StateRows<C, Id>, MutationCalls<C, Id>>;

/**
 * The rows of one type in a client. See {@linkcode RowReader} for reading them.
 *
 * @typeParam T The type of a row.
 * @typeParam Input The type of a row as it is written, which differs if a schema of the contract
 * converts rows.
 */
export class ClientCollection<T = unknown, Input = T> extends RowReader<T> {
  readonly #rows: ClientRows;
  readonly #check: ClientStateParts["check"];
  readonly #write: (write: Omit<NewWrite, "writer">) => Promise<number>;
  readonly #transact: ClientState["transaction"];

  /** @ignore */
  constructor(
    name: string,
    { rows, closed, check, write, transact }: {
      readonly rows: ClientRows;
      readonly closed: AbortSignal;
      readonly check: ClientStateParts["check"];
      readonly write: (write: Omit<NewWrite, "writer">) => Promise<number>;
      readonly transact: ClientState["transaction"];
    },
  ) {
    super(name, { rows, closed });
    this.#rows = rows;
    this.#check = check;
    this.#write = write;
    this.#transact = transact;
  }

  /**
   * Returns the version of a row, for the option `expect`. A write of this client counts once the
   * server has replied.
   *
   * @param key The key of a row.
   * @returns The version; 0 if there is no such row.
   */
  versionOf(key: string): number {
    return this.#rows.versionOf(this.name, key);
  }

  /**
   * Writes a row, whether or not it exists.
   *
   * @param key The key, of at most 1,024 bytes.
   * @param value Plain JSON: texts, finite numbers, booleans, `null`, arrays and objects without a
   * prototype of their own. The row is a copy, in which keys with the value `undefined` are absent.
   * @param options See {@linkcode StateWriteOptions}; `ttlMs` is rounded up to seconds.
   * @returns The version of the row, once the server has written this value, or one that replaced
   * it before it was sent. If the server rejects the newer value, it receives the last one before
   * that fits the contract's schema.
   * @throws The errors of {@linkcode ClientState.transaction}.
   */
  async set(key: string, value: Input, options: StateWriteOptions = {}): Promise<number> {
    this.#check("write state", options);
    const change = setting(this.#rows, { type: this.name, key, value }, options);
    return await this.#write({ changes: [change], signal: options.signal });
  }

  /**
   * Writes a row that must not exist yet. If this client shows the row, the call rejects
   * immediately.
   *
   * @param key The key, of at most 1,024 bytes.
   * @param value Plain JSON, as for `set`.
   * @param options See {@linkcode StateWriteOptions}.
   * @returns The version of the row, once the server has written it.
   * @throws {RequestError} With the code `conflict` if the row exists, and the errors of
   * {@linkcode ClientState.transaction}.
   */
  async insert(
    key: string,
    value: Input,
    options: Omit<StateWriteOptions, "expect"> = {},
  ): Promise<number> {
    this.#check("insert row", options);
    const of = { type: this.name, key, value };
    const change = setting(this.#rows, of, { ...options, expect: 0 });
    return await this.#write({ changes: [change], signal: options.signal });
  }

  /**
   * Deletes a row, if it exists.
   *
   * @param key The key of the row to delete.
   * @param options A signal, and the expected version; see {@linkcode StateWriteOptions}.
   * @returns A version of the state in which the row is deleted.
   * @throws The errors of {@linkcode ClientState.transaction}.
   */
  async delete(
    key: string,
    options: Pick<StateWriteOptions, "expect" | "signal"> = {},
  ): Promise<number> {
    this.#check("delete row", options);
    const change = deletion(this.#rows, this.name, key, options);
    return await this.#write({ changes: [change], signal: options.signal });
  }

  /**
   * Changes a row, depending on its present value. The function is called at once, or as soon as the
   * first rows have arrived, and again before the write is sent. If others change the row first, it
   * is called with the newer value, after pauses that grow, until the row is written.
   *
   * @param key The key of a row that exists.
   * @param change Returns the new value. It receives a copy of the present one, which it may change
   * and return. It should have no other side effects, and must not be asynchronous.
   * @param options A signal; see {@linkcode StateWriteOptions}.
   * @returns The version of the row, once the server has written it.
   * @throws {RequestError} With the code `conflict` if the row does not exist, and the errors of
   * {@linkcode ClientState.transaction}.
   */
  async update(
    key: string,
    change: (row: T) => Input,
    options: Pick<StateWriteOptions, "signal"> = {},
  ): Promise<number> {
    this.#check("update state", options);
    options.signal?.throwIfAborted();
    const update = change as (row: unknown) => unknown;
    const present = this.get(key);
    if (present === undefined) {
      if (this.#rows.failure !== undefined) throw this.#rows.failure;
      if (this.#rows.isLoaded) throw noRow({ type: this.name, key });
      // A transaction waits for the rows.
      return await this.#transact((to) => to.update(this.name, key, update), options);
    }
    const value = updatedRow(key, update, present);
    const row = { ...setting(this.#rows, { type: this.name, key, value }), base: present };
    return await this.#write({ changes: [row], update, signal: options.signal });
  }
}

/** The change that writes a row. */
function setting(
  rows: ClientRows,
  { type, key, value }: { readonly type: string; readonly key: string; readonly value: unknown },
  { ttlMs, expect }: StateWriteOptions = {},
): WriteChange {
  checkRow(type, key);
  checkExpected(expect);
  const copy = rowOf(value);
  checkTtl(ttlMs);
  return { type, key, value: copy, ttlMs, expect, seen: rows.versionOf(type, key) };
}

function deletion(
  rows: ClientRows,
  type: string,
  key: string,
  { expect }: StateWriteOptions = {},
): WriteChange {
  checkRow(type, key);
  checkExpected(expect);
  return { type, key, value: undefined, expect, seen: rows.versionOf(type, key) };
}
