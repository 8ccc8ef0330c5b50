/**
 * The requirements of every broker, for RedisBroker on a simulated Redis.
 * `tests/long/simulated_conformance_test.ts` repeats them.
 */
import { assert } from "@std/assert";
import { Bench, requirementsOf } from "./redis_conformance_fixture.ts";

const bench = new Bench();
const requirements = requirementsOf(bench);

Deno.test("A simulated Redis has all requirements of brokers", () => {
  assert(requirements.length > 100, `${requirements.length} requirements`);
});

for (const requirement of requirements) {
  Deno.test(`${requirement.name} on a simulated Redis`, async () => {
    await bench.run(requirement, 1);
  });
}
