/**
 * The checks that each change of a live state passes before it is stored: the schemas of the
 * contract, and for the changes of clients the application's `authorizeChange`.
 */
import type { Quotas } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { placed, validate, type Validation } from "../../base/standard_schema.ts";
import { BrokerError, RequestError } from "../../errors.ts";
import { type Change, type ClientChange, withValue } from "../logs/change_message.ts";
import type { LogRow } from "../logs/log.ts";
import type { StreamAppended } from "../logs/stream_logs.ts";
import { compileStates } from "../../session/state_schemas.ts";
import type { Contract, StateRoute } from "../../session/contract.ts";
import type { SubscribeReply } from "../../session/wire/recovery.ts";
import { FOR_NOW, rowName } from "../../session/wire/rows.ts";
import type { TopicRouter } from "../../session/wire/topic_pattern.ts";
import type { LiveRow } from "../../session/rows/row_map.ts";
import { encodeRow } from "../../session/rows/row_values.ts";
import {
  ChangeDecisions,
  type ChangeDecisionsOptions,
  type ChangeSource,
  type CheckedBy,
  dataOf,
  rowNamesOf,
  type SourcedAppend,
  type WriteTime,
  WriteTimes,
} from "./change_decisions.ts";
import { KeptTurns } from "./kept_turns.ts";
import { forNow, RETRY_MS, serverClosed } from "./rejections.ts";
import { MAX_WAITING, RowQueue, type Turn, WAITING_SHARES } from "./row_queue.ts";

/** Rows of a copy that are checked before other events are handled. */
const COPY_PIECE = 200;

const NO_COLLECTIONS: ReadonlySet<string> = new Set();

/** Part of {@linkcode ChangeGate.write}. */
export interface GatedAppend extends SourcedAppend {
  /** Time of the write; by default, that of a client with the server's time limit. */
  readonly time?: WriteTime | undefined;
}

/** The result of {@linkcode ChangeGate.write}. */
export type GatedResult = StreamAppended & {
  /** True if other updates of the row wait for the client, which repeats its own. */
  readonly keepsTurn?: boolean;
};

/** Options of {@linkcode ChangeGate}. */
export interface ChangeGateOptions extends ChangeDecisionsOptions {
  readonly runtime: Runtime;
  readonly quotas: Quotas;
  readonly contract: Contract | undefined;
  /** Time limit for a schema or a decision, in milliseconds. */
  readonly timeoutMs: number;
  /** Resolves to true if the rows of a state are newer than the contract. */
  readonly isNewer: (id: string) => Promise<boolean>;
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
  /** The time that the writes of clients have. */
  readonly times: WriteTimes;
  readonly #options: ChangeGateOptions;
  readonly #router: TopicRouter<StateRoute> | undefined;
  /** The collections of each pattern whose rows are not stored. */
  readonly #ephemeral: ReadonlyMap<StateRoute["collections"], ReadonlySet<string>>;
  readonly #queue: RowQueue;
  readonly #kept: KeptTurns;
  readonly #decisions: ChangeDecisions;

  constructor(options: ChangeGateOptions) {
    this.#options = options;
    const { runtime, quotas } = options;
    this.times = new WriteTimes(runtime, options.timeoutMs);
    this.#decisions = new ChangeDecisions(options, this.times);
    const quota = quotas.open({
      limit: "states.waiting",
      verb: "write state",
      what: "writes that wait for others of the same row",
      max: MAX_WAITING,
      shares: WAITING_SHARES,
      retryAfterMs: RETRY_MS,
    });
    this.#queue = new RowQueue({
      runtime,
      quota,
      timeoutMs: this.times.waitMs,
      contendedCode: "undecided",
    });
    this.#kept = new KeptTurns(runtime);
    this.#router = options.contract && compileStates(options.contract);
    const { routes = [] } = this.#router ?? {};
    this.#ephemeral = new Map(routes.map(({ collections }) => {
      const names = Array.from(collections).flatMap(([name, of]) => of.ephemeral ? name : []);
      return [collections, new Set(names)];
    }));
  }

  /** True if the contract has collections whose rows are not stored. */
  get hasEphemeral(): boolean {
    return this.#ephemeral.values().some(({ size }) => size > 0);
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
   * Checks that clients may write rows of a state.
   *
   * @throws {RequestError} With the code `forbidden` if they change it by its mutations only.
   */
  checkOpen(id: string): void {
    if (this.#router?.match(id)?.writes !== "mutations") return;
    throw new RequestError(
      "forbidden",
      `Cannot write state: clients change "${id}" by its mutations only (writes: "mutations")`,
    );
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

  /** Returns the parameters of the pattern that the id of a state fits. */
  paramsOf(id: string): Readonly<Record<string, string>> {
    return this.#router?.match(id)?.params ?? {};
  }

  /** Returns the collections of a state whose rows are not stored. */
  ephemeralOf(id: string): ReadonlySet<string> {
    const { collections } = this.#router?.match(id) ?? {};
    return collections === undefined ? NO_COLLECTIONS : this.#ephemeral.get(collections)!;
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
    { source, append: appendNow, isNumbered = false, time = this.times.of() }: GatedAppend,
  ): Promise<GatedResult> {
    const { session } = source;
    this.checkOpen(id);
    const all = await this.check(id, changes, { session, time });
    const conditions = all.filter(isCondition);
    const checked = conditions.length === 0 ? all : all.filter((change) => !isCondition(change));
    const append: GatedAppend["append"] = (changes, identity) => {
      source.decision.check();
      return appendNow(conditions.length === 0 ? changes : [...conditions, ...changes], identity);
    };
    const updating = isUpdate(checked) ? session : undefined;
    const isFree = this.#options.authorizeChange === undefined && updating === undefined;
    if (isFree || checked.length === 0) return await append(checked);
    const names = rowNamesOf(checked);
    const turn = updating && this.#kept.take(updating, id, names[0]!) ||
      await this.enter(id, names, { source, time });
    turn.untilMs = time.waitUntilMs;
    let keepsTurn = false;
    try {
      const result = this.#options.authorizeChange === undefined
        ? await append(checked)
        : await this.#decisions.write(id, checked, { source, append, isNumbered, turn, time });
      if (updating === undefined) return result;
      if (result.kind === "appended") this.#kept.made(updating);
      const isStale = result.kind === "conflict" && result.version > 0;
      keepsTurn = isStale && this.#kept.keep(updating, turn);
      return { ...result, keepsTurn };
    } finally {
      if (!keepsTurn) turn[Symbol.dispose]();
    }
  }

  /**
   * Applies the schema of the contract to a change of an ephemeral row.
   *
   * @param id The id of the state.
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
    using turn = await this.enter(id, [name], { source, time });
    while (true) {
      const row = present();
      const expires = () => Promise.resolve(false);
      const asked = { before: row?.value, expires, source, time };
      const allowed = await this.#decisions.authorize(id, fitted, asked);
      decision.check();
      if (present() === row) return make(allowed);
      await turn.again(name);
    }
  }

  /** Rejects the writes that wait, also for the application. Clients send them to another server. */
  close(): void {
    const reason = serverClosed();
    this.#kept.close();
    this.#queue.close(reason);
    this.times.close(reason);
  }

  /**
   * Enters the lines of rows for a client. The caller MUST dispose of the turn.
   *
   * @param id The id of the state.
   * @param rows Different names of rows.
   * @param by The client, and the time of its write.
   * @returns The turn; a promise if other writes are first.
   * @throws {RequestError} With the code `unavailable` and `retryAfterMs` if the write waits too long,
   * the client is gone or the server closes.
   */
  enter(
    id: string,
    rows: readonly string[],
    { source, time }: { readonly source: ChangeSource; readonly time: WriteTime },
  ): Turn | Promise<Turn> {
    const { account, request } = source;
    const entered = this.#queue.enter(id, rows, {
      account,
      signals: () => [request?.signal],
      untilMs: time.waitUntilMs,
    });
    if (entered instanceof Promise) return this.#entered(entered, { source, time });
    entered.untilMs = time.waitUntilMs;
    return entered;
  }

  async #entered(
    entered: Promise<Turn>,
    { source: { decision, session, request }, time }: {
      readonly source: ChangeSource;
      readonly time: WriteTime;
    },
  ): Promise<Turn> {
    const turn = await entered.catch((error) => {
      throw request?.signal.aborted ? left() : error;
    });
    try {
      decision.check();
      if (session?.isClosed) throw left();
      turn.untilMs = time.waitUntilMs;
      return turn;
    } catch (error) {
      turn[Symbol.dispose]();
      throw error;
    }
  }

  /** Applies the schema of one change. */
  #fitted(
    change: Change | ClientChange,
    collections: StateRoute["collections"],
    by: CheckedBy,
  ): Change | Promise<Change> {
    const { type, key, operation } = change;
    if (operation === "delete" || operation === "check") return withValue(change);
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
      const text = `the row "${key}" of "${type}" must fit the contract${placed(outcome)}`;
      throw new RequestError("invalid", `Cannot write state: ${text}`, { path: outcome.path });
    };
    const outcome = validate(collection.schema, dataOf(change));
    return outcome instanceof Promise
      ? this.times.within("the schema of a row", outcome, by).then(result)
      : result(outcome);
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

/** True for a change that only checks a row. */
function isCondition({ operation }: Change): boolean {
  return operation === "check";
}

/** True if a client's `update` makes the changes. */
function isUpdate([change, ...others]: readonly Change[]): boolean {
  return others.length === 0 && change?.operation === "update" && change.expect !== undefined;
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
