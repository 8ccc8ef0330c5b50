/**
 * Properties that hold for every input, however malformed.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";

// deno-lint-ignore no-explicit-any
type ErrorClass = abstract new (...args: any[]) => Error;

/** The result of a call: a value, or an allowed error. */
export type Outcome<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: Error };

/**
 * Runs a function that may fail only with documented errors.
 *
 * @param run The function.
 * @param allowed Classes of the documented errors.
 * @returns The value or the error.
 */
export function failsOnlyBy<T>(run: () => T, ...allowed: readonly ErrorClass[]): Outcome<T> {
  try {
    return { ok: true, value: run() };
  } catch (error) {
    return { ok: false, error: checkError(error, allowed) };
  }
}

/**
 * Runs an asynchronous function that may fail only with documented errors.
 *
 * @param run The function.
 * @param allowed Classes of the documented errors.
 * @returns The value or the error.
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
  // Messages about invalid input reach logs and peers, and must not grow with the input.
  assert(error.message.length < 2_048, `an error's message has ${error.message.length} characters`);
  return error;
}

/**
 * `Cannot <verb>: <rule>`, or a rule or fact about something that it names first, but not the message
 * of an engine's error.
 */
const DETAIL =
  /^(?:Cannot [a-z][a-z -]*(?:: \S|$)|(?:The|There|Too many|Stream|Ids|Names|Origin|[A-Z]\w*-[\w-]+) [\w"])/;

/**
 * Checks a problem (RFC 9457).
 *
 * @param body The body of a response.
 * @param status The status of the response.
 * @param what The response, for the message of the error.
 */
export function checkProblem(
  body: { readonly [member: string]: unknown },
  status: number,
  what: string,
): void {
  assertEquals([body.status, body.type], [status, `urn:skein:problem:${body.code}`], what);
  const detail = String(body.detail);
  assert(DETAIL.test(detail) && !detail.includes("[object") && detail.length < 1_000, what);
}

/** Counts steps, so that every machine detects an endless loop in the same way. */
export class Steps {
  #left: number;
  readonly #what: string;

  /**
   * Allows a number of steps.
   *
   * @param most The maximum number of steps.
   * @param what The name of the steps.
   */
  constructor(most: number, what: string) {
    this.#left = most;
    this.#what = what;
  }

  /** Counts one step. */
  take(): void {
    assert(this.#left-- > 0, `${this.#what} does not finish`);
  }
}
