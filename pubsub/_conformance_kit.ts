/**
 * What the tests of a broker work with.
 *
 * @module
 */
import { SkeinError } from "../errors.ts";
import type { Broker, BrokerSubscribeOptions, BrokerSubscription, Publication } from "./broker.ts";

/** What one test works with. */
export interface TestKit {
  /** A prefix that no other run on the same engine has. */
  readonly id: string;
  /** Publishes. */
  readonly near: Broker;
  /** Another node, or the same one. */
  readonly far: Broker;
  /** Subscribes, and waits until the subscription is in force. */
  listen(broker: Broker, topic: string, options?: BrokerSubscribeOptions): Promise<Heard>;
}

/** One test. */
export type Test = (bench: TestKit) => Promise<void>;

/** What a subscription heard so far. */
export class Heard {
  /** What was heard. */
  readonly publications: Publication[] = [];
  /** The subscription. */
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
  ): Promise<Heard> {
    const heard = new Heard(broker, topic, withinMs, options);
    await heard.#within(heard.subscription.ready, () => "its subscription was not ready");
    return heard;
  }

  /** What was heard, without the rest. */
  get payloads(): Publication["payload"][] {
    return this.publications.map(({ payload }) => payload);
  }

  /** Waits for a publication with this payload: what was published before it is here then. */
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

/** Throws unless a call throws that it is not supported. */
export function throws(act: () => unknown): void {
  try {
    act();
  } catch (error) {
    if (error instanceof SkeinError && error.code === "unsupported") return;
    throw new Error('Expected a SkeinError with code "unsupported"', { cause: error });
  }
  throw new Error('Expected a SkeinError with code "unsupported", but nothing was thrown');
}

/** Names of 8 KiB: of ASCII, of characters that engines escape, and of many parts. */
export const HUGE_NAMES: readonly [string, string, string] = [
  "x".repeat(8_192),
  "ü".repeat(4_096),
  "x:".repeat(4_096),
];

/** Tells whether a call is done; `false` if it is refused with a `RangeError`, as a long name must be. */
export async function isTaken(act: () => unknown): Promise<boolean> {
  try {
    await act();
    return true;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw new Error("Expected a RangeError or none", { cause: error });
  }
}

/** Throws if topics beside it lose publications, or a connection, while something runs. */
export async function undisturbed(
  { id, near, far, listen }: TestKit,
  act: () => Promise<void>,
): Promise<void> {
  const heard = await listen(far, id);
  near.publish({ topic: id, payload: "before" });
  await heard.until("before");
  await act();
  near.publish({ topic: id, payload: "after" });
  await heard.until("after");
  for (const broker of new Set([near, far])) {
    same(broker.status.current.name, "connected", "the status");
    same(broker.stats.interruptions, 0, "how often the engine went away");
    same(broker.stats.dropped, 0, "how many publications were given up");
  }
}

/** A value, for an error. */
export function show(value: unknown): string {
  const text = value instanceof Uint8Array ? `${value.length} bytes` : JSON.stringify(value);
  return text === undefined || text.length <= 80 ? String(text) : `${text.slice(0, 80)}…`;
}
