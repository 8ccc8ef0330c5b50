/**
 * Tests rows that many clients write at once: on three servers that share Redis or NATS, and on one
 * with SQLite or in memory.
 */
import { delay } from "@std/async/delay";
import { assertEquals } from "@std/assert";
import {
  type Broker,
  type Client,
  type ClientState,
  connect,
  MemoryBroker,
  serve,
} from "../../mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { liveState } from "../../streams/mod.ts";
import { until } from "../waiting.ts";
import { BROKERS } from "./stores.ts";

const ID = "board";

/** Clients that vote, and the votes of each. */
const [VOTERS, VOTES_EACH] = [200, 5];

/** People who drag a card, and how often and with which pause each of them moves it. */
const [DRAGGERS, MOVES, PAUSE_MS] = [12, 40, 50];

/** Time that the check of a change takes. */
const CHECK_MS = 20;

/** Servers with a state, of which each has a broker of its own. */
async function serveAll(brokers: readonly Broker[], checkMs = 0) {
  await using stack = new AsyncDisposableStack();
  const urls: string[] = [];
  for (const broker of brokers) {
    stack.use(broker);
    const states = liveState();
    const server = stack.use(serve({
      port: 0,
      hostname: "127.0.0.1",
      webTransport: false,
      onListen() {},
      broker,
      features: [states],
      authorize: () => true,
      authorizeChange: checkMs === 0 ? undefined : () => delay(checkMs).then(() => true),
      limits: { maxSessionsPerAddress: Infinity },
    }));
    const state = stack.use(await states.open(ID));
    await state.collection<number>("votes").set("a", 0);
    urls.push(server.url);
  }
  const owned = stack.move();
  return { urls, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Clients that have the state, distributed over the servers. */
async function joinAll(urls: readonly string[], count: number) {
  await using stack = new AsyncDisposableStack();
  const clients = Array.from({ length: count }, (_, i): Client => {
    return stack.use(connect(urls[i % urls.length]!, { transports: ["websocket"] }));
  });
  const states = await Promise.all(clients.map((client) => client.state(ID)));
  await Promise.all(states.map(({ ready }) => ready));
  const owned = stack.move();
  return { states, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** How often each outcome occurred. */
async function outcomes(writes: readonly Promise<number>[]): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const result of await Promise.allSettled(writes)) {
    const name = result.status === "fulfilled" ? "kept" : `${result.reason}`;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

async function vote(brokers: readonly Broker[]): Promise<void> {
  await using servers = await serveAll(brokers);
  await using voters = await joinAll(servers.urls, VOTERS);
  const votesOf = (state: ClientState) => state.collection<number>("votes");
  const writes = voters.states.flatMap((state) =>
    Array.from({ length: VOTES_EACH }, () => votesOf(state).update("a", (count) => count + 1))
  );
  assertEquals(await outcomes(writes), { kept: VOTERS * VOTES_EACH });
  // Every voter sees all votes.
  await until(() =>
    voters.states.every((state) => votesOf(state).get("a") === VOTERS * VOTES_EACH)
  );
}

async function drag(brokers: readonly Broker[]): Promise<void> {
  await using servers = await serveAll(brokers, CHECK_MS);
  await using people = await joinAll(servers.urls, DRAGGERS);
  const writes: Promise<number>[] = [];
  for (let move = 0; move < MOVES; move++) {
    for (const [who, state] of people.states.entries()) {
      writes.push(state.collection("cards").set("1", { who, move }));
    }
    await delay(PAUSE_MS);
  }
  assertEquals(await outcomes(writes), { kept: DRAGGERS * MOVES });
}

const TESTS = [
  { what: `${VOTERS * VOTES_EACH} votes of ${VOTERS} clients for one row are counted`, run: vote },
  { what: `no move is refused when ${DRAGGERS} people drag one card with a slow check`, run: drag },
] as const;

for (const { what, run } of TESTS) {
  for (const { name, ignore, start } of BROKERS) {
    Deno.test({
      name: `${what}, on three servers with ${name}`,
      ignore,
      fn: async () => {
        const { store, open } = await start();
        await using _store = store;
        await run([open(), open(), open()]);
      },
    });
  }

  Deno.test(`${what}, on one server with SQLite`, async () => {
    await run([await SqliteBroker.open(await Deno.makeTempDir() + "/app.db")]);
  });

  Deno.test(`${what}, on one server in memory`, async () => {
    await run([new MemoryBroker()]);
  });
}
