/** Answers that stream: left early in all ways, no faster than their readers, beside full queues. */
import { BrokerError } from "../../../../../errors.ts";
import type { Broker } from "../../../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../../../pubsub/memory/broker.ts";
import type { Runtime } from "../../../../../base/runtime.ts";
import { pause } from "../../../../../base/wait.ts";
import { internals, type Session } from "../../../../../session/session.ts";
import type { Client } from "../../../../../client/client.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";
import { brokerWithLogs } from "../logs/broker_with_logs.ts";
import { auditLargeAnswer } from "./large_answer.ts";
import { SlowWay } from "./slow_way.ts";

/** Requests of one session at once. */
const MAX_REQUESTS = 3;

/** Room of the send queue, in messages. */
const ROOM = 6;

/** Answers of one run: enough for the places of all requests, were none given back. */
const ANSWERS = 2 * MAX_REQUESTS + 1;

/** Items of a whole answer, and of one that the reader leaves. */
const [ITEMS, ENDLESS] = [7, 1_000];

/** Time for the end of an answer at the other end, in milliseconds. */
const TRIP_MS = 400;

/** Bytes of an item. */
const ITEM_BYTES = 20_000;

/** Ways in which an answer ends. */
const ENDS = ["whole", "slow", "break", "signal", "late", "idle", "throw", "time"] as const;

/** Longest pauses of a loop, one of which is longer than some waits for an item, in milliseconds. */
const PAUSES_MS = [0, 30, 150] as const;

/** Least and most time to wait for an item, in milliseconds. */
const ITEM_MS = [100, 300] as const;

/** Time of the event loop to settle a promise, in milliseconds. */
const TURN_MS = 5;

/** Longest time of an answer without an end, in milliseconds. */
const ANSWER_MS = 4_000;

/** Time of a handler before the answer begins, in milliseconds, and ways to give up before. */
const [BEGIN_MS, EARLY_ENDS] = [200, ["signal", "cancel", "time"]] as const;

/** Ways to give up an answer while the client is away. */
const AWAY_ENDS = ["cancel", "return", "signal"] as const;

/** Ways in which the loop over an answer that outlives its session ends. */
const KEPT_ENDS = ["whole", "break", "cancel", "signal", "late", "throw", "time"] as const;

/** Outcome of each loop over a kept answer that one of the readers cancels. */
const KEPT_CANCELLED = "cancelled";

/** Outcome of the loop over an answer, by the way in which the answer ends. */
const OUTCOMES = {
  whole: "fulfilled",
  slow: "fulfilled",
  break: "fulfilled",
  idle: "fulfilled",
  cancel: "fulfilled",
  signal: "AbortError: Enough",
  late: "TimeoutError",
  time: "TimeoutError",
  throw: "failed",
} as const;

/** Most attempts at an answer of an engine that fails once. */
const ATTEMPTS = 3;

/** Time of an answer whose items all come at once, and pause of a loop that takes longer. */
const [SLOW_ANSWER_MS, SLOW_LOOP_MS] = [300, 60] as const;

/** The handler's half of one answer. */
interface Made {
  /** Items that the generator has made. */
  count: number;
  /** True once the generator is over. */
  isOver: boolean;
}

/** Data of a request. */
interface Asked {
  readonly id: string;
  readonly items: number;
  /** Pause before each item, in milliseconds. */
  readonly betweenMs: number;
  readonly bytes?: number;
  /** Index of the item before which the generator waits: for the gate, without end, or fails. */
  readonly stopAt?: number;
  readonly stop?: "gate" | "stall" | "throw";
}

/** The server, with the answers that it makes. */
interface Producer {
  readonly audit: Audit;
  readonly random: () => number;
  readonly made: Map<string, Made>;
  readonly client: Client;
  readonly session: Session;
  gate: PromiseWithResolvers<void>;
}

/**
 * Reads answers of a server with few places.
 *
 * @param audit The audit.
 */
export async function auditAnswers(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("answers");
  const made = new Map<string, Made>();
  async function* items(
    { data, signal }: { readonly data: unknown; readonly signal: AbortSignal },
  ) {
    const { id, items, betweenMs, bytes = 0, stopAt, stop } = data as Asked;
    const answer: Made = { count: 0, isOver: false };
    made.set(id, answer);
    try {
      for (let index = 0; index < items && !signal.aborted; index++) {
        if (index === stopAt) {
          if (stop === "throw") throw new Error("The answer fails");
          // Some generators do not hear the signal, and end with their step.
          if (stop === "gate") await producer.gate.promise;
          else await pause(host.runtime, 60_000, signal);
        }
        if (betweenMs > 0) await pause(host.runtime, betweenMs);
        answer.count++;
        yield { index, text: "x".repeat(bytes) };
      }
      if (stopAt === items && stop === "gate") await producer.gate.promise;
    } finally {
      answer.isOver = true;
    }
  }
  /** An answer that begins late, by a generator that hears no signal. */
  const late = async ({ data }: { readonly data: unknown }) => {
    await pause(host.runtime, BEGIN_MS);
    return (async function* () {
      const answer: Made = { count: 0, isOver: false };
      made.set(data as string, answer);
      while (answer.count < ENDLESS) {
        await pause(host.runtime, TURN_MS);
        yield answer.count++;
      }
    })();
  };
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: {
      concurrency: MAX_REQUESTS,
      maxRequests: MAX_REQUESTS,
      sendQueue: { maxMessages: ROOM },
    },
    onError() {},
    durableStreams: { path: "/streams" },
    requests: { items, late, kept: { answer: items } },
  }));
  const got: number[] = [];
  const client = audit.connect("asker", host, {
    token: undefined,
    onMessage: ({ topic, data }) => void (topic === "page" && got.push(data as number)),
  });
  const { far: session } = await audit.meet(client, server);
  const gate = Promise.withResolvers<void>();
  const producer: Producer = { audit, random, made, client, session, gate };
  for (let i = 0; i < ANSWERS; i++) await auditEnd(producer, `answer ${i}`);
  if (random() < 0.5) await auditEarly(producer);
  const { receiving } = session[internals];
  const left = () => [
    receiving.replies.size,
    receiving.replies.leaving,
    client.session![internals].sending.openRequests,
  ];
  await audit.until(() => left().every((count) => count === 0), TRIP_MS);
  audit.examine("queues", "answers that are left", [0, 0, 0], left());
  await auditFull(producer, got);
  await auditKept(producer);
  if (random() < 0.5) await auditAway(producer);
  if (random() < 0.5) await auditFailing(audit);
  if (random() < 0.6) await auditLargeAnswer(audit);
  await client.close();
  await server.close();
}

/** Reads one answer, which ends in a drawn way. */
async function auditEnd(producer: Producer, id: string): Promise<void> {
  const { audit, random, made, client } = producer;
  const end = oneOf(random, ENDS);
  const isSlow = end === "slow";
  const window = isSlow ? ITEMS : 1 + Math.floor(4 * random());
  const betweenMs = isSlow || random() < 0.5 ? 0 : 20;
  const slowMs = isSlow ? SLOW_LOOP_MS : oneOf(random, end === "late" ? PAUSES_MS : [0, 0, 30]);
  const itemTimeoutMs = Math.floor(between(random, ...ITEM_MS));
  const stopAt = end === "whole" || isSlow ? ITEMS : Math.floor(ITEMS * random());
  const stops = { throw: "throw", late: "stall", idle: "stall", time: "stall" } as const;
  const asked: Asked = {
    id,
    items: end === "break" || end === "signal" ? ENDLESS : ITEMS,
    betweenMs,
    bytes: random() < 0.2 ? ITEM_BYTES : 0,
    ...(end in stops && { stopAt, stop: stops[end as keyof typeof stops] }),
  };
  const controller = new AbortController();
  const answer = client.requestStream("items", asked, {
    window,
    ...limitsOf(end, { itemTimeoutMs, signal: controller.signal }),
    ...(isSlow && { timeoutMs: SLOW_ANSWER_MS }),
  });
  const got: number[] = [];
  let ahead = 0;
  let sinceMs = audit.nowMs;
  const read = async () => {
    for await (const item of answer) {
      got.push((item as { readonly index: number }).index);
      if (end === "break" && got.length > stopAt) break;
      if (end === "signal" && got.length > stopAt) {
        // The server makes items meanwhile, as far as the credit goes.
        await audit.pause(slowMs);
        controller.abort(new DOMException("Enough", "AbortError"));
      }
      if (slowMs > 0) await audit.pause(slowMs);
      ahead = Math.max(ahead, (made.get(id)?.count ?? 0) - got.length);
      sinceMs = audit.nowMs;
    }
  };
  if (end === "idle") {
    // The program leaves while the loop waits for an item.
    void audit.pause(300).then(() => answer.cancel());
  }
  const outcome = await audit.inTime(outcomeOf(read()), ANSWER_MS, "no end");
  const about = `(${end} at ${stopAt}, window ${window}, ${betweenMs} and ${slowMs} ms)`;
  audit.examine("queues", `end of an answer ${about}`, OUTCOMES[end], outcome);
  if (end === "late") examineLate(producer, { about, sinceMs, itemTimeoutMs });
  const count = end === "break" || end === "signal" ? stopAt + 1 : stopAt;
  audit.examine("queues", `items of an answer ${about}`, range(0, count - 1), got);
  audit.examine("queues", `${ahead} items ahead ${about}`, true, ahead <= window);
  const isOver = await audit.until(() => made.get(id)?.isOver === true, TRIP_MS);
  audit.examine("queues", `end of the generator ${about}`, true, isOver);
}

/** Gives up an answer before the handler begins with the items. */
async function auditEarly({ audit, random, made, client }: Producer): Promise<void> {
  const end = oneOf(random, EARLY_ENDS);
  const atMs = 10 + Math.floor((BEGIN_MS - 50) * random());
  const id = `early answer, ${end} at ${atMs} ms`;
  const controller = new AbortController();
  const answer = client.requestStream("late", id, {
    ...(end === "signal" && { signal: controller.signal }),
    ...(end === "time" && { timeoutMs: atMs }),
  });
  const reading = outcomeOf(hearWhole(answer, []));
  if (end !== "time") giveUpAfter(audit, atMs, end === "cancel" ? answer : controller);
  const outcome = await audit.inTime(reading, ANSWER_MS, "no end");
  audit.examine("queues", `end of an ${id}`, OUTCOMES[end], outcome);
  await audit.pause(BEGIN_MS + TRIP_MS);
  audit.examine("queues", `items of an ${id}`, 0, made.get(id)?.count ?? 0);
}

/** Asks for an answer while the client is away, and gives up before the client is back. */
async function auditAway({ audit, random, made, client }: Producer): Promise<void> {
  const end = oneOf(random, AWAY_ENDS);
  const [server, machine] = [audit.host("answers"), audit.host("asker")];
  audit.block(machine, server);
  audit.cut(machine);
  await audit.until(() => !client.isConnected, TRIP_MS);
  const controller = new AbortController();
  const asked: Asked = { id: "away", items: ITEMS, betweenMs: 20 };
  const answer = client.requestStream("items", asked, { signal: controller.signal });
  const iterator = answer[Symbol.asyncIterator]();
  const isRead = end !== "return" && random() < 0.5;
  const next = () => outcomeOf(iterator.next().then(({ done, value }) => got.push(done ?? value)));
  const got: unknown[] = [];
  const reading = isRead ? next() : undefined;
  await audit.pause(oneOf(random, PAUSES_MS));
  if (end === "return") void iterator.return?.();
  else if (end === "cancel") void answer.cancel();
  else controller.abort(new DOMException("Enough", "AbortError"));
  audit.block(machine, server, false);
  await audit.until(() => client.isConnected);
  const outcome = await audit.inTime(reading ?? next(), ANSWER_MS, "no end");
  const about = `answer that a client gave up while away (${end}, ${isRead ? "" : "not "}read)`;
  const isFailed = end === "signal";
  const expected = [isFailed ? OUTCOMES.signal : "fulfilled", isFailed ? [] : [true]];
  audit.examine("queues", `end of an ${about}`, expected, [outcome, got]);
  await audit.pause(TRIP_MS);
  const { count = 0, isOver = true } = made.get(asked.id) ?? {};
  audit.examine("queues", `items of an ${about}, and the end`, [0, true], [count, isOver]);
}

/** Cancels an answer after a time, or ends the loop over the items by its signal. */
function giveUpAfter(
  audit: Audit,
  ms: number,
  means: { cancel(): unknown } | AbortController,
): void {
  void audit.pause(ms).then(() =>
    "cancel" in means ? means.cancel() : means.abort(new DOMException("Enough", "AbortError"))
  );
}

/** Options of a loop that ends by a signal, or by a time limit. */
function limitsOf(
  end: keyof typeof OUTCOMES,
  { itemTimeoutMs, signal }: { readonly itemTimeoutMs: number; readonly signal: AbortSignal },
) {
  return {
    ...(end === "signal" && { signal }),
    ...(end === "late" && { itemTimeoutMs }),
    ...(end === "time" && { timeoutMs: 500 }),
  };
}

/** Examines the time at which a loop gave up an item. */
function examineLate(
  { audit }: Producer,
  { about, sinceMs, itemTimeoutMs }: {
    readonly about: string;
    /** Time since which the loop waits. */
    readonly sinceMs: number;
    readonly itemTimeoutMs: number;
  },
): void {
  const tookMs = audit.nowMs - sinceMs;
  const isInTime = tookMs >= itemTimeoutMs - 1 && tookMs <= itemTimeoutMs + TURN_MS;
  const what = `wait of ${tookMs} ms for an item, at most ${itemTimeoutMs} ${about}`;
  audit.examine("waits", what, true, isInTime);
}

/** Reads one answer that outlives its session, and goes on behind the place of the loop. */
async function auditKept(producer: Producer): Promise<void> {
  const { audit, random, made, client } = producer;
  const end = oneOf(random, KEPT_ENDS);
  const stopAt = end === "whole" ? ITEMS : 1 + Math.floor((ITEMS - 1) * random());
  const itemTimeoutMs = Math.floor(between(random, ...ITEM_MS));
  const slowMs = oneOf(random, end === "late" ? PAUSES_MS : [0, 0, 30]);
  const id = `kept-answer-${stopAt}-${itemTimeoutMs}`;
  const stop = end === "throw" ? "throw" : end === "whole" || end === "break" ? undefined : "stall";
  const asked: Asked = {
    id,
    items: ITEMS,
    betweenMs: random() < 0.5 ? 0 : 20,
    ...(stop && { stopAt, stop }),
  };
  const controller = new AbortController();
  const answer = client.requestStream("kept", asked, {
    id,
    ...limitsOf(end, { itemTimeoutMs, signal: controller.signal }),
  });
  const got: number[] = [];
  let sinceMs = audit.nowMs;
  const read = async (items: AsyncIterable<unknown>, leavesAt?: number) => {
    for await (const item of items) {
      got.push((item as { readonly index: number }).index);
      if (got.length - 1 === leavesAt) break;
      if (slowMs > 0) await audit.pause(slowMs);
      sinceMs = audit.nowMs;
    }
  };
  const stopsMs = between(random, ...ITEM_MS);
  if (end === "cancel" || end === "signal") {
    // At some time of the answer, the items so far have come.
    const afterMs = stopsMs + (stopAt + 1) * (asked.betweenMs + slowMs);
    giveUpAfter(audit, afterMs, end === "cancel" ? answer : controller);
  }
  const reading = outcomeOf(read(answer, end === "break" ? stopAt : undefined));
  const outcome = await audit.inTime(reading, ANSWER_MS, "no end");
  const about = `(kept, ${end} at ${stopAt}, ${asked.betweenMs} and ${slowMs} ms)`;
  const expected = end === "cancel" ? KEPT_CANCELLED : OUTCOMES[end];
  audit.examine("queues", `end of an answer ${about}`, expected, outcome);
  const count = end === "break" ? stopAt + 1 : stopAt;
  audit.examine("queues", `items of an answer ${about}`, range(0, count - 1), got);
  if (end === "late") examineLate(producer, { about, sinceMs, itemTimeoutMs });
  if (end === "break") {
    // Another loop goes on behind the place of the first one.
    const rest = client.requestStream("kept", asked, { id, after: answer.offset });
    const ended = await audit.inTime(outcomeOf(read(rest)), ANSWER_MS, "no end");
    audit.examine("queues", `rest of an answer ${about}`, ["fulfilled", range(0, ITEMS - 1)], [
      ended,
      got,
    ]);
  } else if (end === "signal" || end === "late" || end === "time") {
    // The answer itself goes on until the program cancels.
    audit.examine("queues", `generator of an answer ${about}`, false, made.get(id)?.isOver);
    await client.requestStream("kept", asked, { id }).cancel();
  }
  const isOver = await audit.until(() => made.get(id)?.isOver === true, TRIP_MS);
  audit.examine("queues", `end of the generator ${about}`, true, isOver);
}

/** Asks for an answer of which one call of the engine fails, and again by the same name. */
async function auditFailing(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("failing-answers");
  const kind = oneOf(random, ["create", "append", "read"] as const);
  let left = Math.floor(4 * random());
  const about = `${kind} ${left} fails`;
  const broker = failingBroker(host.runtime, (name) => name === kind && left-- === 0);
  async function* items() {
    for (let index = 0; index < ITEMS; index++) {
      await pause(host.runtime, TURN_MS);
      yield index;
    }
  }
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    broker,
    onError() {},
    durableStreams: { path: "/streams" },
    requests: { kept: { answer: items, resume: items } },
  }));
  const client = audit.connect("failing-asker", host, { token: undefined });
  await audit.until(() => client.isConnected);
  const got: unknown[] = [];
  const read = () =>
    hearWhole(client.requestStream("kept", undefined, { id: "answer-of-failing" }), got);
  const outcomes: string[] = [];
  while (outcomes.length < ATTEMPTS && outcomes.at(-1) !== "fulfilled") {
    got.length = 0;
    outcomes.push(await audit.inTime(outcomeOf(read()), ANSWER_MS, "no end"));
  }
  audit.examine("queues", `answer (${about}), ${outcomes}`, range(0, ITEMS - 1), got);
  await client.close();
  await server.close();
  await broker.close();
}

/** Takes all items. */
async function hearWhole(items: AsyncIterable<unknown>, got: unknown[]): Promise<void> {
  for await (const item of items) got.push(item);
}

/** A broker in memory, with calls of logs that fail without an effect. */
function failingBroker(runtime: Runtime, fails: (call: string | symbol) => boolean): Broker {
  const broker = new MemoryBroker({ runtime });
  return brokerWithLogs(broker, (name, own) => {
    if (!fails(name)) return own;
    return () => Promise.reject(new BrokerError("Cannot call: the engine is away"));
  });
}

/** An answer whose next item comes when the queue is full of messages. */
async function auditFull(producer: Producer, got: number[]): Promise<void> {
  const { audit, random, made, client, session } = producer;
  const { queue } = session[internals];
  const way = new SlowWay(audit, { from: audit.host("answers"), to: audit.host("asker") });
  const stopAt = 1 + Math.floor(2 * random());
  // The end needs room as well, behind the last item or alone.
  const items = [ITEMS, stopAt + 1, stopAt][Math.floor(3 * random())]!;
  const asked = { id: "full", items, betweenMs: 0 };
  const indexes: number[] = [];
  const reading = (async () => {
    const answer = client.requestStream("items", { ...asked, stopAt, stop: "gate" });
    for await (const item of answer) indexes.push((item as { readonly index: number }).index);
  })();
  const outcome = outcomeOf(reading);
  await audit.until(() => indexes.length === stopAt, 1_000);
  await way.block(session);
  const messages: number[] = [];
  while (queue!.stats.queuedMessages < ROOM && messages.length < 2 * ROOM) {
    session.send("page", messages.length);
    messages.push(messages.length);
  }
  producer.gate.resolve();
  await audit.pause(50);
  const before = made.get("full")?.count ?? 0;
  // One item waits for room; the next one is not made.
  audit.examine("queues", "items made beside a full queue", Math.min(stopAt + 1, items), before);
  const { queuedMessages } = queue!.stats;
  audit.examine("queues", "messages and parts in a full queue", ROOM, queuedMessages);
  way.open(400_000);
  const ended = await audit.inTime(outcome, 3_000, "no end");
  way.heal();
  await audit.until(() => got.length === messages.length, 1_000);
  audit.examine("queues", "answer beside a full queue", "fulfilled", ended);
  audit.examine("queues", "items beside a full queue", range(0, items - 1), indexes);
  audit.examine("queues", "messages beside an answer", messages, got);
  audit.examine("queues", "session beside an answer", "connected", session.state);
}
