/** Checks of `skein doctor`: results, time limits and order. */
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
  /** Title for display. */
  readonly title: string;
  /**
   * Outcome. A warning means that something works but needs attention; a skipped check could not
   * run.
   */
  readonly state: CheckState;
  /** The observation, on one line. */
  readonly detail: string;
  /** The probable cause of a failure or a warning. */
  readonly cause?: string | undefined;
  /** How to fix the cause. */
  readonly cure?: string | undefined;
  /** Duration, in milliseconds; absent if the check was skipped. */
  readonly ms?: number | undefined;
  /** Observed values, by name. */
  readonly facts?: Readonly<Record<string, unknown>> | undefined;
}

/** The part of a result that the check's function determines. */
export type Finding = Omit<Check, "id" | "title" | "ms">;

/** A problem that a check found, with its cause and fix. */
export class Fault extends Error {
  /** The finding of the check. */
  readonly finding: Finding;

  /** Creates the error from its finding. */
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
  /** Cancels all checks. */
  readonly signal: AbortSignal;
  /** Time limit of each check, in milliseconds. */
  readonly timeoutMs: number;
  /** Called with each result. */
  readonly onCheck: (check: Check) => void;
}

export interface CheckRunOptions {
  /** Stable name. */
  readonly id: string;
  /** Title for display. */
  readonly title: string;
  /** Cause and fix if a check exceeds its time limit; by default, a general text. */
  readonly late?: Pick<Finding, "cause" | "cure"> | undefined;
  /** Time limit that overrides the general limit, in milliseconds. */
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
   * Runs a check. An error or a timeout becomes a failed check.
   *
   * @typeParam T Type of the value that later checks use.
   * @param options Name and time limit.
   * @param find Performs the check; the signal is aborted when the time is up.
   * @returns The value that `find` returned; `undefined` if the check failed.
   * @throws The abort reason, if all checks were cancelled.
   */
  async run<T>(
    { id, title, late, timeoutMs = this.#options.timeoutMs }: CheckRunOptions,
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
          detail: `no response within ${timeoutMs / 1_000} s`,
          cause: "The server or a firewall in between does not respond",
          cure: "Check the firewall and the server's load, or raise --timeout",
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

  /** Adds the result of a check that follows from an earlier one. */
  add(id: string, title: string, finding: Finding): void {
    this.#add({ id, title, ...finding });
  }

  /** Adds a check that cannot run. */
  skip(id: string, title: string, detail: string): void {
    this.#add({ id, title, state: "skipped", detail });
  }

  /** The state of a check; `undefined` if it did not run. */
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
