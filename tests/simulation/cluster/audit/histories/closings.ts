/** Brokers that close: calls under way settle, later ones are refused, and so are names too long. */
import type { Broker, HistoryBounds } from "../../../../../pubsub/broker.ts";
import type { LogConfig } from "../../../../../pubsub/logs/log.ts";
import type { SqliteBroker } from "../../../../../brokers/sqlite/mod.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import { oneOf, shuffled } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { LogMachine, PLENTY } from "../logs/machine.ts";

/** Brokers of one audit, one after the other. */
const ROUNDS = 2;

/** Share of brokers that close while the engine is out of reach, and of those without calls under way. */
const [AWAY_SHARE, IDLE_SHARE] = [0.4, 0.4];

/** Share of files that close without a backup: a close waits for the end of a backup before all else. */
const NO_COPY_SHARE = 0.6;

/** Longest time of a close with all calls under way, and of a call that is refused, in milliseconds. */
const [CLOSE_MS, REFUSED_MS] = [15_000, 1_000];

/** Longest time until nothing of a closed broker is left, in milliseconds. */
const ENDS_MS = 6_000;

/** Longest time of a publication to a node, in milliseconds. */
const ARRIVES_MS = 2_000;

/** Longest time between the calls and the close, in milliseconds, of which one is drawn. */
const BEFORE_MS = [0, 0, 1, 20] as const;

/** The same for a file, of which a group of calls takes 2 ms. */
const FILE_BEFORE_MS = [0, 2, 3, 4] as const;

/** Payload of the publications that tell when a subscription is in force, their most, and the time between two. */
const [FIRST, TRIES, TRY_MS] = ["first", 40, 50] as const;

/** Paths of the file, and of the copy. */
const [PATH, COPY] = ["closing.db", "closing-copy.db"] as const;

/** Names that a file does not take. docs/deploy/sqlite.md, Options. */
const UNFIT = ["x".repeat(1_025), "ü".repeat(513), "a\0b"] as const;

const BOUNDS: HistoryBounds = { size: 100, ttlMs: 60_000, bytes: 1 << 20 };
const CONFIG: LogConfig = { contentType: "text/plain" };
const { maxStreams: maxLogs, maxStreamBytes: maxBytes } = PLENTY;
const PAGE = { maxMessages: 10, maxBytes } as const;
const RECORDS = { after: 0, maxRecords: 10, maxBytes, renews: true } as const;

/** A call with a name, such as that of a topic. */
type Call = (broker: Broker, name: string) => Promise<unknown>;

/** Calls that are refused with a `BrokerError` behind a close. */
const CALLS: Readonly<Record<string, Call>> = {
  "append to a history": ({ history }, topic) =>
    history!.append({ topic, payload: "kept" }, { bounds: BOUNDS }),
  "read a history": ({ history }, topic) => history!.read(topic, { bounds: BOUNDS, ...PAGE }),
  "advance a number": ({ store }, key) => store!.advance(key, 1, 60_000),
  "read a number": ({ store }, key) => store!.newest(key, 60_000),
  claim: ({ store }, scope) => store!.claim(scope, "member", { max: 2, ttlMs: 60_000 }),
  "release a claim": ({ store }, scope) => store!.release(scope, "member"),
  "list claims": ({ store }, scope) => store!.claims(scope),
  "create a log": ({ logs }, id) =>
    logs!.create(id, { config: CONFIG, identity: "closing0", records: [], maxLogs }),
  "append to a log": ({ logs }, id) => logs!.append(id, { records: ["record"], maxBytes }),
  "read a log": ({ logs }, id) => logs!.read(id, RECORDS),
  "delete a log": ({ logs }, id) => logs!.delete(id),
  "fork a log": ({ logs }, id) => logs!.retain(id, "fork1", { identity: "closing0", maxForks: 1 }),
  "release a log": ({ logs }, id) => logs!.release(id, "fork1"),
};

/** Calls that throw at once behind a close. */
const SYNCHRONOUS: Readonly<Record<string, (broker: Broker, name: string) => unknown>> = {
  publish: (broker, topic) => broker.publish({ topic, payload: "plain" }),
  subscribe: (broker, topic) => broker.subscribe(topic, () => {}),
  "subscribe to a history": (broker, topic) =>
    broker.subscribe(topic, () => {}, { history: BOUNDS }),
};

/**
 * Closes brokers, at any time of a call.
 *
 * @param audit The audit.
 */
export async function auditClosings(audit: Audit): Promise<void> {
  // The brokers of a cluster in memory are those of the machine room.
  if (audit.node(0).server.topics.broker.name === "memory") return;
  for (let round = 0; round < ROUNDS; round++) await new Closing(audit, round).run();
}

/** One broker, up to the close. */
class Closing {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #copyChance: () => number;
  readonly #round: number;
  #disk: SimulatedDisk | undefined;

  constructor(audit: Audit, round: number) {
    this.#audit = audit;
    this.#random = audit.random;
    this.#copyChance = audit.chanceOf(`copy ${round}`);
    this.#round = round;
  }

  async run(): Promise<void> {
    const audit = this.#audit;
    const { openFile } = audit.engine;
    const machine = await LogMachine.start(audit, `closings-${this.#round}`, (host) => {
      if (openFile === undefined) return audit.broker(host);
      this.#disk = new SimulatedDisk(audit.simulation, host);
      return openFile(this.#disk, PATH, { synchronous: "full", maxTopics: 100 });
    });
    this.#expect("machine that reaches the engine", true, machine !== undefined);
    if (machine === undefined) return;
    if (this.#disk !== undefined) await this.#refuseNames(machine);
    await this.#close(machine);
    await this.#refuseAll(machine);
    // A connection without the engine may end in its own time.
    const endMs = audit.nowMs + ENDS_MS;
    let timers = await audit.timersOf(machine.host);
    while (timers > 0 && audit.nowMs < endMs) timers = await audit.timersOf(machine.host);
    this.#expect("timers behind the close", 0, timers);
    const links = audit.network.links.filter(({ client }) => client === machine.host).length;
    this.#expect("connections behind the close", 0, links);
    machine.end();
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `broker that closes: ${what}`, expected, received);
  }

  #name(): string {
    return `audited-closing-${this.#round}-${Math.floor(3 * this.#random())}`;
  }

  /** Calls with names that the file cannot take: none has an effect. */
  async #refuseNames(machine: LogMachine): Promise<void> {
    const name = oneOf(this.#random, UNFIT);
    const shown = `a name of ${name.length} characters`;
    for (const [what, call] of Object.entries(CALLS)) {
      this.#expect(`${what} with ${shown}`, "RangeError", await this.#outcome(machine, call, name));
    }
    const status = machine.broker.status.current.name;
    this.#expect(`status behind ${shown}`, "connected", status);
  }

  /** Closes the broker while calls are under way, and subscriptions come into force. */
  async #close(machine: LogMachine): Promise<void> {
    const audit = this.#audit;
    const { host, broker } = machine;
    const links = audit.network.links.filter(({ client }) => client === host);
    const isAway = links.length > 0 && this.#random() < AWAY_SHARE;
    const last = this.#disk === undefined && !isAway ? await this.#listen(machine) : undefined;
    const block = (isBlocked: boolean) => {
      for (const { server } of isAway ? links : []) audit.change(host, server, { isBlocked });
    };
    block(true);
    // A broker that waits for nothing else closes at once.
    const share = this.#random() < IDLE_SHARE ? 0 : 0.5;
    const waits: (readonly [string, Promise<unknown>])[] = [];
    for (const [what, call] of shuffled(this.#random, Object.entries(CALLS))) {
      if (this.#random() < share) waits.push([what, this.#outcome(machine, call, this.#name())]);
    }
    for (const history of [undefined, BOUNDS]) {
      const topic = this.#name();
      const isLeft = this.#random() < 0.5;
      const ready = machine.run(() => {
        const subscription = broker.subscribe(topic, () => {}, { ...(history && { history }) });
        if (isLeft) void subscription[Symbol.asyncDispose]();
        return subscription.ready;
      });
      waits.push([`subscription that ${isLeft ? "was left" : "is new"}`, outcomeOf(ready)]);
    }
    const isCopied = this.#disk !== undefined && this.#copyChance() >= NO_COPY_SHARE;
    const copying = !isCopied
      ? undefined
      : outcomeOf(machine.run(() => (broker as SqliteBroker).backup(COPY)));
    if (copying !== undefined) waits.push(["backup", copying]);
    await audit.pause(
      oneOf(this.#random, this.#disk === undefined ? BEFORE_MS : FILE_BEFORE_MS) * this.#random(),
    );
    const close = (before: () => void) =>
      outcomeOf(machine.run(async () => {
        before();
        await broker[Symbol.asyncDispose]();
      }));
    const closes = await audit.inTime(
      Promise.all([close(() => last?.publish(broker)), close(() => {})]),
      CLOSE_MS,
      "none in time",
    );
    await last?.arrives();
    const where = isAway ? " without the engine" : "";
    this.#expect(`outcomes of two closes${where}`, ["fulfilled", "fulfilled"], closes);
    for (const [what, outcome] of waits) {
      const told = await audit.inTime(outcome, REFUSED_MS, "none in time");
      const isRight = told === "fulfilled" || told === "BrokerError";
      if (!isRight) this.#expect(`${what} under way${where}`, "fulfilled or BrokerError", told);
    }
    this.#expect("status", "closed", broker.status.current.name);
    this.#expect("publications that wait", 0, broker.stats.waiting);
    if (copying !== undefined) this.#compareCopy(await audit.inTime(copying, 0, "none in time"));
    block(false);
  }

  /** Listens at a node for the publications that a broker makes right before the close. */
  async #listen(machine: LogMachine): Promise<
    { readonly publish: (broker: Broker) => void; readonly arrives: () => Promise<void> }
  > {
    const topic = `audited-closing-${this.#round}-last`;
    const payloads = Array.from({ length: 1 + Math.floor(3 * this.#random()) }, (_, i) => `${i}`);
    const heard: unknown[] = [];
    let isHeard = false;
    const { broker: near } = this.#audit.node(0).server.topics;
    const subscription = near.subscribe(topic, ({ payload }) => {
      isHeard = true;
      if (payload !== FIRST) heard.push(payload);
    });
    await subscription.ready;
    // Servers of an engine tell each other of subscriptions in their own time.
    for (let left = TRIES; left > 0 && !isHeard; left--) {
      await machine.run(() => machine.broker.publish({ topic, payload: FIRST }));
      await this.#audit.pause(TRY_MS);
    }
    return {
      publish: (broker) => {
        for (const payload of payloads) broker.publish({ topic, payload });
      },
      arrives: async () => {
        await this.#audit.until(() => heard.length >= payloads.length, ARRIVES_MS);
        this.#expect("publications right before the close", payloads, heard);
        await subscription[Symbol.asyncDispose]();
      },
    };
  }

  /** Compares the files with the outcome of a backup: all of a copy, or nothing. */
  #compareCopy(outcome: string): void {
    const isDone = outcome === "fulfilled";
    this.#expect(`presence of a copy that is ${outcome}`, isDone, this.#disk!.has(COPY));
    this.#expect("presence of a part of a copy", false, this.#disk!.has(`${COPY}.part`));
  }

  /** Makes all calls behind the close. */
  async #refuseAll(machine: LogMachine): Promise<void> {
    for (const [what, call] of shuffled(this.#random, Object.entries(CALLS))) {
      const outcome = this.#outcome(machine, call, this.#name());
      const told = await this.#audit.inTime(outcome, REFUSED_MS, "none in time");
      this.#expect(`${what} behind the close`, "BrokerError", told);
    }
    for (const [what, call] of Object.entries(SYNCHRONOUS)) {
      const told = await this.#outcome(machine, async (...of) => await call(...of), this.#name());
      this.#expect(`${what} behind the close`, "UnsupportedError", told);
    }
  }

  #outcome(machine: LogMachine, call: Call, name: string): Promise<string> {
    return outcomeOf(machine.run(() => call(machine.broker, name)));
  }
}
