/** Tests the adapter of TanStack DB with the library itself. */
import { assertEquals, assertRejects } from "@std/assert";
import { createCollection } from "npm:@tanstack/db@0.15.2";
import { connect, RequestError, serve, type Server } from "../../mod.ts";
import { stateCollection } from "../../examples/adapters/tanstack_db.ts";
import { until } from "../waiting.ts";
import { statesOf, streamFeatures } from "../stream_features.ts";

interface Card {
  readonly id: string;
  readonly title: string;
}

const getKey = ({ id }: Card) => id;

function server(mayWrite: () => boolean): Server {
  return serve({
    port: 0,
    webTransport: false,
    onListen() {},
    features: streamFeatures({ path: "/streams" }),
    authorize: (_session, _topic, action) => action === "subscribe" || mayWrite(),
    onMessageRejected() {},
  });
}

Deno.test("stateCollection() shares rows, and rolls rejected changes back", async () => {
  let mayWrite = true;
  await using own = server(() => mayWrite);
  await using board = await statesOf(own).open("board");
  const cards = board.collection<Card>("cards");
  await cards.set("1", { id: "1", title: "Tea" });
  await using client = connect(own.url);
  using state = await client.state("board");
  const collection = createCollection(stateCollection<Card>({ state, name: "cards", getKey }));
  await collection.preload();
  const shown = () => collection.toArray.map(({ id, title }) => [id, title]).sort();
  assertEquals(shown(), [["1", "Tea"]]);

  const inserting = collection.insert({ id: "2", title: "Milk" });
  assertEquals(shown(), [["1", "Tea"], ["2", "Milk"]]);
  await inserting.isPersisted.promise;
  await until(() => cards.get("2")?.title === "Milk");
  await collection.update("1", (draft) => {
    (draft as { title: string }).title = "Green tea";
  }).isPersisted.promise;
  await until(() => cards.get("1")?.title === "Green tea");
  await collection.delete("2").isPersisted.promise;
  await until(() => !cards.has("2"));
  await cards.set("3", { id: "3", title: "Bread" });
  await until(() => collection.has("3"));
  assertEquals(shown(), [["1", "Green tea"], ["3", "Bread"]]);

  mayWrite = false;
  const rejected = collection.insert({ id: "4", title: "No" });
  assertEquals(collection.has("4"), true);
  await assertRejects(() => rejected.isPersisted.promise, RequestError, "may not publish");
  await until(() => !collection.has("4"));
  await collection.cleanup();
});

Deno.test("stateCollection() fails if there is no such state", async () => {
  await using own = server(() => true);
  await using client = connect(own.url);
  using state = await client.state("none");
  const collection = createCollection(stateCollection<Card>({ state, name: "cards", getKey }));
  await assertRejects(() => collection.preload(), RequestError, "There is no state");
  await collection.cleanup();
});
