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
import { SessionCore } from "./core.ts";
import type { HealthOptions, SessionHealth, SessionIssue, SessionSummary } from "./health.ts";
import type { SessionDebugState, SessionDiagnostics } from "./diagnostics.ts";
import type { SessionEvents } from "./events.ts";
import type { IncomingStream } from "./incoming_streams.ts";
import type { Session, SessionIdentity, WaitOptions } from "./session.ts";
import type { SessionSettings } from "./settings.ts";
import { type SessionStats, statsOf } from "./stats.ts";
import type {
  StructuredDatagrams,
  StructuredOptions,
  StructuredStream,
  StructuredStreamOptions,
} from "./structured.ts";
import type { Registry } from "./registry.ts";

/** @ignore How the modules of Skein reach into a session. */
export let coreOf: (session: SessionBase) => SessionCore;

const more = (): Promise<typeof import("./_more.ts")> => import("./_more.ts");

/** The part of a {@linkcode Session} that is not about messages. */
export abstract class SessionBase {
  /** The connection: streams and datagrams, where it has them. */
  readonly connection: Connection;
  readonly #core: SessionCore;

  static {
    coreOf = (session) => session.#core;
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
   * Opens a bidirectional stream.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns The stream.
   * @throws {UnsupportedError} If the wire has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   * @throws {ConnectionError} If the connection is over.
   */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    return this.connection.createBidirectionalStream(options);
  }

  /**
   * Opens a unidirectional stream.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns Its writable end.
   * @throws {UnsupportedError} If the wire has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   * @throws {ConnectionError} If the connection is over.
   */
  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    return this.connection.createUnidirectionalStream(options);
  }

  /**
   * Yields the streams that the peer opens, of both kinds, in the order in which they came. What
   * nobody takes waits, within the connection's bounds; leaving the loop leaves it there.
   *
   * @param options Gives up waiting by a signal.
   * @returns The streams; it ends with the session.
   * @throws {TypeError} If another loop over them runs.
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
   */
  async sendDatagram(data: Uint8Array): Promise<void> {
    (await more()).sendDatagram(this, data);
  }

  /**
   * Opens a stream of typed messages, or makes one of a stream that the peer opened.
   *
   * @param options The registry, and how messages become bytes.
   * @returns The stream.
   * @throws {TypeError} If the registry is none.
   * @throws {UnsupportedError} If the wire has no streams.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   */
  async structuredStream<R extends Registry>(
    options: StructuredStreamOptions<R>,
  ): Promise<StructuredStream<R>> {
    return (await more()).structuredStream(this, options);
  }

  /**
   * Makes typed messages of the datagrams, which are this one's from now on.
   *
   * @param options The registry, and how messages become bytes.
   * @returns What sends and receives them.
   * @throws {TypeError} If the registry is none.
   * @throws {UnsupportedError} If the wire has no datagrams.
   */
  async structuredDatagrams<R extends Registry>(
    options: StructuredOptions<R>,
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
   */
  async ping(options: WaitOptions = {}): Promise<number> {
    return await (await more()).ping(this, options);
  }

  /**
   * Takes a snapshot of everything that is known of the session. It has no side
   * effect, and no header that could hold a secret.
   *
   * @returns The snapshot.
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
   */
  async issues(): Promise<SessionIssue[]> {
    return (await more()).issues(this);
  }

  /**
   * Looks at the session again and again, until it closes.
   *
   * @param options How often, and a signal that ends it.
   * @returns Yields how it is.
   */
  async *monitorHealth(
    options: HealthOptions = {},
  ): AsyncGenerator<SessionHealth, void, undefined> {
    yield* (await more()).monitorHealth(this, options);
  }
}
