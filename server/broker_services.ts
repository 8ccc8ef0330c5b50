/**
 * Services for which a server uses its broker: the numbers of handled messages, counts across all
 * nodes, and console lines while the broker is unreachable.
 */
import { BrokerError, RequestError } from "../errors.ts";
import { TokenBucket } from "../base/quotas/token_bucket.ts";
import type { Broker } from "../pubsub/broker.ts";
import { MemoryStore } from "../pubsub/memory/broker.ts";
import type { Nodes } from "../pubsub/nodes/nodes.ts";
import type { Runtime } from "../base/runtime.ts";
import type { ProducerStore } from "../session/serving/producers.ts";
import type { SequenceStore } from "../session/serving/sequences.ts";
import type { Session } from "../session/session.ts";
import { MAX_NAME_LENGTH } from "../session/wire/envelope.ts";
import { DecisionFault, tellFault } from "../base/decision.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import { UserClaims } from "./admission/user_limit.ts";
import type { SharedCounts } from "../manager/shared_counts.ts";
import type { ManagerLimits } from "../manager/limits.ts";

/**
 * Time for which the messages of a client with `delivery: "at-least-once"` are remembered after its
 * last message, in milliseconds. It is longer than a client is usually disconnected, and short
 * enough to hold one row per client in memory.
 */
export const DEDUPE_WINDOW_MS = 300_000;

/** Time for which a node that crashed still counts as handling a client, in milliseconds. */
const CLAIM_MS = 4_000;

/**
 * Time for which the row of a producer is remembered after its last message, in milliseconds: as long
 * as a client keeps what it could not send.
 */
export const PRODUCER_WINDOW_MS = 604_800_000;

/**
 * Time for which a publication on a topic with a history counts as recent, in milliseconds. It is
 * shorter than the time for which histories recognize numbers, because the append may have started
 * later.
 */
export const RECENT_MS = 90_000;

/**
 * Rate at which a user, or a network of guests, may create producers. A page creates one when it is
 * loaded, and its row is stored for a week.
 */
export const NEW_PRODUCERS = { perSecond: 0.1, burst: 1_024 };

/** Maximum number of owners whose rates are remembered. The oldest is forgotten first. */
export const MAX_PRODUCER_OWNERS = 10_000;

/**
 * Number of rejected publications of a producer that are remembered, in case their replies are lost.
 * It is twice as high as the number of publications that Skein's client sends without a reply.
 */
const MAX_REJECTED = 64;

/** Options for {@linkcode numberStores}. */
export interface NumberStoresOptions {
  readonly runtime: Runtime;
  readonly broker: Broker;
  /** `true` if other nodes also use the broker. */
  readonly isShared: boolean;
  /** Names the client that a session belongs to, for the share of the numbers. */
  readonly ownerOf: (session: Session) => string;
}

/** Where the newest numbers of clients are stored. */
export interface NumberStores {
  readonly sequences: SequenceStore;
  readonly producers: ProducerStore;
}

/** Keeps the message numbers in the broker's store, or on this node if the broker has no store. */
export function numberStores(options: NumberStoresOptions): NumberStores {
  const { runtime, broker, isShared, ownerOf } = options;
  const node = runtime.randomUUID();
  const own = new MemoryStore(runtime);
  const store = () => broker.store ?? own;
  const newProducers = new OwnerRates(runtime);
  const shared = {
    claimMs: isShared ? CLAIM_MS : Infinity,
    claim: async (client: string) =>
      !isShared || await store().claim(`handling:${client}`, node, { max: 1, ttlMs: CLAIM_MS }),
    release: async (client: string) => {
      if (isShared) await store().release(`handling:${client}`, node);
    },
    ownerOf,
  };
  const long = PRODUCER_WINDOW_MS;
  return {
    sequences: {
      ...shared,
      newest: (client) => store().newest(`seq:${client}`, DEDUPE_WINDOW_MS),
      advance: (client, number, owner) =>
        store().advance(`seq:${client}`, number, DEDUPE_WINDOW_MS, { owner }),
    },
    producers: {
      ...shared,
      isRequired: true,
      // Keys of their own, because a client may have the name of a producer.
      claim: (producer) => shared.claim(`producer:${producer}`),
      release: (producer) => shared.release(`producer:${producer}`),
      newest: (producer) => store().newest(`producer:${producer}`, long),
      advance: (producer, number, owner) =>
        store().advance(`producer:${producer}`, number, long, { owner }),
      epochOf: async (producer) => Math.max(0, await store().newest(`epoch:${producer}`, long)),
      takeOver: async (producer, epoch, owner) => {
        await store().advance(`epoch:${producer}`, epoch, long, { owner });
      },
      admit: (session) => newProducers.take(ownerOf(session)),
      noteBegun: async (producer) => {
        await store().claim(`begun:${producer}`, "", { max: 1, ttlMs: RECENT_MS });
      },
      hasJustBegun: async (producer) => (await store().claims(`begun:${producer}`)).length > 0,
      noteRejected: async (producer, number, code) => {
        const member = `${number} ${code.slice(0, MAX_NAME_LENGTH)}`;
        const options = { max: MAX_REJECTED, ttlMs: DEDUPE_WINDOW_MS };
        await store().claim(`rejected:${producer}`, member, options);
      },
      rejectedOf: async (producer) => {
        const rejected = await store().claims(`rejected:${producer}`);
        return new Map(rejected.map((member) => {
          const [number = "", ...code] = member.split(" ");
          return [Number(number), code.join(" ")];
        }));
      },
    },
  };
}

/** The rates at which owners create producers on this node. */
class OwnerRates {
  readonly #runtime: Runtime;
  /** In the order of their last use. */
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  take(owner: string): void {
    const now = this.#runtime.now();
    const bucket = this.#buckets.get(owner) ?? new TokenBucket(NEW_PRODUCERS, now);
    const retryAfterMs = bucket.waitMs(1, now);
    if (retryAfterMs > 0) {
      const message = "Too many new producers of the user or the network";
      throw new RequestError("too-many", message, { retryAfterMs });
    }
    bucket.take(1, now);
    this.#buckets.delete(owner);
    this.#buckets.set(owner, bucket);
    for (const [oldest, other] of this.#buckets) {
      if (this.#buckets.size <= MAX_PRODUCER_OWNERS && !other.isFull(now)) return;
      this.#buckets.delete(oldest);
    }
  }
}

/** Longest wait for the first response of a broker, in milliseconds. */
const START_MS = 5_000;

/**
 * Prints that the broker is unreachable, unless the application iterates over its `status` or has
 * subscribed to it.
 *
 * @param broker The broker; it is not closed.
 * @param console Prints each cause once.
 * @returns Stops watching on disposal.
 */
export function reportBroker(
  runtime: Runtime,
  broker: Broker,
  console: ConsoleReport,
): Disposable {
  const { status, name } = broker;
  let wasThere = false;
  const tell = () => {
    if (status.isObserved) return;
    const since = wasThere ? "became unreachable" : "has not been reached since the start";
    const what = broker.issues().join("; ") || `The broker ${name} ${since}`;
    const { current } = status;
    const rest = current.name === "interrupted" && current.rejects
      ? "Publications on topics with a history are rejected meanwhile"
      : "Publications wait within the broker's bounds, and the broker keeps trying";
    console.tell(wasThere ? "broker-away" : "broker-unreached", `${what}. ${rest}`);
  };
  const timer = runtime.setTimeout(() => {
    if (status.current.name === "connecting") tell();
  }, START_MS);
  const failing = failIfUnusable(broker);
  const unsubscribe = status.observe((now) => {
    if (now.name === "interrupted" && !now.cannotStart) tell();
    if (now.name === "connected") wasThere = true;
    if (now.name !== "connecting") runtime.clearTimeout(timer);
  });
  return {
    [Symbol.dispose]: () => {
      runtime.clearTimeout(timer);
      unsubscribe();
      failing[Symbol.dispose]();
    },
  };
}

/**
 * Throws an uncaught error if the broker can't start because another version of Skein has stored its
 * data. A process without handlers for such errors ends, so that a rollout stops before it replaces
 * the nodes that work. Does nothing if the application observes the broker's `status`.
 *
 * @returns Stops watching on disposal.
 */
export function failIfUnusable({ status }: Broker): Disposable {
  return status.observe((now) => {
    if (now.name !== "interrupted" || !now.cannotStart || status.isObserved) return;
    // The status feed catches what its callbacks throw.
    queueMicrotask(() => {
      throw now.error;
    });
  });
}

/** Thrown for a body that the application has read before Skein. */
export class UsedBodyError extends TypeError {
  /** Creates the error. */
  constructor() {
    super(
      "Cannot read body: nothing may read the body of a request before Skein does, received a " +
        "used body; leave the path of the server out of middleware that reads bodies, or let the " +
        "middleware read request.clone()",
    );
  }
}

/**
 * Prints the error of an HTTP request. Errors caused by an unreachable broker, a failed decision of
 * the application or a used body are printed once an hour, without a stack.
 */
export function reportRequest(console: ConsoleReport, what: string, error: unknown): void {
  if (error instanceof DecisionFault) return tellFault(console, error);
  const isRepeated = error instanceof BrokerError || error instanceof UsedBodyError;
  if (!isRepeated) return console.failed(what, error);
  const about = error.message;
  console.tell("request", `${what} failed: ${about}`, { about });
}

/**
 * Returns the counter of user sessions on all nodes, if there is a limit and there may be other
 * nodes.
 */
export function userClaims(
  nodes: Nodes | undefined,
  { maxSessionsPerUser: max = Infinity }: ManagerLimits,
): UserClaims | undefined {
  const store = nodes?.broker.store;
  if (nodes === undefined || store === undefined || max === Infinity) return undefined;
  return new UserClaims({ store, nodes, max });
}

/** Returns counters shared by the nodes of a broker, if its store can count. */
export function sharedCounts(broker: Broker | undefined): SharedCounts | undefined {
  const store = broker?.store;
  if (store?.take === undefined) return undefined;
  return { take: (key, amount, rate) => store.take!(key, amount, rate) };
}
