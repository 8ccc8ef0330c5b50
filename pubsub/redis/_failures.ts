/**
 * What an error of the client library means for what was sent.
 *
 * @module
 */

/**
 * - `later`: Redis did not do it, and may do it when it is asked again.
 * - `refused`: Redis did not do it, and never will.
 * - `unknown`: nobody knows whether Redis did it.
 */
export type Failure = "later" | "refused" | "unknown";

/** How errors of Redis begin that pass: it starts, fails over, moves slots, or is full. */
const PASSING: ReadonlySet<string> = new Set([
  "ASK",
  "BUSY",
  "CLUSTERDOWN",
  "LOADING",
  "MASTERDOWN",
  "MISCONF",
  "MOVED",
  "NOREPLICAS",
  "OOM",
  "READONLY",
  "TRYAGAIN",
]);

/** What a client says that could not even write. */
const UNSENT = /^(?:Stream isn't writeable|Cluster isn't ready|Too many Cluster redirections)/;

/** Tells what became of a command that failed. */
export function failureOf(error: unknown): Failure {
  if (!(error instanceof Error)) return "unknown";
  if (UNSENT.test(error.message)) return "later";
  if (error.name !== "ReplyError") return "unknown";
  return PASSING.has(error.message.split(" ", 1)[0]!) ? "later" : "refused";
}
