/**
 * What each node has, known to all: keys and values by scope.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { settlesWithin, startTimer } from "../../session/base/wait.ts";
import { type Check, type Page, readCheck, readPage } from "./directory_message.ts";
import { OpenScope, type Works } from "./directory_scope.ts";
import { INTERNAL_PREFIX } from "../broker.ts";
import type { NodeEvent, Nodes } from "./nodes.ts";
import type { DirectoryListener, DirectoryScope } from "./directory_types.ts";

/** Scopes that one check is about. */
const MAX_CHECKED = 200;

/** Checks of scopes that wait for the answers of nodes; past it the first is given up. */
const MAX_WAITING = 1_000;

/** Options for {@linkcode Directory}. */
export interface DirectoryOptions<T> {
  /** The nodes; they are not closed. */
  readonly nodes: Nodes;
  /** What it is about; the same on every node, and no other directory's. */
  readonly name: string;
  /**
   * Reads what another node said: returns `undefined` for what makes no sense, which is left out.
   */
  readonly read: (value: unknown) => T | undefined;
  /**
   * How long changes are gathered before they are told, in milliseconds.
   *
   * @default {50}
   */
  readonly batchMs?: number;
  /**
   * How often one of the nodes is asked whether what is known of it is right, in milliseconds.
   *
   * @default {2000}
   */
  readonly checkMs?: number;
  /**
   * How long a scope that is opened waits for the nodes to say what they have, in milliseconds.
   *
   * @default {1000}
   */
  readonly openMs?: number;
}

interface Waiting<T> {
  readonly nodes: Set<string>;
  readonly scopes: readonly OpenScope<T>[];
}

/**
 * What each node has, known to all that want to know: keys and values by scope. An entry belongs to
 * the node that set it, and is gone with it; two nodes may have the same key.
 *
 * - **Told:** changes are gathered for `batchMs`, net effect only, numbered, and published to the
 *   nodes that have the scope open. Nothing is published while there is no other node.
 * - **Right in the end:** a node that sees a number missing asks for what there is, in pages. So it
 *   does when a node is new, when the engine was away, and with every `checkMs` for one of the nodes
 *   and 200 scopes, by turns, where the very last change was lost.
 * - **Gone:** the entries of a node that is gone are swept at once.
 * - **Bounds:** 100,000 entries of one node in one scope; pages and changes of some 60 KB.
 *
 * @typeParam T The type of the values.
 *
 * @example Which node has what
 * ```ts
 * import { Directory, MemoryBroker, Nodes } from "@skein/skein/pubsub";
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
  readonly #works: Works<T>;
  readonly #scopes = new Map<string, OpenScope<T>>();
  readonly #touched = new Set<OpenScope<T>>();
  readonly #opening = new Set<OpenScope<T>>();
  /** By node, what is to be asked for with the next batch. */
  readonly #suspects = new Map<string, Set<string>>();
  /** Who waits for the answers of which nodes. */
  readonly #waiting = new Map<number, Waiting<T>>();
  readonly #held: Disposable[];
  readonly #checker: ReturnType<typeof setInterval>;
  #batch: ReturnType<typeof setTimeout> | undefined;
  #version = 0;
  #lastCheck = 0;
  /** Where the turns of checks stand: which node, and from which scope on. */
  #turn = { node: 0, scope: 0 };
  #ignored = 0;
  #isDisposed = false;

  /**
   * Creates a directory without open scopes.
   *
   * @param options See {@linkcode DirectoryOptions}.
   * @throws {RangeError} If a time is no positive integer.
   * @throws {TypeError} If there is a directory of this name on this node.
   */
  constructor(options: DirectoryOptions<T>) {
    const { nodes, name, read, batchMs = 50, checkMs = 2_000, openMs = 1_000 } = options;
    for (const [key, value] of Object.entries({ batchMs, checkMs, openMs })) {
      if (Number.isInteger(value) && value > 0) continue;
      throw new RangeError(
        `Cannot create directory: ${key} must be a positive integer, received ${value}`,
      );
    }
    this.#nodes = nodes;
    this.#name = name;
    this.#batchMs = batchMs;
    this.#openMs = openMs;
    this.#works = {
      nodes,
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
      nodes.handle(`${name}:check`, (data, from) => this.#answer(data, from)),
      nodes.handle(`${name}:page`, (data, from) => this.#takePage(data, from)),
      nodes.handle(`${name}:done`, (id, from) => this.#answered(id, from)),
      nodes.subscribe((event) => this.#nodesChanged(event)),
    ];
    this.#checker = setInterval(() => this.#checkNext(), checkMs);
  }

  /** How many scopes are open. */
  get size(): number {
    return this.#scopes.size;
  }

  /** How many messages of other nodes were ignored, because they made no sense or their sender is not alive. */
  get ignored(): number {
    return this.#ignored;
  }

  /**
   * Opens a scope.
   *
   * @param name Its name.
   * @param listener Gets what changes at other nodes, what they have already included.
   * @returns The scope; disposing of it closes it.
   * @throws {TypeError} If it is open already.
   * @throws {UnsupportedError} If the directory is disposed of, or the broker closed.
   */
  open(name: string, listener: DirectoryListener<T> = () => {}): DirectoryScope<T> {
    if (this.#isDisposed) throw new UnsupportedError("Cannot open: the directory is disposed of");
    if (this.#scopes.has(name)) {
      throw new TypeError(`Cannot open: a scope must not be open already, received "${name}"`);
    }
    const topic = `${INTERNAL_PREFIX}${this.#name}:${name}`;
    const scope = new OpenScope(name, topic, listener, this.#works);
    this.#scopes.set(name, scope);
    if (this.#nodes.isReady && this.#nodes.size === 0) scope.settle();
    else void this.#introduce(scope);
    return scope;
  }

  /** Tells what was gathered, and forgets everything; other nodes do when this one is gone. Idempotent. */
  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#flush();
    this.#isDisposed = true;
    clearInterval(this.#checker);
    clearTimeout(this.#batch);
    for (const one of this.#held) one[Symbol.dispose]();
    for (const scope of this.#scopes.values()) scope.end();
    for (const held of [this.#scopes, this.#suspects, this.#waiting]) held.clear();
    for (const held of [this.#touched, this.#opening]) held.clear();
  }

  /** Asks the others what they have, once what they change next will be heard. */
  async #introduce(scope: OpenScope<T>): Promise<void> {
    const heard = Promise.all([this.#nodes.ready, scope.heard]);
    const timer = startTimer(this.#openMs, () => scope.settle());
    await settlesWithin(Promise.race([heard, scope.ready]), this.#openMs);
    if (!scope.isReady && this.#nodes.size > 0) {
      this.#opening.add(scope);
      this.#schedule();
      await scope.ready;
    }
    clearTimeout(timer);
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
    this.#batch ??= setTimeout(() => this.#flush(), this.#batchMs);
  }

  #flush(): void {
    clearTimeout(this.#batch);
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

  /** Asks one node, or all, for what it has in scopes of which other numbers are known here. */
  #ask(node: string | undefined, scopes: readonly OpenScope<T>[], isSure = true): void {
    const asked = node === undefined ? this.#nodes.others().map(({ id }) => id) : [node];
    for (let i = 0; i < scopes.length; i += MAX_CHECKED) {
      const some = scopes.slice(i, i + MAX_CHECKED);
      const id = ++this.#lastCheck;
      const opening = some.filter(({ isReady }) => !isReady);
      if (opening.length > 0) this.#wait(id, { nodes: new Set(asked), scopes: opening });
      for (const to of asked) {
        const known = some.map(({ name, known }) => [name, known(to)] as const);
        const check: Check = { id, scopes: known, isSure };
        this.#nodes.tell(to, `${this.#name}:check`, check);
      }
    }
  }

  #wait(id: number, check: Waiting<T>): void {
    this.#waiting.set(id, check);
    if (this.#waiting.size <= MAX_WAITING) return;
    for (const oldest of this.#waiting.keys()) {
      this.#waiting.delete(oldest);
      return;
    }
  }

  /** Sends what the asker lacks, and then that this was all. */
  #answer(data: unknown, from: string): void {
    const check = readCheck(data);
    if (check === undefined) return this.#works.ignore();
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
    if (page === undefined || !this.#nodes.has(from)) return this.#works.ignore();
    this.#scopes.get(page.scope)?.takePage(page, from);
  }

  #answered(id: unknown, from: string): void {
    const check = this.#waiting.get(id as number);
    if (!check?.nodes.delete(from) || check.nodes.size > 0) return;
    this.#waiting.delete(id as number);
    for (const scope of check.scopes) scope.settle();
  }

  #nodesChanged(event: NodeEvent): void {
    if (event.type === "restored") {
      for (const { id } of this.#nodes.others()) this.#ask(id, [...this.#scopes.values()]);
    } else if (event.type === "join") {
      this.#ask(event.node.id, [...this.#scopes.values()]);
    } else {
      const { id } = event.node;
      this.#suspects.delete(id);
      for (const scope of [...this.#scopes.values()]) scope.sweep(id);
      for (const check of [...this.#waiting.keys()]) this.#answered(check, id);
    }
  }

  /** A last change that was lost has no other to show it. */
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

/** Who knows something of a scope that is not open any more is told that there is nothing. */
function pagesOfClosed(scope: string, known: number, n: number): Page[] {
  return known === 0 ? [] : [{ scope, n, page: 0, pages: 0, entries: [] }];
}
