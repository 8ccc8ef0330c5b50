/** A broker in memory whose claims are lost by restarts, as those of an engine without a disk. */
import { BrokerError } from "../../../../../errors.ts";
import {
  type BrokerStore,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  INTERNAL_PREFIX,
  type Publication,
} from "../../../../../pubsub/broker.ts";
import { pause } from "../../../../../base/wait.ts";
import type { Runtime } from "../../../../../base/runtime.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { UnsteadyBroker } from "../histories/unsteady_broker.ts";
import { UnsteadyEngine } from "../histories/unsteady_engine.ts";

/** Topic by which nodes hear that the others are alive. */
const BEATS = `${INTERNAL_PREFIX}nodes`;

/** A steady broker that may be away, and may have lost all claims once it is back. */
export class ForgetfulBroker extends UnsteadyBroker {
  /** Time of each claim, in milliseconds. */
  claimMs = 0;
  /** Time of each half of a call that stores a number, in milliseconds. */
  advanceMs = 0;
  /** The newest number of each key, over all lives. */
  readonly numbers: Map<string, number> = new Map();
  /** Number of claims under way. */
  claiming = 0;
  /** Time of each count of a rate, in milliseconds. */
  countMs = 0;
  /** Share of the messages among nodes that get lost, beside the signs of life. */
  lostShare = 0;
  /** Longest time of these messages on the way to a subscription that begins, in milliseconds. */
  wayMs = 0;
  override readonly store: BrokerStore;
  readonly #runtime: Runtime;
  /** Scopes of claims. */
  readonly #scopes = new Set<string>();
  #life = 0;
  /** Resolves once the engine is back. */
  #back = Promise.withResolvers<void>();

  /**
   * Creates a broker.
   *
   * @param host The machine of the engine.
   * @param canCount True if nodes share rates.
   */
  constructor(host: Host, canCount: boolean) {
    const engine = new UnsteadyEngine(host);
    const runtime = host.runtime;
    super(engine, { host, random: () => runtime.random() });
    this.isSteady = true;
    this.#runtime = runtime;
    const inner = engine.broker.store;
    const asked = (name: string) => {
      if (this.isAway) throw new BrokerError("Cannot ask: the engine is away");
      return `${this.#life}/${name}`;
    };
    this.store = {
      advance: async (key, number, windowMs) => {
        if (this.advanceMs > 0) await pause(runtime, this.advanceMs);
        const isNew = await inner.advance(asked(key), number, windowMs);
        this.numbers.set(key, Math.max(number, this.numbers.get(key) ?? number));
        if (this.advanceMs > 0) await pause(runtime, this.advanceMs);
        // The number is stored, and the answer is lost.
        asked(key);
        return isNew;
      },
      newest: async (key, windowMs) => await inner.newest(asked(key), windowMs),
      claim: async (scope, member, options) => {
        this.claiming++;
        if (this.claimMs > 0) await pause(runtime, this.claimMs);
        this.claiming--;
        this.#scopes.add(scope);
        return await inner.claim(asked(scope), member, options);
      },
      release: async (scope, member) => await inner.release(asked(scope), member),
      claims: async (scope) => await inner.claims(asked(scope)),
      ...(canCount && {
        take: async (key, amount, rate) => {
          await pause(runtime, this.countMs);
          return await inner.take!(asked(key), amount, rate);
        },
      }),
    };
  }

  /**
   * Counts the places of a user that nodes claimed.
   *
   * @param user The user.
   * @returns The number.
   */
  async placesOf(user: string): Promise<number> {
    const scopes = [...this.#scopes].filter((scope) => scope.endsWith(`:${user}`));
    const claims = await Promise.all(scopes.map((scope) => this.store.claims(scope)));
    return claims.flat().length;
  }

  override subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    if (!topic.startsWith(INTERNAL_PREFIX) || topic === BEATS) {
      return this.#confirmed(super.subscribe(topic, listener, options));
    }
    // Messages of one topic stay in order, and overtake those of another.
    const delayMs = this.wayMs * this.#runtime.random();
    return this.#confirmed(super.subscribe(topic, (publication) => {
      if (this.lostShare > 0 && this.#runtime.random() < this.lostShare) return;
      if (delayMs === 0) listener(publication);
      else this.#runtime.setTimeout(() => listener(publication), delayMs);
    }, options));
  }

  override goAway(): void {
    super.goAway();
    this.#back = Promise.withResolvers();
  }

  override comeBack(): void {
    super.comeBack();
    this.#back.resolve();
  }

  /** Loses all claims and numbers. */
  forget(): void {
    this.#life++;
  }

  /** An engine that is away confirms a subscription once it is back. */
  #confirmed(subscription: BrokerSubscription): BrokerSubscription {
    if (!this.isAway) return subscription;
    const { promise: back } = this.#back;
    return {
      ready: back.then(() => subscription.ready),
      [Symbol.asyncDispose]: () => subscription[Symbol.asyncDispose](),
    };
  }
}
