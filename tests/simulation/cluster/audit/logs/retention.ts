/** Slow readers of a stream with few records: each record in order, or an end once one is dropped. */
import { between, oneOf } from "../../chance.ts";
import { brokersInMemory } from "../../node_ports.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { eventsOf } from "../durable.ts";
import { Service, type ServiceNode } from "../places/service.ts";
import { respond } from "../services/backend.ts";

/** Records that the stream keeps, and the most of one burst. */
const [KEPT, BURST] = [6, 5];

/** Steps of one audit, and the share of those of the writer. */
const [STEPS, WRITE_SHARE] = [40, 0.3];

/** Time for an answer, and longest time between two steps, in milliseconds. */
const [ANSWER_MS, GAP_MS] = [2_000, 60];

/** First record of the stream that takes the place of the first one. */
const ANEW = 1_000;

/** Path and id of the stream. */
const [PATH, ID] = ["/streams", "kept"] as const;

/** The stream as the writer knows. */
interface Written {
  first: number;
  count: number;
}

/** A page: records, the offset behind these, and the end if there is one. */
interface Page {
  readonly records: readonly number[];
  readonly offset?: string | undefined;
  readonly end?: string;
}

/** A way to read: the next page, and the leave. */
interface Way {
  next(): Promise<Page>;
  leave(): Promise<unknown>;
}

/** Opens a way to read behind an offset; at the oldest record without one. */
type Face = (node: ServiceNode, after: string | undefined) => Way;

const FACES: Readonly<Record<string, Face>> = {
  events: (node, after = "-1") => {
    let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
    return {
      next: async () => {
        if (reader === undefined) {
          const outside = `${PATH}/${ID}?offset=${after}&live=sse`;
          const response = await respond(node, { outside });
          if (response.status !== 200) return await refusalOf(response);
          reader = response.body!.getReader();
        }
        const { value, done } = await reader.read();
        if (done) return { records: [], end: "end" };
        const events = eventsOf(new TextDecoder().decode(value));
        const texts = (of: string) =>
          events.filter(({ name }) => name === of).map(({ data }) => JSON.parse(data));
        return { records: texts("data").flat(), offset: texts("control").at(-1)?.streamNextOffset };
      },
      leave: async () => await reader?.cancel(),
    };
  },
  pages: (node, after) => pagesOf(node, after, ""),
  "long-polls": (node, after) => pagesOf(node, after, "&live=long-poll"),
  node: ({ server }, after) => {
    const records = server.durableStreams.follow<number>(
      ID,
      after === undefined ? {} : { after },
    )[Symbol.asyncIterator]();
    return {
      next: async () => {
        let page: Page = { records: [], end: "end" };
        const outcome = await outcomeOf((async () => {
          const { value, done } = await records.next();
          if (!done) page = { records: [value.data], offset: value.offset };
        })());
        return outcome === "fulfilled" ? page : { records: [], end: outcome };
      },
      leave: async () => await records.return?.(),
    };
  },
};

/**
 * Lets readers by all faces fall behind the oldest record.
 *
 * @param audit The audit.
 */
export async function auditRetention(audit: Audit): Promise<void> {
  const random = audit.chanceOf("retention");
  const service = new Service(audit, "retention", {
    server: {
      durableStreams: {
        path: PATH,
        authorize: () => true,
        keep: { records: KEPT, bytes: 1_000_000 },
      },
      onError() {},
    },
    brokerOf: brokersInMemory(audit.simulation, audit.host("retention-engine")),
  });
  const node = service.start();
  const streams = node.server.durableStreams;
  let writer = await streams.create<number>(ID);
  const written: Written = { first: 0, count: 0 };
  const write = async () => {
    const count = 1 + Math.floor(BURST * random());
    for (let i = 0; i < count; i++) await writer.append(written.first + written.count++);
  };
  await write();
  // Two readers by each face, as readers of one stream share pages.
  const readers = [...Object.keys(FACES), ...Object.keys(FACES)].map((face) =>
    new Reader(audit, { face, node, written })
  );
  const anewAt = Math.floor(STEPS * random());
  for (let step = 0; step < STEPS; step++) {
    if (step === anewAt) {
      await streams.delete(ID);
      writer = await streams.create<number>(ID);
      [written.first, written.count] = [ANEW, 0];
      // Places of the stream before are places of this one, too.
      while (written.count < KEPT * random()) await write();
      await write();
    }
    if (random() < WRITE_SHARE) await write();
    else await oneOf(random, readers).read();
    if (random() < 0.2) await audit.pause(between(random, 0, GAP_MS));
  }
  await Promise.all(readers.map((reader) => reader.leave()));
  await writer.close();
  await service.close();
}

/** A reader, which begins anew at the oldest record once overtaken. */
class Reader {
  readonly #audit: Audit;
  readonly #face: string;
  readonly #node: ServiceNode;
  readonly #written: Readonly<Written>;
  #way: Way | undefined;
  /** The next record; `undefined` for the oldest one. */
  #next: number | undefined;
  #offset: string | undefined;

  constructor(audit: Audit, { face, node, written }: {
    readonly face: string;
    readonly node: ServiceNode;
    readonly written: Readonly<Written>;
  }) {
    this.#audit = audit;
    this.#face = face;
    this.#node = node;
    this.#written = written;
  }

  /** Reads a page, unless there is nothing to read. */
  async read(): Promise<void> {
    const { first: begin, count } = this.#written;
    const tail = begin + count;
    if (this.#next === tail) return;
    const oldest = Math.max(begin, tail - KEPT);
    const isOvertaken = this.#next !== undefined && this.#next < oldest;
    this.#way ??= FACES[this.#face]!(this.#node, this.#offset);
    const late: Page = { records: [], end: "none in time" };
    let page: Page = { records: [] };
    // A reader at the end of before was told so.
    while (page.records.length === 0 && page.end === undefined) {
      page = await this.#audit.inTime(this.#way.next(), ANSWER_MS, late);
      this.#offset = page.offset ?? this.#offset;
    }
    const { records, end } = page;
    if (end !== undefined) return this.#end(end, isOvertaken);
    const first = this.#next ?? oldest;
    const expected = records.map((_, i) => first + i);
    this.#expect(`records from ${first} on, of ${oldest} to ${tail - 1}`, expected, records);
    this.#next = records.at(-1)! + 1;
  }

  /** Leaves the stream. */
  async leave(): Promise<void> {
    const leaving = this.#way?.leave();
    if (leaving !== undefined) await this.#audit.inTime(leaving, ANSWER_MS, undefined);
  }

  /** Expects that a reader who came to an end was overtaken, also at the next attempt. */
  #end(end: string, isOvertaken: boolean): void {
    const isEvents = this.#face === "events" && end === "end";
    const isRight = isOvertaken && (isEvents || end === "gone");
    if (!isRight) this.#expect(`end behind record ${this.#next}`, "records", end);
    this.#way = undefined;
    // The body of events ends without a reason, which the next request tells.
    if (isRight && isEvents) return;
    [this.#next, this.#offset] = [undefined, undefined];
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("durable", `${what}, read by ${this.#face}`, expected, received);
  }
}

/** Reads page by page over HTTP. */
function pagesOf(node: ServiceNode, after: string = "-1", live: string): Way {
  let offset = after;
  return {
    next: async () => {
      const response = await respond(node, { outside: `${PATH}/${ID}?offset=${offset}${live}` });
      if (response.status !== 200) return await refusalOf(response);
      offset = response.headers.get("stream-next-offset") ?? "none";
      return { records: await response.json(), offset };
    },
    leave: () => Promise.resolve(),
  };
}

/** The code of a refusal, as the end of the page. */
async function refusalOf(response: Response): Promise<Page> {
  const { code } = await response.json() as { readonly code: string };
  return { records: [], end: code };
}
