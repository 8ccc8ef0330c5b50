/** Subscriptions of one client: refused for now, several of one topic, and left and begun behind a backlog. */
import { pause } from "../../../../base/wait.ts";
import type { Client } from "../../../../client/client.ts";
import type { Subscription } from "../../../../client/subscription.ts";
import type { ClientSubscribeOptions } from "../../../../client/client_options.ts";
import { CloseCode, RequestError, type RequestFailure } from "../../../../errors.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../chance.ts";
import { type Audit, outcomeOf } from "./audit.ts";
import { SlowWay } from "./backlog/slow_way.ts";

/** The user. */
const USER = "seated";

/** Topics, with a history and without. */
const TOPICS = ["kept:a", "kept:b", "talk:a", "talk:b"] as const;

/** Topics of which the first answer comes late. */
const LATE_TOPICS = ["kept:late", "talk:late"] as const;

/** Rounds with refusals, and rounds behind a backlog. */
const [REFUSED_ROUNDS, BACKLOGS] = [2, 3];

/** Most subscriptions of one topic, and calls behind one backlog. */
const [SEATS, CALLS] = [3, 8];

/** Records of a durable stream. */
const RECORDS = 3;

/** Longest wait of the client for an answer, and the time of an answer that is late. */
const [ANSWER_MS, LATE_MS] = [1_000, 1_300];

/** Shortest wait that a refusal names, and one that is too long for a new subscription. */
const [RETRY_MS, LONG_RETRY_MS] = [300, 31_000];

/** Longest time until all subscriptions are in force, and the time of messages under way. */
const [REST_MS, TRIP_MS] = [8_000, 80];

/** Rate of the way once there is a backlog, in bytes per second. */
const RATE = 400_000;

/** Most steps of promises between two calls. */
const MAX_STEPS = 12;

/** Refusals after which a subscription that was in force goes on. */
const REFUSALS: readonly Refusal[] = [
  { code: "unavailable" },
  { code: "too-many" },
  { code: "too-many", retryAfterMs: RETRY_MS },
  "late",
];

/** A refusal by the application, or an answer that comes too late. */
type Refusal = Pick<RequestFailure, "code" | "retryAfterMs"> | "late";

/** A subscription, with the numbers that its loop got. */
interface Seat {
  readonly topic: string;
  readonly subscription: Subscription;
  readonly got: number[];
  outcome: string;
}

/**
 * Lets one client subscribe and leave, and refuses its topics for now.
 *
 * @param audit The audit.
 */
export async function auditSeats(audit: Audit): Promise<void> {
  const seats = new Seats(audit);
  await seats.begin();
  for (let round = 0; round < REFUSED_ROUNDS; round++) await seats.refuse();
  await seats.refuseNew();
  await seats.askLate();
  await seats.leaveStreams();
  for (let round = 0; round < BACKLOGS; round++) await seats.waver();
  await seats.close();
}

/** A server, and a client with its subscriptions. */
class Seats {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #program: SimulatedServer<string>;
  readonly #client: Client;
  readonly #seats = new Set<Seat>();
  /** Refusals to come, by topic, and the times of the calls of `authorize`. */
  readonly #refusals = new Map<string, Refusal[]>();
  readonly #askedMs = new Map<string, number[]>();
  /** Number of publications, by topic. */
  readonly #published = new Map<string, number>();
  readonly #strays: string[] = [];
  /** Ends that no call of the client brought about. */
  readonly #ended: string[] = [];

  constructor(audit: Audit) {
    this.#audit = audit;
    this.#random = audit.random;
    const program = this.#program = new SimulatedServer(audit.network, audit.host("seats"), () => ({
      allowTokenMessage: true,
      authenticate: () => USER,
      history: { "kept:{name}": {} },
      durableStreams: { path: "/streams" },
      authorize: async (_: unknown, topic: string) => {
        const asked = this.#askedMs.get(topic) ?? [];
        this.#askedMs.set(topic, [...asked, audit.nowMs]);
        const refusal = this.#refusals.get(topic)?.shift();
        if (refusal === "late") await pause(program.host.runtime, LATE_MS);
        else if (refusal) throw new RequestError(refusal.code, "Not now", refusal);
        return true;
      },
    }));
    this.#client = audit.connect(USER, program.host, {
      requestTimeoutMs: ANSWER_MS,
      onMessage: ({ topic, data }) => {
        if (this.#published.has(topic)) this.#strays.push(`${data} on ${topic}`);
      },
      onError() {},
    });
  }

  /** Subscribes to each topic. */
  async begin(): Promise<void> {
    for (const topic of TOPICS) this.#subscribe(topic);
    await this.#rest("the start");
  }

  /** Ends what is in force, and refuses what the client then asks for. */
  async refuse(): Promise<void> {
    const audit = this.#audit;
    for (const topic of TOPICS) {
      this.#askedMs.delete(topic);
      const count = this.#random() < 0.7 ? 1 : 0;
      this.#refusals.set(topic, Array.from({ length: count }, () => oneOf(this.#random, REFUSALS)));
    }
    const refused = [...this.#refusals].map(([topic, all]) => [topic, [...all]] as const);
    const how = oneOf(this.#random, ["cut", "close", "removal"] as const);
    const [session] = this.#program.server.manager.sessionsOf(USER);
    if (how === "cut") audit.cut(audit.host(USER));
    else if (how === "close") void session?.close({ code: CloseCode.draining });
    else {
      const code = oneOf(this.#random, ["unavailable", "too-many"]);
      for (const topic of TOPICS) {
        this.#program.server.topics.unsubscribe(session!, topic, { code });
      }
    }
    for (const topic of TOPICS) this.#publish(topic);
    await audit.pause(TRIP_MS);
    const story = `a ${how}, and refusals ${JSON.stringify(refused)}`;
    await this.#rest(story);
    // An answer that is late holds up those behind it.
    const isExact = refused.every(([, all]) => !all.includes("late"));
    for (const [topic, [refusal]] of refused) {
      const [first = 0, second = 0, ...more] = this.#askedMs.get(topic) ?? [];
      if (!isExact || refusal === "late") continue;
      const asked = [first, second].filter((atMs) => atMs > 0).length + more.length;
      this.#expect(`questions for ${topic} after ${story}`, refusal === undefined ? 1 : 2, asked);
      const leastMs = refusal?.retryAfterMs ?? 0;
      this.#expect(`pause before ${topic} in time`, true, !second || second - first >= leastMs);
    }
  }

  /** Refuses topics that were never in force, and one that was, for good. */
  async refuseNew(): Promise<void> {
    const cases = [
      { refusal: { code: "unavailable" }, outcome: "pending" },
      { refusal: { code: "too-many", retryAfterMs: LONG_RETRY_MS }, outcome: "too-many" },
      { refusal: { code: "too-many", retryAfterMs: RETRY_MS }, outcome: "pending" },
      { refusal: { code: "forbidden" }, outcome: "forbidden" },
    ] as const;
    this.#refusals.clear();
    const seats = cases.map(({ refusal }, i) => {
      const topic = `kept:new${i}`;
      this.#refusals.set(topic, [refusal]);
      return this.#subscribe(topic);
    });
    const others = [...this.#seats].filter((seat) => !seats.includes(seat));
    if (others.length === 0) return;
    const denied = oneOf(this.#random, others);
    await this.#audit.pause(TRIP_MS);
    this.#refusals.set(denied.topic, [{ code: "forbidden" }]);
    this.#audit.cut(this.#audit.host(USER));
    await this.#audit.until(() => denied.outcome !== "pending", REST_MS);
    this.#expect("end of a subscription that is denied", "forbidden", denied.outcome);
    this.#ended.length = 0;
    await this.#rest("refusals of new topics");
    for (const [i, { refusal, outcome }] of cases.entries()) {
      const what = `end of a new subscription after ${JSON.stringify(refusal)}`;
      this.#expect(what, outcome, seats[i]!.outcome);
    }
    this.#subscribe(denied.topic);
    await this.#rest("a new subscription after the end by a denial");
    await this.#examineStart();
  }

  /** Subscribes to a topic whose first answer comes too late: the client asks again, or leaves. */
  async askLate(): Promise<void> {
    const audit = this.#audit;
    const topic = oneOf(this.#random, LATE_TOPICS);
    this.#refusals.set(topic, ["late"]);
    const seat = this.#subscribe(topic);
    await audit.pause(ANSWER_MS + TRIP_MS);
    this.#expect(`end of ${topic}, whose answer is late`, "pending", seat.outcome);
    // Some programs leave, before the late answer or behind that, and some of these come back.
    await audit.pause(between(this.#random, 0, 2 * (LATE_MS - ANSWER_MS)));
    const isLeft = this.#random() < 0.5;
    if (isLeft) {
      this.#seats.delete(seat);
      void this.#leaves(seat);
      if (this.#random() < 0.5) this.#subscribe(topic);
    }
    await audit.pause(LATE_MS);
    await this.#rest(`a late answer to ${topic}${isLeft ? ", which was left" : ""}`);
  }

  /** Reads a durable stream that goes on, and leaves in each way: the session leaves the topic. */
  async leaveStreams(): Promise<void> {
    const audit = this.#audit;
    await using writer = await this.#program.server.durableStreams.create<number>("left");
    for (let record = 0; record < RECORDS; record++) await writer.append(record);
    const controller = new AbortController();
    const stop = new Error("enough");
    const leaves: Readonly<Record<string, (got: number[]) => Promise<unknown>>> = {
      "a break": async (got) => {
        for await (const record of this.#client.durableStream<number>("left")) {
          if (got.push(record) === RECORDS) break;
        }
      },
      "an error": async (got) => {
        for await (const record of this.#client.durableStream<number>("left")) {
          if (got.push(record) === RECORDS) throw stop;
        }
      },
      "a signal": async (got) => {
        const { signal } = controller;
        for await (const record of this.#client.durableStream<number>("left", { signal })) {
          if (got.push(record) === RECORDS) controller.abort(stop);
        }
      },
    };
    for (const [name, leave] of Object.entries(leaves)) {
      const got: number[] = [];
      const outcome = await outcomeOf(leave(got));
      this.#expect(`records before ${name}`, RECORDS, got.length);
      this.#expect(
        `end of a loop by ${name}`,
        name === "a break" ? "fulfilled" : `${stop}`,
        outcome,
      );
      // The last request of the loop may still be under way.
      await audit.pause(TRIP_MS);
      await this.#rest(`the end of a loop over a stream by ${name}`);
    }
  }

  /** Subscribes and leaves behind a backlog, so that answers come together. */
  async waver(): Promise<void> {
    const audit = this.#audit;
    const [from, to] = [this.#program.host, audit.host(USER)];
    const [session] = this.#program.server.manager.sessionsOf(USER);
    if (session === undefined) return this.#expect("session behind a backlog", "one", "none");
    const way = new SlowWay(audit, { from, to });
    await way.block(session);
    for (let call = 0; call < CALLS; call++) {
      const topic = oneOf(this.#random, TOPICS);
      const seats = [...this.#seats].filter((seat) => seat.topic === topic);
      if (seats.length === 0 || seats.length < SEATS && this.#random() < 0.4) {
        this.#subscribe(topic, this.#random() < 0.3 ? { last: 2 } : {});
      } else {
        const left = oneOf(this.#random, seats);
        this.#seats.delete(left);
        void this.#leaves(left);
        // The mind changes at once, or some steps later.
        if (this.#random() < 0.5) this.#subscribe(topic);
      }
      if (this.#random() < 0.3) this.#publish(topic);
      for (let left = Math.floor(MAX_STEPS * this.#random()); left > 0; left--) {
        await Promise.resolve();
      }
      if (this.#random() < 0.3) await audit.pause(between(this.#random, 1, TRIP_MS));
    }
    way.open(RATE);
    await audit.pause(TRIP_MS);
    await this.#rest("a change of mind behind a backlog");
    way.heal();
  }

  /** Closes all. */
  async close(): Promise<void> {
    await this.#client.close();
    await this.#program.server.close();
  }

  /** Waits until all subscriptions are in force, and lets each topic have a publication. */
  async #rest(story: string): Promise<void> {
    const audit = this.#audit;
    const restless = () =>
      [...this.#seats].filter(({ subscription }) => subscription.status.current !== "subscribed")
        .map(({ topic, outcome, subscription }) =>
          `${topic} ${subscription.status.current} ${outcome}`
        );
    await audit.until(() => restless().length === 0, REST_MS);
    this.#expect(`subscriptions not in force after ${story}`, [], restless());
    this.#expect(`subscriptions that ended after ${story}`, [], this.#ended.splice(0));
    // Topics that the client left may still be left at the server.
    await audit.pause(TRIP_MS);
    this.#strays.length = 0;
    for (const topic of this.#published.keys()) this.#publish(topic);
    const behind = () => [...this.#seats].flatMap((seat) => this.#wrong(seat));
    await audit.until(() => behind().length === 0, TRIP_MS);
    await audit.pause(TRIP_MS);
    this.#expect(`readers that lack or double publications after ${story}`, [], behind());
    this.#expect(`publications without a reader after ${story}`, [], this.#strays);
    const wanted = [...new Set([...this.#seats].map(({ topic }) => topic))].sort();
    const [session] = this.#program.server.manager.sessionsOf(USER);
    const topics = session && this.#program.server.topics.requestedBy(session).sort();
    this.#expect(`topics at the server after ${story}`, wanted, topics);
  }

  /** Examines where subscriptions begin, beside others of the topic. */
  async #examineStart(): Promise<void> {
    const [topic] = TOPICS;
    const earlier = [...this.#seats].find((seat) => seat.topic === topic);
    if (earlier === undefined) return;
    const newest = this.#published.get(topic)! - 1;
    const { position } = earlier.subscription;
    this.#publish(topic);
    const last = Math.ceil(3 * this.#random());
    const seats = [
      { seat: this.#subscribe(topic, { last }), from: newest + 2 - last },
      { seat: this.#subscribe(topic, { since: position }), from: newest + 1 },
    ];
    await this.#rest("a start within the history");
    for (const { seat, from } of seats) {
      this.#expect("first publication of a start within the history", from, seat.got[0]);
    }
  }

  /** Tells of numbers of a seat that are not up to the newest, come twice, or are missing. */
  #wrong({ topic, got }: Seat): string[] {
    const newest = this.#published.get(topic)! - 1;
    const isKept = topic.startsWith("kept:");
    const isOrdered = got.every((number, i) =>
      i === 0 || (isKept ? number === got[i - 1]! + 1 : number > got[i - 1]!)
    );
    return got.at(-1) === newest && isOrdered ? [] : [`${topic}: ${got.slice(-5)} of ${newest}`];
  }

  #subscribe(topic: string, options: ClientSubscribeOptions = {}): Seat {
    if (!this.#published.has(topic)) this.#published.set(topic, 0);
    const subscription = this.#client.subscribe(topic, options);
    const seat: Seat = { topic, subscription, got: [], outcome: "pending" };
    this.#seats.add(seat);
    const read = async () => {
      for await (const { data } of subscription) seat.got.push(data as number);
    };
    void outcomeOf(read()).then((outcome) => {
      seat.outcome = outcome;
      if (this.#seats.delete(seat)) this.#ended.push(`${topic}: ${outcome}`);
    });
    return seat;
  }

  async #leaves({ topic, subscription }: Seat): Promise<void> {
    const outcome = await outcomeOf(subscription.unsubscribe());
    // The way is slower than an answer may be.
    if (outcome !== "fulfilled" && outcome !== "TimeoutError") {
      this.#expect(`end of ${topic}`, "fulfilled", outcome);
    }
  }

  #publish(topic: string): void {
    const number = this.#published.get(topic) ?? 0;
    this.#published.set(topic, number + 1);
    this.#program.server.publish(topic, number);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("seats", what, expected, received);
  }
}
