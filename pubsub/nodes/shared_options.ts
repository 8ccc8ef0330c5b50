/** The options that all nodes of a broker should share: their digest, encoding and differences. */
import { hashOf } from "../../base/hash.ts";
import { TopicRouter } from "../../session/wire/topic_pattern.ts";
import type { HistoryBounds, TopicHistory } from "../broker.ts";

/** Maximum number of options that nodes compare one by one. They compare the others together. */
export const MAX_COMPARED = 64;

/** Maximum length of a value that nodes send to each other; of a longer one they send the digest. */
const MAX_VALUE_LENGTH = 64;

/** Maximum length of a name from another node. */
const MAX_NAME_LENGTH = 512;

/** Name of all options beyond the maximum. */
const REST = "other options";

/** Number of characters of a digest: 96 bits. */
const DIGEST_LENGTH = 16;

/** Options of a node that should be the same on all nodes. */
export interface SharedOptionsSource {
  /** Topics with a history: patterns, each with its bounds. */
  readonly history: Readonly<Record<string, HistoryBounds>>;
  /** All other options by name, each as a text. */
  readonly others: Readonly<Record<string, string>>;
}

/** A name of an option, and its values on two nodes; `undefined` if a node lacks the option. */
export interface OptionDifference {
  readonly name: string;
  readonly here: string | undefined;
  readonly there: string | undefined;
}

/** The options in the form in which nodes send them. */
export interface EncodedOptions {
  readonly digest: string;
  /** Patterns with the bounds of their histories: `size`, `ttlMs` and `bytes`. */
  readonly history: readonly (readonly [string, number, number, number])[];
  readonly others: readonly (readonly [name: string, value: string])[];
}

/** The options of one node, or of several nodes with the same digest. */
export class SharedOptions {
  /** Digest of all options: 16 characters. */
  readonly digest: string;
  readonly encoded: EncodedOptions;
  readonly #router: TopicRouter<{ readonly history: TopicHistory }>;
  /** Values by name, as they appear in texts. */
  readonly #values: ReadonlyMap<string, string>;

  private constructor(encoded: EncodedOptions) {
    this.digest = encoded.digest;
    this.encoded = encoded;
    const { history, others } = encoded;
    this.#router = new TopicRouter(history.map(([pattern, size, ttlMs, bytes]) => {
      return [pattern, { history: { pattern, size, ttlMs, bytes } }] as const;
    }));
    this.#values = new Map([
      ...history.map(([pattern, size, ttlMs, bytes]) =>
        [`history of "${pattern}"`, `size ${size}, ttlMs ${ttlMs}, bytes ${bytes}`] as const
      ),
      ...others,
    ]);
  }

  /** Encodes the options of this node. */
  static of({ history, others }: SharedOptionsSource): SharedOptions {
    const patterns = Object.entries(history).sort(byName);
    const named = Object.entries(others).sort(byName)
      .map(([name, value]) =>
        [name, value.length > MAX_VALUE_LENGTH ? digestOf(value) : value] as const
      );
    const kept = patterns.slice(0, MAX_COMPARED);
    const room = MAX_COMPARED - kept.length;
    const rest = [patterns.slice(kept.length), named.slice(room)];
    const others_ = named.slice(0, room);
    if (rest.some((part) => part.length > 0)) others_.push([REST, digestOfAll(rest)]);
    const rows = kept.map(([pattern, { size, ttlMs, bytes }]) =>
      [pattern, size, ttlMs, bytes] as const
    );
    const digest = digestOfAll([rows, others_]);
    return new SharedOptions({ digest, history: rows, others: others_ });
  }

  /** Reads the options of another node; `undefined` if malformed. */
  static read(data: unknown): SharedOptions | undefined {
    const { digest, history, others } = (data ?? {}) as Record<string, unknown>;
    if (typeof digest !== "string" || digest.length > MAX_VALUE_LENGTH) return undefined;
    if (!isList(history, isHistoryRow) || !isList(others, isOtherRow)) return undefined;
    try {
      return new SharedOptions({ digest, history, others });
    } catch {
      return undefined; // A malformed pattern.
    }
  }

  /** Finds the history of a topic; `undefined` if it has none on these nodes. */
  historyOf(topic: string): TopicHistory | undefined {
    return this.#router.match(topic)?.history;
  }

  /** Lists the differences from other options. */
  differencesFrom(there: SharedOptions): OptionDifference[] {
    const names = new Set([...this.#values.keys(), ...there.#values.keys()]);
    const byUnnamed = (options: SharedOptions) =>
      new Map(options.#values.entries().map(([name, value]) => [unnamed(name), value]));
    const [ours, theirs] = [byUnnamed(this), byUnnamed(there)];
    const found = new Map<string, OptionDifference>();
    for (const name of names) {
      const key = unnamed(name);
      const [here, other] = [ours.get(key), theirs.get(key)];
      if (here !== other && !found.has(key)) found.set(key, { name, here, there: other });
    }
    return [...found.values()];
  }

  /** Lists the patterns that have a history on some of the nodes, and not on others. */
  patternsOnOneSide(there: SharedOptions): string[] {
    const unmatched = (one: SharedOptions, other: SharedOptions) => {
      const known = new Set(other.encoded.history.map(([pattern]) => unnamed(pattern)));
      return one.encoded.history.map(([pattern]) => pattern)
        .filter((pattern) => !known.has(unnamed(pattern)));
    };
    return [...unmatched(this, there), ...unmatched(there, this)];
  }
}

/** Removes the names of parameters, which differ without an effect. */
export function unnamed(pattern: string): string {
  return pattern.replaceAll(/\{[^{}]*\}/g, "{}");
}

/** Digests a text; the same text has the same 16 characters on every node. */
export function digestOf(text: string): string {
  return hashOf(text).slice(0, DIGEST_LENGTH);
}

/** Digests lists of options, without the names of parameters, which have no effect on other nodes. */
function digestOfAll(lists: readonly (readonly (readonly [string, ...unknown[]])[])[]): string {
  const compared = lists.map((list) => list.map(([name, ...values]) => [unnamed(name), ...values]));
  return digestOf(JSON.stringify(compared));
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return unnamed(a) < unnamed(b) ? -1 : 1;
}

function isList<T>(value: unknown, isItem: (item: unknown) => item is T): value is readonly T[] {
  // One more option stands for the rest.
  return Array.isArray(value) && value.length <= MAX_COMPARED + 1 && value.every(isItem);
}

function isName(value: unknown): value is string {
  return typeof value === "string" && value.length <= MAX_NAME_LENGTH;
}

function isOtherRow(value: unknown): value is readonly [string, string] {
  return Array.isArray(value) && value.length === 2 && value.every(isName);
}

function isHistoryRow(value: unknown): value is readonly [string, number, number, number] {
  if (!Array.isArray(value) || value.length !== 4 || !isName(value[0])) return false;
  return value.slice(1).every((bound) => typeof bound === "number" && bound > 0);
}
