import { assert, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { testBrokerLogs } from "./suite.ts";

Deno.test("testBrokerLogs() fails each test of a broker without logs", async () => {
  const tests: Deno.TestDefinition[] = [];
  {
    using _test = stub(Deno, "test", ((one: Deno.TestDefinition) => void tests.push(one)) as never);
    const make = () => new FaultyStore().connect({ without: ["logs"] });
    testBrokerLogs("Plain", make, { makePair: () => [make(), make()] });
  }
  assert(tests.length > 50, `${tests.length} tests`);
  for (const { name, fn } of tests) {
    const run = async () => await fn(undefined as never);
    await assertRejects(run, Error, "Expected the memory broker to have logs", name);
  }
});
