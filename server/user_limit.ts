/**
 * Sessions of one user on all nodes together: counted by what the nodes share.
 *
 * @module
 */
import { LimitError } from "../errors.ts";
import type { Nodes } from "../pubsub/nodes/nodes.ts";
import { settlesWithin } from "../session/base/wait.ts";
import type { BrokerStore } from "../pubsub/broker.ts";

/** How long a claim holds that nobody renews, in milliseconds. */
const CLAIM_MS = 120_000;

/** How often claims are renewed, in milliseconds. */
const RENEW_MS = 40_000;

/** Claims that are renewed at once. */
const BATCH = 100;

/** How long a client waits for the engine; then its node counts alone, in milliseconds. */
const PATIENCE_MS = 2_000;

/**
 * Pauses before a place is asked for again that was refused, in milliseconds: a client that comes back,
 * or moves from one node to another, may be here before its last session is over.
 */
const ASK_AGAIN_MS = [50, 200];

/** A session's place among those of its user; disposing of it gives it up. */
export type UserClaim = Disposable;

interface Held {
  readonly scope: string;
  readonly member: string;
}

/** The sessions of one user on this node. */
interface OfUser {
  /** Places that are held. */
  held: number;
  /** Places that are being given up, one after the other. */
  releasing: Promise<void> | undefined;
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
 * - **All that fit:** a place counts as taken until its session ended and the engine knows of it. A
 *   claim waits for places of the same user that this node gives up, and asks twice more, within a
 *   quarter of a second, for those that others do.
 * - **Nodes that died:** a node that needs the place gives their claims up, once they are surely
 *   gone; else they end by themselves after two minutes.
 * - **Cost:** one call for each session that begins, ends, and lives for another 40 s.
 */
export class UserClaims {
  readonly #store: BrokerStore;
  readonly #nodes: Nodes;
  readonly #max: number;
  // Bounded by the sessions that the manager admits.
  readonly #held = new Set<Held>();
  readonly #users = new Map<string, OfUser>();
  /** Ends the pauses of those that will ask again. */
  readonly #pauses = new Set<() => void>();
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
    if (await this.#isRefused(held)) {
      throw new LimitError(
        "maxSessionsPerUser",
        `Cannot admit session: at most ${this.#max} sessions per user, received one more`,
      );
    }
    this.#held.add(held);
    this.#userOf(held).held++;
    this.#timer ??= setInterval(() => void this.#renew(), RENEW_MS);
    return { [Symbol.dispose]: () => this.#end(held) };
  }

  /** Waits a moment for what is being given up. */
  async close(): Promise<void> {
    this.#restoring[Symbol.dispose]();
    clearInterval(this.#timer);
    for (const end of this.#pauses) end();
    const releasing = Array.from(this.#users.values(), (user) => user.releasing);
    await settlesWithin(Promise.all(releasing), PATIENCE_MS);
  }

  async #isRefused(held: Held): Promise<boolean> {
    const { scope } = held;
    let isAsked = false;
    for (const pauseMs of [0, ...ASK_AGAIN_MS]) {
      if (pauseMs > 0) await this.#pause(pauseMs);
      const { held: here, releasing } = this.#users.get(scope) ?? { held: 0 };
      // Each of them is a session that goes on: no engine has to be asked.
      if (here >= this.#max) continue;
      // An engine that is so slow is away.
      if (releasing !== undefined && !await settlesWithin(releasing, PATIENCE_MS)) return false;
      if (await this.#claims(held) !== false) return false;
      if (isAsked) continue;
      isAsked = true;
      await this.#freeOfTheDead(scope);
      if (await this.#claims(held) !== false) return false;
    }
    if (isAsked) this.#release(held);
    return true;
  }

  #pause(pauseMs: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#pauses.delete(end);
        resolve();
      };
      const timer = setTimeout(end, pauseMs);
      this.#pauses.add(end);
    });
  }

  /** Whether it is claimed; `undefined` where the engine does not say. */
  async #claims({ scope, member }: Held): Promise<boolean | undefined> {
    let isClaimed: boolean | undefined;
    const claiming = this.#store.claim(scope, member, { max: this.#max, ttlMs: CLAIM_MS })
      .then((answer) => void (isClaimed = answer), () => {});
    await settlesWithin(claiming, PATIENCE_MS);
    return isClaimed;
  }

  /** Gives up what nodes hold that are gone. */
  async #freeOfTheDead(scope: string): Promise<void> {
    const freeing = async () => {
      for (const member of await this.#store.claims(scope)) {
        if (!this.#nodes.isGone(member.slice(0, member.indexOf("/")))) continue;
        await this.#store.release(scope, member);
      }
    };
    await settlesWithin(freeing().catch(() => {}), PATIENCE_MS);
  }

  #end(held: Held): void {
    if (!this.#held.delete(held)) return;
    if (this.#held.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    this.#userOf(held).held--;
    this.#release(held);
  }

  #userOf({ scope }: Held): OfUser {
    let user = this.#users.get(scope);
    if (user === undefined) {
      user = { held: 0, releasing: undefined };
      this.#users.set(scope, user);
    }
    return user;
  }

  /** One after the other: in engines that compare and set, many at once would hinder one another. */
  #release(held: Held): void {
    const { scope, member } = held;
    const user = this.#userOf(held);
    const before = user.releasing;
    const release = async () => {
      await before;
      // Where the engine is away, the claim ends by itself.
      await this.#store.release(scope, member).catch(() => {});
      if (user.releasing !== releasing) return;
      user.releasing = undefined;
      if (user.held === 0) this.#users.delete(scope);
    };
    const releasing = release();
    user.releasing = releasing;
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
