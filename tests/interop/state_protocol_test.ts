import { durableStreams } from "../../streams/mod.ts";
/**
 * Tests keyed streams with the packages of the State Protocol's authors: StreamDB on TanStack DB,
 * `MaterializedState`, the client of Durable Streams, and the protocol's JSON schema.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { DurableStream, stream as readStream } from "npm:@durable-streams/client@0.2.7";
import {
  type ChangeEvent,
  createStateSchema,
  isChangeEvent,
  MaterializedState,
  type StateEvent,
} from "npm:@durable-streams/state@0.3.1";
import { createStreamDB } from "npm:@durable-streams/state@0.3.1/db";
// StreamDB needs TanStack DB as a peer.
import { createLiveQueryCollection, gt } from "npm:@tanstack/db@0.15.2";
import { Ajv } from "npm:ajv@8.20.0";
import * as z from "zod";
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { listen, portOf } from "../servers.ts";
import { PATIENCE_MS, soon } from "../waiting.ts";

/** Updates before a page joins, and the rows that they change. */
const UPDATES = 2_000;
const ROWS = 20;

const PACKAGE = import.meta.resolve("npm:@durable-streams/state@0.3.1/package.json");

const card = z.object({ id: z.string(), text: z.string(), votes: z.number() });
type Card = z.infer<typeof card>;

const user = z.object({ id: z.string(), name: z.string() });

const state = createStateSchema({
  cards: { schema: card, type: "card", primaryKey: "id" },
  users: { schema: user, type: "user", primaryKey: "id" },
});

/** Throws unless a message matches the schema that the package contains. */
const checkMessage = await messageChecker();

async function messageChecker(): Promise<(message: unknown) => void> {
  const schema = JSON.parse(
    await Deno.readTextFile(new URL("state-protocol.schema.json", PACKAGE)),
  );
  const date = (text: string) =>
    !Number.isNaN(Date.parse(text)) && /T.*(Z|[+-]\d\d:\d\d)$/.test(text);
  const ajv = new Ajv({ allErrors: true, strict: false, formats: { "date-time": date } });
  const validate = ajv.compile(schema);
  return (message) => {
    assert(validate(message), `${JSON.stringify(message)}: ${ajv.errorsText(validate.errors)}`);
  };
}

/** Forms of reads that wait for changes. */
type Live = "long-poll" | "sse";

/** A client's network: counts the received bytes, and can be cut. */
class Network {
  /** Bytes of all response bodies. */
  received = 0;
  #cut = new AbortController();
  #online = Promise.resolve();
  #isOver = false;

  /**
   * Fetches as the clients do. Bodies other than events are read at once, because the clients leave
   * some of them unread.
   */
  readonly fetch: typeof fetch = async (input, init) => {
    // A status that the client does not retry.
    if (this.#isOver) return new Response(null, { status: 400 });
    for (let online; online !== this.#online;) await (online = this.#online);
    const { signal } = this.#cut;
    const signals = init?.signal ? [init.signal, signal] : [signal];
    const response = await fetch(input, { ...init, signal: AbortSignal.any(signals) });
    const { status, headers } = response;
    const isEvents = headers.get("content-type") === "text/event-stream";
    const body = isEvents
      ? response.body!.pipeThrough(this.#counter())
      : await this.#read(response);
    return new Response(body, { status, headers });
  };

  /** Cuts all connections until disposal. */
  cut(): Disposable {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#online = promise;
    this.#cut.abort(new TypeError("The network is down"));
    this.#cut = new AbortController();
    return { [Symbol.dispose]: resolve };
  }

  /**
   * Rejects all further requests. A client that stops reading events makes one more request, which
   * nothing would end.
   */
  close(): void {
    this.#isOver = true;
  }

  async #read(response: Response): Promise<ArrayBuffer | null> {
    const bytes = await response.arrayBuffer();
    this.received += bytes.byteLength;
    return bytes.byteLength > 0 ? bytes : null;
  }

  /** Counts bytes. A cut ends the body without an error, as a proxy does. */
  #counter(): TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>> {
    const { signal } = this.#cut;
    return new TransformStream({
      start: (controller) => signal.addEventListener("abort", () => controller.terminate()),
      transform: (chunk, controller) => {
        this.received += chunk.length;
        controller.enqueue(chunk);
      },
    });
  }
}

/** A StreamDB and its network. */
class Page implements Disposable {
  readonly network = new Network();
  readonly received: StateEvent[] = [];
  readonly db;
  readonly #isKeyed: boolean;

  constructor(url: string, { isKeyed, live }: { readonly isKeyed: boolean; readonly live: Live }) {
    this.#isKeyed = isKeyed;
    const { fetch } = this.network;
    this.db = createStreamDB({
      streamOptions: { url, contentType: "application/json", fetch },
      state,
      live,
      onBeforeBatch: ({ items }) => void this.received.push(...items),
    });
  }

  /** The cards in order of their ids, without the members that TanStack DB adds. */
  get cards(): Card[] {
    return byId(
      this.db.collections.cards.toArray.map(({ id, text, votes }) => ({ id, text, votes })),
    );
  }

  /** Appends changes, and waits until they have come back. Returns their identifiers. */
  async save(...changes: ChangeEvent[]): Promise<string[]> {
    const txids = changes.map(({ headers }) => headers.txid = crypto.randomUUID());
    await Promise.all(changes.map((change) => this.db.stream.append(JSON.stringify(change))));
    await this.see(txids);
    return txids;
  }

  /** Waits until changes have arrived. */
  async see(txids: readonly string[]): Promise<void> {
    await Promise.all(txids.map((txid) => this.db.utils.awaitTxId(txid, PATIENCE_MS)));
  }

  [Symbol.dispose](): void {
    this.network.close();
    this.db.close();
    // The schema lacks the operation `upsert`, which plain streams return as it was written.
    if (this.#isKeyed) this.received.forEach(checkMessage);
  }
}

/** The numbers from 0 to `count`, excluding `count`. */
function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

function byId(cards: readonly Card[]): Card[] {
  return cards.toSorted((a, b) => a.id < b.id ? -1 : 1);
}

/** A server with the stream `board`, and the pages that use it. */
class Bench implements AsyncDisposable {
  readonly url: string;
  readonly #isKeyed: boolean;
  readonly #stack: AsyncDisposableStack;

  private constructor(url: string, isKeyed: boolean, stack: AsyncDisposableStack) {
    this.url = url;
    this.#isKeyed = isKeyed;
    this.#stack = stack;
  }

  static async open(start: TestedBroker["start"], { isKeyed = true } = {}): Promise<Bench> {
    await using stack = new AsyncDisposableStack();
    const broker = await start(stack);
    const server = stack.use(listen({
      broker,
      features: [durableStreams({ path: "/streams", authorize: () => true })],
    }));
    const url = `http://127.0.0.1:${portOf(server)}/streams/board`;
    await DurableStream.create({
      url,
      contentType: "application/json",
      fetch: new Network().fetch,
      ...(isKeyed && { headers: { "Stream-Keyed": "true" } }),
    });
    return new Bench(url, isKeyed, stack.move());
  }

  /** Opens a StreamDB that has read the whole stream. */
  async join(live: Live = "long-poll"): Promise<Page> {
    const page = this.#stack.use(new Page(this.url, { isKeyed: this.#isKeyed, live }));
    await page.db.preload();
    return page;
  }

  /** Reads the stream from an offset to its end with the client. */
  async read(offset = "-1"): Promise<{ readonly items: readonly StateEvent[]; offset: string }> {
    const { fetch } = new Network();
    const response = await readStream<StateEvent>({ url: this.url, offset, live: false, fetch });
    const items = await response.json();
    items.forEach(checkMessage);
    return { items, offset: response.offset };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** A broker that keeps rows. */
interface TestedBroker {
  readonly name: string;
  /** True if the machine lacks the broker; the tests are then skipped. */
  readonly ignore?: boolean;
  start(stack: AsyncDisposableStack): Broker | Promise<Broker>;
}

const BROKERS: readonly TestedBroker[] = [
  { name: "memory", start: (stack) => stack.use(new MemoryBroker()) },
  {
    name: "SQLite",
    async start(stack) {
      const folder = await Deno.makeTempDir();
      stack.defer(() => Deno.remove(folder, { recursive: true }));
      return stack.use(await SqliteBroker.open(`${folder}/streams.db`));
    },
  },
  {
    name: "Redis",
    ignore: isRedisMissing,
    async start(stack) {
      const { url } = stack.use(await RedisServer.start());
      return stack.use(new RedisBroker({ url }));
    },
  },
];

function applied(materialized: MaterializedState, items: readonly StateEvent[]): MaterializedState {
  materialized.applyBatch(items.filter((item) => isChangeEvent(item)));
  return materialized;
}

function cardsOf(materialized: MaterializedState): Card[] {
  return byId([...materialized.getType("card").values()] as Card[]);
}

for (const { name, ignore = false, start } of BROKERS) {
  const test = (title: string, fn: () => Promise<void>) =>
    Deno.test({ name: `${title} on ${name}`, ignore, fn });

  test("StreamDB reads and writes a keyed stream", async () => {
    await using bench = await Bench.open(start);
    const ann = await bench.join();
    const bob = await bench.join("sse");
    const one = { id: "1", text: "Draft", votes: 0 };
    const two = { id: "2", text: "Call", votes: 1 };
    await ann.save(state.cards.insert({ value: one }));
    const done = { ...one, text: "Done" };
    await ann.save(state.cards.update({ value: done, oldValue: one }));
    await bob.see(
      await ann.save(
        state.cards.upsert({ value: two }),
        state.users.upsert({ value: { id: "ann", name: "Ann" } }),
      ),
    );
    for (const page of [ann, bob, await bench.join()]) {
      assertEquals(page.cards, [done, two]);
      assertEquals(page.db.collections.users.get("ann")?.name, "Ann");
    }
    await ann.see(await bob.save(state.cards.delete({ key: "1", oldValue: done })));
    await bob.see(await ann.save(state.cards.upsert({ value: { ...two, votes: 2 } })));
    const late = await bench.join();
    for (const page of [ann, bob, late]) assertEquals(page.cards, [{ ...two, votes: 2 }]);
    const { items } = await bench.read();
    assertEquals(cardsOf(applied(new MaterializedState(), items)), late.cards);
  });

  test("awaitTxId of StreamDB resolves for each of many changes of a row", async () => {
    await using bench = await Bench.open(start);
    const ann = await bench.join();
    const bob = await bench.join("sse");
    // The client sends appends that overlap as one transaction.
    const txids = await Promise.all(
      range(50).flatMap((votes) =>
        [ann, bob].map((page) =>
          page.save(state.cards.upsert({ value: { id: "1", text: "Vote", votes } }))
        )
      ),
    );
    for (const page of [ann, bob]) await page.see(txids.flat());
    const { items } = await bench.read();
    const rows = cardsOf(applied(new MaterializedState(), items));
    for (const page of [ann, bob]) assertEquals(page.cards, rows);
  });

  test("StreamDB that joins late reads each row of a keyed stream once", async () => {
    const [keyed, plain] = await Promise.all([true, false].map(async (isKeyed) => {
      await using bench = await Bench.open(start, { isKeyed });
      const { fetch } = new Network();
      const options = { url: bench.url, contentType: "application/json", fetch, batching: false };
      const writer = new DurableStream(options);
      for (let i = 0; i < UPDATES; i++) {
        const value = { id: `${i % ROWS}`, text: `Update ${i}`, votes: i };
        await writer.append(JSON.stringify(state.cards.upsert({ value })));
      }
      const late = await bench.join();
      const votes = late.db.collections.cards.toArray.map(({ votes }) => votes);
      assertEquals(votes.toSorted((a, b) => a - b), range(UPDATES).slice(-ROWS));
      const changes = late.received.filter((item) => isChangeEvent(item)).length;
      return { cards: late.cards, bytes: late.network.received, changes };
    }));
    assertEquals(keyed!.cards, plain!.cards);
    assertEquals([keyed!.changes, plain!.changes], [ROWS, UPDATES]);
    assert(keyed!.bytes * 50 < plain!.bytes, `${keyed!.bytes} and ${plain!.bytes} bytes`);
  });

  for (const live of ["long-poll", "sse"] as const) {
    test(`StreamDB with ${live} converges on a keyed stream after its network was down`, async () => {
      await using bench = await Bench.open(start);
      const ann = await bench.join();
      const bob = await bench.join(live);
      const value = (id: string, votes = 0): Card => ({ id, text: `Card ${id}`, votes });
      const first = range(5).map((i) => state.cards.insert({ value: value(`${i}`) }));
      await bob.see(await ann.save(...first));
      const open = createLiveQueryCollection({
        query: (q) =>
          q.from({ card: bob.db.collections.cards }).where(({ card }) => gt(card.votes, 0)),
        startSync: true,
      });
      let last: readonly string[];
      {
        using _cut = bob.network.cut();
        for (const votes of range(200)) {
          await ann.save(state.cards.upsert({ value: value("0", votes) }));
        }
        await ann.save(state.cards.delete({ key: "1" }));
        await ann.save(state.cards.delete({ key: "2" }));
        await ann.save(state.cards.insert({ value: value("2", 2) }));
        last = await ann.save(state.cards.insert({ value: value("n", 1) }));
        assertEquals(bob.cards.length, 5);
      }
      await bob.see(last);
      assertEquals(bob.cards, [
        value("0", 199),
        value("2", 2),
        value("3"),
        value("4"),
        value("n", 1),
      ]);
      assertEquals(bob.cards, ann.cards);
      assertEquals(open.toArray.map(({ id }) => id).toSorted(), ["0", "2", "n"]);
      await open.cleanup();
      // Of the 200 changes of a row, the page reads only the newest.
      const changes = bob.received.filter((item) => isChangeEvent(item)).length;
      assertEquals(changes, 5 + 4);
    });

    test(`A client resumes a keyed stream from an offset by ${live}`, async () => {
      await using bench = await Bench.open(start);
      const ann = await bench.join();
      const value = (id: string, votes = 0): Card => ({ id, text: `Card ${id}`, votes });
      await ann.save(...range(5).map((i) => state.cards.insert({ value: value(`${i}`) })));
      const { items, offset } = await bench.read();
      const away = applied(new MaterializedState(), items);
      for (const votes of range(150)) {
        await ann.save(state.cards.update({ value: value("0", votes) }));
      }
      await ann.save(state.cards.delete({ key: "1" }));
      const replaced = state.cards.insert({ value: value("2", 2) });
      await ann.save(state.cards.delete({ key: "2" }), replaced);
      const rest = await bench.read(offset);
      assertEquals(rest.items.length, 3);
      assertEquals(cardsOf(applied(away, rest.items)), ann.cards);

      const network = new Network();
      const { fetch } = network;
      const following = await readStream<StateEvent>({ url: bench.url, offset, live, fetch });
      const received = following.jsonStream().getReader();
      const next = async () => (await soon(received.read())).value!;
      const resumed = applied(new MaterializedState(), items);
      for (const _ of range(3)) applied(resumed, [await next()]);
      assertEquals(cardsOf(resumed), ann.cards);
      await ann.save(state.cards.delete({ key: "0" }));
      applied(resumed, [await next()]);
      assertEquals(cardsOf(resumed), ann.cards);
      network.close();
      following.cancel();
      await received.cancel();
    });
  }

  test("The client rejects an update of a row that a keyed stream lacks", async () => {
    await using bench = await Bench.open(start);
    const ann = await bench.join();
    const value = { id: "1", text: "Draft", votes: 0 };
    const update = state.cards.update({ value });
    await assertRejects(() => ann.db.stream.append(JSON.stringify(update)), Error, "409");
    await ann.save(state.cards.insert({ value }));
    assertEquals(ann.cards, [value]);
  });
}
