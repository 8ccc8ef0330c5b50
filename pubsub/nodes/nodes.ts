/**
 * The nodes that share a broker: who is alive, and how they ask one another.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { MAX_TIMER_MS, settlesWithin, startTimer } from "../../session/base/wait.ts";
import { Alive } from "./liveness.ts";
import { type NodeMessage, parseNodeMessage } from "./message.ts";
import {
  type Broker,
  type BrokerSubscription,
  INTERNAL_PREFIX,
  type Publication,
} from "../broker.ts";
import type {
  NodeAnswers,
  NodeAskOptions,
  NodeEvent,
  NodeHandler,
  NodeInfo,
  NodesOptions,
} from "./types.ts";

/** Questions that wait for answers at once. */
const MAX_ASKS = 1_000;

interface Ask {
  /** Nodes that have not answered. */
  readonly waiting: Set<string>;
  readonly answers: { node: string; data: unknown }[];
  isComplete: boolean;
  readonly done: () => void;
}

/** The questions of one node. */
class NodeAsks {
  readonly #asks = new Map<number, Ask>();
  #last = 0;

  /** Asks by `send`, and waits for the answers of these nodes. */
  async ask(
    nodes: Iterable<string>,
    send: (id: number) => void,
    timeoutMs: number,
  ): Promise<NodeAnswers> {
    if (this.#asks.size >= MAX_ASKS) return { answers: [], isComplete: false };
    const { promise, resolve } = Promise.withResolvers<void>();
    const ask: Ask = { waiting: new Set(nodes), answers: [], isComplete: true, done: resolve };
    const id = ++this.#last;
    this.#asks.set(id, ask);
    try {
      send(id);
      const isOver = await settlesWithin(promise, timeoutMs);
      return { answers: ask.answers, isComplete: isOver && ask.isComplete };
    } finally {
      this.#asks.delete(id);
    }
  }

  /** A node answered; without an answer where its handler failed. */
  answered(id: number, node: string, answer: { readonly data: unknown } | undefined): void {
    const ask = this.#asks.get(id);
    if (!ask?.waiting.has(node)) return;
    if (answer === undefined) ask.isComplete = false;
    else ask.answers.push({ node, data: answer.data });
    settle(ask, node);
  }

  /** Who is gone owes no answer: there is nothing of it that the answer could tell of. */
  gone(node: string): void {
    for (const ask of this.#asks.values()) settle(ask, node);
  }

  /** Nobody answers any more. */
  end(): void {
    for (const ask of this.#asks.values()) {
      ask.isComplete = false;
      ask.done();
    }
  }
}

function settle(ask: Ask, node: string): void {
  if (ask.waiting.delete(node) && ask.waiting.size === 0) ask.done();
}

export type { NodeAnswers, NodeAskOptions, NodeEvent, NodeHandler, NodeInfo, NodesOptions };

/** All nodes hear it. */
const ALL = `${INTERNAL_PREFIX}nodes`;

/** One node hears what begins so; its id follows. */
const ONE = `${INTERNAL_PREFIX}node:`;

/** Questions of others that are being answered at once; others are ignored. */
const MAX_ANSWERING = 1_000;

/** How long a node that starts waits for the others to say that they are there, in milliseconds. */
const DISCOVERY_MS = 300;

/**
 * The nodes that share a broker.
 *
 * - **Alive:** each node says every `heartbeatMs` that it is there. One that says nothing for
 *   `goneAfterMs` is gone: it is declared so within that time, and not more than half a heartbeat
 *   before it. One that closes says farewell, and is gone at once.
 * - **Outages:** while the engine is away, or does not even bring what this node said itself, nobody
 *   is declared gone; when it is back, or this process was suspended, everybody has the whole time again.
 * - **Asking:** a question goes to all nodes that are alive, and is over when all answered or the
 *   time is.
 * - **Bounds:** 1,000 nodes, and 1,000 questions at once each way. What makes no sense is ignored and
 *   counted, and so is what is too much.
 *
 * @example Two nodes
 * ```ts
 * import { MemoryBroker, Nodes } from "@skein/skein/pubsub";
 * import { assertEquals } from "@std/assert";
 *
 * await using broker = new MemoryBroker();
 * await using one = new Nodes({ broker, name: "one" });
 * await using two = new Nodes({ broker, name: "two" });
 * two.handle("load", () => 0.5);
 * const { answers, isComplete } = await one.ask("load");
 * assertEquals(answers, [{ node: two.id, data: 0.5 }]);
 * assertEquals(isComplete, true);
 * ```
 */
export class Nodes implements AsyncDisposable {
  /** Id of this node; made anew at each start. */
  readonly id: string = crypto.randomUUID();
  /** What people call this node. */
  readonly name: string;
  /** Connects the nodes. */
  readonly broker: Broker;
  /** Resolves once the others had the time to say that they are there; never rejects. */
  readonly ready: Promise<void>;
  readonly #alive: Alive;
  readonly #onError: (error: unknown) => void;
  readonly #subscriptions: BrokerSubscription[];
  readonly #handlers = new Map<string, NodeHandler>();
  readonly #asks = new NodeAsks();
  // Objects of their own, so that one listener can subscribe twice.
  readonly #listeners = new Set<{ readonly listener: (event: NodeEvent) => void }>();
  readonly #tickMs: number;
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #closed = Promise.withResolvers<void>();
  #ticks = 0;
  #tickedAt = Date.now();
  #answering = 0;
  #ignored = 0;
  #isReady = false;
  #isClosed = false;

  /**
   * Joins the nodes.
   *
   * @param options See {@linkcode NodesOptions}.
   * @throws {RangeError} If a time is no integer from 2 on, or `goneAfterMs` is not above `heartbeatMs`.
   */
  constructor(options: NodesOptions) {
    const { broker, name = "", heartbeatMs = 2_000, goneAfterMs = 7_000 } = options;
    checkTime("heartbeatMs", heartbeatMs, 2);
    checkTime("goneAfterMs", goneAfterMs, heartbeatMs + 1);
    this.broker = broker;
    this.name = name;
    this.#onError = options.onError ?? print;
    // Every second tick is a heartbeat.
    this.#tickMs = heartbeatMs / 2;
    this.#alive = new Alive(Math.floor(goneAfterMs / this.#tickMs));
    const listener = (publication: Publication) => this.#receive(publication);
    this.#subscriptions = [
      broker.subscribe(ALL, listener, { onInterrupted: () => this.#restore() }),
      broker.subscribe(ONE + this.id, listener),
    ];
    this.#timer = setInterval(() => this.#tick(), this.#tickMs);
    this.ready = this.#discover();
  }

  /** Whether the others had the time to say that they are there. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /** How many other nodes are alive. */
  get size(): number {
    return this.#alive.size;
  }

  /** How many messages were ignored because they made no sense, or there were too many nodes or questions. */
  get ignored(): number {
    return this.#ignored;
  }

  /**
   * Lists the other nodes that are alive.
   *
   * @returns The nodes, in the order in which they were heard first.
   */
  others(): NodeInfo[] {
    return this.#alive.infos();
  }

  /**
   * Tells whether another node is alive.
   *
   * @param id Its id.
   * @returns Whether it is.
   */
  has(id: string): boolean {
    return this.#alive.has(id);
  }

  /**
   * Tells whether a node is surely gone: it said farewell, or this node listened for long enough to
   * have heard it.
   *
   * @param id Its id.
   * @returns Whether it is so.
   */
  isGone(id: string): boolean {
    return id !== this.id && this.#alive.isGone(id);
  }

  /**
   * Calls a function when nodes come and go.
   *
   * @param listener Gets the events.
   * @returns Disposing of it ends the calls at once.
   */
  subscribe(listener: (event: NodeEvent) => void): Disposable {
    const entry = { listener };
    this.#listeners.add(entry);
    return { [Symbol.dispose]: () => void this.#listeners.delete(entry) };
  }

  /**
   * Takes what other nodes tell and ask.
   *
   * @param kind What it is about.
   * @param handler Gets the data. What it throws is told to `onError`, and the asker gets no answer.
   * @returns Disposing of it ends that.
   * @throws {TypeError} If there is a handler for it already.
   */
  handle(kind: string, handler: NodeHandler): Disposable {
    if (this.#handlers.has(kind)) {
      throw new TypeError(`Cannot handle: a kind must have one handler, received "${kind}" again`);
    }
    this.#handlers.set(kind, handler);
    return { [Symbol.dispose]: () => void this.#handlers.delete(kind) };
  }

  /**
   * Tells a node something, or all others; what is told to one arrives in order. Best effort.
   *
   * @param to Id of a node; `undefined` for all others.
   * @param kind What it is about.
   * @param data Any value that JSON can hold.
   */
  tell(to: string | undefined, kind: string, data: unknown): void {
    this.#publish(to, { type: "tell", kind, data });
  }

  /**
   * Asks all other nodes that are alive, and waits for their answers.
   *
   * @param kind What it is about.
   * @param data Any value that JSON can hold.
   * @param options How long to wait.
   * @returns The answers that came, and whether they are all.
   */
  async ask(kind: string, data?: unknown, options: NodeAskOptions = {}): Promise<NodeAnswers> {
    const { timeoutMs = 2_000 } = options;
    if (!this.#isReady) await settlesWithin(this.ready, timeoutMs);
    if (this.size === 0) return { answers: [], isComplete: this.#isReady };
    if (this.#isClosed) return { answers: [], isComplete: false };
    const send = (id: number) => this.#publish(undefined, { type: "ask", kind, data, id });
    return await this.#asks.ask(this.#alive.ids(), send, timeoutMs);
  }

  /** Says farewell and listens no more. Idempotent. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#publish(undefined, { type: "bye" });
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#closed.resolve();
    this.#asks.end();
    this.#listeners.clear();
    this.#handlers.clear();
    this.#alive.clear();
    await Promise.all(this.#subscriptions.map((one) => one[Symbol.asyncDispose]()));
  }

  /** Says farewell and listens no more; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #discover(): Promise<void> {
    const heard = Promise.all(this.#subscriptions.map(({ ready }) => ready));
    await Promise.race([heard, this.#closed.promise]);
    this.#beat(true);
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = startTimer(DISCOVERY_MS, () => resolve());
    await Promise.race([promise, this.#closed.promise]);
    clearTimeout(timer);
    this.#isReady = true;
  }

  #beat(isHello: boolean): void {
    this.#publish(undefined, { type: "beat", name: this.name, isHello });
  }

  #publish(to: string | undefined, message: NodeMessage): void {
    if (this.#isClosed) return;
    const topic = to === undefined ? ALL : ONE + to;
    try {
      this.broker.publish({ topic, payload: JSON.stringify({ ...message, node: this.id }) });
    } catch (error) {
      // The broker may be closed before its nodes.
      if (!(error instanceof UnsupportedError)) throw error;
    }
  }

  #tick(): void {
    const now = Date.now();
    const wasSuspended = now - this.#tickedAt > 3 * this.#tickMs;
    this.#tickedAt = now;
    this.#ticks++;
    if (this.broker.status.current.name !== "connected") this.#alive.beCalm();
    else if (wasSuspended) this.#restore();
    else {
      this.#alive.tick();
      for (const id of this.#alive.silent()) this.#forget(id);
    }
    if (this.#ticks % 2 === 0) this.#beat(false);
  }

  #hearItself(): void {
    const wasDeaf = this.#alive.isDeaf;
    this.#alive.hearItself();
    if (wasDeaf) this.#restore();
  }

  /** Anything may have been missed until now. */
  #restore(): void {
    if (this.#isClosed) return;
    this.#alive.beCalm();
    this.#beat(true);
    this.#emit({ type: "restored" });
  }

  #receive({ payload }: Publication): void {
    const message = parseNodeMessage(payload);
    if (message === undefined) {
      this.#ignored++;
      return;
    }
    const { node } = message;
    if (node === this.id) return this.#hearItself();
    if (this.#alive.hasDeparted(node)) return;
    const isKnown = this.#alive.hear(node);
    switch (message.type) {
      case "beat":
        if (!isKnown) this.#meet(node, message.name);
        if (message.isHello) this.#beat(false);
        return;
      case "bye":
        this.#alive.depart(node);
        return this.#forget(node);
      case "answer":
        return this.#asks.answered(
          message.id,
          node,
          message.isDone ? { data: message.data } : undefined,
        );
      case "tell":
        return void this.#handle(node, message);
      case "ask":
        return void this.#answer(node, message);
    }
  }

  #meet(id: string, name: string): void {
    const node = this.#alive.meet(id, name);
    if (node === undefined) this.#ignored++;
    else this.#emit({ type: "join", node });
  }

  #forget(id: string): void {
    const node = this.#alive.forget(id);
    if (node === undefined) return;
    this.#asks.gone(id);
    this.#emit({ type: "leave", node });
  }

  async #handle(
    from: string,
    { kind, data }: { readonly kind: string; readonly data?: unknown },
  ): Promise<{ readonly data: unknown } | undefined> {
    const handler = this.#handlers.get(kind);
    if (handler === undefined) return undefined;
    try {
      return { data: await handler(data, from) };
    } catch (error) {
      this.#report(error);
      return undefined;
    }
  }

  async #answer(
    from: string,
    message: { readonly kind: string; readonly data?: unknown; readonly id: number },
  ): Promise<void> {
    if (this.#answering >= MAX_ANSWERING) return void this.#ignored++;
    this.#answering++;
    const answer = await this.#handle(from, message);
    this.#answering--;
    const { id } = message;
    try {
      this.#publish(from, { type: "answer", id, isDone: answer !== undefined, data: answer?.data });
    } catch (error) {
      // JSON cannot hold what the handler gave.
      this.#report(error);
      this.#publish(from, { type: "answer", id, isDone: false });
    }
  }

  #emit(event: NodeEvent): void {
    for (const entry of [...this.#listeners]) {
      if (!this.#listeners.has(entry)) continue;
      try {
        entry.listener(event);
      } catch (error) {
        this.#report(error);
      }
    }
  }

  #report(error: unknown): void {
    try {
      this.#onError(error);
    } catch {
      // Whoever sees errors has nobody to tell of its own.
    }
  }
}

function checkTime(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least && value <= MAX_TIMER_MS) return;
  throw new RangeError(
    `Cannot join nodes: ${name} must be an integer from ${least} to ${MAX_TIMER_MS}, ` +
      `received ${value}`,
  );
}

function print(error: unknown): void {
  // There is nobody else to tell.
  // deno-lint-ignore no-console
  console.error(error);
}
