/** Readers of a durable stream that fall behind: each record once, in order, or `gone` for a gap. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import type { DurableStreamWriter } from "../../server/durable/writer.ts";
import type { SimulatedServer } from "../../testing/simulation/mod.ts";
import { fail, type Fate, FaultyEngine, loseReply, pass } from "../faulty_broker.ts";
import { faultsOf, planFaults } from "./faults.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { CARRIERS, type World } from "./world.ts";

const ID = "log-book";

/** Records of a stream, and the characters of each. */
const LOADS = {
  "a few small records": { records: 32, characters: 4 },
  /** More bytes than wait for a slow reader. */
  "large records": { records: 32, characters: 60_000 },
  /** More records than wait for a slow reader. */
  "many records": { records: 4_400, characters: 4 },
} as const;

/** Send queues of the sessions: a page fills at most half of one. */
const QUEUES = {
  "the default": {},
  "few messages": { maxMessages: 12 },
  "few bytes": { maxBytes: 240_000 },
} as const;

/** Time of a slow read, which announcements overtake, in milliseconds. */
const SLOW_READ_MS = 40;

/** Time until a reader at the server tries again, in milliseconds. */
const RETRY_MS = 60;

/**
 * Time until all readers are at the end, in milliseconds: with faults of the network, and without,
 * where no reader waits for the regular look at a stream.
 */
const [END_MS, SOON_MS] = [120_000, 8_000] as const;

const READS = ["are fine", "fail", "lose their replies", "are slow"] as const;

const reader = fc.record({
  at: fc.constantFrom("client", "server"),
  /** Number of records before the reader rests, and the time of the rest. */
  restAt: fc.nat(20),
  restMs: fc.constantFrom(0, 1_000, 4_000),
  /** Number of records after which the reader leaves, and comes back. */
  leaveAt: fc.option(fc.nat(20), { nil: undefined }),
  /** Time for each tenth of the records, in milliseconds. */
  slowMs: fc.constantFrom(0, 100),
});

type DrawnReader = typeof reader extends fc.Arbitrary<infer T> ? T : never;

property("a reader that falls behind receives each record once, in order, or `gone` for a gap", {
  cases: fc.record({
    carrier: fc.constantFrom(...CARRIERS),
    load: fc.constantFrom<(keyof typeof LOADS)[]>(
      "a few small records",
      "large records",
      "large records",
      "many records",
    ),
    sendQueue: fc.constantFrom(...Object.keys(QUEUES) as (keyof typeof QUEUES)[]),
    /** Records that the stream keeps. */
    kept: fc.constantFrom(Infinity, Infinity, 6),
    readers: fc.array(reader, { minLength: 1, maxLength: 3 }),
    /** Appends, each with the fate of the reads from then on. */
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
    "a hardened WebSocket that breaks with unsent bytes leaves a turn for the event of its end": {
      carrier: "hardened",
      load: "large records",
      sendQueue: "the default",
      kept: Infinity,
      readers: [{ at: "client", restAt: 0, restMs: 0, leaveAt: undefined, slowMs: 0 }],
      appends: Array(32).fill({ reads: "are fine", thenMs: 100 }),
      faults: [
        { kind: "a frozen client", atMs: 50, lastsMs: 1_000 },
        // One record is unsent, and the next one comes before the event.
        { kind: "a cut", atMs: 199, lastsMs: 1 },
      ],
      end: "fulfilled",
    },
  },
  async check(world, { carrier, load, sendQueue, kept, readers, appends, faults, end }) {
    const engine = new FaultyEngine({ runtime: world.host("engine").runtime });
    const { transports } = world.carry(carrier);
    const broker = engine.connect();
    const options = {
      authorize: () => true,
      durableStreams: {
        path: "/streams",
        ...(kept < Infinity && { keep: { records: kept, bytes: 1 << 26 } }),
      },
      onError() {},
    };
    const node = world.serve("node", () => ({
      ...options,
      broker,
      session: { sendQueue: QUEUES[sendQueue] },
    }));
    const writing = world.serve("writer", () => ({ ...options, broker: engine.connect() }));
    const { records, characters } = LOADS[load];
    const written = await Written.create(world, { writing, kept, size: LOADS[load] });
    const all = readers.map((drawn, i) => {
      const client = world.connect(`reader-${i}`, node.host, { transports, onError() {} });
      return new Reader(world, { drawn, node, written, client });
    });
    planFaults(world, faults, { client: world.host("reader-0"), server: node });
    const outcomes = all.map((one) => one.run());
    const fates: Readonly<Record<typeof READS[number], Fate>> = {
      "are fine": pass,
      "fail": fail,
      "lose their replies": loseReply,
      "are slow": async (run) => {
        const page = await run();
        await pause(engine.runtime, SLOW_READ_MS);
        return page;
      },
    };
    const text = "x".repeat(characters);
    for (const { reads, thenMs } of appends) {
      broker.make("logs.read", fates[reads]);
      await written.append(Math.ceil(records / appends.length), text);
      await world.pause(thenMs);
    }
    broker.make("logs.read", pass);
    await written.end(end);
    const withinMs = faults.length > 0 ? END_MS : SOON_MS;
    const ended = await world.inTime("the ends", Promise.all(outcomes), withinMs);
    assertEquals(ended, readers.map(() => end));
    const isLeft = () => node.server.durableStreams.activity().length === 0;
    // The session of a client that was cut off in silence ends late.
    await world.until("no reader of the stream", isLeft, END_MS);
    await engine.inner.close();
  },
});

/** A record, and its number. */
type Numbered = readonly [number: number, text: string];

/** The stream, as its writer knows it. */
class Written {
  /** Number of records whose append began, and of those that the engine has acknowledged. */
  begun = 0;
  acknowledged = 0;
  /** Offsets after so many records. */
  readonly offsets = new Map<number, string>();
  readonly kept: number;
  readonly records: number;
  readonly #world: World;
  readonly #writing: SimulatedServer;
  readonly #writer: DurableStreamWriter<Numbered>;

  private constructor(world: World, writer: DurableStreamWriter<Numbered>, parts: WrittenParts) {
    this.kept = parts.kept;
    this.records = parts.size.records;
    this.#world = world;
    this.#writing = parts.writing;
    this.#writer = writer;
  }

  static async create(world: World, parts: WrittenParts): Promise<Written> {
    const { host, server } = parts.writing;
    const writer = await world.run(host, () => server.durableStreams.create<Numbered>(ID));
    return new Written(world, writer, parts);
  }

  /** Appends records at once. */
  async append(count: number, text: string): Promise<void> {
    const appending: Promise<void>[] = [];
    await this.#world.run(this.#writing.host, async () => {
      for (; count > 0; count--) appending.push(this.#writer.append([this.begun++, text]));
      await Promise.all(appending);
    });
    this.acknowledged = this.begun;
    this.offsets.set(this.begun, this.#writer.offset);
  }

  async end(by: "fulfilled" | "tired"): Promise<void> {
    await this.#world.run(this.#writing.host, async () => {
      if (by === "fulfilled") await this.#writer.close();
      else await this.#writer.abort("given up", { code: by });
    });
  }
}

interface WrittenParts {
  readonly writing: SimulatedServer;
  readonly kept: number;
  readonly size: typeof LOADS[keyof typeof LOADS];
}

/** A stream as one reader reads it. */
interface Readable extends AsyncIterable<Numbered> {
  readonly offset: string | undefined;
}

/** A reader of the stream, by a client or at the server. */
class Reader {
  readonly #world: World;
  readonly #drawn: DrawnReader;
  readonly #written: Written;
  readonly #open: (after: string | undefined) => Readable;
  #count = 0;
  #newest = -1;
  /** Bounds of the next record. */
  #next: { readonly least: number; most(): number } = { least: 0, most: () => 0 };
  #hasLeft = false;
  /** True once the stream has ended for the reader. */
  #isOver = false;

  constructor(world: World, { drawn, node, written, client }: {
    readonly drawn: DrawnReader;
    readonly node: SimulatedServer;
    readonly written: Written;
    readonly client: ReturnType<World["connect"]>;
  }) {
    this.#world = world;
    this.#drawn = drawn;
    this.#written = written;
    this.#open = drawn.at === "client"
      ? (after) => client.durableStream<Numbered>(ID, { after })
      : (after) => readableAt(node, after);
    this.#beginAgain();
  }

  /** Reads to the end of the stream, and begins again at the oldest record after a gap. */
  async run(): Promise<string> {
    let stream = this.#open(undefined);
    for (;;) {
      const { offset } = stream;
      const outcome = await outcomeOf(this.#read(stream));
      if (outcome === "fulfilled" && !this.#isOver) stream = this.#open(stream.offset);
      else if (outcome === "gone") {
        this.#expectGap();
        this.#beginAgain();
        stream = this.#open(undefined);
      } else if (outcome === "BrokerError" && this.#drawn.at === "server") {
        await this.#world.pause(RETRY_MS);
        stream = this.#open(stream.offset ?? offset);
      } else {
        assertEquals(this.#newest, this.#written.begun - 1, "newest record");
        return outcome;
      }
    }
  }

  async #read(stream: Readable): Promise<void> {
    const { restAt, restMs, leaveAt, slowMs } = this.#drawn;
    const { records, offsets } = this.#written;
    this.#isOver = false;
    for await (const [number] of stream) {
      this.#take(number);
      const known = offsets.get(number + 1);
      if (known !== undefined) assertEquals(stream.offset, known, `offset after ${number}`);
      if (++this.#count === restAt) await this.#world.pause(restMs);
      if (this.#count % Math.ceil(records / 10) === 0) await this.#world.pause(slowMs);
      if (this.#count === leaveAt && !this.#hasLeft) return void (this.#hasLeft = true);
    }
    this.#isOver = true;
  }

  #take(number: number): void {
    const { least, most } = this.#next;
    assert(number >= least && number <= most(), `${number}, of ${least} to ${most()}`);
    this.#newest = number;
    this.#next = { least: number + 1, most: () => number + 1 };
  }

  /** Fails unless the stream has dropped the next record of the reader. */
  #expectGap(): void {
    const { begun, kept } = this.#written;
    assert(this.#next.least < begun - kept, `a gap after ${this.#newest} of ${begun}`);
  }

  /** Expects the oldest record that is kept next. */
  #beginAgain(): void {
    const written = this.#written;
    const oldest = (count: number) => Math.max(0, count - written.kept);
    const least = Math.max(this.#newest + 1, oldest(written.acknowledged));
    this.#next = { least, most: () => oldest(written.begun) };
  }
}

/** Reads at the server, by the members of a client's stream. */
function readableAt({ server }: SimulatedServer, after: string | undefined): Readable {
  const readable = {
    offset: after,
    async *[Symbol.asyncIterator]() {
      const options = after === undefined ? {} : { after };
      for await (const { data, offset } of server.durableStreams.follow<Numbered>(ID, options)) {
        readable.offset = offset;
        yield data;
      }
    },
  };
  return readable;
}
