/** The producer of all servers: words without an end, 64 in a turn of the event loop. */
import { setImmediate } from "node:timers";

/** Times at which a producer was stopped, in milliseconds since the Unix epoch. */
export const stops = [];

/** Yields words until the consumer stops. Each word has one `@`, by which the generator counts. */
export async function* words() {
  try {
    for (let i = 1;; i++) {
      if (i % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
      yield `word@${i}`;
    }
  } finally {
    stops.push(performance.timeOrigin + performance.now());
  }
}
