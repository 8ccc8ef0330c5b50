/** The round trip of a publication through the broker. */
import { type Broker, type BrokerSubscription, INTERNAL_PREFIX } from "../../pubsub/broker.ts";
import type { Runtime } from "../../base/runtime.ts";

/** Time after which a publication counts as lost, in milliseconds. */
const LOST_MS = 10_000;

/** Measures a broker by publications on a separate topic. */
export class BrokerEcho implements AsyncDisposable {
  readonly #broker: Broker;
  readonly #runtime: Runtime;
  readonly #topic: string;
  readonly #subscription: BrokerSubscription;
  #number = 0;
  /** The pending publication. */
  #sent: { readonly number: number; readonly at: number } | undefined;
  #latencyMs: number | undefined;
  #isReady = false;

  /** Subscribes to the topic. */
  constructor(broker: Broker, runtime: Runtime) {
    this.#broker = broker;
    this.#runtime = runtime;
    this.#topic = `${INTERNAL_PREFIX}inspect:${runtime.randomUUID()}`;
    this.#subscription = broker.subscribe(this.#topic, ({ payload }) => {
      if (this.#sent === undefined || payload !== String(this.#sent.number)) return;
      this.#latencyMs = runtime.monotonic() - this.#sent.at;
      this.#sent = undefined;
    });
    // `ready` rejects if the broker closes.
    this.#subscription.ready.then(() => this.#isReady = true, () => {});
  }

  /**
   * The newest round-trip time, in milliseconds, or the time waited so far if a publication is
   * late.
   */
  get latencyMs(): number | undefined {
    const waitedMs = this.#sent === undefined ? 0 : this.#runtime.monotonic() - this.#sent.at;
    return waitedMs > (this.#latencyMs ?? Infinity) ? waitedMs : this.#latencyMs;
  }

  /** Publishes once, unless a publication is pending. */
  measure(): void {
    const at = this.#runtime.monotonic();
    const isUnderWay = this.#sent !== undefined && at - this.#sent.at < LOST_MS;
    if (!this.#isReady || isUnderWay || this.#broker.status.current.name !== "connected") return;
    this.#sent = { number: ++this.#number, at };
    this.#broker.publish({ topic: this.#topic, payload: String(this.#number) });
  }

  /** Ends the subscription. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#subscription[Symbol.asyncDispose]();
  }
}
