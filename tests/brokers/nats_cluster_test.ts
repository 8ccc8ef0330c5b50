/**
 * Tests the NATS broker on a cluster of three servers: histories and epochs survive the loss of a
 * server.
 */
import { assert, assertEquals } from "@std/assert";
import { jetstreamManager, type StreamInfo } from "@nats-io/jetstream";
import type { NatsConnection } from "@nats-io/nats-core";
import { BrokerError } from "../../errors.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import { append, BOUNDS, Hearing } from "./receiving.ts";
import { lowPort } from "../networks/ports.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { assertProduced, produce } from "./producers.ts";
import { Random } from "../random.ts";
import type { Appended } from "../../pubsub/broker.ts";
import type { LogRecord } from "../../streams/logs/log.ts";
import { until } from "../waiting.ts";

const PAGE = { bounds: BOUNDS, maxMessages: 1_000_000, maxBytes: 100_000_000 };

/** Number of streams of logs, a multiple of the servers. */
const SHARDS = 6;

/** Minimum number of appends while leaders change, and right after that. */
const MIN_APPENDS = 100;

/** Maximum number of leaders that step down: the next leader of a stream is a random one. */
const MAX_STEPS = 60;

/** The number of streams of logs that each server of a cluster leads at first. */
const EVEN = SHARDS / 3;

/** Maximum number of clusters to start until one elects no leader anew by itself. */
const MAX_CLUSTERS = 5;

const counts = (led: string[][]) => led.map(({ length }) => length);

async function startCluster(size: number): Promise<NatsServer[]> {
  const ports = Array.from({ length: size }, () => lowPort());
  const routes = ports.map((port) => `"nats://127.0.0.1:${port}"`).join(", ");
  return await Promise.all(ports.map((port, i) =>
    NatsServer.start({
      settings: `server_name: "n${i}"
        cluster { name: "test", listen: "127.0.0.1:${port}", routes: [${routes}] }`,
    })
  ));
}

/**
 * Returns the index of the server that leads a stream (by default, the first stream). Waits until
 * an election is over, because during one the cluster names no leader and rejects requests.
 */
async function leaderOf({ servers }: NatsServer, name?: string): Promise<number> {
  const connection = await connectNats({ servers });
  let leader: string | undefined;
  await until(async () => {
    const info = await infoOf(connection, name).catch(() => undefined);
    leader = info?.cluster?.leader;
    return leader !== undefined && leader !== "";
  });
  await connection.close();
  return Number(leader!.slice(1));
}

async function infoOf(connection: NatsConnection, name?: string): Promise<StreamInfo | undefined> {
  const { streams } = await jetstreamManager(connection);
  return name === undefined ? (await streams.list().next())[0] : await streams.info(name);
}

/** Starts a cluster with two brokers, and waits until each stream of logs has a leader. */
async function startShards() {
  await using starting = new AsyncDisposableStack();
  const cluster = await startCluster(3);
  for (const server of cluster) starting.use(server);
  const [near, far] = [1, 2].map((i) =>
    starting.use(
      new NatsBroker({ servers: cluster[i]!.servers }, { replicas: 3, shards: { logs: SHARDS } }),
    )
  ) as [NatsBroker, NatsBroker];
  const creation = { config: { contentType: "text/plain" }, identity: "identity", records: [] };
  const create = () => near.logs.create("log", { ...creation, maxLogs: 10 });
  await until(() => create().then(() => true, () => false));
  const connection = await connectNats({ servers: cluster[1]!.servers });
  starting.defer(() => connection.close());
  const names = Array.from({ length: SHARDS }, (_, shard) => `skein_logs_${shard}`);
  /** The streams that each server leads; `undefined` while a stream lacks a leader. */
  const leaders = async (
    { areWhole }: { readonly areWhole: boolean },
  ): Promise<string[][] | undefined> => {
    const infos = await Promise.all(names.map((name) => infoOf(connection, name))).catch(
      () => [],
    );
    const led = cluster.map((_, i) =>
      names.filter((_, shard) => infos[shard]?.cluster?.leader === `n${i}`)
    );
    const replicas = infos.flatMap((info) => info?.cluster?.replicas ?? []);
    const isWhole = replicas.every(({ current, offline }) => current && !offline);
    return led.flat().length === SHARDS && (isWhole || !areWhole) ? led : undefined;
  };
  const led = await until(() => leaders({ areWhole: true }));
  const all = starting.move();
  return {
    ...{ cluster, near, far, connection, leaders, led },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** Starts clusters until no server has paused for so long that others elected a leader anew. */
async function startSpread() {
  let shards = await startShards();
  for (let i = 1; i < MAX_CLUSTERS && Math.max(...counts(shards.led)) > EVEN; i++) {
    await shards[Symbol.asyncDispose]();
    shards = await startShards();
  }
  return shards;
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
    // Until the cluster has recovered, a page may change while it is being read.
    await until(() => near.issues().length === 0);
    const read = (): ReturnType<typeof near.history.read> =>
      near.history.read("kept", PAGE).catch((error) => {
        // A replica is still catching up, and the page changed during the read.
        if (error instanceof BrokerError) return read();
        throw error;
      });
    const page = await read();
    assertEquals(page.epoch, epoch);
    assertEquals(page.publications.map(({ payload }) => payload), expected);
    // Messages that were stored only on the lost leader must not reappear after later messages.
    assert(
      rejected.size <= outcomes.length / 10,
      `${rejected.size} of ${outcomes.length} rejected`,
    );
    assertEquals(await near.store.advance("row", 1, 60_000), true);
    assertEquals(await far.store.newest("row", 60_000), 1);
    await until(() => near.issues().length === 0);
  },
});

Deno.test({
  name:
    "NatsBroker with three replicas keeps acknowledged appends to a log when the leader is lost",
  ignore: isNatsMissing,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const cluster = await startCluster(3);
    for (const server of cluster) stack.use(server);
    const [near, far] = [0, 1].map((i) =>
      stack.use(
        new NatsBroker({ servers: cluster[i]!.servers }, { replicas: 3, shards: { logs: 1 } }),
      )
    ) as [NatsBroker, NatsBroker];
    const creation = { config: { contentType: "text/plain" }, identity: "identity", records: [] };
    const create = () => near.logs.create("log", { ...creation, maxLogs: 10 });
    // The cluster may still be electing the leader of its metadata.
    await until(() => create().then(() => true, () => false));
    const random = new Random(1);
    const names = ["a", "b", "c"];
    let isDone = false;
    const producing = Promise.all(
      names.map((name) => produce([near, far], "log", name, random, () => !isDone)),
    );
    const page = { after: 0, maxRecords: 1_000_000, maxBytes: 100_000_000, renews: false };
    /** The newest position, or 0 while the cluster does not tell it. */
    const tail = async () => {
      const state = await far.logs.read("log", { ...page, maxRecords: 0 }).catch(() => undefined);
      return typeof state === "object" ? state.info.tail : 0;
    };
    await until(async () => await tail() > 100);
    const leader = cluster[await leaderOf(cluster[0]!, "skein_logs")]!;
    await leader.kill();
    const before = await until(tail);
    await until(async () => await tail() > before + 100);
    await leader.restart();
    await until(async () => await tail() > before + 200);
    isDone = true;
    const counts = await producing;
    const end = await until(tail);
    const all: LogRecord[] = [];
    while (all.length < end) {
      const next = await near.logs.read("log", { ...page, after: all.length }).catch((error) => {
        // The lost leader is still catching up.
        if (error instanceof BrokerError) return undefined;
        throw error;
      });
      if (typeof next === "object") all.push(...next.records);
    }
    for (const [i, name] of names.entries()) assertProduced(all, name, counts[i]!);
  },
});

Deno.test({
  name: "NatsBroker loses no append while an operator spreads leaders after the loss of a server",
  ignore: isNatsMissing,
  async fn() {
    await using spread = await startSpread();
    const { cluster, near, far, connection, leaders } = spread;
    assertEquals(counts(spread.led), cluster.map(() => EVEN));

    let isDone = false;
    const more = (count: number) => !isDone || count < MIN_APPENDS;
    const producing = produce([near, far], "log", "a", new Random(1), more);
    await cluster[0]!.kill();
    await until(async () => (await leaders({ areWhole: false }))?.[0]?.length === 0);
    await cluster[0]!.restart();
    let led = await until(() => leaders({ areWhole: true }));

    // As `nats stream cluster balance` does it.
    let steps = 0;
    while (Math.max(...counts(led)) > EVEN) {
      assert(steps++ < MAX_STEPS, JSON.stringify(led));
      const [stream] = led.toSorted((a, b) => b.length - a.length)[0]!;
      await connection.request(`$JS.API.STREAM.LEADER.STEPDOWN.${stream}`, "", { timeout: 30_000 });
      led = await until(() => leaders({ areWhole: true }));
    }
    isDone = true;
    const count = await producing;
    const page = { after: 0, maxRecords: 1_000_000, maxBytes: 100_000_000, renews: false };
    const read = await until(() => far.logs.read("log", page).catch(() => undefined));
    assert(typeof read === "object");
    assertProduced(read.records, "a", count);
  },
});
