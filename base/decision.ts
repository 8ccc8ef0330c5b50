/**
 * Decisions of the application: the server needs the results of functions such as `authenticate`
 * and `authorize` to continue. If such a function throws an unexpected error, that is a fault:
 * nothing is decided, and the peer may retry.
 *
 * @module
 */

import type { ConsoleReport } from "./console_report.ts";
import { describe } from "./error_text.ts";
import { isPlain } from "./json.ts";

/** Maximum length of a member's name in a text. It may come from elsewhere. */
const MAX_NAME = 40;

type ErrorClass = abstract new (...args: never[]) => Error;

/** Replaces the error that kept the application from making a decision. */
export class DecisionFault extends Error {
  /** Name of the function, such as `authenticate`. */
  declare readonly decision: string;
  /** The valid results, in words, if the function returned another one. */
  declare readonly expected: string | undefined;

  /**
   * Creates a fault.
   *
   * @param decision Name of the function.
   * @param message The name of the function, and what went wrong.
   * @param options The application's error, as `cause`, and the valid results.
   */
  constructor(
    decision: string,
    message: string,
    { expected, ...options }: ErrorOptions & { readonly expected?: string },
  ) {
    super(message, options);
    this.name = "DecisionFault";
    this.decision = decision;
    this.expected = expected;
  }

  /**
   * Creates the fault for a function that threw.
   *
   * @param decision Name of the function.
   * @param cause The thrown value. A fault, such as that of a result, is returned as it is.
   */
  static thrown(decision: string, cause: unknown): DecisionFault {
    if (cause instanceof DecisionFault) return cause;
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
   * @param text The result in words.
   */
  static returned(
    decision: string,
    expected: string,
    received: unknown,
    text: string = describeResult(received),
  ): DecisionFault {
    // Nothing awaits this promise.
    if (received instanceof Promise) received.catch(() => {});
    const cause = new TypeError(
      `Cannot decide: ${decision} must return ${expected}, received ${text}`,
    );
    return new DecisionFault(decision, `${decision} returned ${text}`, { cause, expected });
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
    if (decisions.some((one) => error instanceof one)) throw error;
    throw DecisionFault.thrown(decision, error);
  }
}

/**
 * The results that a function may return to allow or deny an action.
 *
 * @typeParam P Type of the objects that allow the action.
 */
export interface PermissionForm<P> {
  /** The valid results, in words. */
  readonly expected: string;
  /** Members of the objects, with their types; `any` for a member that the caller checks. */
  readonly members: { readonly [M in keyof P]-?: "boolean" | "string" | "any" };
}

/**
 * Checks what a function of the application returned to allow or deny an action. Only the documented
 * results allow it: an object from elsewhere, such as `{ allowed: false }`, must not.
 *
 * @typeParam P Type of the objects that allow the action.
 * @param decision Name of the function.
 * @param returned The result, once it is awaited.
 * @param form See {@linkcode PermissionForm}.
 * @returns `true` or an object if the action is allowed; `undefined` for `false`, `null` and
 * `undefined`, which deny it.
 * @throws {DecisionFault} If the function returned anything else.
 *
 * @example A misspelt member
 * ```ts
 * import { DecisionFault, permissionOf } from "./decision.ts";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const form = { expected: "true, false or { from }", members: { from: "boolean" } } as const;
 * assertEquals(permissionOf("authorize", { from: true }, form), { from: true });
 * assertThrows(() => permissionOf("authorize", { form: true }, form), DecisionFault, "form");
 * ```
 */
export function permissionOf<P extends object>(
  decision: string,
  returned: unknown,
  { expected, members }: PermissionForm<P>,
): P | true | undefined {
  if (returned === true) return true;
  if (returned === false || returned === null || returned === undefined) return undefined;
  const mistake = mistakeIn(returned, members);
  if (mistake === undefined) return returned as P;
  throw DecisionFault.returned(decision, expected, returned, mistake);
}

function describeResult(result: unknown): string {
  return result instanceof Promise ? "a promise" : describe(result);
}

/** Describes what is wrong with a result that must be an object. */
function mistakeIn(
  returned: unknown,
  members: Readonly<Record<string, string>>,
): string | undefined {
  if (typeof returned !== "object" || !isPlain(returned!)) return describeResult(returned);
  const entries = Object.entries(returned!);
  if (entries.length === 0) return "an empty object";
  for (const [name, value] of entries) {
    const kind = Object.hasOwn(members, name) ? members[name] : undefined;
    if (kind === undefined) return `an object with ${JSON.stringify(name.slice(0, MAX_NAME))}`;
    if (kind !== "any" && value !== undefined && typeof value !== kind) {
      return `an object whose ${name} is ${describe(value)}`;
    }
  }
  return undefined;
}

/** Options for {@linkcode tellFault}. */
export interface FaultOptions {
  /** Removes secrets from a text. */
  readonly mask?: ((text: string) => string) | undefined;
  /** `true` if a handler of the application also receives each fault. */
  readonly isReported?: boolean | undefined;
}

/**
 * Prints that the application's function failed, and what it must return, or how it can reject
 * instead. Each text is printed at most once per hour. If a handler receives the faults, only the
 * first fault of each function is printed.
 *
 * @param console Prints the line.
 * @param options See {@linkcode FaultOptions}.
 */
export function tellFault(
  console: ConsoleReport,
  { decision, message, expected }: DecisionFault,
  { mask = (text) => text, isReported = false }: FaultOptions = {},
): void {
  const cure = expected === undefined ? cureOf(decision) : `it must return ${expected}`;
  const line = `${mask(message)}: ${cure}`;
  const about = isReported ? decision : line;
  console.tell(isReported ? "reported-fault" : "fault", line, { about });
}

function cureOf(decision: string): string {
  if (decision === "onPublish") return "nothing was published; throw RequestError to reject";
  const no = decision.startsWith("authorize") ? "return false" : "throw AuthenticationError";
  return `clients will try again; ${no} to reject`;
}
