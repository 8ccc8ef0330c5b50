/** Ledger of the logs of one kind: who owns each log, and which one is dropped first. */
import { type KeyFacts, readKey } from "../logs/log_shares.ts";

/** Time after its end during which an unread response is dropped last, in milliseconds. */
export const FRESH_MS = 600_000;

/** The account of retained responses: a user, a guest, or a network. */
export class Party {
  readonly key: string;
  readonly level: KeyFacts["level"];
  /** Number of shares. */
  readonly factor: number;
  /** Number of its responses, including running ones. */
  count = 0;
  /** Its finished responses that were not read to the end, oldest first. */
  readonly unread = new Set<Entry>();
  /** Its other finished responses. */
  readonly read = new Set<Entry>();

  constructor(key: string) {
    this.key = key;
    const { level, factor } = readKey(key);
    this.level = level;
    this.factor = factor;
  }

  /** Number of responses per share. */
  get rank(): number {
    return Math.ceil(this.count / this.factor);
  }

  /** The finished response to drop first: the oldest one, with fresh unread responses last. */
  first(now: number): Entry | undefined {
    const [unread] = this.unread;
    const [read] = this.read;
    if (unread === undefined || read === undefined) return unread ?? read;
    const isFresh = now - unread.endedAt! < FRESH_MS;
    return isFresh || read.endedAt! < unread.endedAt! ? read : unread;
  }
}

/** A retained response. */
interface Entry {
  readonly id: string;
  readonly parties: readonly Party[];
  /**
   * Time at which the response ended, in milliseconds since the Unix epoch; absent while it is
   * running.
   */
  endedAt?: number;
}

/**
 * The accounts of all responses, from a list that the broker returned and the changes of this node
 * since then.
 */
export class RetainedLedger {
  readonly #entries = new Map<string, Entry>();
  readonly #parties = new Map<string, Party>();
  /** Networks by their rank. */
  readonly #ranks = new Map<number, Set<Party>>();
  #highest = 0;

  /** Number of responses. */
  get count(): number {
    return this.#entries.size;
  }

  has(id: string): boolean {
    return this.#entries.has(id);
  }

  /** Returns the parties of an account that have a response, narrowest first. */
  partiesOf(owner: string): Party[] {
    return owner.split(" ").flatMap((key) => this.#parties.get(key) ?? []);
  }

  /**
   * Adds a log. Finished logs are added in the order in which they ended.
   *
   * @returns False if the ledger already has the log.
   */
  add(id: string, owner: string, endedAt?: number): boolean {
    if (this.#entries.has(id)) return false;
    const parties = owner.split(" ").map((key) => this.#party(key));
    const entry: Entry = { id, parties };
    this.#entries.set(id, entry);
    for (const party of parties) this.#count(party, 1);
    if (endedAt !== undefined) this.end(id, endedAt);
    return true;
  }

  /** Records the end of a response. */
  end(id: string, endedAt: number): void {
    const entry = this.#entries.get(id);
    if (entry === undefined || entry.endedAt !== undefined) return;
    entry.endedAt = endedAt;
    for (const party of entry.parties) party.unread.add(entry);
  }

  /** Records that a finished response was read to its end. */
  read(id: string): void {
    const entry = this.#entries.get(id);
    for (const party of entry?.parties ?? []) {
      if (party.unread.delete(entry!)) party.read.add(entry!);
    }
  }

  /** Removes a response. */
  remove(id: string): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    for (const party of entry.parties) {
      party.unread.delete(entry);
      party.read.delete(entry);
      this.#count(party, -1);
    }
  }

  /**
   * Finds the response to drop, which belongs to the network with the most responses for its size.
   */
  first(now: number): string | undefined {
    for (let rank = this.#highest; rank > 0; rank--) {
      for (const party of this.#ranks.get(rank) ?? []) {
        const entry = party.first(now);
        if (entry !== undefined) return entry.id;
      }
    }
    return undefined;
  }

  #party(key: string): Party {
    const known = this.#parties.get(key);
    if (known !== undefined) return known;
    const party = new Party(key);
    this.#parties.set(key, party);
    return party;
  }

  #count(party: Party, step: 1 | -1): void {
    const before = party.rank;
    party.count += step;
    if (party.count === 0) this.#parties.delete(party.key);
    if (party.level !== "address" || party.rank === before) return;
    const last = this.#ranks.get(before);
    last?.delete(party);
    if (last?.size === 0) this.#ranks.delete(before);
    if (party.rank > 0) {
      const next = this.#ranks.get(party.rank) ?? new Set();
      this.#ranks.set(party.rank, next.add(party));
    }
    this.#highest = Math.max(this.#highest, party.rank);
    while (this.#highest > 0 && !this.#ranks.has(this.#highest)) this.#highest--;
  }
}
