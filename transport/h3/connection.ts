/** An HTTP/3 connection with WebTransport sessions, in either role. */
import { ConnectionError } from "../../errors.ts";
import type { FlowControlOptions } from "../connection.ts";
import type { Deadlines } from "../../base/deadlines.ts";
import { type EarlyStream, EarlyStreams } from "./early_streams.ts";
import { rejectionStatus, statusOf } from "./wire/message_fields.ts";
import { readHead, type StreamHead, UNIDIRECTIONAL_STREAM } from "./wire/stream_head.ts";
import { ControlFrames } from "./wire/control_frames.ts";
import { H3Error, H3ProtocolError, STREAM_ERRORS } from "./wire/error_codes.ts";
import { encodeFrame, FrameType, Http3FrameParser } from "./wire/frames.ts";
import {
  checkEncoderInstructions,
  decodeFields,
  DecoderInstructions,
  encodeFields,
  type Field,
} from "./wire/qpack.ts";
import { isPeerReset } from "../deno_errors.ts";
import { type QuicEnding, quicEnding, remoteAddressOf } from "../quic/deno_quic.ts";
import { Http3Request } from "./request.ts";
import type { SessionCreditPair } from "./session_credit.ts";
import {
  type ConnectStream,
  Http3Session,
  type SessionEnding,
  type SessionErrors,
  type SessionLink,
  SKEIN_ERRORS,
} from "./session.ts";
import type { AcceptedPeer } from "../quic/acceptor.ts";
import type { UnreadShare } from "../quic/unread_streams.ts";
import {
  clientSettings,
  encodeSettings,
  flowControlOf,
  flowLimitsOf,
  type Http3Settings,
  serverSettings,
  SettingId,
  supportsWebTransport,
  type UpgradeToken,
  upgradeTokensOf,
} from "./wire/settings.ts";
import { FIRST_READ_BYTES } from "../quic/receive_half.ts";
import { concat } from "../../base/bytes.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { TurnEnd } from "../quic/stream_owner.ts";
import { readVarint, varintLengthAt } from "../quic/varint.ts";

/** The statuses of requests whose heads can't be read, by error code; 400 for all others. */
const REJECTIONS: ReadonlyMap<number, number> = new Map([
  [H3Error.excessiveLoad, 431],
  [H3Error.requestRejected, 503],
]);

/** How long a request waits for the peer's settings, in milliseconds. */
export const SETTINGS_TIMEOUT_MS = 5_000;

/**
 * How long a connection stays open after its last session, in milliseconds. The limit is needed
 * because browsers never close idle connections.
 */
export const GRACE_MS = 2_000;

/** The exclusive upper bound of a quarter stream ID (RFC 9297 section 2.1). */
const MAX_QUARTER_ID = 2 ** 60;

/**
 * The buffer size for reads of a control stream. It is small, because frames are small and rare,
 * and the buffer stays pinned while the connection is idle.
 */
const CONTROL_READ_BYTES = 256;

/**
 * The buffer size for reads of a QPACK stream. It is small, because the tables have capacity 0, so
 * hardly any data arrives, and the buffer stays pinned.
 */
const QPACK_READ_BYTES = 16;

/** The types of unidirectional streams (RFC 9114 section 6.2, RFC 9204 section 4.2). */
const StreamType = { control: 0, push: 1, qpackEncoder: 2, qpackDecoder: 3 } as const;

/** The options of an {@linkcode Http3Connection}. */
export interface Http3ConnectionOptions {
  readonly runtime: Runtime;
  readonly side: "client" | "server";
  /**
   * The maximum number of concurrent sessions. Further requests are rejected with 429.
   *
   * @default {16}
   */
  readonly maxSessions?: number | undefined;
  /** The limits that sessions grant to the peer. */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Called on a server with each request of the peer. */
  readonly onRequest?: ((request: Http3Request) => void) | undefined;
  /**
   * Tells whether a request is from a client that is handing over from another connection. If it
   * returns `false` for a spare connection, that connection is closed. If this callback is absent,
   * no connection is spare.
   */
  readonly isSuccessor?: ((request: Http3Request) => boolean) | undefined;
  /** The timeouts for the first request on each of a server's connections. */
  readonly firstRequests?: Deadlines<Http3Connection> | undefined;
  /**
   * The timeouts for the settings of a client whose request arrived before its settings, each of
   * {@linkcode SETTINGS_TIMEOUT_MS}. The timeouts share one timer, because such requests are
   * frequent, and the wait usually ends in the same turn of the event loop.
   */
  readonly lateSettings?: Deadlines<Http3Connection> | undefined;
  /**
   * The timeouts for a server's connections without a session, each of {@linkcode GRACE_MS}. The
   * timeouts share one timer, because a timer per connection would cost more than all other work at
   * the end of a session.
   */
  readonly graces?: Deadlines<Http3Connection> | undefined;
  /** True if a client's connection stays open after its last session. */
  readonly isPooled?: boolean | undefined;
}

/** A client's request for a session. */
export interface Http3ConnectOptions {
  /** The `https:` URL. */
  readonly url: URL;
  /** The request headers without the pseudo-headers. */
  readonly fields?: readonly Field[] | undefined;
  /**
   * Reads the subprotocol from the response. Returns `undefined` if the server selected a
   * subprotocol that was not offered.
   */
  readonly protocolOf: (fields: readonly Field[]) => string | undefined;
  /**
   * Chooses the value of `:protocol`. By default, it is the value that the server's settings
   * suggest.
   */
  readonly tokenOf?: ((settings: Http3Settings) => UpgradeToken) | undefined;
  /** The factory of the session's errors. */
  readonly errors?: SessionErrors | undefined;
}

/**
 * One HTTP/3 connection. It reads and writes the control streams, classifies the peer's streams,
 * and passes datagrams to their sessions (RFC 9114, RFC 9297, draft-ietf-webtrans-http3).
 */
export class Http3Connection implements SessionLink {
  readonly runtime: Runtime;
  readonly conn: Deno.QuicConn;
  readonly ending: Promise<QuicEnding>;
  readonly turnEnd: TurnEnd;
  readonly unread: UnreadShare | undefined;

  readonly #options: Http3ConnectionOptions;
  readonly #remoteAddress: Deno.NetAddr | undefined;
  readonly #sessions = new Map<number, Http3Session>();
  #peerSettings: Http3Settings | undefined;
  /** The pending wait for the peer's settings, if any. */
  #settings: PromiseWithResolvers<Http3Settings> | undefined;
  /** The bidirectional streams opened by the client whose first frame has not arrived yet. */
  readonly #unread = new Set<number>();
  /**
   * The streams that MUST stay open as long as the connection. They are referenced here so that
   * they are not garbage-collected.
   */
  readonly #critical: unknown[] = [];
  readonly #uniqueTypes = new Set<number>();
  readonly #early: EarlyStreams;
  /** The requests whose heads have arrived in part; `undefined` if there was none. */
  #heads: EarlyStreams | undefined;
  #nextId = 0;
  #fault: H3ProtocolError | undefined;
  #end: QuicEnding | undefined;
  #isOver = false;
  #isClosedHere = false;
  #isReadingDatagrams = false;
  #isRejecting = false;
  /**
   * True if the connection exceeds the listener's limits and the client has not yet proved that it
   * hands over from another connection.
   */
  #isSpare: boolean;
  #idle: Timer | undefined;

  /**
   * Starts HTTP/3 on a QUIC connection by sending the settings.
   *
   * @param conn A connection whose handshake is complete.
   * @param accepted On a server, what the listener knows about the peer. `control` is the control
   * stream, if it was opened during the handshake.
   */
  constructor(
    conn: Deno.QuicConn,
    options: Http3ConnectionOptions,
    {
      unread,
      remoteAddress,
      isSpare = false,
      control = openControl(conn, encodeControlHead(options)),
    }: Partial<AcceptedPeer> & { readonly control?: Promise<unknown> | undefined } = {},
  ) {
    const { runtime } = options;
    this.#isSpare = isSpare;
    this.runtime = runtime;
    this.turnEnd = new TurnEnd(runtime);
    this.conn = conn;
    this.#options = options;
    this.unread = unread;
    this.#remoteAddress = remoteAddress;
    this.#early = new EarlyStreams(runtime, unread);
    this.#critical.push(control);
    this.ending = this.#run();
    (isSpare ? options.graces : options.firstRequests)?.add(this);
  }

  get side(): "client" | "server" {
    return this.#options.side;
  }

  get fault(): H3ProtocolError | undefined {
    return this.#fault;
  }

  get isClosedHere(): boolean {
    return this.#isClosedHere;
  }

  get isEnded(): boolean {
    return this.#isOver;
  }

  /** True if the connection has ended, or accepts no more sessions. */
  get isOver(): boolean {
    return this.#isOver || this.#isRejecting;
  }

  /** The number of sessions, including pending ones. */
  get sessionCount(): number {
    return this.#sessions.size;
  }

  /**
   * Waits for the peer's settings, and reads how many concurrent sessions the peer allows. Without
   * flow control, the limit is one (draft-ietf-webtrans-http3 section 5.2).
   *
   * @throws {ConnectionError} If the connection has ended.
   */
  async sessionLimit(): Promise<number> {
    const settings = await this.#settingsInTime();
    const limits = [
      settings.get(SettingId.webTransportMaxSessionsDraft07),
      settings.get(SettingId.webTransportMaxSessions),
    ].filter((limit) => limit !== undefined);
    if (limits.length > 0) return Math.max(1, ...limits);
    return flowControlOf(settings) === undefined ? 1 : Infinity;
  }

  /**
   * Waits for the peer's settings, and requests a session.
   *
   * @returns The session. Its `ready` settles when the response has arrived.
   * @throws {ConnectionError} If the server does not support WebTransport, or if the connection has
   * ended.
   */
  async connect(options: Http3ConnectOptions): Promise<Http3Session> {
    const { url, fields = [], protocolOf, errors = SKEIN_ERRORS } = options;
    const { tokenOf = (settings) => upgradeTokensOf(settings)[0] } = options;
    if (this.isOver) {
      throw errors.session("Cannot open session: the server accepts no more on this connection");
    }
    this.#endGrace();
    let settings: Http3Settings;
    let stream: Deno.QuicBidirectionalStream;
    try {
      settings = await this.#settingsInTime();
      stream = await this.conn.createBidirectionalStream({ waitUntilAvailable: true });
    } catch (cause) {
      const message = cause instanceof ConnectionError ? cause.message : "The connection broke";
      throw errors.session(message, { cause });
    }
    if (!supportsWebTransport(settings)) {
      const error = new H3ProtocolError(
        H3Error.requirementsNotMet,
        "The server does not speak WebTransport: its settings do not announce it",
      );
      this.fail(error);
      throw errors.session(error.message, { cause: error });
    }
    const id = Number(stream.writable.id);
    const head = encodeFields([
      [":method", "CONNECT"],
      [":protocol", tokenOf(settings)],
      [":scheme", "https"],
      [":authority", url.host],
      [":path", url.pathname + url.search],
      ["sec-webtransport-http3-draft02", "1"],
      ...fields,
    ]);
    const connect: ConnectStream = {
      id,
      reader: stream.readable.getReader({ mode: "byob" }),
      writer: stream.writable.getWriter(),
      frames: new Http3FrameParser({ stream: "request" }),
    };
    const session: Http3Session = new Http3Session(this, connect, {
      errors,
      credit: this.#creditOf(settings),
      onResponse: (payload) =>
        this.#respond(session, decodeFields(payload), { protocolOf, errors }),
    });
    this.#add(session);
    connect.writer.write(encodeFrame(FrameType.headers, head)).catch(() => {});
    return session;
  }

  /** Rejects all later requests with 503. */
  stop(): void {
    this.#isRejecting = true;
    for (const session of this.#sessions.values()) session.drain();
  }

  /**
   * Closes the connection and all of its sessions.
   *
   * @param code The HTTP/3 error code.
   */
  close(code: number = H3Error.noError, reason = ""): void {
    if (this.#isOver) return;
    this.#isOver = this.#isClosedHere = true;
    this.#endGrace();
    this.conn.close({ closeCode: code, reason });
  }

  fail(error: H3ProtocolError): void {
    if (this.#isOver) return;
    this.#fault = error;
    if (this.#peerSettings === undefined) this.#settings?.reject(connectionFailed(error));
    this.close(error.h3Code, error.message);
  }

  /** Ends the connection because the peer did not send its settings in time. */
  failWithoutSettings(): void {
    const peer = this.side === "server" ? "client" : "server";
    const message = `The ${peer} sent no SETTINGS in time`;
    this.fail(new H3ProtocolError(H3Error.missingSettings, message));
  }

  readDatagrams(): void {
    if (this.#isReadingDatagrams) return;
    this.#isReadingDatagrams = true;
    void this.#readDatagrams();
  }

  sessionEnded(
    id: number,
    { closeConnection, fault }: SessionEnding,
  ): Promise<void> | undefined {
    if (!this.#sessions.delete(id)) return undefined;
    this.#early.reject(id);
    if (closeConnection && !this.#isOver) {
      this.close();
      return this.ending.then(() => {});
    }
    if (this.#sessions.size > 0 || this.#isOver) return undefined;
    const { side, isPooled = false } = this.#options;
    if (side === "server" || isPooled) {
      this.#beginGrace();
      return undefined;
    }
    if (fault === undefined) this.close();
    else this.close(fault.h3Code, fault.message);
    return this.ending.then(() => {});
  }

  /** Registers the session that a request creates. */
  #add(session: Http3Session): void {
    this.#endGrace();
    this.#options.firstRequests?.delete(this);
    this.#sessions.set(session.id, session);
    this.#early.accept(session);
  }

  async #run(): Promise<QuicEnding> {
    const ending = quicEnding(this.conn);
    void this.#acceptAll(
      this.conn.incomingUnidirectionalStreams,
      (stream) => this.#classifyUnidirectional(stream),
    );
    void this.#acceptAll(this.conn.incomingBidirectionalStreams, (stream) => {
      const id = this.#nextId;
      this.#nextId += 4;
      return this.#classifyBidirectional(stream, id);
    });
    const end = await ending;
    this.#isOver = true;
    this.#endGrace();
    this.#options.firstRequests?.delete(this);
    this.#early.clear();
    this.#heads?.clear();
    this.#end = end;
    this.#options.lateSettings?.delete(this);
    if (this.#peerSettings === undefined) this.#settings?.reject(connectionBroke(end));
    return end;
  }

  /**
   * Accepts streams. If a stream fails, only that stream ends. A protocol violation ends the
   * connection.
   */
  async #acceptAll<T>(
    streams: ReadableStream<T>,
    accept: (stream: T) => Promise<void>,
  ): Promise<void> {
    const reader = streams.getReader();
    try {
      while (true) {
        const { done, value } = await reader.read();
        if (done) return;
        accept(value).catch((error) => {
          // Any other error means that the peer reset the stream, or that the connection has ended.
          if (error instanceof H3ProtocolError) this.fail(error);
        });
      }
    } catch {
      // The connection has ended, and `ending` reports the outcome.
    }
  }

  async #classifyUnidirectional(stream: Deno.QuicReceiveStream): Promise<void> {
    const reader = stream.getReader({ mode: "byob" });
    const head = await readHead(reader, UNIDIRECTIONAL_STREAM);
    if (head === undefined || head === "empty") return;
    const { type, held } = head;
    switch (type) {
      case UNIDIRECTIONAL_STREAM: {
        const sessionId = head.sessionId!;
        const session = this.#sessionOf(sessionId);
        if (session !== undefined) return session.acceptUnidirectional(head);
        return this.#hold({
          sessionId,
          accept: (late) => late.acceptUnidirectional(head),
          reject: () => void reader.cancel().catch(() => {}),
        });
      }
      case StreamType.control: {
        this.#checkOnce("control stream", StreamType.control);
        const read = this.#controlReader();
        return await this.#readCritical(reader, "control stream", {
          read,
          held,
          size: CONTROL_READ_BYTES,
        });
      }
      case StreamType.qpackEncoder:
      case StreamType.qpackDecoder: {
        this.#checkOnce("QPACK stream", type);
        const decoder = new DecoderInstructions();
        const read = type === StreamType.qpackEncoder
          ? checkEncoderInstructions
          : (bytes: Uint8Array) => decoder.check(bytes);
        return await this.#readCritical(reader, "QPACK stream", {
          read,
          held,
          size: QPACK_READ_BYTES,
        });
      }
      case StreamType.push:
        throw new H3ProtocolError(
          this.#options.side === "server" ? H3Error.streamCreationError : H3Error.idError,
          "The peer opened a push stream",
        );
      default:
        return void reader.cancel().catch(() => {});
    }
  }

  #checkOnce(what: string, type: number): void {
    if (this.#uniqueTypes.has(type)) {
      throw new H3ProtocolError(H3Error.streamCreationError, `The peer opened a second ${what}`);
    }
    this.#uniqueTypes.add(type);
  }

  /** Reads a stream that MUST stay open as long as the connection. */
  async #readCritical(
    reader: ReadableStreamBYOBReader,
    what: string,
    { read, held, size }: {
      readonly read: (bytes: Uint8Array) => void;
      readonly held: Uint8Array | undefined;
      readonly size: number;
    },
  ): Promise<void> {
    this.#critical.push(reader);
    if (held !== undefined) read(held);
    while (true) {
      let result;
      try {
        result = await reader.read(new Uint8Array(size));
      } catch (error) {
        if (isPeerReset(error)) break;
        return; // The connection has ended; `ending` reports the outcome.
      }
      if (result.done) break;
      read(result.value);
    }
    if (this.#isOver) return;
    throw new H3ProtocolError(H3Error.closedCriticalStream, `The peer closed its ${what}`);
  }

  #controlReader(): (bytes: Uint8Array) => void {
    const frames = new Http3FrameParser({ stream: "control" });
    const control = new ControlFrames(this.#options.side);
    return (bytes) => {
      frames.push(bytes);
      for (let frame; (frame = frames.next()) !== undefined;) {
        const event = control.receive(frame);
        if (event === "goaway") this.#windUp();
        else if (event !== undefined) {
          this.#peerSettings = event;
          this.#options.lateSettings?.delete(this);
          this.#settings?.resolve(event);
        }
      }
    };
  }

  #windUp(): void {
    // The client must not send further requests, so a pool opens another connection (RFC 9114
    // section 5.2).
    this.#isRejecting ||= this.#options.side === "client";
    for (const session of this.#sessions.values()) session.windUp();
  }

  async #classifyBidirectional(stream: Deno.QuicBidirectionalStream, id: number): Promise<void> {
    const { side } = this.#options;
    const reader = stream.readable.getReader({ mode: "byob" });
    this.#unread.add(id);
    try {
      const head = await readHead(reader, FrameType.webTransportStream);
      if (head === undefined || head === "empty" && side === "client") {
        return void stream.writable.abort().catch(() => {});
      }
      if (head !== "empty" && head.type === FrameType.webTransportStream) {
        this.#unread.delete(id);
        return this.#deliver(stream, head);
      }
      if (side === "client") {
        throw new H3ProtocolError(
          H3Error.streamCreationError,
          "The server opened a request stream",
        );
      }
      const frames = new Http3FrameParser({ stream: "request" });
      if (head !== "empty") frames.push(head.whole);
      const connect = { id, reader, frames, writer: stream.writable.getWriter() };
      try {
        // Most requests arrive complete in the first packet of their stream.
        const fields = nextFields(frames) ?? await this.#restOfFields(connect);
        const settings = this.#peerSettings ?? await this.#settingsInTime();
        this.#request(connect, fields, settings);
      } catch (error) {
        connect.writer.closed.catch(() => {});
        if (error instanceof H3ProtocolError && STREAM_ERRORS.has(error.h3Code)) {
          return Http3Request.reject(connect, REJECTIONS.get(error.h3Code) ?? 400);
        }
        // If the stream stayed open, it would count against the stream limit.
        connect.writer.abort().catch(() => {});
        throw error;
      }
    } finally {
      this.#unread.delete(id);
      if (!this.#sessions.has(id)) this.#early.reject(id);
    }
  }

  /**
   * Reads the rest of a head, within the limits for streams that arrive early, so that a client
   * cannot leave many heads unfinished.
   */
  async #restOfFields({ id, reader, frames }: ConnectStream): Promise<Field[]> {
    const heads = this.#heads ??= new EarlyStreams(this.runtime, this.unread);
    let isRejected = false;
    const head: EarlyStream = {
      sessionId: id,
      reject: () => {
        isRejected = true;
        reader.cancel().catch(() => {});
      },
    };
    heads.hold(head);
    try {
      return await readFields(reader, frames);
    } catch (error) {
      if (!isRejected) throw error;
      throw new H3ProtocolError(
        H3Error.requestRejected,
        "The HEADERS frame is late, or one of many",
      );
    } finally {
      heads.delete(head);
    }
  }

  #deliver(stream: Deno.QuicBidirectionalStream, head: StreamHead): void {
    const sessionId = head.sessionId!;
    const session = this.#sessionOf(sessionId);
    if (session !== undefined) return session.acceptBidirectional(stream, head);
    this.#hold({
      sessionId,
      accept: (late) => late.acceptBidirectional(stream, head),
      reject: () => {
        head.reader.cancel().catch(() => {});
        stream.writable.abort().catch(() => {});
      },
    });
  }

  #request(connect: ConnectStream, fields: readonly Field[], settings: Http3Settings): void {
    const rejection = rejectionStatus(fields) ?? this.#limitReached();
    if (rejection !== undefined) return Http3Request.reject(connect, rejection);
    const session = new Http3Session(this, connect, { credit: this.#creditOf(settings) });
    this.#add(session);
    const remoteAddress = this.#remoteAddress ?? remoteAddressOf(this.conn);
    const request = new Http3Request(session, connect, { fields, remoteAddress });
    const { isSuccessor, onRequest } = this.#options;
    // A promise decides nothing, and must not lift the limit.
    if (this.#isSpare && isSuccessor?.(request) !== true) {
      return this.close(H3Error.excessiveLoad, "Too many connections");
    }
    this.#isSpare = false;
    onRequest?.(request);
  }

  /** Waits for the peer's settings. If they do not arrive in time, the connection ends. */
  async #settingsInTime(): Promise<Http3Settings> {
    if (this.#peerSettings !== undefined) return this.#peerSettings;
    if (this.#fault !== undefined) throw connectionFailed(this.#fault);
    if (this.#end !== undefined) throw connectionBroke(this.#end);
    const { lateSettings } = this.#options;
    if (this.#settings === undefined) lateSettings?.add(this);
    const { promise } = this.#settings ??= Promise.withResolvers();
    if (lateSettings === undefined) {
      const isInTime = await settlesWithin(this.runtime, promise, SETTINGS_TIMEOUT_MS);
      if (!isInTime) this.failWithoutSettings();
    }
    return await promise;
  }

  /** The credit of a session; `undefined` if either side did not announce flow control. */
  #creditOf(settings: Http3Settings): SessionCreditPair | undefined {
    const { flowControl } = this.#options;
    const theirs = flowControlOf(settings);
    const automatic = flowControl?.automatic ?? true;
    return theirs && { ours: flowLimitsOf(flowControl), theirs, automatic };
  }

  #limitReached(): number | undefined {
    const { maxSessions = 16 } = this.#options;
    if (this.#isRejecting) return 503;
    return this.#sessions.size >= maxSessions ? 429 : undefined;
  }

  #respond(
    session: Http3Session,
    fields: readonly Field[],
    { protocolOf, errors = SKEIN_ERRORS }: Pick<Http3ConnectOptions, "protocolOf" | "errors">,
  ): void {
    const status = statusOf(fields);
    if (status < 200) return;
    if (status >= 300) {
      const headers = new Headers();
      for (const [name, value] of fields) if (!name.startsWith(":")) headers.append(name, value);
      return session.reject(
        errors.session(`The server rejected the session with ${status}`, {
          status,
          cause: { status, headers },
        }),
      );
    }
    const protocol = protocolOf(fields);
    if (protocol !== undefined) return session.establish(protocol);
    session.reject(errors.session("The server chose a subprotocol that was not offered"));
  }

  /** Finds the session of a stream, if the session exists. */
  #sessionOf(sessionId: number): Http3Session | undefined {
    const session = this.#sessions.get(sessionId);
    if (session !== undefined || sessionId % 4 === 0) return session;
    throw new H3ProtocolError(
      H3Error.idError,
      `Expected the ID of a CONNECT stream, received ${sessionId}`,
    );
  }

  /** Buffers a stream until its session's request arrives, if that is still possible. */
  #hold(stream: EarlyStream): void {
    const { sessionId } = stream;
    // QUIC delivers streams in order, so a stream that was already read and is not a session will
    // never become one.
    const mayCome = sessionId >= this.#nextId || this.#unread.has(sessionId);
    if (this.#options.side === "server" && mayCome && !this.#isOver) this.#early.hold(stream);
    else stream.reject();
  }

  async #readDatagrams(): Promise<void> {
    const { conn } = this;
    try {
      while (true) {
        const datagram = await conn.readDatagram();
        const length = datagram.byteLength === 0 ? 1 : varintLengthAt(datagram[0]!);
        if (datagram.byteLength < length) {
          throw new H3ProtocolError(
            H3Error.datagramError,
            `Expected a session ID in a datagram, received ${datagram.byteLength} bytes`,
          );
        }
        const quarterId = readVarint(datagram, 0);
        if (quarterId >= MAX_QUARTER_ID) {
          throw new H3ProtocolError(
            H3Error.datagramError,
            `Expected a session ID in a datagram, received a quarter of ${4 * quarterId}`,
          );
        }
        this.#sessions.get(4 * quarterId)?.receiveDatagram(datagram.subarray(length));
      }
    } catch (error) {
      // Any other error means that the connection has ended, and `ending` reports the outcome.
      if (error instanceof H3ProtocolError) this.fail(error);
    }
  }

  /** Closes the connection after a grace period, unless another session starts. */
  #beginGrace(): void {
    const { graces } = this.#options;
    if (graces !== undefined) return graces.add(this);
    this.runtime.clearTimeout(this.#idle);
    this.#idle = this.runtime.setTimeout(() => this.close(), GRACE_MS);
  }

  #endGrace(): void {
    this.#options.graces?.delete(this);
    this.runtime.clearTimeout(this.#idle);
  }
}

/**
 * Encodes the start of the control stream, which consists of the stream type and the settings.
 *
 * @throws {RangeError} If a flow-control limit is invalid.
 */
export function encodeControlHead(
  { side, maxSessions = 16, flowControl }: Pick<
    Http3ConnectionOptions,
    "side" | "maxSessions" | "flowControl"
  >,
): Uint8Array {
  const { maxData, maxStreamsBidi, maxStreamsUni } = flowLimitsOf(flowControl);
  const limits = {
    maxSessions,
    initialMaxData: maxData,
    initialMaxStreamsBidi: maxStreamsBidi,
    initialMaxStreamsUni: maxStreamsUni,
  };
  const settings = side === "server" ? serverSettings(limits) : clientSettings(limits);
  const frame = encodeFrame(FrameType.settings, encodeSettings(settings));
  return concat([Uint8Array.of(StreamType.control), frame]);
}

/**
 * Opens the control stream and sends its head.
 *
 * @param conn The connection, whose handshake may still be in progress.
 * @returns The writer, which MUST stay referenced as long as the connection is open. A stream ends
 * when it is garbage-collected, and the control stream MUST NOT end (RFC 9114 section 6.2.1).
 */
export async function openControl(
  conn: Deno.QuicConn,
  head: Uint8Array,
): Promise<WritableStreamDefaultWriter<Uint8Array> | undefined> {
  try {
    const writer = (await conn.createUnidirectionalStream()).getWriter();
    writer.closed.catch(() => {});
    writer.write(head).catch(() => {});
    return writer;
  } catch {
    return undefined; // The connection has ended, and `closed` reports the outcome.
  }
}

function connectionFailed(fault: H3ProtocolError): ConnectionError {
  return new ConnectionError(fault.message, { cause: fault });
}

function connectionBroke({ reason, isTimeout }: QuicEnding): ConnectionError {
  return new ConnectionError(`The connection broke: ${reason}`, { isTimeout });
}

/** Reads the HEADERS frame at the start of a request. */
async function readFields(
  reader: ReadableStreamBYOBReader,
  frames: Http3FrameParser,
): Promise<Field[]> {
  while (true) {
    const { done, value } = await reader.read(new Uint8Array(FIRST_READ_BYTES));
    if (done) {
      throw frames.isBetweenFrames
        ? new H3ProtocolError(
          H3Error.requestIncomplete,
          "The request ended before its HEADERS frame",
        )
        : new H3ProtocolError(H3Error.frameError, "The request ended inside a frame");
    }
    frames.push(value);
    const fields = nextFields(frames);
    if (fields !== undefined) return fields;
  }
}

/**
 * Decodes the HEADERS frame at the start of a request. Returns `undefined` if more bytes are
 * needed.
 */
function nextFields(frames: Http3FrameParser): Field[] | undefined {
  const frame = frames.next();
  if (frame === undefined) return undefined;
  if (frame.type === FrameType.headers) return decodeFields(frame.payload);
  throw new H3ProtocolError(
    H3Error.frameUnexpected,
    `Expected HEADERS first, received a frame of type ${frame.type}`,
  );
}
