/**
 * Decisions of the application: the server needs the results of functions such as `authenticate`
 * and `authorize` to continue. If such a function throws an unexpected error, that is a fault:
 * nothing is decided, and the peer may retry.
 *
 * @module
 */

import type { ConsoleReport } from "./console_report.ts";

type ErrorClass = abstract new (...args: never[]) => Error;

/** Replaces the error that kept the application from making a decision. */
export class DecisionFault extends Error {
  /** Name of the function, such as `authenticate`. */
  declare readonly decision: string;

  /**
   * Creates a fault.
   *
   * @param decision Name of the function.
   * @param message The name of the function, and what went wrong.
   * @param options The application's error, as `cause`.
   */
  constructor(decision: string, message: string, options: ErrorOptions) {
    super(message, options);
    this.name = "DecisionFault";
    this.decision = decision;
  }

  /**
   * Creates the fault for a function that threw.
   *
   * @param decision Name of the function.
   * @param cause The thrown value.
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
   * Creates the fault for a function that returned an invalid result.
   *
   * @param decision Name of the function.
   * @param expected The valid results, in words.
   * @param received The result.
   */
  static returned(decision: string, expected: string, received: unknown): DecisionFault {
    const isPromise = received instanceof Promise;
    // Nothing awaits this promise.
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
 * Checks the network address that the application's `clientAddress` returned.
 *
 * @param address The result.
 * @returns The address; `undefined` if there is none.
 * @throws {DecisionFault} If the result is a promise, or of another type.
 */
export function checkedAddress(address: unknown): string | undefined {
  if (address === undefined || address === null || typeof address === "string") {
    return address ?? undefined;
  }
  throw DecisionFault.returned("clientAddress", "a string or undefined", address);
}

/**
 * Asks the application for a decision.
 *
 * @typeParam T The decision.
 * @param decision Name of the function, for messages.
 * @param ask Calls the function.
 * @param decisions Error classes that the function may throw as its decision; such errors are
 * rethrown unchanged.
 * @returns The decision.
 * @throws {DecisionFault} If the function threw anything else.
 *
 * @example An unreachable database
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
  decisions: readonly ErrorClass[] = [],
): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof DecisionFault || decisions.some((one) => error instanceof one)) {
      throw error;
    }
    throw DecisionFault.thrown(decision, error);
  }
}

/** Options for {@linkcode tellFault}. */
export interface FaultOptions {
  /** Removes secrets from a text. */
  readonly mask?: ((text: string) => string) | undefined;
  /** `true` if a handler of the application also receives each fault. */
  readonly isReported?: boolean | undefined;
}

/**
 * Prints that the application's function failed, and how it can reject instead. Each text is
 * printed at most once per hour. If a handler receives the faults, only the first fault of each
 * function is printed.
 *
 * @param console Prints the line.
 * @param options See {@linkcode FaultOptions}.
 */
export function tellFault(
  console: ConsoleReport,
  { decision, message }: DecisionFault,
  { mask = (text) => text, isReported = false }: FaultOptions = {},
): void {
  const line = `${mask(message)}: clients will try again; ${noOf(decision, message)}`;
  const about = isReported ? decision : line;
  console.tell(isReported ? "reported-fault" : "fault", line, { about });
}

function noOf(decision: string, message: string): string {
  if (decision.startsWith("authorize")) return "return false to reject";
  if (decision === "onPublish") return "throw RequestError to reject";
  return message === "authenticate returned undefined"
    ? "return null to reject, or guest to admit the client"
    : "throw AuthenticationError to reject";
}
