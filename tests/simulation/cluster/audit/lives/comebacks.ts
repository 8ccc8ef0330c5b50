/** Clients that come back at the rates of a server: what is refused for now is asked for again. */
import type { Client } from "../../../../../client/client.ts";
import type { Subscription } from "../../../../../client/subscription.ts";
import { CloseCode, RequestError } from "../../../../../errors.ts";
import type { Server } from "../../../../../server.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import { type Audit, hearAll } from "../audit.ts";

/** Rates of a session: fewer than a client needs that comes back. */
const RATES = {
  messages: { perSecond: 4, burst: 3 },
  subscriptions: { perSecond: 6, burst: 3 },
} as const;

/** Name of the user. */
const USER = "comeback";

/** Most rooms, and topics of each other kind. */
const [ROOMS, TOPICS] = [5, 4] as const;

/** Times that the session ends. */
const ROUNDS = 2;

/** Longest time until all is as the program wants it, in milliseconds: that of the rates, and pauses. */
const REST_MS = 9_000;

/** Longest time of a publication, in milliseconds. */
const TRIP_MS = 300;

/** Ends of a session. */
const ENDS = ["cut", "close", "move", "none"] as const;

/** A subscription, with the numbers that the loop got, and the outcomes of recoveries. */
interface Seat {
  readonly subscription: Subscription;
  readonly got: unknown[];
  readonly recoveries: string[];
}

/** A client, and what the program wants. */
interface Comeback {
  readonly audit: Audit;
  readonly random: () => number;
  readonly server: Server<unknown>;
  readonly client: Client;
  readonly rooms: readonly string[];
  readonly wanted: Map<string, unknown>;
  readonly seats: ReadonlyMap<string, Seat>;
}

/**
 * Lets a client with data in rooms and many topics come back, again and again.
 *
 * @param audit The audit.
 */
export async function auditComebacks(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("comebacks");
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    acceptsTokenInBand: true,
    authenticate: () => USER,
    userOf: () => USER,
    authorize: () => true,
    history: { "kept:{name}": {} },
    rooms: ["room:{name}"],
    presenceGraceMs: 100,
    rates: { perSession: RATES },
    onError() {},
  }));
  const client = audit.connect(USER, host, {
    backoff: { firstDelayMs: 50, maxDelayMs: 200 },
    onMessage() {},
    onRefused() {},
    onError() {},
  });
  const names = (kind: string, most: number) =>
    Array.from({ length: Math.ceil(most * random()) }, (_, i) => `${kind}:${i}`);
  const rooms = names("room", ROOMS);
  const topics = [...rooms, ...names("talk", TOPICS), ...names("kept", TOPICS)];
  const wanted = new Map<string, unknown>();
  const seats = new Map<string, Seat>();
  const comeback: Comeback = { audit, random, server, client, rooms, wanted, seats };
  for (const topic of topics) {
    const recoveries: string[] = [];
    const subscription = client.subscribe(topic, {
      onRecovery: ({ reason = "recovered" }) => void recoveries.push(reason),
    });
    const seat: Seat = { subscription, got: [], recoveries };
    seats.set(topic, seat);
    void hearAll(seat.subscription, ({ data }) => seat.got.push(data));
  }
  const first = rooms.map((room) => present(comeback, room));
  for (let round = 0; round <= ROUNDS; round++) {
    const end = round === 0 ? "none" : oneOf(random, ENDS);
    const isLost = end === "cut" || end === "close";
    const changes = round === 0
      ? first
      : rooms.filter(() => random() < 0.4).map((room) => present(comeback, room));
    const { session } = client;
    if (end === "cut") audit.cut(audit.host(USER));
    if (end === "move") await client.handOver();
    if (end === "close") {
      for (const session of server.manager.all()) void session.close({ code: CloseCode.draining });
    }
    if (isLost) {
      await audit.until(() => client.isConnected && client.session !== session, REST_MS);
    }
    const about = `(${end}, round ${round}, ${rooms.length} of ${topics.length} topics are rooms)`;
    const changed = await audit.inTime(Promise.all(changes), REST_MS, undefined);
    audit.examine("lives", `data that a server takes ${about}`, true, changed !== undefined);
    const isAtRest = () => restless(comeback) === "none";
    await audit.until(isAtRest, REST_MS);
    audit.examine("lives", `client that came back ${about}`, "none", restless(comeback));
    for (const topic of topics) server.publish(topic, round);
    await audit.pause(TRIP_MS);
    for (const [topic, { got, recoveries }] of seats) {
      audit.examine("lives", `publications on ${topic} ${about}`, [round], got.splice(0));
      const told = recoveries.splice(0);
      if (!topic.startsWith("kept:")) continue;
      // Each loss is told, a move never, as nothing is lost between the two sessions.
      audit.examine("lives", `recoveries of ${topic} ${about}`, isLost ? ["recovered"] : [], told);
    }
  }
  await client.close();
  await server.close();
}

/** Sets other data, the same again, or none, and asks again while the server refuses for now. */
async function present({ random, client, wanted, audit }: Comeback, room: string): Promise<void> {
  const which = random();
  const data = which < 0.2
    ? undefined
    : which < 0.6
    ? Math.floor(1_000 * random())
    : { n: random() };
  wanted.set(room, data);
  while (wanted.get(room) === data) {
    try {
      return await client.presence(room, data);
    } catch (error) {
      if (!(error instanceof RequestError) || error.failure.code !== "too-many") throw error;
      await audit.pause(error.failure.retryAfterMs ?? 0);
    }
  }
}

/** The first part that is not as the program wants it, in words. */
function restless({ server, client, rooms, wanted, seats }: Comeback): string {
  // The earlier session of a move ends later, as the rates hold pings as well.
  const session = server.manager.all().find(({ id }) => id === client.session?.id);
  if (session === undefined) return "session";
  const topics = server.topics.requestedBy(session as never);
  for (const [topic, { subscription }] of seats) {
    if (subscription.status.current !== "subscribed") return `subscription of ${topic}`;
    if (!topics.includes(topic)) return `topic ${topic}`;
  }
  for (const room of rooms) {
    const members = server.rooms.members(room).map(({ user, data }) => [user, data]);
    const expected = JSON.stringify([[USER, wanted.get(room)]]);
    if (JSON.stringify(members) !== expected) {
      return `members of ${room}: ${JSON.stringify(members)} in place of ${expected}`;
    }
  }
  return "none";
}
