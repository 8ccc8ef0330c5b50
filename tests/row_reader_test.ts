/**
 * Tests how servers and clients read a collection: as a Map, with loops and callbacks, and that no
 * reader sees a part of a transaction.
 */
import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { connect, type Contract, RequestError, type RowReader, type Server } from "../mod.ts";
import { durableStreams, liveState, type LiveStates } from "../streams/mod.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { Cable } from "./networks/cable.ts";
import { Page } from "./peers/page.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";

function node(store: FaultyStore) {
  const streams = durableStreams();
  const states: LiveStates<Contract> = liveState();
  const broker = store.connect();
  const server: Server = listen({
    webTransport: false,
    broker,
    features: [streams, states],
    authorize: () => true,
    onError() {},
  });
  return { broker, server, states, streams };
}

/** A server with a state, and a client of it; each reads the collection `items`. */
async function ends(test: (items: RowReader<number>, at: Ends) => Promise<void>): Promise<void> {
  for (const side of ["server", "client"] as const) {
    const { server, states, streams } = node(new FaultyStore());
    await using _server = server;
    await using own = await states.open("list");
    await using client = connect(server.url, { transports: ["websocket"] });
    using state = await client.state("list");
    await state.ready;
    const writes = own.collection<number>("items");
    const items = side === "server" ? writes : state.collection<number>("items");
    await test(items, {
      async set(key, value) {
        await writes.set(key, value);
        await until(() => items.get(key) === value);
      },
      async delete(key) {
        await writes.delete(key);
        await until(() => !items.has(key));
      },
      remove: () => streams.delete("list"),
      close: async () => {
        if (side === "server") await own[Symbol.asyncDispose]();
        else state[Symbol.dispose]();
      },
    });
  }
}

interface Ends {
  set(key: string, value: number): Promise<void>;
  delete(key: string): Promise<void>;
  /** Deletes the state. */
  remove(): Promise<unknown>;
  /** Closes the handle that reads. */
  close(): Promise<void>;
}

Deno.test("a collection reads like a Map on both ends", async () => {
  await ends(async (items, at) => {
    assertEquals([items.size, [...items], [...items.current]], [0, [], []]);
    await at.set("b", 2);
    await at.set("a", 1);
    const entries: [string, number][] = [["b", 2], ["a", 1]];
    assertEquals([...items], entries);
    assertEquals([...items.entries()], entries);
    assertEquals([...items.keys()], ["b", "a"]);
    assertEquals([...items.values()], [2, 1]);
    assertEquals([items.size, items.has("a"), items.has("c"), items.get("c")], [
      2,
      true,
      false,
      undefined,
    ]);
    const called: unknown[] = [];
    items.forEach(function (this: unknown, value, key, rows) {
      called.push([value, key, rows === items.current, this]);
    }, "this");
    assertEquals(called.map((one) => (one as unknown[]).slice(0, 3)), [[2, "b", true], [
      1,
      "a",
      true,
    ]]);
    // The rows of an iterator do not change while it runs.
    const reading = items.entries();
    const { current } = items;
    assertEquals(reading.next().value, ["b", 2]);
    await at.set("a", 3);
    await at.delete("b");
    assertEquals([...reading], [["a", 1]]);
    assertEquals([...current], entries);
    assertEquals([...items.current], [["a", 3]]);
    assertStrictEquals(items.current, items.current);
  });
});

Deno.test("a loop over a collection goes on until the handle is closed, on both ends", async () => {
  await ends(async (items, at) => {
    const loop = items[Symbol.asyncIterator]();
    assertEquals((await loop.next()).value?.size, 0);
    const next = loop.next();
    await at.set("a", 1);
    assertEquals([...(await next).value!], [["a", 1]]);
    await at.set("a", 2);
    await at.set("b", 1);
    // The newest rows, once.
    assertEquals([...(await loop.next()).value!], [["a", 2], ["b", 1]]);
    const last = loop.next();
    await at.close();
    assertEquals(await last, { done: true, value: undefined });
  });
});

Deno.test("a loop over a collection throws once the state is deleted, on both ends", async () => {
  await ends(async (items, at) => {
    const loop = items[Symbol.asyncIterator]();
    await loop.next();
    const next = loop.next();
    await at.remove();
    const error = await assertRejects(() => next, RequestError);
    assertEquals(error.failure.code, "gone");
  });
});

Deno.test("RowReader.subscribe() passes the rows and the keys that changed, on both ends", async () => {
  await ends(async (items, at) => {
    await at.set("a", 1);
    await at.set("b", 1);
    const calls: unknown[] = [];
    const end = items.subscribe((rows, changed) => calls.push([[...rows], [...changed].sort()]));
    await at.set("a", 2);
    await at.delete("b");
    assertEquals(calls, [
      [[["a", 1], ["b", 1]], ["a", "b"]],
      [[["a", 2], ["b", 1]], ["a"]],
      [[["a", 2]], ["b"]],
    ]);
    end();
    end();
    await at.set("a", 3);
    assertEquals(calls.length, 3);
    items.subscribe((rows) => calls.push([...rows]));
    assertEquals(calls.at(-1), [["a", 3]]);
    await at.close();
    const { length } = calls;
    items.subscribe((rows) => calls.push([...rows]));
    assertEquals([calls.length, calls.at(-1)], [length + 1, [["a", 3]]]);
  });
});

/** Number of rows of which a page holds only a part. */
const MANY = 1_500;

/** Writes the rows `a` and `b` together, then more rows than a page holds, and then `a` again. */
async function change(states: LiveStates<Contract>, value: number): Promise<void> {
  await using state = await states.open("list");
  await state.transaction((to) => {
    to.set("pair", "a", value);
    to.set("pair", "b", value);
  });
  for (let i = 0; i < MANY; i += 500) {
    await state.transaction((to) => {
      for (let j = i; j < i + 500; j++) to.set("others", `${j}`, value);
    });
  }
  await state.collection("pair").set("a", value);
}

/** Notes the pairs that a reader sees, until it is stopped. */
function watch(pair: RowReader<number>): unknown[] {
  const seen: unknown[] = [];
  pair.subscribe((rows) => seen.push([rows.get("a"), rows.get("b")]));
  return seen;
}

Deno.test("a client that returns sees what it has missed in one step", async () => {
  const { server, states } = node(new FaultyStore());
  await using _server = server;
  await using _own = await states.open("list");
  await change(states, 0);
  await using cable = new Cable(Number(new URL(server.url).port));
  await using client = connect(cable.url, {
    transports: ["websocket"],
    backoff: { firstDelayMs: 1, maxDelayMs: 5 },
  });
  using state = await client.state("list");
  await state.ready;
  const pair = state.collection<number>("pair");
  const seen = watch(pair);
  const changes = state.changes();
  const first = changes.next();
  const { port } = cable;
  cable.port = 1;
  cable.cut();
  await until(() => state.status.current === "lost");
  await change(states, 1);
  cable.port = port;
  await until(() => pair.get("a") === 1);
  assertEquals(seen, [[0, 0], [1, 1]]);
  assertEquals(state.collection("others").size, MANY);
  let count = 1;
  await first;
  for await (const { value, before } of changes) {
    assertEquals([before, value], [0, 1]);
    if (++count === MANY + 2) break;
  }
});

Deno.test("a server whose broker returns sees what it has missed in one step", async () => {
  const store = new FaultyStore();
  const [one, two] = [node(store), node(store)] as const;
  await using _one = one.server;
  await using _two = two.server;
  await change(one.states, 0);
  await using state = await one.states.open("list");
  const pair = state.collection<number>("pair");
  const seen = watch(pair);
  one.broker.cut();
  await change(two.states, 1);
  assertEquals(seen, [[0, 0]]);
  one.broker.mend();
  one.broker.interrupt();
  await until(() => pair.get("a") === 1);
  assertEquals(seen, [[0, 0], [1, 1]]);
  assertEquals(state.collection("others").size, MANY);
});

Deno.test("a server names the newest position in changes that do not reach it", async () => {
  const { server, states } = node(new FaultyStore());
  await using _server = server;
  await change(states, 0);
  using page = await Page.open(server.url, "skein.1");
  await page.ask({ subscribe: "stream:list", last: Number.MAX_SAFE_INTEGER });
  const received = () => page.envelopes.filter(({ topic }) => topic === "stream:list");
  const newest = 1 + MANY / 500 + 1;
  await until(() => received().at(-1)?.offset === newest);
  const [first, ...rest] = received();
  assertEquals(first!.head, newest);
  assertEquals(rest.at(-1)!.head, undefined);
});
