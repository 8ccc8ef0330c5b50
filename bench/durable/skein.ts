/** Skein's durable streams in memory, for the benchmark. */
import { serve } from "../../mod.ts";
import { durableStreams } from "../../streams/mod.ts";

serve({
  port: Number(Deno.args[0]),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  features: [
    durableStreams({
      path: "/v1/stream",
      authorize: () => true,
      maxStreamBytes: 4_294_967_296,
    }),
  ],
});
