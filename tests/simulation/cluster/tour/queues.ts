/** Bursts of messages in one turn of the event loop, each larger than the send queue. */
import { Broadcast } from "../../../../session/queue/broadcast.ts";
import { HIGH_WATER_MARK } from "../../../../session/queue/send_queue.ts";
import { internals, type Session } from "../../../../session/session.ts";
import { encodeMessage } from "../../../../session/wire/encode.ts";
import type { Client } from "../../../../client/client.ts";
import { CLIENT_QUEUE } from "../settings.ts";
import { BURST, DROPS } from "./holds.ts";
import type { Tour } from "./tour.ts";

/**
 * Data that makes a message so large that a few fill a queue, and small enough for small queues.
 */
const PAD = "x".repeat(600);

/** Data so large that the limit on bytes is reached before the limit on messages. */
const LARGE_PAD = "x".repeat(8_192);

/** Limits of a send queue. */
interface Bounds {
  readonly maxMessages: number;
  readonly maxBytes: number;
}

/** Sends bursts to guests with each policy, and a burst from a guest. */
export async function visitQueues(tour: Tour): Promise<void> {
  const node = tour.node(2);
  const { sendQueue } = tour.settings.terms;
  const host = tour.host("queues");
  for (const policy of DROPS) await dropping(tour, policy);
  await dropping(tour, "drop-oldest", LARGE_PAD);

  const { client, session } = await open("queue", []);
  const topic = `${BURST}close`;
  const server = burst(session, sendQueue, topic);
  examineFull("a node", server, sendQueue);
  await examineEnd("a node", session.closed);
  await client.close();

  const heavy = await open("heavy", []);
  const load = burst(heavy.session, sendQueue, topic, LARGE_PAD);
  tour.examine("queues", "burst of large messages", "QueueFullError", load.error);
  const isWithin = load.mostBytes <= sendQueue.maxBytes;
  tour.examine(
    "queues",
    `${load.mostBytes} bytes of large messages within the limit`,
    true,
    isWithin,
  );
  const isUsed = load.mostBytes + 2 * LARGE_PAD.length > sendQueue.maxBytes;
  tour.examine("queues", `${load.mostBytes} bytes of large messages admitted`, true, isUsed);
  await examineEnd("large messages", heavy.session.closed);
  await heavy.client.close();

  const shared = await open("shared", []);
  const { queue } = shared.session[internals];
  const broadcast = new Broadcast(node.server.topics.flusher);
  broadcast.add(shared.session, shared.session[internals].queue!);
  for (let n = 0; n < lengthOf(sendQueue, PAD); n++) {
    broadcast.send(encodeMessage(topic, { n, PAD }, { maxBytes: Infinity }));
  }
  await tour.until(() => shared.session.isClosed || queue!.isHeld, 100);
  const waiting = queue!.stats.queuedMessages;
  tour.examine("queues", "broadcast within the bound", "true", waiting <= sendQueue.maxMessages);
  await examineEnd("a broadcast", shared.session.closed);
  await shared.client.close();

  const own = await open("sender", []);
  const near = own.client.session!;
  const sent = burst(near, CLIENT_QUEUE, topic);
  examineFull("a client", sent, CLIENT_QUEUE);
  await examineEnd("a client", near.closed);
  await own.client.close();

  async function open(
    name: string,
    got: number[],
    onDropped?: (count: number) => void,
  ): Promise<{ readonly client: Client; readonly session: Session }> {
    const client = tour.guest(host, name, node, {
      onMessage: ({ data }) => void got.push((data as { readonly n: number }).n),
      ...(onDropped && { onDropped }),
    });
    await tour.outcome(client);
    const session = node.server.manager.sessionsOf(`guest-${name}`)[0];
    if (session === undefined) throw new Error(`Cannot tour: guest ${name} must have a session`);
    return { client, session: session as Session };
  }

  async function dropping(
    tour: Tour,
    policy: typeof DROPS[number],
    pad: string = PAD,
  ): Promise<void> {
    const got: number[] = [];
    let dropped = 0;
    const { client, session } = await open(policy, got, (count) => dropped += count);
    const topic = BURST + policy;
    const { sent, most, error } = burst(session, sendQueue, topic, pad);
    tour.examine("queues", `error of ${policy}`, "none", error);
    // The queue contains one notice in addition to the messages.
    const isBounded = most <= sendQueue.maxMessages + 1;
    tour.examine("queues", `bound of ${policy}`, "true", isBounded);
    await tour.until(() => got.length + dropped >= sent);
    tour.examine(
      "queues",
      `messages with those dropped by ${policy}`,
      `${sent}`,
      got.length + dropped,
    );
    tour.examine("queues", `drops by ${policy}`, "true", dropped > 0);
    // Dropped messages free their space, and the other messages fill the queue.
    const fill = Math.min(sendQueue.maxMessages, sendQueue.maxBytes / (pad.length + 64));
    const isFull = policy === "latest" || got.length >= Math.floor(fill);
    tour.examine("queues", `room of messages that ${policy} drops`, "true", isFull);
    const isOrdered = got.every((n, i) => i === 0 || n > got[i - 1]!);
    tour.examine("queues", `order of the rest of ${policy}`, "true", isOrdered);
    const edge = policy === "drop-newest"
      ? got.indexOf(sendQueue.maxMessages >> 1) >= 0
      : got.at(-1) === sent - 1;
    tour.examine("queues", `messages that ${policy} keeps`, "true", edge);
    tour.examine("queues", `session after ${policy}`, "connected", session.state);
    await client.close();
  }

  function examineFull(end: string, { most, error, sent }: Burst, { maxMessages }: Bounds): void {
    tour.examine("queues", `burst of ${end}`, "QueueFullError", error);
    tour.examine("queues", `deepest queue of ${end}`, `${maxMessages}`, most);
    tour.examine("queues", `room for a burst of ${end}`, "true", sent >= maxMessages);
  }

  async function examineEnd(
    end: string,
    closed: Promise<{ readonly code: number }>,
  ): Promise<void> {
    let code = 0;
    void closed.then((info) => code = info.code);
    await tour.until(() => code !== 0, 6_000);
    tour.examine("queues", `close after a burst of ${end}`, "4507", code || "none");
  }
}

/** The outcome of a burst. */
interface Burst {
  readonly sent: number;
  /** Maximum number of messages in the queue. */
  readonly most: number;
  /** Maximum number of bytes in the queue. */
  readonly mostBytes: number;
  readonly error: string;
}

/** Number of messages in a burst that overflows the connection's buffer and the queue. */
function lengthOf({ maxMessages, maxBytes }: Bounds, pad: string): number {
  const { length } = pad;
  return Math.min(maxMessages, Math.ceil(maxBytes / length)) +
    Math.ceil(3 * HIGH_WATER_MARK / length);
}

function burst(
  session: Session | NonNullable<Client["session"]>,
  bounds: Bounds,
  topic: string,
  pad: string = PAD,
): Burst {
  const { queue } = session[internals];
  let most = 0;
  let mostBytes = 0;
  let sent = 0;
  let error = "none";
  try {
    while (sent < lengthOf(bounds, pad)) {
      session.send(topic, { n: sent, pad });
      sent++;
      const { queuedMessages, queuedBytes } = queue!.stats;
      most = Math.max(most, queuedMessages);
      mostBytes = Math.max(mostBytes, queuedBytes);
    }
  } catch (thrown) {
    error = thrown instanceof Error ? thrown.name : `${thrown}`;
  }
  return { sent, most, mostBytes, error };
}
