/**
 * What a session offers beside messages: streams, datagrams, credit, and a look
 * at how it is.
 *
 * Most of it is loaded when it is first asked for: a page that only sends
 * messages does not pay for it.
 *
 * @module
 */
import type {
  BidirectionalStream,
  Connection,
  DatagramDuplex,
  OpenStreamOptions,
  SendStream,
  StreamDirection,
} from "../transport/connection.ts";
import { coreOf, reachBy } from "./reach.ts";
import { SessionCore } from "./core.ts";
import type { HealthOptions, SessionHealth, SessionSummary } from "./insight/health.ts";
import type { SessionDebugState, SessionDiagnostics } from "./insight/diagnostics.ts";
import type { SessionEvents } from "./events.ts";
import type { IncomingStream } from "./streams/incoming_streams.ts";
import type { Session, SessionIdentity } from "./session.ts";
import type { SessionSettings } from "./settings.ts";
import { type SessionStats, statsOf } from "./insight/stats.ts";
import type { StructuredStream, StructuredStreamOptions } from "./streams/structured.ts";
import type {
  StructuredDatagrams,
  StructuredDatagramsOptions,
} from "./streams/structured_datagrams.ts";
import type { Registry } from "./streams/registry.ts";
import type { WaitOptions } from "./types.ts";
import type { SessionIssue } from "./insight/issue.ts";

export { coreOf };

/** Loads what is not about messages. */
export const more = (): Promise<typeof import("./insight/chunk_insight.ts")> =>
  import("./insight/chunk_insight.ts");

/** The part of a {@linkcode Session} that is not about messages. */
export abstract class SessionBase {
  /** The connection: streams and datagrams, where it has them. */
  readonly connection: Connection;
  readonly #core: SessionCore;

  static {
    reachBy((session) => session.#core);
  }

  /** See {@linkcode Session}. */
  constructor(connection: Connection, settings: SessionSettings, identity: SessionIdentity) {
    this.connection = connection;
    this.#core = new SessionCore(this as unknown as Session, connection, settings, identity);
  }

  /** Counters, read when asked for; `toJSON()` makes a plain object of them. */
  get stats(): SessionStats {
    return statsOf(this.#core);
  }

  /**
   * The events of the session, made when they are first asked for: what happened before is not told.
   *
   * @example Streams of the peer
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * const opened = new Promise<string>((resolve) =>
   *   pair.server.events.addEventListener("streamopened", ({ detail }) => resolve(detail.direction))
   * );
   * await pair.client.createUnidirectionalStream();
   * assertEquals(await opened, "unidirectional");
   * ```
   */
  get events(): SessionEvents {
    return this.#core.events;
  }

  /** Datagrams in both directions, as web streams. */
  get datagrams(): DatagramDuplex {
    return this.connection.datagrams;
  }

  /**
   * The last measured round trip to the peer and back, in milliseconds; `undefined` before the first.
   * A server measures it by the heartbeat; a client by {@linkcode SessionBase.ping}.
   */
  get roundTripMs(): number | undefined {
    return this.#core.roundTripMs;
  }

  /**
   * Opens a bidirectional stream. Over Deno's QUIC a session that closes, a peer that gives the stream up,
   * and a server that refuses it unread, end it like a clean end: an answer that has to be whole tells
   * its length, or its end.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns The stream.
   * @throws {UnsupportedError} If the wire has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   * @throws {ConnectionError} If the connection is over.
   */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    return this.#core.opening("bidirectional", this.connection.createBidirectionalStream(options));
  }

  /**
   * Opens a unidirectional stream. A server whose application does not take it, or has too many unread,
   * refuses it; over Deno's QUIC that looks like a stream that ended well.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns Its writable end.
   * @throws {UnsupportedError} If the wire has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   * @throws {ConnectionError} If the connection is over.
   */
  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    return this.#core.opening(
      "unidirectional",
      this.connection.createUnidirectionalStream(options),
    );
  }

  /**
   * Yields the streams that the peer opens, of both kinds: each kind in the order in which they
   * came, in turns where both wait. A stream that is not taken waits, within the connection's bounds,
   * and on a server over WebTransport for 5 s (`limits.unreadStreams`), then it is refused; leaving the
   * loop leaves it there. Over Deno's QUIC a session that closes, and a peer that gives a stream up, end
   * the stream like a clean end: data that has to be whole tells its length, or its end.
   *
   * @param options Gives up waiting by a signal.
   * @returns The streams; it ends with the session, however that ends, and at once where the wire has none.
   * @throws {TypeError} If another loop over them runs.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * await pair.client.createBidirectionalStream();
   * for await (const stream of pair.server.incomingStreams()) {
   *   assertEquals(stream.direction, "bidirectional");
   *   break;
   * }
   * ```
   */
  async *incomingStreams(
    options: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<IncomingStream, void, undefined> {
    yield* (await more()).incomingStreams(this, options);
  }

  /**
   * Sends a datagram, or loses it: where too many wait already.
   *
   * @param data Its bytes; they MUST NOT be changed afterwards.
   * @throws {UnsupportedError} If the wire has no datagrams.
   * @throws {RangeError} If it is larger than `datagrams.maxDatagramSize`.
   * @throws {SessionClosedError} If the session is closed.
   * @throws {TypeError} If it is no `Uint8Array`.
   */
  async sendDatagram(data: Uint8Array): Promise<void> {
    (await more()).sendDatagram(this, data);
  }

  /**
   * Opens a stream of typed messages, or makes one of a stream that the peer opened. On some wires
   * the peer learns of a stream by its first bytes, so the end that opened it speaks first.
   *
   * @typeParam R The registry.
   * @param options The registry, and how messages become bytes.
   * @returns The stream.
   * @throws {TypeError} If the registry is empty, a key of it no integer from 0 to 65,534, or a value no
   * schema; if the codec is none, or the stream has not two ends.
   * @throws {RangeError} If `maxMessageBytes` is not an integer from 1 to 2^32 - 1.
   * @throws {UnsupportedError} If the wire has no streams.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   *
   * @example Both ends
   * ```ts
   * import { memoryPair, Session, sessionSettings } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   * import { z } from "zod";
   *
   * const registry = { 1: z.object({ x: z.number() }), 2: z.string() };
   * const { client, server } = memoryPair();
   * await using near = new Session(client, sessionSettings({ side: "client" }));
   * await using far = new Session(server, sessionSettings({ side: "server" }));
   *
   * await using sending = await near.structuredStream({ registry });
   * await sending.send(1, { x: 7 });
   * await sending.close();
   * for await (const stream of far.connection.incomingBidirectionalStreams) {
   *   await using receiving = await far.structuredStream({ registry, stream });
   *   assertEquals(await Array.fromAsync(receiving), [{ type: 1, data: { x: 7 } }]);
   *   break;
   * }
   * ```
   */
  async structuredStream<R extends Registry>(
    options: StructuredStreamOptions<R>,
  ): Promise<StructuredStream<R>> {
    return (await more()).structuredStream(this, options);
  }

  /**
   * Makes typed messages of the datagrams, which are this one's until it is disposed of.
   *
   * @typeParam R The registry.
   * @param options The registry, and how messages become bytes.
   * @returns What sends and receives them.
   * @throws {TypeError} If the registry is none, or somebody reads the datagrams already.
   * @throws {RangeError} If `maxQueued` is not a positive integer.
   * @throws {UnsupportedError} If the wire has no datagrams.
   *
   * @example Positions
   * ```ts
   * import { memoryPair, Session, sessionSettings } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   * import { z } from "zod";
   *
   * const registry = { 1: z.object({ sequence: z.number(), x: z.number() }) };
   * const { client, server } = memoryPair();
   * await using near = new Session(client, sessionSettings({ side: "client" }));
   * await using far = new Session(server, sessionSettings({ side: "server" }));
   *
   * await using sending = await near.structuredDatagrams({ registry });
   * await using receiving = await far.structuredDatagrams({ registry });
   * await sending.send(1, { sequence: 1, x: 7 });
   * for await (const { type, data } of receiving) {
   *   assertEquals([type, data], [1, { sequence: 1, x: 7 }]);
   *   break;
   * }
   * ```
   */
  async structuredDatagrams<R extends Registry>(
    options: StructuredDatagramsOptions<R>,
  ): Promise<StructuredDatagrams<R>> {
    return (await more()).structuredDatagrams(this, options);
  }

  /**
   * Allows the peer to send so many bytes on streams, in all.
   *
   * @param maxData The total since the beginning; what is lower than before changes nothing.
   * @throws {UnsupportedError} If the peer counts no credit on this wire.
   * @throws {RangeError} If it is not an integer from 0.
   */
  async grantDataCredit(maxData: number): Promise<void> {
    (await more()).grantCredit(this, "data", maxData);
  }

  /**
   * Allows the peer to open so many streams, in all.
   *
   * @param maxStreams The total since the beginning; what is lower than before changes nothing.
   * @param options Of which direction.
   * @throws {UnsupportedError} If the peer counts no credit on this wire.
   * @throws {RangeError} If it is not an integer from 0.
   */
  async grantStreamsCredit(
    maxStreams: number,
    options: { readonly direction: StreamDirection },
  ): Promise<void> {
    (await more()).grantCredit(this, options.direction, maxStreams);
  }

  /**
   * Measures the time to the peer and back.
   *
   * @param options Gives up by signal or time, 10,000 ms by default.
   * @returns Milliseconds.
   * @throws {UnsupportedError} If the wire has no heartbeat of its own: a plain WebSocket, or one without messages.
   * @throws {TimeoutError} If no answer came in time.
   * @throws {SessionClosedError} If the session is closed, or closes meanwhile.
   * @throws {QueueFullError} If too many wait already.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assert } from "@std/assert";
   *
   * await using pair = memorySessions();
   * await pair.client.ready;
   * const ms = await pair.client.ping();
   * assert(ms > 0 && pair.client.roundTripMs === ms);
   * ```
   */
  async ping(options: WaitOptions = {}): Promise<number> {
    return await (await more()).ping(this, options);
  }

  /**
   * Takes a snapshot of everything that is known of the session. It has no side
   * effect, and no header that could hold a secret.
   *
   * @returns The snapshot.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * const { state, transport, queues } = await pair.server.diagnostics();
   * assertEquals([state, transport, queues.receive.messages], ["connected", "memory", 0]);
   * ```
   */
  async diagnostics(): Promise<SessionDiagnostics> {
    return (await more()).diagnostics(this);
  }

  /**
   * Sums up the session for a list of many.
   *
   * @returns A small plain object.
   */
  async summary(): Promise<SessionSummary> {
    return (await more()).summary(this);
  }

  /**
   * Takes everything apart for a person who looks for a fault: the snapshot,
   * the queues, the limits and the issues, as one plain object.
   *
   * @returns What JSON can hold.
   */
  async debugState(): Promise<SessionDebugState> {
    return (await more()).debugState(this);
  }

  /**
   * Looks for what is wrong: stuck states, error rates, unread or leaking
   * streams, queues near their bound, missing heartbeats, starvation by credit.
   *
   * @returns One entry for each, with a sentence that says what to do; empty if all is well.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * await pair.client.createUnidirectionalStream();
   * const [issue] = await pair.server.issues();
   * assertEquals([issue?.code, issue?.severity], ["unread-streams", "warning"]);
   * ```
   */
  async issues(): Promise<SessionIssue[]> {
    return (await more()).issues(this);
  }

  /**
   * Looks at the session again and again, until it closes.
   *
   * @param options How often, and a signal that ends it.
   * @returns Yields how it is: at once, and then at each interval.
   * @throws {RangeError} If the interval is not a positive integer.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * for await (const { isHealthy, issues } of pair.server.monitorHealth({ intervalMs: 30_000 })) {
   *   assertEquals([isHealthy, issues], [true, []]);
   *   break;
   * }
   * ```
   */
  async *monitorHealth(
    options: HealthOptions = {},
  ): AsyncGenerator<SessionHealth, void, undefined> {
    yield* (await more()).monitorHealth(this, options);
  }
}
