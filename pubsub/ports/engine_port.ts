/** The thread that has the engine: the ports of workers, and the work that they ask for. */
import { textOf } from "../../base/error_text.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { type Broker, type BrokerSubscription, payloadBytes, type Publication } from "../broker.ts";
import { type Batch, PortLink } from "./link.ts";
import {
  ALL_CHANNELS,
  type CallName,
  cloneStatus,
  compact,
  compactPublication,
  compactRecords,
  costOf,
  type EngineOperation,
  failureOf,
  type WorkerOperation,
} from "./operations.ts";
import type { HistoryPage } from "../broker.ts";
import type { LogPage } from "../logs/log.ts";
import { recordBytes } from "../logs/rules.ts";

/** Waiting bytes of one worker above which all workers may post less. */
const BEHIND_BYTES = 8_388_608;

/**
 * Time for which a worker that handles nothing may slow the others down, in milliseconds. A handler
 * that computes for longer is a fault of one worker, and not to be paid by all.
 */
const STALLED_MS = 1_000;

/** Most waiting bytes of one worker; beyond that, its deliveries are dropped and read again. */
const MAX_WAITING_BYTES = 33_554_432;

/** All ports of one engine. */
export class EnginePorts {
  readonly #engine: Broker;
  readonly #runtime: Runtime;
  readonly #ports = new Set<EnginePort>();

  /**
   * Creates ports for an engine, which stays open.
   *
   * @param engine The engine.
   * @param runtime Runtime that has the timers.
   */
  constructor(engine: Broker, runtime: Runtime) {
    this.#engine = engine;
    this.#runtime = runtime;
  }

  /** Opens a port for one worker; `post` posts a batch to that worker. */
  open(post: (batch: Batch<EngineOperation>) => void): EnginePort {
    const port: EnginePort = new EnginePort({
      engine: this.#engine,
      runtime: this.#runtime,
      post,
      onBalance: () => this.#balance(),
      onEnd: () => {
        this.#ports.delete(port);
        this.#balance();
      },
    });
    this.#ports.add(port);
    return port;
  }

  /** Lets workers post less while one of them is behind. */
  #balance(): void {
    let isBehind = false;
    for (const port of this.#ports) isBehind ||= port.isBehind;
    for (const port of this.#ports) port.hold(isBehind);
  }
}

/** Options for {@linkcode EnginePort}. */
interface EnginePortOptions {
  readonly engine: Broker;
  readonly runtime: Runtime;
  readonly post: (batch: Batch<EngineOperation>) => void;
  /** Called when the worker falls behind, or catches up. */
  readonly onBalance: () => void;
  readonly onEnd: () => void;
}

/** One worker, as the thread of the engine has it. */
export class EnginePort {
  readonly #options: EnginePortOptions;
  readonly #link: PortLink<EngineOperation, WorkerOperation>;
  readonly #subscriptions = new Map<number, BrokerSubscription>();
  readonly #unobserve: () => void;
  /** Calls under way in the engine, bounded by those of the worker. */
  readonly #calls = new Set<Promise<void>>();
  #isBehind = false;
  #isStalled = false;
  #stall: Timer | undefined;
  #isEnded = false;

  /** Opens the port. */
  constructor(options: EnginePortOptions) {
    this.#options = options;
    const { engine, runtime, post } = options;
    this.#link = new PortLink({
      runtime,
      post,
      costOf,
      handle: (operations, done) => {
        for (const operation of operations) this.#handle(operation);
        done();
      },
      onCredit: () => this.#caughtUp(),
    });
    this.#unobserve = engine.status.observe((status) => {
      this.#send(["status", cloneStatus(status)]);
    });
  }

  /** True while the worker has more to handle than it should, and handles it. */
  get isBehind(): boolean {
    return this.#isBehind && !this.#isStalled;
  }

  /** Takes a batch of the worker. */
  take(batch: Batch<WorkerOperation>): void {
    if (!this.#isEnded) this.#link.take(batch);
  }

  /** Keeps the credit of the worker back, or gives it back. */
  hold(isHolding: boolean): void {
    this.#link.hold(isHolding);
  }

  /** Ends all subscriptions of the worker. Idempotent. */
  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#unobserve();
    for (const subscription of this.#subscriptions.values()) {
      void subscription[Symbol.asyncDispose]();
    }
    this.#subscriptions.clear();
    this.#link.drop(() => true);
    this.#options.runtime.clearTimeout(this.#stall);
    this.#options.onEnd();
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

  #publish(
    [, topic, payload, bytes, except]: WorkerOperation & readonly ["publish", ...unknown[]],
  ): void {
    const publication = { topic, payload, bytes };
    try {
      this.#options.engine.publish(
        except === undefined ? publication : { ...publication, except },
      );
    } catch (error) {
      this.#send(["refused", textOf(error)]);
    }
  }

  #subscribe(
    [, id, topic, bounds]: WorkerOperation & readonly ["subscribe", ...unknown[]],
  ): void {
    try {
      const subscription = this.#options.engine.subscribe(
        topic,
        (publication) => this.#deliver(id, publication),
        {
          ...(bounds === undefined ? {} : { history: bounds }),
          onInterrupted: () => this.#send(["interrupted", id]),
        },
      );
      this.#subscriptions.set(id, subscription);
      void subscription.ready.then(() => this.#send(["ready", id]));
    } catch (error) {
      this.#send(["refused", textOf(error)]);
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
    if (this.#link.waitingBytes > BEHIND_BYTES) this.#fellBehind();
  }

  #startCall([, id, name, , args]: WorkerOperation & readonly ["call", ...unknown[]]): void {
    const call = this.#call(id, name, args).finally(() => this.#calls.delete(call));
    this.#calls.add(call);
  }

  async #call(id: number, name: CallName, args: readonly unknown[]): Promise<void> {
    const [part, method] = name.split(".") as ["history" | "logs" | "store", string];
    const object = this.#options.engine[part] as
      | Readonly<Record<string, (...args: readonly unknown[]) => Promise<unknown>>>
      | undefined;
    try {
      const value = await object?.[method]?.(...args);
      const [result, bytes] = compactResult(name, value);
      this.#send(["result", id, bytes, result]);
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

  #send(operation: EngineOperation): void {
    if (!this.#isEnded) this.#link.send(operation);
  }

  #fellBehind(): void {
    if (this.#link.waitingBytes > MAX_WAITING_BYTES) {
      this.#link.drop(([name]) => name === "deliver");
      this.#send(["interrupted", ALL_CHANNELS]);
    }
    if (this.#isBehind) return;
    this.#isBehind = true;
    this.#awaitStall();
    this.#options.onBalance();
  }

  #caughtUp(): void {
    if (!this.#isBehind) return;
    this.#isStalled = false;
    this.#isBehind = this.#link.waitingBytes > BEHIND_BYTES / 2;
    this.#awaitStall();
    this.#options.onBalance();
  }

  /** Counts the worker as stalled unless credit comes back in time. */
  #awaitStall(): void {
    const { runtime, onBalance } = this.#options;
    runtime.clearTimeout(this.#stall);
    if (!this.#isBehind) return;
    this.#stall = runtime.setTimeout(() => {
      this.#isStalled = true;
      onBalance();
    }, STALLED_MS);
  }
}

/** Copies a result so that cloning is cheap, and counts the bytes. */
function compactResult(name: CallName, value: unknown): readonly [result: unknown, bytes: number] {
  if (name === "history.read") {
    const page = value as HistoryPage;
    const publications = page.publications.map(compactPublication);
    return [
      { ...page, publications },
      publications.reduce((sum, one) => sum + payloadBytes(one), 0),
    ];
  }
  if (name === "logs.read" && typeof value === "object") {
    const page = value as LogPage;
    const records = compactRecords(page.records);
    return [{ ...page, records }, recordBytes(records)];
  }
  return [value, 0];
}
