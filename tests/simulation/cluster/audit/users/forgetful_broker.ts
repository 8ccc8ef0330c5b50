/** A broker in memory whose claims are lost by restarts, as those of an engine without a disk. */
import { BrokerError } from "../../../../../errors.ts";
import type { BrokerStore } from "../../../../../pubsub/broker.ts";
import { pause } from "../../../../../base/wait.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { UnsteadyBroker } from "../histories/unsteady_broker.ts";
import { UnsteadyEngine } from "../histories/unsteady_engine.ts";

/** A steady broker that may be away, and may have lost all claims once it is back. */
export class ForgetfulBroker extends UnsteadyBroker {
  /** Time of each claim, in milliseconds. */
  claimMs = 0;
  /** Time of each count of a rate, in milliseconds. */
  countMs = 0;
  override readonly store: BrokerStore;
  #life = 0;

  /**
   * Creates a broker.
   *
   * @param host The machine of the engine.
   * @param canCount True if nodes share rates.
   */
  constructor(host: Host, canCount: boolean) {
    const engine = new UnsteadyEngine(host);
    const { runtime } = host;
    super(engine, { host, random: () => runtime.random() });
    this.isSteady = true;
    const inner = engine.broker.store;
    const asked = (name: string) => {
      if (this.isAway) throw new BrokerError("Cannot ask: the engine is away");
      return `${this.#life}/${name}`;
    };
    this.store = {
      advance: async (key, number, windowMs) => await inner.advance(asked(key), number, windowMs),
      newest: async (key) => await inner.newest(asked(key)),
      claim: async (scope, member, options) => {
        if (this.claimMs > 0) await pause(runtime, this.claimMs);
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

  /** Loses all claims and numbers. */
  forget(): void {
    this.#life++;
  }
}
