import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { NOBODY } from "../../base/quotas/accounts.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { RequestError } from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { StreamLogs } from "../logs/stream_logs.ts";
import { EphemeralStates } from "./ephemeral_rows.ts";
import { ChangeGate } from "./gate.ts";
import { ownQuota, RowQueue } from "./row_queue.ts";
import { LINGER_MS, MAX_HELD, States } from "./states.ts";
import { UnwrittenStates } from "./unwritten.ts";

const runtime = platformRuntime();
const IN_TIME = { timeoutMs: 1_000 };
const TAIL = { records: 9, bytes: 9_999, ms: 1_000 };

/** A node with keyed streams `0`, `1` and so on. */
class Bench implements AsyncDisposable {
  readonly #broker = new MemoryBroker();
  readonly #quotas = new Quotas(runtime);
  readonly logs: StreamLogs;
  readonly states: States;

  constructor(maxReaders: number = 10_000) {
    this.logs = new StreamLogs({
      runtime,
      broker: this.#broker,
      quotas: this.#quotas,
      bounds: {
        maxStreams: 10_000,
        maxRetained: 1,
        maxStreamBytes: 9_999,
        maxForks: 1,
        maxReaders,
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
      rowsOf: (id, account) => this.states.rowsOf(id, account, IN_TIME),
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
      quotas: this.#quotas,
      gate,
      updates: new RowQueue({
        runtime,
        quota: ownQuota(),
        timeoutMs: 1_000,
        contendedCode: "unavailable",
      }),
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

  get held(): number {
    return this.#quotas.stats["states.held"]!.taken;
  }

  async write(id: number, user?: string): Promise<void> {
    await this.logs.create(`${id}`, { contentType: "application/json", keyed: TAIL });
    await this.states.rowsOf(`${id}`, user === undefined ? NOBODY : { ...NOBODY, user }, IN_TIME);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.states.close();
    await this.logs.close();
    await this.#broker.close();
  }
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, RequestError)).failure.code;
}

Deno.test("States.rowsOf() holds the rows until a minute after the last write", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  await bench.write(1);
  await time.tickAsync(LINGER_MS - 1);
  await bench.write(1);
  await time.tickAsync(LINGER_MS - 1);
  assertEquals([bench.held, bench.logs.readers], [1, 1]);
  await time.tickAsync(1);
  assertEquals([bench.held, bench.logs.readers], [0, 0]);
});

Deno.test("States.rowsOf() shares the rows with the states of the application", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  const state = await bench.states.open("1");
  await bench.write(1);
  assertEquals(bench.logs.readers, 1);
  await state[Symbol.asyncDispose]();
  assertEquals([bench.held, bench.logs.readers], [1, 1]);
  await using again = await bench.states.open("1");
  await time.tickAsync(LINGER_MS);
  assertEquals([bench.held, bench.logs.readers], [0, 1]);
  assertEquals(await again.collection("a").set("b", 1), 1);
});

Deno.test("States.rowsOf() replaces the longest unused rows, and limits each user", async () => {
  await using bench = new Bench();
  for (let i = 0; i < MAX_HELD / 2; i++) await bench.write(i);
  for (let i = 0; i < 32; i++) await bench.write(1_000 + i, "ann");
  assertEquals(await codeOf(bench.write(2_000, "ann")), "too-many");
  await bench.write(1_000, "ann");
  await bench.write(0);
  for (let i = bench.held; i < MAX_HELD; i++) await bench.write(3_000 + i);
  assertEquals([bench.held, bench.logs.readers], [MAX_HELD, MAX_HELD]);
  const followed = () => new Map(bench.logs.followed());
  await bench.write(5_000, "bob");
  assertEquals({ held: bench.held, hasUsed: followed().has("0"), hasUnused: followed().has("1") }, {
    held: MAX_HELD,
    hasUsed: true,
    hasUnused: false,
  });
  assertEquals(await codeOf(bench.write(2_000, "ann")), "too-many");
  assertEquals(followed().has("2"), true, "A rejected client must not replace any rows");
});

Deno.test("States.rowsOf() finds no rows of missing and other streams", async () => {
  await using bench = new Bench();
  assertEquals(await bench.states.rowsOf("none", NOBODY, IN_TIME), undefined);
  await bench.logs.create("plain", { contentType: "application/json" });
  assertEquals(await bench.states.rowsOf("plain", NOBODY, IN_TIME), undefined);
  assertEquals([bench.held, bench.logs.readers], [0, 0]);
});

Deno.test("States.rowsOf() rejects if the rows are not read in time, and after the end", async () => {
  using time = new FakeTime();
  await using bench = new Bench(1);
  await bench.write(1);
  const late = codeOf(bench.write(2));
  await time.tickAsync(1_000);
  assertEquals(await late, "unavailable");
  bench.states.close();
  assertEquals(await codeOf(bench.write(1)), "unavailable");
  assertEquals(bench.held, 0);
});
