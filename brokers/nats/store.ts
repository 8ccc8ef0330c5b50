/** The state that nodes share in buckets of JetStream. */
import { jetstream, JetStreamApiError } from "@nats-io/jetstream";
import { type KV, Kvm } from "@nats-io/kv";
import { BrokerError } from "../../errors.ts";
import { ChangeAttempts } from "./contention.ts";
import { codeOf, NOT_FOUND, repeatedRead, settleLeader, storageOf } from "./jetstream.ts";
import { limitText, replyText } from "./limits.ts";
import type { NatsLink } from "./link.ts";
import type { NatsSettings } from "./options.ts";
import { shardOf, shardSuffix } from "./shards.ts";
import { type NatsNames, subjectPart } from "./format.ts";
import type { BrokerStore } from "../../pubsub/broker.ts";

/** Maximum time for which a row is remembered, in milliseconds: a week. */
const LONGEST_MS = 604_800_000;

/** Error codes of JetStream for a row that changed meanwhile. */
const WRONG_SEQUENCE: ReadonlySet<number> = new Set([10071, 10164]);

/** A change of a row: a new value, deletion (`null`), or no change (`undefined`). */
interface StoreChange<T> {
  readonly value?: string | null;
  readonly result: T;
}

/** Buckets, which drop rows after a time without a write. */
interface KvBuckets {
  /** The name of a single bucket, or the start of the names of several. */
  readonly name: string;
  readonly ttlMs: number;
  /** By row that is being changed, the changes that wait; as many as there are calls. */
  readonly changes: Map<string, WaitingChange[]>;
}

interface Rows extends Pick<KvBuckets, "changes"> {
  readonly name: string;
  readonly bucket: KV;
}

interface WaitingChange {
  readonly change: (row: string | undefined) => StoreChange<unknown>;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * The store of one broker.
 *
 * Every row has a key, and is changed by compare-and-set. Numbers that must be remembered for
 * longer than the bucket keeps a row are in a second bucket. Entries that expire earlier include
 * the time of their expiry, measured by the clock of the node that wrote the row last.
 */
export class NatsStore implements BrokerStore {
  readonly #link: NatsLink;
  readonly #settings: NatsSettings;
  readonly #rows: KvBuckets;
  /** Rows that are remembered for longer than those in `#rows`. */
  readonly #longRows: KvBuckets;

  constructor(link: NatsLink, names: NatsNames, settings: NatsSettings) {
    this.#link = link;
    this.#settings = settings;
    this.#rows = {
      name: names.bucket,
      ttlMs: settings.storeTtlMs,
      changes: new Map(),
    };
    this.#longRows = {
      name: names.longBucket,
      ttlMs: LONGEST_MS,
      changes: new Map(),
    };
  }

  advance(key: string, number: number, windowMs: number): Promise<boolean> {
    return this.#attempt("advance a number", this.#rowsOf(windowMs), key, async (rows) => {
      checkTime("windowMs", windowMs, Math.max(this.#rows.ttlMs, LONGEST_MS));
      return await this.#change(rows, numberKey(key), (row) => {
        const now = this.#link.clock.now();
        if (number <= parseNumber(row, now)) return { result: false };
        return { value: `${number} ${now + windowMs}`, result: true };
      });
    });
  }

  newest(key: string, windowMs: number): Promise<number> {
    return this.#attempt("read a number", this.#rowsOf(windowMs), key, async (rows) => {
      const { row } = await this.#get(rows.bucket, numberKey(key));
      return parseNumber(row, this.#link.clock.now());
    });
  }

  claim(
    scope: string,
    member: string,
    { max, ttlMs }: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean> {
    return this.#attempt("claim a place", this.#rows, scope, async (rows) => {
      checkTime("ttlMs", ttlMs, this.#rows.ttlMs);
      return await this.#change(rows, claimsKey(scope), (row) => {
        const now = this.#link.clock.now();
        const claims = parseClaims(row, now);
        if (!claims.has(member) && claims.size >= max) return { result: false };
        claims.set(member, now + ttlMs);
        return { value: JSON.stringify([...claims]), result: true };
      });
    });
  }

  release(scope: string, member: string): Promise<void> {
    return this.#attempt("release a claim", this.#rows, scope, async (rows) => {
      await this.#change(rows, claimsKey(scope), (row) => {
        const claims = parseClaims(row, this.#link.clock.now());
        if (!claims.delete(member)) return { result: undefined };
        const value = claims.size === 0 ? null : JSON.stringify([...claims]);
        return { value, result: undefined };
      });
    });
  }

  claims(scope: string): Promise<string[]> {
    return this.#attempt("list claims", this.#rows, scope, async (rows) => {
      const { row } = await this.#get(rows.bucket, claimsKey(scope));
      return [...parseClaims(row, this.#link.clock.now()).keys()];
    });
  }

  #rowsOf(windowMs: number): KvBuckets {
    return windowMs <= this.#rows.ttlMs ? this.#rows : this.#longRows;
  }

  async #attempt<T>(
    what: string,
    buckets: KvBuckets,
    key: string,
    act: (rows: Rows) => Promise<T>,
    isRetry = false,
  ): Promise<T> {
    let { name } = buckets;
    let opening: Promise<KV> | undefined;
    try {
      await this.#link.reach();
      const manager = await this.#link.manager();
      const count = this.#link.mark.shards!.buckets;
      const shard = shardOf(key, count);
      name += shardSuffix(shard, count);
      opening = this.#open(name, buckets.ttlMs, count > 1 ? shard : undefined);
      const bucket = await opening;
      // The stream that contains the rows.
      await this.#link.followClock(manager, `KV_${name}`);
      return await act({ name, bucket, changes: buckets.changes });
    } catch (cause) {
      if (cause instanceof BrokerError || cause instanceof RangeError) throw cause;
      // If the bucket was deleted, the next use creates it again.
      this.#link.reopen(name, opening);
      if (codeOf(cause) === NOT_FOUND && !isRetry) {
        return await this.#attempt(what, buckets, key, act, true);
      }
      const limit = limitText(cause);
      if (limit !== undefined) this.#link.life.refused(name, limit);
      throw new BrokerError(`Cannot ${what}: ${replyText(cause)}`, { cause });
    }
  }

  /** Opens a bucket, and creates it at first use. */
  #open(name: string, ttl: number, turn: number | undefined): Promise<KV> {
    const { replicas } = this.#settings;
    const options = {
      history: 1,
      ttl,
      storage: storageOf(this.#settings),
      replicas,
      // A lagging replica would reply to a direct read with an old row.
      allow_direct: replicas > 1 ? false : undefined,
    };
    return this.#link.once(name, async (connection) => {
      const { domain } = this.#settings;
      const bucket = await new Kvm(jetstream(connection, { domain })).create(name, options);
      if (replicas === 1) return bucket;
      await settleLeader(this.#link, `KV_${name}`, turn);
      return bucket;
    });
  }

  async #get(
    bucket: KV,
    key: string,
  ): Promise<{ readonly row?: string; readonly revision: number }> {
    const read = () => bucket.get(key);
    const readAgain = () => {
      const gone = Promise.withResolvers<never>();
      // Nothing replies to a direct read of a deleted bucket; its status says that it is gone.
      bucket.status().catch((error) => {
        if (codeOf(error) === NOT_FOUND) gone.reject(error);
      });
      return Promise.race([read(), gone.promise]);
    };
    const entry = await repeatedRead(this.#link.runtime, read, readAgain);
    if (entry === null) return { revision: 0 };
    const { revision } = entry;
    return entry.operation === "PUT" ? { row: entry.string(), revision } : { revision };
  }

  /**
   * Changes a row. Changes that wait for an earlier change of the same row are then made together.
   */
  #change<T>(
    rows: Rows,
    key: string,
    change: (row: string | undefined) => StoreChange<T>,
  ): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const waiting = { change, resolve: resolve as (result: unknown) => void, reject };
    const line = rows.changes.get(key);
    if (line !== undefined) {
      line.push(waiting);
      return promise;
    }
    rows.changes.set(key, []);
    void this.#run(rows, key, [waiting]);
    return promise;
  }

  async #run(
    rows: Rows,
    key: string,
    first: readonly WaitingChange[],
  ): Promise<void> {
    const { changes } = rows;
    for (let batch = first; batch.length > 0;) {
      try {
        const results = await this.#write(rows, key, batch);
        batch.forEach(({ resolve }, index) => resolve(results[index]));
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
      batch = changes.get(key)!;
      changes.set(key, []);
    }
    changes.delete(key);
  }

  async #write(
    { name, bucket }: Rows,
    key: string,
    batch: readonly WaitingChange[],
  ): Promise<unknown[]> {
    const attempts = new ChangeAttempts(this.#link);
    while (true) {
      const { row, revision } = await this.#get(bucket, key);
      let next = row;
      const results = batch.map(({ change }) => {
        const { value, result } = change(next);
        if (value !== undefined) next = value ?? undefined;
        return result;
      });
      if (next === row) return results;
      try {
        if (next === undefined) await bucket.delete(key, { previousSeq: revision });
        else {
          const seq = await bucket.put(key, next, { previousSeq: revision });
          this.#link.rates.note(`KV_${name}`, "buckets", seq);
        }
        this.#link.life.accepted(name);
        return results;
      } catch (error) {
        if (!(error instanceof JetStreamApiError && WRONG_SEQUENCE.has(error.code))) throw error;
        await attempts.lost(key);
      }
    }
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
