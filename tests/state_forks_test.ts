/** Forks into the ids of states whose rows are checked. */
import { assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import { defineContract, RequestError } from "../mod.ts";
import type { ServeOptions } from "../server.ts";
import { listen } from "./servers.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";

const contract = defineContract({
  state: {
    "game:{id}": {
      players: z.object({ score: z.number().max(100), team: z.string().default("red") }),
      cursors: { schema: z.any(), ephemeral: true },
    },
  },
});

const HEADERS = { "content-type": "application/json" };

function house(options: ServeOptions = {}, hasContract = true) {
  const server = listen({
    webTransport: false,
    ...(hasContract && { contract }),
    features: streamFeatures({ path: "/streams", authorize: () => true }),
    ...options,
  } as ServeOptions);
  const ask = async (method: string, id: string, headers: object = {}, body?: unknown) => {
    const { status } = await server.fetch(
      new Request(`http://localhost/streams/${id}`, {
        method,
        headers: { ...HEADERS, ...headers },
        body: body === undefined ? null : JSON.stringify(body),
      }),
    );
    return status;
  };
  const write = (id: string, type: string, value: unknown) =>
    ask("POST", id, {}, { type, key: "eve", value, headers: { operation: "upsert" } });
  return { server, ask, write, [Symbol.asyncDispose]: () => server.close() };
}

const keyed = { "stream-keyed": "true" };
const from = (id: string) => ({ "stream-forked-from": `/streams/${id}` });

Deno.test("No client forks into an id whose rows the contract or authorizeChange checks", async () => {
  for (const isKeyedByHeader of [true, false]) {
    for (const hasContract of [true, false]) {
      await using one = house({ authorizeChange: ({ id }) => id === "notes" }, hasContract);
      const header = isKeyedByHeader ? keyed : {};
      assertEquals(await one.ask("PUT", "notes", keyed), 201);
      assertEquals(await one.write("notes", "players", { score: 1e9 }), 204);
      assertEquals(await one.ask("PUT", "game:eve", { ...from("notes"), ...header }), 403);
      assertEquals(await streamsOf(one.server).info("game:eve"), undefined);
    }
  }
});

Deno.test("A client still forks keyed streams into ids that nothing checks", async () => {
  await using one = house();
  assertEquals(await one.ask("PUT", "notes", keyed), 201);
  assertEquals(await one.ask("PUT", "copy", from("notes")), 201);
  assertEquals(await one.ask("PUT", "game:eve", from("notes")), 403);
});

Deno.test("No client takes the id of a state for a stream that is not keyed", async () => {
  await using one = house();
  assertEquals(await one.ask("PUT", "plain"), 201);
  assertEquals(await one.ask("PUT", "game:1"), 409);
  assertEquals(await one.ask("PUT", "game:1", from("plain")), 409);
  await using game = await statesOf(one.server).open("game:1");
  assertEquals(game.collection("players").size, 0);
});

Deno.test("DurableStreams.create() fits the rows of a fork into the contract", async () => {
  await using one = house();
  const streams = streamsOf(one.server);
  const fork = (source: string, id: string) =>
    streams.create(id, { keyed: true, fork: { source } });
  const cases: [type: string, value: unknown, code: string | undefined][] = [
    ["players", { score: 7 }, undefined],
    ["players", { score: 1e9 }, "invalid"],
    ["admins", true, "unknown-collection"],
    ["cursors", 1, "ephemeral"],
  ];
  for (const [i, [type, value, code]] of cases.entries()) {
    await streams.create(`notes-${i}`, { keyed: true });
    assertEquals(await one.write(`notes-${i}`, type, value), 204);
    const forked = fork(`notes-${i}`, `game:${i}`);
    if (code === undefined) await forked;
    else {
      const { failure } = await assertRejects(() => forked, RequestError);
      assertEquals(failure.code, code);
      assertEquals(await streams.info(`game:${i}`), undefined);
    }
  }
  await using game = await statesOf(one.server).open("game:0");
  // The fork has the results of the schema, and the versions of its source.
  const entries = [...game.collection("players")];
  assertEquals([entries, game.version], [[["eve", { score: 7, team: "red" }]], 1]);
  // Between ids of the same pattern, the rows have been checked.
  await fork("game:0", "game:copy");
  await using copy = await statesOf(one.server).open("game:copy");
  assertEquals([...copy.collection("players")], entries);
  assertEquals(await one.write("game:copy", "players", { score: 101 }), 400);
  // A deleted row needs no check, and stays deleted.
  await game.collection("players").delete("eve");
  await fork("game:0", "game:empty");
  await using empty = await statesOf(one.server).open("game:empty");
  assertEquals(empty.collection("players").size, 0);
});
