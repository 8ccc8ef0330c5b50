/** Tests that loops end when they should, even if what they read never stops changing. */
import { assert, assertEquals } from "@std/assert";
import type { Client, Server } from "../mod.ts";
import { testServer } from "../testing/mod.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";
import { soon, until } from "./waiting.ts";

/** A loop, and the party that goes on changing what the loop reads. */
interface Loop extends AsyncDisposable {
  readonly items: AsyncIterable<unknown>;
  /** Makes a change, and waits until the loop could read it. */
  change(n: number): Promise<unknown>;
  end(): unknown;
}

interface Sides {
  readonly server: Server;
  readonly client: Client;
}

/** Reads a state on one of the two sides, where another handle keeps the rows up to date. */
async function stateLoop(
  { server, client }: Sides,
  side: "server" | "client",
  read: "rows" | "changes",
): Promise<Loop> {
  const writer = await statesOf(server).open("list");
  const open = async () => {
    if (side === "server") return await statesOf(server).open("list");
    const state = await client.state("list");
    await state.ready;
    return state;
  };
  const [state, other] = [await open(), await open()];
  const rows = other.collection<number>("items");
  return {
    items: read === "rows" ? state.collection("items") : state.changes(),
    async change(n) {
      await writer.collection<number>("items").set(`${n % 2}`, n);
      await until(() => rows.get(`${n % 2}`) === n);
    },
    end: () => state[Symbol.asyncDispose](),
    async [Symbol.asyncDispose]() {
      for (const handle of [state, other, writer]) await handle[Symbol.asyncDispose]();
    },
  };
}

/** Reads a durable stream that has records, until a signal aborts. */
async function streamLoop(
  { server, client }: Sides,
  read: "read" | "follow" | "client",
): Promise<Loop> {
  const streams = streamsOf(server);
  const ending = new AbortController();
  const { signal } = ending;
  const writer = await streams.create<number>("log");
  for (let n = 0; n < 3; n++) await writer.append(n);
  return {
    items: read === "client"
      ? client.durableStream("log", { signal })
      : streams[read]("log", { signal }),
    change: (n) => writer.append(n),
    end: () => ending.abort(ENOUGH),
    [Symbol.asyncDispose]: () => writer.close(),
  };
}

/** The reason with which a signal ends a loop. */
const ENOUGH = new Error("enough");

/** Returns whether a loop is over. */
async function isOver(items: AsyncIterator<unknown>): Promise<boolean> {
  try {
    return (await soon(items.next())).done === true;
  } catch (error) {
    assertEquals(error, ENOUGH);
    return true;
  }
}

const LOOPS: Readonly<Record<string, (sides: Sides) => Promise<Loop>>> = {
  "over a collection on a server": (sides) => stateLoop(sides, "server", "rows"),
  "over a collection in a client": (sides) => stateLoop(sides, "client", "rows"),
  "over changes() on a server": (sides) => stateLoop(sides, "server", "changes"),
  "over changes() in a client": (sides) => stateLoop(sides, "client", "changes"),
  "over DurableStreams.read()": (sides) => streamLoop(sides, "read"),
  "over DurableStreams.follow()": (sides) => streamLoop(sides, "follow"),
  "over a durable stream in a client": (sides) => streamLoop(sides, "client"),
};

for (const [name, open] of Object.entries(LOOPS)) {
  Deno.test(`a loop ${name} ends although changes go on`, async () => {
    await using server = testServer({ authorize: () => true, features: streamFeatures() });
    await using client = server.connect();
    await using loop = await open({ server, client });
    const items = loop.items[Symbol.asyncIterator]();
    const first = items.next();
    let changes = 0;
    await loop.change(changes++);
    await soon(first);
    // The loop falls behind.
    for (let i = 0; i < 3; i++) await loop.change(changes++);
    await loop.end();
    // It may yield the newest values once more.
    for (let more = 0; !await isOver(items); more++) {
      assert(more < 1);
      await loop.change(changes++);
    }
  });
}
