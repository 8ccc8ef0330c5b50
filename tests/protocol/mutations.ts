/** The mutations of vectors; docs/protocol/vectors/README.md explains them. */
import { z } from "zod";
import { RequestError } from "../../errors.ts";
import { type Contract, defineContract } from "../../session/contract.ts";
import { defineMutations, type Mutations } from "../../session/mutations/mod.ts";

/** A contract with the state `hall`, and its mutations. */
export interface Hall {
  readonly contract: Contract;
  readonly mutations: Mutations;
}

/**
 * Defines the state `hall`.
 *
 * @param writes Which changes of clients the server accepts.
 * @returns The contract, and the functions of its mutations.
 */
export function hall(writes: "mutations" | "rows"): Hall {
  const contract = defineContract({
    state: {
      hall: {
        collections: { seats: z.string(), counts: z.number() },
        mutations: {
          claim: z.object({ seat: z.string(), owner: z.string() }),
          add: z.object({ key: z.string(), n: z.number() }),
          fill: z.string(),
          fail: z.null(),
        },
        writes,
      },
    },
  });
  const mutations = defineMutations(contract, {
    async claim(tx, { seat, owner }) {
      if (await tx.has("seats", seat)) throw new RequestError("taken", `${seat} is taken`);
      await tx.set("seats", seat, owner);
    },
    async add(tx, { key, n }) {
      await tx.set("counts", key, (await tx.get("counts", key) ?? 0) + n);
    },
    async fill(tx, seat) {
      let count = 0;
      for await (const _seat of tx.entries("seats")) count++;
      if (count >= 2) throw new RequestError("enough", "There are two seats");
      await tx.set("seats", seat, "");
    },
    fail() {
      throw new Error("Internal detail");
    },
  });
  // Only the types depend on the contract.
  return { contract: contract as Contract, mutations: mutations as unknown as Mutations };
}
