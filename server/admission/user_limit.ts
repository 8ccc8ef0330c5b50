/** The limit on a user's sessions on all nodes, counted in the broker's store. */
import { LimitError } from "../../errors.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { BrokerStore } from "../../pubsub/broker.ts";
import { internals, type Session } from "../../session/session.ts";

/** Lifetime of a claim without renewal, in milliseconds. */
const CLAIM_MS = 120_000;

/** Time between renewals, in milliseconds. */
const RENEW_MS = 40_000;

/** Claims that are renewed together. */
const BATCH = 100;

/**
 * Longest wait for the broker, in milliseconds. After that, a node counts only its own sessions.
 */
const PATIENCE_MS = 2_000;

/**
 * Pauses before a rejected claim is retried, in milliseconds. A client that reconnects or moves to
 * another node may arrive before its previous session has closed.
 */
const ASK_AGAIN_MS = [50, 200];

interface HeldClaim {
  readonly scope: string;
  readonly member: string;
}

/** The sessions of one user on this node. */
interface UserPlaces {
  held: number;
  /** Slots that are being released, one after the other. */
  releasing: Promise<void> | undefined;
}

/** Options of {@linkcode UserClaims}. */
export interface UserClaimsOptions {
  /** The store shared by the nodes. */
  readonly store: BrokerStore;
  readonly nodes: Nodes;
  /** Most sessions of a user. */
  readonly max: number;
}

/**
 * Claims of the sessions of this node.
 *
 * - **Broker unreachable:** a session is admitted without a claim, and the claim is made later. The
 *   manager's own limit for this node always applies.
 * - **Release:** a slot is in use until the session has closed and the broker has confirmed the
 *   release. A claim waits while this node is releasing slots of the same user. A rejected claim is
 *   retried twice within a quarter of a second, in case another node is releasing slots.
 * - **Nodes that died:** a node that needs a slot releases the claims of a dead node once it is
 *   certain that the node is gone. Otherwise, these claims expire after two minutes.
 * - **Cost:** there is one call when a session starts, one when it closes, and one every 40 s in
 *   between.
 */
export class UserClaims {
  readonly #runtime: Runtime;
  readonly #store: BrokerStore;
  readonly #nodes: Nodes;
  readonly #max: number;
  // Bounded by the sessions that the manager admits.
  readonly #held = new Set<HeldClaim>();
  readonly #users = new Map<string, UserPlaces>();
  /** Ends the pauses before another attempt. */
  readonly #pauses = new Set<() => void>();
  readonly #restoring: Disposable;
  #timer: Timer | undefined;
  #isRenewing = false;
  #isClosed = false;
  #last = 0;

  constructor({ store, nodes, max }: UserClaimsOptions) {
    this.#runtime = nodes.runtime;
    this.#store = store;
    this.#nodes = nodes;
    this.#max = max;
    // The broker may have lost its claims.
    this.#restoring = nodes.subscribe(({ type }) => {
      if (type === "restored") void this.#renew();
    });
  }

  /**
   * Claims a slot for a session.
   *
   * @returns The claim. Dispose of it when the session has closed or did not start.
   * @throws {LimitError} If the user already has the maximum number of sessions.
   */
  async claim(user: string): Promise<Disposable> {
    const held = { scope: `sessions:${user}`, member: `${this.#nodes.id}/${++this.#last}` };
    if (await this.#isRejected(held)) {
      throw new LimitError(
        "maxSessionsPerUser",
        `Cannot admit session: your user may have at most ${this.#max} sessions at once`,
        { level: "user" },
      );
    }
    this.#held.add(held);
    this.#userOf(held).held++;
    this.#scheduleRenewal();
    return { [Symbol.dispose]: () => this.#end(held) };
  }

  /** Waits briefly until the slots of a user's closed sessions are released. */
  async released(user: string): Promise<void> {
    const releasing = this.#users.get(`sessions:${user}`)?.releasing;
    if (releasing) await settlesWithin(this.#runtime, releasing, PATIENCE_MS);
  }

  /** Waits briefly for slots that are being released. */
  async close(): Promise<void> {
    this.#restoring[Symbol.dispose]();
    this.#runtime.clearTimeout(this.#timer);
    this.#isClosed = true;
    for (const end of this.#pauses) end();
    const releasing = Array.from(this.#users.values(), (user) => user.releasing);
    await settlesWithin(this.#runtime, Promise.all(releasing), PATIENCE_MS);
  }

  async #isRejected(held: HeldClaim): Promise<boolean> {
    const { scope } = held;
    let isAsked = false;
    for (const pauseMs of [0, ...ASK_AGAIN_MS]) {
      if (pauseMs > 0) await this.#pause(pauseMs);
      const { held: here, releasing } = this.#users.get(scope) ?? { held: 0 };
      // Open sessions on this node use all slots, so there is no need to ask the broker.
      if (here >= this.#max) continue;
      // A broker as slow as this counts as unreachable.
      if (releasing !== undefined && !await settlesWithin(this.#runtime, releasing, PATIENCE_MS)) {
        return false;
      }
      if (await this.#claims(held) !== false) return false;
      if (isAsked) continue;
      isAsked = true;
      await this.#releaseOfGoneNodes(scope);
      if (await this.#claims(held) !== false) return false;
    }
    if (isAsked) this.#release(held);
    return true;
  }

  /** Starts the timer of the next renewal, while there are claims. */
  #scheduleRenewal(): void {
    if (this.#isClosed) return;
    this.#timer ??= this.#runtime.setTimeout(() => {
      this.#timer = undefined;
      void this.#renew();
      if (this.#held.size > 0) this.#scheduleRenewal();
    }, RENEW_MS);
  }

  #pause(pauseMs: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        this.#runtime.clearTimeout(timer);
        this.#pauses.delete(end);
        resolve();
      };
      const timer = this.#runtime.setTimeout(end, pauseMs);
      this.#pauses.add(end);
    });
  }

  /** Makes a claim; `undefined` if the broker does not respond. */
  async #claims({ scope, member }: HeldClaim): Promise<boolean | undefined> {
    let isClaimed: boolean | undefined;
    const claiming = this.#store.claim(scope, member, { max: this.#max, ttlMs: CLAIM_MS })
      .then((reply) => void (isClaimed = reply), () => {});
    await settlesWithin(this.#runtime, claiming, PATIENCE_MS);
    return isClaimed;
  }

  async #releaseOfGoneNodes(scope: string): Promise<void> {
    const freeing = async () => {
      for (const member of await this.#store.claims(scope)) {
        if (!this.#nodes.isGone(member.slice(0, member.indexOf("/")))) continue;
        await this.#store.release(scope, member);
      }
    };
    await settlesWithin(this.#runtime, freeing().catch(() => {}), PATIENCE_MS);
  }

  #end(held: HeldClaim): void {
    if (!this.#held.delete(held)) return;
    if (this.#held.size === 0) {
      this.#runtime.clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    this.#userOf(held).held--;
    this.#release(held);
  }

  #userOf({ scope }: HeldClaim): UserPlaces {
    let user = this.#users.get(scope);
    if (user === undefined) {
      user = { held: 0, releasing: undefined };
      this.#users.set(scope, user);
    }
    return user;
  }

  /**
   * Releases claims one after the other, because concurrent releases conflict in brokers with
   * compare-and-set.
   */
  #release(held: HeldClaim): void {
    const { scope, member } = held;
    const user = this.#userOf(held);
    const before = user.releasing;
    const release = async () => {
      await before;
      // While the broker is unreachable, the claim expires by itself.
      await this.#store.release(scope, member).catch(() => {});
      if (user.releasing !== releasing) return;
      user.releasing = undefined;
      if (user.held === 0) this.#users.delete(scope);
    };
    const releasing = release();
    user.releasing = releasing;
  }

  /** Renews in batches, so that the broker can serve other calls in between. */
  async #renew(): Promise<void> {
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    const all = [...this.#held];
    for (let i = 0; i < all.length; i += BATCH) {
      const some = all.slice(i, i + BATCH).filter((held) => this.#held.has(held));
      await Promise.all(some.map(async (held) => {
        await this.#claims(held);
        // The session closed during the call.
        if (!this.#held.has(held)) this.#release(held);
      }));
    }
    this.#isRenewing = false;
  }
}

/**
 * Maximum number of sessions that share a claim. Without a limit, a client could have any number of
 * sessions in one slot.
 */
const MAX_HOLDERS = 2;

/** A claim with the number of sessions that hold it. */
interface SharedClaim {
  readonly user: string;
  readonly claim: Disposable;
  holders: number;
}

/** Claims of sessions, each held by one session or by two. */
export class SessionClaims {
  readonly #claims: UserClaims | undefined;
  readonly #held = new WeakMap<Disposable, SharedClaim>();
  readonly #ofSessions = new WeakMap<Session, SharedClaim>();

  /**
   * Creates an empty registry.
   *
   * @param claims Claims slots; `undefined` if only this node counts.
   */
  constructor(claims: UserClaims | undefined) {
    this.#claims = claims;
  }

  /**
   * Claims a slot for a session.
   *
   * @param beside The session from which the client moves, whose claim is shared.
   * @returns The share. Dispose of it if the session does not start.
   */
  async claim(user: string, beside: Session | undefined): Promise<Disposable | undefined> {
    const known = beside && this.#ofSessions.get(beside);
    if (known?.user === user && known.holders > 0 && known.holders < MAX_HOLDERS) {
      known.holders++;
      return this.#shareOf(known);
    }
    const claim = await this.#claims?.claim(user);
    return claim && this.#shareOf({ user, claim, holders: 1 });
  }

  /** Assigns a share to a session until it closes. */
  give(session: Session, share: Disposable): void {
    this.#ofSessions.set(session, this.#held.get(share)!);
    session[internals].whenEnded(() => share[Symbol.dispose]());
  }

  #shareOf(shared: SharedClaim): Disposable {
    let isHeld = true;
    const share: Disposable = {
      [Symbol.dispose]() {
        if (!isHeld) return;
        isHeld = false;
        if (--shared.holders === 0) shared.claim[Symbol.dispose]();
      },
    };
    this.#held.set(share, shared);
    return share;
  }
}
