/** Entries that nodes set and that all nodes can see: keys and values by scope. */
import { UnsupportedError } from "../../errors.ts";
import { settlesWithin, startTimer } from "../../base/wait.ts";
import type { Timer } from "../../base/runtime.ts";
import { type DirectoryCheck, type DirectoryPage, readCheck, readPage } from "./messages.ts";
import {
  type DirectoryListener,
  type DirectoryScope,
  type EntryBounds,
  MAX_ALL_ENTRIES,
  MAX_ENTRIES,
  OpenScope,
  type ScopeHost,
} from "./directory_scope.ts";
import { INTERNAL_PREFIX } from "../broker.ts";
import type { NodeEvent, Nodes } from "./nodes.ts";

/** Maximum number of scopes in one check. */
const MAX_CHECKED = 200;

/**
 * Maximum rate at which all nodes together compare their scopes after they missed messages, in bytes
 * per second. Without it, each node would compare all scopes with every other one at the same moment.
 */
const SWEEP_BYTES_PER_SECOND = 2_097_152;

/** Bytes of a check, and of a scope in a check in addition to its name, approximately. */
const [CHECK_BYTES, SCOPE_BYTES] = [180, 16] as const;

/** A check of scopes with one node, in parts. */
interface Sweep {
  readonly scopes: readonly string[];
  /** Index of the next scope. */
  readonly next: number;
}

/**
 * Maximum number of checks that wait for replies from nodes. Beyond that, the oldest is dropped.
 */
const MAX_WAITING = 1_000;

interface DirectoryOptions<T> {
  /** The nodes that share the directory. Disposing of the directory does not close the nodes. */
  readonly nodes: Nodes;
  /** Name of the directory. It must be the same on every node, and unique among directories. */
  readonly name: string;
  /** Validates a value from another node; returns `undefined` to ignore a malformed value. */
  readonly read: (value: unknown) => T | undefined;
  /**
   * Time during which changes are gathered before they are published, in milliseconds.
   *
   * @default {50}
   */
  readonly batchMs?: number;
  /**
   * Time between checks, in milliseconds. A check compares this node's copy with one other node.
   *
   * @default {2000}
   */
  readonly checkMs?: number;
  /**
   * Maximum time for which a new scope waits for the other nodes' entries, in milliseconds.
   *
   * @default {1000}
   */
  readonly openMs?: number;
  /**
   * Bounds of the copies of other nodes' entries in one scope.
   *
   * @default {{ each: 100000, all: 1000000 }}
   */
  readonly bounds?: EntryBounds | undefined;
}

interface PendingCheck<T> {
  readonly nodes: Set<string>;
  readonly scopes: readonly OpenScope<T>[];
  /** The scopes that are ready once all these nodes have replied. */
  readonly opening: readonly OpenScope<T>[];
}

/**
 * Keys and values by scope. Each node sets its own, and every node that has the scope open can see
 * them. An entry belongs to the node that set it, and disappears with that node. Two nodes may use
 * the same key.
 *
 * - **Publishing:** changes are gathered for `batchMs`, reduced to their net effect, numbered, and
 *   published to the nodes that have the scope open. Without another node, no change is published.
 * - **Eventual consistency:** a node that misses a number requests all entries, in pages. When
 *   another node joins, and after the broker was unreachable, all scopes are checked, with at most
 *   2 MiB a second of all nodes together. Every `checkMs`, the next node and the next 200 scopes are
 *   checked, to detect whether the last change was lost.
 * - **Gone:** the entries of a node that is gone are deleted immediately.
 * - **Bounds:** a node keeps up to 100,000 entries of each other node per scope, and a million of
 *   all. Further entries are left out until a tenth is free again; meanwhile, the scope's
 *   `isComplete` is false. Pages and changes are at most about 60 kB long.
 *
 * @typeParam T The type of the values.
 *
 * @example List which keys each node has
 * ```ts
 * import { MemoryBroker, Nodes } from "@skein/skein/pubsub";
 * import { Directory } from "./directory.ts";
 * import { assertEquals } from "@std/assert";
 *
 * await using broker = new MemoryBroker();
 * await using one = new Nodes({ broker });
 * await using two = new Nodes({ broker });
 * const read = (value: unknown) => typeof value === "number" ? value : undefined;
 * using rooms1 = new Directory<number>({ nodes: one, name: "rooms", read });
 * using rooms2 = new Directory<number>({ nodes: two, name: "rooms", read });
 * using here = rooms1.open("all");
 * here.set("lobby", 3);
 * using there = rooms2.open("all");
 * await there.ready;
 * assertEquals([...there.entries()], [{ node: one.id, key: "lobby", value: 3 }]);
 * ```
 */
export class Directory<T> implements Disposable {
  readonly #nodes: Nodes;
  readonly #name: string;
  readonly #batchMs: number;
  readonly #openMs: number;
  readonly #host: ScopeHost<T>;
  readonly #scopes = new Map<string, OpenScope<T>>();
  readonly #touched = new Set<OpenScope<T>>();
  readonly #opening = new Set<OpenScope<T>>();
  /** Maps each node to the scopes to request from it with the next batch. */
  readonly #suspects = new Map<string, Set<string>>();
  /** Checks of all scopes, by node; the next node first. At most `MAX_NODES`. */
  readonly #sweeps = new Map<string, Sweep>();
  #sweeper: Timer | undefined;
  /** Bytes that checks of all scopes may have now; negative after the last check was longer. */
  #tokens = 0;
  #tokensAt = -Infinity;
  /** Checks that wait for replies of nodes, by id. */
  readonly #waiting = new Map<number, PendingCheck<T>>();
  readonly #held: Disposable[];
  readonly #checkMs: number;
  #checker: Timer;
  #batch: Timer | undefined;
  #version = 0;
  #lastCheck = 0;
  /** The next check: index of the node, and of the first scope. */
  #turn = { node: 0, scope: 0 };
  #ignored = 0;
  #isDisposed = false;

  /**
   * @param options See {@linkcode DirectoryOptions}.
   * @throws {RangeError} If a time is not a positive integer.
   * @throws {TypeError} If this node already has a directory of this name.
   */
  constructor(options: DirectoryOptions<T>) {
    const { nodes, name, read, batchMs = 50, checkMs = 2_000, openMs = 1_000 } = options;
    const { bounds = { each: MAX_ENTRIES, all: MAX_ALL_ENTRIES } } = options;
    for (const [key, value] of Object.entries({ batchMs, checkMs, openMs })) {
      if (Number.isInteger(value) && value > 0) continue;
      throw new RangeError(
        `Cannot create directory: ${key} must be a positive integer, received ${value}`,
      );
    }
    this.#nodes = nodes;
    this.#name = name;
    this.#batchMs = batchMs;
    this.#checkMs = checkMs;
    this.#openMs = openMs;
    this.#host = {
      nodes,
      bounds,
      read,
      nextVersion: () => ++this.#version,
      touch: (scope) => {
        this.#touched.add(scope);
        this.#schedule();
      },
      suspect: (scope, node) => this.#suspect(scope, node),
      close: (scope) => this.#close(scope),
      ignore: () => void this.#ignored++,
    };
    this.#held = [
      nodes.handle(`${name}:check`, (data, from) => this.#reply(data, from)),
      nodes.handle(`${name}:page`, (data, from) => this.#takePage(data, from)),
      nodes.handle(`${name}:done`, (id, from) => this.#replied(id, from)),
      nodes.subscribe((event) => this.#nodesChanged(event)),
    ];
    this.#checker = this.#startChecker();
  }

  /** Number of open scopes. */
  get size(): number {
    return this.#scopes.size;
  }

  /** Number of messages ignored because they were malformed or the sender was not alive. */
  get ignored(): number {
    return this.#ignored;
  }

  /**
   * Opens a scope.
   *
   * @param name Name of the scope.
   * @param listener Receives the entries that other nodes already have, and then each change.
   * @returns The scope. Dispose of it to close it.
   * @throws {TypeError} If the scope is open already.
   * @throws {UnsupportedError} If the directory is disposed of, or the broker is closed.
   */
  open(name: string, listener: DirectoryListener<T> = () => {}): DirectoryScope<T> {
    if (this.#isDisposed) throw new UnsupportedError("Cannot open: the directory is closed");
    if (this.#scopes.has(name)) {
      throw new TypeError(`Cannot open: the scope "${name}" is open already`);
    }
    const topic = `${INTERNAL_PREFIX}${this.#name}:${name}`;
    const scope = new OpenScope(name, topic, listener, this.#host);
    this.#scopes.set(name, scope);
    if (this.#nodes.isReady && this.#nodes.size === 0) scope.settle();
    else void this.#introduce(scope);
    return scope;
  }

  /**
   * Publishes the gathered changes, and closes all scopes without notifying the other nodes, which
   * keep the entries until this node is gone. Idempotent.
   */
  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#flush();
    this.#isDisposed = true;
    const { runtime } = this.#nodes;
    runtime.clearTimeout(this.#checker);
    runtime.clearTimeout(this.#batch);
    runtime.clearTimeout(this.#sweeper);
    for (const one of this.#held) one[Symbol.dispose]();
    for (const scope of this.#scopes.values()) scope.end();
    for (const held of [this.#scopes, this.#suspects, this.#sweeps, this.#waiting]) held.clear();
    for (const held of [this.#touched, this.#opening]) held.clear();
  }

  /** Requests all entries from the other nodes, as soon as their next changes arrive here. */
  async #introduce(scope: OpenScope<T>): Promise<void> {
    const listening = Promise.all([this.#nodes.ready, scope.subscribed]);
    const { runtime } = this.#nodes;
    const timer = startTimer(runtime, this.#openMs, () => scope.settle());
    await settlesWithin(runtime, Promise.race([listening, scope.ready]), this.#openMs);
    if (!scope.isReady && this.#nodes.size > 0) {
      this.#opening.add(scope);
      this.#schedule();
      await scope.ready;
    }
    runtime.clearTimeout(timer);
    scope.settle();
  }

  #close(scope: OpenScope<T>): void {
    if (!this.#scopes.delete(scope.name)) return;
    this.#touched.delete(scope);
    this.#opening.delete(scope);
    scope.publishLast();
    scope.end();
  }

  #schedule(): void {
    if (this.#isDisposed) return;
    this.#batch ??= this.#nodes.runtime.setTimeout(() => this.#flush(), this.#batchMs);
  }

  #flush(): void {
    this.#nodes.runtime.clearTimeout(this.#batch);
    this.#batch = undefined;
    for (const scope of this.#touched) scope.publish();
    this.#touched.clear();
    if (this.#opening.size > 0) this.#ask(undefined, [...this.#opening]);
    this.#opening.clear();
    for (const [node, names] of this.#suspects) {
      const scopes = Array.from(names, (name) => this.#scopes.get(name));
      this.#ask(node, scopes.filter((scope) => scope !== undefined));
    }
    this.#suspects.clear();
  }

  #suspect(scope: string, node: string): void {
    const names = this.#suspects.get(node) ?? new Set();
    this.#suspects.set(node, names.add(scope));
    this.#schedule();
  }

  /**
   * Requests the entries of scopes that changed since the numbers known on this node, from one node
   * or, for new scopes, from all.
   */
  #ask(node: string | undefined, scopes: readonly OpenScope<T>[], isSure = true): void {
    const asked = node === undefined ? this.#nodes.others().map(({ id }) => id) : [node];
    for (let i = 0; i < scopes.length; i += MAX_CHECKED) {
      const some = scopes.slice(i, i + MAX_CHECKED);
      const id = ++this.#lastCheck;
      // One node's reply does not complete a scope.
      const opening = node === undefined ? some.filter(({ isReady }) => !isReady) : [];
      this.#wait(id, { nodes: new Set(asked), scopes: some, opening });
      const known = some.map(({ name, known }) => [name, node && known(node) || 0] as const);
      const check: DirectoryCheck = { id, scopes: known, isSure };
      this.#nodes.tell(node, `${this.#name}:check`, check);
    }
  }

  /** Checks all scopes with some nodes, as fast as the budget allows. */
  #sweepAll(nodes: Iterable<string>): void {
    const scopes = [...this.#scopes.keys()];
    if (scopes.length === 0) return;
    for (const node of nodes) {
      this.#sweeps.delete(node);
      this.#sweeps.set(node, { scopes, next: 0 });
    }
    this.#sweep();
  }

  #sweep(): void {
    const { runtime, size } = this.#nodes;
    runtime.clearTimeout(this.#sweeper);
    this.#sweeper = undefined;
    const now = runtime.now();
    const perSecond = SWEEP_BYTES_PER_SECOND / (size + 1);
    // The clock may be set back.
    const earned = Math.max(0, now - this.#tokensAt) / 1_000 * perSecond;
    this.#tokens = Math.min(perSecond, this.#tokens + earned);
    this.#tokensAt = now;
    for (const [node, { scopes, next }] of this.#sweeps) {
      if (this.#tokens <= 0) break;
      // The next part waits until all other nodes had a part.
      this.#sweeps.delete(node);
      const end = next + MAX_CHECKED;
      if (end < scopes.length) this.#sweeps.set(node, { scopes, next: end });
      const part = scopes.slice(next, end);
      this.#tokens -= CHECK_BYTES;
      for (const name of part) this.#tokens -= name.length + SCOPE_BYTES;
      const open = part.map((name) => this.#scopes.get(name)).filter((one) => one !== undefined);
      this.#ask(node, open);
    }
    if (this.#sweeps.size === 0) return;
    this.#sweeper = runtime.setTimeout(() => this.#sweep(), this.#batchMs);
  }

  #wait(id: number, check: PendingCheck<T>): void {
    this.#waiting.set(id, check);
    if (this.#waiting.size <= MAX_WAITING) return;
    for (const oldest of this.#waiting.keys()) {
      this.#waiting.delete(oldest);
      return;
    }
  }

  /** Sends the entries that the other node lacks, and then the id of the check. */
  #reply(data: unknown, from: string): void {
    const check = readCheck(data);
    if (check === undefined) return this.#host.ignore();
    for (const [name, n] of check.scopes) {
      const scope = this.#scopes.get(name);
      for (
        const page of scope?.pagesFor(n, check.isSure) ?? pagesOfClosed(name, n, this.#version)
      ) {
        this.#nodes.tell(from, `${this.#name}:page`, page);
      }
    }
    this.#nodes.tell(from, `${this.#name}:done`, check.id);
  }

  #takePage(data: unknown, from: string): void {
    const page = readPage(data);
    if (page === undefined || !this.#nodes.has(from)) return this.#host.ignore();
    this.#scopes.get(page.scope)?.takePage(page, from);
  }

  #replied(id: unknown, from: string): void {
    const check = this.#waiting.get(id as number);
    if (!check?.nodes.delete(from)) return;
    if (this.#nodes.has(from)) { for (const scope of check.scopes) scope.tookAll(from); }
    if (check.nodes.size > 0) return;
    this.#waiting.delete(id as number);
    for (const scope of check.opening) scope.settle();
  }

  #nodesChanged(event: NodeEvent): void {
    if (event.type === "restored") {
      for (const scope of this.#scopes.values()) scope.doubt();
      const opening = [...this.#scopes.values()].filter(({ isReady }) => !isReady);
      this.#ask(undefined, opening);
      this.#sweepAll(this.#nodes.others().map(({ id }) => id));
    } else if (event.type === "join") {
      this.#sweepAll([event.node.id]);
    } else {
      const { id } = event.node;
      this.#suspects.delete(id);
      this.#sweeps.delete(id);
      for (const scope of [...this.#scopes.values()]) scope.sweep(id);
      for (const check of [...this.#waiting.keys()]) this.#replied(check, id);
    }
  }

  #startChecker(): Timer {
    return this.#nodes.runtime.setTimeout(() => {
      this.#checker = this.#startChecker();
      this.#checkNext();
    }, this.#checkMs);
  }

  /** Checks one node, because if the last change was lost, no number is missing. */
  #checkNext(): void {
    const nodes = this.#nodes.others();
    if (nodes.length === 0 || this.#scopes.size === 0) return;
    const scopes = [...this.#scopes.values()];
    if (this.#turn.scope >= scopes.length) {
      this.#turn = { node: this.#turn.node + 1, scope: 0 };
    }
    const { id } = nodes[this.#turn.node % nodes.length]!;
    this.#ask(id, scopes.slice(this.#turn.scope, this.#turn.scope + MAX_CHECKED), false);
    this.#turn.scope += MAX_CHECKED;
  }
}

/**
 * Sends an empty page to a node that still holds entries of a scope that is no longer open here.
 */
function pagesOfClosed(scope: string, known: number, n: number): DirectoryPage[] {
  return known === 0 ? [] : [{ scope, n, page: 0, pages: 0, entries: [] }];
}
