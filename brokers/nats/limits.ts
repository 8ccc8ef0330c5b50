/** Limits of JetStream at which a write is rejected, and what an administrator can do. */
import { JetStreamApiError } from "@nats-io/jetstream";
import { TimeoutError } from "@nats-io/nats-core";
import { textOf } from "../../base/error_text.ts";

const ACCOUNT = "raise the JetStream limits of the account, or delete streams that nothing uses";
const SERVER =
  "raise max_file_store and max_memory_store of the server, add disk space, or delete streams that nothing uses";

/**
 * Remedies by JetStream's error codes. Some of these errors have the status of a stream without a
 * leader, but unlike those, they last until someone acts.
 */
const REMEDIES: ReadonlyMap<number, string> = new Map([
  [10002, ACCOUNT], // resource limits exceeded for account
  [10023, SERVER], // insufficient resources
  [10026, ACCOUNT], // maximum consumers limit reached
  [10027, ACCOUNT], // maximum number of streams reached
  [10028, SERVER], // insufficient memory resources available
  [10039, "enable JetStream for the account"], // JetStream not enabled for account
  [10047, SERVER], // insufficient storage resources available
  [10113, "set maxStreamBytes"], // account requires a stream config to have max bytes set
  [10120, ACCOUNT], // no JetStream default or applicable tiered limit present
  [10122, "set a smaller maxStreamBytes"], // stream max bytes exceeds account limit max stream bytes
]);

/** Error code for a message that the stream could not store, for any reason. */
const STORE_FAILED = 10077;

/** Descriptions of that error for a full disk or a full stream. */
const FULL = /no space left|maximum .* exceeded/;

/**
 * Returns the remedy of an error.
 *
 * @param code Error code of JetStream.
 * @param description The server's description.
 * @returns The remedy; `undefined` if the error is not about a limit.
 */
export function remedyOf(code: number, description: string): string | undefined {
  if (code === STORE_FAILED) return FULL.test(description) ? SERVER : undefined;
  return REMEDIES.get(code);
}

/** Describes an error with its remedy, if it is about a limit; otherwise returns `undefined`. */
export function limitText(error: unknown): string | undefined {
  // The client library wraps some of the server's errors.
  const reply = error instanceof Error && error.cause instanceof JetStreamApiError
    ? error.cause
    : error;
  if (!(reply instanceof JetStreamApiError)) return undefined;
  const remedy = remedyOf(reply.code, reply.message);
  return remedy && `JetStream replied ${reply.message}; ${remedy}`;
}

/** Describes an error of JetStream or a missing reply, with the remedy if it is about a limit. */
export function replyText(error: unknown): string {
  if (error instanceof TimeoutError) return "JetStream does not respond";
  return limitText(error) ?? textOf(error);
}
