/** The broker of a worker, whose store is in another thread. */
import { abortable } from "@std/async/abortable";
import { BrokerError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
import { settlesWithin } from "../../base/wait.ts";
import {
  type Broker,
  type BrokerHistory,
  type BrokerStats,
  type BrokerStatus,
  type BrokerStore,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  checkNameBytes,
  payloadBytes,
  type Publication,
  type PublicationListener,
} from "../broker.ts";
import { BrokerLife } from "../broker/life.ts";
import { Listeners, ListenerTable } from "../broker/listeners.ts";
import { Pace } from "../broker/pace.ts";
import { type BrokerPart, type CallRow, compact, HISTORY, partOver, STORE } from "./calls.ts";
import { type Batch, PortLink } from "./link.ts";
import {
  ALL_CHANNELS,
  type BrokerFacts,
  type BrokerOperation,
  costOf,
  errorOf,
  type OperationOf,
  restoreStatus,
  type WorkerOperation,
} from "./operations.ts";

/** Maximum number of publications and calls that wait for credit. Beyond that, they are dropped. */
const MAX_WAITING = 100_000;

/** Maximum number of bytes of them. */
const MAX_WAITING_BYTES = 67_108_864;

/** Maximum number of calls without a result; further calls are rejected. */
const MAX_CALLS = 100_000;

/** Maximum size of a topic or key in bytes, which every broker of this toolkit accepts. */
const MAX_NAME_BYTES = 1_024;

/** Longest wait for the last results when closing, in milliseconds. */
const CLOSE_TIMEOUT_MS = 1_000;

/** The listeners for one topic, with or without a history. */
class PortChannel extends Listeners {
  readonly id: number;
  readonly topic: string;

  constructor(id: number, topic: string) {
    super();
    this.id = id;
    this.topic = topic;
  }
}

/** Options for {@linkcode PortBroker}. */
export interface PortBrokerOptions {
  /** Clocks and timers of this thread. */
  readonly runtime: Runtime;
  /** Properties of the broker, from `factsOf`. */
  readonly broker: BrokerFacts;
  /** Posts a batch to the broker's thread. */
  readonly post: (batch: Batch<WorkerOperation>) => void;
}

/**
 * The broker of a thread without a store. A `BrokerPort` in another thread owns the store, and
 * performs each operation there.
 *
 * - **Bounds:** at most 100,000 publications and 64 MiB can wait for the broker's thread. Further
 *   publications are dropped and counted in `stats.dropped`, and `append` then rejects. While
 *   another worker has fallen behind, the broker's thread accepts less, which slows down callers
 *   that await `append`.
 * - **Slow worker:** if this thread has more than 32 MiB to handle, the broker's thread drops
 *   further deliveries, and `onInterrupted` notifies every subscription that publications were
 *   missed.
 */
export class PortBroker implements Broker {
  /** Name of the broker. */
  readonly name: string;
  /** The broker's guarantee of delivery. */
  readonly delivery: Broker["delivery"];
  /** Options that all nodes should share. */
  readonly shared: Broker["shared"];
  /** State of the broker, as its thread reports it. */
  readonly status: StatusFeed<BrokerStatus>;
  readonly history: BrokerHistory | undefined;
  /** State that all workers share. */
  readonly store: BrokerStore | undefined;
  readonly #facts: BrokerFacts;
  /** Parts in use, by name. */
  readonly #parts = new Map<string, object | undefined>();
  readonly #life: BrokerLife;
  readonly #runtime: Runtime;
  readonly #link: PortLink<WorkerOperation, BrokerOperation>;
  readonly #pace: Pace;
  readonly #listeners = new ListenerTable<PortChannel>({ onLast: ({ id }) => this.#leave(id) });
  /** Channels by id, bounded by the table above. */
  readonly #channels = new Map<number, PortChannel>();
  readonly #calls = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #ended = Promise.withResolvers<void>();
  #lastId: number = ALL_CHANNELS;
  #dropped = 0;
  #rejected = 0;
  #rejection = "";

  /** @param options See {@linkcode PortBrokerOptions}. */
  constructor({ runtime, broker, post }: PortBrokerOptions) {
    this.#facts = broker;
    this.#runtime = runtime;
    this.name = broker.name;
    this.delivery = broker.delivery;
    this.shared = broker.shared;
    this.#life = new BrokerLife(runtime, {
      broker: `The ${broker.name} broker`,
      backlog: "operations wait for the main thread",
      status: restoreStatus(broker.status),
    });
    this.status = this.#life.status;
    this.#pace = new Pace(runtime);
    this.#link = new PortLink({
      runtime,
      post,
      costOf,
      handle: (operations, done) => {
        for (const operation of operations) {
          this.#pace.take(costOf(operation), () => this.#handle(operation));
        }
        this.#pace.take(0, done);
      },
    });
    this.history = this.part(HISTORY);
    this.store = this.part(STORE);
  }

  /** Counters of this thread. */
  get stats(): BrokerStats {
    const [waiting, dropped] = [this.#link.waiting, this.#dropped];
    return { ...this.#life.counts, waiting, dropped };
  }

  /**
   * Describes the current problems: an unreachable broker, rejections, and many waiting operations.
   */
  issues(): string[] {
    const { waiting } = this.#link;
    const issues = this.#life.issues({ waiting, maxWaiting: MAX_WAITING });
    if (this.#rejected > 0) {
      issues.push(
        `The broker rejected ${this.#rejected} operations, the last one: ${this.#rejection}`,
      );
    }
    return issues;
  }

  /**
   * Returns a part of the broker, whose calls the broker's thread makes.
   *
   * @returns The part; `undefined` if the broker lacks it.
   */
  part<T extends object>(part: BrokerPart<T>): T | undefined {
    const { name } = part;
    if (!this.#parts.has(name)) {
      const rows = part.calls as Readonly<Record<string, CallRow>>;
      const facts = this.#facts.parts[name];
      const made = facts && partOver(facts, (method, args) => {
        return this.#call(`${name}.${method}`, rows[method]!, args);
      });
      this.#parts.set(name, made);
    }
    return this.#parts.get(name) as T | undefined;
  }

  /** Handles a batch from the broker's thread. */
  take(batch: Batch<BrokerOperation>): void {
    this.#link.take(batch);
  }

  /**
   * Publishes to every worker, on a topic without history.
   *
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 1,024 bytes.
   */
  publish(publication: Publication): void {
    this.#life.checkOpen("publish");
    const { topic, except } = publication;
    checkNameBytes(topic, MAX_NAME_BYTES);
    const bytes = payloadBytes(publication);
    if (!this.#hasRoom(bytes)) {
      this.#dropped++;
      return;
    }
    this.#life.published++;
    const payload = compact(publication.payload);
    this.#link.send(
      except === undefined
        ? ["publish", topic, payload, bytes]
        : ["publish", topic, payload, bytes, except],
    );
  }

  /**
   * Subscribes this thread to a topic.
   *
   * @param listener Receives the publications of the topic.
   * @param options The bounds of a history, and a callback for interruptions.
   * @returns The subscription, which is ready once the broker has confirmed it.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 1,024 bytes.
   */
  subscribe(
    topic: string,
    listener: PublicationListener,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    this.#life.checkOpen("subscribe");
    checkNameBytes(topic, MAX_NAME_BYTES);
    const key = `${options.history === undefined ? "plain" : "kept"} ${topic}`;
    return this.#listeners.subscribe(key, listener, {
      ...options,
      make: () => this.#open(topic, options.history),
    });
  }

  /** Ends all subscriptions, and waits up to a second for the results of calls. Idempotent. */
  close(): Promise<void> {
    return this.#life.close(() => this.#close());
  }

  /** Closes the broker; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#listeners.clear();
    this.#channels.clear();
    this.#link.send(["end"]);
    this.#link.flush();
    await settlesWithin(this.#runtime, this.#ended.promise, CLOSE_TIMEOUT_MS);
    for (const { reject } of this.#calls.values()) {
      reject(new BrokerError("Cannot wait for the main thread: the broker is closed"));
    }
    this.#calls.clear();
    this.status.end({ name: "closed" });
  }

  #open(topic: string, history: BrokerSubscribeOptions["history"]): PortChannel {
    const channel = new PortChannel(++this.#lastId, topic);
    this.#channels.set(channel.id, channel);
    this.#link.send(["subscribe", channel.id, topic, history]);
    return channel;
  }

  #leave(id: number): void {
    this.#channels.delete(id);
    this.#link.send(["unsubscribe", id]);
  }

  /** Calls the broker. Handles names, bounds and signals for all calls. */
  async #call(
    name: string,
    { pack, counts }: CallRow,
    args: readonly unknown[],
  ): Promise<unknown> {
    const [first] = args;
    const topic = typeof first === "string" ? first : (first as Partial<Publication>).topic;
    if (topic !== undefined) checkNameBytes(topic, MAX_NAME_BYTES);
    this.#life.checkCall(`call ${name}`);
    const signal = signalOf(args);
    signal?.throwIfAborted();
    const sent = signal === undefined ? args : withoutSignal(args);
    const [packed, bytes] = pack?.(...sent) ?? [sent, 0];
    if (this.#calls.size >= MAX_CALLS || !this.#hasRoom(bytes)) {
      this.#dropped++;
      throw new BrokerError(
        `Cannot call ${name}: too many operations wait for the main thread`,
      );
    }
    const call = Promise.withResolvers<unknown>();
    const id = ++this.#lastId;
    this.#calls.set(id, call);
    this.#link.send(["call", id, name, bytes, packed]);
    const result = await (signal ? abortable(call.promise, signal) : call.promise);
    if (counts !== undefined) this.#life[counts]++;
    return result;
  }

  #handle(operation: BrokerOperation): void {
    switch (operation[0]) {
      case "deliver":
        return this.#deliver(operation);
      case "ready":
        return this.#channels.get(operation[1])?.live();
      case "interrupted":
        return this.#interrupt(operation[1]);
      case "result":
        return this.#takeCall(operation[1])?.resolve(operation[3]);
      case "failure":
        return this.#takeCall(operation[1])?.reject(errorOf(operation));
      case "rejected":
        this.#rejected++;
        this.#dropped++;
        this.#rejection = operation[1];
        return;
      case "status":
        return this.#setStatus(restoreStatus(operation[1]));
      case "ended":
        return this.#ended.resolve();
    }
  }

  #deliver(operation: OperationOf<BrokerOperation, "deliver">): void {
    const [, id, payload, bytes, except, epoch, offset = 0, prev = 0, tag] = operation;
    const channel = this.#channels.get(id);
    if (channel === undefined) return;
    this.#life.received++;
    channel.deliver({
      topic: channel.topic,
      payload,
      bytes,
      except,
      position: epoch === undefined ? undefined : { epoch, offset, prev, tag },
    });
  }

  #interrupt(id: number): void {
    if (id !== ALL_CHANNELS) return this.#channels.get(id)?.interrupt();
    this.#life.interruptions++;
    for (const channel of [...this.#channels.values()]) channel.interrupt();
  }

  #setStatus(status: BrokerStatus): void {
    if (status.name === "interrupted") this.#life.interrupted(status.error, status);
    else if (status.name === "connected") this.#life.connected();
    else this.status.set(status);
  }

  #takeCall(id: number): PromiseWithResolvers<unknown> | undefined {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    return call;
  }

  #hasRoom(bytes: number): boolean {
    const { waiting, waitingBytes } = this.#link;
    return waiting < MAX_WAITING && waitingBytes + bytes <= MAX_WAITING_BYTES;
  }
}

function signalOf(args: readonly unknown[]): AbortSignal | undefined {
  return (args.at(-1) as { readonly signal?: AbortSignal } | undefined)?.signal;
}

function withoutSignal(args: readonly unknown[]): readonly unknown[] {
  const { signal: _none, ...options } = args.at(-1) as { readonly signal: AbortSignal };
  return [...args.slice(0, -1), options];
}
