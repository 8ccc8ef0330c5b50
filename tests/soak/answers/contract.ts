/** The contract of the soak test of answers: numbers from 0, each once and in order. */
import { defineContract } from "../../../mod.ts";
import { z } from "zod";

/** The contract. */
export const contract = defineContract({
  requests: {
    numbers: {
      input: z.object({ count: z.number(), betweenMs: z.number() }),
      stream: z.number(),
      resume: true,
    },
  },
});
