import { assertEquals, assertStrictEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { Cell, Rounds } from "./cell.ts";
import { SharedCells } from "./shared_cells.ts";

const GRACE_MS = 5_000;

/** Creates the shared cells, and a list of the cells that were closed. */
function setUp(runtime = platformRuntime(), graceMs = GRACE_MS) {
  const rounds = new Rounds(runtime);
  const closed: string[] = [];
  class Named extends Cell<{ readonly error: Error | undefined }> {
    readonly #name: string;
    #error: Error | undefined;

    constructor(name: string, error?: Error) {
      super(rounds, { error });
      this.#name = name;
      this.#error = error;
    }

    fail(error: Error): void {
      this.#error = error;
      this.refresh();
    }

    close(): void {
      closed.push(this.#name);
    }

    protected override take() {
      return { error: this.#error };
    }
  }
  const cells = new SharedCells(runtime, graceMs);
  const use = (name: string, error?: Error) =>
    cells.use(name, () => new Named(name, error), () => {});
  const fail = (name: string) => (cells.peek(name) as Named).fail(new Error("Not so"));
  return { cells, use, fail, closed };
}

Deno.test("SharedCells keeps a cell for its users, and for the grace period after the last", () => {
  using time = new FakeTime();
  const { cells, use, closed } = setUp();
  const [one, two] = [use("a"), use("a")];
  const cell = cells.peek("a");
  one();
  one(); // Idempotent.
  time.tick(GRACE_MS);
  assertStrictEquals(cells.peek("a"), cell);
  two();
  time.tick(GRACE_MS - 1);
  const three = use("a");
  time.tick(GRACE_MS);
  assertStrictEquals(cells.peek("a"), cell);
  three();
  time.tick(GRACE_MS);
  assertEquals([cells.peek("a"), closed], [undefined, ["a"]]);
});

Deno.test("SharedCells keeps a cell without users if the grace period has no end", () => {
  const times: number[] = [];
  const runtime = Object.assign(platformRuntime(), {
    setTimeout: (_callback: () => void, ms: number) => times.push(ms),
  });
  const { use, closed } = setUp(runtime, Infinity);
  use("a")();
  // A timer of the platform fires immediately if its time has more than 31 bits.
  assertEquals([times, closed], [[2 ** 31 - 1], []]);
});

Deno.test("SharedCells keeps at most the newest 16 cells without users", () => {
  using time = new FakeTime();
  const { use, closed } = setUp();
  for (let i = 0; i < 18; i++) use(`${i}`)();
  assertEquals(closed, ["0", "1"]);
  time.tick(GRACE_MS);
  assertEquals(closed.length, 18);
});

Deno.test("SharedCells drops a failed cell with its last user, so that the next one tries again", () => {
  const { cells, use, closed } = setUp();
  const [one, two] = [use("a", new Error("Not so")), use("a")];
  one();
  assertEquals(closed, []);
  two();
  assertEquals([closed, cells.peek("a")], [["a"], undefined]);
});

Deno.test("SharedCells drops a cell that failed during its grace period, once there is a next user", () => {
  const { cells, use, fail, closed } = setUp();
  use("a")();
  fail("a");
  const leave = use("a");
  assertEquals([closed, cells.peek("a")?.snapshot.error], [["a"], undefined]);
  leave();
  cells.close();
});

Deno.test("SharedCells.close() closes all cells, and leaves no timer running", () => {
  const { cells, use, closed } = setUp();
  const leave = use("a");
  use("b")();
  cells.close();
  leave();
  assertEquals(closed, ["a", "b"]);
});
