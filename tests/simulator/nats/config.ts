/** Configurations of streams and consumers, validated and completed as by a server. */
import { collide, isSubject, matches } from "./subjects.ts";

/** An error of JetStream, as in replies. */
export interface ApiError {
  /** Status, as in HTTP. */
  readonly code: number;
  readonly err_code: number;
  /** Text of the error. */
  readonly description: string;
}

/** Configuration of a stream, with all defaults filled in; durations in nanoseconds. */
export interface StreamConfig {
  readonly name: string;
  readonly description?: string | undefined;
  readonly subjects: readonly string[];
  readonly retention: "limits";
  readonly max_consumers: number;
  readonly max_msgs: number;
  readonly max_bytes: number;
  readonly max_age: number;
  readonly max_msgs_per_subject: number;
  readonly max_msg_size: number;
  readonly discard: "old" | "new";
  readonly storage: "file" | "memory";
  readonly num_replicas: number;
  readonly duplicate_window: number;
  readonly republish?: {
    readonly src: string;
    readonly dest: string;
    readonly headers_only?: boolean | undefined;
  } | undefined;
  readonly allow_direct: boolean;
  readonly mirror_direct: boolean;
  readonly discard_new_per_subject?: boolean | undefined;
  readonly sealed: boolean;
  readonly deny_delete: boolean;
  readonly deny_purge: boolean;
  readonly allow_rollup_hdrs: boolean;
}

/** Configuration of a pull consumer without acknowledgments; durations in nanoseconds. */
export interface ConsumerConfig {
  readonly name: string;
  readonly deliver_policy: "all" | "by_start_sequence" | "last_per_subject";
  readonly opt_start_seq?: number | undefined;
  readonly ack_policy: "none";
  readonly filter_subject?: string | undefined;
  readonly replay_policy: "instant";
  readonly headers_only?: boolean | undefined;
  readonly inactive_threshold: number;
  readonly max_waiting: number;
  readonly num_replicas: number;
  readonly mem_storage?: boolean | undefined;
}

/** Default window in which a stream recognizes duplicates, in nanoseconds. */
const DUPLICATE_WINDOW_NS = 120e9;

/** Shortest duration of a limit, in nanoseconds. */
const SHORTEST_NS = 100e6;

/** Default idle time after which a consumer is removed, in nanoseconds. */
const INACTIVE_NS = 5e9;

/** Default limit of requests that wait at a consumer. */
const MAX_WAITING = 512;

/** Two words in texts of the server, where this project writes one. */
const MAY_NOT = ["can", "not"].join(" ");

const STREAM_KEYS = new Set<string>(
  [
    "name",
    "description",
    "subjects",
    "retention",
    "max_consumers",
    "max_msgs",
    "max_bytes",
    "max_age",
    "max_msgs_per_subject",
    "max_msg_size",
    "discard",
    "storage",
    "num_replicas",
    "duplicate_window",
    "republish",
    "allow_direct",
    "mirror_direct",
    "discard_new_per_subject",
    "sealed",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
  ] satisfies (keyof StreamConfig)[],
);

const CONSUMER_KEYS = new Set<string>(
  [
    "name",
    "deliver_policy",
    "opt_start_seq",
    "ack_policy",
    "filter_subject",
    "replay_policy",
    "headers_only",
    "inactive_threshold",
    "max_waiting",
    "num_replicas",
    "mem_storage",
  ] satisfies (keyof ConsumerConfig)[],
);

/** Creates the error for an invalid configuration. */
function invalid(description: string): ApiError {
  return { code: 500, err_code: 10052, description };
}

/**
 * Checks the configuration of a stream, and fills in defaults.
 *
 * @throws {TypeError} If the configuration has a property that the model lacks.
 */
export function streamConfig(
  given: Partial<StreamConfig> & { readonly name: string },
): StreamConfig | ApiError {
  rejectUnknown("a stream", given, STREAM_KEYS);
  if (given.retention !== undefined && given.retention !== "limits") {
    throw new TypeError(
      `Cannot simulate: retention of a stream must be limits, received ${given.retention}`,
    );
  }
  if (/[\s.*>]/.test(given.name) || given.name === "") {
    return invalid(`stream name is required and ${MAY_NOT} contain '.', '*', '>'`);
  }
  const age = given.max_age ?? 0;
  const window = given.duplicate_window ||
    (age > 0 && age < DUPLICATE_WINDOW_NS ? age : DUPLICATE_WINDOW_NS);
  const config: StreamConfig = {
    name: given.name,
    description: given.description || undefined,
    subjects: given.subjects?.length ? given.subjects : [given.name],
    retention: "limits",
    max_consumers: given.max_consumers || -1,
    max_msgs: given.max_msgs || -1,
    max_bytes: given.max_bytes || -1,
    max_age: age,
    max_msgs_per_subject: given.max_msgs_per_subject || -1,
    max_msg_size: given.max_msg_size || -1,
    discard: given.discard ?? "old",
    storage: given.storage ?? "file",
    num_replicas: given.num_replicas || 1,
    duplicate_window: window,
    ...(given.republish && {
      republish: { ...given.republish, src: given.republish.src || ">" },
    }),
    allow_direct: given.allow_direct ?? false,
    mirror_direct: given.mirror_direct ?? false,
    ...(given.discard_new_per_subject && { discard_new_per_subject: true }),
    sealed: given.sealed ?? false,
    deny_delete: given.deny_delete ?? false,
    deny_purge: given.deny_purge ?? false,
    allow_rollup_hdrs: given.allow_rollup_hdrs ?? false,
  };
  const rule = brokenRule(config);
  return rule === undefined ? config : invalid(rule);
}

function brokenRule(config: StreamConfig): string | undefined {
  const { max_age: age, duplicate_window: window, subjects, republish } = config;
  if (config.num_replicas > 5) return "maximum replicas is 5";
  if (age > 0 && age < SHORTEST_NS) return "max age needs to be >= 100ms";
  if (window < 0) return `duplicates window ${MAY_NOT} be negative`;
  if (age !== 0 && window > age) return `duplicates window ${MAY_NOT} be larger then max age`;
  if (window > 0 && window < SHORTEST_NS) return "duplicates window needs to be >= 100ms";
  if (config.deny_purge && config.allow_rollup_hdrs) {
    return "roll-ups require the purge permission";
  }
  if (config.discard_new_per_subject) {
    if (config.discard !== "new") {
      return "discard new per subject requires discard new policy to be set";
    }
    if (config.max_msgs_per_subject <= 0) {
      return "discard new per subject requires max msgs per subject > 0";
    }
  }
  for (const [i, subject] of subjects.entries()) {
    if (subjects.indexOf(subject) !== i) return "duplicate subjects detected";
    if (matches("$JS.API.>", subject)) return "subjects overlap with jetstream api";
    if (!isSubject(subject)) return "invalid subject";
  }
  for (const one of subjects) {
    for (const other of subjects) {
      if (one !== other && collide(one, other)) {
        return `subject ${JSON.stringify(one)} overlaps with ${JSON.stringify(other)}`;
      }
    }
  }
  if (republish === undefined) return undefined;
  if (!subjects.some((subject) => collide(republish.src, subject))) {
    return "stream configuration for republish source is not valid subset of subjects";
  }
  if (subjects.some((subject) => collide(republish.dest, subject))) {
    return "stream configuration for republish destination forms a cycle";
  }
  return undefined;
}

/**
 * Checks the configuration of a consumer, and fills in defaults.
 *
 * @param name Name of the consumer, chosen by the server.
 * @throws {TypeError} If the consumer needs a property or policy that the model lacks.
 */
export function consumerConfig(given: Partial<ConsumerConfig>, name: string): ConsumerConfig {
  rejectUnknown("a consumer", given, CONSUMER_KEYS);
  const { deliver_policy: policy = "all", ack_policy: acks, replay_policy: replay } = given;
  const policies: readonly string[] = ["all", "by_start_sequence", "last_per_subject"];
  const isKnown = policies.includes(policy) && acks === "none" &&
    (replay === undefined || replay === "instant");
  if (!isKnown) {
    throw new TypeError(
      `Cannot simulate: a consumer must be pulled from a sequence without acknowledgments, received ${
        JSON.stringify(given)
      }`,
    );
  }
  return {
    name,
    deliver_policy: policy,
    opt_start_seq: given.opt_start_seq || undefined,
    ack_policy: "none",
    filter_subject: given.filter_subject || undefined,
    replay_policy: "instant",
    max_waiting: given.max_waiting || MAX_WAITING,
    ...(given.headers_only && { headers_only: true }),
    inactive_threshold: given.inactive_threshold || INACTIVE_NS,
    num_replicas: given.num_replicas ?? 0,
    ...(given.mem_storage && { mem_storage: true }),
  };
}

function rejectUnknown(what: string, given: object, known: ReadonlySet<string>): void {
  for (const [key, value] of Object.entries(given)) {
    if (known.has(key) || value === undefined || value === null) continue;
    throw new TypeError(
      `Cannot simulate: ${what} of the NATS model must have known properties, received ${key}`,
    );
  }
}
