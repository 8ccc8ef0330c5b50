/**
 * Tests MoQ relays over real connections and a real Redis: relays find, dial and replace each other
 * after some are killed.
 */
import { assertEquals, assertRejects } from "@std/assert";
import {
  dialMoq,
  listenMoq,
  LiveTrack,
  MoqCluster,
  MoqError,
  MoqRelay,
  type MoqServer,
  type MoqSession,
  TrackMux,
} from "../../moq/mod.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { noTimers } from "./receiving.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";
import { until } from "../waiting.ts";

/** A silent relay counts as lost after three seconds. */
const QUICK = { heartbeatMs: 500, goneAfterMs: 3_000 };

/** A relay with a separate connection to Redis. */
class Site implements AsyncDisposable {
  readonly broker: RedisBroker;
  readonly relay = new MoqRelay({ lingerMs: 100, allowAnonymousPublish: true });
  readonly server: MoqServer;
  readonly nodes: Nodes;
  readonly cluster: MoqCluster;

  constructor(redis: string, wire: "webtransport" | "quic") {
    const { relay } = this;
    this.broker = new RedisBroker({ url: redis });
    this.server = listenMoq({ mux: relay.mux, onSession: (session) => relay.accept(session) });
    this.nodes = new Nodes({ broker: this.broker, ...QUICK });
    const { quicUrl, address } = this.server;
    this.cluster = new MoqCluster({
      relay,
      nodes: this.nodes,
      url: wire === "quic" ? quicUrl : `http://127.0.0.1:${address!.port}`,
      lingerMs: 200,
      // All relays use this machine's development certificate.
      ...(wire === "quic"
        ? { dial: (url, options) => dialMoq(url, { ...options, ...this.#trust }) }
        : {}),
    });
  }

  join(mux = new TrackMux()): Promise<MoqSession> {
    return dialMoq(this.server.url, { mux, ...this.#trust });
  }

  /** Stops the relay without notifying the other nodes. */
  async die(): Promise<void> {
    await this.broker.close();
    await this.server.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cluster.close();
    await this.nodes.close();
    await this.server.close();
    this.relay.close();
    await this.broker.close();
  }

  get #trust() {
    return { serverCertificateHashes: this.server.certificateHashes };
  }
}

async function fromDeadToNext(wire: "webtransport" | "quic"): Promise<void> {
  await using redis = await RedisServer.start();
  await using a = new Site(redis.url, wire);
  await using b = new Site(redis.url, wire);
  await using c = new Site(redis.url, wire);
  await using live = new LiveTrack();
  const mux = new TrackMux();
  mux.publish("/live", (track) => live.serve(track));
  const first = await a.join(mux);

  await using viewer = await c.join();
  await using announcements = await viewer.acceptAnnounce("/");
  const hops = [mux, a.relay.mux, c.relay.mux].map(({ hopId }) => hopId);
  assertEquals((await announcements.next())?.hops, hops);
  const tracks = await Promise.all(["x", "x", "x"].map((x) => viewer.subscribe("/live", x)));
  await until(() => live.subscribers === 1);
  using group = live.openGroup();
  group.writeFrame(Uint8Array.of(1));
  for (const track of tracks) {
    assertEquals(await (await track.nextGroup())?.readFrame(), Uint8Array.of(1));
  }
  assertEquals([live.subscribers, c.cluster.stats.links, b.cluster.stats.links], [1, 1, 0]);

  await a.die();
  assertEquals((await announcements.next())?.active, false);
  for (const track of tracks) await assertRejects(() => track.nextGroup(), MoqError);
  await first.closed;

  await using _second = await b.join(mux);
  assertEquals((await announcements.next())?.hops[1], b.relay.mux.hopId);
  using last = live.openGroup();
  last.writeFrame(Uint8Array.of(2));
  const track = await viewer.subscribe("/live", "x");
  assertEquals(await (await track.nextGroup())?.readFrame(), Uint8Array.of(2));
  track.close();
  await until(() => c.cluster.stats.links === 0);
  assertEquals(c.cluster.stats, { held: 0, relays: 1, links: 0 });
}

for (const wire of ["webtransport", "quic"] as const) {
  Deno.test({
    name:
      `MoqCluster over ${wire} and Redis follows a broadcast from a killed relay to another one`,
    ignore: isRedisMissing,
    async fn() {
      await fromDeadToNext(wire);
      await noTimers();
    },
  });
}
