/**
 * Sessions of one user on all nodes together: counted by what the nodes share.
 *
 * @module
 */
import { LimitError } from "./errors.ts";
import type { Nodes } from "./pubsub/nodes.ts";
import type { BrokerStore } from "./pubsub/store.ts";
import { settlesWithin } from "./session/wait.ts";

/** How long a claim holds that nobody renews, in milliseconds. */
const CLAIM_MS = 120_000;

/** How often claims are renewed, in milliseconds. */
const RENEW_MS = 40_000;

/** Claims that are renewed at once. */
const BATCH = 100;

/** How long a client waits for the engine; then its node counts alone, in milliseconds. */
const PATIENCE_MS = 2_000;

/** A session's place among those of its user; disposing of it gives it up. */
export type UserClaim = Disposable;

interface Held {
  readonly scope: string;
  readonly member: string;
}

/** What {@linkcode UserClaims} need. */
export interface UserClaimsOptions {
  /** What the nodes share. */
  readonly store: BrokerStore;
  /** The nodes. */
  readonly nodes: Nodes;
  /** Most sessions of a user. */
  readonly max: number;
}

/**
 * Claims of the sessions of this node.
 *
 * - **Engine away:** a session is let in then, and its claim made later; the manager's own limit, of
 *   this node, holds all the time.
 * - **Nodes that died:** their claims are given up by who needs the place, once the node is surely
 *   gone; else they end by themselves after two minutes.
 * - **Cost:** one call for each session that begins, ends, and lives for another 40 s.
 */
export class UserClaims {
  readonly #store: BrokerStore;
  readonly #nodes: Nodes;
  readonly #max: number;
  // Bounded by the sessions that the manager admits.
  readonly #held = new Set<Held>();
  readonly #releasing = new Set<Promise<unknown>>();
  readonly #restoring: Disposable;
  #timer: ReturnType<typeof setInterval> | undefined;
  #isRenewing = false;
  #last = 0;

  /** Creates them; nothing is claimed yet. */
  constructor({ store, nodes, max }: UserClaimsOptions) {
    this.#store = store;
    this.#nodes = nodes;
    this.#max = max;
    // The engine may have lost what it had.
    this.#restoring = nodes.subscribe(({ type }) => {
      if (type === "restored") void this.#renew();
    });
  }

  /**
   * Claims a place for a session.
   *
   * @param user Whose session it is.
   * @returns The claim; dispose of it when the session ended, or did not begin.
   * @throws {LimitError} If the user has as many sessions already.
   */
  async claim(user: string): Promise<UserClaim> {
    const held = { scope: `sessions:${user}`, member: `${this.#nodes.id}/${++this.#last}` };
    const isRefused = await this.#isRefused(held);
    if (isRefused) {
      this.#release(held);
      throw new LimitError(
        "maxSessionsPerUser",
        `Cannot admit session: at most ${this.#max} sessions per user, received one more`,
      );
    }
    this.#held.add(held);
    this.#timer ??= setInterval(() => void this.#renew(), RENEW_MS);
    return { [Symbol.dispose]: () => this.#end(held) };
  }

  /** Waits a moment for what is being given up. */
  async close(): Promise<void> {
    this.#restoring[Symbol.dispose]();
    clearInterval(this.#timer);
    await settlesWithin(Promise.all(this.#releasing), PATIENCE_MS);
  }

  async #isRefused(held: Held): Promise<boolean> {
    if (await this.#claims(held) !== false) return false;
    if (!await this.#freeOfTheDead(held.scope)) return true;
    return await this.#claims(held) === false;
  }

  /** Whether it is claimed; `undefined` where the engine does not say. */
  async #claims({ scope, member }: Held): Promise<boolean | undefined> {
    let isClaimed: boolean | undefined;
    const claiming = this.#store.claim(scope, member, { max: this.#max, ttlMs: CLAIM_MS })
      .then((answer) => void (isClaimed = answer), () => {});
    await settlesWithin(claiming, PATIENCE_MS);
    return isClaimed;
  }

  /** Gives up what nodes hold that are gone; whether there was something. */
  async #freeOfTheDead(scope: string): Promise<boolean> {
    let isFreed = false;
    const freeing = async () => {
      for (const member of await this.#store.claims(scope)) {
        if (!this.#nodes.isGone(member.slice(0, member.indexOf("/")))) continue;
        await this.#store.release(scope, member);
        isFreed = true;
      }
    };
    await settlesWithin(freeing().catch(() => {}), PATIENCE_MS);
    return isFreed;
  }

  #end(held: Held): void {
    if (!this.#held.delete(held)) return;
    if (this.#held.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    this.#release(held);
  }

  #release({ scope, member }: Held): void {
    // Where the engine is away, the claim ends by itself.
    const releasing = this.#store.release(scope, member).catch(() => {});
    this.#releasing.add(releasing);
    void releasing.then(() => this.#releasing.delete(releasing));
  }

  /** Some at a time, so that the engine has other things to do. */
  async #renew(): Promise<void> {
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    const all = [...this.#held];
    for (let i = 0; i < all.length; i += BATCH) {
      const some = all.slice(i, i + BATCH).filter((held) => this.#held.has(held));
      await Promise.all(some.map(async (held) => {
        await this.#claims(held);
        // It ended while the engine was asked.
        if (!this.#held.has(held)) this.#release(held);
      }));
    }
    this.#isRenewing = false;
  }
}
