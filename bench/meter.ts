/**
 * The measurements of a generator.
 *
 * @module
 */
import type { Histogram } from "../cli/load/histogram.ts";
import { type Usage, usageOf } from "./processes.ts";

/** The result of a run. */
export interface LoadResult {
  /** Deliveries, round trips, sessions or megabytes per second. */
  readonly perSecond: number;
  /**
   * The server's CPU time per operation, in microseconds; absent on systems that don't report it.
   */
  readonly cpuUs?: number;
  /**
   * The generator's CPU load, as a percentage of a core; near 100 the generator is the bottleneck.
   */
  readonly generatorPercent?: number;
  /** Median latency from sending to receiving, in milliseconds. */
  readonly p50Ms?: number;
  /** Latency of the 99th percentile, in milliseconds. */
  readonly p99Ms?: number;
  /** The server's memory per idle session, in KiB. */
  readonly kibPerSession?: number;
  /** Number of lost messages. */
  readonly lost?: number;
  /** Number of duplicate or reordered messages. */
  readonly disordered?: number;
  /** Number of sessions that closed during the run. */
  readonly closed: number;
  /**
   * Number of replies before the server stopped replying; the other measurements are meaningless
   * then.
   */
  readonly stalledAfter?: number;
}

/** Measures CPU time of server and generator over an interval. */
export class Meter {
  readonly #pids: readonly number[];
  readonly #startUs = nowUs();
  readonly #serverUs: number | undefined;
  readonly #ownUs: number | undefined;

  private constructor(
    pids: readonly number[],
    serverUs: number | undefined,
    ownUs: number | undefined,
  ) {
    this.#pids = pids;
    this.#serverUs = serverUs;
    this.#ownUs = ownUs;
  }

  /**
   * Starts a measurement.
   *
   * @param pids The server's processes.
   * @returns The measurement.
   */
  static async begin(...pids: readonly number[]): Promise<Meter> {
    const [serverUs, own] = await Promise.all([cpuOf(pids), usageOf(Deno.pid)]);
    return new Meter(pids, serverUs, own.cpuUs);
  }

  /**
   * Ends the measurement.
   *
   * @param count Number of operations during the interval.
   * @param endUs Time of the last operation; the current time by default.
   * @returns The measurements.
   */
  async end(count: number, endUs = nowUs()): Promise<Omit<LoadResult, "closed">> {
    const tookUs = endUs - this.#startUs;
    const [serverUs, own] = await Promise.all([cpuOf(this.#pids), usageOf(Deno.pid)]);
    return {
      perSecond: count / tookUs * 1_000_000,
      ...(serverUs === undefined || this.#serverUs === undefined
        ? {}
        : { cpuUs: (serverUs - this.#serverUs) / Math.max(1, count) }),
      ...(own.cpuUs === undefined || this.#ownUs === undefined
        ? {}
        : { generatorPercent: (own.cpuUs - this.#ownUs) / tookUs * 100 }),
    };
  }
}

/** Returns the CPU time of several processes together, in microseconds. */
async function cpuOf(pids: readonly number[]): Promise<number | undefined> {
  let sum = 0;
  for (const { cpuUs } of await Promise.all(pids.map(usageOf))) {
    if (cpuUs === undefined) return undefined;
    sum += cpuUs;
  }
  return sum;
}

/**
 * Computes how much memory a session uses in the server.
 *
 * @param sessions The number of sessions.
 * @param usage The server's memory usage without and with the sessions.
 * @returns The memory per session; empty on systems that do not report memory.
 */
export function memoryOf(
  sessions: number,
  usage: { readonly before: Usage; readonly after: Usage },
): Pick<LoadResult, "kibPerSession"> {
  const { before: { rssBytes: before }, after: { rssBytes: after } } = usage;
  if (before === undefined || after === undefined) return {};
  return { kibPerSession: (after - before) / 1_024 / sessions };
}

/**
 * Computes the usual quantiles.
 *
 * @param histogram The times.
 * @returns The median and the 99th percentile.
 */
export function quantilesOf(histogram: Histogram): { p50Ms: number; p99Ms: number } {
  return { p50Ms: histogram.quantileMs(0.5), p99Ms: histogram.quantileMs(0.99) };
}

/** Returns the time since the start of the process, in microseconds. */
export function nowUs(): number {
  return Math.round(performance.now() * 1_000);
}

/**
 * Waits.
 *
 * @param ms The time, in milliseconds.
 * @returns Resolves after that time.
 */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
