/** The writes of a client to one state, in order, each until its outcome is known. */
import { QueueFullError, RequestError, SessionClosedError, TimeoutError } from "../../errors.ts";
import { Backoff, boundRetryAfter } from "../../base/backoff.ts";
import { describe } from "../../base/error_text.ts";
import { Signal } from "../../base/signal.ts";
import { pause, within } from "../../base/wait.ts";
import {
  conflict,
  countFault,
  MAX_WRITES,
  noRow,
  retryAfterMsOf,
  rowName,
  unexpected,
  type VersionedRowMessage,
  type WriteResult,
} from "../../session/wire/rows.ts";
import { rowOf, updatedRow } from "../../session/rows/row_values.ts";
import { Footprint, MutationNumbers, newTxid } from "./batches.ts";
import type { KeptWrite } from "./keeping.ts";
import { type MutationCall, Program, type ProgramFunction, Programs } from "./programs.ts";
import type { KnownRow } from "./rows.ts";
import {
  type Attempt,
  CHANGED,
  encode,
  isAlone,
  isBefore,
  isConditional,
  isEnd,
  isOf,
  isRepeated,
  isUndecided,
  MAX_CONFLICTS,
  type NewProgram,
  type NewWrite,
  notReadable,
  type QueuedWrite,
  seenBy,
  type StateWriter,
  tooLarge,
  unknownOutcome,
  versionOf,
  type WriteChange,
  type WriteTarget,
} from "./write.ts";

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

/** Bounds of the pauses before a write is sent again, which grow, in milliseconds. */
const PAUSES = { firstDelayMs: 10, maxDelayMs: 1_000 };

/** Why a mutation that an earlier page has sent cannot be traced. */
const MADE_BEFORE = /* @__PURE__ */ new RequestError(
  "lost",
  "the state was lost since it was sent",
);

/** Codes of mutations that the server rejects before it finds out whether it has made them. */
const DOUBTFUL: ReadonlySet<string> = new Set([
  "forbidden",
  "invalid",
  "unknown",
  "unknown-mutation",
]);

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
  readonly #programs: Programs<QueuedWrite>;
  readonly #mutations: MutationNumbers;
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
  /** Number of times that the stream was read anew. */
  #restarts = 0;
  /** Number of writes that were added. */
  #count = 0;

  constructor(target: WriteTarget) {
    const { runtime, rows } = target;
    this.#target = target;
    this.#backoff = new Backoff(runtime);
    this.#mutations = new MutationNumbers(runtime, rows);
    this.#programs = new Programs({
      ...{ runtime, rows, queue: this.#queue, timeoutMs: target.timeoutMs },
      isReading: () => target.isReading(),
      ran: (write, program) => this.#ran(write, program),
      failed: (write, error) => {
        if (write.state === "new") this.#fail(write, error);
      },
      rested: () => this.#changed.notify(),
    });
    rows.onTouched = (places) => {
      if (!this.#queue.some(({ program }) => program)) return;
      for (const write of [...this.#queue]) this.#endMade(write);
      this.#programs.touched(places);
      this.#changed.notify();
    };
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
    const write = this.#append({ writer, changes, update, signal, isTransaction, bytes });
    this.#target.rows.begin(write, changes);
    this.#keep(write);
    return this.#added(write);
  }

  /**
   * Adds a write that a function makes. It is shown at once if the function is not asynchronous and
   * no others run.
   *
   * @returns Resolves with the version of the rows once the server has made the write.
   * @throws {QueueFullError} If too many writes wait.
   */
  addProgram({ writer, signal, function: of }: NewProgram): Promise<number> {
    const { mutation } = of;
    const bytes = mutation ? JSON.stringify([mutation.name, mutation.input]).length : 0;
    const program = new Program(of);
    const write = this.#append({
      ...{ writer, signal, bytes, program },
      changes: [],
      isTransaction: true,
    });
    this.#keep(write);
    const added = this.#added(write);
    // A transaction without an asynchronous function is shown at once.
    if (mutation === undefined) this.#programs.start(write);
    this.#programs.run();
    return added;
  }

  /** Keeps a write in the client's store, if it has one. */
  #keep(write: QueuedWrite): void {
    const keeping = this.#target.keeping();
    if (keeping === undefined) return;
    const { program, changes } = write;
    // The server recognizes it by its number, which no later page may give to another one.
    if (program?.of.mutation) this.#mutations.fix(program);
    write.isKept = !program || program.of.mutation !== undefined;
    if (changes.every(({ type }) => this.#target.isStored(type))) keeping.put(write);
    else write.isKept = false;
  }

  /** Keeps the writes that wait, from now on. */
  keep(): void {
    for (const write of this.#queue) this.#keep(write);
  }

  /**
   * Adds the writes that an earlier page has kept.
   *
   * @param kept The writes, in their order.
   * @param options The handle that they belong to from now on; the stream that the versions of rows
   * belong to; and the functions of mutations.
   */
  restore(
    kept: readonly KeptWrite[],
    { writer, tag, functionOf }: {
      readonly writer: StateWriter;
      readonly tag: string | undefined;
      readonly functionOf: (mutation: MutationCall) => ProgramFunction;
    },
  ): void {
    for (const { changes, isTransaction, txid, page, mutation, update, isSent, tag: of } of kept) {
      const program = mutation && new Program(functionOf(mutation));
      const { number, sentAt, client } = mutation ?? {};
      if (program) Object.assign(program, { number, sentAt, client });
      const text = JSON.stringify(mutation ? [mutation.name, mutation.input] : changes);
      const write = this.#push({
        ...{ writer, changes, isTransaction, txid, program, update, bytes: text.length },
        ...{ page, isRestored: true, isKept: true, state: isSent ? "uncertain" : "new" },
      });
      // `onDropped` reports an error.
      write.settling.promise.catch(() => {});
      this.#target.rows.begin(write, changes);
      if (of !== undefined && tag !== undefined && of !== tag) this.#forget(write);
    }
    this.#changed.notify();
    this.#tellCount(writer);
    if (kept.length > 0 && !this.#isRunning) void this.#run();
    this.#programs.run();
  }

  #append(
    { bytes, program, ...write }:
      & NewWrite
      & { readonly bytes: number; readonly program?: Program },
  ): QueuedWrite {
    this.#checkRoom(bytes, this.#queue.length);
    return this.#push({ ...write, program, bytes });
  }

  #push(
    write: Partial<QueuedWrite> & NewWrite & Pick<QueuedWrite, "bytes" | "program">,
  ): QueuedWrite {
    const queued: QueuedWrite = {
      page: undefined,
      update: undefined,
      signal: undefined,
      isTransaction: undefined,
      order: this.#count++,
      txid: newTxid(this.#target.runtime),
      isKept: false,
      settling: Promise.withResolvers<number>(),
      checks: [],
      earlier: undefined,
      conflicts: 0,
      timer: undefined,
      pauses: undefined,
      undecidedSinceMs: undefined,
      untraceable: undefined,
      state: "new",
      ...write,
    };
    this.#queue.push(queued);
    this.#bytes += write.bytes;
    return queued;
  }

  #added(write: QueuedWrite): Promise<number> {
    const { signal, settling, writer } = write;
    this.#changed.notify();
    this.#tellCount(writer);
    if (!this.#isRunning) void this.#run();
    return signal === undefined ? settling.promise : this.#withdrawable(write, signal);
  }

  /** Notes the changes of a function. */
  #ran(write: QueuedWrite, program: Program): void {
    const fault = countFault(program.shown.length);
    if (fault !== undefined && write.state === "new") {
      return this.#fail(write, new RangeError(`Cannot write state: ${fault}`));
    }
    if (program.of.mutation !== undefined || write.state !== "new") return;
    const bytes = JSON.stringify(program.shown).length;
    try {
      this.#checkRoom(bytes - write.bytes, this.#queue.length - 1);
    } catch (error) {
      return this.#fail(write, error);
    }
    this.#bytes += bytes - write.bytes;
    write.bytes = bytes;
    if (program.hasRead) {
      if (!this.#target.isReading()) this.#fail(write, notReadable());
      return;
    }
    // It does not depend on rows, so it is the same write again and again.
    const { rows } = this.#target;
    write.program = undefined;
    write.changes = program.shown.map((one) => ({
      ...one,
      seen: rows.versionOf(one.type, one.key),
    }));
    if (write.changes.length === 0) this.#settle(write, rows.version);
    else this.#keep(write);
  }

  /** Settles as a write does, or rejects when the signal aborts. */
  #withdrawable(write: QueuedWrite, signal: AbortSignal): Promise<number> {
    const withdraw = () => {
      // The reply tells what became of it, or has told.
      if (this.#sent.includes(write) || write.program?.madeAt !== undefined) return;
      this.#fail(write, signal.reason);
    };
    signal.addEventListener("abort", withdraw, { once: true });
    return within(this.#target.runtime, write.settling.promise, { signal })
      .finally(() => signal.removeEventListener("abort", withdraw));
  }

  /** Finds the write whose value a change replaces: the row's last one, if it was not sent yet. */
  #replaceable({ type, key, value }: WriteChange, writer: StateWriter): QueuedWrite | undefined {
    const last = this.#queue.findLast(({ changes, program }) =>
      program ? !program.isRun || program.touches(type, key) : changes.some(isOf({ type, key }))
    );
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
    this.#keep(write);
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
      const write = this.#named(txid);
      if (write && !write.program?.of.mutation) this.#settle(write, version);
    }
  }

  /** Learns from changes of the stream, before they are shown, which mutations were made. */
  arrived(changes: readonly VersionedRowMessage[]): void {
    for (const { headers: { txid }, version } of changes) {
      const write = this.#named(txid);
      const { of, madeAt } = write?.program ?? {};
      if (of?.mutation && madeAt === undefined) this.#made(write!, version);
    }
  }

  #named(txid: string | undefined): QueuedWrite | undefined {
    return txid === undefined ? undefined : this.#queue.find((write) => write.txid === txid);
  }

  /**
   * Called when the stream is read anew: its versions may belong to another stream.
   *
   * @param reason The server's reason.
   */
  restarted(reason: RequestError): void {
    this.#mutations.made(0);
    this.#restarts++;
    for (const write of this.#queue) {
      const { program } = write;
      if (program !== undefined) program.waitsFor = 0;
      if (program?.madeAt !== undefined) program.madeAt = 0;
      // It depends on versions of the earlier stream, and was not sent.
      else if (write.state === "adapted" && !this.#sent.includes(write)) write.state = "new";
      // A mark or a version tells, unless it is another stream.
      else if (write.isRestored && write.state === "uncertain" && !write.update) {
        if (program === undefined) write.state = "new";
      } else if (write.state !== "new") write.untraceable = reason;
    }
  }

  /**
   * Forgets the versions of rows in an earlier stream, before writes are sent to another one: they may
   * be the same by chance.
   */
  forget(): void {
    for (const write of [...this.#queue]) this.#forget(write);
  }

  #forget(write: QueuedWrite): void {
    const { isRestored, program } = write;
    if (isRestored && program === undefined) write.state = "new";
    else if (isRestored) {
      program!.sentAt = 0;
      if (write.state === "uncertain") write.untraceable = MADE_BEFORE;
    }
    if (write.state !== "new") return;
    for (const change of write.changes) {
      if (change.expect) this.#fail(write, unexpected(change, change.expect));
    }
    this.#revise(write, (change) => ({ ...change, seen: change.seen && -1 }));
  }

  /**
   * Rejects writes.
   *
   * @param options The handle that made the writes, by default any; and true to leave the writes in
   * the store that it keeps, for `heir` if there is one, or for a later page.
   */
  end(
    reason: unknown,
    { writer, heir, leaves = false }: {
      readonly writer?: StateWriter | undefined;
      readonly heir?: StateWriter | undefined;
      readonly leaves?: boolean | undefined;
    } = {},
  ): void {
    const isIt = (write: QueuedWrite) => writer === undefined || write.writer === writer;
    this.#doubt(this.#sent.filter(isIt));
    for (const write of this.#queue.filter(isIt)) {
      const isLeft = leaves && write.isKept && this.#target.keeping() !== undefined;
      if (isLeft && heir) this.#inherit(write, heir, reason);
      else this.#fail(write, reason, isLeft);
    }
    if (heir) this.#tellCount(heir);
  }

  /** Leaves the writes of earlier pages in the store, and keeps no others. */
  leave(): void {
    for (const write of [...this.#queue]) {
      if (write.isRestored) this.#fail(write, undefined, true);
      else this.#target.keeping()?.drop(write);
    }
  }

  /** Rejects the promise of a write, which goes on for another handle. */
  #inherit(write: QueuedWrite, heir: StateWriter, reason: unknown): void {
    const { settling, writer } = write;
    Object.assign(write, { writer: heir, isRestored: true });
    write.settling = Promise.withResolvers<number>();
    write.settling.promise.catch(() => {});
    settling.reject(write.state === "uncertain" ? unknownOutcome(reason) : reason);
    this.#tellCount(writer);
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    const { signal } = this.#target;
    try {
      while (this.#queue.length > 0 && !signal.aborted) {
        await this.#target.whenCurrent();
        const changed = this.#changed.changed();
        const batch = this.#next();
        if (batch.length > 0) await this.#send(batch);
        else if (this.#queue.length > 0) await changed;
      }
    } catch (error) {
      this.end(error, { leaves: !(error instanceof RequestError) });
    } finally {
      this.#isRunning = false;
    }
  }

  /**
   * Prepares the first writes for one publication: mutations or others. Mutations whose outcome is
   * unknown come before all new ones, because a server makes none with a lower number than the last.
   */
  #next(): QueuedWrite[] {
    const batch: QueuedWrite[] = [];
    const rows = new Footprint();
    /** Rows of writes that are not due yet, and of those behind them. */
    const held = new Footprint();
    /** Rows of mutations that the server has made, and this client does not have yet. */
    const made = new Footprint();
    const isRepeat = this.#queue.some(isRepeated);
    let isRepeatLate = false;
    /** True if a mutation whose number is permanent waits, so that later ones wait too. */
    let isNumberLate = false;
    let bytes = 0;
    for (const write of [...this.#queue]) {
      const { program } = write;
      const own = Footprint.of(write, this.#target.isReading());
      if (program?.madeAt !== undefined) {
        made.add(own);
        continue;
      }
      if (this.#isGivenUp(write)) continue;
      const isFixed = program?.client !== undefined && write.state !== "uncertain";
      if (program?.isRun === false) {
        if (!program.isSlow) break;
        isNumberLate ||= isFixed;
        continue;
      }
      const isMutation = program?.of.mutation !== undefined;
      const isAgain = isRepeated(write);
      if (isAgain && write.timer !== undefined) isRepeatLate = true;
      const isEarly = isMutation && isRepeat && (!isAgain || isRepeatLate) ||
        isFixed && isNumberLate;
      const isHeld = write.timer !== undefined || isEarly || !isAgain && held.overlaps(own) ||
        !isMutation && (made.overlaps(own) || !this.#isReady(write));
      if (isHeld) {
        held.add(own);
        isNumberLate ||= isFixed;
        continue;
      }
      const last = batch.at(-1)?.program;
      const isOther = batch.length > 0 && isMutation !== (last?.of.mutation !== undefined);
      // The version that such a write may expect comes with the reply to the earlier one.
      const isDependent = isMutation
        ? last !== undefined && (isAgain || program.client !== undefined) &&
          (last.number + 1 !== program.number || last.client !== program.client)
        : rows.overlaps(own);
      const isLarge = batch.length > 0 && bytes + write.bytes > this.#maxBytes;
      if (isOther || isDependent || isLarge || batch.length >= this.#maxWrites) break;
      const diverted = write.state === "new" && this.#target.divert(write);
      if (diverted) {
        this.#remove(write);
        this.#target.keeping()?.drop(write);
        this.#target.rows.end(write, write.changes);
        write.settling.resolve(diverted);
        write.earlier?.settling.resolve(diverted);
        this.#tellCount(write.writer);
        continue;
      }
      if (write.state === "new" && !isMutation && !this.#prepare(write)) continue;
      if (write.state === "uncertain" && write.untraceable) {
        this.#fail(write, write.untraceable);
        continue;
      }
      bytes += write.bytes;
      rows.add(own);
      batch.push(write);
    }
    // A callback of a later write may have aborted an earlier one.
    return batch.filter(({ signal }) => !signal?.aborted);
  }

  /** Returns whether a transaction has run on rows whose versions it can name. */
  #isReady(write: QueuedWrite): boolean {
    const { program, state } = write;
    if (program === undefined || state !== "new") return true;
    const { rows } = this.#target;
    return program.running === undefined && !this.#programs.isStale(write, program) &&
      rows.version >= program.waitsFor &&
      ![...program.scans.keys()].some((type) => rows.isAhead(type));
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
    if (write.program !== undefined) return this.#guard(write, write.program);
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

  /** Makes a transaction depend on the rows that its function has read. Returns false if it ends. */
  #guard(write: QueuedWrite, { shown, failure, reads, scans }: Program): boolean {
    const { rows } = this.#target;
    // It ran while an earlier attempt was under way, which took no effect.
    if (failure !== undefined) {
      this.#fail(write, failure.error);
      return false;
    }
    if (shown.length === 0) {
      this.#settle(write, rows.version);
      return false;
    }
    const unchanged = new Map(reads);
    // The first row that the server finds changed tells whether this write has changed it, unless it
    // is gone.
    const [gone, kept] = [true, false].map((isGone) =>
      shown.filter(({ value }) => (value === undefined) === isGone)
    );
    write.changes = [...kept!, ...gone!].map((change) => {
      const present = rows.known(change.type, change.key);
      const seen = versionOf(present);
      const isRead = unchanged.delete(rowName(change.type, change.key));
      return { ...change, seen, since: seen === 0 ? present.version : undefined, isRead };
    });
    const since = rows.version;
    write.checks = [
      ...Array.from(unchanged.values(), ({ type, key }) => {
        const { version, value } = rows.known(type, key);
        const isGone = value === undefined;
        return { type, key, ...isGone ? { expect: 0, since: version } : { expect: version } };
      }),
      ...Array.from(scans.keys(), (type) => ({ type, key: "", since })),
    ];
    write.state = "adapted";
    return true;
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
      const { value: base } = present;
      return { ...adapted, base, value: updatedRow(key, update, base) };
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
    const restarts = this.#restarts;
    const data = this.#publication(batch);
    this.#sent = batch;
    if (!await this.#keepSent(batch, restarts)) return;
    for (const write of batch) if (write.state === "adapted") write.untraceable = undefined;
    let reply: unknown;
    const startMs = runtime.monotonic();
    try {
      reply = await publish(data);
    } catch (error) {
      this.#sent = [];
      if (error instanceof SessionClosedError || error instanceof TimeoutError) {
        return this.#doubt(batch);
      }
      const isFull = error instanceof QueueFullError;
      const { code, retryAfterMs } = error instanceof RequestError ? error.failure : {};
      if (batch.length > 1 && (error instanceof RangeError || code === "too-large")) {
        // Smaller messages have room, or smaller replies, without which the outcome is unknown.
        this.#maxBytes = batch.reduce((sum, { bytes }) => sum + bytes, 0) / 2;
        if (code !== undefined) this.#doubt(batch);
        return this.#renew(batch);
      }
      if (!isFull && code !== "too-many" && code !== "unavailable") {
        const reason = error instanceof RangeError ? tooLarge(error) : error;
        // The end of a handle aborts the publication, and leaves its writes in the store.
        for (const write of batch) if (this.#queue.includes(write)) this.#reject(write, reason);
        return;
      }
      if (code === "unavailable") this.#doubt(batch.slice(0, 1));
      this.#renew(batch);
      const delayMs = Math.max(boundRetryAfter(retryAfterMs), this.#backoff.next() ?? 0);
      return await pause(runtime, delayMs, signal);
    }
    this.#sent = [];
    this.#backoff.reset();
    const inTime = batch.length * REPLY_MS / (runtime.monotonic() - startMs);
    this.#maxWrites = Math.min(MAX_WRITES, inTime);
    this.#replied(batch, reply, restarts === this.#restarts);
  }

  /** Keeps writes as they are sent. Returns false if they can't be sent as they are any more. */
  async #keepSent(batch: readonly QueuedWrite[], restarts: number): Promise<boolean> {
    const keeping = this.#target.keeping();
    if (keeping === undefined) return true;
    await this.#target.whenOwned();
    const isQueued = (write: QueuedWrite) => this.#queue.includes(write);
    // The stream may have delivered some meanwhile, which must not be kept again.
    await keeping.sending(batch.filter((write) => write.isKept && isQueued(write)));
    const isSame = restarts === this.#restarts &&
      batch.every((write) => isQueued(write) && !write.signal?.aborted);
    if (isSame) return true;
    this.#sent = [];
    this.#renew(batch);
    return false;
  }

  /** Handles the loss of the reply to writes. */
  #doubt(writes: readonly QueuedWrite[]): void {
    for (const write of writes) write.state = "uncertain";
  }

  /** Adapts writes that were not made to the present rows when they are sent again. */
  #renew(batch: readonly QueuedWrite[]): void {
    for (const write of batch) if (write.state === "adapted") write.state = "new";
  }

  #publication(batch: readonly QueuedWrite[]): object {
    if (batch[0]!.program?.of.mutation !== undefined) {
      const data = this.#mutations.publication(batch, isRepeated(batch[0]!));
      for (const write of batch) if (write.state === "new") write.state = "adapted";
      return data;
    }
    return { writes: batch.map(encode) };
  }

  /**
   * Handles a reply.
   *
   * @param batch The writes of the publication.
   * @param reply The data.
   * @param isSame False if its versions may belong to an earlier stream.
   */
  #replied(batch: readonly QueuedWrite[], reply: unknown, isSame: boolean): void {
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
      if (result !== undefined) this.#judge(write, result, isSame);
      // The broker was lost while the server made this write.
      else if (i === results.length && !isEnd(last, write)) this.#doubt([write]);
      else if (write.state !== "uncertain") write.state = "new";
    }
  }

  #judge(write: QueuedWrite, result: WriteResult, isSame: boolean): void {
    const { program } = write;
    const isMutation = program?.of.mutation !== undefined;
    if ("version" in result) {
      const { version } = result;
      if (!isMutation) return this.#settle(write, version, isSame);
      return this.#made(write, isSame ? version : 0);
    }
    const retryAfterMs = retryAfterMsOf(result);
    if (retryAfterMs !== undefined && !isUndecided(write, result, this.#target.runtime)) {
      return this.#postpone(write, retryAfterMs);
    }
    if ("error" in result) {
      const { code, message, path, retryAfterMs } = result.error;
      const isLost = code === "not-found" && retryAfterMs !== undefined;
      // The reader of the state finds out whether it was lost. Then it appears again, or it ends.
      if (isLost && this.#target.isReading()) return this.#postpone(write, 0);
      // The server has found that a repeated mutation was not made before.
      if (isMutation && !DOUBTFUL.has(code)) write.state = "adapted";
      return this.#reject(write, new RequestError(code, message, path && { path }));
    }
    const { type, key, version, since = version, value = null, headers, turn } = result.conflict;
    if (headers?.txid === write.txid) return this.#settle(write, version, isSame);
    const last = this.#named(headers?.txid);
    if (last !== undefined && isBefore(write, last)) return this.#settle(last, since, isSame);
    if (!isSame) {
      if (write.state === "adapted") write.state = "new";
      return;
    }
    const isHidden = version > 0 && headers === undefined;
    const present = { value: version > 0 ? value : undefined, version: since, isHidden };
    // A function runs on whole transactions, so it waits until the stream has delivered this one.
    if (program === undefined) this.#target.rows.learn(type, key, present);
    if (this.#isGivenUp(write) || !this.#queue.includes(write)) return;
    const of = { type, key };
    const isIt = isOf(of);
    const isPlain = program === undefined && write.update === undefined &&
      !write.changes.some(({ expect }) => expect !== undefined);
    if (write.state === "uncertain" && !(write.isRestored && isPlain)) {
      // A function that has read the row may depend on it.
      const isDeletion = ({ value, expect, seen, isRead = false }: WriteChange) =>
        value === undefined && expect === undefined && seen > 0 && !isRead;
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
    if (program !== undefined) {
      // The function runs again if the rows differ.
      write.state = "new";
      program.waitsFor = since;
    } else {
      try {
        this.#adapt(write, (change) => isIt(change) ? present : undefined);
      } catch (error) {
        return this.#reject(write, error);
      }
    }
    write.conflicts++;
    const isRace = program !== undefined || isConditional(write) ||
      write.conflicts > MAX_CONFLICTS;
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

  /** Revises the changes of a write that was not sent. */
  #revise(write: QueuedWrite, revise: (change: WriteChange) => WriteChange): void {
    for (const attempt of [write, write.earlier]) {
      if (attempt) attempt.changes = attempt.changes.map(revise);
    }
  }

  #settle(write: QueuedWrite, version: number, isSame = true): void {
    // The page that made it sent it after these, and so knew that they were made.
    for (const one of this.#queue.filter((one) => isBefore(one, write))) {
      this.#settle(one, version, isSame);
    }
    this.#remove(write);
    this.#target.keeping()?.made(write, isSame ? version : 0);
    // Later writes of these rows have seen this one.
    for (const later of this.#queue) {
      if (later.state !== "new" || later.program !== undefined) continue;
      this.#revise(later, (change) => seenBy(change, write, version));
    }
    const { changes, program: { shown } = {}, settling, earlier, writer } = write;
    this.#target.rows.end(write, shown ?? changes, isSame ? { rows: changes, version } : undefined);
    settling.resolve(version);
    earlier?.settling.resolve(version);
    this.#tellCount(writer);
  }

  /** Notes that the server has made a mutation. It is shown until the client has the rows. */
  #made(write: QueuedWrite, version: number): void {
    write.program!.madeAt = version;
    this.#mutations.made(version);
    this.#endMade(write);
  }

  /** Ends a mutation that was made, if the client has its rows, or may not read them. */
  #endMade(write: QueuedWrite, isAny = !this.#target.isReading()): void {
    const { madeAt, shown } = write.program ?? {};
    const { rows } = this.#target;
    if (madeAt === undefined || !isAny && rows.version < madeAt) return;
    this.#remove(write);
    this.#target.keeping()?.made(write, madeAt);
    rows.end(write, shown!);
    rows.afterShown(() => write.settling.resolve(madeAt));
    this.#tellCount(write.writer);
  }

  /**
   * Rejects the value of a write. If an earlier value was kept, it is sent instead, on the condition
   * that a value which may have taken effect did not.
   */
  #reject(write: QueuedWrite, error: unknown): void {
    const { earlier, state, changes } = write;
    if (earlier === undefined) return this.#fail(write, error);
    const [{ seen, since }] = changes as [WriteChange];
    const isUncertain = state === "uncertain";
    write.settling.reject(isUncertain ? unknownOutcome(error) : error);
    this.#bytes -= write.bytes;
    Object.assign(write, earlier, { earlier: undefined, conflicts: 0 });
    if (isUncertain) write.changes = write.changes.map((one) => ({ ...one, seen, since }));
    else write.state = "new";
    this.#target.rows.rewrite(write, write.changes[0]!);
    this.#keep(write);
  }

  /** Rejects a write: with an error, or with `unknown` if it may have taken effect before. */
  #fail(write: QueuedWrite, error: unknown, isLeft = false): void {
    if (write.program?.madeAt !== undefined) return this.#endMade(write, true);
    this.#remove(write);
    const { rows } = this.#target;
    rows.end(write, write.program?.shown ?? write.changes);
    const reason = write.state === "uncertain" ? unknownOutcome(error) : error;
    if (!isLeft) this.#target.keeping()?.drop(write, reason);
    rows.afterShown(() => {
      write.settling.reject(reason);
      write.earlier?.settling.reject(reason);
    });
    this.#tellCount(write.writer);
  }

  /** Tells a handle the number of its writes. Its callbacks may write. */
  #tellCount(writer: StateWriter): void {
    const count = this.#queue.filter((write) => write.writer === writer).length;
    if (count !== writer.pendingWrites.current) writer.pendingWrites.set(count);
  }

  #remove(write: QueuedWrite): void {
    const index = this.#queue.indexOf(write);
    if (index < 0) return;
    this.#queue.splice(index, 1);
    write.program?.over.abort();
    this.#target.runtime.clearTimeout(write.timer);
    this.#bytes -= write.bytes + (write.earlier?.bytes ?? 0);
    this.#changed.notify();
  }
}
