/** The plan of a load: what to send, how often, over which transport. */
import { type Arguments, usageError } from "../command.ts";
import { duration, hashesOf, headersOf, type Sha256Hash } from "../values.ts";
import type { TransportName } from "../../transport/race/options.ts";

/** Most sessions of one process. */
const MAX_SESSIONS = 100_000;

/** Most messages a second of one process. */
const MAX_RATE = 10_000_000;

/** Most topics. */
const MAX_TOPICS = 100_000;

/** Most threads. */
const MAX_WORKERS = 64;

/** Largest payload, in bytes. */
const MAX_PAYLOAD_BYTES = 16_777_216;

/** Sessions that open each second, unless the plan has a time for all. */
const SESSIONS_PER_SECOND = 100;

/** The four kinds of load. */
const MODES = ["echo", "publish", "request", "idle"] as const;

/** The plan of a load, which can be sent to a thread. */
export interface LoadPlan {
  /** URL of the server. */
  readonly url: string;
  /** Kind of the load. */
  readonly mode: typeof MODES[number];
  /** True for a WebSocket without Skein. */
  readonly isPlain: boolean;
  /** The one transport. */
  readonly transport: TransportName;
  /** Number of sessions. */
  readonly sessions: number;
  /** Time over which the sessions open, in milliseconds. */
  readonly rampMs: number;
  /** Messages a second of all sessions; `undefined` sends the next one once an answer came. */
  readonly rate: number | undefined;
  /** Messages of a session under way, without a rate. */
  readonly window: number;
  /** Size of the data of a message, in bytes of JSON. */
  readonly payloadBytes: number;
  /** Topic of echoes and requests, and the beginning of those of publications. */
  readonly topic: string;
  /** Data of requests; stamped data by default. */
  readonly data: unknown;
  /** Number of topics of publications. */
  readonly topics: number;
  /** Subscribers of each topic. */
  readonly subscribers: number;
  /** Time that counts, in milliseconds. */
  readonly durationMs: number;
  /** Time before, in milliseconds, which does not count. */
  readonly warmUpMs: number;
  /** Time for an answer, in milliseconds. */
  readonly timeoutMs: number;
  /** Interval of the reports, in milliseconds. */
  readonly intervalMs: number;
  /** Tokens, for the sessions in turn. */
  readonly tokens: readonly string[];
  /** Request headers. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Certificates that WebTransport trusts, by hash. */
  readonly certificateHashes: readonly Sha256Hash[];
  /** Number of threads. */
  readonly workers: number;
}

/**
 * Reads the plan from the arguments of `skein load`, but for the tokens.
 *
 * @param args The arguments.
 * @returns The plan.
 * @throws {CommandError} With the exit code 2, if values are wrong or do not fit together.
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
  const { mode, isPlain, transport, sessions, topics, workers } = plan;
  const refuse = (rule: string, received: string) => {
    throw usageError(`Cannot load: ${rule}, received ${received}`);
  };
  if (isPlain && mode !== "echo" && mode !== "idle") {
    refuse("--plain takes --mode echo or idle", `--mode ${mode}`);
  }
  if (isPlain && transport !== "websocket") {
    refuse("--plain is a WebSocket", `--transport ${transport}`);
  }
  if (isPlain && (args.value("token") ?? args.value("token-command")) !== undefined) {
    refuse("--plain has no token in band; use -H 'Authorization: Bearer …'", "a token");
  }
  if (args.value("token") !== undefined && args.value("token-command") !== undefined) {
    refuse("one of --token and --token-command is taken", "both");
  }
  if (mode !== "request" && args.value("data") !== undefined) {
    refuse("--data is for --mode request", `--mode ${mode}`);
  }
  if (mode !== "publish" && args.value("topics") !== undefined) {
    refuse("--topics is for --mode publish", `--mode ${mode}`);
  }
  if (mode !== "publish" && args.value("subscribers") !== undefined) {
    refuse("--subscribers is for --mode publish", `--mode ${mode}`);
  }
  if (workers > sessions) refuse("each thread needs a session", `--workers ${workers}`);
  if (mode === "publish" && workers > 1 && topics < workers) {
    refuse("each thread needs a topic of its own", `--workers ${workers} --topics ${topics}`);
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
