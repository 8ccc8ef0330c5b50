/**
 * The decisions of `authorizeChange` about the changes of a live state, which are repeated if a row
 * changes meanwhile, and the time that they may take.
 */
import { decide, DecisionFault, type PermissionForm, permissionOf } from "../../base/decision.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Runtime } from "../../base/runtime.ts";
import { MAX_TTL_MS, waitFor } from "../../base/wait.ts";
import { RequestError, TimeoutError } from "../../errors.ts";
import type { Change, ClientChange } from "../logs/change_message.ts";
import type { Decision } from "../../pubsub/decisions.ts";
import type { StreamAppended } from "../logs/stream_logs.ts";
import { internals, type Session } from "../../session/session.ts";
import { rowName } from "../../session/wire/rows.ts";
import type { LiveRow } from "../../session/rows/row_map.ts";
import { encodeRow, freezeRow } from "../../session/rows/row_values.ts";
import type { AuthorizeChange, RequestedChange } from "../../server/requests/changes.ts";
import { type PresentRows, rowIn } from "./live_rows.ts";
import { forNow, RETRY_MS } from "./rejections.ts";
import { type LeftRow, presentRow, type Turn } from "./row_queue.ts";

/** Fraction of the time limit of a reply for which a write waits and is repeated. */
const WAIT_PART = 1 / 2;

/**
 * The same for the application's functions and for reading rows. The client then receives their
 * failure before it gives up, after which it could not tell the outcome of its write.
 */
const REPLY_PART = 3 / 4;

const NAME = "authorizeChange";

/** A result of `authorizeChange` that changes the row or its expiry. */
interface Rewritten {
  readonly value?: unknown;
  readonly ttlMs?: number | undefined;
}

const PERMISSION: PermissionForm<Rewritten> = {
  expected: "true, false, or an object with value or ttlMs",
  members: { value: "any", ttlMs: "any" },
};

/** A version that no row has. */
const NO_VERSION = Number.MAX_SAFE_INTEGER;

/** The client that requests changes. */
export interface ChangeSource extends Pick<RequestedChange, "user" | "session" | "request"> {
  /** The account of the rows that the server reads for this client. */
  readonly account: Account;
  /** The decision about the request. A change is made only if it still counts. */
  readonly decision: Decision;
}

/** Until when a client's write waits, on the monotonic clock; see {@linkcode WriteTimes.of}. */
export interface WriteTime {
  /** End of the waits for other writes, and of the attempts. */
  readonly waitUntilMs: number;
  /** End of the waits for the application and for rows. */
  readonly untilMs: number;
}

/** The writer of rows whose functions of the application take time; by default, the server itself. */
export interface CheckedBy {
  readonly session?: Session | undefined;
  readonly time?: WriteTime | undefined;
}

/** Options of {@linkcode ChangeDecisions}. */
export interface ChangeDecisionsOptions {
  readonly authorizeChange: AuthorizeChange | undefined;
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
  /** Reports that `authorizeChange` failed. */
  readonly report: (fault: DecisionFault, session: Session | undefined) => void;
}

/** The append of changes that a client requests. */
export interface SourcedAppend {
  readonly source: ChangeSource;
  /**
   * Appends changes to the stream.
   *
   * @param identity Identity that the stream must have; by default, any.
   */
  readonly append: (changes: readonly Change[], identity?: string) => Promise<StreamAppended>;
  /** True if the append names its producer, so that it may be a repetition. */
  readonly isNumbered?: boolean | undefined;
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
interface ChangesToDecide extends Present, SourcedAppend {
  readonly time: WriteTime;
  readonly turn: Turn;
  readonly probe: (step: ChangeStep, identity?: string) => Promise<StreamAppended>;
}

/** The time that the writes of clients may take. */
export class WriteTimes {
  readonly #runtime: Runtime;
  readonly #mostMs: number;
  readonly #closed = new AbortController();

  /**
   * @param runtime Clocks of this node.
   * @param mostMs Time limit of a reply, in milliseconds.
   */
  constructor(runtime: Runtime, mostMs: number) {
    this.#runtime = runtime;
    this.#mostMs = mostMs;
  }

  /** Time for which a write waits for others if it has no time limit of its own, in milliseconds. */
  get waitMs(): number {
    return this.#mostMs * WAIT_PART;
  }

  /**
   * Returns the time of a write that starts now.
   *
   * @param timeoutMs Time for which the client waits for the reply; by default, the server's limit.
   */
  of(timeoutMs: number = Infinity): WriteTime {
    const [now, limitMs] = [this.#runtime.monotonic(), Math.min(timeoutMs, this.#mostMs)];
    return { waitUntilMs: now + limitMs * WAIT_PART, untilMs: now + limitMs * REPLY_PART };
  }

  /**
   * Waits for the application until the write has no more time, or the server closes. A later result
   * is ignored.
   */
  async within<T>(what: string, promise: Promise<T>, { session, time }: CheckedBy): Promise<T> {
    const timeoutMs = time === undefined ? this.#mostMs : this.leftMs(time);
    let isSettled = false;
    const settling = promise.finally(() => isSettled = true);
    try {
      const { signal } = this.#closed;
      return await waitFor(this.#runtime, settling, {
        what: `result from ${what}`,
        timeoutMs,
        signal,
      });
    } catch (error) {
      const isLate = !isSettled && error instanceof TimeoutError;
      throw isLate && session !== undefined ? session[internals].noteLate(what, timeoutMs) : error;
    }
  }

  /** Returns the time that is left, in milliseconds. */
  leftMs({ untilMs }: WriteTime): number {
    return Math.max(0, Math.ceil(untilMs - this.#runtime.monotonic()));
  }

  /** Rejects all that waits for the application. */
  close(reason: RequestError): void {
    this.#closed.abort(reason);
  }
}

/** Asks `authorizeChange` about the changes of clients. */
export class ChangeDecisions {
  readonly #options: ChangeDecisionsOptions;
  readonly #times: WriteTimes;

  /** Creates the decisions about the states of one server. */
  constructor(options: ChangeDecisionsOptions, times: WriteTimes) {
    this.#options = options;
    this.#times = times;
  }

  /**
   * Appends changes that `authorizeChange` allows.
   *
   * @param id The id of the state.
   * @param changes The changes, which fit the contract.
   * @param appending The client, the append, the turn of the rows, and the time of the write.
   * @returns The result of the append; see `ChangeGate.write`.
   * @throws {RequestError} With the codes of `ChangeGate.write`, but those of schemas.
   */
  async write(
    id: string,
    changes: readonly Change[],
    { source, append, isNumbered, turn, time }: SourcedAppend & {
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
      // A condition on a row that the transaction does not change.
      if (changed.length === 0) return result;
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
    const timeoutMs = this.#times.leftMs(time);
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
    const timeoutMs = this.#times.leftMs(time);
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
      const allowed = await this.authorize(id, change, {
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

  /**
   * Decides about one change.
   *
   * @param id The id of the state.
   * @param asking The row that it replaces, the client, and the time of the write.
   * @returns The change as it is allowed.
   * @throws {RequestError} With the code `forbidden` if it is denied, `undecided` with `retryAfterMs`
   * if `authorizeChange` fails; or the error that it throws.
   */
  async authorize(
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
      {
        ...asked,
        action,
        operation: operation as RequestedChange["operation"],
        value: valueOf(change),
      },
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
    const ask = () => {
      const of = { ...asked, user, session, request };
      const decided = source.decision.during(() => this.#options.authorizeChange!(of));
      return decided instanceof Promise
        ? this.#times.within(NAME, decided, { session, time })
        : decided;
    };
    try {
      const decision = permissionOf(NAME, await decide(NAME, ask, [RequestError]), PERMISSION);
      if (decision === true) return { allowed: change, namesExpiry: false };
      if (decision !== undefined) {
        return { allowed: rewritten(change, decision), namesExpiry: "ttlMs" in decision };
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
}

/**
 * Returns the different rows of changes.
 *
 * @returns Their names.
 */
export function rowNamesOf(changes: readonly Change[]): readonly string[] {
  return namesOf(stepsOf(changes));
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

/**
 * Returns the value of a changed row.
 *
 * @param change The change, which is no deletion.
 */
export function dataOf(change: Change | ClientChange): unknown {
  return "data" in change ? change.data : JSON.parse(change.value ?? "null");
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
function rewritten(change: Change, decision: Rewritten): Change {
  if (change.operation === "delete") {
    throw DecisionFault.returned(NAME, "true or false for a deletion", decision);
  }
  const { ttlMs = undefined } = "ttlMs" in decision ? decision : change;
  const isTtl = ttlMs === undefined ||
    Number.isSafeInteger(ttlMs) && ttlMs > 0 && ttlMs <= MAX_TTL_MS;
  if (!isTtl) {
    const rule = `ttlMs as an integer between 1 and ${MAX_TTL_MS}, or undefined`;
    throw DecisionFault.returned(NAME, rule, ttlMs);
  }
  if (!("value" in decision)) return { ...change, ttlMs };
  try {
    return { ...change, ttlMs, value: encodeRow(decision.value) };
  } catch (cause) {
    throw DecisionFault.thrown(NAME, cause);
  }
}
