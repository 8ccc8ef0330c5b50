/** Replays of several histories at once into a send queue with little room, over a slow way. */
import { HIGH_WATER_MARK } from "../../../../../session/queue/turn.ts";
import { internals, type Session } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { range, read } from "../history.ts";

/** Sizes of a publication: many in a frame, some, and one alone. */
const SIZES = [2_000, 25_000, 34_000, 67_000] as const;

/** Bytes that a client misses at most. */
const MISSED_BYTES = 1_000_000;

/** Bytes of the answers to all subscriptions, which are in no page and count as messages. */
const ANSWERS_BYTES = 2_048;

/** Longest time of all replays beside that of the bytes, in milliseconds. */
const REPLAY_MS = 4_000;

/**
 * Lets a client miss publications of several topics, and come back.
 *
 * @param audit The audit.
 */
export async function auditReplays(audit: Audit): Promise<void> {
  const { random, network } = audit;
  const room = 4 + Math.floor(5 * random());
  const size = oneOf(random, SIZES);
  // A publication, or messages of this session alone, come in the middle of the replays.
  const isShared = random() < 0.6;
  const fill = Math.floor((HIGH_WATER_MARK - ANSWERS_BYTES) * random());
  const topics = range(1, isShared ? 4 + Math.floor(2 * random()) : 2).map((i) => `topic:${i}`);
  const most = Math.floor(MISSED_BYTES / size / topics.length);
  const missed = Math.min(room * 2, most);
  const bytesPerSecond = 300_000 + 2_000_000 * random();
  let opened = 0;
  const host = audit.host("replays");
  const { server } = new SimulatedServer<unknown>(network, host, () => ({
    authorize: () => true,
    history: { "topic:{name}": {} },
    session: { sendQueue: { maxMessages: room } },
    // The connection is nearly behind before the first page.
    onOpen(session) {
      opened++;
      session.send("fill", "x".repeat(fill));
    },
  }));
  const client = audit.connect("replayed", host, { token: undefined, onMessage() {} });
  const isLate = random() < 0.3;
  const text = "x".repeat(size);
  let count = 0;
  const publish = (times: number) => {
    for (let i = 0; i < times; i++) {
      count++;
      for (const topic of topics) server.publish(topic, { n: count, text });
    }
  };
  const machine = audit.host("replayed");
  await audit.until(() => client.isConnected);
  const follow = () => topics.map((topic) => read(client, topic, isLate ? { last: missed } : {}));
  let readings = isLate ? [] : follow();
  const isReady = () =>
    readings.every(({ subscription }) => subscription.status.current === "subscribed");
  await audit.until(isReady);
  network.change(host, machine, { bytesPerSecond });
  if (isLate) {
    publish(missed);
    readings = follow();
  } else {
    audit.cut(machine);
    await audit.until(() => server.manager.count === 0);
    publish(missed);
  }
  let deepest = 0;
  const withinMs = REPLAY_MS + 2_000 * topics.length * missed * size / bytesPerSecond;
  const isWhole = () => readings.every(({ got }) => got.at(-1) === count);
  let isOneMore = false;
  const half = room >> 1;
  let notes = 0;
  /** Fills the half of the queue that pages leave to other messages. */
  const note = () => {
    const [session] = server.manager.all() as (Session | undefined)[];
    const { queue } = session?.[internals] ?? {};
    if (notes > 0 || !queue?.isHeld || queue.stats.queuedMessages < Math.max(1, half - 1)) return;
    // Answers would take room as well.
    if (!isReady() || readings.every(({ got }) => got.length === 0) || isWhole()) return;
    for (; notes < half; notes++) session!.send("note");
  };
  await audit.until(() => {
    for (const session of server.manager.all() as Session[]) {
      deepest = Math.max(deepest, session[internals].queue!.stats.queuedMessages);
    }
    if (isShared && !isOneMore && readings.some(({ got }) => got.length > 1)) {
      isOneMore = true;
      publish(1);
    }
    if (!isShared) note();
    return (isOneMore || !isShared) && isWhole();
  }, withinMs);
  network.change(host, machine, { bytesPerSecond: Infinity });
  const about =
    `of ${topics.length} topics, ${missed} of ${size} bytes, room ${room}, fill ${fill}`;
  const all = topics.map(() => range(1, count));
  audit.examine("queues", `replays ${about}`, all, readings.map(({ got }) => got));
  const told = readings.flatMap(({ recoveries }) => recoveries)
    .filter(({ recovered }) => !recovered);
  audit.examine("queues", `gaps in replays ${about}`, [], told);
  audit.examine(
    "queues",
    `queue of ${deepest} in replays ${about}`,
    true,
    deepest <= room + topics.length,
  );
  audit.examine("queues", `sessions for replays ${about}`, isLate ? 1 : 2, opened);
  await client.close();
  await server.close();
}
