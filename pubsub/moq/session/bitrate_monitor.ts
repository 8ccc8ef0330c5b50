/**
 * How much one end of a session sends: measured, smoothed, and told when it shifts.
 *
 * @module
 */
import type { Connection } from "../../../transport/connection.ts";
import type { PeerUpdate } from "./session_info.ts";

/** Less than this counts as nothing, in bits a second: it is the smallest that gomoqt's SESSION_UPDATE can say. */
export const MIN_BITRATE = 1_000;

/** How to measure, and when to tell the peer. */
export interface BitrateMonitorOptions {
  /**
   * How often it is measured, in milliseconds: from the bytes that the connection sent since the last
   * time. gomoqt's monitor of SESSION_UPDATE has one second as well; its PROBE measures every 100 ms
   * and does not smooth, so that one large picture looks like a shift.
   *
   * @default {1000}
   */
  readonly intervalMs?: number;
  /**
   * How much a new sample counts for, above 0 and up to 1: the smoothed rate moves by this part of the
   * difference. With 0.3 a rate that doubled is told after two to three samples, and one sample that
   * is a fifth off is not told at all.
   *
   * @default {0.3}
   */
  readonly alpha?: number;
  /**
   * The shift that is told: the smoothed rate differs from what was told last by more than this part of it.
   *
   * @default {0.25}
   */
  readonly threshold?: number;
  /**
   * Samples before the first report. The first sample counts fully, and after three of them for half:
   * a peer that waits for its first answer gets it then. Where nobody waits, 10 are steadier.
   *
   * @default {3}
   */
  readonly minSamples?: number;
  /**
   * What shifted by less is told after this many milliseconds all the same, if it shifted at all:
   * otherwise a rate that drifts would be wrong by the threshold for ever.
   *
   * @default {10000}
   */
  readonly maxAgeMs?: number;
}

/** Gets a rate that is worth telling, in bits a second, and the round-trip time where the wire knows it. */
export type BitrateReport = (update: PeerUpdate) => void;

/** Options with every default filled in, and checked. */
type Settings = Readonly<Required<BitrateMonitorOptions>>;

/**
 * Measures what a connection sends, and reports shifts of the smoothed rate.
 *
 * - **Sample:** bytes that the connection sent (`getStats().bytesSent`, or its counters of streams and
 *   datagrams where the wire has no such number) over the time since the last sample. That is what is
 *   sent, not what could be: an idle session reports nothing, and then 0.
 * - **Round-trip time:** `getStats().smoothedRtt` where the platform has it, as browsers do; Deno's
 *   QUIC and WebSocket tell none, and it is `undefined` then.
 * - **Cost:** one timer while it runs, and no memory that grows.
 *
 * A session runs one by itself; see the option `bitrate` of `MoqSession.open()`.
 *
 * @example On a connection of one's own
 * ```ts
 * import { BitrateMonitor } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 * import { FakeTime } from "@std/testing/time";
 *
 * using time = new FakeTime();
 * await using pair = memoryPair();
 * const told: (number | undefined)[] = [];
 * using monitor = new BitrateMonitor(pair.client, ({ bitrate }) => told.push(bitrate), {
 *   minSamples: 1,
 * });
 * monitor.start();
 * await time.tickAsync(0);
 * pair.client.frames?.send(new Uint8Array(12_500));
 * await time.tickAsync(1_000);
 * await time.runMicrotasks();
 * assertEquals(told, [100_000]);
 * ```
 */
export class BitrateMonitor implements Disposable {
  readonly #connection: Connection;
  readonly #report: BitrateReport;
  readonly #settings: Settings;
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;
  #run = 0;
  #isRunning = false;
  #sampled: { readonly at: number; readonly bytes: number } | undefined = undefined;
  #samples = 0;
  #rate = 0;
  #told: { readonly at: number; readonly rate: number } | undefined = undefined;

  /**
   * Creates a monitor that does not run yet.
   *
   * @param connection What is measured.
   * @param report Gets what is worth telling. What it throws is lost.
   * @param options See {@linkcode BitrateMonitorOptions}.
   * @throws {RangeError} If an option makes no sense.
   */
  constructor(connection: Connection, report: BitrateReport, options: BitrateMonitorOptions = {}) {
    this.#connection = connection;
    this.#report = report;
    this.#settings = checkBitrateOptions(options);
  }

  /** Whether it measures now. */
  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** The smoothed rate, in bits a second; `undefined` before the first sample. */
  get bitrate(): number | undefined {
    return this.#samples === 0 ? undefined : this.#rate;
  }

  /** Begins to measure, from nothing. Idempotent. */
  start(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#samples = this.#rate = 0;
    this.#sampled = this.#told = undefined;
    void this.#sample(++this.#run);
  }

  /** Measures no more. Idempotent. */
  stop(): void {
    this.#isRunning = false;
    this.#run++;
    clearTimeout(this.#timer);
  }

  /** Measures no more; called by `using`. */
  [Symbol.dispose](): void {
    this.stop();
  }

  async #sample(run: number): Promise<void> {
    const stats = await this.#connection.getStats().catch(() => ({})) as WireStats;
    if (run !== this.#run) return;
    this.#timer = setTimeout(() => void this.#sample(run), this.#settings.intervalMs);
    const now = Date.now();
    const bytes = stats.bytesSent ?? this.#counted();
    const before = this.#sampled;
    // A clock that was set back, or two calls at once, say nothing of a rate.
    if (before !== undefined && now <= before.at) return;
    this.#sampled = { at: now, bytes };
    if (before === undefined) return;
    this.#take(Math.max(0, bytes - before.bytes) * 8_000 / (now - before.at));
    const { smoothedRtt } = stats;
    const rttMs = smoothedRtt !== undefined && smoothedRtt > 0 ? smoothedRtt : undefined;
    if (this.#isWorthTelling(now)) this.#tell(now, rttMs);
  }

  #counted(): number {
    const { counters } = this.#connection;
    return counters === undefined ? 0 : counters.streamBytesSent + counters.datagramBytesSent;
  }

  #take(rate: number): void {
    const { alpha } = this.#settings;
    this.#rate = this.#samples === 0 ? rate : this.#rate + alpha * (rate - this.#rate);
    this.#samples++;
  }

  #isWorthTelling(now: number): boolean {
    const { minSamples, threshold, maxAgeMs } = this.#settings;
    if (this.#samples < minSamples) return false;
    const rate = roundedRate(this.#rate);
    // That nothing is sent is what a peer takes for granted.
    if (this.#told === undefined) return rate > 0;
    const shift = Math.abs(rate - this.#told.rate);
    return shift > threshold * this.#told.rate || shift > 0 && now - this.#told.at >= maxAgeMs;
  }

  #tell(at: number, rttMs: number | undefined): void {
    const rate = roundedRate(this.#rate);
    this.#told = { at, rate };
    try {
      this.#report({ bitrate: rate, rttMs });
    } catch {
      // The next one may get through.
    }
  }
}

/** What a platform may tell beside the contract. */
interface WireStats {
  readonly bytesSent?: number;
  /** Of the W3C's WebTransport, in milliseconds. */
  readonly smoothedRtt?: number;
}

/**
 * Checks how to measure.
 *
 * @param options The options.
 * @returns All of them, with their defaults.
 * @throws {RangeError} If one makes no sense.
 */
export function checkBitrateOptions(options: BitrateMonitorOptions): Settings {
  const { intervalMs = 1_000, alpha = 0.3, threshold = 0.25 } = options;
  const { minSamples = 3, maxAgeMs = 10_000 } = options;
  const must = (name: string, value: number, isRight: boolean, rule: string) => {
    if (isRight) return;
    throw new RangeError(`Cannot monitor bitrate: ${name} must be ${rule}, received ${value}`);
  };
  must("intervalMs", intervalMs, intervalMs >= 1 && intervalMs < 2 ** 31, "from 1 to 2^31 - 1");
  must("alpha", alpha, alpha > 0 && alpha <= 1, "above 0 and up to 1");
  must("threshold", threshold, threshold >= 0, "from 0");
  must(
    "minSamples",
    minSamples,
    Number.isInteger(minSamples) && minSamples > 0,
    "a positive integer",
  );
  must("maxAgeMs", maxAgeMs, maxAgeMs >= 0, "from 0");
  return { intervalMs, alpha, threshold, minSamples, maxAgeMs };
}

function roundedRate(rate: number): number {
  return rate < MIN_BITRATE ? 0 : Math.round(rate);
}
