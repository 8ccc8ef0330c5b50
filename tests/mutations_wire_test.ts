/** Mutations as a server handles them, whatever a client sends. */
import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { z } from "zod";
import {
  type Broker,
  defineContract,
  guest,
  MemoryBroker,
  RequestError,
  type ServeOptions,
} from "../mod.ts";
import { defineMutations, type MutationFunctions } from "../session/mutations/mod.ts";
import { liveState, type LiveStateOptions } from "../streams/mod.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { MutatingPeer, outcomeOf } from "./peers/mutating_peer.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";

const contract = defineContract({
  state: {
    "bank:{id}": {
      collections: {
        coins: z.number().int().min(0),
        cards: z.string(),
        cursors: { schema: z.string(), ephemeral: true },
      },
      mutations: {
        move: z.object({ from: z.string(), to: z.string(), coins: z.number().default(1) }),
        add: { input: z.object({ key: z.string() }) },
        act: z.object({ how: z.string() }),
      },
      writes: "mutations",
    },
  },
});

type Contracted = typeof contract;

/** Functions of a test; the others have no effect. */
type Acts = Partial<MutationFunctions<Contracted>>;

const ACTS: MutationFunctions<Contracted> = {
  async move(tx, { from, to, coins }) {
    const present = await tx.get("coins", from) ?? 0;
    if (present < coins) throw new RequestError("poor", `${from} has ${present}`);
    await tx.set("coins", from, present - coins);
    await tx.set("coins", to, (await tx.get("coins", to) ?? 0) + coins);
  },
  async add(tx, { key }) {
    let count = 0;
    for await (const _row of tx.entries("cards")) count++;
    if (count === 5) throw new RequestError("enough", "There are five cards");
    await tx.set("cards", key, key);
  },
  act() {},
};

interface BankOptions {
  readonly broker?: Broker;
  readonly acts?: Acts;
  readonly serve?: ServeOptions<string | typeof guest, Contracted>;
  readonly states?: LiveStateOptions<Contracted>;
}

/** A server with the state `bank:1`. */
async function open({ broker = new MemoryBroker(), acts, serve, states: more }: BankOptions = {}) {
  await using stack = new AsyncDisposableStack();
  const errors: string[] = [];
  const states = liveState(contract, {
    mutations: defineMutations(contract, { ...ACTS, ...acts }),
    ...more,
  });
  const server = stack.use(listen({
    webTransport: false,
    broker,
    contract,
    features: [states],
    authenticate: ({ token }) => token === undefined ? guest : token,
    userOf: (name) => name!,
    tokens: { inMessage: true },
    authorize: () => true,
    onError: (error) => errors.push(`${error}`),
    ...serve,
  }));
  const bank = stack.use(await states.open("bank:1"));
  await bank.transaction((tx) => {
    tx.set("coins", "a", 100);
    tx.set("coins", "b", 0);
  });
  const owned = stack.move();
  return { server, states, bank, errors, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

type Bank = Awaited<ReturnType<typeof open>>;

const MOVE = ["move", { from: "a", to: "b" }] as const;

function coinsOf({ bank }: Bank): unknown {
  return Object.fromEntries(bank.collection("coins"));
}

Deno.test("A server makes mutations in order, and stops at the first that it rejects", async () => {
  await using bank = await open();
  await using peer = await MutatingPeer.connect(bank.server);
  const poor = ["move", { from: "b", to: "a", coins: 7 }];
  assertEquals(await peer.call([MOVE, MOVE, poor, MOVE]), [2, 3, "poor"]);
  assertEquals(coinsOf(bank), { a: 98, b: 2 });
});

Deno.test("A server runs no mutation on rows that its client knows to be old", async () => {
  const store = new FaultyStore();
  const acts: Acts = {
    async act(tx, { how }) {
      if (how === "free") return await tx.delete("cards", "seat");
      if (await tx.has("cards", "seat")) throw new RequestError("taken", "The seat is taken");
      await tx.set("cards", "seat", how);
    },
  };
  await using near = await open({ broker: store.connect(), acts });
  await using far = await open({ broker: store.connect(), acts });
  await using peer = await MutatingPeer.connect(near.server, "ann");
  await using other = await MutatingPeer.connect(far.server, "bob");
  const act = (how: string) => ["act", { how }];
  const [claimed] = await peer.call([act("ann")]) as number[];
  await until(() => far.bank.version === claimed);
  store.delayMs = 100;
  const [freed] = await peer.call([act("free")]) as number[];
  assertEquals(await other.call([act("bob")], { since: freed }), [freed! + 1]);
  // Within a publication, each one knows the rows of those before it.
  const calls = [act("free"), act("eve"), act("free"), act("dan")];
  const last = freed! + 5;
  assertEquals(await peer.call(calls, { since: freed! + 1 }), [last - 3, last - 2, last - 1, last]);
  await until(() => near.bank.version === last && far.bank.version === last);
  store.delayMs = 0;
  // A made-up version takes a moment, and nothing else.
  assertEquals(await peer.call([act("free")], { since: 1_000_000 }), [last + 1]);
});

Deno.test("A server makes a mutation once, however often it is sent", async () => {
  await using bank = await open();
  await using peer = await MutatingPeer.connect(bank.server);
  assertEquals(await peer.call([MOVE, MOVE]), [2, 3]);
  const again = { n: 1, again: true };
  assertEquals(await peer.call([MOVE, MOVE, MOVE], again), [3, 3, 4]);
  // The first copy arrives late.
  assertEquals(await peer.call([MOVE], { n: 1 }), [4]);
  assertEquals(coinsOf(bank), { a: 97, b: 3 });
});

Deno.test("A server makes a mutation once, although two servers run it at once", async () => {
  const broker = new MemoryBroker();
  let held: PromiseWithResolvers<void> | undefined = Promise.withResolvers<void>();
  const acts: Acts = {
    async act(tx) {
      const row = await tx.get("coins", "a");
      await held?.promise;
      await tx.set("coins", "a", row! - 10);
    },
  };
  await using bank = await open({ broker, acts });
  await using peer = await MutatingPeer.connect(bank.server, "ann");
  const late = peer.call([["act", { how: "" }]]);
  await using other = await MutatingPeer.connect(bank.server, "ann");
  const { resolve } = held;
  await until(() => bank.bank.version === 1);
  held = undefined;
  assertEquals(await other.call([["act", { how: "" }]], { n: 1, again: true }), [2]);
  resolve();
  assertEquals([await late, coinsOf(bank)], [[2], { a: 90, b: 0 }]);
});

Deno.test("A server answers a repeated mutation that another run makes meanwhile", async () => {
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let runs = 0;
  const acts: Acts = {
    async act(tx, { how }) {
      await gates[runs++]!.promise;
      await tx.insert("cards", how, how);
    },
  };
  await using bank = await open({ acts });
  await using peer = await MutatingPeer.connect(bank.server, "ann");
  await using other = await MutatingPeer.connect(bank.server, "ann");
  const calls = [MOVE, ["act", { how: "once" }]];
  const late = peer.call(calls);
  await until(() => runs === 1);
  // The mark is then that of the first mutation, and not of another client.
  const again = other.call(calls, { n: 1, again: true });
  await until(() => runs === 2);
  gates[0]!.resolve();
  assertEquals(await late, [2, 3]);
  gates[1]!.resolve();
  assertEquals(await again, [2, 3]);
});

Deno.test("No client makes the server believe that it has made the mutation of another one", async () => {
  await using bank = await open();
  await using ann = await MutatingPeer.connect(bank.server, "ann");
  await using bob = await MutatingPeer.connect(bank.server, "bob");
  await using one = await MutatingPeer.connect(bank.server);
  await using two = await MutatingPeer.connect(bank.server);
  assertEquals(await bob.call([MOVE], { n: 1_000 }), [2]);
  assertEquals(await ann.call([MOVE], { n: 1 }), [3]);
  assertEquals(await two.call([MOVE], { n: 1_000 }), [4]);
  assertEquals(await one.call([MOVE], { n: 1 }), [5]);
});

Deno.test("A server tells if it can't know whether it has made a mutation", async () => {
  await using bank = await open();
  await using peer = await MutatingPeer.connect(bank.server, "ann");
  assertEquals(await peer.call([MOVE], { n: 1 }), [2]);
  // Some of the other clients of this user take the same mark.
  const none = ["move", { from: "a", to: "b", coins: 0 }];
  for (let i = 0; i < 400; i++) await peer.call([none], { client: `client-${i}`, n: 1 });
  const { a: before } = coinsOf(bank) as { a: number };
  assertEquals(await peer.call([MOVE], { n: 1, again: true }), ["unknown"]);
  assertEquals((coinsOf(bank) as { a: number }).a, before);
});

Deno.test("The marks of mutations reach no reader and no application", async () => {
  await using bank = await open();
  await using peer = await MutatingPeer.connect(bank.server, "ann");
  await peer.call([MOVE]);
  assertEquals([...bank.bank.collections()].map(([name]) => name), ["coins"]);
  await using copy = await bank.states.open("bank:1");
  assertEquals([...copy.collections()].map(([name]) => name), ["coins"]);
});

Deno.test("A server checks the input first, then the right, with the name and the input", async () => {
  const asked: unknown[] = [];
  await using bank = await open({
    serve: {
      authorize: (_session, topic, action, mutation) => {
        asked.push({ topic, action, mutation });
        return action !== "mutate" || mutation?.name !== "add";
      },
    },
  });
  await using peer = await MutatingPeer.connect(bank.server);
  const calls = [["move", { from: "a" }], ["nothing", 1], ["add", { key: "a" }], MOVE];
  const outcomes = await Array.fromAsync(calls, async (call) => (await peer.call([call]))[0]);
  assertEquals(outcomes, ["invalid", "unknown-mutation", "forbidden", 2]);
  const of = { topic: "stream:bank:1", action: "mutate" };
  assertEquals(asked, [
    { ...of, mutation: { name: "add", input: { key: "a" } } },
    { ...of, mutation: { name: "move", input: { from: "a", to: "b", coins: 1 } } },
  ]);
  assertEquals(await peer.call([MOVE], {}, "other:1"), ["unknown-mutation"]);
});

Deno.test("A server rejects what is no list of mutations", async () => {
  await using bank = await open();
  await using peer = await MutatingPeer.connect(bank.server);
  const call = { mutations: [MOVE], client: "abcdefgh", n: 1, since: 0 };
  const wrong = [
    { mutations: [] },
    { mutations: Array(65).fill(MOVE) },
    { mutations: "move" },
    { mutations: [["move"], 1] },
    { mutations: [[1, 2]] },
    { client: "short" },
    { client: "a b c d e f" },
    { client: undefined },
    { n: -1 },
    { n: 0.5 },
    { since: "1" },
    { again: 1 },
    { timeoutMs: -1 },
  ];
  for (const part of wrong) {
    const error = await assertRejects(() => peer.publish({ ...call, ...part }), RequestError);
    assertEquals(error.failure.code, "malformed", JSON.stringify(part));
  }
  assertEquals(coinsOf(bank), { a: 100, b: 0 });
});

Deno.test("A server tells the client what a mutation throws, and hides other errors", async () => {
  const acts: Acts = {
    async act(tx, { how }) {
      await tx.set("coins", "a", 1);
      if (how === "request") throw new RequestError("taken", "The seat is taken");
      if (how === "error") throw new Error("SELECT secret");
      if (how === "text") throw "secret";
      if (how === "row") await tx.set("coins", "a", -1);
      if (how === "collection") await tx.set("others" as "coins", "a", 1);
      if (how === "hidden") await tx.set("$skein:mutations" as "coins", "a", 1);
      if (how === "ephemeral") await tx.set("cursors", "a", "a");
      if (how === "date") await tx.set("cards", "a", new Date() as unknown as string);
      if (how === "hangs") await new Promise(() => {});
    },
  };
  await using bank = await open({ acts });
  await using peer = await MutatingPeer.connect(bank.server);
  const act = async (how: string) => {
    const [result] = await peer.publish({
      mutations: [["act", { how }]],
      client: "abcdefgh",
      n: 1,
      since: 1,
      timeoutMs: how === "hangs" ? 100 : 30_000,
    });
    return (result as { error?: { code: string; message: string } }).error;
  };
  const codes: Record<string, unknown> = {};
  const hows = ["request", "error", "text", "row", "collection", "hidden", "ephemeral", "date"];
  for (const how of [...hows, "hangs"]) codes[how] = (await act(how))?.code;
  assertEquals(codes, {
    request: "taken",
    error: "failed",
    text: "failed",
    row: "invalid",
    collection: "unknown-collection",
    hidden: "failed",
    ephemeral: "ephemeral",
    date: "failed",
    hangs: "failed",
  });
  assertEquals((await act("error"))?.message, 'The mutation "act" failed');
  assertEquals(bank.errors.length, 6);
  assertEquals(coinsOf(bank), { a: 100, b: 0 });
});

Deno.test("A mutation fails if its function writes, by a handle, a row that it has read", async () => {
  let runs = 0;
  const acts: Acts = {
    async act(tx, { how }) {
      runs++;
      const [key, other] = ["a", "b"] as const;
      await tx.get("coins", key);
      await bank.bank.collection("coins").set(how === "own" ? key : other, 7);
      await tx.set("coins", key, 8);
    },
  };
  await using bank = await open({ acts });
  await using peer = await MutatingPeer.connect(bank.server);
  assertEquals(await peer.call([["act", { how: "own" }]]), ["failed"]);
  assertEquals([runs, coinsOf(bank)], [1, { a: 100, b: 0 }]);
  assertMatch(
    bank.errors.join(),
    /the function has read the row "a" of "coins" in its transaction/,
  );
  assertEquals(await peer.call([["act", { how: "other" }]], { client: "other-one" }), [3]);
  assertEquals(coinsOf(bank), { a: 8, b: 7 });
});

Deno.test("A mutation counts toward the rates once, and again for each 100 rows that it reads", async () => {
  const acts: Acts = {
    async act(tx, { how }) {
      let count = 0;
      for await (const _row of tx.entries("cards")) {
        if (how === `${++count}`) throw new RequestError("enough", "Enough");
      }
      await tx.set("coins", "a", count);
    },
  };
  const publications = { perSession: { publications: { perSecond: 0.001, burst: 6 } } };
  await using bank = await open({ acts, serve: { rates: publications } });
  await bank.bank.transaction((tx) => {
    for (let i = 0; i < 250; i++) tx.set("cards", `${i}`, "card");
  });
  const all = ["act", { how: "all" }];
  /** The outcomes of lists of mutations of one client, one list after another. */
  const called = async (...lists: readonly (readonly unknown[])[]) => {
    await using peer = await MutatingPeer.connect(bank.server);
    const outcomes: unknown[] = [];
    for (const list of lists) {
      const calling = peer.call(list, { client: `client-${++clients}` });
      outcomes.push(await calling.catch((error) => error.failure.code));
    }
    return outcomes;
  };
  let clients = 0;
  // Each counts as three.
  assertEquals(await called([all], [all], [all]), [[3], [4], "too-many"]);
  // The first one leaves too little for those after it, which the client sends again.
  assertEquals(await called([all, all, all, all, all, all]), [[5, "unavailable"]]);
  // Rows count for a function that throws, too, but not those that it has not reached.
  assertEquals(await called([["act", { how: "200" }]], [MOVE, MOVE, MOVE], [MOVE]), [
    ["enough"],
    [6, 7, 8],
    "too-many",
  ]);
  const few = ["act", { how: "99" }];
  assertEquals(await called([few], [few], [few], [few], [few], [few], [few]), [
    ...Array(6).fill(["enough"]),
    "too-many",
  ]);
});

Deno.test("A server calls its own function instead, with the session", async () => {
  const seen: unknown[] = [];
  const other = await open({
    serve: {
      mutations: {
        async act(tx, { how }, { id, params, user, isServer, session }) {
          seen.push({ how, id, params, user, isServer, value: session?.value });
          await tx.set("cards", "a", how);
        },
      },
    },
  });
  await using bank = other;
  await using peer = await MutatingPeer.connect(bank.server, "ann");
  assertEquals(await peer.call([["act", { how: "so" }]]), [2]);
  const params = { id: "1" };
  assertEquals(seen, [
    { how: "so", id: "bank:1", params, user: "ann", isServer: true, value: "ann" },
  ]);
});

Deno.test("A server makes a mutation of a state that nobody has written", async () => {
  await using bank = await open({
    states: { onOpen: ({ id }) => ({ coins: { a: id === "bank:9" ? 7 : 1 } }) },
  });
  await using peer = await MutatingPeer.connect(bank.server);
  assertEquals(await peer.call([MOVE, ["add", { key: "x" }]], { since: 0 }, "bank:9"), [2, 3]);
  await using nine = await bank.states.open("bank:9");
  assertEquals([Object.fromEntries(nine.collection("coins")), nine.collection("cards").size], [
    { a: 6, b: 1 },
    1,
  ]);
  // Its first mutation iterates.
  assertEquals(await peer.call([["add", { key: "x" }]], { since: 0 }, "bank:8"), [2]);
});

Deno.test("Clients change a state by its mutations only, if the contract says so", async () => {
  await using bank = await open();
  await using peer = await MutatingPeer.connect(bank.server);
  const write = (type: string) => ({
    type,
    key: "a",
    value: type === "coins" ? 1 : "x",
    headers: { operation: "upsert", txid: "t" },
  });
  assertEquals((await peer.publish({ writes: [[write("coins")]] })).map(outcomeOf), ["forbidden"]);
  assertEquals(await bank.bank.collection("coins").set("c", 1), 2);
});

Deno.test("A server without functions rejects mutations, and one with too many does not start", async () => {
  await using bank = await open({ states: { mutations: undefined } });
  await using peer = await MutatingPeer.connect(bank.server);
  await assertRejects(() => peer.call([MOVE]), RequestError, "liveState(contract, { mutations })");
  const states = liveState(contract);
  const mutations = { act() {} };
  assertThrows(
    () => listen({ webTransport: false, contract, features: [states], mutations }),
    TypeError,
    "a server that replaces mutations needs liveState(contract, { mutations })",
  );
});

Deno.test("A server answers a mutation that it has made, although its function would now reject it", async () => {
  let runs = 0;
  const acts: Acts = {
    async act(tx, { how }) {
      runs++;
      if (how === "claim") await tx.insert("cards", "7", "ann");
      else if (!await tx.has("cards", "8")) await tx.set("cards", "8", "ann");
    },
  };
  await using bank = await open({ acts });
  await using peer = await MutatingPeer.connect(bank.server);
  for (const [n, how] of ["claim", "set"].entries()) {
    const [version] = await peer.call([["act", { how }]], { n });
    runs = 0;
    assertEquals(await peer.call([["act", { how }]], { n, again: true }), [version]);
    assertEquals(runs, 0);
  }
  // A later one is not taken for it.
  assertEquals(await peer.call([["act", { how: "claim" }]], { n: 9, again: true }), ["conflict"]);
});
