/** Kept answers of all nodes: whose they are, and which of them make room for new ones. */
import { LimitError, type LimitLevel } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import {
  FAMILIAR_FACTOR,
  isContended,
  limitError,
  mostOfNetwork,
  type Owner,
  type QuotaStats,
  type Shares,
} from "../../base/shares.ts";
import type { KeptLog } from "../../pubsub/logs/rules.ts";
import type { StreamLogs } from "../../pubsub/logs/stream_logs.ts";
import { type AnswerLimits, digest } from "./options.ts";

/** Time for which an answer that nobody read to its end goes last, in milliseconds. */
const FRESH_MS = 600_000;

/** Least time between two lists of all answers, in milliseconds. */
const REFRESH_MS = 5_000;

/** Times that a list takes to pass before the next one, so that lists take a twentieth of the time. */
const REFRESH_FACTOR = 20;

/** Answers in one page of the list. */
const PAGE = 1_000;

/** Most attempts to begin an answer while others take the room that was made. */
const MAX_ATTEMPTS = 8;

/** Most answers of the list that may turn out to be gone, or to go on, before a caller is refused. */
const MAX_STALE = 32;

/** Most answers that are remembered as read; others count as not read for {@linkcode FRESH_MS}. */
const MAX_READ = 10_000;

/** Part of the bound below which the ledger is forgotten. */
const FORGET_PART = 0.4;

/**
 * Time within which a party makes room for at most as many answers as its share, in milliseconds. The
 * engine remembers each name for a week, and would otherwise fill up with names.
 */
const CHURN_MS = 3_600_000;

/** Most parties whose made room is counted. */
const MAX_CHURN = 10_000;

/** Most owners whose keys are remembered. */
const MAX_KEYS = 1_024;

/** Characters of a key: 96 bits, so that nobody finds the key of another. */
const KEY_LENGTH = 16;

/** A party that answers are kept for: a user, a guest, or a network. */
class Party {
  readonly key: string;
  readonly level: keyof Shares;
  /** Shares that the party has. */
  readonly factor: number;
  /** Number of its answers, those that go on included. */
  count = 0;
  /** Its answers that have ended and were not read to the end, the oldest first. */
  readonly unread = new Set<Entry>();
  /** Its other answers that have ended. */
  readonly read = new Set<Entry>();

  constructor(key: string) {
    this.key = key;
    const [, level, factor] = /^([a-z])(\d*)/.exec(key) ?? [];
    this.level = level === "u" || level === "g" ? "user" : "address";
    this.factor = Math.max(1, Number(factor)) * (level === "f" ? FAMILIAR_FACTOR : 1);
  }

  /** Number of answers for each share of an address that the party has. */
  get rank(): number {
    return Math.ceil(this.count / this.factor);
  }

  /** The answer that goes first: the oldest, unless nobody read it to the end so far. */
  first(now: number): Entry | undefined {
    const [unread] = this.unread;
    const [read] = this.read;
    if (unread === undefined || read === undefined) return unread ?? read;
    const isFresh = now - unread.endedAt! < FRESH_MS;
    return isFresh || read.endedAt! < unread.endedAt! ? read : unread;
  }
}

/** A kept answer. */
interface Entry {
  readonly id: string;
  readonly parties: readonly Party[];
  /** Time of the end, in milliseconds since the Unix epoch; absent while the answer goes on. */
  endedAt?: number;
}

/** The holders of all answers: as of a list of the engine, and of what this node did since. */
export class KeptLedger {
  readonly #entries = new Map<string, Entry>();
  readonly #parties = new Map<string, Party>();
  /** Networks by their rank. */
  readonly #ranks = new Map<number, Set<Party>>();
  #highest = 0;

  /** Number of answers. */
  get count(): number {
    return this.#entries.size;
  }

  /** Returns the parties of an owner that hold an answer, the narrowest first. */
  partiesOf(owner: string): Party[] {
    return owner.split(" ").flatMap((key) => this.#parties.get(key) ?? []);
  }

  /** Adds an answer, unless known. Answers that have ended are added in the order of their ends. */
  add(id: string, owner: string, endedAt?: number): void {
    if (this.#entries.has(id)) return;
    const parties = owner.split(" ").map((key) => this.#party(key));
    const entry: Entry = { id, parties };
    this.#entries.set(id, entry);
    for (const party of parties) this.#count(party, 1);
    if (endedAt !== undefined) this.end(id, endedAt);
  }

  /** Notes the end of an answer. */
  end(id: string, endedAt: number): void {
    const entry = this.#entries.get(id);
    if (entry === undefined || entry.endedAt !== undefined) return;
    entry.endedAt = endedAt;
    for (const party of entry.parties) party.unread.add(entry);
  }

  /** Notes that an answer which has ended was read to its end. */
  read(id: string): void {
    const entry = this.#entries.get(id);
    for (const party of entry?.parties ?? []) {
      if (party.unread.delete(entry!)) party.read.add(entry!);
    }
  }

  /** Removes an answer. */
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

  /** Finds the answer that makes room: of the network that holds most for its size. */
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

/** Counters of {@linkcode KeptAnswers}; those taken are of all nodes, at the newest answer of this one. */
export interface KeptStats extends QuotaStats {
  /** Answers that this node dropped to make room. */
  readonly dropped: number;
}

/** Collaborators of {@linkcode KeptAnswers}. */
interface KeptAnswersOptions {
  readonly runtime: Runtime;
  readonly streams: StreamLogs;
  readonly limits: AnswerLimits;
}

/**
 * Room for the answers of all nodes.
 *
 * - **Half of the bound:** below, an answer costs no question more. Above, the node knows whose the
 *   answers are by a list of the engine, read again from time to time.
 * - **Share:** above half, an owner beyond a share loses its own oldest answer for a new one.
 * - **Full:** the network that holds most for its size loses its oldest answer, also for another owner.
 * - **Order:** answers that ended within ten minutes and were not read to the end on this node go last.
 *   Answers that go on are never dropped; if there are no others, the caller is refused.
 * - **Names:** within an hour, a party makes room for as many answers as its share.
 */
export class KeptAnswers {
  readonly #runtime: Runtime;
  readonly #streams: StreamLogs;
  readonly #limits: AnswerLimits;
  readonly #keys = new Map<string, Promise<string>>(); // At most `MAX_KEYS`.
  readonly #read = new Map<string, number>(); // At most `MAX_READ`, by the time of reading.
  /** Made room of parties; at most `MAX_CHURN`. */
  readonly #churn = new Map<string, { count: number; readonly sinceMs: number }>();
  readonly #refused: Record<LimitLevel, number> = { server: 0, address: 0, user: 0, session: 0 };
  #ledger: KeptLedger | undefined;
  /** The ledger that a list under way fills. */
  #next: KeptLedger | undefined;
  #listing: Promise<KeptLedger> | undefined;
  #listAgainAtMs = -Infinity;
  #dropped = 0;

  /** Begins without knowledge of any answers. */
  constructor({ runtime, streams, limits }: KeptAnswersOptions) {
    this.#runtime = runtime;
    this.#streams = streams;
    this.#limits = limits;
  }

  /** Counters. */
  get stats(): KeptStats {
    const { maxKept: max } = this.#limits;
    const refused = { ...this.#refused };
    return { taken: this.#streams.answers, max, refused, dropped: this.#dropped };
  }

  /**
   * Makes room for an answer if needed, and has it created.
   *
   * @param answer Its id, and the caller.
   * @param create Creates the answer with these keys of its owner. MUST throw a {@linkcode LimitError}
   * with the limit `answers.maxKept` if there is no room.
   * @returns The result of `create`.
   * @throws {LimitError} If no room can be made, with the level.
   */
  async keep<T>(
    { id, owner }: { readonly id: string; readonly owner: Owner },
    create: (keys: string) => Promise<T>,
  ): Promise<T> {
    const keys = await this.#keysOf(owner);
    if (this.#hasShares) await this.#makeRoomWithin(keys);
    else if (this.#streams.answers < this.#limits.maxKept * FORGET_PART) this.#ledger = undefined;
    for (let attempt = 1;; attempt++) {
      try {
        const created = await create(keys);
        for (const ledger of this.#ledgers()) ledger.add(id, keys);
        return created;
      } catch (error) {
        if (!isFull(error)) throw error;
      }
      const isMade = attempt < MAX_ATTEMPTS && await this.#makeRoom(keys);
      if (!isMade) this.#refuse("server", this.#limits.maxKept);
    }
  }

  /** Notes the end of an answer of this node. */
  ended(id: string): void {
    for (const ledger of this.#ledgers()) ledger.end(id, this.#runtime.now());
  }

  /** Notes that a reader of this node has read an answer that has ended to its end. */
  noteRead(id: string): void {
    const now = this.#runtime.monotonic();
    this.#read.delete(id);
    this.#read.set(id, now);
    for (const [oldest, atMs] of this.#read) {
      if (now - atMs < FRESH_MS && this.#read.size <= MAX_READ) break;
      this.#read.delete(oldest);
    }
    for (const ledger of this.#ledgers()) ledger.read(id);
  }

  /** True while shares count. */
  get #hasShares(): boolean {
    const { maxKept, keptShares } = this.#limits;
    return isContended(this.#streams.answers, maxKept) || keptShares.strict!.length > 0;
  }

  #ledgers(): KeptLedger[] {
    return [this.#ledger, this.#next].filter((ledger) => ledger !== undefined);
  }

  /** Shares of a party: as many of its answers may be dropped within an hour. */
  #shareOf({ level, factor }: Pick<Party, "level" | "factor">): number {
    return (this.#limits.keptShares.shares[level] ?? Infinity) * factor;
  }

  /** Most answers that a party keeps, in contention. */
  #mostOf({ level, factor }: Party): number {
    const { maxKept: max, keptShares: { shares, strict } } = this.#limits;
    const share = shares[level] ?? Infinity;
    if (level !== "address") return share;
    return mostOfNetwork({ share, factor, max, isStrict: strict!.includes(level) });
  }

  /** Drops an answer of an owner that is beyond a share. */
  async #makeRoomWithin(keys: string): Promise<void> {
    const { maxKept, keptShares: { strict } } = this.#limits;
    const isBusy = isContended(this.#streams.answers, maxKept);
    const ledger = await this.#known();
    const full = ledger.partiesOf(keys).find((party) =>
      party.count >= this.#mostOf(party) && (isBusy || strict!.includes(party.level))
    );
    if (full === undefined) return;
    this.#countChurn(keys);
    const { key, level } = full;
    const firstOf = (known: KeptLedger) => known.partiesOf(key)[0]?.first(this.#runtime.now())?.id;
    if (!await this.#drop(firstOf)) this.#refuse(level, this.#mostOf(full));
  }

  /** Drops an answer of the network that holds most. */
  async #makeRoom(keys: string): Promise<boolean> {
    this.#countChurn(keys);
    await this.#known();
    return await this.#drop((ledger) => ledger.first(this.#runtime.now()));
  }

  /** Drops an answer; false if there is none to be dropped. */
  async #drop(firstOf: (ledger: KeptLedger) => string | undefined): Promise<boolean> {
    for (let stale = 0; stale < MAX_STALE; stale++) {
      let id = firstOf(this.#ledger!);
      if (id === undefined && this.#isOld) id = firstOf(await this.#list());
      if (id === undefined) return false;
      // At once, so that another caller drops another one.
      for (const ledger of this.#ledgers()) ledger.remove(id);
      if (!await this.#streams.drop(id)) continue;
      this.#dropped++;
      return true;
    }
    return false;
  }

  get #isOld(): boolean {
    return this.#runtime.monotonic() >= this.#listAgainAtMs;
  }

  /** The ledger; an old one is renewed meanwhile. */
  async #known(): Promise<KeptLedger> {
    if (this.#ledger === undefined) return await this.#list();
    if (this.#isOld) this.#list().catch(() => {}); // The next call tries again.
    return this.#ledger;
  }

  /** Lists all answers; calls at once share the list. */
  #list(): Promise<KeptLedger> {
    return this.#listing ??= this.#listAll().finally(() => {
      this.#next = this.#listing = undefined;
    });
  }

  async #listAll(): Promise<KeptLedger> {
    const ledger = this.#next = new KeptLedger();
    const startMs = this.#runtime.monotonic();
    this.#listAgainAtMs = startMs + REFRESH_MS;
    const all: KeptLog[] = [];
    let after: string | undefined;
    do {
      const page = await this.#streams.listAnswers({
        limit: PAGE,
        ...(after !== undefined && { after }),
      });
      all.push(...page.logs);
      after = page.next;
    } while (after !== undefined);
    all.sort((a, b) => (a.endedAt ?? Infinity) - (b.endedAt ?? Infinity) || 0);
    for (const { id, owner = NOBODY, endedAt } of all) {
      ledger.add(id, owner, endedAt);
      if (this.#read.has(id)) ledger.read(id);
    }
    const tookMs = this.#runtime.monotonic() - startMs;
    this.#listAgainAtMs = startMs + Math.max(REFRESH_MS, tookMs * REFRESH_FACTOR);
    return this.#ledger = ledger;
  }

  /** Counts an answer for which room is made. */
  #countChurn(keys: string): void {
    const now = this.#runtime.monotonic();
    for (const [oldest, { sinceMs }] of this.#churn) {
      if (now - sinceMs < CHURN_MS && this.#churn.size <= MAX_CHURN) break;
      this.#churn.delete(oldest);
    }
    const parties = keys.split(" ").map((key) => new Party(key));
    for (const party of parties) {
      const share = this.#shareOf(party);
      if ((this.#churn.get(party.key)?.count ?? 0) >= share) this.#refuse(party.level, share);
    }
    for (const { key } of parties) {
      const churn = this.#churn.get(key);
      if (churn === undefined) this.#churn.set(key, { count: 1, sinceMs: now });
      else churn.count++;
    }
  }

  #refuse(level: LimitLevel, most: number): never {
    this.#refused[level]++;
    const { strict = [] } = this.#limits.keptShares;
    const texts = { limit: "answers.maxKept", verb: "begin an answer", what: "kept answers" };
    throw limitError({ ...texts, strict }, { level, most });
  }

  /**
   * The keys of an owner, the narrowest first, as the engine keeps them: of the user or guest, and of
   * the networks with their shares. Keys are digests, so that the engine has no address and no name.
   */
  async #keysOf({ user, guest, isFamiliar, isBehindProxy, networks: all }: Owner): Promise<string> {
    const isStrict = this.#limits.keptShares.strict!.includes("address");
    const networks = isBehindProxy && !isStrict ? [] : all;
    const name = user === undefined ? guest && `guest ${guest}` : `user ${user}`;
    const kind = isFamiliar ? "f" : "a";
    const keys = networks.map(({ key, factor }) => this.#key(`${kind}${factor}.`, `at ${key}`));
    // Without an address of its own, a user stands for one.
    if (networks.length === 0 && name !== undefined) keys.push(this.#key("a1.", name));
    if (name !== undefined) keys.unshift(this.#key(user === undefined ? "g." : "u.", name));
    return keys.length === 0 ? NOBODY : (await Promise.all(keys)).join(" ");
  }

  #key(prefix: string, what: string): Promise<string> {
    const name = prefix + what;
    const key = this.#keys.get(name) ??
      digest(this.#runtime, what).then((text) => prefix + text.slice(0, KEY_LENGTH));
    this.#keys.delete(name);
    this.#keys.set(name, key);
    if (this.#keys.size > MAX_KEYS) this.#keys.delete(this.#keys.keys().next().value!);
    return key;
  }
}

/** Keys of an owner that is not known. */
const NOBODY = "a1.nobody";

/** Tells whether an error is that of an engine which keeps the most answers. */
function isFull(error: unknown): boolean {
  return error instanceof LimitError && error.limit === "answers.maxKept";
}
