/** The producer of all servers: endless words, 64 per turn of the event loop. */
import { setImmediate } from "node:timers";

/** Times at which a producer was stopped, in milliseconds since the Unix epoch. */
export const stops = [];

/**
 * Yields words until the consumer stops. Each word contains one `@`, which the generator counts.
 */
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
