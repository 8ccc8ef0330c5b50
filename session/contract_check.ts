/**
 * What becomes of a message by what the contract says of it. It is the contract's, and not the
 * session's: a page without a contract loads nothing of it.
 *
 * @module
 */
import type { RequestFailure } from "../errors.ts";
import type { ContractMatch } from "./contract.ts";
import type { Inbound } from "./inbound.ts";
import type { Message } from "./message.ts";
import { validate, type Validation } from "./base/standard_schema.ts";
import type { Incoming } from "./incoming.ts";

/** A session, as its contract meets it. */
export interface Checked {
  /** What takes the message that fits. */
  readonly inbound: Pick<Inbound, "accept" | "countInvalid">;
  /** Sends an answer that is a failure; `null` answers a message without id. */
  fail(id: number | null, failure: RequestFailure): void;
  /** Reports a failed schema to the application. */
  handlerFailed(error: unknown, reason: string): void;
}

/** What is left of a message that was checked; `undefined` if it was refused. */
export type CheckedMessage = Message | undefined | Promise<Message | undefined>;

/**
 * Checks a message, and has its session accept or refuse it.
 *
 * @param match What the contract has for its topic.
 * @param incoming What came.
 * @param session The session.
 * @returns The message; later, where the schema takes its time.
 */
export function checkIncoming(
  match: ContractMatch | undefined,
  incoming: Incoming,
  session: Checked,
): CheckedMessage {
  const { topic, data, id } = incoming;
  const refuse = (failure: RequestFailure): undefined => {
    session.fail(id ?? null, failure);
    session.inbound.countInvalid(failure.message);
  };
  const schemaFailed = (error: unknown): undefined => {
    session.fail(id ?? null, { code: "failed", message: "The schema failed" });
    session.handlerFailed(error, "The schema failed");
  };
  if (match === undefined) {
    const message = `No message of the contract fits the topic "${topic}"`;
    return refuse({ code: "unknown-topic", message });
  }
  if (match.kind === "request" && id === undefined) {
    return refuse({ code: "invalid", message: `"${topic}" is a request: it needs an id` });
  }
  if (match.input === undefined) return session.inbound.accept(incoming, match);
  const judged = (outcome: Validation<unknown>): Message | undefined => {
    if (outcome.ok) return session.inbound.accept({ ...incoming, data: outcome.value }, match);
    const { message, path } = outcome;
    return refuse({ code: "invalid", message, path });
  };
  let outcome: Validation<unknown> | Promise<Validation<unknown>>;
  try {
    outcome = validate(match.input, data);
  } catch (error) {
    return schemaFailed(error);
  }
  return outcome instanceof Promise ? outcome.then(judged, schemaFailed) : judged(outcome);
}
