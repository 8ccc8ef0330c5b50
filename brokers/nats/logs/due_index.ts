/**
 * The index of logs that may expire or lose their writer.
 *
 * For each such log there is a check: a message with a time no later than the time at which the log
 * expires or its writer is lost. Checks are divided into classes. All checks in a class wait
 * equally long, so the first check in a class is always the next one due. A search therefore costs
 * one request per class, however many logs there are. If a log was used in the meantime, another
 * check is added in the class for the remaining time.
 *
 * Checks and logs are in two streams, so a server that loses power may lose a check but keep the
 * log. Therefore, a node's search also covers logs that this node found to be due while reading
 * them.
 */
import { dueAt, type StoredLog } from "../../../streams/logs/rules.ts";
import type { NatsClock } from "../clock.ts";
import { subjectPart } from "../format.ts";
import { REQUEST_TIMEOUT_MS } from "../link.ts";
import type { LogStreams } from "./log_streams.ts";

/** Wait of the checks in class 1, in milliseconds; checks in class 0 do not wait. */
const SHORTEST_WAIT_MS = 500;

/** Growth of the wait from class to class. */
const GROWTH = 4;

/** The highest class: waits of 17 years. */
const LAST_CLASS = 16;

/** Maximum number of checks of a class in one search, in addition to the number of listed logs. */
const MAX_CHECKS = 1_024;

/** Maximum number of logs that a search reads concurrently. */
const MAX_READS = 32;

/**
 * Maximum number of logs without a check that wait for a search. Other logs wait until their next
 * read.
 */
const MAX_READ_DUE = 1_024;

/** Maximum difference between nodes' clocks, in milliseconds. */
const MAX_SKEW_MS = 1_000;

/** Longest time from writing a check to the change that needs it, in milliseconds. */
const UNDER_WAY_MS = REQUEST_TIMEOUT_MS;

/**
 * Time after a removal at which the last message is dropped if this has not happened before, in
 * milliseconds.
 */
const REMOVAL_MS = 15_000;

interface DueLog {
  readonly id: string;
  readonly at: number;
}

/** How far the checks of a shard were searched, in one era of its streams. */
interface Searched {
  readonly shard: number;
  readonly era: unknown;
  /** For each class, a sequence that all checks of the class have reached. */
  readonly from: number[];
  /** Newest sequence at the last search. */
  newest: number;
}

/** A check as stored. */
interface DueCheck {
  readonly id: string;
  readonly at: number;
  readonly seq: number;
}

function isDue(state: StoredLog, now: number): boolean {
  return (dueAt(state) ?? Infinity) <= now;
}

/** Class and wait of a check for a log that falls due after some time. */
function classOf(leftMs: number): { readonly kind: number; readonly waitMs: number } {
  let [kind, waitMs] = [0, 0];
  for (let next = SHORTEST_WAIT_MS; next <= leftMs && kind < LAST_CLASS; next *= GROWTH) {
    kind++;
    waitMs = next;
  }
  return { kind, waitMs };
}

/** The checks of one broker, shared by all nodes. */
export class DueIndex {
  readonly #clock: NatsClock;
  readonly #streams: LogStreams;
  /** By shard. */
  readonly #searched: Searched[] = [];
  /** Logs that a read found due. */
  readonly #readDue = new Set<string>();

  constructor(clock: NatsClock, streams: LogStreams) {
    this.#clock = clock;
    this.#streams = streams;
  }

  /**
   * Ensures that a log is checked in time, and returns the time of the next check. It is called
   * before each change of a log, with the state after the change; there is no state after a
   * removal.
   */
  async ensure(
    id: string,
    state: StoredLog | undefined,
    check: number | undefined,
  ): Promise<number | undefined> {
    const now = this.#clock.now();
    const due = state === undefined ? now + REMOVAL_MS : dueAt(state);
    if (due === undefined) return check;
    // A check in the past may be gone, even if it is in the past only by another node's clock.
    const skew = Math.min(MAX_SKEW_MS, Math.max(0, due - now) / 8);
    const isAhead = check !== undefined && check > now + skew;
    if (isAhead && (check <= due || state === undefined)) return check;
    return await this.#writeCheck(id, now, due);
  }

  /** Ensures that the next search covers a due log, with or without a check. */
  noteDue(id: string, state: StoredLog): void {
    if (this.#readDue.size < MAX_READ_DUE && isDue(state, this.#clock.now())) this.#readDue.add(id);
  }

  /**
   * Lists due logs, starting with the log that has been due longest, and moves the checks of other
   * logs.
   */
  async list(limit: number): Promise<string[]> {
    const shards = await this.#streams.shards();
    const found = await Promise.all(shards.map((shard) => this.#searchShard(shard, limit)));
    const due = [...found.flat(), ...await this.#stillDue()].sort((a, b) => a.at - b.at);
    return [...new Set(due.map(({ id }) => id))].slice(0, limit);
  }

  async #searchShard(shard: number, limit: number): Promise<DueLog[]> {
    await this.#streams.open(shard);
    const era = this.#streams.era(shard);
    let searched = this.#searched[shard];
    if (searched === undefined || searched.era !== era) {
      this.#searched[shard] = searched = { shard, era, from: [], newest: 0 };
    }
    // If a class has no checks before this sequence, it has none at all. The previous search's
    // sequence is used, because a lagging replica does not have the newest checks.
    const reached = searched.newest + 1;
    searched.newest = await this.#streams.newestCheck(shard);
    const kinds = Array.from({ length: LAST_CLASS + 1 }, (_, kind) => kind);
    const due = kinds.map((kind) => this.#search(searched, kind, { limit, reached }));
    return (await Promise.all(due)).flat();
  }

  async #writeCheck(id: string, now: number, due: number): Promise<number> {
    const { kind, waitMs } = classOf(due - now);
    // If a log is already overdue, it is overdue even for nodes whose estimate of the clock is
    // behind.
    const at = Math.min(now, due) + waitMs;
    await this.#streams.writeCheck(kind, subjectPart(id), JSON.stringify([id, at]));
    return at;
  }

  async #search(
    { shard, from, newest }: Searched,
    kind: number,
    { limit, reached }: { readonly limit: number; readonly reached: number },
  ): Promise<DueLog[]> {
    // No check was written since a search found none.
    if ((from[kind] ?? 1) > newest) return [];
    const now = this.#clock.now();
    const first = await this.#streams.firstCheck(shard, kind, from[kind] ?? 1);
    if (first === undefined) {
      from[kind] = Math.max(from[kind] ?? 1, reached);
      return [];
    }
    from[kind] = first.seq;
    if (parseCheck(first).at > now) return [];
    const page = { from: first.seq, count: limit + MAX_CHECKS };
    const checks = (await this.#streams.checks(shard, kind, page)).map(parseCheck)
      .filter(({ at }) => at <= now);
    const due: DueLog[] = [];
    while (checks.length > 0 && due.length < limit) {
      const found = checks.splice(0, MAX_READS).map((check) => this.#handle(check, shard, kind));
      due.push(...(await Promise.all(found)).filter((one) => one !== undefined));
    }
    return due;
  }

  /** Returns the logs that reads found due, and forgets the logs that are no longer due. */
  async #stillDue(): Promise<DueLog[]> {
    const due: DueLog[] = [];
    const ids = [...this.#readDue];
    while (ids.length > 0) {
      await Promise.all(
        ids.splice(0, MAX_READS).map(async (id) => {
          const { state } = (await this.#streams.newest(subjectPart(id)))?.head ?? {};
          if (state !== undefined && isDue(state, this.#clock.now())) {
            due.push({ id, at: dueAt(state)! });
          } else this.#readDue.delete(id);
        }),
      );
    }
    return due;
  }

  /** Handles a check of a log; returns the log if it is due. */
  async #handle(check: DueCheck, shard: number, kind: number): Promise<DueLog | undefined> {
    const { id, at, seq } = check;
    const part = subjectPart(id);
    const message = await this.#streams.newest(part);
    const now = this.#clock.now();
    const { state, look: newest = at } = message?.head ?? {};
    const due = state && dueAt(state);
    if (state !== undefined && isDue(state, now)) return { id, at: due! };
    // If two nodes change a log concurrently, the node whose change is rejected may write its check
    // last, and so replace a check in the same class that is a little later.
    if (newest <= at + UNDER_WAY_MS) {
      // The change that the check was written for may still be in flight.
      if (now < at + UNDER_WAY_MS) return undefined;
      if (due !== undefined) {
        if (classOf(due - now).kind === kind) return undefined;
        await this.#writeCheck(id, now, due);
      }
      // This is the last message of a removed log, which the node that removed it could not drop.
      if (message?.head === null) await this.#streams.remove(part, message.seq);
    }
    await this.#streams.remove(shard, seq, "dueStream");
    return undefined;
  }
}

function parseCheck({ seq, data }: { readonly seq: number; readonly data: Uint8Array }): DueCheck {
  try {
    const [id, at]: [unknown, unknown] = JSON.parse(new TextDecoder().decode(data));
    if (typeof id === "string" && typeof at === "number") return { id, at, seq };
  } catch {
    // Another program's message: a check of the empty id drops it.
  }
  return { id: "", at: 0, seq };
}
