/** Mutations whose functions, clients or inputs mean no good. */
import { assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import {
  connect,
  defineContract,
  dial,
  RequestError,
  type ServeOptions,
  type StateRows,
} from "../mod.ts";
import { defineMutations, type MutationFunction } from "../session/mutations/mod.ts";
import { liveState } from "../streams/mod.ts";
import { MutatingPeer } from "./peers/mutating_peer.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";

const contract = defineContract({
  state: {
    "bank:{id}": {
      collections: { coins: z.number().int(), cards: z.string() },
      mutations: { act: z.any() },
    },
  },
});

type Act = MutationFunction<StateRows<typeof contract, "bank:1">, unknown>;

/** A server with the state `bank:1`, and the function of its mutation. */
async function open(act: Act, serve: Partial<ServeOptions> = {}) {
  await using stack = new AsyncDisposableStack();
  const errors: string[] = [];
  const states = liveState(contract, { mutations: defineMutations(contract, { act }) });
  const server = stack.use(listen({
    webTransport: false,
    contract,
    features: [states],
    authorize: () => true,
    onError: (error) => errors.push(`${error}`),
    ...serve,
  }));
  const bank = stack.use(await states.open("bank:1"));
  await bank.collection("coins").set("a", 1);
  const owned = stack.move();
  return { server, states, bank, errors, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

Deno.test("A mutation may return the promise of another library", async () => {
  await using bank = await open((tx) => {
    const work = async () => {
      await tx.set("coins", "a", 2);
      await tx.get("coins", "b");
      await tx.set("coins", "b", 3);
    };
    const promise = work();
    return { then: promise.then.bind(promise) } as Promise<void>;
  });
  await using peer = await MutatingPeer.connect(bank.server);
  assertEquals(await peer.call([["act", 0]]), [2]);
  assertEquals(Object.fromEntries(bank.bank.collection("coins")), { a: 2, b: 3 });
});

Deno.test("ClientState.mutate rejects with the function's own not-found", async () => {
  let runs = 0;
  await using bank = await open(() => {
    throw new RequestError(runs++ > 0 ? "again" : "not-found", "There is no such card");
  });
  await using client = connect(bank.server.url, { contract, transports: ["websocket"] });
  using state = await client.state("bank:1");
  await state.ready;
  const error = await assertRejects(() => soon(state.mutate.act(1)), RequestError, "no such card");
  assertEquals(error.failure.code, "not-found");
  assertEquals(runs, 1);
});

Deno.test("ClientState.mutate believes no other client that it has made the next mutation", async () => {
  const [asked, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  await using bank = await open(async (tx, input) => {
    if (input === "slow") {
      asked.resolve();
      await gate.promise;
      throw new RequestError("poor", "There are no coins");
    }
    await tx.set("cards", "b", `${input}`);
  });
  await using client = connect(bank.server.url, { contract, transports: ["websocket"] });
  using state = await client.state("bank:1");
  await state.ready;
  await using peer = await MutatingPeer.connect(bank.server);
  const seen: { readonly headers: { readonly txid: string } }[] = [];
  await using watcher = await dial(bank.server.url, {
    onMessage: ({ data }) => void seen.push(...(data as typeof seen)),
  });
  await watcher.subscribe("stream:bank:1");
  await state.mutate.act("first");
  await until(() => seen.some(({ headers }) => headers.txid));
  const { txid } = seen.at(-1)!.headers;
  const next = state.mutate.act("slow");
  await asked.promise;
  // No matter what the other client makes of the name that it has read.
  const [start, n = "0"] = txid.split(":");
  const names = { txid: start, txids: [start] };
  assertEquals(await peer.call([["act", "forged"]], { n: Number(n) + 1, ...names }), [3]);
  await until(() => state.collection("cards").get("b") === "forged");
  gate.resolve();
  await assertRejects(() => next, RequestError, "no coins");
});
