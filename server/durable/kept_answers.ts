/** Kept answers of all nodes: which of them make room for new ones. */
import { LimitError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Owner } from "../../base/owners.ts";
import type { QuotaStats } from "../../base/shares.ts";
import type { StreamLogs } from "../../pubsub/logs/stream_logs.ts";
import { FRESH_MS, type KeptLedger, Party } from "./kept_ledger.ts";
import { KeptShares } from "./kept_shares.ts";
import type { AnswerLimits } from "./options.ts";

/** Most attempts to begin an answer while others take the room that was made. */
const MAX_ATTEMPTS = 8;

/** Most answers of the list that may turn out to be gone, or to go on, before a caller is refused. */
const MAX_STALE = 32;

/** Most answers that are remembered as read; others count as not read for {@linkcode FRESH_MS}. */
const MAX_READ = 10_000;

/**
 * Time within which a party makes room for at most as many answers as its share, in milliseconds. The
 * engine remembers each name for a week, and would otherwise fill up with names.
 */
const CHURN_MS = 3_600_000;

/** Most parties whose made room is counted. */
const MAX_CHURN = 10_000;

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
  readonly #shares: KeptShares;
  readonly #read = new Map<string, number>(); // At most `MAX_READ`, by the time of reading.
  /** Made room of parties; at most `MAX_CHURN`. */
  readonly #churn = new Map<string, { count: number; readonly sinceMs: number }>();
  #dropped = 0;

  constructor({ runtime, streams, limits: { maxKept: max, keptShares } }: KeptAnswersOptions) {
    this.#runtime = runtime;
    this.#streams = streams;
    this.#shares = new KeptShares({
      runtime,
      streams,
      kind: "answer",
      limit: "answers.maxKept",
      verb: "begin an answer",
      what: "kept answers",
      max,
      ...keptShares,
      onListed: (ledger) => {
        for (const id of this.#read.keys()) ledger.read(id);
      },
    });
  }

  get stats(): KeptStats {
    return { ...this.#shares.stats, dropped: this.#dropped };
  }

  /**
   * Makes room for an answer if needed, and has it created.
   *
   * @param create Creates the answer with these keys of its owner. MUST throw a {@linkcode LimitError}
   * with the limit `answers.maxKept` if there is no room.
   * @returns The result of `create`.
   * @throws {LimitError} If no room can be made, with the level.
   */
  async keep<T>(
    { id, owner }: { readonly id: string; readonly owner: Owner },
    create: (keys: string) => Promise<T>,
  ): Promise<T> {
    const keys = await this.#shares.keysOf(owner);
    await this.#makeRoomWithin(keys);
    for (let attempt = 1;; attempt++) {
      try {
        const created = await create(keys);
        for (const ledger of this.#shares.ledgers) ledger.add(id, keys);
        return created;
      } catch (error) {
        if (!isFull(error)) throw error;
      }
      const isMade = attempt < MAX_ATTEMPTS && await this.#makeRoom(keys);
      if (!isMade) this.#shares.refuse("server");
    }
  }

  /** Notes the end of an answer of this node. */
  ended(id: string): void {
    for (const ledger of this.#shares.ledgers) ledger.end(id, this.#runtime.now());
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
    for (const ledger of this.#shares.ledgers) ledger.read(id);
  }

  /** Drops an answer of an owner that is beyond a share. */
  async #makeRoomWithin(keys: string): Promise<void> {
    await this.#shares.prepare();
    const full = this.#shares.full(keys);
    if (full === undefined) return;
    this.#countChurn(keys);
    const { key, level } = full;
    const firstOf = (known: KeptLedger) => known.partiesOf(key)[0]?.first(this.#runtime.now())?.id;
    if (!await this.#drop(firstOf)) this.#shares.refuse(level, this.#shares.mostOf(full));
  }

  /** Drops an answer of the network that holds most. */
  async #makeRoom(keys: string): Promise<boolean> {
    this.#countChurn(keys);
    return await this.#drop((ledger) => ledger.first(this.#runtime.now()));
  }

  /** Drops an answer; false if there is none to be dropped. */
  async #drop(firstOf: (ledger: KeptLedger) => string | undefined): Promise<boolean> {
    const shares = this.#shares;
    for (let stale = 0; stale < MAX_STALE; stale++) {
      let id = firstOf(await shares.known());
      if (id === undefined && shares.isOld) id = firstOf(await shares.list());
      if (id === undefined) return false;
      // At once, so that another caller drops another one.
      for (const ledger of shares.ledgers) ledger.remove(id);
      if (!await this.#streams.drop(id)) continue;
      this.#dropped++;
      return true;
    }
    return false;
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
      const share = this.#shares.shareOf(party);
      if ((this.#churn.get(party.key)?.count ?? 0) >= share) {
        this.#shares.refuse(party.level, share);
      }
    }
    for (const { key } of parties) {
      const churn = this.#churn.get(key);
      if (churn === undefined) this.#churn.set(key, { count: 1, sinceMs: now });
      else churn.count++;
    }
  }
}

/** Tells whether an error is that of an engine which keeps the most answers. */
function isFull(error: unknown): boolean {
  return error instanceof LimitError && error.limit === "answers.maxKept";
}
