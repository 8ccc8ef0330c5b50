/** Moves of a client on one node, while publications stream in, and links that break in the middle. */
import { Signal } from "../../../../../base/signal.ts";
import { CloseCode } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Subscription } from "../../../../../client/subscription.ts";
import type { Server } from "../../../../../server.ts";
import type { Session } from "../../../../../session/session.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { LOOK_MS } from "../../examination.ts";
import { type Audit, hearAll, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";
import { auditDetours } from "./detours.ts";

/** Topics without and with a history. */
const [TALK, KEPT] = ["talk:passage", "kept:passage"] as const;

/** Topics to which the client subscribes shortly before a move. */
const LATE = ["talk:late", "kept:late", "room:late"] as const;

/** Topic to which the application subscribes each session, and topic of messages to the user. */
const [OWN, NOTE] = ["talk:own", "note"] as const;

/** The user. */
const USER = "passenger";

/** Share of rights that are known at once, and the longest time until the others are, in milliseconds. */
const [PROMPT_SHARE, AUTHORIZE_MS] = [0.5, 800];

/** Share of rights upon which the application publishes, in the turn in which the topic begins. */
const PUBLISHES_SHARE = 0.2;

/**
 * Share of publications behind which the client publishes without an echo, and behind which the server
 * excepts the client, and the number of these.
 */
const [SILENT_SHARE, SILENT] = [0.25, -1] as const;

/** Publications to other clients behind a break. */
const WITHOUT = 12;

/** Share of moves behind which the client moves again at once. */
const AGAIN_SHARE = 0.25;

/** Moves of one run. */
const MOVES = 2;

/** Longest time between two publications, and publications before and after a move. */
const [BETWEEN_MS, PUBLISHED] = [8, 12] as const;

/** Longest time of a packet, in milliseconds. */
const DELAY_MS = 60;

/** Data of a large publication: all of one move fit among the messages that a move holds back. */
const LARGE = "x".repeat(9_000);

/** Bytes in a second of a way that large publications fill. */
const NARROW = 400_000;

/** Longest time of a handler that outlives a move, in milliseconds. */
const HANDLER_MS = 2_500;

/** Most calls under way at a move, and handlers of one session at once. */
const [CALLS, CONCURRENCY] = [5, 8] as const;

/** Ways to call: from the client, with an answer in parts, and from the server. */
const CALL_WAYS = ["request", "answer in parts", "request of the server"] as const;

/** Share of moves beside which all calls are of one way: calls of another way take longer now and then. */
const ALIKE_SHARE = 0.6;

/** Longest time until a client has one session, and all publications, in milliseconds. */
const REST_MS = 5_000;

/**
 * Links that break once the client has the new session, or early: once the server alone has that
 * session; or once the client has asked for a topic there, where rights may take a while. The server may close the earlier session as well, as at the end of a drain.
 */
const BREAKS = [
  "none",
  "none",
  "none",
  "the earlier one",
  "the earlier one",
  "the earlier one, early",
  "the earlier one, by the server",
  "the earlier one, unheard",
  "the earlier one, unheard",
  "the new one",
  "the new one, early",
  "the new one, asked",
  "the new one, asked",
  "the new one, asked",
  "all",
] as const;

/** A subscription, and the publications that its loop got. */
interface Seat {
  readonly subscription: Subscription;
  readonly got: number[];
}

/** A client that moves. */
interface Passenger {
  readonly audit: Audit;
  readonly random: () => number;
  readonly machine: Host;
  readonly server: Server<unknown>;
  readonly client: Client;
  /** Notified when the server knows a session as one of the client. */
  readonly opened: Signal;
  /** Notified when the client has asked for a topic in a session behind a move. */
  readonly asked: Signal;
  /** Publishes on a topic of the client to all other clients. */
  readonly publishToOthers: () => void;
}

/**
 * Moves clients from session to session.
 *
 * @param audit The audit.
 */
export async function auditPassages(audit: Audit): Promise<void> {
  await Promise.all([auditPassenger(audit), auditDetours(audit)]);
}

/** Moves a client, and cuts some of the links in the middle. */
async function auditPassenger(audit: Audit): Promise<void> {
  const { random } = audit;
  const [host, machine] = [audit.host("passages"), audit.host(USER)];
  const hasTokens = random() < 0.5;
  const [opened, asked] = [new Signal(), new Signal()];
  /** The session before the present move. */
  let earlier: Session<never> | undefined;
  /** The links that break in the present move. */
  let which: typeof BREAKS[number] = "none";
  const hold = async ({ data }: { readonly data: unknown }) => {
    await audit.pause(between(random, 0, HANDLER_MS));
    return data;
  };
  const { server }: SimulatedServer<unknown> = new SimulatedServer<unknown>(
    audit.network,
    host,
    () => ({
      ...(hasTokens && {
        allowTokenMessage: true,
        authenticate: () => USER,
        userOf: () => USER,
      }),
      authorize: (session) => {
        if (session.id !== earlier?.id) asked.notify();
        // A break then leaves topics in the earlier session.
        if (random() >= PROMPT_SHARE || which === "the new one, asked") {
          return audit.pause(between(random, 0, AUTHORIZE_MS)).then(() => true);
        }
        // The first subscriptions get all publications.
        if (next > 0 && random() < PUBLISHES_SHARE) publishOnce();
        return true;
      },
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      session: { heartbeat: { intervalMs: 1_000, timeoutMs: 3_000 }, concurrency: CONCURRENCY },
      requests: {
        hold,
        parts: async function* ({ data }) {
          yield data;
          yield await hold({ data });
        },
      },
      onOpen(session) {
        server.topics.subscribe(session, OWN);
        opened.notify();
      },
      onError() {},
    }),
  );
  // A message to a user needs a user.
  const own = new Map<string, number[]>((hasTokens ? [OWN, NOTE] : [OWN]).map((of) => [of, []]));
  const client = audit.connect(USER, host, {
    ...(!hasTokens && { token: undefined }),
    transports: [oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const)],
    backoff: { firstDelayMs: 50, maxDelayMs: 200 },
    concurrency: CONCURRENCY,
    requests: { hold } as never,
    onMessage: ({ topic, data }) => {
      own.get(topic)?.push((data as { readonly n: number }).n);
    },
    onError() {},
  });
  const sit = (topic: string): Seat => {
    const seat = { subscription: client.subscribe(topic), got: [] as number[] };
    void hearAll(
      seat.subscription,
      ({ data }) => seat.got.push((data as { readonly n: number }).n),
    );
    return seat;
  };
  const seats = [TALK, TALK, KEPT].map(sit);
  /** Publishes to all clients but this one, which is named by a session that may be over. */
  const publishToOthers = () => {
    const topic = oneOf(random, [TALK, KEPT]);
    if (earlier) server.publish(topic, { n: SILENT }, { except: earlier as never });
  };
  const passenger: Passenger = {
    audit,
    random,
    machine,
    server,
    client,
    opened,
    asked,
    publishToOthers,
  };
  let next = 0;
  /** Sessions to which the server sent each publication, by topic and number. */
  const members = new Map<string, readonly string[]>();
  const publishOnce = (text = "") => {
    const n = next++;
    for (const topic of [TALK, ...LATE]) {
      members.set(`${topic} ${n}`, server.topics.subscribers(topic).map(({ id }) => id));
    }
    for (const topic of [TALK, KEPT]) server.publish(topic, { n, text });
    for (const topic of [...LATE, OWN]) server.publish(topic, { n });
    if (hasTokens) server.to(USER).send(NOTE, { n });
  };
  const publish = async (count: number, text = "") => {
    for (let left = count; left > 0; left--) {
      publishOnce(text);
      if (random() < SILENT_SHARE) {
        void outcomeOf(
          client.publish(oneOf(random, [TALK, KEPT]), { n: SILENT }, { except: "self" }),
        );
      }
      if (random() < SILENT_SHARE) publishToOthers();
      await audit.pause(between(random, 0, BETWEEN_MS));
    }
  };
  /** Publishes now and then, and counts the sessions of the client in one topic at most. */
  const trickle = async (isOver: () => boolean) => {
    const endMs = audit.nowMs + REST_MS;
    let most = 0;
    while (!isOver() && audit.nowMs < endMs) {
      for (const topic of [TALK, KEPT, ...LATE]) {
        most = Math.max(most, server.topics.subscribers(topic).length);
      }
      await publish(1);
      await audit.pause(3 * LOOK_MS);
    }
    return most;
  };
  for (let move = 0; move < MOVES; move++) {
    const first = next;
    const late: Seat[] = [];
    const isAtRest = () =>
      client.isConnected && server.manager.count === 1 &&
      // A subscription counts as one during a move, also once the earlier session is gone.
      [...seats, ...late].every(({ subscription: { topic, status } }) =>
        status.current === "subscribed" && server.topics.subscribers(topic).length === 1
      );
    const about = (what: string) => `${what} (move ${move}, ${client.session?.transport})`;
    await audit.until(isAtRest, REST_MS);
    audit.examine("lives", about("client at rest"), true, isAtRest());
    which = oneOf(random, BREAKS);
    earlier = server.manager.all()[0] as Session<never>;
    // The small windows of the hardened engine's model would let the heartbeat fail.
    const isLarge = random() < 0.3 && !audit.settings.has("hardened");
    audit.change(host, machine, {
      delayMs: between(random, 1, DELAY_MS),
      bytesPerSecond: isLarge ? NARROW : Infinity,
    });
    const publishing = publish(2 * PUBLISHED, isLarge ? LARGE : "");
    await audit.pause(between(random, 0, PUBLISHED * BETWEEN_MS));
    // A room has users alone.
    late.push(...LATE.slice(0, hasTokens ? LATE.length : -1).map(sit));
    const calls = callAll(passenger);
    let isAnswered = false;
    void calls.outcomes.then(() => isAnswered = true);
    await audit.pause(between(random, 0, DELAY_MS));
    const isMoved = await moveUnder(passenger, which);
    const isTwice = isMoved && which === "none" && random() < AGAIN_SHARE;
    const isMovedAgain = isTwice && await client.handOver();
    await publishing;
    const most = await trickle(() => isAnswered && server.manager.count === 1);
    audit.change(host, machine, { delayMs: 1, bytesPerSecond: Infinity });
    // By then, both ends know of a link that broke at the end.
    await audit.pause(2 * DELAY_MS);
    await audit.until(isAtRest, REST_MS);
    await publish(1);
    // Subscriptions of the application end with the first envelope of the new session (23.5).
    const isOwnOver = which === "the new one, early" && !isMoved;
    const all = [...seats, ...late].map(({ got }) => got);
    for (const [topic, came] of own) if (topic !== OWN || !isOwnOver) all.push(came);
    await audit.until(() => all.every((got) => got.includes(next - 1)), REST_MS);
    const isCalm = which === "none" && isMoved && isTwice === isMovedAgain;
    if (isCalm) audit.examine("lives", about("sessions in one topic at once"), 1, most);
    for (const [topic, came] of own) {
      const twice = came.filter((n, i) => came.indexOf(n) !== i);
      const what = about(`numbers on ${topic} that came twice, and the newest`);
      const newest = isOwnOver && topic === OWN ? came.at(-1) : next - 1;
      audit.examine("lives", what, [[], newest], [twice, came.at(-1)]);
      if (topic !== NOTE || !isCalm) continue;
      const here = sorted(came.filter((n) => n >= first));
      audit.examine("lives", about("messages to the user"), range(first, next - 1), here);
    }
    /** Expects all publications that the server sent to the last session, which did not break. */
    const examineSent = ({ subscription: { topic }, got }: Seat) => {
      const { id } = client.session ?? {};
      const sent = range(first, next - 1).filter((n) =>
        members.get(`${topic} ${n}`)?.includes(id!)
      );
      const lost = sent.filter((n) => !got.includes(n));
      const what = about(`publications on ${topic} to the new session that got lost, ${which}`);
      audit.examine("lives", what, [], lost);
    };
    for (const seat of [...seats, ...late]) {
      // The engine fills a gap of a history; a loss would show below.
      if (!seat.subscription.topic.startsWith("kept:")) examineSent(seat);
    }
    for (const { subscription, got } of late) {
      const what = about(`publications on ${subscription.topic}, ${which} of the links broken`);
      const isGapless = isCalm || subscription.topic.startsWith("kept:");
      const expected = isGapless ? range(got[0] ?? next, next - 1) : sorted(got);
      // The first session may get the topic behind publications in the second one, which broke.
      const came = isGapless || !which.startsWith("the new one") ? got : sorted(got);
      audit.examine("lives", what, [expected, next - 1], [came, got.at(-1)]);
      await subscription.unsubscribe();
      const count = server.topics.subscribers(subscription.topic).length;
      audit.examine("lives", about(`subscribers of ${subscription.topic} that was left`), 0, count);
    }
    for (const { subscription: { topic }, got } of seats) {
      const all = got.splice(0);
      const came = all.filter((n) => n !== SILENT);
      audit.examine("lives", about(`echoes on ${topic}`), 0, all.length - came.length);
      const what = about(`publications on ${topic}, ${which} of the links broken`);
      const isKept = topic === KEPT;
      // Publications without a history are lost with a session, and come once and in order.
      const expected = isCalm || isKept ? range(first, next - 1) : sorted(came);
      audit.examine("lives", what, [expected, next - 1], [came, came.at(-1)]);
    }
    if (!isCalm) continue;
    audit.examine("lives", about("calls beside a move"), calls.expected, await calls.outcomes);
  }
  await client.close();
  await audit.until(() => server.manager.count === 0);
  audit.examine("lives", "sessions behind a passenger", 0, server.manager.count);
  audit.examine("lives", "topics behind a passenger", [], [...server.topics.list()]);
  await server.close();
}

/** Calls both ends a few times: the server at once, and the client soon, before or during a move. */
function callAll(
  passenger: Passenger,
): { readonly expected: readonly unknown[]; readonly outcomes: Promise<readonly unknown[]> } {
  const { audit, random } = passenger;
  const only = random() < ALIKE_SHARE ? [oneOf(random, CALL_WAYS)] : CALL_WAYS;
  const count = Math.floor((CALLS + 1) * random());
  const ways = Array.from({ length: count }, () => oneOf(random, only));
  const outcomes = ways.map(async (way, n) => {
    if (way !== "request of the server") await audit.pause(between(random, 0, 2 * DELAY_MS));
    let answer: unknown;
    const outcome = await outcomeOf(call(passenger, way, n).then((data) => answer = data));
    return [way, outcome, answer];
  });
  const expected = ways.map((way, n) => [way, "fulfilled", way === "answer in parts" ? [n, n] : n]);
  return { expected, outcomes: Promise.all(outcomes) };
}

/** Calls one end by the other; a loop reads an answer in parts, and takes time for each part. */
function call(
  { audit, random, server, client }: Passenger,
  way: typeof CALL_WAYS[number],
  data: number,
): Promise<unknown> {
  if (way === "request") return client.request("hold", data);
  if (way === "answer in parts") {
    return Array.fromAsync(client.requestStream("parts", data), async (part) => {
      await audit.pause(between(random, 0, HANDLER_MS / 2));
      return part;
    });
  }
  return (server.manager.all()[0] as Session).request("hold", data);
}

/** Moves the client, and breaks links. */
async function moveUnder(
  passenger: Passenger,
  which: typeof BREAKS[number],
): Promise<boolean> {
  const { audit, random, machine, server, client, opened, asked } = passenger;
  const linksOf = () => audit.network.links.filter((link) => link.client === machine);
  const before = new Set(linksOf());
  const { session } = client;
  const isEarly = which.endsWith(", early");
  const isNewEarly = which === "the new one, early" || which === "the new one, asked";
  const isUnheard = which === "the earlier one, unheard";
  // The answer to the first envelope of the new session is still on the way then, most often.
  const afterMs = between(random, 0, isNewEarly ? DELAY_MS / 6 : DELAY_MS);
  const cut = async () => {
    await audit.pause(afterMs);
    if (which === "the earlier one, by the server") {
      const earlier = server.manager.all().find(({ id }) => id === session?.id);
      return void earlier?.close({ code: CloseCode.draining });
    }
    for (const link of linksOf()) {
      if (which !== "all" && before.has(link) === which.startsWith("the new one")) continue;
      // The client holds publications of the new session back until the heartbeat fails.
      link.disconnect(isUnheard ? { silent: "client" } : {});
    }
    // The client is on the way back, and may still have topics in an earlier session.
    for (let left = WITHOUT; left > 0; left--) {
      await audit.pause(between(random, 0, BETWEEN_MS));
      passenger.publishToOthers();
    }
  };
  let cutting: Promise<void> | undefined;
  const unsubscribe = client.status.observe(({ name }) => {
    if (
      which === "none" || isEarly || isNewEarly || name !== "connected" ||
      client.session === session
    ) return;
    cutting ??= cut();
  });
  if (isNewEarly) cutting = (isEarly ? opened : asked).changed().then(cut);
  const moving = client.handOver();
  if (which === "the earlier one, early") {
    cutting = audit.until(() => server.manager.count > 1, DELAY_MS * 10).then(cut);
  }
  const isMoved = await moving;
  unsubscribe();
  await cutting;
  return isMoved;
}

/** The numbers in order, each once. */
function sorted(numbers: readonly number[]): number[] {
  return [...new Set(numbers)].sort((one, other) => one - other);
}
