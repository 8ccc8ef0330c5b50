/**
 * Live state in a client: rows that all clients and servers share, with writes that are shown at
 * once. This module loads with the first state.
 */
import { Backoff } from "../../base/backoff.ts";
import { Signal } from "../../base/signal.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { MAX_TTL_MS, pause } from "../../base/wait.ts";
import { RequestError, SessionClosedError } from "../../errors.ts";
import type {
  Contract,
  IsUntyped,
  SectionOf,
  StateInput,
  StateRow,
  StateRows,
} from "../../session/contract.ts";
import { newestChanges, runTransaction } from "../../session/state_changes.ts";
import type {
  StateChange,
  StateTransaction,
  StateWriteOptions,
  TypedStateMethods,
} from "../../session/state_types.ts";
import { STREAM_PREFIX } from "../../session/wire/recovery.ts";
import {
  checkExpected,
  checkRow,
  checkRowName,
  countFault,
  rowName,
  unexpected,
  type VersionedRowMessage,
} from "../../session/wire/rows.ts";
import { closedError } from "../../session/core.ts";
import { RowReader } from "../../session/row_reader.ts";
import { internals, type Session } from "../../session/session.ts";
import type { WaitOptions } from "../../session/types.ts";
import { changeableRow, rowOf } from "../../session/state_values.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { ClientStatus, ClientSubscribeOptions } from "../client_options.ts";
import type { readStream } from "../durable_stream.ts";
import type { Subscription } from "../subscriptions/subscription.ts";
import { Ephemeral } from "./ephemeral.ts";
import { ClientRows } from "./rows.ts";
import { type NewWrite, type OnConflict, schemasOf, type WriteChange, Writes } from "./writes.ts";

/**
 * Time in which a server may create a state after it has started to accept clients, in
 * milliseconds. A client that asks for the state earlier asks again.
 */
const FIRST_MS = 2_000;

/** The same for a state that was lost with its server, which may have restarted. */
const RETURN_MS = 60_000;

/** Options for opening a state in a client. */
export interface ClientStateOptions {
  /**
   * Called before a write is sent if others changed its row after the write was made, for example
   * while this client was offline. It decides which value wins; `"theirs"` rejects the write with
   * the code `conflict`. By default, the last write wins. Writes by `update` don't need it. It is
   * not called in a client that may not read the row.
   */
  readonly onConflict?: OnConflict | undefined;
}

/**
 * The status of a state:
 *
 * - `pending`: the rows have not arrived yet.
 * - `live`: the rows are kept up to date.
 * - `lost`: the connection is lost; the rows are those that were last known, with the writes made
 *   since.
 * - `ended`: the state was closed, or cannot be read. If the server has rejected the client, the
 *   state continues once the client is connected again. A client that may only write has this
 *   status too; its writes go on.
 */
export type ClientStateStatus = "pending" | "live" | "lost" | "ended";

/** The methods of a client that a state uses. */
export interface StateClient {
  readonly status: StatusFeed<ClientStatus>;
  subscribe(topic: string, options: ClientSubscribeOptions): Subscription;
  whenConnected(options: WaitOptions): Promise<Session>;
}

/** The parts of a client that a state uses. */
export interface ClientStateParts {
  readonly runtime: Runtime;
  readonly contract: Contract | undefined;
  /** Checks the names of options, and their kinds if that is loaded. */
  readonly check: (call: string, options: unknown) => void;
  readonly readStream: typeof readStream;
}

/**
 * One state in a client: collections of rows that all clients and servers share.
 *
 * - **Reads** are local and synchronous. The rows are complete once `ready` has resolved.
 * - **Writes** are shown at once. They resolve once the server has made them, and reject if it
 *   rejects them; the rows are then shown without them. Writes made while the client is offline are
 *   sent once it is connected again, in order.
 * - **The last write wins,** row by row. `update` repeats its function with the newer row if others
 *   were first.
 * - **Write-only:** if `authorize` allows this client to publish but not to subscribe, the status
 *   is `ended`, and `ready`, `update` and loops reject with the code `forbidden`. Other writes
 *   settle as usual; no rows are shown. Ephemeral rows can't be written.
 * - **Rejected:** while the server rejects the client, for example because its token has expired,
 *   the status is `ended`, `error` is the rejection, and writes wait. The state continues, with its
 *   rows and its writes, once `client.retryNow()` has connected the client again.
 * - **Ephemeral rows** of the contract are not stored, and arrive after `ready`. The rows that this
 *   client wrote are removed when the state is closed, and a while after the connection is lost.
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
export class ClientState implements Disposable {
  /** The id, which is also the id of the durable stream. */
  readonly id: string;
  /** The status. Read it from `current`, or follow it in a loop or with `subscribe`. */
  readonly status: StatusFeed<ClientStateStatus> = new StatusFeed<ClientStateStatus>("pending");
  readonly #client: StateClient;
  readonly #parts: ClientStateParts;
  readonly #rows = new ClientRows();
  readonly #writes: Writes;
  /** The rows that are not in the stream, once the server has told which collections have them. */
  #ephemeral: Ephemeral | undefined;
  /** The collections that a server's contract has had with stored rows. */
  readonly #stored = new Set<string>();
  readonly #closed = new AbortController();
  #ready = pending();
  /** True if the client may only write. */
  #isDenied = false;
  readonly #current = new Signal();
  readonly #backoff: Backoff;
  readonly #unfollow: () => void;
  #subscription: Subscription | undefined;
  /** The error of a client that the server rejects. */
  #rejection: SessionClosedError | undefined;
  #wasLive = false;
  /** True from the start, and from a loss of the connection, until the rows are complete. */
  #isAwaited = true;
  /** Time of the first reply in this connection that there is no such state. */
  #missingSinceMs: number | undefined;

  /** @ignore */
  constructor(
    id: string,
    { onConflict }: ClientStateOptions,
    client: StateClient,
    parts: ClientStateParts,
  ) {
    this.id = id;
    this.#client = client;
    this.#parts = parts;
    this.#backoff = new Backoff(parts.runtime, { firstDelayMs: 250, maxDelayMs: 5_000 });
    this.#writes = new Writes({
      runtime: parts.runtime,
      rows: this.#rows,
      onConflict,
      fits: schemasOf(parts.contract, id),
      signal: this.#closed.signal,
      divert: (write) => this.#divert(write),
      whenCurrent: () => this.#whenCurrent(),
      publish: (data) => this.#publish(data, this.#closed.signal),
    });
    this.#unfollow = client.status.observe((status) => this.#follow(status));
    void this.#run();
  }

  /**
   * Resolves once the rows are complete; rejects if the state cannot be read, or the server rejects
   * the client. After a rejection, the next attempt to connect has a new promise.
   */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** The number of writes whose outcome is not known yet. */
  get pendingWrites(): number {
    return this.#writes.size;
  }

  /**
   * The error that ended the state, or the rejection of the client; none if the state was closed.
   */
  get error(): unknown {
    return this.#rows.failure ?? this.#rejection;
  }

  /**
   * Returns a collection. A collection exists as long as it has rows.
   *
   * @typeParam T The type of a row.
   * @param name The name, of at most 1,024 bytes.
   * @returns The collection.
   * @throws {TypeError} If the name is not a text.
   * @throws {RangeError} If the name is empty or too long.
   */
  collection<T = unknown>(name: string): ClientCollection<T> {
    checkRowName("open collection", "name", name);
    return new ClientCollection<T>(name, {
      rows: this.#rows,
      closed: this.#closed.signal,
      check: this.#parts.check,
      write: (write) => this.#write(write),
    });
  }

  /** Yields each collection that has rows, by name, with its rows as they are now. */
  collections(): IterableIterator<readonly [name: string, rows: ReadonlyMap<string, unknown>]> {
    return this.#rows.collections();
  }

  /**
   * Changes several rows at once. Either all of the changes take effect, or none.
   *
   * @param change Collects the changes. It is called once, and must not be asynchronous.
   * @param options A signal; see {@linkcode StateWriteOptions}.
   * @returns The version of the changed rows, once the server has made the changes.
   * @throws {TypeError} If JSON cannot represent a value.
   * @throws {RangeError} If there are more than 1,000 changes, or they do not fit into a message.
   * @throws {RequestError} If the server rejects the changes: with the code `forbidden`, `full`,
   * `gone`, `invalid` or another one. With `unknown` if the outcome cannot be told.
   * @throws {QueueFullError} If 1,000 writes or 4 MiB of writes already wait.
   * @throws The signal's reason.
   */
  async transaction(
    change: (transaction: StateTransaction) => void,
    options: Pick<StateWriteOptions, "signal"> = {},
  ): Promise<number> {
    this.#parts.check("update state", options);
    const changes = new Map<string, WriteChange>();
    const put = (one: WriteChange) => void changes.set(rowName(one.type, one.key), one);
    runTransaction(change, {
      set: (type, key, value, options = {}) => {
        this.#parts.check("write row", options);
        put(setting(this.#rows, { type, key, value }, options));
      },
      delete: (type, key) => put(deletion(this.#rows, type, key)),
    });
    return await this.#write({ changes: [...changes.values()], signal: options.signal });
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
    return this.#rows.changed();
  }

  async *#changes<T>(
    options: { readonly signal?: AbortSignal | undefined },
  ): AsyncGenerator<StateChange<T>, void, undefined> {
    const { runtime } = this.#parts;
    yield* newestChanges<T>(this.#rows, { ...options, closed: this.#closed.signal, runtime });
    if (this.#rows.failure !== undefined) throw this.#rows.failure;
  }

  /**
   * Ends the state in this client. Writes that wait reject, with the code `unknown` if they may
   * have taken effect. Called by `using`.
   */
  [Symbol.dispose](): void {
    this.#end(undefined);
  }

  async #run(): Promise<void> {
    const { readStream } = this.#parts;
    const { signal } = this.#closed;
    const of = { id: this.id, offset: undefined as string | undefined, isUpToDate: false };
    let gone: RequestError | undefined;
    try {
      while (!signal.aborted) {
        try {
          const subscribe = (topic: string, options: ClientSubscribeOptions) =>
            this.#subscribe(topic, options);
          for await (const data of readStream<unknown>(of, { signal, subscribe })) {
            this.#deliver(data, of.offset);
          }
          throw new RequestError("ended", `The stream of the state "${this.id}" was closed`);
        } catch (error) {
          const failure = error instanceof RequestError ? error : undefined;
          const code = failure?.failure.code;
          if (code === "not-found") {
            if (!await this.#mayAppear()) throw gone ? lost(this.id, gone) : failure;
            continue;
          }
          if (code !== "gone" || of.offset === undefined) throw error;
          gone = failure!;
          // Deletions that these rows lack may be forgotten, so all rows are read again.
          this.#rows.restart();
          this.#writes.restarted(gone);
          of.offset = undefined;
        }
      }
    } catch (error) {
      const isMissing = error instanceof RequestError && error.failure.code === "not-found";
      if (isMissing) return this.#fail(missing(this.id, error));
      // A rejection, which has `info`, says more than that the client is closed.
      const isClosed = error instanceof SessionClosedError && error.info === undefined;
      this.#fail(isClosed ? clientClosed(this.id, error) : error);
    }
  }

  /** Ends the state; if the client may not read the rows, only for reading. */
  #fail(error: unknown): void {
    if (this.status.isEnded || this.#isDenied) return;
    const isDenial = error instanceof RequestError && error.failure.code === "forbidden";
    if (!isDenial) return this.#end(error);
    this.#isDenied = true;
    const message = `Cannot read state "${this.id}": ${error.message}`;
    const failure = new RequestError("forbidden", message, { cause: error });
    this.#rows.failure = failure;
    this.#rows.hide();
    this.#ephemeral?.end(failure);
    this.#subscription?.unsubscribe().catch(() => {});
    if (this.#wasLive) this.#ready = pending();
    this.#ready.reject(failure);
    this.status.set("ended");
    this.#current.notify();
  }

  /**
   * Waits before the next attempt to read a missing state. Returns false if the server had enough
   * time to create the state after its start. A state that was deleted while the client was
   * connected does not appear again.
   */
  async #mayAppear(): Promise<boolean> {
    const { runtime } = this.#parts;
    const mostMs = this.#wasLive ? RETURN_MS : FIRST_MS;
    const now = runtime.monotonic();
    this.#missingSinceMs ??= now;
    if (!this.#isAwaited || now - this.#missingSinceMs > mostMs) return false;
    await pause(runtime, this.#backoff.next() ?? 0, this.#closed.signal);
    return true;
  }

  /** Shows that the server rejects the client, which may connect again with another token. */
  #follow(client: ClientStatus): void {
    if (this.status.isEnded) return;
    if (client.name === "connected") this.#missingSinceMs = undefined;
    if (client.name === "rejected") {
      this.#rejection = closedError("Cannot read state: the client is rejected", client.cause);
      this.#ready.reject(this.#rejection);
      this.status.set("ended");
    } else if (this.#rejection !== undefined) {
      this.#rejection = undefined;
      if (this.#isDenied) return;
      if (!this.#wasLive) this.#ready = pending();
      this.status.set(this.#wasLive ? "lost" : "pending");
    }
  }

  #subscribe(topic: string, options: ClientSubscribeOptions): Subscription {
    const subscription = this.#client.subscribe(topic, options);
    this.#subscription = subscription;
    subscription.status.observe((status) => {
      if (status === "lost") this.#isAwaited = true;
      this.#check();
    });
    return subscription;
  }

  #deliver(data: unknown, offset = ""): void {
    if (!isChanges(data)) {
      throw new RequestError("wrong-type", `The stream of the state "${this.id}" must be keyed`);
    }
    const version = parseInt(offset);
    this.#rows.deliver(data, version, !this.#isDenied && this.#isCurrentAt(version));
    this.#writes.delivered(data);
    this.#check();
  }

  /** Completes the rows, and updates the status. */
  #check(): void {
    if (this.status.isEnded || this.#isDenied) return;
    if (this.#isSubscribed && !this.#learnKinds()) return;
    if (this.#isCurrent) {
      this.#rows.complete(this.#subscription?.position?.offset);
      this.#ready.resolve();
      this.#current.notify();
      this.#wasLive = true;
      this.#isAwaited = false;
      this.#backoff.reset();
      if (this.status.current !== "live") this.status.set("live");
    } else if (this.status.current === "live" && !this.#isSubscribed) this.status.set("lost");
  }

  /**
   * Learns from the server's reply which collections have ephemeral rows. Returns false after it has
   * ended the state because one of them had the other kind before.
   */
  #learnKinds(): boolean {
    const { ephemeral = [], stored = [] } = this.#subscription!;
    const known = this.#rows.ephemeral;
    // A row that is shown was stored, whether or not a contract has named its collection.
    const wasStored = (name: string) =>
      !known.has(name) &&
      (this.#stored.has(name) || this.#wasLive && this.#rows.collection(name).size > 0);
    const turned = ephemeral.find(wasStored) ?? stored.find((name) => known.has(name));
    if (turned !== undefined) {
      this.#end(contractChanged(this.id, turned));
      return false;
    }
    for (const name of stored) this.#stored.add(name);
    if (ephemeral.some((name) => !known.has(name))) {
      this.#rows.ephemeral = new Set([...known, ...ephemeral]);
    }
    if (ephemeral.length > 0) this.#openEphemeral();
    return true;
  }

  #openEphemeral(): void {
    this.#ephemeral ??= new Ephemeral({
      id: this.id,
      runtime: this.#parts.runtime,
      rows: this.#rows,
      signal: this.#closed.signal,
      subscribe: (topic, options) => this.#client.subscribe(topic, options),
      publish: (data, signal) => this.#publish(data, signal),
      failed: (error) => this.#fail(error),
    });
  }

  /** Writes an ephemeral row. Returns `undefined` for other rows, and for several at once. */
  #divert({ changes: [change, ...others], signal }: NewWrite): Promise<number> | undefined {
    const isEphemeral = others.length === 0 && this.#rows.ephemeral.has(change!.type);
    return isEphemeral ? this.#ephemeral!.write(change!, signal) : undefined;
  }

  get #isSubscribed(): boolean {
    return this.#subscription?.status.current === "subscribed";
  }

  get #isCurrent(): boolean {
    // A stream without rows has a position, but delivers nothing.
    return this.#isCurrentAt(
      Math.max(this.#rows.received, this.#subscription?.position?.offset ?? 0),
    );
  }

  /** Returns whether the stream had no later changes when the server last told its end. */
  #isCurrentAt(version: number): boolean {
    return this.#isSubscribed && version >= (this.#subscription?.head ?? Infinity);
  }

  async #whenCurrent(): Promise<void> {
    while (!this.#isCurrent && !this.#isDenied) {
      if (this.status.isEnded) throw this.#rows.failure ?? closed(this.id);
      await this.#current.changed();
    }
  }

  async #publish(data: unknown, signal: AbortSignal | undefined): Promise<unknown> {
    const session = await this.#client.whenConnected({ signal });
    const { sending } = session[internals];
    return await sending.publish(STREAM_PREFIX + this.id, data, { signal, verb: "write state" });
  }

  #write(write: NewWrite): Promise<number> {
    write.signal?.throwIfAborted();
    if (this.status.isEnded) throw this.#rows.failure ?? closed(this.id);
    const fault = countFault(write.changes.length);
    if (fault !== undefined) throw new RangeError(`Cannot write state: ${fault}`);
    if (write.changes.length === 0) return Promise.resolve(this.#rows.version);
    const diverted = this.#divert(write);
    if (diverted !== undefined) return diverted;
    for (const { type, key, expect } of write.changes) {
      if (expect === 0 && this.#rows.valueAt(type, key) !== undefined) {
        throw unexpected({ type, key }, expect);
      }
    }
    return this.#writes.add(write);
  }

  #end(error: unknown): void {
    if (this.status.isEnded) return;
    this.#unfollow();
    this.#rejection = undefined;
    this.#rows.failure = error;
    this.status.end("ended");
    this.#closed.abort();
    this.#ready.reject(error ?? closed(this.id));
    this.#writes.end(error ?? closed(this.id));
    this.#ephemeral?.end(error ?? closed(this.id));
    this.#current.notify();
    this.#rows.notify();
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
 */
export interface TypedClientState<R>
  extends Omit<ClientState, "collection" | keyof TypedStateMethods<R>>, TypedStateMethods<R> {
  /**
   * Returns a collection.
   *
   * @typeParam N The name.
   * @param name The name of a collection of the contract.
   * @returns The collection.
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
  : TypedClientState<StateRows<C, Id>>;

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
  readonly #write: (write: NewWrite) => Promise<number>;

  /** @ignore */
  constructor(
    name: string,
    { rows, closed, check, write }: {
      readonly rows: ClientRows;
      readonly closed: AbortSignal;
      readonly check: ClientStateParts["check"];
      readonly write: (write: NewWrite) => Promise<number>;
    },
  ) {
    super(name, { rows, closed });
    this.#rows = rows;
    this.#check = check;
    this.#write = write;
  }

  /**
   * Returns the version of a row, for the option `expect`. A write of this client counts once the
   * server has replied.
   *
   * @param key The key.
   * @returns The version; 0 if there is no such row.
   */
  versionOf(key: string): number {
    return this.#rows.versionOf(this.name, key);
  }

  /**
   * Writes a row, whether or not it exists.
   *
   * @param key The key, of at most 1,024 bytes.
   * @param value Any value that JSON can represent. The row is a copy, as JSON represents it.
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
   * Writes a row that must not exist yet. If this client shows the row, the call rejects at once.
   *
   * @param key The key, of at most 1,024 bytes.
   * @param value Any value that JSON can represent.
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
   * @param key The key.
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
   * Changes a row, depending on its present value. The function is called at once, and again before
   * the write is sent. If others change the row first, it is called with the newer value, at most
   * five times more.
   *
   * @param key The key.
   * @param change Returns the new value. It receives a copy of the present one, which it may change
   * and return. It should have no other side effects, and must not be asynchronous.
   * @param options A signal; see {@linkcode StateWriteOptions}.
   * @returns The version of the row, once the server has written it.
   * @throws {RequestError} With the code `conflict` if the row does not exist, or if others were
   * first each time, and the errors of {@linkcode ClientState.transaction}.
   */
  async update(
    key: string,
    change: (row: T) => Input,
    options: Pick<StateWriteOptions, "signal"> = {},
  ): Promise<number> {
    this.#check("update state", options);
    options.signal?.throwIfAborted();
    const present = this.get(key);
    if (present === undefined && this.#rows.failure !== undefined) throw this.#rows.failure;
    if (present === undefined) {
      const rule = `the row "${key}" of "${this.name}" must exist`;
      throw new RequestError("conflict", `Cannot write state: ${rule}`);
    }
    const value = change(changeableRow(present) as T);
    const row = setting(this.#rows, { type: this.name, key, value });
    const update = change as (row: unknown) => unknown;
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
  if (ttlMs !== undefined && !(Number.isInteger(ttlMs) && ttlMs > 0 && ttlMs <= MAX_TTL_MS)) {
    throw new RangeError(
      `Cannot write state: ttlMs must be an integer from 1 to ${MAX_TTL_MS}, received ${ttlMs}`,
    );
  }
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

/** The error for a state that this client had read before. */
function lost(id: string, cause: RequestError): RequestError {
  return new RequestError("gone", `Cannot read state ${JSON.stringify(id)}: ${cause.message}`, {
    cause,
  });
}

/** The error for a collection whose rows are stored in one contract, and ephemeral in another. */
function contractChanged(id: string, name: string): RequestError {
  const rule = `the contract has changed the kind of "${name}"; reload the page`;
  return new RequestError("contract-changed", `Cannot read state ${JSON.stringify(id)}: ${rule}`);
}

function missing(id: string, cause: unknown): RequestError {
  const name = JSON.stringify(id);
  const message =
    `There is no state ${name}: the server creates it by states.open(${name}) of liveState()`;
  return new RequestError("not-found", message, { cause });
}

/** Tells the changes of a keyed stream from the records of another stream. */
function isChanges(data: unknown): data is readonly VersionedRowMessage[] {
  return Array.isArray(data) && data.every((one) => {
    const { version, headers } = Object(one);
    return typeof version === "number" && Boolean(headers);
  });
}

/** A promise to settle later, whose rejection the application may ignore. */
function pending(): PromiseWithResolvers<void> {
  const settling = Promise.withResolvers<void>();
  settling.promise.catch(() => {});
  return settling;
}

function closed(id: string): SessionClosedError {
  return new SessionClosedError(`The state "${id}" was closed`);
}

function clientClosed(id: string, cause: unknown): SessionClosedError {
  return new SessionClosedError(`The client of the state "${id}" is closed`, { cause });
}
