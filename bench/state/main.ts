/**
 * Compares the cost of an update of a live state with a publication on a topic with a history, and
 * with a record of a durable stream. 200 sessions receive each of them, one at a time.
 *
 * ```sh
 * deno task bench:state --runs 7 --readers 200
 * deno task bench:state --only memory --work history,state
 * ```
 *
 * The kinds of work alternate. The server and the load generator each run on a core of their own,
 * if processes can be pinned to cores. The Redis broker needs `redis-server`. The benchmark prints
 * the minimum, median and maximum of all runs.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { RedisServer } from "../../tests/brokers/redis_server.ts";
import { argument, numberArgument } from "../args.ts";
import type { LoadResult } from "../meter.ts";
import { canPin, commandOn, freePort, untilListening } from "../processes.ts";

/** The dialect of the clients, by work. */
const WORK = { history: "topic", stream: "stream", state: "stream" } as const;
type Work = keyof typeof WORK;

const { args } = Deno;
const RUNS = numberArgument(args, "runs", 5);
const READERS = numberArgument(args, "readers", 200);
const MEASURE_MS = numberArgument(args, "measure", 3_000);
/** A few hundred updates, after which V8 has compiled the code of a server. */
const WARM_UP_MS = numberArgument(args, "warm-up", 10_000);
const WORKS = (argument(args, "work") ?? Object.keys(WORK).join()).split(",") as Work[];
const BROKERS = (argument(args, "only") ?? "memory,redis").split(",");

const CORES = await canPin() ? [0, 1] : [];
const program = (name: string, ...options: string[]) => [
  Deno.execPath(),
  ...["run", "-A", "--no-lock", fileURLToPath(new URL(name, import.meta.url))],
  ...options,
];

async function measure(work: Work, redis: string | undefined): Promise<LoadResult> {
  const port = `${freePort()}`;
  const broker = redis === undefined ? [] : ["--redis", redis];
  const command = program("server.ts", "--port", port, "--work", work, ...broker);
  const quiet = { stdin: "null", stdout: "null", stderr: "inherit" } as const;
  await using server = commandOn(command, CORES[0], quiet).spawn();
  try {
    await untilListening(Number(port));
    const load = program("../load.ts", "--port", port, "--pid", `${server.pid}`)
      .concat("--dialect", WORK[work], "--sessions", `${READERS}`, "--window", "1")
      .concat("--warm-up", `${WARM_UP_MS}`, "--measure", `${MEASURE_MS}`);
    const { stdout } = await commandOn(load, CORES[1], { stderr: "inherit" }).output();
    return JSON.parse(new TextDecoder().decode(stdout));
  } finally {
    server.kill("SIGKILL");
  }
}

/** Formats minimum, median and maximum. */
function summary(values: readonly number[], digits: number): string {
  const sorted = [...values].sort((a, b) => a - b);
  return [sorted[0], sorted[sorted.length >> 1], sorted.at(-1)]
    .map((value) => value!.toFixed(digits)).join(" / ");
}

for (const broker of BROKERS) {
  const results = new Map<Work, LoadResult[]>(WORKS.map((work) => [work, []]));
  for (let run = 0; run < RUNS; run++) {
    for (const work of WORKS) {
      await using redis = broker === "redis" ? await RedisServer.start() : undefined;
      results.get(work)!.push(await measure(work, redis?.url));
    }
  }
  for (const [work, all] of results) {
    const cpu = all.map(({ cpuUs = NaN }) => cpuUs);
    const ratios = cpu.map((us, run) => us / results.get(WORKS[0]!)![run]!.cpuUs!);
    const lost = all.reduce((sum, one) => sum + one.lost! + one.disordered! + one.closed, 0);
    // deno-lint-ignore no-console
    console.log(
      `${broker}, ${work}: ${summary(cpu, 2)} µs of CPU a delivery, ${summary(ratios, 2)} of ` +
        `${WORKS[0]}, ${summary(all.map((one) => one.perSecond), 0)} deliveries/s, ${lost} faults`,
    );
  }
}
