/**
 * The benchmark: Skein beside the bare platform and beside what one would pick
 * instead, on the same work, in one batch.
 *
 * ```sh
 * deno task bench --quick --only skein,bare
 * ```
 *
 * - `--quick`: one short run of each.
 * - `--only a,b`: these servers only; `--work a,b`: this work only.
 * - `--runs n`: how often; 3 by default.
 * - `--out file`: where the results go; a file of its own in `bench/results/local/` by default.
 *
 * @module
 */
import { argument, numberArgument } from "./args.ts";
import type { LoadResult } from "./load.ts";
import { canPin, commandOn, freePort, untilListening } from "./processes.ts";
import { type Report, summarize, tableOf } from "./report.ts";
import { findServers, type ServerUnderTest } from "./servers.ts";

/** One kind of work. */
export interface Work {
  /** Name, for `--work`. */
  readonly name: string;
  /** What it is, in words. */
  readonly title: string;
  /** What is counted in a second. */
  readonly unit: string;
  /** For the generator. */
  readonly args: readonly string[];
  /** The number of sessions; a quick run has a quarter. */
  readonly sessions: number;
}

const WORK: readonly Work[] = [
  {
    name: "saturated",
    title: "Fan-out, saturated: 200 subscribers, 64 messages on their way",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "64"],
  },
  {
    name: "single",
    title: "Fan-out, one message at a time: 200 subscribers, nothing to join",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "1"],
  },
  {
    name: "wide",
    title: "Fan-out, saturated: 1,000 subscribers, 64 messages on their way",
    unit: "deliveries/s",
    sessions: 1_000,
    args: ["--mode", "fanout", "--window", "64"],
  },
  {
    name: "topics",
    title: "Fan-out, saturated: 200 subscribers over two topics, a third on both",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "64", "--topics", "2"],
  },
  {
    name: "paced",
    title: "Fan-out, paced: 400 messages/s to 200 subscribers",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--rate", "400"],
  },
  {
    name: "echo",
    title: "Echo: 64 clients, one message each on its way",
    unit: "round trips/s",
    sessions: 64,
    args: ["--mode", "echo"],
  },
  {
    name: "connect",
    title: "Connect: 2,000 sessions, then idle",
    unit: "sessions/s",
    sessions: 2_000,
    args: ["--mode", "connect"],
  },
];

/** A generator that is not done by then has lost its server. */
const MAX_RUN_MS = 120_000;

const { args } = Deno;
const isQuick = args.includes("--quick");
const runs = numberArgument(args, "runs", isQuick ? 1 : 3);
const isPinned = await canPin();
await using found = await findServers();
const servers = chosen(found.servers, argument(args, "only"));
const work = chosen(WORK, argument(args, "work"));

say(
  isPinned
    ? "Server on core 0, generator on core 1."
    : "No taskset, or one core only: server and generator share what there is, so compare ratios only.",
);
const results = new Map<string, LoadResult[]>();
const failures: string[] = [];
for (let run = 1; run <= runs; run++) {
  for (const each of work) {
    for (const server of servers) {
      const key = `${each.name} ${server.name}`;
      say(`${run}/${runs} ${key}`);
      try {
        const list = results.get(key) ?? [];
        list.push(await measure(server, each));
        results.set(key, list);
      } catch (error) {
        failures.push(`${key}: ${(error as Error).message}`);
        say(failures.at(-1)!);
      }
    }
  }
}

const report: Report = {
  when: new Date().toISOString().slice(0, 10),
  where: `${navigator.hardwareConcurrency} cores, ${Deno.build.os}, loopback`,
  deno: Deno.version.deno,
  ...(found.node === undefined ? {} : { node: found.node }),
  isPinned,
  isQuick,
  runs,
  work: work.map((each) => ({
    name: each.name,
    title: isQuick ? `${each.title} (quick: a quarter of the sessions)` : each.title,
    unit: each.unit,
    servers: servers.flatMap((server) => {
      const list = results.get(`${each.name} ${server.name}`);
      return list === undefined
        ? []
        : [{ ...summarize(list), name: server.name, title: server.title }];
    }),
  })),
};
print(tableOf(report));
const file = argument(args, "out") ??
  new URL(`./results/local/${new Date().toISOString().replaceAll(":", "-")}.json`, import.meta.url);
if (file instanceof URL) await Deno.mkdir(new URL(".", file), { recursive: true });
await Deno.writeTextFile(file, JSON.stringify(report, rounded, 2) + "\n");
say(`Results are in ${file instanceof URL ? "bench/results/local/" : file}`);
if (failures.length > 0) {
  print(`\nFailed:\n${failures.join("\n")}`);
  Deno.exitCode = 1;
}

async function measure(server: ServerUnderTest, each: Work): Promise<LoadResult> {
  const port = freePort();
  await using process = commandOn(
    [...server.command, "--port", String(port)],
    isPinned ? 0 : undefined,
    {
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
    },
  ).spawn();
  await Promise.race([
    untilListening(port),
    process.status.then(({ code }) => Promise.reject(new Error(`the server ended with ${code}`))),
  ]);
  const sessions = isQuick ? Math.ceil(each.sessions / 4) : each.sessions;
  const times = isQuick ? ["--warm-up", "300", "--measure", "700"] : [];
  const generator = new URL("./load.ts", import.meta.url).href;
  const output = await commandOn(
    [Deno.execPath(), "run", "-A", "--no-lock", generator, ...each.args, ...times].concat([
      "--dialect",
      server.dialect,
      "--sessions",
      String(sessions),
      "--port",
      String(port),
      "--pid",
      String(process.pid),
    ]),
    isPinned ? 1 : undefined,
    { stderr: "inherit", signal: AbortSignal.timeout(MAX_RUN_MS) },
  ).output();
  process.kill("SIGKILL");
  await process.status;
  if (!output.success) throw new Error(`the generator ended with ${output.code}`);
  return JSON.parse(new TextDecoder().decode(output.stdout));
}

function chosen<T extends { readonly name: string }>(
  all: readonly T[],
  only?: string,
): readonly T[] {
  if (only === undefined) return all;
  const names = only.split(",");
  for (const name of names) {
    if (all.some((each) => each.name === name)) continue;
    throw new TypeError(
      `Cannot run: "${name}" is none of ${all.map((each) => each.name).join(", ")}`,
    );
  }
  return all.filter((each) => names.includes(each.name));
}

/** Three digits behind the point are more than the figures are worth. */
function rounded(_key: string, value: unknown): unknown {
  return typeof value === "number" ? Math.round(value * 1_000) / 1_000 : value;
}

function say(text: string): void {
  // deno-lint-ignore no-console
  console.error(text);
}

function print(text: string): void {
  // deno-lint-ignore no-console
  console.log(text);
}
