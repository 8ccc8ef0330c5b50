/**
 * The requirements of every broker, for NatsBroker on one modeled server.
 * `tests/long/simulated_conformance_test.ts` repeats them, and runs them
 * with shards and on clusters.
 */
import { REQUIREMENTS } from "./conformance_fixture.ts";

for (const { name, isPair, run } of REQUIREMENTS) {
  const broker = isPair ? "NatsBroker of two nodes" : "NatsBroker";
  Deno.test(`${broker} on a modeled server ${name}`, async () => void await run(1));
}
