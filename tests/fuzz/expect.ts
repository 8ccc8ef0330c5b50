/**
 * What holds for every input, however bad.
 *
 * @module
 */
import { assert } from "@std/assert";

/** A class of errors. */
// deno-lint-ignore no-explicit-any
type ErrorClass = abstract new (...args: any[]) => Error;

/** What happened: a value, or an error that was allowed. */
export type Outcome<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: Error };

/**
 * Runs something that may fail, but only as it says.
 *
 * @param run What to run.
 * @param allowed Classes of the errors that it documents.
 * @returns What it returned, or the error.
 */
export function failsOnlyBy<T>(run: () => T, ...allowed: readonly ErrorClass[]): Outcome<T> {
  try {
    return { ok: true, value: run() };
  } catch (error) {
    return { ok: false, error: checkError(error, allowed) };
  }
}

/**
 * The same for what takes time.
 *
 * @param run What to run.
 * @param allowed Classes of the errors that it documents.
 * @returns What it resolved with, or the error.
 */
export async function rejectsOnlyBy<T>(
  run: () => Promise<T>,
  ...allowed: readonly ErrorClass[]
): Promise<Outcome<T>> {
  try {
    return { ok: true, value: await run() };
  } catch (error) {
    return { ok: false, error: checkError(error, allowed) };
  }
}

function checkError(error: unknown, allowed: readonly ErrorClass[]): Error {
  if (!(error instanceof Error)) {
    throw new Error(`Expected an error, received ${Deno.inspect(error)}`);
  }
  const isAllowed = allowed.some((one) => error instanceof one);
  assert(
    isAllowed,
    `Expected ${allowed.map(({ name }) => name).join(" or ")}, received ${error.stack ?? error}`,
  );
  // What is said of bad input goes to logs and peers: it must not grow with the input.
  assert(error.message.length < 2_048, `an error's message has ${error.message.length} characters`);
  return error;
}

/** Counts steps, so that a loop without end is found on every machine alike. */
export class Steps {
  #left: number;
  readonly #what: string;

  /**
   * Allows a number of steps.
   *
   * @param most How many.
   * @param what Of what.
   */
  constructor(most: number, what: string) {
    this.#left = most;
    this.#what = what;
  }

  /** Takes one. */
  take(): void {
    assert(this.#left-- > 0, `${this.#what} does not come to an end`);
  }
}
