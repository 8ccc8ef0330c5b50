/** Errors of Redis and the client library, and what they mean for a command. */
import { textOf } from "../../base/error_text.ts";

/** Runs a command, and turns errors into a `BrokerError`. */
export type Run = <T>(what: string, command: () => Promise<T>) => Promise<T>;

/**
 * How a command failed:
 *
 * - `later`: Redis did not run the command, but may run it if it is repeated.
 * - `rejected`: Redis did not run the command, and never will.
 * - `unknown`: Redis may have run the command.
 */
type CommandFailure = "later" | "rejected" | "unknown";

/**
 * First words of temporary errors, which mean that Redis is starting, failing over, moving slots,
 * or full.
 */
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

/** Errors of the client library for commands that were not written, for lack of a connection. */
const NOT_CONNECTED = /^(?:Stream isn't writeable|Cluster isn't ready)/;

/** The same, and the error for commands that no node of a cluster took. */
const UNSENT = new RegExp(`${NOT_CONNECTED.source}|^Too many Cluster redirections`);

/** Recognizes the error for a lack of a connection, which does not say why there is none. */
export function isUnsent(error: unknown): boolean {
  return error instanceof Error && NOT_CONNECTED.test(error.message);
}

/** Classifies a failed command. */
export function failureOf(error: unknown): CommandFailure {
  if (!(error instanceof Error)) return "unknown";
  if (UNSENT.test(error.message)) return "later";
  if (error.name !== "ReplyError") return "unknown";
  return PASSING.has(error.message.split(" ", 1)[0]!) ? "later" : "rejected";
}

/** First words of errors for a Redis that accepts no writes until someone acts, with the remedies. */
const REMEDIES: ReadonlyMap<string, string> = new Map([
  ["MISCONF", "add disk space, or make the folder of Redis writable"],
  ["NOREPLICAS", "start more replicas, or lower min-replicas-to-write"],
  ["OOM", "raise maxmemory, or delete keys that nothing uses"],
  ["READONLY", "connect to the primary, or promote this replica"],
]);

/**
 * Describes an error of a Redis that accepts no writes until someone acts.
 *
 * @param error The error of a command.
 * @returns The error with the remedy; `undefined` for any other error.
 */
export function refusalOf(error: unknown): string | undefined {
  const reason = reasonOf(error);
  if (!(reason instanceof Error) || reason.name !== "ReplyError") return undefined;
  const remedy = REMEDIES.get(reason.message.split(" ", 1)[0]!);
  return remedy && `${withoutScript(reason.message).replace(/\.$/, "")}; ${remedy}`;
}

/** Removes the script that failed from an error's text, because it is of no use to anyone. */
function withoutScript(text: string): string {
  return text.replace(/\.? script: .*$/s, "");
}

/** Recognizes the error of a replica, which accepts no writes. */
export function isOfReplica(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("READONLY ");
}

/**
 * Recognizes the error of a Redis that rejects the database of the URL. The connection would use
 * database 0 instead.
 */
export function isOfDatabase(error: unknown): boolean {
  return (error as { readonly command?: { readonly name?: string } }).command?.name === "select";
}

/**
 * Unwraps the client library's error for all nodes together, which contains the reason for one of
 * them.
 */
export function reasonOf(error: unknown): unknown {
  const lastNodeError = error instanceof Error && "lastNodeError" in error
    ? error.lastNodeError
    : undefined;
  return lastNodeError instanceof Error ? lastNodeError : error;
}

/**
 * Says in words why a command failed. The client library's own words about its queue, for a command
 * that was never written, help nobody.
 */
export function whyOf(error: unknown): string {
  const reason = reasonOf(error);
  return isUnsent(reason) ? "Redis is unreachable" : withoutScript(textOf(reason));
}
