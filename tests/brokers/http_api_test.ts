/** Tests the HTTP API of two nodes that share Redis or NATS. */
import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async/delay";
import { dial } from "../../mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { Backend, type HttpResponse, serveApi } from "../programs/http_backend.ts";
import { endOf } from "../sessions.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";
import { until } from "../waiting.ts";

const BROKERS = [
  {
    name: "Redis",
    ignore: isRedisMissing,
    start: async () => {
      const store = await RedisServer.start();
      const url = `redis://127.0.0.1:${store.port}`;
      return { store, connect: () => new RedisBroker({ url }) };
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    start: async () => {
      const store = await NatsServer.start();
      const { servers } = store;
      return { store, connect: () => new NatsBroker({ servers }) };
    },
  },
];

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `API runs each request once and reaches sessions on both nodes on ${name}`,
    ignore,
    fn: async () => {
      const { store, connect } = await start();
      await using _store = store;
      await using near = connect();
      await using far = connect();
      const history = { "log:{name}": {} };
      await using one = serveApi({ broker: near, history });
      await using two = serveApi({ broker: far, history });
      await Promise.all([one.nodes!.ready, two.nodes!.ready]);
      const [here, there] = [new Backend(one), new Backend(two)];

      const path = "/topics/log%3Aa/publications";
      const publish = async (api: Backend, data: unknown): Promise<HttpResponse> => {
        const response = await api.post(path, { data }, { "idempotency-key": "k1" });
        // Under load, a store may be too slow for the first rows; the idempotency key makes a
        // retry safe.
        return response.status === 503 ? await publish(api, data) : response;
      };
      const responses = await Promise.all(
        [here, there, here, there].map((api) => publish(api, "once")),
      );
      const done = responses.filter(({ status }) => status === 200);
      assert(done.length > 0);
      for (const { status, body } of responses) {
        if (status !== 200) assertEquals([status, body.code], [409, "in-progress"], body.detail);
        else assertEquals(body, done[0]!.body);
      }
      const again = await publish(there, "once");
      assertEquals([again.body, again.headers.get("idempotency-replayed")], [
        done[0]!.body,
        "true",
      ]);
      assertEquals((await publish(there, "another")).status, 422);
      const { body } = await there.get("/topics/log%3Aa/history");
      assertEquals(body.publications.map(({ data }: { data: unknown }) => data), ["once"]);
      const { epoch, head, publications: [{ tag }] } = body;
      const after = await here.get(
        `/topics/log%3Aa/history?epoch=${epoch}&after=${head}&tag=${tag}`,
      );
      assertEquals(after.body.publications, []);

      await using ann = await dial(two.url, { headers: { authorization: "Bearer ann" } });
      let heard: unknown[] | undefined;
      const hearing = (async () => {
        for await (const { topic, data } of ann) {
          heard = [topic, data];
          break;
        }
      })();
      // The node receives messages to the user only a moment after the session has started.
      while (heard === undefined) {
        await here.post("/users/ann/messages", { topic: "hello", data: "you" });
        await delay(20);
      }
      await hearing;
      assertEquals(heard, ["hello", "you"]);
      // A busy node may reply too late to be counted.
      const [{ id }] = await until(async () => {
        const { body: { sessions } } = await here.get("/users/ann/sessions");
        return sessions.length > 0 && sessions;
      });
      const disconnect = async () =>
        (await here.post(`/sessions/${id}/disconnect`, { code: 3000 })).body;
      const { closed, isComplete } = await disconnect();
      if (isComplete) assertEquals(closed, 1);
      else await until(async () => (await disconnect()).isComplete);
      assertEquals((await endOf(ann)).code, 3000);
    },
  });
}
