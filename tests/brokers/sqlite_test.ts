/**
 * Runs the suite for every broker on SQLite that syncs each commit, and on workers whose main
 * thread uses SQLite.
 */
import { sqliteFiles } from "../../brokers/sqlite/files_fixture.ts";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import { connectTo } from "../../pubsub/ports/ports_fixture.ts";
import { LOGS_PART } from "../../streams/logs/logs_of.ts";
import { FaultyStore } from "../faulty_broker.ts";

const synced = sqliteFiles("full");

for (const suite of [testBroker, testBrokerLogs]) {
  suite("SqliteBroker, synced,", synced.open, {
    makePair: async () => {
      const inner = await synced.open();
      const store = new FaultyStore({ make: () => inner });
      return [store.connect(), store.connect()];
    },
    teardown: synced.teardown,
    pass: synced.pass,
  });
}

const { open, teardown, pass } = sqliteFiles("normal");

for (const suite of [testBroker, testBrokerLogs]) {
  suite("PortBroker on SQLite", async () => connectTo(await open(), 1, [LOGS_PART])[0]!, {
    makePair: async () => {
      const [one, two] = connectTo(await open(), 2, [LOGS_PART]);
      return [one!, two!];
    },
    teardown,
    pass,
  });
}
