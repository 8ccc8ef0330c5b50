/**
 * Readers of a durable stream that fall behind. Each must receive each record once and in order, or
 * `gone` for a gap.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { SimulatedServer } from "../simulator/mod.ts";
import {
  fail,
  type Fate,
  type FaultyBroker,
  FaultyStore,
  loseReply,
  pass,
} from "../faulty_broker.ts";
import { type Drawn, keyOf, maybe } from "./draw.ts";
import { faultsOf, planFaults } from "./faults.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { CARRIERS, type World } from "./world.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";

const ID = "log-book";

/** Number of records in a stream, and of characters in each record. */
const LOADS = {
  "a few small records": { records: 32, characters: 4 },
  /** A number of bytes larger than may wait for a slow reader. */
  "large records": { records: 32, characters: 60_000 },
  /** A number of records larger than may wait for a slow reader. */
  "many records": { records: 4_400, characters: 4 },
} as const;

/** Send queues of the sessions. A page fills at most half of a queue. */
const QUEUES = {
  "the default": {},
  "few messages": { maxMessages: 12 },
  "few bytes": { maxBytes: 240_000 },
} as const;

/** Duration of a slow read in milliseconds. Announcements overtake it. */
const SLOW_READ_MS = 40;

/** Time until a reader on the server retries, in milliseconds. */
const RETRY_MS = 60;

/**
 * Time until all readers have reached the end, with and without network faults, in milliseconds.
 * Without network faults, no reader waits for the periodic check of a stream.
 */
const [END_MS, SOON_MS] = [120_000, 8_000] as const;

const READS = ["are fine", "fail", "lose their replies", "are slow"] as const;

const reader = fc.record({
  at: fc.constantFrom("client", "server"),
  /** Number of records before the reader pauses, and the length of the pause. */
  restAt: fc.nat(20),
  restMs: fc.constantFrom(0, 1_000, 4_000),
  /** Number of records after which the reader leaves and returns. */
  leaveAt: maybe(fc.nat(20)),
  /** Time that each tenth of the records takes, in milliseconds. */
  slowMs: fc.constantFrom(0, 100),
});

type DrawnReader = Drawn<typeof reader>;

property("a reader that falls behind receives each record once, in order, or `gone` for a gap", {
  cases: fc.record({
    carrier: fc.constantFrom(...CARRIERS),
    load: fc.constantFrom<(keyof typeof LOADS)[]>(
      "a few small records",
      "large records",
      "large records",
      "many records",
    ),
    sendQueue: keyOf(QUEUES),
    /** Records that the stream keeps. */
    kept: fc.constantFrom(Infinity, Infinity, 6),
    readers: fc.array(reader, { minLength: 1, maxLength: 3 }),
    /** Appends, each with the fate of the reads that follow. */
    appends: fc.array(fc.record({ reads: fc.constantFrom(...READS), thenMs: fc.nat(200) }), {
      minLength: 1,
      maxLength: 12,
    }),
    faults: faultsOf(
      ["a cut", "a silent cut", "a partition", "a slow link", "lost packets", "a frozen client"],
      { withinMs: 1_500, lastsMs: 4_000 },
    ),
    end: fc.constantFrom("fulfilled", "tired"),
  }),
  regressions: {
    "a hardened WebSocket that breaks with unsent bytes reports its end a turn later": {
      carrier: "hardened",
      load: "large records",
      sendQueue: "the default",
      kept: Infinity,
      readers: [{ at: "client", restAt: 0, restMs: 0, leaveAt: undefined, slowMs: 0 }],
      appends: Array(32).fill({ reads: "are fine", thenMs: 100 }),
      faults: [
        { kind: "a frozen client", atMs: 50, lastsMs: 1_000 },
        // One record has not been sent yet, and the next one arrives before the event.
        { kind: "a cut", atMs: 199, lastsMs: 1 },
      ],
      end: "fulfilled",
    },
  },
  async check(world, { carrier, load, sendQueue, kept, readers, appends, faults, end }) {
    const store = new FaultyStore({ runtime: world.host("broker").runtime });
    const { transports } = world.carry(carrier);
    const broker = store.connect();
    const keep = kept < Infinity ? { keep: { records: kept, bytes: 1 << 26 } } : {};
    const serve = (name: string, broker: FaultyBroker, queue = {}) =>
      world.serve(name, () => ({
        authorize: () => true,
        features: streamFeatures({ path: "/streams", ...keep }),
        session: { sendQueue: queue },
        broker,
        onError() {},
      }));
    const node = serve("node", broker, QUEUES[sendQueue]);
    const { host, server } = serve("writer", store.connect());
    const writer = await world.run(host, () => streamsOf(server).create<Numbered>(ID));
    const { records, characters } = LOADS[load];
    const written: Written = { records, kept, begun: 0, acknowledged: 0, offsets: new Map() };
    const outcomes = readers.map((drawn, i) => {
      const client = world.connect(`reader-${i}`, node.host, { transports, onError() {} });
      const open: Open = drawn.at === "client"
        ? (after) => client.durableStream<Numbered>(ID, { after })
        : (after) => readableAt(node, after);
      return new Reader(world, drawn, written, open).run();
    });
    const fates: Readonly<Record<typeof READS[number], Fate>> = {
      "are fine": pass,
      "fail": fail,
      "lose their replies": loseReply,
      "are slow": (run) => run().then((page) => world.pause(SLOW_READ_MS).then(() => page)),
    };
    planFaults(world, faults, { client: world.host("reader-0"), server: node });
    const text = "x".repeat(characters);
    for (const { reads, thenMs } of appends) {
      broker.make("logs.read", fates[reads]);
      const batch = range(1, Math.ceil(records / appends.length)).map(() => written.begun++);
      const append = () => Promise.all(batch.map((number) => writer.append([number, text])));
      await world.run(host, append);
      written.acknowledged = written.begun;
      written.offsets.set(written.begun, writer.offset);
      await world.pause(thenMs);
    }
    broker.make("logs.read", pass);
    const isWhole = end === "fulfilled";
    await world.run(host, () => isWhole ? writer.close() : writer.abort("end", { code: end }));
    const withinMs = faults.length > 0 ? END_MS : SOON_MS;
    const ended = await world.inTime("the ends", Promise.all(outcomes), withinMs);
    assertEquals(ended, readers.map(() => end));
    const isLeft = () => node.server.streams!.activity().length === 0;
    // The session of a client that was cut silently ends late.
    await world.until("no reader of the stream", isLeft, END_MS);
    await store.inner.close();
  },
});

/** A record and its number. */
type Numbered = readonly [number: number, text: string];

/** The stream as its writer knows it. */
interface Written {
  readonly records: number;
  readonly kept: number;
  /**
   * Number of records whose append has started, and number of records that the store has
   * acknowledged.
   */
  begun: number;
  acknowledged: number;
  /** Offsets by the number of records before them. */
  readonly offsets: Map<number, string>;
}

/** A stream, as one reader sees it. */
interface Readable extends AsyncIterable<Numbered> {
  readonly offset: string | undefined;
}

/** Starts reading after an offset or at the oldest record. */
type Open = (after: string | undefined) => Readable;

/** A reader of the stream in a client or on the server. */
class Reader {
  #count = 0;
  #newest = -1;
  /**
   * Minimum number of the next record, which is the oldest record or the record after the newest
   * one.
   */
  #least = 0;
  #isAtOldest = true;
  #hasLeft = false;

  constructor(
    readonly world: World,
    readonly drawn: DrawnReader,
    readonly written: Written,
    readonly open: Open,
  ) {}

  /** Reads to the end of the stream. After a gap, starts over at the oldest record. */
  async run(): Promise<string> {
    for (let stream = this.open(undefined);;) {
      const { offset } = stream;
      let hasLeft = false;
      const outcome = await outcomeOf(this.#read(stream).then((left) => hasLeft = left));
      if (hasLeft) stream = this.open(stream.offset);
      else if (outcome === "gone") {
        const { begun, kept, acknowledged } = this.written;
        assert(this.#newest + 1 < begun - kept, `a gap after ${this.#newest} of ${begun}`);
        this.#least = Math.max(this.#newest + 1, acknowledged - kept);
        this.#isAtOldest = true;
        stream = this.open(undefined);
      } else if (outcome === "BrokerError" && this.drawn.at === "server") {
        await this.world.pause(RETRY_MS);
        stream = this.open(stream.offset ?? offset);
      } else {
        assertEquals(this.#newest, this.written.begun - 1, "newest record");
        return outcome;
      }
    }
  }

  /** Reads to the end or until the reader leaves. Returns true if the reader left. */
  async #read(stream: Readable): Promise<boolean> {
    const { restAt, restMs, leaveAt, slowMs } = this.drawn;
    const { records, offsets } = this.written;
    for await (const [number] of stream) {
      this.#take(number);
      const known = offsets.get(number + 1);
      if (known !== undefined) assertEquals(stream.offset, known, `offset after ${number}`);
      if (++this.#count === restAt) await this.world.pause(restMs);
      if (this.#count % Math.ceil(records / 10) === 0) await this.world.pause(slowMs);
      if (this.#count === leaveAt && !this.#hasLeft) return this.#hasLeft = true;
    }
    return false;
  }

  #take(number: number): void {
    const { begun, kept } = this.written;
    const most = this.#isAtOldest ? Math.max(0, begun - kept) : this.#least;
    assert(number >= this.#least && number <= most, `${number}, of ${this.#least} to ${most}`);
    this.#newest = number;
    this.#least = number + 1;
    this.#isAtOldest = false;
  }
}

/** Reads on the server, and returns an object with the members of a client's stream. */
function readableAt({ server }: SimulatedServer, after: string | undefined): Readable {
  const readable = {
    offset: after,
    async *[Symbol.asyncIterator]() {
      const options = after === undefined ? {} : { after };
      for await (const { data, offset } of streamsOf(server).follow<Numbered>(ID, options)) {
        readable.offset = offset;
        yield data;
      }
    },
  };
  return readable;
}
