/** The writes of a client to one state, in order, each until its outcome is known. */
import { QueueFullError, RequestError, SessionClosedError, TimeoutError } from "../../errors.ts";
import { Backoff, boundRetryAfter } from "../../base/backoff.ts";
import { describe, textOf } from "../../base/error_text.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { Signal } from "../../base/signal.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
import { validate } from "../../base/standard_schema.ts";
import { pause, within } from "../../base/wait.ts";
import type { Contract } from "../../session/contract.ts";
import { compileStates } from "../../session/state_schemas.ts";
import {
  MAX_WRITES,
  noRow,
  retryAfterMsOf,
  rowName,
  type RowWriteMessage,
  unexpected,
  type VersionedRowMessage,
  type WriteResult,
} from "../../session/wire/rows.ts";
import { changeableRow, rowOf } from "../../session/rows/row_values.ts";
import type { ClientRows, KnownRow, WrittenRow } from "./rows.ts";

/** Maximum number of writes whose outcome is unknown. */
export const MAX_WAITING = 1_000;

/** Maximum size of these writes in bytes, as JSON. */
export const MAX_WAITING_BYTES = 4_194_304;

/** First value of the size up to which writes share a message, in bytes. */
const MAX_MESSAGE_BYTES = 32_768;

/**
 * Time in which the server should reply to a publication, in milliseconds. If it is slower, fewer
 * writes share a message, so that a lost connection leaves fewer of them uncertain.
 */
const REPLY_MS = 2_000;

/** Number of conflicts in a row after which a `set` or `delete` is sent without a condition. */
const MAX_CONFLICTS = 5;

/** Bounds of the pauses before a write is sent again, which grow, in milliseconds. */
const PAUSES = { firstDelayMs: 10, maxDelayMs: 1_000 };

/** Time for which a client repeats a write that its server can't decide about, in milliseconds. */
export const UNDECIDED_MS = 60_000;

/** A row that others changed after a write of this client was made, and before it was sent. */
export interface StateConflict {
  /** Name of the collection. */
  readonly collection: string;
  /** Key of the row. */
  readonly key: string;
  /** The value that this client writes; `undefined` to delete the row. */
  readonly mine: unknown;
  /** The present value; `undefined` if the row does not exist. */
  readonly theirs: unknown;
}

/** Decides about a conflict: which value wins, or a third one. */
export type OnConflict = (
  conflict: StateConflict,
) => "mine" | "theirs" | { readonly value: unknown };

/** A change of a row in a write. */
export interface WriteChange extends WrittenRow {
  readonly ttlMs?: number | undefined;
  /** Version that the row must have; 0 for no row. */
  readonly expect?: number | undefined;
  /** Version of the row to which the write was last adapted; 0 without a row. */
  readonly seen: number;
  /** Without a row, the version of the state to which the write was last adapted. */
  readonly since?: number | undefined;
}

/** The handle of a state through which the application writes. */
export interface StateWriter {
  readonly onConflict: OnConflict | undefined;
  /** Number of its writes whose outcome is unknown. */
  readonly pendingWrites: StatusFeed<number>;
}

/** A write, as the application makes it. */
export interface NewWrite {
  readonly writer: StateWriter;
  readonly changes: readonly WriteChange[];
  /** Computes the value of the only row from its present value; the write requires this row. */
  readonly update?: ((value: unknown) => unknown) | undefined;
  /** Takes the write back if it was not sent yet. */
  readonly signal?: AbortSignal | undefined;
  /** True if the changes take effect together, even if there is only one. */
  readonly isTransaction?: boolean | undefined;
}

/** A value of a row that waits, and the promise of those who wrote it. */
interface Attempt {
  changes: readonly WriteChange[];
  bytes: number;
  settling: PromiseWithResolvers<number>;
}

interface QueuedWrite extends Attempt {
  readonly writer: StateWriter;
  readonly txid: string;
  readonly update: NewWrite["update"];
  readonly signal: AbortSignal | undefined;
  readonly isTransaction: boolean | undefined;
  /** The value before the newest one, which is sent if the server rejects the newest one. */
  earlier: Attempt | undefined;
  conflicts: number;
  /** Runs until it is sent again. Later writes of its rows wait for it. */
  timer: Timer | undefined;
  pauses: Backoff | undefined;
  /** Time since which others change its rows faster than the server can make it. */
  undecidedSinceMs: number | undefined;
  /** Why versions can't tell whether the write took effect: the reason to read the rows anew. */
  untraceable: RequestError | undefined;
  /**
   * - `new`: it has to be adapted to the present rows before it is sent.
   * - `adapted`: it can be sent.
   * - `uncertain`: it was sent, and may have taken effect.
   */
  state: "new" | "adapted" | "uncertain";
}

/** The parts of a state that its writes use. */
export interface WriteTarget {
  readonly runtime: Runtime;
  readonly rows: ClientRows;
  /** Returns false if a row does not fit the schema of the contract. */
  fits(row: WrittenRow): boolean;
  /** Aborts when no more writes are sent. */
  readonly signal: AbortSignal;
  /** Writes the changes in another way, if they are about rows that are not in the stream. */
  divert(write: NewWrite): Promise<number> | undefined;
  /** Returns whether the client reads the state, so that it ends if there is no such state. */
  isReading(): boolean;
  /** Resolves once the client is connected, and has the present rows. */
  whenCurrent(): Promise<void>;
  /** Sends a publication, and returns the data of the reply. */
  publish(data: object): Promise<unknown>;
}

/**
 * The writes of one state. At most one publication is under way.
 *
 * If its reply is lost, the writes are sent again, on condition that their rows have not changed
 * since they were first sent. If a row has changed, the name of the transaction tells whether this
 * was the write itself. If it was not, the outcome is unknown.
 */
export class Writes {
  readonly #target: WriteTarget;
  readonly #queue: QueuedWrite[] = [];
  readonly #backoff: Backoff;
  #bytes = 0;
  /** Size up to which writes share a message, in bytes. A larger write has a message of its own. */
  #maxBytes = MAX_MESSAGE_BYTES;
  /** Number of writes that share a message, rounded up. */
  #maxWrites = MAX_WRITES;
  #isRunning = false;
  /** Notifies when a write was added or removed, or is due. */
  readonly #changed = new Signal();
  /** The writes of the publication that is under way. */
  #sent: readonly QueuedWrite[] = [];

  constructor(target: WriteTarget) {
    this.#target = target;
    this.#backoff = new Backoff(target.runtime);
  }

  /** Resolves once the outcome of each write that a handle has made so far is known. */
  async settled(writer: StateWriter): Promise<void> {
    const writes = this.#queue.filter((write) => write.writer === writer);
    const attempts = writes.flatMap((write) => [write, ...write.earlier ? [write.earlier] : []]);
    await Promise.allSettled(attempts.map(({ settling }) => settling.promise));
  }

  /**
   * Adds a write, whose rows are shown immediately.
   *
   * @returns Resolves with the version of the rows once the server has made the write.
   * @throws {QueueFullError} If too many writes wait.
   */
  add(added: NewWrite): Promise<number> {
    const { writer, changes, update, signal, isTransaction } = added;
    const bytes = JSON.stringify(changes).length;
    const waiting = isAlone(added) ? undefined : this.#replaceable(changes[0]!, writer);
    if (waiting !== undefined) return this.#replace(waiting, changes, bytes);
    this.#checkRoom(bytes, this.#queue.length);
    const settling = Promise.withResolvers<number>();
    const txid = newTxid(this.#target.runtime);
    const write: QueuedWrite = {
      writer,
      txid,
      update,
      signal,
      isTransaction,
      bytes,
      settling,
      changes,
      earlier: undefined,
      conflicts: 0,
      timer: undefined,
      pauses: undefined,
      undecidedSinceMs: undefined,
      untraceable: undefined,
      state: "new",
    };
    this.#queue.push(write);
    this.#bytes += bytes;
    this.#target.rows.begin(write, changes);
    this.#changed.notify();
    this.#count(writer);
    if (!this.#isRunning) void this.#run();
    return signal === undefined ? settling.promise : this.#withdrawable(write, signal);
  }

  /** Settles as a write does, or rejects when the signal aborts. */
  #withdrawable(write: QueuedWrite, signal: AbortSignal): Promise<number> {
    const withdraw = () => {
      // The reply tells what became of it.
      if (this.#sent.includes(write)) return;
      this.#fail(write, signal.reason);
    };
    signal.addEventListener("abort", withdraw, { once: true });
    return within(this.#target.runtime, write.settling.promise, { signal })
      .finally(() => signal.removeEventListener("abort", withdraw));
  }

  /** Finds the write whose value a change replaces: the row's last one, if it was not sent yet. */
  #replaceable({ type, key, value }: WriteChange, writer: StateWriter): QueuedWrite | undefined {
    const last = this.#queue.findLast(({ changes }) => changes.some(isOf({ type, key })));
    if (last?.writer !== writer || last.state !== "new" || isAlone(last)) return undefined;
    const isSameKind = (last.changes[0]!.value === undefined) === (value === undefined);
    return isSameKind ? last : undefined;
  }

  /**
   * Replaces the value of a write, for example while a user drags a card. The replaced value is
   * kept instead of an earlier one, unless the server would reject it.
   */
  #replace(write: QueuedWrite, changes: readonly WriteChange[], bytes: number): Promise<number> {
    const { changes: [replaced], earlier } = write;
    const isKept = this.#target.fits(replaced!);
    const dropped = isKept ? earlier : write;
    this.#checkRoom(bytes - (dropped?.bytes ?? 0), this.#queue.length - 1);
    this.#bytes += bytes - (dropped?.bytes ?? 0);
    const settling = Promise.withResolvers<number>();
    const before: Attempt = {
      changes: write.changes,
      bytes: write.bytes,
      settling: write.settling,
    };
    if (isKept) write.earlier = before;
    // The promise of a value that is no longer kept settles as the value in its place does.
    dropped?.settling.resolve(isKept ? before.settling.promise : settling.promise);
    const [{ seen }] = write.changes as [WriteChange];
    Object.assign(write, { changes: changes.map((one) => ({ ...one, seen })), bytes, settling });
    this.#target.rows.rewrite(write, write.changes[0]!);
    return settling.promise;
  }

  /** Checks the bounds. A write has room in any case if no others wait. */
  #checkRoom(bytes: number, others: number): void {
    const isFull = others >= MAX_WAITING || this.#bytes + bytes > MAX_WAITING_BYTES;
    if (!isFull || others === 0) return;
    throw new QueueFullError(
      `Cannot write state: at most ${MAX_WAITING} writes or ${MAX_WAITING_BYTES} bytes may wait`,
    );
  }

  /** Settles the writes that appear in changes of the stream before their reply. */
  delivered(changes: readonly VersionedRowMessage[]): void {
    for (const { headers: { txid }, version } of changes) {
      const write = txid && this.#queue.find((one) => one.txid === txid);
      if (write) this.#settle(write, version);
    }
  }

  /**
   * Called when the stream is read anew: its versions may belong to another stream.
   *
   * @param reason The server's reason.
   */
  restarted(reason: RequestError): void {
    for (const write of this.#queue) if (write.state !== "new") write.untraceable = reason;
  }

  /**
   * Rejects writes.
   *
   * @param reason The reason.
   * @param writer The handle that made the writes; by default, any.
   */
  end(reason: unknown, writer?: StateWriter): void {
    const isIt = (write: QueuedWrite) => writer === undefined || write.writer === writer;
    this.#doubt(this.#sent.filter(isIt));
    for (const write of this.#queue.filter(isIt)) this.#fail(write, reason);
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    const { signal } = this.#target;
    try {
      while (this.#queue.length > 0 && !signal.aborted) {
        await this.#target.whenCurrent();
        const batch = this.#next();
        if (batch.length > 0) await this.#send(batch);
        else if (this.#queue.some(({ timer }) => timer !== undefined)) {
          await this.#changed.changed();
        }
      }
    } catch (error) {
      this.end(error);
    } finally {
      this.#isRunning = false;
    }
  }

  /** Prepares the first writes for one publication. */
  #next(): QueuedWrite[] {
    const batch: QueuedWrite[] = [];
    const rows = new Set<string>();
    /** Rows of writes that are not due yet, and of those behind them. */
    const held = new Set<string>();
    let bytes = 0;
    for (const write of [...this.#queue]) {
      if (this.#isGivenUp(write)) continue;
      const names = write.changes.map(({ type, key }) => rowName(type, key));
      if (write.timer !== undefined || names.some((name) => held.has(name))) {
        for (const name of names) held.add(name);
        continue;
      }
      // The version that such a write may expect comes with the reply to the earlier one.
      const isDependent = names.some((name) => rows.has(name));
      const isLarge = batch.length > 0 && bytes + write.bytes > this.#maxBytes;
      if (isDependent || isLarge || batch.length >= this.#maxWrites) break;
      const diverted = write.state === "new" && this.#target.divert(write);
      if (diverted) {
        this.#remove(write);
        this.#target.rows.end(write, write.changes, undefined);
        write.settling.resolve(diverted);
        write.earlier?.settling.resolve(diverted);
        this.#count(write.writer);
        continue;
      }
      if (write.state === "new" && !this.#prepare(write)) continue;
      if (write.state === "uncertain" && write.untraceable) {
        this.#fail(write, write.untraceable);
        continue;
      }
      bytes += write.bytes;
      for (const name of names) rows.add(name);
      batch.push(write);
    }
    // A callback of a later write may have aborted an earlier one.
    return batch.filter(({ signal }) => !signal?.aborted);
  }

  /** Drops a write whose signal has aborted. */
  #isGivenUp(write: QueuedWrite): boolean {
    if (!write.signal?.aborted) return false;
    this.#fail(write, write.signal.reason);
    return true;
  }

  /** Adapts a write to the present rows. Returns false if it has failed. */
  #prepare(write: QueuedWrite): boolean {
    const { rows } = this.#target;
    do {
      try {
        this.#adapt(write, ({ type, key }) => rows.known(type, key));
        return true;
      } catch (error) {
        this.#reject(write, error);
      }
    } while (this.#queue.includes(write));
    return false;
  }

  #adapt(write: QueuedWrite, presentOf: (change: WriteChange) => KnownRow | undefined): void {
    const before = write.changes;
    // From now on, a write that the application makes in one of its callbacks is a later one.
    write.state = "adapted";
    write.changes = before.map((change) => {
      const present = presentOf(change);
      return present === undefined ? change : this.#adapted(write, change, present);
    });
    for (const [i, change] of write.changes.entries()) {
      if (change.value !== before[i]!.value) this.#target.rows.rewrite(write, change);
    }
  }

  #adapted({ update, writer }: QueuedWrite, change: WriteChange, present: KnownRow): WriteChange {
    const { onConflict } = writer;
    const { type, key, value: mine, expect } = change;
    const seen = expect ?? versionOf(present);
    const adapted = { ...change, seen, since: seen === 0 ? present.version : undefined };
    if (update !== undefined) {
      if (present.value === undefined) throw noRow(change);
      return { ...adapted, value: rowOf(update(changeableRow(present.value))) };
    }
    if (onConflict === undefined || expect !== undefined) return adapted;
    if (seen === change.seen || present.isHidden) return adapted;
    const theirs = present.value;
    const verdict: unknown = onConflict({ collection: type, key, mine, theirs });
    if (verdict === "theirs") throw conflict(change, "was changed by others");
    if (verdict === "mine") return adapted;
    if (typeof verdict === "object" && verdict !== null && "value" in verdict) {
      return { ...adapted, value: rowOf(verdict.value) };
    }
    throw new TypeError(
      `Cannot write state: onConflict must return "mine", "theirs" or an object with a value, ` +
        `received ${describe(verdict)}`,
    );
  }

  async #send(batch: readonly QueuedWrite[]): Promise<void> {
    const { publish, runtime, signal } = this.#target;
    const writes = batch.map((write) => write.changes.map((change) => this.#encode(write, change)));
    for (const write of batch) if (write.state === "adapted") write.untraceable = undefined;
    let reply: unknown;
    this.#sent = batch;
    const startMs = runtime.monotonic();
    try {
      reply = await publish({ writes });
    } catch (error) {
      if (error instanceof SessionClosedError || error instanceof TimeoutError) {
        return this.#doubt(batch);
      }
      const isFull = error instanceof QueueFullError;
      const { code, retryAfterMs } = error instanceof RequestError ? error.failure : {};
      if (batch.length > 1 && (error instanceof RangeError || code === "too-large")) {
        // Smaller messages have room, or smaller replies, without which the outcome is unknown.
        this.#maxBytes = batch.reduce((sum, { bytes }) => sum + bytes, 0) / 2;
        if (code !== undefined) this.#doubt(batch);
        return;
      }
      if (!isFull && code !== "too-many" && code !== "unavailable") {
        const reason = error instanceof RangeError ? tooLarge(error) : error;
        for (const write of batch) this.#reject(write, reason);
        return;
      }
      if (code === "unavailable") this.#doubt(batch.slice(0, 1));
      const delayMs = Math.max(retryAfterMs ?? 0, this.#backoff.next() ?? 0);
      return await pause(runtime, delayMs, signal);
    } finally {
      this.#sent = [];
    }
    this.#backoff.reset();
    const inTime = batch.length * REPLY_MS / (runtime.monotonic() - startMs);
    this.#maxWrites = Math.min(MAX_WRITES, inTime);
    this.#replied(batch, reply);
  }

  /** Handles the loss of the reply to writes. */
  #doubt(writes: readonly QueuedWrite[]): void {
    for (const write of writes) write.state = "uncertain";
  }

  #encode(
    write: QueuedWrite,
    { type, key, value, ttlMs, expect, seen, since }: WriteChange,
  ): RowWriteMessage {
    const { txid, update, state, conflicts } = write;
    // A copy that a server handles late must not replace newer rows, or bring back deleted ones.
    // After some conflicts, the last write wins in any case.
    const isConditional = conflicts < MAX_CONFLICTS || state === "uncertain" ||
      expect !== undefined || this.#isConditional(write);
    const headers = {
      txid,
      expect: isConditional ? seen : undefined,
      since: isConditional && value !== undefined ? since : undefined,
      ttl: ttlMs && Math.ceil(ttlMs / 1_000),
    };
    if (value === undefined) return { type, key, headers: { ...headers, operation: "delete" } };
    const operation = update ? "update" : expect === 0 ? "insert" : "upsert";
    return { type, key, value, headers: { ...headers, operation } };
  }

  /** True if a write depends on the present rows. */
  #isConditional({ update, writer }: QueuedWrite): boolean {
    return update !== undefined || writer.onConflict !== undefined;
  }

  #replied(batch: readonly QueuedWrite[], reply: unknown): void {
    const { results } = Object(reply) as { readonly results?: readonly WriteResult[] };
    if (!Array.isArray(results) || results.length === 0) {
      this.#doubt(batch);
      throw new RequestError("malformed", "Cannot write state: the server sent no results");
    }
    const last = results.at(-1)!;
    for (const [i, write] of batch.entries()) {
      const result = results[i];
      // The stream may have settled it in the meantime.
      if (!this.#queue.includes(write)) continue;
      if (result !== undefined) this.#judge(write, result);
      // The broker was lost while the server made this write.
      else if (i === results.length && !isEnd(last)) this.#doubt([write]);
      else if (write.state !== "uncertain") write.state = "new";
    }
  }

  #judge(write: QueuedWrite, result: WriteResult): void {
    if ("version" in result) return this.#settle(write, result.version);
    const retryAfterMs = retryAfterMsOf(result);
    if (retryAfterMs !== undefined && !isUndecided(write, result, this.#target.runtime)) {
      return this.#postpone(write, retryAfterMs);
    }
    if ("error" in result) {
      const { code, message, path } = result.error;
      // The reader of the state finds out whether it was lost. Then it appears again, or it ends.
      if (code === "not-found" && this.#target.isReading()) return this.#postpone(write, 0);
      return this.#reject(write, new RequestError(code, message, path && { path }));
    }
    const { type, key, version, since = version, value = null, headers, turn } = result.conflict;
    if (headers?.txid === write.txid) return this.#settle(write, version);
    const isHidden = version > 0 && headers === undefined;
    const present = { value: version > 0 ? value : undefined, version: since, isHidden };
    this.#target.rows.learn(type, key, present);
    if (this.#isGivenUp(write)) return;
    const of = { type, key };
    const isIt = isOf(of);
    if (write.state === "uncertain") {
      const isDeletion = ({ value, expect, seen }: WriteChange) =>
        value === undefined && expect === undefined && seen > 0;
      if (version > 0 || !write.changes.some((one) => isIt(one) && isDeletion(one))) {
        return this.#fail(write, conflict(of, CHANGED));
      }
      // Repeating the deletions has no effect if this write made them.
      write.changes = write.changes.map((one) => isDeletion(one) ? { ...one, seen: 0 } : one);
      return;
    }
    const { expect = version } = write.changes.find(isIt) ?? {};
    if (expect !== version) return this.#reject(write, unexpected(of, expect));
    if (isHidden && write.update !== undefined) return this.#fail(write, notReadable(of));
    try {
      this.#adapt(write, (change) => isIt(change) ? present : undefined);
    } catch (error) {
      return this.#reject(write, error);
    }
    write.conflicts++;
    const isRace = this.#isConditional(write) || write.conflicts > MAX_CONFLICTS;
    if (isRace && write.conflicts > 1 && !turn) this.#postpone(write, 0);
  }

  /** Sends a write again later, adapted to the rows as they are then. */
  #postpone(write: QueuedWrite, afterMs: number): void {
    if (this.#isGivenUp(write)) return;
    const { runtime } = this.#target;
    write.pauses ??= new Backoff(runtime, PAUSES);
    if (write.state === "adapted") write.state = "new";
    write.timer = runtime.setTimeout(() => {
      write.timer = undefined;
      this.#changed.notify();
    }, boundRetryAfter(afterMs) + write.pauses.next()!);
  }

  #settle(write: QueuedWrite, version: number): void {
    this.#remove(write);
    // Later writes of these rows have seen this one.
    for (const later of this.#queue) {
      if (later.state !== "new") continue;
      for (const attempt of [later, later.earlier]) {
        if (attempt) {
          attempt.changes = attempt.changes.map((change) => seenBy(change, write, version));
        }
      }
    }
    this.#target.rows.end(write, write.changes, version);
    write.settling.resolve(version);
    write.earlier?.settling.resolve(version);
    this.#count(write.writer);
  }

  /**
   * Rejects the value of a write. If an earlier value was kept, it is sent instead, on the condition
   * that a value which may have taken effect did not.
   */
  #reject(write: QueuedWrite, error: unknown): void {
    const { earlier, state, changes: [{ seen, since }] } = write as typeof write & {
      readonly changes: readonly [WriteChange];
    };
    if (earlier === undefined) return this.#fail(write, error);
    const isUncertain = state === "uncertain";
    write.settling.reject(isUncertain ? unknownOutcome(error) : error);
    this.#bytes -= write.bytes;
    Object.assign(write, earlier, { earlier: undefined, conflicts: 0 });
    if (isUncertain) write.changes = write.changes.map((one) => ({ ...one, seen, since }));
    else write.state = "new";
    this.#target.rows.rewrite(write, write.changes[0]!);
  }

  /** Rejects a write: with an error, or with `unknown` if it may have taken effect before. */
  #fail(write: QueuedWrite, error: unknown): void {
    this.#remove(write);
    this.#target.rows.end(write, write.changes, undefined);
    const reason = write.state === "uncertain" ? unknownOutcome(error) : error;
    write.settling.reject(reason);
    write.earlier?.settling.reject(reason);
    this.#count(write.writer);
  }

  /** Tells a handle the number of its writes. Its callbacks may write. */
  #count(writer: StateWriter): void {
    const count = this.#queue.filter((write) => write.writer === writer).length;
    if (count !== writer.pendingWrites.current) writer.pendingWrites.set(count);
  }

  #remove(write: QueuedWrite): void {
    const index = this.#queue.indexOf(write);
    if (index < 0) return;
    this.#queue.splice(index, 1);
    this.#target.runtime.clearTimeout(write.timer);
    this.#bytes -= write.bytes + (write.earlier?.bytes ?? 0);
    this.#changed.notify();
  }
}

/** Returns true if the server could not decide about a write for too long. */
export function isUndecided(
  write: { undecidedSinceMs: number | undefined },
  result: WriteResult,
  runtime: Runtime,
): boolean {
  if (!("error" in result) || result.error.code !== "undecided") return false;
  const now = runtime.monotonic();
  write.undecidedSinceMs ??= now;
  return now - write.undecidedSinceMs >= UNDECIDED_MS;
}

/** True if the server made no more writes after this result. */
function isEnd(result: WriteResult): boolean {
  return "conflict" in result || retryAfterMsOf(result) !== undefined;
}

/**
 * Returns a function that checks rows by the schemas of a contract. A row that a schema cannot check
 * now, because it is asynchronous or throws, counts as fitting: the server decides.
 */
export function schemasOf(
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

/** True if a write may be taken back, or depends on a condition, so that it is sent by itself. */
function isAlone({ changes: [change], update, signal, isTransaction = false }: NewWrite): boolean {
  const isConditional = update !== undefined || change!.expect !== undefined;
  return isConditional || signal !== undefined || isTransaction;
}

/** Tells a row from others. */
function isOf({ type, key }: Pick<WriteChange, "type" | "key">): (change: WriteChange) => boolean {
  return (change) => change.type === type && change.key === key;
}

/** Returns a change that was made after a write of the same row, which has this version. */
function seenBy(change: WriteChange, write: QueuedWrite, version: number): WriteChange {
  const own = write.changes.find(isOf(change));
  return own ? { ...change, seen: versionOf({ value: own.value, version }) } : change;
}

/** The version that a write expects. */
function versionOf({ value, version }: KnownRow): number {
  return value === undefined ? 0 : version;
}

/** Why the outcome of a write whose reply was lost is unknown. */
const CHANGED = "has changed since the write was sent";

function conflict({ type, key }: { readonly type: string; readonly key: string }, why: string) {
  return new RequestError("conflict", `Cannot write state: the row "${key}" of "${type}" ${why}`);
}

/** The error for rows that don't fit into a message, which the server may also be the one to find. */
export function tooLarge(cause: RangeError): RequestError {
  return new RequestError("too-large", cause.message, { cause });
}

function notReadable({ type, key }: { readonly type: string; readonly key: string }): RequestError {
  const rule = `this client may not read the row "${key}" of "${type}"`;
  return new RequestError("forbidden", `Cannot write state: ${rule}, which update needs`);
}

function unknownOutcome(cause: unknown): RequestError {
  return new RequestError(
    "unknown",
    `Cannot tell if the state was written: ${textOf(cause).replace("Cannot write state: ", "")}`,
    { cause },
  );
}

/** A name for a transaction: 64 random bits. */
function newTxid(runtime: Runtime): string {
  return runtime.getRandomValues(new Uint32Array(2)).reduce(
    (name, part) => name + part.toString(36),
    "",
  );
}
