import { assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Account, NOBODY } from "../../base/quotas/accounts.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { RequestError } from "../../mod.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import { MAX_SESSION_ROWS, rowName } from "../../session/wire/rows.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { Random } from "../../tests/random.ts";
import {
  type EphemeralRows,
  EphemeralStates,
  MAX_ROW_BYTES,
  MAX_SESSION_BYTES,
  MAX_STATE_BYTES,
  MAX_STATE_ROWS,
} from "./ephemeral_rows.ts";

const runtime = platformRuntime();
const ANN: Account = { ...NOBODY, user: "ann" };

class Bench implements Disposable {
  readonly #states = new EphemeralStates({
    runtime,
    quotas: new Quotas(runtime),
    nodes: undefined,
    graceMs: 100,
    isUsed: true,
    namesOf: (id) => new Set(id === "board" ? ["cursors"] : []),
  });
  readonly rows: EphemeralRows = this.#states.open("board")!;
  readonly sessions = [{}, {}, {}] as const;

  get states(): EphemeralStates {
    return this.#states;
  }

  write(by: object, key: string, value: unknown = 1, account?: Account): number {
    const of = { type: "cursors", key };
    return this.rows.write(
      by,
      value === undefined
        ? { ...of, operation: "delete" }
        : { ...of, operation: "upsert", value: JSON.stringify(value) },
      account,
    );
  }

  get values(): Record<string, unknown> {
    const rows = this.rows.collection("cursors").view;
    return Object.fromEntries(rows);
  }

  [Symbol.dispose](): void {
    this.#states.close();
  }
}

function codeOf(write: () => unknown): string {
  return assertThrows(write, RequestError).failure.code;
}

Deno.test("EphemeralRows.write() shows the newest value of all writers", () => {
  using _time = new FakeTime(); // The values have the same time.
  using bench = new Bench();
  const { sessions: [one, two, three] } = bench;
  const changes: unknown[] = [];
  bench.rows.listeners.add((changed) => void changes.push(...changed.get("cursors")!));
  bench.write(one, "a", 1);
  bench.write(two, "a", 2);
  bench.write(three, "a", 3);
  assertEquals(bench.values, { a: 3 });
  bench.rows.leave(two);
  bench.rows.leave(three);
  assertEquals(bench.values, { a: 1 });
  assertEquals(
    codeOf(() => bench.rows.write(two, { type: "cursors", key: "a", operation: "delete" })),
    "forbidden",
  );
  bench.rows.leave(one);
  assertEquals(bench.values, {});
  assertEquals(changes, [["a", undefined], ["a", 1], ["a", 2], ["a", 3], ["a", 1]]);
});

Deno.test("EphemeralRows.leave() keeps rows for the grace period after a loss", () => {
  using time = new FakeTime();
  using bench = new Bench();
  const { sessions: [one, two] } = bench;
  bench.write(one, "a", 1);
  bench.write(one, "b", 1);
  bench.rows.leave(one, true);
  time.tick(50);
  bench.write(two, "a", 2); // The client has returned.
  time.tick(49);
  assertEquals(bench.values, { a: 2, b: 1 });
  time.tick(1);
  assertEquals(bench.values, { a: 2 });
});

Deno.test("EphemeralRows.leave() shows no value of a lost session again", () => {
  using time = new FakeTime();
  using bench = new Bench();
  const { sessions: [one, two] } = bench;
  const deletion = { type: "cursors", key: "a", operation: "delete" } as const;
  bench.write(one, "a", 1);
  bench.rows.leave(one, true);
  bench.write(two, "a", 2); // The client has returned.
  bench.rows.write(two, deletion);
  assertEquals(bench.values, {});
  bench.write(one, "a", 3);
  bench.write(two, "a", 4);
  bench.rows.leave(one, true); // The loss is noticed after the return.
  bench.rows.write(two, deletion);
  assertEquals(bench.values, {});
  time.tick(1_000);
  assertEquals(bench.values, {});
});

Deno.test("EphemeralStates keeps the rows of a state while they have readers or writers", () => {
  using time = new FakeTime();
  using bench = new Bench();
  const { states, rows, sessions: [one] } = bench;
  assertEquals(states.open("other"), undefined);
  assertEquals(states.open("board"), rows);
  rows.release();
  bench.write(one, "a");
  bench.rows.leave(one, true);
  rows.release();
  assertEquals(states.get("board"), rows);
  time.tick(100);
  assertEquals(states.get("board"), undefined);
});

Deno.test("EphemeralRows.write() bounds the rows and bytes of a session", () => {
  using bench = new Bench();
  const { sessions: [one, two] } = bench;
  const write = (key: string, value?: unknown) => bench.write(one, key, value, ANN);
  for (let i = 0; i < MAX_SESSION_ROWS; i++) write(`${i}`);
  assertEquals(codeOf(() => write("more")), "full");
  bench.rows.write(one, { type: "cursors", key: "0", operation: "delete" }, ANN);
  write("more");
  bench.write(two, "other", 1, ANN);
  const large = "x".repeat(MAX_ROW_BYTES - 2);
  assertEquals(codeOf(() => write("more", large + "x")), "too-large");
  const fitting = Math.floor(MAX_SESSION_BYTES / MAX_ROW_BYTES) - 1;
  for (let i = 1; i <= fitting; i++) write(`${i}`, large);
  assertEquals(codeOf(() => write(`${fitting + 1}`, large)), "full");
  write("1", "small");
  write(`${fitting + 1}`, large);
});

Deno.test("EphemeralRows.write() bounds the rows and bytes of a state", () => {
  using bench = new Bench();
  const { sessions: [one, two] } = bench;
  for (let i = 0; i < MAX_STATE_ROWS; i++) bench.write(one, `${i}`);
  assertEquals(codeOf(() => bench.write(two, "more", 1, ANN)), "too-many");
  bench.rows.leave(one);
  bench.write(two, "more", 1, ANN);
  const large = "x".repeat(MAX_ROW_BYTES - 2);
  const fitting = Math.floor(MAX_STATE_BYTES / MAX_ROW_BYTES) - 3;
  for (let i = 0; i < fitting; i++) bench.write(one, `${i}`, large);
  assertEquals(
    codeOf(() => {
      for (let i = 0; i < 4; i++) bench.write(two, `of two ${i}`, large, ANN);
    }),
    "full",
  );
});

Deno.test("EphemeralRows.write() gives each user a share of a state", () => {
  using bench = new Bench();
  const write = (user: string, from: number, count: number) => {
    for (let i = from; i < from + count; i++) {
      bench.write({}, `${user} ${i}`, 1, { ...NOBODY, user });
    }
  };
  for (let i = 0; i < 8; i++) write(`user ${i}`, 0, 125);
  assertEquals(codeOf(() => write("user 0", 125, 4)), "too-many");
  write("ann", 0, 128);
  assertEquals(codeOf(() => write("ann", 128, 1)), "too-many");
  bench.rows.removeOwn(rowName("cursors", "ann 0"));
  write("ann", 0, 1);
});

Deno.test("EphemeralRows.write() leaves bytes of a state for others", () => {
  using bench = new Bench();
  const { sessions: [one] } = bench;
  const large = "x".repeat(MAX_ROW_BYTES - 2);
  // One client connects repeatedly. Its rows stay for the grace period.
  const flood = () => {
    for (let i = 0; i < 32; i++) {
      const session = {};
      for (let row = 0; row < 15; row++) bench.write(session, `${i} ${row}`, large, ANN);
      bench.rows.leave(session, true);
    }
  };
  assertEquals(codeOf(flood), "full");
  const bob = { ...NOBODY, user: "bob" };
  for (let i = 0; i < 15; i++) bench.write(one, `of bob ${i}`, large, bob);
});

Deno.test("EphemeralRows.write() gives each user a share once many rows exist", () => {
  using bench = new Bench();
  const take = (user: string, count: number) => {
    for (let i = 0; i < count; i++) {
      bench.states.takeSlot({ ...NOBODY, user });
    }
  };
  for (let i = 0; i < 50; i++) take(`user ${i}`, 200);
  assertEquals(codeOf(() => take("user 0", 57)), "too-many");
  take("ann", 256);
  assertEquals(codeOf(() => take("ann", 1)), "too-many");
});

/** A node with the rows of a board, and its writers. */
class Node {
  readonly broker;
  readonly nodes;
  readonly states;
  readonly rows: EphemeralRows;
  /** The rows as the listener was notified about them. */
  readonly told = new Map<string, unknown>();
  writers: readonly object[] = [{}, {}];

  constructor(store: FaultyStore, graceMs = 500) {
    this.broker = store.connect();
    this.nodes = new Nodes({ broker: this.broker });
    this.states = new EphemeralStates({
      runtime,
      quotas: new Quotas(runtime),
      nodes: this.nodes,
      graceMs,
      isUsed: true,
      namesOf: () => new Set(["cursors"]),
    });
    this.rows = this.states.open("board")!;
    this.rows.listeners.add((changes) => {
      for (const [key, before] of changes.get("cursors")!) {
        assertEquals(before, this.told.get(key));
        const now = this.rows.collection("cursors").get(key)?.value;
        if (now === undefined) this.told.delete(key);
        else this.told.set(key, now);
      }
    });
  }

  get values(): string[] {
    return Array.from(this.rows.collection("cursors").view, ([key, value]) => `${key}=${value}`)
      .sort();
  }

  async close(): Promise<void> {
    this.states.close();
    await this.nodes.close();
  }
}

Deno.test("EphemeralRows.remove() keeps values that others write while a node does not reply", async () => {
  using time = new FakeTime(0);
  const store = new FaultyStore();
  const [one, two, silent] = [new Node(store), new Node(store), new Node(store)] as const;
  await time.tickAsync(400);
  const write = (value: string) =>
    two.rows.write(two, { type: "cursors", key: "a", operation: "upsert", value });
  write("1");
  await time.tickAsync(100);
  silent.broker.cut();
  const removing = one.rows.remove("cursors", "a");
  await time.tickAsync(100);
  assertEquals([one.values, two.values], [[], []]);
  write("2");
  await time.tickAsync(2_000);
  await removing;
  assertEquals([one.values, two.values], [["a=2"], ["a=2"]]);
  for (const node of [one, two, silent]) await node.close();
});

Deno.test("EphemeralRows keep the rows of a node that comes back, any number of times", async () => {
  using time = new FakeTime(0);
  const graceMs = 30_000;
  const store = new FaultyStore();
  const [one, two] = [new Node(store, graceMs), new Node(store, graceMs)] as const;
  await time.tickAsync(400);
  for (const key of ["a", "b"]) {
    one.rows.write(one, { type: "cursors", key, operation: "upsert", value: "1" });
  }
  await time.tickAsync(100);
  for (let round = 0; round < 3; round++) {
    one.broker.cut();
    while (two.nodes.size > 0) await time.tickAsync(100);
    one.broker.mend();
    while (two.nodes.size === 0) await time.tickAsync(100);
    await time.tickAsync(2 * graceMs);
    assertEquals(two.values, ["a=1", "b=1"], `round ${round}`);
  }
  one.broker.cut();
  while (two.nodes.size > 0) await time.tickAsync(100);
  assertEquals(two.values, ["a=1", "b=1"], "the rows during the grace period");
  await time.tickAsync(graceMs);
  assertEquals([one.values, two.values], [["a=1", "b=1"], []]);
  for (const node of [one, two]) await node.close();
});

Deno.test("EphemeralRows converge after any loss, duplicate or delay, and any dead node", async () => {
  for (let seed = 1; seed <= 8; seed++) {
    using time = new FakeTime(0);
    const random = new Random(seed);
    const store = new FaultyStore({ random });
    const all: Node[] = [];
    const join = async () => {
      all.push(new Node(store));
      await time.tickAsync(400);
    };
    for (let i = 0; i < 3; i++) await join();
    let alive = [...all];
    store.faults = { lost: 60, repeated: 60, late: 120, lateMs: 400 };
    for (let step = 0; step < 300; step++) {
      const node = random.pick(alive);
      const by = random.pick(node.writers);
      const of = { type: "cursors", key: `k${random.below(8)}` };
      const kind = random.below(100);
      if (kind < 55) node.rows.write(by, { ...of, operation: "upsert", value: `${step}` });
      else if (kind < 65) {
        try {
          node.rows.write(by, { ...of, operation: "delete" });
        } catch (error) {
          if (!(error instanceof RequestError)) throw error;
        }
      } else if (kind < 70) void node.rows.remove(of.type, of.key);
      else if (kind < 76) {
        node.rows.leave(by, random.below(2) === 0);
        node.writers = node.writers.map((one) => one === by ? {} : one);
      } else if (kind < 78 && alive.length > 1) {
        alive = alive.filter((other) => other !== node);
        if (random.below(2) === 0) await node.close();
        else node.broker.cut();
      } else if (kind < 80 && alive.length < 4) {
        await join();
        alive = [...alive, all.at(-1)!];
      } else if (kind === 80) {
        node.broker.cut();
        await time.tickAsync(random.below(12_000));
        node.broker.mend();
      } else await time.tickAsync(random.below(200));
    }
    store.faults = {};
    await time.tickAsync(30_000);
    for (const node of alive) {
      assertEquals(node.values, alive[0]!.values, `seed ${seed}`);
      const told = Array.from(node.told, ([key, value]) => `${key}=${value}`).sort();
      assertEquals(told, node.values, `the listener's rows: seed ${seed}`);
    }
    for (const node of alive) for (const by of node.writers) node.rows.leave(by, true);
    await time.tickAsync(5_000);
    for (const node of alive) assertEquals(node.values, [], `seed ${seed}`);
    for (const node of all) await node.close();
  }
});
