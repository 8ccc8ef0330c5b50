/**
 * Answers whose node leaves, or is lost: another node goes on, and places come back everywhere. The
 * searches for overdue streams go on behind errors of the engine.
 */
import { pause } from "../../../../../base/wait.ts";
import { BrokerError } from "../../../../../errors.ts";
import type { Broker } from "../../../../../pubsub/broker.ts";
import type { LogPage } from "../../../../../pubsub/logs/log.ts";
import { RESCUE_INTERVAL_MS } from "../../../../../pubsub/logs/stream_logs.ts";
import { RESUME_LEASE_MS } from "../../../../../server/durable/answers.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, outcomeOf } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { AnswerNode, ITEM_MS, KEEP_MS } from "./answer_node.ts";
import { brokerWithLogs } from "./broker_with_logs.ts";
import { LogMachine, PLENTY, SEARCH_MS } from "./machine.ts";
import { auditFruitless } from "./fruitless.ts";
import { auditHandovers } from "./handovers.ts";

/** Fewest items of an answer, and the range of numbers. */
const [ITEMS, ITEMS_RANGE] = [4, 8];

/** Time for the calls of an engine, in milliseconds. */
const SLACK_MS = 2_500;

/** Most answers of a node, at least, and the range. */
const [PLACES, PLACES_RANGE] = [2, 2];

/** Time for which nodes that cannot go on leave an answer to others, in milliseconds. */
const SPARE_MS = 20_000;

/** Share of audits in which nodes that cannot go on leave an answer to others. */
const SPARE_SHARE = 0.3;

/** Time between two items of an answer with several nodes, in milliseconds. */
const RARE_MS = 1_500;

/** Longest pause of the first takeovers of an answer, in milliseconds. */
const TAKEOVER_MS = 2_000;

/** Share of the longest time between two searches that passes at least. */
const LEAST_SHARE = 0.5;

/** Most nodes that search, and the share of those that can take over. */
const [SEARCHERS, RESCUER_SHARE] = [2, 0.5];

/** Fewest overdue streams, and the range. */
const [OVERDUE, OVERDUE_RANGE] = [3, 4];

/** Shortest and longest time until a stream is overdue, in milliseconds. */
const DUE_MS = [300, 9_000] as const;

/** Latest begin of an outage, and the shortest and longest time of one, in milliseconds. */
const [OUTAGE_FROM_MS, OUTAGE_MS] = [2_500, [1_500, 9_000]] as const;

/** Share of audits in which all nodes that search have an outage. */
const ALL_AWAY_SHARE = 0.7;

/** Longest time until a call fails, of which one is drawn for each outage, in milliseconds. */
const FAILURES_MS = [0, 0, 200] as const;

/** Share of the failed calls that have an effect all the same. */
const EFFECT_SHARE = 0.2;

/**
 * Calls that fail in an outage: all of them, the search, those for streams that the search found, reads
 * of these, or all for a single stream.
 */
const OUTAGES = [
  "all",
  "all",
  "search",
  "tending",
  "reads",
  "reads",
  "one stream",
  "one stream",
] as const;

/** Most of its time to live by which an engine may keep a stream longer. */
const KEPT_SHARE = 1 / 8;

/** Time between two looks at streams, in milliseconds. */
const LOOK_MS = 300;

/** Time for the calls of one search, in milliseconds. */
const CALLS_MS = 1_200;

/** Time of a slow search, in milliseconds. */
const SLOW_MS = 700;

/** Machines of nodes that have one answer in turn, and of a node that never has it. */
type FourMachines = readonly [LogMachine, LogMachine, LogMachine, LogMachine];

/**
 * Lets nodes with answers go: other nodes go on, at once or as soon as there is one that can. Beside
 * that, nodes search for overdue streams while calls of the engine fail.
 *
 * @param audit The audit.
 */
export async function auditTakeovers(audit: Audit): Promise<void> {
  const auditAnswers = audit.random() < SPARE_SHARE ? auditSpared : auditLeaving;
  const besides = [auditSearches, auditFruitless, auditHandovers].map((part) => part(audit));
  await Promise.all([auditAnswers(audit), ...besides]);
}

/** Lets a node with all its answers go, and fills the places of the others afterwards. */
async function auditLeaving(audit: Audit): Promise<void> {
  const { random } = audit;
  const expect: Expect = (what, ...values) =>
    audit.examine("durable", `${what} of answers`, ...values);
  const places = PLACES + Math.floor(PLACES_RANGE * random());
  const names = ["answers-leaving", "answers-near", "answers-far"];
  await LogMachine.use(audit, names, async (machines) => {
    const [leaving, near, far] = machines.map((machine) => new AnswerNode(machine, places));
    const items = ITEMS + Math.floor(ITEMS_RANGE * random());
    const all = range(0, items - 1);
    const nameOf = (number: number) => `audited-answer-${number}`.padEnd(24, "x");

    // The same name on two nodes at once, then as many as there are places.
    const twice = await Promise.all([leaving!, far!].map((node) => node.begin(nameOf(0), items)));
    expect("streams", 1, new Set(twice).size);
    await audit.pause(ITEM_MS / 2);
    const began = [leaving!, far!].map(({ generators }) => generators.length);
    expect("generators of one name", 1, began[0]! + began[1]!);
    const ids = [twice[0]!];
    while (leaving!.answers.running < places) {
      ids.push(await leaving!.begin(nameOf(ids.length), items));
    }
    const oneMore = await outcomeOf(leaving!.begin(nameOf(98), items));
    // An answer that ends beside a slow engine gives its place back some time behind its last item.
    if (leaving!.ended === 0) expect("one more than places", "too-many", oneMore);
    const reads = ids.map((id) => near!.read(id));

    await audit.pause(3 * ITEM_MS * random());
    const isLost = random() < 0.4;
    if (isLost) leaving!.machine.end();
    else await leaving!.close();
    const withinMs = (isLost ? RESUME_LEASE_MS + RESCUE_INTERVAL_MS : 0) + items * ITEM_MS +
      SLACK_MS;
    const got = await audit.inTime(Promise.all(reads), withinMs, "no end in time");
    expect("items", ids.map(() => `${all} fulfilled`), got);

    await audit.until(() => near!.answers.running + far!.answers.running === 0, SLACK_MS);
    for (const node of [near!, far!]) {
      expect("generators that run at the end", [], node.generators);
      // A second time, as cancelled answers give their places back, too.
      for (const round of ["first", "second"]) await fill(node, round);
    }
    await Promise.all([near!, far!].map((node) => node.close()));

    /** Takes all places of a node, and cancels the answers. */
    async function fill(node: AnswerNode, round: string): Promise<void> {
      const { name } = node.machine.host;
      const user = `user of ${name}`.slice(-24);
      const begun = (number: number, of?: string) =>
        node.begin(`${nameOf(number)}-${name.slice(-4)}-${round}`, 1_000, { user: of });
      const filled: string[] = [];
      for (let i = 0; i < places; i++) {
        const id = await begun(i, i < places - 1 ? user : undefined).catch((error) => `${error}`);
        filled.push(id);
        if (i !== places - 2) continue;
        const beyond = await outcomeOf(begun(97, user));
        expect("one more than places of a user", "too-many", beyond);
      }
      expect(`places of ${name} that are free`, places, node.answers.running);
      expect("one more than places", "too-many", await outcomeOf(begun(98)));
      const reading = filled.map((id) => node.read(id));
      await audit.pause(ITEM_MS * 1.5);
      await Promise.all(filled.map((id) => node.machine.run(() => node.node.cancel(id, "enough"))));
      const ended = await audit.inTime(Promise.all(reading), SLACK_MS, undefined);
      const codes = ended?.map((text) => text.slice(text.indexOf(" ") + 1));
      expect("ends of cancelled ones", filled.map(() => "cancelled"), codes ?? "none in time");
      await audit.until(() => node.generators.length === 0, SLACK_MS);
      expect("generators behind a cancellation", [], node.generators);
      await audit.pause(ITEM_MS);
      const forgotten = await Promise.all(filled.map((id) => node.forgot(id)));
      expect("requests that are forgotten", filled.map(() => true), forgotten);
    }
  });
}

/** A node that cannot go on leaves an answer to others for a time of its own after each loss. */
async function auditSpared(audit: Audit): Promise<void> {
  const { random } = audit;
  const expect: Expect = (what, ...values) =>
    audit.examine("durable", `${what} of an answer`, ...values);
  const names = ["spared-first", "spared-idle", "spared-second", "spared-third"];
  await LogMachine.use(audit, names, async (machines) => {
    const [onFirst, onIdle, onSecond, onThird] = machines as FourMachines;
    const first = new AnswerNode(onFirst, PLACES);
    const idle = new AnswerNode(onIdle, PLACES, { resumes: false });
    const begun = { everyMs: RARE_MS };
    const id = await first.begin("audited-answer-spared-1", 1_000, begun);
    const isReleased = random() < 0.5;
    const isGivenUp = random() < 0.3;
    const reading = idle.read(id);
    await audit.pause(2 * RARE_MS * random());
    if (isReleased) await first.close();
    onFirst.end();
    let lostMs = audit.nowMs;
    const lapseMs = isReleased ? 0 : RESUME_LEASE_MS;
    if (isGivenUp) {
      const earlyMs = lapseMs / 3 + SPARE_MS - SLACK_MS;
      const lateMs = lapseMs + SPARE_MS + 2 * RESCUE_INTERVAL_MS + SLACK_MS;
      const text = await audit.inTime(reading, lateMs, "no end in time");
      expect("end without a node that can go on", "writer-lost", text.split(" ").at(-1));
      const silentMs = Math.round(audit.nowMs - lostMs);
      expect(`end after ${silentMs} of ${earlyMs} ms`, true, silentMs >= earlyMs);
      await audit.pause(ITEM_MS);
      expect("request that is forgotten", true, await idle.forgot(id));
      return await idle.close();
    }
    await audit.pause(lapseMs + 2 * RESCUE_INTERVAL_MS * random());
    const second = new AnswerNode(onSecond, PLACES);
    await goesOn(second, lostMs + lapseMs);
    // Longer than any node leaves the answer to others, were it still the first loss.
    await audit.pause(SPARE_MS - RESUME_LEASE_MS);
    expect("runs on the second node", 1, second.answers.running);
    onSecond.end();
    lostMs = audit.nowMs;
    await audit.pause(RESUME_LEASE_MS + 2 * RESCUE_INTERVAL_MS * random());
    const third = new AnswerNode(onThird, PLACES);
    await goesOn(third, lostMs + RESUME_LEASE_MS);
    await third.machine.run(() => third.node.cancel(id, "enough"));
    const text = await audit.inTime(reading, SLACK_MS, "no end in time");
    const [items, outcome] = text.split(" ");
    const counted = items!.split(",").map(Number);
    expect("items", range(0, counted.length - 1), counted);
    expect("end", "cancelled", outcome);
    await Promise.all([idle, third].map((node) => node.close()));
  });

  /** Expects that a node takes the answer over. */
  async function goesOn(node: AnswerNode, fromMs: number): Promise<void> {
    const withinMs = Math.max(0, fromMs - audit.nowMs) + RESCUE_INTERVAL_MS + TAKEOVER_MS +
      SLACK_MS;
    await audit.until(() => node.generators.length > 0, withinMs);
    expect(`takeovers by ${node.machine.host.name}`, 1, node.generators.length);
  }
}

/** A way to the engine on which calls of logs fail for a while. */
class Way {
  /** Times of the searches. */
  readonly searches: number[] = [];
  /** Number of searches whose list did not come. */
  failed = 0;
  /** Number of other calls that failed. */
  failedCalls = 0;
  /** Time for which the list of a search is under way, in milliseconds. */
  slowMs = 0;
  readonly #audit: Audit;
  readonly #random: () => number;
  #fails: ((name: string, id: unknown) => boolean) | undefined;
  #failureMs = 0;

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
  }

  /** Begins an outage of calls, or ends the outage. */
  setFailing(fails?: (name: string, id: unknown) => boolean): void {
    this.#fails = fails;
    this.#failureMs = oneOf(this.#random, FAILURES_MS);
  }

  /** Fewest and most errors of searches: one for each search that fails. */
  errorsOf(outage: typeof OUTAGES[number] | undefined): readonly [number, number] {
    // A search calls once for a stream whose calls fail, and answers do not call.
    if (outage === "one stream") return [this.failedCalls, this.failedCalls];
    const isExact = outage === undefined || outage === "search";
    return [this.failed, isExact ? this.failed : this.searches.length];
  }

  /** Makes the broker of a machine. */
  broker({ runtime }: Host, broker: Broker): Broker {
    return brokerWithLogs(broker, (name, own) => async (...values) => {
      const isSearch = name === "overdue";
      if (isSearch) this.searches.push(this.#audit.nowMs);
      if (!this.#fails?.(String(name), values[0])) {
        const result = await own(...values);
        if (isSearch && this.slowMs > 0) await pause(runtime, this.slowMs);
        return result;
      }
      if (isSearch) this.failed++;
      else this.failedCalls++;
      if (this.#random() < EFFECT_SHARE) await own(...values);
      if (this.#failureMs > 0) await pause(runtime, this.#failureMs * this.#random());
      throw new BrokerError("Cannot call the logs: the engine is away");
    });
  }
}

/** A node that searches for overdue streams. */
class Searcher {
  readonly way: Way;
  /** Longest time between two searches, in milliseconds. */
  readonly intervalMs: number;
  readonly streams: AnswerNode["streams"];
  readonly answers: AnswerNode | undefined;
  /** Errors of the searches. */
  readonly errors: unknown[] = [];
  /** Time of the end of the outage; without one, all searches succeed. */
  healedMs = -Infinity;
  outage: typeof OUTAGES[number] | undefined;
  readonly #machine: LogMachine;

  constructor(machine: LogMachine, way: Way, canRescue: boolean) {
    const onError = (error: unknown) => void this.errors.push(error);
    this.#machine = machine;
    this.way = way;
    this.answers = canRescue ? new AnswerNode(machine, PLACES, { onError }) : undefined;
    this.streams = this.answers?.streams ?? machine.streams({ onError }).streams;
    this.intervalMs = canRescue ? RESCUE_INTERVAL_MS : SEARCH_MS;
  }

  /** Latest time at which a stream that is due at a time is taken care of. */
  latestMs(id: string, dueMs: number, poison: string): number {
    const isSteady = this.outage === "one stream" && id !== poison;
    return (isSteady ? dueMs : Math.max(dueMs, this.healedMs)) + this.intervalMs + CALLS_MS;
  }

  search(): Promise<void> {
    return this.#machine.run(() => this.streams.search());
  }

  close(): Promise<void> {
    return this.#machine.run(() => this.answers?.close() ?? this.streams.close());
  }
}

/** A stream, overdue after a time or open to the end. */
interface Overdue {
  readonly id: string;
  /** The state once the searches are done. */
  readonly end: "gone" | "writer-lost" | "open";
  /** Earliest and latest time from which the stream is overdue. */
  readonly fromMs: number;
  readonly dueMs: number;
}

/** Searches for overdue streams while calls of the engine fail, and afterwards. */
async function auditSearches(audit: Audit): Promise<void> {
  const random = audit.chanceOf("searches");
  const apart = audit.engine.apart!("searches");
  const ways = new Map<Host, Way>();
  const count = 1 + Math.floor(SEARCHERS * random());
  const names = ["searches-maker", "searches-lost"];
  for (let i = 0; i < count; i++) names.push(`searches-${i}`);
  await LogMachine.use(audit, names, async ([maker, lost, ...machines]) => {
    const searchers = machines.map((machine) =>
      new Searcher(machine, ways.get(machine.host)!, random() < RESCUER_SHARE)
    );
    const scene = new SearchScene(audit, { maker: maker!, searchers, random });
    await scene.create();
    await Promise.all([scene.passOutage(lost!), scene.watch()]);
    await scene.compare();
    await scene.searchAtOnce();
    await scene.close();
  }, (host) => {
    const way = new Way(audit, random);
    ways.set(host, way);
    return way.broker(host, apart(host));
  });
}

/** Streams, and the nodes that search. */
class SearchScene {
  readonly #audit: Audit;
  readonly #maker: LogMachine;
  readonly #searchers: readonly Searcher[];
  readonly #random: () => number;
  readonly #streams: Overdue[] = [];
  /** The stream for which calls fail, if for one. */
  #poison = "";
  /** Id of the answer of a lost node, and the time at which its lease is over. */
  #answer: { readonly id: string; readonly lapseMs: number } | undefined;

  constructor(audit: Audit, { maker, searchers, random }: {
    readonly maker: LogMachine;
    readonly searchers: readonly Searcher[];
    readonly random: () => number;
  }) {
    this.#audit = audit;
    this.#maker = maker;
    this.#searchers = searchers;
    this.#random = random;
  }

  /** Creates streams that expire, lose the writer, or stay. */
  async create(): Promise<void> {
    const count = OVERDUE + Math.floor(OVERDUE_RANGE * this.#random());
    for (let i = 0; i < count; i++) {
      const dueMs = Math.round(between(this.#random, ...DUE_MS));
      await this.#create(oneOf(this.#random, ["gone", "writer-lost"]), dueMs);
    }
    await this.#create("open", KEEP_MS);
    // Due behind the begin of each outage, and before most of the others.
    const fromMs = this.#audit.nowMs + OUTAGE_FROM_MS;
    const sorted = this.#streams.toSorted((a, b) => a.dueMs - b.dueMs);
    this.#poison = sorted.find(({ dueMs }) => dueMs > fromMs)!.id;
  }

  /** Has calls of the nodes fail for a while; the lease of a lost node with an answer ends meanwhile. */
  async passOutage(lost: LogMachine): Promise<void> {
    const audit = this.#audit;
    const random = this.#random;
    const rescuers = this.#searchers.filter(({ answers }) => answers !== undefined);
    if (rescuers.length > 0) await this.#lose(lost);
    await audit.pause(OUTAGE_FROM_MS * random());
    const areAllAway = random() < ALL_AWAY_SHARE;
    const away = this.#searchers.filter(() => areAllAway || random() < 0.5);
    const outages = away.map(async (searcher) => {
      searcher.outage = oneOf(random, OUTAGES);
      searcher.healedMs = Infinity;
      searcher.way.setFailing(this.#failing(searcher.outage));
      await audit.pause(between(random, ...OUTAGE_MS));
      searcher.way.setFailing();
      searcher.healedMs = audit.nowMs;
    });
    await Promise.all(outages);
  }

  /** Watches the streams: each is taken care of in time, by a node without an outage or behind that. */
  async watch(): Promise<void> {
    const audit = this.#audit;
    await Promise.all(this.#streams.map(async ({ id, end, fromMs, dueMs }) => {
      if (end === "open") return;
      let state = await this.#stateOf(id);
      while (state !== end && audit.nowMs < this.#latestMs(id, dueMs)) {
        await audit.pause(LOOK_MS);
        state = await this.#stateOf(id);
        if (audit.nowMs < fromMs) this.#expect("stream before its time", "open", state);
      }
      this.#expect(`stream that is due at ${Math.round(fromMs)} ms`, end, state);
    }));
  }

  /** Compares the answer, errors and searches behind the outage. */
  async compare(): Promise<void> {
    const audit = this.#audit;
    await this.#compareAnswer();
    for (const { id, end } of this.#streams) {
      if (end === "open") this.#expect("stream that is not due", end, await this.#stateOf(id));
    }
    // The last failure may be under way.
    await audit.pause(LOOK_MS);
    for (const { way, errors, outage, intervalMs } of this.#searchers) {
      const of = `of searches with the outage ${outage}`;
      const areBroker = errors.every((error) => error instanceof BrokerError);
      this.#expect(`errors of the engine ${of}`, true, areBroker);
      const [least, most] = way.errorsOf(outage);
      const isRight = errors.length >= least && errors.length <= most;
      this.#expect(`${errors.length} errors, ${least} to ${most}, ${of}`, true, isRight);
      const times = [...way.searches, audit.nowMs];
      for (const [i, atMs] of times.entries()) {
        if (i === 0) continue;
        const gapMs = Math.round(atMs - times[i - 1]!);
        const isLate = gapMs > intervalMs + CALLS_MS;
        const isEarly = i < way.searches.length && gapMs < intervalMs * LEAST_SHARE;
        if (isLate || isEarly) this.#expect(`time between two ${of}`, intervalMs, gapMs);
      }
    }
  }

  /** Has a node search at once, and once more for a stream that is due during that search. */
  async searchAtOnce(): Promise<void> {
    const audit = this.#audit;
    const searcher = oneOf(this.#random, this.#searchers);
    const isTwice = this.#random() < 0.5;
    const { id, dueMs } = await this.#create("writer-lost", LOOK_MS);
    if (isTwice) {
      searcher.way.slowMs = SLOW_MS;
      await searcher.search();
    }
    await audit.pause(dueMs - audit.nowMs);
    await searcher.search();
    const byMs = audit.nowMs + (isTwice ? 2 * SLOW_MS : 0) + CALLS_MS;
    let state = await this.#stateOf(id);
    while (state === "open" && audit.nowMs < byMs) {
      await audit.pause(LOOK_MS);
      state = await this.#stateOf(id);
    }
    searcher.way.slowMs = 0;
    this.#expect("stream behind a search at once", "writer-lost", state);
  }

  /** Closes the nodes, which search no more. */
  async close(): Promise<void> {
    const audit = this.#audit;
    await audit.pause(SEARCH_MS * this.#random());
    const isSearching = this.#random() < 0.5;
    await Promise.all(this.#searchers.map(async (searcher) => {
      if (isSearching) {
        searcher.way.slowMs = SLOW_MS;
        await searcher.search();
        await audit.pause(SLOW_MS / 2);
      }
      await searcher.close();
    }));
    const counts = () => this.#searchers.map(({ way }) => way.searches.length);
    const before = counts();
    await audit.pause(SEARCH_MS + LOOK_MS);
    this.#expect("searches behind the end", before, counts());
  }

  /** Lets a node with an answer go without a word. */
  async #lose(machine: LogMachine): Promise<void> {
    const node = new AnswerNode(machine, PLACES);
    const id = await node.begin("audited-answer-searched1", ITEMS);
    machine.end();
    this.#answer = { id, lapseMs: this.#audit.nowMs + RESUME_LEASE_MS };
  }

  /** Expects the end of the answer on another node. */
  async #compareAnswer(): Promise<void> {
    if (this.#answer === undefined) return;
    const { id, lapseMs } = this.#answer;
    const rescuers = this.#searchers.filter(({ answers }) => answers !== undefined);
    const latest = rescuers.map((one) => one.latestMs(id, lapseMs, this.#poison));
    const byMs = Math.min(...latest) + TAKEOVER_MS + ITEMS * ITEM_MS + SLACK_MS;
    let state = await this.#stateOf(id);
    while (state === "open" && this.#audit.nowMs < byMs) {
      await this.#audit.pause(LOOK_MS);
      state = await this.#stateOf(id);
    }
    this.#expect("answer of a lost node", "complete", state);
  }

  /** Tells which calls fail in an outage. */
  #failing(outage: typeof OUTAGES[number]): (name: string, id: unknown) => boolean {
    switch (outage) {
      case "all":
        return () => true;
      case "search":
        return (name) => name === "overdue";
      case "tending":
        return (name) => name !== "overdue";
      case "reads":
        return (name) => name === "read";
      case "one stream":
        return (_name, id) => id === this.#poison;
    }
  }

  /** Creates a stream that is overdue after a time, unless it stays open. */
  async #create(end: Overdue["end"], inMs: number): Promise<Overdue> {
    const id = `audited-search-${this.#streams.length}`;
    const startMs = this.#audit.nowMs;
    const lives = end === "gone" ? { ttlMs: inMs } : {};
    const writer = { holder: "nobody", ttlMs: inMs };
    await this.#maker.run(() =>
      this.#maker.logs.create(id, {
        config: { contentType: "text/plain", ...lives },
        identity: "searched",
        records: [],
        maxLogs: PLENTY.maxStreams,
        ...(end !== "gone" && { writer }),
      })
    );
    // Engines count whole milliseconds, and may keep a stream longer than promised.
    const dueMs = this.#audit.nowMs + inMs * (end === "gone" ? 1 + KEPT_SHARE : 1);
    const stream = { id, end, fromMs: startMs + inMs - 1, dueMs };
    this.#streams.push(stream);
    return stream;
  }

  /** Reads the state of a stream, which does not lengthen its life. */
  async #stateOf(id: string): Promise<string> {
    const options = { after: 0, maxRecords: 0, maxBytes: 1, renews: false };
    const page = await this.#maker.run(() => this.#maker.logs.read(id, options));
    if (page === undefined) return "gone";
    if (page === "expired") return "expired";
    const { end } = (page as LogPage).info;
    return end === undefined ? "open" : end.error ?? "complete";
  }

  /** Latest time at which a node takes care of a stream. */
  #latestMs(id: string, dueMs: number): number {
    return Math.min(...this.#searchers.map((one) => one.latestMs(id, dueMs, this.#poison)));
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("durable", what, expected, received);
  }
}
