/**
 * One flush a turn: what one turn of the event loop produced for a session is
 * joined into as few frames as possible.
 *
 * @module
 */
import { type Entry, packAll, type PackedFrame } from "./entry.ts";
import { platformSchedule, type Schedule } from "./schedule.ts";

/** Who sends what a turn gathered: the send queue of one session. */
export interface Sender {
  /** What it gets from broadcasts, while they are handed over. */
  share: Share | undefined;
  /** Whether the turn knows that it has something to send. */
  isMarked: boolean;
  /** Takes what broadcasts sent in this turn; false if it has no room. */
  take(share: Share): boolean;
  /** Whether it would hand the entries to its wire one by one, and has nothing else pending. */
  takesSingly(share: Share): boolean;
  /** Takes one entry of its share; false if it has no room. */
  takeOne(entry: Entry): boolean;
  /** Hands what waits to the wire; false if it failed. */
  flush(): boolean;
  /** Ends its session, for it has no room. */
  fail(): void;
}

/**
 * What some sessions share in one turn: entries of one broadcast, or of
 * several merged, packed once for all of them.
 */
export class Share {
  /** In the order of their sequence. */
  readonly entries: readonly Entry[];
  /** Queues that do not get every entry. */
  readonly exceptions: ReadonlyMap<Entry, Sender> | undefined;
  #joined: readonly PackedFrame[] | undefined;
  #single: readonly PackedFrame[] | undefined;
  #key: Pending | undefined;
  #next: Share | undefined;
  #branches: Map<Pending, Share> | undefined;
  #excepted: ReadonlySet<Sender> | undefined;

  /** Creates the share of entries that are in order already. */
  constructor(entries: readonly Entry[], exceptions: ReadonlyMap<Entry, Sender> | undefined) {
    this.entries = entries;
    this.exceptions = exceptions;
  }

  /** The entries as frames, packed at the first call of each kind. */
  frames(joins: boolean): readonly PackedFrame[] {
    if (joins) return this.#joined ??= packAll(this.entries, true);
    return this.#single ??= packAll(this.entries, false);
  }

  /** The share of those who also get `pending`; the same object for all of them. */
  and(pending: Pending): Share {
    if (this.#key === pending) return this.#next!;
    let next = this.#branches?.get(pending);
    if (next === undefined) {
      next = new Share(
        mergeEntries(this.entries, pending.entries),
        mergeExceptions(this.exceptions, pending.exceptions),
      );
      (this.#branches ??= new Map()).set(pending, next);
    }
    this.#key = pending;
    this.#next = next;
    return next;
  }

  /** Whether there is an entry that this queue does not get. */
  excepts(queue: Sender): boolean {
    if (this.exceptions === undefined) return false;
    this.#excepted ??= new Set(this.exceptions.values());
    return this.#excepted.has(queue);
  }

  /** The entries that one queue gets. */
  entriesFor(queue: Sender): readonly Entry[] {
    const { exceptions } = this;
    if (exceptions === undefined) return this.entries;
    return this.entries.filter((entry) => exceptions.get(entry) !== queue);
  }
}

/** What a broadcast gathered in one turn. */
export interface Pending {
  /** In the order of their sequence. */
  readonly entries: readonly Entry[];
  /** Entries that one queue does not get. */
  readonly exceptions: ReadonlyMap<Entry, Sender> | undefined;
  /** Who gets them. */
  readonly members: Iterable<Sender>;
}

/** What gathers until the turn ends. */
export interface Gathering {
  /** Hands out what was gathered, and begins anew. */
  take(): Pending;
}

/**
 * Gathers what is to be sent until the turn of the event loop ends, then hands
 * it over: one walk over the members of each broadcast, one frame for all
 * members who have nothing else pending.
 *
 * A server has one turn for all its sessions. The order of everything sent
 * within a turn is kept for each session, whether it came by a broadcast or not.
 */
export class Turn {
  readonly #schedule: Schedule;
  #queues: Sender[] = [];
  #gatherings: Gathering[] = [];
  #sequence = 0;
  #isScheduled = false;
  #isFlushing = false;
  readonly #onTurn = () => {
    this.#isScheduled = false;
    this.flush();
  };

  /**
   * Creates a turn.
   *
   * @param schedule Tells the end of a turn; the platform's own by default.
   */
  constructor(schedule: Schedule = platformSchedule()) {
    this.#schedule = schedule;
  }

  /**
   * Gives the next entry its place in the order.
   *
   * @returns A number larger than all before it.
   */
  nextSequence(): number {
    return ++this.#sequence;
  }

  /**
   * Flushes a queue when the turn ends.
   *
   * @ignore
   * @param queue A queue that has something to send; mark it once.
   */
  mark(queue: Sender): void {
    this.#queues.push(queue);
    this.#wake();
  }

  /**
   * Sends a broadcast's entries when the turn ends.
   *
   * @ignore
   * @param gathering A broadcast that has something to send; mark it once.
   */
  markGathering(gathering: Gathering): void {
    this.#gatherings.push(gathering);
    this.#wake();
  }

  /**
   * Hands everything over now. Called when the turn ends, before the members of
   * a broadcast change, and when what is gathered reaches its bound.
   */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    const failed: Sender[] = [];
    try {
      if (this.#gatherings.length > 0) this.#flushPending(failed);
      if (this.#queues.length > 0) {
        const queues = this.#queues;
        this.#queues = [];
        for (const queue of queues) {
          queue.isMarked = false;
          if (!queue.flush()) failed.push(queue);
        }
      }
    } finally {
      this.#isFlushing = false;
    }
    // Later, because closing a session runs the application's code, which may change the
    // members of the very broadcast that had this flush made.
    for (const queue of failed) queueMicrotask(() => queue.fail());
  }

  #flushPending(failed: Sender[]): void {
    // Taken first: what an application's policy publishes meanwhile is of the next turn.
    const all = this.#gatherings.map((gathering) => gathering.take());
    this.#gatherings = [];
    const touched: Sender[] = [];
    for (const pending of all) {
      const alone = new Share(pending.entries, pending.exceptions);
      for (const queue of pending.members) {
        const { share } = queue;
        if (share === undefined) {
          queue.share = alone;
          touched.push(queue);
        } else queue.share = share.and(pending);
      }
    }
    const single: Sender[] = [];
    for (const queue of touched) {
      const share = queue.share!;
      if (queue.takesSingly(share)) {
        single.push(queue);
        continue;
      }
      queue.share = undefined;
      if (!queue.take(share)) failed.push(queue);
    }
    if (single.length > 0) this.#sendSingly(single, failed);
  }

  /** One entry to all, then the next: a wire that is still busy with the last frame is slower. */
  #sendSingly(queues: readonly Sender[], failed: Sender[]): void {
    for (let i = 0, isDone = false; !isDone; i++) {
      isDone = true;
      for (const queue of queues) {
        const entry = queue.share?.entries[i];
        if (entry === undefined) continue;
        isDone = false;
        if (queue.takeOne(entry)) continue;
        queue.share = undefined;
        failed.push(queue);
      }
    }
    for (const queue of queues) queue.share = undefined;
  }

  #wake(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#schedule(this.#onTurn);
  }
}

/** Merges two lists that are in order into one. */
export function mergeEntries(a: readonly Entry[], b: readonly Entry[]): readonly Entry[] {
  const merged: Entry[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length && j < b.length) {
    merged.push(a[i]!.sequence < b[j]!.sequence ? a[i++]! : b[j++]!);
  }
  while (i < a.length) merged.push(a[i++]!);
  while (j < b.length) merged.push(b[j++]!);
  return merged;
}

function mergeExceptions(a: Share["exceptions"], b: Share["exceptions"]): Share["exceptions"] {
  if (a === undefined || b === undefined) return a ?? b;
  return new Map([...a, ...b]);
}
