/**
 * Tests that this version reads and continues what an earlier version of Skein has stored, and that
 * nodes reject what a newer version has stored.
 */
import { assert, assertEquals } from "@std/assert";
import { type Broker, createServer } from "../../mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { BOUNDS, FOREVER_MS, loadNats, loadRedis, loadSqlite, type Written } from "./fixtures.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

/** The options with which the fixtures were written. */
const REDIS = { rememberMs: FOREVER_MS, survivesRestart: true };
const NATS = { ...REDIS, storeTtlMs: FOREVER_MS };

/** Opens a broker with the data of the earlier version. */
type Open = (stack: AsyncDisposableStack) => Promise<{ broker: Broker; written: Written }>;

const OPENINGS: readonly { name: string; ignore: boolean; open: Open }[] = [
  {
    name: "Redis",
    ignore: isRedisMissing,
    open: async (stack) => {
      const { url } = stack.use(await RedisServer.start());
      const written = await loadRedis(url);
      return { written, broker: stack.use(new RedisBroker({ url }, REDIS)) };
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    open: async (stack) => {
      const { servers } = stack.use(await NatsServer.start());
      const written = await loadNats(servers);
      return { written, broker: stack.use(new NatsBroker({ servers }, NATS)) };
    },
  },
  {
    name: "SQLite",
    ignore: false,
    open: async (stack) => {
      const folder = await Deno.makeTempDir();
      stack.defer(() => Deno.remove(folder, { recursive: true }));
      const written = await loadSqlite(`${folder}/data.db`);
      return { written, broker: stack.use(await SqliteBroker.open(`${folder}/data.db`)) };
    },
  },
];

const READ = { after: 0, maxRecords: 10, maxBytes: 1_000_000, renews: false };

for (const { name, ignore, open } of OPENINGS) {
  const test = (what: string, fn: (broker: Required<Broker>, written: Written) => Promise<void>) =>
    Deno.test({
      name: `Data of the first version in ${name}: ${what}`,
      ignore,
      fn: async () => {
        await using stack = new AsyncDisposableStack();
        const { broker, written } = await open(stack);
        await fn(broker as Required<Broker>, written);
      },
    });

  test("a history is read, and continues in its epoch", async ({ history }, written) => {
    const options = { bounds: BOUNDS, maxMessages: 10, maxBytes: 1_000_000 };
    const page = await history.read("news", options);
    const { epoch, offset, tag } = written;
    assertEquals({ epoch: page.epoch, head: page.head }, { epoch, head: offset });
    const payloads = page.publications.map(({ payload, except }) => ({ payload, except }));
    assertEquals(payloads, [
      { payload: "one", except: "session" },
      { payload: new Uint8Array([1, 2, 3]), except: "session" },
      { payload: "three", except: "session" },
    ]);
    assertEquals(page.publications.at(-1)?.position?.tag, tag);
    const next = await history.append({ topic: "news", payload: "four" }, { bounds: BOUNDS });
    assertEquals(next.position?.epoch, epoch);
    const rest = await history.read("news", { ...options, after: offset });
    const prevs = rest.publications.map(({ payload, position }) => [payload, position?.prev]);
    assertEquals({ prevs, anchor: rest.anchor }, { prevs: [["four", offset]], anchor: tag });
  });

  test("sequence numbers and claims are in force", async ({ store }) => {
    assertEquals(await store.newest("seq:client", FOREVER_MS), 7);
    assertEquals(await store.advance("seq:client", 7, FOREVER_MS), false);
    assertEquals(await store.advance("seq:client", 8, FOREVER_MS), true);
    assertEquals(await store.claims("user:ann"), ["session-1"]);
    const most = { max: 2, ttlMs: 60_000 };
    assertEquals(await store.claim("user:ann", "session-2", most), true);
    assertEquals(await store.claim("user:ann", "session-3", most), false);
  });

  test("durable streams are read, continue, and are listed", async ({ logs }) => {
    const read = async (id: string) => {
      const page = await logs.read(id, READ);
      assert(typeof page === "object", id);
      const { info: { identity, tail, end }, records } = page;
      return { identity, tail, end, records };
    };
    const texts = ['"a"', '"b"', '"c"'];
    const state = { identity: "id-open", end: undefined };
    assertEquals(await read("open"), { ...state, tail: 3, records: texts });
    const append = (seq: number) =>
      logs.append("open", {
        records: [`"${seq}"`],
        producer: { id: "p", epoch: 1, seq },
        maxBytes: 1_000_000,
      });
    assertEquals((await append(0)).kind, "repeated");
    assertEquals((await append(1)).kind, "appended");
    assertEquals(await read("open"), { ...state, tail: 4, records: [...texts, '"1"'] });
    const bytes = { identity: "id-bytes", tail: 1, end: {}, records: [new Uint8Array([0, 255])] };
    assertEquals(await read("bytes"), bytes);
    const fork = await logs.read("fork", READ);
    assertEquals(typeof fork === "object" && fork.info.origin?.id, "open");
    // The fork keeps the stream.
    assertEquals((await logs.delete("open")).kind, "kept");
    const list = async (kind: "answer" | "stream") => {
      const found = new Map<string, string | undefined>();
      let after: string | undefined;
      do {
        const page = await logs.list(kind, { limit: 100, after });
        for (const { id, owner } of page.logs) found.set(id, owner);
        after = page.next;
      } while (after !== undefined);
      return found;
    };
    assertEquals((await list("stream")).get("bytes"), "uann");
    assertEquals([...await list("answer")], [["answer:q", undefined]]);
  });

  test("a live state is read, and its versions continue", async (broker, { version }) => {
    await using server = createServer({ broker, durableStreams: { path: "/streams" } });
    await using board = await server.state("board:1");
    const cards = board.collection<{ readonly title: string }>("cards");
    assertEquals([...cards], [["1", { title: "Keep" }], ["3", { title: "Changed" }]]);
    assertEquals(await cards.set("3", { title: "Changed again" }), version + 1);
  });
}
