/**
 * Benchmarks several nodes: publications on one node reach clients on two others through Redis or
 * NATS. Skein is compared with socket.io and its Redis adapter. The same load also runs on a single
 * node without a broker.
 *
 * ```sh
 * deno task bench:cluster --quick
 * ```
 *
 * - `--quick`: runs each benchmark once, for a short time.
 * - `--runs n`: number of runs; 3 by default.
 * - `--only a,b`: runs only these candidates.
 * - `--work a,b`: runs only these kinds of work.
 * - `--nodes n`: number of nodes that share a broker; 3 by default.
 * - `--sessions n`: number of subscribers; 200 by default, 50 with `--quick`.
 * - `--loose`: does not pin processes to cores.
 *
 * @module
 */
import { NatsServer } from "../../tests/brokers/nats_server.ts";
import { RedisServer } from "../../tests/brokers/redis_server.ts";
import { argument, numberArgument } from "../args.ts";
import type { LoadResult } from "../meter.ts";
import { canPin, commandOn, freePort, untilListening } from "../processes.ts";
import { amount, summarize } from "../report.ts";

const NODE_PACKAGES = ["socket.io@4.8.4", "@socket.io/redis-adapter@8.3.0", "ioredis@5.8.2"];

/** Timeout of a generator, in milliseconds; a longer run means that the servers are gone. */
const MAX_RUN_MS = 120_000;

/** A candidate of the comparison. */
interface Setup {
  readonly name: string;
  readonly title: string;
  readonly dialect: "skein" | "socketio";
  /** The broker that connects the nodes; absent for a single node. */
  readonly broker?: "redis" | "nats";
  readonly args?: readonly string[];
}

/** Arguments of a node with a history. */
const HISTORY = ["--history"];

const SETUPS: readonly Setup[] = [
  { name: "skein", title: "Skein, one node", dialect: "skein" },
  {
    name: "skein-history",
    title: "Skein, one node, with a history",
    dialect: "skein",
    args: HISTORY,
  },
  ...[1, 2].flatMap((count): Setup[] => {
    const workers = ["--workers", `${count}`];
    const title = count === 1 ? "Skein, one worker" : `Skein, ${count} workers`;
    return [
      { name: `skein-workers-${count}`, title, dialect: "skein", args: workers },
      {
        name: `skein-workers-${count}-history`,
        title: `${title}, with a history`,
        dialect: "skein",
        args: [...workers, ...HISTORY],
      },
    ];
  }),
  { name: "socketio", title: "socket.io, one node", dialect: "socketio" },
  { name: "skein-redis", title: "Skein, Redis", dialect: "skein", broker: "redis" },
  { name: "skein-nats", title: "Skein, NATS", dialect: "skein", broker: "nats" },
  { name: "socketio-redis", title: "socket.io, Redis", dialect: "socketio", broker: "redis" },
  {
    name: "skein-redis-history",
    title: "Skein, Redis, with a history",
    dialect: "skein",
    broker: "redis",
    args: HISTORY,
  },
  {
    name: "skein-nats-history",
    title: "Skein, NATS, with a history",
    dialect: "skein",
    broker: "nats",
    args: HISTORY,
  },
];

const WORK = [
  { name: "saturated", title: "64 messages in flight", args: ["--window", "64"] },
  { name: "single", title: "one message at a time", args: ["--window", "1"] },
  { name: "paced", title: "400 messages/s", args: ["--rate", "400"] },
] as const;

const { args } = Deno;
const isQuick = args.includes("--quick");
const runs = numberArgument(args, "runs", isQuick ? 1 : 3);
const only = argument(args, "only")?.split(",");
const work = argument(args, "work")?.split(",");
/** The publisher is on the first node of several, and the subscribers are on the others. */
const nodeCount = numberArgument(args, "nodes", 3);
const sessions = numberArgument(args, "sessions", isQuick ? 50 : 200);
const isPinned = !args.includes("--loose") && await canPin();
const setups = SETUPS.filter(({ name }) => only?.includes(name) ?? true);
const works = WORK.filter(({ name }) => work?.includes(name) ?? true);
const folder = await Deno.makeTempDir({ prefix: "bench-" });
try {
  if (setups.some(({ dialect }) => dialect === "socketio")) await installForNode();
  const results = new Map<string, LoadResult[]>();
  for (let run = 1; run <= runs; run++) {
    for (const work of works) {
      for (const setup of setups) {
        const key = `${work.name} ${setup.name}`;
        say(`${run}/${runs} ${key}`);
        results.set(key, [...results.get(key) ?? [], await measure(setup, work.args)]);
      }
    }
  }
  print(tables(results));
  const missing = [...results].filter(([, list]) => list.some(isIncomplete)).map(([key]) => key);
  if (missing.length > 0) {
    say(`Messages are missing: ${missing.join(", ")}`);
    Deno.exitCode = 1;
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}

async function measure(setup: Setup, work: readonly string[]): Promise<LoadResult> {
  await using stack = new AsyncDisposableStack();
  const broker = await brokerFor(setup.broker);
  if (broker !== undefined) stack.use(broker.server);
  const ports = Array.from({ length: broker === undefined ? 1 : nodeCount }, freePort);
  // One core for all nodes and the broker, one for the clients, so that all candidates have the
  // same resources.
  const nodes = ports.map((port) => {
    const command = [...programOf(setup), "--port", `${port}`, ...broker?.args ?? []];
    const process = commandOn([...command, ...setup.args ?? []], isPinned ? 0 : undefined, {
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
    }).spawn();
    stack.defer(async () => {
      process.kill("SIGKILL");
      await process.status;
    });
    return process;
  });
  await Promise.all(ports.map((port) => untilListening(port)));
  const few = ["--sessions", `${sessions}`].concat(
    isQuick ? ["--warm-up", "300", "--measure", "700"] : [],
  );
  const subscribers = ports.length === 1 ? [] : ["--ports", ports.slice(1).join(",")];
  const generator = new URL("../load.ts", import.meta.url).href;
  const { success, code, stdout } = await commandOn(
    [Deno.execPath(), "run", "-A", "--unstable-net", "--no-lock", generator].concat(
      ["--mode", "fanout", "--dialect", setup.dialect, "--port", `${ports[0]}`],
      ["--pid", [...nodes.map(({ pid }) => pid), ...broker?.pids ?? []].join(",")],
      subscribers,
      work,
      few,
    ),
    isPinned ? 1 : undefined,
    { stderr: "inherit", signal: AbortSignal.timeout(MAX_RUN_MS) },
  ).output();
  if (!success) throw new Error(`${setup.name}: the generator ended with ${code}`);
  return JSON.parse(new TextDecoder().decode(stdout));
}

/** Returns true if a run lost messages, or delivered none. */
function isIncomplete({ perSecond, lost = 0 }: LoadResult): boolean {
  return lost > 0 || !(perSecond > 0);
}

async function brokerFor(name: Setup["broker"]): Promise<
  { server: AsyncDisposable; args: readonly string[]; pids: readonly number[] } | undefined
> {
  if (name === undefined) return undefined;
  if (name === "redis") {
    const server = await RedisServer.start();
    await pin(server.pid);
    return { server, args: ["--redis", server.url], pids: [server.pid] };
  }
  const server = await NatsServer.start();
  await pin(server.pid);
  return { server, args: ["--nats", server.servers], pids: [server.pid] };
}

/** Pins a process to the nodes' core. */
async function pin(pid: number): Promise<void> {
  if (!isPinned) return;
  await new Deno.Command("taskset", { args: ["-acp", "0", `${pid}`], stdout: "null" }).output();
}

function programOf({ dialect }: Setup): readonly string[] {
  if (dialect === "socketio") return ["node", `${folder}/socketio_redis.mjs`];
  const file = new URL("./node.ts", import.meta.url).href;
  return [Deno.execPath(), "run", "-A", "--unstable-net", "--no-lock", file];
}

async function installForNode(): Promise<void> {
  const { success } = await new Deno.Command("npm", {
    args: ["install", "--no-audit", "--no-fund", "--prefix", folder, ...NODE_PACKAGES],
    stdout: "null",
  }).output();
  if (!success) throw new Error("Cannot install socket.io: npm failed");
  const file = "socketio_redis.mjs";
  await Deno.copyFile(new URL(file, import.meta.url), `${folder}/${file}`);
}

function tables(results: ReadonlyMap<string, readonly LoadResult[]>): string {
  const lines: string[] = [];
  for (const { name, title } of works) {
    lines.push(
      "",
      `**${title}**`,
      "",
      "| | deliveries/s min / median / max | of socket.io | CPU µs each | p50 ms | p99 ms | lost, out of order, closed |",
      "| --- | --- | --- | --- | --- | --- | --- |",
    );
    for (const setup of setups) {
      const list = results.get(`${name} ${setup.name}`);
      if (list === undefined) continue;
      const { perSecond, median } = summarize(list);
      const rival = results.get(
        `${name} ${setup.broker === undefined ? "socketio" : "socketio-redis"}`,
      );
      const ratio = rival === undefined ? "" : (perSecond[1] / summarize(rival).perSecond[1])
        .toFixed(2);
      const { cpuUs = NaN, p50Ms = NaN, p99Ms = NaN, lost, disordered, closed } = median;
      lines.push(
        `| ${setup.title} | ${perSecond.map(amount).join(" / ")} | ${ratio} | ${
          cpuUs.toFixed(2)
        } | ${p50Ms.toFixed(2)} | ${p99Ms.toFixed(2)} | ${lost}, ${disordered}, ${closed} |`,
      );
    }
  }
  return lines.join("\n");
}

function say(text: string): void {
  // deno-lint-ignore no-console
  console.error(text);
}

function print(text: string): void {
  // deno-lint-ignore no-console
  console.log(text);
}
