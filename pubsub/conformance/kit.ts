/** Helpers for the conformance tests of brokers. */
import { SkeinError } from "../../errors.ts";
import type { Broker, BrokerSubscribeOptions, BrokerSubscription, Publication } from "../broker.ts";

/** Brokers and helpers of one test. */
export interface TestKit {
  /** A prefix for topics and keys that no other run on the same broker uses. */
  readonly id: string;
  /** The broker that publishes. */
  readonly near: Broker;
  /** The broker of another node, or the same broker. */
  readonly far: Broker;
  /** Subscribes, and waits until the subscription is in force. */
  listen(broker: Broker, topic: string, options?: BrokerSubscribeOptions): Promise<Received>;
  /** The time of the test, in milliseconds since an arbitrary moment. */
  nowMs(): number;
  /** Waits until this time has passed for the brokers. */
  pass(ms: number): Promise<void>;
}

export type Test = (bench: TestKit) => Promise<void>;

/** A subscription, and the publications received so far. */
export class Received {
  readonly publications: Publication[] = [];
  readonly subscription: BrokerSubscription;
  readonly #topic: string;
  readonly #withinMs: number;
  #wake: (() => void) | undefined;

  private constructor(
    broker: Broker,
    topic: string,
    withinMs: number,
    options: BrokerSubscribeOptions,
  ) {
    this.#topic = topic;
    this.#withinMs = withinMs;
    this.subscription = broker.subscribe(topic, (publication) => {
      this.publications.push(publication);
      this.#wake?.();
    }, options);
  }

  /** Subscribes, and waits until the subscription is in force. */
  static async on(
    broker: Broker,
    topic: string,
    withinMs: number,
    options: BrokerSubscribeOptions = {},
  ): Promise<Received> {
    const received = new Received(broker, topic, withinMs, options);
    await received.#within(received.subscription.ready, () => "its subscription was not ready");
    return received;
  }

  /** The payloads received so far. */
  get payloads(): Publication["payload"][] {
    return this.publications.map(({ payload }) => payload);
  }

  /** Waits for a publication with this payload, and so for all earlier ones on the same topic. */
  async until(payload: string): Promise<void> {
    const arrived = new Promise<void>((resolve) => {
      this.#wake = () => {
        if (this.publications.at(-1)?.payload === payload) resolve();
      };
      if (this.payloads.includes(payload)) resolve();
    });
    await this.#within(
      arrived,
      () => `${show(payload)} did not arrive, only ${this.publications.length} others`,
    );
  }

  async #within(promise: Promise<void>, message: () => string): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`${show(this.#topic)}: ${message()} within ${this.#withinMs} ms`)),
        this.#withinMs,
      );
    });
    await Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }
}

/** Throws unless two values are the same, as JSON. */
export function same(actual: unknown, expected: unknown, what: string): void {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (left !== right) throw new Error(`Expected ${what} to be ${right}, received ${left}`);
}

/** Throws unless a call throws a `SkeinError` with code `unsupported`. */
export function throws(act: () => unknown): void {
  try {
    act();
  } catch (error) {
    if (error instanceof SkeinError && error.code === "unsupported") return;
    throw new Error('Expected a SkeinError with code "unsupported"', { cause: error });
  }
  throw new Error('Expected a SkeinError with code "unsupported", but nothing was thrown');
}

/** Names of 8 KiB: plain ASCII, characters that brokers escape, and many parts. */
export const HUGE_NAMES: readonly [string, string, string] = [
  "x".repeat(8_192),
  "ü".repeat(4_096),
  "x:".repeat(4_096),
];

/**
 * True if a call succeeds; false if it rejects with a `RangeError`, as it must for a name that is
 * too long.
 */
export async function isTaken(act: () => unknown): Promise<boolean> {
  try {
    await act();
    return true;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw new Error("Expected a RangeError or none", { cause: error });
  }
}

/** Throws if `act` makes another topic lose publications, or a broker lose its connection. */
export async function undisturbed(
  { id, near, far, listen }: TestKit,
  act: () => Promise<void>,
): Promise<void> {
  const received = await listen(far, id);
  near.publish({ topic: id, payload: "before" });
  await received.until("before");
  await act();
  near.publish({ topic: id, payload: "after" });
  await received.until("after");
  for (const broker of new Set([near, far])) {
    same(broker.status.current.name, "connected", "the status");
    same(broker.stats.interruptions, 0, "the number of outages");
    same(broker.stats.dropped, 0, "the number of dropped publications");
  }
}

/** Formats a value for an error text. */
export function show(value: unknown): string {
  const text = value instanceof Uint8Array ? `${value.length} bytes` : JSON.stringify(value);
  return text === undefined || text.length <= 80 ? String(text) : `${text.slice(0, 80)}…`;
}
