/** Checks of `skein doctor`: their results, their time limits, and their order. */
import { textOf } from "../../base/error_text.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { TimeoutError } from "../../errors.ts";
import { plainText } from "../context.ts";

/** Outcome of a check. */
export type CheckState = "ok" | "warning" | "failed" | "skipped";

/** Result of a check. */
export interface Check {
  /** Stable name, such as `dns` or `webtransport.udp`. */
  readonly id: string;
  /** Name for people. */
  readonly title: string;
  /** Outcome: a warning works and deserves a look, a skipped check could not run. */
  readonly state: CheckState;
  /** The observation in one line. */
  readonly detail: string;
  /** The probable cause of a failure or a warning. */
  readonly cause?: string | undefined;
  /** The cure of that cause. */
  readonly cure?: string | undefined;
  /** Duration, in milliseconds; absent for a check that was skipped. */
  readonly ms?: number | undefined;
  /** Observed values, by name. */
  readonly facts?: Readonly<Record<string, unknown>> | undefined;
}

/** The part of a check that its function finds out. */
export type Finding = Omit<Check, "id" | "title" | "ms">;

/** A fault that a check found, with cause and cure. */
export class Fault extends Error {
  /** The finding of the check. */
  readonly finding: Finding;

  /** Creates the fault from its finding. */
  constructor(finding: Omit<Finding, "state"> & { readonly state?: CheckState | undefined }) {
    super(finding.detail);
    this.name = "Fault";
    this.finding = { state: "failed", ...finding };
  }
}

/** Options for {@linkcode CheckList}. */
export interface CheckListOptions {
  /** Clocks and timers. */
  readonly runtime: Runtime;
  /** Ends all checks. */
  readonly signal: AbortSignal;
  /** Time limit of each check, in milliseconds. */
  readonly timeoutMs: number;
  /** Called with each result as it comes. */
  readonly onCheck: (check: Check) => void;
}

/** Options of one check. */
export interface RunOptions {
  /** Stable name. */
  readonly id: string;
  /** Name for people. */
  readonly title: string;
  /** Cause and cure of a check that takes longer than its time; a general text by default. */
  readonly late?: Pick<Finding, "cause" | "cure"> | undefined;
  /** Time limit in place of that of all checks, in milliseconds. */
  readonly timeoutMs?: number | undefined;
}

/** Runs checks, each within a time limit, and keeps the results. */
export class CheckList {
  readonly #options: CheckListOptions;
  /** Results so far; bounded by the number of checks in the program. */
  readonly checks: Check[] = [];

  /** Creates an empty list. */
  constructor(options: CheckListOptions) {
    this.#options = options;
  }

  /** Clocks and timers. */
  get runtime(): Runtime {
    return this.#options.runtime;
  }

  /**
   * Runs a check. Errors become a failed check, and the end of the time too.
   *
   * @typeParam T Type of the value for later checks.
   * @param options Name and time limit.
   * @param find Finds out; the signal is aborted at the end of the time.
   * @returns The value of the function; `undefined` if the check failed.
   * @throws The reason of the signal of all checks, if that was aborted.
   */
  async run<T>(
    { id, title, late, timeoutMs = this.#options.timeoutMs }: RunOptions,
    find: (signal: AbortSignal) => Promise<Finding & { readonly value?: T | undefined }>,
  ): Promise<T | undefined> {
    const { runtime, signal } = this.#options;
    signal.throwIfAborted();
    const stop = new AbortController();
    const startMs = runtime.monotonic();
    let found: Finding & { readonly value?: T };
    try {
      found = await within(runtime, find(AbortSignal.any([signal, stop.signal])), {
        signal,
        timeoutMs,
      });
    } catch (error) {
      signal.throwIfAborted();
      found = error instanceof Fault ? error.finding : error instanceof TimeoutError
        ? {
          state: "failed",
          detail: `no answer within ${timeoutMs / 1_000} s`,
          cause: "The server or a firewall on the way stays silent",
          cure: "Look at the firewall and the load of the server, or raise --timeout",
          ...late,
        }
        : { state: "failed", detail: textOf(error) };
    } finally {
      stop.abort();
    }
    const { value, ...finding } = found;
    const ms = Math.round((runtime.monotonic() - startMs) * 10) / 10;
    this.#add({ id, title, ...finding, ms: finding.state === "skipped" ? undefined : ms });
    return value;
  }

  /** Adds a check whose finding follows from an earlier check. */
  add(id: string, title: string, finding: Finding): void {
    this.#add({ id, title, ...finding });
  }

  /** Adds a check that cannot run. */
  skip(id: string, title: string, detail: string): void {
    this.#add({ id, title, state: "skipped", detail });
  }

  /** Finds the state of a check; `undefined` if the check did not run. */
  stateOf(id: string): CheckState | undefined {
    return this.checks.find((check) => check.id === id)?.state;
  }

  #add(check: Check): void {
    const { detail, cause, cure } = check;
    const safe = {
      ...check,
      detail: plainText(detail).trim(),
      cause: cause && plainText(cause),
      cure: cure && plainText(cure),
    };
    this.checks.push(safe);
    this.#options.onCheck(safe);
  }
}
