/** A scope of a directory: this node's entries, and copies of other nodes' entries. */
import { UnsupportedError } from "../../errors.ts";
import {
  type Delta,
  type DirectoryPage,
  encodeDelta,
  type Entries,
  paged,
  parseDelta,
} from "./messages.ts";
import type { BrokerSubscription } from "../broker.ts";
import type { Nodes } from "./nodes.ts";

/**
 * Maximum number of changes that are kept while an earlier change is missing. Beyond that, pages
 * replace them.
 */
const MAX_LATE = 256;

/** Maximum number of entries of one other node in one scope; further entries are left out. */
export const MAX_ENTRIES = 100_000;

/**
 * Maximum number of entries of all other nodes together in one scope, about 200 MB of users;
 * further entries are left out.
 */
export const MAX_ALL_ENTRIES = 1_000_000;

/** Part of the bounds that must be free before entries that were left out are requested again. */
const FREE_PART = 0.1;

/** Bounds of the copies of other nodes' entries in one scope. */
export interface EntryBounds {
  /** Maximum number of entries of one node. */
  readonly each: number;
  /** Maximum number of entries of all other nodes together. */
  readonly all: number;
}

/** The number of entries of all other nodes in one scope. */
interface AllEntries {
  readonly bounds: EntryBounds;
  count: number;
}

/** The pages received so far of a sequence of pages from a node. */
interface Pages {
  readonly n: number;
  readonly entries: (readonly [key: string, value: unknown])[];
  /** Index of the next expected page. */
  next: number;
}

/** Receives each change; `value` is `undefined` if the entry was deleted. */
type EntryListener = (key: string, value: unknown) => void;

/** The entries of one node in one scope. */
class RemoteEntries {
  readonly entries: Map<string, unknown> = new Map();
  /** Number of the last change that this copy includes; 0 for an empty copy. */
  n = 0;
  /** True if entries were left out, because there were too many. */
  isCut = false;
  readonly #tell: EntryListener;
  readonly #all: AllEntries;
  readonly #late = new Map<number, Delta>();
  #pages: Pages | undefined;

  constructor(all: AllEntries, tell: EntryListener) {
    this.#all = all;
    this.#tell = tell;
  }

  /** True while changes or pages are missing. */
  get isMissing(): boolean {
    return this.#late.size > 0 || this.#pages !== undefined;
  }

  /** True if entries were left out, and there is room for them now. */
  get hasRoomAgain(): boolean {
    if (!this.isCut) return false;
    const { bounds, count } = this.#all;
    const part = 1 - FREE_PART;
    return this.entries.size <= bounds.each * part && count <= bounds.all * part;
  }

  /**
   * Applies a change, or keeps it until the changes before it have arrived.
   *
   * @returns False if an earlier change is missing and pages have to be requested.
   */
  take(delta: Delta): boolean {
    if (delta.n <= this.n) return true;
    if (delta.prev === 0) this.#replace(delta.n, delta.set);
    else if (delta.prev === this.n) this.#apply(delta);
    else {
      if (this.#late.size < MAX_LATE) this.#late.set(delta.prev, delta);
      return false;
    }
    return this.#takeLate();
  }

  /**
   * Receives one page of the node's entries. Once the last page has arrived, the pages replace the
   * copy.
   *
   * @returns False if a page or a change is missing and pages have to be requested.
   */
  takePage({ n, page, pages, entries }: DirectoryPage): boolean {
    if (n < this.n) return true;
    if (page === 0) this.#pages = { n, entries: [], next: 0 };
    const collected = this.#pages;
    if (collected === undefined || collected.n !== n || collected.next !== page) {
      this.#pages = undefined;
      return false;
    }
    collected.next++;
    for (const entry of entries) {
      // One entry too many shows that some are left out.
      if (collected.entries.length <= this.#all.bounds.each) collected.entries.push(entry);
    }
    if (collected.next < pages) return true;
    this.#pages = undefined;
    this.#replace(n, collected.entries);
    return this.#takeLate();
  }

  /** Deletes all entries, and reports each to the listener. */
  clear(): void {
    const keys = [...this.entries.keys()];
    this.#all.count -= keys.length;
    this.entries.clear();
    for (const key of keys) this.#tell(key, undefined);
  }

  #replace(n: number, entries: Entries): void {
    this.n = n;
    this.isCut = false;
    const gone = new Set(this.entries.keys());
    for (const [key, value] of entries) {
      gone.delete(key);
      this.#set(key, value);
    }
    for (const key of gone) this.#delete(key);
  }

  #apply({ n, set, del }: Delta): void {
    this.n = n;
    for (const [key, value] of set) this.#set(key, value);
    for (const key of del) this.#delete(key);
  }

  /** Applies the kept changes that follow the copy, and drops those that it includes. */
  #takeLate(): boolean {
    for (let next = this.#late.get(this.n); next; next = this.#late.get(this.n)) {
      this.#late.delete(this.n);
      this.#apply(next);
    }
    for (const [prev, { n }] of this.#late) if (n <= this.n) this.#late.delete(prev);
    return this.#late.size === 0;
  }

  #set(key: string, value: unknown): void {
    const known = this.entries.get(key);
    if (known === undefined) {
      const { bounds, count } = this.#all;
      if (this.entries.size >= bounds.each || count >= bounds.all) {
        this.isCut = true;
        return;
      }
      this.#all.count++;
    } else if (JSON.stringify(known) === JSON.stringify(value)) return;
    this.entries.set(key, value);
    this.#tell(key, value);
  }

  #delete(key: string): void {
    if (!this.entries.delete(key)) return;
    this.#all.count--;
    this.#tell(key, undefined);
  }
}

/** A change in a scope, made at another node. */
export interface DirectoryChange<T> {
  /** Id of the node. */
  readonly node: string;
  /** Key of the entry. */
  readonly key: string;
  /** New value of the entry; `undefined` if the entry was deleted. */
  readonly value: T | undefined;
  /** True if the entry was deleted because the node is gone. */
  readonly isSwept: boolean;
}

/** An entry of a scope. */
export interface DirectoryEntry<T> {
  /** Id of the node that set the entry, which may be this node. */
  readonly node: string;
  /** Key of the entry. */
  readonly key: string;
  /** Value of the entry. */
  readonly value: T;
}

/** Receives the changes of a scope. MUST NOT throw. */
export type DirectoryListener<T> = (change: DirectoryChange<T>) => void;

/**
 * A scope that this node has open. The node can set entries, and sees those of all other nodes.
 *
 * @typeParam T The type of the values.
 */
export interface DirectoryScope<T> extends Disposable {
  /** Name of the scope. */
  readonly name: string;
  /**
   * Resolves when all nodes that were alive have sent their entries, or after `openMs`. Never
   * rejects.
   */
  readonly ready: Promise<void>;
  /** True when {@linkcode DirectoryScope.ready} has resolved. */
  readonly isReady: boolean;
  /**
   * True if `entries` includes all entries of all live nodes, except changes in flight. False until
   * every node has replied, after messages were missed, while the broker is unreachable, and if
   * entries were left out because of a bound.
   */
  readonly isComplete: boolean;
  /**
   * Sets an entry of this node.
   *
   * @param value Any value that JSON can hold, except `undefined`.
   */
  set(key: string, value: T): void;
  /** Deletes an entry of this node. Idempotent. */
  delete(key: string): void;
  /** Lists the entries of all nodes, starting with this node's. */
  entries(): IterableIterator<DirectoryEntry<T>>;
  /** Closes the scope: deletes this node's entries, and no longer calls the listener. */
  [Symbol.dispose](): void;
}

/** Maximum time for which a change may be in flight, in milliseconds. */
const UNDER_WAY_MS = 1_000;

/** Maximum number of changes whose publishing time is remembered. */
const MAX_RECENT = 32;

/** Time for a node to reply before the next request to it, in milliseconds. */
const ASK_AGAIN_MS = 1_000;

/** The part of a directory that its scopes use. */
export interface ScopeHost<T> {
  readonly nodes: Nodes;
  readonly bounds: EntryBounds;
  read(value: unknown): T | undefined;
  nextVersion(): number;
  touch(scope: OpenScope<T>): void;
  suspect(scope: string, node: string): void;
  close(scope: OpenScope<T>): void;
  ignore(): void;
}

/** Implements {@linkcode DirectoryScope}. */
export class OpenScope<T> implements DirectoryScope<T> {
  readonly name: string;
  readonly ready: Promise<void>;
  isReady = false;
  readonly #topic: string;
  readonly #listener: DirectoryListener<T>;
  readonly #host: ScopeHost<T>;
  readonly #subscription: BrokerSubscription;
  readonly #own = new Map<string, T>();
  readonly #remote = new Map<string, RemoteEntries>();
  readonly #all: AllEntries;
  /** The nodes from which no entry or change is missing. */
  readonly #whole = new Set<string>();
  readonly #changed = new Set<string>();
  /** Maps each node to the time of the last request for missed changes. */
  readonly #askedAt = new Map<string, number>();
  /** Maps the number of each change to the time at which the next change was published. */
  readonly #recent = new Map<number, number>();
  readonly #settled = Promise.withResolvers<void>();
  #n = 0;
  #isSweeping = false;
  #isEnded = false;

  constructor(name: string, topic: string, listener: DirectoryListener<T>, host: ScopeHost<T>) {
    this.name = name;
    this.ready = this.#settled.promise;
    this.#topic = topic;
    this.#listener = listener;
    this.#host = host;
    this.#all = { bounds: host.bounds, count: 0 };
    this.#subscription = host.nodes.broker.subscribe(
      topic,
      ({ payload }) => this.#receive(payload),
    );
  }

  /** Resolves when changes of other nodes arrive here. */
  get subscribed(): Promise<void> {
    return this.#subscription.ready;
  }

  get isComplete(): boolean {
    const { nodes } = this.#host;
    return nodes.isReady && nodes.isReached &&
      nodes.others().every(({ id }) => this.#whole.has(id) && !this.#remote.get(id)?.isCut);
  }

  set(key: string, value: T): void {
    if (this.#isEnded) return;
    this.#own.set(key, value);
    this.#changed.add(key);
    this.#host.touch(this);
  }

  delete(key: string): void {
    if (this.#isEnded || !this.#own.delete(key)) return;
    this.#changed.add(key);
    this.#host.touch(this);
  }

  *entries(): IterableIterator<DirectoryEntry<T>> {
    for (const [key, value] of this.#own) yield { node: this.#host.nodes.id, key, value };
    for (const [node, { entries }] of this.#remote) {
      for (const [key, raw] of entries) {
        const value = this.#host.read(raw);
        if (value !== undefined) yield { node, key, value };
      }
    }
  }

  [Symbol.dispose](): void {
    this.#host.close(this);
  }

  /**
   * Returns the number of a node's last known change; 0 if all its entries are needed, because some
   * were left out and there is room for them now.
   */
  readonly known = (node: string): number => {
    const remote = this.#remote.get(node);
    return remote === undefined || remote.hasRoomAgain ? 0 : remote.n;
  };

  /** Records that a node has sent everything that it was asked for. */
  tookAll(node: string): void {
    if (this.#remote.get(node)?.isMissing) this.#suspect(node);
    else this.#whole.add(node);
  }

  /** Records that messages of all nodes may have been missed. */
  doubt(): void {
    this.#whole.clear();
  }

  settle(): void {
    if (this.isReady) return;
    this.isReady = true;
    this.#settled.resolve();
  }

  end(): void {
    this.#isEnded = true;
    this.settle();
    this.#remote.clear();
    this.#whole.clear();
    void this.#subscription[Symbol.asyncDispose]();
  }

  publish(): void {
    if (this.#changed.size === 0) return;
    const { nodes } = this.#host;
    const keys = [...this.#changed];
    this.#changed.clear();
    // No other node is listening, and a node that joins requests all entries.
    if (nodes.isReady && nodes.size === 0) {
      this.#n = this.#host.nextVersion();
      return;
    }
    const all = keys.map((key) => [key, this.#own.get(key)] as const);
    for (const page of paged(all)) {
      const set = page.filter(([, value]) => value !== undefined);
      const del = page.flatMap(([key, value]) => value === undefined ? [key] : []);
      this.#tell({ set, del, isLast: false });
    }
  }

  /** Publishes that this node has closed the scope. */
  publishLast(): void {
    if (this.#n > 0) this.#tell({ set: [], del: [], isLast: true });
  }

  /**
   * Yields the pages for a node that has received this node's changes up to `n`; none if `n` is the
   * last change.
   */
  *pagesFor(n: number, isSure: boolean): Generator<DirectoryPage> {
    if (isSure) this.publish();
    if (n === this.#n || !isSure && this.#isUnderWay(n)) return;
    // A page without a number would be ignored, or the last change could not remove it.
    this.publish();
    if (this.#n === 0) this.#n = this.#host.nextVersion();
    const pages = [...paged(this.#own)];
    for (const [page, entries] of pages.entries()) {
      yield { scope: this.name, n: this.#n, page, pages: pages.length, entries };
    }
  }

  takePage(page: DirectoryPage, from: string): void {
    if (page.pages === 0) {
      // The node has not opened the scope, so its entries are gone.
      if (page.n >= this.known(from)) this.#forget(from);
    } else if (!this.#remoteOf(from).takePage(page)) this.#suspect(from);
  }

  sweep(node: string): void {
    this.#isSweeping = true;
    this.#forget(node);
    this.#isSweeping = false;
  }

  #forget(node: string): void {
    const remote = this.#remote.get(node);
    this.#remote.delete(node);
    this.#whole.delete(node);
    this.#askedAt.delete(node);
    remote?.clear();
  }

  #receive(payload: string | Uint8Array): void {
    const delta = parseDelta(payload);
    const { nodes } = this.#host;
    if (delta?.node === nodes.id) return;
    // All entries of a node are requested when it joins, so changes before that are ignored.
    if (delta === undefined || !nodes.has(delta.node)) return this.#host.ignore();
    const { node, isLast, n } = delta;
    if (isLast) {
      if (n > this.known(node)) this.#forget(node);
    } else if (!this.#remoteOf(node).take(delta)) this.#suspect(node);
  }

  #remoteOf(node: string): RemoteEntries {
    let remote = this.#remote.get(node);
    if (remote === undefined) {
      remote = new RemoteEntries(this.#all, (key, raw) => {
        const value = raw === undefined ? undefined : this.#host.read(raw);
        if (raw !== undefined && value === undefined) return this.#host.ignore();
        if (this.#isEnded) return;
        this.#listener({ node, key, value, isSwept: this.#isSweeping });
      });
      this.#remote.set(node, remote);
    }
    return remote;
  }

  #tell(change: Pick<Delta, "set" | "del" | "isLast">): void {
    const { nodes, nextVersion } = this.#host;
    const n = nextVersion();
    const payload = encodeDelta({ node: nodes.id, n, prev: this.#n, ...change });
    this.#recent.set(this.#n, this.#host.nodes.runtime.now());
    if (this.#recent.size > MAX_RECENT) {
      const [oldest] = this.#recent.keys();
      this.#recent.delete(oldest!);
    }
    this.#n = n;
    try {
      nodes.broker.publish({ topic: this.#topic, payload });
    } catch (error) {
      // The broker may be closed before its directories.
      if (!(error instanceof UnsupportedError)) throw error;
    }
  }

  /** True if the change after `n` was published a moment ago, and may still be in flight. */
  #isUnderWay(n: number): boolean {
    const at = this.#recent.get(n);
    return n > 0 && at !== undefined &&
      Math.abs(this.#host.nodes.runtime.now() - at) < UNDER_WAY_MS;
  }

  /** Requests missed changes from a node, but not again while a reply may be in flight. */
  #suspect(node: string): void {
    this.#whole.delete(node);
    const now = this.#host.nodes.runtime.now();
    if (!this.isReady || Math.abs(now - (this.#askedAt.get(node) ?? -Infinity)) < ASK_AGAIN_MS) {
      return;
    }
    this.#askedAt.set(node, now);
    this.#host.suspect(this.name, node);
  }
}
