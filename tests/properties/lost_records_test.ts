/**
 * Streams on a Redis server that loses acknowledged records. Readers must see a gap and no wrong
 * record.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SimulatedRedis, type SimulatedServer } from "../simulator/mod.ts";
import { maybe } from "./draw.ts";
import { collect, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Reply } from "./requests.ts";
import type { World } from "./world.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";

const PATH = "/streams/log";

/**
 * Delay of a replica that never applies later writes, and of a replica that does, in milliseconds.
 */
const [NEVER_MS, APPLIED_MS] = [3_600_000, 100] as const;

/** Time until all clients have left a former primary, in milliseconds. */
const LEFT_MS = 3_000;

/** Time until a reader retries while Redis is unreachable, in milliseconds. */
const RETRY_MS = 100;

/** Maximum time until an announcement has taken effect, in milliseconds. */
const TURN_MS = 1_000;

const call = fc.record({
  node: fc.nat(1),
  kind: fc.constantFrom("read", "append"),
  /** Offset of a read. If it is omitted, the read starts at the oldest record. */
  place: maybe(fc.nat(9)),
});

property(
  "a node that knew records that Redis lost reports the loss, and no reader gets wrong ones",
  {
    cases: fc.record({
      loss: fc.constantFrom("failover", "failover from a dead primary", "power", "kill"),
      persistence: fc.constantFrom("none", "snapshot", "everysec", "always"),
      /**
       * Records that reach the replica and the disk, and later records, one of which may end the
       * stream.
       */
      sure: fc.nat(3),
      unsure: fc.nat(3),
      isEnded: fc.boolean(),
      /** True if the second node also knows all these records. The first node appends them. */
      areBothNodes: fc.boolean(),
      /** The node with a reader that follows the stream. */
      follows: maybe(fc.nat(1)),
      calls: fc.array(call, { maxLength: 8 }),
    }),
    async check(world, { loss, persistence, sure, unsure, isEnded, areBothNodes, follows, calls }) {
      const hosts = [world.host("redis-0"), world.host("redis-1")] as const;
      const isFailover = loss.startsWith("failover");
      const redis = await world.simulation.hold(SimulatedRedis.create({
        simulation: world.simulation,
        network: world.network,
        hosts: isFailover ? hosts : [hosts[0]],
        persistence,
        snapshotMs: 2_000,
      }));
      const log = new LossyLog(world, redis, ["near", "far"]);
      await log.create();
      for (let left = sure; left > 0; left--) await log.append(0);
      if (follows !== undefined) await log.follow(follows);
      await world.pause(isFailover ? APPLIED_MS : 2_500);
      if (isFailover) redis.servers[1]!.lag(NEVER_MS);
      for (let left = unsure; left > 0; left--) await log.append(0);
      if (isEnded) await log.append(0, true);
      if (areBothNodes) await log.read(1, undefined);
      const { primary } = redis;
      if (loss !== "failover") primary.host.kill({ power: loss === "power" });
      if (isFailover) redis.failOver();
      for (const server of redis.servers) server.lag(0);
      if (loss !== "failover") redis.restart();
      await log.comeBack();
      for (const { node, kind, place } of calls) {
        if (kind === "append") await log.append(node);
        else await log.read(node, place);
      }
      for (const node of [0, 1]) for (const place of log.places.keys()) await log.read(node, place);
      // The model has timers that never end.
      for (const { host } of redis.servers) host.kill();
    },
  },
);

/** A log as a node remembers it or as it is. */
interface State {
  readonly identity: number;
  readonly count: number;
  readonly isEnded: boolean;
}

/** One stream on two nodes, and its model. */
class LossyLog {
  /** Offsets from responses, each with the identity of its stream. */
  readonly places: { readonly offset: string; readonly identity: number; readonly at: number }[] =
    [];
  readonly #nodes: readonly SimulatedServer<string>[];
  readonly #witness: RedisBroker;
  readonly #known: (State | undefined)[] = [];
  #state: State | undefined;
  /** Records by number. Other records follow the lost ones. */
  #records: number[] = [];
  #newest = 0;
  #identities = 0;
  #follower: { readonly node: number; readonly got: unknown[]; outcome?: string } | undefined;

  constructor(readonly world: World, redis: SimulatedRedis, names: readonly string[]) {
    const serve = (name: string) =>
      world.serve<string>(name, (host) => ({
        broker: new RedisBroker({ client: redis.client(host) }, { runtime: host.runtime }),
        features: streamFeatures({ path: "/streams", authorize: () => true }),
        onError() {},
      }));
    this.#nodes = names.map(serve);
    this.#witness = serve("witness").server.topics.broker as RedisBroker;
  }

  async create(): Promise<void> {
    const { status, headers } = await this.#ask(0, "", {
      method: "PUT",
      headers: { "content-type": "application/json" },
    });
    assertEquals(status, 201);
    this.#state = { identity: 0, count: 0, isEnded: false };
    this.#learn(0, headers.get("stream-next-offset"));
  }

  async append(node: number, ends = false): Promise<void> {
    this.#use(node);
    const record = ++this.#newest;
    const { status, headers } = await this.#ask(node, "", {
      json: record,
      headers: ends ? { "stream-closed": "true" } : {},
    });
    const state = this.#state;
    assertEquals(status, state === undefined ? 404 : state.isEnded ? 409 : 204);
    if (state !== undefined && !state.isEnded) {
      this.#records.push(record);
      this.#state = { ...state, count: state.count + 1, isEnded: ends };
    }
    this.#learn(node, status === 204 ? headers.get("stream-next-offset") : null);
    await this.#compareFollower();
  }

  /** Reads after a place or from the oldest record. */
  async read(node: number, index: number | undefined): Promise<void> {
    this.#use(node);
    const place = index === undefined ? undefined : this.places[index % this.places.length]!;
    const { outcome, body } = await this.#ask(node, `?offset=${place?.offset ?? "-1"}`);
    const state = this.#state;
    const isGone = state !== undefined && place !== undefined &&
      (place.identity !== state.identity || place.at > state.count);
    const expected = state === undefined ? "404 not-found" : isGone ? "410 gone" : "200";
    assertEquals(outcome, expected);
    if (expected === "200") assertEquals(body, this.#records.slice(place?.at ?? 0));
    this.#learn(node, null);
    await this.#compareFollower();
  }

  /** Starts a reader that follows the stream on a node from the oldest record. */
  async follow(node: number): Promise<void> {
    const { host, server } = this.#nodes[node]!;
    const follower: { node: number; got: unknown[]; outcome?: string } = { node, got: [] };
    let after = this.places[0]!.offset;
    const read = async (): Promise<string> => {
      const outcome = await collect(
        streamsOf(server).follow("log", { after }),
        ({ data, offset }) => {
          after = offset;
          follower.got.push(data);
        },
      );
      // A reader that starts over does not find the stream.
      if (outcome !== "BrokerError") return outcome === "not-found" ? "gone" : outcome;
      await pause(host.runtime, RETRY_MS);
      return await read();
    };
    void this.world.run(host, read).then((outcome) => follower.outcome = outcome);
    this.#follower = follower;
    await this.#compareFollower();
  }

  /** Waits until the nodes reach the surviving server, and determines which records are left. */
  async comeBack(): Promise<void> {
    const world = this.world;
    await world.pause(LEFT_MS);
    for (const node of [0, 1]) {
      for (let left = 100; left > 0; left--) {
        if ((await this.#ask(node, "-none?offset=-1")).status === 404) break;
        await world.pause(100);
      }
    }
    // A node that never used the stream reports no loss.
    const page = await world.inTime(
      "a look",
      world.run(
        world.host("witness"),
        () =>
          this.#witness.logs.read("log", { after: 0, maxRecords: 0, maxBytes: 1, renews: false }),
      ),
    );
    assert(page !== "expired");
    this.#records.length = page?.info.tail ?? 0;
    const isEnded = page?.info.end !== undefined;
    this.#state = page && { ...this.#state!, count: page.info.tail, isEnded };
    if (this.#follower !== undefined) this.#use(this.#follower.node);
    await this.#compareFollower();
  }

  /** A node that knew more gives the stream a new identity in its next call. */
  #use(node: number): void {
    const [state, known] = [this.#state, this.#known[node]];
    if (state === undefined || known?.identity !== state.identity) return;
    const isLost = state.count < known.count || known.isEnded && !state.isEnded;
    if (isLost) this.#state = { ...state, identity: ++this.#identities };
  }

  /** Records what a node knows after a call, and records a new offset. */
  #learn(node: number, offset: string | null): void {
    const [state, known] = [this.#state, this.#known[node]];
    this.#known[node] = state;
    if (state === undefined || offset === null) return;
    assert(known === undefined || known.identity <= state.identity);
    this.places.push({ offset, identity: state.identity, at: state.count });
  }

  /**
   * Compares the reader that follows the stream. It must have received all records, or have ended
   * because the stream has a new identity.
   */
  async #compareFollower(): Promise<void> {
    const follower = this.#follower;
    if (follower === undefined) return;
    const state = this.#state;
    const isGone = state === undefined || state.identity > 0;
    const end = isGone ? "gone" : state.isEnded ? "fulfilled" : undefined;
    const isThere = () =>
      follower.outcome === end && (isGone || follower.got.length === state.count);
    await this.world.until("news for a reader", isThere, TURN_MS).catch(() => {});
    assertEquals(follower.outcome, end);
    if (!isGone) assertEquals(follower.got, this.#records);
    assertEquals(follower.got, range(1, follower.got.length), "records in order");
    this.#known[follower.node] = state;
    if (end !== undefined) this.#follower = undefined;
  }

  #ask(node: number, path: string, asking: Parameters<typeof ask>[2] = {}): Promise<Reply> {
    return this.world.inTime("a response", ask(this.#nodes[node]!, PATH + path, asking));
  }
}
