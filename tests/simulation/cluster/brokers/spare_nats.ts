/** A spare NATS, for trials of brokers. */
import { NatsBroker } from "../../../../pubsub/nats/mod.ts";
import { simulatedNatsConnect } from "../../../../testing/simulation/nats/client.ts";
import { JETSTREAM_TROUBLES } from "../../../../testing/simulation/nats/bus.ts";
import { SimulatedNats } from "../../../../testing/simulation/nats/engine.ts";
import { oneOf } from "../chance.ts";
import { SPARE_HOST, type SpareEngine, type SpareParts } from "./spare.ts";

/** Time in which clients come back, in milliseconds. */
const DROP_MS = 1_000;

/**
 * Times of a trouble of JetStream, of which one is drawn, in milliseconds: below and above the time in
 * which a queue waits with further appends, and above the longest wait for an answer.
 */
const TROUBLE_MS = [300, 1_300, 3_000, 6_500] as const;

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
  const troubles = JETSTREAM_TROUBLES.map((trouble) => {
    const lastsMs = oneOf(random, TROUBLE_MS);
    const losesRequests = trouble === "lost requests";
    const hiccup = { lastsMs, losesRequests, begin: () => nats.disturb(trouble, lastsMs) };
    return [`has ${trouble} for ${lastsMs} ms`, hiccup] as const;
  });
  return {
    host,
    keepsEpochs: survivesRestart,
    keepsRows: storage === "file",
    hasWindow: true,
    hasOneConnection: true,
    hiccups: {
      "drops clients": { lastsMs: DROP_MS, begin: () => nats.disconnectClients(host) },
      "loses consumers": { lastsMs: DROP_MS, begin: () => nats.loseConsumers() },
      ...Object.fromEntries(troubles),
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
