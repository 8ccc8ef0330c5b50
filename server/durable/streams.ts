/** Durable streams as the application of a server uses them, and as its sessions subscribe. */
import { CREATE, READ } from "./options.ts";
import { checkOptions } from "../../base/option_checks.ts";
import { withoutUndefined } from "../../base/options.ts";
import { MAX_REASON_LENGTH } from "../../pubsub/logs/rules.ts";
import { tellAnswer } from "../../pubsub/history/replay.ts";
import type {
  SubscribeOptions,
  Topics,
  TopicSource,
  UnsubscribeOptions,
} from "../../pubsub/topics.ts";
import type { Owner } from "../../base/owners.ts";
import { internals, type Session } from "../../session/session.ts";
import type { SubscribeAnswer } from "../../session/wire/recovery.ts";
import type { Answers, BeginAnswer } from "./answers.ts";
import type {
  CreateDurableStreamOptions,
  DurableStreamInfo,
  DurableStreamItem,
  NodeStreams,
  ReadDurableStreamOptions,
} from "./node_streams.ts";
import type { DurableStreamWriter } from "./writer.ts";

/** The code of durable streams, which loads with the server. */
export interface LoadedStreams {
  readonly node: NodeStreams;
  /** Answers that outlive their connections. */
  readonly answers: Answers;
  /** Sends the records of a stream to a session. Never rejects. */
  readonly send: (reading: SessionReading) => Promise<void>;
  /** Leaves the streams of this node, and ends all readers. */
  readonly close: () => Promise<void>;
}

/**
 * The durable streams of a server: logs with an end, which outlive sessions, writers and servers. All
 * servers of a broker share the streams.
 *
 * @example An answer that a client reads to its end
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   durableStreams: { path: "/streams" },
 *   authorize: (_session, topic, action) => topic === "stream:answer-7" && action === "subscribe",
 * });
 * await using answer = await server.durableStreams.create<string>("answer-7");
 * for (const word of ["Hello", "world"]) void answer.append(word);
 * await answer.close();
 *
 * await using client = connect(server.url);
 * const words = await Array.fromAsync(client.durableStream<string>("answer-7"));
 * assertEquals(words, ["Hello", "world"]);
 * ```
 */
export class DurableStreams {
  readonly #loaded: Promise<LoadedStreams>;

  /** Begins without streams of its own; the server does this. */
  constructor(loaded: Promise<LoadedStreams>) {
    this.#loaded = loaded;
    loaded.catch(() => {}); // Each call reports the failure.
  }

  /**
   * Creates a stream.
   *
   * @typeParam T Type of a record.
   * @param id The id: 1 to 240 bytes.
   * @param options Media type, lifetime, and the source of a fork.
   * @returns The writer of the stream.
   * @throws {RequestError} With the code `exists`, or for a fork `not-found`, `gone` or `malformed`.
   * @throws {LimitError} If there are too many streams or bytes of them, or the source of a fork has too many
   * forks.
   * @throws {RangeError} If the id is empty or too long.
   * @throws {BrokerError} If the engine is away. The stream may have been created; without a writer
   * it ends after 15 s.
   */
  async create<T = unknown>(
    id: string,
    options: CreateDurableStreamOptions = {},
  ): Promise<DurableStreamWriter<T>> {
    checkOptions("create stream", options, CREATE);
    return await (await this.#loaded).node.create(id, options);
  }

  /**
   * Takes over a stream that has no writer: one that was created over HTTP, one that its writer
   * released, or one whose writer's lease has lapsed. A server ends a stream with `writer-lost` 5 to
   * 10 s after the release, and at most 5 s after the lease has lapsed.
   *
   * @typeParam T Type of a record.
   * @param id The id.
   * @returns The writer, whose `offset` tells how much was kept.
   * @throws {RequestError} With the code `held` if there is a writer, `ended`, or `not-found`.
   * @throws {BrokerError} If the engine is away.
   */
  async open<T = unknown>(id: string): Promise<DurableStreamWriter<T>> {
    return await (await this.#loaded).node.open(id);
  }

  /**
   * Reads the state of a stream. Does not renew the time to live.
   *
   * @param id The id.
   * @returns The state; `undefined` without a stream.
   * @throws {BrokerError} If the engine is away.
   */
  async info(id: string): Promise<DurableStreamInfo | undefined> {
    return await (await this.#loaded).node.info(id);
  }

  /**
   * Reads the records that there are, without waiting for new ones.
   *
   * @typeParam T Type of a record.
   * @param id The id.
   * @param options Where to begin, and a signal.
   * @returns The records. The loop throws as that of `follow` does, but not for an incomplete end.
   */
  async *read<T = unknown>(
    id: string,
    options: ReadDurableStreamOptions = {},
  ): AsyncGenerator<DurableStreamItem<T>, void, undefined> {
    checkOptions("read stream", options, READ);
    yield* (await this.#loaded).node.read<T>(id, options);
  }

  /**
   * Reads a stream to its end, and waits for new records. The loop ends once the stream is complete.
   *
   * @typeParam T Type of a record.
   * @param id The id.
   * @param options Where to begin, and a signal.
   * @returns The records. The loop throws a {@linkcode RequestError} with the code `aborted` or
   * `writer-lost` at the end of an incomplete stream, `not-found` without a stream, `gone` if the
   * stream was deleted or the records are no longer kept, and `malformed` for a bad offset.
   */
  async *follow<T = unknown>(
    id: string,
    options: ReadDurableStreamOptions = {},
  ): AsyncGenerator<DurableStreamItem<T>, void, undefined> {
    checkOptions("read stream", options, READ);
    yield* (await this.#loaded).node.follow<T>(id, options);
  }

  /**
   * Asks the writer of a stream to stop: its `signal` aborts, on any node. The first reason stays.
   *
   * @param id The id.
   * @param reason Reason for the writer, of at most 1,024 characters.
   * @returns True if the stream was open.
   * @throws {RequestError} With the code `not-found` without a stream.
   * @throws {RangeError} If the reason is too long.
   * @throws {BrokerError} If the engine is away.
   */
  async cancel(id: string, reason: string = ""): Promise<boolean> {
    if (reason.length > MAX_REASON_LENGTH) {
      throw new RangeError(
        `Cannot cancel: the reason must have at most ${MAX_REASON_LENGTH} characters, ` +
          `received ${reason.length}`,
      );
    }
    return await (await this.#loaded).node.cancel(id, reason);
  }

  /**
   * Deletes a stream. Its readers get the code `gone`; its forks stay.
   *
   * @param id The id.
   * @returns True if there was a stream.
   * @throws {BrokerError} If the engine is away.
   */
  async delete(id: string): Promise<boolean> {
    return await (await this.#loaded).node.delete(id);
  }

  /**
   * Lists the streams with a writer or readers on this node, for an inspector.
   *
   * @ignore
   * @returns Each stream; of a writer, its offset and the records that wait to be kept.
   */
  async activity(): Promise<StreamActivity[]> {
    const { node, answers } = await this.#loaded;
    const ids = answers.ids();
    return Array.from(node.activity(), ([id, { writer, readers }]) => ({
      id,
      readers,
      isAnswer: ids.has(id),
      writer: writer && { offset: writer.offset, waiting: writer.waiting },
    }));
  }

  /**
   * Creates the source of a topic `stream:<id>`.
   *
   * @ignore
   */
  source(topic: string, topics: Topics): TopicSource {
    return new StreamFeed(topic, topics, this.#loaded);
  }

  /**
   * Counts a session until its end, for the answers of guests who leave.
   *
   * @ignore
   */
  opened(session: Session, owner: Owner): void {
    this.#follow((abandoned) => abandoned.opened(owner));
    session[internals].whenEnded(() => this.#follow((abandoned) => abandoned.ended(owner)));
  }

  /**
   * Begins an answer that outlives its connection, unless begun before.
   *
   * @ignore
   */
  async begin(request: BeginAnswer): Promise<string> {
    return await (await this.#loaded).answers.begin(request);
  }

  /**
   * Leaves answers to other servers, and waits for the rest.
   *
   * @ignore
   */
  async drain(options: Parameters<Answers["drain"]>[0]): Promise<void> {
    await (await this.#loaded).answers.drain(options);
  }

  /**
   * Leaves answers to other servers, and ends the streams of all other writers of this server with
   * the error `writer-lost`.
   *
   * @ignore
   */
  async close(): Promise<void> {
    const loaded = await this.#loaded.catch(() => undefined); // The failure was reported.
    await loaded?.close();
  }

  /** Acts in the order of the calls, once the streams are loaded. */
  #follow(act: (abandoned: Answers["abandoned"]) => void): void {
    this.#loaded.then(({ answers }) => act(answers.abandoned), () => {}); // The failure was reported.
  }
}

/** A stream with a writer or readers on one node. */
export interface StreamActivity {
  readonly id: string;
  /** Readers on this node. */
  readonly readers: number;
  /** True if an answer of this node writes the stream. */
  readonly isAnswer: boolean;
  /** The writer on this node. */
  readonly writer?: { readonly offset: string; readonly waiting: number };
}

/** A session that reads a stream. */
export interface SessionReading {
  readonly session: Session;
  readonly topic: string;
  /** Where to begin. */
  readonly options: SubscribeOptions;
  /** Aborted once the session no longer reads the stream, or begins anew. */
  readonly signal: AbortSignal;
  /** The place that the session has reached, once known. */
  standing: SubscribeAnswer | undefined;
  /** Answers the subscription; later calls have no effect. */
  answer(answer: SubscribeAnswer): void;
  /** Takes the session off the topic. */
  leave(options: UnsubscribeOptions): void;
}

/**
 * The sessions of a topic `stream:<id>`. Each reads the stream at its own pace; the node shares the
 * announcements of the stream, and the pages of readers at one place.
 */
class StreamFeed implements TopicSource {
  readonly #topic: string;
  readonly #topics: Topics;
  readonly #loaded: Promise<LoadedStreams>;
  readonly #readings = new Map<Session, SessionReading & { readonly stop: AbortController }>();

  constructor(topic: string, topics: Topics, loaded: Promise<LoadedStreams>) {
    this.#topic = topic;
    this.#topics = topics;
    this.#loaded = loaded;
  }

  get size(): number {
    return this.#readings.size;
  }

  sessions(): Iterable<Session> {
    return this.#readings.keys();
  }

  admit(session: Session, options: SubscribeOptions): (() => SubscribeAnswer) | undefined {
    const before = this.#readings.get(session);
    const isPlain = options.since === undefined && options.last === undefined;
    const standing = before?.standing;
    if (isPlain && standing !== undefined) return () => before?.standing ?? standing;
    // A reading whose place is still unknown begins as asked for first, and answers the newest call.
    const begin = isPlain && before ? { ...before.options, ...withoutUndefined(options) } : options;
    this.#begin(session, begin);
    // This comes last because the application is called, and may remove the session.
    if (before !== undefined) end(before);
    return undefined;
  }

  delete(session: Session): void {
    const reading = this.#readings.get(session);
    this.#readings.delete(session);
    if (reading !== undefined) end(reading);
  }

  #begin(session: Session, options: SubscribeOptions): void {
    const topic = this.#topic;
    const stop = new AbortController();
    let isAnswered = false;
    const reading = {
      session,
      topic,
      options,
      stop,
      signal: stop.signal,
      standing: undefined,
      answer(answer: SubscribeAnswer) {
        if (isAnswered) return;
        isAnswered = true;
        tellAnswer(session, options.onAnswer, answer);
      },
      leave: (why: UnsubscribeOptions) => void this.#topics.unsubscribe(session, topic, why),
    };
    this.#readings.set(session, reading);
    this.#loaded.then(({ send }) => stop.signal.aborted ? undefined : send(reading)).catch(
      (error) => session[internals].endByFailure(error, "Durable streams failed to load"),
    );
  }
}

function end(reading: SessionReading & { readonly stop: AbortController }): void {
  reading.stop.abort();
  reading.answer({ isSuperseded: true });
}
