/** Numbered messages at an engine that is away or slow: each is handled once, and stored before the answer. */
import { CloseCode } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { range } from "../history.ts";
import { UserNodes } from "../users/user_nodes.ts";

/** Beginning of the names of machines. */
const NAME = "numbers";

/** Most clients; a node whose engine is back stores the numbers of all. */
const MOST_CLIENTS = 3;

/** Rounds of a run. */
const ROUNDS = 4;

/** Most messages of one client in one step, and the steps of a round. */
const [MESSAGES, STEPS] = [2, 3] as const;

/** Longest time between two steps, of a handler, and of half a call that stores a number, in milliseconds. */
const [STEP_MS, HANDLER_MS, STORE_MS] = [150, 30, 60] as const;

/** Least and most time of an engine away, in milliseconds. */
const AWAY_MS = [50, 2_200] as const;

/** Time for messages under way, in milliseconds. */
const TRIP_MS = 200;

/** Longest time from the return of the engine to the answers, in a session that goes on, in milliseconds. */
const SOON_MS = 2_000;

/** Longest time until a client that comes back has all answers, in milliseconds. */
const REST_MS = 6_000;

/** Ends of a session, after which the client comes back. */
const ENDS = ["a cut", "a cut that no node hears", "a close", "a move"] as const;

/** A client, the messages that it sent, and those that nodes handled. */
interface Sender {
  readonly name: string;
  readonly machine: Host;
  readonly client: Client;
  readonly handled: number[];
  sent: number;
  /** Number of the node to which the client connects next. */
  at: number;
  /** Names of the ends of sessions in this round. */
  readonly ends: string[];
}

/** The clients, the nodes and the engine of one run. */
interface Numbers {
  readonly audit: Audit;
  readonly random: () => number;
  readonly nodes: UserNodes;
  readonly senders: readonly Sender[];
}

/** A kind of round. */
interface Round {
  readonly name: string;
  /** Passes, up to the end of all faults. */
  readonly run: (numbers: Numbers) => Promise<void>;
}

/** All kinds of rounds. */
const KINDS: readonly Round[] = [
  { name: "an engine that goes away among messages", run: passAmong },
  { name: "an engine that goes away before messages and ends", run: passAway },
  { name: "an engine that goes away before messages and ends", run: passAway },
  { name: "lost answers, and another node", run: passOver },
];

/**
 * Lets clients send numbered messages to two nodes, whose engine goes away.
 *
 * @param audit The audit.
 */
export async function auditNumbers(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const handled = new Map<string, number[]>();
  const nodes: UserNodes = new UserNodes(audit, NAME, {
    onMessage: async ({ data }, { user }) => {
      await audit.pause(HANDLER_MS * random());
      handled.get(user)!.push(data as number);
    },
    onError() {},
  });
  await nodes.ready();
  const count = random() < 0.5 ? 1 : Math.ceil(MOST_CLIENTS * random());
  const senders = Array.from({ length: count }, (_, i): Sender => {
    const name = `${NAME}-${i}`;
    const own: number[] = [];
    handled.set(name, own);
    const client = audit.connect(name, () => nodes.all[sender.at]!.host, {
      token: name,
      delivery: "at-least-once",
      backoff: { firstDelayMs: 50, maxDelayMs: 200 },
      onRefused() {},
      onError() {},
    });
    const sender: Sender = {
      name,
      machine: audit.host(name),
      client,
      handled: own,
      sent: 0,
      at: 0,
      ends: [],
    };
    return sender;
  });
  const numbers: Numbers = { audit, random, nodes, senders };
  await audit.until(() => senders.every(({ client }) => client.isConnected));
  for (let round = 0; round < ROUNDS; round++) {
    nodes.engine.advanceMs = random() < 0.5 ? STORE_MS * random() : 0;
    const { name, run } = oneOf(random, KINDS);
    await run(numbers);
    const about = `after ${name}, ${senders.map(({ ends }) => ends.join(" and ")).join("; ")}`;
    await examine(numbers, about);
    if (random() < 0.5) await settleElsewhere(numbers);
  }
  await Promise.all(senders.map(({ client }) => client.close()));
  await nodes.close();
}

/** Sends messages, some of which are being stored when the engine goes away. */
async function passAmong(numbers: Numbers): Promise<void> {
  const { audit, random } = numbers;
  const sending = numbers.senders.map((sender) => send(numbers, sender));
  await audit.pause(2 * STEP_MS * random());
  await beAway(numbers);
  await Promise.all(sending);
}

/** Sends messages to nodes whose engine is away, while sessions end: none has an answer meanwhile. */
async function passAway(numbers: Numbers): Promise<void> {
  const { audit, random, nodes: { engine }, senders } = numbers;
  const before = senders.map(({ sent }) => sent);
  engine.goAway();
  const steps = senders.map(async (sender) => {
    await send(numbers, sender);
    // The node may have handled all messages before the session ends.
    if (random() < 0.6) await audit.pause(TRIP_MS);
    if (random() < 0.8) await end(numbers, sender);
  });
  await Promise.all([...steps, audit.pause(between(random, ...AWAY_MS))]);
  for (const [i, { client, sent, name }] of senders.entries()) {
    const what = `messages of ${name} without an answer, while the engine is away`;
    audit.examine("lives", what, sent - before[i]!, client.outbox.messages);
  }
  engine.comeBack();
}

/** Sends messages whose answers are lost, and comes to the other node. */
async function passOver(numbers: Numbers): Promise<void> {
  const { audit, random, nodes } = numbers;
  await Promise.all(numbers.senders.map(async (sender) => {
    const { host } = nodes.all[sender.at]!;
    audit.network.change(host, sender.machine, { isBlocked: true });
    await send(numbers, sender);
    sender.at = (sender.at + 1) % nodes.all.length;
    sender.ends.push("a cut");
    audit.cut(sender.machine);
    audit.network.change(host, sender.machine, { isBlocked: false });
    if (random() < 0.5) await send(numbers, sender);
  }));
}

/** Lets the engine be away for a while. */
async function beAway({ audit, random, nodes: { engine } }: Numbers): Promise<void> {
  engine.goAway();
  await audit.pause(between(random, ...AWAY_MS));
  engine.comeBack();
}

/** Sends messages in some steps. */
async function send({ audit, random }: Numbers, sender: Sender): Promise<void> {
  for (let step = 0; step < STEPS; step++) {
    for (let left = Math.ceil(MESSAGES * random()); left > 0; left--) {
      sender.client.send("work", sender.sent++);
    }
    await audit.pause(STEP_MS * random());
    if (random() < 0.3) return;
  }
}

/** Ends a session, and waits for the next one on the same node. */
async function end({ audit, random, nodes }: Numbers, sender: Sender): Promise<void> {
  const { client, machine, name, at } = sender;
  const { session } = client;
  const way = oneOf(random, ENDS);
  sender.ends.push(way);
  if (way === "a cut") audit.cut(machine);
  if (way === "a cut that no node hears") audit.cut(machine, "server");
  if (way === "a move") await client.handOver();
  if (way === "a close") {
    for (const own of nodes.all[at]!.server.manager.sessionsOf(name)) {
      void own.close({ code: CloseCode.draining });
    }
  }
  await audit.until(() => client.isConnected && client.session !== session);
  await audit.pause(TRIP_MS);
}

/** Waits for all answers, and compares the messages with those handled and stored. */
async function examine({ audit, nodes, senders }: Numbers, about: string): Promise<void> {
  const areCalm = senders.every(({ ends }) => ends.length === 0);
  const areAnswered = () => senders.every(({ client }) => client.outbox.messages === 0);
  await audit.until(areAnswered, areCalm ? SOON_MS : REST_MS);
  for (const { name, client, sent, handled } of senders) {
    const expect: Expect = (what, ...values) =>
      audit.examine("lives", `${what} of ${name} ${about}`, ...values);
    expect("messages without an answer", 0, client.outbox.messages);
    expect("messages handled", range(0, sent - 1), handled);
  }
  // The numbers of a client begin with 1.
  const stored = [...nodes.engine.numbers.values()].toSorted((a, b) => a - b);
  const expected = senders.map(({ sent }) => sent).filter((sent) => sent > 0);
  audit.examine("lives", `numbers stored ${about}`, expected.toSorted((a, b) => a - b), stored);
  for (const { ends } of senders) ends.length = 0;
}

/** Leads all clients to the other node, in quiet. */
async function settleElsewhere({ audit, nodes, senders }: Numbers): Promise<void> {
  await Promise.all(senders.map(async (sender) => {
    const { client, name } = sender;
    const { session } = client;
    const { manager } = nodes.all[sender.at]!.server;
    sender.at = (sender.at + 1) % nodes.all.length;
    for (const own of manager.sessionsOf(name)) void own.close({ code: CloseCode.draining });
    await audit.until(() => client.isConnected && client.session !== session);
  }));
  await audit.pause(TRIP_MS);
}
