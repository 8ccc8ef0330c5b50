/**
 * Tests what writers of a state receive while a function of the application hangs, fails, is slower
 * than other writers, or is running when the server closes.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { FakeTime } from "@std/testing/time";
import {
  defineContract,
  MemoryBroker,
  type RequestedChange,
  RequestError,
  type StandardSchema,
} from "../mod.ts";
import { liveState, type LiveStateOptions, type State } from "../streams/mod.ts";
import { passTime, type TestServer, testServer, turns } from "../testing/mod.ts";

/** A schema that calls a function. */
function schema(check: () => void | Promise<void>): StandardSchema<number> {
  const validate = (value: unknown) => {
    const checking = check();
    const result = { value: value as number };
    return checking === undefined ? result : checking.then(() => result);
  };
  return { "~standard": { version: 1, vendor: "test", validate } };
}

interface FixtureOptions {
  readonly authorizeChange?: (change: RequestedChange) => boolean | Promise<boolean>;
  /** The check of the rows of `checked`. */
  readonly check?: () => void | Promise<void>;
  readonly states?: LiveStateOptions;
  readonly requestTimeoutMs?: number;
  readonly broker?: MemoryBroker;
}

/** A server with the state `list:1`, which its own code writes too. */
class Fixture implements AsyncDisposable {
  readonly server: TestServer;
  readonly errors: unknown[] = [];
  readonly #open: () => Promise<State>;

  constructor({ authorizeChange, check, states, requestTimeoutMs, broker }: FixtureOptions) {
    const contract = defineContract({
      state: {
        "list:{id}": {
          items: schema(() => {}),
          checked: schema(() => check?.()),
          cursors: { schema: schema(() => {}), ephemeral: true },
        },
      },
    });
    const feature = liveState(contract, states as object);
    this.#open = () => feature.open("list:1") as unknown as Promise<State>;
    this.server = testServer({
      broker,
      contract,
      features: [feature],
      authenticate: () => "ann",
      authorize: () => true,
      authorizeChange: authorizeChange as () => boolean,
      session: { requestTimeoutMs },
      onError: (error: unknown) => void this.errors.push(error),
    } as object) as unknown as TestServer;
  }

  /** Opens the state on the server. */
  open(): Promise<State> {
    return this.#open();
  }

  /** Opens the state in a new client. */
  async client(requestTimeoutMs?: number) {
    const client = this.server.connect({ requestTimeoutMs });
    const state = await client.state("list:1") as unknown as import("../mod.ts").ClientState;
    await state.ready;
    return { client, state, items: state.collection<number>("items") };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
  }
}

/** Follows a promise without waiting for it. */
function follow(promise: Promise<unknown>): { outcome: string } {
  const followed = { outcome: "pending" };
  promise.then(
    () => followed.outcome = "done",
    (error) =>
      followed.outcome = error instanceof RequestError
        ? `${error.failure.code}: ${error.message}`
        : String(error),
  );
  return followed;
}

Deno.test("A client receives the failure of a check that hangs before it gives up, and writes again", async (t) => {
  using _warn = stub(console, "warn");
  // The client's limit is the server's, a shorter or a longer one.
  for (const limitMs of [30_000, 1_000, 90_000]) {
    const all = ["authorizeChange", "schema", "transaction", "line"];
    for (const what of limitMs > 30_000 ? ["authorizeChange"] : all) {
      await t.step(`${what}, ${limitMs} ms`, async () => {
        using time = new FakeTime();
        using _clock = stub(performance, "now", () => Date.now());
        const release = Promise.withResolvers<boolean>();
        let hangs = 1;
        await using at = new Fixture({
          authorizeChange: ({ key }) =>
            what !== "schema" && key !== "fast" && hangs-- > 0 ? release.promise : true,
          check: () =>
            what === "schema" && hangs-- > 0 ? release.promise.then(() => {}) : undefined,
        });
        await using own = await at.open();
        const { client, state } = await at.client(limitMs);
        await using _client = client;
        const rows = state.collection<number>(what === "schema" ? "checked" : "items");
        const writing = what === "transaction"
          ? state.transaction((to) => {
            to.set("items", "fast", 1);
            to.set("items", "a", 1);
          })
          : rows.set("a", 1);
        const write = follow(writing);
        await turns();
        if (what === "line") {
          // Another client waits for the write that hangs, with the same limit.
          const other = await at.client(limitMs);
          await using _other = other.client;
          const waiting = follow(other.items.set("a", 2));
          await passTime(time, limitMs + 10_000);
          assertEquals(waiting.outcome, "done");
        }
        // The server's own code changes the row, so the client could not tell what became of it.
        await own.collection(rows.name).set("a", 0);
        await passTime(time, Math.min(limitMs, 30_000) + 10_000);
        // A schema that hangs fails the write; a decision is made again.
        const expected = what === "schema" ? "failed: The check of a row failed" : "done";
        assertEquals(write.outcome, expected);
        // The late decision has no effect.
        await own.collection(rows.name).set("a", 5);
        release.resolve(true);
        await turns();
        assertEquals(own.collection(rows.name).get("a"), 5);
        if (what !== "schema") {
          assertEquals(at.errors.map((error) => (error as Error).name), ["TimeoutError"]);
        }
      });
    }
  }
});

Deno.test("A client repeats a write after pauses that grow while authorizeChange throws, for a minute", async () => {
  using _warn = stub(console, "warn");
  using time = new FakeTime();
  using _clock = stub(performance, "now", () => Date.now());
  const asked: number[] = [];
  let isBroken = true;
  await using at = new Fixture({
    authorizeChange() {
      asked.push(Date.now());
      if (isBroken) throw new TypeError("The database is away");
      return true;
    },
  });
  const { client, items } = await at.client();
  await using _client = client;
  const write = follow(items.set("a", 1));
  await passTime(time, 50_000);
  const pauses = asked.slice(1).map((ms, i) => ms - asked[i]!);
  assert(asked.length > 20 && asked.length < 51, `${asked.length} calls`);
  assert(pauses.every((ms) => ms >= 1_000 && ms <= 2_000 + 600), pauses.join(" "));
  assert(pauses.at(-1)! > pauses[0]!, pauses.join(" "));
  assertEquals(write.outcome, "pending");
  isBroken = false;
  await passTime(time, 5_000);
  assertEquals(write.outcome, "done");
  isBroken = true;
  const broken = follow(items.set("a", 2));
  await passTime(time, 65_000);
  assertEquals(
    broken.outcome,
    "undecided: Cannot write state: the server cannot tell now if this client may set the row " +
      '"a" of "items"',
  );
});

Deno.test("A write of a row that server code changes faster than authorizeChange decides is rejected in the end", async (t) => {
  for (const collection of ["items", "cursors"]) {
    await t.step(collection, async () => {
      using time = new FakeTime();
      using _clock = stub(performance, "now", () => Date.now());
      let slowest = 0;
      await using at = new Fixture({
        authorizeChange: () => new Promise((resolve) => setTimeout(resolve, 4_000, true)),
      });
      await using own = await at.open();
      const row = own.collection<number>(collection);
      await row.set("a", 0);
      const { client, state } = await at.client();
      await using _client = client;
      await turns();
      const write = follow(state.collection<number>(collection).set("a", -1));
      let [isOver, count] = [false, 0];
      const writing = (async () => {
        while (!isOver) {
          const startMs = Date.now();
          await row.set("a", ++count);
          slowest = Math.max(slowest, Date.now() - startMs);
          await new Promise((resolve) => setTimeout(resolve, 1_000));
        }
      })();
      for (let i = 0; i < 2 && write.outcome === "pending"; i++) await passTime(time, 100_000);
      assertEquals(
        write.outcome,
        `undecided: Cannot write state: others changed the row "a" of "${collection}" during each ` +
          "attempt",
      );
      assertEquals(slowest, 0); // The server's own code never waits.
      isOver = true;
      await passTime(time, 1_000);
      await writing;
      const again = follow(state.collection<number>(collection).set("a", -2));
      await passTime(time, 5_000);
      assertEquals([again.outcome, row.get("a")], ["done", -2]);
    });
  }
});

const CLOSED = "unavailable: The server is closed";

Deno.test("All calls that wait for the application end with the server", async () => {
  using _warn = stub(console, "warn");
  const asked: string[] = [];
  const hang = (what: string) => {
    asked.push(what);
    return new Promise<never>(() => {});
  };
  const { resolve: opened, promise: opening } = Promise.withResolvers<void>();
  await using at = new Fixture({
    authorizeChange: () => hang("authorizeChange"),
    check: () => hang("schema"),
    states: { onOpen: ({ id }) => id === "list:2" ? (opened(), hang("onOpen")) : {} },
  });
  const state = await at.open();
  const items = state.collection<number>("items");
  await items.set("a", 0);
  const { client, items: theirs } = await at.client();
  await using _client = client;
  const loop = (async () => {
    for await (const _rows of items) { /* Reads on. */ }
  })();
  const theirWrite = follow(theirs.set("b", 1));
  const session = await client.whenConnected();
  const reply = follow(client.subscribe("stream:list:2").ready);
  const calls = {
    update: follow(items.update("a", () => hang("update"))),
    waiting: follow(items.update("a", (n) => n)),
    set: follow(state.collection("checked").set("a", 1)),
    transaction: follow(state.transaction((to) => to.set("checked", "b", 1))),
    changes: follow(state.changes().next()),
    loop: follow(loop),
  };
  await opening;
  await turns();
  assertEquals(asked.toSorted(), ["authorizeChange", "onOpen", "schema", "schema", "update"]);
  const closing = session.closed;
  await at.server.close();
  await turns();
  for (const [name, { outcome }] of Object.entries(calls)) {
    assertEquals([name, outcome], [name, CLOSED]);
  }
  await closing;
  // The client makes its write on the next server.
  assertEquals([theirWrite.outcome, reply.outcome], ["pending", "pending"]);
  assertEquals(at.errors, []);
});

Deno.test("All calls that wait for the application end with the handle", async () => {
  const hang = () => new Promise<never>(() => {});
  await using at = new Fixture({ check: hang });
  await using other = await at.open();
  const state = await at.open();
  const items = state.collection<number>("items");
  await items.set("a", 0);
  const loop = (async () => {
    for await (const _rows of items) { /* Reads on. */ }
  })();
  const calls = {
    update: follow(items.update("a", hang)),
    waiting: follow(items.update("a", (n) => n)),
    set: follow(state.collection("checked").set("a", 1)),
    transaction: follow(state.transaction((to) => to.set("checked", "b", 1))),
  };
  const [changes, ended] = [follow(state.changes().next()), follow(loop)];
  await turns();
  await state[Symbol.asyncDispose]();
  await turns();
  for (const [name, { outcome }] of Object.entries(calls)) {
    assertEquals([name, outcome], [name, 'unavailable: Cannot write state: "list:1" was closed']);
  }
  assertEquals([changes.outcome, ended.outcome], ["done", "done"]);
  // Other handles go on.
  await other.collection<number>("items").update("a", (n) => n + 1);
  assertEquals(other.collection("items").get("a"), 1);
});

Deno.test("A transaction never writes ephemeral rows, at both ends", async () => {
  await using at = new Fixture({});
  await using own = await at.open();
  const { client, state } = await at.client();
  await using _client = client;
  await state.collection("cursors").set("b", 1);
  for (const end of [own, state]) {
    for (const rows of [["cursors"], ["cursors", "items"]]) {
      const writing = end.transaction((to) => {
        for (const row of rows) to.set(row, "a", 1);
      });
      const { failure } = await assertRejects(() => writing, RequestError);
      assertEquals(failure.code, "ephemeral");
    }
    assertEquals([end.collection("cursors").has("a"), end.collection("items").has("a")], [
      false,
      false,
    ]);
  }
});

Deno.test("A migration whose function hangs ends with the server", async () => {
  const broker = new MemoryBroker();
  const start = (version: number, migrate?: () => Promise<never>) => {
    const items = schema(() => {});
    const contract = defineContract({ state: { list: { collections: { items }, version } } });
    const feature = liveState(contract, { migrate });
    return { feature, server: testServer({ broker, contract, features: [feature] }) };
  };
  const one = start(1);
  const list = await one.feature.open("list");
  await list.collection("items").set("a", 1);
  await one.server.close();
  const called = Promise.withResolvers<void>();
  const two = start(2, () => {
    called.resolve();
    return new Promise<never>(() => {});
  });
  const opened = follow(two.feature.open("list"));
  await called.promise;
  await two.server.close();
  await turns();
  assertEquals(opened.outcome, CLOSED);
});
