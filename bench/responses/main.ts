/**
 * Compares Skein's streaming responses with the subscriptions of tRPC and graphql-ws, both on Node
 * with `ws`. Measures items per second, memory while a consumer stalls, and the time from a cancel
 * until the producer ends.
 *
 * ```sh
 * deno task bench:responses --runs 3
 * deno task bench:responses --only skein,trpc --work "one response"
 * ```
 *
 * The server and the load generator each run on a core of their own, if processes can be pinned to
 * cores. The benchmark needs Node and npm. It prints the minimum, median and maximum of all runs.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { argument, numberArgument } from "../args.ts";
import { canPin, commandOn, freePort, untilListening } from "../processes.ts";
import { amount } from "../report.ts";
import type { ResponsesLoad } from "./load.ts";

const PACKAGES = [
  "@trpc/server@11.25.2",
  "@trpc/client@11.25.2",
  "graphql-ws@6.4.2",
  "graphql@16.15.0",
  "typescript@6.0.3",
  "ws@8.23.0",
];

/** Arguments of the generator, by work; none for the libraries' own clients. */
const WORK: Readonly<Record<string, readonly string[] | undefined>> = {
  "one response": ["--mode", "items"],
  "one response, window of 1,024": ["--mode", "items", "--window", "1024"],
  "64 responses": ["--mode", "items", "--responses", "64"],
  "one response, own client": undefined,
  "stalled": ["--mode", "stalled"],
  "cancel": ["--mode", "cancel"],
};

/** Servers, each with the generator's dialect, the program, and a client program. */
const SERVERS = {
  "Skein": ["skein", "skein.ts", "skein_client.ts"],
  "tRPC on ws": ["trpc", "trpc.mjs", "trpc_client.mjs"],
  "graphql-ws on ws": ["graphql", "graphql.mjs", "graphql_client.mjs"],
} as const;

const RUNS = numberArgument(Deno.args, "runs", 3);
const ONLY = argument(Deno.args, "only");
const WORKS = argument(Deno.args, "work");

const fileOf = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const deno = (...args: string[]) => [Deno.execPath(), "run", "-A", "--no-lock", ...args];

async function install(folder: string): Promise<void> {
  const { success } = await new Deno.Command("npm", {
    args: ["install", "--no-audit", "--no-fund", "--prefix", folder, ...PACKAGES],
    stdout: "null",
    stderr: "null",
  }).output();
  if (!success) throw new Error(`Cannot install ${PACKAGES.join(", ")}`);
  for await (const { name } of Deno.readDir(fileOf("."))) {
    if (name.endsWith(".mjs")) await Deno.copyFile(fileOf(name), `${folder}/${name}`);
  }
}

async function measure(
  folder: string,
  [dialect, file, client]: readonly [string, string, string],
  args: readonly string[] | undefined,
): Promise<ResponsesLoad> {
  const port = freePort();
  const cores = await canPin() ? [0, 1] : [];
  const programOf = (file: string) =>
    file.endsWith(".ts") ? deno(fileOf(file)) : ["node", `${folder}/${file}`];
  const quiet = { stdin: "null", stdout: "null", stderr: "inherit" } as const;
  await using server = commandOn([...programOf(file), `${port}`], cores[0], quiet).spawn();
  try {
    await untilListening(port);
    const [at, of] = [`${port}`, `${server.pid}`];
    const load = args === undefined
      ? [...programOf(client), at, of]
      : deno(fileOf("load.ts"), "--port", at, "--pid", of, "--dialect", dialect, ...args);
    const { stdout } = await commandOn(load, cores[1], { stderr: "inherit" }).output();
    return JSON.parse(new TextDecoder().decode(stdout));
  } finally {
    server.kill("SIGKILL");
  }
}

/** Formats minimum, median and maximum. */
function summary(
  values: readonly (number | undefined)[],
  write: (value: number) => string,
): string {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  if (sorted.length === 0) return "";
  return [sorted[0], sorted[sorted.length >> 1], sorted.at(-1)].map((value) => write(value!))
    .join(" / ");
}

const folder = await Deno.makeTempDir({ prefix: "skein-bench-" });
try {
  await install(folder);
  for (const [work, load] of Object.entries(WORK)) {
    if (WORKS !== undefined && work !== WORKS) continue;
    for (const [name, server] of Object.entries(SERVERS)) {
      if (ONLY !== undefined && !ONLY.split(",").includes(server[0])) continue;
      if (load?.includes("--window") && server[0] !== "skein") continue; // The other servers have no window.
      const runs: ResponsesLoad[] = [];
      for (let run = 0; run < RUNS; run++) runs.push(await measure(folder, server, load));
      const figures = [
        ["items/s", summary(runs.map((run) => run.perSecond), amount)],
        ["µs of CPU an item", summary(runs.map((run) => run.cpuUs), (us) => us.toFixed(1))],
        ["µs of the client", summary(runs.map((run) => run.clientCpuUs), (us) => us.toFixed(1))],
        ["% of the generator", summary(runs.map((run) => run.generatorPercent), amount)],
        ["MiB more", summary(runs.map((run) => run.grownMib), (mib) => mib.toFixed(1))],
        ["ms to the stop", summary(runs.map((run) => run.cancelMs), (ms) => ms.toFixed(2))],
      ].filter(([, text]) => text !== "").map(([unit, text]) => `${text} ${unit}`);
      // deno-lint-ignore no-console
      console.log(`${work}, ${name}: ${figures.join(", ")}`);
    }
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
