/**
 * Decisions of the application: functions such as `authenticate` and `authorize`, without whose
 * answer the server cannot go on. An error that is no answer is a fault: nothing is decided, and the
 * peer may ask again.
 *
 * @module
 */

/** A class of errors. */
type ErrorClass = abstract new (...args: never[]) => Error;

/** Thrown in place of an error by which the application failed to decide. */
export class DecisionFault extends Error {
  /** Name of the function, such as `authenticate`. */
  declare readonly decision: string;

  /**
   * Creates a fault.
   *
   * @param decision Name of the function.
   * @param message The function and what went wrong.
   * @param options The error of the application, as `cause`.
   */
  constructor(decision: string, message: string, options: ErrorOptions) {
    super(message, options);
    this.name = "DecisionFault";
    this.decision = decision;
  }

  /**
   * Creates the fault of a function that threw.
   *
   * @param decision Name of the function.
   * @param cause The thrown value.
   * @returns The fault.
   */
  static thrown(decision: string, cause: unknown): DecisionFault {
    const text = cause instanceof Error
      ? `${cause.name}: ${cause.message}`
      : typeof cause === "string"
      ? cause
      : `a value of type ${typeof cause}`;
    return new DecisionFault(decision, `${decision} threw ${text}`, { cause });
  }

  /**
   * Creates the fault of a function whose result is no answer.
   *
   * @param decision Name of the function.
   * @param expected The results that are answers.
   * @param received The result.
   * @returns The fault.
   */
  static returned(decision: string, expected: string, received: unknown): DecisionFault {
    const isPromise = received instanceof Promise;
    // Nothing waits for a promise that is no answer.
    if (isPromise) received.catch(() => {});
    const text = typeof received === "number"
      ? String(received)
      : isPromise
      ? "a promise"
      : typeof received;
    const cause = new TypeError(
      `Cannot decide: ${decision} must return ${expected}, received ${text}`,
    );
    return new DecisionFault(decision, `${decision} returned ${text}`, { cause });
  }
}

/**
 * Asks the application for a decision.
 *
 * @typeParam T The answer.
 * @param decision Name of the function, for texts.
 * @param ask Calls the function.
 * @param answers Classes of errors by which the function answers; these are thrown unchanged.
 * @returns The answer.
 * @throws {DecisionFault} If the function threw anything else.
 *
 * @example A database that is away
 * ```ts
 * import { decide, DecisionFault } from "./decision.ts";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const ask = () => Promise.reject(new TypeError("connection refused"));
 * const fault = await assertRejects(() => decide("authorize", ask), DecisionFault);
 * assertEquals(fault.message, "authorize threw TypeError: connection refused");
 * ```
 */
export async function decide<T>(
  decision: string,
  ask: () => T | Promise<T>,
  answers: readonly ErrorClass[] = [],
): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof DecisionFault || answers.some((one) => error instanceof one)) throw error;
    throw DecisionFault.thrown(decision, error);
  }
}
