/**
 * Writers of a durable stream. Each record must be stored once and in order, whichever writer
 * fails.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import { logTopic } from "../../streams/logs/log_names.ts";
import { SWEEP_INTERVAL_MS } from "../../streams/logs/stream_logs.ts";
import { type DurableStreamWriter, LEASE_MS, RENEWALS_PER_LEASE } from "../../streams/writer.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import { fail, type FaultyBroker, loseReply, pass } from "../faulty_broker.ts";
import type { ClusterStore } from "../simulation/cluster/store.ts";
import { type Drawn, keyOf } from "./draw.ts";
import { faultyBroker, reach } from "./stores.ts";
import { collect, outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";
import type { DurableStreams } from "../../streams/mod.ts";

const ID = "log-book";

/** Maximum size of the stream and of a record, in bytes. */
const [MAX_BYTES, MAX_RECORD_BYTES] = [300_000, 1_000_000];

/** Time that the calls of a store take, in milliseconds. */
const CALLS_MS = 2_500;

/** Interval between attempts to take over the stream, in milliseconds. */
const ATTEMPT_MS = 150;

/** Time until a reader retries after a failed read, in milliseconds. */
const RETRY_MS = 100;

/** Maximum part of the lease that may pass before a live writer renews it. */
const SIGN_SHARE = 2 / RENEWALS_PER_LEASE;

/** Temporary fates of store calls. */
const FATES = { "are fine": pass, "fail": fail, "lose their replies": loseReply } as const;

const turn = fc.record({
  /** Number of records that are appended at the same time, one burst after another. */
  bursts: fc.array(
    fc.record({
      records: fc.integer({ min: 1, max: 5 }),
      calls: keyOf(FATES),
      forMs: fc.integer({ min: 1, max: 4_000 }),
      /** If true, the connections to the store are cut too, if there are any. */
      isCut: fc.boolean(),
    }),
    { maxLength: 3 },
  ),
  /** Fate of the follower's reads in the meantime. */
  reads: keyOf(FATES),
  /** Time without an append. */
  quietMs: fc.constantFrom(0, 1_000, 2 * LEASE_MS),
  /** How the writer hands over the stream. */
  leaves: fc.constantFrom("release" as const, "kill" as const, "freeze" as const),
});

type Turn = Drawn<typeof turn>;

/** Ways in which the last writer ends, with the outcome for a reader. */
const ENDS = {
  close: "fulfilled",
  abort: "tired",
  disposal: "aborted",
  loss: "writer-lost",
  outage: "writer-lost",
  "full stream": "tired",
  "end by another program": "cancelled",
} as const;

property("a stream has each record of its writers once, in order, and the last writer's end", {
  runs: 3,
  cases: fc.record({
    store: fc.constantFrom("memory", "redis", "nats", "sqlite"),
    turns: fc.array(turn, { minLength: 1, maxLength: 4 }),
    /**
     * Number of records that are appended at the same time before the last writer ends. One append
     * to the store may contain up to 1,000.
     */
    burst: fc.constantFrom(0, 0, 1_001, 2_400),
    end: keyOf(ENDS),
  }),
  async check(world, { store, turns, burst, end }) {
    const stream = new Stream(world, await world.store(store));
    await stream.create();
    for (const [i, turn] of turns.entries()) {
      await stream.write(turn);
      const isLast = i === turns.length - 1;
      if (isLast) await stream.end(end, burst);
      else if (!await stream.passOn(turn.leaves)) break;
    }
    await stream.compare();
  },
});

type Writer = DurableStreamWriter<number | string>;

/** A node with a writer. */
class Node {
  readonly host: Host;
  broker!: FaultyBroker;
  readonly #program: SimulatedServer;

  constructor(world: World, name: string, store: ClusterStore) {
    this.#program = world.serve(name, (host) => {
      this.broker = faultyBroker(store, host);
      return {
        broker: this.broker,
        features: streamFeatures({ path: "/streams", maxStreamBytes: MAX_BYTES }),
        session: { maxMessageBytes: MAX_RECORD_BYTES },
        onError() {},
      };
    });
    this.host = this.#program.host;
  }

  get server(): SimulatedServer["server"] {
    return this.#program.server;
  }

  get streams(): DurableStreams {
    return streamsOf(this.server);
  }
}

/** A stream to which one node after another writes, and which one node reads. */
class Stream {
  readonly #reader: Node;
  #node: Node;
  #next: Node;
  #nodes = 0;
  #writer!: Writer;
  #records = 0;
  readonly #got: unknown[] = [];
  #outcome: string | undefined;
  #expected: string | undefined;

  constructor(readonly world: World, readonly store: ClusterStore) {
    this.#reader = new Node(world, "reader", store);
    this.#node = this.#startNode();
    this.#next = this.#startNode();
  }

  async create(): Promise<void> {
    for (const node of [this.#reader, this.#node, this.#next]) await reach(this.world, node);
    const { host, streams } = this.#node;
    this.#writer = await this.world.run(host, () => streams.create(ID));
    void this.world.run(this.#reader.host, () => this.#follow())
      .then((outcome) => this.#outcome = outcome);
  }

  /** Reads the stream to its end. Continues after failed reads. */
  async #follow(): Promise<string> {
    let place: { readonly after: string } | undefined;
    for (;;) {
      const outcome = await collect(this.#reader.streams.follow(ID, place), ({ data, offset }) => {
        place = { after: offset };
        this.#got.push(data);
      });
      if (outcome !== "BrokerError") return outcome;
      await pause(this.#reader.host.runtime, RETRY_MS);
    }
  }

  /** Appends records while calls fail, and holds the stream while there is nothing to append. */
  async write({ bursts, reads, quietMs }: Turn): Promise<void> {
    const world = this.world;
    this.#reader.broker.make("logs.read", FATES[reads]);
    for (const { records, calls, forMs, isCut } of bursts) {
      this.#node.broker.make("logs.append", FATES[calls]);
      const appending = range(1, records).map(() => this.#append(this.#records++));
      await world.pause(forMs / 2);
      if (isCut) world.cut(this.#node.host);
      await world.pause(forMs / 2);
      this.#node.broker.make("logs.append", pass);
      const outcomes = await world.inTime("appends", Promise.all(appending));
      assertEquals(outcomes, outcomes.map(() => "fulfilled"), `appends that ${calls}`);
    }
    for (const endMs = world.nowMs + quietMs; world.nowMs < endMs;) {
      await world.pause(quietMs / 8);
      assertEquals(await this.#open(this.#next), "held");
    }
    this.#reader.broker.make("logs.read", pass);
  }

  /** Hands over the stream to the next node. Returns false if a rescue came first. */
  async passOn(by: Turn["leaves"]): Promise<boolean> {
    const world = this.world;
    const [former, writer] = [this.#node, this.#writer];
    const next = this.#next;
    if (by === "release") {
      assertEquals(await outcomeOf(world.run(former.host, () => writer.release())), "fulfilled");
      assertEquals(await outcomeOf(writer.append(-1)), "ended");
      assertEquals(await this.#open(next), "fulfilled");
    } else {
      if (by === "kill") former.host.kill();
      else former.host.freeze();
      if (!await this.#takeOver()) {
        if (by === "freeze") await this.#expectLate(former, writer, "writer-lost");
        return false;
      }
    }
    this.#node = next;
    this.#next = this.#startNode();
    if (by === "freeze") {
      assertEquals(await this.#append(this.#records++), "fulfilled");
      await this.#expectLate(former, writer, "fenced");
    }
    return true;
  }

  /** Ends the last writer, after a burst of records. */
  async end(by: keyof typeof ENDS, burst: number): Promise<void> {
    const world = this.world;
    const { host, broker } = this.#node;
    const writer = this.#writer;
    this.#expected = ENDS[by];
    const appending = Promise.all(range(1, burst).map(() => this.#append(this.#records++)));
    // These ways of ending wait for all records.
    if (by !== "close" && by !== "abort") await world.inTime("a burst", appending);
    const abort = () => world.run(host, () => writer.abort("given up", { code: "tired" }));
    switch (by) {
      case "close":
      case "abort": {
        const ending = by === "abort" ? abort() : world.run(host, () => writer.close());
        assertEquals(await outcomeOf(ending), "fulfilled");
        return assertEquals(new Set(await appending), new Set(burst > 0 ? ["fulfilled"] : []));
      }
      case "disposal":
        return await world.run(host, () => writer[Symbol.asyncDispose]());
      case "loss":
        return host.kill();
      case "full stream":
        assertEquals(await this.#append("x".repeat(MAX_BYTES)), "full");
        assertEquals(await this.#append(-1), "full");
        assert(writer.signal.aborted);
        return assertEquals(await outcomeOf(abort()), "fulfilled");
      case "outage": {
        broker.make("logs.append", fail);
        const append = this.#append(-1);
        assertEquals(await world.inTime("a failure", append, LEASE_MS + CALLS_MS), "BrokerError");
        // The lease has expired, so an abort has no effect.
        await world.pause(LEASE_MS);
        broker.make("logs.append", pass);
        return assertEquals(await outcomeOf(abort()), "fulfilled");
      }
      case "end by another program": {
        const { host: far, streams } = this.#reader;
        await world.run(far, () => streams.cancel(ID, "enough"));
        await world.run(far, () => streams.cancel(ID, "late"));
        await world.until("the reader's cancellation", () => writer.signal.aborted);
        assertEquals(writer.signal.reason.message, "enough");
        assertEquals(await this.#append(this.#records++), "fulfilled");
        const cancelled = () => writer.abort("enough", { code: "cancelled" });
        assertEquals(await outcomeOf(world.run(host, cancelled)), "fulfilled");
      }
    }
  }

  /** Compares the reader's records, and the records of a reader that starts at the end. */
  async compare(): Promise<void> {
    const world = this.world;
    const withinMs = LEASE_MS + SWEEP_INTERVAL_MS + CALLS_MS;
    await world.until("an end of the stream", () => this.#outcome !== undefined, withinMs);
    assertEquals(this.#outcome, this.#expected);
    assertEquals(this.#got, range(0, this.#records - 1));
    const got: unknown[] = [];
    const { host, streams } = this.#reader;
    const late = () => collect(streams.follow(ID), ({ data }) => got.push(data));
    const outcome = await world.inTime("a late reader", world.run(host, late));
    assertEquals([outcome, got], [this.#expected, this.#got]);
    const nodes = [this.#reader, this.#node, this.#next];
    await world.until("nodes that have left the stream", () => nodes.every(isIdle));
  }

  /** Expects that a node that returns has lost the stream. */
  async #expectLate({ host }: Node, writer: Writer, code: string): Promise<void> {
    const world = this.world;
    host.thaw();
    const late = world.run(host, () => writer.append(-1));
    assertEquals(await world.inTime("a late append", outcomeOf(late)), code);
    assert(writer.signal.aborted);
    assertEquals(await outcomeOf(world.run(host, () => writer.abort("late"))), "fulfilled");
  }

  #startNode(): Node {
    return new Node(this.world, `node-${this.#nodes++}`, this.store);
  }

  #append(record: number | string): Promise<string> {
    const writer = this.#writer;
    return outcomeOf(this.world.run(this.#node.host, () => writer.append(record)));
  }

  #open({ host, streams }: Node): Promise<string> {
    const opening = this.world.run(host, () => streams.open<number | string>(ID));
    return outcomeOf(opening.then((writer) => this.#writer = writer));
  }

  /**
   * Takes over the stream from a lost writer once the lease has expired. Returns false if a rescue
   * came first.
   */
  async #takeOver(): Promise<boolean> {
    const world = this.world;
    const fromMs = world.nowMs;
    let outcome = "held";
    while (outcome === "held" && world.nowMs < fromMs + LEASE_MS + CALLS_MS) {
      await world.pause(ATTEMPT_MS);
      outcome = await this.#open(this.#next);
    }
    const tookMs = world.nowMs - fromMs;
    assert(tookMs >= LEASE_MS * (1 - SIGN_SHARE) - CALLS_MS, `${outcome} after ${tookMs} ms`);
    if (outcome === "ended") this.#expected = "writer-lost";
    else assertEquals(outcome, "fulfilled");
    return outcome === "fulfilled";
  }
}

/**
 * Returns true if a node has no writer, no reader, and no subscription to announcements of the
 * stream.
 */
function isIdle({ host, server, broker }: Node): boolean {
  const hasLeft = () =>
    server.streams!.activity().length === 0 && !broker.topics.includes(logTopic(ID));
  return !host.isAlive || hasLeft();
}
