/** Names of logs: ids, their kinds, and the topics of announcements. */
import { INTERNAL_PREFIX } from "../../pubsub/broker.ts";

/** Prefix of the topics on which brokers announce changes of logs. */
const LOG_TOPICS = `${INTERNAL_PREFIX}log:`;

/** Maximum size of a log's id in bytes, in UTF-8. */
export const MAX_LOG_ID_BYTES = 240;

/**
 * Returns the topic on which the broker announces a log's changes.
 *
 * @returns The topic, closed to sessions and applications.
 */
export function logTopic(id: string): string {
  return `${LOG_TOPICS}${id}`;
}

/**
 * Returns the id of the log whose changes are announced on a topic.
 *
 * @returns The id; `undefined` for any other topic.
 */
export function announcedLog(topic: string): string | undefined {
  return topic.startsWith(LOG_TOPICS) ? topic.slice(LOG_TOPICS.length) : undefined;
}

/**
 * Prefix of the ids of logs that keep responses. The rest of the id is a name that the client
 * chose.
 */
export const RESPONSE_PREFIX = "answer:";

/** Prefix of the ids of logs that keep requests. */
export const REQUEST_PREFIX = `${INTERNAL_PREFIX}request:`;

/**
 * The kinds of logs: responses, the requests of responses that another node may resume, and all
 * other durable streams. Each kind has its own bound, so that no kind can use up the room of
 * another.
 */
export type LogKind = "answer" | "request" | "stream";

/** The kinds of logs that brokers list, which are those that callers own. */
export type OwnedKind = Exclude<LogKind, "request">;

/** Returns the kind of a log. */
export function logKind(id: string): LogKind {
  if (id.startsWith(RESPONSE_PREFIX)) return "answer";
  return id.startsWith(REQUEST_PREFIX) ? "request" : "stream";
}

/**
 * Returns the id of the log that keeps the request for which a log is written. A writer that takes
 * over the log reads the request. If a log with a request loses its writer, it waits for another
 * one.
 *
 * @returns The id of the request's log.
 */
export function requestLog(id: string): string {
  return REQUEST_PREFIX + id;
}
