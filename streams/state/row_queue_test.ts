import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { NOBODY } from "../../base/quotas/accounts.ts";
import { Quota } from "../../base/quotas/shares.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { RequestError } from "../../mod.ts";
import { passTime, turns } from "../../tests/waiting.ts";
import { type EnterOptions, RowQueue, Turn } from "./row_queue.ts";

const ANN = { ...NOBODY, user: "ann" };
const [A, B, C] = ["a", "b", "c"].map((key) => JSON.stringify(["cards", key])) as [
  string,
  string,
  string,
];

/** A queue of fake time, whose turns are noted. */
class Bench implements Disposable {
  readonly time = new FakeTime();
  readonly quota: Quota;
  readonly queue: RowQueue;
  /** Names of the turns, in the order of their starts. */
  readonly started: string[] = [];
  readonly turns = new Map<string, Turn>();
  readonly failed = new Map<string, unknown>();

  constructor(max: number = 4) {
    const runtime = Object.assign(platformRuntime(), { monotonic: () => Date.now() });
    const of = { limit: "waiting", verb: "write state", what: "writes" };
    this.quota = new Quota({ ...of, max, shares: { user: 2 }, retryAfterMs: 1_000 });
    this.queue = new RowQueue({
      runtime,
      quota: this.quota,
      timeoutMs: 1_000,
      contendedCode: "undecided",
    });
  }

  async enter(name: string, rows: readonly string[], options?: EnterOptions): Promise<void> {
    try {
      const turn = await this.queue.enter("board", rows, options);
      this.started.push(name);
      this.turns.set(name, turn);
    } catch (error) {
      this.failed.set(name, error);
    }
  }

  async leave(...names: readonly string[]): Promise<void> {
    for (const name of names) this.turns.get(name)![Symbol.dispose]();
    await turns();
  }

  code(name: string): string {
    const error = this.failed.get(name);
    assert(error instanceof RequestError, `${error}`);
    return `${error.failure.code} ${error.failure.retryAfterMs}`;
  }

  [Symbol.dispose](): void {
    this.queue.close();
    this.time.restore();
  }
}

Deno.test("RowQueue.enter() returns the turn of a free row immediately, and forgets the row", () => {
  using bench = new Bench();
  const turn = bench.queue.enter("board", [A, B]);
  const other = bench.queue.enter("list", [A]);
  assert(turn instanceof Turn && other instanceof Turn);
  assertEquals([bench.queue.size, bench.quota.taken], [3, 0]);
  for (const one of [turn, turn, other]) one[Symbol.dispose]();
  assertEquals(bench.queue.size, 0);
  assertEquals(bench.time.next(), false);
});

Deno.test("RowQueue runs writes of a row in order, and those of several rows without deadlock", async () => {
  using bench = new Bench();
  void bench.enter("1", [A]);
  void bench.enter("2", [A, B]);
  void bench.enter("3", [B, C]);
  void bench.enter("4", [C, A]);
  await turns();
  assertEquals(bench.started, ["1"]);
  await bench.leave("1");
  assertEquals(bench.started, ["1", "2"]);
  void bench.enter("5", [C]);
  await bench.leave("2");
  await bench.leave("3");
  await bench.leave("4");
  await bench.leave("5");
  assertEquals(bench.started, ["1", "2", "3", "4", "5"]);
  assertEquals([bench.queue.size, bench.quota.taken], [0, 0]);
});

Deno.test("RowQueue takes out a write whose signal aborts, and lets the others pass", async () => {
  using bench = new Bench();
  const undo = new AbortController();
  const signals = () => [undefined, undo.signal];
  void bench.enter("1", [A]);
  void bench.enter("2", [B, A], { signals });
  void bench.enter("3", [B]);
  await turns();
  assertEquals(bench.started, ["1"]);
  undo.abort("Undone");
  await turns();
  assertEquals([bench.started, bench.failed.get("2")], [["1", "3"], "Undone"]);
  void bench.enter("4", [A], { signals });
  await turns();
  assertEquals(bench.failed.get("4"), "Undone");
  await bench.leave("1", "3");
  assertEquals([bench.queue.size, bench.quota.taken], [0, 0]);
});

Deno.test("RowQueue ends a turn for which others have waited for a quarter of the time", async () => {
  using bench = new Bench();
  void bench.enter("alone", [C]);
  void bench.enter("1", [A]);
  await passTime(bench.time, 10_000);
  void bench.enter("2", [A]);
  void bench.enter("3", [A, B]);
  void bench.enter("4", [B]);
  await passTime(bench.time, 249);
  assertEquals(bench.started, ["alone", "1"]);
  await passTime(bench.time, 1);
  assertEquals(bench.started, ["alone", "1", "2"]);
  await passTime(bench.time, 250);
  assertEquals(bench.started, ["alone", "1", "2", "3"]);
  // The ended turns are no longer in the line.
  await bench.leave("1", "2");
  assertEquals(bench.started, ["alone", "1", "2", "3"]);
  await passTime(bench.time, 250);
  assertEquals(bench.started, ["alone", "1", "2", "3", "4"]);
  await bench.leave("3", "4");
  assertEquals([bench.queue.size, [...bench.failed]], [1, []]);
  await bench.leave("alone");
});

Deno.test("RowQueue rejects a write that has waited for the whole time", async () => {
  using bench = new Bench(5);
  for (const name of ["1", "2", "3", "4", "5", "6"]) void bench.enter(name, [A]);
  await passTime(bench.time, 999);
  assertEquals([bench.started, [...bench.failed]], [["1", "2", "3", "4"], []]);
  await passTime(bench.time, 1);
  assertEquals([bench.code("6"), bench.quota.taken], ["unavailable 1000", 0]);
  await bench.leave(...bench.turns.keys());
  assertEquals(bench.queue.size, 0);
});

Deno.test("RowQueue bounds the writes that wait, with a share for each user", async () => {
  using bench = new Bench();
  void bench.enter("1", [A], { account: ANN });
  for (const name of ["2", "3", "4"]) void bench.enter(name, [A], { account: ANN });
  await turns();
  assertEquals([bench.code("4"), bench.quota.taken], ["unavailable 1000", 2]);
  void bench.enter("5", [A], { account: { ...NOBODY, user: "bob" } });
  void bench.enter("6", [B], { account: ANN });
  await turns();
  assertEquals([bench.started, bench.quota.taken], [["1", "6"], 3]);
  await bench.leave("1", "6");
  await bench.leave("2");
  await bench.leave("3");
  await bench.leave("5");
  assertEquals([bench.queue.size, bench.quota.taken], [0, 0]);
});

Deno.test("RowQueue.close() rejects the writes that wait", async () => {
  using bench = new Bench();
  void bench.enter("1", [A]);
  void bench.enter("2", [A]);
  await turns();
  bench.queue.close();
  void bench.enter("3", [A]);
  await turns();
  assertEquals([bench.code("2"), bench.code("3")], [
    "unavailable 1000",
    "unavailable 1000",
  ]);
  await bench.leave("1");
  assertEquals(bench.queue.size, 0);
});

Deno.test("Turn.during() keeps its function from waiting for its own turn", async () => {
  using bench = new Bench();
  using turn = await bench.queue.enter("board", [A]);
  const text = 'the row "a" of "cards" must not update it itself';
  turn.during(() => {
    assertThrows(() => bench.queue.enter("board", [B, A]), TypeError, text);
    using other = bench.queue.enter("board", [B]) as Turn;
    other.during(() => assertThrows(() => bench.queue.enter("board", [A]), TypeError, text));
    using _another = bench.queue.enter("list", [A]) as Turn;
  });
  assertEquals(bench.queue.size, 1);
  const late = turn.during(async () => {
    await turns();
    using again = await bench.queue.enter("board", [A]);
    return again.outer;
  });
  turn[Symbol.dispose]();
  assertEquals(await late, undefined);
});

Deno.test("Turn.hand() leaves a row only to the writes that wait", async () => {
  using bench = new Bench();
  const left = { identity: "x", version: 7, value: "1" };
  const turn = await bench.queue.enter("board", [A]);
  turn.hand(A, left);
  void bench.enter("2", [A]);
  assertEquals(turn.left(A), undefined);
  turn.hand(A, left);
  turn[Symbol.dispose]();
  await turns();
  turn.hand(A, { ...left, version: 8 });
  assertEquals(bench.turns.get("2")!.left(A), left);
  await bench.leave("2");
  using after = await bench.queue.enter("board", [A]);
  assertEquals(after.left(A), undefined);
});

Deno.test("Turn.hand() leaves each row of a transaction only to the writes that wait for this row", async () => {
  using bench = new Bench();
  const turn = await bench.queue.enter("board", [A, B]);
  void bench.enter("a", [A]);
  const left = { identity: "x", version: 7, value: "1" };
  for (const row of [A, B]) turn.hand(row, left);
  void bench.enter("b", [B]);
  turn[Symbol.dispose]();
  await turns();
  assertEquals([bench.turns.get("a")!.left(A), bench.turns.get("b")!.left(B)], [left, undefined]);
  await bench.leave("a", "b");
});

Deno.test("Turn.again() pauses longer each time, until the time is over", async () => {
  using bench = new Bench();
  using turn = await bench.queue.enter("board", [A]);
  let attempts = 0;
  const trying = assertRejects(
    async () => {
      for (;; attempts++) await turn.again(A);
    },
    RequestError,
    'others changed the row "a" of "cards" during each attempt',
  );
  await turns();
  assertEquals(attempts, 1);
  await passTime(bench.time, 4);
  assert(attempts > 1);
  for (let ms = 4; ms < 1_001; ms++) await passTime(bench.time, 1);
  await trying;
  assert(attempts < 200, `${attempts} attempts`);
});
