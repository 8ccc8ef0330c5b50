import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { RequestError } from "../../mod.ts";
import { rowName } from "../../session/wire/rows.ts";
import { type Fate, FaultyStore, hang, pass } from "../../tests/faulty_broker.ts";
import { rowChange } from "../logs/change_message.ts";
import { StreamLogs } from "../logs/stream_logs.ts";
import { EphemeralStates } from "./ephemeral_rows.ts";
import { ChangeGate } from "./gate.ts";
import { ownQuota, RowQueue } from "./row_queue.ts";
import { PAGE_BYTES, States } from "./states.ts";
import { UnwrittenStates } from "./unwritten.ts";

const runtime = platformRuntime();
const IN_TIME = { timeoutMs: 1_000 };
const TAIL = { records: 9, bytes: 9_999, ms: 1_000 };

/** A node with keyed streams `0`, `1` and so on. */
class Bench implements AsyncDisposable {
  readonly #store = new FaultyStore();
  readonly #broker = this.#store.connect();
  readonly #quotas = new Quotas(runtime);
  readonly logs: StreamLogs;
  readonly states: States;
  readonly #updates = new RowQueue({
    runtime,
    quota: ownQuota(),
    timeoutMs: 1_000,
    contendedCode: "unavailable",
  });
  /** Number of reads of the broker's logs. */
  reads = 0;
  /** Decides how they end. */
  fate: Fate = pass;

  constructor() {
    this.#broker.make("logs.read", (run, call) => (this.reads++, this.fate(run, call)));
    this.logs = new StreamLogs({
      runtime,
      broker: this.#broker,
      quotas: this.#quotas,
      bounds: {
        maxStreams: 10_000,
        maxRetained: 1,
        maxStreamBytes: 4 * PAGE_BYTES,
        maxForks: 1,
        maxReaders: 9,
        maxRows: 9,
      },
      onError() {},
    });
    const gate = new ChangeGate({
      runtime,
      quotas: this.#quotas,
      contract: undefined,
      authorizeChange: undefined,
      timeoutMs: 1_000,
      rowsOf: (id, options) => this.states.rowsOf(id, options),
      expires: () => Promise.resolve(false),
      isNewer: () => Promise.resolve(false),
      report() {},
    });
    const unwritten = new UnwrittenStates({
      runtime,
      logs: this.logs,
      gate,
      clients: undefined as never, // No client writes.
      bounds: { maxRows: 9, maxStreamBytes: 9_999 },
      tail: TAIL,
      maxTransactionBytes: () => 9_999,
      timeoutMs: 1_000,
      onOpen: undefined,
      report() {},
    });
    this.states = new States({
      runtime,
      unwritten,
      logs: this.logs,
      gate,
      updates: this.#updates,
      ephemeral: new EphemeralStates({
        runtime,
        quotas: this.#quotas,
        nodes: undefined,
        graceMs: 0,
        isUsed: false,
        namesOf: () => new Set(),
      }),
      tail: TAIL,
      maxTransactionBytes: () => 9_999,
      report() {},
    });
  }

  close(): void {
    this.#updates.close();
    this.states.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.logs.close();
    await this.#broker.close();
  }

  /** Creates a stream with a card. */
  async create(id: string): Promise<void> {
    await this.logs.create(id, { contentType: "application/json", keyed: TAIL });
    await this.set(id, "card", 1);
  }

  async set(id: string, key: string, value: unknown): Promise<void> {
    const change = { type: "cards", key, operation: "upsert" as const };
    const changes = [rowChange({ ...change, value: JSON.stringify(value) }, 0)];
    assertEquals((await this.logs.append(id, { records: [], changes })).kind, "appended");
  }
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, RequestError)).failure.code;
}

const CARD = rowName("cards", "card");
const NONE = rowName("cards", "none");

Deno.test("States.rowsOf() reads the rows without an open handle, and keeps none", async () => {
  await using bench = new Bench();
  await bench.create("1");
  const { identity, ...read } =
    (await bench.states.rowsOf("1", { ...IN_TIME, names: [NONE, CARD] }))!;
  assertEquals(identity?.length, 8);
  const rows = new Map([[NONE, undefined], [CARD, { value: 1, version: 1 }]]);
  assertEquals(read, { version: 1, rows });
  assertEquals([bench.logs.readers, [...bench.logs.followed()]], [0, []]);
});

Deno.test("States.rowsOf() returns the rows of an open handle", async () => {
  await using bench = new Bench();
  await bench.create("1");
  for (const recreate of [true, false]) {
    const state = await bench.states.open("1", { recreate });
    const { reads } = bench;
    const { rows, identity } = (await bench.states.rowsOf("1", { ...IN_TIME, names: [CARD] }))!;
    assertEquals(rows.get(CARD)?.value, 1);
    assertEquals(bench.reads, reads);
    // The rows of a deleted stream don't count.
    await bench.states.rowsOf("1", { ...IN_TIME, names: [CARD], gone: identity });
    assertEquals(bench.reads, reads + 1);
    await state[Symbol.asyncDispose]();
    await bench.states.rowsOf("1", { ...IN_TIME, names: [CARD] });
    assertEquals(bench.reads, reads + 2);
  }
});

Deno.test("States.rowsOf() reads as many rows as fit into a page", async () => {
  await using bench = new Bench();
  await bench.create("1");
  const names = [CARD];
  for (let i = 0; i < 6; i++) {
    await bench.set("1", `${i}`, "x".repeat(PAGE_BYTES / 4));
    names.push(rowName("cards", `${i}`));
  }
  const sizes: number[] = [];
  for (let left = names; left.length > 0;) {
    const { rows } = (await bench.states.rowsOf("1", { ...IN_TIME, names: left }))!;
    assertEquals([...rows.keys()], left.slice(0, rows.size));
    left = left.slice(rows.size);
    sizes.push(rows.size);
  }
  assertEquals(sizes, [4, 3]);
});

Deno.test("States.rowsOf() finds no rows of missing, closed and other streams", async () => {
  await using bench = new Bench();
  assertEquals(await bench.states.rowsOf("none", { ...IN_TIME, names: [CARD] }), undefined);
  await bench.logs.create("plain", { contentType: "application/json" });
  assertEquals(await bench.states.rowsOf("plain", { ...IN_TIME, names: [CARD] }), undefined);
  await bench.create("closed");
  await bench.logs.append("closed", { records: [], end: {} });
  assertEquals(await bench.states.rowsOf("closed", { ...IN_TIME, names: [CARD] }), undefined);
});

Deno.test("States.rowsOf() rejects if the rows are not read in time, and after the end", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  await bench.create("1");
  bench.fate = hang;
  const late = codeOf(bench.states.rowsOf("1", { ...IN_TIME, names: [CARD] }));
  await time.tickAsync(1_000);
  assertEquals(await late, "unavailable");
  bench.fate = pass;
  bench.states.close();
  assertEquals(
    await codeOf(bench.states.rowsOf("1", { ...IN_TIME, names: [CARD] })),
    "unavailable",
  );
});

Deno.test("All calls of a closed server are rejected for now, so that clients repeat their writes", async () => {
  await using bench = new Bench();
  await bench.create("1");
  const state = await bench.states.open("1");
  const cards = state.collection<number>("cards");
  using held = (await bench.states.hold("1", IN_TIME))!;
  const waiting = cards.update("card", () => new Promise<never>(() => {}));
  const reached = held.live!.reached(9, held.rows.identity);
  bench.close();
  const calls = {
    rowsOf: bench.states.rowsOf("1", { ...IN_TIME, names: [CARD] }),
    hold: bench.states.hold("1", IN_TIME),
    open: bench.states.open("1"),
    waiting,
    reached,
    set: cards.set("card", 2),
    update: cards.update("card", () => 2),
    transaction: state.transaction((tx) => tx.set("cards", "card", 2)),
    changes: state.changes().next(),
  };
  for (const [name, call] of Object.entries(calls)) {
    const { failure } = await assertRejects(() => call, RequestError);
    assertEquals(
      [name, failure],
      [name, { code: "unavailable", message: "The server is closed", retryAfterMs: 1_000 }],
    );
  }
});
