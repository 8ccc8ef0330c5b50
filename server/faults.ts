/** Faults of the application's decisions, on the console. */
import type { ConsoleReport } from "../base/console_report.ts";
import type { DecisionFault } from "../base/decision.ts";

/** Options for {@linkcode tellFault}. */
interface FaultOptions {
  /** Removes secrets from a text. */
  readonly mask?: (text: string) => string;
  /** `true` if a handler of the application also receives each fault. */
  readonly isReported?: boolean;
}

/**
 * Prints that the application failed to decide, and how it would say no. Prints each text once an
 * hour; if a handler receives the faults, only the first fault of each function.
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

/** Tells how a function says no. */
function noOf(decision: string, message: string): string {
  if (decision.startsWith("authorize")) return "return false to say no";
  return message === "authenticate returned undefined"
    ? "return null to say no, or guest to let the peer in"
    : "throw AuthenticationError to say no";
}
