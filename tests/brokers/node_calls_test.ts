/** Tests calls between nodes over each store. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { NodeCallError, NodeCalls, type NodeCallsOptions } from "../../pubsub/nodes/node_calls.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import { connectTo } from "../../pubsub/ports/ports_fixture.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { soon, until } from "../waiting.ts";
import { noTimers } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

/** A store: the brokers of two nodes, and an outage if the store is a process. */
interface BrokerServer extends AsyncDisposable {
  readonly brokers: readonly [Broker, Broker];
  readonly kill?: () => Promise<void>;
  readonly restart?: () => Promise<void>;
}

const BROKERS: Readonly<Record<string, [ignore: boolean, start: () => Promise<BrokerServer>]>> = {
  memory: [false, () => {
    const broker = new MemoryBroker();
    return Promise.resolve(brokerOf([broker, broker], broker));
  }],
  ports: [false, () => {
    const broker = new MemoryBroker();
    const [one, two] = connectTo(broker, 2);
    return Promise.resolve(brokerOf([one!, two!], one!, two!, broker));
  }],
  redis: [isRedisMissing, async () => {
    const server = await RedisServer.start();
    const connect = () => new RedisBroker({ url: server.url });
    const brokers = [connect(), connect()] as const;
    const store = brokerOf(brokers, ...brokers, server);
    return { ...store, kill: () => server.kill(), restart: () => server.restart() };
  }],
  nats: [isNatsMissing, async () => {
    const server = await NatsServer.start();
    const connect = () => new NatsBroker({ servers: server.servers });
    const brokers = [connect(), connect()] as const;
    const store = brokerOf(brokers, ...brokers, server);
    return { ...store, kill: () => server.kill(), restart: () => server.restart() };
  }],
};

function brokerOf(
  brokers: BrokerServer["brokers"],
  ...parts: readonly AsyncDisposable[]
): BrokerServer {
  return {
    brokers,
    async [Symbol.asyncDispose]() {
      for (const part of parts) await part[Symbol.asyncDispose]();
      await noTimers();
    },
  };
}

class Node implements AsyncDisposable {
  readonly nodes: Nodes;
  readonly calls: NodeCalls;

  constructor(broker: Broker, respond: NodeCallsOptions["respond"] = (data) => data) {
    // With shorter times, calls end as lost when a busy machine has held up this process.
    this.nodes = new Nodes({ broker, heartbeatMs: 60_000, goneAfterMs: 150_000 });
    this.calls = new NodeCalls({ nodes: this.nodes, name: "test", respond, onError: fail });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.calls[Symbol.asyncDispose]();
    await this.nodes.close();
  }
}

/**
 * Waits until two nodes can call each other, because a store may take any amount of time to
 * start.
 */
async function meet(one: Node, two: Node): Promise<void> {
  await soon(Promise.all([one.calls.ready, two.calls.ready]));
  await until(() => one.nodes.has(two.nodes.id) && two.nodes.has(one.nodes.id));
}

function fail(error: unknown): never {
  throw error;
}

function bytesOf(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => i * 7 % 251);
}

for (const [name, [ignore, start]] of Object.entries(BROKERS)) {
  Deno.test({
    name: `NodeCalls on ${name} carry many concurrent requests and replies of any length`,
    ignore,
    async fn() {
      await using store = await start();
      const [near, far] = store.brokers;
      await using one = new Node(near);
      await using two = new Node(far, (data) => data.toReversed());
      await meet(one, two);
      for (const length of [0, 1, 196_608, 196_609, 1_048_576]) {
        const data = bytesOf(length);
        const reply = await soon(one.calls.call(two.nodes.id, data, { timeoutMs: 20_000 }));
        assertEquals(reply.length, length);
        assert(reply.every((byte, i) => byte === data.at(-1 - i)));
      }
      const replies = await soon(Promise.all(Array.from({ length: 200 }, (_, i) => {
        return one.calls.call(two.nodes.id, bytesOf(i * 50), { timeoutMs: 20_000 });
      })));
      assertEquals(
        replies.map(({ length }) => length),
        Array.from({ length: 200 }, (_, i) => i * 50),
      );
      assertEquals([one.calls.ignored, two.calls.ignored], [0, 0]);
    },
  });

  Deno.test({
    name: `NodeCalls on ${name} end on both nodes when a signal aborts, and when a node closes`,
    ignore,
    async fn() {
      await using store = await start();
      const [near, far] = store.brokers;
      await using one = new Node(near);
      await using two = new Node(far, (_, { signal }) => {
        return new Promise((_, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason));
        });
      });
      await meet(one, two);
      const ending = new AbortController();
      const { signal } = ending;
      const call = one.calls.call(two.nodes.id, bytesOf(1), { timeoutMs: 60_000, signal });
      await until(() => two.calls.running === 1);
      ending.abort();
      await assertRejects(() => soon(call), DOMException);
      await until(() => two.calls.running === 0);
      const last = one.calls.call(two.nodes.id, bytesOf(1), { timeoutMs: 60_000 });
      const failure = assertRejects(() => soon(last), NodeCallError);
      await until(() => two.calls.running === 1);
      await two.nodes.close();
      assertEquals((await failure).code, "gone");
    },
  });
}

for (const name of ["redis", "nats"]) {
  const [ignore, start] = BROKERS[name]!;
  Deno.test({
    name: `NodeCalls on ${name} fail when the broker returns after an outage, then work again`,
    ignore,
    async fn() {
      await using store = await start();
      const [near, far] = store.brokers;
      await using one = new Node(near);
      let [asked, isOpen] = [0, false];
      await using two = new Node(far, (data) => {
        asked++;
        return isOpen ? data : new Promise(() => {});
      });
      await meet(one, two);
      const last = one.calls.call(two.nodes.id, bytesOf(1), { timeoutMs: 60_000 });
      const failure = assertRejects(() => soon(last), NodeCallError);
      await until(() => asked === 1);
      await store.kill!();
      await until(() => near.status.current.name === "interrupted");
      isOpen = true;
      await store.restart!();
      assertEquals((await failure).code, "lost");
      await until(() => far.status.current.name === "connected");
      const reply = await soon(one.calls.call(two.nodes.id, bytesOf(5), { timeoutMs: 20_000 }));
      assertEquals(reply, bytesOf(5));
    },
  });
}
