/** Headers of messages from any program. */
import type { Msg } from "@nats-io/transport-node";
import { tagOf } from "../tag.ts";

/**
 * Reads a header of a message; empty if absent. The client library throws at malformed headers, and
 * stops reading for good if a callback throws.
 */
export function headerOf(message: Pick<Msg, "headers">, name: string): string {
  try {
    return message.headers?.get(name) ?? "";
  } catch {
    return "";
  }
}

/** Reads the sequence of a message that a stream published again; 0 for any other message. */
export function sequenceOf(message: Msg): number {
  const seq = Number(headerOf(message, "Nats-Sequence"));
  return Number.isSafeInteger(seq) && seq > 0 ? seq : 0;
}

/** The header with the id of a publication; JetStream keeps the header, and publishes it again. */
export const ID_HEADER = "Nats-Msg-Id";

/** Makes the tag of a publication from the id; `undefined` without an id. */
export function tagIn(message: Pick<Msg, "headers">): string | undefined {
  const id = headerOf(message, ID_HEADER);
  return id === "" ? undefined : tagOf(id);
}
