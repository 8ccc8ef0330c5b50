/**
 * The MoQ benchmark. It measures Skein, gomoqt and the bare platform on raw QUIC, each as publisher
 * and as subscriber.
 *
 * ```sh
 * deno task bench:media --runs 3
 * ```
 *
 * The publisher runs on the first core, and the subscriber on the second. The pairs take turns, so
 * that noise affects all of them equally. Compare results only within a batch.
 *
 * - `--runs n`: number of runs; 3 by default.
 * - `--quick`: sends a tenth of the groups, in a single run. A large part of the CPU time is then
 *   compilation.
 * - `--work a,b`: `ten` (ten frames of 1,200 bytes per group), `one` (one frame of 100 bytes),
 *   `big` (30 frames of 16 KiB) and `paced`; all by default.
 * - `--pairs a:b,c:d`: publisher and subscriber of each pair, such as `skein:gomoqt`. By default,
 *   these are all pairs with `gomoqt`, and each program with itself.
 * - `--versions a,b`: `gomoqt-dev` (gomoqt 0.11) and `moq-lite-04` (gomoqt 0.17) by default.
 * - `--gomoqt-0.11 FILE`, `--gomoqt-0.17 FILE`: programs built with gomoqt that accept the same
 * arguments as `peer.ts`; by default, the programs of the interop tests, which are built if
 * missing.
 *
 * @module
 */
import { argument, numberArgument } from "../args.ts";
import { commandOn, freePort, usageOf } from "../processes.ts";
import { buildMoqPeers } from "../../tests/interop/peers.ts";
import { eventsOf, median, summary } from "./frames.ts";

/** One kind of work. */
interface Work {
  readonly title: string;
  readonly groups: number;
  readonly frames: number;
  readonly size: number;
  /** Groups per second; 0 for as many as possible. */
  readonly rate: number;
}

const WORK: Readonly<Record<string, Work>> = {
  ten: { title: "10 frames x 1,200 B", groups: 50_000, frames: 10, size: 1_200, rate: 0 },
  one: { title: "1 frame x 100 B", groups: 100_000, frames: 1, size: 100, rate: 0 },
  big: { title: "30 frames x 16 KiB", groups: 2_000, frames: 30, size: 16_384, rate: 0 },
  paced: {
    title: "paced, 200 groups/s x 5 frames x 1,200 B",
    groups: 1_000,
    frames: 5,
    size: 1_200,
    rate: 200,
  },
};

/** Measurements of a subscriber. */
interface Result {
  readonly groups: number;
  readonly groups_per_s: number;
  readonly lat_us_p50: number;
  readonly lat_us_p99: number;
}

/** A result with CPU times per group, in microseconds; `NaN` on systems that don't report them. */
interface Run extends Result {
  readonly publisherUs: number;
  readonly subscriberUs: number;
}

/** The implementations, each of which can be either side. */
type Side = "skein" | "gomoqt" | "bare";

const PAIRS =
  "gomoqt:gomoqt,skein:gomoqt,gomoqt:skein,skein:skein,bare:gomoqt,gomoqt:bare,bare:bare";

const PATIENCE_MS = 120_000;

const quick = Deno.args.includes("--quick");
const runs = quick ? 1 : numberArgument(Deno.args, "runs", 3);
const pairs = (argument(Deno.args, "pairs") ?? PAIRS).split(",")
  .map((pair) => pair.split(":") as [Side, Side]);
const work = (argument(Deno.args, "work") ?? Object.keys(WORK).join()).split(",");
const versions = (argument(Deno.args, "versions") ?? "gomoqt-dev,moq-lite-04").split(",");

/** The gomoqt programs, by version. */
const gomoqt = new Map<string, readonly string[]>();

for (const version of versions) gomoqt.set(version, await gomoqtOf(version));

/** Returns the program on the gomoqt release that implements a version. */
async function gomoqtOf(version: string): Promise<readonly string[]> {
  const release = version === "gomoqt-dev" ? "0.11" : "0.17";
  const file = argument(Deno.args, `gomoqt-${release}`);
  if (file !== undefined) return [file];
  const [build] = await buildMoqPeers([`gomoqt ${release}`]);
  if (build === undefined || !("peer" in build)) {
    throw build !== undefined && "failed" in build
      ? build.failed
      : new Error(`Cannot run: ${build?.missing}`);
  }
  return [...build.peer.command, "bench"];
}

/** Returns the command of a peer, without the arguments of a run. */
function programOf(side: Side, version: string): readonly string[] {
  if (side === "gomoqt") return gomoqt.get(version)!;
  const file = new URL(side === "bare" ? "bare.ts" : "peer.ts", import.meta.url).pathname;
  return [Deno.execPath(), "run", "-A", "--unstable-net", "--quiet", file];
}

function start(core: number, command: readonly string[]): Deno.ChildProcess {
  return commandOn(command, core, {
    stdout: "piped",
    stderr: "inherit",
    stdin: "null",
    // Limits Go to one core, because the process has only one.
    env: { GOMAXPROCS: "1" },
  }).spawn();
}

/** Time between two samples of CPU time, in milliseconds. */
const SAMPLE_MS = 20;

/**
 * User and system time of a process, in microseconds. Sampled, because gomoqt's subscriber exits
 * with its result.
 */
class CpuTime implements Disposable {
  readonly #pid: number;
  readonly #timer: ReturnType<typeof setInterval>;
  #cpuUs = 0;

  /** Samples until disposed. */
  constructor({ pid }: Deno.ChildProcess) {
    this.#pid = pid;
    this.#timer = setInterval(() => void this.read(), SAMPLE_MS);
  }

  /** Returns the time until now, or until the last sample of an ended process. */
  async read(): Promise<number> {
    const { cpuUs = NaN } = await usageOf(this.#pid).catch(() => ({ cpuUs: this.#cpuUs }));
    return this.#cpuUs = cpuUs;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

async function measure(
  [publisher, subscriber]: readonly [Side, Side],
  version: string,
  work: Work,
): Promise<Run> {
  const port = freePort();
  const groups = quick ? Math.ceil(work.groups / 10) : work.groups;
  const numbers = Object.entries({ groups, frames: work.frames, size: work.size, rate: work.rate })
    .flatMap(([name, value]) => [`-${name}`, `${value}`]);
  const of = (side: Side) => side === "skein" ? ["-version", version] : [];
  const server = start(0, [
    ...programOf(publisher, version),
    ...["-mode", "server", "-addr", `127.0.0.1:${port}`, ...numbers, ...of(publisher)],
  ]);
  const timer = setTimeout(() => server.kill("SIGKILL"), PATIENCE_MS);
  let client: Deno.ChildProcess | undefined;
  try {
    let hash = "";
    let address = "";
    const events = eventsOf(server);
    // The output stays open: a program that writes to a closed pipe is killed.
    while (address === "") {
      const { done, value: event } = await events.next();
      if (done) throw new Error(`${publisher} did not listen`);
      if (event.event === "cert") hash = `${event.sha256}`;
      if (event.event === "ready") address = `${event.addr}`;
    }
    using publisherCpu = new CpuTime(server);
    const publisherBefore = await publisherCpu.read();
    client = start(1, [
      ...programOf(subscriber, version),
      ...["-mode", "client", "-url", `moqt://${address}/moq`, ...numbers],
      ...of(subscriber),
      ...(subscriber === "gomoqt" ? [] : ["-hash", hash]),
    ]);
    using subscriberCpu = new CpuTime(client);
    let subscriberBefore = 0;
    for await (const event of eventsOf(client)) {
      if (event.event === "connected") subscriberBefore = await subscriberCpu.read();
      if (event.event !== "result") continue;
      return {
        ...event as unknown as Result,
        publisherUs: (await publisherCpu.read() - publisherBefore) / groups,
        subscriberUs: (await subscriberCpu.read() - subscriberBefore) / groups,
      };
    }
    throw new Error(`${subscriber} measured nothing`);
  } finally {
    clearTimeout(timer);
    for (const child of [client, server]) {
      try {
        child?.kill("SIGKILL");
      } catch {
        // The process has ended already.
      }
      await child?.status;
    }
  }
}

for (const version of versions) {
  for (const name of work) {
    const one = WORK[name];
    if (one === undefined) throw new TypeError(`Cannot run: there is no work ${name}`);
    const results = new Map<string, Run[]>(pairs.map((pair) => [pair.join(" to "), []]));
    for (let run = 0; run < runs; run++) {
      for (const pair of pairs) {
        // The control implements only one version.
        if (pair.includes("bare") && version !== "moq-lite-04") continue;
        results.get(pair.join(" to "))!.push(await measure(pair, version, one));
      }
    }
    print(`${version}, ${one.title}: min / median / max of ${runs}`, one.rate > 0, results);
  }
}

function print(title: string, isPaced: boolean, results: ReadonlyMap<string, Run[]>): void {
  const control = median((results.get("gomoqt to gomoqt") ?? []).map((run) => run.groups_per_s));
  const columns = isPaced ? "p50, µs | p99, µs" : "groups/s | of gomoqt to gomoqt";
  console.log(`\n${title}\n`);
  console.log(`| publisher to subscriber | ${columns} | CPU µs a group: publisher | subscriber |`);
  console.log("| --- | --- | --- | --- | --- |");
  for (const [pair, list] of results) {
    if (list.length === 0) continue;
    const of = (read: (run: Run) => number) => list.map(read);
    const rates = of((run) => run.groups_per_s);
    const first = isPaced
      ? [summary(of((run) => run.lat_us_p50)), summary(of((run) => run.lat_us_p99))]
      : [summary(rates), (median(rates) / control).toFixed(2)];
    const cpu = [
      summary(of((run) => run.publisherUs), 1),
      summary(of((run) => run.subscriberUs), 1),
    ];
    console.log(`| ${[pair, ...first, ...cpu].join(" | ")} |`);
  }
}
