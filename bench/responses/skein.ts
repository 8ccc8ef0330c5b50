/** Skein's streaming responses for the benchmark, with the default limits. */
import { z } from "zod";
import { defineContract, serve } from "../../mod.ts";
import { stops, words } from "./words.mjs";

const contract = defineContract({
  requests: { words: { input: z.undefined(), stream: z.string() } },
});

serve({
  port: Number(Deno.args[0]),
  hostname: "127.0.0.1",
  path: "/ws",
  webTransport: false,
  onListen() {},
  contract,
  requests: { words },
  fetch: () => Response.json(stops),
});
