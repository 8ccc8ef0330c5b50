/**
 * The NATS server's time, which decides about leases and expiry, because the nodes' clocks may be
 * wrong.
 */
import { DeliverPolicy, type JetStreamManager } from "@nats-io/jetstream";
import type { Runtime } from "../../base/runtime.ts";
import { textOf } from "../../base/error_text.ts";
import { consume, forget } from "./jetstream.ts";

/**
 * Age of a measurement after which the next use of the clock starts a new measurement, in
 * milliseconds.
 */
const MEASURE_MS = 60_000;

/** Maximum drift of two good clocks, in milliseconds per millisecond. */
const DRIFT = 0.000_5;

/** Difference from which `issues()` reports it, in milliseconds. */
const REPORTED_SKEW_MS = 1_000;

/** Bounds of the server's time at the zero of this node's monotonic clock. */
interface Zero {
  readonly min: number;
  readonly max: number;
  /** Monotonic time of the measurement. */
  readonly at: number;
}

/**
 * The server's clock as seen from this node: measured by the server's timestamps, and advanced by
 * timers.
 */
export class NatsClock {
  /** The last failure to read the clock; `undefined` after a success. */
  #problem: unknown;
  readonly #runtime: Runtime;
  #zero: Zero | undefined;
  #measured: { readonly period: AbortSignal; readonly measuring: Promise<void> } | undefined;
  #isMeasuring = false;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * The server's time in milliseconds since the Unix epoch. Before the first measurement, this is
   * the node's time.
   */
  now(): number {
    if (this.#zero === undefined) return this.#runtime.now();
    const { min, max } = this.#zero;
    return Math.floor((min + max) / 2 + this.#runtime.monotonic());
  }

  /** Describes a difference between the clocks, or a failure to read the server's clock. */
  issues(): string[] {
    if (this.#problem !== undefined) {
      return [
        `The clock of NATS cannot be read, so this node's clock is used: ${textOf(this.#problem)}`,
      ];
    }
    const skewMs = this.#runtime.now() - this.now();
    // A late reply makes the measurement inexact, and is no difference between the clocks.
    const { min, max } = this.#zero ?? { min: 0, max: 0 };
    if (Math.abs(skewMs) - (max - min) / 2 < REPORTED_SKEW_MS) return [];
    const seconds = Math.round(Math.abs(skewMs) / 1_000);
    return [
      `The clock of this node is ${seconds} s ${
        skewMs > 0 ? "ahead of" : "behind"
      } that of NATS; ` +
      "leases and expiry follow NATS",
    ];
  }

  /**
   * Reads the server's clock once per connection, then periodically, and again after a failure. The
   * requests need a stream that exists. Resolves once the clock has been read on this connection or
   * the attempt has failed. Never rejects.
   *
   * @param period Ends when the connection is lost.
   */
  async follow(manager: JetStreamManager, stream: string, period: AbortSignal): Promise<void> {
    const age = this.#runtime.monotonic() - (this.#zero?.at ?? -Infinity);
    const isNew = this.#measured?.period !== period;
    const isDue = age > MEASURE_MS || this.#problem !== undefined;
    if (isNew || isDue && !this.#isMeasuring) {
      this.#measured = { period, measuring: this.#measure(manager, stream) };
    }
    if (isNew || this.#zero === undefined) await this.#measured!.measuring;
  }

  /** Measures by the time at which the server creates a consumer, which is then removed. */
  async #measure(manager: JetStreamManager, stream: string): Promise<void> {
    const before = this.#runtime.monotonic();
    this.#isMeasuring = true;
    try {
      const { name, created } = await consume(manager, stream, {
        deliver_policy: DeliverPolicy.StartSequence,
        opt_start_seq: 1,
      });
      forget(manager, stream, name);
      const time = Date.parse(created);
      this.#note({ min: time - this.#runtime.monotonic(), max: time - before });
      this.#problem = undefined;
    } catch (error) {
      this.#problem = error;
    } finally {
      this.#isMeasuring = false;
    }
  }

  /** Narrows the bounds. If bounds do not overlap, a clock was set. */
  #note({ min, max }: Omit<Zero, "at">): void {
    const at = this.#runtime.monotonic();
    const known = this.#zero;
    const drift = known === undefined ? 0 : (at - known.at) * DRIFT;
    const [low, high] = known === undefined
      ? [min, max]
      : [Math.max(min, known.min - drift), Math.min(max, known.max + drift)];
    this.#zero = low <= high ? { min: low, max: high, at } : { min, max, at };
  }
}
