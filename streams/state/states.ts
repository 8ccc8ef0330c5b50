/** The states of a server, which share the rows of each stream. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Quota, Quotas, Slot } from "../../base/quotas/shares.ts";
import { waitFor } from "../../base/wait.ts";
import { LimitError, RequestError, TimeoutError } from "../../errors.ts";
import type { LogTail } from "../logs/log.ts";
import { overShareReason } from "../logs/log_shares.ts";
import { NO_SPACE } from "../logs/stream_logs.ts";
import type { EphemeralStates } from "./ephemeral_rows.ts";
import { JSON_TYPE } from "../logs/rules.ts";
import type { StreamLogs } from "../logs/stream_logs.ts";
import { LiveRows, type PresentRows } from "./live_rows.ts";
import { RETRY_MS } from "./row_queue.ts";
import { State, type StateParts } from "./state.ts";
import { encodeInitial, type InitialRows, type UnwrittenStates } from "./unwritten.ts";

/** Time for which the rows are held after a client's last write, in milliseconds. */
export const LINGER_MS = 60_000;

/** Maximum number of states whose rows are held for the writes of clients. */
export const MAX_HELD = 1_000;

/** Maximum number of held states of one address or user, once more than half of them are held. */
const HELD_SHARES = { address: 128, user: 32 };

/** Codes of rows whose stream no longer exists. */
const GONE: ReadonlySet<string> = new Set(["gone", "lost"]);

const TOO_MANY = "there are too many durable streams (maxStreams)";

/** Parts of {@linkcode States}. */
export interface StatesParts extends StateParts {
  readonly quotas: Quotas;
  /** The rows that are not stored. */
  readonly ephemeral: EphemeralStates;
  /** The tail of new streams. */
  readonly tail: LogTail;
  /** Receives the loss of a state. MUST NOT throw. */
  readonly report: (error: RequestError) => void;
  readonly logs: StreamLogs;
  /** The states of the contract that are not stored. */
  readonly unwritten: UnwrittenStates;
}

/** Options of {@linkcode States.open}. */
export interface OpenOptions {
  readonly recreate?: boolean | undefined;
  readonly initial?: InitialRows | undefined;
}

/** Rows that are held for the writes of clients. */
interface Held {
  readonly rows: LiveRows;
  readonly leave: () => void;
  readonly slot: Slot;
  /** Number of writes that wait for the rows. */
  waiting: number;
}

/** The open states of a server. */
export class States {
  readonly #parts: StatesParts;
  /** Rows by id; bounded by the application's states and the held ones. */
  readonly #rows = new Map<string, LiveRows>();
  /** The same for handles that end with the state. */
  readonly #fixed = new Map<string, LiveRows>();
  /** Held rows by id, in the order of their last use; bounded by the quota. */
  readonly #held = new Map<string, Held>();
  readonly #quota: Quota;
  /** Held rows that no write waits for. */
  readonly #idle: Deadlines<Held>;
  #isClosed = false;

  constructor(parts: StatesParts) {
    this.#parts = parts;
    this.#quota = parts.quotas.open({
      limit: "states.held",
      verb: "write state",
      what: "states in memory",
      max: MAX_HELD,
      shares: HELD_SHARES,
    });
    this.#idle = new Deadlines(parts.runtime, LINGER_MS, (held) => this.#release(held));
  }

  /**
   * Opens a state, and creates its stream if there is none.
   *
   * @param id The id.
   * @param options The rows of a new state, by default those of `onOpen`; `recreate: false` ends the
   * state if the broker loses it.
   * @returns The state, once its rows are complete.
   * @throws {UnsupportedError} If the broker keeps no rows.
   * @throws {RangeError} If the id is empty or too long.
   * @throws {RequestError} With the code `wrong-type` if the stream is not keyed, `not-found` if the
   * id fits no pattern of the contract, `full` if there are too many streams, and `unavailable` if
   * `onOpen` fails.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async open(id: string, { initial, recreate = true }: OpenOptions = {}): Promise<State> {
    if (this.#parts.gate.fits(id) === false) throw unknownState("open state", id);
    const create = () => this.#create(id, initial);
    const { rows, leave } = this.#share(id, await create(), { isFixed: !recreate });
    const opener = { create };
    if (recreate) rows.openers.add(opener);
    const close = () => {
      rows.openers.delete(opener);
      leave();
    };
    try {
      await rows.ready;
    } catch (error) {
      close();
      throw error;
    }
    return new State(rows, this.#parts, close);
  }

  /**
   * Returns the rows of a state for the write of a client. The server keeps them up to date for a
   * minute, because a client that writes usually does so several times.
   *
   * @param id The id.
   * @param account The client, for its share of the held states.
   * @param options The identity of a deleted stream, whose rows are not returned, and the time limit
   * for reading rows.
   * @returns The complete rows; `undefined` if there is no keyed stream with this id.
   * @throws {RequestError} With the code `too-many` if too many states are held, `ended` if its
   * stream was closed, and `unavailable` if the rows cannot be read in time.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async rowsOf(
    id: string,
    account: Account,
    { gone, timeoutMs }: { readonly gone?: string | undefined; readonly timeoutMs: number },
  ): Promise<PresentRows | undefined> {
    let held = this.#usable(id, gone);
    if (held === undefined) {
      const identity = await this.#find(id);
      // The write keeps the state in use.
      if (identity === undefined) return await this.#parts.unwritten.get(id)?.view();
      held = this.#usable(id, gone) ?? this.#hold(id, { account, identity });
    }
    this.#held.delete(id);
    this.#held.set(id, held);
    held.waiting++;
    this.#idle.delete(held);
    const { runtime } = this.#parts;
    try {
      await waitFor(runtime, held.rows.ready, { what: "the rows of a state", timeoutMs });
      return held.rows;
    } catch (cause) {
      // The stream has gone in the meantime, so the append finds out what became of it.
      if (cause instanceof RequestError && GONE.has(cause.failure.code)) return undefined;
      if (!(cause instanceof TimeoutError)) throw cause;
      const { message } = cause;
      throw new RequestError("unavailable", message, { cause, retryAfterMs: RETRY_MS });
    } finally {
      held.waiting--;
      if (held.waiting === 0 && this.#held.get(id) === held) this.#idle.add(held);
    }
  }

  /**
   * Returns whether an open handle creates a missing state anew.
   *
   * @param id The id.
   */
  isAwaited(id: string): boolean {
    const rows = this.#rows.get(id);
    if (rows === undefined || rows.failure !== undefined || rows.openers.size === 0) return false;
    this.#parts.logs.recheck(id);
    return true;
  }

  /** Ends all states. */
  close(): void {
    this.#isClosed = true;
    this.#idle.clear();
    for (const held of this.#held.values()) this.#release(held);
    for (const all of [this.#rows, this.#fixed]) {
      for (const rows of all.values()) rows.close();
      all.clear();
    }
    this.#parts.ephemeral.close();
  }

  /** Takes part in the use of a state's rows. Handles that end with the state share their own. */
  #share(
    id: string,
    identity: string,
    { isFixed = false }: { readonly isFixed?: boolean } = {},
  ): { readonly rows: LiveRows; readonly leave: () => void } {
    const all = isFixed ? this.#fixed : this.#rows;
    let rows = all.get(id);
    // The rows of a deleted stream may not know yet that it is gone.
    if (rows?.identity !== undefined && rows.identity !== identity) rows = undefined;
    if (rows === undefined || rows.failure !== undefined) {
      const ephemeral = this.#parts.ephemeral.open(id);
      rows = new LiveRows(id, { ...this.#parts, ephemeral, isFixed });
      all.set(id, rows);
    }
    const shared = rows;
    shared.users++;
    const leave = () => {
      if (--shared.users > 0) return;
      shared.close();
      shared.ephemeral?.release();
      if (all.get(id) === shared) all.delete(id);
    };
    return { rows: shared, leave };
  }

  /** Returns held rows, unless they are no longer kept up to date. */
  #usable(id: string, gone: string | undefined): Held | undefined {
    const held = this.#held.get(id);
    if (held === undefined) return undefined;
    const { failure, identity } = held.rows;
    if (failure === undefined && (identity === undefined || identity !== gone)) return held;
    this.#release(held);
    return undefined;
  }

  /** Holds the rows of a state, in place of those that were not used for the longest time. */
  #hold(
    id: string,
    { account, identity }: { readonly account: Account; readonly identity: string },
  ): Held {
    if (this.#isClosed) throw new RequestError("unavailable", "The server is closed");
    if (this.#quota.levelFull(account) === "server") {
      const idle = this.#held.values().find(({ waiting }) => waiting === 0);
      if (idle !== undefined) this.#release(idle);
    }
    const slot = this.#takeSlot(account);
    const held = { ...this.#share(id, identity), slot, waiting: 0 };
    this.#held.set(id, held);
    return held;
  }

  #takeSlot(account: Account): Slot {
    try {
      return this.#quota.take(account);
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      const { message, retryAfterMs } = error;
      throw new RequestError("too-many", message, { retryAfterMs });
    }
  }

  #release(held: Held): void {
    const { rows: { id }, leave, slot } = held;
    if (this.#held.get(id) === held) this.#held.delete(id);
    this.#idle.delete(held);
    slot[Symbol.dispose]();
    leave();
  }

  /**
   * Returns the identity of a keyed stream; `undefined` if there is no stream with this id, or
   * another one.
   */
  async #find(id: string): Promise<string | undefined> {
    const found = await this.#parts.logs.info(id);
    const isKeyed = found.kind === "page" && found.info.keyed !== undefined;
    return isKeyed ? found.info.identity : undefined;
  }

  /** Creates the stream if there is none, and returns its identity. */
  async #create(id: string, initial: InitialRows | undefined): Promise<string> {
    const { logs, tail, unwritten } = this.#parts;
    const changes = await encodeInitial(id, initial, this.#parts);
    const present = await this.#find(id);
    if (present !== undefined) return present;
    if (initial === undefined) {
      using state = unwritten.enter(id);
      const identity = await state?.create();
      if (identity !== undefined) return identity;
    }
    const first = unwritten.firstRows([changes]);
    if ("kind" in first) throw new RequestError("full", `Cannot open state "${id}": ${first.kind}`);
    const created = await logs.create(id, { ...first, contentType: JSON_TYPE, keyed: tail });
    if (created.kind === "created") return created.info.identity;
    if (created.kind === "exists") {
      if (created.info.keyed !== undefined) return created.info.identity;
      throw new RequestError(
        "wrong-type",
        `Cannot open state: the durable stream "${id}" is not keyed`,
      );
    }
    const reason = created.kind === "over-share"
      ? overShareReason("open state", created)
      : `Cannot open state "${id}": ${created.kind === "no-space" ? NO_SPACE : TOO_MANY}`;
    throw new RequestError("full", reason);
  }
}

/** The error for an id that fits no pattern of the contract. */
export function unknownState(verb: string, id: string): RequestError {
  return new RequestError(
    "not-found",
    `Cannot ${verb}: the id must fit a pattern of the contract's section state, received "${id}"`,
  );
}
