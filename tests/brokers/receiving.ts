/**
 * Records deliveries for tests of brokers.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import process from "node:process";
import type {
  Appended,
  Broker,
  BrokerStatus,
  BrokerSubscription,
  HistoryBounds,
  Publication,
  TopicHistory,
} from "../../pubsub/broker.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { Client } from "../../pubsub/clients_fixture.ts";
import { Topics } from "../../pubsub/topics.ts";
import { until } from "../waiting.ts";
import type { HistoryPosition, SubscribeReply } from "../../session/wire/recovery.ts";

/** The longest wait for an event, in milliseconds. */
const PATIENCE_MS = 40_000;

/** History bounds that no test reaches. */
export const BOUNDS: HistoryBounds = { size: 100_000, ttlMs: 600_000, bytes: 100_000_000 };

/** Records the deliveries of a subscription and counts its interruptions. */
export class Hearing implements AsyncDisposable {
  readonly publications: Publication[] = [];
  readonly #subscription: BrokerSubscription;
  #interruptions = 0;
  #wake = Promise.withResolvers<void>();

  constructor(broker: Broker, topic: string, history?: HistoryBounds) {
    this.#subscription = broker.subscribe(topic, (publication) => {
      this.publications.push(publication);
      this.#wake.resolve();
    }, {
      onInterrupted: () => {
        this.#interruptions++;
        this.#wake.resolve();
      },
      ...(history === undefined ? {} : { history }),
    });
  }

  get ready(): Promise<void> {
    return this.#subscription.ready;
  }

  get payloads(): Publication["payload"][] {
    return this.publications.map(({ payload }) => payload);
  }

  /** The epochs, in order of arrival. */
  get epochs(): string[] {
    return [...new Set(this.publications.map(({ position }) => position!.epoch))];
  }

  /** Waits for a number of publications. */
  count(count: number): Promise<void> {
    return this.until(() => this.publications.length >= count);
  }

  /** Waits for a number of interruptions. */
  interrupted(count: number): Promise<void> {
    return this.until(() => this.#interruptions >= count);
  }

  /** Waits until a condition holds; checks it after each delivery. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      this.#wake = Promise.withResolvers();
      await deadline(this.#wake.promise, PATIENCE_MS);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#subscription[Symbol.asyncDispose]();
  }
}

/** Returns the runtime of a node whose clock is off by the given number of milliseconds. */
export function clockOff(byMs: number): Runtime {
  return Object.assign(platformRuntime(), { now: () => Date.now() + byMs });
}

/** Returns a position without the tag, which differs in each run. */
export function untagged(appended: Appended | undefined): Appended {
  const { position } = appended ?? {};
  return position === undefined
    ? {}
    : { position: { epoch: position.epoch, offset: position.offset } };
}

/** Appends the numbers 0, 1, 2 and so on. The returned positions have no tags. */
export async function append(
  broker: Broker,
  topic: string,
  count: number,
  { bounds = BOUNDS, payloadOf = (i: number): string => `${i}` }: {
    readonly bounds?: TopicHistory;
    readonly payloadOf?: (i: number) => string;
  } = {},
): Promise<Appended[]> {
  const appended = await Promise.all(Array.from({ length: count }, (_, i) => {
    return broker.history!.append({ topic, payload: payloadOf(i) }, { bounds });
  }));
  return appended.map(untagged);
}

/**
 * Reads what a subscription recovers from a position, on a node that has not received any
 * publication of the topic yet.
 */
export async function recover(
  broker: Broker,
  topic: string,
  since: HistoryPosition,
): Promise<SubscribeReply> {
  await using topics = new Topics({ broker, history: { [topic]: BOUNDS } });
  await using client = new Client(topics.flusher);
  client.subscribe(topics, topic, { since });
  const reply = () => client.lines.find((line) => line.topic === "reply");
  await until(() => reply() !== undefined);
  return reply()!.data as SubscribeReply;
}

/** Repeats a call until the store replies. */
export async function answered<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
      await delay(2);
    }
  }
}

/** Waits until a broker has a status. */
export async function statusIs(broker: Broker, name: BrokerStatus["name"]): Promise<void> {
  const reached = async () => {
    for await (const status of broker.status) if (status.name === name) return;
  };
  await deadline(reached(), PATIENCE_MS);
}

/**
 * Resolves when no timer is running. Some timers of client libraries cannot be cancelled: after
 * large replies, the Redis parser runs a timer that all connections share, and an attempt to
 * connect to NATS cannot be stopped.
 */
export async function noTimers(): Promise<void> {
  const before = performance.now() + PATIENCE_MS;
  while (process.getActiveResourcesInfo().includes("Timeout") && performance.now() < before) {
    await delay(20);
  }
}
