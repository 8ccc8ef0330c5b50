/** Tests mutations in clients: what a page shows at once, and what becomes of it. */
import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import {
  type Client,
  type ClientStateOptions,
  connect,
  type ConnectOptions,
  defineContract,
  QueueFullError,
  RequestError,
  type ServeOptions,
  type Server,
  SessionClosedError,
  type StateRows,
  TimeoutError,
  type TypedClientState,
} from "../mod.ts";
import {
  defineMutations,
  type MutationCalls,
  type MutationFunctions,
} from "../session/mutations/mod.ts";
import { liveState, type TypedState } from "../streams/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { type Fate, FaultyStore, pass } from "./faulty_broker.ts";
import { Cable } from "./networks/cable.ts";
import { HELD_MS, HeldTimers } from "./movable_clock.ts";
import { listen } from "./servers.ts";
import { soon, turns, until } from "./waiting.ts";
import { z } from "zod";
import { slowTest } from "../tools/run_tests/slow.ts";

const contract = defineContract({
  state: {
    "hall:{id}": {
      collections: {
        seats: z.object({ owner: z.string() }),
        coins: z.number().int(),
        cards: z.string(),
      },
      mutations: {
        claimSeat: z.object({ seat: z.string(), owner: z.string() }),
        move: z.object({ from: z.string(), to: z.string(), count: z.number().int() }),
        addCard: z.object({ key: z.string() }),
        put: z.object({ key: z.string(), count: z.number().int() }),
      },
    },
  },
});

type Functions = MutationFunctions<typeof contract>;

const functions: Functions = {
  async claimSeat(tx, { seat, owner }) {
    if (await tx.has("seats", seat)) throw new RequestError("taken", `Seat ${seat} is taken`);
    await tx.set("seats", seat, { owner });
  },
  async move(tx, { from, to, count }) {
    const [a = 0, b = 0] = [await tx.get("coins", from), await tx.get("coins", to)];
    if (a < count) throw new RequestError("poor", `There are only ${a}`);
    await tx.set("coins", from, a - count);
    await tx.set("coins", to, b + count);
  },
  async addCard(tx, { key }) {
    let cards = 0;
    for await (const _card of tx.entries("cards")) cards++;
    if (cards >= 5) throw new RequestError("enough", "There are five cards");
    await tx.insert("cards", key, key);
  },
  async put(tx, { key, count }) {
    await tx.set("coins", key, count);
  },
};

const mutations = defineMutations(contract, functions);

type Hall = TypedClientState<
  StateRows<typeof contract, "hall:1">,
  MutationCalls<typeof contract, "hall:1">
>;

type Own = TypedState<StateRows<typeof contract, "hall:1">>;

/** The client of a server with halls. */
function page(url: string, options: ConnectOptions<typeof contract> = {}): Client<typeof contract> {
  return connect(url, {
    ...options,
    contract,
    transports: ["websocket"],
    backoff: { firstDelayMs: 1, maxDelayMs: 5 },
  });
}

/** A server with halls, and a client whose connection a test can cut. */
class Fixture implements AsyncDisposable {
  readonly store = new FaultyStore();
  readonly server: Server;
  readonly cable: Cable;
  readonly client: Client<typeof contract>;
  readonly #port: number;
  readonly own: Own;

  private constructor(
    server: Server,
    store: FaultyStore,
    own: Own,
    clientOptions: ConnectOptions<typeof contract>,
  ) {
    this.server = server;
    this.store = store;
    this.own = own;
    this.cable = new Cable(Number(new URL(server.url).port));
    this.client = page(this.cable.url, clientOptions);
    this.#port = this.cable.port;
  }

  /** Starts a server that calls some functions of its own. */
  static async make(
    own: Partial<Functions> = {},
    options: Partial<ServeOptions> = {},
    clientOptions: ConnectOptions<typeof contract> = {},
  ): Promise<Fixture> {
    const store = new FaultyStore();
    const states = liveState(contract, {
      mutations: defineMutations(contract, { ...functions, ...own }),
    });
    const server = listen({
      webTransport: false,
      broker: store.connect(),
      contract,
      features: [states],
      authorize: () => true,
      ...options,
    });
    return new Fixture(server, store, await states.open("hall:1"), clientOptions);
  }

  async open(options: ClientStateOptions<typeof contract> = { mutations }): Promise<Hall> {
    const state = await this.client.state("hall:1", options);
    await state.ready;
    return state;
  }

  coins(): Record<string, unknown> {
    return Object.fromEntries(this.own.collection("coins"));
  }

  /** Cuts the connection, and lets no other one through. */
  async offline(state: Hall): Promise<void> {
    this.cable.port = 1;
    this.cable.cut();
    await until(() => state.status.current === "lost");
  }

  online(): void {
    this.cable.port = this.#port;
    this.client.retryNow();
  }

  /** Holds the next change at the broker. Others pass it. */
  hold(): { readonly begun: Promise<void>; readonly release: () => void } {
    const [begun, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const waits: Fate = async (run) => {
      this.store.make("logs.append", pass);
      begun.resolve();
      await gate.promise;
      return await run();
    };
    this.store.make("logs.append", waits);
    return { begun: begun.promise, release: gate.resolve };
  }

  /** Makes a mutation that takes effect, but nothing more reaches the client. */
  async loseReply(write: () => Promise<number>): Promise<{ readonly outcome: Promise<number> }> {
    const held = this.hold();
    const outcome = write();
    outcome.catch(() => {});
    await held.begun;
    this.cable.freeze();
    const { version } = this.own;
    held.release();
    await until(() => this.own.version > version);
    return { outcome };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    await this.cable[Symbol.asyncDispose]();
    await this.own[Symbol.asyncDispose]();
    await this.server[Symbol.asyncDispose]();
  }
}

/** A function that counts its runs on the server. */
function counted(): { runs: number; readonly own: Partial<Functions> } {
  const counter = { runs: 0, own: {} };
  const put: Functions["put"] = async (tx, { key, count }, { isServer }) => {
    if (isServer) counter.runs++;
    await tx.set("coins", key, count);
  };
  return Object.assign(counter, { own: { put } });
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => soon(promise), RequestError);
  return error.failure.code;
}

Deno.test("ClientState.mutate lets one of two clients claim a seat, and tells the other why", async () => {
  await using at = await Fixture.make();
  await using bob = page(at.server.url);
  using near = await at.open();
  using far = await bob.state("hall:1", { mutations });
  await far.ready;
  const claims = await Promise.allSettled([
    near.mutate.claimSeat({ seat: "7", owner: "ann" }),
    far.mutate.claimSeat({ seat: "7", owner: "bob" }),
  ]);
  assertEquals(claims.map(({ status }) => status).toSorted(), ["fulfilled", "rejected"]);
  const winner = claims[0]!.status === "fulfilled" ? "ann" : "bob";
  const seats = [near, far].map((state) => state.collection("seats"));
  await until(() => seats.every((rows) => rows.get("7")?.owner === winner));
  const loser = winner === "ann" ? far : near;
  assertEquals(await codeOf(loser.mutate.claimSeat({ seat: "7", owner: "me" })), "taken");
});

Deno.test("ClientState.mutate loses none of many transfers of two clients, at no moment", async () => {
  await using at = await Fixture.make();
  await using bob = page(at.server.url);
  using near = await at.open();
  using far = await bob.state("hall:1", { mutations });
  await far.ready;
  await near.mutate.put({ key: "a", count: 100 });
  await until(() => far.collection("coins").get("a") === 100);
  const sums = new Set<number>();
  for (const state of [near, far]) {
    const coins = state.collection("coins");
    coins.subscribe(() => sums.add([...coins.values()].reduce((sum, one) => sum + one, 0)));
  }
  const moving = Array.from(
    { length: 40 },
    (_, i) => (i % 2 ? near : far).mutate.move({ from: "a", to: i % 2 ? "b" : "c", count: 1 }),
  );
  await soon(Promise.all(moving));
  await until(() => [near, far].every((state) => state.collection("coins").get("a") === 60));
  assertEquals([...near.collection("coins")].toSorted(), [["a", 60], ["b", 20], ["c", 20]]);
  assertEquals([...sums], [100]);
});

Deno.test("ClientState.mutate shows a mutation offline, on the newest rows later, and makes them in order", async () => {
  await using at = await Fixture.make();
  using hall = await at.open();
  const coins = hall.collection("coins");
  await hall.mutate.put({ key: "a", count: 10 });
  await at.offline(hall);
  const made = [
    hall.mutate.move({ from: "a", to: "b", count: 4 }),
    hall.mutate.move({ from: "b", to: "c", count: 3 }),
    hall.mutate.claimSeat({ seat: "1", owner: "ann" }),
  ];
  await turns();
  assertEquals(Object.fromEntries(coins), { a: 6, b: 1, c: 3 });
  assertEquals([hall.collection("seats").get("1"), hall.pendingWrites.current], [
    { owner: "ann" },
    3,
  ]);
  await at.own.collection("coins").set("a", 20);
  at.online();
  await soon(Promise.all(made));
  assertEquals(at.coins(), { a: 16, b: 1, c: 3 });
  assertEquals([Object.fromEntries(coins), hall.pendingWrites.current], [at.coins(), 0]);
});

Deno.test("ClientState.mutate shows the newest rows with a mutation that is under way", async () => {
  await using at = await Fixture.make();
  using hall = await at.open();
  const coins = hall.collection("coins");
  await hall.mutate.put({ key: "a", count: 10 });
  const held = at.hold();
  const moving = hall.mutate.move({ from: "a", to: "b", count: 1 });
  await held.begun;
  await at.own.transaction((tx) => {
    tx.set("coins", "a", 50);
    tx.set("coins", "z", 1);
  });
  await until(() => coins.has("z"));
  assertEquals(Object.fromEntries(coins), { a: 49, b: 1, z: 1 });
  held.release();
  await soon(moving);
  assertEquals(Object.fromEntries(coins), { a: 49, b: 1, z: 1 });
});

Deno.test("ClientState.mutate shows the server's rows if its function does something else", async () => {
  await using at = await Fixture.make({
    async put(tx, { key, count }) {
      await tx.set("coins", `${key}!`, count + 1);
    },
  });
  using hall = await at.open();
  const coins = hall.collection("coins");
  const shown: unknown[] = [];
  coins.subscribe(() => shown.push(Object.fromEntries(coins)));
  await hall.mutate.put({ key: "a", count: 1 });
  assertEquals(Object.fromEntries(coins), { "a!": 2 });
  assertEquals(shown, [{}, { a: 1 }, { "a!": 2 }]);
});

Deno.test("ClientState.mutate makes a mutation once if the reply is lost", async () => {
  await using at = await Fixture.make();
  using hall = await at.open();
  const { outcome } = await at.loseReply(() => hall.mutate.put({ key: "a", count: 1 }));
  const later = hall.mutate.put({ key: "b", count: 2 });
  await at.own.collection("coins").set("a", 5);
  at.cable.cut();
  await soon(Promise.all([outcome, later]));
  assertEquals(at.coins(), { a: 5, b: 2 });
  assertEquals(Object.fromEntries(hall.collection("coins")), { a: 5, b: 2 });
});

Deno.test("ClientState.mutate goes on after a mutation that the server rejects", async () => {
  await using at = await Fixture.make({
    async put(tx, { key, count }) {
      if (count === 2) throw new RequestError("two", "Not two");
      if (count === 3) throw new TypeError("A mistake");
      await tx.set("coins", key, count);
    },
  }, { onError() {} });
  using hall = await at.open();
  await at.offline(hall);
  const made = Array.from({ length: 5 }, (_, i) => hall.mutate.put({ key: `${i}`, count: i }));
  made.forEach((one) => one.catch(() => {}));
  at.online();
  const settled = await soon(Promise.allSettled(made));
  const codes = settled.map((one) => one.status === "fulfilled" || one.reason.failure.code);
  assertEquals(codes, [true, true, "two", "failed", true]);
  assertEquals(Object.fromEntries(hall.collection("coins")), { 0: 0, 1: 1, 4: 4 });
  assertEquals(hall.pendingWrites.current, 0);
});

Deno.test("ClientState.mutate rejects at once what its function or the schema rejects", async () => {
  const counter = counted();
  await using at = await Fixture.make(counter.own);
  using hall = await at.open();
  await at.offline(hall);
  assertEquals(await codeOf(hall.mutate.move({ from: "a", to: "b", count: 1 })), "poor");
  assertEquals(await codeOf(hall.mutate.put({ key: "a", count: 1.5 })), "invalid");
  // @ts-expect-error A count is missing.
  assertEquals(await codeOf(hall.mutate.put({ key: "a" })), "invalid");
  const claimed = hall.mutate.claimSeat({ seat: "1", owner: "ann" });
  claimed.catch(() => {});
  assertEquals(await codeOf(hall.mutate.claimSeat({ seat: "1", owner: "bob" })), "taken");
  const cycle: Record<string, unknown> = {};
  cycle.key = cycle;
  await assertRejects(() => hall.mutate.put(cycle as never), TypeError, "is not JSON");
  const unknown = { when: 1 } as object;
  await assertRejects(() => hall.mutate.put({ key: "a", count: 1 }, unknown), TypeError);
  assertEquals([hall.pendingWrites.current, counter.runs], [1, 0]);
});

Deno.test("ClientState.mutate keeps collections at a bound, and waits for the first rows", async () => {
  await using at = await Fixture.make();
  await using bob = page(at.server.url);
  const [near, far] = await Promise.all(
    [at.client, bob].map((client) => client.state("hall:1", { mutations })),
  );
  using _near = near;
  using _far = far;
  const added = Array.from(
    { length: 12 },
    (_, i) => (i % 2 ? near! : far!).mutate.addCard({ key: `${i}` }),
  );
  const settled = await soon(Promise.allSettled(added));
  const codes = settled.flatMap((one) => one.status === "rejected" ? one.reason.failure.code : []);
  assertEquals(codes, Array(7).fill("enough"));
  assertEquals(at.own.collection("cards").size, 5);
});

Deno.test("ClientState.mutate takes a mutation back before it was sent, and not after", async () => {
  const counter = counted();
  await using at = await Fixture.make(counter.own);
  using hall = await at.open();
  await at.offline(hall);
  const abort = new AbortController();
  const { signal } = abort;
  const taken = hall.mutate.put({ key: "a", count: 1 }, { signal });
  taken.catch(() => {});
  const kept = hall.mutate.put({ key: "b", count: 2 });
  await turns();
  abort.abort(new Error("Never mind"));
  await assertRejects(() => taken, Error, "Never mind");
  assertEquals(Object.fromEntries(hall.collection("coins")), { b: 2 });
  at.online();
  await soon(kept);
  assertEquals([at.coins(), counter.runs], [{ b: 2 }, 1]);
  const held = at.hold();
  const late = new AbortController();
  const sent = hall.mutate.put({ key: "c", count: 3 }, { signal: late.signal });
  sent.catch(() => {});
  await held.begun;
  late.abort(new Error("Too late"));
  await assertRejects(() => sent, Error, "Too late");
  held.release();
  await until(() => hall.pendingWrites.current === 0);
  assertEquals(at.coins(), { b: 2, c: 3 });
  await assertRejects(
    () => hall.mutate.put({ key: "d", count: 4 }, { signal }),
    Error,
    "Never mind",
  );
});

Deno.test("ClientState.mutate rejects when its handle is closed, and lets others go on", async () => {
  await using at = await Fixture.make();
  using printed = captureConsole();
  using other = await at.open();
  const hall = await at.open();
  await at.offline(hall);
  const lost = hall.mutate.put({ key: "a", count: 1 });
  lost.catch(() => {});
  const kept = other.mutate.put({ key: "b", count: 2 });
  await turns();
  assertEquals([hall.pendingWrites.current, other.pendingWrites.current], [1, 1]);
  assertEquals(Object.fromEntries(other.collection("coins")), { a: 1, b: 2 });
  hall[Symbol.dispose]();
  await assertRejects(() => lost, SessionClosedError, "was closed");
  assertEquals(printed.lines.length, 1);
  assertEquals(Object.fromEntries(other.collection("coins")), { b: 2 });
  await assertRejects(() => hall.mutate.put({ key: "c", count: 1 }), SessionClosedError);
  at.online();
  await soon(kept);
  await soon(other.flush());
  assertEquals(at.coins(), { b: 2 });
});

Deno.test("ClientState.mutate sends without running for a client that may only write", async () => {
  const counter = counted();
  await using at = await Fixture.make(counter.own, {
    authorize: (_session, _topic, action) => action !== "subscribe",
  });
  const hall = await at.client.state("hall:1", { mutations });
  using _hall = hall;
  await assertRejects(() => hall.ready, RequestError);
  const made = [1, 2, 3].map((count) => hall.mutate.put({ key: `${count}`, count }));
  await soon(Promise.all(made));
  assertEquals([at.coins(), counter.runs], [{ 1: 1, 2: 2, 3: 3 }, 3]);
  assertEquals(await codeOf(hall.mutate.put({ key: "a", count: 1.5 })), "invalid");
  assertEquals(await codeOf(hall.mutate.move({ from: "a", to: "b", count: 1 })), "poor");
  const reading = hall.transaction(async (tx) => {
    await tx.set("coins", "x", await tx.get("coins", "1") ?? 0);
  });
  assertEquals(await codeOf(reading), "forbidden");
});

Deno.test("ClientState.mutate shows nothing before the reply without functions", async () => {
  await using at = await Fixture.make();
  using hall = await at.open({});
  const coins = hall.collection("coins");
  const putting = hall.mutate.put({ key: "a", count: 1 });
  await turns();
  assertEquals(await codeOf(hall.mutate.put({ key: "a", count: 0.5 })), "invalid");
  await soon(putting);
  assertEquals(coins.get("a"), 1);
  await using other = connect(at.server.url, { transports: ["websocket"] });
  using untyped = await other.state("hall:1");
  assertThrows(() => untyped.mutate, TypeError, "has no mutations in the client's contract");
  using typed = await other.state("hall:1", { mutations });
  await typed.ready;
  const seating = typed.mutate.claimSeat!({ seat: "1", owner: "bob" });
  await turns();
  assertEquals(typed.collection("seats").get("1"), { owner: "bob" });
  await soon(seating);
});

Deno.test("ClientState.mutate gives up a function that hangs, and sends what others write", async () => {
  const hanging = defineMutations(contract, {
    ...functions,
    claimSeat: () => new Promise<void>(() => {}),
  });
  await using at = await Fixture.make();
  const timers = new HeldTimers();
  const { runtime } = timers;
  await using client = page(at.server.url, { runtime, requestTimeoutMs: HELD_MS });
  using hall = await client.state("hall:1", { mutations: hanging });
  await hall.ready;
  const claiming = hall.mutate.claimSeat({ seat: "1", owner: "ann" });
  claiming.catch(() => {});
  await soon(hall.mutate.put({ key: "a", count: 1 }));
  assertEquals(hall.pendingWrites.current, 1);
  timers.fire();
  await assertRejects(() => soon(claiming), TimeoutError, "function");
  assertEquals(hall.pendingWrites.current, 0);
});

slowTest("ClientState.mutate has room for 1,000 mutations that wait", async () => {
  await using at = await Fixture.make();
  using hall = await at.open();
  await at.offline(hall);
  const waiting = Array.from(
    { length: 1_000 },
    (_, i) => hall.mutate.put({ key: `${i % 10}`, count: i }),
  );
  waiting.forEach((one) => one.catch(() => {}));
  await assertRejects(() => hall.mutate.put({ key: "a", count: 1 }), QueueFullError);
  await until(() => hall.collection("coins").get("9") === 999);
  at.online();
  await soon(Promise.all(waiting));
  assertEquals(at.coins()["0"], 990);
});

Deno.test("ClientState.mutate tells of a function that makes other changes when it runs again", async () => {
  await using at = await Fixture.make();
  using printed = captureConsole();
  using hall = await at.open({
    mutations: defineMutations(contract, {
      ...functions,
      async put(tx, { key }) {
        await tx.set("coins", key, Math.floor(Math.random() * 1e9));
      },
    }),
  });
  await soon(hall.mutate.put({ key: "a", count: 1 }));
  await soon(hall.mutate.put({ key: "a", count: 2 }));
  await soon(hall.mutate.claimSeat({ seat: "1", owner: "ann" }));
  assertEquals(printed.lines.length, 1);
  assertStringIncludes(printed.lines[0]!, 'mutation "put" made other changes');
});

Deno.test("ClientState.transaction() repeats its function if rows that it has read change", async () => {
  await using at = await Fixture.make();
  await using bob = page(at.server.url);
  using near = await at.open();
  using far = await bob.state("hall:1");
  await far.ready;
  await near.transaction((tx) => {
    tx.set("coins", "a", 100);
  });
  await until(() => far.collection("coins").get("a") === 100);
  const move = (state: Hall, to: string) =>
    state.transaction(async (tx) => {
      const [from = 0, there = 0] = [await tx.get("coins", "a"), await tx.get("coins", to)];
      await tx.set("coins", "a", from - 1);
      await tx.set("coins", to, there + 1);
    });
  const moving = Array.from({ length: 20 }, (_, i) => i % 2 ? move(near, "b") : move(far, "c"));
  await soon(Promise.all(moving));
  assertEquals(at.coins(), { a: 80, b: 10, c: 10 });
  const add = (state: Hall, key: string) =>
    state.transaction(async (tx) => {
      let count = 0;
      for await (const _card of tx.entries("cards")) count++;
      if (count === 5) throw new RequestError("enough", "There are five");
      await tx.insert("cards", key, key);
    });
  const adding = Array.from({ length: 12 }, (_, i) => add(i % 2 ? near : far, `${i}`));
  const settled = await soon(Promise.allSettled(adding));
  assertEquals(settled.filter(({ status }) => status === "fulfilled").length, 5);
  assertEquals(at.own.collection("cards").size, 5);
});

Deno.test("ClientState.transaction() depends on rows that it only reads, and sees earlier writes", async () => {
  await using at = await Fixture.make();
  using hall = await at.open();
  const coins = hall.collection("coins");
  await at.offline(hall);
  let runs = 0;
  const first = coins.set("a", 1);
  const copying = hall.transaction(async (tx) => {
    runs++;
    await tx.set("coins", "copy", (await tx.get("coins", "a") ?? 0) * 10);
  });
  const checking = hall.transaction(async (tx) => {
    if (!await tx.has("coins", "open")) throw new RequestError("closed", "It is closed");
  });
  const mutated = hall.mutate.move({ from: "copy", to: "b", count: 3 });
  checking.catch(() => {});
  await turns();
  assertEquals(Object.fromEntries(coins), { a: 1, copy: 7, b: 3 });
  assertEquals(await codeOf(checking), "closed");
  await at.own.collection("coins").set("a", 5);
  await at.own.collection("coins").set("z", 5);
  at.online();
  await soon(Promise.all([first, copying, mutated]));
  assertEquals(at.coins(), { a: 1, z: 5, copy: 7, b: 3 });
  assertEquals(
    await soon(hall.transaction(async (tx) => void await tx.get("coins", "a"))),
    at.own.version,
  );
  await assertRejects(
    () => hall.transaction((tx) => tx.update("coins", "none", (one) => one)),
    RequestError,
  );
});

slowTest("ClientState.mutate loses none of many transfers while connections are cut", async () => {
  await using at = await Fixture.make();
  await using bob = page(at.server.url);
  using near = await at.open();
  using far = await bob.state("hall:1", { mutations });
  await far.ready;
  await near.mutate.put({ key: "0", count: 100 });
  await until(() => far.collection("coins").get("0") === 100);
  const sums = new Set<number>();
  for (const state of [near, far]) {
    const coins = state.collection("coins");
    coins.subscribe(() => sums.add([...coins.values()].reduce((sum, one) => sum + one, 0)));
  }
  let made = 0;
  const run = async (state: Hall, first: number) => {
    for (let i = 0; i < 60; i++) {
      const [from, to] = [`${(first + i) % 3}`, `${(first + i * i + 1) % 4}`];
      if (from === to) continue;
      const moving = state.mutate.move({ from, to, count: 1 }).then(() => made++, (error) => {
        assertEquals(error.failure?.code, "poor");
      });
      if (i % 3 === 0) await soon(moving);
    }
    await soon(state.flush());
  };
  let isOver = false;
  const cutting = (async () => {
    while (!isOver) {
      await turns();
      await until(() => near.status.current === "live" || isOver);
      at.cable.cut();
    }
  })();
  const running = Promise.all([run(near, 0), run(far, 1)]);
  try {
    await running;
  } finally {
    isOver = true;
  }
  await cutting;
  await until(() => near.status.current === "live");
  const rows = at.coins();
  for (const state of [near, far]) {
    await until(() => {
      const shown = Object.fromEntries(state.collection("coins"));
      return Object.keys(rows).every((key) => shown[key] === rows[key]);
    });
  }
  assertEquals([...sums], [100]);
  assertEquals(at.own.version, made + 1);
});

Deno.test("ClientState.mutate sends no mutation as another user, and tells its function the user", async () => {
  let token: string | Promise<string> = "ann";
  const authors: unknown[] = [];
  const claimSeat: Functions["claimSeat"] = async (
    tx,
    { seat },
    { user = "", isServer, params },
  ) => {
    authors.push([user, isServer, params.id]);
    await tx.set("seats", seat, { owner: user });
  };
  await using at = await Fixture.make({ claimSeat }, {
    authenticate: ({ token }) => token ?? null,
    tokens: { inMessage: true },
    presence: { graceMs: 100 },
  }, { token: () => token });
  using hall = await at.open({
    mutations: defineMutations(contract, { ...functions, claimSeat }),
    user: "page",
  });
  await hall.mutate.claimSeat({ seat: "1", owner: "" });
  assertEquals(at.own.collection("seats").get("1"), { owner: "ann" });
  assertEquals([authors[0], authors.at(-1)], [["page", false, "1"], ["ann", true, "1"]]);
  // No attempt to connect has the earlier token.
  const next = Promise.withResolvers<string>();
  token = next.promise;
  await at.offline(hall);
  const dropped = hall.mutate.claimSeat({ seat: "2", owner: "" });
  dropped.catch(() => {});
  await turns();
  assertEquals(hall.collection("seats").get("2"), { owner: "page" });
  next.resolve("bob");
  at.online();
  assertEquals(await codeOf(dropped), "other-user");
  assertEquals([hall.collection("seats").has("2"), hall.pendingWrites.current], [false, 0]);
  await soon(hall.mutate.claimSeat({ seat: "3", owner: "" }));
  assertEquals(at.own.collection("seats").get("3"), { owner: "bob" });
});

Deno.test("ClientState.mutate makes mutations and other writes of a row in the order of the calls", async () => {
  await using at = await Fixture.make();
  using hall = await at.open();
  const coins = hall.collection("coins");
  await at.offline(hall);
  const made = [
    coins.set("a", 10),
    hall.mutate.move({ from: "a", to: "b", count: 1 }),
    coins.set("a", 100),
    hall.mutate.move({ from: "a", to: "b", count: 2 }),
    hall.mutate.put({ key: "c", count: 1 }),
    coins.set("d", 1),
  ];
  await turns();
  made.push(coins.update("b", (count) => count * 10));
  const last = { a: 98, b: 30, c: 1, d: 1 };
  assertEquals(Object.fromEntries(coins), last);
  at.online();
  await soon(Promise.all(made));
  assertEquals(at.coins(), last);
  assertEquals(Object.fromEntries(coins), last);
});

Deno.test("ClientState.mutate shows a slow function's changes late, and holds up no rows", async () => {
  const gate = Promise.withResolvers<void>();
  const slow = defineMutations(contract, {
    ...functions,
    async put(tx, { key, count }) {
      const before = await tx.get("coins", "base") ?? 0;
      await gate.promise;
      await tx.set("coins", key, before + count);
    },
  });
  await using at = await Fixture.make({
    async put(tx, { key, count }) {
      await tx.set("coins", key, (await tx.get("coins", "base") ?? 0) + count);
    },
  });
  using hall = await at.open({ mutations: slow });
  const coins = hall.collection("coins");
  const putting = hall.mutate.put({ key: "a", count: 1 });
  const moving = hall.mutate.move({ from: "a", to: "b", count: 0 });
  await at.own.collection("coins").set("base", 10);
  await until(() => coins.get("base") === 10);
  await soon(moving);
  assertEquals(coins.has("a"), true);
  gate.resolve();
  await soon(putting);
  assertEquals(Object.fromEntries(coins), at.coins());
});

Deno.test("ClientState.transaction() waits for the rows that its function reads", async () => {
  await using at = await Fixture.make();
  await at.own.transaction((tx) => tx.set("coins", "a", 1));
  using hall = await at.client.state("hall:1");
  assertEquals(hall.status.current, "pending");
  await soon(hall.transaction(async (tx) => {
    await tx.set("coins", "a", (await tx.get("coins", "a") ?? 0) + 1);
  }));
  assertEquals(at.coins(), { a: 2 });
});

Deno.test("ClientState.ready resolves once the rows are shown, also while a function runs", async () => {
  await using at = await Fixture.make();
  await at.own.transaction((tx) => tx.set("coins", "a", 1));
  using hall = await at.client.state("hall:1");
  const gate = Promise.withResolvers<void>();
  const written = hall.transaction(async (tx) => {
    const count = await tx.get("coins", "a") ?? 0;
    await gate.promise;
    await tx.set("coins", "a", count + 1);
  });
  await soon(hall.ready);
  assertEquals([hall.status.current, hall.collection("coins").get("a")], ["live", 1]);
  gate.resolve();
  await soon(written);
  assertEquals(hall.collection("coins").get("a"), 2);
});

Deno.test("ClientState.transaction() rejects if its function throws on the rows of a conflict", async () => {
  await using at = await Fixture.make();
  await at.own.transaction((tx) => tx.set("coins", "a", 5));
  using hall = await at.open();
  const held = at.hold();
  const taking = hall.transaction(async (tx) => {
    const count = await tx.get("coins", "a") ?? 0;
    if (count < 3) throw new RequestError("poor", `There are only ${count}`);
    await tx.set("coins", "a", count - 3);
  });
  const code = codeOf(taking);
  await held.begun;
  await at.own.transaction((tx) => tx.set("coins", "a", 1));
  await until(() => hall.collection("coins").get("a") === 1);
  held.release();
  assertEquals(await code, "poor");
  assertEquals(at.coins(), { a: 1 });
});

Deno.test("ClientState.mutate and transaction() wait for the first rows, which ready doesn't wait for", async () => {
  await using at = await Fixture.make();
  await at.own.collection("coins").set("a", 10);
  using hall = await at.client.state("hall:1", { mutations });
  const coins = hall.collection("coins");
  const moving = hall.mutate.move({ from: "a", to: "b", count: 1 });
  const adding = hall.transaction(async (tx) => {
    const had = await tx.get("coins", "a");
    if (had === undefined) throw new RequestError("none", "There are no coins");
    await tx.set("coins", "c", had * 10);
  });
  const setting = hall.transaction((tx) => tx.set("coins", "d", 1));
  await turns(1);
  assertEquals(coins.get("d"), 1);
  await hall.ready;
  assertEquals(coins.has("a"), true);
  await soon(Promise.all([moving, adding, setting]));
  assertEquals(at.coins(), { a: 9, b: 1, c: 90, d: 1 });
  await using other = await Fixture.make({}, {
    authorize: (_session, _topic, action) => action !== "subscribe",
  });
  using writer = await other.client.state("hall:1", { mutations });
  const blind = writer.mutate.put({ key: "a", count: 1 });
  const reading = writer.transaction(async (tx) => {
    await tx.set("coins", "b", await tx.get("coins", "a") ?? 0);
  });
  assertEquals(await codeOf(reading), "forbidden");
  await soon(blind);
  assertEquals(other.coins(), { a: 1 });
});

Deno.test("ClientState.transaction() deletes a row that it has read only if the row is there", async () => {
  await using at = await Fixture.make();
  await at.own.transaction((tx) => tx.set("coins", "a", 1));
  using hall = await at.open();
  const held = at.hold();
  const code = codeOf(hall.transaction(async (tx) => {
    const count = await tx.get("coins", "a") ?? 0;
    await tx.delete("coins", "a");
    await tx.set("coins", "b", count);
  }));
  await held.begun;
  await at.offline(hall);
  await at.own.collection("coins").delete("a");
  held.release();
  at.online();
  assertEquals(await code, "unknown");
  assertEquals(at.coins(), {});
});
