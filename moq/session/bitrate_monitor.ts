/** Measures and smooths the outgoing bitrate of a session, and reports shifts. */
import { MAX_TIMER_MS } from "../../base/wait.ts";
import { type OptionKinds, withDefaults } from "../../base/options/options.ts";
import {
  checkOptions,
  numberIn,
  POSITIVE,
  RUNTIME,
  SHARE,
  TIME,
} from "../../base/options/option_checks.ts";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import type { Connection } from "../../transport/connection.ts";

/** A report of the peer about the network path to it. */
export interface PeerUpdate {
  /** Bits per second that the peer sends; `undefined` if unknown. */
  readonly bitrate: number | undefined;
  /** Round-trip time in milliseconds; `undefined` if unknown. */
  readonly rttMs: number | undefined;
}

/**
 * Rates below this count as 0, in bits per second: the smallest rate that gomoqt's SESSION_UPDATE
 * can carry.
 */
const MIN_BITRATE = 1_000;

/** The options for measuring, and for reporting to the peer. */
export interface BitrateMonitorOptions {
  /** The clock and timers of this node: by default the session's, or the platform's. */
  readonly runtime?: Runtime | undefined;
  /**
   * The time between samples, in milliseconds: a sample counts the bytes that the connection sent
   * since the last one. gomoqt's SESSION_UPDATE monitor also uses one second; gomoqt's PROBE
   * measures every 100 ms without smoothing, so that a single large frame looks like a shift.
   *
   * @default {1000}
   */
  readonly intervalMs?: number | undefined;
  /**
   * The weight of a new sample, above 0 and up to 1: the smoothed rate moves by this fraction of
   * the difference. With 0.3, a doubled rate is reported after two to three samples, and a single
   * sample that is off by a fifth is not reported.
   *
   * @default {0.3}
   */
  readonly alpha?: number | undefined;
  /**
   * The shift to report: the smoothed rate differs from the last report by more than this fraction
   * of the reported rate.
   *
   * @default {0.25}
   */
  readonly threshold?: number | undefined;
  /**
   * The number of samples before the first report. The average starts with the first sample, which
   * still accounts for half of it after three samples. The default gives a waiting peer an early
   * reply; if no peer waits, 10 is more stable.
   *
   * @default {3}
   */
  readonly minSamples?: number | undefined;
  /**
   * The time after which a smaller shift is reported too, in milliseconds, if the rate shifted at
   * all: otherwise a drifting rate could stay wrong by up to the threshold.
   *
   * @default {10000}
   */
  readonly maxAgeMs?: number | undefined;
}

export const BITRATE: OptionKinds<BitrateMonitorOptions> = {
  alpha: SHARE,
  intervalMs: numberIn({ min: 1, max: MAX_TIMER_MS }),
  maxAgeMs: TIME,
  minSamples: POSITIVE,
  runtime: RUNTIME,
  threshold: TIME,
};

const DEFAULTS = {
  alpha: 0.3,
  intervalMs: 1_000,
  maxAgeMs: 10_000,
  minSamples: 3,
  threshold: 0.25,
};

/**
 * Measures the bytes that a connection sends, and reports shifts of the smoothed rate.
 *
 * - **Sample:** a sample is the number of bytes that the connection has sent since the last sample,
 *   divided by the time. The number comes from `getStats().bytesSent`, or from the connection's
 *   counters of streams and datagrams if the transport has no such number. The rate measures
 *   traffic, not capacity: an idle session reports no rate, and a session that becomes idle reports
 *   0.
 * - **Round-trip time:** `getStats().smoothedRtt` if the platform provides it, as browsers do;
 *   `undefined` with Deno's QUIC and WebSocket.
 * - **Cost:** one timer while the monitor runs, and constant memory.
 *
 * Every session has a monitor; see the option `bitrate` of `MoqSession.open()`.
 *
 * @example On your own connection
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
  readonly #runtime: Runtime;
  readonly #connection: Connection;
  readonly #report: (update: PeerUpdate) => void;
  readonly #settings: Readonly<typeof DEFAULTS>;
  #timer: Timer | undefined = undefined;
  #run = 0;
  #isRunning = false;
  #sampled: { readonly at: number; readonly bytes: number } | undefined = undefined;
  #samples = 0;
  #rate = 0;
  #reported: { readonly at: number; readonly rate: number } | undefined = undefined;

  /**
   * Creates a stopped monitor.
   *
   * @param connection The connection to measure.
   * @param report Receives each rate to report, in bits per second, and the round-trip time if the
   * transport provides it. Errors of this function are ignored.
   * @param options See {@linkcode BitrateMonitorOptions}.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(
    connection: Connection,
    report: (update: PeerUpdate) => void,
    options: BitrateMonitorOptions = {},
  ) {
    checkOptions("monitor bitrate", options, BITRATE);
    this.#runtime = options.runtime ?? platformRuntime();
    this.#connection = connection;
    this.#report = report;
    this.#settings = withDefaults(DEFAULTS, options);
  }

  /** True while the monitor measures. */
  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** The smoothed rate, in bits per second; `undefined` before the first sample. */
  get bitrate(): number | undefined {
    return this.#samples === 0 ? undefined : this.#rate;
  }

  /** Starts to measure, without earlier samples. Idempotent. */
  start(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#samples = this.#rate = 0;
    this.#sampled = this.#reported = undefined;
    void this.#sample(++this.#run);
  }

  /** Stops measuring. Idempotent. */
  stop(): void {
    this.#isRunning = false;
    this.#run++;
    this.#runtime.clearTimeout(this.#timer);
  }

  /** Stops measuring; called by `using`. */
  [Symbol.dispose](): void {
    this.stop();
  }

  async #sample(run: number): Promise<void> {
    const stats = await this.#connection.getStats().catch(() => ({})) as WireStats;
    if (run !== this.#run) return;
    const { intervalMs } = this.#settings;
    this.#timer = this.#runtime.setTimeout(() => void this.#sample(run), intervalMs);
    const now = this.#runtime.now();
    const bytes = stats.bytesSent ?? this.#counted();
    const before = this.#sampled;
    // No rate if the clock was set back, or for two calls at the same time.
    if (before !== undefined && now <= before.at) return;
    this.#sampled = { at: now, bytes };
    if (before === undefined) return;
    this.#take(Math.max(0, bytes - before.bytes) * 8_000 / (now - before.at));
    const { smoothedRtt } = stats;
    const rttMs = smoothedRtt !== undefined && smoothedRtt > 0 ? smoothedRtt : undefined;
    if (this.#isWorthReporting(now)) this.#deliver(now, rttMs);
  }

  #counted(): number {
    const counters = this.#connection.inspect?.counters;
    return counters === undefined ? 0 : counters.streamBytesSent + counters.datagramBytesSent;
  }

  #take(rate: number): void {
    const { alpha } = this.#settings;
    this.#rate = this.#samples === 0 ? rate : this.#rate + alpha * (rate - this.#rate);
    this.#samples++;
  }

  #isWorthReporting(now: number): boolean {
    const { minSamples, threshold, maxAgeMs } = this.#settings;
    if (this.#samples < minSamples) return false;
    const rate = roundedRate(this.#rate);
    // A peer assumes a rate of 0 without a report.
    if (this.#reported === undefined) return rate > 0;
    const shift = Math.abs(rate - this.#reported.rate);
    return shift > threshold * this.#reported.rate ||
      shift > 0 && now - this.#reported.at >= maxAgeMs;
  }

  #deliver(at: number, rttMs: number | undefined): void {
    const rate = roundedRate(this.#rate);
    this.#reported = { at, rate };
    try {
      this.#report({ bitrate: rate, rttMs });
    } catch {
      // The next report may succeed.
    }
  }
}

/** The statistics that a platform may provide beyond the contract. */
interface WireStats {
  readonly bytesSent?: number;
  /** From the W3C's WebTransport, in milliseconds. */
  readonly smoothedRtt?: number;
}

function roundedRate(rate: number): number {
  return rate < MIN_BITRATE ? 0 : Math.round(rate);
}
