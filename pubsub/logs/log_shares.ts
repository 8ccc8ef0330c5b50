/** Shares of the bytes of an engine: nobody fills it with the streams that one client created. */
import { FAMILIAR_FACTOR } from "../../base/owners.ts";
import { isContended, mostOfNetwork } from "../../base/shares.ts";
import type { LogOverShare } from "./log.ts";

/** Part of the bytes of the engine that the streams of a user, or of an address, may have. */
export const SHARE_PART: number = 1 / 8;

/** Facts that the key of a party has. */
export interface KeyFacts {
  readonly level: "address" | "user";
  /** Shares that the party has. */
  readonly factor: number;
}

/** Reads a key of `LogConfig.owner`: of a user or guest, or of a network with its shares. */
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
  /** Most bytes, in contention. */
  readonly most: number;
  bytes: number;
  streams: number;
}

/** A stream of a client. */
interface Owned {
  readonly parties: readonly Party[];
  bytes: number;
}

/** Options of {@linkcode LogShares}. */
export interface LogSharesOptions {
  /** Most bytes of the engine. */
  readonly maxBytes: number;
  /** Returns the bytes in use: shares count once these are half of the bound. */
  readonly usedBytes: () => number;
}

/** The bytes of the streams that clients created. Streams without an owner are not known here. */
export class LogShares {
  readonly #options: LogSharesOptions;
  /** Streams by their id; bounded by the streams of the engine. */
  readonly #streams = new Map<string, Owned>();
  /** Parties with a stream, by their keys. */
  readonly #parties = new Map<string, Party>();

  /** Begins without streams. */
  constructor(options: LogSharesOptions) {
    this.#options = options;
  }

  /** Number of parties with a stream. */
  get parties(): number {
    return this.#parties.size;
  }

  /**
   * Notes a new stream, which has no bytes yet.
   *
   * @param id The id, which no stream has that is known.
   * @param owner Keys of the parties that created the stream, such as `LogConfig.owner` has them;
   * `undefined` for the application.
   */
  note(id: string, owner: string | undefined): void {
    if (owner === undefined) return;
    const parties = owner.split(" ").map((key) => this.#party(key));
    for (const party of parties) party.streams++;
    this.#streams.set(id, { parties, bytes: 0 });
  }

  /** Bytes of a stream, as last counted. */
  bytesOf(id: string): number {
    return this.#streams.get(id)?.bytes ?? 0;
  }

  /** Counts the present bytes of a stream. */
  count(id: string, bytes: number): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    for (const party of stream.parties) party.bytes += bytes - stream.bytes;
    stream.bytes = bytes;
  }

  /** Notes that a stream is no longer there. */
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
   * @param id The id.
   * @param growth Bytes that the stream would have in addition.
   * @returns The result of the append; `undefined` if there is room.
   */
  exceeded(id: string, growth: number): LogOverShare | undefined {
    if (growth <= 0) return undefined;
    const party = this.#streams.get(id)?.parties.find(({ bytes, most }) => bytes + growth > most);
    const { maxBytes, usedBytes } = this.#options;
    if (party === undefined || !isContended(usedBytes(), maxBytes)) return undefined;
    return { kind: "over-share", level: party.level, most: party.most };
  }

  /** Forgets all. */
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
 * Makes the error text of a share that is exceeded. Others than the creator may append.
 *
 * @param verb The operation.
 * @param reached The share.
 * @returns The text, which names no user and no address.
 */
export function overShareReason(
  verb: "append" | "create",
  { level, most }: Pick<LogOverShare, "level" | "most">,
): string {
  const holder = verb === "create" ? `your ${level}` : `the ${level} that created the stream`;
  return `Cannot ${verb}: ${holder} may have at most ${most} bytes of streams while the server ` +
    "is busy";
}
