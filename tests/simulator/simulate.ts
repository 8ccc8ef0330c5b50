/** Simulations of your own programs, in a thread whose globals are on virtual time. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, integer, POSITIVE, TIME } from "../../base/options/option_checks.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import type { Checkpoint, SimulationOptions, TraceEntry } from "./event_loop.ts";
import type { LinkConditions } from "./network/conditions.ts";
import type { SimulatedNetwork } from "./network/network.ts";
import type { Simulation } from "./simulation.ts";

/** Options of {@linkcode simulate}. */
export interface SimulateOptions extends SimulationOptions {
  /** Conditions between any two hosts from the start; by default a network without faults. */
  readonly network?: LinkConditions | undefined;
  /** Value for the program, which must be cloneable. Absent by default. */
  readonly input?: unknown;
  /**
   * Real-time limit of the simulation, in milliseconds.
   *
   * @default {120000}
   */
  readonly timeoutMs?: number | undefined;
  /** Cancels the simulation. */
  readonly signal?: AbortSignal | undefined;
}

const SIMULATE: OptionKinds<SimulateOptions> = {
  input: 0,
  network: "object",
  seed: integer(Number.MIN_SAFE_INTEGER),
  signal: "AbortSignal",
  timeoutMs: TIME,
  trace: ["facts", "packets"],
  turns: POSITIVE,
};

/** The argument of a simulated program. */
export interface SimulationContext {
  /** Virtual time, and the hosts on it. */
  readonly simulation: Simulation;
  /** The network between the hosts. */
  readonly network: SimulatedNetwork;
  /** The option `input` of {@linkcode simulate}. */
  readonly input: unknown;
}

/** The result of {@linkcode simulate}. */
export interface SimulationResult {
  readonly seed: number;
  /**
   * Uncaught errors, unhandled rejections, and the program's entries of the kind `"finding"`,
   * oldest first. Empty after a successful run.
   */
  readonly findings: readonly TraceEntry[];
  /** Digest of the run; the same in each run of the seed. */
  readonly digest: string;
  /** Number of events that ran. */
  readonly events: number;
  /** Elapsed virtual time, in milliseconds. */
  readonly simulatedMs: number;
  /** Intermediate digests, for {@linkcode firstDifference}. */
  readonly checkpoints: readonly Checkpoint[];
  /** The newest entries of the trace, for {@linkcode timeline}. */
  readonly trace: readonly TraceEntry[];
}

/** The first message to the thread of a simulation. */
export interface SimulationStart extends Omit<SimulateOptions, "signal" | "timeoutMs"> {
  /** URL of the program. */
  readonly module: string;
}

/** The message of the thread: the result, or the error that prevented the program from loading. */
export type SimulationEnd =
  | { readonly result: SimulationResult }
  | { readonly failure: string };

/**
 * Simulates a program from a seed: its servers, its clients and everything that they use run in one
 * thread, on virtual time, over a network with faults.
 *
 * The default export of the module is a function that receives a {@linkcode SimulationContext}. It
 * adds hosts, starts servers and clients, and advances time with `simulation.run()`. The globals of
 * its thread are replaced before the module loads: clocks, timers and random numbers are those of
 * the host whose event is running. Real input and output throw an error.
 *
 * The same seed always produces the same digest, on every machine with the same version of Deno.
 *
 * @param options See {@linkcode SimulateOptions}.
 * @returns The findings and the trace. Errors of the program are findings.
 * @throws {TypeError} If the module does not load, or has no function as its default export.
 * @throws {TimeoutError} If the simulation takes longer than `timeoutMs`, for example because an
 * event never ends.
 *
 * @example A cluster under faults, from ten seeds
 * ```ts ignore
 * import { simulate, timeline } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * for (let seed = 1; seed <= 10; seed++) {
 *   const { findings, trace } = await simulate(new URL("./my_cluster.ts", import.meta.url), { seed });
 *   assertEquals(findings, [], timeline(trace));
 * }
 * ```
 */
export async function simulate(
  module: string | URL,
  options: SimulateOptions,
): Promise<SimulationResult> {
  checkOptions("simulate", options, SIMULATE);
  const { timeoutMs = 120_000, signal, ...rest } = options;
  signal?.throwIfAborted();
  const start: SimulationStart = { ...rest, module: `${module}` };
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  try {
    const { promise, resolve, reject } = Promise.withResolvers<SimulationEnd>();
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new TypeError(`Cannot simulate: the thread must run, received "${event.message}"`));
    };
    worker.postMessage(start);
    const end = await within(platformRuntime(), promise, {
      timeoutMs,
      late: "Cannot simulate: an event may never end, as the simulation took longer than",
      signal,
    });
    if ("result" in end) return end.result;
    throw new TypeError(end.failure);
  } finally {
    worker.terminate();
  }
}
