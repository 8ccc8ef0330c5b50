/** The header with which a client requests one response of known length, and says when it returns. */

/** The longest wait of a poll for an event, in seconds; proxies time out after 30 s or more. */
export const MAX_WAIT_S = 25;

/** The longest time between two polls that a server allows for, in seconds. */
export const MAX_EVERY_S = 60;

/** One request for events. */
export interface Poll {
  /** The longest wait for an event, in seconds. */
  readonly waitS: number;
  /**
   * The longest time until the client's next request, in seconds; 0 if that follows immediately.
   * Browsers run the timers of a hidden page once a minute.
   */
  readonly everyS: number;
}

/** A poll that waits as long as it may, after which the next one follows immediately. */
export const LONG_POLL: Poll = { waitS: MAX_WAIT_S, everyS: 0 };

/**
 * Writes the value of the header, an item of RFC 9651 with parameters.
 *
 * @example Usage
 * ```ts
 * import { LONG_POLL, readPoll, writePoll } from "./polls.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(writePoll({ waitS: 0, everyS: 60 }), "1;wait=0;every=60");
 * assertEquals(writePoll(LONG_POLL), "1");
 * assertEquals(readPoll("1;wait=0;every=60"), { waitS: 0, everyS: 60 });
 * assertEquals(readPoll("1"), LONG_POLL);
 * ```
 */
export function writePoll({ waitS, everyS }: Poll): string {
  const wait = waitS === MAX_WAIT_S ? "" : `;wait=${waitS}`;
  return `1${wait}${everyS === 0 ? "" : `;every=${everyS}`}`;
}

/**
 * Reads the value of the header. Unknown parameters are ignored, and times are limited to what a
 * server allows.
 *
 * @returns The poll; `undefined` if a time is not a whole number of seconds.
 */
export function readPoll(value: string): Poll | undefined {
  let { waitS, everyS } = LONG_POLL;
  for (const parameter of value.split(";").slice(1)) {
    const [name, text = ""] = parameter.trim().split("=");
    if (name !== "wait" && name !== "every") continue;
    if (!/^\d{1,5}$/.test(text)) return undefined;
    if (name === "wait") waitS = Math.min(MAX_WAIT_S, Number(text));
    else everyS = Math.min(MAX_EVERY_S, Number(text));
  }
  return { waitS, everyS };
}
