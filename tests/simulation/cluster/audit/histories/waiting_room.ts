/** Brokers with little room for operations that wait: each refusal leaves the room as it was. */
import type { HistoryBounds } from "../../../../../pubsub/broker.ts";
import type { LogConfig } from "../../../../../pubsub/logs/log.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { LogMachine, PLENTY } from "../logs/machine.ts";

/** Most operations that wait, and most bytes of these, of which one each is drawn. */
const [MESSAGES, BYTES] = [[3, 8, 20], [6_000, 12_000]] as const;

/** Rounds of calls, and calls of one round. */
const [ROUNDS, CALLS] = [3, 12] as const;

/** Sizes of payloads, as parts of the room: three of the second one fit, and none of the last one. */
const [SMALL, THIRD, MOST, BEYOND] = [0, 0.3, 0.8, 1.5] as const;

/** Share of runs with a broker that gives up soon, and the time of that, in milliseconds. */
const [SOON_SHARE, SOON_MS] = [0.5, 3_000] as const;

/** Longest time without the engine, in milliseconds. */
const AWAY_MS = 5_000;

/** Longest time until all calls have an outcome, and of a close without any, in milliseconds. */
const [REST_MS, CLOSE_MS] = [20_000, 900] as const;

/** Attempts to reach the engine again, and the time between two of these, in milliseconds. */
const [TRIES, TRY_MS] = [60, 200] as const;

/** Path of the file, and name of the machine. */
const [PATH, NAME] = ["waiting-room.db", "waiting-room"] as const;

/** Topic and log of all calls. */
const [TOPIC, LOG] = ["audited-waiting-room", "audited-waiting-room-log"] as const;

const BOUNDS: HistoryBounds = { size: 100, ttlMs: 60_000, bytes: 1 << 20 };
const CONFIG: LogConfig = { contentType: "text/plain" };

/** Kinds of calls with an outcome. */
const KINDS = ["history", "log"] as const;

/**
 * Makes more calls than have room, with payloads of all sizes, and counts the room behind these.
 *
 * @param audit The audit.
 */
export async function auditWaitingRoom(audit: Audit): Promise<void> {
  // The brokers of a cluster in memory are those of the machine room.
  if (audit.node(0).server.topics.broker.name === "memory") return;
  const random = audit.chanceOf(NAME);
  const room = { maxWaiting: oneOf(random, MESSAGES), maxWaitingBytes: oneOf(random, BYTES) };
  const givesUpSoon = random() < SOON_SHARE;
  const { openFile } = audit.engine;
  const machine = await LogMachine.start(audit, NAME, (host) => {
    if (openFile === undefined) {
      return audit.broker(host, { ...room, ...(givesUpSoon && { giveUpMs: SOON_MS }) });
    }
    const disk = new SimulatedDisk(audit.simulation, host);
    return openFile(disk, PATH, { synchronous: "full", ...room });
  });
  audit.examine("history", "machine with little room", true, machine !== undefined);
  if (machine === undefined) return;
  await new WaitingRoom(audit, { machine, room, random }).run();
  machine.end();
}

/** A broker, and the room of its operations. */
class WaitingRoom {
  readonly #audit: Audit;
  readonly #machine: LogMachine;
  readonly #room: { readonly maxWaiting: number; readonly maxWaitingBytes: number };
  readonly #random: () => number;

  constructor(audit: Audit, { machine, room, random }: {
    readonly machine: LogMachine;
    readonly room: { readonly maxWaiting: number; readonly maxWaitingBytes: number };
    readonly random: () => number;
  }) {
    this.#audit = audit;
    this.#machine = machine;
    this.#room = room;
    this.#random = random;
  }

  async run(): Promise<void> {
    const { broker, logs } = this.#machine;
    await this.#machine.run(() =>
      logs.create(LOG, {
        config: CONFIG,
        identity: "waiting0",
        records: [],
        maxLogs: PLENTY.maxStreams,
      })
    );
    for (let round = 0; round < ROUNDS; round++) {
      const isAway = this.#random() < 0.4;
      await this.#crowd(isAway);
      const where = isAway ? "calls without the engine" : "calls";
      await this.#audit.until(() => broker.stats.waiting === 0, REST_MS);
      const { waiting } = broker.stats;
      this.#expect(`operations that wait behind ${where}`, 0, waiting);
      // The room is not known any more.
      if (waiting > 0) return;
      for (const kind of KINDS) {
        await this.#fill(kind, SMALL, this.#room.maxWaiting, where);
        if (this.#room.maxWaiting > 3) await this.#fill(kind, THIRD, 3, where);
        await this.#fill(kind, BEYOND, 0, where);
      }
    }
    const beginMs = this.#audit.nowMs;
    await this.#machine.run(async () => await broker[Symbol.asyncDispose]());
    const isSoon = this.#audit.nowMs - beginMs < CLOSE_MS;
    this.#expect("close at once of a broker that waits for nothing", true, isSoon);
  }

  /** Makes calls and publications of all sizes, some without the engine, up to the last outcome. */
  async #crowd(isAway: boolean): Promise<void> {
    const audit = this.#audit;
    const { host, broker } = this.#machine;
    const links = audit.network.links.filter(({ client }) => client === host);
    const block = (isBlocked: boolean) => {
      for (const { server } of isAway ? links : []) audit.change(host, server, { isBlocked });
    };
    block(true);
    const sizes = Array.from(
      { length: CALLS },
      () => oneOf(this.#random, [SMALL, THIRD, MOST, BEYOND]),
    );
    const outcomes = sizes.map((size) => {
      if (this.#random() < 0.2) {
        const publish = () => broker.publish({ topic: TOPIC, payload: this.#payload(size) });
        return outcomeOf(this.#machine.run(publish));
      }
      return this.#call(oneOf(this.#random, KINDS), size);
    });
    if (isAway) await audit.pause(between(this.#random, 0, AWAY_MS));
    block(false);
    const all = await audit.inTime(Promise.all(outcomes), REST_MS, undefined);
    this.#expect("outcomes of all calls", true, all !== undefined);
    // Connections may have to come back first.
    for (let left = TRIES; left > 0; left--) {
      const told = await Promise.all(KINDS.map((kind) => this.#call(kind, SMALL)));
      if (told.every((outcome) => outcome === "fulfilled")) return;
      await audit.pause(TRY_MS);
    }
    this.#expect("calls on an engine that is back", "fulfilled", "refused");
  }

  /** Makes calls of one turn, of which the first ones have room. */
  async #fill(kind: typeof KINDS[number], size: number, count: number, where: string) {
    const { broker } = this.#machine;
    // A sweep of the file takes room, too.
    await this.#audit.until(() => broker.stats.waiting === 0);
    const calls = this.#machine.run(() =>
      Promise.all(Array.from({ length: count + 2 }, () => outcomeOf(this.#start(kind, size))))
    );
    const told = await this.#audit.inTime(calls, REST_MS, ["none in time"]);
    const expected = [...Array(count).fill("fulfilled"), "BrokerError", "BrokerError"];
    this.#expect(`calls of a ${kind} with room for ${count} behind ${where}`, expected, told);
  }

  #call(kind: typeof KINDS[number], size: number): Promise<string> {
    return outcomeOf(this.#machine.run(() => this.#start(kind, size)));
  }

  #start(kind: typeof KINDS[number], size: number): Promise<unknown> {
    const { broker: { history }, logs } = this.#machine;
    const payload = this.#payload(size);
    return kind === "history"
      ? history!.append({ topic: TOPIC, payload }, { bounds: BOUNDS })
      : logs.append(LOG, { records: [payload], maxBytes: PLENTY.maxStreamBytes });
  }

  #payload(size: number): string {
    return "x".repeat(Math.max(1, Math.floor(size * this.#room.maxWaitingBytes)));
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    const { maxWaiting, maxWaitingBytes } = this.#room;
    const about = `room for ${maxWaiting} operations and ${maxWaitingBytes} bytes`;
    this.#audit.examine("history", `${what} (${about})`, expected, received);
  }
}
