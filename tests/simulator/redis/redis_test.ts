import { assertEquals } from "@std/assert";
import { RedisBroker } from "../../../brokers/redis/mod.ts";
import { SimulatedNetwork } from "../network/network.ts";
import { Simulation } from "../simulation.ts";
import { SimulatedRedis } from "./redis.ts";

const BOUNDS = { size: 10, ttlMs: 60_000, bytes: 10_000 };

Deno.test("SimulatedRedis carries publications, histories and claims between brokers", async () => {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  const hosts = [simulation.host("redis")] as const;
  const redis = await SimulatedRedis.create({ simulation, network, hosts });
  const [near, far] = ["a", "b"].map((name) => {
    const host = simulation.host(name);
    return new RedisBroker({ client: redis.client(host) }, { runtime: host.runtime });
  }) as [RedisBroker, RedisBroker];
  const got: unknown[] = [];
  far.subscribe("plain", ({ payload }) => got.push(payload));
  far.subscribe("news", ({ payload }) => got.push(payload), { history: BOUNDS });
  await simulation.run(1_000);
  assertEquals([near.status.current.name, far.status.current.name], ["connected", "connected"]);
  near.publish({ topic: "plain", payload: "hé" });
  const appended = near.history.append({ topic: "news", payload: "1" }, { bounds: BOUNDS });
  const claims = [near, far].map(({ store }) => store.claim("u", "me", { max: 1, ttlMs: 1_000 }));
  await simulation.run(1_000);
  assertEquals(got, ["hé", "1"]);
  const { position } = await appended;
  assertEquals(await Promise.all(claims), [true, true]);
  const reading = far.history.read("news", { bounds: BOUNDS, maxMessages: 9, maxBytes: 999 });
  await simulation.run(1_000);
  const { head, epoch } = await reading;
  assertEquals({ epoch, offset: head }, { epoch: position!.epoch, offset: position!.offset });
  const closing = Promise.all([near.close(), far.close()]);
  await simulation.run(5_000);
  await closing;
  assertEquals(network.links.length, 0);
});
