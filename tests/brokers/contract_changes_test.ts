/**
 * Tests a migration of a state by two nodes at once on Redis, NATS and SQLite, and the version that
 * it leaves there after a restart of the broker.
 */
import { assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import { createServer, defineContract, RequestError } from "../../mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { liveState, type MigrateRow, type State } from "../../streams/mod.ts";
import { BROKERS } from "./stores.ts";

const TEXT = z.object({ text: z.string() });

/** A node whose contract has another name for the collection in each version. */
function nodeOf(broker: Broker, version: number, migrate?: MigrateRow) {
  const collections = { [`cards${version}`]: TEXT };
  const contract = defineContract({ state: { "q:{id}": { collections, version } } });
  const states = liveState(contract, { migrate });
  const server = createServer({ broker, contract, features: [states] });
  return {
    open: async () => await states.open("q:1") as State,
    [Symbol.asyncDispose]: () => server.close(),
  };
}

/** The number of rows of each collection. */
function countsOf(state: State): Record<string, number> {
  return Object.fromEntries(Array.from(state.collections(), ([name, rows]) => [name, rows.size]));
}

/** Stores rows, and moves them on two nodes. */
async function migrate(first: Broker, near: Broker, far: Broker): Promise<void> {
  await using old = nodeOf(first, 1);
  {
    await using state = await old.open();
    await state.transaction((rows) => {
      for (let i = 0; i < 900; i++) rows.set("cards1", `${i}`, { text: `${i}` });
    });
    await state.collection("cards1").set("last", { text: "last" });
  }
  let moved = 0;
  const rename: MigrateRow = ({ collection, key, value }, rows) => {
    moved++;
    rows.set("cards2", key, value);
    rows.delete(collection, key);
  };
  await using one = nodeOf(near, 2, rename);
  await using two = nodeOf(far, 2, rename);
  const states = await Promise.all([one.open(), two.open()]);
  assertEquals(states.map(countsOf), [{ cards2: 901 }, { cards2: 901 }]);
  for (const state of states) {
    await state.collection("cards2").set("more", { text: "more" });
    await state[Symbol.asyncDispose]();
  }
  assertEquals(moved, 901);
}

/** Checks that the rows have the second version. */
async function isSecond(broker: Broker): Promise<void> {
  await using old = nodeOf(broker, 1);
  await using state = await old.open();
  assertEquals(countsOf(state), { cards2: 902 });
  const error = await assertRejects(
    () => state.collection("cards1").set("a", { text: "a" }),
    RequestError,
  );
  assertEquals(error.failure.code, "unavailable");
}

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `two nodes move the rows of a state once on ${name}, which keeps their version`,
    ignore,
    fn: async () => {
      const { store, open } = await start();
      await using _store = store;
      {
        await using first = open();
        await using near = open();
        await using far = open();
        await migrate(first, near, far);
      }
      await store.kill();
      await store.restart();
      await using broker = open();
      await isSecond(broker);
    },
  });
}

Deno.test("two servers move the rows of a state once on SQLite, which keeps their version", async () => {
  const path = await Deno.makeTempDir() + "/app.db";
  {
    await using broker = await SqliteBroker.open(path);
    await migrate(broker, broker, broker);
  }
  await using broker = await SqliteBroker.open(path);
  await isSecond(broker);
});
