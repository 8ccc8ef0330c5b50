/**
 * Uses everything that a server offers, again and again, with new names and users. Whatever goes
 * away has to leave every `Map` and `Set` of the servers and of the clients that stay.
 */
// run_tests: alone, because each Map and Set of the isolate is counted, which takes time.
import { countMaps } from "./globals/counted_maps.ts";
import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Client, defineContract, MemoryBroker, platformRuntime } from "../mod.ts";
import { guest } from "../server.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { resumable } from "../streams/mod.ts";
import { type TestServer, testServer, turns } from "../testing/mod.ts";
import { named, ProducingPeer } from "./peers/producing_peer.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";
import { z } from "zod";
import { slowTest } from "../tools/run_tests/slow.ts";

const contract = defineContract({
  toServer: { say: z.number(), "news:{n}": z.number(), "log:{n}": z.number() },
  toClient: { "news:{n}": z.number(), "log:{n}": z.number() },
  presence: { "room:{n}": z.object({ is: z.number() }) },
  requests: { count: { input: z.coerce.number(), stream: z.number(), resume: true } },
  state: {
    "board:{id}": { cards: z.string(), cursors: { schema: z.number(), ephemeral: true } },
  },
});
type Own = typeof contract;
type Host = TestServer<string | typeof guest, Own>;

interface House {
  readonly time: FakeTime;
  readonly one: Host;
  readonly two: Host;
  readonly stays: Client<Own>;
}

/** Lets time pass in steps, in which messages arrive and replies come back. */
async function pass(time: FakeTime, ms: number, steps = 10): Promise<void> {
  for (let step = 0; step < steps; step++) {
    await turns();
    await time.tickAsync(ms / steps);
  }
  await turns();
}

/** The uses, each with a number that is new in each round. */
const USES: Readonly<Record<string, (house: House, n: number) => Promise<void>>> = {
  async topics({ one, stays, time }, n) {
    await using ann = one.connect({ token: `ann-${n}`, address: `192.0.2.${n}` });
    const seen = [stays, ann].flatMap((client) => [
      client.subscribe(`news:${n}`),
      client.subscribe(`log:${n}`, { last: 5 }),
    ]);
    await pass(time, 500);
    await ann.publish(`news:${n}`, n);
    await ann.publish(`log:${n}`, n);
    one.network.disconnect();
    await pass(time, 5_000);
    await ann.publish(`log:${n}`, n + 1);
    for (const one of seen) await one[Symbol.asyncDispose]();
  },
  async rooms({ one, two, stays, time }, n) {
    await using ann = one.connect({ token: `ann-${n}`, address: `192.0.2.${n}` });
    await using bob = two.connect({ address: `198.51.100.${n}` });
    const lists = [ann, bob, stays].map((client) => client.members(`room:${n}`));
    const leave = lists.map((list) => list.subscribe(() => {}));
    await pass(time, 500);
    await ann.presence(`room:${n}`, { is: n });
    await pass(time, 500);
    two.network.disconnect();
    await pass(time, 2_000);
    for (const one of leave) one[Symbol.dispose]();
    await pass(time, 500);
  },
  async states({ one, two, stays, time }, n) {
    const id = `board:${n}` as const;
    await using own = await statesOf(two).open(id);
    await using ann = one.connect({ token: `ann-${n}`, address: `192.0.2.${n}` });
    for (const client of [ann, stays]) {
      using state = await client.state(id);
      await pass(time, 500);
      await state.collection("cards").set("a", "A");
      await state.collection("cards").set("b", "B", { ttlMs: 60_000 });
      await state.collection("cards").delete("a");
      await state.collection("cursors").set(`${n}`, n);
      await pass(time, 500);
    }
    await own.collection("cards").set("c", "C");
    await pass(time, 500);
    await streamsOf(one).delete(id);
  },
  async streams({ one, two }, n) {
    const writer = await streamsOf(one).create(`stream:${n}`);
    await writer.append(n);
    await writer[Symbol.asyncDispose]();
    for await (const _ of streamsOf(two).read(`stream:${n}`)) { /* all */ }
    const url = `http://localhost/streams/http:${n}`;
    const ask = async (method: string, init: RequestInit = {}) => {
      const response = await one.fetch(new Request(url, { method, ...init }));
      await response.body?.cancel();
    };
    const headers = { "content-type": "text/plain" };
    await ask("PUT", { headers });
    await ask("POST", { headers, body: "x" });
    await ask("GET");
    await ask("DELETE");
    await streamsOf(one).delete(`stream:${n}`);
  },
  async responses({ one, two, stays, time }, n) {
    await using ann = one.connect({ token: `ann-${n}`, address: `192.0.2.${n}` });
    await using bob = two.connect({ address: `198.51.100.${n}` });
    for (const client of [ann, bob, stays]) {
      const response = client.requestStream("count", `${3}`);
      const reading = Array.fromAsync(response);
      await pass(time, 1_000);
      assertEquals(await reading, [0, 1, 2]);
      const stopped = client.requestStream("count", "100");
      await pass(time, 100);
      for await (const _ of stopped) break;
    }
  },
  async "requests and messages"({ one, time }, n) {
    await using ann = one.connect({
      token: `ann-${n}`,
      address: `192.0.2.${n}`,
      delivery: "at-least-once",
    });
    ann.send("say", n);
    await pass(time, 500);
    one.network.disconnect();
    ann.send("say", n);
    await pass(time, 5_000);
  },
  async "producers of clients with a store"({ one, time }, n) {
    const publish = (seq: number) => ({ publish: `log:${n}`, data: n, id: seq, seq });
    for (const epoch of [0, 1]) {
      using ann = await ProducingPeer.open(one as unknown as TestServer);
      ann.say({ producer: named(`${n}`), id: 0, user: null, acked: 0, sent: 0, epoch });
      await pass(time, 500);
      for (const seq of [1, 2]) ann.say(publish(seq));
      ann.say({ topic: "say", data: n, seq: 3 });
      await pass(time, 5_000);
    }
  },
  async "requests over HTTP"({ one, time }, n) {
    const ask = async (method: string, path: string, body?: unknown) => {
      const response = await one.fetch(
        new Request(`http://localhost/api/${path}`, {
          method,
          headers: { "content-type": "application/json", "idempotency-key": `key-${n}` },
          ...(body !== undefined && { body: JSON.stringify(body) }),
        }),
      );
      await response.body?.cancel();
    };
    await ask("POST", `topics/log:${n}/publications`, { data: n });
    await ask("GET", `topics/log:${n}/publications`);
    await pass(time, 100);
  },
};

function host(broker: MemoryBroker): Host {
  const runtime = Object.assign(platformRuntime(), { monotonic: () => Date.now() });
  return testServer({
    runtime,
    broker,
    contract,
    tokens: { inMessage: true },
    authenticate: ({ token }) => token ?? guest,
    authorize: () => true,
    authorizeChange: () => true,
    onPublish() {},
    history: { "log:{n}": {} },
    rooms: ["room:{n}"],
    presence: { graceMs: 2_000 },
    features: [
      ...streamFeatures({ path: "/streams", authorize: () => true }, {}),
      httpApi({ path: "/api", authorize: () => true }),
    ],
    requests: {
      count: {
        resumable,
        async *handle({ data }) {
          for (let i = 0; i < data; i++) yield i;
        },
      },
    },
    onMessage() {},
    onMessageRejected() {},
    onError() {},
  }) as unknown as Host;
}

/** Entries that stay by design, up to a bound, by the path and class of their `Map` or `Set`. */
const KEPT: Readonly<Record<string, string>> = {
  "base/console_report.ts ConsoleReport": "one kind of line, for an hour",
  "base/quotas/familiar_users.ts FamiliarUser": "users of a day",
  "base/quotas/familiar_users.ts FamiliarUsers": "users of a day",
  "base/quotas/reports.ts ReportedUsages": "one for each node that ever reported an account",
  "base/quotas/shares.ts Quotas": "one entry for each node that ever reported an account",
  "manager/costs.ts Costs": "rates, which the next start forgets once they are full",
  "manager/rate_accounts.ts RateAccounts": "rates, until another user leaves",
  "pubsub/history/publishers.ts Holder": "topics with a history",
  "pubsub/history/publishers.ts Holders": "topics with a history",
  "pubsub/history/publishers.ts Publishers": "topics with a history",
  "pubsub/memory/broker.ts MemoryStore": "numbers of messages and requests, for their window",
  "pubsub/memory/history.ts MemoryHistories": "topics with a history",
  "pubsub/memory/history.ts TopicHistory": "topics with a history",
  "pubsub/memory/keys.ts RememberedKeys": "keys of appends, which the next append forgets in time",
  "pubsub/nodes/directory_scope.ts OpenScope": "the newest 32 changes",
  "pubsub/presence/presence.ts Presence": "when users were last seen",
  "session/wire/topic_pattern.ts ContractRouter": "the newest 1,024 topics",
  "session/wire/topic_pattern.ts TopicRouter": "the newest 1,024 topics",
};

for (const [name, use] of Object.entries(USES)) {
  slowTest(`Leftovers: ${name} leave nothing in a Map or Set`, async () => {
    using time = new FakeTime();
    await using broker = new MemoryBroker();
    await using one = host(broker);
    await using two = host(broker);
    await using stays = one.connect({ token: "stays", address: "203.0.113.1" });
    await stays.whenConnected();
    const rounds = async (first: number, last: number) => {
      for (let n = first; n <= last; n++) await use({ time, one, two, stays }, n);
      // Grace periods and pauses end, and pings are answered meanwhile.
      await pass(time, 600_000, 120);
      assertEquals(stays.isConnected, true);
      return countMaps();
    };
    let before = await rounds(1, 2);
    // Others come, and then the same once more.
    for (let round = 0; round < 2; round++) {
      const after = await rounds(3, 6);
      const grown = [...after].filter(([maker, size]) =>
        size > (before.get(maker) ?? 0) && !(maker in KEPT)
      );
      assertEquals(grown, []);
      before = after;
    }
  });
}
