/**
 * Limits how many responses all nodes keep, and selects which are dropped to make room for new
 * ones.
 */
import { LimitError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { QuotaStats } from "../../base/quotas/shares.ts";
import type { StreamLogs } from "../logs/stream_logs.ts";
import { FRESH_MS, Party, type RetainedLedger } from "./retained_ledger.ts";
import { RetainedShares } from "./retained_shares.ts";
import type { ResponseLimits } from "../options.ts";

/** Maximum number of attempts to start a response while others use the freed space. */
const MAX_ATTEMPTS = 8;

/**
 * Number of listed responses that are tried when room is needed: some may turn out to be deleted, or
 * to be running. If none can be dropped, the caller is rejected.
 */
const MAX_STALE = 32;

/**
 * Maximum number of responses that are remembered as read; others count as unread for {@linkcode
 * FRESH_MS}.
 */
const MAX_READ = 10_000;

/**
 * Period in which an account's new responses can displace at most as many of its old ones as its
 * share, in milliseconds. The broker remembers each name for a week, and would otherwise fill up
 * with names.
 */
const CHURN_MS = 3_600_000;

/** Most accounts whose dropped responses are counted. */
const MAX_CHURN = 10_000;

/**
 * Counters of {@linkcode RetainedResponses}. `taken` covers all nodes, as of the newest response on this
 * node.
 */
export interface RetainedStats extends QuotaStats {
  /** Responses that this node dropped to make room. */
  readonly dropped: number;
}

/** Responses that were dropped for an account, since the first of them. */
interface Churn {
  count: number;
  readonly sinceMs: number;
}

/** Collaborators of {@linkcode RetainedResponses}. */
interface RetainedResponsesOptions {
  readonly runtime: Runtime;
  readonly streams: StreamLogs;
  readonly limits: ResponseLimits;
}

/**
 * Limits how many responses all nodes keep, and drops old responses to make room for new ones.
 *
 * - **Half of the limit:** while less than half of the limit is used, a response needs no extra
 *   call. Above that, the node occasionally reads a list of the responses and their accounts from
 *   the broker.
 * - **Share:** while more than half is used, an account that has reached its share loses its own
 *   oldest response when it creates a new one.
 * - **Full:** when the limit is reached, the network with the most responses for its size loses its
 *   oldest response, even if another account creates the new one.
 * - **Order:** if a response ended within the last ten minutes and was not read to its end on this
 *   node, it is dropped last. Running responses are never dropped; if all responses are running,
 *   the caller is rejected.
 * - **Names:** within an hour, an account's new responses can displace only as many of its old
 *   responses as its share allows.
 */
export class RetainedResponses {
  readonly #runtime: Runtime;
  readonly #streams: StreamLogs;
  readonly #shares: RetainedShares;
  readonly #read = new Map<string, number>(); // At most `MAX_READ`, by the time of reading.
  /** Dropped responses by account; at most `MAX_CHURN`. */
  readonly #churn = new Map<string, Churn>();
  #dropped = 0;

  constructor(
    { runtime, streams, limits: { maxRetained: max, retainedShares } }: RetainedResponsesOptions,
  ) {
    this.#runtime = runtime;
    this.#streams = streams;
    this.#shares = new RetainedShares({
      runtime,
      streams,
      kind: "answer",
      limit: "responses.maxRetained",
      verb: "start a response",
      what: "retained responses",
      remedies: {
        user: "raise maxRetainedPerUser of resumable()",
        address: "raise maxRetainedPerAddress of resumable()",
        server: "raise maxRetained of resumable()",
      },
      isOwnToFree: true,
      max,
      ...retainedShares,
      onListed: (ledger) => {
        for (const id of this.#read.keys()) ledger.read(id);
      },
    });
  }

  get stats(): RetainedStats {
    return { ...this.#shares.stats, dropped: this.#dropped };
  }

  /**
   * Makes room for a response if necessary, and creates it.
   *
   * @param create Creates the response with these keys of its account. If there is no room, it MUST
   * throw a {@linkcode LimitError} with the limit `responses.maxRetained`.
   * @returns The result of `create`.
   * @throws {LimitError} If no room can be made; the error includes the level.
   */
  async keep<T>(
    { id, account }: { readonly id: string; readonly account: Account },
    create: (keys: string) => Promise<T>,
  ): Promise<T> {
    const keys = await this.#shares.keysOf(account);
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
      if (!isMade) this.#shares.reject("server");
    }
  }

  /** Records the end of a response of this node. */
  ended(id: string): void {
    for (const ledger of this.#shares.ledgers) ledger.end(id, this.#runtime.now());
  }

  /** Records that a reader of this node has read a finished response to its end. */
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

  /** Drops a response of an account that is beyond its share. */
  async #makeRoomWithin(keys: string): Promise<void> {
    await this.#shares.prepare();
    const full = this.#shares.full(keys);
    if (full === undefined) return;
    const { key, level } = full;
    const firstOf = (known: RetainedLedger) =>
      known.partiesOf(key)[0]?.first(this.#runtime.now())?.id;
    if (!await this.#dropFor(keys, firstOf)) this.#shares.reject(level, this.#shares.mostOf(full));
  }

  /** Drops a response of the network with the most responses. */
  async #makeRoom(keys: string): Promise<boolean> {
    return await this.#dropFor(keys, (ledger) => ledger.first(this.#runtime.now()));
  }

  /** Drops a response for an account, and counts it. Returns false if there is none to drop. */
  async #dropFor(
    keys: string,
    firstOf: (ledger: RetainedLedger) => string | undefined,
  ): Promise<boolean> {
    const counts = this.#countChurn(keys);
    let isDropped = false;
    try {
      return isDropped = await this.#drop(firstOf);
    } finally {
      if (!isDropped) { for (const churn of counts) churn.count--; }
    }
  }

  /** Drops a response. Returns false if there is none to drop. */
  async #drop(firstOf: (ledger: RetainedLedger) => string | undefined): Promise<boolean> {
    const shares = this.#shares;
    for (let stale = 0; stale < MAX_STALE; stale++) {
      let id = firstOf(await shares.known());
      if (id === undefined && shares.isOld) id = firstOf(await shares.list());
      if (id === undefined) return false;
      // Immediately, so that another caller drops another one.
      for (const ledger of shares.ledgers) ledger.remove(id);
      if (!await this.#streams.drop(id)) continue;
      this.#dropped++;
      return true;
    }
    return false;
  }

  /** Counts a response that is dropped for an account; returns the counts. */
  #countChurn(keys: string): Churn[] {
    const now = this.#runtime.monotonic();
    for (const [oldest, { sinceMs }] of this.#churn) {
      if (now - sinceMs < CHURN_MS && this.#churn.size <= MAX_CHURN) break;
      this.#churn.delete(oldest);
    }
    const parties = keys.split(" ").map((key) => new Party(key));
    for (const party of parties) {
      const churn = this.#churn.get(party.key);
      if (churn !== undefined && churn.count >= this.#shares.shareOf(party)) {
        this.#shares.rejectUntil(party, churn.sinceMs + CHURN_MS - now);
      }
    }
    return parties.map(({ key }) => {
      const churn = this.#churn.get(key) ?? { count: 0, sinceMs: now };
      churn.count++;
      this.#churn.set(key, churn);
      return churn;
    });
  }
}

/** Checks whether an error means that the limit of retained responses has been reached. */
function isFull(error: unknown): boolean {
  return error instanceof LimitError && error.limit === "responses.maxRetained";
}
