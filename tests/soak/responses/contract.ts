/**
 * The contract of the soak test of streaming responses. A response contains the numbers 0, 1, 2 and
 * so on, each exactly once and in order.
 */
import { defineContract } from "../../../mod.ts";
import { z } from "zod";

export const contract = defineContract({
  requests: {
    numbers: {
      input: z.object({ count: z.number(), betweenMs: z.number() }),
      stream: z.number(),
      resume: true,
    },
  },
});
