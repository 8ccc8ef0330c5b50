/**
 * Compares Skein's durable streams over HTTP with the protocol's reference server, both in memory.
 * Measures appends, and deliveries to readers of server-sent events.
 *
 * ```sh
 * deno task bench:durable --runs 3
 * ```
 *
 * The server and the load generator each run on a core of their own, if processes can be pinned to
 * cores. The benchmark needs Node and npm. It prints the median, minimum and maximum of all runs.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { numberArgument } from "../args.ts";
import { canPin, commandOn, freePort, untilListening } from "../processes.ts";
import type { DurableLoadResult } from "./load.ts";

const REFERENCE = "@durable-streams/server";
const VERSION = "0.3.7";

/** Writers and readers of each work. */
const WORK = {
  "appends, 16 writers": { writers: 16, readers: 0 },
  "1 reader, 4 writers": { writers: 4, readers: 1 },
  "100 readers, 2 writers": { writers: 2, readers: 100 },
};

const RUNS = numberArgument(Deno.args, "runs", 3);
const MEASURE_MS = numberArgument(Deno.args, "measure", 4_000);

const fileOf = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const deno = (...args: string[]) => [Deno.execPath(), "run", "-A", "--no-lock", ...args];

/** Returns each server's command for a port. */
function serversIn(folder: string): Readonly<Record<string, (port: number) => string[]>> {
  return {
    [`${REFERENCE} ${VERSION}`]: (
      port,
    ) => ["node", `${folder}/reference.mjs`, `${port}`, REFERENCE],
    "Skein": (port) => deno(fileOf("skein.ts"), `${port}`),
  };
}

async function install(folder: string): Promise<void> {
  const { success } = await new Deno.Command("npm", {
    args: ["install", "--no-audit", "--no-fund", "--prefix", folder, `${REFERENCE}@${VERSION}`],
    stdout: "null",
  }).output();
  if (!success) throw new Error(`Cannot install ${REFERENCE} ${VERSION}`);
  await Deno.copyFile(fileOf("reference.mjs"), `${folder}/reference.mjs`);
}

async function measure(
  command: (port: number) => string[],
  { writers, readers }: { readonly writers: number; readonly readers: number },
): Promise<DurableLoadResult> {
  const port = freePort();
  const cores = await canPin() ? [0, 1] : [];
  const quiet = { stdin: "null", stdout: "null", stderr: "inherit" } as const;
  await using server = commandOn(command(port), cores[0], quiet).spawn();
  try {
    await untilListening(port);
    const load = deno(fileOf("load.ts"), "--port", `${port}`, "--pid", `${server.pid}`)
      .concat("--writers", `${writers}`, "--readers", `${readers}`, "--measure", `${MEASURE_MS}`);
    const { stdout } = await commandOn(load, cores[1], { stderr: "inherit" }).output();
    return JSON.parse(new TextDecoder().decode(stdout));
  } finally {
    server.kill("SIGKILL");
  }
}

/** Formats median, minimum and maximum. */
function summary(values: readonly (number | undefined)[], digits: number): string {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  if (sorted.length === 0) return "-";
  const [low, middle, high] = [sorted[0], sorted[sorted.length >> 1], sorted.at(-1)]
    .map((value) => value!.toFixed(digits));
  return `${middle} (${low} to ${high})`;
}

const folder = await Deno.makeTempDir({ prefix: "skein-bench-" });
try {
  await install(folder);
  for (const [work, load] of Object.entries(WORK)) {
    const results = new Map<string, DurableLoadResult[]>();
    for (let run = 0; run < RUNS; run++) {
      for (const [name, command] of Object.entries(serversIn(folder))) {
        results.set(name, [...results.get(name) ?? [], await measure(command, load)]);
      }
    }
    for (const [name, all] of results) {
      const appends = summary(all.map((one) => one.appendsPerSecond), 0);
      const deliveries = summary(all.map((one) => one.deliveriesPerSecond), 0);
      const cpu = all.map((one) => load.readers === 0 ? one.cpuUsPerAppend : one.cpuUsPerDelivery);
      // deno-lint-ignore no-console
      console.log(
        `${work}, ${name}: ${appends} appends/s, ${deliveries} deliveries/s, ` +
          `${summary(cpu, 1)} µs of CPU each`,
      );
    }
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
