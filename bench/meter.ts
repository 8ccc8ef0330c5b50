/**
 * What a generator measures, and with what.
 *
 * @module
 */
import type { Histogram } from "./histogram.ts";
import { type Usage, usageOf } from "./processes.ts";

/** What a run found. */
export interface LoadResult {
  /** Deliveries, round trips, sessions or megabytes a second. */
  readonly perSecond: number;
  /** The server's CPU time for one of them, in microseconds; absent where it cannot be told. */
  readonly cpuUs?: number;
  /** The generator's CPU load, in percent of one core; near 100, it is the limit itself. */
  readonly generatorPercent?: number;
  /** Median of the time from sending to receiving, in milliseconds. */
  readonly p50Ms?: number;
  /** The time that one in a hundred exceeds. */
  readonly p99Ms?: number;
  /** The server's memory per idle session, in KiB. */
  readonly kibPerSession?: number;
  /** Messages that did not come. */
  readonly lost?: number;
  /** Messages that came twice, or in another order. */
  readonly disordered?: number;
  /** Sessions that closed meanwhile. */
  readonly closed: number;
  /** After how many answers the server answered no more; the other figures mean nothing then. */
  readonly stalledAfter?: number;
}

/** CPU time of server and generator over a stretch of time. */
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
   * Begins to measure.
   *
   * @param pids The server's processes.
   * @returns What measures.
   */
  static async begin(...pids: readonly number[]): Promise<Meter> {
    const [serverUs, own] = await Promise.all([cpuOf(pids), usageOf(Deno.pid)]);
    return new Meter(pids, serverUs, own.cpuUs);
  }

  /**
   * Ends measuring.
   *
   * @param count What was done meanwhile.
   * @param endUs When the last of it was; now by default.
   * @returns The figures.
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

/** CPU time of several processes together, in microseconds. */
async function cpuOf(pids: readonly number[]): Promise<number | undefined> {
  let sum = 0;
  for (const { cpuUs } of await Promise.all(pids.map(usageOf))) {
    if (cpuUs === undefined) return undefined;
    sum += cpuUs;
  }
  return sum;
}

/**
 * Tells the memory of a server's sessions.
 *
 * @param sessions Their number.
 * @param usage What the server used without them, and with them.
 * @returns The figure; none where memory cannot be told.
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
 * Tells the usual quantiles.
 *
 * @param histogram The times.
 * @returns The median, and what one in a hundred exceeds.
 */
export function quantilesOf(histogram: Histogram): { p50Ms: number; p99Ms: number } {
  return { p50Ms: histogram.quantileMs(0.5), p99Ms: histogram.quantileMs(0.99) };
}

/** Tells the time since the process began, in microseconds. */
export function nowUs(): number {
  return Math.round(performance.now() * 1_000);
}

/**
 * Waits.
 *
 * @param ms For so long.
 * @returns Resolves then.
 */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
