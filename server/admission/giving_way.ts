/**
 * Lost sessions of a user at the limit, which give way to a new session of the same user. A peer
 * that has lost its network closes nothing, and the heartbeat takes a minute to notice that.
 */
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import {
  closeEarlier,
  closeUnlessAlive,
  REPLY_MS,
  SILENT_MS,
  silentSessions,
} from "../../manager/silent_sessions.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import type { Session } from "../../session/session.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";

/** Time from one round of a user to the next, in milliseconds. */
export const ROUND_MS = 10_000;

/** Most users with a recent round, as many as a node has sessions by default. */
export const MAX_ROUNDS = 10_000;

/**
 * Most rounds that run at the same time. On other nodes, each of them uses one of 1,000 questions
 * that a node replies to at a time.
 */
export const MAX_RUNNING = 200;

/** Most new sessions of a user that wait for a round. */
export const MAX_WAITING = 16;

/**
 * Longest wait for a round, in milliseconds: less than a client waits by default, so that it
 * receives the response.
 */
const WAIT_MS = 8_000;

/**
 * The same for a request over HTTP whose response opens the session. After 3 s without a response, a
 * client assumes that a proxy holds it back, and requests another session. The round continues, so
 * there is room at the client's next attempt.
 */
const HTTP_WAIT_MS = 2_000;

/** Wait for the other nodes, in milliseconds: the usual duration of a round, and half a second. */
const NODES_MS = REPLY_MS + 500;

/** Kind of the question that asks other nodes for a round. */
const KIND = "close-silent";

/** A session that waits for room. */
export interface Newcomer {
  /**
   * The secret of the ticket that the client presented; `undefined` if the client moves from an open
   * session.
   */
  readonly secret: string | undefined;
  /** Aborts when the peer is gone. */
  readonly signal: AbortSignal | undefined;
  /** True if the response to an HTTP request opens the session. */
  readonly isHttp: boolean;
}

/** A round of pings for one user. */
interface Round {
  /** Resolves with true if a session on this node has given way. Never rejects. */
  readonly hasRoomHere: Promise<boolean>;
  /** Resolves with true if a session on any node has given way. Never rejects. */
  readonly hasRoom: Promise<boolean>;
  /** Time of the next round, in milliseconds since the Unix epoch; `Infinity` during the round. */
  nextAt: number;
  /** Number of new sessions that wait for the round. */
  waiting: number;
}

/** Options of {@linkcode GivingWay}. */
export interface GivingWayOptions {
  readonly runtime: Runtime;
  readonly manager: SessionManager;
  /** The other nodes that count the sessions; `undefined` if only this node counts. */
  readonly nodes: Nodes | undefined;
  /** Resolves once the slots of a user's closed sessions are free on all nodes. */
  readonly released: (user: string) => Promise<unknown>;
}

/**
 * Makes room for new sessions of users at their limit.
 *
 * - **The same client:** sessions on this node that a client has lost, as its ticket shows, close
 *   immediately.
 * - **Round:** otherwise, the user's silent sessions are pinged on all nodes, and those that do not
 *   respond close. A session that responds is never closed in favor of another.
 * - **Bounds:** a node pings a user's sessions once in 10 s. At most 16 new sessions wait for a
 *   round, each for at most 8 s, or 2 s over HTTP. All others are rejected immediately.
 */
export class GivingWay implements Disposable {
  readonly #options: GivingWayOptions;
  readonly #rounds = new Map<string, Round>();
  readonly #expiry: Deadlines<string>;
  readonly #handler: Disposable | undefined;
  #running = 0;

  constructor(options: GivingWayOptions) {
    this.#options = options;
    const { runtime, nodes } = options;
    this.#expiry = new Deadlines(runtime, ROUND_MS, (user) => void this.#rounds.delete(user));
    this.#handler = nodes?.handle(
      KIND,
      // Not `hasRoom`: two nodes that ask each other would wait for each other.
      (user) => typeof user === "string" && this.#roundOf(user, { isAsked: true })?.hasRoomHere,
    );
  }

  /**
   * Makes room for a session of a user who is at the limit.
   *
   * @param user The verified user.
   * @param newcomer The new session.
   * @returns True if there is room now, unless another session takes it. Never rejects.
   */
  async makeRoom(user: string, { secret, signal, isHttp }: Newcomer): Promise<boolean> {
    const { runtime, manager } = this.#options;
    if (secret !== undefined && closeEarlier(manager.sessionsOf(user), secret) > 0) return true;
    const round = this.#roundOf(user, { isAsked: false });
    if (!round || round.waiting >= MAX_WAITING) return false;
    round.waiting++;
    try {
      const timeoutMs = isHttp ? HTTP_WAIT_MS : WAIT_MS;
      return await within(runtime, round.hasRoom, { timeoutMs, signal });
    } catch {
      return false; // It took too long, or the peer is gone.
    } finally {
      round.waiting--;
    }
  }

  /** Ends the handler, and the timer of recent rounds. */
  [Symbol.dispose](): void {
    this.#handler?.[Symbol.dispose]();
    this.#expiry.clear();
    this.#rounds.clear();
  }

  /** Returns the running round of a user, or starts one; `undefined` after a recent round. */
  #roundOf(user: string, { isAsked }: { readonly isAsked: boolean }): Round | undefined {
    const { runtime, manager, nodes } = this.#options;
    const known = this.#rounds.get(user);
    if (known?.nextAt === Infinity) return known;
    if (known && runtime.now() < known.nextAt) return undefined;
    const silent = silentSessions(runtime, manager.sessionsOf(user));
    const asksOthers = !isAsked && nodes !== undefined;
    const isFull = this.#running >= MAX_RUNNING || this.#rounds.size >= MAX_ROUNDS;
    if (isFull || silent.length === 0 && !asksOthers) return undefined;
    this.#running++;
    const others = asksOthers && nodes.ask(KIND, user, { timeoutMs: NODES_MS })
      .then(({ replies }) => replies.some(({ data }) => data === true), () => false);
    const hasRoomHere = this.#close(user, silent);
    const hasRoom = Promise.all([hasRoomHere, others]).then((all) => {
      this.#running--;
      // Sessions that were not silent for long enough may be so soon.
      round.nextAt = runtime.now() + (silent.length > 0 ? ROUND_MS : SILENT_MS);
      if (this.#rounds.get(user) === round) this.#expiry.add(user);
      return all.includes(true);
    });
    const round: Round = { hasRoomHere, hasRoom, nextAt: Infinity, waiting: 0 };
    this.#expiry.delete(user); // The previous round may end its wait during this one.
    this.#rounds.set(user, round);
    return round;
  }

  /** Resolves with true if one of the sessions on this node has given way. Never rejects. */
  async #close(user: string, silent: readonly Session[]): Promise<boolean> {
    const { runtime, released } = this.#options;
    if (await closeUnlessAlive(runtime, silent) === 0) return false;
    await released(user);
    return true;
  }
}
