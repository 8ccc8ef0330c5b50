import { FaultyStore } from "../faulty_broker.ts";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import { SimulatedDisk, SimulatedSqlite, Simulation } from "../simulator/mod.ts";

for (const synchronous of ["normal", "full"] as const) {
  const clocks: AsyncDisposable[] = [];
  const open = async () => {
    const simulation = new Simulation({ seed: 1 });
    clocks.push(inRealTime(simulation));
    const host = simulation.host("a");
    host.jumpClock(Date.now() - host.runtime.now()); // Tests have dates of this year.
    const disk = new SimulatedDisk(simulation, host);
    const sqlite = await SimulatedSqlite.load(simulation);
    return sqlite.open(disk, "test.db", { synchronous });
  };
  for (const suite of [testBroker, testBrokerLogs]) {
    suite(`SqliteBroker on a simulated disk, ${synchronous},`, open, {
      makePair: async () => {
        const inner = await open();
        const broker = new FaultyStore({ make: () => inner });
        return [broker.connect(), broker.connect()];
      },
      skipSlow: true,
      teardown: async () => {
        for (const clock of clocks.splice(0)) await clock[Symbol.asyncDispose]();
      },
    });
  }
}

/** Advances virtual time at the speed of real time, for tests that wait in real time. */
function inRealTime(simulation: Simulation): AsyncDisposable {
  let isOver = false;
  const begin = performance.now();
  const passing = (async () => {
    while (!isOver) {
      await simulation.run(Math.max(0, performance.now() - begin - simulation.nowMs));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  })();
  return {
    async [Symbol.asyncDispose]() {
      isOver = true;
      await passing;
    },
  };
}
