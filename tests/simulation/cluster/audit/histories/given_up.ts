/** Publications that a broker gives up without the engine: none comes once the engine is back. */
import type { Broker, HistoryBounds } from "../../../../../pubsub/broker.ts";
import { between } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { LogMachine } from "../logs/machine.ts";

/** Name of the machine, and beginning of the topics. */
const NAME = "given-up";

/** Shortest and longest wait of a publication of which one is drawn, in milliseconds. */
const GIVE_UP_MS = [1_200, 2_600] as const;

/** Earliest and latest end of a wait, as shares of the longest wait: brokers look ten times in between. */
const [EARLY, LATE] = [0.9, 1.25] as const;

/** Most publications of each kind, and the longest time between two, in milliseconds. */
const [MOST, GAP_MS] = [5, 20] as const;

/** Longest time until all publications have an outcome, and time of one to a node, in milliseconds. */
const [SETTLED_MS, ARRIVES_MS] = [8_000, 1_500] as const;

/** Publications that tell when a subscription is in force, and the time between two, in milliseconds. */
const [TRIES, TRY_MS] = [40, 50] as const;

/** Payload of publications whose number does not count. */
const PROBE = "probe";

const BOUNDS: HistoryBounds = { size: 100, ttlMs: 60_000, bytes: 1 << 20 };

/** Outcome of an append. */
interface Kept {
  readonly outcome: string;
  readonly tookMs: number;
}

/**
 * Lets a broker give up publications that the engine cannot get, breaks the connections, and makes
 * the same and other publications again.
 *
 * @param audit The audit.
 */
export async function auditGivenUp(audit: Audit): Promise<void> {
  // Neither a broker in memory nor a file is behind a network.
  const { name } = audit.node(0).server.topics.broker;
  if (name === "memory" || audit.engine.openFile !== undefined) return;
  const giveUpMs = Math.round(between(audit.chanceOf(NAME), ...GIVE_UP_MS));
  const machine = await LogMachine.start(audit, NAME, (host) => audit.broker(host, { giveUpMs }));
  audit.examine("history", "machine of a broker that gives up", true, machine !== undefined);
  if (machine === undefined) return;
  await new GivenUp(audit, machine, giveUpMs).run();
  machine.end();
}

/** A broker that loses the engine for longer than publications wait. */
class GivenUp {
  readonly #audit: Audit;
  readonly #machine: LogMachine;
  readonly #giveUpMs: number;
  readonly #random: () => number;
  /** Publications that a node of the cluster heard, by kind. */
  readonly #heard = { plain: [] as unknown[], kept: [] as unknown[] };

  constructor(audit: Audit, machine: LogMachine, giveUpMs: number) {
    this.#audit = audit;
    this.#machine = machine;
    this.#giveUpMs = giveUpMs;
    this.#random = audit.chanceOf(`${NAME}/publications`);
  }

  async run(): Promise<void> {
    const audit = this.#audit;
    const { host, broker } = this.#machine;
    const near = audit.node(0).server.topics.broker;
    const subscriptions = [
      near.subscribe(`${NAME}-plain`, ({ payload }) => this.#heard.plain.push(payload)),
      near.subscribe(`${NAME}-kept`, ({ payload }) => this.#heard.kept.push(payload), {
        history: BOUNDS,
      }),
    ];
    await Promise.all(subscriptions.map(({ ready }) => ready));
    await this.#probe();
    const servers = new Set(
      audit.network.links.filter(({ client }) => client === host).map(({ server }) => server),
    );
    for (const server of servers) audit.block(host, server);
    const early = this.#names("early");
    const plain = this.#publish(early);
    const given = await this.#settled(this.#append(early));
    await audit.pause(this.#giveUpMs * LATE);
    const { dropped } = broker.stats;
    const late = this.#names("late");
    const appended = this.#append(late);
    await audit.pause(this.#giveUpMs * 0.2 * this.#random());
    // The engine has none of the bytes that are under way.
    audit.cut(host);
    for (const server of servers) audit.block(host, server, false);
    this.#examineGiven(given);
    // A client of NATS hands publications without a history to the system at once.
    const least = given.length + (broker.name === "redis" ? plain : 0);
    this.#expect("publications that count as given up", least, dropped);
    const kept = await this.#settled(appended);
    this.#expect("appends shortly before the engine is back", names(late), names(kept));
    // The same texts again, as of a program that repeats those that were refused.
    const again = await this.#settled(this.#append(early));
    this.#expect("appends that are repeated behind a refusal", names(early), names(again));
    await this.#probe();
    await this.#compare(near, [...late, ...early]);
    for (const subscription of subscriptions) await subscription[Symbol.asyncDispose]();
  }

  /** Publishes until the node hears that. */
  async #probe(): Promise<void> {
    const count = () => this.#heard.plain.length;
    const before = count();
    for (let left = TRIES; left > 0 && count() === before; left--) {
      await this.#machine.run(() =>
        this.#machine.broker.publish({ topic: `${NAME}-plain`, payload: PROBE })
      );
      await this.#audit.pause(TRY_MS);
    }
    this.#expect("publication that passes", true, count() > before);
  }

  #names(of: string): string[] {
    return Array.from({ length: 1 + Math.floor(MOST * this.#random()) }, (_, i) => `${of}-${i}`);
  }

  /** Publishes without a history; returns the number of publications. */
  #publish(payloads: readonly string[]): number {
    const { host, broker } = this.#machine;
    for (const payload of payloads) {
      const publish = () => broker.publish({ topic: `${NAME}-plain`, payload });
      host.after(GAP_MS * this.#random(), publish);
    }
    return payloads.length;
  }

  #append(payloads: readonly string[]): Promise<Kept>[] {
    const { broker: { history } } = this.#machine;
    return payloads.map((payload) => {
      const beginMs = this.#audit.nowMs;
      const append = () => history!.append({ topic: `${NAME}-kept`, payload }, { bounds: BOUNDS });
      return outcomeOf(this.#machine.run(append)).then((outcome) => ({
        outcome,
        tookMs: this.#audit.nowMs - beginMs,
      }));
    });
  }

  #settled(appends: readonly Promise<Kept>[]): Promise<Kept[]> {
    const none = [{ outcome: "none in time", tookMs: SETTLED_MS }];
    return this.#audit.inTime(Promise.all(appends), SETTLED_MS, none);
  }

  #examineGiven(given: readonly Kept[]): void {
    for (const { outcome, tookMs } of given) {
      this.#expect("append without the engine", "BrokerError", outcome);
      const isInTime = tookMs >= EARLY * this.#giveUpMs && tookMs <= LATE * this.#giveUpMs;
      const received = isInTime ? "in time" : `after ${Math.round(tookMs)} ms`;
      this.#expect(`end of the wait, of ${this.#giveUpMs} ms`, "in time", received);
    }
  }

  /** Compares all that a node heard, and the history, with the publications that were acknowledged. */
  async #compare(near: Broker, expected: readonly string[]): Promise<void> {
    const { kept, plain } = this.#heard;
    await this.#audit.until(() => kept.length >= expected.length, ARRIVES_MS);
    this.#expect("publications that a node heard", expected, kept);
    const others = plain.filter((payload) => payload !== PROBE);
    this.#expect("publications without a history that a node heard", [], others);
    const page = await near.history!.read(`${NAME}-kept`, {
      bounds: BOUNDS,
      maxMessages: 100,
      maxBytes: 1 << 20,
    });
    const found = page.publications.map(({ payload }) => payload);
    this.#expect("publications of the history", expected, found);
    this.#expect("publications that wait", 0, this.#machine.broker.stats.waiting);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `broker that gives up: ${what}`, expected, received);
  }
}

/** The outcomes of appends that succeed, and of those that were made. */
function names(appends: readonly (string | Kept)[]): string[] {
  return appends.map((one) => typeof one === "string" ? "fulfilled" : one.outcome);
}
