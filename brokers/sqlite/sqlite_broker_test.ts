// run_tests: alone, and first, as these tests take longest.
import { FaultyEngine } from "../../tests/faulty_broker.ts";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { connectTo } from "../../pubsub/ports/_ports_test.ts";
import { SqliteBroker } from "./mod.ts";

for (const synchronous of ["normal", "full"] as const) {
  const folders: string[] = [];
  const engines: SqliteBroker[] = [];
  const open = async () => {
    const folder = await Deno.makeTempDir();
    folders.push(folder);
    const engine = await SqliteBroker.open(`${folder}/test.db`, { synchronous });
    engines.push(engine);
    return engine;
  };
  const teardown = async () => {
    for (const engine of engines.splice(0)) await engine.close();
    for (const folder of folders.splice(0)) await Deno.remove(folder, { recursive: true });
  };
  testBroker(`SqliteBroker, ${synchronous},`, open, {
    makePair: async () => {
      const inner = await open();
      const engine = new FaultyEngine({ make: () => inner });
      return [engine.connect(), engine.connect()];
    },
    teardown,
  });
  // Ports see no difference between the levels.
  if (synchronous === "full") continue;
  testBroker("PortBroker on SqliteBroker", async () => {
    return connectTo(await open(), 1)[0]!;
  }, {
    makePair: async () => {
      const [one, two] = connectTo(await open(), 2);
      return [one!, two!];
    },
    teardown,
  });
}
