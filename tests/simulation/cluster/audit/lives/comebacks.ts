/** Clients that come back at the rates of a server: what is refused for now is asked for again. */
import type { Client } from "../../../../../client/client.ts";
import type { Subscription } from "../../../../../client/subscription.ts";
import { CloseCode, RequestError } from "../../../../../errors.ts";
import { defineContract } from "../../../../../session/contract.ts";
import type { Server } from "../../../../../server.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { z } from "zod";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll, outcomeOf } from "../audit.ts";
import { auditDelays } from "./delays.ts";
import { auditHandedBacklogs } from "./handed_backlogs.ts";
import { auditLoops } from "./loops.ts";
import { auditLostTails } from "./lost_tails.ts";
import { auditPublications } from "./publications.ts";
import { auditReaders } from "./readers.ts";
import { auditRefusedReaders } from "./refused_readers.ts";
import { auditSilences } from "./silences.ts";
import { StatusReader } from "./status_reader.ts";
import { auditUpgrades } from "./upgrades.ts";

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

/** Ends of a session whose data has to come again, most of them a loss. */
const CHANGE_ENDS = ["cut", "close", ...ENDS] as const;

/** Longest time between the last loss of a session and the close of the client, in milliseconds. */
const CLOSE_MS = 300;

/** Name of the user whose data a server may refuse for good, the rooms, and the rounds. */
const [CHANGER, CHANGED, CHANGE_ROUNDS] = ["changer", ["room:x", "room:y"], 4] as const;

/** The contract of that data. */
const CHANGE_CONTRACT = defineContract({
  presence: { "room:{name}": z.object({ n: z.number(), text: z.string() }) },
});

/** A text that fits the contract, and is longer than data may be. */
const LONG_TEXT = "x".repeat(600);

/** Most changes at once, and longest time between two of these and of a packet, in milliseconds. */
const [CHANGES, STEP_MS, DELAY_MS] = [7, 60, 40] as const;

/** Time until a user without sessions has left: shorter than the pause before a session. */
const [GRACE_MS, BACK_MS] = [10, 200] as const;

/** Share of ends behind which the data changes before the next session. */
const BETWEEN_SHARE = 0.4;

/** Kinds of data, some of which a server refuses. */
const KINDS = ["other data", "none", "other data", "too large", "invalid", "no JSON"] as const;

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
 * Lets a client with data in rooms and many topics come back, again and again, another one whose data
 * is refused now and then, one that has to wait between attempts, one that publishes more than may be
 * on the way, one that subscribes to one topic several times, one whose loop pauses, and some with
 * several transports, which may move to the preferred one, one whose history lost its end, and one
 * that moves with a backlog.
 *
 * @param audit The audit.
 */
export async function auditComebacks(audit: Audit): Promise<void> {
  await Promise.all([
    auditRates(audit),
    auditChanges(audit),
    auditDelays(audit),
    auditPublications(audit),
    auditReaders(audit),
    auditRefusedReaders(audit),
    auditSilences(audit),
    auditLoops(audit),
    auditUpgrades(audit),
    auditLostTails(audit),
    auditHandedBacklogs(audit),
  ]);
}

/** Lets a client come back at rates that are lower than what the client needs. */
async function auditRates(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("comebacks");
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    allowTokenMessage: true,
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
  const readers: Pick<StatusReader<unknown>, "examine">[] = [
    new StatusReader(audit, "a client", client.status),
  ];
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
    readers.push(new StatusReader(audit, topic, subscription.status));
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
    for (const reader of readers) await reader.examine(about);
  }
  if (random() < 0.5) {
    audit.cut(audit.host(USER));
    await audit.pause(between(random, 0, CLOSE_MS));
  }
  await client.close();
  for (const reader of readers) await reader.examine("behind the close");
  await server.close();
}

/** Lets a client change data in rooms, some of which the server refuses for good, and come back. */
async function auditChanges(audit: Audit): Promise<void> {
  const random = audit.chanceOf(CHANGER);
  const [host, machine] = [audit.host("changes"), audit.host(CHANGER)];
  const { server } = new SimulatedServer(audit.network, host, () => ({
    contract: CHANGE_CONTRACT,
    allowTokenMessage: true,
    authenticate: () => CHANGER,
    userOf: () => CHANGER,
    authorize: () => true,
    rooms: ["room:{name}"],
    presenceGraceMs: GRACE_MS,
    onError() {},
  }));
  audit.change(host, machine, { delayMs: between(random, 1, DELAY_MS) });
  const refused: string[] = [];
  const client = audit.connect(CHANGER, host, {
    backoff: { firstDelayMs: BACK_MS, maxDelayMs: BACK_MS },
    onMessage() {},
    onRefused: ({ code }) => void refused.push(code),
    onError() {},
  });
  for (const room of CHANGED) void hearAll(client.subscribe(room), () => {});
  const isThere = () => client.isConnected && server.manager.count === 1;
  await audit.until(isThere);
  /** Data that the server took last. */
  const taken = new Map<string, unknown>();
  let next = 0;
  /** Changes data in one room after the other, without a wait for the answers. */
  const change = async (rooms: readonly string[]) => {
    const changes: { readonly kind: string; readonly outcome: Promise<string> }[] = [];
    for (const room of rooms) {
      const kind = oneOf(random, KINDS);
      const data = dataOf(kind, next++);
      changes.push({ kind, outcome: outcomeOf(client.presence(room, data)) });
      if (kind === "other data" || kind === "none") taken.set(room, data);
      if (random() < 0.3) await audit.pause(between(random, 0, STEP_MS));
    }
    return changes;
  };
  const members = () => CHANGED.map((room) => server.rooms.members(room).map(({ data }) => data));
  const expected = () => CHANGED.map((room) => [taken.get(room)]);
  for (let round = 0; round < CHANGE_ROUNDS; round++) {
    const end = oneOf(random, CHANGE_ENDS);
    const count = Math.ceil(CHANGES * random());
    const changes = await change(Array.from({ length: count }, () => oneOf(random, CHANGED)));
    const told = changes.map(({ kind }) => kind).join(", ");
    const outcomes = await Promise.all(changes.map(({ outcome }) => outcome));
    const about = (what: string) => `${what} (${told}, then ${end}, round ${round})`;
    const named = outcomes.map(nameOf);
    const right = changes.map(({ kind }) => outcomeFor(kind));
    audit.examine("lives", about("data in rooms"), right, named);
    const isRight = () => JSON.stringify(members()) === JSON.stringify(expected());
    await audit.until(isRight);
    audit.examine("lives", about("data of members"), expected(), members());
    const { session } = client;
    if (end === "cut") audit.cut(machine);
    if (end === "move") await client.handOver();
    if (end === "close") {
      for (const session of server.manager.all()) void session.close({ code: CloseCode.draining });
    }
    // Once in each room, as a session that begins gets the newest data alone.
    const later = end !== "none" && random() < BETWEEN_SHARE ? await change(CHANGED) : [];
    if (end !== "none") await audit.until(() => isThere() && client.session !== session);
    const all = (await Promise.all(later.map(({ outcome }) => outcome))).map(nameOf);
    const due = later.map(({ kind }) => outcomeFor(kind));
    audit.examine("lives", about("data at the end"), due, all);
    await audit.until(isRight);
    await audit.pause(2 * STEP_MS);
    audit.examine("lives", about("data of members in the next session"), expected(), members());
    // Data that a server refused for good is not sent again.
    const most = due.filter((outcome) => outcome !== "fulfilled").length;
    const isOften = refused.splice(0).length > most;
    audit.examine("lives", about("data that is refused again"), false, isOften);
  }
  await client.close();
  await server.close();
}

/** Makes data for a room. */
function dataOf(kind: typeof KINDS[number], n: number): unknown {
  switch (kind) {
    case "none":
      return undefined;
    case "other data":
      return { n, text: "" };
    case "too large":
      return { n, text: LONG_TEXT };
    case "invalid":
      return { n: "one", text: "" };
    case "no JSON":
      return 1n;
  }
}

/** The outcome without the message of an error. */
function nameOf(outcome: string): string {
  return outcome.split(":")[0]!;
}

/** The outcome of data. */
function outcomeFor(kind: string): string {
  if (kind === "no JSON") return "TypeError";
  return kind === "too large" || kind === "invalid" ? kind.replace(" ", "-") : "fulfilled";
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
