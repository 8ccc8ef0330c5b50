/**
 * One live state of a client, which all of its handles share: one subscription, one copy of the
 * rows, and one queue of writes.
 */
import { Backoff } from "../../base/backoff.ts";
import type { Runtime } from "../../base/runtime.ts";
import { Signal } from "../../base/signal.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { pause, within } from "../../base/wait.ts";
import { CloseCode, RequestError, SessionClosedError } from "../../errors.ts";
import { validate } from "../../base/standard_schema.ts";
import type { Contract } from "../../session/contract.ts";
import { closedError } from "../../session/core.ts";
import { internals, type Session } from "../../session/session.ts";
import { compileStates } from "../../session/state_schemas.ts";
import type { SessionSettings } from "../../session/settings/settings.ts";
import type { WaitOptions } from "../../session/types.ts";
import { STREAM_PREFIX } from "../../session/wire/recovery.ts";
import {
  countFault,
  unexpected,
  type VersionedRowMessage,
  WRITE_TIMEOUT_MS,
} from "../../session/wire/rows.ts";
import type { ClientStatus, ClientSubscribeOptions } from "../client_options.ts";
import type { readStream } from "../durable_stream.ts";
import type { Subscription } from "../subscriptions/subscription.ts";
import { Ephemeral } from "./ephemeral.ts";
import type { KeptRows, KeptSource, KeptWrite, StateKeeping } from "./keeping.ts";
import type { RetryLine } from "./retry_line.ts";
import type { MutationCall, ProgramFunction } from "./programs.ts";
import { ClientRows, type WrittenRow } from "./rows.ts";
import type { NewWrite, StateWriter } from "./write.ts";
import { Writes } from "./writes.ts";

/**
 * Time in which a server may create a state after it has started to accept clients, in
 * milliseconds. A client that asks for the state earlier asks again.
 */
const FIRST_MS = 2_000;

/** The same for a state that was lost with its server, which may have restarted. */
const RETURN_MS = 60_000;

/** Codes with which a state ends whose rows this client has to forget. */
const UNREADABLE: ReadonlySet<string> = new Set([
  "contract-changed",
  "forbidden",
  "gone",
  "not-found",
  "wrong-type",
]);

/**
 * The status of a state:
 *
 * - `pending`: the rows have not arrived yet.
 * - `stale`: the rows are those that an earlier page or process has kept, with the writes made since.
 *   The client has not reached the server since it opened the state. Requires the option `store`.
 * - `live`: the rows are kept up to date.
 * - `lost`: the connection is lost; the rows are those that were last known, with the writes made
 *   since.
 * - `ended`: the state was closed, or cannot be read. If the server has rejected the client, the
 *   state continues once the client is connected again. A client that may only write has this
 *   status too; its writes go on.
 */
export type ClientStateStatus = "pending" | "stale" | "live" | "lost" | "ended";

/** The methods of a client that a state uses. */
interface StateClient {
  readonly status: StatusFeed<ClientStatus>;
  readonly session: Session | undefined;
  subscribe(topic: string, options: ClientSubscribeOptions): Subscription;
  whenConnected(options: WaitOptions): Promise<Session>;
}

/** The parts of a client that its states use. */
export interface ClientStateParts {
  readonly client: StateClient;
  readonly contract?: Contract | undefined;
  readonly settings: Pick<
    SessionSettings,
    "runtime" | "closeTimeoutMs" | "console" | "requestTimeoutMs" | "user"
  >;
  /** Checks the names of options, and their kinds if that is loaded. */
  readonly check: (call: string, options: unknown) => void;
  readonly readStream: typeof readStream;
  /** The states that wait for room among the topics of the session. */
  readonly line: RetryLine;
  /** Keeps a state in the client's store; `undefined` without a store. */
  readonly keep?: ((source: KeptSource) => StateKeeping) | undefined;
}

/** A promise to settle. Pages may be compiled without the type `PromiseWithResolvers`. */
export interface Pending {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (reason?: unknown) => void;
}

export interface StateHandle extends StateWriter {
  /** Ends the handle, because the state has ended. */
  ended(): void;
  /** Returns the function of a mutation that an earlier page has called. */
  functionOf(mutation: MutationCall): ProgramFunction;
}

/** One state of a client. It begins to read the rows immediately. */
export class SharedState implements KeptSource {
  readonly id: string;
  readonly status: StatusFeed<ClientStateStatus> = new StatusFeed<ClientStateStatus>("pending");
  readonly rows: ClientRows = new ClientRows();
  readonly writes: Writes;
  readonly #parts: ClientStateParts;
  readonly #onEnd: () => void;
  readonly #runtime: Runtime;
  readonly #handles = new Set<StateHandle>();
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
  /** The server's tag of the user as whom the client writes, once it was connected. */
  #user: unknown;
  /** The error of a client that the server rejects. */
  #rejection: SessionClosedError | undefined;
  #wasLive = false;
  /** Identity of the stream in which the client's versions count, until it reads the rows anew. */
  #earlier: string | undefined;
  /** True from the start, and from a loss of the connection, until the rows are complete. */
  #isAwaited = true;
  /** True once the client has begun to read the stream. */
  #isBegun = false;
  /** Time of the first reply in this connection that there is no such state. */
  #missingSinceMs: number | undefined;
  /** Keeps the state in the client's store. */
  #keeping: StateKeeping | undefined;
  #opening: Promise<KeptRows | undefined> | undefined;
  /** Resolves once the server has told whether the store belongs to the client's user. */
  readonly #owner = pending();
  /** Time at which the rows that are shown were last up to date, while they are those that were kept. */
  keptAt: number | undefined;

  /**
   * @param onEnd Called when the state ends.
   * @param isKept True to keep it in the client's store.
   */
  constructor(id: string, parts: ClientStateParts, onEnd: () => void, isKept?: boolean) {
    const { client, contract, settings: { runtime, requestTimeoutMs } } = parts;
    this.id = id;
    this.#parts = parts;
    this.#onEnd = onEnd;
    this.#runtime = runtime;
    this.#backoff = new Backoff(runtime, { firstDelayMs: 250, maxDelayMs: 5_000 });
    this.writes = new Writes({
      runtime,
      timeoutMs: requestTimeoutMs,
      rows: this.rows,
      fits: schemasOf(contract, id),
      signal: this.#closed.signal,
      divert: (write) => this.#divert(write),
      isReading: () => this.isReading,
      whenCurrent: () => this.#whenCurrent(),
      keeping: () => this.#keeping,
      isStored: (collection) => this.isStored(collection),
      whenOwned: () => within(runtime, this.#owner.promise, { signal: this.#closed.signal }),
      publish: (data) => this.#publish(data, this.#closed.signal),
    });
    this.#user = parts.settings.user;
    this.#unfollow = client.status.observe((status) => this.#follow(status));
    if (isKept) void this.keep();
    void this.#run();
  }

  /** Keeps the state in the client's store. Resolves once the rows that were kept are shown. */
  async keep(): Promise<void> {
    await (this.#opening ??= this.#keep(!this.#isBegun));
  }

  async #keep(isFirst: boolean): Promise<KeptRows | undefined> {
    const keeping = this.#keeping = this.#parts.keep!(this);
    void this.#confirm(keeping);
    const { rows: kept, writes } = await keeping.open();
    if (this.status.isEnded || this.#keeping !== keeping) return undefined;
    const rows = isFirst ? kept : undefined;
    if (rows !== undefined) {
      this.#separate(rows.ephemeral);
      this.rows.restore(rows.rows, rows.position.offset);
      this.keptAt = rows.keptAt;
      this.#ready.resolve();
      if (this.#rejection === undefined) this.status.set("stale");
    } else keeping.restarted();
    if (isFirst) this.#earlier ??= rows?.position.tag ?? writes.at(-1)?.tag;
    this.restore(writes);
    // Writes of other handles were made before.
    this.writes.keep();
    this.#check();
    return rows;
  }

  /** Adds the writes that another page has left. */
  restore(writes: readonly KeptWrite[]): void {
    const [handle] = this.#handles;
    if (handle === undefined) return;
    const functionOf = (mutation: MutationCall) => handle.functionOf(mutation);
    this.writes.restore(writes, { writer: handle, tag: this.#earlier ?? this.tag, functionOf });
  }

  /** Rejects the writes that wait, because the application forgets what is kept. */
  cancel(): void {
    const message = `forget() was called before the write to state "${this.id}" ended`;
    this.writes.end(new RequestError("cancelled", message));
  }

  /** Identity of the stream that the versions of rows belong to. */
  get tag(): string | undefined {
    return this.#subscription?.position?.tag ?? this.#earlier;
  }

  /** Returns false for a collection whose rows are not stored. */
  isStored(collection: string): boolean {
    const { contract } = this.#parts;
    const known = contract && compileStates(contract)?.match(this.id)?.collections.get(collection);
    return !known?.ephemeral && !this.rows.ephemeral.has(collection);
  }

  /** Asks the server whether the store belongs to the client's user. */
  async #confirm(keeping: StateKeeping): Promise<void> {
    const { session } = this.#parts.client;
    try {
      if (session === undefined) return;
      const owner = await keeping.ownerOf(session);
      if (owner !== "own") this.#disown(owner);
      this.#owner.resolve();
    } catch {
      // The session has closed; the next one will tell.
    }
  }

  /** Keeps nothing more, and shows nothing of what was kept. */
  #disown(reason: "other-user" | "unsupported"): void {
    if (this.#keeping === undefined) return;
    if (reason === "unsupported") this.writes.leave();
    else this.writes.end(otherUser(this.id), { leaves: true });
    void this.#keeping.close();
    this.#keeping = undefined;
    if (this.keptAt === undefined) return;
    this.keptAt = undefined;
    this.rows.discard();
    this.#ready = pending();
    if (this.status.current === "stale") this.status.set("pending");
  }

  /**
   * Reads the kept rows and, if there are any, waits until the server has confirmed their user.
   *
   * @returns The offset of these rows.
   */
  async #begin(): Promise<string | undefined> {
    const kept = await this.#opening;
    this.#isBegun = true;
    if (kept === undefined) return undefined;
    await within(this.#runtime, this.#owner.promise, { signal: this.#closed.signal });
    const { offset, tag } = kept.position;
    return this.keptAt === undefined ? undefined : `${`${offset}`.padStart(16, "0")}_${tag}`;
  }

  /** The collections whose rows are not stored, as far as the server has told. */
  get ephemeral(): Iterable<string> {
    return this.rows.ephemeral;
  }

  /** True if the client's store keeps the state. */
  get isKept(): boolean {
    return this.#keeping !== undefined;
  }

  /** The version of the state in the client's contract. */
  get contractVersion(): number | undefined {
    const { contract } = this.#parts;
    return contract && compileStates(contract)?.match(this.id)?.version;
  }

  /** Aborts when the state ends. */
  get signal(): AbortSignal {
    return this.#closed.signal;
  }

  /** The complete rows of the stream, and their position; `undefined` while some are missing. */
  get stored(): KeptSource["stored"] {
    const rows = this.rows.stored;
    const position = this.#subscription?.position;
    const isComplete = rows && position?.offset === this.rows.version && this.#wasLive;
    return isComplete ? { rows, position } : undefined;
  }

  /** True while the rows are kept up to date. */
  get isLive(): boolean {
    return this.status.current === "live";
  }

  /** Resolves once the rows are complete; another promise after a rejection. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** The reason why the rows are not kept up to date. */
  get error(): unknown {
    return this.rows.failure ?? this.#rejection;
  }

  /** True if another handle can use the state. A client that was denied the rows asks again. */
  get isUsable(): boolean {
    return !this.status.isEnded && !this.#isDenied;
  }

  /** True unless the client may only write. */
  get isReading(): boolean {
    return !this.#isDenied;
  }

  async #run(): Promise<void> {
    const { readStream } = this.#parts;
    const { signal } = this.#closed;
    const of = { id: this.id, offset: undefined as string | undefined, isUpToDate: false };
    let gone: RequestError | undefined;
    try {
      if (this.#opening) of.offset = await this.#begin();
      this.#isBegun = true;
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
          if (code === "too-many") {
            await this.#parts.line.wait(failure!.failure, signal);
            continue;
          }
          const isLost = code === "lost";
          // Without an offset, no rows have arrived yet.
          if (!isLost && (code !== "gone" || of.offset === undefined)) throw error;
          // The server creates it anew.
          if (isLost) this.#isAwaited = true;
          gone = failure!;
          this.#earlier ??= of.offset?.slice(17);
          // Deletions that these rows lack may be forgotten, so all rows are read again.
          this.rows.restart();
          this.#keeping?.restarted();
          this.writes.restarted(gone);
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
    this.#keeping?.forget();
    const message = `Cannot read state "${this.id}": ${error.message}`;
    const failure = new RequestError("forbidden", message, { cause: error });
    this.rows.failure = failure;
    this.rows.hide();
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
    const runtime = this.#runtime;
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
    if (this.#parts.client.status.isEnded) this.#owner.reject(closed(this.id));
    if (client.name === "connected") {
      this.#missingSinceMs = undefined;
      this.#checkUser();
      if (this.#keeping) void this.#confirm(this.#keeping);
    }
    // Another page may have made changes since, and have gone.
    if (client.name === "reconnecting") void this.#keeping?.adopt();
    if (client.name === "rejected") {
      if (client.cause.code === CloseCode.forbidden) this.#keeping?.forget();
      this.#rejection = closedError(
        "Cannot read state: the client is rejected",
        client.cause,
      );
      this.#ready.reject(this.#rejection);
      this.status.set("ended");
    } else if (this.#rejection !== undefined) {
      this.#rejection = undefined;
      if (this.#isDenied) return;
      if (!this.#wasLive) this.#ready = pending();
      if (this.keptAt !== undefined) this.#ready.resolve();
      this.status.set(this.#wasLive ? "lost" : this.keptAt === undefined ? "pending" : "stale");
    }
  }

  /** Rejects the writes that wait if they were made as another user than the client is now. */
  #checkUser(): void {
    const { user } = this.#parts.settings;
    const before = this.#user;
    if (user === undefined || user === before) return;
    this.#user = user;
    if (before === undefined) return;
    const error = otherUser(this.id);
    this.writes.end(error, { leaves: true });
    this.#disown("other-user");
    this.#ephemeral?.remove(error);
  }

  #subscribe(topic: string, options: ClientSubscribeOptions): Subscription {
    const subscription = this.#parts.client.subscribe(topic, options);
    this.#subscription = subscription;
    subscription.status.observe((status) => {
      if (status === "lost") this.#isAwaited = true;
      this.#check();
    });
    return subscription;
  }

  #deliver(data: unknown, offset = ""): void {
    if (!isChanges(data)) {
      throw new RequestError("wrong-type", `The durable stream "${this.id}" is not keyed`);
    }
    const version = parseInt(offset);
    this.#keeping?.delivered(data);
    this.writes.arrived(data);
    this.rows.deliver(data, version, !this.#isDenied && this.#isCurrentAt(version));
    this.writes.delivered(data);
    this.#check();
  }

  /** Completes the rows, and updates the status. */
  #check(): void {
    if (this.status.isEnded || this.#isDenied) return;
    if (this.#isSubscribed && !this.#learnKinds()) return;
    if (this.#isCurrent) {
      this.#compare();
      this.rows.complete(this.#subscription?.position?.offset);
      this.#current.notify();
      this.#wasLive = true;
      this.#isAwaited = false;
      this.#backoff.reset();
      // They may wait for the functions of writes.
      if (this.status.current !== "live") this.rows.afterShown(() => this.#shown());
    } else if (this.status.current === "live" && !this.#isSubscribed) this.status.set("lost");
    this.#keeping?.changed();
  }

  /** Tells that the application sees the complete rows. */
  #shown(): void {
    if (this.status.isEnded || this.#isDenied) return;
    this.#ready.resolve();
    if (!this.#isCurrent || this.status.current === "live") return;
    this.keptAt = undefined;
    this.status.set("live");
    this.#keeping?.changed();
  }

  /**
   * Learns from the server's reply which collections have ephemeral rows. Returns false after it has
   * ended the state because one of them had the other kind before.
   */
  #learnKinds(): boolean {
    const { ephemeral = [], stored = [] } = this.#subscription!;
    const known = this.rows.ephemeral;
    // A row that is shown was stored, whether or not a contract has named its collection.
    const wasStored = (name: string) =>
      !known.has(name) &&
      (this.#stored.has(name) || this.#wasLive && this.rows.collection(name).size > 0);
    const turned = ephemeral.find(wasStored) ?? stored.find((name) => known.has(name));
    if (turned !== undefined) {
      this.#end(contractChanged(this.id, turned));
      return false;
    }
    for (const name of stored) this.#stored.add(name);
    this.#separate(ephemeral);
    return true;
  }

  #separate(ephemeral: readonly string[]): void {
    if (ephemeral.length === 0) return;
    if (ephemeral.some((name) => !this.rows.ephemeral.has(name))) this.rows.separate(ephemeral);
    this.#ephemeral ??= new Ephemeral({
      id: this.id,
      runtime: this.#runtime,
      rows: this.rows,
      signal: this.#closed.signal,
      subscribe: (topic, options) => this.#parts.client.subscribe(topic, options),
      publish: (data, signal) => this.#publish(data, signal),
      failed: (error) => this.#fail(error),
      line: this.#parts.line,
    });
  }

  /** Writes an ephemeral row. Returns `undefined` for other rows, and for transactions. */
  #divert({ changes: [change], signal, writer, isTransaction }: NewWrite):
    | Promise<number>
    | undefined {
    const isEphemeral = !isTransaction && this.rows.ephemeral.has(change!.type);
    return isEphemeral ? this.#ephemeral!.write(change!, { signal, writer }) : undefined;
  }

  get #isSubscribed(): boolean {
    return this.#subscription?.status.current === "subscribed";
  }

  get #isCurrent(): boolean {
    // A stream without rows has a position, but delivers nothing.
    return this.#isCurrentAt(
      Math.max(this.rows.received, this.#subscription?.position?.offset ?? 0),
    );
  }

  /** Returns whether the stream had no later changes when the server last told its end. */
  #isCurrentAt(version: number): boolean {
    return this.#isSubscribed && version >= (this.#subscription?.head ?? Infinity);
  }

  async #whenCurrent(): Promise<void> {
    while (!this.#isCurrent && !this.#isDenied) {
      if (this.status.isEnded) throw this.rows.failure ?? closed(this.id);
      await this.#current.changed();
    }
    this.#compare();
  }

  /** Checks whether the rows that were read again belong to another stream. */
  #compare(): void {
    const isOther = this.#earlier && this.#earlier !== this.#subscription?.position?.tag;
    this.#earlier = undefined;
    if (isOther) this.writes.forget();
  }

  async #publish(data: object, signal: AbortSignal | undefined): Promise<unknown> {
    const user = this.#user;
    const session = await this.#parts.client.whenConnected({ signal });
    this.#checkUser();
    if (user !== undefined && this.#user !== user) throw otherUser(this.id);
    const { sending } = session[internals];
    // The server then replies in time, if only that it cannot make the write for now.
    const { requestTimeoutMs: timeoutMs } = this.#parts.settings;
    const timed = timeoutMs === WRITE_TIMEOUT_MS ? data : { ...data, timeoutMs };
    return await sending.publish(STREAM_PREFIX + this.id, timed, { signal, verb: "write state" });
  }

  /** Makes a write of a handle that is open. */
  write(write: NewWrite): Promise<number> {
    const fault = countFault(write.changes.length);
    if (fault !== undefined) throw new RangeError(`Cannot write state: ${fault}`);
    if (write.changes.length === 0) return Promise.resolve(this.rows.version);
    const diverted = this.#divert(write);
    if (diverted !== undefined) return diverted;
    for (const { type, key, expect } of write.changes) {
      if (expect === 0 && this.rows.valueAt(type, key) !== undefined) {
        throw unexpected({ type, key }, expect);
      }
    }
    return this.writes.add(write);
  }

  /** Adds a handle. */
  join(handle: StateHandle): void {
    this.#handles.add(handle);
  }

  /** Removes a handle, and rejects its writes. The last one ends the state. */
  leave(handle: StateHandle): void {
    if (!this.#handles.delete(handle)) return;
    const [heir] = this.#handles;
    if (heir === undefined) return this.#end(undefined);
    this.writes.end(closed(this.id), { writer: handle, heir, leaves: true });
    this.#ephemeral?.leave(handle, closed(this.id));
    this.rows.notify();
  }

  #end(error: unknown): void {
    if (this.status.isEnded) return;
    this.#unfollow();
    if (error instanceof RequestError && UNREADABLE.has(error.failure.code)) {
      this.#keeping?.forget();
    }
    this.#rejection = undefined;
    this.rows.failure = error;
    this.status.end("ended");
    this.#closed.abort();
    this.#ready.reject(error ?? closed(this.id));
    // Another page goes on with them, unless the state is gone.
    this.writes.end(error ?? closed(this.id), { leaves: !(error instanceof RequestError) });
    this.#ephemeral?.end(error ?? closed(this.id));
    this.#current.notify();
    this.rows.notify();
    this.#onEnd();
    for (const handle of this.#handles) handle.ended();
    this.#handles.clear();
  }
}

/**
 * Returns a function that checks rows by the schemas of a contract. A row that a schema cannot check
 * now, because it is asynchronous or throws, counts as fitting: the server decides.
 */
function schemasOf(
  contract: Contract | undefined,
  id: string,
): (row: WrittenRow) => boolean {
  const collections = contract && compileStates(contract)?.match(id)?.collections;
  return ({ type, value }) => {
    // The server's contract may be newer.
    const collection = collections?.get(type);
    if (collection === undefined || value === undefined) return true;
    try {
      const outcome = validate(collection.schema, value);
      if (!(outcome instanceof Promise)) return outcome.ok;
      outcome.catch(() => {});
    } catch {
      // The server reports its own errors.
    }
    return true;
  };
}

/** The error for a state that this client had read before. */
function lost(id: string, cause: RequestError): RequestError {
  return new RequestError("gone", `Cannot read state "${id}": ${cause.message}`, { cause });
}

/** The error for a collection whose rows are stored in one contract, and ephemeral in another. */
function contractChanged(id: string, name: string): RequestError {
  const message = `Cannot read state "${id}": the contract has changed the kind of "${name}"; ` +
    "reload the page";
  return new RequestError("contract-changed", message);
}

function missing(id: string, cause: unknown): RequestError {
  const name = JSON.stringify(id);
  const message = `There is no state ${name}: call states.open(${name}) of liveState() on the ` +
    "server; if its contract has states, the id must fit one of their patterns";
  return new RequestError("not-found", message, { cause });
}

function otherUser(id: string): RequestError {
  const message = `Cannot write state: the client's user has changed since the write to "${id}"`;
  return new RequestError("other-user", message);
}

/** Tells the changes of a keyed stream from the records of another stream. */
function isChanges(data: unknown): data is readonly VersionedRowMessage[] {
  return Array.isArray(data) && data.every((one) => {
    const { version, headers } = Object(one);
    return typeof version === "number" && Boolean(headers);
  });
}

/** A promise to settle later, whose rejection the application may ignore. */
export function pending(): Pending {
  const settling = Promise.withResolvers<void>();
  settling.promise.catch(() => {});
  return settling;
}

/** The error for a handle that is closed. */
export function closed(id: string): SessionClosedError {
  return new SessionClosedError(`The state "${id}" was closed`);
}

function clientClosed(id: string, cause: unknown): SessionClosedError {
  return new SessionClosedError(`The client of the state "${id}" is closed`, { cause });
}
