/** The feature `durableStreams()`: streams that the application, sessions and HTTP share. */
import { SharedMutations } from "../server/http/described_mutations.ts";
import { type Feature, type FeatureHost, Mount, type Mounted } from "../server/feature.ts";
import { checkOptions } from "../base/options/option_checks.ts";
import { StreamRequests } from "./http/http.ts";
import {
  checkKeepsLogs,
  DURABLE_STREAMS,
  type DurableStreamsOptions,
  type StreamSettings,
  streamSettings,
} from "./options.ts";
import { SharedStreams } from "./shared_streams.ts";
import type {
  CreateDurableStreamOptions,
  DurableStreamInfo,
  DurableStreamItem,
  ReadDurableStreamOptions,
  StreamStore,
} from "./streams.ts";
import type { DurableStreamWriter } from "./writer.ts";

/**
 * Creates durable streams: logs that have an end and outlive sessions, writers and servers. With a
 * `path`, they are also served over HTTP, by the Durable Streams protocol.
 *
 * Clients read and cancel them if `authorize` of the server allows it for the topic `stream:<id>`;
 * over HTTP, `authorize` of these options decides.
 *
 * @param options The path for HTTP, permissions and limits.
 * @returns The feature, which is also the handle of the streams; it belongs to one server.
 * @throws {TypeError} If an option is unknown or invalid.
 * @throws {RangeError} If a number is out of range.
 *
 * @example Over HTTP
 * ```ts
 * import { serve } from "@skein/skein";
 * import { durableStreams } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const streams = durableStreams({ path: "/streams", authorize: ({ action }) => action === "read" });
 * await using server = serve({ port: 0, onListen() {}, features: [streams] });
 * await using writer = await streams.create("greeting", { contentType: "text/plain" });
 * await writer.append("hello");
 * const response = await fetch(`${server.url.replace("ws:", "http:")}streams/greeting`);
 * assertEquals(await response.text(), "hello");
 * ```
 */
export function durableStreams(options: DurableStreamsOptions = {}): DurableStreams {
  return new DurableStreams(options);
}

/**
 * The durable streams of a server: logs that have an end and outlive sessions, writers and servers.
 * All servers of a broker share the streams.
 *
 * @example A response that a client reads to its end
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { durableStreams } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const streams = durableStreams();
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   features: [streams],
 *   authorize: (_session, topic, action) => topic === "stream:answer-7" && action === "subscribe",
 * });
 * await using response = await streams.create<string>("answer-7");
 * for (const word of ["Hello", "world"]) void response.append(word);
 * await response.close();
 *
 * await using client = connect(server.url);
 * const words = await Array.fromAsync(client.durableStream<string>("answer-7"));
 * assertEquals(words, ["Hello", "world"]);
 * ```
 */
export class DurableStreams implements Feature {
  /** Name of the feature. */
  readonly name = "durableStreams";
  readonly #settings: StreamSettings;
  readonly #mount = new Mount("durableStreams()");

  /**
   * Creates streams without a server.
   *
   * @ignore
   */
  constructor(options: DurableStreamsOptions = {}) {
    checkOptions("create durableStreams()", options, DURABLE_STREAMS);
    this.#settings = streamSettings(options);
  }

  /**
   * Adds the streams to a server; called by `serve`.
   *
   * @param host The server.
   * @throws {TypeError} If the streams already have a server, or its broker keeps no logs.
   */
  mount(host: FeatureHost): Mounted {
    checkKeepsLogs("mount durableStreams()", host.topics.broker);
    const shared = SharedStreams.of(host);
    this.#mount.set(host);
    shared.settings = this.#settings;
    const added = shared.mount();
    const { path } = this.#settings;
    if (path === undefined) return added;
    const { guardParts, origins, settings: { maxMessageBytes } } = host.core;
    let requests: StreamRequests | undefined;
    return {
      ...added,
      http: {
        paths: [path],
        fetch: (request, info) => requests!.fetch(request, info),
        get stats() {
          return requests?.stats;
        },
      },
      started: () => {
        added.started?.();
        const states = shared.parts;
        const { logs, clientStreams, gate: changes, unwritten } = states;
        const { manager: rates } = host;
        const streams = { logs, clientStreams, changes, unwritten, states };
        const own = { ...streams, rates, origins, maxMessageBytes };
        requests = new StreamRequests({ ...this.#settings, path }, { ...guardParts, ...own });
        const { described } = host.share(SharedMutations, () => new SharedMutations());
        described.push(...shared.mutationInputs().map((of) => ({ path, ...of })));
      },
    };
  }

  /**
   * Creates a keyed stream, unless it exists. It has no writer: its rows are written by the states of
   * `liveState()`, and by clients. If its id fits a pattern of the contract's states, it starts
   * with the rows that `onOpen` returns, unless it is a fork.
   *
   * @param id The id, of 1 to 240 bytes.
   * @param options The lifetime, the source of a fork, and `keyed: true`.
   * @returns The state of the stream.
   * @throws {RequestError} With the code `exists` if there is a stream with this id that is not
   * keyed, or has another lifetime or source, and `unavailable` if the server is closed or `onOpen`
   * fails. For a fork, also with `not-found`, `malformed`, `wrong-type` if the source is not keyed,
   * `gone` if the offset is not the end of the source, or `full` if the rows are too large to be
   * copied in one step; and with `unknown-collection`, `ephemeral` or `invalid` if the id fits a
   * pattern of the contract, the source does not fit the same one, and a row does not fit the
   * contract.
   * @throws {LimitError} If there are too many streams.
   * @throws {TypeError} If an option is unknown or has the wrong type, if the media type is not
   * JSON, or if a fork has no source.
   * @throws {UnsupportedError} If the broker keeps no rows.
   * @throws {RangeError} If the id is empty or too long.
   * @throws {BrokerError} If the broker is unreachable. The stream may have been created.
   */
  create(
    id: string,
    options: CreateDurableStreamOptions & { readonly keyed: true },
  ): Promise<DurableStreamInfo>;

  /**
   * Creates a stream.
   *
   * @typeParam T Type of a record.
   * @param id The id, of 1 to 240 bytes.
   * @param options Media type, lifetime, and the source of a fork.
   * @returns The only writer of the new stream.
   * @throws {RequestError} With the code `exists`, and `unavailable` if the server is closed; for a
   * fork, also with `not-found`, `gone`, `malformed`, or `wrong-type` if the source is keyed.
   * @throws {LimitError} If there are too many streams or bytes, or if the source has too many
   * forks.
   * @throws {TypeError} If an option is unknown or has the wrong type, or if a fork has no source.
   * @throws {RangeError} If the id is empty or too long.
   * @throws {BrokerError} If the broker is unreachable. The stream may have been created; it then
   * ends after 15 s without a writer.
   */
  create<T = unknown>(
    id: string,
    options?: CreateDurableStreamOptions & { readonly keyed?: false | undefined },
  ): Promise<DurableStreamWriter<T>>;

  async create(
    id: string,
    options: CreateDurableStreamOptions = {},
  ): Promise<DurableStreamWriter | DurableStreamInfo> {
    return await this.#streams.create(id, options);
  }

  /**
   * Takes over a stream that has no writer, because it was created over HTTP, its writer released
   * it, or the writer's lease has expired. If no one takes over, a server ends the stream with
   * `writer-lost`: 5 to 10 s after it was released, or at most 5 s after the lease has expired.
   *
   * @typeParam T Type of a record.
   * @param id The id of an open stream without a writer.
   * @returns The writer; its `offset` shows how much was kept.
   * @throws {RequestError} With the code `held` if the stream has a writer, `ended` if it has
   * ended, `not-found` if it does not exist, or `unavailable` if the server is closed.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async open<T = unknown>(id: string): Promise<DurableStreamWriter<T>> {
    return await this.#streams.open<T>(id);
  }

  /**
   * Reads the state of a stream. Does not renew the time to live.
   *
   * @param id The id with which the stream was created.
   * @returns The state; `undefined` if there is no such stream.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async info(id: string): Promise<DurableStreamInfo | undefined> {
    return await this.#streams.info(id);
  }

  /**
   * Reads the existing records, without waiting for new ones.
   *
   * @typeParam T Type of a record. For a keyed stream, a record is a list of change messages.
   * @param id The id with which the stream was created.
   * @param options Start offset, and a signal.
   * @returns The records. The loop throws the same errors as `follow`, except at the end of an
   * incomplete stream.
   */
  read<T = unknown>(
    id: string,
    options: ReadDurableStreamOptions = {},
  ): AsyncGenerator<DurableStreamItem<T>, void, undefined> {
    return this.#streams.read<T>(id, options);
  }

  /**
   * Reads a stream to its end, waiting for new records. The loop ends once the stream is complete.
   *
   * @typeParam T Type of a record. For a keyed stream, a record is a list of change messages.
   * @param id The id with which the stream was created.
   * @param options Start offset, and a signal.
   * @returns The records. The loop throws a {@linkcode RequestError} with the code `aborted` or
   * `writer-lost` at the end of an incomplete stream, `not-found` if there is no such stream,
   * `gone` if the stream was deleted or the records are no longer kept, and `malformed` if the
   * offset is invalid. If the broker is unreachable, it throws a {@linkcode BrokerError}; another
   * loop can continue after the last offset.
   */
  follow<T = unknown>(
    id: string,
    options: ReadDurableStreamOptions = {},
  ): AsyncGenerator<DurableStreamItem<T>, void, undefined> {
    return this.#streams.follow<T>(id, options);
  }

  /**
   * Asks the writer of a stream to stop: the writer's `signal` aborts, on whichever node it is. If
   * this is called several times, the first reason is kept.
   *
   * @param id The id with which the stream was created.
   * @param reason Reason for the writer, of at most 1,024 characters.
   * @returns True if the stream was open.
   * @throws {RequestError} With the code `not-found` if there is no such stream.
   * @throws {TypeError} If the reason is not a string.
   * @throws {RangeError} If the reason is too long.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async cancel(id: string, reason: string = ""): Promise<boolean> {
    return await this.#streams.cancel(id, reason);
  }

  /**
   * Deletes a stream. Its readers receive the code `gone`; its forks stay.
   *
   * @param id The id with which the stream was created.
   * @returns True if there was a stream.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async delete(id: string): Promise<boolean> {
    return await this.#streams.delete(id);
  }

  get #streams(): StreamStore {
    return SharedStreams.of(this.#mount.host).parts.streams;
  }
}
