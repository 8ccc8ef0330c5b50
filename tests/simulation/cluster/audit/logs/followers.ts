/** Readers of durable streams that wait for records, on a machine that has few places for these. */
import { BrokerError } from "../../../../../errors.ts";
import { pause } from "../../../../../base/wait.ts";
import type { Broker } from "../../../../../pubsub/broker.ts";
import type { StreamLogs } from "../../../../../pubsub/logs/stream_logs.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { brokerWithLogs } from "./broker_with_logs.ts";
import { LogMachine, PLENTY } from "./machine.ts";

/** Time in which a reader who waits gets a record, in milliseconds: far below any time of a look. */
const SOON_MS = 4_000;

/** The same behind an interruption, with the time until the machine has reached the engine again. */
const BACK_MS = 7_000;

/** Bursts of records, and most records of a burst. */
const [BURSTS, BURST] = [7, 3];

/** Longest times between two records of a burst, and between two bursts, in milliseconds. */
const [GAPS_MS, LULL_MS] = [[14, 14, 50], 60] as const;

/** Longest time for which a reader works on a page, in milliseconds. */
const SLOW_MS = 50;

/** Longest time of the answer to a read, which announcements overtake, in milliseconds. */
const OVERTAKEN_MS = 40;

/** Time until a reader without the engine tries again, in milliseconds. */
const RETRY_MS = 100;

/** Time to live of a stream that readers keep alive, in milliseconds. */
const TTL_MS = 2_000;

/** One stream of the audit. */
const ID = "audited-followed";

/** A reader of the stream, with the records so far. */
class Follower {
  readonly records: string[] = [];
  /** The end: `ended`, `left`, or the refusal. */
  outcome: string | undefined;
  readonly #leaving = new AbortController();

  constructor(
    { host }: LogMachine,
    streams: StreamLogs,
    { slowMs, maxRecords }: { readonly slowMs: number; readonly maxRecords: number },
  ) {
    const { signal } = this.#leaving;
    const { maxStreamBytes: maxBytes } = PLENTY;
    const follow = async (): Promise<string> => {
      const after = this.records.length;
      for await (const page of streams.follow(ID, { after, maxRecords, maxBytes, signal })) {
        if (page.kind !== "page") return page.kind;
        this.records.push(...page.records as string[]);
        if (page.isUpToDate && page.info.end !== undefined) return "ended";
        if (slowMs > 0) await pause(host.runtime, slowMs);
      }
      return "left";
    };
    const persist = async (): Promise<void> => {
      try {
        this.outcome = await follow();
      } catch (error) {
        if (!(error instanceof BrokerError)) return void (this.outcome = `${error}`);
        // The engine is away: readers of a server go on behind the newest record, too.
        await pause(host.runtime, RETRY_MS);
        await persist();
      }
    };
    host.after(0, () => void persist());
  }

  leave(): void {
    this.#leaving.abort();
  }
}

/**
 * Follows a stream by as many readers as there are places: each gets all records soon, places come
 * back, waiting keeps the stream alive, and all learn of the end.
 *
 * @param audit The audit.
 */
export async function auditFollowers(audit: Audit): Promise<void> {
  const names = ["followers-near", "followers-far"];
  await LogMachine.use(audit, names, async ([near, far]) => {
    const followed = new FollowedStream(audit, near!, far!);
    await followed.run();
  });
}

class FollowedStream {
  readonly #audit: Audit;
  readonly #far: LogMachine;
  readonly #near: LogMachine;
  readonly #random: () => number;
  readonly #places: number;
  readonly #writing: StreamLogs;
  readonly #reading: StreamLogs;
  readonly #ttlMs: number | undefined;
  readonly #pageRecords: number;
  #followers: Follower[] = [];
  readonly #records: string[] = [];

  constructor(audit: Audit, near: LogMachine, far: LogMachine) {
    this.#audit = audit;
    this.#near = near;
    this.#far = far;
    this.#random = audit.random;
    this.#places = 2 + Math.floor(5 * this.#random());
    this.#ttlMs = this.#random() < 0.4 ? TTL_MS : undefined;
    this.#pageRecords = this.#random() < 0.7 ? 1_000 : 1;
    this.#writing = near.streams().streams;
    const bounds = { ...PLENTY, maxReaders: this.#places };
    const broker = this.#random() < 0.75 ? this.#slowBroker() : far.broker;
    this.#reading = far.streams({ bounds, broker }).streams;
  }

  /** The broker of the far machine, with answers to reads that announcements overtake. */
  #slowBroker(): Broker {
    const { broker, host } = this.#far;
    return brokerWithLogs(broker, (name, own) => {
      if (name !== "read") return own;
      return async (...values) => {
        const page = await own(...values);
        await pause(host.runtime, OVERTAKEN_MS * this.#random());
        return page;
      };
    });
  }

  async run(): Promise<void> {
    const { kind } = await this.#near.run(() =>
      this.#writing.create(ID, { contentType: "text/plain", ttlMs: this.#ttlMs })
    );
    this.#examine("creation", "created", kind);
    await this.#fill();
    for (let burst = 0; burst < BURSTS; burst++) {
      const gapMs = oneOf(this.#random, GAPS_MS);
      for (let left = 1 + Math.floor(BURST * this.#random()); left > 0; left--) {
        void this.#append();
        if (left > 1) await this.#audit.pause(gapMs * this.#random());
      }
      await this.#gotAll(`burst ${burst}`, SOON_MS);
      if (burst === 2) await this.#empty();
      await this.#audit.pause(LULL_MS * this.#random());
    }
    if (this.#random() < 0.5 && this.#audit.cut(this.#far.host) > 0) {
      for (let i = 0; i < BURST; i++) await this.#append();
      await this.#gotAll("an interruption", BACK_MS);
    }
    if (this.#ttlMs === undefined) await this.#end();
    else await this.#expire(this.#ttlMs);
    await this.#near.run(() => this.#writing.delete(ID));
    await Promise.all([this.#writing.close(), this.#reading.close()]);
  }

  /** Takes all places, and one more. */
  async #fill(): Promise<void> {
    const follow = () =>
      new Follower(this.#far, this.#reading, {
        slowMs: this.#random() < 0.5 ? 0 : SLOW_MS * this.#random(),
        // Readers with pages of one size share their reads.
        maxRecords: this.#pageRecords,
      });
    while (this.#followers.length < this.#places) this.#followers.push(follow());
    await this.#audit.until(() => this.#reading.readers === this.#places, SOON_MS);
    this.#examine("readers", this.#places, this.#reading.readers);
    const beyond = follow();
    await this.#audit.until(() => beyond.outcome !== undefined, SOON_MS);
    this.#examine("one reader more than there are places", "too-many", beyond.outcome);
    const outcomes = this.#followers.map(({ outcome }) => outcome ?? "waits");
    this.#examine("readers with a place", outcomes.map(() => "waits"), outcomes);
  }

  /** Lets readers leave, one after the other, and takes the places again. */
  async #empty(): Promise<void> {
    while (this.#followers.length > 0) {
      const follower = this.#followers.shift()!;
      follower.leave();
      await this.#audit.until(() => follower.outcome !== undefined, SOON_MS);
      this.#examine("a reader that leaves", "left", follower.outcome);
      this.#examine("places that are taken", this.#followers.length, this.#reading.readers);
    }
    this.#examine("followed streams without readers", [], [...this.#reading.followed()]);
    await this.#fill();
    await this.#gotAll("new readers", SOON_MS);
  }

  /** Ends or deletes the stream, of which all readers learn. */
  async #end(): Promise<void> {
    const isDeleted = this.#random() < 0.3;
    if (isDeleted) await this.#near.run(() => this.#writing.delete(ID));
    else {
      const records = this.#random() < 0.5 ? [] : [`${this.#records.length}`];
      this.#records.push(...records);
      await this.#near.run(() => this.#writing.append(ID, { records, end: {} }));
    }
    await this.#allOver(isDeleted ? "missing" : "ended");
    if (!isDeleted) await this.#gotAll("the end", 0);
  }

  /** Waits for longer than the time to live, and leaves the stream alone after that. */
  async #expire(ttlMs: number): Promise<void> {
    await this.#audit.pause(ttlMs * 2.2);
    const kept = await this.#near.run(() => this.#writing.info(ID));
    this.#examine("a stream that readers wait for", "page", kept.kind);
    for (const follower of this.#followers) follower.leave();
    await this.#allOver("left");
    await this.#audit.pause(ttlMs * 1.3);
    const gone = await this.#near.run(() => this.#writing.info(ID));
    this.#examine("a stream that has no readers any more", "missing", gone.kind);
  }

  async #allOver(outcome: string): Promise<void> {
    await this.#audit.until(
      () => this.#followers.every((one) => one.outcome !== undefined),
      SOON_MS,
    );
    const outcomes = this.#followers.map((one) => one.outcome);
    this.#examine("readers at the end", outcomes.map(() => outcome), outcomes);
    this.#examine("places that are taken at the end", 0, this.#reading.readers);
  }

  async #append(): Promise<void> {
    const record = `${this.#records.length}`;
    this.#records.push(record);
    const { kind } = await this.#near.run(() => this.#writing.append(ID, { records: [record] }));
    this.#examine("an append", "appended", kind);
  }

  async #gotAll(what: string, withinMs: number): Promise<void> {
    const { length } = this.#records;
    await this.#audit.until(
      () => this.#followers.every(({ records }) => records.length >= length),
      withinMs,
    );
    for (const { records } of this.#followers) {
      const got = [...records].sort((a, b) => Number(a) - Number(b));
      this.#examine(`records behind ${what}`, this.#records.map((_, i) => `${i}`), got);
    }
  }

  #examine(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("durable", `${what} of a followed stream`, expected, received);
  }
}
