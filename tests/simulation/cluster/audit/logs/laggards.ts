/** Readers of a durable stream that fall behind, leave and come back: each record once, in order. */
import type { Client } from "../../../../../client/client.ts";
import type { DurableStream } from "../../../../../client/durable_stream.ts";
import type { DurableStreamWriter } from "../../../../../server/durable/writer.ts";
import { STREAM_PREFIX } from "../../../../../session/wire/recovery.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { simulatedClient } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { brokersInMemory } from "../../node_ports.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { Service, type ServiceNode } from "../places/service.ts";
import { auditRetention } from "./retention.ts";

/** Machines of readers; the first one has two readers. */
const MACHINES = 3;

/** Bounds of the queue to each client, of which one is drawn: a page is at most half of the queue. */
const QUEUES = [{}, { maxMessages: 12 }, { maxBytes: 240_000 }] as const;

/** Bytes that pass to a machine on a slow way in a second, and the share of these machines. */
const [SLOW_BYTES, SLOW_SHARE] = [2_000_000, 0.3];

/** Share of readers at a node, without a client. */
const AT_NODE_SHARE = 0.2;

/** Records of a stream, and characters of each: together more than waits for a slow reader. */
const LARGE = { records: 32, characters: 60_000 } as const;

/** The same by number of records, for which a reader has less room than bytes. */
const MANY = { records: 4_400, characters: 4 } as const;

/** Share of streams with many records. */
const MANY_SHARE = 0.15;

/** Records at once, so that appends of many take little time. */
const BATCHES = 32;

/** Longest time between two batches, in milliseconds. */
const GAP_MS = 120;

/** Latest begin of a reader, in milliseconds. */
const LATE_MS = 1_200;

/** Shortest and longest rest of a reader, in milliseconds: most records come meanwhile. */
const REST_MS = [1_000, 4_000] as const;

/** Short rests of a slow reader, and the longest time of one, in milliseconds. */
const [RESTS, SLOW_MS] = [8, 160];

/** Share of batches behind which the connection of a reader breaks. */
const CUT_SHARE = 0.06;

/** Time for all readers to reach the end, and to leave the stream, in milliseconds. */
const [END_MS, LEAVE_MS] = [9_000, 2_000];

/** One record. */
interface Numbered {
  readonly number: number;
  readonly text: string;
}

/** The stream as the writer knows. */
interface Written {
  readonly id: string;
  readonly size: typeof LARGE | typeof MANY;
  /** Offsets behind so many records. */
  readonly offsets: string[];
  /** Number of records so far, with those under way. */
  begun: number;
}

/**
 * Reads a stream at two nodes by clients that are slower than the writer, and one with few records.
 *
 * @param audit The audit.
 */
export async function auditLaggards(audit: Audit): Promise<void> {
  await Promise.all([auditSlow(audit), auditRetention(audit)]);
}

/** Reads a stream that keeps all records. */
async function auditSlow(audit: Audit): Promise<void> {
  const { random } = audit;
  const service = new Service(audit, "laggards", {
    server: {
      durableStreams: { path: "/streams", authorize: () => true },
      session: { sendQueue: oneOf(random, QUEUES) },
      onError() {},
    },
    // Large records cost an engine on the network much time, and the readers see the same.
    brokerOf: brokersInMemory(audit.simulation, audit.host("laggards-engine")),
  });
  const nodes = [service.start(), service.start()] as const;
  const writer = await nodes[0].server.durableStreams.create<Numbered>("audited-behind");
  const size = random() < MANY_SHARE ? MANY : LARGE;
  const written: Written = { id: writer.id, size, offsets: [writer.offset], begun: 0 };
  const machines = Array.from({ length: MACHINES }, (_, i) => {
    const host = audit.host(`laggard-${i}`);
    const isSlow = random() < SLOW_SHARE;
    return new Machine(audit, { host, nodes, bytesPerSecond: isSlow ? SLOW_BYTES : Infinity });
  });
  const laggards = [machines[0]!, ...machines].map((machine) =>
    new Laggard(audit, { machine, random, written })
  );
  const end = random() < 0.6 ? undefined : "tired";
  const writing = write(audit, { writer, written, random, end, machines });
  const outcomes = laggards.map((laggard) => laggard.run());
  await writing;
  const ended = await audit.inTime(Promise.all(outcomes), END_MS, undefined);
  const expected = laggards.map(() => end ?? "fulfilled");
  audit.examine("durable", "ends for slow readers", expected, ended ?? "none in time");
  for (const laggard of laggards) laggard.compare(ended !== undefined);
  await examineLeft(audit, nodes);
  await Promise.all(machines.map((machine) => machine.close()));
  await service.close();
}

/** Appends all records, breaks connections on the way, and ends the stream. */
async function write(
  audit: Audit,
  { writer, written, random, end, machines }: {
    readonly writer: DurableStreamWriter<Numbered>;
    readonly written: Written;
    readonly random: () => number;
    readonly end: string | undefined;
    readonly machines: readonly Machine[];
  },
): Promise<void> {
  const { records, characters } = written.size;
  const text = "x".repeat(characters);
  while (written.begun < records) {
    const next = Math.min(records, written.begun + Math.ceil(records / BATCHES));
    const appending: Promise<void>[] = [];
    while (written.begun < next) {
      appending.push(writer.append({ number: written.begun++, text }));
    }
    await Promise.all(appending);
    written.offsets[next] = writer.offset;
    if (random() < CUT_SHARE) oneOf(random, machines).cut();
    await audit.pause(GAP_MS * random());
  }
  await cancel(audit, { writer, machines });
  await (end === undefined ? writer.close() : writer.abort("given up", { code: end }));
}

/** Asks the writer to stop, by two clients: the first reason stays, and the writer decides. */
async function cancel(
  audit: Audit,
  { writer, machines }: {
    readonly writer: DurableStreamWriter<Numbered>;
    readonly machines: readonly Machine[];
  },
): Promise<void> {
  for (const [i, reason] of ["enough", "late"].entries()) {
    const [client] = machines[i]!.clients;
    await audit.until(() => client!.isConnected);
    const asking = outcomeOf(client!.durableStream(writer.id).cancel(reason));
    audit.examine("durable", `wish of a reader to stop, ${reason}`, "fulfilled", await asking);
    await audit.until(() => writer.signal.aborted, LEAVE_MS);
    audit.examine("durable", "reason of the wish", "enough", writer.signal.reason?.message);
  }
  const asking = outcomeOf(machines[0]!.clients[0]!.durableStream("audited-none").cancel());
  audit.examine("durable", "wish to stop a stream that is not there", "not-found", await asking);
}

/** A machine with a client of each node. */
class Machine {
  /** Number of readers. */
  readers = 0;
  readonly nodes: readonly ServiceNode[];
  readonly clients: readonly Client[];
  readonly #audit: Audit;
  readonly #host: Host;

  constructor(
    audit: Audit,
    { host, nodes, bytesPerSecond }: {
      readonly host: Host;
      readonly nodes: readonly ServiceNode[];
      readonly bytesPerSecond: number;
    },
  ) {
    this.#audit = audit;
    this.#host = host;
    this.nodes = nodes;
    this.clients = nodes.map((node) => {
      audit.network.change(node.host, host, { bytesPerSecond });
      return simulatedClient(audit.network, host, [node.host], {
        token: "laggard",
        transports: ["websocket"],
      });
    });
  }

  /** Breaks the connections. */
  cut(): void {
    this.#audit.cut(this.#host);
  }

  /** Closes the clients. */
  async close(): Promise<void> {
    await Promise.all(this.clients.map((client) => client.close()));
  }
}

/** A stream as a reader uses one. */
type Readable = Pick<DurableStream<Numbered>, "offset" | "isUpToDate"> & AsyncIterable<Numbered>;

/** Reads a stream at a node, with the face of a client's stream. */
function readableAt({ server }: ServiceNode, id: string, after: string | undefined): Readable {
  const readable = {
    offset: after,
    isUpToDate: true,
    async *[Symbol.asyncIterator]() {
      const { offset } = readable;
      const options = offset === undefined ? {} : { after: offset };
      for await (const item of server.durableStreams.follow<Numbered>(id, options)) {
        readable.offset = item.offset;
        yield item.data;
      }
    },
  };
  return readable;
}

/** A reader, with the records so far. */
class Laggard {
  readonly #audit: Audit;
  readonly #written: Written;
  readonly #random: () => number;
  readonly #machine: Machine;
  readonly #numbers: number[] = [];
  /** Differences from the documentation. */
  readonly #wrong: string[] = [];
  /** Bounds of the first record. */
  #first = { least: 0, most: 0 };
  #hasBegun = false;

  constructor(
    audit: Audit,
    { machine, random, written }: {
      readonly machine: Machine;
      readonly random: () => number;
      readonly written: Written;
    },
  ) {
    this.#audit = audit;
    this.#written = written;
    this.#random = random;
    this.#machine = machine;
    machine.readers++;
  }

  /** Reads to the end, with a rest on the way; returns the outcome. */
  async run(): Promise<string> {
    const random = this.#random;
    await this.#audit.pause(LATE_MS * random());
    const { offsets, begun, size } = this.#written;
    const after = oneOf(random, [undefined, "-1", "now", offsets.at(-1)]);
    const place = after === "now" || after === offsets.at(-1) ? offsets.length - 1 : 0;
    // A client has one place in a stream, at which each reader begins that asks for no other place.
    const isShared = after === "now" && this.#machine.readers > 1;
    this.#first = { least: isShared ? 0 : place, most: after === "now" ? begun : place };
    let stream = this.#open(after);
    if (after === "now") void this.#watch(stream);
    const restAt = Math.floor(6 * random());
    const leaveAt = random() < 0.5 ? restAt + Math.floor(12 * random()) : undefined;
    const slowMs = random() < 0.5 ? 0 : SLOW_MS * random();
    const read = async (leaveAt: number | undefined): Promise<boolean> => {
      for await (const { number } of stream) {
        this.#take(number, stream);
        const { length } = this.#numbers;
        if (length === restAt + 1) await this.#audit.pause(between(random, ...REST_MS));
        else if (slowMs > 0 && length % (size.records / RESTS) === 0) {
          await this.#audit.pause(slowMs);
        }
        if (length - 1 === leaveAt) return true;
      }
      return false;
    };
    const outcome = await outcomeOf((async () => {
      // The stream goes on behind the newest record, in the same object and in another one.
      if (await read(leaveAt)) {
        if (random() < 0.5) stream = this.#open(stream.offset);
        await read(undefined);
      }
      if (!stream.isUpToDate) this.#wrong.push("a reader at the end is not up to date");
    })());
    if (after === "now") this.#beginsByNow();
    return outcome;
  }

  /**
   * Compares the records.
   *
   * @param isOver True if the reader has reached the end.
   */
  compare(isOver: boolean): void {
    const numbers = this.#numbers;
    const { least, most } = this.#first;
    const { begun } = this.#written;
    const first = numbers[0] ?? begun;
    const isFirst = first >= least && first <= most;
    this.#expect(`first record ${first}, of ${least} to ${most}`, true, isFirst);
    const wrongAt = numbers.findIndex((number, i) => number !== first + i);
    const around = wrongAt < 0 ? [] : numbers.slice(Math.max(0, wrongAt - 2), wrongAt + 3);
    this.#expect("records out of turn", [], around);
    if (isOver) this.#expect(`number of records from ${first} on`, begun - first, numbers.length);
    this.#expect("places", [], this.#wrong.slice(0, 3));
  }

  #open(after: string | undefined): Readable {
    const { nodes, clients } = this.#machine;
    const { id } = this.#written;
    const random = this.#random;
    return after !== "now" && random() < AT_NODE_SHARE
      ? readableAt(oneOf(random, nodes), id, after)
      : oneOf(random, clients).durableStream<Numbered>(id, { after });
  }

  /** Notes the latest first record of a reader that begins at the end. */
  async #watch(stream: Readable): Promise<void> {
    await this.#audit.until(() => stream.offset !== "now");
    this.#beginsByNow();
  }

  /** Notes once that a reader of the end begins behind no record that is to come. */
  #beginsByNow(): void {
    if (this.#hasBegun) return;
    this.#hasBegun = true;
    this.#first = { ...this.#first, most: this.#written.begun };
  }

  #take(number: number, { offset }: Readable): void {
    this.#numbers.push(number);
    const known = this.#written.offsets[number + 1];
    if (known !== undefined && known !== offset) {
      this.#wrong.push(`offset ${offset} behind record ${number}, not ${known}`);
    }
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("durable", `${what} of a slow reader`, expected, received);
  }
}

/** A loop that is over has left the topic of the stream. */
async function examineLeft(audit: Audit, nodes: readonly ServiceNode[]): Promise<void> {
  const left = () =>
    nodes.flatMap(({ server: { manager, topics } }) =>
      manager.all().flatMap((session) => topics.requestedBy(session))
    ).filter((topic) => topic.startsWith(STREAM_PREFIX));
  await audit.until(() => left().length === 0, LEAVE_MS);
  audit.examine("durable", "streams that no loop of a slow reader needs", [], left());
}
