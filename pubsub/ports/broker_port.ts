/** The thread that runs the broker: the workers' ports, and the work that they request. */
import { textOf } from "../../base/error_text.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { type Broker, type BrokerSubscription, payloadBytes, type Publication } from "../broker.ts";
import { type AnyPart, callPart, compact, HISTORY, type Packed, STORE } from "./calls.ts";
import { type Batch, PortLink } from "./link.ts";
import {
  ALL_CHANNELS,
  type BrokerFacts,
  type BrokerOperation,
  cloneStatus,
  costOf,
  factsOf,
  failureOf,
  type OperationOf,
  type WorkerOperation,
} from "./operations.ts";

/** Number of waiting bytes of one worker above which all workers may post less. */
const BEHIND_BYTES = 8_388_608;

/**
 * Time for which a worker that handles nothing may slow down the others, in milliseconds. If a
 * handler computes for longer, that is one worker's fault, and must not slow down all workers.
 */
const STALLED_MS = 1_000;

/**
 * Maximum number of waiting bytes of one worker. Beyond that, its deliveries are dropped and read
 * again.
 */
const MAX_WAITING_BYTES = 33_554_432;

export class BrokerPorts {
  readonly broker: Broker;
  /** Provides the timers. */
  readonly runtime: Runtime;
  readonly #parts: ReadonlyMap<string, AnyPart>;
  readonly #ports = new Set<BrokerPort>();

  /**
   * @param runtime Provides the timers.
   * @param parts Parts for features in workers, in addition to histories and the store.
   */
  constructor(broker: Broker, runtime: Runtime, parts: readonly AnyPart[] = []) {
    this.broker = broker;
    this.runtime = runtime;
    this.#parts = new Map([HISTORY, STORE, ...parts].map((part) => [part.name, part]));
  }

  /** The properties that a new worker needs. */
  get facts(): BrokerFacts {
    return factsOf(this.broker, [...this.#parts.values()]);
  }

  /** Makes a call of a worker, and packs the result. */
  async call(name: string, args: readonly unknown[]): Promise<Packed<unknown>> {
    const [of, method] = name.split(".") as [string, string];
    const part = this.#parts.get(of);
    const result = part && await callPart(this.broker, part, method, args);
    return part?.calls[method]?.packResult?.(result) ?? [result, 0];
  }

  /** Opens a port for one worker. `post` posts a batch to that worker. */
  open(post: (batch: Batch<BrokerOperation>) => void): BrokerPort {
    const port = new BrokerPort(this, post);
    this.#ports.add(port);
    return port;
  }

  /** Makes workers post less while one of them is behind. */
  balance(): void {
    let isBehind = false;
    for (const port of this.#ports) isBehind ||= port.isBehind;
    for (const port of this.#ports) port.hold(isBehind);
  }

  remove(port: BrokerPort): void {
    this.#ports.delete(port);
    this.balance();
  }
}

/** One worker, as seen from the thread of the broker. */
export class BrokerPort {
  readonly #ports: BrokerPorts;
  readonly #link: PortLink<BrokerOperation, WorkerOperation>;
  readonly #subscriptions = new Map<number, BrokerSubscription>();
  readonly #unobserve: () => void;
  /** In-flight calls to the store, bounded by `MAX_CALLS` of the worker's broker. */
  readonly #calls = new Set<Promise<void>>();
  #isBehind = false;
  #isStalled = false;
  #stall: Timer | undefined;
  #isEnded = false;

  constructor(ports: BrokerPorts, post: (batch: Batch<BrokerOperation>) => void) {
    this.#ports = ports;
    this.#link = new PortLink({
      runtime: ports.runtime,
      post,
      costOf,
      handle: (operations, done) => {
        for (const operation of operations) this.#handle(operation);
        done();
      },
      onCredit: () => this.#catchUp(),
    });
    this.#unobserve = ports.broker.status.observe((status) => {
      this.#send(["status", cloneStatus(status)]);
    });
  }

  /** True while the worker has too much to handle but is making progress. */
  get isBehind(): boolean {
    return this.#isBehind && !this.#isStalled;
  }

  /** Handles a batch from the worker. */
  take(batch: Batch<WorkerOperation>): void {
    if (!this.#isEnded) this.#link.take(batch);
  }

  /** Withholds the worker's credit, or returns it. */
  hold(isHolding: boolean): void {
    this.#link.hold(isHolding);
  }

  /** Ends all subscriptions of the worker. Idempotent. */
  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#unobserve();
    for (const id of this.#subscriptions.keys()) this.#unsubscribe(id);
    this.#link.drop(() => true);
    this.#ports.runtime.clearTimeout(this.#stall);
    this.#ports.remove(this);
  }

  #handle(operation: WorkerOperation): void {
    switch (operation[0]) {
      case "publish":
        return this.#publish(operation);
      case "subscribe":
        return this.#subscribe(operation);
      case "unsubscribe":
        return this.#unsubscribe(operation[1]);
      case "call":
        return this.#startCall(operation);
      case "end":
        return void this.#finish();
    }
  }

  #publish([, topic, payload, bytes, except]: OperationOf<WorkerOperation, "publish">): void {
    try {
      this.#ports.broker.publish({ topic, payload, bytes, except });
    } catch (error) {
      this.#send(["rejected", textOf(error)]);
    }
  }

  #subscribe([, id, topic, history]: OperationOf<WorkerOperation, "subscribe">): void {
    const deliver = (publication: Publication) => this.#deliver(id, publication);
    const options = { history, onInterrupted: () => this.#send(["interrupted", id]) };
    try {
      const subscription = this.#ports.broker.subscribe(topic, deliver, options);
      this.#subscriptions.set(id, subscription);
      void subscription.ready.then(() => this.#send(["ready", id]));
    } catch (error) {
      this.#send(["rejected", textOf(error)]);
      this.#send(["ready", id]);
    }
  }

  #unsubscribe(id: number): void {
    void this.#subscriptions.get(id)?.[Symbol.asyncDispose]();
    this.#subscriptions.delete(id);
  }

  #deliver(id: number, publication: Publication): void {
    const { except, position } = publication;
    const bytes = payloadBytes(publication);
    const payload = compact(publication.payload);
    if (position !== undefined) {
      const { epoch, offset, prev, tag } = position;
      this.#send(["deliver", id, payload, bytes, except, epoch, offset, prev, tag]);
    } else if (except !== undefined) this.#send(["deliver", id, payload, bytes, except]);
    else this.#send(["deliver", id, payload, bytes]);
    if (this.#link.waitingBytes > BEHIND_BYTES) this.#fallBehind();
  }

  #startCall(operation: OperationOf<WorkerOperation, "call">): void {
    const call = this.#call(operation).finally(() => this.#calls.delete(call));
    this.#calls.add(call);
  }

  async #call([, id, name, , args]: OperationOf<WorkerOperation, "call">): Promise<void> {
    try {
      const [packed, bytes] = await this.#ports.call(name, args);
      this.#send(["result", id, bytes, packed]);
    } catch (error) {
      this.#send(failureOf(id, error));
    }
  }

  /** Ends after the calls that the worker still waits for. */
  async #finish(): Promise<void> {
    await Promise.all(this.#calls);
    this.#send(["ended"]);
    this.#link.flush();
    this.end();
  }

  #send(operation: BrokerOperation): void {
    if (!this.#isEnded) this.#link.send(operation);
  }

  #fallBehind(): void {
    if (this.#link.waitingBytes > MAX_WAITING_BYTES) {
      this.#link.drop(([name]) => name === "deliver");
      this.#send(["interrupted", ALL_CHANNELS]);
    }
    if (!this.#isBehind) this.#setBehind(true);
  }

  #catchUp(): void {
    if (!this.#isBehind) return;
    this.#isStalled = false;
    this.#setBehind(this.#link.waitingBytes > BEHIND_BYTES / 2);
  }

  /** Counts a worker that is behind as stalled unless it returns credit in time. */
  #setBehind(isBehind: boolean): void {
    const { runtime } = this.#ports;
    this.#isBehind = isBehind;
    runtime.clearTimeout(this.#stall);
    if (isBehind) {
      this.#stall = runtime.setTimeout(() => {
        this.#isStalled = true;
        this.#ports.balance();
      }, STALLED_MS);
    }
    this.#ports.balance();
  }
}
