/** Tests Skein servers on a simulated Redis under faults: no publication is lost silently. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { Topics } from "../../pubsub/topics.ts";
import {
  type Host,
  type RedisPersistence,
  simulatedClient,
  SimulatedNetwork,
  SimulatedRedis,
  SimulatedServer,
  Simulation,
} from "../simulator/mod.ts";

const BOUNDS = { size: 10_000, ttlMs: 3_600_000, bytes: 1 << 24 };

const CLIENTS = 4;

const SECONDS = 40;

/** Time for all parts to reconnect, in milliseconds. */
const SETTLE_MS = 60_000;

const PERSISTENCE: readonly RedisPersistence[] = ["none", "snapshot", "everysec", "always"];

/** Parts of a cluster that faults affect. */
interface Stage {
  readonly redis: SimulatedRedis;
  readonly network: SimulatedNetwork;
  readonly servers: readonly SimulatedServer[];
  readonly chance: () => number;
}

/** Faults; each is over before the next one starts. */
const FAULTS: Record<string, (stage: Stage) => void> = {
  "the primary is killed": ({ redis, chance }) => {
    redis.primary.host.kill({ power: chance() < 0.5 });
    if (chance() < 0.5) redis.failOver();
  },
  "the primary is frozen": ({ redis, chance }) => {
    redis.primary.host.freeze();
    if (chance() < 0.5) failOver(redis, chance);
  },
  "two primaries": ({ redis, chance }) => failOver(redis, chance),
  "a slow primary": ({ redis, chance }) => redis.primary.slow(50 * chance()),
  "a long script": ({ redis, chance }) => redis.primary.busy(9_000 * chance()),
  "full outputs": ({ redis }) => redis.primary.dropSubscribers(),
  "lost connections": ({ redis }) => redis.primary.dropClients(),
  "forgotten scripts": ({ redis }) => redis.primary.flushScripts(),
  "all keys are gone": ({ redis }) => redis.primary.flushAll(),
  "full memory": ({ redis: { primary }, chance }) =>
    primary.limitMemory(
      Math.ceil(primary.bytes * (0.3 + chance())),
      (["allkeys-lru", "volatile-ttl", "noeviction"] as const)[Math.floor(3 * chance())],
    ),
  "late replicas": ({ redis, chance }) => {
    for (const server of redis.servers) server.lag(2_000 * chance());
  },
  "a partition": ({ redis, network, servers, chance }) => {
    const others = [...servers, ...redis.servers].filter((each) => each !== redis.primary);
    const { host } = others[Math.floor(chance() * others.length)]!;
    network.change(host, redis.primary.host, { isBlocked: true });
    if (chance() < 0.5) network.change(redis.primary.host, host, { isBlocked: true });
  },
  "a server is killed": ({ servers, chance }) =>
    servers[Math.floor(chance() * servers.length)]!.host.kill({ power: chance() < 0.5 }),
  "cut connections": ({ network, chance }) => {
    for (const link of network.links) {
      if (chance() < 0.5) link.disconnect({ silent: chance() < 0.5 });
    }
  },
};

/**
 * Fails over; the old primary, if alive, is demoted up to 5 s later, with or without closing its
 * connections.
 */
function failOver(redis: SimulatedRedis, chance: () => number): void {
  redis.failOver({ demoteAfterMs: 5_000 * chance(), keepClients: chance() < 0.5 });
}

/**
 * Runs a cluster under faults; returns the digest, and the publications that were lost silently.
 */
async function cluster(seed: number) {
  const simulation = new Simulation({ seed });
  const network = new SimulatedNetwork(simulation, { delayMs: 1, jitterMs: 1 });
  const chance = simulation.chanceOf("faults");
  const settings = simulation.chanceOf("settings");
  const [first, ...replicas] = Array.from(
    { length: 1 + Math.floor(3 * settings()) },
    (_, i) => simulation.host(`redis${i}`),
  );
  const losses: string[] = [];
  const redis = await SimulatedRedis.create({
    simulation,
    network,
    hosts: [first!, ...replicas],
    persistence: PERSISTENCE[Math.floor(4 * settings())]!,
    snapshotMs: 5_000,
    loadingMs: 2_000 * Math.floor(2 * settings()),
    onLost: ({ why, writes }) => losses.push(`${why} ${writes}`),
  });
  const brokerOn = (host: Host) => {
    const { runtime } = host;
    const broker = new RedisBroker({ client: redis.client(host) }, { runtime, giveUpMs: 5_000 });
    void (async () => {
      for await (const { name } of broker.status) simulation.note(`is ${name}`, host.name);
    })();
    return broker;
  };
  const servers = ["a", "b", "c"].map((name) =>
    new SimulatedServer(network, simulation.host(name), (host) => ({
      broker: brokerOn(host),
      authorize: () => true,
      history: { news: BOUNDS },
      onError: (error) => simulation.note(`error ${error}`, host.name),
    }))
  );
  /** Payloads by client, in stretches between the gaps that were reported to the client. */
  const stretches: { at: number; all: number[] }[][] = [];
  const clients = Array.from({ length: CLIENTS }, (_, i) => {
    const host = simulation.host(`client${i}`);
    const order = servers.map(({ host }) => host).sort(() => simulation.random() - 0.5);
    const client = simulatedClient(network, host, order, { onMessage() {}, onError() {} });
    const own = [{ at: 0, all: [] as number[] }];
    stretches.push(own);
    const news = client.subscribe("news", {
      onRecovery: ({ recovered, reason }) => {
        simulation.note(`recovered ${recovered} ${reason}`, host.name);
        if (!recovered) own.push({ at: simulation.nowMs, all: [] });
      },
    });
    (async () => {
      for await (const { data } of news) own.at(-1)!.all.push(Number(data));
    })().catch((error) => simulation.note(`ended ${error}`, host.name));
    return client;
  });
  const publisher = simulation.host("publisher");
  const { runtime } = publisher;
  const broker = brokerOn(publisher);
  const topics = new Topics({ broker, runtime, history: { news: BOUNDS } });
  const acknowledged: { id: number; at: number }[] = [];
  let isOver = false;
  const publishing = (async () => {
    await simulation.sleep(3_000);
    for (let id = 1; !isOver; id++) {
      try {
        await topics.append("news", id);
        acknowledged.push({ id, at: simulation.nowMs });
      } catch (error) {
        simulation.note(`failed ${id}: ${error}`, "publisher");
      }
      await simulation.sleep(100);
    }
  })();
  const heal = () => {
    redis.restart();
    network.heal();
    for (const server of servers) if (!server.host.isAlive) server.restart();
    for (const server of redis.servers) {
      server.host.thaw();
      server.slow(0);
      server.lag(0);
      server.limitMemory(0);
    }
  };
  const kinds = Object.keys(FAULTS);
  const fault = () => {
    const kind = kinds[Math.floor(chance() * kinds.length)]!;
    simulation.note(kind, "", { kind: "fault" });
    FAULTS[kind]!({ redis, network, servers, chance });
    simulation.after(1_000 + 4_000 * chance(), heal);
    if (simulation.nowMs < SECONDS * 1_000) simulation.after(8_000, fault);
  };
  simulation.after(6_000, fault);
  await simulation.run(SECONDS * 1_000 + 10_000);
  heal();
  // The newest publications reveal losses to each client.
  await simulation.run(SETTLE_MS);
  isOver = true;
  await simulation.run(10_000);
  const findings = stretches.flatMap((own, i) =>
    own.flatMap(({ at, all }, n) => {
      const isLast = n === own.length - 1;
      const from = all[0] ??
        (isLast && n > 0 ? acknowledged.find((a) => a.at > at + 20_000)?.id : 0);
      const to = isLast ? Infinity : all.at(-1) ?? 0;
      const has = new Set(all);
      const missing = acknowledged
        .filter(({ id }) => id >= (from ?? Infinity) && id <= to && !has.has(id)).map(({ id }) =>
          id
        );
      const isOrdered = all.every((id, k) => k === 0 || all[k - 1]! < id);
      return [
        ...(missing.length > 0 ? [`client${i} stretch ${n} at ${at}: lacks ${missing}`] : []),
        ...(isOrdered ? [] : [`client${i} stretch ${n} at ${at}: ${all}`]),
      ];
    })
  );
  const closing = Promise.all([
    ...clients.map((client) => client.close()),
    ...servers.map(({ server }) => server.close()),
    topics[Symbol.asyncDispose](),
    broker.close(),
    publishing,
  ]);
  await simulation.run(40_000);
  await closing;
  const { digest } = simulation;
  return { digest, findings, losses, acknowledged: acknowledged.length };
}

const SEEDS = 25;

for (const first of [1, 26, 51, 76]) {
  Deno.test(`RedisBroker loses no publication silently, on seeds ${first} to ${first + SEEDS - 1}`, async () => {
    let losses = 0;
    for (let seed = first; seed < first + SEEDS; seed++) {
      const run = await cluster(seed);
      assertEquals(run.findings, [], `seed ${seed}`);
      assert(run.acknowledged > 100, `seed ${seed}: ${run.acknowledged} acknowledged`);
      losses += run.losses.length;
    }
    assert(losses > 0, "the broker loses acknowledged writes");
  });
}

Deno.test("SimulatedRedis gives a seed the same digest in each process, and another seed a different one", async () => {
  const [first, again, other] = [await cluster(3), await cluster(3), await cluster(4)];
  assertEquals(first.digest, again.digest);
  assertNotEquals(first.digest, other.digest);
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", import.meta.url],
    stderr: "null",
  }).output();
  assertEquals(new TextDecoder().decode(stdout).trim(), first.digest);
});

// The subprocess's program.
if (import.meta.main) console.log((await cluster(3)).digest);
