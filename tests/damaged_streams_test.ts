/** Tests streams whose data another program has damaged: all who use them learn the reason. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { connect, RequestError } from "../mod.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { durableStreams, liveState } from "../streams/mod.ts";
import { listen } from "./servers.ts";

for (
  const [what, damage] of [
    ["its state", "UPDATE logs SET state = 'x' WHERE name = 'board'"],
    [
      "a row",
      "UPDATE log_rows SET change = 'x' WHERE log = (SELECT id FROM logs WHERE name = 'board')",
    ],
  ] as const
) {
  Deno.test(`A state in a damaged file ends with a reason until it is deleted: ${what}`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const path = `${folder}/test.db`;
      await fill(path);
      const db = new DatabaseSync(path);
      assertEquals(db.prepare(damage).run().changes, 1);
      db.close();
      await using broker = await SqliteBroker.open(path);
      const errors: unknown[] = [];
      const [streams, states] = features();
      await using server = listen({
        broker,
        webTransport: false,
        features: [streams, states],
        authorize: () => true,
        onError: (error) => errors.push(error),
      });
      for (let i = 0; i < 2; i++) {
        const error = await assertRejects(() => states.open("board"), RequestError);
        assertEquals(error.failure.code, "damaged");
        assertMatch(error.message, /"board" is damaged.*Delete the stream/);
      }
      assertEquals(errors.length, what === "its state" ? 1 : 0);
      if (what === "its state") {
        assertMatch(broker.issues().join(), /The stream "board" is damaged/);
        await using client = connect(server.url, { transports: ["websocket"] });
        const page = await client.state("board");
        const write = page.collection("cards").set("b", 1);
        for (const promise of [page.ready, write]) {
          const error = await assertRejects(() => promise, RequestError);
          assertEquals(error.failure.code, "damaged");
        }
        assertEquals(page.status.current, "ended");
        const response = await fetch(`${server.url.replace("ws", "http")}streams/board`);
        assertEquals([response.status, (await response.json()).code], [500, "damaged"]);
        assertEquals(errors.length, 1);
      }
      await using other = await states.open("other");
      assertEquals(other.collection("cards").get("a"), 1);
      assert(await streams.delete("board"));
      await using board = await states.open("board");
      assertEquals(board.collection("cards").size, 0);
      await board.collection("cards").set("a", 2);
      assertEquals(broker.issues(), []);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

function features() {
  return [durableStreams({ path: "/streams", authorize: () => true }), liveState()] as const;
}

/** Writes two states to a file, of which the first has a row that the second does not have. */
async function fill(path: string): Promise<void> {
  await using broker = await SqliteBroker.open(path);
  const [streams, states] = features();
  await using _server = listen({ broker, webTransport: false, features: [streams, states] });
  for (const id of ["board", "other"]) {
    await using state = await states.open(id);
    await state.collection("cards").set("a", 1);
  }
}
