/** Tests streaming responses that outlive their sessions and nodes, on SQLite, Redis and NATS. */
import { assertEquals, assertRejects } from "@std/assert";
import { connect } from "../../mod.ts";
import { RequestError } from "../../errors.ts";
import type { StreamActivity } from "../../streams/streams.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { assertJustice, fill, RetainingNode } from "../../streams/responses/retained_fixture.ts";
import { contract, Model, words } from "../responding.ts";
import { listen } from "../servers.ts";
import { soon, until, until as untilLate } from "../waiting.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";
import { resumable } from "../../streams/mod.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

interface BrokerServer extends AsyncDisposable {
  open(): Broker | Promise<Broker>;
}

const BROKERS: { name: string; ignore: boolean; start: () => Promise<BrokerServer> }[] = [
  {
    name: "Redis",
    ignore: isRedisMissing,
    start: async () => {
      const server = await RedisServer.start({ append: "always" });
      return {
        open: () => new RedisBroker({ url: server.url }),
        [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
      };
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    start: async () => {
      const server = await NatsServer.start();
      return {
        open: () => new NatsBroker({ servers: server.servers }),
        [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
      };
    },
  },
];

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `Responses.begin() on ${name} on two nodes frees space at the address that uses most`,
    ignore,
    fn: async () => {
      await using store = await start();
      const brokers = [await store.open(), await store.open()];
      await using _near = brokers[0]!;
      await using _far = brokers[1]!;
      await using near = new RetainingNode(brokers[0]!);
      await using far = new RetainingNode(brokers[1]!);
      await assertJustice(near, far, await fill(near));
    },
  });
}

const PAGE = { contract, token: "ann", transports: ["websocket"] } as const;

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `A response on ${name} starts once for both nodes and can be stopped on either`,
    ignore,
    fn: async () => {
      await using store = await start();
      const brokers = [await store.open(), await store.open()];
      await using near = brokers[0]!;
      await using far = brokers[1]!;
      const model = new Model();
      await using one = listen(model.options({ broker: near }));
      await using two = listen(model.options({ broker: far }));
      await using page = connect(one.url, PAGE);
      await using device = connect(two.url, PAGE);
      const response = page.requestStream("chat:lobby", "hi");
      const beside = device.requestStream("chat:lobby", "hi", { id: response.id });
      const seen: string[] = [];
      const read = async () => {
        for await (const word of response) seen.push(word);
      };
      const endings = [read, () => Array.fromAsync(beside)]
        .map((reading) => assertRejects(reading, RequestError));
      model.release(3);
      await until(() => seen.length === 3);
      assertEquals(model.calls.length, 1);
      await soon(response.cancel("Enough"));
      for (const { failure } of await soon(Promise.all(endings))) {
        assertEquals(failure, { code: "cancelled", message: "Enough" });
      }
      assertEquals(seen, words(3));
    },
  });

  Deno.test({
    name:
      `A response on ${name} continues on one of two other nodes after its node left or was lost`,
    ignore,
    fn: async () => {
      await using store = await start();
      const brokers: Broker[] = [];
      for (let i = 0; i < 4; i++) brokers.push(await store.open());
      const [leaving, lost, ...rest] = brokers;
      await using _leaving = leaving!;
      await using _third = rest[0]!;
      await using _fourth = rest[1]!;
      const model = new Model();
      model.release(3);
      const first = listen(model.options({ broker: leaving! }));
      await using page = connect(first.url, PAGE);
      const response = page.requestStream("chat:lobby", "hi");
      for await (const word of response) if (word === "word 2") break;
      const known = { id: response.id, after: response.offset };
      const second = listen(model.options({ broker: lost! }));
      await page.close();
      await first.close();
      await until(() => model.calls.length === 2);

      await using third = listen(model.options({ broker: rest[0]! }));
      await using fourth = listen(model.options({ broker: rest[1]! }));
      // Without its store, the node cannot renew the lease.
      await lost!.close();
      await using device = connect([third.url, fourth.url], PAGE);
      const reading = Array.fromAsync(device.requestStream("chat:lobby", "hi", known));
      await until(() => model.calls.length === 3);
      model.release();
      assertEquals(await soon(reading), words(8, 3));
      const resumed = { data: "hi", room: "lobby", written: words(3), count: 3 };
      assertEquals(model.calls.slice(1), [resumed, resumed]);
      await second.close();
    },
  });
}

const SQLITE = {
  name: "SQLite",
  ignore: false,
  start: async (): Promise<BrokerServer> => {
    const folder = await Deno.makeTempDir();
    return {
      open: () => SqliteBroker.open(`${folder}/responses.db`),
      [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
    };
  },
};

for (const { name, ignore, start } of [...BROKERS, SQLITE]) {
  Deno.test({
    name: `An expired response on ${name} is removed, and its name starts nothing on the next node`,
    ignore,
    fn: async () => {
      await using store = await start();
      const model = new Model();
      const named = { id: "a-name-of-an-response" };
      const features = () => [resumable({ retainMs: 5_000 })];
      {
        await using broker = await store.open();
        await using server = listen(model.options({ broker, features: features() }));
        await using page = connect(server.url, PAGE);
        const reading = Array.fromAsync(page.requestStream("chat:lobby", "hi", named));
        await until(() => model.calls.length === 1);
        const [{ id }] = await server.streams!.activity() as [StreamActivity];
        model.release();
        assertEquals(await soon(reading), words(8));
        // Checks that the log was deleted and did not merely expire.
        const state = { after: 0, maxRecords: 0, maxBytes: 0, renews: false };
        await untilLate(async () => await logsOf(broker)!.read(id, state) === undefined);
      }
      await using broker = await store.open();
      await using server = listen(model.options({ broker, features: features() }));
      await using page = connect(server.url, PAGE);
      const again = page.requestStream("chat:lobby", "hi", named);
      const { failure } = await assertRejects(() => Array.fromAsync(again), RequestError);
      assertEquals([failure.code, model.calls.length], ["gone", 1]);
    },
  });
}

Deno.test("A response on SQLite continues when its server restarts", async () => {
  const folder = await Deno.makeTempDir();
  const model = new Model();
  model.release(3);
  const known: { id?: string; after?: string | undefined } = {};
  {
    await using broker = await SqliteBroker.open(`${folder}/responses.db`);
    await using server = listen(model.options({ broker }));
    await using page = connect(server.url, PAGE);
    const response = page.requestStream("chat:lobby", "hi");
    for await (const word of response) if (word === "word 2") break;
    Object.assign(known, { id: response.id, after: response.offset });
  }
  {
    await using broker = await SqliteBroker.open(`${folder}/responses.db`);
    await using server = listen(model.options({ broker }));
    await using page = connect(server.url, PAGE);
    const reading = Array.fromAsync(page.requestStream("chat:lobby", "hi", known));
    model.release();
    assertEquals(await soon(reading), words(8, 3));
  }
  assertEquals(model.calls.length, 2);
  await Deno.remove(folder, { recursive: true });
});
