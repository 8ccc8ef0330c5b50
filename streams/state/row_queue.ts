/** Writes that depend on the present rows of a state, one after another for each row. */
import type { AsyncLocalStorage } from "node:async_hooks";
import { Backoff } from "../../base/backoff.ts";
import { builtin } from "../../base/builtins.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import { Quota, rejectionOf, type Slot } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { offAbort, onAbort, pause } from "../../base/wait.ts";
import { LimitError, RequestError } from "../../errors.ts";
import type { LiveRow } from "../../session/rows/row_map.ts";
import { freezeRow } from "../../session/rows/row_values.ts";
import { describeRow, type PresentRows } from "./live_rows.ts";
import { forNow, RETRY_MS, serverClosed } from "./rejections.ts";

/** Maximum number of writes that wait for their turn. */
export const MAX_WAITING = 10_000;

/** Maximum number of waiting writes of one address or user, once more than half of them wait. */
export const WAITING_SHARES = { address: 1_000, user: 128 };

/**
 * Fraction of the time limit after which a turn ends if others wait for it, so that a write which
 * waits outlasts three that hang.
 */
const TURN_PART = 1 / 4;

/** Bounds of the pauses between the attempts of a write, which grow, in milliseconds. */
const PAUSES = { firstDelayMs: 4, maxDelayMs: 500 };

/** A row as a write left it. */
export interface LeftRow {
  /** Identity of the stream. */
  readonly identity: string | undefined;
  /** Version of the state after the write. */
  readonly version: number;
  /** The value as JSON; `undefined` if the row was deleted. */
  readonly value: string | undefined;
}

/** The writes of one row: the one whose turn it is, and those behind it. */
interface Line {
  readonly turns: Turn[];
  /** The row as the last turn left it, which the copy of the rows may not show yet. */
  left: LeftRow | undefined;
}

/** Options of {@linkcode RowQueue.enter}. */
export interface EnterOptions {
  /** The client; by default, no share applies. */
  readonly account?: Account | undefined;
  /** Signals that end the wait. The function is called only if the write has to wait. */
  readonly signals?: (() => readonly (AbortSignal | undefined)[]) | undefined;
  /** End of the wait on the monotonic clock, if it is before the queue's time limit. */
  readonly untilMs?: number | undefined;
}

/** Creates the bound of a server's own writes. Those of clients don't count toward it. */
export function ownQuota(): Quota {
  return new Quota({
    limit: "states.updates",
    verb: "update",
    what: "calls that wait for others of the same row",
    max: MAX_WAITING,
    shares: {},
    retryAfterMs: RETRY_MS,
  });
}

/** Parts of {@linkcode RowQueue}. */
export interface RowQueueParts {
  readonly runtime: Runtime;
  /** Bounds the writes that wait. */
  readonly quota: Quota;
  /** Time limit of a write with its wait, in milliseconds. */
  readonly timeoutMs: number;
  /** Code of a write whose row others changed during each attempt. */
  readonly contendedCode: "undecided" | "unavailable";
}

/**
 * Runs writes of the same row one after another, in the order of their calls.
 *
 * - **Several rows:** a write enters all of its lines in one step, and starts when it is the first
 *   in each, so that no two writes wait for each other.
 * - **Courtesy:** a turn only spares attempts. The broker decides whether a row has changed, so a
 *   turn that others wait for may end before its write does.
 * - **Cost:** a row that nobody writes has no entry, and a write that does not wait no promise.
 */
export class RowQueue {
  readonly parts: RowQueueParts;
  /** By row; bounded by the writes that run or wait. */
  readonly #lines = new Map<string, Line>();
  readonly #late: Deadlines<Turn>;
  /** Turns that others wait for. */
  readonly #awaited: Deadlines<Turn>;
  /** The turn whose function is running. */
  #inside: AsyncLocalStorage<Turn> | undefined;
  /** Reason why no write waits any more. */
  #closed: RequestError | undefined;

  constructor(parts: RowQueueParts) {
    this.parts = parts;
    const { runtime, timeoutMs } = parts;
    this.#late = new Deadlines(runtime, timeoutMs, (turn) => turn.fail(tooSlow(turn, timeoutMs)));
    this.#awaited = new Deadlines(runtime, timeoutMs * TURN_PART, (turn) => this.leave(turn));
  }

  /** Number of rows with writes that run or wait. */
  get size(): number {
    return this.#lines.size;
  }

  /**
   * Enters the lines of rows. The caller MUST dispose of the turn.
   *
   * @param id The id of the state.
   * @param rows Different names of rows.
   * @param options The client, and signals; see {@linkcode EnterOptions}.
   * @returns The turn; a promise if other writes are first.
   * @throws {RequestError} With the code `unavailable` if too many writes wait, this one waited too
   * long, or the server is closed.
   * @throws {TypeError} If the function of a turn enters a line of this turn, and would wait for
   * itself.
   * @throws The reason of a signal.
   */
  enter(id: string, rows: readonly string[], options: EnterOptions = {}): Turn | Promise<Turn> {
    const turn = new Turn(this, { id, rows, outer: this.#outer() });
    for (let { outer } = turn; outer !== undefined; outer = outer.outer) {
      const own = outer.isOver || outer.id !== id ? [] : outer.rows;
      const row = rows.find((row) => own.includes(row));
      if (row !== undefined) throw nested(row);
    }
    const isFree = rows.every((row) => !this.#lines.has(row + id));
    const slot = isFree ? undefined : takeSlot(this.parts.quota, options.account);
    for (const row of rows) this.#add(turn, row + id);
    return slot === undefined ? turn : this.#wait(turn, slot, options);
  }

  /** Ends a turn, or the wait for it. Idempotent. */
  leave(turn: Turn): void {
    if (turn.isOver) return;
    turn.isOver = true;
    if (turn.isAwaited) this.#awaited.delete(turn);
    for (const row of turn.rows) {
      const name = row + turn.id;
      const line = this.#lines.get(name)!;
      const index = line.turns.indexOf(turn);
      line.turns.splice(index, 1);
      const [next] = line.turns;
      if (next === undefined) this.#lines.delete(name);
      else if (index === 0 && --next.ahead === 0) this.#start(next);
    }
  }

  /** Calls a function of the application, which must not enter the lines of the turn. */
  during<T>(turn: Turn, call: () => T): T {
    this.#inside ??= new (builtin("node:async_hooks").AsyncLocalStorage)();
    return this.#inside.run(turn, call);
  }

  /** Returns the row as the last turn left it, if others waited for it. */
  left({ id }: Turn, row: string): LeftRow | undefined {
    return this.#lines.get(row + id)?.left;
  }

  /** Leaves a row to the writes that wait for it. */
  hand(turn: Turn, row: string, left: LeftRow): void {
    const line = turn.isOver ? undefined : this.#lines.get(row + turn.id)!;
    if (line !== undefined && line.turns.length > 1) line.left = left;
  }

  /** Returns true if other writes wait for a turn. */
  isContended({ id, rows }: Turn): boolean {
    return rows.some((row) => this.#lines.get(row + id)!.turns.length > 1);
  }

  /** Rejects the writes that wait. */
  close(reason: RequestError = serverClosed()): void {
    this.#closed = reason;
    this.#awaited.clear();
    for (const turn of this.#late.clear()) turn.fail(reason);
  }

  /** The turn in whose function this code runs. Turns that are over are not kept in memory. */
  #outer(): Turn | undefined {
    let outer = this.#inside?.getStore();
    while (outer?.isOver) outer = outer.outer;
    return outer;
  }

  #add(turn: Turn, name: string): void {
    const line = this.#lines.get(name);
    if (line === undefined) return void this.#lines.set(name, { turns: [turn], left: undefined });
    const [first] = line.turns;
    line.turns.push(turn);
    turn.ahead++;
    this.#limit(first!);
  }

  async #wait(turn: Turn, slot: Slot, { signals, untilMs }: EnterOptions): Promise<Turn> {
    const { promise } = turn.settling = Promise.withResolvers<Turn>();
    const { runtime, timeoutMs } = this.parts;
    const leftMs = (untilMs ?? Infinity) - runtime.monotonic();
    const fail = () => turn.fail(tooSlow(turn, Math.ceil(leftMs)));
    const timer = leftMs < timeoutMs ? runtime.setTimeout(fail, Math.max(0, leftMs)) : undefined;
    const abort = ({ reason }: AbortSignal) => turn.fail(reason);
    const all = signals?.().filter((signal) => signal !== undefined) ?? [];
    for (const signal of all) {
      if (signal.aborted) turn.fail(signal.reason);
      onAbort(signal, abort);
    }
    if (this.#closed !== undefined) turn.fail(this.#closed);
    this.#late.add(turn);
    try {
      return await promise;
    } finally {
      runtime.clearTimeout(timer);
      this.#late.delete(turn);
      for (const signal of all) offAbort(signal, abort);
      slot[Symbol.dispose]();
    }
  }

  #start(turn: Turn): void {
    turn.settling!.resolve(turn);
    if (this.isContended(turn)) this.#limit(turn);
  }

  /** Limits the time of a turn that others wait for. */
  #limit(turn: Turn): void {
    if (turn.ahead > 0 || turn.isAwaited) return;
    turn.isAwaited = true;
    this.#awaited.add(turn);
  }
}

/**
 * Takes a slot for a write.
 *
 * @param quota The bound.
 * @param account The client; by default, no share applies.
 * @returns The slot, which the caller MUST dispose of.
 * @throws {RequestError} With the code `unavailable`, `retryAfterMs` and `level` if none is free.
 */
export function takeSlot(quota: Quota, account: Account | undefined): Slot {
  try {
    return quota.take(account);
  } catch (error) {
    if (!(error instanceof LimitError)) throw error;
    throw rejectionOf(error, "unavailable");
  }
}

/** The turn of a write in the lines of its rows. Ends when it is disposed of. */
export class Turn implements Disposable {
  readonly id: string;
  /** Names of the rows. */
  readonly rows: readonly string[];
  /** The turn whose function makes this write. */
  readonly outer: Turn | undefined;
  /** Number of lines in which other writes are first. */
  ahead = 0;
  /** True while its time is limited, because others wait. */
  isAwaited = false;
  isOver = false;
  /** Settles the wait. */
  settling: PromiseWithResolvers<Turn> | undefined;
  /** End of the attempts, on the monotonic clock. */
  untilMs: number;
  readonly #queue: RowQueue;
  #attempts = 0;
  #pauses: Backoff | undefined;

  constructor(
    queue: RowQueue,
    { id, rows, outer }: {
      readonly id: string;
      readonly rows: readonly string[];
      readonly outer: Turn | undefined;
    },
  ) {
    this.#queue = queue;
    this.id = id;
    this.rows = rows;
    this.outer = outer;
    const { runtime, timeoutMs } = queue.parts;
    this.untilMs = runtime.monotonic() + timeoutMs;
  }

  /** True if other writes wait for it. */
  get isContended(): boolean {
    return !this.isOver && this.#queue.isContended(this);
  }

  /** Calls a function of the application, which must not write the rows by `update`. */
  during<T>(call: () => T): T {
    return this.#queue.during(this, call);
  }

  /** The row as the turn before left it. */
  left(row: string): LeftRow | undefined {
    return this.#queue.left(this, row);
  }

  /** Leaves a row to the turns behind this one. */
  hand(row: string, left: LeftRow): void {
    this.#queue.hand(this, row, left);
  }

  /**
   * Waits before another attempt, after others have changed a row during this one. The second
   * attempt follows immediately, and the others after random pauses, which grow.
   *
   * @param row The row that has changed.
   * @param signals Signals that end the pause.
   * @throws {RequestError} With the `contendedCode` of the queue if the time is over.
   */
  async again(row: string, ...signals: readonly (AbortSignal | undefined)[]): Promise<void> {
    const { runtime, contendedCode } = this.#queue.parts;
    const leftMs = this.untilMs - runtime.monotonic();
    if (leftMs <= 0) throw contended(contendedCode, row);
    if (this.#attempts++ === 0) return;
    this.#pauses ??= new Backoff(runtime, PAUSES);
    const pauseMs = Math.min(this.#pauses.next()!, leftMs);
    await pause(runtime, pauseMs, ...signals.filter((signal) => signal !== undefined));
  }

  /** Ends the wait with an error, unless the turn has started. */
  fail(reason: unknown): void {
    if (this.ahead === 0 || this.isOver) return;
    this.#queue.leave(this);
    this.settling!.reject(reason);
  }

  [Symbol.dispose](): void {
    this.#queue.leave(this);
  }
}

/**
 * The present row, as the copy of the rows or the turn before has it, whichever is newer.
 *
 * @param known The row in the copy.
 * @param newer The copy, and the row as the turn before left it.
 * @returns The row; `undefined` if it does not exist.
 */
export function presentRow(
  known: LiveRow | undefined,
  { rows, left }: {
    readonly rows: Pick<PresentRows, "identity" | "version">;
    readonly left: LeftRow | undefined;
  },
): LiveRow | undefined {
  return isNewer(left, rows) ? rowLeft(left) : known;
}

/** Returns whether a row that a turn has left is newer than a copy of the rows. */
export function isNewer(
  left: LeftRow | undefined,
  { identity, version }: Pick<PresentRows, "identity" | "version">,
): left is LeftRow {
  return left !== undefined && left.identity === identity && left.version > version;
}

/** The row as a turn has left it; `undefined` if it does not exist. */
export function rowLeft({ value, version }: LeftRow): LiveRow | undefined {
  return value === undefined ? undefined : { value: freezeRow(JSON.parse(value)), version };
}

/** The error for a transaction that depends on a state which others change all the time. */
export function contendedState(id: string): RequestError {
  return forNow(`others changed "${id}" during each attempt`);
}

function contended(code: string, row: string): RequestError {
  const why = `others changed the row ${describeRow(row)} during each attempt`;
  return new RequestError(code, `Cannot write state: ${why}`, { retryAfterMs: RETRY_MS });
}

function tooSlow({ rows: [row] }: Turn, timeoutMs: number): RequestError {
  return forNow(`earlier writes of the row ${describeRow(row!)} took longer than ${timeoutMs} ms`);
}

function nested(row: string): TypeError {
  const name = describeRow(row);
  return new TypeError(
    `Cannot update: the function that changes the row ${name} must not update it itself`,
  );
}
