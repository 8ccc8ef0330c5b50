/** Tests mutations over HTTP of two nodes that share Redis or NATS. */
import { assert, assertEquals } from "@std/assert";
import { z } from "zod";
import { type Broker, defineContract, RequestError, type Server } from "../../mod.ts";
import { defineMutations } from "../../session/mutations/mod.ts";
import { durableStreams, liveState } from "../../streams/mod.ts";
import { listen, portOf } from "../servers.ts";
import { BROKERS } from "./stores.ts";

const contract = defineContract({
  state: {
    "bank:{id}": {
      collections: { coins: z.number().int().min(0), seats: z.string() },
      mutations: { move: z.null(), claim: z.string() },
      writes: "mutations",
    },
  },
});

const mutations = defineMutations(contract, {
  async move(tx) {
    const [a = 0, b = 0] = [await tx.get("coins", "a"), await tx.get("coins", "b")];
    await tx.set("coins", "a", a - 1);
    await tx.set("coins", "b", b + 1);
  },
  async claim(tx, seat) {
    if (await tx.has("seats", seat)) throw new RequestError("taken", `Seat ${seat} is taken`);
    await tx.set("seats", seat, "taken");
  },
});

function node(broker: Broker): Server<unknown, typeof contract> {
  return listen({
    broker,
    contract,
    webTransport: false,
    features: [
      liveState(contract, { mutations, onOpen: () => ({ coins: { a: 100 } }) }),
      durableStreams({ path: "/streams", authorize: () => true }),
    ],
  });
}

interface Reply {
  readonly status: number;
  readonly isReplayed: boolean;
  readonly code: unknown;
}

async function call(
  server: Server<unknown, typeof contract>,
  [name, input, key]: readonly [name: string, input: unknown, key: string],
): Promise<Reply> {
  const url = `http://127.0.0.1:${portOf(server)}/streams/bank:1?action=mutate&name=${name}`;
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": key },
    body: JSON.stringify(input),
  });
  const { status, headers } = response;
  const { code } = await response.json();
  // Under load, a store may be slow; the key makes another try safe.
  if (status === 503) return await call(server, [name, input, key]);
  return { status, code, isReplayed: headers.has("idempotency-replayed") };
}

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `A mutation over HTTP is made once for each key, on both nodes, on ${name}`,
    ignore,
    fn: async () => {
      const { store, open } = await start();
      await using _store = store;
      await using near = open();
      await using far = open();
      await using one = node(near);
      await using two = node(far);
      const at = (i: number) => i % 2 === 0 ? one : two;
      const keys = ["k", "l", "m"];
      const moves = Array.from({ length: 12 }, (_, i) => call(at(i), ["move", null, keys[i % 3]!]));
      const moved = await Promise.all(moves);
      assert(moved.every(({ status }) => status === 200), JSON.stringify(moved));
      const claims = Array.from({ length: 8 }, (_, i) => call(at(i), ["claim", "7", "n"]));
      const claimed = await Promise.all(claims);
      assert(claimed.every(({ status }) => status === 200), JSON.stringify(claimed));
      // It is none if the store's first reply was lost.
      assert(claimed.filter(({ isReplayed }) => !isReplayed).length <= 1, JSON.stringify(claimed));
      assertEquals(await call(two, ["claim", "7", "n"]), {
        status: 200,
        code: undefined,
        isReplayed: true,
      });
      assertEquals((await call(two, ["claim", "7", "o"])).code, "taken");
      assertEquals((await call(one, ["claim", "8", "n"])).code, "key-reused");
      const rows = await fetch(`http://127.0.0.1:${portOf(two)}/streams/bank:1?offset=-1`);
      const coins = (await rows.json()).filter(({ type }: { type?: string }) => type === "coins");
      const amounts = coins.map(({ key, value }: { key: string; value: number }) => [key, value]);
      assertEquals(new Map(amounts), new Map([["a", 97], ["b", 3]]));
    },
  });
}
