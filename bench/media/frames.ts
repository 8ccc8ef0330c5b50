/**
 * Common parts of the MoQ benchmarks: the command line of a peer, events, stamps of frames, and
 * measurements.
 *
 * @module
 */

/** Bytes of each frame's stamp: time and numbers. */
export const STAMP_BYTES = 16;

/** Timeout of a subscriber for all groups, in milliseconds. */
const PATIENCE_MS = 60_000;

/** The command line of a peer, without the version. */
export interface EndOptions {
  /** `server` publishes, `client` subscribes. */
  readonly mode: string;
  /** Address of the server, for a client. */
  readonly url: string;
  /** SHA-256 of the server's certificate in hexadecimal digits, for a client. */
  readonly hash: string;
  readonly groups: number;
  /** Frames of a group. */
  readonly frames: number;
  /** Bytes of a frame. */
  readonly size: number;
  /** Groups per second; 0 for as many as possible. */
  readonly rate: number;
}

/**
 * Finds the value of an argument with one dash, as in gomoqt's program.
 *
 * @returns The value, or the fallback.
 */
export function valueOf(args: readonly string[], name: string, fallback: string): string {
  const at = args.indexOf(`-${name}`);
  return at < 0 ? fallback : args[at + 1] ?? fallback;
}

/** Reads the command line. */
export function endOptions(args: readonly string[]): EndOptions {
  return {
    mode: valueOf(args, "mode", "server"),
    url: valueOf(args, "url", ""),
    hash: valueOf(args, "hash", ""),
    groups: Number(valueOf(args, "groups", "1000")),
    frames: Number(valueOf(args, "frames", "10")),
    size: Math.max(STAMP_BYTES, Number(valueOf(args, "size", "1200"))),
    rate: Number(valueOf(args, "rate", "0")),
  };
}

/** Prints an event. */
export function emit(line: Record<string, unknown>): void {
  console.log(JSON.stringify(line));
}

/** Yields the events that a process prints. */
export async function* eventsOf(
  { stdout }: Deno.ChildProcess,
): AsyncGenerator<Record<string, unknown>> {
  let rest = "";
  for await (const text of stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) yield JSON.parse(line);
  }
}

/** Formats minimum, median and maximum. */
export function summary(values: readonly number[], digits = 0): string {
  const sorted = values.toSorted((a, b) => a - b);
  const format = (value = 0) =>
    value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${format(sorted[0])} / ${format(median(values))} / ${format(sorted.at(-1))}`;
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
}

/** Nanoseconds since the epoch, as a bigint, because a number would round the time. */
function now(): bigint {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n;
}

/** Writes the stamp of a frame: the time, the group's number, the number within the group. */
export function stamp(bytes: Uint8Array, group: number, frame: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setBigUint64(0, now());
  view.setUint32(8, group);
  view.setUint32(12, frame);
}

/** Calls a function for each group, at the requested rate. */
export async function pace(
  { groups, rate }: EndOptions,
  publish: (group: number) => Promise<void>,
): Promise<void> {
  const began = performance.now();
  for (let group = 0; group < groups; group++) {
    if (rate > 0) {
      const dueMs = began + group * 1_000 / rate - performance.now();
      if (dueMs > 0) await new Promise((resolve) => setTimeout(resolve, dueMs));
    }
    await publish(group);
  }
  emit({ event: "published", groups, seconds: (performance.now() - began) / 1_000 });
}

/** Measurements of a subscriber. */
export class SubscriberMeter {
  /** Resolves when all groups have been received, or after the timeout. */
  readonly done: Promise<void>;
  readonly #expected: number;
  readonly #all: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #latencies: number[] = [];
  #first = 0;
  #last = 0;
  #bytes = 0;
  #groups = 0;

  /** Starts without frames. */
  constructor({ groups }: EndOptions) {
    this.#expected = groups;
    this.done = this.#all.promise;
    const timer = setTimeout(() => this.#all.resolve(), PATIENCE_MS);
    void this.done.then(() => clearTimeout(timer));
  }

  /** Counts a received frame, by its first bytes. */
  frame(view: DataView, byteLength: number): void {
    this.#last = performance.now();
    this.#first ||= this.#last;
    this.#bytes += byteLength;
    this.#latencies.push(Number(now() - view.getBigUint64(0)) / 1_000);
  }

  /** Counts an ended group. */
  group(): void {
    if (++this.#groups === this.#expected) this.#all.resolve();
  }

  /** Prints the result. */
  print(): void {
    const seconds = (this.#last - this.#first) / 1_000;
    const latencies = this.#latencies.sort((a, b) => a - b);
    const at = (quantile: number) => latencies[Math.floor(quantile * (latencies.length - 1))] ?? 0;
    emit({
      event: "result",
      groups: this.#groups,
      frames: latencies.length,
      bytes: this.#bytes,
      seconds,
      groups_per_s: this.#groups / seconds,
      mb_per_s: this.#bytes / seconds / 1e6,
      lat_us_p50: at(0.5),
      lat_us_p99: at(0.99),
      lat_us_max: at(1),
    });
  }
}
