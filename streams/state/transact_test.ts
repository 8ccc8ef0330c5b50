import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError } from "../../mod.ts";
import { runTransaction } from "../../session/mutations/transaction.ts";
import { Collections, type LiveRow } from "../../session/rows/row_map.ts";
import type { StateTransaction } from "../../session/state_types.ts";
import { readRowName, rowName } from "../../session/wire/rows.ts";
import type { Change } from "../logs/change_message.ts";
import type { CompleteRows } from "./live_rows.ts";
import { ownQuota, RowQueue } from "./row_queue.ts";
import { type AppendOutcome, type GuardedChanges, transact, type Transacted } from "./transact.ts";

/** The function of a transaction. */
type Act = (tx: StateTransaction) => Promise<void>;

/** A stream with rows, and a copy of them that is behind until a transaction waits for it. */
class Bank implements Disposable {
  identity = "first";
  version = 0;
  rows = new Map<string, LiveRow>();
  /** The versions that the transactions have waited for. */
  readonly reached: number[] = [];
  readonly outcomes: string[] = [];
  runs = 0;
  /** Called after each append that takes effect. */
  onAppended: (count: number) => void = () => {};
  #copy = { identity: "", version: 0, rows: new Map<string, LiveRow>() };
  #count = 0;
  readonly #queue = new RowQueue({
    runtime: platformRuntime(),
    quota: ownQuota(),
    timeoutMs: 60_000,
    contendedCode: "unavailable",
  });

  constructor(coins: Readonly<Record<string, number>>) {
    this.write(coins);
    this.copyRows();
  }

  /** Writes rows; the value `undefined` deletes one. */
  write(coins: Readonly<Record<string, number | undefined>>): void {
    this.version++;
    for (const [key, value] of Object.entries(coins)) {
      const name = rowName("coins", key);
      if (value === undefined) this.rows.delete(name);
      else this.rows.set(name, { value, version: this.version });
    }
  }

  copyRows(): void {
    const { identity, version, rows } = this;
    this.#copy = { identity, version, rows: new Map(rows) };
  }

  /** The copy, as a transaction iterates it. */
  readonly #copied: CompleteRows = (() => {
    const copy = () => this.#copy;
    return {
      get identity() {
        return copy().identity;
      },
      get version() {
        return copy().version;
      },
      stored(type) {
        const collections = new Collections();
        for (const [name, { value, version }] of copy().rows) {
          const [of, key] = readRowName(name);
          collections.set(of, { key, value, version });
        }
        return collections.get(type);
      },
    };
  })();

  get coins(): Record<string, unknown> {
    return Object.fromEntries(Array.from(this.rows, ([name, { value }]) => [
      readRowName(name)[1],
      value,
    ]));
  }

  /** Makes transactions of the first rows, at the same time. */
  async make(...acts: readonly Act[]): Promise<readonly PromiseSettledResult<Transacted>[]> {
    return await Promise.allSettled(acts.map((act) => this.#transact(act)));
  }

  async #transact(act: Act): Promise<Transacted> {
    return await transact({
      rows: {
        row: (type, key) => {
          const { identity, version, rows } = this.#copy;
          return { identity, version, row: rows.get(rowName(type, key)) };
        },
        all: () => this.#copied,
        reach: async (version, identity) => {
          if (version <= this.#copy.version || identity !== this.#copy.identity) return;
          this.reached.push(version);
          await Promise.resolve();
          this.copyRows();
        },
      },
      run: (rows) => {
        this.runs++;
        return runTransaction(rows, (tx) => act(tx));
      },
      enter: (names) => this.#queue.enter("bank", names),
      append: async (guarded) => {
        await Promise.resolve();
        const outcome = this.#append(guarded);
        this.outcomes.push(outcome.result.kind);
        if (outcome.result.kind === "appended") this.onAppended(++this.#count);
        return outcome;
      },
    });
  }

  [Symbol.dispose](): void {
    this.#queue.close();
  }

  #append({ changes, scans, identity }: GuardedChanges): AppendOutcome {
    // The schema rounds.
    const checked = changes.map((change): Change =>
      change.value === undefined
        ? change
        : { ...change, value: `${Math.round(JSON.parse(change.value))}` }
    );
    const outcome = (result: object) => ({ result, checked }) as AppendOutcome;
    if (identity !== this.identity) return outcome({ kind: "missing" });
    for (const { row, expect } of changes) {
      const { version = 0 } = this.rows.get(row!) ?? {};
      if (expect === undefined || expect === version) continue;
      return outcome({ kind: "conflict", row, version, since: this.version });
    }
    for (const [name, { version }] of this.rows) {
      const [type] = readRowName(name);
      if (version > (scans.get(type) ?? Infinity)) {
        return outcome({ kind: "changed", type, version: this.version });
      }
    }
    const written = checked.filter(({ operation }) => operation !== "check");
    this.write(Object.fromEntries(written.map(({ key, operation, value }) => [
      key,
      operation === "delete" ? undefined : JSON.parse(value!),
    ])));
    return outcome({ kind: "appended", info: { tail: this.version } });
  }
}

const coinsIn = async (tx: StateTransaction, key: string) =>
  await tx.get("coins", key) as number | undefined ?? 0;

const add = (key: string, count: number): Act => async (tx) => {
  await tx.set("coins", key, await coinsIn(tx, key) + count);
};

const move = (from: string, to: string): Act => async (tx) => {
  await add(from, -1)(tx);
  await add(to, 1)(tx);
};

const appended = (count: number) => Array(count).fill("appended");

Deno.test("transact() runs a function in its turn on the rows that the turn before has left", async () => {
  using bank = new Bank({ a: 100, b: 0 });
  await bank.make(...Array(9).fill(move("a", "b")));
  const { coins, outcomes, reached, runs } = bank;
  assertEquals({ coins, outcomes, reached, runs }, {
    coins: { a: 91, b: 9 },
    outcomes: appended(9),
    reached: [],
    // Those that wait run for a second time.
    runs: 17,
  });
});

Deno.test("transact() leaves rows as the schemas have stored them", async () => {
  using bank = new Bank({ a: 1 });
  await bank.make(add("a", 0.6), add("a", 0.6), add("a", 0.6));
  assertEquals([bank.coins, bank.reached], [{ a: 4 }, []]);
});

Deno.test("transact() leaves rows that it has deleted, or that did not exist", async () => {
  using bank = new Bank({});
  const turn: Act = async (tx) => {
    if (await tx.has("coins", "a")) await tx.delete("coins", "a");
    else await tx.set("coins", "a", 1);
  };
  await bank.make(turn, turn, turn);
  assertEquals([bank.coins, bank.outcomes, bank.reached], [{ a: 1 }, appended(3), []]);
});

Deno.test("transact() reads some rows from the turn before, and others from the copy", async () => {
  using bank = new Bank({ a: 5, b: 5, c: 5, d: 5 });
  await bank.make(move("a", "b"), move("b", "c"), move("c", "d"), move("d", "a"));
  assertEquals([bank.coins, bank.outcomes, bank.reached], [
    { a: 5, b: 5, c: 5, d: 5 },
    appended(4),
    [],
  ]);
});

Deno.test("transact() runs again if a row that was left has changed, expired or been deleted", async () => {
  for (const [change, a] of [[{ a: 50 }, 52], [{ a: undefined }, 2]] as const) {
    using bank = new Bank({ a: 1 });
    bank.onAppended = (count) => {
      if (count === 1) bank.write(change);
    };
    await bank.make(add("a", 1), add("a", 1), add("a", 1));
    assertEquals([bank.coins, bank.outcomes, bank.reached], [
      { a },
      ["appended", "conflict", "appended", "appended"],
      [3],
    ]);
  }
});

Deno.test("transact() runs again if the turn before doesn't tell what it has left", async () => {
  using bank = new Bank({ a: 1 });
  bank.onAppended = (count) => {
    if (count === 2) throw new BrokerError("No reply");
  };
  const results = await bank.make(add("a", 1), add("a", 1), add("a", 1));
  assertEquals(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
  assertEquals([bank.coins, bank.outcomes], [
    { a: 4 },
    ["appended", "appended", "conflict", "appended"],
  ]);
});

Deno.test("transact() takes rows from the turn before that, if a function has thrown", async () => {
  using bank = new Bank({ a: 1 });
  const fail: Act = async (tx) => {
    await add("a", 1)(tx);
    if (await coinsIn(tx, "a") > 2) throw new RangeError("Enough");
  };
  const results = await bank.make(add("a", 1), fail, add("a", 1));
  assertEquals(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
  assertEquals([bank.coins, bank.outcomes, bank.reached], [{ a: 3 }, appended(2), []]);
});

Deno.test("transact() takes no row of a state that was lost and created anew", async () => {
  using bank = new Bank({ a: 1 });
  bank.onAppended = (count) => {
    if (count > 1) return;
    bank.identity = "second";
    bank.rows.clear();
    bank.version = 0;
    bank.write({ a: 10 });
    bank.copyRows();
  };
  await bank.make(add("a", 1), add("a", 1), add("a", 1));
  assertEquals([bank.coins, bank.reached], [{ a: 12 }, []]);
  // The copy does not know it yet.
  using late = new Bank({ a: 1 });
  late.onAppended = () => late.identity = "second";
  const [, second] = await late.make(add("a", 1), add("a", 1));
  assertEquals(second, { status: "fulfilled", value: { kind: "missing", identity: "first" } });
});

Deno.test("transact() waits for the copy if its function iterates a collection", async () => {
  using bank = new Bank({ a: 1 });
  const addOne = (key: string): Act => async (tx) => {
    let count = 0;
    for await (const _row of tx.entries("coins")) count++;
    if (count === 3) throw new RangeError("There are three");
    await tx.set("coins", key, count);
  };
  const results = await bank.make(addOne("b"), addOne("c"), addOne("d"));
  assertEquals(results.map(({ status }) => status), ["fulfilled", "fulfilled", "rejected"]);
  assertEquals([bank.coins, bank.outcomes, bank.reached], [
    { a: 1, b: 1, c: 2 },
    appended(2),
    [2, 3],
  ]);
});

Deno.test("transact() believes an error only about rows that were there at the same time", async () => {
  using bank = new Bank({ a: 100, b: 0 });
  /** Reads `b` only once there are fewer coins in `a`, so that the turn before does not leave it. */
  const check: Act = async (tx) => {
    for (const key of ["c", "d", "e", "f"]) await coinsIn(tx, key);
    const a = await coinsIn(tx, "a");
    if (a < 100 && a + await coinsIn(tx, "b") !== 100) throw new RangeError("Coins are lost");
    await tx.set("coins", "checked", a);
  };
  const results = await bank.make(move("a", "b"), check);
  assertEquals(results.map(({ status }) => status), ["fulfilled", "fulfilled"]);
  assertEquals([bank.coins, bank.reached], [{ a: 99, b: 1, checked: 99 }, [2]]);
  // An error about rows of one version counts at once.
  const fail = () => Promise.reject(new RangeError("No"));
  const { runs } = bank;
  await assertRejects(async () => {
    const [result] = await bank.make(fail);
    if (result!.status === "rejected") throw result!.reason;
  }, RangeError);
  assertEquals(bank.runs - runs, 1);
});
