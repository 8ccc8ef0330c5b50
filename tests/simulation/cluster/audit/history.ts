/** Histories: the publications behind a position, the newest ones, and forgotten ones. */
import type { Client } from "../../../../client/client.ts";
import type { HistoryBounds } from "../../../../pubsub/broker.ts";
import type { ClientSubscribeOptions } from "../../../../client/client_options.ts";
import type { Subscription } from "../../../../client/subscription.ts";
import type { HistoryPosition, Recovery } from "../../../../session/wire/recovery.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { type Audit, hearAll } from "./audit.ts";

/** Publications in `audit-few:`. */
const FEW = 5;

/** Time of a publication in `audit-brief:`, in milliseconds. */
const BRIEF_MS = 3_000;

/** Bytes of `audit-light:`, and the text of a publication there. */
const [LIGHT_BYTES, TEXT] = [1_000, "x".repeat(200)];

/** Histories of the audit, with one small bound each. */
export const AUDIT_HISTORY: Readonly<Record<string, HistoryBounds>> = {
  "audit-few:{name}": { size: FEW, ttlMs: 600_000, bytes: 1 << 20 },
  "audit-many:{name}": { size: 1_000, ttlMs: 600_000, bytes: 1 << 20 },
  "audit-brief:{name}": { size: 1_000, ttlMs: BRIEF_MS, bytes: 1 << 20 },
  "audit-light:{name}": { size: 1_000, ttlMs: 600_000, bytes: LIGHT_BYTES },
};

/** Publications of a history beyond the part that a node has in memory. */
const LONG = 520;

/** Silence of a complete reader, in milliseconds. */
const QUIET_MS = 300;

/** Topic of the audit, with the positions of the publications by number. */
class AuditedTopic {
  readonly topic: string;
  readonly positions: HistoryPosition[] = [];
  readonly #audit: Audit;

  constructor(audit: Audit, topic: string) {
    this.#audit = audit;
    this.topic = topic;
  }

  /** Number of publications. */
  get count(): number {
    return this.positions.length;
  }

  /** Publishes the next numbers. */
  async add(count: number, text?: string): Promise<void> {
    const { topics } = this.#audit.node(1).server;
    const appending: Promise<{ readonly position?: HistoryPosition }>[] = [];
    const first = this.count;
    for (let i = 0; i < count; i++) {
      appending.push(topics.append(this.topic, { n: first + i + 1, text }));
    }
    for (const { position } of await Promise.all(appending)) this.positions.push(position!);
  }

  /** Position of a number. */
  at(number: number): HistoryPosition {
    return this.positions[number - 1]!;
  }
}

/** A subscription, with the numbers and the recoveries so far. */
export interface Reading {
  readonly subscription: Subscription;
  readonly got: readonly number[];
  readonly recoveries: readonly Recovery[];
}

/**
 * Reads the numbers of a topic.
 *
 * @param client The client.
 * @param topic The topic.
 * @param options Options of the subscription.
 * @returns The reading.
 */
export function read(
  client: Client,
  topic: string,
  options: ClientSubscribeOptions = {},
): Reading {
  const got: number[] = [];
  const recoveries: Recovery[] = [];
  const subscription = client.subscribe(topic, {
    ...options,
    onRecovery: (recovery) => void recoveries.push(recovery),
  });
  void hearAll(subscription, ({ data }) => got.push((data as { readonly n: number }).n));
  return { subscription, got, recoveries };
}

/**
 * Counts.
 *
 * @param first The first number.
 * @param last The last number.
 * @returns All numbers from one to the other.
 */
export function range(first: number, last: number): number[] {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
}

/**
 * Reads histories from all places.
 *
 * @param audit The audit.
 */
export async function auditHistory(audit: Audit): Promise<void> {
  const connect = (name: string) => audit.connect(name, audit.node(0).host);
  await Promise.all([
    auditFew(audit, connect("few")),
    auditCold(audit, connect("cold")),
    auditMany(audit, connect("many")),
    auditBrief(audit, connect("brief")),
    auditLight(audit, connect("light")),
  ]);
}

/**
 * Reads a history beyond the part that a node has in memory, on a server without other nodes.
 *
 * @param audit The audit.
 */
export async function auditLong(audit: Audit): Promise<void> {
  const host = audit.host("long");
  const { server } = new SimulatedServer(audit.network, host, () => ({
    authorize: () => true,
    history: { long: { size: LONG, bytes: 1 << 24 } },
  }));
  const client = audit.connect("long-reader", host, { token: undefined });
  // The newest publications in memory are cut while a session follows the topic.
  const follows = audit.random() < 0.5;
  const live = follows ? read(client, "long") : undefined;
  await audit.until(() => !follows || server.topics.size > 0);
  const positions: HistoryPosition[] = [];
  for (let n = 1; n <= LONG + 10; n++) {
    const { position } = await server.topics.append("long", { n });
    positions.push(position!);
  }
  if (live !== undefined) {
    await audit.until(() => live.got.length >= LONG + 10, 1_500);
    audit.examine("history", "a long history live", range(1, LONG + 10), live.got);
    await live.subscription.unsubscribe();
  }
  const numbers = range(11, LONG + 10);
  for (
    const [what, options, expected] of [
      ["before the oldest", { since: positions[9]! }, [true, numbers]],
      ["too early", { since: positions[8]! }, ["too-old", []]],
      ["with the newest ones", { last: LONG }, ["none", numbers]],
    ] as const
  ) {
    const reading = read(client, "long", options);
    await audit.until(() => reading.got.length >= LONG, 1_500);
    const { recoveries, got } = reading;
    const { recovered, reason }: Partial<Recovery> = recoveries.at(-1) ?? {};
    const received = [reason ?? recovered ?? "none", got];
    audit.examine("history", `a long history ${what}`, expected, received);
    await reading.subscription.unsubscribe();
  }
  const kept: number[] = [];
  for await (const { data } of server.topics.read("long")) {
    // A reader of several pages does not get what comes behind the first page.
    if (kept.length === 0) await server.topics.append("long", { n: LONG + 11 });
    kept.push((data as { readonly n: number }).n);
  }
  audit.examine("history", "a long history that a node reads", numbers, kept);
  await audit.until(() => server.topics.size === 0);
  const { tailBytes, waitingBytes } = server.topics.stats;
  audit.examine("history", "bytes of a long history without sessions", [0, 0], [
    tailBytes,
    waitingBytes,
  ]);
  await client.close();
  await server.close();
}

/** Reads a topic once, until the reader is quiet, and compares. */
async function readOnce(
  audit: Audit,
  client: Client,
  options: ClientSubscribeOptions & {
    readonly of: AuditedTopic;
    readonly what: string;
    readonly numbers: readonly number[];
    readonly outcome: string;
  },
): Promise<void> {
  const { of: { topic }, what, numbers, outcome, ...subscribe } = options;
  const reading = read(client, topic, subscribe);
  await audit.until(() => reading.got.length >= numbers.length && numbers.length > 0, 2_000);
  await audit.pause(QUIET_MS);
  const recovery = reading.recoveries.at(-1);
  const told = recovery === undefined ? "none" : recovery.reason ?? `${recovery.recovered}`;
  audit.examine("history", `${topic} ${what}`, numbers, reading.got);
  audit.examine("history", `recovery of ${topic} ${what}`, outcome, told);
  await reading.subscription.unsubscribe();
}

/** The oldest kept publication, earlier ones, and places that do not exist. */
async function auditFew(audit: Audit, client: Client): Promise<void> {
  const of = new AuditedTopic(audit, "audit-few:a");
  await of.add(3);
  await of.add(FEW + Math.floor(5 * audit.random()));
  const { count } = of;
  const oldest = count - FEW + 1;
  const once = (
    what: string,
    numbers: number[],
    outcome: string,
    options: ClientSubscribeOptions,
  ) => readOnce(audit, client, { of, what, numbers, outcome, ...options });
  const head = of.at(count);
  await once("with the newest 2", range(count - 1, count), "none", { last: 2 });
  await once("with more than are kept", range(oldest, count), "none", { last: 50 });
  await once("behind the newest", [], "true", { since: head });
  await once("behind the second", [count], "true", { since: of.at(count - 1) });
  await once("before the oldest", range(oldest, count), "true", { since: of.at(oldest - 1) });
  await once("too early", [], "too-old", { since: of.at(oldest - 2) });
  await once("too early, with the newest 2", range(count - 1, count), "too-old", {
    since: of.at(oldest - 2),
    last: 2,
  });
  await once("beyond the newest", [], "beyond-head", {
    since: { epoch: head.epoch, offset: head.offset + 7 },
  });
  await once("in another epoch", [], "new-epoch", { since: { epoch: "another", offset: 1 } });
  const kept: number[] = [];
  for await (const { data } of audit.node(0).server.topics.read(of.topic)) {
    kept.push((data as { readonly n: number }).n);
  }
  audit.examine("history", "publications that a node reads", range(oldest, count), kept);
}

/** First questions about topics that the node of the reader has never read. */
async function auditCold(audit: Audit, client: Client): Promise<void> {
  await Promise.all([0, 1, 2, 3].map(async (early) => {
    const of = new AuditedTopic(audit, `audit-few:cold-${early}`);
    await of.add(FEW + 4);
    const first = 6 - early; // The oldest kept publication is the fifth.
    const isKept = first >= 5;
    await readOnce(audit, client, {
      of,
      what: `from ${first} on`,
      numbers: isKept ? range(first, of.count) : [],
      outcome: isKept ? "true" : "too-old",
      since: of.at(first - 1),
    });
  }));
}

/** A replay while publications arrive, a loss, and nothing after the end. */
async function auditMany(audit: Audit, client: Client): Promise<void> {
  const of = new AuditedTopic(audit, "audit-many:a");
  await of.add(40);
  const since = 1 + Math.floor(30 * audit.random());
  const reading = read(client, of.topic, { since: of.at(since) });
  for (let i = 0; i < 5; i++) {
    await of.add(4);
    await audit.pause(2);
  }
  await audit.until(() => reading.got.length >= 60 - since);
  audit.examine("history", "replay while publications arrive", range(since + 1, 60), reading.got);
  audit.cut(audit.host("many"));
  await of.add(10);
  await audit.until(() => reading.got.length >= 70 - since);
  await audit.pause(QUIET_MS);
  audit.examine("history", "publications of a loss", range(since + 1, 70), reading.got);
  audit.examine("history", "recovery of a loss", true, reading.recoveries.at(-1)?.recovered);
  await reading.subscription.unsubscribe();
  await of.add(1);
  await audit.pause(QUIET_MS);
  audit.examine("history", "publications after the end", 70 - since, reading.got.length);
}

/** Publications are forgotten after the time of the history, and not before. */
async function auditBrief(audit: Audit, client: Client): Promise<void> {
  const of = new AuditedTopic(audit, "audit-brief:a");
  await audit.until(() => client.isConnected);
  await of.add(2);
  const addedMs = audit.nowMs;
  await audit.pause(BRIEF_MS * 0.6);
  const newMs = audit.nowMs;
  await of.add(2);
  await audit.pause(Math.max(0, addedMs + BRIEF_MS * 1.1 - audit.nowMs));
  const reading = read(client, of.topic, { last: 9 });
  await audit.until(() => reading.got.length >= 2, 2_000);
  const isInTime = audit.nowMs < newMs + BRIEF_MS * 0.9;
  await audit.pause(QUIET_MS);
  await reading.subscription.unsubscribe();
  // A late engine may have forgotten all.
  const expected = isInTime || reading.got.length > 0 ? [3, 4] : [];
  audit.examine("history", "publications within their time", expected, reading.got);
}

/** The bytes of a history are bounded. */
async function auditLight(audit: Audit, client: Client): Promise<void> {
  const of = new AuditedTopic(audit, "audit-light:a");
  for (let i = 0; i < 3; i++) await of.add(3, TEXT);
  const reading = read(client, of.topic, { last: 9 });
  await audit.until(() => reading.got.at(-1) === of.count);
  await audit.pause(QUIET_MS);
  const { length } = reading.got;
  const isBounded = length * TEXT.length <= LIGHT_BYTES && length >= 2;
  audit.examine("history", `bytes of ${length} publications within the bound`, true, isBounded);
  const newest = range(of.count - length + 1, of.count);
  audit.examine("history", "newest publications in few bytes", newest, reading.got);
  await reading.subscription.unsubscribe();
}
