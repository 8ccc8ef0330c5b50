/** The nodes that share a broker: liveness, messages between nodes, and questions with replies. */
import { UnsupportedError } from "../../errors.ts";
import { attempt } from "../../base/call_safely.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { checkType } from "../../base/error_text.ts";
import { MAX_TIMER_MS, settlesWithin } from "../../base/wait.ts";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import {
  type AnnouncedDigest,
  type BeatData,
  type NodeEvent,
  type NodeInfo,
  NodeLiveness,
  NODES_AT_FULL_RATE,
  type NodesOptions,
  stretchOf,
} from "./liveness.ts";
import { type NodeMessage, parseNodeMessage } from "./messages.ts";
import {
  type Broker,
  type BrokerSubscription,
  INTERNAL_PREFIX,
  type Publication,
} from "../broker.ts";

/** Default time between two heartbeats of a node, in milliseconds. */
export const HEARTBEAT_MS = 2_000;

/** Default silence after which a node is gone, in milliseconds. */
export const GONE_AFTER_MS = 7_000;

/** Maximum number of questions that wait for replies. */
const MAX_REQUESTS = 1_000;

/** Maximum data per second with the heartbeats of one node, in bytes as JSON. */
const NODE_BYTES_PER_SECOND = 8_192;

/**
 * Maximum data per second with the heartbeats of all nodes together, in bytes as JSON. Every node
 * receives all of it, so that more nodes share the same budget.
 */
export const ALL_BYTES_PER_SECOND = 65_536;

interface PendingNodeRequest {
  /** Ids of the nodes that have not replied yet. */
  readonly waiting: Set<string>;
  readonly replies: { node: string; data: unknown }[];
  isComplete: boolean;
  readonly done: () => void;
}

class NodeRequests {
  readonly #runtime: Runtime;
  readonly #requests = new Map<number, PendingNodeRequest>();
  #last = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Calls `send` with the id of a new question, and waits for the replies of `nodes`. */
  async ask(
    nodes: Iterable<string>,
    send: (id: number) => void,
    timeoutMs: number,
  ): ReturnType<Nodes["ask"]> {
    if (this.#requests.size >= MAX_REQUESTS) return { replies: [], isComplete: false };
    const { promise, resolve } = Promise.withResolvers<void>();
    const ask: PendingNodeRequest = {
      waiting: new Set(nodes),
      replies: [],
      isComplete: true,
      done: resolve,
    };
    const id = ++this.#last;
    this.#requests.set(id, ask);
    try {
      send(id);
      const isOver = await settlesWithin(this.#runtime, promise, timeoutMs);
      return { replies: ask.replies, isComplete: isOver && ask.isComplete };
    } finally {
      this.#requests.delete(id);
    }
  }

  /** Receives a node's reply; `undefined` means that its handler failed. */
  replied(id: number, node: string, reply: { readonly data: unknown } | undefined): void {
    const ask = this.#requests.get(id);
    if (!ask?.waiting.has(node)) return;
    if (reply === undefined) ask.isComplete = false;
    else ask.replies.push({ node, data: reply.data });
    settle(ask, node);
  }

  /** Stops waiting for a node that is gone, since replies describe nodes that are alive. */
  gone(node: string): void {
    for (const ask of this.#requests.values()) settle(ask, node);
  }

  /** Ends all questions as incomplete. */
  end(): void {
    for (const ask of this.#requests.values()) {
      ask.isComplete = false;
      ask.done();
    }
  }
}

function settle(ask: PendingNodeRequest, node: string): void {
  if (ask.waiting.delete(node) && ask.waiting.size === 0) ask.done();
}

export type { NodeEvent, NodeInfo, NodesOptions };

/** Topic to which all nodes subscribe. */
const ALL = `${INTERNAL_PREFIX}nodes`;

/** Prefix of the topic to which a single node subscribes; its id follows. */
const ONE = `${INTERNAL_PREFIX}node:`;

/** Maximum number of other nodes' questions that are being handled; further ones are ignored. */
const MAX_REPLYING = 1_000;

/** Time for which a starting node waits for the heartbeats of the other nodes, in milliseconds. */
const DISCOVERY_MS = 300;

/**
 * Says farewell on behalf of a node that ended without a farewell, so that no other node waits
 * until it is declared gone.
 *
 * @param broker Broker of the nodes.
 * @param id Id of the node, which MUST have ended.
 */
export function sayFarewell(broker: Broker, id: string): void {
  const bye: NodeMessage = { type: "bye" };
  broker.publish({ topic: ALL, payload: JSON.stringify({ ...bye, node: id }) });
}

/**
 * The nodes that share a broker.
 *
 * - **Alive:** each node sends a heartbeat every `heartbeatMs`. A silent node is declared gone
 *   within `goneAfterMs`, and at most half a heartbeat early. A node that closes says farewell, and
 *   is declared gone immediately.
 * - **Many nodes:** each node receives the heartbeats of all others. These times are therefore
 *   twice as long with more than 100 nodes, three times as long with more than 200, and so on.
 * - **Outages:** no node is declared gone while the broker is unreachable or does not deliver this
 *   node's own messages. When the broker is reachable again, or after this process was suspended,
 *   the full `goneAfterMs` starts over for every node.
 * - **Questions:** a question goes to all live nodes, and completes when all of them have replied,
 *   or when the time limit has passed.
 * - **Bounds:** there can be 1,000 nodes, and 1,000 concurrent questions in each direction.
 *   Malformed messages, and messages beyond the bounds, are ignored and counted.
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
 * const { replies, isComplete } = await one.ask("load");
 * assertEquals(replies, [{ node: two.id, data: 0.5 }]);
 * assertEquals(isComplete, true);
 * ```
 */
export class Nodes implements AsyncDisposable {
  /** Id of this node; a new one at each start. */
  readonly id: string;
  /** Name of this node, for humans. */
  readonly name: string;
  /** Broker that connects the nodes. */
  readonly broker: Broker;
  /** Clocks, timers and randomness of this node. */
  readonly runtime: Runtime;
  /**
   * Resolves when the other nodes have had time to send a heartbeat to this node. Never rejects.
   */
  readonly ready: Promise<void>;
  readonly #liveness: NodeLiveness;
  readonly #console: ConsoleReport;
  readonly #onError: (error: unknown) => void;
  readonly #subscriptions: BrokerSubscription[];
  readonly #handlers = new Map<string, (data: unknown, from: string) => unknown>();
  readonly #requests: NodeRequests;
  // Each listener is wrapped in an object, so that one function can subscribe twice.
  readonly #listeners = new Set<{ readonly listener: (event: NodeEvent) => void }>();
  #carried: BeatData | undefined;
  #announced: AnnouncedDigest | undefined;
  readonly #tickMs: number;
  readonly #closed = Promise.withResolvers<void>();
  #timer: Timer;
  #ticks = 0;
  #tickedAt: number;
  #replying = 0;
  #ignored = 0;
  #isReady = false;
  #hasHeardItself = false;
  readonly #greeted = Promise.withResolvers<boolean>();
  #isClosed = false;

  /**
   * Joins the nodes.
   *
   * @param options See {@linkcode NodesOptions}.
   * @throws {RangeError} If a time is not an integer of 2 or more, or `goneAfterMs` is not above
   * `heartbeatMs`.
   */
  constructor(options: NodesOptions) {
    const { broker, name = "", heartbeatMs = HEARTBEAT_MS, goneAfterMs = GONE_AFTER_MS } = options;
    checkTime("heartbeatMs", heartbeatMs, 2);
    checkTime("goneAfterMs", goneAfterMs, heartbeatMs + 1);
    const runtime = options.runtime ?? platformRuntime();
    this.runtime = runtime;
    this.id = runtime.randomUUID();
    this.broker = broker;
    this.name = name;
    this.#console = new ConsoleReport(runtime);
    this.#onError = options.onError ??
      ((error) => this.#console.failed("A handler or listener of nodes", error));
    // Every second tick is a heartbeat, or fewer of them if there are many nodes.
    this.#tickMs = heartbeatMs / 2;
    this.#tickedAt = runtime.now();
    this.#requests = new NodeRequests(runtime);
    this.#liveness = new NodeLiveness(runtime, Math.floor(goneAfterMs / this.#tickMs));
    const listener = (publication: Publication) => this.#receive(publication);
    this.#subscriptions = [
      broker.subscribe(ALL, listener, { onInterrupted: () => this.#restore() }),
      broker.subscribe(ONE + this.id, listener),
    ];
    this.#timer = runtime.setTimeout(() => this.#tick(), this.#tickMs);
    this.ready = this.#discover();
  }

  /** True when the other nodes have had time to send a heartbeat to this node. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /**
   * Resolves when this node has sent its first heartbeat: to true if the broker has delivered it
   * within the call, as a broker in memory does, so that the other nodes have replied.
   *
   * @ignore
   */
  get greeted(): Promise<boolean> {
    return this.#greeted.promise;
  }

  /**
   * True if this node receives the messages of other nodes, as far as it knows.
   *
   * @ignore
   */
  get isReached(): boolean {
    return this.#isConnected && !this.#liveness.isDeaf;
  }

  /** Number of other nodes that are alive. */
  get size(): number {
    return this.#liveness.size;
  }

  /**
   * Number of messages ignored because they were malformed or there were too many nodes or
   * questions.
   */
  get ignored(): number {
    return this.#ignored;
  }

  /**
   * Lists the other nodes that are alive.
   *
   * @returns The nodes, in the order of the first message from each.
   */
  others(): NodeInfo[] {
    return this.#liveness.infos();
  }

  /**
   * Returns true if another node is alive.
   *
   * @param id Id of the node.
   * @returns True if the node is alive.
   */
  has(id: string): boolean {
    return this.#liveness.has(id);
  }

  /**
   * Returns true if a node is certainly gone: it said farewell, or this node has listened for long
   * enough to receive a message from any live node.
   *
   * @param id Id of the node.
   * @returns True if the node is certainly gone.
   */
  isGone(id: string): boolean {
    return id !== this.id && this.#liveness.isGone(id);
  }

  /**
   * Returns true if another node has missed two heartbeats in a row: it is gone, or it has been
   * busy or disconnected for a while. Work that can be done elsewhere need not wait for
   * `goneAfterMs`.
   *
   * @param id Id of the node.
   * @returns True if the node is silent, and was alive before.
   */
  isSilent(id: string): boolean {
    return this.#liveness.isSilent(id);
  }

  /**
   * Describes the options that differ between this node and others, as in a rolling deploy. Nodes of
   * servers compare their options, such as the patterns of `history`.
   *
   * @returns A text for each option and value, at most 64; empty if all nodes agree.
   */
  issues(): string[] {
    return this.#isClosed ? [] : this.#announced?.issues() ?? [];
  }

  /**
   * Calls a function when nodes join and leave.
   *
   * @param listener Receives the events.
   * @returns A disposable that ends the calls immediately.
   * @throws {TypeError} If the listener is not a function.
   */
  subscribe(listener: (event: NodeEvent) => void): Disposable {
    checkType("follow nodes", "listener", listener);
    const entry = { listener };
    this.#listeners.add(entry);
    return { [Symbol.dispose]: () => void this.#listeners.delete(entry) };
  }

  /**
   * Handles the messages and questions of one kind from other nodes.
   *
   * @param kind The kind of message.
   * @param handler Receives the data. If the handler throws, `onError` receives the error, and the
   * asking node receives no reply.
   * @returns A disposable that removes the handler.
   * @throws {TypeError} If the kind already has a handler, or the handler is not a function.
   */
  handle(kind: string, handler: (data: unknown, from: string) => unknown): Disposable {
    checkType("handle", "handler", handler);
    if (this.#handlers.has(kind)) {
      throw new TypeError(`Cannot handle: there is a handler for "${kind}" already`);
    }
    // A function of its own, so that a second disposal does not remove a later handler.
    const entry = (data: unknown, from: string) => handler(data, from);
    this.#handlers.set(kind, entry);
    return {
      [Symbol.dispose]: () => {
        if (this.#handlers.get(kind) === entry) this.#handlers.delete(kind);
      },
    };
  }

  /**
   * Sends a message to one other node, or to all other nodes. Messages may be lost. Messages to a
   * single node arrive in order.
   *
   * @param to Id of a node; `undefined` for all others.
   * @param kind The kind of message.
   * @param data Any value that JSON can hold.
   */
  tell(to: string | undefined, kind: string, data: unknown): void {
    this.#publish(to, { type: "tell", kind, data });
  }

  /**
   * Asks all other live nodes, and waits for their replies. After `close`, no node is asked, so the
   * replies are incomplete.
   *
   * @param kind The kind of message.
   * @param data Any value that JSON can hold.
   * @param options Time limit for the slowest node, in milliseconds; 2,000 by default.
   * @returns The replies that arrived, and `isComplete` if all nodes replied.
   */
  async ask(
    kind: string,
    data?: unknown,
    options: { readonly timeoutMs?: number | undefined } = {},
  ): Promise<{
    /** One reply from each node that replied in time, except this node. */
    readonly replies: readonly { readonly node: string; readonly data: unknown }[];
    /** True if every live node replied. */
    readonly isComplete: boolean;
  }> {
    const { timeoutMs = 2_000 } = options;
    if (!this.#isReady) await settlesWithin(this.runtime, this.ready, timeoutMs);
    if (this.#isClosed) return { replies: [], isComplete: false };
    // A node that is starting may not know all others yet.
    const wasReady = this.#isReady;
    if (this.size === 0) return { replies: [], isComplete: wasReady };
    const send = (id: number) => this.#publish(undefined, { type: "ask", kind, data, id });
    const asked = await this.#requests.ask(this.#liveness.ids(), send, timeoutMs);
    return { ...asked, isComplete: wasReady && asked.isComplete };
  }

  /**
   * Sends data with each heartbeat from now on, and receives the other nodes' data.
   *
   * @param data See {@linkcode BeatData}.
   * @ignore
   */
  carry(data: BeatData): void {
    this.#carried = data;
  }

  /**
   * Announces a digest with each heartbeat from now on, and receives the other nodes' digests.
   *
   * @param announced See {@linkcode AnnouncedDigest}.
   * @ignore
   */
  announce(announced: AnnouncedDigest): void {
    this.#announced = announced;
  }

  /**
   * Sends a heartbeat immediately, because its data changed.
   *
   * @ignore
   */
  beat(): void {
    this.#beat(false);
  }

  /** Says farewell to the other nodes and stops listening. Idempotent. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#publish(undefined, { type: "bye" });
    this.#isClosed = true;
    this.runtime.clearTimeout(this.#timer);
    this.#closed.resolve();
    this.#requests.end();
    this.#announced?.close();
    this.#listeners.clear();
    this.#handlers.clear();
    this.#liveness.clear();
    await Promise.all(this.#subscriptions.map((one) => one[Symbol.asyncDispose]()));
  }

  /** Calls {@linkcode Nodes.close}; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #discover(): Promise<void> {
    const subscribed = Promise.all(this.#subscriptions.map(({ ready }) => ready));
    await Promise.race([subscribed, this.#closed.promise]);
    this.#beat(true);
    this.#greeted.resolve(this.#hasHeardItself);
    await settlesWithin(this.runtime, this.#closed.promise, DISCOVERY_MS);
    this.#isReady = true;
  }

  #beat(isHello: boolean): void {
    const perSecond = Math.min(NODE_BYTES_PER_SECOND, ALL_BYTES_PER_SECOND / (this.size + 1));
    const beatMs = this.#tickMs * this.#ticksOfBeat;
    const data = this.#carried?.report(Math.floor(perSecond * beatMs / 1_000));
    const digest = this.#announced?.digest;
    const hello = isHello ? { isHello, known: this.size } : {};
    this.#publish(undefined, { type: "beat", name: this.name, ...hello, digest, data });
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
    this.#timer = this.runtime.setTimeout(() => this.#tick(), this.#tickMs);
    const now = this.runtime.now();
    const wasSuspended = now - this.#tickedAt > 3 * this.#tickMs;
    this.#tickedAt = now;
    this.#ticks++;
    if (!this.#isConnected) this.#liveness.beCalm();
    else if (wasSuspended) this.#restore();
    else {
      this.#liveness.tick();
      for (const id of this.#liveness.silent()) this.#forget(id);
    }
    if (this.#ticks % this.#ticksOfBeat === 0) this.#beat(false);
  }

  /** Number of ticks from one heartbeat to the next. */
  get #ticksOfBeat(): number {
    // Others may know somewhat fewer nodes, and must not wait for a heartbeat in vain.
    return 2 * stretchOf(this.size + 1, NODES_AT_FULL_RATE * 1.1);
  }

  get #isConnected(): boolean {
    const { current } = this.broker.status;
    // A store that only rejects writes still carries the heartbeats.
    return current.name === "connected" ||
      current.name === "interrupted" && current.rejects === true;
  }

  #seeItself(): void {
    this.#hasHeardItself = true;
    const wasDeaf = this.#liveness.isDeaf;
    this.#liveness.seeItself();
    if (wasDeaf) this.#restore();
  }

  /** Starts over after messages may have been missed. */
  #restore(): void {
    if (this.#isClosed) return;
    this.#liveness.beCalm();
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
    if (node === this.id) return this.#seeItself();
    if (this.#liveness.hasDeparted(node)) return;
    const isKnown = this.#liveness.see(node);
    switch (message.type) {
      case "beat":
        if (!isKnown) this.#meet(node, message.name);
        if (this.#liveness.has(node)) this.#carried?.receive(node, message.data);
        // If all nodes say hello after an outage, replies to all of them would be n³ copies. A node
        // that knows as many others needs no reply: it missed none, or receives their heartbeats.
        if (message.isHello && message.known !== this.size) {
          const digest = this.#announced?.digest;
          this.#publish(node, { type: "here", name: this.name, digest });
        }
        return this.#receiveDigest(node, message.digest);
      case "here":
        if (!isKnown) this.#meet(node, message.name);
        return this.#receiveDigest(node, message.digest);
      case "bye":
        this.#liveness.depart(node);
        return this.#forget(node);
      case "answer":
        return this.#requests.replied(
          message.id,
          node,
          message.isDone ? { data: message.data } : undefined,
        );
      case "tell":
        return void this.#handle(node, message);
      case "ask":
        return void this.#reply(node, message);
    }
  }

  /** Called once the other node knows this node, too. */
  #receiveDigest(node: string, digest: string | undefined): void {
    if (this.#liveness.has(node)) this.#announced?.receive(node, digest);
  }

  #meet(id: string, name: string): void {
    const node = this.#liveness.meet(id, name);
    if (node === undefined) this.#ignored++;
    else this.#emit({ type: "join", node });
  }

  #forget(id: string): void {
    const node = this.#liveness.forget(id);
    if (node === undefined) return;
    this.#requests.gone(id);
    this.#carried?.receive(id, undefined);
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

  async #reply(
    from: string,
    message: { readonly kind: string; readonly data?: unknown; readonly id: number },
  ): Promise<void> {
    if (this.#replying >= MAX_REPLYING) return void this.#ignored++;
    this.#replying++;
    const reply = await this.#handle(from, message);
    this.#replying--;
    const { id } = message;
    try {
      this.#publish(from, { type: "answer", id, isDone: reply !== undefined, data: reply?.data });
    } catch (error) {
      // JSON cannot hold the value from the handler.
      this.#report(error);
      this.#publish(from, { type: "answer", id, isDone: false });
    }
  }

  #emit(event: NodeEvent): void {
    for (const entry of [...this.#listeners]) {
      if (!this.#listeners.has(entry)) continue;
      attempt(() => entry.listener(event), (error) => this.#report(error));
    }
  }

  #report(error: unknown): void {
    // An error in the error handler itself is dropped, because no other handler could receive it.
    attempt(() => this.#onError(error), () => {});
  }
}

function checkTime(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least && value <= MAX_TIMER_MS) return;
  throw new RangeError(
    `Cannot join nodes: ${name} must be an integer from ${least} to ${MAX_TIMER_MS}, ` +
      `received ${value}`,
  );
}
