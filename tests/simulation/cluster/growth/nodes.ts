/** Nodes that offer all services and have short retention times. */
import { AuthenticationError } from "../../../../errors.ts";
import type { ServerOptions } from "../../../../server.ts";
import type { Contract } from "../../../../session/contract.ts";
import { pause } from "../../../../base/wait.ts";
import type { Host } from "../../../simulator/host.ts";
import { SimulatedServer, type SimulatedServerOptions } from "../../../simulator/programs.ts";
import { type Examiner, readAll } from "./examiner.ts";
import { brokersInMemory } from "../node_ports.ts";
import { inspector, metrics } from "../../../../operations/mod.ts";
import { httpApi } from "../../../../operations/http_api/mod.ts";
import { streamFeatures } from "../../../stream_features.ts";
import { resumable } from "../../../../streams/mod.ts";

/** Paths of the HTTP API and of durable streams. */
export const [API, STREAMS] = ["/api", "/streams"] as const;

/** Name of the machine of the store. */
export const BROKER = "growth-broker";

/** Topic with a history. */
export const KEPT_TOPIC = "growth:one";

/** Room in which some users stay while others come and go. */
export const KEPT_ROOM = "room:kept";

/** Prefixes of tokens that a server rejects or never decides on. */
export const [REJECTED, UNDECIDED] = ["rejected-", "undecided-"] as const;

/** Prefix of the names of users that stay. */
export const RESIDENT = "resident";

/**
 * Lifetimes of the credentials of a user that stays, and of other users, in milliseconds. The
 * simulation keeps a stopped timer, and with it the session, until the timer is due.
 */
const [STAY_MS, VISIT_MS] = [600_000, 70_000] as const;

/**
 * Maximum number of sessions per user, of requests per session, and of bytes in an append over
 * HTTP.
 */
export const [MAX_SESSIONS, MAX_REQUESTS, MAX_APPEND_BYTES] = [3, 28, 10_000] as const;

/** Duration of a rights check for a slow topic, in milliseconds. */
const SLOW_MS = 80;

/**
 * Interval between a response's items, and duration of a request that no client waits for, in
 * milliseconds.
 */
const [ITEM_MS, HELD_MS] = [20, 5_000] as const;

/** Number of messages per second and user. */
export const RATE = 30;

/**
 * Time for which a server remembers message numbers, results of keys, and responses, in
 * milliseconds.
 */
const KEEPS_MS = 5_000;

/** A node. A client's token is the name of the user. */
export type Node = SimulatedServer<string>;

/**
 * Starts the nodes on a store in memory.
 *
 * @returns Two nodes that run all the time, and a node that may die.
 */
export function startNodes(examiner: Examiner): readonly [Node, Node, Node] {
  const brokerOf = brokersInMemory(examiner.simulation, examiner.host(BROKER));
  const start = (name: string) =>
    new SimulatedServer<string>(examiner.network, examiner.host(name), (host) => ({
      broker: brokerOf(host),
      ...rules(),
      authorize: (_, topic) => isAllowed(host, topic),
      tokens: {
        inMessage: true,
        expiresAt: (user) => host.runtime.now() + (user.startsWith(RESIDENT) ? STAY_MS : VISIT_MS),
      },
      requests: requestsOf(host),
    }));
  return [start("growth-a"), start("growth-b"), start("growth-c")];
}

/** The options of one server that need no machine. */
const rules = (): Partial<SimulatedServerOptions<string, Contract>> => ({
  authenticate: ({ token = "guest" }) => {
    if (token.startsWith(REJECTED)) throw new AuthenticationError("planned");
    return token.startsWith(UNDECIDED) ? new Promise(() => {}) : token;
  },
  history: { "growth:{name}": { size: 8 } },
  rooms: ["room:{name}"],
  presence: { graceMs: KEEPS_MS },
  includePublisher: true,
  features: [
    ...streamFeatures(
      {
        path: STREAMS,
        authorize: () => true,
        maxAppendBytes: MAX_APPEND_BYTES,
        maxReadersPerAddress: MAX_SESSIONS,
        longPollMs: 2_000,
      },
      { retainMs: KEEPS_MS, maxRunningPerUser: 1_000 },
    ),
    httpApi({ path: API, authorize: () => true, idempotencyWindowMs: KEEPS_MS }),
    inspector({ authorize: () => true, payloads: true }),
    metrics(),
  ],
  rates: {
    perUser: { messages: { perSecond: RATE } },
    perAddress: { connections: { perSecond: 100 } },
  },
  limits: { maxSessionsPerUser: MAX_SESSIONS },
  session: { maxRequests: MAX_REQUESTS },
  async onStream(stream) {
    if (stream.direction === "bidirectional") await stream.readable.pipeTo(stream.writable);
    else throw new Error("planned");
  },
  onOpen: ({ datagrams }) => void readAll(datagrams.readable, () => {}),
  onMessage: ({ topic }, session) => {
    if (topic === "back") session.send("back", 1);
    if (topic === "throw") throw new Error("planned");
  },
  onError() {},
  onSessionRejected() {},
});

/** Decides whether to allow a topic, by the prefix of its name. */
function isAllowed({ runtime }: Host, topic: string): boolean | Promise<boolean> {
  if (topic.startsWith("broken")) throw new Error("planned");
  if (!/^(room:)?slow/.test(topic)) return !topic.startsWith("denied");
  return pause(runtime, SLOW_MS).then(() => true);
}

function requestsOf(host: Host): NonNullable<ServerOptions<string>["requests"]> {
  async function* count(from: number, data: unknown, signal: AbortSignal) {
    for (let index = from; index < Number(data) && !signal.aborted; index++) {
      await pause(host.runtime, ITEM_MS);
      yield { index };
    }
  }
  return {
    echo: ({ data }) => data,
    fails: () => {
      throw new Error("planned");
    },
    async *breaks({ data, signal }) {
      yield* count(0, data, signal);
      throw new Error("planned");
    },
    "keep-breaks": {
      resumable,
      cost: 0,
      async *handle({ data, signal }) {
        yield* count(0, data, signal);
        throw new Error("planned");
      },
    },
    hold: ({ signal }) => pause(host.runtime, HELD_MS, signal),
    count: ({ data, signal }) => count(0, data, signal),
    keep: {
      resumable,
      cost: 0,
      handle: ({ data, signal }) => count(0, data, signal),
      resume: ({ data }, { count: from, signal }) => count(from, data, signal),
    },
  };
}
