/**
 * What broadcasts send in one turn, packed once for all who get the same.
 *
 * @module
 */
import { type Entry, packAll, type PackedFrame } from "./packing.ts";
import type { SendQueue } from "./send_queue.ts";
import type { Sender, Turn, TurnWork } from "./turn.ts";

/** What a broadcast gathered in one turn. */
export interface Pending {
  /** In the order of their sequence. */
  readonly entries: readonly Entry[];
  /** Entries that one queue does not get. */
  readonly exceptions: ReadonlyMap<Entry, SendQueue> | undefined;
  /** Who gets them. */
  readonly members: Iterable<SendQueue>;
}

/** What gathers until the turn ends. */
export interface Gathering {
  /** Hands out what was gathered, and begins anew. */
  take(): Pending;
}

/**
 * What some sessions share in one turn: entries of one broadcast, or of
 * several merged, packed once for all of them.
 */
export class Share {
  /** In the order of their sequence. */
  readonly entries: readonly Entry[];
  /** Queues that do not get every entry. */
  readonly exceptions: ReadonlyMap<Entry, SendQueue> | undefined;
  #joined: readonly PackedFrame[] | undefined;
  #single: readonly PackedFrame[] | undefined;
  #key: Pending | undefined;
  #next: Share | undefined;
  #branches: Map<Pending, Share> | undefined;
  #excepted: ReadonlySet<SendQueue> | undefined;

  /** Creates the share of entries that are in order already. */
  constructor(entries: readonly Entry[], exceptions: ReadonlyMap<Entry, SendQueue> | undefined) {
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
  excepts(queue: SendQueue): boolean {
    if (this.exceptions === undefined) return false;
    this.#excepted ??= new Set(this.exceptions.values());
    return this.#excepted.has(queue);
  }

  /** The entries that one queue gets. */
  entriesFor(queue: SendQueue): readonly Entry[] {
    const { exceptions } = this;
    if (exceptions === undefined) return this.entries;
    return this.entries.filter((entry) => exceptions.get(entry) !== queue);
  }

  /** Whether a queue would hand the entries to its wire one by one, and has nothing else pending. */
  isSingleFor(queue: SendQueue): boolean {
    return !queue.joins && queue.isFlushed && !queue.isOver && !this.excepts(queue);
  }

  /** Gives a queue what it gets; false if it is full, and its policy `close`. */
  giveTo(queue: SendQueue): boolean {
    // One that failed is closed before this turn is over, and must not show a gap till then.
    if (queue.isOver) return true;
    if (queue.isFlushed && !this.excepts(queue)) return this.#giveFrames(queue);
    const incoming = this.entriesFor(queue);
    if (incoming.length === 0) return true;
    // What its session sent by itself in this turn, after the first of these.
    const later = queue.takeBack(incoming[0]!.sequence);
    for (const entry of later.length === 0 ? incoming : mergeEntries(later, incoming)) {
      if (!put(queue, entry)) return false;
    }
    return queue.flush();
  }

  #giveFrames(queue: SendQueue): boolean {
    let from = 0;
    for (const packed of this.frames(queue.joins)) {
      if (queue.isHeld) break;
      queue.hand(packed.frame, packed.size, packed.end - from);
      from = packed.end;
    }
    for (let i = from; i < this.entries.length; i++) {
      if (!queue.admit(this.entries[i]!)) return false;
    }
    return true;
  }
}

/**
 * The broadcasts of one turn: one walk over the members of each, one frame for
 * all members who have nothing else pending.
 */
export class Sharing implements TurnWork {
  readonly #turn: Turn;
  #gatherings: Gathering[] = [];

  private constructor(turn: Turn) {
    this.#turn = turn;
  }

  /** The one of a turn. */
  static of(turn: Turn): Sharing {
    if (turn.sharing instanceof Sharing) return turn.sharing;
    const sharing = new Sharing(turn);
    turn.sharing = sharing;
    return sharing;
  }

  /** Hands out at the end of the turn what a broadcast gathers; mark it once. */
  mark(gathering: Gathering): void {
    this.#gatherings.push(gathering);
    this.#turn.wake();
  }

  /** Gives the members what was gathered for them; `failed` takes the queues that have no room. */
  handOut(failed: Sender[]): void {
    if (this.#gatherings.length === 0) return;
    // Taken first: what an application's policy publishes meanwhile is of the next turn.
    const all = this.#gatherings.map((gathering) => gathering.take());
    this.#gatherings = [];
    const touched: SendQueue[] = [];
    for (const pending of all) {
      const alone = new Share(pending.entries, pending.exceptions);
      for (const queue of pending.members) {
        const share = shareOf(queue);
        if (share === undefined) {
          queue.share = alone;
          touched.push(queue);
        } else queue.share = share.and(pending);
      }
    }
    const single: SendQueue[] = [];
    for (const queue of touched) {
      const share = shareOf(queue)!;
      if (share.isSingleFor(queue)) {
        single.push(queue);
        continue;
      }
      queue.share = undefined;
      if (!share.giveTo(queue)) failed.push(queue);
    }
    if (single.length > 0) this.#sendSingly(single, failed);
  }

  /** One entry to all, then the next: a wire that is still busy with the last frame is slower. */
  #sendSingly(queues: readonly SendQueue[], failed: Sender[]): void {
    for (let i = 0, isDone = false; !isDone; i++) {
      isDone = true;
      for (const queue of queues) {
        const entry = shareOf(queue)?.entries[i];
        if (entry === undefined) continue;
        isDone = false;
        if (giveOne(queue, entry)) continue;
        queue.share = undefined;
        failed.push(queue);
      }
    }
    for (const queue of queues) queue.share = undefined;
  }
}

/** The share that a queue gets at the end of this turn. */
function shareOf(queue: SendQueue): Share | undefined {
  return queue.share as Share | undefined;
}

/** Adds an entry; what waits for the end of the turn only, makes room for it at once. */
function put(queue: SendQueue, entry: Entry): boolean {
  if (!queue.isHeld && queue.isFullFor(entry) && !queue.flush()) return false;
  return queue.admit(entry);
}

/** Gives a queue an entry, or hands it to the wire at once, if the wire is not behind. */
function giveOne(queue: SendQueue, entry: Entry): boolean {
  if (queue.isOver) return true;
  if (!queue.isFlushed) return queue.admit(entry);
  queue.hand(entry.frame, entry.size, 1);
  return true;
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
