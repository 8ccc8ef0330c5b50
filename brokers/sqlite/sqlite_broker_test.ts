// run_tests: alone, and first, because these tests take longest.
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { RUNS_SLOW } from "../../tools/run_tests/slow.ts";
import { sqliteFiles } from "./files_fixture.ts";

// Files that are synced at each commit, and workers, are tested in tests/brokers/.
const { open, teardown, pass } = sqliteFiles("normal");

for (const suite of [testBroker, testBrokerLogs]) {
  suite("SqliteBroker", open, {
    makePair: async () => {
      const inner = await open();
      const broker = new FaultyStore({ make: () => inner });
      return [broker.connect(), broker.connect()];
    },
    skipSlow: !RUNS_SLOW,
    teardown,
    pass,
  });
}
