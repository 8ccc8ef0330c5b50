/**
 * The benchmark of MoQ: Skein and gomoqt, each as publisher and as subscriber, on raw QUIC.
 *
 * ```sh
 * deno task bench:media --runs 3
 * ```
 *
 * The publisher runs on the first core, the subscriber on the second one. All pairs run in turns,
 * so that noise affects all alike. Compare a figure only with others of the same batch.
 *
 * - `--runs n`: number of runs; 3 by default.
 * - `--quick`: a tenth of the groups, once.
 * - `--versions a,b`: `gomoqt-dev` (gomoqt 0.11) and `moq-lite-04` (gomoqt 0.16) by default.
 * - `--gomoqt-0.11 FILE`, `--gomoqt-0.16 FILE`: programs on gomoqt, with the command line of
 * `peer.ts`; by default those of the interop tests, which are built if missing.
 *
 * @module
 */
import { argument, numberArgument } from "../args.ts";
import { commandOn, freePort } from "../processes.ts";
import { buildMoqPeers } from "../../tests/interop/peers.ts";

/** One kind of work. */
interface Work {
  readonly title: string;
  readonly groups: number;
  readonly frames: number;
  readonly size: number;
  /** Groups a second; 0 for as many as possible. */
  readonly rate: number;
}

const WORK: readonly Work[] = [
  { title: "10 frames x 1,200 B", groups: 20_000, frames: 10, size: 1_200, rate: 0 },
  { title: "1 frame x 100 B", groups: 100_000, frames: 1, size: 100, rate: 0 },
  { title: "30 frames x 16 KiB", groups: 2_000, frames: 30, size: 16_384, rate: 0 },
  {
    title: "paced, 200 groups/s x 5 frames x 1,200 B",
    groups: 1_000,
    frames: 5,
    size: 1_200,
    rate: 200,
  },
];

/** Measurements of a subscriber. */
interface Result {
  readonly groups: number;
  readonly groups_per_s: number;
  readonly lat_us_p50: number;
  readonly lat_us_p99: number;
}

/** The implementations, each of which can be either end. */
type Side = "Skein" | "gomoqt";

const PAIRS: readonly (readonly [Side, Side])[] = [
  ["gomoqt", "gomoqt"],
  ["Skein", "Skein"],
  ["Skein", "gomoqt"],
  ["gomoqt", "Skein"],
];

const PATIENCE_MS = 120_000;

const quick = Deno.args.includes("--quick");
const runs = quick ? 1 : numberArgument(Deno.args, "runs", 3);
const versions = (argument(Deno.args, "versions") ?? "gomoqt-dev,moq-lite-04").split(",");

/** The programs on gomoqt, by version. */
const gomoqt = new Map<string, readonly string[]>();

for (const version of versions) gomoqt.set(version, await gomoqtOf(version));

/** Returns the program on the release of gomoqt that speaks a version. */
async function gomoqtOf(version: string): Promise<readonly string[]> {
  const release = version === "gomoqt-dev" ? "0.11" : "0.16";
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

/** Returns the command of one end, without the arguments of a run. */
function programOf(side: Side, version: string): readonly string[] {
  if (side === "gomoqt") return gomoqt.get(version)!;
  const peer = new URL("peer.ts", import.meta.url).pathname;
  return [Deno.execPath(), "run", "-A", "--unstable-net", "--quiet", peer];
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

async function* eventsOf(child: Deno.ChildProcess): AsyncGenerator<Record<string, unknown>> {
  let rest = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) yield JSON.parse(line);
  }
}

async function measure(
  [publisher, subscriber]: readonly [Side, Side],
  version: string,
  work: Work,
): Promise<Result> {
  const port = freePort();
  const groups = quick ? Math.ceil(work.groups / 10) : work.groups;
  const numbers = Object.entries({ groups, frames: work.frames, size: work.size, rate: work.rate })
    .flatMap(([name, value]) => [`-${name}`, `${value}`]);
  const of = (side: Side) => side === "Skein" ? ["-version", version] : [];
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
    client = start(1, [
      ...programOf(subscriber, version),
      ...["-mode", "client", "-url", `moqt://${address}/moq`, ...numbers],
      ...(subscriber === "Skein" ? [...of(subscriber), "-hash", hash] : []),
    ]);
    for await (const event of eventsOf(client)) {
      if (event.event === "result") return event as unknown as Result;
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

function summary(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  const of = (value: number | undefined) => Math.round(value ?? 0).toLocaleString("en");
  return `${of(sorted[0])} / ${of(median(values))} / ${of(sorted.at(-1))}`;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
}

for (const version of versions) {
  for (const work of WORK) {
    const results = new Map<string, Result[]>(PAIRS.map((pair) => [pair.join(" to "), []]));
    for (let run = 0; run < runs; run++) {
      for (const pair of PAIRS) {
        results.get(pair.join(" to "))!.push(await measure(pair, version, work));
      }
    }
    console.log(`\n${version}, ${work.title}: min / median / max of ${runs}`);
    const isPaced = work.rate > 0;
    console.log(
      isPaced
        ? "| publisher to subscriber | p50, us | p99, us |\n| --- | --- | --- |"
        : "| publisher to subscriber | groups/s | of gomoqt to gomoqt |\n| --- | --- | --- |",
    );
    const control = median(results.get("gomoqt to gomoqt")!.map((one) => one.groups_per_s));
    for (const [pair, list] of results) {
      const rates = list.map((one) => one.groups_per_s);
      const last = isPaced
        ? summary(list.map((one) => one.lat_us_p99))
        : (median(rates) / control).toFixed(2);
      const first = isPaced ? summary(list.map((one) => one.lat_us_p50)) : summary(rates);
      console.log(`| ${pair} | ${first} | ${last} |`);
    }
  }
}
