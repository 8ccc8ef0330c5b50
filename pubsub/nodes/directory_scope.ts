/** A scope of a directory: the entries of this node, and copies of those of other nodes. */
import { UnsupportedError } from "../../errors.ts";
import { type Delta, encodeDelta, type Page, paged, parseDelta } from "./directory_message.ts";
import { RemoteEntries } from "./remote_entries.ts";
import type { BrokerSubscription } from "../broker.ts";
import type { Nodes } from "./nodes.ts";
import type { DirectoryEntry, DirectoryListener, DirectoryScope } from "./directory_types.ts";

/** Size of a page and of a change, in characters of JSON. */
const PAGE_CHARS = 60_000;

/** Longest time for which a change may be under way, in milliseconds. */
const UNDER_WAY_MS = 1_000;

/** Most changes for which the time of publishing is remembered. */
const MAX_RECENT = 32;

/** Time for a node to answer before the next request to that node, in milliseconds. */
const ASK_AGAIN_MS = 1_000;

/** The part of a directory that its scopes use. */
export interface ScopeHost<T> {
  readonly nodes: Nodes;
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
  /** Keys that changed since the last change was published. */
  readonly #changed = new Set<string>();
  /** Node to the time of the last request for missed changes. */
  readonly #askedAt = new Map<string, number>();
  /** Number of a change to the time at which the next change was published. */
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
    this.#subscription = host.nodes.broker.subscribe(
      topic,
      ({ payload }) => this.#receive(payload),
    );
  }

  /** Resolves when changes at other nodes arrive here. */
  get subscribed(): Promise<void> {
    return this.#subscription.ready;
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

  /** Returns the number of the last change that is known of a node. */
  readonly known = (node: string): number => this.#remote.get(node)?.n ?? 0;

  settle(): void {
    if (this.isReady) return;
    this.isReady = true;
    this.#settled.resolve();
  }

  end(): void {
    this.#isEnded = true;
    this.settle();
    this.#remote.clear();
    void this.#subscription[Symbol.asyncDispose]();
  }

  /** Publishes the changes since the last time. */
  publish(): void {
    if (this.#changed.size === 0) return;
    const { nodes } = this.#host;
    const keys = [...this.#changed];
    this.#changed.clear();
    // No other node listens, and a node that joins asks for all entries.
    if (nodes.isReady && nodes.size === 0) {
      this.#n = this.#host.nextVersion();
      return;
    }
    const all = keys.map((key) => [key, this.#own.get(key)] as const);
    for (const page of paged(all, PAGE_CHARS)) {
      const set = page.filter(([, value]) => value !== undefined);
      const del = page.flatMap(([key, value]) => value === undefined ? [key] : []);
      this.#tell({ set, del, isLast: false });
    }
  }

  /** Publishes that this node has closed the scope. */
  publishLast(): void {
    if (this.#n > 0) this.#tell({ set: [], del: [], isLast: true });
  }

  /** Yields the pages for a node that knows this one up to change `n`; no page if `n` is the last. */
  *pagesFor(n: number, isSure: boolean): Generator<Page> {
    if (isSure) this.publish();
    if (n === this.#n || !isSure && this.#isUnderWay(n)) return;
    const pages = [...paged(this.#own, PAGE_CHARS)];
    for (const [page, entries] of pages.entries()) {
      yield { scope: this.name, n: this.#n, page, pages: pages.length, entries };
    }
  }

  takePage(page: Page, from: string): void {
    if (page.pages === 0) {
      // The node has not opened the scope: its entries are gone.
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
    this.#askedAt.delete(node);
    remote?.clear();
  }

  #receive(payload: string | Uint8Array): void {
    const delta = parseDelta(payload);
    const { nodes } = this.#host;
    if (delta?.node === nodes.id) return;
    // A node not yet known to be alive is asked for all entries when it joins.
    if (delta === undefined || !nodes.has(delta.node)) return this.#host.ignore();
    const { node, isLast, n } = delta;
    if (isLast) {
      if (n > this.known(node)) this.#forget(node);
    } else if (!this.#remoteOf(node).take(delta)) this.#suspect(node);
  }

  #remoteOf(node: string): RemoteEntries {
    let remote = this.#remote.get(node);
    if (remote === undefined) {
      remote = new RemoteEntries((key, raw) => {
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

  /** Tells whether the change after `n` was published a moment ago, and may still be under way. */
  #isUnderWay(n: number): boolean {
    const at = this.#recent.get(n);
    return n > 0 && at !== undefined &&
      Math.abs(this.#host.nodes.runtime.now() - at) < UNDER_WAY_MS;
  }

  /** Asks a node for missed changes, but not again while an answer may be under way. */
  #suspect(node: string): void {
    const now = this.#host.nodes.runtime.now();
    if (!this.isReady || Math.abs(now - (this.#askedAt.get(node) ?? -Infinity)) < ASK_AGAIN_MS) {
      return;
    }
    this.#askedAt.set(node, now);
    this.#host.suspect(this.name, node);
  }
}
