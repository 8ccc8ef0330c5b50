/** The properties of histories in SQLite files on failing disks and restarting machines. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { BrokerSubscription, HistoryBounds, Publication } from "../../pubsub/broker.ts";
import { type Acknowledged, HistoryModel } from "../../pubsub/history/history_model.ts";
import {
  type LogCall,
  makeCall,
  type ModelState,
  outcomesOf,
  readAll,
  textOf,
} from "../../streams/logs/log_model.ts";
import { type Disk, diskOf } from "./disks.ts";
import { type Drawn, keyOf, maybe, stepOf } from "./draw.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/**
 * Time after a machine has started during which each end counts as a power loss, in milliseconds.
 */
const YOUNG_MS = 5_000;

const HOUR_MS = 3_600_000;
const TOPICS = 3;

/** The request for a page that holds a whole history. */
const ALL = { maxMessages: 1_000, maxBytes: 1 << 24 } as const;

const BOUNDS: Readonly<Record<string, HistoryBounds>> = {
  plenty: { size: 1_000, ttlMs: HOUR_MS, bytes: 1 << 20 },
  "three publications": { size: 3, ttlMs: HOUR_MS, bytes: 1 << 20 },
  "few bytes": { size: 1_000, ttlMs: HOUR_MS, bytes: 9_100 },
  "a short time": { size: 1_000, ttlMs: 1_500, bytes: 1 << 20 },
};

/** Generates a failure after some disk operations in half of the cases. */
function faultOf<Kind extends string>(...kinds: Kind[]) {
  return maybe(
    fc.record({
      kind: fc.constantFrom(...kinds),
      operation: fc.constantFrom("write", "sync"),
      after: fc.nat(6),
      times: fc.integer({ min: 1, max: 4 }),
    }),
    2,
  );
}

const appends = stepOf("append", {
  items: fc.array(
    fc.record({
      topic: fc.nat(TOPICS - 1),
      /** A publication that fits into one page of the file or needs several pages. */
      length: fc.constantFrom<number[]>(10, 9_000),
      key: fc.constantFrom("none", "next", "repeated"),
    }),
    { minLength: 1, maxLength: 5 },
  ),
  /** Time between two calls, in milliseconds. */
  gapMs: fc.constantFrom<number[]>(0, 2),
  fault: faultOf("error", "full", "kill", "power"),
}, 6);
const restart = stepOf("restart", {
  how: fc.constantFrom("close", "kill", "power"),
  /** Calls that are pending when the process or machine ends. */
  underWay: fc.nat(2),
  synchronous: fc.constantFrom("full", "normal"),
  /** Time between the start of the machine and the opening of its file, in milliseconds. */
  restMs: fc.constantFrom<number[]>(0, 1_000, YOUNG_MS + 200),
}, 2);
const fileSteps = fc.oneof(
  appends,
  restart,
  stepOf("listen", { topic: fc.nat(TOPICS - 1) }),
  stepOf("pause", { ms: fc.nat(2_000) }),
);
type Appends = Drawn<typeof appends>;
type Restart = Drawn<typeof restart>;

property(
  "a file contains exactly what its broker acknowledged, on a failing disk and after restarts",
  {
    cases: fc.record({
      bounds: keyOf(BOUNDS),
      synchronous: fc.constantFrom("full", "normal"),
      steps: fc.array(fileSteps, { maxLength: 15 }),
    }),
    async check(world, { bounds, synchronous, steps }) {
      const file = new FailingFile(
        world,
        await diskOf(world, "node"),
        BOUNDS[bounds]!,
        synchronous,
      );
      for (const step of steps) {
        if (step.kind === "append") await file.appendAll(step);
        else if (step.kind === "restart") await file.restart(step);
        else if (step.kind === "listen") await file.listenOrLeave(step.topic);
        else await world.pause(step.ms);
        await file.compare();
      }
      await file.close();
    },
  },
);

const LOGS = ["a", "b", "c", "d"] as const;
const [MAX_LOGS, PLENTY] = [3, 1 << 26] as const;

const logCall = fc.record({
  log: fc.nat(LOGS.length - 1),
  kind: fc.constantFrom("create", "append", "append again", "delete", "retain", "release"),
  /** A record that fits into one page of the file or needs several pages. */
  length: fc.constantFrom<number[]>(10, 9_000),
  keeps: fc.boolean(),
});

property(
  "logs in a file contain exactly what their broker acknowledged, on a failing disk",
  {
    cases: fc.array(
      fc.record({
        /** Concurrent calls. */
        calls: fc.array(logCall, { minLength: 1, maxLength: 4 }),
        fault: faultOf("error", "full"),
      }),
      { maxLength: 15 },
    ),
    async check(world, steps) {
      const { disk, open } = await diskOf(world, "node");
      const broker = open("logs.db");
      const { logs } = broker;
      const states = new Map<string, ModelState>();
      const judge = (id: string, call: LogCall, result: string) => {
        const at = { fromMs: world.nowMs, toMs: world.nowMs };
        const others = [...states].filter(([other, state]) => other !== id && state).length;
        const [right] = outcomesOf(states.get(id), call, at, { others });
        assertEquals(result, textOf(right!.result), `${textOf(call)} of ${id}`);
        states.set(id, right!.next);
      };
      let count = 0;
      for (const { calls, fault } of steps) {
        if (fault !== undefined) disk.fail(fault.kind === "full" ? FULL_DISK : fault);
        const making = calls.map(async (drawn) => {
          const id = LOGS[drawn.log]!;
          const call = logCallOf(drawn, states.get(id), ++count);
          return { id, call, result: await makeCall(logs, id, call).then(textOf, nameOf) };
        });
        const made = await world.inTime("outcomes", Promise.all(making));
        disk.heal();
        for (const { id, call, result } of made) {
          // A call that failed must have had no effect.
          if (result !== "BrokerError") judge(id, call, result);
          else assertEquals(fault !== undefined, true);
        }
        for (const id of LOGS) judge(id, readAll(), textOf(await makeCall(logs, id, readAll())));
      }
      await broker.close();
    },
  },
);

const FULL_DISK = { kind: "full", operation: "write", times: Infinity } as const;

const nameOf = (error: Error): string => error.constructor.name;

/** Makes a log call that is possible in the current state. */
function logCallOf(
  { kind, length, keeps }: Drawn<typeof logCall>,
  state: ModelState,
  number: number,
): LogCall {
  const records = [`${number}`.padEnd(length)];
  const identity = `log${`${number}`.padStart(5, "0")}`;
  const config = { contentType: "text/plain" };
  const [epoch, seq] = state?.producers.get("p") ?? [0, -1];
  const isNext = kind === "append" || seq < 0;
  switch (kind) {
    case "create":
      return { kind, options: { config, identity, records, maxLogs: MAX_LOGS } };
    case "delete":
      return { kind, ifExpired: false };
    case "retain":
      return { kind, fork: "f", options: { identity: state?.identity ?? "none0000", maxForks: 1 } };
    case "release":
      return { kind, fork: "f" };
    default: {
      const producer = { id: "p", epoch, seq: isNext ? seq + 1 : seq };
      const keep = keeps ? { keep: { records: 2, bytes: 20_000 } } : {};
      return { kind: "append", options: { records, maxBytes: PLENTY, producer, ...keep } };
    }
  }
}

/** A call whose outcome arrives later or never. */
interface Append {
  readonly topic: Topic;
  readonly payload: string;
  readonly number: number | undefined;
  readonly fromMs: number;
  outcome: "none" | "failed" | "repetition" | Acknowledged;
}

/** A topic of the file. */
interface Topic {
  readonly name: string;
  model: HistoryModel;
  /** The newest number of the producer. */
  newest: number;
  listener: {
    readonly subscription: BrokerSubscription;
    readonly from: number;
    readonly heard: Publication[];
  } | undefined;
}

/** A file and a model of each history in it. */
class FailingFile {
  readonly #topics: readonly Topic[];
  /** Payloads by topic, epoch and offset. A position must never identify two publications. */
  readonly #positions = new Map<string, string>();
  #synchronous: "full" | "normal";
  #broker: SqliteBroker;
  #epoch = "";
  /** Number of power losses that dropped writes. Each of them is followed by new producers. */
  #losses = 0;
  #count = 0;

  constructor(
    readonly world: World,
    readonly at: Disk,
    readonly bounds: HistoryBounds,
    synchronous: "full" | "normal",
  ) {
    this.#synchronous = synchronous;
    this.#topics = Array.from({ length: TOPICS }, (_, i) => ({
      name: `topic ${i}`,
      model: new HistoryModel(bounds),
      newest: -1,
      listener: undefined,
    }));
    this.#broker = this.#open();
  }

  #open(): SqliteBroker {
    return this.at.open("file.db", { synchronous: this.#synchronous });
  }

  /** Makes appends at the same time or shortly after one another, while the disk may fail. */
  async appendAll({ items, gapMs, fault }: Appends): Promise<void> {
    const { disk } = this.at;
    if (fault?.kind === "power") await this.#grow();
    if (fault !== undefined) {
      disk.fail(fault.kind === "full" ? { ...fault, ...FULL_DISK } : fault);
    }
    const calls: Append[] = [];
    for (const item of items) {
      calls.push(this.#append(item));
      if (gapMs > 0) await this.world.pause(gapMs);
    }
    const areSettled = () => calls.every(({ outcome }) => outcome !== "none");
    await this.world.until("all outcomes", () => areSettled() || !disk.host.isAlive);
    disk.heal();
    for (const call of calls) this.#note(call);
    if (fault === undefined) return;
    if (!disk.host.isAlive) {
      const how = fault.kind === "power" ? "power" : "kill";
      return await this.#comeBack(how, { calls, synchronous: this.#synchronous, restMs: 0 });
    }
    // The operations of a group do not fail because of each other. Each operation is retried once.
    const isRetried = fault.kind === "error" && fault.times === 1 && gapMs === 0 &&
      calls.length > 1;
    if (isRetried) assertEquals(calls.filter(({ outcome }) => outcome === "failed").length, 0);
    await this.#appendOne();
  }

  /** Appends on a working disk, where earlier failures must no longer have an effect. */
  async #appendOne(): Promise<void> {
    const call = this.#append({ topic: 0, length: 10, key: "none" });
    await this.world.until("an outcome", () => call.outcome !== "none");
    assertEquals(typeof call.outcome, "object");
    this.#note(call);
    assertEquals(this.#broker.status.current.name, "connected");
  }

  async restart({ how, underWay, synchronous, restMs }: Restart): Promise<void> {
    if (how === "power") await this.#grow();
    const calls = Array.from(
      { length: underWay },
      (_, i) => this.#append({ topic: i, length: 10, key: "none" }),
    );
    if (how === "close") {
      await this.#broker.close();
      // Closing commits all waiting operations.
      await this.world.until(
        "all outcomes",
        () => calls.every(({ outcome }) => outcome !== "none"),
      );
      for (const call of calls) {
        assertEquals(typeof call.outcome, "object");
        this.#note(call);
      }
    }
    await this.#comeBack(how, { calls, synchronous, restMs });
  }

  /** Waits until the machine has run long enough for a second power loss to be noticed. */
  async #grow(): Promise<void> {
    await this.world.pause(Math.max(0, YOUNG_MS + 200 - this.at.disk.uptimeMs));
  }

  /** Ends the process or the machine, reopens the file, and compares the histories. */
  async #comeBack(
    how: Restart["how"],
    { calls, synchronous, restMs }:
      & { readonly calls: readonly Append[] }
      & Pick<Restart, "synchronous" | "restMs">,
  ): Promise<void> {
    const { disk } = this.at;
    const { host } = disk;
    if (how !== "close") host.kill({ power: how === "power" });
    host.start();
    await this.world.pause(Math.max(0, restMs - disk.uptimeMs));
    const wasNormal = this.#synchronous === "normal";
    const isLost = wasNormal && how === "power";
    const isUnsure = wasNormal && how === "kill" && disk.uptimeMs < YOUNG_MS;
    this.#synchronous = synchronous;
    this.#broker = this.#open();
    if (isLost) this.#losses++;
    const before = this.#epoch;
    for (const topic of this.#topics) {
      topic.listener = undefined;
      await this.#takeOver(topic, calls, isLost);
    }
    if (before !== "") assertEquals(this.#epoch !== before, isLost || isUnsure, "a new epoch");
    if (isLost) await this.#appendOne();
  }

  /** Updates a topic's model with the epoch and with the pending calls that the file contains. */
  async #takeOver(topic: Topic, calls: readonly Append[], isLost: boolean): Promise<void> {
    const { epoch, head, publications } = await this.#broker.history.read(topic.name, {
      ...ALL,
      bounds: this.bounds,
    });
    this.#epoch = epoch;
    const { all } = topic.model;
    const found = publications.map(({ payload, position }): Acknowledged => {
      const text = `${payload}`;
      const known = all.find((one) => one.payload === text);
      const call = calls.find((one) => one.payload === text && one.topic === topic);
      assertEquals(known !== undefined || call !== undefined, true, `${text} on ${topic.name}`);
      topic.newest = Math.max(topic.newest, call?.number ?? -1);
      const { offset, tag } = position!;
      const taken = known?.taken ?? { fromMs: call!.fromMs, toMs: this.world.nowMs };
      return { payload: text, position: { epoch, offset, tag: tag! }, taken };
    });
    for (const one of found) this.#notePosition(topic, one);
    const others = found.filter(({ payload }) => all.every((one) => one.payload !== payload));
    // A machine that loses power may lose the last commits.
    const kept = all.filter(({ position }) => !isLost || position.offset <= head);
    topic.model = new HistoryModel(this.bounds);
    topic.model.add(others);
    topic.model.add(kept.map((one) => ({ ...one, position: { ...one.position, epoch } })));
    if (isLost) topic.newest = -1;
  }

  async listenOrLeave(index: number): Promise<void> {
    const topic = this.#topics[index]!;
    const { listener, model, name } = topic;
    if (listener !== undefined) {
      topic.listener = undefined;
      return await listener.subscription[Symbol.asyncDispose]();
    }
    const heard: Publication[] = [];
    const subscription = this.#broker.subscribe(name, (one) => void heard.push(one), {
      history: this.bounds,
    });
    topic.listener = { subscription, from: model.all.length, heard };
    await subscription.ready;
  }

  /** Compares pages and deliveries when nothing is waiting. */
  async compare(): Promise<void> {
    await this.world.until("no waiting operation", () => this.#broker.stats.waiting === 0, 100);
    for (const topic of this.#topics) {
      const { model, listener } = topic;
      await this.#read(topic);
      await this.#read(topic, { after: Math.max(0, model.head - 2), maxMessages: 2 });
      if (listener === undefined) continue;
      const { from, heard } = listener;
      const expected = model.all.slice(from);
      await this.world.until("all deliveries", () => heard.length >= expected.length, 100);
      assertEquals(
        heard.map(({ payload, position }) => [payload, position!.offset, position!.prev]),
        expected.map((
          { payload, position: { offset } },
          i,
        ) => [payload, offset, model.all[from + i - 1]?.position.offset ?? 0]),
      );
    }
  }

  async close(): Promise<void> {
    await this.#broker.close();
    const { host } = this.at.disk;
    const timers = [...this.world.simulation.pending()].filter((one) => one.host === host);
    assertEquals(timers.length, 0, "timers of a closed broker");
  }

  /** Reads a page and compares it with the model. */
  async #read(
    { name, model }: Topic,
    part: { readonly after?: number; readonly maxMessages?: number } = {},
  ): Promise<void> {
    const query = { ...ALL, ...part };
    const fromMs = this.world.nowMs;
    const page = await this.#broker.history.read(name, { ...query, bounds: this.bounds });
    this.#epoch ||= page.epoch;
    assertEquals(page.epoch, this.#epoch);
    const difference = model.differenceOf(query, page, { fromMs, toMs: this.world.nowMs });
    assertEquals(difference?.received, difference?.expected);
  }

  #append(
    { topic: index, length, key }: Appends["items"][number],
  ): Append {
    const topic = this.#topics[index]!;
    const number = key === "none"
      ? undefined
      : Math.max(0, topic.newest + (key === "next" ? 1 : 0));
    const payload = `${++this.#count}`.padEnd(length);
    const fromMs = this.world.nowMs;
    const call: Append = { topic, payload, number, fromMs, outcome: "none" };
    this.#broker.history.append({ topic: topic.name, payload }, {
      bounds: this.bounds,
      ...(number !== undefined && { key: { producer: `p${this.#losses}`, number } }),
    }).then(({ position }) => {
      const taken = { fromMs, toMs: this.world.nowMs };
      call.outcome = position === undefined ? "repetition" : { payload, position, taken };
    }, () => call.outcome = "failed");
    return call;
  }

  /** Records an outcome, in the order of the calls. */
  #note({ topic, number, outcome }: Append): void {
    if (outcome === "none" || outcome === "failed") return;
    const isNew = number === undefined || number > topic.newest;
    assertEquals(outcome === "repetition", !isNew);
    if (outcome === "repetition") return;
    topic.newest = Math.max(topic.newest, number ?? -1);
    assertEquals(outcome.position.offset > topic.model.head, true);
    this.#epoch = outcome.position.epoch;
    this.#notePosition(topic, outcome);
    topic.model.add([outcome]);
  }

  #notePosition({ name }: Topic, { payload, position: { epoch, offset } }: Acknowledged): void {
    const position = `${name} ${epoch} ${offset}`;
    assertEquals(this.#positions.get(position) ?? payload, payload, `two at ${position}`);
    this.#positions.set(position, payload);
  }
}
