/**
 * Measures how much a second process on the same port increases throughput. A handler computes for
 * a third of a millisecond per message. It runs in one process, in two, with workers, and with
 * `deno serve`.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A --unstable-net bench/cluster/shared_port.ts --runs 5
 * ```
 *
 * No process is pinned to a core, so the machine should otherwise be idle. Other load does not
 * affect the CPU time per message.
 * @module
 */
import { argument, numberArgument } from "../args.ts";
import type { LoadResult } from "../meter.ts";
import { freePort, untilListening } from "../processes.ts";

const SERVER = new URL("./shared_port_server.ts", import.meta.url).href;
const GENERATOR = new URL("../load.ts", import.meta.url).href;
const FLAGS = ["-A", "--no-lock", "--unstable-net"];

/**
 * Time until all processes listen on a port, in milliseconds; only the first one can be observed.
 */
const ALL_LISTEN_MS = 1_500;

const reuse = (port: number) => ["run", ...FLAGS, SERVER, "--reuse", `${port}`];
const workers = (port: number, count: number) => {
  return ["run", ...FLAGS, SERVER, "--workers", `${port}`, `${count}`];
};
const deno = (
  port: number,
  ...flags: string[]
) => ["serve", ...FLAGS, ...flags, "--host", "127.0.0.1", "--port", `${port}`, SERVER];

const SETUPS: Readonly<Record<string, (port: number) => string[][]>> = {
  "one process": (port) => [reuse(port)],
  "two processes, reusePort": (port) => [reuse(port), reuse(port)],
  "one worker": (port) => [workers(port, 1)],
  "two workers": (port) => [workers(port, 2)],
  "deno serve": (port) => [deno(port)],
  "deno serve --parallel, two workers": (port) => [deno(port, "--parallel")],
};

const only = argument(Deno.args, "only")?.split(",");
const results = new Map<string, LoadResult[]>();
const runs = numberArgument(Deno.args, "runs", 3);
for (let run = 1; run <= runs; run++) {
  for (const [name, commands] of Object.entries(SETUPS)) {
    if (!(only?.includes(name) ?? true)) continue;
    results.set(name, [...results.get(name) ?? [], await measure(commands)]);
  }
}
for (const [name, all] of results) {
  const rates = all.map(({ perSecond }) => Math.round(perSecond)).sort((a, b) => a - b);
  const cpu = all.map(({ cpuUs = NaN }) => cpuUs).sort((a, b) => a - b);
  // deno-lint-ignore no-console
  console.log(
    `${name}: ${rates[rates.length >> 1]} messages/s (${rates[0]} to ${rates.at(-1)}), ` +
      `${cpu[cpu.length >> 1]!.toFixed(0)} µs of CPU each`,
  );
}

async function measure(commands: (port: number) => string[][]): Promise<LoadResult> {
  const port = freePort();
  const processes = commands(port).map((args) =>
    new Deno.Command(Deno.execPath(), {
      args,
      env: { DENO_JOBS: "2" },
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn()
  );
  try {
    await untilListening(port);
    await new Promise((resolve) => setTimeout(resolve, ALL_LISTEN_MS));
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", ...FLAGS, GENERATOR, "--mode", "echo", "--dialect", "skein"].concat(
        ["--port", `${port}`, "--sessions", "64", "--measure", "4000"],
        ["--pid", processes.map(({ pid }) => pid).join(",")],
      ),
      stderr: "inherit",
    }).output();
    return JSON.parse(new TextDecoder().decode(stdout));
  } finally {
    for (const process of processes) {
      process.kill("SIGKILL");
      await process.status;
    }
  }
}
