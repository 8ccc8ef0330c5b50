/**
 * The NATS broker on a cluster of three servers: histories and epochs outlive one of them.
 */
import { assert, assertEquals } from "@std/assert";
import { jetstreamManager, type StreamInfo } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { NatsBroker } from "../../pubsub/nats/mod.ts";
import { append, BOUNDS, Hearing, until } from "./hearing.ts";
import { freePort, isNatsMissing, NatsServer } from "./nats_server.ts";
import type { Appended } from "../../pubsub/broker.ts";

const PAGE = { bounds: BOUNDS, maxMessages: 1_000_000, maxBytes: 100_000_000 };

/** Servers that find each other. */
async function startCluster(size: number): Promise<NatsServer[]> {
  const ports = Array.from({ length: size }, freePort);
  const routes = ports.map((port) => `"nats://127.0.0.1:${port}"`).join(", ");
  return await Promise.all(ports.map((port, i) =>
    NatsServer.start({
      settings: `server_name: "n${i}"
        cluster { name: "test", listen: "127.0.0.1:${port}", routes: [${routes}] }`,
    })
  ));
}

/** Which of the servers leads the stream. */
async function leaderOf({ servers }: NatsServer): Promise<number> {
  const connection = await connect({ servers });
  const { streams } = await jetstreamManager(connection);
  const [{ cluster }] = await streams.list().next() as [StreamInfo];
  await connection.close();
  return Number(cluster!.leader!.slice(1));
}

Deno.test({
  name: "NatsBroker with three replicas keeps its epoch when the leader of a stream is lost",
  ignore: isNatsMissing,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const cluster = await startCluster(3);
    for (const server of cluster) stack.use(server);
    const options = { replicas: 3, giveUpMs: 60_000 };
    const [near, far] = [0, 1].map((i) =>
      stack.use(new NatsBroker({ servers: cluster[i]!.servers }, options))
    ) as [NatsBroker, NatsBroker];
    await using hearing = new Hearing(far, "kept", BOUNDS);
    await hearing.ready;
    await append(near, "kept", 100);
    const { epoch } = await near.history.read("kept", PAGE);

    const appending: Promise<Appended>[] = [];
    const timer = setInterval(() => {
      const payload = `${100 + appending.length}`;
      appending.push(near.history.append({ topic: "kept", payload }, { bounds: BOUNDS }));
    }, 2);
    const leader = cluster[await leaderOf(cluster[0]!)]!;
    await leader.kill();
    await until(() => near.stats.waiting > 50);
    await append(near, "other", 1);
    await leader.restart();
    await append(near, "other", 1);
    clearInterval(timer);
    const outcomes = await Promise.allSettled(appending);
    const rejected = new Set(
      outcomes.flatMap(({ status }, i) => status === "rejected" ? [`${100 + i}`] : []),
    );
    const expected = Array.from({ length: 100 + appending.length }, (_, i) => `${i}`)
      .filter((payload) => !rejected.has(payload));
    // Until the cluster is whole again, a page may change faster than the page is read.
    await until(() => near.issues().length === 0);
    const page = await near.history.read("kept", PAGE);
    assertEquals(page.epoch, epoch);
    assertEquals(page.publications.map(({ payload }) => payload), expected);
    // Messages that only a lost leader had cannot be put behind later ones.
    assert(
      rejected.size <= outcomes.length / 10,
      `${rejected.size} of ${outcomes.length} rejected`,
    );
    assertEquals(await near.store.advance("row", 1, 60_000), true);
    assertEquals(await far.store.newest("row"), 1);
    await until(() => near.issues().length === 0);
  },
});
