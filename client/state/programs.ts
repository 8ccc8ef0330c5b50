/** The functions of transactions and mutations, which run on the rows of a client. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { settlesWithin, within } from "../../base/wait.ts";
import { TimeoutError } from "../../errors.ts";
import {
  ephemeralRead,
  type TransactionChange,
  type TransactionResult,
  type TransactionRows,
} from "../../session/mutations/transaction.ts";
import { isSameRow } from "../../session/rows/row_values.ts";
import { rowName } from "../../session/wire/rows.ts";
import type { ClientRows, RowWriter } from "./rows.ts";

/**
 * Time for which later functions, and the rows of the server, wait for a function, in milliseconds.
 * They go on without its changes, which are shown once it returns.
 */
const SLOW_MS = 100;

/** A row that a function has read, and its value then. */
interface ReadRow {
  readonly type: string;
  readonly key: string;
  readonly value: unknown;
}

/** The rows that a run of a function has read. */
interface Reads {
  /** The rows by name. */
  readonly reads: ReadonlyMap<string, ReadRow>;
  /** The rows of the collections that it has iterated. */
  readonly scans: ReadonlyMap<string, ReadonlyMap<string, unknown>>;
}

/** A mutation, as the server runs it. */
export interface MutationCall {
  readonly name: string;
  readonly input: unknown;
}

/** A function that makes a write. */
export interface ProgramFunction {
  /** Runs it once. */
  run(rows: TransactionRows): TransactionResult | Promise<TransactionResult>;
  /** The mutation that the server runs instead; without one, the server receives the changes. */
  readonly mutation?: MutationCall | undefined;
  /** True if it runs only once the rows are complete, unless the client may not read them. */
  readonly isReader?: boolean | undefined;
}

/** A function in the queue of writes, with its newest run. */
export class Program implements Reads {
  readonly of: ProgramFunction;
  reads: Reads["reads"] = new Map();
  scans: Reads["scans"] = new Map();
  /** The changes of the newest run, which are shown. */
  shown: readonly TransactionChange[] = [];
  /** The error that the newest run has thrown. */
  failure: { readonly error: unknown } | undefined;
  /** True once a run has ended on complete rows. */
  isRun = false;
  /** The run that is under way. */
  running: Promise<void> | undefined;
  /** True while the others don't wait for this run. */
  isSlow = false;
  /** True if a run has read rows before they were complete. It runs again once they are. */
  isEarly = false;
  /** Aborts when the write leaves the queue. */
  readonly over: AbortController = new AbortController();
  /** A mutation's number; 0 before it has one. */
  number = 0;
  /** Name of the client that has given this number permanently; it may be that of an earlier page. */
  client: string | undefined;
  /** Version that the client knew when the mutation was first sent. */
  sentAt = 0;
  /** The version in which the server has made the mutation. */
  madeAt: number | undefined;
  /** Version of the rows that a transaction waits for after a conflict. */
  waitsFor = 0;

  constructor(of: ProgramFunction) {
    this.of = of;
  }

  get hasRead(): boolean {
    return this.reads.size + this.scans.size > 0;
  }

  /** True if the newest run has read one of these rows, or changed it. */
  touches(type: string, key: string): boolean {
    const isIt = (one: TransactionChange) => one.type === type && one.key === key;
    return this.scans.has(type) || this.reads.has(rowName(type, key)) || this.shown.some(isIt);
  }
}

/** A write that a function makes, or another one. */
export interface ProgramWrite extends RowWriter {
  readonly program: Program | undefined;
}

/** The parts of a state that its functions use. */
export interface ProgramsTarget<W extends ProgramWrite> {
  readonly runtime: Runtime;
  readonly rows: ClientRows;
  /** The writes, in their order. */
  readonly queue: readonly W[];
  /** Longest time of a run, in milliseconds. */
  readonly timeoutMs: number;
  /** Returns whether the client reads the state. */
  isReading(): boolean;
  /** Called after a run. */
  ran(write: W, program: Program): void;
  /** Called after a run that has thrown an error. */
  failed(write: W, error: unknown): void;
  /** Called when no run is under way any more. */
  rested(): void;
}

/**
 * Runs functions on the rows as the earlier writes leave them.
 *
 * - **Again:** if rows that a function has read change under it, by the server or by an earlier write,
 *   it runs again. The functions run in the order of their writes, and what changes is shown in one
 *   step with the rows of the server.
 * - **No loops:** what a function writes itself, or what later ones write, is no reason to run it.
 * - **Slow functions** delay the others only for a short time, and end after `timeoutMs`.
 */
export class Programs<W extends ProgramWrite> {
  readonly #target: ProgramsTarget<W>;
  #isRunning = false;
  /** True if all functions have to be looked at. */
  #isDue = false;
  /** Runs until the rows of the server are shown, even if functions still run. */
  #timer: Timer | undefined;

  constructor(target: ProgramsTarget<W>) {
    this.#target = target;
  }

  /**
   * Runs the functions again that have read some rows. If they are asynchronous, the rows are held
   * meanwhile.
   *
   * @param places The rows; by default, all.
   */
  touched(places?: readonly (readonly [type: string, key: string])[]): void {
    const { queue, rows, runtime } = this.#target;
    const isTouched = ({ program }: W) =>
      program !== undefined &&
      (!program.isRun || !places || places.some(([type, key]) => program.touches(type, key)));
    const touched = queue.filter(isTouched);
    if (touched.length === 0) return;
    // Nothing is shown yet of a function that has not run.
    if (touched.some(({ program }) => program!.isRun)) rows.hold();
    this.run();
    if (this.#isRunning) this.#timer ??= runtime.setTimeout(() => this.#show(), SLOW_MS);
  }

  /** Runs the functions that have not run on the present rows. */
  run(): void {
    this.#isDue = true;
    if (!this.#isRunning) void this.#passes();
  }

  /** Runs the function of a new write, even if functions of earlier writes are still running. */
  start(write: W): void {
    this.#start(write, write.program!);
  }

  async #passes(): Promise<void> {
    const { queue, runtime } = this.#target;
    this.#isRunning = true;
    while (this.#isDue) {
      this.#isDue = false;
      for (const write of [...queue]) {
        const { program } = write;
        if (program === undefined || program.over.signal.aborted) continue;
        const running = program.running ?? this.#start(write, program);
        if (running === undefined || program.isSlow) continue;
        program.isSlow = !await settlesWithin(runtime, running, SLOW_MS);
      }
    }
    this.#isRunning = false;
    this.#show();
    this.#target.rested();
  }

  #show(): void {
    this.#target.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#target.rows.show();
  }

  /** Runs a function, if that is needed. Returns a promise if the run is asynchronous. */
  #start(write: W, program: Program): Promise<void> | undefined {
    const { runtime, rows, timeoutMs } = this.#target;
    if (program.isRun && !this.isStale(write, program)) return undefined;
    if ((program.of.isReader || program.isEarly) && this.#isIncomplete) return undefined;
    const reads = new Map<string, ReadRow>();
    const scans = new Map<string, ReadonlyMap<string, unknown>>();
    const view = rows.before(write);
    const of = { reads, scans };
    const checkStored = (type: string) => {
      if (rows.ephemeral.has(type)) throw ephemeralRead(type);
    };
    try {
      const result = program.of.run({
        row(type, key) {
          checkStored(type);
          const value = view.get(type, key);
          const name = rowName(type, key);
          if (!reads.has(name)) reads.set(name, { type, key, value });
          return value === undefined ? undefined : { value, version: 1 };
        },
        rows(type) {
          checkStored(type);
          const all = view.entries(type);
          if (!scans.has(type)) scans.set(type, all);
          return Array.from(all, ([key, value]) => ({ key, value, version: 1 }));
        },
      });
      if (!(result instanceof Promise)) return this.#ran(write, program, { ...of, result });
      const late = "No result from the function of a write within";
      const { signal } = program.over;
      return program.running = within(runtime, result, { signal, timeoutMs, late }).then(
        (result) => this.#ran(write, program, { ...of, result }),
        (error) => this.#threw(write, program, { ...of, error }),
      ).then(() => {
        // It may have read rows before and after they changed.
        this.run();
      });
    } catch (error) {
      return this.#threw(write, program, { ...of, error });
    }
  }

  #ran(
    write: W,
    program: Program,
    { result, ...of }: Reads & { readonly result: TransactionResult },
  ): undefined {
    this.#ended(program);
    const { rows } = this.#target;
    if (program.over.signal.aborted || this.#noteEarly(program, of)) return;
    const hasRead = of.reads.size + of.scans.size > 0;
    // Otherwise, it is shown together with the rows that have changed meanwhile, and with the
    // changes of later functions.
    const isNow = !program.isRun && !(hasRead && (rows.isHeld || this.isStale(write, of)));
    if (!isNow) rows.hold();
    const before = program.shown;
    const shown = [...result.changes.values()];
    Object.assign(program, of, { shown, failure: undefined, isRun: true });
    rows.replace(write, { before, after: shown }, isNow);
    this.#target.ran(write, program);
  }

  #threw(
    write: W,
    program: Program,
    { error, ...of }: Reads & { readonly error: unknown },
  ): undefined {
    this.#ended(program);
    if (program.over.signal.aborted || this.#noteEarly(program, of)) return;
    // It was about rows that have changed meanwhile.
    if (!(error instanceof TimeoutError) && this.isStale(write, of)) return void this.run();
    const before = program.shown;
    Object.assign(program, of, { shown: [], failure: { error }, isRun: true });
    this.#target.rows.replace(write, { before, after: [] }, false);
    this.#target.failed(write, error);
  }

  #ended(program: Program): void {
    program.running = undefined;
    program.isSlow = false;
  }

  get #isIncomplete(): boolean {
    return !this.#target.rows.isLoaded && this.#target.isReading();
  }

  /** Notes whether a run has read rows that are not complete. */
  #noteEarly(program: Program, { reads, scans }: Reads): boolean {
    return program.isEarly = reads.size + scans.size > 0 && this.#isIncomplete;
  }

  /** Returns whether rows differ from those that a run has read. */
  isStale(write: W, { reads, scans }: Reads): boolean {
    const view = this.#target.rows.before(write);
    for (const { type, key, value } of reads.values()) {
      if (!isSameRow(view.get(type, key), value)) return true;
    }
    for (const [type, seen] of scans) {
      const now = view.entries(type);
      if (now === seen) continue;
      if (now.size !== seen.size) return true;
      for (const [key, value] of seen) if (!isSameRow(now.get(key), value)) return true;
    }
    return false;
  }
}
