/** Readers who wait over HTTP: places of an address and of a node, and the figures of these. */
import { BrokerError } from "../../../../../errors.ts";
import { oneOf } from "../../chance.ts";
import { brokersInMemory } from "../../node_ports.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { brokerWithLogs } from "../logs/broker_with_logs.ts";
import { ROUND_MS, Service, type ServiceNode } from "../places/service.ts";
import { outcomeOf as answerOf, respond } from "./backend.ts";

/** Most readers of an address, and of the node. */
const [OF_ADDRESS, OF_NODE] = [2, 4];

/** Steps of one audit. */
const STEPS = 30;

/** Longest wait of a long-poll, longer than the audit, and time for an answer, in milliseconds. */
const [POLL_MS, ANSWER_MS] = [50_000, 2_000];

/** Oldest records beyond this number are dropped. */
const KEPT = 3;

/** Path and ids of the streams: one that lives, one that a fork keeps, the fork, and none. */
const [PATH, ID, DELETED, FORK, NONE] = ["/streams", "live", "deleted", "fork", "none"] as const;

const ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3"] as const;

const WIRES = ["sse", "long-poll"] as const;

/** Ends of readers at a node that closes. */
const ENDS = { sse: "end", "long-poll": "503 unavailable" } as const;

/** A reader who waits. */
interface Waiting {
  readonly wire: typeof WIRES[number] | "node";
  readonly address: string;
  /** Leaves; absent for a long-poll, which ends with the next record. */
  readonly leave?: () => Promise<unknown>;
  /** Outcome of a long-poll, or of the last record. */
  readonly told: Promise<string>;
}

/**
 * Lets readers come, wait, leave, and be refused in each way.
 *
 * @param audit The audit.
 */
export async function auditReaderPlaces(audit: Audit): Promise<void> {
  const engine = brokersInMemory(audit.simulation, audit.host("reader-places-engine"));
  const trouble = { isAway: false };
  const service = new Service(audit, "reader-places", {
    server: {
      durableStreams: {
        path: PATH,
        authorize: () => true,
        longPollMs: POLL_MS,
        maxReadersPerAddress: OF_ADDRESS,
        maxReaders: OF_NODE,
        keep: { records: KEPT, bytes: 1_000_000 },
      },
      onError() {},
    },
    brokerOf: (host) =>
      brokerWithLogs(engine(host), (name, own) => async (...values) => {
        if (trouble.isAway && name === "read") throw new BrokerError("Cannot read: engine is away");
        return await own(...values);
      }),
  });
  const places = new Places(audit, service.start(), trouble);
  await places.begin();
  await places.run();
  await places.end(service);
}

class Places {
  readonly #audit: Audit;
  readonly #node: ServiceNode;
  readonly #random: () => number;
  readonly #trouble: { isAway: boolean };
  readonly #refused = { maxReaders: 0, maxReadersPerAddress: 0 };
  /** Offsets behind the records of the stream. */
  readonly #offsets: string[] = [];
  #foreign = "";
  #waiting: Waiting[] = [];

  constructor(audit: Audit, node: ServiceNode, trouble: { isAway: boolean }) {
    this.#audit = audit;
    this.#node = node;
    this.#random = audit.chanceOf("reader-places");
    this.#trouble = trouble;
  }

  /** Creates the streams. */
  async begin(): Promise<void> {
    const { durableStreams } = this.#node.server;
    const deleted = await durableStreams.create(DELETED);
    this.#foreign = deleted.offset;
    await deleted.release();
    await (await durableStreams.create(FORK, { fork: { source: DELETED } })).release();
    await durableStreams.delete(DELETED);
    await (await durableStreams.create(ID)).release();
    for (let i = 0; i <= KEPT + 1; i++) await this.#append();
  }

  /** Lets readers come and go, and compares the figures behind each step. */
  async run(): Promise<void> {
    for (let step = 0; step < STEPS; step++) {
      const drawn = this.#random();
      if (drawn < 0.4) await this.#refuse();
      else if (drawn < 0.75) await this.#enter();
      else if (drawn < 0.9) await this.#leave();
      else await this.#append();
      if (!await this.#compare(`step ${step}`)) return;
    }
  }

  /** Closes the node, with readers who wait over HTTP. */
  async end(service: Service): Promise<void> {
    const waiting = this.#waiting;
    this.#waiting = [];
    // Such a reader may hear of the end of the engine first.
    for (const { wire, leave } of waiting) if (wire === "node") await leave!();
    await service.close();
    for (const { wire, told } of waiting) {
      if (wire === "node") continue;
      const outcome = await this.#audit.inTime(told, ANSWER_MS, "none in time");
      this.#expect(`end of a reader by ${wire} at a node that closes`, ENDS[wire], outcome);
    }
    await this.#compare("the end of the node");
  }

  /** Asks for what no reader gets: the place comes back at once. */
  async #refuse(): Promise<void> {
    const isAway = this.#random() < 0.2;
    const [id, offset, outcome] = oneOf(this.#random, [
      [NONE, "-1", "404 not-found"],
      [DELETED, "-1", "410 gone"],
      [ID, this.#foreign, "410 gone"],
      [ID, this.#offsets[0]!, "410 gone"],
    ]);
    const address = oneOf(this.#random, ADDRESSES);
    const wire = oneOf(this.#random, WIRES);
    const expected = this.#bound(address) ?? (isAway ? "503 unavailable" : outcome);
    // Readers who still read the last record would hear of the engine.
    if (isAway) await this.#audit.pause(ROUND_MS);
    this.#trouble.isAway = isAway;
    const response = this.#ask({ id, offset, wire, address }).then(textOf);
    const received = await this.#audit.inTime(response, ANSWER_MS, "none in time");
    this.#trouble.isAway = false;
    const of = `${wire} of ${id} behind ${offset}${isAway ? " without the engine" : ""}`;
    this.#expect(`request for ${of}`, expected, received);
  }

  /** Lets one more reader wait for the next record. */
  async #enter(): Promise<void> {
    const address = oneOf(this.#random, ADDRESSES);
    const wire = oneOf(this.#random, [...WIRES, ...WIRES, "node"] as const);
    if (wire === "node") return await this.#enterAtNode();
    const refusal = this.#bound(address);
    const asking = this.#ask({ id: ID, offset: this.#offsets.at(-1)!, wire, address });
    if (refusal !== undefined) {
      const received = await this.#audit.inTime(asking.then(textOf), ANSWER_MS, "none in time");
      return this.#expect(`one more reader by ${wire}`, refusal, received);
    }
    if (wire === "long-poll") {
      this.#waiting.push({ wire, address, told: asking.then(textOf) });
      return;
    }
    const response = await this.#audit.inTime(asking, ANSWER_MS, undefined);
    this.#expect("reader of events", 200, response?.status);
    const events = response?.body?.getReader();
    if (events === undefined) return;
    const told = endOf(() => events.read());
    this.#waiting.push({ wire, address, told, leave: () => events.cancel() });
  }

  /** Reads at the node: a reader of no address, and of no figure over HTTP. */
  async #enterAtNode(): Promise<void> {
    const left = new AbortController();
    const isFull = this.#waiting.length >= OF_NODE;
    const records = this.#node.server.durableStreams.follow(ID, {
      after: this.#offsets.at(-1)!,
      signal: left.signal,
    })[Symbol.asyncIterator]();
    const told = endOf(() => records.next());
    if (isFull) {
      const outcome = await this.#audit.inTime(told, ANSWER_MS, "none in time");
      return this.#expect("one more reader at the node", "LimitError", outcome);
    }
    const leave = () => {
      left.abort();
      return told;
    };
    this.#waiting.push({ wire: "node", address: "", told, leave });
    // No figure shows that this reader has a place.
    await this.#audit.pause(ROUND_MS);
  }

  async #leave(): Promise<void> {
    const able = this.#waiting.filter(({ leave }) => leave !== undefined);
    if (able.length === 0) return;
    const one = oneOf(this.#random, able);
    this.#waiting = this.#waiting.filter((other) => other !== one);
    await this.#audit.inTime(one.leave!(), ANSWER_MS, undefined);
  }

  /** Appends a record, with which all long-polls end. */
  async #append(): Promise<void> {
    const response = await respond(this.#node, { outside: `${PATH}/${ID}`, json: 1 });
    await response.body?.cancel();
    this.#offsets.push(response.headers.get("stream-next-offset") ?? "none");
    const polls = this.#waiting.filter(({ wire }) => wire === "long-poll");
    this.#waiting = this.#waiting.filter((other) => !polls.includes(other));
    const outcomes = await Promise.all(
      polls.map(({ told }) => this.#audit.inTime(told, ANSWER_MS, "none in time")),
    );
    this.#expect("long-polls behind a record", polls.map(() => "200"), outcomes);
  }

  /** The refusal by a bound, which counts. */
  #bound(address: string): string | undefined {
    const count = this.#waiting.filter((one) => one.address === address).length;
    const isFull = this.#waiting.length >= OF_NODE;
    if (count < OF_ADDRESS && !isFull) return undefined;
    if (count >= OF_ADDRESS) this.#refused.maxReadersPerAddress++;
    else this.#refused.maxReaders++;
    return "429 too-many";
  }

  /** Compares the figures; false if these stay wrong. */
  async #compare(behind: string): Promise<boolean> {
    const count = (of: string) => this.#waiting.filter(({ wire }) => wire === of).length;
    const expected = [count("long-poll"), count("sse"), ...Object.values(this.#refused)];
    const figures = () => {
      const { readers, limited } = this.#node.server.httpStats["durableStreams"]!;
      return [
        readers?.["long-poll"],
        readers?.["sse"],
        limited?.["maxReaders"],
        limited?.["maxReadersPerAddress"],
      ];
    };
    const isRight = await this.#audit.until(() => `${figures()}` === `${expected}`, ANSWER_MS);
    if (!isRight) this.#expect(`figures of readers behind ${behind}`, expected, figures());
    return isRight;
  }

  #ask({ id, offset, wire, address }: {
    readonly id: string;
    readonly offset: string;
    readonly wire: typeof WIRES[number];
    readonly address: string;
  }): Promise<Response> {
    return respond(this.#node, {
      outside: `${PATH}/${id}?offset=${offset}&live=${wire}`,
      address,
    });
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", what, expected, received);
  }
}

/** Names the outcome of a request. */
async function textOf(response: Response): Promise<string> {
  const { status, headers } = response;
  const text = await response.text();
  const body = status < 400 ? undefined : JSON.parse(text);
  return answerOf({ status, headers, body });
}

/** Reads to the end; names the end. */
async function endOf(
  read: () => Promise<{ readonly done?: boolean | undefined }>,
): Promise<string> {
  const reading = async () => {
    while (!(await read()).done);
  };
  const outcome = await outcomeOf(reading());
  return outcome === "fulfilled" ? "end" : outcome;
}
