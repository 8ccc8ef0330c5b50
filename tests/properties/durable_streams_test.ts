/**
 * Durable streams on two servers that share a store, used over HTTP, through sessions and on the
 * servers.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { countedBytes } from "../../pubsub/broker.ts";
import {
  type ModelAppend,
  type ModelCreation,
  type ModelPlace,
  type ModelProducer,
  type ModelStream,
  StreamsModel,
} from "../../streams/streams_model.ts";
import type { DurableStreamWriter } from "../../streams/writer.ts";
import { type Drawn, maybe, stepOf } from "./draw.ts";
import { untilReached } from "./stores.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Asking, type Node, type Reply, serveNodes } from "./requests.ts";
import { READ_MODES, stateOf, StreamReaders } from "./stream_readers.ts";
import type { World } from "./world.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";

const IDS = ["oak", "elm", "ash", "fir"] as const;

/**
 * Sizes of records in bytes. A stream can hold six small records, two half records, or one full
 * record.
 */
const SIZES = { small: 10, half: 158, full: 380, over: 381 } as const;
const LIMITS = { maxStreamBytes: countedBytes(6 * SIZES.small, 6), maxForks: 2 };

/**
 * TTL of an expiring stream in seconds, and the time after which it is gone in milliseconds. That
 * time is the TTL plus the slack of NATS and a search.
 */
const [TTL_S, EXPIRED_MS] = [90, 130_000];

/** Time between two uses that renew the TTL of an expiring stream, in milliseconds. */
const USED_MS = 60_000;

/**
 * Time until a store has counted the streams that another server created or deleted, in
 * milliseconds.
 */
const COUNT_MS = 1_300;

/** Time that a long-poll waits, in milliseconds. */
const POLL_MS = 400;

const JSON_TYPE = { "content-type": "application/json" };

/** The stream of a step, which is mostly an existing stream. */
const of = fc.nat(19);
const node = fc.constantFrom(0, 1);
const isHttp = fc.constantFrom(true, true, false);
const mode = fc.constantFrom(...READ_MODES);
const ends = fc.constantFrom(false, false, false, true);
const record = fc.oneof(
  { weight: 5, arbitrary: fc.constant("small" as const) },
  fc.constantFrom("half", "full", "over", undefined),
);

/** Generates `value` in one of ten cases and `usual` otherwise. It shrinks towards `usual`. */
function seldom<T, U>(value: T, usual: U): fc.Arbitrary<T | U> {
  return fc.oneof({ weight: 9, arbitrary: fc.constant(usual) }, fc.constant(value));
}

const stepsOf = fc.array(
  fc.oneof(
    stepOf("create", {
      id: fc.constantFrom<string>(...IDS),
      node,
      isHttp,
      record,
      ends,
      isMortal: fc.boolean(),
      // A fork of any source, at its end or after a number of records, which may be counted from
      // the oldest record.
      fork: maybe(
        fc.record({ of, place: maybe(fc.nat(5)), isCounted: fc.boolean() }),
        2,
      ),
    }, 8),
    stepOf("append", {
      of,
      node,
      record,
      ends,
      // The difference to the next number, which is mostly 0.
      producer: maybe(
        fc.record({
          id: seldom("__proto__", "p"),
          epoch: fc.constantFrom(0, 0, 0, 0, 0, 0, 0, 0, 1, -1),
          seq: fc.constantFrom(0, 0, 0, 0, -1, 1, -2),
        }),
      ),
      sequence: fc.oneof(
        { weight: 5, arbitrary: fc.constant(undefined) },
        fc.constantFrom("a", "b", "bb"),
      ),
    }, 12),
    stepOf("repeat the last append", { node }),
    stepOf("write", { of, record }, 2),
    stepOf("open", { of, node }),
    stepOf("hand over", { of, node }),
    stepOf("end", { of, aborts: fc.boolean() }),
    stepOf("cancel", { of, node, isHttp, reason: fc.constantFrom("enough", "zu 100 % spät") }),
    stepOf("delete", { of, node, isHttp }, 2),
    stepOf("read", {
      of,
      node,
      // The read starts at the oldest record or after any offset of any stream, including deleted
      // streams.
      from: fc.oneof(fc.constant(undefined), fc.nat(40)),
      mode,
      // Number of intervals by which the cursor that a reader echoes is ahead.
      ahead: fc.constantFrom(undefined, -1, 0, 500),
    }, 6),
    stepOf("use in time", { node, use: fc.oneof(fc.constant("append" as const), mode) }, 4),
    stepOf("expire", {}),
  ),
  { maxLength: 40, size: "max" },
);

type Step = Drawn<typeof stepsOf>[number];
type StepOf<K extends Step["kind"]> = Extract<Step, { readonly kind: K }>;

type Source = NonNullable<ModelCreation["source"]>;

/** Plays the steps of a case. */
class Streams {
  readonly #model: StreamsModel;
  readonly #readers: StreamReaders;
  readonly #writers = new Map<ModelStream, DurableStreamWriter>();
  /** Places from replies, including places in streams that are gone. */
  readonly #places: ModelPlace[] = [];
  #last: { readonly id: string; readonly append: ModelAppend } | undefined;
  #creator = 0;
  #records = 0;

  constructor(
    readonly world: World,
    readonly nodes: readonly Node[],
    clients: readonly Client[],
    most: number,
  ) {
    const model = this.#model = new StreamsModel({ ...LIMITS, maxStreams: most });
    this.#readers = new StreamReaders(world, { nodes, clients, model });
  }

  /** Waits for the store, whose servers may have to elect a leader first. */
  async ready(): Promise<void> {
    for (const node of [0, 1]) {
      for (const [method, status] of [["PUT", 201], ["DELETE", 204]] as const) {
        await untilReached(this.world, async () => {
          assertEquals((await this.#ask("first", node, { method })).status, status);
        });
      }
    }
    await this.world.pause(COUNT_MS);
  }

  async play(step: Step): Promise<void> {
    switch (step.kind) {
      case "create":
        return await this.#create(step);
      case "append": {
        const id = this.#idOf(step.of);
        return await this.#append(id, step.node, this.#appendOf(id, step));
      }
      case "repeat the last append":
        if (this.#last === undefined) return;
        return await this.#append(this.#last.id, step.node, this.#last.append);
      case "write":
        return await this.#write(step);
      case "open":
        return await this.#open(step);
      case "hand over":
        await this.#release(this.#idOf(step.of));
        return await this.#open(step);
      case "end":
        return await this.#end(step);
      case "cancel":
        return await this.#cancel(step);
      case "delete":
        return await this.#delete(this.#idOf(step.of), step);
      case "read":
        return await this.#read(this.#idOf(step.of), step);
      case "use in time":
        return await this.#use(step);
      case "expire":
        return await this.#expire();
    }
  }

  /** Deletes all streams one by one, and expects all their slots to be free afterwards. */
  async finish(most: number): Promise<void> {
    for (const { id } of this.#model.all) {
      if (this.#model.get(id)?.isDeleted === false) {
        await this.#delete(id, { node: 0, isHttp: true });
      }
      for (const { id } of this.#model.all) {
        await this.#read(id, { node: 1, from: undefined, mode: "http" });
      }
    }
    assertEquals(this.#model.all, []);
    await this.world.pause(COUNT_MS);
    for (let left = most; left >= 0; left--) {
      const { outcome } = await this.#ask(`new-${left}`, 0, { method: "PUT", headers: JSON_TYPE });
      assertEquals(outcome, left > 0 ? "201" : "429 too-many", `${left} places are free`);
    }
  }

  async #create(step: StepOf<"create">): Promise<void> {
    const { id, node, ends, isMortal, fork } = step;
    const source = fork && { id: this.#idOf(fork.of), place: fork.place };
    // A store may count streams of another server with a delay.
    if (node !== this.#creator) await this.world.pause(COUNT_MS);
    this.#creator = node;
    if (!step.isHttp) return await this.#createHeld(id, node, source);
    const record = this.#record(step.record);
    const headers = {
      ...JSON_TYPE,
      ...(isMortal && { "stream-ttl": `${TTL_S}` }),
      ...(ends && { "stream-closed": "true" }),
      ...(source && { "stream-forked-from": `/streams/${source.id}` }),
      ...(source && this.#placeHeaders(source, fork!.isCounted)),
    };
    const made = { id, source, record, ends, ttlS: isMortal ? TTL_S : undefined };
    const body = record === undefined ? {} : { body: JSON.stringify(record) };
    const expected = this.#model.create(made);
    const { outcome, headers: told } = await this.#ask(id, node, {
      method: "PUT",
      headers,
      ...body,
    });
    assertEquals(outcome, expected, `creation ${JSON.stringify(made)}`);
    if (expected !== "201") return;
    this.#tell(id, told.get("stream-next-offset"));
    const again = await this.#ask(id, 1 - node, { method: "PUT", headers, ...body });
    // A fork at the end of its source is the same fork, wherever that end is now.
    assertEquals(again.outcome, "200", `the same creation again ${JSON.stringify(made)}`);
  }

  /** Creates a stream with a writer. */
  async #createHeld(id: string, node: number, from: ModelCreation["source"]): Promise<void> {
    const source = this.#model.get(from?.id ?? "");
    const { offset } = source?.places[from?.place ?? Infinity] ?? {};
    // A server identifies a place by its offset.
    const place = offset === undefined ? undefined : from!.place;
    const made: ModelCreation = { id, source: from && { id: from.id, place } };
    const isGone = source?.isDeleted;
    const expected = isGone ? "not-found" : BY_SERVER[this.#model.create(made)];
    const creating = streamsOf(this.nodes[node]!.server).create(id, {
      ...(from && { fork: { source: from.id, offset } }),
    });
    assertEquals(
      await outcomeOf(creating),
      expected,
      `creation by a server ${JSON.stringify(made)}`,
    );
    if (expected !== "fulfilled") return;
    this.#hold(id, await creating);
    this.#tell(id, (await creating).offset);
  }

  #placeHeaders({ id, place }: Source, isCounted: boolean): Record<string, string> {
    const places = this.#model.get(id)?.places ?? [];
    if (place === undefined) return {};
    const nearest = Math.max(0, Math.min(place, places.length - 1));
    const offset = isCounted ? undefined : places[nearest]?.offset;
    const rest = offset === undefined ? place : place - nearest;
    return { "stream-fork-offset": offset ?? "-1", "stream-fork-sub-offset": `${rest}` };
  }

  #appendOf(id: string, { record, ends, producer, sequence }: StepOf<"append">): ModelAppend {
    let number: ModelProducer | undefined;
    if (producer !== undefined) {
      const { epoch, seq } = this.#model.get(id)?.producers.get(producer.id) ??
        { epoch: 1, seq: -1 };
      const isLater = producer.epoch > 0;
      number = {
        id: producer.id,
        epoch: Math.max(0, epoch + producer.epoch),
        seq: Math.max(0, (isLater ? 0 : seq + 1) + producer.seq),
      };
    }
    // An append has a record, an end, or both.
    const text = record === undefined && !ends ? "small" : record;
    return { record: this.#record(text), ends, producer: number, sequence };
  }

  async #append(id: string, node: number, append: ModelAppend): Promise<void> {
    this.#last = { id, append };
    const { record, ends, producer, sequence } = append;
    const before = this.#model.get(id)?.records.length;
    const expected = this.#model.append(id, append);
    const { outcome, headers } = await this.#ask(id, node, {
      method: "POST",
      headers: {
        ...(record !== undefined && JSON_TYPE),
        ...(producer && {
          "producer-id": producer.id,
          "producer-epoch": `${producer.epoch}`,
          "producer-seq": `${producer.seq}`,
        }),
        ...(sequence !== undefined && { "stream-seq": sequence }),
        ...(ends && { "stream-closed": "true" }),
      },
      ...(record !== undefined && { body: JSON.stringify(record) }),
    });
    const about = `append ${JSON.stringify(append)} to ${id}`;
    const numbers = [...headers].filter(([name]) => name.startsWith("producer-"));
    assertEquals(
      [outcome, Object.fromEntries(numbers)],
      [expected.outcome, expected.headers],
      about,
    );
    const stream = this.#model.get(id);
    if (stream === undefined || stream.isDeleted) return;
    if (stream.end !== undefined) await this.#loseWriter(stream, "ended");
    // A rejection reports the state only if the stream has ended.
    if (Number(outcome.slice(0, 3)) >= 300 && stream.end === undefined) return;
    assertEquals(headers.get("stream-closed"), stream.end === undefined ? null : "true", about);
    if (stream.records.length > before!) this.#tell(id, headers.get("stream-next-offset"));
    else assertEquals(headers.get("stream-next-offset"), stream.places.at(-1)!.offset, about);
  }

  async #write({ of, record }: StepOf<"write">): Promise<void> {
    const id = this.#idOf(of);
    const writer = this.#writerOf(id);
    if (writer === undefined) return;
    const data = this.#record(record ?? "small");
    const { outcome } = this.#model.append(id, { record: data });
    // A writer whose append was rejected is lost.
    if (outcome === "413 full") return;
    assertEquals(
      await outcomeOf(writer.append(data)),
      "fulfilled",
      `append of the writer of ${id}`,
    );
    this.#tell(id, writer.offset);
  }

  async #release(id: string): Promise<void> {
    const writer = this.#writerOf(id);
    if (writer === undefined) return;
    this.#model.get(id)!.isHeld = false;
    await writer.release();
  }

  async #open({ of, node }: StepOf<"open" | "hand over">): Promise<void> {
    const id = this.#idOf(of);
    const stream = this.#model.get(id);
    const expected = this.#model.absence(id)
      ? "not-found"
      : stream!.end
      ? "ended"
      : stream!.isHeld
      ? "held"
      : "fulfilled";
    const opening = streamsOf(this.nodes[node]!.server).open(id);
    assertEquals(await outcomeOf(opening), expected, `takeover of ${id}`);
    if (expected !== "fulfilled") return;
    const writer = await opening;
    this.#tell(id, writer.offset);
    this.#hold(id, writer);
  }

  async #end({ of, aborts }: StepOf<"end">): Promise<void> {
    const id = this.#idOf(of);
    const writer = this.#writerOf(id);
    if (writer === undefined) return;
    await (aborts ? writer.abort("given up", { code: "tired" }) : writer.close());
    const stream = this.#model.get(id)!;
    stream.end = aborts ? { error: "given up" } : {};
    await this.#loseWriter(stream, "ended");
  }

  async #cancel({ of, node, reason, isHttp }: StepOf<"cancel">): Promise<void> {
    const id = this.#idOf(of);
    const stream = this.#model.get(id);
    const absence = this.#model.absence(id);
    if (isHttp) {
      const { outcome } = await this.#ask(`${id}?action=cancel`, node, { body: reason });
      assertEquals(outcome, absence ?? "204", `cancellation of ${id}`);
    } else {
      const wish = streamsOf(this.nodes[node]!.server).cancel(id, reason);
      const expected = absence ? "not-found" : "fulfilled";
      assertEquals(await outcomeOf(wish), expected, `cancellation of ${id} by a server`);
      if (!absence) assertEquals(await wish, stream!.end === undefined);
    }
    if (absence || stream!.end) return;
    stream!.cancelled ??= reason;
    const signal = this.#writerOf(id)?.signal;
    if (signal === undefined) return;
    await this.world.until("a reader's cancellation at the writer", () => signal.aborted);
    assertEquals(signal.reason.message, stream!.cancelled);
  }

  async #delete(
    id: string,
    { node, isHttp }: Pick<StepOf<"delete">, "node" | "isHttp">,
  ): Promise<void> {
    const stream = this.#model.get(id);
    const absence = this.#model.absence(id);
    const deleted = isHttp
      ? (await this.#ask(id, node, { method: "DELETE" })).outcome
      : `${await streamsOf(this.nodes[node]!.server).delete(id)}`;
    assertEquals(deleted, isHttp ? absence ?? "204" : `${!absence}`, `deletion of ${id}`);
    if (absence) return;
    this.#model.delete(id);
    await this.#loseWriter(stream!, "gone");
    this.#creator = -1;
  }

  /**
   * Lets time pass. After that, streams that have a TTL and no writer behave as if they were
   * deleted, even if a server has read their state in the meantime.
   */
  async #expire(): Promise<void> {
    await this.#renew({ node: 0, use: "http" });
    await this.world.pause(EXPIRED_MS / 2);
    await this.look();
    await this.world.pause(EXPIRED_MS / 2);
    for (const { id, ttlS, isHeld, isDeleted } of this.#model.all) {
      if (ttlS !== undefined && !isHeld && !isDeleted) this.#model.delete(id);
    }
  }

  /** Appends to or reads all streams several times within their TTL. */
  async #use({ node, use }: StepOf<"use in time">): Promise<void> {
    for (let left = 3; left >= 0; left--) {
      await this.#renew({ node, use });
      if (left > 0) await this.world.pause(USED_MS);
    }
  }

  async #renew({ node, use }: Pick<StepOf<"use in time">, "node" | "use">): Promise<void> {
    for (const { id, records, isDeleted } of this.#model.all) {
      if (isDeleted) continue;
      const { length } = records;
      if (use === "append") await this.#append(id, node, { record: this.#record("small") });
      // A rejected append does not renew the TTL.
      if (records.length > length) continue;
      await this.#read(id, { node, from: undefined, mode: use === "append" ? "http" : use });
    }
  }

  async #read(
    id: string,
    { from, ...reading }: Pick<StepOf<"read">, "node" | "from" | "mode"> & {
      readonly ahead?: number | undefined;
    },
  ): Promise<void> {
    const place = from === undefined ? undefined : this.#places[from % this.#places.length];
    await this.#readers.read(id, { ...reading, place });
  }

  /** Compares the state that HEAD requests and a server return with the model. */
  async look(): Promise<void> {
    for (const id of IDS) {
      const { outcome, headers } = await this.#ask(id, 0, { method: "HEAD" });
      const info = await streamsOf(this.nodes[1]!.server).info(id);
      const [stream, absence] = [this.#model.get(id), this.#model.absence(id)];
      assertEquals(outcome.slice(0, 3), absence?.slice(0, 3) ?? "200", `HEAD of ${id}`);
      if (absence) assertEquals(info, undefined);
      if (absence || stream === undefined) continue;
      const [offset, closed, error] = stateOf(stream);
      const names = ["stream-next-offset", "stream-closed", "skein-stream-error", "stream-ttl"];
      const ttl = stream.ttlS === undefined ? null : `${stream.ttlS}`;
      const told = names.map((name) => headers.get(name));
      assertEquals(told, [offset ?? told[0], closed, error, ttl], `HEAD of ${id}`);
      const wish = headers.get("skein-stream-cancelled");
      assertEquals(wish === null ? undefined : decodeURIComponent(wish), stream.cancelled);
      assertEquals({ isEnded: info?.isEnded, error: info?.error, cancelled: info?.cancelled }, {
        isEnded: stream.end !== undefined,
        error: stream.end?.error,
        cancelled: stream.cancelled,
      });
    }
  }

  /** Records the offset at the end of a stream. */
  #tell(id: string, offset: string | null): void {
    const place = this.#model.get(id)!.places.at(-1)!;
    if (place.offset === undefined) {
      assert(this.#places.every((other) => other.offset !== offset), `${offset} is new`);
      place.offset = offset ?? "none";
      this.#places.push(place);
    }
    assertEquals(offset, place.offset, `end of ${id}`);
  }

  #hold(id: string, writer: DurableStreamWriter): void {
    const stream = this.#model.get(id)!;
    stream.isHeld = true;
    this.#writers.set(stream, writer);
  }

  #writerOf(id: string): DurableStreamWriter | undefined {
    const stream = this.#model.get(id);
    return stream?.isHeld && !stream.isDeleted ? this.#writers.get(stream) : undefined;
  }

  /** Expects the next append of a writer to fail, because its stream has ended. */
  async #loseWriter(stream: ModelStream, code: string): Promise<void> {
    if (!stream.isHeld) return;
    stream.isHeld = false;
    assertEquals(await outcomeOf(this.#writers.get(stream)!.append(-1)), code, "a late append");
  }

  #idOf(of: number): string {
    const ids = this.#model.all.map(({ id }) => id);
    return of < 18 && ids.length > 0 ? ids[of % ids.length]! : IDS[of % IDS.length]!;
  }

  /** Returns a unique record. */
  #record(size: keyof typeof SIZES | undefined): string | undefined {
    if (size === undefined) return undefined;
    const quotes = 2;
    return `${this.#records++}`.padEnd(SIZES[size] - quotes, "x");
  }

  #ask(path: string, node: number, asking?: Asking): Promise<Reply> {
    return ask(this.nodes[node]!, `/streams/${path}`, asking);
  }
}

/** Outcomes when a server creates a stream, by the outcomes over HTTP. */
const BY_SERVER: Readonly<Record<string, string>> = {
  "200": "exists",
  "201": "fulfilled",
  "404 not-found": "not-found",
  "409 exists": "exists",
  "409 deleted": "exists",
  "409 too-many-forks": "LimitError",
  "429 too-many": "LimitError",
};

property("a durable stream returns what was created, appended and closed, however it is read", {
  cases: fc.record({
    store: fc.constantFrom("memory", "redis", "sqlite", "nats"),
    maxStreams: fc.constantFrom(3, 2, 4),
    steps: stepsOf,
  }),
  async check(world, { store, maxStreams, steps }) {
    const options = {
      path: "/streams",
      authorize: () => true,
      longPollMs: POLL_MS,
      maxStreams,
      maxStreamsPerAddress: 1_000_000,
      maxStreamsPerUser: 1_000_000,
      ...LIMITS,
    };
    const nodes = await serveNodes(world, store, { features: () => streamFeatures(options) });
    const clients = nodes.map(({ host }, i) => world.connect(`reader-${i}`, host));
    await world.until("sessions", () => clients.every(({ isConnected }) => isConnected), 20_000);
    const streams = new Streams(world, nodes, clients, maxStreams);
    await streams.ready();
    for (const step of steps) await streams.play(step);
    await streams.look();
    await streams.finish(maxStreams);
  },
});
