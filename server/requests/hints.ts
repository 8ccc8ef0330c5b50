/** Lines on the console about likely mistakes in the rights and topics of clients. */
import type { ConsoleReport } from "../../base/console_report.ts";
import type { Topics } from "../../pubsub/topics.ts";
import { type HistoryOptions, STREAM_PREFIX } from "../../session/wire/recovery.ts";

/**
 * Prints that a client was denied an action; usually `authorize` is missing or wrong.
 *
 * @param console Prints the line once.
 * @param what The action and the topic, in words.
 * @param wasAsked True if the server has `authorize`.
 */
export function tellDenied(console: ConsoleReport, what: string, wasAsked: boolean): void {
  if (wasAsked) {
    return console.tell("denied", `authorize denied a client to ${what}`, { about: what });
  }
  console.tell(
    "no-authorize",
    `A client may not ${what}: the server has no authorize, and denies everything without it`,
  );
}

/**
 * If a topic looks like a pattern, prints that topics are literal.
 *
 * @param console Prints the line once.
 * @param topic The topic of a subscription.
 */
export function tellLiteral(console: ConsoleReport, topic: string): void {
  if (!/\*|\{[^{}]+\}/.test(topic)) return;
  console.tell(
    "literal-topic",
    `A session subscribed to "${topic}". Topics are literal: the session receives publications on ` +
      "exactly this topic, and no others",
    { about: topic },
  );
}

/**
 * If a subscription asks for the newest messages of a topic without a history, prints that the
 * topic has no history.
 *
 * @param console Prints the line once.
 * @param options The start position, and the topics of the server.
 */
export function tellNoHistory(
  console: ConsoleReport,
  topic: string,
  { last, topics }: Pick<HistoryOptions, "last"> & { readonly topics: Topics },
): void {
  if (!last || topics.historyOf(topic) !== undefined || topic.startsWith(STREAM_PREFIX)) return;
  console.tell(
    "no-history",
    `A session subscribed to "${topic}" with last: ${last}, and the topic has no history: only new ` +
      "messages arrive. Add a pattern for the topic to history of the server",
    { about: topic },
  );
}
