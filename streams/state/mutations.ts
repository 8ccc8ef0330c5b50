/** Runs the mutations of live states: each is one transaction of the server's own code. */
import type { Quota, Quotas } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { BrokerError, RequestError, TimeoutError } from "../../errors.ts";
import type { MutationRun, Mutations } from "../../session/mutations/mutations.ts";
import { ephemeralRead, type TransactionRows } from "../../session/mutations/transaction.ts";
import { freezeRow } from "../../session/rows/row_values.ts";
import type { MutationOverrides, ServerMutationContext } from "../../server/requests/mutations.ts";
import { rowName } from "../../session/wire/rows.ts";
import { encodeTransaction } from "../logs/change_message.ts";
import type { StreamLogs } from "../logs/stream_logs.ts";
import type { ChangeSource, CheckedBy, WriteTime } from "./change_decisions.ts";
import { type ChangeGate, ephemeralRejection } from "./gate.ts";
import type { CompleteRows } from "./live_rows.ts";
import type { Mark } from "./mutation_marks.ts";
import { lateRows, RETRY_MS } from "./rejections.ts";
import { type LeftRow, takeSlot } from "./row_queue.ts";
import type { HeldRows, States } from "./states.ts";
import {
  type AppendOutcome,
  type CountedRows,
  type GuardedChanges,
  type Made,
  type RowsOfState,
  type SeenRow,
  transact,
  type Transacted,
} from "./transact.ts";
import { appendUnchanged } from "./unchanged.ts";

/** Maximum number of mutations that run at the same time, or wait for their turn. */
const MAX_RUNNING = 10_000;

/** Maximum number of one address or user, once more than half of them run. */
const RUNNING_SHARES = { address: 1_000, user: 128 };

/** Number of rows that a mutation may read for as much work as one more mutation. */
export const ROWS_PER_PUBLICATION = 100;

/** Longest wait for the rows that a client has seen, in milliseconds. */
const CATCH_UP_MS = 1_000;

/** Number of times that a state may be deleted and created anew while a mutation runs. */
const MAX_REPLACED = 3;

/** The mutations of a server's states. */
export interface ServedMutations {
  /** The mutations that the contract names. */
  readonly mutations: Mutations;
  /** The functions that this server calls instead of the shared ones, by name. */
  readonly overrides?: MutationOverrides | undefined;
}

/** The client that calls a mutation over its session. */
export interface MutationSource extends ChangeSource {
  /**
   * Checks whether the client may call a mutation with this input.
   *
   * @throws {RequestError} If it may not.
   */
  readonly mayMutate: (run: MutationRun) => Promise<void>;
}

/** A call of a mutation, whose input and right were checked. */
export interface AllowedMutation extends MutationRun {
  readonly source: ChangeSource;
  readonly time: WriteTime;
  /** The mark, if the client may send the mutation again. */
  readonly mark?: Mark | undefined;
  /** Version of the state that the client has seen, or that its earlier mutation has made. */
  readonly since?: number | undefined;
  /** Names the transaction in its changes, so that the client finds them in the stream. */
  readonly txid?: string | undefined;
  /** Appends to the stream; creates a state of the contract that is not stored yet. */
  readonly append: StreamLogs["append"];
  /**
   * Counts publications of the client, in addition to the mutation itself: one for each
   * {@linkcode ROWS_PER_PUBLICATION} rows that the last run of the function has read.
   */
  readonly spend: (publications: number) => void;
}

export interface MutationCall extends AllowedMutation {
  readonly source: MutationSource;
}

/** Parts of {@linkcode StateMutations}. */
export interface StateMutationsParts {
  readonly runtime: Runtime;
  readonly quotas: Quotas;
  readonly gate: ChangeGate;
  readonly logs: StreamLogs;
  readonly states: Pick<States, "hold" | "openRows" | "rowsOf">;
  /** Maximum size of a transaction in bytes, so that sessions can read it. */
  readonly maxTransactionBytes: (id: string) => number;
  /** Receives what a mutation has thrown, other than a `RequestError`. MUST NOT throw. */
  readonly report: (what: string, error: unknown) => void;
}

/** Runs mutations on the rows of this server's broker. */
export class StateMutations {
  readonly #parts: StateMutationsParts;
  readonly #served: ServedMutations;
  readonly #running: Quota;

  constructor(served: ServedMutations, parts: StateMutationsParts) {
    this.#served = served;
    this.#parts = parts;
    this.#running = parts.quotas.open({
      limit: "states.mutations",
      verb: "write state",
      what: "mutations that run or wait",
      max: MAX_RUNNING,
      shares: RUNNING_SHARES,
      retryAfterMs: RETRY_MS,
    });
  }

  /**
   * Runs a mutation of a client: checks the input and the right, and makes it.
   *
   * @param id The id of the state.
   * @returns See {@linkcode StateMutations.make}.
   * @throws {RequestError} With the codes of {@linkcode StateMutations.check} and
   * {@linkcode StateMutations.make}, and `forbidden`.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async run(id: string, call: MutationCall): Promise<Transacted> {
    const { name, source: { mayMutate, session }, time } = call;
    const input = await this.check(id, call, { session, time });
    await mayMutate({ name, input });
    return await this.make(id, { ...call, input });
  }

  /**
   * Checks the input of a mutation.
   *
   * @param id The id of the state.
   * @param run The mutation, with its input as it was received.
   * @param by The client, and the time of its call.
   * @returns The input as its schema returns it.
   * @throws {RequestError} With the code `unknown-mutation`, `invalid`, or `failed` if the schema does
   * not decide.
   */
  async check(id: string, { name, input }: MutationRun, by: CheckedBy): Promise<unknown> {
    try {
      const checking = this.#served.mutations.check(id, { name, input });
      const checked = checking instanceof Promise
        ? await this.#parts.gate.times.within(`the schema of "${name}"`, checking, by)
        : checking;
      // It is the same for each run.
      return freezeRow(checked);
    } catch (error) {
      throw this.#rejected(name, error);
    }
  }

  /**
   * Makes a mutation: calls its function until the changes take effect on the rows that it has read.
   *
   * @param id The id of the state.
   * @returns The result of the append; `unchanged` if the mutation has changed nothing, and `made` if
   * it was made before.
   * @throws {RequestError} With the code `too-large`, `failed` if the function throws anything but a
   * `RequestError`, `unavailable` with `retryAfterMs` if it can't be made for now, and `unknown` if it
   * may have been made before.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async make(id: string, call: AllowedMutation): Promise<Transacted> {
    const { source } = call;
    source.decision.check();
    using _slot = takeSlot(this.#running, source.account);
    const known = await this.#find(id, call);
    if (known !== undefined) return known;
    try {
      const made = await this.#make(id, call);
      return made.kind === "unchanged" && await this.#find(id, call) || made;
    } catch (error) {
      if (error instanceof NoState) return { kind: "missing", identity: undefined };
      // The first call may have run at the same time, and this one has seen its changes.
      const found = error instanceof BrokerError ? undefined : await this.#find(id, call);
      if (found !== undefined) return found;
      throw this.#rejected(call.name, error);
    }
  }

  /** Finds a mutation that was made before. */
  async #find(id: string, { append, mark }: AllowedMutation): Promise<Made | undefined> {
    if (!mark?.mayBeMade) return undefined;
    const result = await append(id, { records: [], changes: [mark.check()] });
    if (result.kind !== "conflict") return undefined;
    const version = mark.learn(result);
    return version === undefined ? undefined : { kind: "made", version };
  }

  /** Turns what the application throws into what the client may know. */
  #rejected(name: string, error: unknown): unknown {
    if (error instanceof RequestError || error instanceof BrokerError) return error;
    this.#parts.report(`The mutation "${name}"`, error);
    const why = error instanceof TimeoutError ? "took too long" : "failed";
    return new RequestError("failed", `The mutation "${name}" ${why}`, { cause: error });
  }

  async #make(id: string, call: AllowedMutation): Promise<Transacted> {
    let gone: string | undefined;
    for (let replaced = 0;; replaced++) {
      const made = await this.#attempt(id, call, gone);
      // The rows may have been those of a deleted state with the same id.
      const isReplaced = made.kind === "missing" && "identity" in made &&
        made.identity !== undefined && replaced < MAX_REPLACED;
      if (!isReplaced) return made;
      gone = made.identity;
    }
  }

  async #attempt(
    id: string,
    call: AllowedMutation,
    gone: string | undefined,
  ): Promise<Transacted> {
    const { gate, states } = this.#parts;
    const { source, time, mark, since } = call;
    using rows = new RowsForMutation(id, { states, gate, time, since, gone });
    await rows.catchUp();
    let last: CountedRows | undefined;
    try {
      return await transact({
        rows,
        run: (seen) => this.#call(id, call, last = seen),
        enter: (names) => gate.enter(id, names, { source, time }),
        append: async (guarded) => {
          const outcome = await this.#append(id, call, guarded);
          const { result, checked } = outcome;
          if (mark === undefined || result.kind !== "conflict" || result.row !== mark.row) {
            return outcome;
          }
          const version = mark.learn(result);
          return version === undefined ? outcome : { result: { kind: "made", version }, checked };
        },
      });
    } finally {
      const publications = Math.floor((last?.count ?? 0) / ROWS_PER_PUBLICATION);
      if (publications > 0) call.spend(publications);
    }
  }

  /** Calls the function of a mutation, within its time. */
  #call(
    id: string,
    { name, input, source, time }: AllowedMutation,
    seen: TransactionRows,
  ): ReturnType<Mutations["run"]> {
    const { gate } = this.#parts;
    const { user, session } = source;
    const { mutations, overrides } = this.#served;
    const context: ServerMutationContext = {
      id,
      params: gate.paramsOf(id),
      user,
      isServer: true,
      session,
    };
    const own = overrides !== undefined && Object.hasOwn(overrides, name)
      ? overrides[name]
      : undefined;
    const running = source.decision.during(() =>
      mutations.run(seen, { name, input }, context, own)
    );
    if (!(running instanceof Promise)) return running;
    return gate.times.within(`the mutation "${name}"`, running, { time, session });
  }

  async #append(
    id: string,
    { source, time, mark, txid, append }: AllowedMutation,
    { changes, scans, identity }: GuardedChanges,
  ): Promise<AppendOutcome> {
    const { runtime, gate, logs, maxTransactionBytes } = this.#parts;
    const ephemeral = gate.ephemeralOf(id);
    const unstored = changes.find(({ type }) => ephemeral.has(type));
    if (unstored !== undefined) throw ephemeralRejection(unstored.type);
    // The changes are those of the server's own code.
    const checking = gate.check(id, changes, { time });
    const checked = checking instanceof Promise ? await checking : checking;
    const now = runtime.now();
    const named = txid === undefined ? checked : checked.map((change) => ({ ...change, txid }));
    const encoded = encodeTransaction(named, { now, maxBytes: maxTransactionBytes(id) });
    if (encoded.fault !== undefined) {
      throw new RequestError("too-large", `Cannot write state: ${encoded.fault}`);
    }
    const all = mark === undefined ? encoded.changes : [mark.change(runtime), ...encoded.changes];
    source.decision.check();
    const appendAt = (ifTail?: number) =>
      append(id, { identity, records: [], changes: all, ifTail });
    const { waitUntilMs: untilMs } = time;
    const result = scans.size === 0
      ? await appendAt()
      : await appendUnchanged(id, scans, { append: appendAt, identity, logs, runtime, untilMs });
    return { result, checked };
  }
}

/** The rows of a state for one mutation: those that this server has, or else those that it reads. */
class RowsForMutation implements RowsOfState, Disposable {
  readonly #id: string;
  readonly #parts: Pick<StateMutationsParts, "gate" | "states">;
  readonly #time: WriteTime;
  /** All rows, once a collection was iterated. */
  #held: HeldRows | undefined;
  /** The rows that are being read. */
  #holding: Promise<CompleteRows> | undefined;
  #isDisposed = false;
  #ephemeral: ReadonlySet<string> | undefined;
  readonly #since: number;
  /** Identity of a deleted state with the same id. */
  readonly #gone: string | undefined;

  constructor(
    id: string,
    { time, since = 0, gone, ...parts }: Pick<StateMutationsParts, "gate" | "states"> & {
      readonly time: WriteTime;
      readonly since?: number | undefined;
      readonly gone: string | undefined;
    },
  ) {
    this.#id = id;
    this.#parts = parts;
    this.#time = time;
    this.#since = since;
    this.#gone = gone;
  }

  /**
   * Waits until this server's copy of the rows is as new as the client's, so that the function rejects
   * nothing because of rows that the client knows to be old. A client may name any version, so the
   * wait is short.
   */
  async catchUp(): Promise<void> {
    const rows = this.#held?.live ?? this.#parts.states.openRows(this.#id);
    if (rows === undefined || rows.version >= this.#since) return;
    const { times } = this.#parts.gate;
    const untilMs = Math.min(this.#time.untilMs, times.of(CATCH_UP_MS).untilMs);
    const time = { ...this.#time, untilMs };
    const { identity } = rows;
    const isBehind = () =>
      rows.version < this.#since && rows.identity === identity && rows.failure === undefined;
    try {
      while (isBehind()) await times.within("the rows of a state", rows.changed(), { time });
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
    }
  }

  row(type: string, key: string, left?: LeftRow): SeenRow | Promise<SeenRow> {
    this.#checkStored(type);
    const rows = this.#held?.rows ?? this.#parts.states.openRows(this.#id);
    if (rows !== undefined) {
      const { identity, version } = rows;
      return { identity, version, row: rows.stored(type).get(key) };
    }
    const { identity } = left ?? {};
    const isLeft = identity !== undefined && identity !== this.#gone;
    return isLeft ? { identity, version: -1, row: undefined } : this.#read(rowName(type, key));
  }

  async #read(name: string): Promise<SeenRow> {
    const { gate, states } = this.#parts;
    const timeoutMs = gate.times.leftMs(this.#time);
    const read = await states.rowsOf(this.#id, { names: [name], timeoutMs });
    if (read === undefined) throw new NoState(this.#id);
    const { identity, version, rows } = read;
    return { identity, version, row: rows.get(name) };
  }

  async all(type: string): Promise<CompleteRows> {
    this.#checkStored(type);
    return this.#held?.rows ?? await (this.#holding ??= this.#hold());
  }

  async #hold(): Promise<CompleteRows> {
    const { gate, states } = this.#parts;
    const timeoutMs = gate.times.leftMs(this.#time);
    try {
      const held = await states.hold(this.#id, { timeoutMs });
      if (held === undefined) throw new NoState(this.#id);
      if (this.#isDisposed) held[Symbol.dispose]();
      this.#checkUsed();
      this.#held = held;
      await this.catchUp();
      return held.rows;
    } finally {
      this.#holding = undefined;
    }
  }

  #checkStored(type: string): void {
    this.#checkUsed();
    this.#ephemeral ??= this.#parts.gate.ephemeralOf(this.#id);
    if (this.#ephemeral.has(type)) throw ephemeralRead(type);
  }

  async reach(version: number, identity: string | undefined): Promise<void> {
    const { gate, states } = this.#parts;
    const rows = this.#held?.live ?? states.openRows(this.#id);
    if (rows === undefined || rows.version >= version) return;
    const reaching = rows.reached(version, identity);
    try {
      await gate.times.within("the rows of a state", reaching, { time: this.#time });
    } catch (cause) {
      throw lateRows(cause);
    }
  }

  /** A function that took too long may still run. */
  #checkUsed(): void {
    if (!this.#isDisposed) return;
    throw new TypeError("Cannot use the transaction: the mutation has ended");
  }

  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#held?.[Symbol.dispose]();
  }
}

/** The error for a state that does not exist. */
class NoState extends RequestError {
  constructor(id: string) {
    super("not-found", `Cannot write state: there is no state "${id}"`);
  }
}
