/**
 * Reading headers that anybody may have written.
 *
 * @module
 */
import type { Msg } from "@nats-io/transport-node";
import { tagOf } from "../tag.ts";

/**
 * A header of a message; empty if it has none. The client library throws where headers are none,
 * and stops reading for good if a callback throws.
 */
export function headerOf(message: Pick<Msg, "headers">, name: string): string {
  try {
    return message.headers?.get(name) ?? "";
  } catch {
    return "";
  }
}

/** The sequence that a stream gave to a message which it published again; 0 if none did. */
export function sequenceOf(message: Msg): number {
  const seq = Number(headerOf(message, "Nats-Sequence"));
  return Number.isSafeInteger(seq) && seq > 0 ? seq : 0;
}

/** The header by which a publication is recognized; JetStream keeps it, and publishes it again. */
export const ID_HEADER = "Nats-Msg-Id";

/** The tag of a publication, made of its id; `undefined` if it has none. */
export function tagIn(message: Pick<Msg, "headers">): string | undefined {
  const id = headerOf(message, ID_HEADER);
  return id === "" ? undefined : tagOf(id);
}
