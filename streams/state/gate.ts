/**
 * The checks that each change of a live state passes before it is stored: the schemas of the
 * contract, and for the changes of clients the application's `authorizeChange`.
 */
import { decide, DecisionFault } from "../../base/decision.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Quotas } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { validate, type Validation } from "../../base/standard_schema.ts";
import { MAX_TTL_MS, waitFor } from "../../base/wait.ts";
import { BrokerError, RequestError, TimeoutError } from "../../errors.ts";
import { type Change, type ClientChange, withValue } from "../logs/change_message.ts";
import type { Decision } from "../../pubsub/decisions.ts";
import type { LogRow } from "../logs/log.ts";
import type { StreamAppended } from "../logs/stream_logs.ts";
import { compileStates } from "../../session/state_schemas.ts";
import type { Contract, StateRoute } from "../../session/contract.ts";
import { internals, type Session } from "../../session/session.ts";
import type { SubscribeReply } from "../../session/wire/recovery.ts";
import { FOR_NOW, rowName } from "../../session/wire/rows.ts";
import type { TopicRouter } from "../../session/wire/topic_pattern.ts";
import type { LiveRow } from "../../session/rows/row_map.ts";
import { encodeRow, freezeRow } from "../../session/rows/row_values.ts";
import type { AuthorizeChange, RequestedChange } from "../../server/requests/changes.ts";
import { type PresentRows, rowIn } from "./live_rows.ts";
import { KeptTurns } from "./kept_turns.ts";
import {
  forNow,
  type LeftRow,
  MAX_WAITING,
  presentRow,
  RETRY_MS,
  RowQueue,
  type Turn,
  WAITING_SHARES,
} from "./row_queue.ts";

/** Fraction of the time limit of a reply for which a write waits and is repeated. */
const WAIT_PART = 1 / 2;

/**
 * The same for the application's functions and for reading rows. The client then receives their
 * failure before it gives up, after which it could not tell the outcome of its write.
 */
const REPLY_PART = 3 / 4;

/** Rows of a copy that are checked before other events are handled. */
const COPY_PIECE = 200;

/** A version that no row has. */
const NO_VERSION = Number.MAX_SAFE_INTEGER;

/** The client that requests changes. */
export interface ChangeSource extends Pick<RequestedChange, "user" | "session" | "request"> {
  /** The account of the rows that the server reads for this client. */
  readonly account: Account;
  /** The decision about the request. A change is made only if it still counts. */
  readonly decision: Decision;
}

/** Until when a client's write waits, on the monotonic clock; see {@linkcode ChangeGate.timeOf}. */
export interface WriteTime {
  /** End of the waits for other writes, and of the attempts. */
  readonly waitUntilMs: number;
  /** End of the waits for the application and for rows. */
  readonly untilMs: number;
}

/** Part of {@linkcode ChangeGate.write}. */
export interface GatedAppend {
  readonly source: ChangeSource;
  /** Time of the write; by default, that of a client with the server's time limit. */
  readonly time?: WriteTime | undefined;
  /**
   * Appends changes to the stream.
   *
   * @param changes The changes.
   * @param identity Identity that the stream must have; by default, any.
   */
  readonly append: (
    changes: readonly Change[],
    identity?: string,
  ) => Promise<StreamAppended>;
  /** True if the append names its producer, so that it may be a repetition. */
  readonly isNumbered?: boolean | undefined;
}

/** The result of {@linkcode ChangeGate.write}. */
export type GatedResult = StreamAppended & {
  /** True if other updates of the row wait for the client, which repeats its own. */
  readonly keepsTurn?: boolean;
};

/** The writer of rows that schemas check; by default, this server's own code. */
interface CheckedBy {
  readonly session?: Session | undefined;
  readonly time?: WriteTime | undefined;
}

/** Options of {@linkcode ChangeGate}. */
export interface ChangeGateOptions {
  readonly runtime: Runtime;
  readonly quotas: Quotas;
  readonly contract: Contract | undefined;
  readonly authorizeChange: AuthorizeChange | undefined;
  /** Time limit for a schema or a decision, in milliseconds. */
  readonly timeoutMs: number;
  /**
   * Reads rows of a state by name; see `States.rowsOf`. Rejects with a `RequestError` if they cannot
   * be read in `timeoutMs`.
   */
  readonly rowsOf: (
    id: string,
    options: {
      readonly names: readonly string[];
      readonly gone?: string | undefined;
      readonly timeoutMs: number;
    },
  ) => Promise<PresentRows | undefined>;
  /** Resolves to true if this version of a row expires, or if the row has changed since. */
  readonly expires: (
    id: string,
    row: { readonly name: string; readonly version: number; readonly identity: string | undefined },
  ) => Promise<boolean>;
  /** Resolves to true if the rows of a state are newer than the contract. */
  readonly isNewer: (id: string) => Promise<boolean>;
  /** Reports that `authorizeChange` failed. */
  readonly report: (fault: DecisionFault, session: Session | undefined) => void;
}

/** A change of a transaction that `authorizeChange` decides about. */
interface ChangeStep {
  readonly change: Change;
  /** Name of the row. */
  readonly name: string;
  /** True for the first change of the row in the transaction. */
  readonly isFirst: boolean;
  /** The allowed change of a row of the present version; `undefined` before the decision. */
  decided: Change | undefined;
}

/** The present rows of a state that a transaction changes. */
interface Present {
  /** Identity of the stream with the rows. */
  readonly identity: string | undefined;
  /**
   * Rows by name; a row that has not been read yet is absent. The value of a row is dropped with the
   * decision about it, so that the values take one page of rows.
   */
  readonly rows: Map<string, LiveRow | undefined>;
}

/** Changes to decide about, with the present rows. */
interface ChangesToDecide extends Present, GatedAppend {
  readonly time: WriteTime;
  readonly turn: Turn;
  readonly probe: (step: ChangeStep, identity?: string) => Promise<StreamAppended>;
}

/**
 * Checks the changes of live states.
 *
 * - **Schemas** apply to all writers. A state whose id fits no pattern of the contract is not
 *   checked.
 * - **`authorizeChange`** is called for the changes of clients only. Its decision is about the row
 *   that the change replaces: if the row changes meanwhile, the decision is made again.
 * - **Starvation:** the writes of this server's own code never wait for a decision, and no decision is
 *   about a row that has changed. If a row changes faster than `authorizeChange` decides, neither can
 *   give way, so the change is rejected after a while; its client tries for a bounded time.
 * - **Turns:** decisions about the same row are made one after another, so that only other servers
 *   and this server's own code change the row meanwhile. So are the updates of sessions, also
 *   without `authorizeChange`. Nothing else waits for them.
 */
export class ChangeGate {
  readonly #options: ChangeGateOptions;
  readonly #router: TopicRouter<StateRoute> | undefined;
  readonly #queue: RowQueue;
  readonly #kept: KeptTurns;
  readonly #closed = new AbortController();

  /** Creates a gate. */
  constructor(options: ChangeGateOptions) {
    this.#options = options;
    const { runtime, quotas } = options;
    const quota = quotas.open({
      limit: "states.waiting",
      verb: "write state",
      what: "writes that wait for others of the same row",
      max: MAX_WAITING,
      shares: WAITING_SHARES,
    });
    this.#queue = new RowQueue({
      runtime,
      quota,
      timeoutMs: options.timeoutMs * WAIT_PART,
      contendedCode: "undecided",
    });
    this.#kept = new KeptTurns(runtime);
    this.#router = options.contract && compileStates(options.contract);
  }

  /**
   * Returns the time of a write that starts now.
   *
   * @param timeoutMs Time for which the client waits for the reply; by default, the server's limit.
   */
  timeOf(timeoutMs: number = Infinity): WriteTime {
    const { runtime, timeoutMs: mostMs } = this.#options;
    const [now, limitMs] = [runtime.monotonic(), Math.min(timeoutMs, mostMs)];
    return { waitUntilMs: now + limitMs * WAIT_PART, untilMs: now + limitMs * REPLY_PART };
  }

  /** True if the contract has collections whose rows are not stored. */
  get hasEphemeral(): boolean {
    return this.#router?.routes.some(({ collections }) =>
      collections.values().some(({ ephemeral }) => ephemeral)
    ) === true;
  }

  /**
   * Returns whether the id of a state fits a pattern of the contract; `undefined` if the contract has
   * no states.
   */
  fits(id: string): boolean | undefined {
    const { state = {} } = this.#options.contract?.definition ?? {};
    return Object.keys(state).length === 0 ? undefined : this.#router!.match(id) !== undefined;
  }

  /**
   * True if the rows of a state pass checks that a copy of other rows has not passed: its id fits a
   * pattern of the contract, or the application decides about changes.
   */
  guards(id: string): boolean {
    return this.#options.authorizeChange !== undefined || this.fits(id) === true;
  }

  /**
   * Fits the rows of another state into the contract, for the fork of a server.
   *
   * @param id The id of the new state.
   * @param source The id of the source.
   * @param rows The rows of the source.
   * @returns The rows, with the results of the schemas; `undefined` if they need no check, because
   * the new id fits no pattern, or both ids fit the same one.
   * @throws {RequestError} With the codes of {@linkcode ChangeGate.check}.
   */
  async fitCopy(
    id: string,
    source: string,
    rows: readonly LogRow[],
  ): Promise<readonly LogRow[] | undefined> {
    const collections = this.#router?.match(id)?.collections;
    const isFree = collections === undefined ||
      collections === this.#router?.match(source)?.collections;
    if (isFree) return undefined;
    const fitted: LogRow[] = [];
    for (const row of rows) {
      // Other events are handled in between.
      if (fitted.length > 0 && fitted.length % COPY_PIECE === 0) {
        await new Promise<void>((end) => this.#options.runtime.schedule(end));
      }
      if (row.deletedAt !== undefined) {
        fitted.push(row);
        continue;
      }
      const { value, ...message } = JSON.parse(row.text);
      const { type, key } = message;
      const change: ClientChange = { type, key, operation: "upsert", data: value };
      const [checked] = await this.check(id, [change]);
      const text = JSON.stringify({ ...message, value: JSON.parse(checked!.value!) });
      fitted.push({ ...row, text, bytes: undefined });
    }
    return fitted;
  }

  /** Returns the collections of a state whose rows are not stored. */
  ephemeralOf(id: string): ReadonlySet<string> {
    const { collections = [] } = this.#router?.match(id) ?? {};
    return new Set(Array.from(collections).flatMap(([name, of]) => of.ephemeral ? name : []));
  }

  /** Returns the version of the rows of a state in the contract, if the contract defines it. */
  versionOf(id: string): number | undefined {
    return this.#router?.match(id)?.version;
  }

  /** Returns the collections of a state in the contract, by kind; a kind without any is absent. */
  kindsOf(id: string): Pick<SubscribeReply, "ephemeral" | "stored"> {
    const { collections = [] } = this.#router?.match(id) ?? {};
    const kinds: { ephemeral?: string[]; stored?: string[] } = {};
    for (const [name, of] of collections) {
      (kinds[of.ephemeral ? "ephemeral" : "stored"] ??= []).push(name);
    }
    return kinds;
  }

  /**
   * Applies the schemas of the contract. A deletion needs none. It may also be of a row that was
   * stored before its collection became ephemeral, unless a session requests it: sessions do not see
   * such a row.
   *
   * @param id The id of the state.
   * @param changes The changes.
   * @param by The session that requests them, if any, and the time of its write.
   * @returns The changes, with the results of the schemas; a promise if a schema is asynchronous,
   * so that a server's writes stay in order if none is.
   * @throws {RequestError} With the code `unknown-collection`, `ephemeral` or `invalid`, or
   * `unavailable` if the server closes.
   * @throws {TimeoutError} If a schema takes too long, and the error that a schema throws.
   */
  check(
    id: string,
    changes: readonly (Change | ClientChange)[],
    by: CheckedBy = {},
  ): readonly Change[] | Promise<readonly Change[]> {
    const { session } = by;
    const collections = this.#router?.match(id)?.collections;
    if (collections === undefined) return changes.map(withValue);
    const unstored = changes.find(({ type, operation }) =>
      (operation !== "delete" || session !== undefined) && collections.get(type)?.ephemeral
    );
    if (unstored !== undefined) throw ephemeralRejection(unstored.type);
    const checked: Change[] = [];
    const rest = (): readonly Change[] | Promise<readonly Change[]> => {
      while (checked.length < changes.length) {
        const fitted = this.#fitted(changes[checked.length]!, collections, by);
        if (fitted instanceof Promise) {
          return fitted.then((change) => {
            checked.push(change);
            return rest();
          });
        }
        checked.push(fitted);
      }
      return checked;
    };
    return rest();
  }

  /**
   * Checks the changes that a client requests, and appends them.
   *
   * @param id The id of the state.
   * @param changes The changes.
   * @param append The client, and the append.
   * @returns The result of the append. It is a `conflict` only if a row does not have the version
   * that the client expects. It is `other-form` if the rows have another version than the contract.
   * @throws {RequestError} With the codes of {@linkcode ChangeGate.check}, `forbidden` if
   * `authorizeChange` denies a change, `undecided` with `retryAfterMs` if it fails, or if others change
   * a row during each decision, `unavailable` with `retryAfterMs` if the write waits too long for
   * others of the row, or the server closes, and the code of the revocation if the client's right was
   * revoked in the meantime; or the error that `authorizeChange` throws.
   */
  async write(
    id: string,
    changes: readonly (Change | ClientChange)[],
    options: GatedAppend,
  ): Promise<GatedResult> {
    try {
      return await this.#write(id, changes, options);
    } catch (error) {
      // An older contract can't tell whether the rows fit, so the client writes by a newer server.
      const isForNow = error instanceof BrokerError ||
        error instanceof RequestError && FOR_NOW.has(error.failure.code);
      if (!isForNow && await this.#options.isNewer(id)) throw otherVersion(id);
      throw error;
    }
  }

  async #write(
    id: string,
    changes: readonly (Change | ClientChange)[],
    { source, append: appendNow, isNumbered = false, time = this.timeOf() }: GatedAppend,
  ): Promise<GatedResult> {
    const append: GatedAppend["append"] = (changes, identity) => {
      source.decision.check();
      return appendNow(changes, identity);
    };
    const { session } = source;
    const checked = await this.check(id, changes, { session, time });
    const updating = isUpdate(checked) ? session : undefined;
    const isFree = this.#options.authorizeChange === undefined && updating === undefined;
    if (isFree || checked.length === 0) return await append(checked);
    const names = namesOf(stepsOf(checked));
    const turn = updating && this.#kept.take(updating, id, names[0]!) ||
      await this.#enter(id, names, { source, time });
    turn.untilMs = time.waitUntilMs;
    let keepsTurn = false;
    try {
      const result = this.#options.authorizeChange === undefined
        ? await append(checked)
        : await this.#writeDecided(id, checked, { source, append, isNumbered, turn, time });
      if (updating === undefined) return result;
      if (result.kind === "appended") this.#kept.made(updating);
      const isStale = result.kind === "conflict" && result.version > 0;
      keepsTurn = isStale && this.#kept.keep(updating, turn);
      return { ...result, keepsTurn };
    } finally {
      if (!keepsTurn) turn[Symbol.dispose]();
    }
  }

  /** Appends changes that `authorizeChange` allows. */
  async #writeDecided(
    id: string,
    changes: readonly Change[],
    { source, append, isNumbered, turn, time }: GatedAppend & {
      readonly turn: Turn;
      readonly time: WriteTime;
    },
  ): Promise<StreamAppended> {
    /** Appends nothing, because the row would have to have a version that no row has. */
    const probe = ({ change }: ChangeStep, identity?: string) =>
      append([{ ...change, expect: NO_VERSION }], identity);
    let gone: string | undefined;
    while (true) {
      const steps = stepsOf(changes);
      const present = await this.#present(id, namesOf(steps), { gone, turn, time });
      if (present === undefined) {
        const result = await probe(steps[0]!);
        if (result.kind !== "conflict") return result;
        throw forNow(`"${id}" was just created`);
      }
      const asked = { ...present, source, append, probe, isNumbered, turn, time };
      const result = await this.#ask(id, steps, asked);
      // The present rows may belong to a deleted stream with the same id.
      if (result.kind !== "missing" || gone !== undefined) return result;
      gone = present.identity;
    }
  }

  /**
   * Applies the schema of the contract to a change of an ephemeral row.
   *
   * @param id The id of the state.
   * @param change The change.
   * @param by See {@linkcode ChangeGate.check}.
   * @returns The change, with the result of the schema; a promise if the schema is asynchronous.
   * @throws {RequestError} With the code `invalid`, and the other errors of
   * {@linkcode ChangeGate.check}.
   */
  fit(id: string, change: Change | ClientChange, by: CheckedBy = {}): Change | Promise<Change> {
    return this.#fitted(change, this.#router!.match(id)!.collections, by);
  }

  /**
   * Checks the change of an ephemeral row that a client requests, and makes it.
   *
   * @param id The id of the state.
   * @param change The change.
   * @param making The client, and functions that read the present row and make the change.
   * @returns The result of `make`.
   * @throws {RequestError} With the codes of {@linkcode ChangeGate.write}.
   */
  async writeEphemeral<T>(
    id: string,
    change: Change | ClientChange,
    { source, time, present, make }: {
      readonly source: ChangeSource;
      readonly time: WriteTime;
      readonly present: () => LiveRow | undefined;
      readonly make: (change: Change) => T;
    },
  ): Promise<T> {
    const fitted = await this.fit(id, change, { session: source.session, time });
    const { decision } = source;
    if (this.#options.authorizeChange === undefined) {
      decision.check();
      return make(fitted);
    }
    const name = rowName(change.type, change.key);
    using turn = await this.#enter(id, [name], { source, time });
    while (true) {
      const row = present();
      const expires = () => Promise.resolve(false);
      const asked = { before: row?.value, expires, source, time };
      const allowed = await this.#authorized(id, fitted, asked);
      decision.check();
      if (present() === row) return make(allowed);
      await turn.again(name);
    }
  }

  /** Rejects the writes that wait, also for the application. Clients send them to another server. */
  close(): void {
    const reason = new RequestError("unavailable", "The server is closed", {
      retryAfterMs: RETRY_MS,
    });
    this.#kept.close();
    this.#queue.close(reason);
    this.#closed.abort(reason);
  }

  /** Enters the lines of rows. */
  async #enter(
    id: string,
    rows: readonly string[],
    { source, time }: { readonly source: ChangeSource; readonly time: WriteTime },
  ): Promise<Turn> {
    const { account, decision, session, request } = source;
    const entered = this.#queue.enter(id, rows, {
      account,
      signals: () => [request?.signal],
      untilMs: time.waitUntilMs,
    });
    if (!(entered instanceof Promise)) return entered;
    const turn = await entered.catch((error) => {
      throw request?.signal.aborted ? left() : error;
    });
    try {
      decision.check();
      if (session?.isClosed) throw left();
      return turn;
    } catch (error) {
      turn[Symbol.dispose]();
      throw error;
    }
  }

  /** Decides about the changes, and appends them, until no row changes in between. */
  async #ask(
    id: string,
    steps: readonly ChangeStep[],
    { append, probe, isNumbered, ...asked }: ChangesToDecide,
  ): Promise<StreamAppended> {
    const { identity, rows, turn, time } = asked;
    while (true) {
      let doubtful: ChangeStep | undefined;
      try {
        doubtful = await this.#decide(id, steps, asked);
      } catch (error) {
        // The change may be denied only because it has already been made.
        const repeated = isNumbered ? await probe(steps[0]!, identity) : undefined;
        if (repeated?.kind === "repeated") return repeated;
        throw error;
      }
      const result = doubtful === undefined
        ? await append(steps.map(({ decided }) => decided!), identity)
        : await probe(doubtful, identity);
      if (result.kind === "appended") hand(turn, steps, { identity, version: result.info.tail });
      if (result.kind !== "conflict") return result;
      const { row, text, version } = result;
      rows.set(row, rowIn(text, version));
      const changed = steps.filter(({ name }) => name === row);
      // A row that has the version which was decided about does not fit the client's `since`.
      const isOver = changed.some((step) =>
        step.decided?.expect === version || !isPossible(step, rows)
      );
      if (isOver) return result;
      for (const step of changed) step.decided = undefined;
      await turn.again(row);
      await this.#renew(id, steps, { identity, rows, conflict: result, time });
    }
  }

  /**
   * Reads the other rows of a transaction again after a conflict, which names only one. Otherwise, a
   * transaction of rows that others changed together would meet as many conflicts as it has rows.
   */
  async #renew(
    id: string,
    steps: readonly ChangeStep[],
    { identity, rows, conflict, time }: Present & {
      readonly conflict: Extract<StreamAppended, { kind: "conflict" }>;
      readonly time: WriteTime;
    },
  ): Promise<void> {
    const others = [...rows.keys()].filter((name) => name !== conflict.row);
    if (others.length === 0) return;
    const timeoutMs = this.#leftMs(time);
    const read = await this.#options.rowsOf(id, { names: others, timeoutMs });
    if (read === undefined || read.identity !== identity) return;
    // An open handle's rows may be behind.
    if (read.version < conflict.version) return;
    const changed = new Set<string>();
    for (const [name, row] of read.rows) {
      const { version = 0 } = rows.get(name) ?? {};
      // An earlier conflict may have told a newer version than that of the copy.
      if ((row?.version ?? 0) === version || read.version < version) continue;
      rows.set(name, row);
      changed.add(name);
    }
    for (const step of steps) if (changed.has(step.name)) step.decided = undefined;
  }

  /** Applies the schema of one change. */
  #fitted(
    change: Change | ClientChange,
    collections: StateRoute["collections"],
    by: CheckedBy,
  ): Change | Promise<Change> {
    const { type, key, operation } = change;
    if (operation === "delete") return withValue(change);
    const collection = collections.get(type);
    if (collection === undefined) {
      const names = [...collections.keys()].join(", ");
      throw new RequestError(
        "unknown-collection",
        `Cannot write state: the collection must be one of ${names}, received "${type}"`,
      );
    }
    const result = (outcome: Validation<unknown>): Change => {
      if (outcome.ok) return withFitted(change, outcome.value);
      const { message, path } = outcome;
      throw new RequestError(
        "invalid",
        `Cannot write state: the row "${key}" of "${type}" must fit the contract: ${message}`,
        { path },
      );
    };
    const outcome = validate(collection.schema, dataOf(change));
    return outcome instanceof Promise
      ? this.#inTime("the schema of a row", outcome, by).then(result)
      : result(outcome);
  }

  /** Reads the present rows of these names, or the first of them. */
  async #present(
    id: string,
    names: readonly string[],
    { gone, turn, time }: {
      readonly gone?: string | undefined;
      readonly turn: Turn;
      readonly time: WriteTime;
    },
  ): Promise<Present | undefined> {
    const timeoutMs = this.#leftMs(time);
    const read = leftRows(turn, names, gone) ??
      await this.#options.rowsOf(id, { names, gone, timeoutMs });
    if (read === undefined) return undefined;
    const rows = Array.from(
      read.rows,
      ([name, known]) => [name, presentRow(known, { rows: read, left: turn.left(name) })] as const,
    );
    return { identity: read.identity, rows: new Map(rows) };
  }

  /**
   * Decides about the changes that are not decided yet.
   *
   * @returns A change that cannot succeed with the present rows, if there is one.
   */
  async #decide(
    id: string,
    steps: readonly ChangeStep[],
    { identity, rows, source, turn, time }: Pick<
      ChangesToDecide,
      keyof Present | "source" | "time" | "turn"
    >,
  ): Promise<ChangeStep | undefined> {
    const impossible = () => steps.find((step) => rows.has(step.name) && !isPossible(step, rows));
    let doubtful = impossible();
    /** Rows after the earlier changes of the transaction. */
    const earlier = new Map<string, Change>();
    for (const step of steps) {
      const { name, change } = step;
      if (doubtful === undefined && !rows.has(name)) {
        const unread = namesOf(steps).filter((name) => !rows.has(name));
        const more = await this.#present(id, unread, { turn, time });
        // The stream was replaced.
        if (more?.identity !== identity) return step;
        for (const [name, row] of more!.rows) rows.set(name, row);
        doubtful = impossible();
      }
      if (doubtful !== undefined) return doubtful;
      if (step.decided !== undefined) continue;
      const row = rows.get(name);
      const { version = 0 } = row ?? {};
      const last = earlier.get(name);
      const allowed = await this.#authorized(id, change, {
        before: last === undefined ? row?.value : valueOf(last),
        expires: async () =>
          last === undefined
            ? await this.#options.expires(id, { name, version, identity })
            : last.ttlMs !== undefined,
        source,
        time,
      });
      earlier.set(name, allowed);
      step.decided = { ...allowed, expect: version };
      if (row !== undefined) rows.set(name, { ...row, value: undefined });
    }
    return undefined;
  }

  /** Calls `authorizeChange`. Its failure leaves the change undecided. */
  async #authorized(
    id: string,
    change: Change,
    { before, expires, source, time }: {
      readonly before: unknown;
      /** Returns whether the present row expires. */
      readonly expires: () => Promise<boolean>;
      readonly source: ChangeSource;
      readonly time: WriteTime;
    },
  ): Promise<Change> {
    const { type: collection, key, operation, since } = change;
    const isDelete = operation === "delete";
    const action = isDelete ? "delete" : "set";
    const ttlMs = isDelete ? undefined : change.ttlMs;
    const asked = { id, collection, key, before, ttlMs, since };
    const name = `the row "${key}" of "${collection}"`;
    const { allowed, namesExpiry } = await this.#allowed(
      { ...asked, action, operation, value: valueOf(change) },
      { change, source, time, what: `${action} ${name}` },
    );
    const mayExpire = isDelete || allowed.ttlMs === undefined || namesExpiry;
    // An expiry is a deletion later on.
    if (!mayExpire && before !== undefined && !await expires()) {
      await this.#allowed(
        { ...asked, action: "delete", operation: "delete", value: undefined },
        { change: { ...change, operation: "delete" }, source, time, what: `let ${name} expire` },
      );
    }
    return allowed;
  }

  /** Calls `authorizeChange` once, and returns the change as it is allowed. */
  async #allowed(
    asked: Omit<RequestedChange, "request" | "session" | "user">,
    { change, source, time, what }: {
      readonly change: Change;
      readonly source: ChangeSource;
      readonly time: WriteTime;
      /** The change, in words. */
      readonly what: string;
    },
  ): Promise<{ readonly allowed: Change; readonly namesExpiry: boolean }> {
    const { user, session, request } = source;
    const name = "authorizeChange";
    const ask = () => {
      const of = { ...asked, user, session, request };
      const decided = source.decision.during(() => this.#options.authorizeChange!(of));
      return decided instanceof Promise ? this.#inTime(name, decided, { session, time }) : decided;
    };
    try {
      const decision = await decide(name, ask, [RequestError]);
      if (decision === true) return { allowed: change, namesExpiry: false };
      if (typeof decision === "object" && decision !== null) {
        const namesExpiry = "ttlMs" in decision;
        if (namesExpiry || "value" in decision) {
          return { allowed: rewritten(change, decision), namesExpiry };
        }
      }
    } catch (error) {
      if (!(error instanceof DecisionFault)) throw error;
      this.#options.report(error, session);
      const message = `Cannot write state: the server cannot tell now if this client may ${what}`;
      throw new RequestError("undecided", message, {
        retryAfterMs: RETRY_MS,
        cause: error.cause,
      });
    }
    throw new RequestError("forbidden", `Cannot write state: this client may not ${what}`);
  }

  /**
   * Waits for the application until the write has no more time, or the server closes. A later result
   * is ignored.
   */
  async #inTime<T>(what: string, promise: Promise<T>, { session, time }: CheckedBy): Promise<T> {
    const { runtime, timeoutMs: mostMs } = this.#options;
    const timeoutMs = time === undefined ? mostMs : this.#leftMs(time);
    let isSettled = false;
    const settling = promise.finally(() => isSettled = true);
    try {
      return await waitFor(runtime, settling, { what, timeoutMs, signal: this.#closed.signal });
    } catch (error) {
      const isLate = !isSettled && error instanceof TimeoutError;
      throw isLate && session !== undefined ? session[internals].noteLate(what, timeoutMs) : error;
    }
  }

  #leftMs({ untilMs }: WriteTime): number {
    return Math.max(0, Math.ceil(untilMs - this.#options.runtime.monotonic()));
  }
}

/** The error for a client that is gone, and sends its write again in its next session. */
function left(): RequestError {
  return forNow("the client has left");
}

/** The error for a write that would store rows of an ephemeral collection. */
export function ephemeralRejection(type: string): RequestError {
  return new RequestError(
    "ephemeral",
    `Cannot write state: the rows of "${type}" are ephemeral: sessions and servers write them, ` +
      "one at a time",
  );
}

/** The error for a write by a server whose contract has another version than the rows. */
export function otherVersion(id: string): RequestError {
  return new RequestError(
    "unavailable",
    `Cannot write state: the rows of "${id}" have another version than the server's contract`,
    { retryAfterMs: RETRY_MS },
  );
}

/** True if a client's `update` makes the changes. */
function isUpdate([change, ...others]: readonly Change[]): boolean {
  return others.length === 0 && change?.operation === "update" && change.expect !== undefined;
}

function stepsOf(changes: readonly Change[]): ChangeStep[] {
  const names = new Set<string>();
  return changes.map((change) => {
    const { type, key, row: name = rowName(type, key) } = change;
    const isFirst = !names.has(name);
    names.add(name);
    return { change, name, isFirst, decided: undefined };
  });
}

/** The different rows of changes. */
function namesOf(steps: readonly ChangeStep[]): readonly string[] {
  return [...new Set(steps.map(({ name }) => name))];
}

/** The rows as the turns before left them, if they left all of these rows: nothing is to be read. */
function leftRows(
  turn: Turn,
  names: readonly string[],
  gone: string | undefined,
): PresentRows | undefined {
  const { identity } = turn.left(names[0]!) ?? {};
  if (identity === undefined || identity === gone) return undefined;
  if (!names.every((name) => turn.left(name)?.identity === identity)) return undefined;
  return { identity, version: -1, rows: new Map(names.map((name) => [name, undefined])) };
}

/** Leaves the rows of a transaction to the turns behind it. */
function hand(turn: Turn, steps: readonly ChangeStep[], of: Omit<LeftRow, "value">): void {
  for (const { name, decided } of steps) {
    const { operation, value } = decided!;
    turn.hand(name, { ...of, value: operation === "delete" ? undefined : value });
  }
}

function valueOf(change: Change): unknown {
  return change.operation === "delete" ? undefined : freezeRow(dataOf(change));
}

function dataOf(change: Change | ClientChange): unknown {
  return "data" in change ? change.data : JSON.parse(change.value ?? "null");
}

/** Replaces the row of a change by the one that the schema returned. */
function withFitted(change: Change | ClientChange, value: unknown): Change {
  const { data, ...rest } = { data: undefined, ...change };
  try {
    return { ...rest, value: encodeRow(value) };
  } catch (cause) {
    // JSON parses `1e999` as Infinity, which is the client's error and not the schema's.
    if (!isJson(data)) throw new RequestError("malformed", (cause as Error).message, { cause });
    throw cause;
  }
}

function isJson(data: unknown): boolean {
  try {
    encodeRow(data);
    return true;
  } catch {
    return data === undefined;
  }
}

/**
 * Checks whether a change may succeed if the present rows are these: the row must have the expected
 * version, and an `update` needs a row.
 */
function isPossible({ change, name, isFirst }: ChangeStep, rows: Present["rows"]): boolean {
  const { expect, operation } = change;
  const version = rows.get(name)?.version ?? 0;
  if (expect !== undefined && expect !== version) return false;
  // An earlier change of the transaction may write the row.
  return operation !== "update" || version > 0 || !isFirst;
}

/** Replaces the row and the expiry of a change by those that `authorizeChange` returned. */
function rewritten(
  change: Change,
  decision: { readonly value?: unknown; readonly ttlMs?: number | undefined },
): Change {
  const name = "authorizeChange";
  if (change.operation === "delete") {
    throw DecisionFault.returned(name, "true or false for a deletion", decision);
  }
  const { ttlMs = undefined } = "ttlMs" in decision ? decision : change;
  const isTtl = ttlMs === undefined ||
    Number.isSafeInteger(ttlMs) && ttlMs > 0 && ttlMs <= MAX_TTL_MS;
  if (!isTtl) {
    const rule = `ttlMs as an integer between 1 and ${MAX_TTL_MS}, or undefined`;
    throw DecisionFault.returned(name, rule, ttlMs);
  }
  if (!("value" in decision)) return { ...change, ttlMs };
  try {
    return { ...change, ttlMs, value: encodeRow(decision.value) };
  } catch (cause) {
    throw DecisionFault.thrown(name, cause);
  }
}
