/** Moves in a row of a client, whose sessions each have a way of their own, some of which are slow. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll } from "../audit.ts";
import { range } from "../history.ts";

/** Name of the client, and beginning of the names of machines. */
const NAME = "detours";

/** Topics without and with a history. */
const TOPICS = ["talk:detours", "talk:detours", "kept:detours"] as const;

/** Moves of one round, and rounds. */
const [MOVES, ROUNDS] = [[2, 2, 3], 2] as const;

/** Times of a slow way, in milliseconds. */
const SLOW_MS = [1, 40, 200, 500] as const;

/** Longest time between two publications, and between two moves, in milliseconds. */
const [BETWEEN_MS, SOON_MS] = [25, 60] as const;

/** Longest time until a client has one session and all publications, in milliseconds. */
const REST_MS = 6_000;

/**
 * Moves a client again while the rest of earlier sessions is on its way: each publication comes once,
 * and in order.
 *
 * @param audit The audit.
 */
export async function auditDetours(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const [machine, node] = [audit.host(NAME), audit.host(`${NAME}-node`)];
  const ways = range(0, Math.max(...MOVES)).map((i) => {
    const front = audit.host(`${NAME}-way-${i}`);
    audit.network.front(front, [node]);
    return front;
  });
  const { server } = new SimulatedServer<unknown>(audit.network, node, () => ({
    authorize: () => true,
    history: { "kept:{name}": {} },
    onError() {},
  }));
  let way = ways[0]!;
  const client = audit.connect(NAME, () => way, {
    token: undefined,
    transports: [oneOf(random, ["websocket", "websocket", "webtransport"] as const)],
    onMessage() {},
    onError() {},
  });
  const seats = TOPICS.map((topic) => {
    const seat = { subscription: client.subscribe(topic), got: [] as number[] };
    void hearAll(seat.subscription, ({ data }) => seat.got.push((data as { n: number }).n));
    return seat;
  });
  const isAtRest = () =>
    client.isConnected && server.manager.count === 1 &&
    seats.every(({ subscription: { status } }) => status.current === "subscribed");
  let next = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const isReady = await audit.until(isAtRest, REST_MS);
    audit.examine("lives", `client at rest before round ${round} of detours`, true, isReady);
    const first = next;
    let isMoving = true;
    const publishing = (async () => {
      while (isMoving) {
        for (const topic of new Set(TOPICS)) server.publish(topic, { n: next });
        next++;
        await audit.pause(between(random, 1, BETWEEN_MS));
      }
    })();
    const times: number[] = [];
    const others = ways.filter((one) => one !== way);
    const moves = oneOf(random, MOVES);
    for (const other of others.slice(0, moves)) {
      await audit.pause(between(random, 0, SOON_MS));
      const delayMs = oneOf(random, SLOW_MS);
      times.push(delayMs);
      audit.network.change(way, machine, { delayMs });
      way = other;
      const isMoved = await client.handOver();
      audit.examine("lives", `move behind ways of ${times} ms`, true, isMoved);
    }
    await audit.pause(between(random, 0, Math.max(...SLOW_MS) * 1.5));
    isMoving = false;
    await publishing;
    for (const one of ways) audit.network.change(one, machine, { delayMs: 1 });
    await audit.until(() => seats.every(({ got }) => got.at(-1) === next - 1), REST_MS);
    for (const { subscription: { topic }, got } of seats) {
      const what = `publications on ${topic} behind ways of ${times} ms`;
      audit.examine("lives", what, range(first, next - 1), got.splice(0));
    }
  }
  await client.close();
  await server.close();
}
