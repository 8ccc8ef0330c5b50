/** Calls between nodes: a request and a reply, both in bytes. */
import { type LimitLevel, TimeoutError, UnsupportedError } from "../../errors.ts";
import { startTimer, within } from "../../base/wait.ts";
import type { Timer } from "../../base/runtime.ts";
import { type BrokerSubscription, INTERNAL_PREFIX, type Publication } from "../broker.ts";
import {
  type CallHead,
  type CallMessage,
  Gathering,
  joinHead,
  parseCallMessage,
  partsOf,
  type RejectionCode,
} from "./call_messages.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import { type Quota, Quotas, type Slot } from "../../base/quotas/shares.ts";
import type { NodeEvent, Nodes } from "./nodes.ts";

/**
 * Maximum number of this node's calls that wait for a reply, and of other nodes' calls that are
 * handled at the same time. Each call may be a poll that waits for a message, and a large server
 * may have one for each session.
 */
const MAX_CALLS = 10_000;

/**
 * Maximum number of calls for the clients at one network address, once more than half of all calls
 * are in use.
 */
const SHARE_OF_CALLS = 1_000;

/** Maximum total size of multi-part requests that are not complete yet, in bytes. */
const MAX_GATHERED_BYTES = 67_108_864;

/** Maximum time for handling a call from another node, in milliseconds. */
const MAX_TIMEOUT_MS = 120_000;

/**
 * How long to wait for the first heartbeat of an unknown node, in milliseconds. Only a node that
 * has just started may not have received the heartbeat of a live node, and nodes reply to its first
 * heartbeat immediately.
 */
const MEET_MS = 1_000;

/** Time between two checks for silent nodes while calls wait, in milliseconds. */
const LOOK_MS = 500;

/** Reason why a call has no reply. */
export type NodeCallFailure = "gone" | "silent" | "lost" | RejectionCode;

/** Thrown by {@linkcode NodeCalls.call} if no reply can arrive. */
export class NodeCallError extends Error {
  /**
   * `gone`: the called node is not alive. `silent`: it has missed two heartbeats. `lost`: the
   * broker was unreachable, and the reply may be lost. `busy`: too many calls are in progress on
   * this node or the called node, or the called node has no memory for the request. `failed`: the
   * called node's handler threw an error, or a message was malformed or too large.
   */
  readonly code: NodeCallFailure;

  /** Creates an error. */
  constructor(code: NodeCallFailure, rule: string) {
    super(`Cannot call a node: ${rule}`);
    this.name = "NodeCallError";
    this.code = code;
  }
}

/** A call from another node, as the handler sees it. */
export interface NodeCall {
  /** Id of the calling node. */
  readonly from: string;
  /** Aborted if the calling node has stopped waiting or is gone, or when the time is up. */
  readonly signal: AbortSignal;
}

/** Options for {@linkcode NodeCalls}. */
export interface NodeCallsOptions {
  /** The nodes. Closing the calls does not close the nodes. */
  readonly nodes: Nodes;
  /** Name of the service. It must be the same on every node, and unique among services. */
  readonly name: string;
  /**
   * Handles calls from other nodes. Errors are passed to `onError`, while the caller receives only
   * the fact that the call failed. A call may be repeated, so handlers must be idempotent.
   */
  readonly respond: (data: Uint8Array, call: NodeCall) => Uint8Array | Promise<Uint8Array>;
  /** Receives the errors of `respond`. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
  /**
   * Maximum size of a request, and of a reply, in bytes.
   *
   * @default {1048576}
   */
  readonly maxBytes?: number | undefined;
  /** All quotas of the server; by default, a separate registry. */
  readonly quotas?: Quotas | undefined;
}

/** Options of {@linkcode NodeCalls.call}. */
export interface NodeCallOptions {
  /** Time limit for the reply, in milliseconds. */
  readonly timeoutMs: number;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
  /** The client on whose behalf this node calls; none by default. */
  readonly account?: Account | undefined;
}

interface PendingCall {
  readonly to: string;
  readonly reply: PromiseWithResolvers<Uint8Array>;
  gathering?: Gathering;
  /** True once a message of the call is in flight. */
  isSent: boolean;
}

interface RunningCall {
  readonly slot: Slot;
  readonly from: string;
  readonly id: number;
  readonly ending: AbortController;
  readonly timer: Timer | undefined;
  readonly size: number;
  /** The parts so far; `undefined` once the request is complete. */
  gathering: Gathering | undefined;
}

/**
 * Calls between the nodes of one broker. Only nodes can make calls, because sessions cannot publish
 * on these topics.
 *
 * - **Bytes:** requests and replies are bytes, which are sent in parts that every broker accepts.
 * - **Gone:** a call to a node that is gone fails immediately, and so does a pending call when the
 *   node says farewell. If a node has not sent a heartbeat yet, a call to it fails after a second.
 * - **Silent:** a call fails as soon as the called node misses two heartbeats in a row. By default,
 *   this is 2 to 5.5 s after it was killed.
 * - **Lost:** the broker may lose messages. Calls in flight during an outage fail once the broker
 *   is reachable; other calls without a reply fail after `timeoutMs`. The other node may have
 *   handled them.
 * - **Cancellation:** a signal, or the time limit, aborts the signal of the handler on the other
 *   node.
 * - **Bounds:** at most 10,000 calls run concurrently in each direction. Once half of them are in
 *   use, at most 1,000 may be for the clients at one network address. Incomplete requests take at
 *   most 64 MiB, and each request and reply at most `maxBytes`. Malformed messages are ignored and
 *   counted.
 *
 * @example Call another node
 * ```ts
 * import { MemoryBroker, Nodes } from "@skein/skein/pubsub";
 * import { NodeCalls } from "./node_calls.ts";
 * import { assertEquals } from "@std/assert";
 *
 * await using broker = new MemoryBroker();
 * await using one = new Nodes({ broker });
 * await using two = new Nodes({ broker });
 * const options = { name: "reverse", onError: console.error };
 * await using calls = new NodeCalls({ ...options, nodes: one, respond: (data) => data });
 * await using _service = new NodeCalls({
 *   ...options,
 *   nodes: two,
 *   respond: (data) => data.toReversed(),
 * });
 * const reply = await calls.call(two.id, new Uint8Array([1, 2, 3]), { timeoutMs: 5_000 });
 * assertEquals(reply, new Uint8Array([3, 2, 1]));
 * ```
 */
export class NodeCalls implements AsyncDisposable {
  /** Resolves once other nodes' calls reach this node. Never rejects. */
  readonly ready: Promise<void>;
  readonly #nodes: Nodes;
  readonly #topic: string;
  readonly #respond: NodeCallsOptions["respond"];
  readonly #onError: (error: unknown) => void;
  readonly #maxBytes: number;
  readonly #subscription: BrokerSubscription;
  readonly #watch: Disposable;
  readonly #callSlots: Quota;
  readonly #replySlots: Quota;
  readonly #asked = new Map<number, PendingCall>();
  readonly #running = new Map<string, RunningCall>();
  readonly #meeting = new Map<string, PromiseWithResolvers<void>>();
  #looking: Timer | undefined;
  #gathered = 0;
  #last = 0;
  #ignored = 0;
  #isReady = false;
  #isClosed = false;

  /**
   * Starts to handle calls.
   *
   * @param options See {@linkcode NodeCallsOptions}.
   */
  constructor(options: NodeCallsOptions) {
    const { nodes, name, respond, onError, maxBytes = 1_048_576 } = options;
    const { quotas = new Quotas(nodes.runtime) } = options;
    const bounds = { limit: "calls", verb: "call a node", what: "calls", max: MAX_CALLS };
    this.#callSlots = quotas.open({
      ...bounds,
      name: `calls.${name}`,
      shares: { address: SHARE_OF_CALLS },
    });
    this.#replySlots = quotas.open({
      ...bounds,
      name: `replies.${name}`,
      shares: {}, // Nodes trust one another, and each has shares for its clients.
    });
    this.#nodes = nodes;
    this.#topic = `${INTERNAL_PREFIX}call:${name}:`;
    this.#respond = respond;
    this.#onError = onError;
    this.#maxBytes = maxBytes;
    this.#subscription = nodes.broker.subscribe(
      this.#topic + nodes.id,
      (publication) => this.#receive(publication),
    );
    this.#watch = nodes.subscribe((event) => this.#nodesChanged(event));
    this.ready = this.#subscription.ready.then(() => void (this.#isReady = true));
  }

  get waiting(): number {
    return this.#asked.size;
  }

  /** Number of other nodes' calls that are being handled. */
  get running(): number {
    return this.#running.size;
  }

  /** Size of other nodes' incomplete calls in bytes. */
  get gatheredBytes(): number {
    return this.#gathered;
  }

  /** Number of messages ignored because they were malformed or belonged to no known call. */
  get ignored(): number {
    return this.#ignored;
  }

  /**
   * Calls another node.
   *
   * @param to Id of the node.
   * @param data The request. MUST NOT be changed afterwards.
   * @param options A time limit for the reply and a signal that ends the wait, both of which also
   * cancel the work on the other node; and the client on whose behalf this node calls.
   * @returns The reply.
   * @throws {NodeCallError} If no reply can arrive.
   * @throws {TimeoutError} If the reply takes longer than `timeoutMs`.
   * @throws {RangeError} If the request is too large.
   */
  async call(
    to: string,
    data: Uint8Array,
    options: NodeCallOptions,
  ): Promise<Uint8Array> {
    const { timeoutMs, signal, account } = options;
    if (data.length > this.#maxBytes) throw tooLarge("request", this.#maxBytes, data.length);
    if (this.#isClosed) throw new NodeCallError("gone", "this node is closed");
    const slot = this.#callSlots.tryTake(account);
    if (typeof slot === "string") throw new NodeCallError("busy", tooMany(slot));
    const id = ++this.#last;
    const asked: PendingCall = { to, reply: Promise.withResolvers(), isSent: false };
    this.#asked.set(id, asked);
    // A rejection before the reply is awaited must not count as unhandled.
    asked.reply.promise.catch(() => {});
    const late = "No reply from the node within";
    const runtime = this.#nodes.runtime;
    try {
      return await within(runtime, this.#ask(id, asked, data, timeoutMs), {
        timeoutMs,
        late,
        signal,
      });
    } catch (error) {
      const isGivenUp = error instanceof TimeoutError || signal?.aborted;
      if (isGivenUp && asked.isSent) this.#send(to, { type: "abort", id });
      throw error;
    } finally {
      this.#asked.delete(id);
      slot[Symbol.dispose]();
    }
  }

  /** Ends all calls in both directions. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#watch[Symbol.dispose]();
    this.#nodes.runtime.clearTimeout(this.#looking);
    this.#looking = undefined;
    for (const { reply } of this.#asked.values()) {
      reply.reject(new NodeCallError("gone", "this node is closed"));
    }
    for (const { resolve } of this.#meeting.values()) resolve();
    this.#meeting.clear();
    for (const one of [...this.#running.values()]) this.#giveUp(one, closedError());
    await this.#subscription[Symbol.asyncDispose]();
  }

  async #ask(
    id: number,
    asked: PendingCall,
    data: Uint8Array,
    timeoutMs: number,
  ): Promise<Uint8Array> {
    // Replies would be lost before the subscription is in force.
    if (!this.#isReady) await this.ready;
    if (!this.#nodes.has(asked.to)) await this.#meet(asked.to);
    // The caller may have stopped waiting meanwhile.
    if (this.#nodes.isSilent(asked.to)) throw silent(asked.to);
    if (this.#asked.has(id)) {
      this.#looking ??= this.#startLooking();
      asked.isSent = true;
      this.#sendData(asked.to, { type: "call", id, timeoutMs }, data);
    }
    return await asked.reply.promise;
  }

  #startLooking(): Timer {
    return this.#nodes.runtime.setTimeout(() => {
      this.#looking = undefined;
      if (this.#asked.size === 0) return;
      for (const { to, reply } of this.#asked.values()) {
        if (this.#nodes.isSilent(to)) reply.reject(silent(to));
      }
      this.#looking = this.#startLooking();
    }, LOOK_MS);
  }

  /** Waits for the first heartbeat of a node. Throws if the node is gone. */
  async #meet(node: string): Promise<void> {
    const { runtime } = this.#nodes;
    if (!this.#nodes.isGone(node)) {
      let meeting = this.#meeting.get(node);
      if (meeting === undefined) {
        meeting = Promise.withResolvers<void>();
        this.#meeting.set(node, meeting);
        const { promise, resolve } = meeting;
        const timer = startTimer(runtime, MEET_MS, () => resolve());
        void promise.then(() => {
          runtime.clearTimeout(timer);
          this.#meeting.delete(node);
        });
      }
      await meeting.promise;
    }
    if (!this.#nodes.has(node)) throw gone(node);
  }

  #nodesChanged(event: NodeEvent): void {
    if (event.type === "restored") {
      for (const { reply, isSent } of this.#asked.values()) {
        if (isSent) reply.reject(new NodeCallError("lost", "the broker became unreachable"));
      }
      return;
    }
    const { id } = event.node;
    this.#meeting.get(id)?.resolve();
    if (event.type === "join") return;
    for (const { to, reply } of this.#asked.values()) {
      if (to === id) reply.reject(gone(id));
    }
    for (const one of [...this.#running.values()]) {
      if (one.from === id) this.#giveUp(one, gone(id));
    }
  }

  #receive({ payload }: Publication): void {
    const message = parseCallMessage(payload);
    if (message === undefined) return void this.#ignored++;
    switch (message.type) {
      case "call":
        return this.#takeCall(message);
      case "abort": {
        const one = this.#running.get(callKey(message.node, message.id));
        if (one !== undefined) this.#giveUp(one, aborted());
        return;
      }
      case "reply":
      case "refusal":
        return this.#takeReply(message);
    }
  }

  #takeReply(message: CallMessage & { readonly type: "reply" | "refusal" }): void {
    const asked = this.#asked.get(message.id);
    // The reply may be too late, or from a node that was not called.
    if (asked === undefined || asked.to !== message.node) return void this.#ignored++;
    const { reply } = asked;
    if (message.type === "refusal") {
      const { code } = message;
      const rule = code === "busy"
        ? "the other node has no room for another call"
        : "the handler of the other node failed";
      return reply.reject(new NodeCallError(code, rule));
    }
    try {
      const { size } = message;
      if (size > this.#maxBytes) throw tooLarge("reply", this.#maxBytes, size);
      asked.gathering ??= new Gathering(size);
      const data = asked.gathering.add(message);
      if (data !== undefined) reply.resolve(data);
    } catch {
      this.#ignored++;
      reply.reject(new NodeCallError("failed", "the reply is incomplete or out of order"));
    }
  }

  #takeCall(message: CallMessage & { readonly type: "call" }): void {
    const { node, id, part, size } = message;
    const key = callKey(node, id);
    let one = this.#running.get(key);
    if (one === undefined) {
      // The first part was rejected or lost, or the call was cancelled.
      if (part !== 0) return void this.#ignored++;
      const isWhole = size === message.data.length;
      const isFull = !isWhole && this.#gathered + size > MAX_GATHERED_BYTES;
      if (size > this.#maxBytes) return this.#reject(node, id, "failed");
      const slot = isFull ? undefined : this.#replySlots.tryTake();
      if (slot === undefined || typeof slot === "string") return this.#reject(node, id, "busy");
      one = this.#begin(message, { isWhole, slot });
      this.#running.set(key, one);
    } else if (one.gathering === undefined) return void this.#ignored++; // A repetition.
    let data: Uint8Array | undefined;
    try {
      data = one.gathering!.add(message);
    } catch {
      this.#ignored++;
      this.#giveUp(one, aborted());
      return this.#reject(node, id, "failed");
    }
    if (data === undefined) return;
    this.#release(one);
    void this.#run(one, data);
  }

  #begin(
    { node: from, id, size, timeoutMs }: CallMessage & { readonly type: "call" },
    { isWhole, slot }: { readonly isWhole: boolean; readonly slot: Slot },
  ): RunningCall {
    if (!isWhole) this.#gathered += size;
    const limitMs = Math.min(timeoutMs, MAX_TIMEOUT_MS);
    const timer = startTimer(this.#nodes.runtime, limitMs, (ms) => {
      this.#giveUp(one, new TimeoutError(`The node did not respond within ${ms} ms`, ms));
    });
    const one: RunningCall = {
      slot,
      from,
      id,
      ending: new AbortController(),
      timer,
      size: isWhole ? 0 : size,
      gathering: new Gathering(size),
    };
    return one;
  }

  async #run(one: RunningCall, data: Uint8Array): Promise<void> {
    const { from, id, ending: { signal } } = one;
    try {
      const reply = await this.#respond(data, { from, signal });
      if (reply.length > this.#maxBytes) throw tooLarge("reply", this.#maxBytes, reply.length);
      if (!signal.aborted) this.#sendData(from, { type: "reply", id }, reply);
    } catch (error) {
      // The handler may throw because of the signal.
      if (!signal.aborted) {
        this.#reject(from, id, "failed");
        this.#onError(error);
      }
    } finally {
      this.#nodes.runtime.clearTimeout(one.timer);
      this.#forget(one);
    }
  }

  #forget({ from, id, slot }: RunningCall): void {
    this.#running.delete(callKey(from, id));
    slot[Symbol.dispose]();
  }

  /** Aborts the handler of a call, or forgets the parts of an incomplete one. */
  #giveUp(one: RunningCall, reason: unknown): void {
    this.#nodes.runtime.clearTimeout(one.timer);
    if (one.gathering !== undefined) {
      this.#release(one);
      this.#forget(one);
    }
    one.ending.abort(reason);
  }

  #release(one: RunningCall): void {
    one.gathering = undefined;
    this.#gathered -= one.size;
  }

  #reject(to: string, id: number, code: RejectionCode): void {
    this.#send(to, { type: "refusal", id, code });
  }

  #sendData(
    to: string,
    head:
      | { readonly type: "call"; readonly id: number; readonly timeoutMs: number }
      | { readonly type: "reply"; readonly id: number },
    data: Uint8Array,
  ): void {
    let part = 0;
    for (const bytes of partsOf(data)) {
      this.#send(to, { ...head, part: part++, size: data.length }, bytes);
    }
  }

  #send(to: string, head: CallHead, data?: Uint8Array): void {
    const payload = joinHead({ ...head, node: this.#nodes.id }, data);
    try {
      this.#nodes.broker.publish({ topic: this.#topic + to, payload });
    } catch (error) {
      // The broker may be closed before its nodes.
      if (!(error instanceof UnsupportedError)) throw error;
    }
  }
}

function callKey(node: string, id: number): string {
  return `${node} ${id}`;
}

function gone(node: string): NodeCallError {
  return new NodeCallError("gone", `the node ${node} is gone`);
}

function silent(node: string): NodeCallError {
  return new NodeCallError("silent", `the node ${node} sends no heartbeats`);
}

function tooMany(level: LimitLevel): string {
  return level === "server"
    ? `${MAX_CALLS} calls are in progress at this node already`
    : `too many calls for one ${level} are in progress at this node`;
}

function tooLarge(what: string, maxBytes: number, received: number): RangeError {
  return new RangeError(
    `Cannot call a node: the ${what} must have at most ${maxBytes} bytes, received ${received}`,
  );
}

function aborted(): DOMException {
  return new DOMException("The calling node gave up", "AbortError");
}

function closedError(): DOMException {
  return new DOMException("This node is closed", "AbortError");
}
