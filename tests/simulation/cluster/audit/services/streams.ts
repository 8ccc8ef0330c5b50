/** Durable streams in each state, by all faces of two nodes: HTTP, sessions and the servers. */
import type { Client } from "../../../../../client/client.ts";
import type { DurableStreamWriter } from "../../../../../server/durable/writer.ts";
import { oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { ROUND_MS, Service, type ServiceNode } from "../places/service.ts";
import { type Answer, ask, outcomeOf as answerOf, type Question } from "./backend.ts";
import { auditBounds } from "./bounds.ts";
import { auditForest } from "./forest.ts";
import { auditQuietReaders } from "./quiet_readers.ts";
import { auditReaderPlaces } from "./reader_places.ts";
import { auditStalledReaders } from "./stalled_readers.ts";

/** Steps of one audit. */
const STEPS = 12;

/** Longest wait of a long-poll, in milliseconds. */
const POLL_MS = 500;

/** Readers of one address that wait. */
const MAX_WAITING = 2;

/** Time in which a session reads all records, and in which an engine is ready, in milliseconds. */
const [READ_MS, READY_MS] = [2_000, 8_000];

/** Path, and ids of the stream and of a fork that is refused. */
const [PATH, ID, LATE_FORK] = ["/streams", "audited", "audited-late"] as const;

/** Forks, each of the one before. */
const FORKS = ["audited-fork", "audited-fork-of-fork", "audited-third-fork"] as const;

/** One stream between creation and deletion. */
interface Life {
  readonly records: number[];
  /** Offsets behind so many records. */
  readonly offsets: string[];
  writer: DurableStreamWriter<number> | undefined;
  /** The end: complete, or the code of an error. */
  end: string | undefined;
}

/** An id, with the stream if there is one. */
interface Place {
  readonly id: string;
  readonly life: Life | undefined;
}

/** A stream that there is. */
interface Named {
  readonly id: string;
  readonly life: Life;
}

/** The records, or the reason why none came. */
interface Reading {
  readonly outcome: string;
  readonly records: readonly unknown[];
}

/**
 * Creates, writes, ends and deletes a stream, then reads from each place of each life.
 *
 * @param audit The audit.
 */
export async function auditStates(audit: Audit): Promise<void> {
  const parts = [
    auditStream,
    auditForest,
    auditBounds,
    auditReaderPlaces,
    auditQuietReaders,
    auditStalledReaders,
  ];
  await Promise.all(parts.map((part) => part(audit)));
}

/** Walks one stream through its states. */
async function auditStream(audit: Audit): Promise<void> {
  const service = new Service(audit, "streams", {
    server: {
      durableStreams: {
        path: PATH,
        authorize: () => true,
        longPollMs: POLL_MS,
        maxReadersPerAddress: MAX_WAITING,
      },
      onError() {},
    },
  });
  const nodes = [service.start(), service.start()] as const;
  const clients = nodes.map((node) => service.enter("reader", node));
  if (await audit.until(() => clients.every(({ isConnected }) => isConnected), READY_MS)) {
    const states = new States(audit, nodes, clients);
    if (await states.isReady()) await states.run();
  }
  await Promise.all(clients.map((client) => client.close()));
  await service.close();
}

/** The stream of one audit, with all lives so far. */
class States {
  readonly #audit: Audit;
  readonly #nodes: readonly [ServiceNode, ServiceNode];
  readonly #clients: readonly Client[];
  readonly #random: () => number;
  readonly #past: Life[] = [];
  #life: Life | undefined;
  #records = 0;

  constructor(
    audit: Audit,
    nodes: readonly [ServiceNode, ServiceNode],
    clients: readonly Client[],
  ) {
    this.#audit = audit;
    this.#nodes = nodes;
    this.#clients = clients;
    this.#random = audit.random;
  }

  /** Waits for the engine: the first stream may have to wait for servers that agree on a leader. */
  async isReady(): Promise<boolean> {
    const endMs = this.#audit.nowMs + READY_MS;
    for (const node of this.#nodes) {
      while ((await this.#ask({ method: "HEAD" }, node)).status !== 404) {
        if (this.#audit.nowMs > endMs) return false;
        await this.#audit.pause(ROUND_MS);
      }
      const answer = await this.#ask({ method: "PUT", headers: JSON_TYPE }, node);
      this.#expect("first creation", "201", answerOf(answer));
      await this.#ask({ method: "DELETE" }, node);
    }
    return true;
  }

  /** Changes the stream in drawn steps, and reads behind each. */
  async run(): Promise<void> {
    for (let step = 0; step < STEPS; step++) {
      await this.#change();
      for (const face of [this.#byHttp, this.#bySession, this.#byNode]) {
        await this.#read(face, this.#random() < 0.4);
      }
      await this.#look();
    }
    await this.#poll();
    await this.#close();
  }

  /** Makes a change that the state allows, behind a refused append. */
  async #change(): Promise<void> {
    const life = this.#life;
    if (life === undefined) return await this.#create();
    const drawn = this.#random();
    if (life.end !== undefined || drawn < 0.15) {
      return this.#random() < 0.4 ? await this.#fork(life) : await this.#delete();
    }
    await this.#refuse(life);
    if (drawn < 0.6) await this.#append({ id: ID, life });
    else if (drawn < 0.75) await this.#hand(life);
    else await this.#finish(life);
  }

  async #create(): Promise<void> {
    const { server } = this.#node();
    const isHeld = this.#random() < 0.5;
    const life: Life = { records: [], offsets: [], writer: undefined, end: undefined };
    if (isHeld) {
      const creating = server.durableStreams.create<number>(ID);
      this.#expect("creation by a node", "fulfilled", await outcomeOf(creating));
      life.writer = await creating;
      life.offsets.push(life.writer.offset);
    } else {
      const answer = await this.#ask({ method: "PUT", headers: JSON_TYPE });
      this.#expect("creation over HTTP", "201", answerOf(answer));
      life.offsets.push(answer.headers.get("stream-next-offset") ?? "none");
    }
    this.#life = life;
    const again = await this.#ask({ method: "PUT", headers: TEXT_TYPE });
    this.#expect("creation with another type", "409 exists", answerOf(again));
    const other = outcomeOf(this.#node().server.durableStreams.create(ID));
    this.#expect("creation of a stream that exists", "exists", await other);
  }

  /** Asks for what the state refuses. */
  async #refuse(life: Life): Promise<void> {
    const post = async (headers: Readonly<Record<string, string>>, text?: string) =>
      answerOf(await this.#ask({ method: "POST", headers, ...(text && { text }) }));
    if (life.writer !== undefined) {
      const opening = outcomeOf(this.#node().server.durableStreams.open(ID));
      this.#expect("takeover from a living writer", "held", await opening);
      return;
    }
    const [outcome, headers, text] = oneOf(this.#random, REFUSED_APPENDS);
    this.#expect(
      `append of ${text} with ${JSON.stringify(headers)}`,
      outcome,
      await post(headers, text),
    );
  }

  async #append({ id, life }: Named): Promise<void> {
    const record = this.#records++;
    const { writer } = life;
    // A program over HTTP may append beside a writer.
    if (writer !== undefined && this.#random() < 0.7) {
      this.#expect("append of a writer", "fulfilled", await outcomeOf(writer.append(record)));
      life.offsets.push(writer.offset);
    } else {
      const answer = await this.#ask({ headers: JSON_TYPE, json: record }, this.#node(), id);
      this.#expect("append over HTTP", "204", answerOf(answer));
      life.offsets.push(answer.headers.get("stream-next-offset") ?? "none");
    }
    life.records.push(record);
  }

  /** Gives the stream to another writer, or away from the last one. */
  async #hand(life: Life): Promise<void> {
    if (life.writer !== undefined) {
      this.#expect("release", "fulfilled", await outcomeOf(life.writer.release()));
      life.writer = undefined;
    }
    const opening = this.#node().server.durableStreams.open<number>(ID);
    this.#expect("takeover of a free stream", "fulfilled", await outcomeOf(opening));
    life.writer = await opening;
    this.#expect("offset of the next writer", life.offsets.at(-1), life.writer.offset);
  }

  /** Asks for a stop, and ends the stream. */
  async #finish(life: Life): Promise<void> {
    const reason = oneOf(this.#random, ["enough", "zu 100 % spät"]);
    const cancel = await this.#ask({ method: "POST", path: "?action=cancel", text: reason });
    this.#expect("wish to stop", "204", answerOf(cancel));
    const { writer } = life;
    const isAborted = writer !== undefined && this.#random() < 0.5;
    if (writer !== undefined) {
      await this.#audit.until(() => writer.signal.aborted, READ_MS);
      this.#expect("reason of a wish to stop", reason, writer.signal.reason?.message);
      const ending = isAborted ? writer.abort("given up", { code: "tired" }) : writer.close();
      this.#expect("end by a writer", "fulfilled", await outcomeOf(ending));
      this.#expect("append behind the end", "ended", await outcomeOf(writer.append(-1)));
    } else {
      const answer = await this.#ask({ method: "POST", headers: { "stream-closed": "true" } });
      this.#expect("end over HTTP", "204", answerOf(answer));
    }
    life.end = isAborted ? "tired" : "complete";
    life.writer = undefined;
    const answer = await this.#ask({ headers: JSON_TYPE, json: 0 });
    this.#expect("append to an ended stream", "409 closed", answerOf(answer));
    this.#expect("end of an ended stream", "true", answer.headers.get("stream-closed"));
    const late = await this.#ask({ method: "POST", path: "?action=cancel", text: "late" });
    const told = [late.headers.get("stream-closed"), late.headers.get("skein-stream-cancelled")];
    this.#expect("late wish to stop", ["true", encoded(reason)], told);
    const opening = outcomeOf(this.#node().server.durableStreams.open(ID));
    this.#expect("takeover of an ended stream", "ended", await opening);
  }

  /** Forks the stream, and forks the fork: all share places and records, also with deleted ones. */
  async #fork(life: Life): Promise<void> {
    const chain: Named[] = [{ id: ID, life }];
    const depth = 1 + Math.floor(FORKS.length * this.#random());
    for (const id of FORKS.slice(0, depth)) {
      const source = chain.at(-1)!;
      chain.push(await this.#forkOf(source, id));
      // The fork does not have what the source gets from now on.
      if (source.life.end === undefined && this.#random() < 0.5) await this.#append(source);
    }
    for (const of of chain) await this.#readPlaces(of, chain);
    const left = [...chain];
    while (left.length > 0) {
      const [gone] = left.splice(Math.floor(left.length * this.#random()), 1) as [Named];
      const isKept = left.some((other) => chain.indexOf(other) > chain.indexOf(gone));
      await this.#remove(gone.id, isKept);
      for (const of of left) await this.#readPlaces(of, chain);
    }
    for (const { id } of chain) {
      const answer = await this.#ask({ path: "?offset=-1" }, this.#node(), id);
      this.#expect(`read of ${id} behind the last fork`, "404 not-found", answerOf(answer));
    }
    this.#past.push({ ...life, writer: undefined });
    this.#life = undefined;
  }

  /** Makes a fork at a drawn place, with own records at offsets that the source does not have. */
  async #forkOf({ id: source, life: { records, offsets } }: Named, id: string): Promise<Named> {
    const end = offsets.length - 1;
    const place = this.#random() < 0.35 ? end : Math.floor(offsets.length * this.#random() ** 2);
    const isAtEnd = place === end && this.#random() < 0.5;
    const before = this.#random() < 0.5 ? 0 : Math.floor((place + 1) * this.#random());
    const offset = offsets[place - before]!;
    const fork: Named = {
      id,
      life: {
        records: records.slice(0, place),
        offsets: offsets.slice(0, place + 1),
        writer: undefined,
        end: undefined,
      },
    };
    const headers = {
      ...JSON_TYPE,
      "stream-forked-from": `${PATH}/${source}`,
      ...(!isAtEnd && { "stream-fork-offset": offset, "stream-fork-sub-offset": `${before}` }),
    };
    const put = () => this.#ask({ method: "PUT", headers }, this.#node(), id);
    if (this.#random() < 0.4) {
      const creating = this.#node().server.durableStreams.create<number>(id, {
        fork: isAtEnd ? { source } : { source, offset: offsets[place]! },
      });
      this.#expect("fork by a node", "fulfilled", await outcomeOf(creating));
      fork.life.writer = await creating;
      this.#expect("first offset of a fork", offsets[place], fork.life.writer.offset);
    } else {
      const answer = await put();
      this.#expect("fork", "201", answerOf(answer));
      const first = answer.headers.get("stream-next-offset");
      this.#expect("first offset of a fork", offsets[place], first);
    }
    this.#expect("fork again", "200", answerOf(await put()));
    for (let left = 1 + Math.floor(3 * this.#random()); left > 0; left--) await this.#append(fork);
    const shared = fork.life.offsets.slice(place + 1).filter((own) => offsets.includes(own));
    this.#expect("offsets of own records that the source has", [], shared);
    return fork;
  }

  /** Reads a stream by all faces from places of its own, and from those of streams beside. */
  async #readPlaces(of: Named, chain: readonly Named[]): Promise<void> {
    const { records, offsets, end } = of.life;
    const bounds = chain.flatMap(({ life }) => [life.offsets.at(-1)!, life.offsets.at(-2)!]);
    const all = chain.flatMap(({ life }) => life.offsets);
    for (const face of [this.#byHttp, this.#bySession, this.#byNode]) {
      const after = this.#random() < 0.3
        ? undefined
        : oneOf(this.#random, this.#random() < 0.5 ? bounds : all);
      const place = after === undefined ? 0 : offsets.indexOf(after);
      const expected = place < 0 ? { outcome: "gone", records: [] } : {
        outcome: face === this.#bySession && end === "tired" ? end : "fulfilled",
        records: records.slice(place),
      };
      const count = end === undefined ? expected.records.length : Infinity;
      const reading = await face.call(this, of, after, count);
      const what = `reading ${face.name} of ${of.id} behind ${after ?? "nothing"}, with forks`;
      this.#expect(what, expected, reading);
    }
  }

  /** Deletes a stream with forks, which keep the records, but not the id. */
  async #remove(id: string, isKept: boolean): Promise<void> {
    const outcome = async (question: Question, other = id) =>
      answerOf(await this.#ask(question, this.#node(), other));
    this.#expect("deletion of a source or a fork", "204", await outcome({ method: "DELETE" }));
    const gone = isKept ? "410 gone" : "404 not-found";
    this.#expect(`read of ${id} behind its deletion`, gone, await outcome({ path: "?offset=-1" }));
    this.#expect(`deletion of ${id} again`, gone, await outcome({ method: "DELETE" }));
    if (!isKept) return;
    const again = await outcome({ method: "PUT", headers: JSON_TYPE });
    this.#expect("creation of a source that a fork needs", "409 deleted", again);
    const headers = { ...JSON_TYPE, "stream-forked-from": `${PATH}/${id}` };
    const late = await outcome({ method: "PUT", headers }, LATE_FORK);
    this.#expect("fork of a deleted source", "409 deleted", late);
  }

  async #delete(): Promise<void> {
    const life = this.#life!;
    const isByHttp = this.#random() < 0.5;
    const streams = this.#node().server.durableStreams;
    const remove = async () =>
      isByHttp ? answerOf(await this.#ask({ method: "DELETE" })) : `${await streams.delete(ID)}`;
    this.#expect("deletion", isByHttp ? "204" : "true", await remove());
    this.#expect("deletion again", isByHttp ? "404 not-found" : "false", await remove());
    if (life.writer !== undefined) {
      const { writer } = life;
      this.#expect("append to a deleted stream", "gone", await outcomeOf(writer.append(-1)));
    }
    this.#past.push({ ...life, writer: undefined });
    this.#life = undefined;
    const other = this.#node().server.durableStreams;
    for (const act of [() => other.open(ID), () => other.cancel(ID, "late")]) {
      this.#expect("use of a deleted stream", "not-found", await outcomeOf(act()));
    }
  }

  /** Reads by one face from a place of this life, or of an earlier one. */
  async #read(
    face: (of: Place, after: string | undefined, count: number) => Promise<Reading>,
    isPast: boolean,
  ): Promise<void> {
    const life = this.#life;
    const old = isPast && this.#past.length > 0 ? oneOf(this.#random, this.#past) : undefined;
    const from = old ?? life;
    const place = Math.floor(((from?.offsets.length ?? 0) + 1) * this.#random()) - 1;
    const after = place < 0 ? undefined : from?.offsets[place];
    const isForeign = old !== undefined && after !== undefined;
    const isSession = face === this.#bySession;
    const records = life === undefined || isForeign ? [] : life.records.slice(Math.max(place, 0));
    const outcome = life === undefined
      ? isSession && after !== undefined ? "gone" : "not-found"
      : isForeign
      ? "gone"
      : isSession && life.end !== undefined && life.end !== "complete"
      ? life.end
      : "fulfilled";
    const reading = await face.call(
      this,
      { id: ID, life },
      after,
      life?.end === undefined ? records.length : Infinity,
    );
    const of = isForeign ? "an earlier stream" : "the stream";
    this.#expect(
      `reading ${face.name} behind ${after ?? "nothing"} of ${of}`,
      { outcome, records },
      reading,
    );
  }

  /** Reads one page over HTTP. */
  async #byHttp({ id, life }: Place, after: string = "-1"): Promise<Reading> {
    const answer = await this.#ask({ path: `?offset=${after}` }, this.#node(), id);
    const { status, headers, body } = answer;
    if (status !== 200) return { outcome: answerOf(answer).slice(4), records: [] };
    const { end, offsets } = life!;
    const facts = [
      "stream-next-offset",
      "stream-up-to-date",
      "stream-closed",
      "skein-stream-error",
    ];
    this.#expect("state in a page", [
      offsets.at(-1),
      "true",
      end === undefined ? null : "true",
      end === "tired" ? "given up" : null,
    ], facts.map((name) => headers.get(name)));
    return { outcome: "fulfilled", records: body as readonly unknown[] };
  }

  /** Reads by a session: to the end, or the records that an open stream has. */
  async #bySession(
    { id, life }: Place,
    after: string | undefined,
    count: number,
  ): Promise<Reading> {
    const records: unknown[] = [];
    const stream = oneOf(this.#random, this.#clients).durableStream<number>(id, { after });
    const reading = async () => {
      const isOwn = after === undefined || life?.offsets.includes(after) === true;
      if (count === 0 && life !== undefined && isOwn) return;
      for await (const record of stream) if (records.push(record) === count) break;
    };
    const outcome = await this.#audit.inTime(outcomeOf(reading()), READ_MS, "no end in time");
    return { outcome, records };
  }

  /** Reads at a node. */
  async #byNode({ id, life }: Place, after: string | undefined): Promise<Reading> {
    const records: unknown[] = [];
    const reading = async () => {
      const items = this.#node().server.durableStreams.read<number>(
        id,
        after === undefined ? {} : { after },
      );
      for await (const { data, offset } of items) {
        records.push(data);
        const at = life!.records.indexOf(data) + 1;
        this.#expect("offset of a record", life!.offsets[at], offset);
      }
    };
    return { outcome: await outcomeOf(reading()), records };
  }

  /** Looks at the state and the end, by a head and at a node. */
  async #look(): Promise<void> {
    const life = this.#life;
    const head = await this.#ask({ method: "HEAD" });
    const info = await this.#node().server.durableStreams.info(ID);
    if (life === undefined) {
      return this.#expect("state of a deleted stream", [404, "none"], [
        head.status,
        info ?? "none",
      ]);
    }
    const tail = life.offsets.at(-1);
    const now = await this.#ask({ path: "?offset=now" });
    const received = [head, now].map(({ headers }) => headers.get("stream-next-offset"));
    this.#expect("offsets of the end", [tail, tail, tail], [...received, info?.offset]);
    this.#expect("records behind the end", [], now.body);
    const closed = head.headers.get("stream-closed") === "true";
    const isEnded = life.end !== undefined;
    this.#expect("end of the stream", [isEnded, isEnded], [closed, info?.isEnded]);
  }

  /** Readers who wait: for a record, to the end of the wait, and one too many. */
  async #poll(): Promise<void> {
    if (this.#life?.end !== undefined || this.#life === undefined) {
      if (this.#life !== undefined) await this.#delete();
      await this.#create();
    }
    const life = this.#life!;
    const [node] = this.#nodes;
    const wait = (address: string, offset = "now") =>
      this.#ask({ path: `?offset=${offset}&live=long-poll`, address }, node);
    const early = Array.from({ length: MAX_WAITING }, () => wait("192.0.2.1"));
    await this.#audit.pause(ROUND_MS / 2);
    const beyond = await wait("192.0.2.1");
    this.#expect("reader beyond the bound of an address", "429 too-many", answerOf(beyond));
    this.#expect("time until the next attempt", true, beyond.headers.has("retry-after"));
    const beganMs = this.#audit.nowMs;
    const other = wait("192.0.2.2", life.offsets.at(-1));
    const outcomes = (await Promise.all(early)).map(answerOf);
    this.#expect("readers to the end of the wait", early.map(() => "204"), outcomes);
    const late = await other;
    const waitedMs = this.#audit.nowMs - beganMs;
    const isInTime = waitedMs >= POLL_MS - 1 && waitedMs < POLL_MS + ROUND_MS;
    this.#expect("wait of a reader", ["204", true], [answerOf(late), isInTime || waitedMs]);
    this.#expect(
      "offset behind a wait",
      life.offsets.at(-1),
      late.headers.get("stream-next-offset"),
    );
    const next = wait("192.0.2.1");
    await this.#audit.pause(ROUND_MS / 2);
    await this.#append({ id: ID, life });
    const { body } = await next;
    this.#expect("record for a reader who waits", life.records.slice(-1), body);
  }

  /** A node that closes answers those who wait, and ends the streams of its writers. */
  async #close(): Promise<void> {
    const life = this.#life!;
    const [near, far] = this.#nodes;
    if (life.writer !== undefined) await life.writer.release();
    const opening = near.server.durableStreams.open<number>(ID);
    this.#expect("takeover of a released stream", "fulfilled", await outcomeOf(opening));
    const activity = await near.server.durableStreams.activity();
    const { writer } = activity.find(({ id }) => id === ID) ?? {};
    this.#expect("offset of a writer in the activity", life.offsets.at(-1), writer?.offset);
    const waiting = this.#ask({ path: "?offset=now&live=long-poll" }, near);
    const told = this.#ask({ path: "?offset=now&live=long-poll" }, far);
    await this.#audit.pause(ROUND_MS / 2);
    await near.server.close();
    const answer = await waiting;
    const isTold = answer.headers.get("skein-stream-error") === "writer-lost";
    this.#expect(
      "reader at a node that closes",
      "503 unavailable",
      isTold ? "503 unavailable" : answerOf(answer),
    );
    const { headers } = await told;
    this.#expect("error for readers elsewhere", "writer-lost", headers.get("skein-stream-error"));
    await this.#ask({ method: "DELETE" }, far);
  }

  #node(): ServiceNode {
    return oneOf(this.#random, this.#nodes);
  }

  #ask(
    question: Question,
    node: ServiceNode = this.#node(),
    id: string = ID,
  ): Promise<Answer> {
    const { path = "", ...rest } = question;
    return ask(node, { ...rest, outside: `${PATH}/${id}${path}` });
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", what, expected, received);
  }
}

const JSON_TYPE = { "content-type": "application/json" } as const;
const TEXT_TYPE = { "content-type": "text/plain" } as const;

/** Appends that are refused: outcome, headers and body. */
const REFUSED_APPENDS = [
  ["400 bad-body", JSON_TYPE, undefined],
  ["400 bad-json", JSON_TYPE, "[]"],
  ["400 bad-json", JSON_TYPE, "[1"],
  ["409 wrong-type", TEXT_TYPE, "text"],
  ["400 bad-header", { ...JSON_TYPE, "producer-id": "p" }, "1"],
  [
    "409 sequence-gap",
    { ...JSON_TYPE, "producer-id": "p", "producer-epoch": "0", "producer-seq": "1" },
    "1",
  ],
] as const;

/** Text of a header: percent signs, and all but printable ASCII, are encoded. */
function encoded(text: string): string {
  return text.replace(/%|[^\x20-\x7e]/gu, encodeURIComponent);
}
