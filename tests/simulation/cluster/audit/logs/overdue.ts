/** Logs of which some need attention: lists of the overdue ones name these alone, in order. */
import type { ReadLogOptions } from "../../../../../pubsub/logs/log.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { callOf, read, shown, statesAfter } from "./calls.ts";
import { LogMachine, PLENTY } from "./machine.ts";
import {
  type LogOperation,
  type ModelState,
  outcomesOf,
  type Span,
  tendedStates,
} from "./model.ts";

/** Times until logs are due, and those of logs that are not due, in milliseconds. */
const [DUE_MS, LONG_MS] = [[300, 900] as const, 600_000];

/** Longest time between two lists, in milliseconds, and the lists. */
const [GAP_MS, LISTS] = [500, 4];

/** Time until more logs that are done are due first, if these still were, in milliseconds, and their number. */
const [FIRST_MS, DONE_LOGS] = [[50, 250] as const, 8];

/** Attempts of one list, and the time between two: a replica may be behind. */
const [ATTEMPTS, SETTLE_MS] = [8, 100];

/** Bounds of short lists. */
const LIMITS = [1, 2, 5] as const;

const { maxStreamBytes: maxBytes } = PLENTY;

/** One log, with the states in which it may be. */
interface Kept {
  readonly id: string;
  readonly life: string;
  /** Shortest and longest time until the log is due, in milliseconds. */
  readonly dueMs: readonly [number, number];
  states: readonly ModelState[];
}

/** The calls that bring a log into a state; by name. */
const LIVES: Readonly<Record<string, (shortMs: number) => readonly LogOperation[]>> = {
  expires: (ttlMs) => [creation({ ttlMs })],
  "expires by the clock of a writer": (ttlMs) => [creation({ ttlMs, leaseMs: LONG_MS })],
  "is used": (ttlMs) => [creation({ ttlMs }), using(), read(0)],
  lapses: (leaseMs) => [creation({ leaseMs })],
  "lapses behind a record": (leaseMs) => [creation({ leaseMs: LONG_MS }), leased("one", leaseMs)],
  "lapses before it expires": (leaseMs) => [creation({ leaseMs, ttlMs: LONG_MS })],
  "is released": (leaseMs) => [
    creation({ leaseMs: LONG_MS }),
    { kind: "append", options: { ...lease("one", leaseMs, { releases: true }), maxBytes } },
  ],
  "is let go": () => [creation({ leaseMs: LONG_MS }), leased("one", 0)],
  "is renewed": (leaseMs) => [creation({ leaseMs }), leased("one", LONG_MS)],
  "is taken": () => [
    creation({ leaseMs: LONG_MS }),
    leased("one", 0),
    { kind: "append", options: { ...lease("two", LONG_MS, { takes: true }), maxBytes } },
  ],
  "is held": () => [creation({ leaseMs: LONG_MS })],
  "is nobody's": () => [creation({})],
  "ends with a lease": (leaseMs) => [creation({ leaseMs }), ended()],
  "ends by the writer": (leaseMs) => [
    creation({ leaseMs: LONG_MS }),
    { kind: "append", options: { ...lease("one", leaseMs), end: {}, maxBytes } },
  ],
  "ends at once": (leaseMs) => [creation({ leaseMs, isEnded: true })],
  "ends, and expires": (ttlMs) => [creation({ ttlMs, leaseMs: ttlMs / 2 }), ended()],
  "ends, and expires late": (leaseMs) => [creation({ ttlMs: LONG_MS, leaseMs }), ended()],
  "is kept for a fork": (ttlMs) => [...forked(ttlMs), remove()],
  "ends, and is kept for a fork": (ttlMs) => [...forked(ttlMs), ended(), remove()],
  "has a fork": (ttlMs) => forked(ttlMs),
  "is deleted": (ttlMs) => [creation({ ttlMs, leaseMs: ttlMs }), remove()],
};

/** Lives behind which a log needs no more attention: these fill no list, and hide no other log. */
const DONE = [
  "ends with a lease",
  "ends by the writer",
  "is kept for a fork",
  "ends, and is kept for a fork",
  "is deleted",
] as const;

/**
 * Makes logs of all kinds, and lists the overdue ones from time to time.
 *
 * @param audit The audit.
 */
export async function auditOverdue(audit: Audit): Promise<void> {
  await LogMachine.use(audit, ["overdue-near", "overdue-far"], async (machines) => {
    const overdue = new Overdue(audit, machines, audit.chanceOf("overdue"));
    await overdue.create();
    for (let left = LISTS; left > 0; left--) if (!await overdue.compare()) break;
    await overdue.delete();
  });
}

class Overdue {
  readonly #audit: Audit;
  readonly #machines: readonly LogMachine[];
  readonly #random: () => number;
  readonly #logs: readonly Kept[];

  constructor(audit: Audit, machines: readonly LogMachine[], random: () => number) {
    this.#audit = audit;
    this.#machines = machines;
    this.#random = random;
    const lives = [
      ...Object.keys(LIVES).map((life) => ({ life, dueMs: DUE_MS })),
      ...Array.from({ length: DONE_LOGS }, () => ({ life: oneOf(random, DONE), dueMs: FIRST_MS })),
    ];
    this.#logs = shuffled(random, lives).map((kept, i) => ({
      id: `audited-overdue-${i}`,
      ...kept,
      states: [undefined],
    }));
  }

  /** Makes all logs at once. */
  async create(): Promise<void> {
    await Promise.all(this.#logs.map(async (log) => {
      const shortMs = Math.round(between(this.#random, ...log.dueMs));
      for (const operation of LIVES[log.life]!(shortMs)) await this.#call(log, operation);
    }));
  }

  /** Lists the overdue logs; false if a list is wrong. */
  async compare(): Promise<boolean> {
    await this.#audit.pause(GAP_MS * this.#random());
    const limit = this.#random() < 0.5 ? oneOf(this.#random, LIMITS) : PLENTY.maxStreams;
    for (let attempt = 1;; attempt++) {
      const { ids, wrong } = await this.#list(limit);
      if (wrong.length === 0) return true;
      if (attempt < ATTEMPTS) {
        await this.#audit.pause(SETTLE_MS);
        continue;
      }
      this.#expect(`list of ${limit} overdue logs: ${ids}`, [], wrong);
      return false;
    }
  }

  /** Deletes all logs. */
  async delete(): Promise<void> {
    const machine = this.#machines[0]!;
    await Promise.all(this.#logs.map(async ({ id }) => {
      await machine.run(() => machine.logs.delete(id)).catch(() => {});
      await machine.run(() => machine.logs.release(id, FORK)).catch(() => {});
    }));
  }

  /** Takes one list, and what is wrong with it. */
  async #list(limit: number): Promise<{ ids: readonly string[]; wrong: readonly string[] }> {
    const machine = oneOf(this.#random, this.#machines);
    const fromMs = this.#audit.nowMs;
    const all = await machine.run(() => machine.logs.overdue({ limit }));
    const at = { fromMs, toMs: this.#audit.nowMs };
    const wrong: string[] = [];
    if (all.length > limit) wrong.push(`${all.length} logs`);
    if (new Set(all).size < all.length) wrong.push("a log twice");
    const listed = all.map((id) => this.#logs.find((log) => log.id === id))
      .filter((log) => log !== undefined);
    const isWhole = all.length < limit;
    await Promise.all(this.#logs.map(async (log) => {
      const mayBe = dueIn(log, at);
      const isListed = listed.includes(log);
      if (isListed && !mayBe.has(true)) wrong.push(`${log.id}, which ${log.life}`);
      if (isListed || !isWhole || mayBe.has(false)) return;
      if (!await this.#isTended(log)) wrong.push(`without ${log.id}, which ${log.life}`);
    }));
    for (const [i, log] of listed.entries()) {
      const [before, due] = [listed[i - 1] && dueOf(listed[i - 1]!), dueOf(log)];
      // An engine may search a part of its logs for a short list.
      const isWrong = limit === PLENTY.maxStreams && before && due && before.fromMs > due.toMs;
      if (isWrong) wrong.push(`${log.id} behind a later one`);
    }
    return { ids: listed.map(({ life }) => life), wrong };
  }

  /** Tells whether a node of the cluster has taken care of an overdue log. */
  async #isTended(log: Kept): Promise<boolean> {
    const machine = this.#machines[0]!;
    const options: ReadLogOptions = { after: 0, maxRecords: 0, maxBytes: 1, renews: false };
    const page = await machine.run(() => machine.logs.read(log.id, options));
    if (page === "expired") return false;
    return page === undefined || page.info.isDeleted === true || page.info.end !== undefined &&
        log.states.every((state) => state?.end === undefined);
  }

  async #call(log: Kept, operation: LogOperation): Promise<void> {
    const machine = oneOf(this.#random, this.#machines);
    const fromMs = this.#audit.nowMs;
    const result = await machine.run(() => callOf(machine.logs, log.id, operation));
    const span = { fromMs, toMs: this.#audit.nowMs };
    // A slow engine lets some logs fall due before the last call.
    const before = [...log.states, ...log.states.flatMap((state) => tendedStates(state, span))];
    const call = { machine, operation, result: shown(result) };
    const after = before.flatMap((state) => statesAfter(state, [call], span));
    if (after.length === 0) this.#expect(`${shown(operation)} of a log`, "another", call.result);
    else log.states = after;
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("durable", what, expected, received);
  }
}

/** Tells whether a log is due: yes, no, or perhaps. */
function dueIn({ states }: Kept, at: Span): ReadonlySet<unknown> {
  const outcomes = states.flatMap((state) => outcomesOf(state, { kind: "is-overdue" }, at));
  return new Set(outcomes.map(({ result }) => result));
}

/** Time from which a log is due, if there is one state. */
function dueOf({ states }: Kept): Span | undefined {
  const [state] = states;
  if (states.length !== 1 || state === undefined) return undefined;
  const { lease, expiry, end } = state;
  if (lease === undefined || end !== undefined) return expiry;
  return expiry === undefined || lease.toMs < expiry.fromMs ? lease : undefined;
}

/** Name of the fork. */
const FORK = "overdue1";

function creation({ ttlMs, leaseMs, isEnded = false }: {
  readonly ttlMs?: number;
  readonly leaseMs?: number;
  readonly isEnded?: boolean;
}): LogOperation {
  return {
    kind: "create",
    options: {
      config: { contentType: "text/plain", ...(ttlMs !== undefined && { ttlMs }) },
      identity: "overdue0",
      records: ["record"],
      maxLogs: PLENTY.maxStreams,
      ...(leaseMs !== undefined && { writer: { holder: "one", ttlMs: leaseMs } }),
      ...(isEnded && { end: {} }),
    },
  };
}

function lease(holder: string, ttlMs: number, more: { takes?: true; releases?: true } = {}) {
  return { records: [], writer: { holder, ttlMs, ...more } };
}

function leased(holder: string, ttlMs: number): LogOperation {
  return { kind: "append", options: { ...lease(holder, ttlMs), maxBytes } };
}

function ended(): LogOperation {
  return { kind: "append", options: { records: ["end"], end: {}, maxBytes } };
}

function using(): LogOperation {
  return { kind: "read", options: { after: 0, maxRecords: 1, maxBytes, renews: true } };
}

function remove(): LogOperation {
  return { kind: "delete", ifExpired: false };
}

function forked(ttlMs: number): readonly LogOperation[] {
  return [
    creation({ ttlMs, leaseMs: ttlMs }),
    { kind: "retain", fork: FORK, options: { identity: "overdue0", maxForks: 1 } },
  ];
}
