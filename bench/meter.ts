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
  /** The server's CPU time for one of them, in microseconds; absent where it can not be told. */
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
  readonly #pid: number;
  readonly #startUs = nowUs();
  readonly #serverUs: number | undefined;
  readonly #ownUs: number | undefined;

  private constructor(pid: number, serverUs: number | undefined, ownUs: number | undefined) {
    this.#pid = pid;
    this.#serverUs = serverUs;
    this.#ownUs = ownUs;
  }

  /**
   * Begins to measure.
   *
   * @param pid The server.
   * @returns What measures.
   */
  static async begin(pid: number): Promise<Meter> {
    const [server, own] = await Promise.all([usageOf(pid), usageOf(Deno.pid)]);
    return new Meter(pid, server.cpuUs, own.cpuUs);
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
    const [server, own] = await Promise.all([usageOf(this.#pid), usageOf(Deno.pid)]);
    return {
      perSecond: count / tookUs * 1_000_000,
      ...(server.cpuUs === undefined || this.#serverUs === undefined
        ? {}
        : { cpuUs: (server.cpuUs - this.#serverUs) / Math.max(1, count) }),
      ...(own.cpuUs === undefined || this.#ownUs === undefined
        ? {}
        : { generatorPercent: (own.cpuUs - this.#ownUs) / tookUs * 100 }),
    };
  }
}

/**
 * Tells the memory of a server's sessions.
 *
 * @param sessions Their number.
 * @param usage What the server used without them, and with them.
 * @returns The figure; none where memory can not be told.
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
