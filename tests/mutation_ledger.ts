/**
 * A bank whose rows belong together, and a ledger of the operations that clients and servers make
 * there: mutations, and transactions that read. The ledger replays the operations in the order of
 * the log on plain maps, and compares:
 *
 * - Each transaction of the log has exactly the changes of the operation in the replay.
 * - An operation that was resolved is in the log once, and the writer's page had its rows by then. One
 *   that was rejected is not in the log. One whose outcome is unknown is there once or not at all.
 * - Mutations of one page that share an account are in the log in the order of their calls.
 * - No version has another sum of coins, and none has more than five cards of a kind. This also holds
 *   for what a page or a server shows at any moment, as {@linkcode MutationLedger.watch} sees it.
 *
 * @module
 */
import { z } from "zod";
import {
  BrokerError,
  type ClientState,
  defineContract,
  RequestError,
  SessionClosedError,
} from "../mod.ts";
import { defineMutations, type MutationFunctions } from "../session/mutations/mod.ts";
import type { StateTransaction } from "../session/state_types.ts";
import { rowName } from "../session/wire/rows.ts";

/** Maximum number of cards of one kind. */
export const MAX_CARDS = 5;

/** The accounts of a bank, and the coins of each at first. */
export const [ACCOUNTS, FIRST_COINS] = [["a", "b", "c", "d"] as const, 10];

/** The name of the operation, and the time after which the log may forget it. */
const named = { op: z.string(), ttlMs: z.number().int().optional() };

/** The contract of banks. */
export const bankContract = defineContract({
  state: {
    "bank:{id}": {
      collections: {
        coins: z.number().int().min(0),
        seats: z.string(),
        cards: z.string(),
        /** The operations that were made. */
        audit: z.boolean(),
        notes: z.string(),
      },
      mutations: {
        move: z.object({ ...named, from: z.string(), to: z.string(), coins: z.number() }),
        sweep: z.object(named),
        claim: z.object({ ...named, seat: z.string(), owner: z.string() }),
        leave: z.object({ ...named, seat: z.string() }),
        add: z.object({ ...named, key: z.string(), kind: z.string() }),
        take: z.object({ ...named, kind: z.string() }),
      },
    },
  },
});

/** The functions of the mutations. */
type Functions = MutationFunctions<typeof bankContract>;

type Audited = Parameters<Functions["sweep"]>[0];

function audit(
  tx: Pick<Audited, "set">,
  { op, ttlMs }: { readonly op: string; readonly ttlMs?: number | undefined },
): Promise<void> {
  return tx.set("audit", op, true, { ttlMs });
}

const functions: Functions = {
  async move(tx, { from, to, coins, ...named }) {
    const present = await tx.get("coins", from) ?? 0;
    if (present < coins) throw new RequestError("poor", `${from} has ${present}`);
    await tx.set("coins", from, present - coins);
    await tx.set("coins", to, (await tx.get("coins", to) ?? 0) + coins);
    await audit(tx, named);
  },
  /** Moves all coins of the richest account to the poorest one. */
  async sweep(tx, named) {
    const coins = (await Array.fromAsync(tx.entries("coins")))
      .sort(([a, few], [b, many]) => few - many || (a < b ? -1 : 1));
    const [[to, few], [from, many]] = [coins[0]!, coins.at(-1)!];
    if (few === many) throw new RequestError("even", "All accounts have the same");
    await tx.set("coins", from, 0);
    await tx.set("coins", to, few + many);
    await audit(tx, named);
  },
  async claim(tx, { seat, owner, ...named }) {
    if (await tx.has("seats", seat)) throw new RequestError("taken", `${seat} is taken`);
    await tx.insert("seats", seat, owner);
    await audit(tx, named);
  },
  async leave(tx, { seat, ...named }) {
    if (!await tx.has("seats", seat)) throw new RequestError("free", `${seat} is free`);
    await tx.delete("seats", seat);
    await audit(tx, named);
  },
  async add(tx, { key, kind, ...named }) {
    let count = 0;
    for await (const [, one] of tx.entries("cards")) if (one === kind) count++;
    if (count >= MAX_CARDS) throw new RequestError("enough", `There are ${count} of ${kind}`);
    await tx.set("cards", key, kind);
    await audit(tx, named);
  },
  /** Deletes the first card of a kind. */
  async take(tx, { kind, ...named }) {
    const keys = [];
    for await (const [key, one] of tx.entries("cards")) if (one === kind) keys.push(key);
    if (keys.length === 0) throw new RequestError("none", `There is no ${kind}`);
    await tx.delete("cards", keys.sort()[0]!);
    await audit(tx, named);
  },
};

/** The mutations of banks. */
export const bankMutations = defineMutations(bankContract, functions);

const COLLECTIONS = ["coins", "seats", "cards", "audit", "notes"] as const;

/** The rows of a new bank. */
export const bankRows = {
  coins: Object.fromEntries(ACCOUNTS.map((name) => [name, FIRST_COINS])),
};

/** An operation: its name and its input, without the name that the ledger gives it. */
export type BankCall = {
  readonly [N in keyof Functions]: readonly [
    name: N,
    input: Omit<Parameters<Functions[N]>[1], "op">,
  ];
}[keyof Functions];

/** Codes of operations that the rows don't allow. */
export const REFUSALS: ReadonlySet<string> = new Set([
  ...["poor", "even", "taken", "free", "enough", "none"],
]);

/** A state of a client or a server. */
export type Bank =
  & Pick<ClientState, "transaction">
  & {
    readonly ready?: Promise<void>;
    readonly status?: ClientState["status"];
    readonly mutate?: ClientState["mutate"];
    collection(name: string): {
      readonly current: ReadonlyMap<string, unknown>;
      has(key: string): boolean;
      subscribe(call: (rows: ReadonlyMap<string, unknown>) => void): () => void;
    };
  };

/** A change in a transaction of the log. */
export interface LoggedChange {
  readonly type: string;
  readonly key: string;
  readonly value?: unknown;
  readonly headers: { readonly operation: string };
}

/** How an operation is made; by default, immediately, by a process that does not end. */
export interface OperateOptions {
  /** Makes it as a mutation, or as a transaction. */
  readonly as: "mutation" | "transaction";
  /** Makes the operation. A process that is frozen makes it later. */
  readonly run?: (<T>(make: () => Promise<T>) => Promise<T>) | undefined;
  /** Rejects if the process ends. */
  readonly lost?: Promise<never> | undefined;
}

interface Operation {
  readonly id: string;
  readonly call: BankCall;
  /** The page or server, and its place among the operations. */
  readonly by: Bank;
  readonly number: number;
  readonly as: OperateOptions["as"];
  /** The version, or the code of the rejection; `undefined` while it is under way. */
  outcome: number | string | undefined;
  /** Number of the log's life in which it was made. */
  life: number | undefined;
  /** True if the log of a life may lack it. */
  isForgiven: boolean;
}

/** The operations of all clients and servers. */
export class MutationLedger {
  readonly faults: string[] = [];
  readonly #operations = new Map<string, Operation>();
  readonly #first: Readonly<Record<string, number>>;
  readonly #sum: number;
  #replay: Replay;
  #life = 0;
  #waiting = 0;
  /** Number of versions that were compared. */
  versions = 0;
  /** Number of views that were looked at. */
  looks = 0;

  /** @param first The coins of the accounts in a new bank. */
  constructor(first: Readonly<Record<string, number>> = bankRows.coins) {
    this.#first = first;
    this.#sum = sumOf(new Map(Object.entries(first)));
    this.#replay = new Replay();
  }

  /** The number of operations that are not settled. */
  get waiting(): number {
    return this.#waiting;
  }

  /** The names of these operations. */
  get unsettled(): readonly string[] {
    return this.#operations.values().filter(({ outcome }) => outcome === undefined)
      .map(({ id, as, call: [name] }) => `${id} (${as} ${name})`).toArray();
  }

  /** The number of operations by outcome: `made`, or the code of the rejection. */
  get outcomes(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const { outcome } of this.#operations.values()) {
      const name = typeof outcome === "number" ? "made" : outcome ?? "waiting";
      counts[name] = (counts[name] ?? 0) + 1;
    }
    return counts;
  }

  /**
   * Looks at all that a page or a server shows, once it has the rows.
   *
   * @param name Name of the client or the server.
   * @param bank Its state.
   */
  async watch(name: string, bank: Bank): Promise<void> {
    try {
      await bank.ready;
    } catch {
      return; // It was closed before.
    }
    bank.collection("coins").subscribe((coins) => {
      this.looks++;
      const sum = sumOf(coins as ReadonlyMap<string, number>);
      if (sum !== this.#sum) {
        this.faults.push(`${name} shows ${sum} coins: ${JSON.stringify([...coins])}`);
      }
    });
    bank.collection("cards").subscribe((cards) => {
      this.looks++;
      const fault = cardFault(cards as ReadonlyMap<string, string>);
      if (fault !== undefined) this.faults.push(`${name} shows ${fault}`);
    });
  }

  /**
   * Makes an operation.
   *
   * @param name Name of the client or the server.
   * @param by Its state.
   * @param call The operation.
   * @param options How it is made.
   * @returns Resolves once it is settled, in any way.
   */
  async operate(
    name: string,
    by: Bank,
    call: BankCall,
    { as, run = (make) => make(), lost = new Promise(() => {}) }: OperateOptions,
  ): Promise<void> {
    const number = this.#operations.size;
    const operation: Operation = {
      ...{ id: `${name}#${number}`, call, by, number, as },
      outcome: undefined,
      life: undefined,
      isForgiven: false,
    };
    this.#operations.set(operation.id, operation);
    this.#waiting++;
    operation.outcome = await Promise.race([run(() => perform(operation)), lost]).catch(codeOf);
    this.#waiting--;
    // The page has the rows of an operation that was made. After a loss, it may not know of it yet.
    const isLacking = typeof operation.outcome === "number" && !by.status?.isEnded &&
      call[1].ttlMs === undefined && !by.collection("audit").has(operation.id);
    if (isLacking && this.#life === 0) {
      this.faults.push(`${operation.id} is made, but not shown`);
    }
  }

  /**
   * The log is lost, with all that was not read. Operations that are under way, or were made since
   * `before` was read, may be missing.
   */
  lose(): void {
    for (const operation of this.#operations.values()) {
      const isUnseen = operation.life === undefined && typeof operation.outcome !== "string";
      if (isUnseen) operation.isForgiven = true;
    }
    this.#replay = new Replay();
    this.#life++;
  }

  /** Replays the next transactions of the log. */
  async replay(transactions: readonly (readonly LoggedChange[])[]): Promise<void> {
    for (const changes of transactions) {
      const version = ++this.#replay.version;
      const fault = await this.#next(changes, version);
      this.#replay.apply(changes);
      this.versions++;
      const coins = this.#replay.rows("coins") as ReadonlyMap<string, number>;
      const sum = sumOf(coins);
      const wrong = [
        fault,
        sum === this.#sum ? undefined : `has ${sum} coins`,
        cardFault(this.#replay.rows("cards") as ReadonlyMap<string, string>),
      ];
      for (const text of wrong) {
        if (text !== undefined) this.faults.push(`version ${version}: ${text}`);
      }
    }
  }

  /** Number of transactions that were replayed. */
  get version(): number {
    return this.#replay.version;
  }

  /**
   * Lists the rows of a state that differ from the replay.
   *
   * @param bank The state.
   */
  differences(bank: Bank): string[] {
    return COLLECTIONS.flatMap((type) => {
      const [rows, shown] = [this.#replay.rows(type), bank.collection(type).current];
      return [...new Set([...rows.keys(), ...shown.keys()])]
        .filter((key) => rows.get(key) !== shown.get(key))
        .map((key) => `${type}/${key}: ${shown.get(key)}, not ${rows.get(key)}`);
    });
  }

  /** Compares the outcomes with the log, which is complete, and returns all faults. */
  check(): string[] {
    const faults = [...this.faults];
    for (const { id, outcome, life, isForgiven } of this.#operations.values()) {
      if (outcome === undefined) faults.push(`${id} was not settled`);
      const isMade = typeof outcome === "number";
      if (isMade && life === undefined && !isForgiven) faults.push(`${id} is made, but not logged`);
      if (!isMade && outcome !== "unknown" && life !== undefined) {
        faults.push(`${id} is logged, but ${outcome}`);
      }
    }
    return faults;
  }

  async #next(changes: readonly LoggedChange[], version: number): Promise<string | undefined> {
    const made = changes.filter(isMade);
    // The first transaction also stores the rows of a new bank.
    const first = version === 1 ? this.#replay.begin(this.#first) : new Map<string, unknown>();
    if (made.length === 0) {
      const other = changes.find(({ type, key, headers: { operation } }) =>
        type !== "notes" && !first.has(rowName(type, key)) &&
        !(type === "audit" && operation === "delete")
      );
      return other && `changes ${other.type}/${other.key} without an operation`;
    }
    const [{ key: id }] = made as [LoggedChange];
    if (made.length > 1) return `has the operations ${made.map(({ key }) => key)}`;
    const operation = this.#operations.get(id);
    if (operation === undefined) return `has ${id}, which no one made`;
    if (operation.life !== undefined) return `has ${id} a second time`;
    operation.life = this.#life;
    const expected = await this.#replay.run(operation);
    if (typeof expected === "string") return `has ${id}, which the rows reject as ${expected}`;
    const found = new Map(changes.map(({ type, key, value }) => [rowName(type, key), value]));
    const all = new Map([...first, ...expected]);
    if (textOf(found) !== textOf(all)) {
      return `has ${id} with ${textOf(found)} instead of ${textOf(all)}`;
    }
    const { outcome, as, by, number, call: [name, input] } = operation;
    // A client does not know the version in a new life of the log.
    const isOther = typeof outcome === "number" && this.#life === 0 &&
      (as === "mutation" ? outcome < version : outcome !== version);
    if (isOther) return `has ${id}, which was made as version ${outcome}`;
    if (name !== "move" || as !== "mutation") return undefined;
    const { from, to } = input as { readonly from: string; readonly to: string };
    const last = this.#replay.last.get(by) ?? new Map<string, number>();
    this.#replay.last.set(by, last);
    const after = Math.max(last.get(from) ?? -1, last.get(to) ?? -1);
    for (const account of [from, to]) last.set(account, Math.max(number, last.get(account) ?? -1));
    return after > number ? `has ${id} after a later one, number ${after}` : undefined;
  }
}

/** The rows after some transactions. */
class Replay {
  version = 0;
  /** The newest operation on each account, by page. */
  readonly last = new Map<Bank, Map<string, number>>();
  readonly #collections = new Map<string, Map<string, unknown>>(
    COLLECTIONS.map((name) => [name, new Map()]),
  );

  /** Returns the rows of a collection. */
  rows(type: string): Map<string, unknown> {
    return this.#collections.get(type)!;
  }

  /** Puts the coins of a new bank, and returns their rows by name. */
  begin(coins: Readonly<Record<string, number>>): ReadonlyMap<string, unknown> {
    for (const [key, count] of Object.entries(coins)) this.rows("coins").set(key, count);
    return new Map(Array.from(this.rows("coins"), ([key, row]) => [rowName("coins", key), row]));
  }

  /** Returns the changes of an operation by row, or the code with which the rows reject it. */
  async run(operation: Operation): Promise<Map<string, unknown> | string> {
    const changes = new Map<string, unknown>();
    const get = (type: string, key: string) => {
      const name = rowName(type, key);
      return Promise.resolve(changes.has(name) ? changes.get(name) : this.rows(type).get(key));
    };
    const put = (type: string, key: string, value: unknown) => {
      changes.set(rowName(type, key), value);
      return Promise.resolve();
    };
    const tx = {
      get,
      has: async (type, key) => await get(type, key) !== undefined,
      // The operations iterate before they change rows.
      entries: (type) => fromAll(this.rows(type)),
      set: put,
      insert: put,
      update: async (type, key, change) => await put(type, key, change(await get(type, key))),
      delete: (type, key) => put(type, key, undefined),
    } satisfies StateTransaction;
    try {
      await callOn(tx, operation);
      return changes;
    } catch (error) {
      return codeOf(error);
    }
  }

  /** Applies the changes of a transaction. */
  apply(changes: readonly LoggedChange[]): void {
    for (const { type, key, value, headers: { operation } } of changes) {
      if (operation === "delete") this.rows(type).delete(key);
      else this.rows(type).set(key, value);
    }
  }
}

async function* fromAll<T>(all: Iterable<T>): AsyncGenerator<T> {
  yield* all;
}

function perform(operation: Operation): Promise<number> {
  const { id, call: [name, input], by, as } = operation;
  if (as === "mutation") return by.mutate![name]!({ ...input, op: id });
  return by.transaction((tx) => callOn(tx, operation));
}

/** Calls the function of an operation. */
async function callOn(
  tx: StateTransaction,
  { id, call: [name, input] }: Operation,
): Promise<void> {
  const call = functions[name] as (tx: unknown, input: unknown) => Promise<void>;
  await call(tx, { ...input, op: id });
}

/** Returns how an operation was rejected. */
function codeOf(error: unknown): string {
  // A server cannot tell whether the store made it.
  if (error instanceof BrokerError) return "unknown";
  // The client was closed, or the server was killed, before it was sent.
  if (error instanceof SessionClosedError) return "closed";
  if (error instanceof RequestError) return error.failure.code;
  return error instanceof Error ? `${error.name}: ${error.message}` : `${error}`;
}

function isMade({ type, headers: { operation } }: LoggedChange): boolean {
  return type === "audit" && operation !== "delete";
}

function sumOf(coins: ReadonlyMap<string, number>): number {
  return coins.values().reduce((sum, one) => sum + one, 0);
}

function cardFault(cards: ReadonlyMap<string, string>): string | undefined {
  for (const [kind, all] of Map.groupBy(cards.values(), (kind) => kind)) {
    if (all.length > MAX_CARDS) return `has ${all.length} cards of ${kind}`;
  }
  return undefined;
}

function textOf(rows: ReadonlyMap<string, unknown>): string {
  const sorted = [...rows].toSorted(([a], [b]) => a < b ? -1 : 1);
  return JSON.stringify(sorted.map(([name, value]) => [name, value ?? null]));
}
