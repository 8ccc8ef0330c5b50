/**
 * Generates load on a server in any dialect, with the generator of `skein load`. The result is
 * printed as one line of JSON.
 *
 * ```sh
 * deno run -A bench/load.ts --port 9100 --pid 123 --mode fanout --dialect skein --sessions 200
 * ```
 *
 * The modes are `fanout`, `echo` and `connect`. Options of `fanout`:
 *
 * - `--window 64`: number of publications that the publisher has sent but not received back.
 *   `--window 1` waits for every subscriber.
 * - `--rate 400`: publications per second, instead of a window.
 * - `--topics 2`: spreads the subscribers over two topics; a third of them subscribe to both.
 * - `--ports 9101,9102`: spreads the subscribers over separate servers; only the publisher, which
 *   also subscribes, uses `--port`. `--pid` accepts several processes.
 *
 * With `--wire webtransport`, messages are sent over a WebTransport stream. `--hash` is the SHA-256
 * of the server's certificate; by default, it is fetched from a development server. Numbers in the
 * messages reveal lost, duplicate and reordered messages.
 *
 * @module
 */
import { platformRuntime } from "../base/runtime.ts";
import { Generator } from "../cli/load/generator.ts";
import type { LoadPlan } from "../cli/load/plan.ts";
import { RawSocket } from "../cli/load/socket.ts";
import { SampleSum } from "../cli/load/tally.ts";
import { argument, numberArgument, portOf } from "./args.ts";
import { DialectLink, Group, type OpenClient } from "./dialect_link.ts";
import { type Dialect, type DialectName, DIALECTS } from "./dialects.ts";
import { type LoadResult, memoryOf, Meter, quantilesOf, sleep } from "./meter.ts";
import { usageOf } from "./processes.ts";
import { RawStream } from "./raw_stream.ts";
import { findTarget } from "./webtransport_target.ts";

/**
 * Sessions that `connect` opens and closes before the measurement: a server loads modules and
 * compiles code during its first sessions, and the number differs between servers.
 */
const WARM_UP_SESSIONS = 1_000;

/** Time for a server to release closed sessions, and for its memory to settle, in milliseconds. */
const SETTLING_MS = 2_000;

/** Longest wait for a reply, in milliseconds. */
const TIMEOUT_MS = 10_000;

/** The kind of load of each mode, and the size of a client's first buffer in bytes. */
const MODES = {
  fanout: { mode: "publish", bufferBytes: 65_536 },
  echo: { mode: "echo", bufferBytes: 4_096 },
  connect: { mode: "idle", bufferBytes: 2_048 },
} as const;

interface Run {
  readonly plan: LoadPlan;
  readonly group: Group;
  /** The processes of the servers, for CPU time; memory is measured for the first one. */
  readonly pids: readonly number[];
}

/** Chooses the clients' transport: WebSocket, or WebTransport with a development server. */
async function openerOf(
  args: readonly string[],
  { path, protocol }: Dialect,
  bufferBytes: number,
): Promise<OpenClient> {
  const port = portOf(args);
  if (argument(args, "wire") === "webtransport") {
    const target = await findTarget(port, { path, hash: argument(args, "hash") });
    return () => RawStream.open(target, protocol === undefined ? {} : { protocol });
  }
  const others = argument(args, "ports")?.split(",").map(Number) ?? [port];
  const protocols = protocol === undefined ? [] : [protocol];
  return (index) => {
    // The first session is the publisher.
    const at = index === 0 ? port : others[(index - 1) % others.length]!;
    const options = { protocols, bufferBytes, mask: false };
    return RawSocket.open(`ws://127.0.0.1:${at}${path}`, options);
  };
}

function planOf(args: readonly string[], mode: LoadPlan["mode"]): LoadPlan {
  const sessions = numberArgument(args, "sessions", 200);
  const topics = numberArgument(args, "topics", 1);
  const rate = numberArgument(args, "rate", 0);
  return {
    url: "",
    mode,
    isPlain: true,
    transport: "websocket",
    sessions,
    rampMs: 0,
    rate: rate === 0 ? undefined : rate,
    window: mode === "publish" ? numberArgument(args, "window", 64) : 1,
    payloadBytes: numberArgument(args, "size", 128),
    topic: "bench",
    data: undefined,
    topics,
    subscribers: topics === 1 ? sessions : Math.ceil(sessions * 2 / 3),
    durationMs: numberArgument(args, "measure", 1_800),
    warmUpMs: numberArgument(args, "warm-up", 600),
    timeoutMs: TIMEOUT_MS,
    intervalMs: 0,
    tokens: [],
    headers: [],
    certificateHashes: [],
    workers: 1,
  };
}

function generatorOf(plan: LoadPlan, group: Group): Generator {
  const { signal } = new AbortController();
  return new Generator(plan, {
    runtime: platformRuntime(),
    part: { index: 0, of: 1 },
    openLink: (options) => new DialectLink(options, group),
    signal,
  });
}

/** The counts of a generator since its last sample. */
function countsOf(generator: Generator): SampleSum {
  const sum = new SampleSum();
  sum.add(generator.sample());
  return sum;
}

async function measure({ plan, group, pids }: Run): Promise<LoadResult> {
  const generator = generatorOf(plan, group);
  await generator.open();
  await generator.warmUp();
  const meter = await Meter.begin(...pids);
  await generator.measure();
  const { counts, latency } = countsOf(generator);
  // The tail is part of the work: the clock stops after all messages are delivered.
  const figures = await meter.end(counts.received, group.lastUs);
  await generator.close();
  const { counts: { missing }, errors } = countsOf(generator);
  return {
    ...figures,
    ...quantilesOf(latency),
    lost: plan.mode === "publish" ? missing : errors.unanswered ?? 0,
    disordered: counts.disordered,
    closed: counts.disconnects,
  };
}

async function connect({ plan, group, pids }: Run): Promise<LoadResult> {
  const { sessions } = plan;
  const first = generatorOf({ ...plan, sessions: WARM_UP_SESSIONS }, group);
  await first.open();
  await first.close();
  await sleep(SETTLING_MS);
  const before = await usageOf(pids[0]!);
  const meter = await Meter.begin(...pids);
  const generator = generatorOf(plan, group);
  await generator.open();
  const figures = await meter.end(sessions);
  await sleep(SETTLING_MS);
  const after = await usageOf(pids[0]!);
  const { disconnects, failedOpens } = countsOf(generator).counts;
  await generator.close();
  return {
    ...figures,
    ...memoryOf(sessions, { before, after }),
    closed: disconnects + failedOpens,
  };
}

if (import.meta.main) {
  const { args } = Deno;
  const kind = MODES[(argument(args, "mode") ?? "fanout") as keyof typeof MODES];
  const dialect = DIALECTS[(argument(args, "dialect") ?? "plain") as DialectName];
  if (kind === undefined || dialect === undefined) {
    throw new TypeError(
      `Cannot run: --mode is one of ${Object.keys(MODES)}; --dialect of ${Object.keys(DIALECTS)}`,
    );
  }
  const run: Run = {
    plan: planOf(args, kind.mode),
    group: new Group(dialect, await openerOf(args, dialect, kind.bufferBytes)),
    pids: argument(args, "pid")?.split(",").map(Number) ?? [Deno.pid],
  };
  const result = await (kind.mode === "idle" ? connect(run) : measure(run));
  // deno-lint-ignore no-console
  console.log(JSON.stringify(result));
  Deno.exit(0);
}
