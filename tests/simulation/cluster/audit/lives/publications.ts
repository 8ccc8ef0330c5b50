/** Bursts of a client with at-least-once delivery, at a server without histories. */
import type { Client } from "../../../../../client/client.ts";
import { internals } from "../../../../../session/session.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import { type Audit, type Expect, hearAll, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Names of the user who publishes, and of the one who listens. */
const [USER, LISTENER] = ["bursting", "bursts-listener"] as const;

/** Topics that the server allows, and refuses. */
const [TOPIC, DENIED] = ["talk:burst", "talk:denied"] as const;

/** Most publications without an answer: rule 11.9. */
const MAX_UNANSWERED = 32;

/** Bounds of messages that the server has not acknowledged. */
const [MAX_MESSAGES, MAX_BYTES] = [1_024, 524_288] as const;

/** Publications of one burst: most are more than a server lets wait, which are 64. */
const BURST = [45, 85] as const;

/** Messages of one burst beyond {@linkcode MAX_MESSAGES}. */
const BEYOND = 40;

/** Data of a large message, and the number of these, which are beyond {@linkcode MAX_BYTES}. */
const [LARGE, LARGE_COUNT] = ["x".repeat(9_000), 80] as const;

/** Share of publications that the server refuses. */
const DENIED_SHARE = 0.1;

/** Room for all messages of a burst. */
const OUTBOX = { maxMessages: 2_000, maxBytes: 2_000_000 } as const;

/** Heartbeat that does not end a session whose answers are held back. */
const HEARTBEAT = { intervalMs: 10_000, timeoutMs: 30_000 } as const;

/** Time in which more would go out than is allowed, in milliseconds. */
const TRIP_MS = 100;

/** Longest time until a burst has all answers, in milliseconds. */
const REST_MS = 8_000;

/** Kinds of bursts of publications, and of messages. */
const KINDS = ["held", "moved", "unheard", "cut", "away"] as const;
const MESSAGE_KINDS = ["messages", "bytes"] as const;

/** Bursts of publications of a run, and the share of runs with a burst of messages, which takes long. */
const [ROUNDS, MESSAGES_SHARE] = [2, 0.25] as const;

/** The programs of a run. */
interface Bursts {
  readonly audit: Audit;
  readonly random: () => number;
  readonly host: Host;
  readonly machine: Host;
  readonly client: Client;
  /** Numbers of publications that the server allowed, and of messages that it handled. */
  readonly allowed: string[];
  readonly handled: unknown[];
  readonly heard: unknown[];
  /** Resolves once the server may decide on a publication. */
  gate: Promise<void>;
  /** Number of the next publication. */
  next: number;
}

/**
 * Publishes and sends more at once than may be on the way, while answers are late or lost.
 *
 * @param audit The audit.
 */
export async function auditPublications(audit: Audit): Promise<void> {
  const random = audit.chanceOf(USER);
  const [host, machine] = [audit.host("bursts-server"), audit.host(USER)];
  const { server } = new SimulatedServer(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "" }) => token,
    userOf: (token) => token,
    authorize: async (_session, topic, action) => {
      if (action === "publish") {
        bursts.allowed.push(topic);
        await bursts.gate;
      }
      return topic !== DENIED;
    },
    session: { heartbeat: HEARTBEAT },
    onMessage: ({ data }) => void bursts.handled.push(data),
    onError() {},
  }));
  const client = audit.connect(USER, host, {
    delivery: "at-least-once",
    outbox: OUTBOX,
    backoff: { firstDelayMs: 50, maxDelayMs: 200 },
    onMessage() {},
    onRefused() {},
    onError() {},
  });
  const listener = audit.connect(LISTENER, host, { onMessage() {} });
  const bursts: Bursts = {
    audit,
    random,
    host,
    machine,
    client,
    allowed: [],
    handled: [],
    heard: [],
    gate: Promise.resolve(),
    next: 0,
  };
  const subscription = listener.subscribe(TOPIC);
  void hearAll(subscription, ({ data }) => bursts.heard.push(data));
  await audit.until(() => client.isConnected && subscription.status.current === "subscribed");
  const messages = random() < MESSAGES_SHARE ? [oneOf(random, MESSAGE_KINDS)] : [];
  for (const kind of [...shuffled(random, KINDS).slice(0, ROUNDS), ...messages]) {
    if (kind === "messages") await sendBeyond(bursts, kind, "", MAX_MESSAGES + BEYOND);
    else if (kind === "bytes") await sendBeyond(bursts, kind, LARGE, LARGE_COUNT);
    else await publishBeyond(bursts, kind);
    audit.examine(
      "lives",
      `outbox behind a burst (${kind})`,
      { messages: 0, bytes: 0 },
      client.outbox,
    );
    audit.examine(
      "lives",
      `client behind a burst (${kind})`,
      "connected",
      client.status.current.name,
    );
  }
  await Promise.all([client.close(), listener.close()]);
  await server.close();
}

/** Publishes a burst that the server decides late, whose answers are late or lost, or without a session. */
async function publishBeyond(
  bursts: Bursts,
  kind: "held" | "moved" | "unheard" | "cut" | "away",
): Promise<void> {
  const { audit, random, host, machine, client, allowed, heard } = bursts;
  const expect: Expect = (what, ...values) =>
    audit.examine("lives", `${what} (${kind})`, ...values);
  const count = Math.floor(between(random, ...BURST));
  const gate = Promise.withResolvers<void>();
  if (kind === "held" || kind === "moved" || kind === "away") bursts.gate = gate.promise;
  if (kind === "unheard" || kind === "cut") {
    audit.network.change(host, machine, { isBlocked: true });
  }
  const { session } = client;
  if (kind === "away") {
    audit.cut(machine);
    await audit.until(() => client.session !== session);
  }
  allowed.length = heard.length = 0;
  const numbers: number[] = [];
  const due: string[] = [];
  const outcomes = Array.from({ length: count }, () => {
    const isDenied = random() < DENIED_SHARE;
    due.push(isDenied ? "forbidden" : "fulfilled");
    const n = bursts.next++;
    if (!isDenied) numbers.push(n);
    return outcomeOf(client.publish(isDenied ? DENIED : TOPIC, n));
  });
  const unanswered = () => client.session?.[internals].sending.openRequests ?? 0;
  await audit.until(() => client.isConnected && unanswered() >= MAX_UNANSWERED);
  await audit.pause(TRIP_MS);
  expect(`publications without an answer, of ${count}`, MAX_UNANSWERED, unanswered());
  if (kind === "unheard" || kind === "cut") {
    await audit.until(() => allowed.length >= MAX_UNANSWERED);
    expect(`publications whose answers are late, of ${count}`, MAX_UNANSWERED, allowed.length);
  }
  if (kind === "cut") audit.cut(machine);
  if (kind === "moved") {
    await client.handOver();
    await audit.until(() => unanswered() >= MAX_UNANSWERED);
    await audit.pause(TRIP_MS);
    expect("publications without an answer behind the move", MAX_UNANSWERED, unanswered());
  }
  audit.network.change(host, machine, { isBlocked: false });
  gate.resolve();
  const got = await audit.inTime(Promise.all(outcomes), REST_MS, ["no answer"]);
  const wrong = due.flatMap((one, i) => one === got[i] ? [] : [`${i}: ${got[i]}`]);
  expect(`outcomes of ${count} publications that are wrong`, [], wrong);
  await audit.until(() => heard.length >= numbers.length);
  await audit.pause(TRIP_MS);
  expect(`publications heard, of ${count}`, numbers, heard);
  expect("open requests afterwards", 0, unanswered());
}

/** Sends more than may be on the way, while no acknowledgement comes. */
async function sendBeyond(
  { audit, random, host, machine, client, handled }: Bursts,
  kind: string,
  text: string,
  count: number,
): Promise<void> {
  audit.network.change(host, machine, { isBlocked: true });
  handled.length = 0;
  const numbered = (n: number) => [`${n}`.padStart(5, "0"), text];
  for (let n = 1; n <= count; n++) client.send("burst", numbered(n));
  const { messages, bytes } = client.outbox;
  const most = Math.min(MAX_MESSAGES, Math.floor(MAX_BYTES * messages / bytes));
  await audit.until(() => handled.length >= most);
  await audit.pause(TRIP_MS);
  audit.examine("lives", `messages on the way, of ${count} (${kind})`, most, handled.length);
  // The next session gets all of these again.
  if (random() < 0.5) audit.cut(machine);
  audit.network.change(host, machine, { isBlocked: false });
  await audit.until(() => client.outbox.messages === 0, REST_MS);
  const expected = range(1, count).map((n) => numbered(n)[0]);
  const received = handled.map((data) => (data as readonly string[])[0]);
  audit.examine("lives", `messages of a burst (${kind})`, expected, received);
}
