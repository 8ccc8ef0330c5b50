/** Readers of events of quiet streams: each body lasts, however long no record comes, up to its time. */
import { SSE_MS } from "../../../../../server/durable/sse.ts";
import { STALLED_MS } from "../../../../../server/http/event_bodies.ts";
import type { DurableStreamWriter } from "../../../../../server/durable/writer.ts";
import { between } from "../../chance.ts";
import { brokersInMemory } from "../../node_ports.ts";
import type { Audit } from "../audit.ts";
import { Service, type ServiceNode } from "../places/service.ts";
import { respond } from "./backend.ts";
import { type Found, foundBy } from "./stalled_readers.ts";

/** Readers of one audit, each of a stream of its own. */
const READERS = 4;

/** Speed of the clocks of node and engine: the time of a body is longer than an audit. */
const SPEED = 4;

/** Longest time of a wait of a reader for a record, and of one who leaves an event unread, in milliseconds. */
const [WAITS_MS, LEAVES_MS] = [45_000, 36_000] as const;

/** Share of the steps in which a reader waits for a record. */
const WAITS_SHARE = 0.65;

/** Share of readers who leave before the end of the body. */
const LEAVING_SHARE = 0.2;

/** Time around an end in which a reader may have either outcome, and time for an event, in milliseconds. */
const [UNSURE_MS, EVENT_MS] = [2_000, 1_600];

/** Name of the service, and path of the streams. */
const [NAME, PATH] = ["quiet-readers", "/streams"] as const;

/** A node, with the readers of its events. */
interface Crowd {
  readonly audit: Audit;
  readonly node: ServiceNode;
  readonly readers: QuietReader[];
  readonly random: () => number;
}

/**
 * Lets readers wait for records that come late or never, and leave events unread.
 *
 * @param audit The audit.
 */
export async function auditQuietReaders(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const engine = audit.host(`${NAME}-engine`);
  // Before the node starts: a timer keeps the speed at which the clock ran when the timer was set.
  for (const host of [engine, audit.host(`${NAME}-0`)]) host.setDrift(SPEED - 1);
  const service = new Service(audit, NAME, {
    server: {
      durableStreams: { path: PATH, authorize: () => true, maxReaders: READERS },
      onError() {},
    },
    brokerOf: brokersInMemory(audit.simulation, engine),
  });
  const node = service.start();
  const readers: QuietReader[] = [];
  const crowd: Crowd = { audit, node, readers, random };
  const writers: DurableStreamWriter<number>[] = [];
  for (let i = 0; i < READERS; i++) {
    const id = `${NAME}-${i}`;
    const writer = await node.server.durableStreams.create<number>(id);
    await writer.append(0);
    writers.push(writer);
    readers.push(new QuietReader(crowd, id, () => writer.append(1)));
  }
  await Promise.all(readers.map((reader) => reader.run()));
  expectPlaces(crowd);
  await Promise.all(writers.map((writer) => writer.close()));
  await service.close();
}

/** A reader, up to the end of the body. */
class QuietReader {
  readonly #crowd: Crowd;
  readonly #id: string;
  readonly #append: () => Promise<unknown>;
  /** Time of the end of the body, as far as is known, by the clock of the node. */
  #endMs = -Infinity;
  /** True if that would be the end of a reader who left an event unread. */
  #isStalled = false;
  #wasGivenUp = false;

  constructor(crowd: Crowd, id: string, append: () => Promise<unknown>) {
    this.#crowd = crowd;
    this.#id = id;
    this.#append = append;
  }

  /** True while the body is open; `undefined` around the end. */
  get isOpen(): boolean | undefined {
    const leftMs = this.#endMs - this.#nowMs;
    return Math.abs(leftMs) < UNSURE_MS ? undefined : leftMs > 0;
  }

  /** True for a reader who was given up. */
  get isGivenUp(): boolean {
    const isOver = this.#endMs !== -Infinity && this.isOpen === false;
    return this.#wasGivenUp || this.#isStalled && isOver;
  }

  /** Reads events up to the end of the body, or for some time. */
  async run(): Promise<void> {
    const { node, random } = this.#crowd;
    const outside = `${PATH}/${this.#id}?offset=-1&live=sse`;
    const { status, body } = await respond(node, { outside });
    this.#expect("status of a reader", 200, status);
    const events = body?.getReader();
    if (events === undefined) return;
    const lastMs = this.#nowMs + SSE_MS;
    const leavesMs = random() < LEAVING_SHARE ? this.#nowMs + SSE_MS * random() : Infinity;
    const first = await this.#found(foundBy(events), EVENT_MS);
    this.#expect("first events", "events", first);
    const steps: string[] = [];
    for (let isOver = first !== "events"; !isOver && this.#nowMs < leavesMs;) {
      const waits = random() < WAITS_SHARE;
      // A wait has no bound of its own; an event that is left has one.
      this.#endMs = waits ? lastMs : Math.min(lastMs, this.#nowMs + STALLED_MS);
      this.#isStalled = this.#endMs < lastMs;
      const leftMs = this.#endMs - this.#nowMs;
      let paceMs = Math.floor(between(random, 0, waits ? WAITS_MS : LEAVES_MS));
      if (Math.abs(paceMs - leftMs) < 2 * UNSURE_MS) paceMs = leftMs + 2 * UNSURE_MS;
      // Both ends of an event that is left are too near each other.
      if (!waits && Math.abs(this.#nowMs + STALLED_MS - lastMs) < 2 * UNSURE_MS) paceMs = 0;
      steps.push(`${waits ? "waits" : "leaves an event"} ${paceMs}`);
      const reading = waits ? foundBy(events) : undefined;
      isOver = paceMs > leftMs;
      const early = await this.#found(reading ?? new Promise(() => {}), paceMs);
      const due: Found = !isOver || !waits ? "none in time" : "end";
      this.#expect(`body of a reader who ${steps.join(", ")}`, due, early);
      if (early !== due) break;
      expectPlaces(this.#crowd);
      if (isOver && waits) break;
      this.#wasGivenUp = isOver && this.#isStalled;
      await this.#append();
      const found = await this.#found(reading ?? foundBy(events), EVENT_MS);
      // The last event may be one that nobody has taken when the time of the body is over.
      const outcome = !isOver ? "events" : this.#isStalled ? "given up" : "end";
      this.#expect(`next events of a reader who ${steps.join(", ")}`, outcome, found);
      if (found !== outcome) break;
    }
    this.#endMs = -Infinity;
    await events.cancel().catch(() => {});
  }

  /** Time by the clock of the node. */
  get #nowMs(): number {
    return this.#crowd.audit.nowMs * SPEED;
  }

  #found(found: Promise<Found>, withinMs: number): Promise<Found> {
    return this.#crowd.audit.inTime(found, withinMs / SPEED, "none in time");
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#crowd.audit.examine("services", `${what} of a quiet stream`, expected, received);
  }
}

/** Expects a place for each reader whose body is open, and a count of those who were given up. */
function expectPlaces({ audit, node, readers }: Crowd): void {
  const open = readers.map(({ isOpen }) => isOpen);
  if (open.includes(undefined)) return;
  const { readers: places, limited } = node.server.httpStats["durableStreams"]!;
  const expected = open.filter((isOpen) => isOpen).length;
  audit.examine("services", "places of readers of quiet streams", expected, places?.["sse"]);
  const givenUp = readers.filter(({ isGivenUp }) => isGivenUp).length;
  const what = "readers of quiet streams who were given up";
  audit.examine("services", what, givenUp, limited?.["stalled"] ?? 0);
}
