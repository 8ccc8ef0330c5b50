/** Shares of a broker's bytes, so that the streams of one client cannot fill it. */
import { FAMILIAR_FACTOR } from "../../base/quotas/accounts.ts";
import { isContended, mostOfNetwork } from "../../base/quotas/shares.ts";
import type { LogOverShare } from "./log.ts";

/** Fraction of the broker's bytes that the streams of a user, or of an address, may use. */
export const SHARE_PART: number = 1 / 8;

/** The level and shares encoded in a key. */
export interface KeyFacts {
  readonly level: "address" | "user";
  /** Number of shares. */
  readonly factor: number;
}

/**
 * Parses a key of `LogConfig.owner`, which belongs to a user or guest, or to a network with its
 * shares.
 */
export function readKey(key: string): KeyFacts {
  const [, kind, factor] = /^([a-z])(\d*)/.exec(key) ?? [];
  return {
    level: kind === "u" || kind === "g" ? "user" : "address",
    factor: Math.max(1, Number(factor)) * (kind === "f" ? FAMILIAR_FACTOR : 1),
  };
}

/** A user, a guest, or a network that created streams. */
interface Party {
  readonly key: string;
  readonly level: KeyFacts["level"];
  /** Maximum number of bytes while the broker is contended. */
  readonly most: number;
  bytes: number;
  streams: number;
}

/** A stream that a client created. */
interface Owned {
  readonly parties: readonly Party[];
  bytes: number;
}

/** Options of {@linkcode LogShares}. */
export interface LogSharesOptions {
  /** Maximum number of bytes of the broker. */
  readonly maxBytes: number;
  /** Returns the number of bytes in use. Shares apply once half of the maximum is in use. */
  readonly usedBytes: () => number;
}

/** The bytes of the streams that clients created. Streams without an owner are not tracked. */
export class LogShares {
  readonly #options: LogSharesOptions;
  /** Streams by id; bounded by the broker's streams. */
  readonly #streams = new Map<string, Owned>();
  /** Users, guests and networks with a stream, by key. */
  readonly #parties = new Map<string, Party>();

  constructor(options: LogSharesOptions) {
    this.#options = options;
  }

  /** Number of users, guests and networks with a stream. */
  get parties(): number {
    return this.#parties.size;
  }

  /**
   * Adds a new stream, which has no bytes yet.
   *
   * @param id The id, which no known stream uses.
   * @param owner Keys of the client that created the stream, in the form of `LogConfig.owner`;
   * `undefined` for the application.
   */
  note(id: string, owner: string | undefined): void {
    if (owner === undefined) return;
    const parties = owner.split(" ").map((key) => this.#party(key));
    for (const party of parties) party.streams++;
    this.#streams.set(id, { parties, bytes: 0 });
  }

  /** Bytes of a stream, as last recorded. */
  bytesOf(id: string): number {
    return this.#streams.get(id)?.bytes ?? 0;
  }

  /** Records the current bytes of a stream. */
  count(id: string, bytes: number): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    for (const party of stream.parties) party.bytes += bytes - stream.bytes;
    stream.bytes = bytes;
  }

  forget(id: string): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    this.count(id, 0);
    this.#streams.delete(id);
    for (const party of stream.parties) {
      if (--party.streams === 0) this.#parties.delete(party.key);
    }
  }

  /**
   * Finds the share that a stream would exceed.
   *
   * @param growth Bytes to be added to the stream.
   * @returns The result of the append; `undefined` if there is room.
   */
  exceeded(id: string, growth: number): LogOverShare | undefined {
    if (growth <= 0) return undefined;
    const party = this.#streams.get(id)?.parties.find(({ bytes, most }) => bytes + growth > most);
    const { maxBytes, usedBytes } = this.#options;
    if (party === undefined || !isContended(usedBytes(), maxBytes)) return undefined;
    return { kind: "over-share", level: party.level, most: party.most };
  }

  clear(): void {
    this.#streams.clear();
    this.#parties.clear();
  }

  #party(key: string): Party {
    const known = this.#parties.get(key);
    if (known !== undefined) return known;
    const { level, factor } = readKey(key);
    const { maxBytes: max } = this.#options;
    const share = Math.floor(max * SHARE_PART);
    const most = level === "user" ? share : mostOfNetwork({ share, factor, max, isStrict: false });
    const party = { key, level, most, bytes: 0, streams: 0 };
    this.#parties.set(key, party);
    return party;
  }
}

/**
 * Creates the error text for an exceeded share. It names no user and no address, because clients
 * other than the creator may append.
 *
 * @param verb The operation.
 */
export function overShareReason(
  verb: "append" | "create" | "open state" | "write state",
  { level, most }: Pick<LogOverShare, "level" | "most">,
): string {
  const isNew = verb === "create" || verb === "open state";
  const holder = isNew ? `your ${level}` : `the ${level} that created the stream`;
  return `Cannot ${verb}: ${holder} may have at most ${most} bytes of streams while the server ` +
    "is busy";
}
