/**
 * Readers of durable streams that wait over HTTP. The property compares how each reader ends and
 * frees its slot.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { BrokerError } from "../../errors.ts";
import type { DurableStreamItem } from "../../streams/streams.ts";
import { SSE_MS } from "../../streams/http/sse.ts";
import { STALLED_MS } from "../../server/http/event_bodies.ts";
import { type Drawn, keyOf, stepOf } from "./draw.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Node, readReply, respond } from "./requests.ts";
import type { World } from "./world.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

/** Maximum number of readers on the server, and per address. */
const [MAX_READERS, MAX_OF_ADDRESS] = [4, 2];

/** Time that a long-poll waits, in milliseconds. */
const POLL_MS = 20_000;

/** Number of records that a stream keeps. */
const KEPT = 3;

/**
 * Time for a request and its effects, in milliseconds. No reader ends this close to a comparison.
 */
const ROUND_MS = 40;

const ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3"] as const;

/** Places that cannot be read, with their responses. */
const REJECTED = {
  "no stream": "404 not-found",
  "a deleted stream": "410 gone",
  "an offset of another stream": "410 gone",
  "a dropped record": "410 gone",
} as const;

/** Outcomes of readers whose read fails. */
const LOST_READS = { sse: "end", "long-poll": "503 unavailable", server: "BrokerError" } as const;

const who = fc.nat(MAX_READERS - 1);

const step = fc.oneof(
  stepOf("enter", {
    wire: fc.constantFrom("sse", "sse", "long-poll", "server"),
    address: fc.constantFrom(...ADDRESSES),
    from: fc.constantFrom("the end", "the beginning"),
  }, 4),
  stepOf("fail to enter", {
    wire: fc.constantFrom("sse", "long-poll"),
    address: fc.constantFrom(...ADDRESSES),
    of: keyOf(REJECTED),
    isBrokerAway: fc.boolean(),
  }, 3),
  stepOf("read", { who }, 4),
  stepOf("leave", { who }, 2),
  /** The fate of the reads that follow an append. */
  stepOf("append", { areReadsLost: fc.constantFrom(false, false, true) }, 2),
  stepOf("wait", { ms: fc.constantFrom(1_300, 9_100, 14_700, 29_100, 31_900) }, 3),
);

type Step = Drawn<typeof step>;
type StepOf<K extends Step["kind"]> = Extract<Step, { readonly kind: K }>;

/** A reader that waits or could wait. */
interface Reader {
  readonly wire: StepOf<"enter">["wire"];
  readonly address: string | undefined;
  /** Time at which the reader ends, no matter what it does. */
  readonly overMs: number;
  /** Number of records that the reader has received, once it has taken the current page. */
  place: number;
  /** True while the reader has not taken the first page. */
  isNew: boolean;
  /**
   * Time since which an event has been unread. It is `undefined` while the reader waits for an
   * event.
   */
  idleMs: number | undefined;
  /** The outcome of the current read. */
  reading: Promise<string> | undefined;
  /** Starts reading. A long-poll reads from the start. */
  read(): Promise<string>;
  leave(): Promise<unknown>;
}

/** Calls that fail: all reads, or only reads of records. */
interface Fault {
  isAway: boolean;
  areRecordsAway: boolean;
}

/** The readers of one server, and its expected counts. */
class Readers {
  readonly #limited = { maxReaders: 0, maxReadersPerAddress: 0, stalled: 0 };
  readonly #offsets: string[] = [];
  #foreign = "";
  #open: Reader[] = [];

  constructor(readonly world: World, readonly node: Node, readonly fault: Fault) {}

  /** Creates a stream with dropped records, and a deleted stream that a fork needs. */
  async start(): Promise<void> {
    const streams = streamsOf(this.node.server);
    const deleted = await streams.create("deleted");
    this.#foreign = deleted.offset;
    await deleted.release();
    await (await streams.create("fork", { fork: { source: "deleted" } })).release();
    await streams.delete("deleted");
    await ask(this.node, "/streams/live", {
      method: "PUT",
      headers: { "content-type": "application/json" },
    });
    for (let left = KEPT + 2; left > 0; left--) await this.#append();
  }

  async play(step: Step): Promise<void> {
    switch (step.kind) {
      case "enter":
        await this.#enter(step);
        break;
      case "fail to enter":
        await this.#fail(step);
        break;
      case "read":
        await this.#read(step.who);
        break;
      case "leave":
        await this.#leave(step.who);
        break;
      case "append":
        await this.#append(step.areReadsLost);
        break;
      case "wait":
        await this.#wait(step.ms);
    }
    await this.compare(`after ${JSON.stringify(step)}`);
  }

  /** Closes the server. Each reader ends in its own way. */
  async close(): Promise<void> {
    const open = this.#open.splice(0);
    await this.node.server.close();
    for (const { wire, reading } of open) {
      if (reading === undefined) continue;
      const expected = { sse: "end", "long-poll": "503 unavailable", server: "unavailable" }[wire];
      assertEquals(await this.world.inTime(`the end of ${wire}`, reading), expected);
    }
    await this.compare("after the close of the server");
  }

  /** Compares the server's counts with the open readers. */
  async compare(when: string): Promise<void> {
    await this.world.pause(ROUND_MS);
    const { readers, limited } = this.node.server.httpStats["durableStreams"]!;
    const count = (of: string) => this.#open.filter(({ wire }) => wire === of).length;
    assertEquals(readers, { "long-poll": count("long-poll"), sse: count("sse") }, when);
    const { maxReaders, maxReadersPerAddress, stalled } = limited!;
    assertEquals({ maxReaders, maxReadersPerAddress, stalled }, this.#limited, when);
  }

  async #enter({ wire, address, from }: StepOf<"enter">): Promise<void> {
    const offset = from === "the end" ? this.#offsets.at(-1)! : "-1";
    if (wire === "server") return await this.#enterAtServer(offset);
    const rejection = this.#rejection(address);
    const asking = this.#respond(`live?offset=${offset}&live=${wire}`, address);
    const tail = this.#offsets.length;
    const reader = { wire, address, place: tail, isNew: true, idleMs: undefined };
    const nowMs = this.world.nowMs;
    if (wire === "long-poll") {
      const reading = asking.then(readReply).then(({ outcome }) => outcome);
      if (rejection !== undefined || from === "the beginning") {
        const outcome = await this.world.inTime("an answer", reading);
        return assertEquals(outcome, rejection ?? "200");
      }
      const overMs = nowMs + POLL_MS;
      const leave = () => Promise.resolve();
      this.#open.push({ ...reader, reading, overMs, read: () => reading, leave });
      return;
    }
    const response = await this.world.inTime("a response", asking);
    if (rejection !== undefined) {
      return assertEquals((await readReply(response)).outcome, rejection);
    }
    assertEquals(response.status, 200);
    const events = response.body!.getReader();
    const read = async () => {
      const outcome = await outcomeOf(events.read().then(({ done }) => isDone = done));
      return outcome !== "fulfilled" ? outcome : isDone ? "end" : "events";
    };
    let isDone = false;
    const overMs = nowMs + SSE_MS;
    this.#open.push({ ...reader, reading: undefined, overMs, read, leave: () => events.cancel() });
  }

  /** Reads on the server, without an address. */
  async #enterAtServer(after: string): Promise<void> {
    const left = new AbortController();
    const items: AsyncIterator<DurableStreamItem> = streamsOf(this.node.server)
      .follow("live", { after, signal: left.signal });
    const isFull = this.#open.length >= MAX_READERS;
    const read = () => outcomeOf(items.next());
    const reading = read();
    await this.world.pause(ROUND_MS);
    if (isFull) return assertEquals(await this.world.inTime("a rejection", reading), "LimitError");
    const leave = async () => {
      left.abort();
      await items.return?.();
    };
    if (after === "-1") await leave();
    else {
      this.#open.push({
        wire: "server",
        address: undefined,
        overMs: Infinity,
        place: this.#offsets.length,
        isNew: false,
        idleMs: undefined,
        reading,
        read,
        leave,
      });
    }
  }

  /** Requests a place that cannot be read. The slot is freed immediately. */
  async #fail({ wire, address, of, isBrokerAway }: StepOf<"fail to enter">): Promise<void> {
    const path = {
      "no stream": "none?offset=-1",
      "a deleted stream": "deleted?offset=-1",
      "an offset of another stream": `live?offset=${this.#foreign}`,
      "a dropped record": `live?offset=${this.#offsets[0]}`,
    }[of];
    const expected = this.#rejection(address) ?? (isBrokerAway ? "503 unavailable" : REJECTED[of]);
    this.fault.isAway = isBrokerAway;
    const asking = this.#respond(`${path}&live=${wire}`, address).then(readReply);
    const { outcome } = await this.world.inTime("an answer", asking);
    this.fault.isAway = false;
    assertEquals(outcome, expected);
  }

  /** Reads a reader's next events. They are already available or arrive with the next record. */
  async #read(who: number): Promise<void> {
    const reader = this.#pick(who);
    if (reader?.wire !== "sse" || reader.reading !== undefined) return;
    reader.idleMs = undefined;
    reader.reading = reader.read();
    const isDropped = !reader.isNew && reader.place < this.#offsets.length - KEPT;
    const isThere = reader.isNew || reader.place < this.#offsets.length;
    if (isDropped) await this.#expectEnd(reader, "end");
    else if (isThere) await this.#expectEvents(reader);
  }

  async #leave(who: number): Promise<void> {
    const reader = this.#pick(who);
    if (reader === undefined || reader.wire === "long-poll") return;
    this.#remove(reader);
    await this.world.inTime("the leave of a reader", reader.leave());
  }

  /** Appends a record for all waiting readers. A reader whose read fails ends. */
  async #append(areReadsLost = false): Promise<void> {
    this.fault.areRecordsAway = areReadsLost;
    const { headers } = await ask(this.node, "/streams/live", { json: 1 });
    this.#offsets.push(headers.get("stream-next-offset")!);
    for (const reader of this.#open.filter(({ reading }) => reading !== undefined)) {
      if (areReadsLost) await this.#expectEnd(reader, LOST_READS[reader.wire]);
      else if (reader.wire === "sse") await this.#expectEvents(reader);
      else if (reader.wire === "long-poll") await this.#expectEnd(reader, "200");
      else {
        const outcome = await this.world.inTime("a record", reader.reading!);
        assertEquals(outcome, "fulfilled");
        reader.reading = reader.read();
      }
    }
    this.fault.areRecordsAway = false;
  }

  async #expectEvents(reader: Reader): Promise<void> {
    assertEquals(await this.world.inTime("events", reader.reading!), "events");
    if (!reader.isNew) reader.place = this.#offsets.length;
    Object.assign(reader, { isNew: false, reading: undefined, idleMs: this.world.nowMs });
  }

  async #expectEnd(reader: Reader, outcome: string): Promise<void> {
    this.#remove(reader);
    const reading = reader.reading ?? reader.read();
    assertEquals(await this.world.inTime(`the end of ${reader.wire}`, reading), outcome);
  }

  /** Lets time pass. During this time, readers end or are dropped, each at its own time. */
  async #wait(ms: number): Promise<void> {
    const untilMs = this.world.nowMs + ms;
    for (let isOver = false; !isOver;) {
      const next = Math.min(untilMs, ...this.#open.map(endOf)) + ROUND_MS;
      isOver = next > untilMs;
      await this.world.pause(next - this.world.nowMs);
      for (const reader of this.#open.filter((one) => endOf(one) < next)) {
        const isStalled = endOf(reader) < reader.overMs;
        if (isStalled) this.#limited.stalled++;
        const outcome = isStalled ? "TimeoutError" : reader.wire === "sse" ? "end" : "204";
        await this.#expectEnd(reader, outcome);
      }
      if (!isOver && !this.#isEndNear()) await this.compare("while time passes");
    }
    // The next step must finish before the next end.
    if (this.#isEndNear()) await this.#wait(10 * ROUND_MS);
  }

  #isEndNear(): boolean {
    return this.#open.some((one) => endOf(one) < this.world.nowMs + 10 * ROUND_MS);
  }

  /** Requests one more reader, and returns the rejection, which is counted. */
  #rejection(address: string): string | undefined {
    const ofAddress = this.#open.filter((one) => one.address === address).length;
    if (ofAddress >= MAX_OF_ADDRESS) this.#limited.maxReadersPerAddress++;
    else if (this.#open.length >= MAX_READERS) this.#limited.maxReaders++;
    else return undefined;
    return "429 too-many";
  }

  #pick(who: number): Reader | undefined {
    return this.#open[who % Math.max(1, this.#open.length)];
  }

  #remove(reader: Reader): void {
    this.#open = this.#open.filter((one) => one !== reader);
  }

  #respond(path: string, address: string): Promise<Response> {
    return respond(this.node, `/streams/${path}`, { address });
  }
}

/**
 * Returns the time at which a reader ends, or at which it is dropped because of an unread event.
 */
function endOf({ overMs, idleMs }: Reader): number {
  return Math.min(overMs, (idleMs ?? Infinity) + STALLED_MS);
}

property("a waiting reader has a slot until it ends, leaves or is dropped", {
  cases: fc.array(step, { maxLength: 40, size: "max" }),
  async check(world, steps) {
    const fault: Fault = { isAway: false, areRecordsAway: false };
    const store = await world.store("memory");
    const node = world.serve<string>("node", (host) => {
      const broker = store.broker(host)!;
      const logs = logsOf(broker);
      const read = logs!.read.bind(logs);
      const away = () => Promise.reject(new BrokerError("Cannot read: the broker is away"));
      Object.assign(logs!, {
        read: (...args: Parameters<typeof read>) =>
          fault.isAway || fault.areRecordsAway && args[1].maxRecords > 0 ? away() : read(...args),
      });
      return {
        broker,
        features: streamFeatures({
          path: "/streams",
          authorize: () => true,
          longPollMs: POLL_MS,
          maxReaders: MAX_READERS,
          maxReadersPerAddress: MAX_OF_ADDRESS,
          keep: { records: KEPT, bytes: 1_000_000 },
        }),
        onError() {},
      };
    });
    const readers = new Readers(world, node, fault);
    await readers.start();
    for (const step of steps) await readers.play(step);
    await readers.close();
  },
});
