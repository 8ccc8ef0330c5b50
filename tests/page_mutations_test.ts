/** Tests mutations in clients: what a page shows at once, and what becomes of it. */
import { assertEquals, assertRejects } from "@std/assert";
import {
  type Broker,
  type Client,
  connect,
  type ConnectOptions,
  defineContract,
  MemoryBroker,
  RequestError,
  type Server,
} from "../mod.ts";
import { defineMutations, type MutationFunctions } from "../session/mutations/mod.ts";
import { liveState } from "../streams/mod.ts";
import { Cable } from "./networks/cable.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";
import { z } from "zod";

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

/** A server with halls. */
function open(
  options: object = {},
  { broker = new MemoryBroker(), on = mutations }: { broker?: Broker; on?: typeof mutations } = {},
): Server {
  return listen({
    webTransport: false,
    broker,
    contract,
    features: [liveState(contract, { mutations: on })],
    authorize: () => true,
    ...options,
  });
}

function page(url: string, options: Partial<ConnectOptions> = {}) {
  return connect(url, {
    ...options,
    contract,
    transports: ["websocket"],
    backoff: { firstDelayMs: 1, maxDelayMs: 5 },
  });
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => soon(promise), RequestError);
  return error.failure.code;
}

Deno.test("ClientState.mutate lets one of two clients claim a seat, and tells the other why", async () => {
  await using server = open();
  await using ann = page(server.url);
  await using bob = page(server.url);
  using near = await ann.state("hall:1", { mutations });
  using far = await bob.state("hall:1", { mutations });
  await Promise.all([near.ready, far.ready]);
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
  await using server = open();
  await using ann = page(server.url);
  await using bob = page(server.url);
  using near = await ann.state("hall:1", { mutations });
  using far = await bob.state("hall:1", { mutations });
  await Promise.all([near.ready, far.ready]);
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
