/** Keys of publications: their names, their maximum number, and the error beyond it. */
import { LimitError } from "../../errors.ts";
import { KEY_WINDOW_MS, PRODUCER_NUMBERS, type PublicationKey } from "../broker.ts";

/**
 * Maximum number of texts that a topic remembers as keys: 833 appends a second. The largest keys use
 * 22 MB in memory, 26 MB in Redis, 30 MB in NATS and 53 MB in SQLite.
 */
export const MAX_TOPIC_KEYS = 100_000;

/**
 * Length of a list of a producer's numbers, separated by spaces, from which on it is shortened. Any
 * {@linkcode PRODUCER_NUMBERS} numbers are shorter, and a list of usual numbers grows for a while
 * until it is shortened again.
 */
export const MAX_NUMBERS_LENGTH = 17 * PRODUCER_NUMBERS;

/**
 * Adds a number to the list of a producer's last numbers, separated by spaces, the newest first.
 *
 * @returns The new list; `undefined` if the number is in the list already.
 */
export function withNumber(list: string, number: number): string | undefined {
  if (` ${list} `.includes(` ${number} `)) return undefined;
  const all = list === "" ? `${number}` : `${number} ${list}`;
  return all.length <= MAX_NUMBERS_LENGTH ? all : all.split(" ", PRODUCER_NUMBERS).join(" ");
}

/** Returns the text of a key that the application chose: the key itself, or its producer. */
export function nameOfKey(key: PublicationKey): string {
  return typeof key === "string" ? key : key.producer;
}

/**
 * Rejects a text with lone surrogates, all of which become the same character in UTF-8.
 *
 * @param text A key of a publication, a producer, or the holder of a claim.
 * @throws {RangeError} If the text is not well-formed.
 */
export function checkWellFormed(text: string): void {
  if (text.isWellFormed()) return;
  throw new RangeError(
    `Cannot use key or member: it must be well-formed, received ${JSON.stringify(text)}`,
  );
}

/**
 * Creates the error of an append whose key finds no room.
 *
 * @param retryAfterMs The time until the topic forgets its oldest key, in milliseconds.
 */
export function topicKeysFull(topic: string, retryAfterMs: number): LimitError {
  return keysFull(
    `a topic must have at most ${MAX_TOPIC_KEYS} keys in ${KEY_WINDOW_MS / 1_000} s, and ` +
      `${JSON.stringify(topic)} has as many; append later, to more topics, or without a key`,
    retryAfterMs,
  );
}

/**
 * Creates the error of an append whose key finds no room.
 *
 * @param rule The limit, and what to do about it.
 * @param retryAfterMs The time until the broker forgets a key, in milliseconds.
 */
export function keysFull(rule: string, retryAfterMs: number): LimitError {
  return new LimitError("keys", `Cannot append: ${rule}`, {
    retryAfterMs: Math.max(1, Math.ceil(retryAfterMs)),
    level: "server",
  });
}
