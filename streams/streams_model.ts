/**
 * Reference model of durable streams: the state of the broker, and the response to each HTTP
 * request.
 */
import { countedBytes } from "../pubsub/broker.ts";

/** A position in a stream. A fork shares the positions up to its start with its source. */
export interface ModelPlace {
  /** The offset; `undefined` until a response contains it. */
  offset: string | undefined;
}

/** Number of an append, set by a producer. */
export interface ModelProducer {
  readonly id: string;
  readonly epoch: number;
  readonly seq: number;
}

/** A new stream. */
export interface ModelCreation {
  readonly id: string;
  /** Source of a fork, and the number of records to take from it; by default, all of them. */
  readonly source?: { readonly id: string; readonly place?: number | undefined } | undefined;
  readonly record?: unknown;
  readonly ends?: boolean;
  readonly ttlS?: number | undefined;
}

export interface ModelAppend {
  readonly record?: unknown;
  readonly ends?: boolean;
  readonly producer?: ModelProducer | undefined;
  readonly sequence?: string | undefined;
}

/** Response to an append. */
export interface ModelResponse {
  /** Status, with the code of a problem. */
  readonly outcome: string;
  /** Headers with the number of a producer. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface ModelStream {
  readonly id: string;
  readonly ttlS: number | undefined;
  readonly origin: { readonly stream: ModelStream; readonly place: number } | undefined;
  readonly records: unknown[];
  /** The start, and the position after each record. */
  readonly places: ModelPlace[];
  readonly producers: Map<string, ModelProducer>;
  /** Bytes of its own records. */
  bytes: number;
  sequence: string | undefined;
  /** How the stream ended: the append that ended it, or the writer's reason. */
  end: { readonly by?: ModelProducer | undefined; readonly error?: string } | undefined;
  cancelled: string | undefined;
  isHeld: boolean;
  /** True for a deleted stream that forks need. */
  isDeleted: boolean;
}

/** Limits of the streams. */
export interface ModelLimits {
  readonly maxStreams: number;
  readonly maxStreamBytes: number;
  readonly maxForks: number;
}

/** The streams of a broker, as specified in docs/reference/durable-streams-http.md. */
export class StreamsModel {
  readonly #limits: ModelLimits;
  readonly #streams = new Map<string, ModelStream>();

  /** Creates a model without streams. */
  constructor(limits: ModelLimits) {
    this.#limits = limits;
  }

  /** All streams, including deleted ones that forks need. */
  get all(): ModelStream[] {
    return [...this.#streams.values()];
  }

  /** Finds a stream. */
  get(id: string): ModelStream | undefined {
    return this.#streams.get(id);
  }

  /** The error for each use of a missing stream. */
  absence(id: string): string | undefined {
    const stream = this.get(id);
    if (stream === undefined) return "404 not-found";
    return stream.isDeleted ? "410 gone" : undefined;
  }

  /**
   * Creates a stream, unless the creation is rejected.
   *
   * @returns The status, with the code of a problem.
   */
  create(creation: ModelCreation): string {
    const { id, source, record, ends = false } = creation;
    const there = this.get(id);
    const from = source && this.get(source.id);
    if (source !== undefined && from === undefined) return "404 not-found";
    if (from?.isDeleted) return "409 deleted";
    const place = source?.place ?? from?.records.length ?? 0;
    if (from !== undefined && place > from.records.length) {
      return there !== undefined && !there.isDeleted ? "409 exists" : "400 bad-offset";
    }
    const bytes = bytesOf(record);
    if (bytes > this.#limits.maxStreamBytes) return "413 full";
    const ttlS = creation.ttlS ?? from?.ttlS;
    if (there !== undefined && !there.isDeleted) {
      const isSame = there.ttlS === ttlS && (there.end !== undefined) === ends &&
        there.origin?.stream === from &&
        (source?.place === undefined || source.place === there.origin?.place);
      return isSame ? "200" : "409 exists";
    }
    if (from !== undefined && this.#forksOf(from).length >= this.#limits.maxForks) {
      return there === undefined ? "409 too-many-forks" : "409 deleted";
    }
    if (there !== undefined) return "409 deleted";
    if (this.#streams.size >= this.#limits.maxStreams) return "429 too-many";
    const [records, places] = [from?.records ?? [], from?.places ?? [{ offset: undefined }]];
    const stream: ModelStream = {
      id,
      ttlS,
      origin: from && { stream: from, place },
      records: records.slice(0, place),
      places: places.slice(0, place + 1),
      producers: new Map(),
      bytes: 0,
      sequence: undefined,
      end: ends ? {} : undefined,
      cancelled: undefined,
      isHeld: false,
      isDeleted: false,
    };
    if (record !== undefined) add(stream, record);
    this.#streams.set(id, stream);
    return "201";
  }

  /**
   * Appends to a stream, unless the append is rejected. Checks the stream's end first, then the
   * producer, the sequence and the size.
   *
   * @param id Id of the stream.
   */
  append(id: string, append: ModelAppend): ModelResponse {
    const stream = this.get(id);
    const { record, producer, sequence, ends = false } = append;
    if (stream === undefined || stream.isDeleted) return rejection(this.absence(id)!);
    if (stream.end !== undefined) return judgeEnded(stream.end, append);
    const rejected = producer && judgeProducer(producer, stream.producers.get(producer.id));
    if (rejected) return rejected;
    if (sequence !== undefined && sequence <= (stream.sequence ?? "")) {
      return rejection("409 out-of-sequence");
    }
    if (stream.bytes + bytesOf(record) > this.#limits.maxStreamBytes && record !== undefined) {
      return rejection("413 full");
    }
    if (record !== undefined) add(stream, record);
    stream.sequence = sequence ?? stream.sequence;
    if (producer !== undefined) stream.producers.set(producer.id, producer);
    if (ends) stream.end = { by: producer };
    const outcome = producer !== undefined && record !== undefined ? "200" : "204";
    return { outcome, headers: producer ? numberOf(producer.epoch, producer.seq) : {} };
  }

  /** Deletes or expires a stream, which stays while forks need it. */
  delete(id: string): void {
    const stream = this.get(id)!;
    stream.isDeleted = true;
    for (let next: ModelStream | undefined = stream; next?.isDeleted; next = next.origin?.stream) {
      if (this.#forksOf(next).length > 0) return;
      this.#streams.delete(next.id);
    }
  }

  #forksOf(stream: ModelStream): ModelStream[] {
    return this.all.filter(({ origin }) => origin?.stream === stream);
  }
}

function add(stream: ModelStream, record: unknown): void {
  stream.records.push(record);
  stream.places.push({ offset: undefined });
  stream.bytes += bytesOf(record);
}

function bytesOf(record: unknown): number {
  return record === undefined ? 0 : countedBytes(JSON.stringify(record).length, 1);
}

function rejection(outcome: string, headers: ModelResponse["headers"] = {}): ModelResponse {
  return { outcome, headers };
}

/** The append that ended the stream may be repeated, as may a close without records. */
function judgeEnded(
  { by }: NonNullable<ModelStream["end"]>,
  { producer, record, ends = false }: ModelAppend,
): ModelResponse {
  if (producer === undefined) return rejection(ends && record === undefined ? "204" : "409 closed");
  const { id, epoch, seq } = producer;
  const isSame = id === by?.id && epoch === by.epoch && seq === by.seq;
  return isSame ? rejection("204", numberOf(epoch, seq)) : rejection("409 closed");
}

function judgeProducer(
  { epoch, seq }: ModelProducer,
  known: ModelProducer | undefined,
): ModelResponse | undefined {
  const newest = known ?? { epoch, seq: -1 };
  if (epoch < newest.epoch) return rejection("403 stale-epoch", numberOf(newest.epoch));
  if (epoch > newest.epoch) return seq > 0 ? rejection("400 bad-header") : undefined;
  if (seq <= newest.seq) return rejection("204", numberOf(epoch, newest.seq));
  if (seq === newest.seq + 1) return undefined;
  return rejection("409 sequence-gap", {
    "producer-expected-seq": `${newest.seq + 1}`,
    "producer-received-seq": `${seq}`,
  });
}

function numberOf(epoch: number, seq?: number): Record<string, string> {
  return { "producer-epoch": `${epoch}`, ...(seq !== undefined && { "producer-seq": `${seq}` }) };
}
