/** The states of a server, which share the rows of each stream. */
import { waitFor } from "../../base/wait.ts";
import { RequestError } from "../../errors.ts";
import type { LogTail, RowChange } from "../logs/log.ts";
import { overShareReason } from "../logs/log_shares.ts";
import type { FirstRows } from "../logs/memory_rows.ts";
import { damaged } from "../logs/sound_logs.ts";
import type { EphemeralStates } from "./ephemeral_rows.ts";
import { JSON_TYPE } from "../logs/rules.ts";
import { outcomeText, type StreamLogs } from "../logs/stream_logs.ts";
import { type CompleteRows, LiveRows, namedRows, pickRows, type PresentRows } from "./live_rows.ts";
import { KeptRows } from "./kept_rows.ts";
import { lateRows, serverClosed } from "./rejections.ts";
import { State, type StateParts } from "./state.ts";
import { encodeInitial, type InitialRows, type UnwrittenStates } from "./unwritten.ts";

/** Maximum size of the rows that a server reads at a time for a client's write, in bytes. */
export const PAGE_BYTES = 262_144;

/** Parts of {@linkcode States}. */
export interface StatesParts extends StateParts {
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

/** All rows of a state, for as long as they are held. */
export interface HeldRows extends Disposable {
  readonly rows: CompleteRows;
  /** The same rows, if they are kept up to date; `undefined` for a state that is not stored yet. */
  readonly live: LiveRows | undefined;
}

/** Options of {@linkcode States.open}. */
export interface OpenOptions {
  readonly recreate?: boolean | undefined;
  readonly initial?: InitialRows | undefined;
}

/** The open states of a server. */
export class States {
  readonly #parts: StatesParts;
  /** Rows by id; bounded by the application's states. */
  readonly #rows = new Map<string, LiveRows>();
  /** The same for handles that end with the state. */
  readonly #fixed = new Map<string, LiveRows>();
  readonly #kept: KeptRows;
  #isClosed = false;

  constructor(parts: StatesParts) {
    this.#parts = parts;
    this.#kept = new KeptRows(parts.runtime);
  }

  /**
   * Opens a state, and creates its stream if there is none.
   *
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
   * Returns present rows of a state, for a decision about their changes: those of an open handle, if
   * there is one. Otherwise, reads them, and keeps nothing.
   *
   * @param options The names of the rows, at least one, the identity of a deleted stream, whose rows
   * are not returned, and the time limit for reading rows.
   * @returns The first of these rows that fit into {@linkcode PAGE_BYTES}, or all of them;
   * `undefined` if there is no open keyed stream with this id.
   * @throws {RequestError} With the code `unavailable` if the rows cannot be read in time, and
   * `damaged` if the broker has not kept them as they were.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async rowsOf(
    id: string,
    { names, gone, timeoutMs }: {
      readonly names: readonly string[];
      readonly gone?: string | undefined;
      readonly timeoutMs: number;
    },
  ): Promise<PresentRows | undefined> {
    if (this.#isClosed) throw serverClosed();
    const open = this.openRows(id);
    if (open !== undefined && open.identity !== gone) return pickRows(open, names);
    const { runtime } = this.#parts;
    const leave = new AbortController();
    try {
      const reading = this.#readRows(id, names, leave.signal);
      return await waitFor(runtime, reading, { what: "reply from the broker", timeoutMs });
    } catch (cause) {
      if (cause instanceof SyntaxError) throw damaged(id, cause);
      throw lateRows(cause);
    } finally {
      leave.abort();
    }
  }

  /** Returns the rows of a state that an open handle keeps up to date, if they are complete. */
  openRows(id: string): LiveRows | undefined {
    const open = this.#rows.get(id) ?? this.#fixed.get(id);
    return open?.isComplete && open.failure === undefined ? open : undefined;
  }

  /**
   * Reads all rows of a state, for a transaction that iterates them. They are kept for a while after
   * the last one; see {@linkcode KEEP_MS}.
   *
   * @param options The time limit.
   * @returns The rows; `undefined` if there is no open keyed stream with this id.
   * @throws {RequestError} With the code `unavailable` if the rows cannot be read in time.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async hold(
    id: string,
    { timeoutMs }: { readonly timeoutMs: number },
  ): Promise<HeldRows | undefined> {
    if (this.#isClosed) throw serverClosed();
    const identity = this.openRows(id)?.identity ?? await this.#find(id);
    if (identity === undefined) {
      // The write keeps the state in use.
      const view = await this.#parts.unwritten.get(id)?.view();
      return view && { rows: view, live: undefined, [Symbol.dispose]() {} };
    }
    const { rows, leave } = this.#share(id, identity, { isFixed: false });
    try {
      const { runtime } = this.#parts;
      await waitFor(runtime, rows.ready, { what: "reply from the broker", timeoutMs });
    } catch (cause) {
      leave();
      throw lateRows(cause);
    }
    const { bytes } = rows;
    return { rows, live: rows, [Symbol.dispose]: () => this.#kept.add(id, { leave, bytes }) };
  }

  async #readRows(
    id: string,
    names: readonly string[],
    signal: AbortSignal,
  ): Promise<PresentRows | undefined> {
    const { logs, unwritten } = this.#parts;
    const page = await logs.namedRows(id, { rows: names, maxBytes: PAGE_BYTES, signal });
    if (page !== undefined) return page.info.end ? undefined : namedRows(page, names);
    // The write keeps the state in use.
    const view = await unwritten.get(id)?.view();
    return view && pickRows(view, names);
  }

  /** Returns whether an open handle creates a missing state anew. */
  isAwaited(id: string): boolean {
    const rows = this.#rows.get(id);
    if (rows === undefined || rows.failure !== undefined || rows.openers.size === 0) return false;
    this.#parts.logs.recheck(id);
    return true;
  }

  /** Ends all states. */
  close(): void {
    this.#isClosed = true;
    this.#kept.close();
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
    { isFixed }: { readonly isFixed: boolean },
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

  /**
   * Returns the identity of a keyed stream; `undefined` if there is no stream with this id, or
   * another one.
   */
  async #find(id: string): Promise<string | undefined> {
    const found = await this.#parts.logs.info(id);
    const isKeyed = found.kind === "page" && found.info.keyed !== undefined;
    return isKeyed ? found.info.identity : undefined;
  }

  /** The rows of a new state that `open` names. */
  #firstOf(id: string, changes: readonly RowChange[]): FirstRows {
    const first = this.#parts.unwritten.firstRows([changes]);
    if (!("kind" in first)) return first;
    throw new RequestError("full", `Cannot open state "${id}": ${outcomeText(first)}`);
  }

  /** Creates the stream if there is none, and returns its identity. */
  async #create(id: string, initial: InitialRows | undefined): Promise<string> {
    const { logs, tail, unwritten } = this.#parts;
    const facts = { contentType: JSON_TYPE, keyed: tail };
    const changes = await encodeInitial(id, initial, this.#parts);
    const present = await this.#find(id);
    if (present !== undefined) return present;
    const created = initial === undefined
      ? await unwritten.create(id, facts)
      : await logs.create(id, { ...facts, ...this.#firstOf(id, changes) });
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
      : `Cannot open state "${id}": ${outcomeText(created)}`;
    throw new RequestError("full", reason);
  }
}

/** The error for an id that fits no pattern of the contract. */
function unknownState(verb: string, id: string): RequestError {
  return new RequestError(
    "not-found",
    `Cannot ${verb}: "${id}" fits no pattern of the contract's states`,
  );
}
