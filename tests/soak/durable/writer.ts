/**
 * A writer that appends numbers to a durable stream over HTTP and retries until it succeeds. If an
 * append gets no reply, the writer repeats it on any node with the same sequence number.
 *
 * @module
 */
import { sleep } from "../processes/processes.ts";

/** Pause before a retry, in milliseconds. */
const RETRY_MS = 50;

/** Longest wait for the reply to an append, in milliseconds. */
const ANSWER_MS = 5_000;

/** Options of {@linkcode writeNumbers}. */
export interface WriteOptions {
  /** Returns the URL of the stream at one of the nodes. */
  readonly urlOf: () => string;
  /** Number of numbers to append, starting at 0. */
  readonly count: number;
  /** Pause between two appends, in milliseconds. */
  readonly betweenMs: number;
}

/** Creates a stream, appends the numbers, and closes the stream. */
export async function writeNumbers({ urlOf, count, betweenMs }: WriteOptions): Promise<void> {
  const json = { "content-type": "application/json" };
  await persist(urlOf, { method: "PUT", headers: json });
  for (let number = 0; number < count; number++) {
    const isLast = number === count - 1;
    const headers = {
      ...json,
      "producer-id": "writer",
      "producer-epoch": "0",
      "producer-seq": `${number}`,
      ...(isLast && { "stream-closed": "true" }),
    };
    await persist(urlOf, { method: "POST", headers, body: `${number}` });
    if (betweenMs > 0) await sleep(betweenMs);
  }
}

/** Retries a request until a node reports success. */
async function persist(urlOf: () => string, init: RequestInit): Promise<void> {
  while (true) {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), ANSWER_MS);
    try {
      const response = await fetch(urlOf(), { ...init, signal: late.signal });
      const text = await response.text();
      if (response.ok) return;
      if (response.status < 500 && response.status !== 429) {
        throw new Rejection(`${response.status} ${text}`);
      }
    } catch (error) {
      if (error instanceof Rejection) throw error;
      // A node or the broker is unreachable.
    } finally {
      clearTimeout(timer);
    }
    await sleep(RETRY_MS);
  }
}

/** A response that a retry would not change. */
class Rejection extends Error {}
