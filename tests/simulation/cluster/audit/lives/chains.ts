/** Clients that move again while earlier sessions are open, which end in any order. */
import type { Session } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Most moves of a client, and the least. */
const MOVES = [2, 4] as const;

/** Share of sessions that a request holds open, and the times of these, in milliseconds. */
const [HELD_SHARE, HELD_MS] = [0.5, [500, 3_000]] as const;

/** Longest time between two moves, in milliseconds; the rest of a session without a request is shorter. */
const BETWEEN_MS = 700;

/** Time between two messages, in milliseconds. */
const MESSAGE_MS = 25;

/** Longest time until all sessions but one are over, in milliseconds. */
const REST_MS = 6_000;

/** Topic of messages to the user, two topics, and a room. */
const [NOTE, TALK, ROOM] = ["note", "talk:chain", "room:chain"] as const;

/** The user, and the beginning of the names of machines. */
const USER = "chain";

/**
 * Moves a client several times, with messages to the user and publications all the time: each comes
 * once, and the user counts as one.
 *
 * @param audit The audit.
 */
export async function auditChains(audit: Audit): Promise<void> {
  const random = audit.chanceOf("chains");
  const host = audit.host(`${USER}-server`);
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: () => USER,
    userOf: (user) => user,
    authorize: () => true,
    rooms: ["room:{name}"],
    requests: { hold: ({ data }) => audit.pause(Number(data)).then(() => true) },
    onMessage() {},
  }));
  const notes: number[] = [];
  const client = audit.connect(USER, host, {
    transports: [oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const)],
    requests: {
      hold: ({ data }: { readonly data: unknown }) => audit.pause(Number(data)).then(() => true),
    } as never,
    onMessage: ({ topic, data }) => void (topic === NOTE && notes.push(Number(data))),
  });
  const got = [TALK, ROOM].map((topic) => {
    const numbers: number[] = [];
    const subscription = client.subscribe(topic);
    void hearAll(subscription, ({ data }) => void numbers.push(Number(data)));
    return { topic, subscription, numbers };
  });
  await audit.until(() =>
    got.every(({ subscription: { status } }) => status.current === "subscribed")
  );
  let next = 0;
  const reached = new Set<number>();
  const subscribers = new Set<number>();
  const members = new Set<string>();
  const send = () => {
    reached.add(server.to(USER).send(NOTE, next));
    for (const { topic } of got) {
      server.publish(topic, next);
      subscribers.add(server.topics.subscribers(topic).length);
    }
    members.add(server.rooms.members(ROOM).map(({ user }) => user).join());
    next++;
  };
  let isOver = false;
  const sending = (async () => {
    for (; !isOver; await audit.pause(MESSAGE_MS)) send();
  })();
  const held: Promise<string>[] = [];
  const moved: boolean[] = [];
  const moves = Math.floor(between(random, MOVES[0], MOVES[1] + 1));
  const lives: string[] = [];
  for (let move = 0; move < moves; move++) {
    const heldMs = random() < HELD_SHARE ? between(random, ...HELD_MS) : 0;
    const [session] = server.manager.sessionsOf(USER).filter(({ id }) => id === client.session?.id);
    const isOwn = random() < 0.5;
    if (heldMs > 0) {
      held.push(outcomeOf(
        isOwn ? client.request("hold", heldMs) : (session as Session).request("hold", heldMs),
      ));
    }
    lives.push(`${Math.round(heldMs)}`);
    await audit.pause(between(random, 0, BETWEEN_MS / 4));
    moved.push(await client.handOver());
    await audit.pause(between(random, 0, BETWEEN_MS));
  }
  await audit.until(() => server.manager.count === 1, REST_MS);
  isOver = true;
  await sending;
  await audit.pause(BETWEEN_MS);
  const about = `on ${client.session?.transport}, sessions held for ${lives.join(", ")} ms`;
  const expect = (what: string, expected: unknown, received: unknown) =>
    audit.examine("lives", `${what}, ${about}`, expected, received);
  expect("moves in a row", moved.map(() => true), moved);
  expect("requests beside moves in a row", held.map(() => "fulfilled"), await Promise.all(held));
  expect("sessions behind moves in a row", 1, server.manager.count);
  expect("sessions that a message reached", [1], [...reached]);
  expect(
    "messages to a user that moves in a row",
    range(0, next - 1),
    notes.toSorted((a, b) => a - b),
  );
  expect("subscribers of a topic", [1], [...subscribers]);
  expect("members of a room", [USER], [...members]);
  for (const { topic, numbers } of got) {
    const missing = range(0, next - 1).filter((n) => !numbers.includes(n));
    expect(`publications on ${topic}, behind moves in a row`, [[], next], [
      missing,
      numbers.length,
    ]);
  }
  await client.close();
  await server.close();
}
