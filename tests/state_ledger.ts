/**
 * A ledger of the writes that clients make to one state. At the end it compares their outcomes with
 * the rows that are left:
 *
 * - Each write is settled.
 * - A write that was rejected took no effect, unless its outcome is unknown.
 * - A write that was resolved took effect once, and is replaced only by later ones.
 * - A transaction took effect completely.
 * - A vote is counted once.
 * - An insertion that was resolved replaced no row.
 *
 * @module
 */
import {
  BrokerError,
  type Client,
  type ClientCollection,
  type ClientState,
  RequestError,
  SessionClosedError,
} from "../mod.ts";
import type { VersionedRowMessage } from "../session/wire/rows.ts";

/** Writes of clients, by what they do. */
export const WRITES = ["set", "update", "delete", "move"] as const;

/** Writes for rows that many clients write at once: their rows don't grow. */
export const CONTENDED_WRITES = ["vote", "set", "insert", "delete", "move"] as const;

/** The collections that these writes change. */
export const COLLECTIONS = ["items", "counters", "votes", "pairs"] as const;

/** A write that a client makes. */
export interface LedgerWrite {
  readonly kind: typeof WRITES[number] | typeof CONTENDED_WRITES[number];
  readonly key: string;
}

/** How a process makes a write; by default, immediately, and the process does not end. */
export interface LedgerWriteOptions {
  /** Makes the write. A process that is frozen makes it later. */
  readonly run?: (<T>(make: () => Promise<T>) => Promise<T>) | undefined;
  /** Rejects if the process ends. */
  readonly lost?: Promise<never> | undefined;
}

/** A state of a client or of a server. */
export interface WritableState extends Pick<ClientState, "transaction"> {
  readonly status?: ClientState["status"];
  collection<T = unknown>(
    name: string,
  ): Pick<ClientCollection<T>, "get" | "set" | "insert" | "delete" | "update">;
}

/** A row of the collection `counters`: how often it was updated, and by which writes. */
export interface Counter {
  readonly count: number;
  readonly by: readonly string[];
}

export interface ServerRow {
  readonly value: unknown;
  readonly version: number;
}

/**
 * A row of the collection `votes`: the number of votes in each slot. The number of a vote, modulo
 * the number of slots, is its slot, so that a lost vote and a doubled one rarely cancel out.
 */
export type Votes = readonly number[];

/** No votes. These rows exist before the first write. */
export const NO_VOTES: Votes = Array.from({ length: 64 }, () => 0);

/** The row of `items` or `pairs` that a test creates before the first write. */
export const NO_ITEM = "";

/** An empty counter. Counters exist before the first write. */
export const NO_COUNT: Counter = { count: 0, by: [] };

/** The rows of a write: collections and keys. */
function rowsOf({ kind, key }: LedgerWrite): readonly (readonly [type: string, key: string])[] {
  if (kind === "move") return [["pairs", `${key}.left`], ["pairs", `${key}.right`]];
  return [[COLLECTION_OF[kind] ?? "items", key]];
}

/** The collections of writes that don't write `items`. */
const COLLECTION_OF: Partial<Record<LedgerWrite["kind"], string>> = {
  update: "counters",
  vote: "votes",
};

interface Entry extends LedgerWrite {
  readonly id: string;
  readonly client: string;
  /** Number of the write among all writes. */
  readonly number: number;
  /** The version, or the code of the rejection; `undefined` while the write is under way. */
  outcome: number | string | undefined;
}

/** The writes of all clients. */
export class StateLedger {
  readonly #entries = new Map<string, Entry>();
  /** Faults that were noticed before the end. */
  readonly #faults: string[] = [];
  /** Writes whose effects other clients saw. */
  readonly #seen = new Set<string>();
  #waiting = 0;

  /** The number of writes that are not settled. */
  get waiting(): number {
    return this.#waiting;
  }

  /** The number of writes by outcome: `done`, or the code of the rejection. */
  get outcomes(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const { outcome } of this.#entries.values()) {
      const name = typeof outcome === "number" ? "done" : outcome ?? "waiting";
      counts[name] = (counts[name] ?? 0) + 1;
    }
    return counts;
  }

  /** Number of writes of open clients that were rejected without a condition, by kind and code. */
  get refusals(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const { kind, outcome } of this.#entries.values()) {
      if (!isRejected(outcome) || outcome === "closed") continue;
      if (kind === "insert" && outcome === "conflict") continue;
      counts[`${kind} ${outcome}`] = (counts[`${kind} ${outcome}`] ?? 0) + 1;
    }
    return counts;
  }

  /**
   * Makes a write.
   *
   * @param client Name of the client or the server.
   * @param options How the process makes the write.
   * @returns Resolves once the write is settled, in any way.
   */
  async write(
    client: string,
    state: WritableState,
    write: LedgerWrite,
    { run = (make) => make(), lost = new Promise(() => {}) }: LedgerWriteOptions = {},
  ): Promise<void> {
    const number = this.#entries.size;
    const entry: Entry = {
      ...write,
      client,
      number,
      id: `${client}#${number}`,
      outcome: undefined,
    };
    this.#entries.set(entry.id, entry);
    this.#waiting++;
    entry.outcome = await Promise.race([run(() => perform(state, entry)), lost]).catch(codeOf);
    this.#waiting--;
    this.#checkView(state, entry);
  }

  /** Notes the writes whose effects a client sees, until it is closed. */
  async watch(state: ClientState): Promise<void> {
    try {
      for await (const { collection, value } of state.changes()) {
        for (const id of idsOf(collection, value)) this.#seen.add(id);
      }
    } catch (error) {
      if (!(error instanceof SessionClosedError)) throw error;
    }
  }

  /**
   * Compares the outcomes with the rows of the server.
   *
   * @param rows The rows, by the names that {@linkcode readRows} gives them.
   * @returns The faults.
   */
  check(rows: ReadonlyMap<string, ServerRow>): string[] {
    const faults = [...this.#faults];
    const entries = [...this.#entries.values()];
    for (const { id, outcome } of entries) {
      if (outcome === undefined) faults.push(`${id} was not settled`);
      if (isRejected(outcome) && this.#seen.has(id)) faults.push(`${id} was seen, but ${outcome}`);
    }
    const byRow = new Map<string, Entry[]>();
    for (const entry of entries) {
      for (const [type, key] of rowsOf(entry)) {
        const name = nameOf(type, key);
        const writes = byRow.get(name) ?? [];
        byRow.set(name, writes);
        writes.push(entry);
      }
    }
    for (const [name, writes] of byRow) {
      const fault = FAULT_OF[writes[0]!.kind] ?? rowFault;
      for (const text of [fault(rows.get(name), writes), insertFault(writes)]) {
        if (text !== undefined) faults.push(`${name}: ${text}`);
      }
    }
    for (const [name, { value }] of rows) {
      const other = name.replace(/left$/, "right");
      if (name.startsWith("pairs/") && rows.get(other)?.value !== value) {
        faults.push(`${name}: ${value}, but ${other}: ${rows.get(other)?.value}`);
      }
    }
    return faults;
  }

  /** Checks that the writer sees a write that took effect, and none that was rejected. */
  #checkView(state: WritableState, entry: Entry): void {
    const { id, client, kind, key, outcome } = entry;
    if (state.status?.isEnded) return;
    const isDone = typeof outcome === "number";
    const sees = rowsOf(entry).some(([type, key]) =>
      idsOf(type, state.collection(type).get(key)).includes(id)
    );
    // Another update under way may still build on a rejected one.
    const isShown = isRejected(outcome) && sees &&
      (kind !== "update" || !this.#isBusy(client, key));
    if (isShown) this.#faults.push(`${id} is shown, but ${outcome}`);
    if (isDone && kind === "update" && !sees) this.#faults.push(`${id} is not shown, but done`);
  }

  #isBusy(client: string, key: string): boolean {
    return this.#entries.values().some((one) =>
      one.outcome === undefined && one.client === client && one.kind === "update" && one.key === key
    );
  }
}

function perform(state: WritableState, entry: Entry): Promise<number> {
  const { kind, key, id } = entry;
  switch (kind) {
    case "set":
      return state.collection("items").set(key, id);
    case "delete":
      return state.collection("items").delete(key);
    case "insert":
      return state.collection("items").insert(key, id);
    case "vote":
      return state.collection<Votes>("votes").update(
        key,
        (votes) => votes.with(slotOf(entry), votes[slotOf(entry)]! + 1),
      );
    case "update":
      return state.collection<Counter>("counters").update(
        key,
        ({ count, by }) => ({ count: count + 1, by: [...by, id] }),
      );
    case "move":
      return state.transaction((to) => {
        for (const [type, one] of rowsOf(entry)) to.set(type, one, id);
      });
  }
}

function codeOf(error: unknown): string {
  // A server cannot tell whether the store made a write.
  if (error instanceof BrokerError) return "unknown";
  // The client was closed, or the server was killed, before it had sent the write.
  if (error instanceof SessionClosedError) return "closed";
  if (error instanceof RequestError) return error.failure.code;
  return error instanceof Error ? error.name : `${error}`;
}

function isRejected(outcome: Entry["outcome"]): boolean {
  return typeof outcome === "string" && outcome !== "unknown";
}

/** The writes that a row shows. */
function idsOf(collection: string, value: unknown): readonly string[] {
  if (value === undefined || collection === "votes") return [];
  return collection === "counters" ? (value as Counter).by : [value as string];
}

function slotOf({ number }: Entry): number {
  return number % NO_VOTES.length;
}

/** Each vote that took effect has to be counted once. */
function voteFault(row: ServerRow | undefined, writes: readonly Entry[]): string | undefined {
  if (row === undefined) return "is missing";
  const bySlot = Map.groupBy(writes, slotOf);
  for (const [slot, count] of (row.value as Votes).entries()) {
    const votes = bySlot.get(slot) ?? [];
    const done = votes.filter(({ outcome }) => typeof outcome === "number").length;
    const unknown = votes.filter(({ outcome }) => outcome === "unknown").length;
    if (count >= done && count <= done + unknown) continue;
    return `counts ${count} in slot ${slot}, but ${done} are done, and ${unknown} are unknown`;
  }
  return undefined;
}

/** Each update that took effect has to be in the counter once. */
function counterFault(row: ServerRow | undefined, writes: readonly Entry[]): string | undefined {
  if (row === undefined) return "is missing";
  const { count, by } = row.value as Counter;
  if (new Set(by).size < by.length) return `has a write twice: ${by}`;
  if (count !== by.length) return `counts ${count}, but has ${by.length} writes`;
  for (const { id, outcome } of writes) {
    if (typeof outcome === "number" && !by.includes(id)) return `lacks ${id}, which is done`;
    if (isRejected(outcome) && by.includes(id)) return `has ${id}, but ${outcome}`;
  }
  return undefined;
}

/** The newest write that took effect has to be in the row, or one whose outcome is unknown. */
function rowFault(row: ServerRow | undefined, writes: readonly Entry[]): string | undefined {
  const unknown = writes.filter(({ outcome }) => outcome === "unknown");
  const done = writes.filter(({ outcome }) =>
    typeof outcome === "number"
  ) as (Entry & { outcome: number })[];
  const last = done.toSorted((a, b) => a.outcome - b.outcome || a.number - b.number).at(-1);
  if (row === undefined) {
    const isDeleted = last === undefined || last.kind === "delete" ||
      unknown.some(({ kind }) => kind === "delete");
    return isDeleted ? undefined : `is missing after ${last.id}, version ${last.outcome}`;
  }
  if (row.value === NO_ITEM) return last && `still has the first row, after ${last.id}`;
  const writer = writes.find(({ id }) => id === row.value);
  if (writer === undefined) return `has ${row.value}, which no one wrote`;
  if (isRejected(writer.outcome)) return `has ${writer.id}, but ${writer.outcome}`;
  if (typeof writer.outcome === "number" && writer.outcome !== row.version) {
    return `has ${writer.id} as version ${row.version} instead of ${writer.outcome}`;
  }
  if (last === undefined || last === writer) return undefined;
  // A later write of the same client may have taken the place of one that was not sent yet.
  if (last.outcome >= row.version) {
    return `has ${writer.id}, version ${row.version}, after ${last.id}, version ${last.outcome}`;
  }
  return undefined;
}

/** An insertion may not follow a write that left a row. */
function insertFault(writes: readonly Entry[]): string | undefined {
  if (writes.some(({ kind, outcome }) => kind === "delete" && outcome === "unknown")) {
    return undefined;
  }
  const done = writes.filter(({ outcome }) =>
    typeof outcome === "number"
  ) as (Entry & { outcome: number })[];
  const versions = [...Map.groupBy(done, ({ outcome }) => outcome)].sort(([a], [b]) => a - b);
  for (const [i, [version, made]] of versions.entries()) {
    const before = versions[i - 1]?.[1];
    const one = made.find(({ kind }) => kind === "insert");
    if (one === undefined || before === undefined) continue;
    if (before.some(({ kind }) => kind === "delete")) continue;
    return `${one.id} was inserted as version ${version}, after ${before[0]!.id}`;
  }
  return undefined;
}

/** Finds a fault of a row, by the kind of its writes; {@linkcode rowFault} does for other kinds. */
const FAULT_OF: Partial<Record<LedgerWrite["kind"], typeof rowFault>> = {
  update: counterFault,
  vote: voteFault,
};

function nameOf(type: string, key: string): string {
  return `${type}/${key}`;
}

/**
 * Reads the rows of a state from the server.
 *
 * @param id Id of the state, which must have a row.
 * @returns The rows by collection and key, separated by a slash.
 */
export async function readRows(client: Client, id: string): Promise<Map<string, ServerRow>> {
  const rows = new Map<string, ServerRow>();
  const stream = client.durableStream<readonly VersionedRowMessage[]>(id);
  for await (const changes of stream) {
    for (const { type, key, value, version, headers } of changes) {
      if (headers.operation === "delete") rows.delete(nameOf(type, key));
      else rows.set(nameOf(type, key), { value, version });
    }
    if (stream.isUpToDate) break;
  }
  return rows;
}

/**
 * Lists the rows of a state that differ from others.
 *
 * @param state The state of a client or a server.
 * @param rows The rows, as {@linkcode readRows} returns them.
 * @returns The names of the rows.
 */
export function differences(
  state: { collection(name: string): Iterable<readonly [key: string, row: unknown]> },
  rows: ReadonlyMap<string, ServerRow>,
): string[] {
  const shown = new Map<string, unknown>();
  for (const name of COLLECTIONS) {
    for (const [key, value] of state.collection(name)) shown.set(nameOf(name, key), value);
  }
  const textOf = (value: unknown) => JSON.stringify(value);
  return [...new Set([...shown.keys(), ...rows.keys()])]
    .filter((name) => textOf(shown.get(name)) !== textOf(rows.get(name)?.value))
    .map((name) => `${name}: ${textOf(shown.get(name))}, not ${textOf(rows.get(name)?.value)}`);
}
