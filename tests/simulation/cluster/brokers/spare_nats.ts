/** A spare NATS, for trials of brokers. */
import { NatsBroker } from "../../../../pubsub/nats/mod.ts";
import { simulatedNatsConnect } from "../../../../testing/simulation/nats/client.ts";
import { SimulatedNats } from "../../../../testing/simulation/nats/engine.ts";
import { SPARE_HOST, type SpareEngine, type SpareParts } from "./spare.ts";

/** Time in which clients come back, in milliseconds. */
const DROP_MS = 1_000;

/**
 * Starts a server, which keeps streams in files or in memory.
 *
 * @param parts See {@linkcode SpareParts}.
 * @returns The engine.
 */
export function startSpareNats({ simulation, network, random }: SpareParts): SpareEngine {
  const host = simulation.host(SPARE_HOST);
  const storage = random() < 0.5 ? "file" : "memory";
  const survivesRestart = storage === "file" && random() < 0.5;
  const nats = new SimulatedNats(simulation, network, [host]);
  return {
    host,
    keepsEpochs: survivesRestart,
    keepsRows: storage === "file",
    hasWindow: true,
    hasOneConnection: true,
    hiccups: {
      "drops clients": { lastsMs: DROP_MS, begin: () => nats.disconnectClients(host) },
      "loses consumers": { lastsMs: DROP_MS, begin: () => nats.loseConsumers() },
    },
    get subscriptions() {
      return nats.subscriptions;
    },
    broker: (machine, { giveUpMs, maxWaiting, pingMs }) =>
      new NatsBroker({
        servers: nats.servers,
        ignoreClusterUpdates: true,
        pingInterval: pingMs,
        connect: simulatedNatsConnect(network, machine, [host]),
      }, { runtime: machine.runtime, giveUpMs, maxWaiting, storage, survivesRestart }),
    restart: () => nats.restart(host),
  };
}
