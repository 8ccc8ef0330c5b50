/**
 * Work that generators repeat: requests, transfers and idle sessions, with the client as a
 * parameter.
 *
 * @module
 */
import { Histogram } from "../cli/load/histogram.ts";
import { type LoadResult, memoryOf, Meter, nowUs, quantilesOf, sleep } from "./meter.ts";
import { usageOf } from "./processes.ts";

/** Idle sessions that open at once. */
const OPENING = 8;

/** Time for a server's memory to settle, in milliseconds. */
const SETTLING_MS = 2_000;

/** A result without the number of closed sessions, which the caller knows. */
type Measured = Omit<LoadResult, "closed">;

/** Options for {@linkcode repeat}. */
export interface RepeatOptions {
  /** Id of the server's process. */
  readonly pid: number;
  /** Concurrent actions. */
  readonly atOnce: number;
  /** Warm-up at the beginning, not measured. */
  readonly warmUpMs: number;
  /** Measured time. */
  readonly measureMs: number;
}

/**
 * Repeats an action, with several instances at once.
 *
 * @param once Does the action.
 * @param options See {@linkcode RepeatOptions}.
 * @returns Actions per second, CPU time and latency.
 */
export async function repeat(once: () => Promise<void>, options: RepeatOptions): Promise<Measured> {
  const { pid, atOnce, warmUpMs, measureMs } = options;
  const histogram = new Histogram();
  let isOn = true;
  let isMeasuring = false;
  const work = Promise.all(Array.from({ length: atOnce }, async () => {
    while (isOn) {
      const startUs = nowUs();
      await once();
      if (isMeasuring) histogram.add(nowUs() - startUs);
    }
  }));
  await Promise.race([sleep(warmUpMs), work]);
  const meter = await Meter.begin(pid);
  isMeasuring = true;
  await Promise.race([sleep(measureMs), work]);
  const figures = await meter.end(histogram.count);
  isOn = isMeasuring = false;
  await work;
  return { ...figures, ...quantilesOf(histogram) };
}

/**
 * Repeats a transfer for a time, after one transfer to warm up.
 *
 * @param once Transfers the bytes.
 * @param options Bytes of one transfer, the server's process, and the time in milliseconds.
 * @returns Megabytes per second, and CPU time per megabyte.
 */
export async function transfer(
  once: () => Promise<void>,
  { bytes, pid, measureMs }: {
    readonly bytes: number;
    readonly pid: number;
    readonly measureMs: number;
  },
): Promise<Measured> {
  await once();
  const meter = await Meter.begin(pid);
  const end = performance.now() + measureMs;
  let moved = 0;
  do {
    await once();
    moved += bytes;
  } while (performance.now() < end);
  return await meter.end(moved / 1_000_000);
}

/**
 * Opens sessions, a few at a time, and leaves them idle.
 *
 * @param open Opens a session that stays open.
 * @param options The number of sessions, and the server's process.
 * @returns Sessions per second, CPU time and memory per session.
 */
export async function idle(
  open: () => Promise<unknown>,
  { sessions, pid }: { readonly sessions: number; readonly pid: number },
): Promise<Measured> {
  await sleep(500);
  const before = await usageOf(pid);
  const meter = await Meter.begin(pid);
  for (let left = sessions; left > 0; left -= OPENING) {
    await Promise.all(Array.from({ length: Math.min(left, OPENING) }, open));
  }
  const figures = await meter.end(sessions);
  await sleep(SETTLING_MS);
  const after = await usageOf(pid);
  return { ...figures, ...memoryOf(sessions, { before, after }) };
}
