/** A whole load: the threads, the intervals, and the result. */
import process from "node:process";
import type { Runtime } from "../../base/runtime.ts";
import { pause } from "../../base/wait.ts";
import { publicUrl } from "../../transport/url.ts";
import { Generator, type Thread } from "./generator.ts";
import type { Quantiles } from "./histogram.ts";
import { openLink } from "./links.ts";
import type { LoadPlan } from "./plan.ts";
import { type Counts, SampleSum } from "./tally.ts";
import { LoadThread } from "./thread.ts";

/** Cores per thread above which the generator may be the bottleneck. */
const BUSY = 0.85;

/** Lateness of sends above which the generator may be the bottleneck, in milliseconds. */
const LATE_MS = 20;

/** Fraction of the planned rate below which the generator did not keep up. */
const KEPT_UP = 0.95;

/** One interval of a load, for the plot. */
export interface LoadProgress {
  /** State of the load. */
  readonly phase: "opening" | "warming up" | "measuring" | "ending";
  /** Time since the start of the phase, in milliseconds. */
  readonly elapsedMs: number;
  /** Length of the interval, in milliseconds. */
  readonly intervalMs: number;
  /** Sessions that are open. */
  readonly connected: number;
  /** Messages in flight. */
  readonly pending: number;
  /** Counts of the interval. */
  readonly sum: SampleSum;
  /** CPU time of this process in the interval, in cores. */
  readonly cores: number;
}

/** The result of a load, as printed by `--json`. All times are in milliseconds. */
export interface LoadResult {
  /** Version of this format. */
  readonly version: 1;
  /** The plan, without tokens, headers, data and the query of the URL. */
  readonly plan: Omit<LoadPlan, "tokens" | "headers" | "data" | "rate" | "certificateHashes"> & {
    readonly rate: number | "max";
    /** Certificates that WebTransport trusts: SHA-256 in hexadecimal. */
    readonly certificateHashes: readonly string[];
  };
  /** Start of the load, as an ISO date. */
  readonly startedAt: string;
  /** Measured time. */
  readonly measuredMs: number;
  /** True if the load was interrupted. */
  readonly isInterrupted: boolean;
  /**
   * Sessions: how many were planned, how many were open at the end of the measured time, and how
   * long they took to open.
   */
  readonly sessions: {
    readonly wanted: number;
    readonly open: number;
    readonly opened: number;
    readonly failedOpens: number;
    readonly disconnects: number;
    readonly connectMs: Quantiles;
  };
  /** Counts of messages. */
  readonly messages:
    & Pick<
      Counts,
      | "sent"
      | "received"
      | "acknowledged"
      | "unsent"
      | "missing"
      | "disordered"
      | "sentBytes"
      | "receivedBytes"
    >
    & {
      readonly sentPerSecond: number;
      readonly receivedPerSecond: number;
    };
  /** Times from the intended send to the reply. */
  readonly latencyMs: Quantiles;
  /** Errors by kind. */
  readonly errors: Readonly<Record<string, number>>;
  /** The generator itself: CPU time in cores, memory, and the lateness of sends. */
  readonly generator: {
    readonly cores: number;
    readonly workers: number;
    readonly rssBytes: number;
    readonly lateMs: Quantiles;
  };
  /** Reasons why the measurements may not reflect the server. */
  readonly warnings: readonly string[];
}

/** Options for {@linkcode runLoad}. */
export interface RunOptions {
  /** Clocks and timers. */
  readonly runtime: Runtime;
  /** Stops the load early. The result covers the time until then. */
  readonly signal: AbortSignal;
  /** Called after each interval. */
  readonly onProgress: (progress: LoadProgress) => void;
}

/**
 * Runs a load.
 *
 * @param options See {@linkcode RunOptions}.
 */
export async function runLoad(plan: LoadPlan, options: RunOptions): Promise<LoadResult> {
  const { runtime, signal } = options;
  using threads = new Threads(plan, runtime, signal);
  const startedAt = new Date(runtime.now()).toISOString();
  const total = new SampleSum();
  const meter = new LoadMeter(runtime);
  await using watch = new Watch(threads, total, meter, { ...options, plan });
  await threads.each((thread) => thread.open());
  await watch.turn(plan.warmUpMs > 0 ? "warming up" : "measuring");
  const whole = new LoadMeter(runtime);
  // This includes the warm-up, whose CPU usage is similar.
  await threads.each((thread) => thread.warmUp());
  if (plan.warmUpMs > 0) await watch.turn("measuring");
  const times = await threads.each((thread) => thread.measure());
  const cores = whole.cores();
  const rssBytes = process.memoryUsage().rss;
  const open = await watch.turn("ending");
  await threads.each((thread) => thread.close());
  await watch.end();
  const measuredMs = Math.max(...times, 0);
  return resultOf({ plan, startedAt, measuredMs, total, open, cores, rssBytes, signal });
}

function resultOf({ plan, startedAt, measuredMs, total, open, cores, rssBytes, signal }: {
  readonly plan: LoadPlan;
  readonly startedAt: string;
  readonly measuredMs: number;
  readonly total: SampleSum;
  readonly open: number;
  readonly cores: number;
  readonly rssBytes: number;
  readonly signal: AbortSignal;
}): LoadResult {
  const { tokens: _tokens, headers: _headers, data: _data, rate, certificateHashes, ...rest } =
    plan;
  const { counts, errors, latency, connect, lag } = total;
  const seconds = measuredMs / 1_000;
  const perSecond = (count: number) => seconds > 0 ? Math.round(count / seconds * 10) / 10 : 0;
  const sentPerSecond = perSecond(counts.sent);
  const generator = { cores, workers: plan.workers, rssBytes, lateMs: lag.quantiles() };
  return {
    version: 1,
    plan: {
      ...rest,
      url: publicUrl(plan.url),
      rate: rate ?? "max",
      certificateHashes: certificateHashes.map(({ value }) => value.toHex()),
    },
    startedAt,
    measuredMs: Math.round(measuredMs),
    isInterrupted: signal.aborted,
    sessions: {
      wanted: plan.sessions,
      open,
      opened: counts.opened,
      failedOpens: counts.failedOpens,
      disconnects: counts.disconnects,
      connectMs: connect.quantiles(),
    },
    messages: {
      sent: counts.sent,
      received: counts.received,
      acknowledged: counts.acknowledged,
      unsent: counts.unsent,
      missing: counts.missing,
      disordered: counts.disordered,
      sentBytes: counts.sentBytes,
      receivedBytes: counts.receivedBytes,
      sentPerSecond,
      receivedPerSecond: perSecond(counts.received),
    },
    latencyMs: latency.quantiles(),
    errors: { ...errors },
    generator,
    warnings: warningsOf(plan, generator, { sentPerSecond, seconds }),
  };
}

function warningsOf(
  { rate, mode, warmUpMs, workers }: LoadPlan,
  { cores, lateMs }: LoadResult["generator"],
  { sentPerSecond, seconds }: { readonly sentPerSecond: number; readonly seconds: number },
): string[] {
  const warnings: string[] = [];
  if (cores >= BUSY * workers) {
    warnings.push(
      `The generator used ${cores.toFixed(2)} cores with ${workers} ${
        workers === 1 ? "thread" : "threads"
      } and may be the bottleneck: use --workers, or several machines`,
    );
  }
  if (lateMs.p99 > LATE_MS) {
    warnings.push(
      `1 % of the messages were sent more than ${
        Math.round(lateMs.p99)
      } ms late: this machine is busy, or needs --workers`,
    );
  }
  const isSlow = rate !== undefined && mode !== "idle" && seconds * rate >= 20 &&
    sentPerSecond < rate * KEPT_UP;
  if (isSlow) {
    warnings.push(
      `The generator sent ${sentPerSecond} of ${rate} messages/s`,
    );
  }
  if (warmUpMs === 0 && mode !== "idle") {
    warnings.push("Without --warmup, the first messages measure code that is not yet compiled");
  }
  return warnings;
}

class Threads implements Disposable {
  readonly #all: readonly (Thread & Partial<Disposable>)[];

  constructor(plan: LoadPlan, runtime: Runtime, signal: AbortSignal) {
    const { workers } = plan;
    this.#all = workers === 1
      ? [new Generator(plan, { runtime, part: { index: 0, of: 1 }, openLink, signal })]
      : Array.from(
        { length: workers },
        (_, index) => new LoadThread(plan, { index, of: workers }, signal),
      );
  }

  async each<T>(step: (thread: Thread) => T | Promise<T>): Promise<T[]> {
    return await Promise.all(this.#all.map(step));
  }

  [Symbol.dispose](): void {
    for (const thread of this.#all) thread[Symbol.dispose]?.();
  }
}

/** Measures the CPU time of this process, including all threads. */
class LoadMeter {
  readonly #runtime: Runtime;
  #startMs: number;
  #before: NodeJS.CpuUsage;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#startMs = runtime.monotonic();
    this.#before = process.cpuUsage();
  }

  /** Average number of cores in use since the last call. */
  cores(): number {
    const nowMs = this.#runtime.monotonic();
    const now = process.cpuUsage();
    const usedUs = now.user + now.system - this.#before.user - this.#before.system;
    const cores = usedUs / 1_000 / Math.max(1, nowMs - this.#startMs);
    this.#before = now;
    this.#startMs = nowMs;
    return Math.round(cores * 100) / 100;
  }
}

/** Takes a sample every interval, for the totals of the load and for the plot. */
class Watch implements AsyncDisposable {
  readonly #threads: Threads;
  readonly #total: SampleSum;
  readonly #meter: LoadMeter;
  readonly #options: RunOptions & { readonly plan: LoadPlan };
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #phase: LoadProgress["phase"] = "opening";
  #phaseMs: number;
  #takenMs: number;
  /** Samples are taken one after the other. */
  #taking: Promise<number> = Promise.resolve(0);

  constructor(
    threads: Threads,
    total: SampleSum,
    meter: LoadMeter,
    options: RunOptions & { readonly plan: LoadPlan },
  ) {
    this.#threads = threads;
    this.#total = total;
    this.#meter = meter;
    this.#options = options;
    this.#phaseMs = this.#takenMs = options.runtime.monotonic();
    this.#running = this.#run();
  }

  /** Takes a sample, and starts the next phase. Returns the number of open sessions. */
  async turn(phase: LoadProgress["phase"]): Promise<number> {
    const connected = await this.#take();
    this.#phase = phase;
    this.#phaseMs = this.#options.runtime.monotonic();
    return connected;
  }

  /** Takes the last sample. */
  async end(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await this.#take();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running.catch(() => {});
  }

  async #run(): Promise<void> {
    const { runtime, plan } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await pause(runtime, plan.intervalMs, signal);
      if (!signal.aborted) await this.#take();
    }
  }

  #take(): Promise<number> {
    return this.#taking = this.#taking.then(() => this.#takeNext());
  }

  async #takeNext(): Promise<number> {
    const { runtime, onProgress } = this.#options;
    const samples = await this.#threads.each((thread) => thread.sample());
    const sum = new SampleSum();
    for (const sample of samples) {
      sum.add(sample);
      this.#total.add(sample);
    }
    const now = runtime.monotonic();
    const connected = samples.reduce((all, sample) => all + sample.connected, 0);
    const progress: LoadProgress = {
      phase: this.#phase,
      elapsedMs: now - this.#phaseMs,
      intervalMs: now - this.#takenMs,
      connected,
      pending: samples.reduce((all, sample) => all + sample.pending, 0),
      sum,
      cores: this.#meter.cores(),
    };
    this.#takenMs = now;
    onProgress(progress);
    return connected;
  }
}
