/** The plan of a load: messages, rate and transport. */
import { type Arguments, usageError } from "../command.ts";
import { duration, hashesOf, headersOf } from "../values.ts";
import type { Sha256Hash } from "../../transport/certificate/certificate.ts";
import type { TransportName } from "../../transport/race/options.ts";

const MAX_SESSIONS = 100_000;

const MAX_RATE = 10_000_000;

const MAX_TOPICS = 100_000;

const MAX_WORKERS = 64;

const MAX_PAYLOAD_BYTES = 16_777_216;

/** Sessions that open per second without `--ramp`. */
const SESSIONS_PER_SECOND = 100;

const MODES = ["echo", "publish", "request", "idle"] as const;

/** The plan of a load, which can be sent to a thread. */
export interface LoadPlan {
  /** URL of the server. */
  readonly url: string;
  /** Kind of the load. */
  readonly mode: typeof MODES[number];
  /** True for a WebSocket without Skein. */
  readonly isPlain: boolean;
  /** Transport of all sessions. */
  readonly transport: TransportName;
  readonly sessions: number;
  /** Time in which the sessions open, in milliseconds. */
  readonly rampMs: number;
  /**
   * Messages per second, for all sessions together. With `undefined`, each reply triggers the next
   * message.
   */
  readonly rate: number | undefined;
  /** Messages in flight per session, without a rate. */
  readonly window: number;
  /** Size of the data of a message, in bytes of JSON. */
  readonly payloadBytes: number;
  /** Topic of echoes and requests, and prefix of the topics of publications. */
  readonly topic: string;
  /** Data of requests; by default, a padded stamp. */
  readonly data: unknown;
  /** Number of topics for publications. */
  readonly topics: number;
  /** Subscribers of each topic. */
  readonly subscribers: number;
  /** Measured time, in milliseconds. */
  readonly durationMs: number;
  /** Time before the measurement, in milliseconds. */
  readonly warmUpMs: number;
  /** Longest wait for a reply, in milliseconds. */
  readonly timeoutMs: number;
  /** Interval of the reports, in milliseconds. */
  readonly intervalMs: number;
  /** Tokens, which the sessions use in turn. */
  readonly tokens: readonly string[];
  /** Request headers. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Certificates that WebTransport trusts, by hash. */
  readonly certificateHashes: readonly Sha256Hash[];
  /** Number of threads. */
  readonly workers: number;
}

/**
 * Reads the plan, except for its tokens, from the arguments of `skein load`.
 *
 * @throws {CommandError} With exit code 2, if values are invalid or conflict.
 */
export function planOf(args: Arguments): LoadPlan {
  const isPlain = args.flag("plain");
  const mode = (args.value("mode") ?? "echo") as LoadPlan["mode"];
  const transport = (args.value("transport") ?? "websocket") as TransportName;
  const sessions = args.number("sessions", { fallback: 10, min: 1, max: MAX_SESSIONS });
  const topics = args.number("topics", { fallback: 1, min: 1, max: MAX_TOPICS });
  const workers = args.number("workers", { fallback: 1, min: 1, max: MAX_WORKERS });
  const subscribers = args.number("subscribers", {
    fallback: Math.max(1, Math.floor(sessions / topics)),
    min: 0,
    max: sessions,
  });
  const plan: LoadPlan = {
    url: args.url().href,
    mode,
    isPlain,
    transport,
    sessions,
    rampMs: duration(args, "ramp", sessions / SESSIONS_PER_SECOND * 1_000),
    rate: rateOf(args, sessions),
    window: args.number("window", { fallback: 1, min: 1, max: 10_000 }),
    payloadBytes: args.number("payload", { fallback: 128, min: 1, max: MAX_PAYLOAD_BYTES }),
    topic: args.value("topic") ?? "load",
    data: dataOf(args),
    topics,
    subscribers,
    durationMs: duration(args, "duration", 10_000),
    warmUpMs: duration(args, "warmup", 1_000),
    timeoutMs: duration(args, "timeout", 10_000),
    intervalMs: Math.max(100, duration(args, "interval", 1_000)),
    tokens: [],
    headers: headersOf(args),
    certificateHashes: hashesOf(args),
    workers,
  };
  check(plan, args);
  return plan;
}

function check(plan: LoadPlan, args: Arguments): void {
  const { mode, isPlain, transport, sessions, topics, workers, rate } = plan;
  const reject = (rule: string, received: string) => {
    throw usageError(`Cannot load: ${rule}, received ${received}`);
  };
  if (isPlain && mode !== "echo" && mode !== "idle") {
    reject("--plain requires --mode echo or idle", `--mode ${mode}`);
  }
  if (isPlain && transport !== "websocket") {
    reject("--plain is a WebSocket", `--transport ${transport}`);
  }
  if (isPlain && (args.value("token") ?? args.value("token-command")) !== undefined) {
    reject("--plain sends no token; use -H 'Authorization: Bearer …'", "--token");
  }
  if (args.value("token") !== undefined && args.value("token-command") !== undefined) {
    reject("--token and --token-command exclude each other", "--token-command");
  }
  if (mode !== "request" && args.value("data") !== undefined) {
    reject("--data is for --mode request", `--mode ${mode}`);
  }
  if (mode !== "publish" && args.value("topics") !== undefined) {
    reject("--topics is for --mode publish", `--mode ${mode}`);
  }
  if (mode !== "publish" && args.value("subscribers") !== undefined) {
    reject("--subscribers is for --mode publish", `--mode ${mode}`);
  }
  if (rate !== undefined && args.value("window") !== undefined) {
    reject("--window is for --rate max", `--rate ${rate}`);
  }
  if (workers > sessions) reject("each thread needs a session", `--workers ${workers}`);
  if (mode === "publish" && workers > 1 && topics < workers) {
    reject("each thread needs a topic of its own", `--workers ${workers} --topics ${topics}`);
  }
}

function rateOf(args: Arguments, sessions: number): number | undefined {
  if (args.value("rate") === "max") return undefined;
  const fallback = sessions;
  return args.number("rate", { fallback, min: 0.001, max: MAX_RATE, isWhole: false });
}

function dataOf(args: Arguments): unknown {
  const text = args.value("data");
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw usageError(`Cannot read --data: the value must be JSON, received ${text}`);
  }
}
