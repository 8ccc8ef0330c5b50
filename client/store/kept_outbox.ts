/** The messages, publications and requests of a client that are kept in its store, in one order. */
import { RequestError, type SessionClosedError } from "../../errors.ts";
import type { Outbox } from "../outbox/outbox.ts";
import type { EncodedMessage } from "../../session/wire/encode.ts";
import { report, type SessionSettings } from "../../session/settings/settings.ts";
import type { WaitOptions } from "../../session/types.ts";
import type { Timer } from "../../base/runtime.ts";
import { attempt } from "../../base/call_safely.ts";
import { pause, waitFor } from "../../base/wait.ts";
import type { DropReason, OutboxDrop } from "./dropped.ts";
import type { GuardedStore } from "./guarded_store.ts";
import { discardCachedPages, hasLocks, holdLock, type LockHeld, stealLock } from "./locks.ts";
import { dataOf, type KeptItem, Producer, randomName } from "./kept_items.ts";
import { StoredProducers } from "./stored_producers.ts";

/**
 * The longest time for which something is kept, in milliseconds. A server recognizes repetitions for
 * the same time.
 */
export const MAX_AGE_MS = 604_800_000;

/**
 * Number of items that are marked as sent in one write. A server that has forgotten a producer makes
 * the outcome of marked items unknown, so it is small.
 */
const MARKED_AT_ONCE = 64;

/**
 * Interval at which a page looks for the calls of pages that were opened later and are closed by now,
 * in milliseconds.
 */
const SCAN_MS = 10_000;

/**
 * Time for which `forget()` waits until other pages have finished what they are writing, in
 * milliseconds.
 */
const FORGET_MS = 200;

/** The parts of a client that {@linkcode KeptOutbox} uses. */
export interface KeptOutboxParts {
  readonly settings: SessionSettings;
  /** Counts what waits, and notifies of changes. */
  readonly outbox: Outbox;
  readonly store: GuardedStore;
  readonly onDropped?: ((drop: OutboxDrop) => void) | undefined;
}

export interface KeptPublishOptions extends WaitOptions {
  readonly except?: "self" | undefined;
}

/**
 * The calls of a client that its store keeps.
 *
 * - **Order:** the calls of earlier pages are sent first, each page's in the order of its calls.
 * - **Names:** each page is a producer with a name of its own. The calls of an earlier page are
 *   sent under that page's name and numbers, by which the server recognizes repetitions.
 * - **Never sent** is certain: before an item is sent, the store has its number as `sent`. So if the
 *   server has forgotten a producer, only what was sent and isn't acknowledged becomes unknown.
 * - **Pages:** each page holds a lock, named by its producer. A page that gets the lock of another
 *   one adopts its producer: it sends the calls, and then deletes them. Without locks, a producer is
 *   adopted only after a week, when its calls are too old to be sent.
 */
export class KeptOutbox {
  readonly #parts: KeptOutboxParts;
  readonly #stored: StoredProducers;
  /** The producer of this page; another one after it was taken over or forgotten. */
  own: Producer;
  /** The producers of earlier pages that have items, the oldest first. */
  readonly #earlier: Producer[] = [];
  /** Resolves when the items of earlier pages are read. */
  readonly opened: Promise<void>;
  /** The locks of the producers that this page sends. */
  readonly #locks = new Map<string, LockHeld>();
  /** The ids of producers whose locks other pages have. */
  readonly #awaited = new Set<string>();
  readonly #stop = new AbortController();
  #scanning: Promise<void> = Promise.resolve();
  #timer: Timer | undefined;
  #isOpen = false;

  constructor(parts: KeptOutboxParts) {
    const { settings: { runtime, maxMessageBytes }, store } = parts;
    this.#parts = parts;
    this.own = new Producer({ id: this.#newName(), since: runtime.now() });
    const locked = this.#lock(this.own);
    this.#stored = new StoredProducers({
      ...{ runtime, store, maxMessageBytes, locked },
      drop: (drop) => this.drop(drop),
    });
    this.opened = this.#open();
  }

  /** The producer whose items are sent next; `undefined` if nothing waits. */
  get due(): Producer | undefined {
    return this.#earlier[0] ?? (this.own.items.length > 0 ? this.own : undefined);
  }

  /** Adds a message. */
  send(message: EncodedMessage): void {
    this.#add("message", message);
  }

  /**
   * Adds a publication.
   *
   * @returns Resolves once the server has published it.
   */
  async publish(
    message: EncodedMessage,
    { except, ...wait }: KeptPublishOptions,
  ): Promise<void> {
    await this.#ask("publication", message, { ...wait, isQuiet: except !== undefined });
  }

  /** Adds a request. Resolves with the reply. */
  request(message: EncodedMessage, wait: WaitOptions): Promise<unknown> {
    return this.#ask("request", message, wait);
  }

  /** True if all items of earlier pages, and this page's items up to a number, are settled. */
  isSettled(seq: number): boolean {
    const first = this.own.items[0]?.seq ?? Infinity;
    return this.#isOpen && this.#earlier.length === 0 && first > seq;
  }

  /** Waits until a scan has ended, and all changes are written, or can't be. */
  async written(): Promise<void> {
    await this.opened;
    await this.#scanning;
    await this.#stored.written();
  }

  /** Waits until what waits now is written. Returns false if the store doesn't have it. */
  async stored(): Promise<boolean> {
    await this.opened;
    const items = [...this.#earlier, this.own].flatMap(({ items }) => items);
    await this.#stored.written();
    return items.every(({ isStored, isRemoved }) => isStored || isRemoved);
  }

  /** The durability of the newest batch in the store. */
  get durability(): StoredProducers["durability"] {
    return this.#stored.durability;
  }

  /** Marks an item, and some after it, as sent. Resolves when the store knows, or has failed. */
  async mark(producer: Producer, { seq }: KeptItem): Promise<void> {
    const { items } = producer;
    const last = Math.min(producer.indexAfter(seq) + MARKED_AT_ONCE - 1, items.length) - 1;
    producer.sent = items[last]!.seq;
    this.#stored.change(producer);
    await this.#stored.written();
  }

  /** Removes what the server has handled: everything that has no reply. */
  handled(producer: Producer, n: number): void {
    if (n <= producer.acked) return;
    producer.acked = n;
    producer.sent = Math.max(producer.sent, n);
    const handled = producer.items.slice(0, producer.indexAfter(n));
    for (const item of handled) if (item.kind === "message") this.#remove(producer, item);
    this.#stored.change(producer);
  }

  /** Settles an item with the server's reply. */
  replied(producer: Producer, item: KeptItem, data: unknown): void {
    if (this.#remove(producer, item)) item.reply?.resolve(data);
  }

  /** Settles an item that failed: rejects its promise or, without one, calls `onDropped`. */
  failed(producer: Producer, item: KeptItem, error: unknown): void {
    if (!this.#remove(producer, item)) return;
    if (item.reply !== undefined) return item.reply.reject(error);
    if (!(error instanceof RequestError)) return this.#dropItem(item, "rejected");
    const { code } = error.failure;
    const isTold = code === "unknown" || code === "unanswered";
    this.#dropItem(item, isTold ? code : "rejected", error);
  }

  /**
   * Settles what was sent to a server that has forgotten the producer. The rest gets another name,
   * under which it has never been sent. The store has the name before the first item is sent,
   * because the item is then marked.
   */
  forgotten(producer: Producer): void {
    const sent = producer.items.slice(0, producer.indexAfter(producer.sent));
    for (const item of sent) this.failed(producer, item, unknownOutcome(item));
    Object.assign(producer, { name: this.#newName(), epoch: 0, acked: 0, sent: 0 });
    this.#stored.change(producer);
  }

  /**
   * Gives up a producer that another client has taken over, which has a copy of the store: what it
   * may have sent is unknown. Calls that were never stored are sent by the page's next producer.
   */
  fenced(producer: Producer): void {
    const isOwn = producer === this.own;
    const moved: KeptItem[] = [];
    for (const item of [...producer.items]) {
      if (!isOwn || item.isStored || item.seq <= producer.sent) {
        this.failed(producer, item, unknownOutcome(item));
      } else if (this.#remove(producer, item)) moved.push(item);
    }
    if (!isOwn) return;
    this.#renew();
    for (const item of moved) this.#add(item.kind, item, item);
  }

  /**
   * Empties the outbox of the user in all pages, and the store. What a session has sent before may
   * still be handled. Returns false if the store can't be emptied.
   */
  async forget(): Promise<boolean> {
    await this.opened;
    const { store } = this.#parts;
    if (!store.isExclusive) {
      // A page that is open loses its lock, and so learns of it. This one keeps the lock: otherwise,
      // a third page would adopt what the second one writes in this moment.
      for (const id of await this.#stored.ids()) {
        const lock = this.#locks.has(id) ? undefined : await stealLock(lockOf(id));
        if (lock !== undefined) this.#hold(id, lock);
      }
      await pause(this.#parts.settings.runtime, FORGET_MS);
    }
    const producers = [...this.#earlier, this.own];
    const ids = producers.map((producer) => this.#forgetOne(producer));
    this.#earlier.length = 0;
    this.#renew();
    await this.#stored.written();
    const isEmpty = await this.#stored.eraseOthers(this.own);
    for (const id of ids) this.#release(id);
    return isEmpty;
  }

  /** Drops what is too old for the server to recognize it. */
  expire(producer: Producer): void {
    const now = this.#parts.settings.runtime.now();
    for (const item of [...producer.items]) {
      // The clock may have been set back since the call.
      if (now - item.calledAt <= MAX_AGE_MS) continue;
      if (item.seq <= producer.sent) this.failed(producer, item, unknownOutcome(item));
      else if (this.#remove(producer, item)) {
        item.reply?.reject(new RequestError("expired", `${nameOf(item)} was not sent for a week`));
        if (item.reply === undefined) this.#dropItem(item, "expired");
      }
    }
  }

  /** Tells the application that something is no longer kept. */
  drop(drop: OutboxDrop): void {
    const { settings, onDropped } = this.#parts;
    if (onDropped === undefined) {
      const { kind = "item", topic, reason } = drop;
      const on = topic === undefined ? "" : ` on "${topic}"`;
      const line =
        `A ${kind}${on} in the store was dropped: ${reason}; outbox.onDropped receives each`;
      return settings.console.tell("outbox-dropped", line, { about: reason });
    }
    attempt(() => onDropped(drop), (error) => report(settings, error));
  }

  /** Ends with the client. What waits stays in the store, but its promises reject. */
  end(error: SessionClosedError): void {
    this.#stop.abort();
    this.#parts.settings.runtime.clearTimeout(this.#timer);
    for (const { reply } of this.own.items) reply?.reject(error);
  }

  /** Lets other pages send what this one has left. */
  release(): void {
    for (const id of [...this.#locks.keys()]) this.#release(id);
  }

  #newName(): string {
    return randomName(this.#parts.settings.runtime.getRandomValues(new Uint8Array(16)));
  }

  #add(
    kind: KeptItem["kind"],
    message: EncodedMessage,
    { isQuiet = false, reply }: Partial<Pick<KeptItem, "isQuiet" | "reply">> = {},
  ): KeptItem {
    const { outbox, settings: { runtime } } = this.#parts;
    outbox.reserve(message.size, VERBS[kind]);
    const seq = this.own.last + 1;
    const item = { ...message, kind, seq, calledAt: runtime.now(), isQuiet, reply };
    this.own.add(item);
    this.#stored.change(this.own);
    outbox.notify();
    return item;
  }

  async #ask(
    kind: "publication" | "request",
    message: EncodedMessage,
    { isQuiet = false, ...wait }: WaitOptions & { readonly isQuiet?: boolean },
  ): Promise<unknown> {
    wait.signal?.throwIfAborted();
    const reply = Promise.withResolvers<unknown>();
    reply.promise.catch(() => {}); // The caller may have stopped waiting.
    const item = this.#add(kind, message, { isQuiet, reply });
    const { runtime } = this.#parts.settings;
    try {
      return await waitFor(runtime, reply.promise, {
        ...wait,
        what: `reply to ${nameOf(item)}`,
      });
    } catch (error) {
      // A call is not sent after its caller has stopped waiting, unless its client was closed.
      if (!item.isSent && !this.#stop.signal.aborted) this.#remove(this.own, item);
      throw error;
    }
  }

  #remove(producer: Producer, item: KeptItem): boolean {
    if (!producer.remove(item)) return false;
    this.#stored.remove(producer, item);
    if (producer.items.length === 0 && producer !== this.own) {
      this.#earlier.splice(this.#earlier.indexOf(producer), 1);
      void this.#stored.written().then(() => this.#release(producer.id));
    }
    this.#parts.outbox.release(item.size);
    return true;
  }

  #dropItem(item: KeptItem, reason: DropReason, error?: RequestError): void {
    const { kind, topic, calledAt } = item;
    this.drop({ kind, topic, reason, data: dataOf(item), calledAt, error });
  }

  async #open(): Promise<void> {
    await this.#scan();
    this.#isOpen = true;
    this.#parts.outbox.notify();
    this.#scanLater();
  }

  #scanLater(): void {
    const { settings: { runtime }, store } = this.#parts;
    if (store.isExclusive || !hasLocks() || this.#stop.signal.aborted) return;
    this.#timer = runtime.setTimeout(async () => {
      await discardCachedPages();
      if (this.#stop.signal.aborted) return;
      await this.#scan();
      this.#scanLater();
    }, SCAN_MS);
  }

  /** Adopts the producers of pages that are closed, one scan after another. */
  #scan(free?: string): Promise<void> {
    const scan = async () => {
      const isFree = async (id: string, producer: Producer | undefined) =>
        id === free || await this.#isFree(id, producer);
      await this.#adopt(await this.#stored.load(isFree));
    };
    return this.#scanning = this.#scanning.then(scan);
  }

  /** Takes the lock of a producer. Returns false if a page has it. */
  async #isFree(id: string, producer: Producer | undefined): Promise<boolean> {
    const { settings: { runtime }, store } = this.#parts;
    if (id === this.own.id || this.#locks.has(id) || this.#awaited.has(id)) return false;
    if (store.isExclusive) return !this.#earlier.some((earlier) => earlier.id === id);
    if (!hasLocks()) return producer !== undefined && runtime.now() - producer.since > MAX_AGE_MS;
    const lock = await holdLock(lockOf(id));
    if (lock !== undefined) this.#hold(id, lock);
    else void this.#await(id);
    return lock !== undefined;
  }

  /** Adopts a producer once its page is closed. */
  async #await(id: string): Promise<void> {
    this.#awaited.add(id);
    const lock = await holdLock(lockOf(id), this.#stop.signal);
    this.#awaited.delete(id);
    if (lock === undefined) return;
    if (this.#stop.signal.aborted) return lock.release();
    this.#hold(id, lock);
    await this.#scan(id);
    if (!this.#earlier.some((earlier) => earlier.id === id)) this.#release(id);
  }

  async #adopt(found: readonly Producer[]): Promise<void> {
    // Each attempt has an epoch of its own, so that the server ends those before it.
    for (const producer of found) producer.epoch++;
    this.#count(found);
    const due = found.filter(({ items }) => items.length > 0);
    // The order of the pages stays the same if the clock was set back between them.
    if (!this.#isOpen) {
      this.own.since = Math.max(this.own.since, ...found.map(({ since }) => since + 1));
    }
    for (const producer of [...due, this.own]) this.#stored.change(producer);
    if (!this.#isOpen) this.#stored.begin();
    await this.#stored.written();
    this.#earlier.push(...due.filter(({ items }) => items.length > 0));
    this.#earlier.sort((a, b) => a.since - b.since);
    for (const { id, items } of found) if (items.length === 0) this.#release(id);
    if (due.length > 0) this.#parts.outbox.notify();
  }

  /** Takes the lock of a new producer, so that no other page adopts it. */
  async #lock({ id }: Producer): Promise<void> {
    if (this.#parts.store.isExclusive) return;
    const lock = await holdLock(lockOf(id));
    if (lock !== undefined) this.#hold(id, lock);
  }

  #hold(id: string, lock: LockHeld): void {
    this.#locks.set(id, lock);
    void lock.stolen?.then(() => this.#forgotten(id));
  }

  #release(id: string): void {
    this.#locks.get(id)?.release();
    this.#locks.delete(id);
  }

  /** Forgets a producer whose lock is lost, because another page forgets everything. */
  async #forgotten(id: string): Promise<void> {
    const producer = [...this.#earlier, this.own].find((one) => one.id === id);
    if (!this.#locks.delete(id) || producer === undefined) return;
    this.#forgetOne(producer);
    if (producer === this.own) this.#renew();
    else this.#earlier.splice(this.#earlier.indexOf(producer), 1);
    // A batch may be on its way that the other page's deletion doesn't include.
    await this.#stored.written();
    await this.#stored.erase([id]);
  }

  #forgetOne(producer: Producer): string {
    for (const item of producer.items) {
      item.isRemoved = true;
      this.#parts.outbox.release(item.size);
      const what = nameOf(item);
      item.reply?.reject(
        new RequestError("cancelled", `forget() was called before ${what} was settled`),
      );
    }
    producer.items.length = 0;
    this.#stored.abandon(producer);
    return producer.id;
  }

  /** Gives the page another producer. */
  #renew(): void {
    const { outbox, settings: { runtime } } = this.#parts;
    this.own = new Producer({ id: this.#newName(), since: runtime.now() });
    this.#stored.lockedBy(this.#lock(this.own));
    outbox.notify();
  }

  /** Counts the items of earlier pages, and drops the oldest if there are too many. */
  #count(producers: readonly Producer[]): void {
    for (const producer of producers.toReversed()) {
      for (const item of producer.items.toReversed()) {
        try {
          this.#parts.outbox.reserve(item.size, VERBS[item.kind]);
        } catch {
          producer.remove(item);
          this.#stored.remove(producer, item);
          this.#dropItem(item, "full");
        }
      }
    }
  }
}

/** The name of the lock of a producer. */
function lockOf(id: string): string {
  return `skein:producer:${id}`;
}

const VERBS = { message: "send", publication: "publish", request: "request" } as const;

/** Names an item, for the text of an error. */
export function nameOf({ kind, topic }: KeptItem): string {
  return `the ${kind} on "${topic}"`;
}

/** The failure of an item that was sent and whose outcome can't be told any more. */
function unknownOutcome(item: KeptItem): RequestError {
  return new RequestError(
    "unknown",
    `Cannot tell whether ${nameOf(item)} was handled`,
  );
}
