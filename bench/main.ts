/**
 * The main benchmark. It runs Skein, the bare platform and common alternatives with the same work,
 * in one batch.
 *
 * ```sh
 * deno task bench --quick --only skein,bare
 * ```
 *
 * - `--quick`: runs each benchmark once, for a short time.
 * - `--only a,b`: runs only these servers.
 * - `--work a,b`: runs only these kinds of work. `--work webtransport` selects all work over
 *   WebTransport, `--work streams` selects all work with streams on a WebSocket, and `--work
 *   websocket` selects the rest.
 * - `--runs n`: number of runs; 3 by default.
 * - `--out file`: the file for the results; by default a new file in `bench/results/local/`.
 * - `--uwebsockets program`: the program built from `controls/uwebsockets.cpp`, which is then
 *   measured too.
 *
 * @module
 */
import { argument, numberArgument } from "./args.ts";
import type { LoadResult } from "./meter.ts";
import { canPin, commandOn, freePort, untilListening, usageOf } from "./processes.ts";
import { type Report, summarize, summaryOf, tableOf } from "./report.ts";
import { findServers, type ServerGroup, type ServerUnderTest } from "./servers.ts";

/** One kind of work. */
export interface Work {
  /** Name, for `--work`. */
  readonly name: string;
  /** Name of the group of work, for `--work`. */
  readonly kind: "websocket" | "webtransport" | "streams";
  /** The group of servers for this work. */
  readonly servers: ServerGroup;
  /** Servers that cannot take part. */
  readonly without?: readonly string[];
  /** Description of the work. */
  readonly title: string;
  /** Unit of the rate per second. */
  readonly unit: string;
  /** Arguments of the generator. */
  readonly args: readonly string[];
  /** Number of sessions, for work with many sessions; a quick run has a quarter. */
  readonly sessions?: number;
}

const WEBSOCKET = { kind: "websocket", servers: "websocket" } as const;
const WEBTRANSPORT = { kind: "webtransport", servers: "webtransport" } as const;
const FAN_OUT = { kind: "webtransport", servers: "fan-out" } as const;
const STREAMS = { kind: "streams", servers: "streams" } as const;

const WORK: readonly Work[] = [
  {
    ...WEBSOCKET,
    name: "saturated",
    title: "Fan-out, saturated: 200 subscribers, 64 messages in flight",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "64"],
  },
  {
    ...WEBSOCKET,
    name: "single",
    title: "Fan-out, one message at a time: 200 subscribers, no batching",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "1"],
  },
  {
    ...WEBSOCKET,
    name: "wide",
    title: "Fan-out, saturated: 1,000 subscribers, 64 messages in flight",
    unit: "deliveries/s",
    sessions: 1_000,
    args: ["--mode", "fanout", "--window", "64"],
  },
  {
    ...WEBSOCKET,
    name: "wide-single",
    title: "Fan-out, one message at a time: 5,000 subscribers, no batching",
    unit: "deliveries/s",
    sessions: 5_000,
    args: ["--mode", "fanout", "--window", "1"],
  },
  {
    ...WEBSOCKET,
    name: "saturated-1k",
    title: "Fan-out of 1 KiB, saturated: 200 subscribers, 64 messages in flight",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "64", "--size", "1024"],
  },
  {
    ...WEBSOCKET,
    name: "saturated-16k",
    // A window of 64 would be more than the send queue of a session holds.
    title: "Fan-out of 16 KiB, saturated: 200 subscribers, 16 messages in flight",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "16", "--size", "16384"],
  },
  {
    ...WEBSOCKET,
    name: "topics",
    title: "Fan-out, saturated: 200 subscribers over two topics, a third on both",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--window", "64", "--topics", "2"],
  },
  {
    ...WEBSOCKET,
    name: "paced",
    title: "Fan-out, paced: 400 messages/s to 200 subscribers",
    unit: "deliveries/s",
    sessions: 200,
    args: ["--mode", "fanout", "--rate", "400"],
  },
  {
    ...WEBSOCKET,
    name: "echo",
    title: "Echo: 64 clients, one message each in flight",
    unit: "round trips/s",
    sessions: 64,
    args: ["--mode", "echo"],
  },
  {
    ...WEBSOCKET,
    name: "connect",
    title: "Connect: 5,000 sessions after 1,000 others, then idle",
    unit: "sessions/s",
    sessions: 5_000,
    args: ["--mode", "connect"],
  },
  {
    ...WEBSOCKET,
    name: "start",
    title: "Start: from the command to the first accepted connection (KiB of the whole process)",
    unit: "starts/s",
    args: [],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-setup",
    title: "WebTransport, sessions: one at a time",
    unit: "sessions/s",
    args: ["--mode", "setup"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-setup-8",
    title: "WebTransport, sessions: eight at a time",
    unit: "sessions/s",
    args: ["--mode", "setup", "--at-once", "8"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-setup-50ms",
    title: "WebTransport, sessions: one at a time, at a round trip of 50 ms",
    unit: "sessions/s",
    args: ["--mode", "setup", "--round-trip", "50"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-rpc",
    title: "WebTransport, requests of 64 B, a stream each: one at a time",
    unit: "requests/s",
    args: ["--mode", "rpc"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-rpc-50",
    title: "WebTransport, requests of 64 B, a stream each: 50 at a time",
    unit: "requests/s",
    args: ["--mode", "rpc", "--at-once", "50"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-up",
    title: "WebTransport, upload: 64 MiB on a unidirectional stream (CPU time is per MB)",
    unit: "MB/s",
    args: ["--mode", "up"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-echo",
    title: "WebTransport, echo: 64 MiB through a bidirectional stream (CPU time is per MB)",
    unit: "MB/s",
    args: ["--mode", "echo"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-datagrams",
    title: "WebTransport, datagrams of 100 B: 64 in flight, lost after 250 ms",
    unit: "round trips/s",
    args: ["--mode", "datagrams"],
  },
  {
    ...WEBTRANSPORT,
    name: "wt-idle",
    title: "WebTransport, 200 sessions, then idle",
    unit: "sessions/s",
    sessions: 200,
    args: ["--mode", "idle"],
  },
  {
    ...FAN_OUT,
    name: "wt-fanout",
    title: "Fan-out over WebTransport, saturated: 50 subscribers, 64 messages in flight",
    unit: "deliveries/s",
    sessions: 50,
    args: ["--mode", "fanout", "--window", "64"],
  },
  {
    ...FAN_OUT,
    name: "wt-single",
    title: "Fan-out over WebTransport, one message at a time: 50 subscribers, no batching",
    unit: "deliveries/s",
    sessions: 50,
    args: ["--mode", "fanout", "--window", "1"],
  },
  {
    ...STREAMS,
    name: "st-messages",
    title: "Streams on a WebSocket, messages of 64 B through one stream: 64 in flight",
    unit: "round trips/s",
    args: ["--mode", "messages"],
  },
  {
    ...STREAMS,
    name: "st-rpc",
    title: "Streams on a WebSocket, requests of 64 B, a stream each: one at a time",
    unit: "requests/s",
    args: ["--mode", "rpc"],
  },
  {
    ...STREAMS,
    name: "st-rpc-50",
    title: "Streams on a WebSocket, requests of 64 B, a stream each: 50 at a time",
    unit: "requests/s",
    args: ["--mode", "rpc", "--at-once", "50"],
  },
  {
    ...STREAMS,
    name: "st-up",
    title: "Streams on a WebSocket, upload: 64 KiB at a time (CPU time is per MB)",
    unit: "MB/s",
    args: ["--mode", "up"],
    without: ["skein-text"],
  },
  {
    ...STREAMS,
    name: "st-echo",
    title: "Streams on a WebSocket, echo: 64 KiB at a time (CPU time is per MB)",
    unit: "MB/s",
    args: ["--mode", "echo"],
    without: ["skein-text"],
  },
  {
    ...STREAMS,
    name: "st-idle",
    title: "Streams on a WebSocket, 500 sessions, one open stream in each, then idle",
    unit: "sessions/s",
    sessions: 500,
    args: ["--mode", "idle"],
  },
];

const GENERATORS: Readonly<Record<ServerGroup, string>> = {
  websocket: "./load.ts",
  webtransport: "./webtransport_load.ts",
  "fan-out": "./load.ts",
  streams: "./streams_load.ts",
};

/** Timeout of a generator, in milliseconds; a longer run means that the server is gone. */
const MAX_RUN_MS = 120_000;

const { args } = Deno;
const isQuick = args.includes("--quick");
const runs = numberArgument(args, "runs", isQuick ? 1 : 3);
const isPinned = await canPin();
const work = chosen(WORK, argument(args, "work"));
await using found = await findServers(
  new Set(work.map(({ servers }) => servers)),
  argument(args, "uwebsockets"),
);
const servers = new Set(chosen(Object.values(found.servers).flat(), argument(args, "only")));
const serversOf = ({ servers: group, without = [] }: Work) =>
  found.servers[group].filter((one) => servers.has(one) && !without.includes(one.name));

say(
  isPinned
    ? "Server on core 0, generator on core 1."
    : "No taskset, or only one core: server and generator share it, so compare only ratios.",
);
const results = new Map<string, LoadResult[]>();
const failures: string[] = [];
for (let run = 1; run <= runs; run++) {
  for (const each of work) {
    for (const server of serversOf(each)) {
      const key = `${each.name} ${server.name}`;
      say(`${run}/${runs} ${key}`);
      try {
        const list = results.get(key) ?? [];
        list.push(await (each.name === "start" ? measureStart(server) : measure(server, each)));
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
    title: isQuick && each.sessions !== undefined
      ? `${each.title} (quick: a quarter of the sessions)`
      : each.title,
    unit: each.unit,
    servers: serversOf(each).flatMap((server) => {
      const list = results.get(`${each.name} ${server.name}`);
      return list === undefined
        ? []
        : [{ ...summarize(list), name: server.name, title: server.title }];
    }),
  })),
};
print(`${summaryOf(report)}\n\n${tableOf(report)}`);
const file = argument(args, "out") ??
  new URL(`./results/local/${new Date().toISOString().replaceAll(":", "-")}.json`, import.meta.url);
if (file instanceof URL) await Deno.mkdir(new URL(".", file), { recursive: true });
await Deno.writeTextFile(file, JSON.stringify(report, rounded, 2) + "\n");
say(`Results are in ${file instanceof URL ? "bench/results/local/" : file}`);
if (failures.length > 0) {
  print(`\nFailed:\n${failures.join("\n")}`);
  Deno.exitCode = 1;
}

function start(server: ServerUnderTest, port: number): Deno.ChildProcess {
  const options = { stdin: "null", stdout: "null", stderr: "inherit" } as const;
  return commandOn(server.command(port), isPinned ? 0 : undefined, options).spawn();
}

/** Measures the startup time, from the command to the first accepted connection. */
async function measureStart(server: ServerUnderTest): Promise<LoadResult> {
  const port = freePort();
  const startedAt = performance.now();
  await using process = start(server, port);
  await untilListening(port, { everyMs: 1 });
  const tookMs = performance.now() - startedAt;
  const { cpuUs, rssBytes } = await usageOf(process.pid);
  process.kill("SIGKILL");
  return {
    perSecond: 1_000 / tookMs,
    p50Ms: tookMs,
    ...(cpuUs === undefined ? {} : { cpuUs }),
    ...(rssBytes === undefined ? {} : { kibPerSession: rssBytes / 1_024 }),
    closed: 0,
  };
}

async function measure(server: ServerUnderTest, each: Work): Promise<LoadResult> {
  const port = freePort();
  await using process = start(server, port);
  const ended = process.status.then(({ code }) =>
    Promise.reject(new Error(`the server ended with ${code}`))
  );
  ended.catch(() => {}); // The rejection at the end of the batch is expected.
  // For a UDP server, the generator itself waits.
  if (server.hasTcp) await Promise.race([untilListening(port), ended]);
  const { sessions } = each;
  const few = isQuick ? ["--warm-up", "300", "--measure", "700"] : [];
  if (sessions !== undefined) {
    few.push("--sessions", String(isQuick ? Math.ceil(sessions / 4) : sessions));
  }
  const generator = new URL(GENERATORS[each.servers], import.meta.url).href;
  const over = new AbortController();
  const output = await Promise.race([
    commandOn(
      [Deno.execPath(), "run", "-A", "--unstable-net", "--no-lock", generator].concat(
        each.args,
        few,
        server.client,
        ["--port", String(port), "--pid", String(process.pid)],
      ),
      isPinned ? 1 : undefined,
      {
        stderr: "inherit",
        signal: AbortSignal.any([over.signal, AbortSignal.timeout(MAX_RUN_MS)]),
      },
    ).output(),
    ended,
  ]).finally(() => over.abort());
  process.kill("SIGKILL");
  await process.status;
  if (!output.success) throw new Error(`the generator ended with ${output.code}`);
  return JSON.parse(new TextDecoder().decode(output.stdout));
}

function chosen<T extends { readonly name: string; readonly kind?: string }>(
  all: readonly T[],
  only?: string,
): readonly T[] {
  if (only === undefined) return all;
  const names = only.split(",");
  const known = new Set(all.flatMap(({ name, kind = name }) => [name, kind]));
  for (const name of names) {
    if (known.has(name)) continue;
    throw new TypeError(`Cannot run: "${name}" is none of ${[...known].join(", ")}`);
  }
  return all.filter(({ name, kind = name }) => names.includes(name) || names.includes(kind));
}

/** Rounds to three decimals, because the measurements are not more precise. */
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
