/** Logs, called by programs of two machines: each result is that of the model. */
import { countedBytes, ENTRY_BYTES } from "../../../../../pubsub/broker.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogRecord,
} from "../../../../../pubsub/logs/log.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { Announcements } from "./announcements.ts";
import { LogMachine, PLENTY } from "./machine.ts";
import {
  countedOf,
  type LogOperation,
  type ModelState,
  outcomesOf,
  type Span,
  tendedStates,
} from "./model.ts";

/** Logs of one audit, one after the other. */
const LOGS = 2;

/** Calls of a log, some of which are made at once. */
const STEPS = 28;

/** Share of steps with several calls at once, and share of steps after a wait. */
const [GROUP_SHARE, WAIT_SHARE] = [0.25, 0.12];

/** Share of steps before which the overdue logs are listed, and the rest before that, in milliseconds. */
const [LIST_SHARE, SETTLE_MS] = [0.15, 100];

/** Most lists of the overdue logs until one is right. */
const LISTS = 8;

/** Longest wait between two steps, in milliseconds. */
const WAIT_MS = 700;

/** Lease of a writer that is not lost during the audit, and a short one, in milliseconds. */
const LEASES = { longMs: 600_000, shortMs: 300 } as const;

/** Time to live of a log that may expire between two steps, in milliseconds. */
const TTL_MS = 600;

/** Share of steps before which a log is used for longer than the time to live: an open or ended log. */
const USES_SHARE = { open: 0.2, ended: 0.4 } as const;

/**
 * Uses one after the other, and two times between these, one after the other, as shares of the time to
 * live: the second use is early, and the log lives beyond the time of the first one.
 */
const [USES, EARLY_SHARE, BOTH_SHARE] = [4, { least: 0.27, most: 0.45 }, 1.08] as const;

/**
 * Share of records that are padded, and the bytes of these: around the sizes at which the length of a
 * record takes one byte more in a message.
 */
const [PADDED_SHARE, PADDED_BYTES] = [0.15, [63, 64, 65, 127, 128, 129, 8_191, 8_192]] as const;

/** Producers, one of whose names is that of a property of all objects. */
const PRODUCERS = ["p", "__proto__"] as const;

/** Writers, and forks. */
const [HOLDERS, FORKS] = [["one", "two"], ["fork1", "fork2"]] as const;

/** A call on its way from a machine. */
export interface Call {
  readonly machine: LogMachine;
  readonly operation: LogOperation;
  readonly result: unknown;
}

/**
 * Calls logs in a drawn order, and compares all results with those of the model.
 *
 * @param audit The audit.
 */
export async function auditCalls(audit: Audit): Promise<void> {
  await LogMachine.use(audit, ["logs-near", "logs-far"], async (machines) => {
    for (let i = 0; i < LOGS; i++) await new LogCalls(audit, machines, `audited-log-${i}`).run();
  });
}

/** The calls of one log. */
class LogCalls {
  readonly #audit: Audit;
  readonly #machines: readonly LogMachine[];
  readonly #id: string;
  readonly #random: () => number;
  /** States in which the log may be; more than one where a time or the order of calls is unknown. */
  #states: readonly ModelState[] = [undefined];
  readonly #announcements: Announcements;
  #calledMs = 0;
  #identities = 0;
  #records = 0;
  #last: AppendLogOptions | undefined;

  constructor(audit: Audit, machines: readonly LogMachine[], id: string) {
    this.#audit = audit;
    this.#machines = machines;
    this.#id = id;
    this.#random = audit.chanceOf(id);
    this.#announcements = new Announcements(audit, machines, id);
  }

  /** Makes all calls, up to the first result that is wrong. */
  async run(): Promise<void> {
    await this.#announcements.listen();
    await this.#callAll();
    await this.#announcements.end();
  }

  async #callAll(): Promise<void> {
    for (let step = 0; step < STEPS; step++) {
      if (this.#chance(WAIT_SHARE)) await this.#audit.pause(WAIT_MS * this.#random());
      if (this.#chance(LIST_SHARE)) {
        // A list need not have the changes of this moment, such as one from a replica that is behind.
        await this.#audit.pause(SETTLE_MS);
        if (!await this.#call([read(0)])) return;
        const machine = this.#pick(this.#machines);
        if (!await this.#call([{ kind: "is-overdue" }], machine, LISTS)) return;
      }
      if (!await this.#use()) return;
      const count = this.#chance(GROUP_SHARE) ? 2 + Math.floor(2 * this.#random()) : 1;
      const operations = Array.from({ length: count }, () => this.#draw());
      if (!await this.#call(operations)) return;
    }
    // The newest state, for both machines, and the end of the log.
    for (const machine of this.#machines) if (!await this.#call([read(0)], machine)) return;
    await this.#call([{ kind: "delete", ifExpired: false }]);
    for (const fork of FORKS) await this.#call([{ kind: "release", fork }]);
  }

  /** Uses some logs for longer than their time to live; false if a result is wrong. */
  async #use(): Promise<boolean> {
    const [state] = this.#states;
    const share = state?.end === undefined ? USES_SHARE.open : USES_SHARE.ended;
    if (state?.config.ttlMs === undefined || !this.#chance(share)) return true;
    const { maxStreamBytes: maxBytes } = PLENTY;
    const use: () => LogOperation = this.#pick([
      () => this.#read(true),
      () => this.#read(true),
      () => this.#read(false),
      () => ({ kind: "append", options: { records: [], cancel: "enough", maxBytes } }),
    ]);
    const early = between(this.#random, EARLY_SHARE.least, EARLY_SHARE.most);
    for (let left = USES; left > 0; left--) {
      if (!await this.#call([use()])) return false;
      await this.#audit.pause(TTL_MS * (left % 2 === 0 ? early : BOTH_SHARE - early));
    }
    return await this.#call([use()]);
  }

  /** Makes calls at once; false if no order of these has the results, at the last attempt. */
  async #call(
    operations: readonly LogOperation[],
    at?: LogMachine,
    attempts: number = 1,
  ): Promise<boolean> {
    const { nowMs: fromMs } = this.#audit;
    this.#announcements.begin();
    const calls = await Promise.all(operations.map(async (operation): Promise<Call> => {
      const machine = at ?? this.#pick(this.#machines);
      const result = await machine.run(() => callOf(machine.logs, this.#id, operation))
        .catch((error) => `${error}`);
      return { machine, operation, result: shown(result) };
    }));
    const span = { fromMs, toMs: this.#audit.nowMs };
    const judged = calls.some(isRemoval) ? [calls, calls.filter(isNoRead)] : [calls];
    const afterAll = (states: readonly ModelState[]) =>
      distinct(judged.flatMap((some) => states.flatMap((state) => statesAfter(state, some, span))));
    if (attempts > 1 && afterAll(this.#states).length === 0) {
      await this.#audit.pause(SETTLE_MS);
      return await this.#call(operations, at, attempts - 1);
    }
    const before = withTended(this.#states, { fromMs: this.#calledMs, toMs: span.toMs });
    const after = afterAll(before);
    this.#states = after;
    this.#calledMs = span.toMs;
    await this.#announcements.compare(calls);
    if (after.length > 0) return true;
    const texts = calls.map(({ machine, operation, result }) =>
      `${shown(operation)} at ${machine.host.name} with the result ${result}`
    );
    const [state] = before;
    const expected = calls.map(({ operation }) =>
      outcomesOf(state, operation, span).map(({ result }) => shown(result)).join(" or ")
    );
    this.#audit.examine(
      "durable",
      `calls of a log in the state ${shown(state ?? "none")}`,
      expected.join("; "),
      texts.join("; "),
    );
    return false;
  }

  #draw(): LogOperation {
    const [state] = this.#states;
    if (state === undefined) {
      return this.#chance(0.8)
        ? { kind: "create", options: this.#creation() }
        : this.#pick([read(0), { kind: "append", options: this.#append() }, remove(false)]);
    }
    if (state.isDeleted && this.#chance(0.5)) {
      return { kind: "release", fork: state.forks[0] ?? FORKS[0] };
    }
    if (state.end !== undefined && this.#chance(0.3)) return remove(false);
    const chance = this.#random();
    if (chance < 0.6) return { kind: "append", options: this.#append() };
    if (chance < 0.76) return this.#read();
    if (chance < 0.86) return { kind: "create", options: this.#creation() };
    if (chance < 0.94) return remove(!this.#chance(0.2));
    const identity = this.#chance(0.8) ? state.identity : "another0";
    const fork = this.#pick(FORKS);
    const options = { identity, maxForks: this.#pick([1, 2]) };
    return this.#chance(0.6) ? { kind: "retain", fork, options } : { kind: "release", fork };
  }

  #creation(): CreateLogOptions {
    return {
      config: {
        contentType: "text/plain",
        ...(this.#chance(0.5) && { ttlMs: TTL_MS }),
      },
      identity: `log${`${++this.#identities}`.padStart(5, "0")}`,
      records: this.#chance(0.3) ? this.#newRecords() : [],
      maxLogs: PLENTY.maxStreams,
      ...(this.#chance(0.5) && { writer: { holder: HOLDERS[0], ttlMs: this.#lease() } }),
    };
  }

  #append(): AppendLogOptions {
    return this.#last = this.#newAppend();
  }

  #newAppend(): AppendLogOptions {
    const [state] = this.#states;
    const options = { records: this.#newRecords(), maxBytes: PLENTY.maxStreamBytes };
    const needed = countedOf([...state?.records ?? [], ...options.records]);
    const choices: readonly (readonly [share: number, make: () => Partial<AppendLogOptions>])[] = [
      [3, () => ({})],
      [8, () => this.#numbered()],
      [2, () => ({ sequence: this.#pick(["a", "b", "bb", "c", "\uffff"]) })],
      [6, () => this.#leased()],
      [1, () => ({ end: this.#chance(0.5) ? {} : { error: "given up", code: "tired" } })],
      [1, () => ({ records: [], end: {} })],
      [1, () => ({ ...this.#numbered(), end: {} })],
      // A writer does not know yet that the log has ended.
      [state?.end === undefined ? 3 : 30, () => this.#written()],
      // The call of before, as by a writer that got no answer.
      [2, () => this.#last ?? {}],
      [2, () => ({ records: [], cancel: this.#pick(["enough", "stop"]) })],
      [1, () => ({ records: [], end: { error: "writer-lost" }, ifWriterLost: true })],
      [1, () => ({ maxBytes: needed + this.#pick([-ENTRY_BYTES, -1, 0, 1]) })],
      [1, () => ({ identity: this.#chance(0.5) ? state?.identity ?? "none" : "another0" })],
      [
        2,
        () => {
          const [entries, bytes] = this.#pick([[1, 4], [2, 4], [3, 8], [100, 0]] as const);
          const keep = { records: this.#pick([1, 2, 3, 5]), bytes: countedBytes(bytes, entries) };
          return { keep };
        },
      ],
    ];
    let left = this.#random() * choices.reduce((sum, [share]) => sum + share, 0);
    const [, make] = choices.find(([share]) => (left -= share) < 0) ?? choices[0]!;
    return { ...options, ...make() };
  }

  /** An append of a producer: the next one, a repetition, or one that is out of turn. */
  #numbered(): Partial<AppendLogOptions> {
    const id = this.#pick(PRODUCERS);
    const { producers = {}, endedBy } = this.#states[0] ?? {};
    if (endedBy !== undefined && this.#chance(0.7)) return this.#nearEnd(endedBy);
    const [epoch, seq] = Object.hasOwn(producers, id) ? producers[id]! : [0, -1];
    const [newEpoch, newSeq] = this.#pick(
      [
        [epoch, seq + 1],
        [epoch, seq + 1],
        [epoch, seq + 1],
        [epoch, seq],
        [epoch, seq],
        [epoch, seq - 1],
        [epoch, seq + 2],
        [epoch + 1, 0],
        [epoch + 1, 1],
        [epoch - 1, seq + 1],
      ] as const,
    );
    return { producer: { id, epoch: Math.max(0, newEpoch), seq: Math.max(0, newSeq) } };
  }

  /** The append that ended the log, or one that differs from it in a single part. */
  #nearEnd(endedBy: string): Partial<AppendLogOptions> {
    const [id, epoch, seq] = JSON.parse(endedBy) as [string, number, number];
    const [nearId, nearEpoch, nearSeq] = this.#pick([
      [id, epoch, seq],
      [id, epoch + 1, seq],
      [id, Math.max(0, epoch - 1), seq],
      [id, epoch, seq + 1],
      [id, epoch, Math.max(0, seq - 1)],
      [this.#pick(PRODUCERS), epoch, seq],
    ]);
    return { producer: { id: nearId, epoch: nearEpoch, seq: nearSeq } };
  }

  /** A call of a writer as nodes make it: records, the end, both, or neither, under a lease. */
  #written(): Partial<AppendLogOptions> {
    const identity = this.#states[0]?.identity;
    return {
      ...this.#leased(),
      ...(this.#chance(0.7) && this.#numbered()),
      ...(this.#chance(0.5) && { records: [] }),
      ...(this.#chance(0.5) && { end: this.#chance(0.6) ? {} : { error: "given up" } }),
      ...(this.#chance(0.5) && identity !== undefined && { identity }),
    };
  }

  /** An append of a writer: of the holder, of another one, or of one that takes over or lets go. */
  #leased(): Partial<AppendLogOptions> {
    const holder = this.#pick(HOLDERS);
    const ttlMs = this.#chance(0.15) ? 0 : this.#lease();
    return {
      writer: {
        holder,
        ttlMs,
        ...(this.#chance(0.5) && { takes: true }),
        ...(this.#chance(0.2) && { releases: true }),
      },
      ...(this.#chance(0.4) && { records: [] }),
    };
  }

  #lease(): number {
    return this.#chance(0.5) ? LEASES.shortMs : LEASES.longMs;
  }

  #read(renews: boolean = this.#chance(0.7)): LogOperation {
    const [state] = this.#states;
    const [start, count] = [state?.start ?? 0, state?.records.length ?? 0];
    return {
      kind: "read",
      options: {
        after: Math.max(0, start - 1 + Math.floor((count + 3) * this.#random())),
        maxRecords: this.#pick([0, 1, 2, 1_000]),
        maxBytes: this.#pick([1, 3, 6, 130, PLENTY.maxStreamBytes]),
        renews,
      },
    };
  }

  #newRecords(): readonly LogRecord[] {
    return Array.from({ length: 1 + Math.floor(3 * this.#random()) }, () => {
      const bytes = this.#chance(PADDED_SHARE) ? this.#pick(PADDED_BYTES) : 0;
      const text = `${this.#records++}`.padEnd(bytes, ".");
      return this.#chance(0.8) ? text : new TextEncoder().encode(text);
    });
  }

  #chance(share: number): boolean {
    return this.#random() < share;
  }

  #pick<T>(from: readonly T[]): T {
    return oneOf(this.#random, from);
  }
}

/**
 * True for a removal of records: the release of the last fork removes a log that was deleted before, and
 * an append with bounds the oldest records.
 */
function isRemoval({ operation, result }: Call): boolean {
  return operation.kind === "release" ||
    operation.kind === "append" && operation.options.keep !== undefined ||
    operation.kind === "delete" && String(result).includes('"removed"');
}

/** A read beside a removal may get some of the records, of those that a reader finds one by one. */
function isNoRead({ operation }: Call): boolean {
  return operation.kind !== "read";
}

/**
 * Tells the states in which calls leave a log.
 *
 * @param state The state before.
 * @param calls The calls, made at once.
 * @param at Time of the calls and of the answers.
 * @returns The states; none if the results are right in no order.
 */
export function statesAfter(
  state: ModelState,
  calls: readonly Call[],
  at: Span,
): readonly ModelState[] {
  if (calls.length === 0) return [state];
  return calls.flatMap(({ operation, result }, i) => {
    const others = calls.toSpliced(i, 1);
    const after = outcomesOf(state, operation, at)
      .filter((outcome) => shown(outcome.result) === result)
      .map(({ next }) => next);
    const before = others.length > 0 ? withTended(after, at) : after;
    return before.flatMap((next) => statesAfter(next, others, at));
  });
}

/** Adds the states that searches for overdue logs make, by nodes and by other parts of the audit. */
function withTended(states: readonly ModelState[], at: Span): readonly ModelState[] {
  return distinct([...states, ...states.flatMap((state) => tendedStates(state, at))]);
}

/**
 * Makes a call.
 *
 * @param logs The logs.
 * @param id Id of the log.
 * @param operation The call.
 * @returns The result.
 */
export async function callOf(
  logs: BrokerLogs,
  id: string,
  operation: LogOperation,
): Promise<unknown> {
  switch (operation.kind) {
    case "create":
      return await logs.create(id, operation.options);
    case "append":
      return await logs.append(id, operation.options);
    case "read":
      return await logs.read(id, operation.options);
    case "delete":
      return await logs.delete(id, { ifExpired: operation.ifExpired });
    case "retain":
      return await logs.retain(id, operation.fork, operation.options);
    case "release":
      return await logs.release(id, operation.fork);
    case "is-overdue":
      return (await logs.overdue({ limit: PLENTY.maxStreams })).includes(id);
  }
}

/**
 * Makes a read of all records, which is no use of the log.
 *
 * @param after Position of the first record.
 * @returns The read.
 */
export function read(after: number): LogOperation {
  const { maxStreamBytes: maxBytes } = PLENTY;
  return { kind: "read", options: { after, maxRecords: 1_000, maxBytes, renews: false } };
}

function remove(ifExpired: boolean): LogOperation {
  return { kind: "delete", ifExpired };
}

function distinct(states: readonly ModelState[]): readonly ModelState[] {
  return [...new Map(states.map((state) => [shown(state), state])).values()];
}

/**
 * Writes a value as text, with the keys in order; without the number of all logs, which the model
 * lacks.
 *
 * @param value The value.
 * @returns The text.
 */
export function shown(value: unknown): string {
  return JSON.stringify(value, (_key, part) => {
    if (part instanceof Uint8Array) return { bytes: [...part] };
    if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
    const { count: _count, ...rest } = part;
    return Object.fromEntries(Object.entries(rest).sort(([a], [b]) => a < b ? -1 : 1));
  }) ?? "undefined";
}
