/**
 * Tests mutations that many clients call at once: on three servers that share Redis or NATS, and on
 * one with SQLite or in memory.
 */
import { assertEquals } from "@std/assert";
import { z } from "zod";
import {
  type Broker,
  connect,
  defineContract,
  MemoryBroker,
  RequestError,
  serve,
} from "../../mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { defineMutations } from "../../session/mutations/mod.ts";
import { liveState } from "../../streams/mod.ts";
import { until } from "../waiting.ts";
import { BROKERS } from "./stores.ts";

const ID = "hall:1";

/** Clients, the seats that they claim, and how many of these seats may be taken. */
const [CLIENTS, SEATS, ROOM] = [200, 150, 100];

/** Transfers between two accounts, and the clients that make them. */
const [TRANSFERS, PAYERS] = [1_000, 20];

/** Cards that are added at once, and how many of them fit. */
const [CARDS, MAX_CARDS] = [60, 5];

const contract = defineContract({
  state: {
    "hall:{id}": {
      collections: { seats: z.string(), coins: z.number().int().min(0), cards: z.string() },
      mutations: {
        claim: z.object({ seat: z.string(), owner: z.string() }),
        move: z.object({ from: z.string(), to: z.string() }),
        add: z.object({ key: z.string() }),
      },
      writes: "mutations",
    },
  },
});

async function count(rows: AsyncIterable<unknown>): Promise<number> {
  return (await Array.fromAsync(rows)).length;
}

const mutations = defineMutations(contract, {
  async claim(tx, { seat, owner }) {
    if (await tx.has("seats", seat)) throw new RequestError("taken", `${seat} is taken`);
    if (await count(tx.entries("seats")) >= ROOM) {
      throw new RequestError("full", "There is no room");
    }
    await tx.set("seats", seat, owner);
  },
  async move(tx, { from, to }) {
    await tx.update("coins", from, (coins) => coins - 1);
    await tx.update("coins", to, (coins) => coins + 1);
  },
  async add(tx, { key }) {
    if (await count(tx.entries("cards")) >= MAX_CARDS) throw new RequestError("enough", "Enough");
    await tx.insert("cards", key, key);
  },
});

/** Servers with a hall, of which each has a broker of its own. */
async function serveAll(brokers: readonly Broker[]) {
  await using stack = new AsyncDisposableStack();
  const urls: string[] = [];
  for (const broker of brokers) {
    stack.use(broker);
    const states = liveState(contract, {
      mutations,
      onOpen: () => ({ coins: { a: TRANSFERS, b: 0 } }),
    });
    const server = stack.use(serve({
      port: 0,
      hostname: "127.0.0.1",
      webTransport: false,
      onListen() {},
      broker,
      contract,
      features: [states],
      authorize: () => true,
      limits: { maxSessionsPerAddress: Infinity },
    }));
    stack.use(await states.open(ID));
    urls.push(server.url);
  }
  const owned = stack.move();
  return { urls, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Clients that have the hall, distributed over the servers. */
async function joinAll(urls: readonly string[], count: number) {
  await using stack = new AsyncDisposableStack();
  const clients = Array.from({ length: count }, (_, i) => {
    const url = urls[i % urls.length]!;
    return stack.use(connect(url, { contract, transports: ["websocket"] }));
  });
  const states = await Promise.all(clients.map((client) => client.state(ID, { mutations })));
  await Promise.all(states.map(({ ready }) => ready));
  const owned = stack.move();
  return { states, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** How often each outcome occurred. */
async function outcomes(calls: readonly Promise<number>[]): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const result of await Promise.allSettled(calls)) {
    const name = result.status === "fulfilled"
      ? "made"
      : result.reason instanceof RequestError
      ? result.reason.failure.code
      : `${result.reason}`;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

async function claim(urls: readonly string[]): Promise<void> {
  await using guests = await joinAll(urls, CLIENTS);
  const owners: string[] = [];
  const { made, ...others } = await outcomes(guests.states.map(async (state, i) => {
    const version = await state.mutate.claim({ seat: `${i % SEATS}`, owner: `${i}` });
    owners.push(`${i}`);
    return version;
  }));
  assertEquals(made, ROOM);
  assertEquals((others.taken ?? 0) + (others.full ?? 0), CLIENTS - ROOM);
  // Everyone sees the seats of those whose claims were made.
  const shown = () => guests.states.map((state) => [...state.collection("seats").values()].sort());
  const all = owners.sort();
  await until(() => shown().every((seats) => seats.join() === all.join()));
}

async function move(urls: readonly string[]): Promise<void> {
  await using payers = await joinAll(urls, PAYERS);
  const sums = new Set<number>();
  for (const state of payers.states) {
    state.collection("coins").subscribe((coins) => sums.add(coins.get("a")! + coins.get("b")!));
  }
  const moving = payers.states.flatMap(({ mutate }) =>
    Array.from({ length: TRANSFERS / PAYERS }, () => mutate.move({ from: "a", to: "b" }))
  );
  assertEquals(await outcomes(moving), { made: TRANSFERS });
  await until(() =>
    payers.states.every((state) => state.collection("coins").get("b") === TRANSFERS)
  );
  assertEquals([...sums], [TRANSFERS]);
}

async function add(urls: readonly string[]): Promise<void> {
  await using people = await joinAll(urls, CARDS);
  const adding = people.states.map(({ mutate }, i) => mutate.add({ key: `${i}` }));
  assertEquals(await outcomes(adding), { made: MAX_CARDS, enough: CARDS - MAX_CARDS });
  const sizes = () => people.states.map((state) => state.collection("cards").size);
  await until(() => sizes().every((size) => size === MAX_CARDS));
}

const TESTS = [
  {
    what: `${ROOM} of ${CLIENTS} clients receive one of ${SEATS} seats, each a different one`,
    run: claim,
  },
  { what: `none of ${TRANSFERS} transfers between two accounts is lost`, run: move },
  { what: `${MAX_CARDS} of ${CARDS} cards that are added at once fit`, run: add },
] as const;

for (const { what, run } of TESTS) {
  const serveAndRun = async (brokers: readonly Broker[]) => {
    await using servers = await serveAll(brokers);
    await run(servers.urls);
  };

  for (const { name, ignore, start } of BROKERS) {
    Deno.test({
      name: `${what}, on three servers with ${name}`,
      ignore,
      fn: async () => {
        const { store, open } = await start();
        await using _store = store;
        await serveAndRun([open(), open(), open()]);
      },
    });
  }

  Deno.test(`${what}, on one server with SQLite`, async () => {
    await serveAndRun([await SqliteBroker.open(await Deno.makeTempDir() + "/app.db")]);
  });

  Deno.test(`${what}, on one server in memory`, async () => {
    await serveAndRun([new MemoryBroker()]);
  });
}
