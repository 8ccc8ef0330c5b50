/**
 * Creates relays that share an in-memory store and dial each other over memory, with fake time,
 * for tests of clusters.
 *
 * @module
 */
import { assert } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { MoqCluster, type MoqClusterOptions } from "../../moq/cluster/cluster.ts";
import { MoqRelay, type MoqRelayOptions } from "../../moq/live/relay.ts";
import type { MoqSession } from "../../moq/session/session.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import type { TrackReader } from "../../moq/track/track_reader.ts";
import type { MoqVersion } from "../../moq/wire/versions.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import { turns } from "../waiting.ts";
import { type FaultyBroker, FaultyStore } from "../faulty_broker.ts";
import type { Random } from "../random.ts";
import { type LivePair, livePair, textOf } from "./pair.ts";
import { listen, Publisher } from "./relays.ts";

/** The shortest time step: half of the interval that gathers changes, in milliseconds. */
const STEP_MS = 25;

/** A relay of the cluster, which other relays cannot distinguish from a separate process. */
export class Site {
  readonly pairs: LivePair[] = [];
  readonly errors: unknown[] = [];
  readonly broker: FaultyBroker;
  readonly relay: MoqRelay;
  readonly nodes: Nodes;
  readonly cluster: MoqCluster;
  /** The dialed URLs. */
  readonly dialed: string[] = [];
  isDown = false;

  constructor(
    bench: ClusterBench,
    url: string,
    options: Partial<MoqClusterOptions> & { readonly with?: MoqRelayOptions },
  ) {
    const onError = (error: unknown) => void this.errors.push(error);
    this.broker = bench.store.connect();
    const allowAnonymousPublish = true;
    this.relay = new MoqRelay({
      lingerMs: 1_000,
      allowAnonymousPublish,
      onError,
      ...options.with,
    });
    this.nodes = new Nodes({ broker: this.broker });
    const { with: _relay, ...rest } = options;
    this.cluster = new MoqCluster({
      relay: this.relay,
      nodes: this.nodes,
      url,
      onError,
      dial: async (to, { mux }) => {
        this.dialed.push(to);
        const site = bench.sites.get(to);
        if (site === undefined || site.isDown) throw new Error("Nobody is there");
        const pair = await livePair("moq-lite-05", { server: site.relay.mux, client: mux });
        this.pairs.push(pair);
        site.pairs.push(pair);
        void site.relay.accept(pair.server);
        return pair.client;
      },
      ...rest,
    });
  }

  /** Connects a client. */
  async join(mux = new TrackMux(), version: MoqVersion = "moq-lite-05"): Promise<LivePair> {
    const pair = await livePair(version, { server: this.relay.mux, client: mux });
    this.pairs.push(pair);
    void this.relay.accept(pair.server);
    return pair;
  }

  /** Simulates a killed process, without any closing message. */
  kill(): void {
    this.isDown = true;
    this.broker.cut();
    for (const { link } of this.pairs) link.disconnect();
  }

  /** The hops of the announced broadcasts, by path. */
  get ways(): Record<string, bigint[]> {
    return Object.fromEntries(
      this.relay.mux.announcements("/").map(({ path, hops }) => [path, [...hops]]),
    );
  }
}

/** Relays with a publisher of `/live` and a viewer. */
export interface LiveCluster {
  /** The relays; there may be fewer than the type says. */
  readonly sites: readonly [Site, Site, Site];
  readonly publisher: Publisher;
  /** The session of the publisher with the first relay. */
  readonly source: LivePair;
  /** The session of the viewer with the last relay. */
  readonly client: MoqSession;
  /** The announcements that the viewer receives. */
  readonly heard: readonly string[];
}

/** Relays of one store. */
export class ClusterBench implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly store: FaultyStore;
  readonly sites = new Map<string, Site>();

  constructor(random?: Random) {
    this.store = new FaultyStore({ random });
  }

  /** Starts relays that know one another. */
  async start(
    count: number,
    options: Partial<MoqClusterOptions> & { readonly with?: MoqRelayOptions } = {},
  ): Promise<Site[]> {
    const started = Array.from({ length: count }, () => {
      const url = `https://relay-${this.sites.size}.test/`;
      const site = new Site(this, url, options);
      this.sites.set(url, site);
      return site;
    });
    await this.pass(300);
    return started;
  }

  /** Starts relays, with a publisher at the first one and a viewer at the last one. */
  async live(count = 2, options?: Parameters<ClusterBench["start"]>[1]): Promise<LiveCluster> {
    const sites = await this.start(count, options);
    const publisher = new Publisher();
    const source = await sites[0]!.join(publisher.mux);
    const { client } = await sites.at(-1)!.join();
    const heard = await listen(client);
    await this.pass(100);
    return { sites: sites as [Site, Site, Site], publisher, source, client, heard };
  }

  /** Like {@linkcode ClusterBench.live}, with a viewer that subscribes. */
  async watched(count = 2): Promise<LiveCluster & { readonly track: TrackReader }> {
    const live = await this.live(count);
    const track = await live.client.subscribe("/live", "x");
    await this.pass(10);
    return { ...live, track };
  }

  /** Connects two relays without the cluster. */
  async connect(one: Site, other: Site): Promise<LivePair> {
    const pair = await livePair("moq-lite-05", {
      server: one.relay.mux,
      client: other.relay.mux,
    });
    one.pairs.push(pair);
    void one.relay.accept(pair.server);
    void other.relay.accept(pair.client);
    return pair;
  }

  /** Advances time in steps, and handles all events between them. */
  async pass(ms: number): Promise<void> {
    await turns();
    const stepMs = Math.max(STEP_MS, Math.ceil(ms / 100));
    for (let left = ms; left > 0; left -= stepMs) {
      await this.time.tickAsync(Math.min(stepMs, left));
      await turns();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { cluster, nodes, relay, pairs } of this.sites.values()) {
      await cluster.close();
      await nodes.close();
      relay.close();
      for (const pair of pairs) await pair[Symbol.asyncDispose]();
    }
    this.time.restore();
  }
}

/** Reads the first frame of the next group. */
export async function read(track: TrackReader): Promise<string> {
  const group = await track.nextGroup();
  assert(group !== null, "The track ended");
  return textOf((await group.readFrame())!);
}
