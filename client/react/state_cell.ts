/** One live state, for the components of a page. */
import type { Client } from "../client.ts";
import type { ClientStateStatus } from "../state/shared_state.ts";
import type { ClientState, ClientStateOptions } from "../state/state.ts";
import { Cell, errorOf, type Rounds } from "./cell.ts";

/** The condition of a live state, as its components see it. */
export interface LiveStateSnapshot {
  /**
   * The status is `pending` until the rows have arrived, then `live`. It is `lost` while there is
   * no connection; the rows are those last known. It is `stale` while the rows are those that an
   * earlier page has kept in the client's store. It is `ended` if the state cannot be read, and while
   * the server rejects the client; see `error`.
   */
  readonly status: ClientStateStatus;
  /**
   * While the status is `stale`, the time at which the rows were last up to date, in milliseconds
   * since the Unix epoch.
   */
  readonly keptAt: number | undefined;
  /** The number of writes of this page whose outcome is not known yet. */
  readonly pendingWrites: number;
  /** The error that ended the state, or the rejection of the client. */
  readonly error: Error | undefined;
}

/**
 * A collection, as a component sees it.
 *
 * @typeParam T The type of a row.
 */
export interface CollectionSnapshot<T = unknown> extends Omit<LiveStateSnapshot, "pendingWrites"> {
  /**
   * The rows by key, with the writes of this page. It is the same map until a row changes. Rows are
   * frozen, and a row that has not changed is the same object.
   */
  readonly rows: ReadonlyMap<string, Readonly<T>>;
}

export const PENDING_STATE: LiveStateSnapshot = Object.freeze({
  status: "pending",
  keptAt: undefined,
  pendingWrites: 0,
  error: undefined,
});

export const PENDING_COLLECTION: CollectionSnapshot<never> = Object.freeze({
  rows: new Map<string, never>(),
  status: "pending",
  keptAt: undefined,
  error: undefined,
});

/** One open state, which all components with its id share. */
export class StateCell extends Cell<LiveStateSnapshot> {
  readonly #opening: Promise<ClientState>;
  #state: ClientState | undefined;
  /** The error with which the state could not be opened. */
  #error: Error | undefined;
  #isClosed = false;
  #hasBegun = false;

  /** Opens the state. If this fails, the error is part of the snapshot. */
  constructor(rounds: Rounds, client: Client, id: string, options: ClientStateOptions) {
    super(rounds, PENDING_STATE);
    this.#opening = this.#open(client, id, options);
    this.#opening.catch(() => {});
  }

  /** True once the status was another one than `pending`. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** The present rows of a collection; `undefined` while the state's code loads. */
  rows(name: string): CollectionSnapshot["rows"] | undefined {
    return this.#state?.collection(name).current;
  }

  /**
   * Makes a write, once the state is open.
   *
   * @returns The outcome.
   */
  async write<R>(make: (state: ClientState) => Promise<R>): Promise<R> {
    try {
      const writing = make(this.#state ?? await this.#opening);
      // At once, because a text field must show what its user types within the event.
      this.refresh();
      return await writing;
    } finally {
      this.changed();
    }
  }

  /** Closes the state. Writes that wait reject. */
  close(): void {
    this.#isClosed = true;
    this.#state?.[Symbol.dispose]();
  }

  protected override take(): LiveStateSnapshot {
    const thrown = this.#state?.error;
    const error = thrown === undefined ? this.#error : errorOf(thrown);
    const status = this.#state?.status.current ?? (error ? "ended" : "pending");
    this.#hasBegun ||= status !== "pending";
    const pendingWrites = this.#state?.pendingWrites.current ?? 0;
    const last = this.snapshot;
    const isSame = status === last.status && pendingWrites === last.pendingWrites &&
      error === last.error;
    return isSame ? last : { status, keptAt: this.#state?.keptAt, pendingWrites, error };
  }

  async #open(client: Client, id: string, options: ClientStateOptions): Promise<ClientState> {
    try {
      const state = this.#state = await client.state(id, options);
      if (this.#isClosed) state[Symbol.dispose]();
      state.status.observe(() => this.changed());
      state.pendingWrites.observe(() => this.changed());
      void this.#follow(state);
      return state;
    } catch (error) {
      this.#error = errorOf(error);
      this.changed();
      throw error;
    }
  }

  async #follow(state: ClientState): Promise<void> {
    while (!state.status.isEnded) {
      await state.changed();
      this.changed();
    }
  }
}

/**
 * Returns a collection of a state.
 *
 * @param cell The state; `undefined` if no component uses it.
 * @param seen The collection as the component has last seen it, which is returned if nothing has
 * changed. If the state was closed while a part of the page was hidden, these rows stay until those
 * of the next state have arrived. They don't stay if the same state has taken them back, because an
 * earlier page had kept them for another user.
 * @returns The collection. If its name is not valid, the error is part of it.
 */
export function collectionOf(
  cell: StateCell | undefined,
  name: string,
  seen: CollectionSnapshot,
): CollectionSnapshot {
  const { status, keptAt, error } = cell?.snapshot ?? PENDING_STATE;
  const wasKnown = seen.status === "live" || seen.status === "lost" || seen.status === "stale";
  let next: CollectionSnapshot;
  try {
    next = status === "pending" && wasKnown && !cell?.hasBegun
      ? { rows: seen.rows, status: "lost", keptAt, error }
      : { rows: cell?.rows(name) ?? PENDING_COLLECTION.rows, status, keptAt, error };
  } catch (error) {
    next = { rows: seen.rows, status: "ended", keptAt, error: seen.error ?? errorOf(error) };
  }
  const isSame = next.rows === seen.rows && next.status === seen.status &&
    next.error === seen.error;
  return isSame ? seen : next;
}
