/** Replays: readers come, ask again and leave while publications come, on an engine of a bad day. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Server } from "../../../../../server.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Audit } from "../audit.ts";
import { UnsteadyBroker } from "./unsteady_broker.ts";
import { WireReader } from "./wire_reader.ts";

/** Readers of one audit. */
const READERS = 3;

/** Steps of the workload, and the mean time of one, in milliseconds. */
const [STEPS, STEP_MS] = [110, 70];

/** Most publications of one step. */
const MAX_BURST = 4;

/** Share of long publications, and the text of one. */
const [LONG_SHARE, LONG] = [0.15, "x".repeat(20_000)];

/** Bytes that pass to a slow reader in a second. */
const SLOW_BYTES = 100_000;

/** Longest time between a question and the leave, for a reader who stays only for a moment. */
const SOON_MS = 150;

/** Longest outage of the engine, in milliseconds. */
const AWAY_MS = 1_500;

/** Time for all readers to catch up, once all is well: feeds ask the engine for seven seconds. */
const CALM_MS = 9_000;

/** Steps between two rests of the publishers, and the longest time of one, in milliseconds. */
const [REST_EVERY, REST_MS] = [18, 6_000];

/** Share of audits in which all reads fail from a step on, and the bound of that step. */
const [MUTE_SHARE, MUTE_FROM] = [0.3, 10];

/** Topic without a history. */
const PLAIN = "talk";

/**
 * Reads histories on a server of its own, whose engine is slow and fails now and then.
 *
 * @param audit The audit.
 */
export async function auditReplays(audit: Audit): Promise<void> {
  await new Replays(audit).run();
}

/** The server, the readers, and the state of the engine. */
class Replays {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #host: Host;
  readonly #server: Server;
  readonly #broker: UnsteadyBroker;
  readonly #readers: readonly WireReader[];
  /** Topics of each reader: one of all readers, one of this reader, one without a history. */
  readonly #topics: readonly (readonly string[])[];
  /** Time of a publication in the topic of a reader, in milliseconds. */
  readonly #briefMs: number;

  constructor(audit: Audit) {
    this.#audit = audit;
    this.#random = audit.random;
    const host = this.#host = audit.host("unsteady");
    const broker = this.#broker = new UnsteadyBroker(host.runtime, this.#random);
    this.#briefMs = 500 + this.#draw(2_000);
    const { server } = new SimulatedServer(audit.network, host, () => ({
      authorize: () => true,
      broker,
      history: {
        all: { size: 10 + this.#draw(40) },
        "brief:{name}": { size: 100, ttlMs: this.#briefMs },
      },
      session: { sendQueue: { maxMessages: 8 + this.#draw(24) } },
    }));
    this.#server = server;
    this.#topics = Array.from({ length: READERS }, (_, i) => ["all", `brief:${i}`, PLAIN]);
    this.#readers = this.#topics.map((_, i) =>
      new WireReader({
        network: audit.network,
        host: audit.host(`unsteady-reader-${i}`),
        server: host,
        broker,
        hasHistory: (topic) => topic !== PLAIN,
        onDifference: (rule, expected, received) => this.#expect(rule, expected, received),
      })
    );
  }

  async run(): Promise<void> {
    for (const [i, reader] of this.#readers.entries()) {
      for (const topic of this.#topics[i]!) reader.ask(topic);
      const { network } = this.#audit;
      if (this.#draw(2) === 0) {
        network.change(this.#host, this.#audit.host(`unsteady-reader-${i}`), {
          bytesPerSecond: SLOW_BYTES,
        });
      }
    }
    // Longer than feeds ask again, in most cases.
    const muteFrom = this.#random() < MUTE_SHARE ? this.#draw(MUTE_FROM) : STEPS;
    for (let step = 0; step < STEPS; step++) {
      if (step === muteFrom) this.#broker.isMute = true;
      this.#step();
      if (step % REST_EVERY === REST_EVERY - 1) await this.#rest();
      await this.#audit.pause(-STEP_MS * Math.log(1 - this.#random()));
    }
    await this.#settle();
    for (const reader of this.#readers) reader.close();
    await this.#server.close();
    await this.#broker.close();
  }

  /** Draws a whole number below a bound. */
  #draw(below: number): number {
    return Math.floor(this.#random() * below);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `replays: ${what}`, expected, received);
  }

  #step(): void {
    const i = this.#draw(READERS);
    const reader = this.#readers[i]!;
    const topic = this.#topics[i]![this.#draw(3)]!;
    const chance = this.#random();
    if (chance < 0.45) this.#publish(topic);
    else if (chance < 0.5) reader.publish(topic);
    else if (chance < 0.7) this.#ask(reader, topic);
    else if (chance < 0.8) this.#leave(reader, topic);
    else if (chance < 0.85) reader.disconnect();
    else if (chance < 0.87) this.#loseEngine();
    else if (chance < 0.9 && !this.#broker.isAway) this.#broker.comeBack();
  }

  #publish(topic: string): void {
    for (let left = 1 + this.#draw(MAX_BURST); left > 0; left--) {
      const text = this.#random() < LONG_SHARE ? LONG : "";
      this.#server.publish(topic, { text });
    }
  }

  /** Asks for a topic from a drawn place: behind the last publication, earlier, or beyond the head. */
  #ask(reader: WireReader, topic: string): void {
    const place = reader.placeOf(topic);
    // Most often a replay is under way then.
    if (this.#draw(3) === 0) {
      this.#host.after(SOON_MS * this.#random(), () => this.#leave(reader, topic));
    }
    const kind = this.#draw(5);
    if (kind === 0 || place === undefined) return reader.ask(topic);
    if (kind === 1) return reader.ask(topic, { last: this.#draw(12) });
    if (kind === 2) return reader.ask(topic, { since: place });
    const { epoch, offset } = place;
    const other = Math.max(0, offset + 3 - this.#draw(kind === 3 ? 12 : 60));
    reader.ask(topic, {
      since: { epoch: this.#draw(20) === 0 ? "another" : epoch, offset: other },
      ...(this.#draw(4) === 0 && { last: this.#draw(6) }),
    });
  }

  /** Leaves a topic, and comes back at once, or around the time at which publications are forgotten. */
  #leave(reader: WireReader, topic: string): void {
    reader.leave(topic);
    const since = reader.placeOf(topic);
    const again = () => reader.ask(topic, { since });
    if (this.#draw(3) === 0) return again();
    const awayMs = this.#briefMs * [0.1, 0.5, 0.95, 1.05, 1.5][this.#draw(5)]!;
    this.#host.after(awayMs, again);
  }

  /**
   * Publishes nothing for a time, in which reads succeed: each publication that reached the node goes
   * to the readers, with all before.
   */
  async #rest(): Promise<void> {
    const broker = this.#broker;
    if (broker.isAway || broker.isMute) return;
    broker.isReadable = true;
    const behind = () =>
      this.#topics.flatMap((topics, i) => {
        const reader = this.#readers[i]!;
        return topics.filter((topic) =>
          topic !== PLAIN && reader.quietTopics.includes(topic) &&
          reader.placeOf(topic)!.offset < broker.reachedOf(topic)
        ).map((topic) => `${reader.name} on ${topic}`);
      });
    await this.#audit.until(() => behind().length === 0 || broker.isAway, REST_MS);
    if (!broker.isAway) this.#expect("readers behind a publication of the node", [], behind());
    broker.isReadable = false;
  }

  #loseEngine(): void {
    if (this.#broker.isAway) return;
    this.#broker.goAway();
    this.#host.after(AWAY_MS * this.#random(), () => {
      if (this.#broker.isAway) this.#broker.comeBack();
    });
  }

  /** Compares the state of all with that of the engine, once all is well. */
  async #settle(): Promise<void> {
    const [audit, broker, server] = [this.#audit, this.#broker, this.#server];
    broker.isSteady = true;
    broker.isMute = false;
    broker.comeBack();
    await audit.pause(100 + 1.5 * this.#briefMs); // Those who left are back.
    const wanted = this.#topics.flatMap((topics, i) =>
      topics.map((topic) => ({ topic, reader: this.#readers[i]! }))
    );
    for (const topic of new Set(this.#topics.flat())) this.#server.publish(topic, { text: "" });
    const hasAll = ({ topic, reader }: typeof wanted[number]) =>
      !reader.quietTopics.includes(topic) || topic === PLAIN ||
      reader.placeOf(topic)?.offset === broker.headOf(topic);
    await audit.until(
      () => this.#readers.every(({ isQuiet }) => isQuiet) && wanted.every(hasAll),
      CALM_MS,
    );
    for (const reader of this.#readers) {
      this.#expect(`answers to ${reader.name}`, true, reader.isQuiet);
    }
    for (const { topic, reader } of wanted) {
      if (topic === PLAIN || !reader.quietTopics.includes(topic)) continue;
      this.#expect(
        `newest offset of ${topic}`,
        broker.headOf(topic),
        reader.placeOf(topic)?.offset,
      );
    }
    for (const topic of new Set(this.#topics.flat())) {
      const inForce = this.#readers.filter(({ quietTopics }) => quietTopics.includes(topic)).length;
      this.#expect(`subscribers of ${topic}`, inForce, server.topics.subscribers(topic).length);
    }
    const before = this.#readers.map((reader) => reader.interruptionsOf(PLAIN));
    broker.comeBack();
    await audit.pause(1_000);
    for (const [i, reader] of this.#readers.entries()) {
      const told = reader.quietTopics.includes(PLAIN) ? 1 : 0;
      const received = reader.interruptionsOf(PLAIN) - before[i]!;
      this.#expect(`notices of an interruption to ${reader.name}`, told, received);
    }
  }
}
