/** The numbers of streams and buckets among which NATS spreads topics, logs and rows. */
import type { Runtime } from "../../base/runtime.ts";
import { hash32 } from "../../session/rows/row_hash.ts";
import { OtherVersionError } from "../stored_version.ts";

/**
 * Numbers of streams and buckets among which topics, logs and rows of the store are spread, each by
 * a hash of its name. They are stored with the first stream of a `prefix`, and never change.
 */
export interface NatsShards {
  /**
   * Number of streams for each pattern of topics with a history: 1 to 64. All nodes must have the
   * same number.
   *
   * @default {1}
   */
  readonly histories?: number | undefined;
  /**
   * Number of streams for durable streams, states and resumable responses, each with a stream for
   * their expiry: 1 to 64. A node without this option uses the stored number.
   *
   * @default {8}
   */
  readonly logs?: number | undefined;
  /**
   * Number of buckets for claims and sequence numbers, and the same for rows that are remembered
   * for days: 1 to 64. A node without this option uses the stored number.
   *
   * @default {8}
   */
  readonly buckets?: number | undefined;
}

export type ShardCounts = Readonly<Record<keyof NatsShards, number>>;

/** The numbers for a new prefix. */
export const DEFAULT_SHARDS: ShardCounts = { histories: 1, logs: 8, buckets: 8 };

/** Maximum of each number: a server has work with each stream, even if nobody uses the stream. */
export const MAX_SHARDS = 64;

/** The numbers of data without numbers: an earlier version wrote it, or a node with these. */
export const SINGLE: ShardCounts = { histories: 1, logs: 1, buckets: 1 };

const KINDS = ["histories", "logs", "buckets"] as const;
const STORED = /^histories=(\d+) logs=(\d+) buckets=(\d+)$/;

/** Selects the shard of a topic, log or row: a number from 0. */
export function shardOf(name: string, count: number): number {
  return count === 1 ? 0 : hash32(name) % count;
}

/** Creates the end of a shard's names. A single shard has none. */
export function shardSuffix(shard: number, count: number): string {
  return count === 1 ? "" : `_${shard}`;
}

/** Encodes the numbers for the version mark; an empty string for one of each. */
export function encodeShards(counts: ShardCounts): string {
  return KINDS.every((kind) => counts[kind] === 1)
    ? ""
    : KINDS.map((kind) => `${kind}=${counts[kind]}`).join(" ");
}

/**
 * Decodes the numbers of a version mark, and compares them with a node's options.
 *
 * @throws {OtherVersionError} If they differ, or are unreadable.
 */
export function decodeShards(
  text: string,
  { shards, prefix }: { readonly shards: Partial<ShardCounts>; readonly prefix: string },
): ShardCounts {
  const parts = text === "" ? [1, 1, 1] : STORED.exec(text)?.slice(1).map(Number);
  if (parts === undefined) {
    throw new OtherVersionError(
      `Cannot use NATS: the version mark of prefix "${prefix}" is damaged, received ${
        JSON.stringify(text.slice(0, 32))
      }; repair it, or use another prefix`,
    );
  }
  const [histories, logs, buckets] = parts as [number, number, number];
  const stored = { histories, logs, buckets };
  const wanted = { ...stored, histories: DEFAULT_SHARDS.histories, ...shards };
  if (KINDS.every((kind) => wanted[kind] === stored[kind])) return stored;
  throw new OtherVersionError(
    `Cannot use NATS: shards of the data with prefix "${prefix}" must be ${textOf(stored)}, ` +
      `received ${textOf(wanted)}; set them to the stored numbers, or use another prefix`,
  );
}

/** Fills in the defaults for a new prefix. */
export function newShards(shards: Partial<ShardCounts>): ShardCounts {
  return { ...DEFAULT_SHARDS, ...shards };
}

function textOf(counts: ShardCounts): string {
  return `{ ${KINDS.map((kind) => `${kind}: ${counts[kind]}`).join(", ")} }`;
}

/** Time over which a rate is measured, in milliseconds. */
const RATE_WINDOW_MS = 10_000;

/**
 * Messages per second that one stream or bucket carries on two cores, at least: an append is one
 * message, and a change of a row is a read and a message with a condition.
 */
const CARRIED: ShardCounts = { histories: 20_000, logs: 20_000, buckets: 2_500 };

/** The window of a stream in which its rate is measured next, and the rate before. */
interface RateWindow {
  readonly kind: keyof NatsShards;
  /** The sequence and the time at which the window starts. */
  readonly seq: number;
  readonly atMs: number;
  readonly perSecond: number;
}

/** Measures rates of streams by the sequences of their messages, whichever nodes write them. */
export class StreamRates {
  readonly #runtime: Runtime;
  /** By stream; as many as this node has used. */
  readonly #windows = new Map<string, RateWindow>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Notes the sequence of a message that a stream has stored. */
  note(stream: string, kind: keyof NatsShards, seq: number): void {
    const { seq: first, atMs: startMs } = this.#windows.get(stream) ?? { seq: Infinity, atMs: 0 };
    const stored = seq - first;
    // A window ends after as many messages as the stream carries in its time.
    if (stored >= 0 && stored < CARRIED[kind] * RATE_WINDOW_MS / 1_000) return;
    const atMs = this.#runtime.monotonic();
    // A smaller sequence belongs to a new stream.
    const perSecond = stored < 0 ? 0 : stored * 1_000 / Math.max(1, atMs - startMs);
    this.#windows.set(stream, { kind, seq, atMs, perSecond });
  }

  /** Describes the rates above what a stream carries, with the remedy. */
  issues(): string[] {
    const sinceMs = this.#runtime.monotonic() - 2 * RATE_WINDOW_MS;
    return [...this.#windows].flatMap(([stream, { kind, atMs, perSecond }]) => {
      if (atMs < sinceMs || perSecond <= CARRIED[kind]) return [];
      return `The stream ${stream} stores ${Math.round(perSecond)} messages per second, and one ` +
        `carries about ${CARRIED[kind]}: move to a prefix with more shards.${kind}`;
    });
  }
}
