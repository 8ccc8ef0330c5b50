/** A spare NATS, for trials of brokers. */
import { NatsBroker } from "../../../../brokers/nats/mod.ts";
import { simulatedNatsConnect } from "../../../simulator/nats/client.ts";
import { JETSTREAM_TROUBLES, type JetStreamTrouble } from "../../../simulator/nats/bus.ts";
import { SimulatedNats } from "../../../simulator/nats/nats.ts";
import { oneOf, shuffled } from "../chance.ts";
import { SPARE_HOST, type SpareParts, type SpareStore } from "./spare.ts";

/** Time until clients reconnect, in milliseconds. */
const DROP_MS = 1_000;

/**
 * Durations of JetStream faults in milliseconds, one of which is chosen at random. They are below
 * and above the time for which a queue holds back further appends, and above the maximum wait for a
 * reply.
 */
const TROUBLE_MS = [300, 1_300, 3_000, 6_500] as const;

/** Faults in which requests are lost. */
const REQUESTS: ReadonlySet<JetStreamTrouble> = new Set(["lost requests", "lost messages"]);

/** Faults in which requests are answered with status 503. */
const REJECTIONS: ReadonlySet<JetStreamTrouble> = new Set(["no responders", "no leader"]);

/**
 * Faults during reconnects, two kinds of which are chosen at random, and their durations in
 * milliseconds. A broker's streams do not open at first.
 */
const [COMEBACKS, COMEBACK_MS] = [
  ["no responders", "no leader", "lost requests", "lost answers"],
  [1_300, 3_000, 6_500],
] as const;

/** Shares of lost messages, one of which is chosen at random. */
const LOST_SHARES = [1, 0.4] as const;

/** Time during which a server stores some publications but replies to none, in milliseconds. */
const MUTE_MS = 600;

/** Share of the requests that such a server loses. */
const MUTE_SHARE = 0.4;

/** Number of consecutive short faults, and their maximum duration and pause in milliseconds. */
const SHORT = { count: 6, mostMs: 400, pauseMs: 200 } as const;

/**
 * Starts a server that stores streams in files or in memory.
 *
 * @param parts See {@linkcode SpareParts}.
 */
export function startSpareNats({ simulation, network, random, number }: SpareParts): SpareStore {
  const host = simulation.host(SPARE_HOST + number);
  const storage = random() < 0.5 ? "file" : "memory";
  const survivesRestart = storage === "file" && random() < 0.5;
  const nats = new SimulatedNats(simulation, network, [host]);
  const troubles = JETSTREAM_TROUBLES.map((trouble) => {
    const lastsMs = oneOf(random, TROUBLE_MS);
    const share = oneOf(random, LOST_SHARES);
    const all = share === 1 && trouble === "lost requests" && "all requests";
    const hiccup = {
      lastsMs,
      keepsConnections: true,
      ...(REQUESTS.has(trouble) && { loses: all || "some requests" as const }),
      rejects: REJECTIONS.has(trouble),
      begin: () => nats.disturb(trouble, lastsMs, { requests: share, answers: share }),
    };
    return [`has ${trouble} (${share}) for ${lastsMs} ms`, hiccup] as const;
  });
  const comebacks = shuffled(random, COMEBACKS).slice(0, 2).map((trouble) => {
    const lastsMs = oneOf(random, COMEBACK_MS);
    const begin = () => {
      nats.disturb(trouble, lastsMs);
      nats.disconnectClients(host);
    };
    const hiccup = { lastsMs, begin, rejects: REJECTIONS.has(trouble) };
    return [`drops clients, and has ${trouble} for ${lastsMs} ms`, hiccup] as const;
  });
  const disturbShortly = (left: number) => {
    if (left === 0) return;
    const forMs = SHORT.mostMs * random();
    const trouble = oneOf(random, JETSTREAM_TROUBLES);
    const share = oneOf(random, LOST_SHARES);
    nats.disturb(trouble, forMs, { requests: share, answers: share });
    host.after(forMs + SHORT.pauseMs * random(), () => disturbShortly(left - 1));
  };
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
      ...Object.fromEntries(comebacks),
      // This fault is listed twice, because more depends on which requests are lost.
      ...Object.fromEntries([1, 2].map((nth) => [`keeps some and answers none (${nth})`, {
        lastsMs: MUTE_MS,
        keepsConnections: true,
        loses: "some requests",
        begin: () => nats.disturb("lost messages", MUTE_MS, { requests: MUTE_SHARE }),
      }])),
      "has short troubles in a row": {
        lastsMs: SHORT.count * (SHORT.mostMs + SHORT.pauseMs),
        keepsConnections: true,
        loses: "some requests",
        begin: () => disturbShortly(SHORT.count),
      },
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
