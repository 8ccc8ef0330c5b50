/** The contract of a storm, and the mutations of its state. */
import { defineContract } from "../../../client.ts";
import { defineMutations } from "../../../session/mutations/mod.ts";
import { z } from "zod";

const write = z.object({
  load: z.string(),
  number: z.number(),
  kind: z.string(),
  user: z.string().nullable(),
});

export const contract = defineContract({
  toServer: { note: write, chat: write, news: write },
  toClient: { chat: write, news: write },
  requests: {
    task: { input: write, output: z.string() },
    "write data": { input: z.null(), output: z.string() },
  },
  state: {
    board: {
      collections: {
        cards: z.object({ number: z.number() }),
        counts: z.object({ added: z.number() }),
      },
      mutations: { add: z.object({ key: z.string(), number: z.number() }) },
    },
  },
});

export const mutations = defineMutations(contract, {
  /** Adds a card, and counts it in a row that all pages change. A card that exists is an error. */
  async add(tx, { key, number }) {
    const { added = 0 } = await tx.get("counts", "total") ?? {};
    await tx.insert("cards", key, { number });
    await tx.set("counts", "total", { added: added + 1 });
  },
});
