/** Keys and values of a Redis server, with the times at which keys expire. */
import type { ByteString } from "./replies.ts";

/** Bytes of a key in addition to name and value, about as in Redis. */
const KEY_BYTES = 96;

/** Bytes of a field, member or entry in addition to its content. */
const PART_BYTES = 32;

/** Number of keys among which one is chosen for eviction: the default of `maxmemory-samples`. */
const SAMPLES = 5;

/** Position of an entry in a stream: two numbers. */
export type StreamId = readonly [first: number, second: number];

/** An entry of a stream: a position, and alternating fields and values. */
export interface StreamEntry {
  /** Position of the entry. */
  readonly id: StreamId;
  /** Alternating fields and values. */
  readonly fields: readonly ByteString[];
}

export class StringValue {
  /** Name of the type, as in the reply of `TYPE`. */
  readonly type = "string";
  /** The content. */
  readonly text: ByteString;

  constructor(text: ByteString) {
    this.text = text;
  }

  /** Bytes of the content. */
  get bytes(): number {
    return this.text.length;
  }

  /** Makes a copy. */
  clone(): StringValue {
    return this;
  }
}

export class HashValue {
  /** Name of the type. */
  readonly type = "hash";
  readonly #fields: Map<ByteString, ByteString>;
  #bytes = 0;

  constructor(fields: Iterable<readonly [ByteString, ByteString]> = []) {
    this.#fields = new Map();
    for (const [field, text] of fields) this.set(field, text);
  }

  /** Number of fields. */
  get size(): number {
    return this.#fields.size;
  }

  /** Bytes of all fields. */
  get bytes(): number {
    return this.#bytes;
  }

  /** All fields with their texts. */
  get fields(): ByteString[][] {
    return Array.from(this.#fields, (field) => [...field]);
  }

  /** Reads a field. */
  get(field: ByteString): ByteString | undefined {
    return this.#fields.get(field);
  }

  /** Writes a field; `true` for a new one. */
  set(field: ByteString, text: ByteString): boolean {
    const before = this.#fields.get(field);
    this.#fields.set(field, text);
    this.#bytes += before === undefined
      ? PART_BYTES + field.length + text.length
      : text.length - before.length;
    return before === undefined;
  }

  /** Removes a field; `true` if it existed. */
  delete(field: ByteString): boolean {
    const before = this.#fields.get(field);
    if (before === undefined) return false;
    this.#bytes -= PART_BYTES + field.length + before.length;
    return this.#fields.delete(field);
  }

  /** Makes a copy. */
  clone(): HashValue {
    return new HashValue(this.#fields);
  }
}

export class SetValue {
  /** Name of the type. */
  readonly type = "set";
  readonly #members: Set<ByteString>;
  #bytes = 0;

  constructor(members: Iterable<ByteString> = []) {
    this.#members = new Set();
    for (const member of members) this.add(member);
  }

  /** Number of members. */
  get size(): number {
    return this.#members.size;
  }

  /** Bytes of all members. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Adds a member; `true` for a new one. */
  add(member: ByteString): boolean {
    if (this.#members.has(member)) return false;
    this.#members.add(member);
    this.#bytes += PART_BYTES + member.length;
    return true;
  }

  /** Removes a member; `true` if it existed. */
  delete(member: ByteString): boolean {
    if (!this.#members.delete(member)) return false;
    this.#bytes -= PART_BYTES + member.length;
    return true;
  }

  /** Makes a copy. */
  clone(): SetValue {
    return new SetValue(this.#members);
  }
}

export class SortedSetValue {
  /** Name of the type. */
  readonly type = "zset";
  readonly #scores: Map<ByteString, number>;
  #bytes = 0;
  /** Members by score, and by bytes at the same score; `undefined` after a change. */
  #sorted: readonly (readonly [member: ByteString, score: number])[] | undefined;

  constructor(scores: Iterable<readonly [ByteString, number]> = []) {
    this.#scores = new Map();
    for (const [member, score] of scores) this.set(member, score);
  }

  /** Number of members. */
  get size(): number {
    return this.#scores.size;
  }

  /** Bytes of all members. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Members with scores, in order. */
  get sorted(): readonly (readonly [member: ByteString, score: number])[] {
    return this.#sorted ??= [...this.#scores].sort(([a, first], [b, second]) =>
      first - second || (a < b ? -1 : a > b ? 1 : 0)
    );
  }

  /** Reads the score of a member. */
  get(member: ByteString): number | undefined {
    return this.#scores.get(member);
  }

  /** Sets the score of a member; `true` for a new one. */
  set(member: ByteString, score: number): boolean {
    const isNew = !this.#scores.has(member);
    if (isNew) this.#bytes += 2 * PART_BYTES + member.length;
    this.#scores.set(member, score);
    this.#sorted = undefined;
    return isNew;
  }

  /** Removes a member; `true` if it existed. */
  delete(member: ByteString): boolean {
    if (!this.#scores.delete(member)) return false;
    this.#bytes -= 2 * PART_BYTES + member.length;
    this.#sorted = undefined;
    return true;
  }

  /** Makes a copy. */
  clone(): SortedSetValue {
    return new SortedSetValue(this.#scores);
  }
}

export class StreamValue {
  /** Name of the type. */
  readonly type = "stream";
  readonly #entries: StreamEntry[];
  #last: StreamId;
  #bytes: number;

  constructor() {
    this.#entries = [];
    this.#last = [0, 0];
    this.#bytes = 0;
  }

  /** Number of entries. */
  get size(): number {
    return this.#entries.length;
  }

  /** Bytes of all entries. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Position of the newest entry that was ever in the stream. */
  get last(): StreamId {
    return this.#last;
  }

  /** Adds an entry after all others. */
  add(entry: StreamEntry): void {
    this.#entries.push(entry);
    this.#last = entry.id;
    this.#bytes += bytesOfEntry(entry);
  }

  /** Reads entries between two positions, both included; newest first if `isReverse`. */
  range(from: StreamId, to: StreamId, { count, isReverse }: {
    readonly count: number;
    readonly isReverse: boolean;
  }): StreamEntry[] {
    const begin = this.#indexOf(from);
    let end = this.#indexOf(to);
    const last = this.#entries[end];
    if (last !== undefined && compareIds(last.id, to) === 0) end++;
    if (begin >= end || count <= 0) return [];
    if (!isReverse) return this.#entries.slice(begin, Math.min(end, begin + count));
    return this.#entries.slice(Math.max(begin, end - count), end).reverse();
  }

  /** Removes the entries before a position; returns how many. */
  trimBefore(id: StreamId): number {
    const removed = this.#entries.splice(0, this.#indexOf(id));
    for (const entry of removed) this.#bytes -= bytesOfEntry(entry);
    return removed.length;
  }

  /** Makes a copy. */
  clone(): StreamValue {
    const copy = new StreamValue();
    for (const entry of this.#entries) copy.add(entry);
    copy.#last = this.#last;
    return copy;
  }

  /** Finds the first entry that is not before a position. */
  #indexOf(id: StreamId): number {
    let low = 0;
    let high = this.#entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compareIds(this.#entries[middle]!.id, id) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** A value of any type. */
export type Value = StringValue | HashValue | SetValue | SortedSetValue | StreamValue;

/** Compares two positions: less than 0 if the first comes first. */
export function compareIds(a: StreamId, b: StreamId): number {
  return a[0] - b[0] || a[1] - b[1];
}

function bytesOfEntry({ fields }: StreamEntry): number {
  return PART_BYTES + fields.reduce((sum, text) => sum + text.length, 0);
}

/** A policy by which keys are evicted when memory is full. */
export type EvictionPolicy =
  | "noeviction"
  | "allkeys-lru"
  | "allkeys-random"
  | "volatile-lru"
  | "volatile-random"
  | "volatile-ttl";

/** A key with a value. */
interface Entry {
  value: Value;
  /** Wall clock at which the key expires, in milliseconds; `undefined` for never. */
  expiresAt: number | undefined;
  /** Bytes counted for the key. */
  bytes: number;
  /** Number of the last use, for the least recently used key. */
  used: number;
}

/** All keys of one server. */
export class Dataset {
  readonly #entries = new Map<ByteString, Entry>();
  #bytes = 0;
  #uses = 0;

  /** Number of keys, including expired ones. */
  get size(): number {
    return this.#entries.size;
  }

  /** Bytes of all keys, about as in Redis. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Names of all keys, in the order of creation. */
  get keys(): ByteString[] {
    return [...this.#entries.keys()];
  }

  /** Reads a value, expired or not. */
  get(key: ByteString): Value | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    entry.used = ++this.#uses;
    return entry.value;
  }

  /** Reads the time at which a key expires. */
  expiryOf(key: ByteString): number | undefined {
    return this.#entries.get(key)?.expiresAt;
  }

  /** Writes a value, and keeps the expiry of an existing key. */
  set(key: ByteString, value: Value): void {
    const known = this.#entries.get(key);
    if (known !== undefined) known.value = value;
    else this.#entries.set(key, { value, expiresAt: undefined, bytes: 0, used: ++this.#uses });
    this.count(key);
  }

  /** Sets the time at which a key expires. */
  expireAt(key: ByteString, expiresAt: number | undefined): void {
    const entry = this.#entries.get(key);
    if (entry !== undefined) entry.expiresAt = expiresAt;
  }

  /** Recounts the bytes of a key, after a change of its value. */
  count(key: ByteString): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    const bytes = KEY_BYTES + key.length + entry.value.bytes;
    this.#bytes += bytes - entry.bytes;
    entry.bytes = bytes;
  }

  /** Removes a key; `true` if it existed. */
  delete(key: ByteString): boolean {
    const entry = this.#entries.get(key);
    if (entry === undefined) return false;
    this.#bytes -= entry.bytes;
    return this.#entries.delete(key);
  }

  /**
   * Chooses a key to evict among a few random keys, as Redis does.
   *
   * @param random Returns random numbers in [0, 1).
   * @returns The key; `undefined` if no key may be evicted.
   */
  victim(policy: EvictionPolicy, random: () => number): ByteString | undefined {
    if (policy === "noeviction") return undefined;
    const isVolatile = policy.startsWith("volatile-");
    const keys = this.keys.filter((key) => !isVolatile || this.expiryOf(key) !== undefined);
    if (keys.length === 0) return undefined;
    const draw = () => keys[Math.floor(random() * keys.length)]!;
    if (policy.endsWith("-random")) return draw();
    const rankOf = (key: ByteString) => {
      const { expiresAt, used } = this.#entries.get(key)!;
      return policy === "volatile-ttl" ? expiresAt! : used;
    };
    let best = draw();
    for (let i = 1; i < SAMPLES; i++) {
      const other = draw();
      if (rankOf(other) < rankOf(best)) best = other;
    }
    return best;
  }

  /** Makes a copy of all keys. */
  clone(): Dataset {
    const copy = new Dataset();
    for (const [key, { value, expiresAt, bytes }] of this.#entries) {
      copy.#entries.set(key, { value: value.clone(), expiresAt, bytes, used: ++copy.#uses });
    }
    copy.#bytes = this.#bytes;
    return copy;
  }
}
