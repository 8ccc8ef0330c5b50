/**
 * A simulated cluster that you can watch and break: three servers, eight clients and a Redis run in
 * one process, on virtual time. The page plays the trace of a run. Clicking a fault runs the same
 * seed again with that fault.
 *
 * ```sh
 * deno run -A examples/simulation/server.ts                   # then open http://localhost:8007
 * deno run -A examples/simulation/server.ts --port 9007
 * deno run -A examples/simulation/server.ts --once            # two runs of a seed, and their digests
 * ```
 *
 * @module
 */
import * as z from "zod";
import { simulate, type SimulationResult } from "../../testing/simulation/mod.ts";
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { readPage, servePage } from "../shared/site.ts";
import { CLIENTS, DURATION_MS, ENGINE, NODES, RUN, type Run } from "./faults.ts";

const FILES = ["index.html", "simulation.css", "simulation.js", "stage.js", "trace.js"];

const MAX_BODY_BYTES = 16_384;

/** Maximum concurrent runs; each uses a core. */
const MAX_RUNS = 2;

/** Network between the hosts, as within a country. */
const NETWORK = { delayMs: 20, jitterMs: 10 } as const;

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, once } = optionsOf({
    run: "deno run -A examples/simulation/server.ts",
    about: "Serves a page with a simulated cluster, to watch and to break.",
  }, { port: { ...PORT, default: 8007 }, once: ONCE });
  if (once) return await runTwice();
  const page = await readPage(new URL("page/", import.meta.url), FILES);
  let runs = 0;
  Deno.serve({
    port,
    // Listens only on this machine: each run uses a core for a second.
    hostname: "127.0.0.1",
    onListen: ({ port }) =>
      console.log(`Simulation at http://localhost:${port} (press Ctrl-C to stop)`),
  }, async (request) => {
    if (new URL(request.url).pathname !== "/run") return servePage(page, request);
    if (request.method !== "POST") {
      return new Response("Method not allowed", { status: 405, headers: { allow: "POST" } });
    }
    if (runs >= MAX_RUNS) return new Response("Too many concurrent runs", { status: 503 });
    runs++;
    try {
      const run = await readRun(request);
      if (typeof run === "string") return new Response(run, { status: 400 });
      return Response.json(await answer(run));
    } finally {
      runs--;
    }
  });
}

/** Runs the cluster. */
export function simulateRun({ seed, faults }: Run): Promise<SimulationResult> {
  return simulate(new URL("./cluster.ts", import.meta.url), {
    seed,
    input: faults,
    network: NETWORK,
    trace: "packets",
  });
}

/** Runs the cluster for the page. */
async function answer(run: Run): Promise<object> {
  const sinceMs = performance.now();
  const { digest, events, findings, trace } = await simulateRun(run);
  return {
    hosts: { nodes: NODES, clients: CLIENTS, engine: ENGINE },
    durationMs: DURATION_MS,
    tookMs: performance.now() - sinceMs,
    digest,
    events,
    findings,
    trace,
  };
}

/** Reads a run from a request; returns an error text for an invalid one. */
async function readRun(request: Request): Promise<Run | string> {
  if (request.headers.get("content-type") !== "application/json") {
    return "Cannot run: the body must be JSON";
  }
  const bytes = Number(request.headers.get("content-length") ?? Infinity);
  if (bytes > MAX_BODY_BYTES) {
    return `Cannot run: the body must have at most ${MAX_BODY_BYTES} bytes, received ${bytes}`;
  }
  try {
    const run = RUN.safeParse(await request.json());
    return run.success ? run.data : `Cannot run: ${z.prettifyError(run.error)}`;
  } catch {
    return "Cannot run: the body must be JSON";
  }
}

/** Runs a seed twice, with a killed server, and prints both digests. */
async function runTwice(): Promise<void> {
  const run: Run = { seed: 1, faults: [{ atMs: 20_000, host: "oslo", kind: "kill" }] };
  for (let i = 0; i < 2; i++) {
    const { digest, events, findings } = await simulateRun(run);
    console.log(`seed 1: digest ${digest}, ${events} events, ${findings.length} findings`);
  }
}
