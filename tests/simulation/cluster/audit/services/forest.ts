/** Few durable streams with forks of forks at two nodes: each answer is that of a model. */
import { countedBytes } from "../../../../../pubsub/broker.ts";
import { oneOf, shuffled } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { ROUND_MS, Service, type ServiceNode } from "../places/service.ts";
import { type Answer, ask, outcomeOf as answerOf, type Question } from "./backend.ts";
import { Forest, judge, type Numbered, type Tree } from "./forest_model.ts";

/** Steps of one audit. */
const STEPS = 36;

/** Ids, more than there may be streams. */
const IDS = ["oak", "elm", "ash", "fir", "yew", "fig"] as const;

/** Fewest streams that there may be, and the range. */
const [MAX_STREAMS, MAX_STREAMS_RANGE] = [2, 3];

/** Most bytes of a stream, and characters of a record that is large. Four small records fit. */
const [MAX_BYTES, LARGE] = [countedBytes(90, 4), 40];

/** Producers, one of whose names is that of a property of all objects. */
const PRODUCERS = ["p", "__proto__"] as const;

/** Time to live of a mortal stream, and the longest time until it is gone; that of other streams. */
const [TTL_S, EXPIRED_MS, LONG_TTL_S] = [2, 12_000, 600];

/** Time for which an engine may count the streams of before, and that of its start, in milliseconds. */
const [COUNT_MS, READY_MS] = [1_200, 8_000];

/** Path of the streams. */
const PATH = "/forest";

/** Headers of an answer that tell the number of a producer. */
const PRODUCER_HEADERS = [
  "producer-epoch",
  "producer-seq",
  "producer-expected-seq",
  "producer-received-seq",
] as const;

/** Begins what stands for an offset that no answer tells. */
const UNTOLD = "untold";

/** An append, as it may be made again. */
interface Append {
  readonly id: string;
  readonly record: unknown;
  readonly by: Numbered | undefined;
  readonly ends: boolean;
  readonly sequence: string | undefined;
}

/** A new stream. */
interface Creation {
  readonly id: string;
  readonly source: { readonly id: string; readonly place: number | undefined } | undefined;
  readonly isMortal?: boolean;
  readonly record?: unknown;
  readonly ends?: boolean;
}

/**
 * Creates, forks, writes and deletes streams in drawn steps, up to the most that there may be.
 *
 * @param audit The audit.
 */
export async function auditForest(audit: Audit): Promise<void> {
  const random = audit.chanceOf("forest");
  const maxStreams = MAX_STREAMS + Math.floor(MAX_STREAMS_RANGE * random());
  const service = new Service(audit, "forest", {
    server: {
      durableStreams: {
        path: PATH,
        authorize: () => true,
        maxStreams,
        // One address creates all of the forest, on two nodes that list the streams now and then.
        maxStreamsPerAddress: 1_000_000,
        maxStreamsPerUser: 1_000_000,
        maxStreamBytes: MAX_BYTES,
      },
      onError() {},
    },
  });
  const nodes = [service.start(), service.start()];
  const walk = new ForestWalk(audit, { nodes, random, maxStreams });
  if (await walk.isReady()) await walk.run();
  await service.close();
}

/** The walk of one audit. */
class ForestWalk {
  readonly #audit: Audit;
  readonly #nodes: readonly ServiceNode[];
  readonly #random: () => number;
  readonly #maxStreams: number;
  readonly #forest = new Forest();
  /** Offsets of streams that are gone. */
  readonly #lost: string[] = [];
  /** The node that creates: an engine may count those of another one late. */
  #creator: ServiceNode;
  #last: Append | undefined;
  #records = 0;

  constructor(audit: Audit, { nodes, random, maxStreams }: {
    readonly nodes: readonly ServiceNode[];
    readonly random: () => number;
    readonly maxStreams: number;
  }) {
    this.#audit = audit;
    this.#nodes = nodes;
    this.#random = random;
    this.#maxStreams = maxStreams;
    this.#creator = oneOf(random, nodes);
  }

  /** Waits for the engine: the first stream may have to wait for servers that agree on a leader. */
  async isReady(): Promise<boolean> {
    const endMs = this.#audit.nowMs + READY_MS;
    for (const node of this.#nodes) {
      for (const [method, status] of [["PUT", 201], ["DELETE", 204]] as const) {
        const isDone = async () =>
          (await ask(node, { outside: `${PATH}/first`, method })).status === status;
        while (!await isDone()) {
          if (this.#audit.nowMs > endMs) return false;
          await this.#audit.pause(ROUND_MS);
        }
      }
    }
    await this.#audit.pause(COUNT_MS);
    return true;
  }

  /** Makes all steps; behind the last deletion all places are free. */
  async run(): Promise<void> {
    const expiresAt = Math.floor(2 * STEPS * this.#random());
    for (let step = 0; step < STEPS; step++) {
      if (step === expiresAt) await this.#expire();
      else await this.#step();
      if (this.#random() < 0.25) await this.#readOne();
    }
    await this.#clear();
    for (let left = this.#maxStreams; left >= 0; left--) {
      await this.#create({ id: IDS[left]!, source: undefined });
    }
    await this.#clear();
  }

  async #step(): Promise<void> {
    const drawn = this.#random();
    const tree = this.#pick(this.#forest.alive());
    if (drawn < 0.18 || tree === undefined) return await this.#create(this.#plain());
    if (drawn < 0.42) return await this.#create(this.#fork());
    if (drawn < 0.58) return await this.#remove(this.#draw());
    if (drawn < 0.94) {
      return await this.#append(this.#newAppend(this.#random() < 0.9 ? tree.id : this.#draw()));
    }
    await this.#audit.pause(COUNT_MS);
    this.#creator = oneOf(this.#random, this.#nodes);
  }

  #plain(): Creation {
    const [hasRecord, ends] = [this.#random() < 0.4, this.#random() < 0.1];
    return {
      id: this.#draw(),
      source: undefined,
      ...(hasRecord && { record: this.#record() }),
      ends,
    };
  }

  /** Draws a fork: of any stream, rarely of one that there is not. */
  #fork(): Creation {
    const source = this.#random() < 0.8 ? this.#pick(this.#forest.all())?.id : this.#draw();
    const tree = this.#forest.get(source ?? "");
    const place = tree === undefined || this.#random() < 0.4
      ? undefined
      : Math.floor(tree.offsets.length * this.#random());
    return {
      id: this.#draw(),
      source: { id: source ?? IDS[0], place },
      ...(this.#random() < 0.4 && { record: this.#record() }),
    };
  }

  /** Creates a stream over HTTP or by a node, and the same one again. */
  async #create(creation: Creation): Promise<void> {
    const { id, source, record, ends = false, isMortal = false } = creation;
    const isHeld = record === undefined && !ends && !isMortal && this.#random() < 0.3;
    const origin = source && this.#forest.get(source.id);
    const from = origin === undefined
      ? undefined
      : { tree: origin, place: source!.place ?? origin.offsets.length - 1 };
    const expected = this.#judgeCreation(creation, from);
    const text = source === undefined ? `stream ${id}` : `fork ${id} of ${source.id}`;
    if (isHeld) {
      const creating = this.#creator.server.durableStreams.create(id, {
        ...(source && {
          fork: {
            source: source.id,
            ...(from && source.place !== undefined && { offset: offsetAt(from) }),
          },
        }),
      });
      const outcome = from?.tree.isDeleted ? "not-found" : HELD[expected];
      this.#expect(`creation of ${text} by a node`, outcome, await outcomeOf(creating));
      if (expected !== "201") return;
      // A fork without a time to live has that of its source.
      this.#grow(creation, from, { tail: (await creating).offset, ttlS: from?.tree.ttlS });
      return;
    }
    const ttlS = isMortal ? TTL_S : LONG_TTL_S;
    const isCounted = this.#random() < 0.3;
    const put = () =>
      this.#ask(id, {
        method: "PUT",
        headers: {
          ...JSON_TYPE,
          ...(source && { "stream-forked-from": `${PATH}/${source.id}` }),
          ...(from && source!.place !== undefined && placeHeaders(from, isCounted)),
          "stream-ttl": `${ttlS}`,
          ...(ends && { "stream-closed": "true" }),
        },
        ...(record !== undefined && { text: JSON.stringify(record) }),
      }, this.#creator);
    const answer = await put();
    this.#expect(`creation of ${text}`, expected, answerOf(answer));
    if (expected !== "201") return;
    const tail = answer.headers.get("stream-next-offset") ?? "none";
    this.#grow(creation, from, { tail, ttlS });
    if (this.#random() < 0.3) {
      this.#expect(`creation of ${text} again`, "200", answerOf(await put()));
    }
  }

  /** The outcome of a creation. */
  #judgeCreation({ id, source, record, ends = false }: Creation, from: Tree["origin"]): string {
    if (source !== undefined && from === undefined) return "404 not-found";
    if (from?.tree.isDeleted) return "409 deleted";
    const there = this.#forest.get(id);
    if (record !== undefined && bytesOf(record) > MAX_BYTES) return "413 full";
    if (there === undefined) return this.#forest.size >= this.#maxStreams ? "429 too-many" : "201";
    if (there.isDeleted) return "409 deleted";
    const isSamePlace = source?.place === undefined || source.place === there.origin?.place;
    const isSame = there.ttlS === LONG_TTL_S && (there.end !== undefined) === ends &&
      there.origin?.tree === from?.tree && isSamePlace;
    return isSame ? "200" : "409 exists";
  }

  /** Adds a new stream to the model. */
  #grow(
    { id, record, ends = false }: Creation,
    from: Tree["origin"],
    { tail, ttlS }: { readonly tail: string; readonly ttlS: number | undefined },
  ): void {
    const records = from?.tree.records.slice(0, from.place) ?? [];
    const offsets = from?.tree.offsets.slice(0, from.place + 1) ?? [];
    if (record !== undefined) records.push(record);
    // The place before the first record of a stream that begins with one is not told, but by a fork.
    while (offsets.length < records.length) offsets.push(`${UNTOLD} ${this.#records}`);
    if (offsets.length === records.length) offsets.push(tail);
    const last = offsets.at(-1)!;
    if (last.startsWith(UNTOLD)) {
      for (const all of [offsets, ...this.#forest.all().map((tree) => tree.offsets)]) {
        if (all.includes(last)) all[all.indexOf(last)] = tail;
      }
    }
    this.#expect(`first offset of ${id}`, offsets.at(-1), tail);
    this.#forest.add({
      id,
      records,
      offsets,
      origin: from,
      producers: new Map(),
      bytes: record === undefined ? 0 : bytesOf(record),
      sequence: undefined,
      end: ends ? { by: undefined } : undefined,
      isDeleted: false,
      ttlS,
    });
  }

  /** Draws an append: plain, of a producer, or the last one again. */
  #newAppend(id: string): Append {
    const last = this.#last;
    if (last !== undefined && this.#random() < 0.25) return last;
    const ends = this.#random() < 0.2;
    const isEmpty = ends && this.#random() < 0.5;
    const sequence = this.#random() < 0.15 ? oneOf(this.#random, ["a", "b", "bb", "c"]) : undefined;
    const by = this.#random() < 0.6 ? this.#number(this.#forest.get(id)) : undefined;
    return { id, record: isEmpty ? undefined : this.#record(), by, ends, sequence };
  }

  /** Draws a number of a producer: mostly the next one. */
  #number(tree: Tree | undefined): Numbered {
    const id = oneOf(this.#random, PRODUCERS);
    const { epoch, seq } = tree?.producers.get(id) ?? { epoch: 1, seq: -1 };
    const [newEpoch, newSeq] = oneOf(
      this.#random,
      [
        [epoch, seq + 1],
        [epoch, seq + 1],
        [epoch, seq + 1],
        [epoch, seq],
        [epoch, seq - 1],
        [epoch, seq + 2],
        [epoch + 1, 0],
        [epoch + 1, 1],
        [epoch - 1, seq + 1],
      ] as const,
    );
    return { id, epoch: Math.max(0, newEpoch), seq: Math.max(0, newSeq) };
  }

  /** Appends over HTTP; an end, and some others, are made again as behind a lost answer. */
  async #append(append: Append): Promise<void> {
    this.#last = append;
    const { id, record, by, ends, sequence } = append;
    const repeats = ends || this.#random() < 0.2 ? 2 : 1;
    for (let i = 0; i < repeats; i++) {
      const tree = this.#forest.get(id);
      const bytes = record === undefined ? 0 : bytesOf(record);
      const { outcome, headers, isNew } = judge(tree, { by, bytes, ends, sequence }, MAX_BYTES);
      const answer = await this.#ask(id, {
        method: "POST",
        headers: {
          ...(record !== undefined && JSON_TYPE),
          ...(by && {
            "producer-id": by.id,
            "producer-epoch": `${by.epoch}`,
            "producer-seq": `${by.seq}`,
          }),
          ...(sequence !== undefined && { "stream-seq": sequence }),
          ...(ends && { "stream-closed": "true" }),
        },
        ...(record !== undefined && { text: JSON.stringify(record) }),
      });
      const what = `append ${JSON.stringify(append)}${i > 0 ? " again" : ""}`;
      const told = PRODUCER_HEADERS.flatMap((name) => answer.headers.get(name) ?? []);
      const due = PRODUCER_HEADERS.flatMap((name) => headers[name] ?? []);
      this.#expect(what, [outcome, ...due], [answerOf(answer), ...told]);
      if (tree === undefined || tree.isDeleted) return;
      const tail = answer.headers.get("stream-next-offset") ?? "none";
      if (isNew) {
        if (record !== undefined) {
          this.#expect(`offset of a new record behind ${what}`, false, tree.offsets.includes(tail));
          tree.records.push(record);
          tree.offsets.push(tail);
        }
        tree.bytes += bytes;
        tree.sequence = sequence ?? tree.sequence;
        if (by !== undefined) tree.producers.set(by.id, by);
        if (ends) tree.end = { by };
      }
      // A refusal tells the state only of an ended stream.
      if (answer.status >= 300 && tree.end === undefined) continue;
      const state = [tail, answer.headers.get("stream-closed")];
      const closed = tree.end === undefined ? null : "true";
      this.#expect(`state behind ${what}`, [tree.offsets.at(-1), closed], state);
    }
  }

  async #remove(id: string): Promise<void> {
    const tree = this.#forest.get(id);
    const expected = tree === undefined ? "404 not-found" : tree.isDeleted ? "410 gone" : "204";
    if (this.#random() < 0.3) {
      const isDeleted = await oneOf(this.#random, this.#nodes).server.durableStreams.delete(id);
      this.#expect(`deletion of ${id} by a node`, expected === "204", isDeleted);
    } else {
      const answer = await this.#ask(id, { method: "DELETE" });
      this.#expect(`deletion of ${id}`, expected, answerOf(answer));
    }
    if (tree === undefined || tree.isDeleted) return;
    this.#fell(tree);
    // An engine may count a stream until a moment after its removal.
    await this.#audit.pause(ROUND_MS);
  }

  #fell(tree: Tree): void {
    this.#lost.push(...tree.offsets);
    this.#forest.delete(tree);
    for (const one of this.#forest.all()) {
      for (const offset of one.offsets) {
        const at = this.#lost.indexOf(offset);
        if (at >= 0) this.#lost.splice(at, 1);
      }
    }
  }

  /** A stream expires, with a fork or without one: the stream is as deleted then. */
  async #expire(): Promise<void> {
    if (this.#forest.size + 1 >= this.#maxStreams) await this.#clear();
    const [id, forkId] = shuffled(this.#random, IDS.filter((one) => !this.#forest.get(one)));
    await this.#create({ id: id!, source: undefined, isMortal: true, record: this.#record() });
    const tree = this.#forest.get(id!);
    if (tree === undefined) return;
    if (this.#random() < 0.7) {
      await this.#create({
        id: forkId!,
        source: { id: id!, place: undefined },
        record: this.#record(),
      });
    }
    const endMs = this.#audit.nowMs + EXPIRED_MS;
    let head = await this.#ask(id!, { method: "HEAD" });
    while (head.status === 200 && this.#audit.nowMs < endMs) {
      await this.#audit.pause(ROUND_MS);
      head = await this.#ask(id!, { method: "HEAD" });
    }
    this.#expect("state of an expired stream", true, head.status === 404 || head.status === 410);
    const hasFork = this.#forest.all().some(({ origin }) => origin?.tree === tree);
    this.#fell(tree);
    if (this.#random() < 0.5) {
      const isKnown = ["404 not-found", ...(hasFork ? ["410 gone"] : [])];
      const outcome = answerOf(await this.#ask(id!, { method: "DELETE" }));
      this.#expect("deletion of an expired stream", true, isKnown.includes(outcome) || outcome);
    } else if (!hasFork) await this.#create({ ...this.#plain(), id: id! });
    else {
      await this.#readAll(this.#forest.alive());
      await this.#ask(id!, { method: "DELETE" });
    }
  }

  /** Deletes all streams, and reads the others behind each deletion. */
  async #clear(): Promise<void> {
    for (const { id } of shuffled(this.#random, this.#forest.alive())) {
      await this.#remove(id);
      await this.#readAll();
    }
    this.#expect("streams that are left", 0, this.#forest.size);
    for (const id of IDS) {
      const answer = await this.#ask(id, { path: "?offset=-1" });
      this.#expect(`read of ${id}, which is gone`, "404 not-found", answerOf(answer));
    }
  }

  async #readAll(trees: readonly Tree[] = this.#forest.all()): Promise<void> {
    for (const tree of trees) await this.#read(tree);
  }

  async #readOne(): Promise<void> {
    const tree = this.#pick(this.#forest.all());
    if (tree !== undefined) await this.#read(tree);
  }

  /** Reads a stream behind a place of its own, and behind one of another stream. */
  async #read(tree: Tree): Promise<void> {
    const { id, records, offsets } = tree;
    const all = this.#forest.all().flatMap((one) => one.offsets);
    for (const  of of[offsets, [...all, ...this.#lost]]) {
      const after = oneOf(this.#random, of.filter((one) => !one.startsWith(UNTOLD)));
      const place = offsets.indexOf(after);
      const [isWhole, isByNode] = [this.#random() < 0.3, this.#random() < 0.4];
      const rest = isWhole ? records : records.slice(place);
      const isThere = isWhole || place >= 0;
      const about = `${id} behind ${isWhole ? "nothing" : after}`;
      if (isByNode) {
        const outcome = tree.isDeleted ? "not-found" : isThere ? "fulfilled" : "gone";
        const got: unknown[] = [];
        const { server } = oneOf(this.#random, this.#nodes);
        const reading = outcomeOf((async () => {
          const items = server.durableStreams.read(id, isWhole ? {} : { after });
          for await (const { data } of items) got.push(data);
        })());
        const expected = [outcome, outcome === "fulfilled" ? rest : []];
        this.#expect(`read of ${about} by a node`, expected, [await reading, got]);
        continue;
      }
      const answer = await this.#ask(id, { path: `?offset=${isWhole ? "-1" : after}` });
      const expected = tree.isDeleted || !isThere ? "410 gone" : rest;
      const received = answer.status === 200 ? answer.body : answerOf(answer);
      this.#expect(`read of ${about}`, expected, received);
      if (answer.status !== 200) continue;
      const { headers } = answer;
      const state = [headers.get("stream-next-offset"), headers.get("stream-closed")];
      const closed = tree.end === undefined ? null : "true";
      this.#expect(`state in a page of ${about}`, [offsets.at(-1), closed], state);
    }
  }

  #record(): unknown {
    const number = this.#records++;
    return this.#random() < 0.2 ? `${number}`.padEnd(LARGE, "x") : number;
  }

  #draw(): string {
    return oneOf(this.#random, IDS);
  }

  #pick<T>(from: readonly T[]): T | undefined {
    return from.length === 0 ? undefined : oneOf(this.#random, from);
  }

  #ask(
    id: string,
    { path = "", ...rest }: Question,
    node: ServiceNode = oneOf(this.#random, this.#nodes),
  ): Promise<Answer> {
    return ask(node, { ...rest, outside: `${PATH}/${id}${path}` });
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", `${what} in a forest`, expected, received);
  }
}

const JSON_TYPE = { "content-type": "application/json" } as const;

/** Outcomes of a creation by a node, by those over HTTP. */
const HELD: Readonly<Record<string, string>> = {
  "200": "exists",
  "201": "fulfilled",
  "404 not-found": "not-found",
  "409 exists": "exists",
  "409 deleted": "exists",
  "429 too-many": "LimitError",
};

/** The offset of a place: the beginning of a stream with a first record is not told. */
function offsetAt({ tree: { offsets }, place }: NonNullable<Tree["origin"]>): string {
  const offset = offsets[place]!;
  return offset.startsWith(UNTOLD) ? "-1" : offset;
}

/** Headers with a place to fork at: an offset, or the number of records from the beginning. */
function placeHeaders(
  from: NonNullable<Tree["origin"]>,
  isCounted: boolean,
): Readonly<Record<string, string>> {
  return isCounted
    ? { "stream-fork-offset": "-1", "stream-fork-sub-offset": `${from.place}` }
    : { "stream-fork-offset": offsetAt(from) };
}

function bytesOf(record: unknown): number {
  return countedBytes(JSON.stringify(record).length, 1);
}
