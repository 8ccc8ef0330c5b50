/** Arguments of topics, rooms and managers, at their bounds and beyond. */
import { SessionManager } from "../../../../manager/mod.ts";
import { Presence, Rooms, type Topics } from "../../../../pubsub/mod.ts";
import type { Server } from "../../../../server.ts";
import type { Session } from "../../../../session/session.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import type { Audit } from "./audit.ts";
import { type Case, MAX_TIMER_MS, type Options, TOPIC_BYTES } from "./cases.ts";

/** Bytes of the prefix of notices about a room. */
const NOTICE_BYTES = 9;

/** Longest time of a message, in milliseconds. */
const ROUND_MS = 100;

/** Options of rooms. */
const ROOMS: readonly Case[] = [
  { path: "patterns.room:{name}.members", fits: ["list", "count"], type: ["none", "", 5] },
  ...["gatherAbove", "gatherMs"].map((name) => ({
    path: `patterns.room:{name}.${name}`,
    fits: [0, MAX_TIMER_MS],
    range: [-1, 0.5, NaN, MAX_TIMER_MS + 1, "5"],
  })),
  {
    path: "patterns.room:{name}.maxDataBytes",
    fits: [0, 4_096],
    range: [-1, 0.5, NaN, 4_097, "5"],
  },
];

/** Arguments of topics and rooms, by the call. */
const CALLS: Readonly<Record<string, readonly Case[]>> = {
  subscribe: [
    { path: "last", fits: [0, 3, undefined], range: [-1, 0.5, NaN, Infinity, "1"] },
    {
      path: "topic",
      fits: ["a", "x".repeat(TOPIC_BYTES), "ü".repeat(127)],
      range: ["x".repeat(TOPIC_BYTES + 1), "ü".repeat(128)],
      type: ["", "$skein:nodes", "stream:a", 5],
    },
  ],
  publish: [
    {
      path: "topic",
      fits: ["a", "x".repeat(TOPIC_BYTES)],
      range: ["x".repeat(TOPIC_BYTES + 1)],
      type: ["", "$skein:nodes", "stream:a", 5],
    },
    {
      path: "from",
      fits: ["a", "x".repeat(TOPIC_BYTES), undefined],
      type: [
        "",
        "x".repeat(TOPIC_BYTES + 1),
        5,
      ],
    },
  ],
  unsubscribe: [
    { path: "code", fits: ["a", "x".repeat(64), undefined], type: ["", "x".repeat(65), 5] },
  ],
  leaveAll: [
    { path: "code", fits: ["a", "x".repeat(64), undefined], type: ["", "x".repeat(65), 5] },
  ],
  ...Object.fromEntries(["join", "update", "publishInRoom"].map((call) => [call, [{
    path: "topic",
    fits: ["a", "x".repeat(TOPIC_BYTES - NOTICE_BYTES)],
    range: ["x".repeat(TOPIC_BYTES - NOTICE_BYTES + 1)],
    type: ["", "presence:a", 5],
  }]])),
};

/** Arguments of one call. */
interface Given {
  readonly topic?: string;
  readonly last?: number;
  readonly from?: string;
  readonly code?: string;
}

/**
 * Calls topics, rooms and the manager of a server, with a session.
 *
 * @param audit The audit.
 * @param options Tries the values.
 */
export async function auditArguedCalls(audit: Audit, options: Options): Promise<void> {
  const host = audit.host("callee");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "nobody" }) => token,
  }));
  const { topics } = server;
  const client = audit.connect("caller", host, { onMessage() {} });
  const { far: session } = await audit.meet(client, server);
  const presence = new Presence({ runtime: host.runtime });
  const parts = { topics, presence };
  await options.try(
    "rooms:",
    ROOMS,
    (given) => new Rooms({ ...parts, ...given })[Symbol.dispose](),
  );
  const rooms = new Rooms(parts);
  const calls: Readonly<Record<string, (given: Given) => unknown>> = {
    subscribe: ({ topic = "a", ...rest }) => topics.subscribe(session, topic, rest),
    publish: ({ topic = "a", ...rest }) => topics.publish(topic, 1, rest),
    unsubscribe: (given) => topics.unsubscribe(session, "a", given),
    leaveAll: (given) => {
      topics.subscribe(session, "left");
      topics.leaveAll(session, given);
    },
    join: ({ topic = "a" }) => rooms.join(session, topic),
    update: ({ topic = "a" }) => rooms.update(session, topic, { data: 1 }),
    publishInRoom: ({ topic = "a" }) => rooms.publish(topic, 1),
  };
  for (const [name, call] of Object.entries(calls)) {
    await options.try(`${name}():`, CALLS[name]!, call);
  }
  await auditPlaces(audit, options, server, session);
  await auditMembership(audit, { topics, rooms, session });
  const noHistory = await options.outcome(() => topics.read("a").next());
  audit.examine("limits", "read() of a topic without a history", "UnsupportedError", noHistory);
  rooms[Symbol.dispose]();
  await client.close();
  await server.close();
}

/** Adds a session to a manager again, or with a place of another manager: neither counts. */
async function auditPlaces(
  audit: Audit,
  options: Options,
  { manager }: Server<string>,
  session: Session,
): Promise<void> {
  const { runtime } = audit.host("callee");
  const other = new SessionManager({ runtime });
  const adding = {
    "a session again": () => manager.add(session),
    "a session with a place of another manager": () => {
      using reservation = manager.admit();
      other.add(session, { reservation });
    },
    "a session with a place that was given back": () => {
      const reservation = manager.admit();
      reservation[Symbol.dispose]();
      other.add(session, { reservation });
    },
  };
  const counts = () => [manager, other].map((one) => [one.count, one.stats().reserved].join());
  const before = counts();
  for (const [what, add] of Object.entries(adding)) {
    audit.examine("limits", `manager that adds ${what}`, "TypeError", await options.outcome(add));
  }
  audit.examine("limits", "sessions and places of managers that refused", before, counts());
}

/** Leaves all topics at once, with the rooms among these, and joins behind the bound of topics. */
async function auditMembership(audit: Audit, { topics, rooms, session }: {
  readonly topics: Topics;
  readonly rooms: Rooms;
  readonly session: Session;
}): Promise<void> {
  topics.leaveAll(session);
  audit.examine("limits", "rooms behind leaveAll()", "", `${rooms.roomsOf(session)}`);
  rooms.join(session, "one");
  topics.subscribe(session, "two");
  rooms.join(session, "three");
  audit.examine("limits", "rooms of a session", "one,three", `${rooms.roomsOf(session)}`);
  const names = [topics.topicsOf(session), rooms.roomsOf(session), rooms.members("one").length];
  audit.examine("limits", "topics of a session", "one,two,three,one,three,1", `${names}`);
  topics.leaveAll(session, { code: "over" });
  await audit.pause(ROUND_MS);
  const left = [topics.topicsOf(session), rooms.roomsOf(session), topics.subscribers("one")];
  audit.examine("limits", "topics behind leaveAll()", ["", "", ""], left.map(String));
}
