/** The state that nodes share in buckets of JetStream. */
import { JetStreamApiError } from "@nats-io/jetstream";
import { type KV, Kvm } from "@nats-io/kv";
import { pause } from "../../base/wait.ts";
import { textOf } from "../../base/error_text.ts";
import { BrokerError } from "../../errors.ts";
import { storageOf } from "./jetstream.ts";
import type { Link } from "./link.ts";
import type { NatsSettings } from "./options.ts";
import { type Names, subjectPart } from "./format.ts";
import type { BrokerStore } from "../../pubsub/broker.ts";

/** Maximum time for which a row is remembered, in milliseconds: a week. */
const LONGEST_MS = 604_800_000;

/** Maximum number of attempts to change a row while other nodes change it. */
const MAX_ATTEMPTS = 64;

/** Longest pause before the next attempt, in milliseconds. */
const MAX_PAUSE_MS = 20;

/** Error codes of JetStream for a row that changed meanwhile. */
const WRONG_SEQUENCE: ReadonlySet<number> = new Set([10071, 10164]);

/** A change of a row: a new value, deletion (`null`), or no change (`undefined`). */
interface Change<T> {
  readonly value?: string | null;
  readonly result: T;
}

/** A bucket, which drops rows after a time without a write. */
interface Bucket {
  readonly name: string;
  readonly ttlMs: number;
}

/**
 * The store of one broker.
 *
 * Every row has a key, and is changed by compare-and-set. Numbers that must be remembered for
 * longer than the bucket keeps a row are in a second bucket. Entries that expire earlier include
 * the time of their expiry, measured by the clock of the node that wrote the row last.
 */
export class NatsStore implements BrokerStore {
  readonly #link: Link;
  readonly #settings: NatsSettings;
  readonly #rows: Bucket;
  /** Rows that are remembered for longer than those in `#rows`. */
  readonly #longRows: Bucket;

  constructor(link: Link, names: Names, settings: NatsSettings) {
    this.#link = link;
    this.#settings = settings;
    this.#rows = { name: names.bucket, ttlMs: settings.storeTtlMs };
    this.#longRows = { name: names.longBucket, ttlMs: LONGEST_MS };
  }

  advance(key: string, number: number, windowMs: number): Promise<boolean> {
    return this.#attempt("advance a number", this.#rowsOf(windowMs), async (bucket) => {
      checkTime("windowMs", windowMs, Math.max(this.#rows.ttlMs, LONGEST_MS));
      return await this.#change(bucket, numberKey(key), (row) => {
        const now = this.#link.clock.now();
        if (number <= parseNumber(row, now)) return { result: false };
        return { value: `${number} ${now + windowMs}`, result: true };
      });
    });
  }

  newest(key: string, windowMs: number): Promise<number> {
    return this.#attempt("read a number", this.#rowsOf(windowMs), async (bucket) => {
      const { row } = await this.#get(bucket, numberKey(key));
      return parseNumber(row, this.#link.clock.now());
    });
  }

  claim(
    scope: string,
    member: string,
    { max, ttlMs }: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean> {
    return this.#attempt("claim a place", this.#rows, async (bucket) => {
      checkTime("ttlMs", ttlMs, this.#rows.ttlMs);
      return await this.#change(bucket, claimsKey(scope), (row) => {
        const now = this.#link.clock.now();
        const claims = parseClaims(row, now);
        if (!claims.has(member) && claims.size >= max) return { result: false };
        claims.set(member, now + ttlMs);
        return { value: JSON.stringify([...claims]), result: true };
      });
    });
  }

  release(scope: string, member: string): Promise<void> {
    return this.#attempt("release a claim", this.#rows, async (bucket) => {
      await this.#change(bucket, claimsKey(scope), (row) => {
        const claims = parseClaims(row, this.#link.clock.now());
        if (!claims.delete(member)) return { result: undefined };
        const value = claims.size === 0 ? null : JSON.stringify([...claims]);
        return { value, result: undefined };
      });
    });
  }

  claims(scope: string): Promise<string[]> {
    return this.#attempt("list claims", this.#rows, async (bucket) => {
      const { row } = await this.#get(bucket, claimsKey(scope));
      return [...parseClaims(row, this.#link.clock.now()).keys()];
    });
  }

  #rowsOf(windowMs: number): Bucket {
    return windowMs <= this.#rows.ttlMs ? this.#rows : this.#longRows;
  }

  async #attempt<T>(what: string, rows: Bucket, act: (bucket: KV) => Promise<T>): Promise<T> {
    try {
      await this.#link.reach();
      const bucket = await this.#open(rows);
      // The stream that contains the rows.
      await this.#link.followClock(await this.#link.manager(), `KV_${rows.name}`);
      return await act(bucket);
    } catch (cause) {
      if (cause instanceof BrokerError || cause instanceof RangeError) throw cause;
      const text = textOf(cause);
      throw new BrokerError(`Cannot ${what}: ${text}`, { cause });
    }
  }

  /** Opens a bucket, and creates it at first use. */
  #open({ name, ttlMs: ttl }: Bucket): Promise<KV> {
    const { replicas } = this.#settings;
    const options = { history: 1, ttl, storage: storageOf(this.#settings), replicas };
    return this.#link.once(name, (connection) => new Kvm(connection).create(name, options));
  }

  async #get(
    bucket: KV,
    key: string,
  ): Promise<{ readonly row?: string; readonly revision: number }> {
    const entry = await bucket.get(key);
    if (entry === null) return { revision: 0 };
    const { revision } = entry;
    return entry.operation === "PUT" ? { row: entry.string(), revision } : { revision };
  }

  async #change<T>(
    bucket: KV,
    key: string,
    change: (row: string | undefined) => Change<T>,
  ): Promise<T> {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const { row, revision } = await this.#get(bucket, key);
      const { value, result } = change(row);
      if (value === undefined) return result;
      try {
        if (value === null) await bucket.delete(key, { previousSeq: revision });
        else await bucket.put(key, value, { previousSeq: revision });
        return result;
      } catch (error) {
        if (!(error instanceof JetStreamApiError && WRONG_SEQUENCE.has(error.code))) throw error;
        const { runtime } = this.#link;
        await pause(runtime, runtime.random() * Math.min(MAX_PAUSE_MS, attempt + 1));
      }
    }
    throw new BrokerError(
      `Cannot change ${key}: other nodes changed it ${MAX_ATTEMPTS} times first`,
    );
  }
}

function checkTime(name: string, ms: number, mostMs: number): void {
  if (ms <= mostMs) return;
  const most = mostMs === LONGEST_MS ? "a week" : "storeTtlMs";
  throw new RangeError(
    `Cannot keep a row: ${name} must be at most ${most} (${mostMs}), received ${ms}`,
  );
}

function numberKey(key: string): string {
  return `number.${subjectPart(key)}`;
}

function claimsKey(scope: string): string {
  return `claims.${subjectPart(scope)}`;
}

/** Parses the number of a row; -1 if it is absent or has expired. */
function parseNumber(row: string | undefined, now: number): number {
  const [number, until] = (row ?? "").split(" ").map(Number);
  return number !== undefined && until !== undefined && until > now ? number : -1;
}

/** Parses the members and the expiry of their claims, leaving out expired claims. */
function parseClaims(row: string | undefined, now: number): Map<string, number> {
  const claims: [string, number][] = row === undefined ? [] : JSON.parse(row);
  return new Map(claims.filter(([, until]) => until > now));
}
