/** Readers of events who leave an event unread: each is given up in time, and the others go on. */
import { STALLED_MS } from "../../../../../server/http/event_bodies.ts";
import { between, oneOf } from "../../chance.ts";
import { brokersInMemory } from "../../node_ports.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { Service, type ServiceNode } from "../places/service.ts";
import { respond } from "./backend.ts";

/** Readers of one audit. */
const READERS = 4;

/** Times between two events that a reader takes: of one in time, and of one that is given up. */
const PACES_MS: readonly (readonly [number, number])[] = [
  [1_000, 10_000],
  [10_000, 28_000],
  [32_000, 40_000],
  [32_000, 40_000],
];

/** Time in which readers take events, within that of one part of the audit, in milliseconds. */
const READING_MS = 48_000;

/** Share of readers who leave soon, with an event unread, and the longest time of these. */
const [SOON_SHARE, SOON_MS] = [0.3, 12_000];

/** Time around an end in which a reader may have either outcome, and time for an event. */
const [UNSURE_MS, EVENT_MS] = [1_500, 1_000];

/** Path and id of the stream. */
const [PATH, ID] = ["/streams", "stalled"] as const;

/** Outcome of one look at a body: events, or an end. */
export type Found = "events" | "end" | "given up" | "none in time";

/** A node, with the readers of its events. */
interface Crowd {
  readonly audit: Audit;
  readonly node: ServiceNode;
  readonly readers: StalledReader[];
}

/**
 * Lets readers take events at a pace of their own.
 *
 * @param audit The audit.
 */
export async function auditStalledReaders(audit: Audit): Promise<void> {
  const random = audit.chanceOf("stalled-readers");
  const service = new Service(audit, "stalled-readers", {
    server: {
      durableStreams: { path: PATH, authorize: () => true, maxReaders: READERS },
      onError() {},
    },
    brokerOf: brokersInMemory(audit.simulation, audit.host("stalled-readers-engine")),
  });
  const node = service.start();
  const stream = await node.server.durableStreams.create<number>(ID);
  await stream.append(0);
  const readers: StalledReader[] = [];
  const crowd: Crowd = { audit, node, readers };
  for (let left = READERS; left > 0; left--) readers.push(new StalledReader(crowd, random));
  await Promise.all(readers.map((reader) => reader.run(() => stream.append(1))));
  expectPlaces(crowd);
  await stream.close();
  await service.close();
}

/** A reader, who leaves at last. */
class StalledReader {
  /** True for a reader who found the end of the body. */
  #knowsEnd = false;
  /** Time from which the event in hand is left unread for too long. */
  #endMs = -Infinity;
  readonly #crowd: Crowd;
  readonly #random: () => number;

  constructor(crowd: Crowd, random: () => number) {
    this.#crowd = crowd;
    this.#random = random;
  }

  /** True while the body is open; `undefined` around the end. */
  get isOpen(): boolean | undefined {
    const leftMs = this.#endMs - this.#crowd.audit.nowMs;
    return Math.abs(leftMs) < UNSURE_MS ? undefined : leftMs > 0;
  }

  /** True for a reader who was given up. */
  get isGivenUp(): boolean {
    return this.#knowsEnd || this.#endMs !== -Infinity && this.isOpen === false;
  }

  /** Takes events up to the end of the body, or for some time. */
  async run(append: () => Promise<unknown>): Promise<void> {
    const { audit, node } = this.#crowd;
    const outside = `${PATH}/${ID}?offset=-1&live=sse`;
    const { status, body } = await respond(node, { outside });
    this.#expect("status of a reader", 200, status);
    const events = body?.getReader();
    if (events === undefined) return;
    const staysMs = this.#random() < SOON_SHARE ? SOON_MS * this.#random() : READING_MS;
    const leavesMs = audit.nowMs + staysMs;
    let expected: Found = "events";
    for (let taken = 0; expected === "events"; taken++) {
      const found = await audit.inTime(foundBy(events), EVENT_MS, "none in time");
      this.#expect(`body behind ${taken} events`, "events", found);
      if (found !== "events") break;
      this.#endMs = audit.nowMs + STALLED_MS;
      const paceMs = between(this.#random, ...oneOf(this.#random, PACES_MS));
      if (audit.nowMs + paceMs > leavesMs) break;
      await audit.pause(paceMs);
      if (!this.isOpen) {
        expected = "given up";
        this.#knowsEnd = true;
      }
      expectPlaces(this.#crowd);
      await append();
    }
    if (expected === "given up") {
      const found = await audit.inTime(foundBy(events), EVENT_MS, "none in time");
      this.#expect("body of a reader who left an event", expected, found);
    }
    this.#endMs = -Infinity;
    await events.cancel().catch(() => {});
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#crowd.audit.examine("services", `${what} who may stall`, expected, received);
  }
}

/** Expects a place for each reader whose body is open, and a count of those who were given up. */
function expectPlaces({ audit, node, readers }: Crowd): void {
  const open = readers.map(({ isOpen }) => isOpen);
  if (open.includes(undefined)) return;
  const { readers: places, limited } = node.server.httpStats["durableStreams"]!;
  const expected = open.filter((isOpen) => isOpen).length;
  audit.examine("services", "places of readers who may stall", expected, places?.["sse"]);
  const givenUp = readers.filter(({ isGivenUp }) => isGivenUp).length;
  audit.examine("services", "readers who were given up", givenUp, limited?.["stalled"] ?? 0);
}

/**
 * Takes the next events.
 *
 * @param events The body.
 * @returns Events, or the kind of the end.
 */
export async function foundBy(events: ReadableStreamDefaultReader<Uint8Array>): Promise<Found> {
  let isDone = false;
  const outcome = await outcomeOf(events.read().then(({ done }) => void (isDone = done)));
  if (outcome.startsWith("TimeoutError")) return "given up";
  return isDone || outcome !== "fulfilled" ? "end" : "events";
}
