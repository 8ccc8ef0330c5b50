/** Messages, publications and replies behind a slow way: the queue acts by policy each time. */
import { MAX_JOINED_BYTES } from "../../../../../session/queue/frames.ts";
import { HIGH_WATER_MARK, type OverflowPolicy } from "../../../../../session/queue/turn.ts";
import { internals, type Session } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Server } from "../../../../../server.ts";
import { oneOf } from "../../chance.ts";
import type { AnySession, Audit } from "../audit.ts";
import { range } from "../history.ts";
import { QueueModel } from "./queue_model.ts";
import { FILLER, SlowWay } from "./slow_way.ts";

/** Policies that drop. */
const DROPS = ["drop-oldest", "drop-newest", "latest"] as const satisfies readonly OverflowPolicy[];

/** Times that the connection falls behind. */
const ROUNDS = 3;

/** Time of a session to close, in milliseconds. */
const CLOSE_MS = 2_000;

/** Further time of a client over HTTP, whose posts follow each other, in milliseconds. */
const POSTS_MS = 1_500;

/** Time of a close and the events around, in milliseconds. */
const ROUND_MS = 300;

/** Requests that wait for their replies. */
const REQUESTS = 2;

/** Bytes of a message that shares no frame with another one. */
const ALONE = 34_000;

/** Data of a message. */
interface Numbered {
  readonly n: number;
}

/** Topics of messages that fill the queue: of one session, and of all. */
const [FULL, SHARED] = ["drop-oldest:one", "drop-oldest:all"];

/** Topic of replies in names. */
const REPLY = "reply";

/** Name of a message, from its topic and data. */
const nameOf = (topic: string, n: number) => `${topic} ${n}`;

/** Tells if a name is that of a reply. */
const isReplyTo = (name: string) => name.startsWith(REPLY);

/**
 * Sends by one end of a session while the way to the other end is blocked, and compares with the
 * reference.
 *
 * @param audit The audit.
 */
export async function auditSends(audit: Audit): Promise<void> {
  const { random } = audit;
  const isServer = random() < 0.75;
  const transport = oneOf(
    random,
    ["websocket", "websocket", "websocket", "http", "webtransport"] as const,
  );
  const control = oneOf(random, ["drop-newest", "drop-newest", ...DROPS] as const);
  // Either bound comes first.
  const isByBytes = random() < 0.2;
  const bounds = {
    maxMessages: isByBytes ? 200 : 4 + Math.floor(13 * random()),
    maxBytes: isByBytes ? 12_000 : 1 << 20,
    policy: (topic: string) =>
      topic === "" ? control : DROPS.find((policy) => topic.startsWith(policy)) ?? "close",
  };
  const bytesPerSecond = 100_000 + 900_000 * random();
  const got: string[] = [];
  const gates: (() => void)[] = [];
  // A server is told of drops, but does not tell the application.
  let told = 0;
  const near = { sendQueue: bounds, closeTimeoutMs: CLOSE_MS };
  const far = {
    onMessage({ topic, data }: { readonly topic: string; readonly data: unknown }) {
      if (topic === FILLER) return;
      const n = data instanceof Uint8Array ? (data[0]! << 8) + data[1]! : (data as Numbered).n;
      got.push(nameOf(topic, n));
    },
    onDropped: (count: number) => void (told += count),
  };
  const requests = {
    later: ({ data }: { readonly data: unknown }) =>
      new Promise((resolve) => gates.push(() => resolve(data))),
  };
  const host = audit.host("sends");
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { concurrency: REQUESTS, ...(isServer && near) },
    ...(isServer ? { requests } : { onMessage: far.onMessage }),
    onError() {},
  }));
  const client = audit.connect("sender", host, {
    token: undefined,
    transports: [transport],
    onError() {},
    ...(isServer ? far : { ...near, concurrency: REQUESTS, requests: requests as never }),
  });
  const { near: local, far: remote } = await audit.meet(client, server);
  const session: AnySession = isServer ? remote : local;
  const asker: AnySession = isServer ? local : remote;
  const peer = audit.host("sender");
  const way = new SlowWay(audit, isServer ? { from: host, to: peer } : { from: peer, to: host });
  const { queue } = session[internals];
  if (isServer) { for (const topic of topicsOf("all")) server.subscribe(remote, topic); }
  let n = 0;
  const size = (topic: string, data: unknown) => JSON.stringify({ topic, data }).length;
  const about = `by ${isServer ? "a server" : "a client"} over ${transport}`;

  for (let round = 0; round < ROUNDS; round++) {
    const model = new QueueModel(bounds);
    const pad = "x".repeat(
      oneOf(random, [10, 700, isByBytes ? 2_000 : 12_000, isByBytes ? 3_000 : ALONE]),
    );
    const replies = Array.from({ length: isByBytes ? 0 : REQUESTS }, async () => {
      const reply: unknown = await asker.request("later", ++n).catch(() => -1);
      got.push(nameOf(REPLY, reply as number));
    });
    const expectedReplies = replies.map((_, i) => n - replies.length + 1 + i);
    await audit.until(() => gates.length === replies.length, 1_000);
    got.length = 0;
    const [toldBefore, before] = [told, queue!.stats.droppedMessages];
    const dropped = () => isServer ? told - toldBefore : queue!.stats.droppedMessages - before;
    // An HTTP client acknowledges later, while the way is blocked.
    if (isServer && !isByBytes && transport !== "http") {
      const sent = sendInTurn({
        server,
        session: remote,
        random,
        from: n,
        most: bounds.maxMessages,
      });
      n += sent.length;
      await audit.until(() => got.length >= sent.length && queue!.isFlushed, 1_000);
      audit.examine("queues", `messages of one turn ${about}`, sent, got);
      got.length = 0;
    }
    await way.block(session);
    // In the first round nothing waits behind the connection.
    const count = round === 0
      ? 0
      : Math.floor((1 + 2 * random()) * Math.min(bounds.maxMessages, 20));
    const reply = async () => {
      gates.shift()!();
      model.add({ name: nameOf(REPLY, expectedReplies.shift()!), topic: "", size: 0 });
      await audit.pause(1);
    };
    for (let i = 0; i < count; i++) {
      if (gates.length > 0 && random() < 0.1) {
        await reply();
        continue;
      }
      const isShared = isServer && random() < 0.3;
      const topic = oneOf(random, topicsOf(isShared ? "all" : "one"));
      const isBinary = !isByBytes && random() < 0.2;
      const data = isBinary ? Uint8Array.of(++n >> 8, n) : { n: ++n, pad };
      if (isShared) {
        server.publish(topic, data);
        await audit.pause(1);
      } else session.send(topic, data);
      model.add({ name: nameOf(topic, n), topic, size: size(topic, data) });
      way.look(session);
    }
    // The last replies come when the queue is full.
    while (count > 0 && gates.length > 0 && !model.isFullFor(0)) {
      session.send(FULL, { n: ++n, pad });
      model.add({ name: nameOf(FULL, n), topic: FULL, size: size(FULL, { n, pad }) });
    }
    if (count > 0) { while (gates.length > 0) await reply(); }
    const waiting = queue!.stats.queuedMessages;
    const isWithin = waiting <= model.names.length + noticesOf(model);
    audit.examine("queues", `${waiting} messages in the queue ${about}`, true, isWithin);
    const { names } = model;
    way.open(bytesPerSecond);
    const most = 1_000 * (4 * HIGH_WATER_MARK + 17 * ALONE) / bytesPerSecond + ROUND_MS +
      (transport === "http" ? POSTS_MS : 0);
    let isFlushed = false;
    void session.flushed().then(() => isFlushed = true);
    await audit.until(() => {
      way.look(session);
      return isFlushed;
    }, most);
    way.examine(about, pad.length === ALONE ? ALONE : MAX_JOINED_BYTES);
    audit.examine("queues", `flush of the backlog ${round} ${about}`, true, isFlushed);
    await audit.until(() => got.length + dropped() >= names.length + model.dropped, most);
    way.heal();
    // The promise of a reply settles after the messages of the same frame.
    for (const isReply of [false, true]) {
      const of = (all: readonly string[]) => all.filter((name) => isReply === isReplyTo(name));
      const what = `${isReply ? "replies" : "messages"} behind a slow way ${about}`;
      audit.examine("queues", what, of(names), of(got));
    }
    audit.examine("queues", `messages told as dropped ${about}`, model.dropped, dropped());
    audit.examine("queues", `session after the backlog ${about}`, "connected", session.state);
    for (const open of gates.splice(0)) open();
    await Promise.all(replies);
  }
  await auditClose(audit, { session, way, isOpened: random() < 0.5, about, got });
  await client.close();
  await server.close();
}

/** Sends to one session and to all in one turn, no more than the queue takes; returns the names. */
function sendInTurn(
  { server, session, random, from, most }: {
    readonly server: Pick<Server, "publish">;
    readonly session: Session;
    readonly random: () => number;
    readonly from: number;
    readonly most: number;
  },
): readonly string[] {
  const pad = "x".repeat(random() < 0.5 ? 10 : ALONE);
  const share = random() < 0.4 ? 1 : 0.5;
  return range(from + 1, from + most).map((n) => {
    const isShared = random() < share;
    const topic = isShared ? SHARED : FULL;
    if (isShared) server.publish(topic, { n, pad });
    else session.send(topic, { n, pad });
    return nameOf(topic, n);
  });
}

/** Topics of messages to one session, or to all subscribers. */
function topicsOf(kind: "one" | "all"): readonly string[] {
  return DROPS.map((policy) => `${policy}:${kind}`);
}

/** Most notices of drops: these stand beside the messages, and adjacent ones are one. */
function noticesOf({ dropped, names }: QueueModel): number {
  return Math.min(dropped, names.length + 1);
}

/** Closes the session with a backlog: flushed if the way opens in time, otherwise by the time limit. */
async function auditClose(
  audit: Audit,
  { session, way, isOpened, about, got }: {
    readonly session: AnySession;
    readonly way: SlowWay;
    readonly isOpened: boolean;
    readonly about: string;
    readonly got: string[];
  },
): Promise<void> {
  got.length = 0;
  await way.block(session);
  session.send(FULL, { n: 0 });
  const startMs = audit.nowMs;
  let isWaiting = true;
  // A flush ends with the session.
  void session.flushed().then(() => isWaiting = false, () => isWaiting = false);
  const closing = session.close();
  let tookMs: number | undefined;
  void closing.then(() => tookMs = audit.nowMs - startMs);
  if (isOpened) way.heal();
  await audit.until(() => tookMs !== undefined, CLOSE_MS + ROUND_MS);
  await audit.pause(1);
  audit.examine(
    "queues",
    `flush of a session that closed ${about}`,
    "over",
    isWaiting ? "pending" : "over",
  );
  way.heal();
  if (isOpened) {
    await audit.until(() => got.length > 0, ROUND_MS);
    audit.examine("queues", `messages before a close ${about}`, [nameOf(FULL, 0)], got);
  }
  const most = isOpened ? ROUND_MS : CLOSE_MS + ROUND_MS;
  const least = isOpened ? 0 : CLOSE_MS - 10;
  const isInTime = tookMs !== undefined && tookMs >= least && tookMs <= most;
  audit.examine(
    "queues",
    `close ${isOpened ? "with a backlog" : "without a way"} ${about}`,
    `after ${least} to ${most} ms`,
    isInTime ? `after ${least} to ${most} ms` : `after ${tookMs ?? "no"} ms`,
  );
}
