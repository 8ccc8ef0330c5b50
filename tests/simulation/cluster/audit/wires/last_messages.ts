/** Messages that a server sends just before sessions end: each client gets all of these, then the close. */
import { CloseCode, type CloseInfo } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Subscription } from "../../../../../client/subscription.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Server } from "../../../../../server.ts";
import type { Session } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { Broadcast } from "../../../../../session/queue/turn.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll } from "../audit.ts";

/** Users of the clients: two clients are of one user. */
const USERS = ["ann", "ann", "ben"] as const;

/** Topics of publications, some of which a client subscribes to, and topic of other messages. */
const [TOPICS, NOTE] = [["talk:last-a", "talk:last-b"], "note"] as const;

/** Rounds, each of which ends some sessions. */
const ROUNDS = 4;

/** Most messages of one turn, and the bytes of a large one: more than one frame has. */
const [MESSAGES, LARGE_BYTES] = [5, 60_000] as const;

/** Share of large messages, and that on a narrow way. */
const [LARGE_SHARE, NARROW_SHARE] = [0.1, 0.6] as const;

/** Share of publications that one client does not get, and turns of publications at the end. */
const [EXCEPT_SHARE, TURNS] = [0.4, 10] as const;

/** Bytes that pass a narrow way in a second. */
const NARROW = 400_000;

/** Longest time between messages of an earlier turn and the last ones, in milliseconds. */
const EARLIER_MS = 30;

/** Longest time until all is heard, and until all clients are back, in milliseconds. */
const [HEARD_MS, BACK_MS] = [4_000, 6_000] as const;

/** Time for a message that comes twice, in milliseconds. */
const TRIP_MS = 60;

/** Transports of clients. */
const TRANSPORTS = ["websocket", "websocket", "webtransport", "http"] as const;

/** Kinds of messages, by frequency; most turns have one kind alone. */
const KINDS = ["publication", "publication", "message to a user", "message of a session"] as const;

/** Ways in which a server ends sessions. */
const WAYS = ["close", "close", "disconnect", "close of all"] as const;

/** Codes after which a client comes back. */
const CODES = [CloseCode.draining, CloseCode.tooMany, 3_000, 4_000] as const;

/** A client, with the messages that came and those that were sent, by topic. */
interface Listener {
  readonly user: string;
  readonly transport: typeof TRANSPORTS[number];
  readonly machine: Host;
  readonly client: Client;
  /** The subscriptions in force, by topic. */
  readonly subscriptions: Map<string, Subscription>;
  /** Subscribes to a topic. */
  readonly subscribe: (topic: string) => void;
  readonly got: Record<string, number[]>;
  readonly sent: Record<string, number[]>;
}

/** The clients and the server. */
interface Last {
  readonly audit: Audit;
  readonly random: () => number;
  readonly server: Server<string>;
  readonly listeners: readonly Listener[];
  /** Number of messages so far. */
  count: number;
  /** Share of large messages. */
  largeShare: number;
}

/**
 * Sends messages in the turn in which sessions end, or shortly before.
 *
 * @param audit The audit.
 */
export async function auditLastMessages(audit: Audit): Promise<void> {
  const stale = watchExceptions();
  try {
    await auditLast(audit);
  } finally {
    audit.examine("lives", "exceptions that outlive their turn", 0, stale.count);
    stale.end();
  }
}

/**
 * Counts messages of earlier turns whose excepted session is still noted: each would be a leak, which
 * no client sees.
 */
function watchExceptions(): { readonly count: number; readonly end: () => void } {
  const { take } = Broadcast.prototype;
  const stale = { count: 0, end: () => void (Broadcast.prototype.take = take) };
  Broadcast.prototype.take = function () {
    const batch = take.call(this);
    for (const entry of batch.exceptions?.keys() ?? []) {
      // Other parts run beside this one.
      if (!(TOPICS as readonly string[]).includes(entry.topic!)) continue;
      if (!batch.entries.includes(entry)) stale.count++;
    }
    return batch;
  };
  return stale;
}

/** Ends sessions in some rounds. */
async function auditLast(audit: Audit): Promise<void> {
  const random = audit.chanceOf("last messages");
  const host = audit.host("last");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "nobody" }) => token,
    userOf: (user) => user,
    authorize: () => true,
    onMessage() {},
    onError() {},
  }));
  const listeners = USERS.map((user, i): Listener => {
    const got = Object.fromEntries([...TOPICS, NOTE].map((topic) => [topic, [] as number[]]));
    const transport = oneOf(random, TRANSPORTS);
    const take = (topic: string) => ({ data }: { readonly data: unknown }) => {
      got[topic]!.push((data as { readonly n: number }).n);
    };
    const client = audit.connect(`last-${i}`, host, {
      token: user,
      transports: [transport],
      backoff: { firstDelayMs: 50, maxDelayMs: 200 },
      onMessage: take(NOTE),
      onError() {},
    });
    const subscriptions: Listener["subscriptions"] = new Map();
    const subscribe = (topic: string) => {
      const subscription = client.subscribe(topic);
      subscriptions.set(topic, subscription);
      void hearAll(subscription, take(topic));
    };
    for (const topic of TOPICS) if (random() < 0.7) subscribe(topic);
    const machine = audit.host(`last-${i}`);
    return { user, transport, machine, client, subscriptions, subscribe, got, sent: {} };
  });
  const last: Last = { audit, random, server, listeners, count: 0, largeShare: LARGE_SHARE };
  for (let round = 0; round < ROUNDS; round++) {
    const isBack = await audit.until(() => areBack(last), BACK_MS);
    audit.examine("lives", "clients that are back before the last messages", true, isBack);
    if (!isBack) break;
    const narrow = random() < 0.3 ? oneOf(random, listeners).machine : undefined;
    const { bytesPerSecond } = audit.network.conditions(host, listeners[0]!.machine);
    if (narrow !== undefined) audit.change(host, narrow, { bytesPerSecond: NARROW });
    last.largeShare = narrow === undefined ? LARGE_SHARE : NARROW_SHARE;
    await pass(last);
    if (narrow !== undefined) audit.change(host, narrow, { bytesPerSecond });
  }
  await audit.until(() => areBack(last), BACK_MS);
  for (let left = TURNS; left > 0; left--) await publishTurn(last);
  await Promise.all(listeners.map(({ client }) => client.close()));
  await server.close();
}

/** Forgets the messages so far. */
function forget({ listeners }: Last): void {
  for (const { got, sent } of listeners) {
    for (const topic of [...TOPICS, NOTE]) {
      got[topic]!.length = 0;
      sent[topic] = [];
    }
  }
}

/** Publishes on both topics in one turn, and examines the messages. */
async function publishTurn(last: Last): Promise<void> {
  const { audit, server, listeners } = last;
  if (!areBack(last)) return;
  forget(last);
  send(last, new Map(listeners.map((one) => [one, sessionOf(server, one)!])), ["publication"]);
  await audit.pause(TRIP_MS);
  const isHeard = ({ got, sent }: Listener) =>
    Object.entries(sent).every(([topic, numbers]) => got[topic]!.length >= numbers.length);
  await audit.until(() => listeners.every(isHeard), HEARD_MS);
  for (const { transport, got, sent } of listeners) {
    for (const topic of TOPICS) {
      const what = `publications of one turn on ${topic} over ${transport}`;
      audit.examine("lives", what, sent[topic], got[topic]);
    }
  }
}

/** True once each client has one session, with all subscriptions. */
function areBack({ server, listeners }: Last): boolean {
  const isBack = (listener: Listener) =>
    listener.client.isConnected && sessionOf(server, listener) !== undefined &&
    listener.subscriptions.values().every(({ status }) => status.current === "subscribed");
  return server.manager.count === listeners.length && listeners.every(isBack);
}

/** The session of a client at the server. */
function sessionOf(server: Server<string>, { client }: Listener): Session | undefined {
  return server.manager.all().find(({ id }) => id === client.session?.id) as Session | undefined;
}

/** Sends messages, ends some sessions, and examines the messages and the ends. */
async function pass(last: Last): Promise<void> {
  const { audit, random, server, listeners } = last;
  forget(last);
  const way = oneOf(random, WAYS);
  const end = { code: oneOf(random, CODES), reason: `enough ${last.count}` };
  const user = oneOf(random, USERS);
  const ended = listeners.filter((listener) =>
    way === "close of all" || (way === "close" ? random() < 0.6 : listener.user === user)
  );
  const infos = new Map<Listener, CloseInfo>();
  for (const listener of ended) {
    void listener.client.session!.closed.then((info) => infos.set(listener, info));
  }
  const sessions = new Map(listeners.map((one) => [one, sessionOf(server, one)!]));
  const kinds = random() < 0.7 ? [oneOf(random, KINDS)] : KINDS;
  if (random() < 0.3) {
    send(last, sessions, kinds);
    await audit.pause(between(random, 0, EARLIER_MS));
  }
  // All of this is one turn.
  send(last, sessions, kinds);
  const removed = random() < 0.4 ? oneOf(random, listeners) : undefined;
  const topics = [...removed?.subscriptions.keys() ?? []];
  // A session that leaves a topic gets all that was published before.
  for (const topic of topics) server.unsubscribe(sessions.get(removed!)! as never, topic);
  if (way === "close") { for (const one of ended) void sessions.get(one)!.close(end); }
  if (way === "disconnect") void server.disconnect(user, end);
  if (way === "close of all") void server.manager.closeAll(end);

  const isHeard = ({ got, sent }: Listener) =>
    Object.entries(sent).every(([topic, numbers]) => got[topic]!.length >= numbers.length);
  await audit.until(() => listeners.every(isHeard) && infos.size === ended.length, HEARD_MS);
  await audit.pause(TRIP_MS);
  for (const listener of listeners) {
    const { transport, got, sent } = listener;
    const isEnded = ended.includes(listener);
    const isRemoved = listener === removed && topics.length > 0;
    const about = `${isEnded ? "before" : "beside"} the end of a session (${way}, ${transport}${
      isRemoved ? ", removed from topics" : ""
    })`;
    for (const topic of [...TOPICS, NOTE]) {
      audit.examine("lives", `last messages on ${topic} ${about}`, sent[topic], got[topic]);
    }
    if (!isEnded) continue;
    const { by, code, reason } = infos.get(listener) ?? {};
    const expected = { by: "remote", ...end };
    audit.examine("lives", `reason behind the last messages ${about}`, expected, {
      by,
      code,
      reason,
    });
  }
  // The notice of a removal may come later than all messages to other clients.
  const areOver = () =>
    topics.every((topic) => removed!.subscriptions.get(topic)!.status.current === "ended");
  const isOver = await audit.until(areOver, HEARD_MS);
  audit.examine("lives", "subscriptions that a server ended are over", true, isOver);
  for (const topic of topics) removed!.subscribe(topic);
}

/** Sends messages in one turn. */
function send(
  last: Last,
  sessions: ReadonlyMap<Listener, Session>,
  kinds: readonly typeof KINDS[number][],
): void {
  const { random, server, listeners } = last;
  for (let left = Math.ceil(MESSAGES * random()); left > 0; left--) {
    const n = last.count++;
    const data = { n, pad: random() < last.largeShare ? "x".repeat(LARGE_BYTES) : "" };
    const topic = oneOf(random, TOPICS);
    const to = oneOf(random, listeners);
    switch (oneOf(random, kinds)) {
      case "publication": {
        const except = random() < EXCEPT_SHARE ? to : undefined;
        server.publish(topic, data, except && { except: sessions.get(except) as never });
        for (const listener of listeners) {
          if (listener !== except && listener.subscriptions.has(topic)) {
            listener.sent[topic]!.push(n);
          }
        }
        break;
      }
      case "message to a user":
        server.to(to.user).send(NOTE, data);
        for (const { user, sent } of listeners) if (user === to.user) sent[NOTE]!.push(n);
        break;
      case "message of a session":
        sessions.get(to)!.send(NOTE, data);
        to.sent[NOTE]!.push(n);
    }
  }
}
