/** Counts of a load, which threads send to the main thread every interval. */
import { textOf } from "../../base/error_text.ts";
import { Histogram, type HistogramCells } from "./histogram.ts";
import {
  QueueFullError,
  RequestError,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../../errors.ts";
import { plainText } from "../context.ts";

/**
 * Maximum number of kinds of errors that are counted separately; further kinds count as `other`.
 */
const MAX_KINDS = 32;

/** Longest name of a kind, in characters. */
const MAX_KIND_LENGTH = 120;

/** Counts of messages and connections. */
export interface Counts {
  /** Messages that were sent. */
  sent: number;
  /** Replies, echoes and deliveries that arrived. */
  received: number;
  /** Publications that the server acknowledged. */
  acknowledged: number;
  /** Bytes of the data of sent messages. */
  sentBytes: number;
  /** Bytes of the data of received messages. */
  receivedBytes: number;
  /**
   * Messages that were due but could not be sent, because there was no session or too many were in
   * flight.
   */
  unsent: number;
  /** Publications that a subscriber did not receive, as their numbers show. */
  missing: number;
  /** Publications that were duplicated or arrived after a later one. */
  disordered: number;
  /** Sessions that opened. */
  opened: number;
  /** Attempts to open that failed. */
  failedOpens: number;
  /** Sessions that closed before the end of the load. */
  disconnects: number;
}

export interface Sample extends Counts {
  /** Sessions that are open now. */
  readonly connected: number;
  /** Messages in flight now. */
  readonly pending: number;
  /** Errors by kind. */
  readonly errors: Readonly<Record<string, number>>;
  /** Times from the send to the reply. */
  readonly latency: HistogramCells;
  /** Times to open a session. */
  readonly connect: HistogramCells;
  /** Times by which sends were late. */
  readonly lag: HistogramCells;
}

function noCounts(): Counts {
  return {
    sent: 0,
    received: 0,
    acknowledged: 0,
    sentBytes: 0,
    receivedBytes: 0,
    unsent: 0,
    missing: 0,
    disordered: 0,
    opened: 0,
    failedOpens: 0,
    disconnects: 0,
  };
}

/** Collects the counts of one thread. */
export class LoadTally {
  /** Times from the send to the reply. */
  readonly latency: Histogram = new Histogram();
  /** Times to open a session. */
  readonly connect: Histogram = new Histogram();
  /** Times by which sends were late. */
  readonly lag: Histogram = new Histogram();
  /** Counts since the last sample. */
  counts: Counts = noCounts();
  /** Sessions that are open now. */
  connected = 0;
  /** Messages in flight now. */
  pending = 0;
  #errors: Record<string, number> = {};

  /** Counts an error by its kind. */
  fail(error: unknown): void {
    this.failAs(kindOf(error));
  }

  /** Counts errors of a kind. */
  failAs(kind: string, count = 1): void {
    addKind(this.#errors, kind, count);
  }

  /** Returns the counts since the last sample, and resets them. */
  take(): Sample {
    const sample = {
      ...this.counts,
      connected: this.connected,
      pending: this.pending,
      errors: this.#errors,
      latency: this.latency.toCells(),
      connect: this.connect.toCells(),
      lag: this.lag.toCells(),
    };
    for (const histogram of [this.latency, this.connect, this.lag]) histogram.clear();
    this.counts = noCounts();
    this.#errors = {};
    return sample;
  }
}

/** The sum of samples, either of several threads in one interval or of a whole load. */
export class SampleSum {
  /** Times from the send to the reply. */
  readonly latency: Histogram = new Histogram();
  /** Times to open a session. */
  readonly connect: Histogram = new Histogram();
  /** Times by which sends were late. */
  readonly lag: Histogram = new Histogram();
  readonly counts: Counts = noCounts();
  /** Errors by kind. */
  readonly errors: Record<string, number> = {};

  add(sample: Sample): void {
    for (const name in this.counts) {
      const key = name as keyof Counts;
      this.counts[key] += sample[key];
    }
    for (const [kind, count] of Object.entries(sample.errors)) addKind(this.errors, kind, count);
    this.latency.merge(sample.latency);
    this.connect.merge(sample.connect);
    this.lag.merge(sample.lag);
  }

  /** Number of all errors. */
  get failed(): number {
    return Object.values(this.errors).reduce((sum, count) => sum + count, 0);
  }
}

function addKind(errors: Record<string, number>, kind: string, count: number): void {
  const isNew = errors[kind] === undefined;
  const key = isNew && Object.keys(errors).length >= MAX_KINDS ? "other" : kind;
  errors[key] = (errors[key] ?? 0) + count;
}

/**
 * Returns a name for the kind of an error. If the error has a code, the name contains the code in
 * place of the message, because messages include numbers and places.
 *
 * @returns A short name.
 */
export function kindOf(error: unknown): string {
  if (error instanceof RequestError) return `request: ${error.failure.code}`;
  if (error instanceof TimeoutError) return "timeout";
  if (error instanceof QueueFullError) return "queue full";
  if (error instanceof UnsupportedError) return "unsupported";
  if (error instanceof SessionClosedError) return `closed: ${error.info?.code ?? "unknown"}`;
  return plainText(textOf(error)).replace(/\d+/g, "N").slice(0, MAX_KIND_LENGTH);
}
