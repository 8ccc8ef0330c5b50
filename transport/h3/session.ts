/** A WebTransport session over HTTP/3 (draft-ietf-webtrans-http3, RFC 9297). */
import { IncomingQueue, type IncomingQueueOptions, takeOut } from "../incoming_queue.ts";
import { CountedConnection, type StreamAccount } from "../counters.ts";
import { cutReason, MAX_WEBTRANSPORT_REASON_BYTES } from "../close_info.ts";
import type {
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionCredit,
  DirectReadable,
  DirectStream,
  DirectStreams,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
  StreamDirection,
  StreamSide,
} from "../connection.ts";
import type { UnreadShare, UnreadStream } from "../quic/unread_streams.ts";
import { SessionCredit, type SessionCreditPair } from "./session_credit.ts";
import { type StreamHead, streamHead, UNIDIRECTIONAL_STREAM } from "./wire/stream_head.ts";
import {
  CapsuleParser,
  CapsuleType,
  decodeCloseCapsule,
  decodeStreamCount,
  decodeVarintCapsule,
  encodeCapsule,
  encodeCloseCapsule,
  encodeVarintCapsule,
  MAX_CLOSE_FRAME_BYTES,
} from "./wire/capsules.ts";
import { QuicDatagrams } from "../quic/datagrams.ts";
import {
  fromHttp3StreamCode,
  H3Error,
  H3ProtocolError,
  sessionCloseOf,
  STREAM_ERRORS,
} from "./wire/error_codes.ts";
import { encodeFrame, FrameType, type Http3FrameParser } from "./wire/frames.ts";
import { isPeerReset, type StreamFailure } from "../deno_errors.ts";
import { openBidirectional, openUnidirectional, type QuicEnding } from "../quic/deno_quic.ts";
import { ReceiveHalf } from "../quic/receive_half.ts";
import { SendHalf } from "../quic/send_half.ts";
import { QuicStream } from "../quic/stream.ts";
import {
  type DataCredit,
  type StreamHalf,
  StreamHalves,
  type StreamOwner,
  type TurnEnd,
} from "../quic/stream_owner.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { ConnectionError, StreamError } from "../../errors.ts";
import { checkWireClose, MAX_WEBTRANSPORT_CLOSE_CODE } from "../wire_close.ts";

/** The part of an HTTP/3 connection that its sessions use. */
export interface SessionLink {
  readonly runtime: Runtime;
  readonly side: "client" | "server";
  readonly conn: Deno.QuicConn;
  /** Resolves when the connection has ended. */
  readonly ending: Promise<QuicEnding>;
  /** True once the connection has ended, so that nothing more can be sent. */
  readonly isEnded: boolean;
  /** True if this side closed the connection. */
  readonly isClosedHere: boolean;
  /** The peer's protocol violation because of which this side closed the connection, if any. */
  readonly fault: H3ProtocolError | undefined;
  /** The counters of unread streams, on a server. */
  readonly unread: UnreadShare | undefined;
  /** Starts to read datagrams. Before this call, the runtime holds the newest datagrams. */
  readDatagrams(): void;
  /**
   * At the end of the current turn of the event loop, notifies stream halves that the application
   * has not used yet.
   */
  readonly turnEnd: TurnEnd;
  /** Ends the connection because the peer violated the protocol. */
  fail(error: H3ProtocolError): void;
  /** Removes a session that has ended. The promise resolves once the cleanup is complete. */
  sessionEnded(id: number, ending: SessionEnding): Promise<void> | undefined;
}

/** The details of a session's end that the connection needs. */
export interface SessionEnding {
  /** True if the connection must end with the session. */
  readonly closeConnection: boolean;
  /**
   * The peer's violation that ended the session, if any. If the connection ends with the session,
   * it uses the code of this violation.
   */
  readonly fault: H3ProtocolError | undefined;
}

/** The stream of a CONNECT request, once its head has been read or written. */
export interface ConnectStream {
  /** The stream ID, which is also the session ID. */
  readonly id: number;
  readonly reader: ReadableStreamBYOBReader;
  readonly writer: WritableStreamDefaultWriter<Uint8Array>;
  /** The frame parser, which holds the bytes of the next frame read so far. */
  readonly frames: Http3FrameParser;
}

export interface OpenSessionStreamOptions extends OpenStreamOptions {
  /**
   * If `true`, the call waits for stream credit. If `false`, it fails with a `RangeError` when
   * there is no credit.
   *
   * @default {true}
   */
  readonly waitUntilAvailable?: boolean | undefined;
}

/** The highest send order, so that stream heads are sent first. */
const HEAD_SEND_ORDER = 2 ** 31 - 1;

/** How long the peer has to confirm a close, in milliseconds. */
const CLOSE_TIMEOUT_MS = 1_000;

/**
 * The buffer size for reads of a CONNECT stream. When a connection ends, unread bytes are lost
 * unless the pending read has room for them, so the buffer has room for a whole close capsule. It
 * is not larger than that, because other capsules are small and rare, and the buffer stays pinned
 * while the session is idle.
 */
const CONNECT_READ_BYTES = MAX_CLOSE_FRAME_BYTES;

const NO_CLOSE = "The peer ended the session without a close";

/**
 * The maximum number of streams of one direction that wait for the application. QUIC does not let
 * the peer open that many at the same time.
 */
const MAX_UNACCEPTED_STREAMS = 1_024;

/**
 * The maximum number of streams of one direction that wait while there is no reader. It is low,
 * because the application may never add a reader.
 */
const MAX_UNREAD_STREAMS = 16;

const CAPABILITIES: ConnectionCapabilities = {
  streams: true,
  datagrams: "unreliable",
  // The runtime cannot send reset codes, but the peer's codes are read.
  resetCodes: false,
  credit: false,
  independentStreams: true,
};

const WITH_CREDIT: ConnectionCapabilities = { ...CAPABILITIES, credit: true };

const TWO_RECEIVERS = "Cannot receive streams: there is a receiver already";

const BIDIRECTIONAL: IncomingQueueOptions<QuicStream> = {
  capacity: MAX_UNACCEPTED_STREAMS,
  onDropped: (stream) => endStream(stream),
};

const UNIDIRECTIONAL: IncomingQueueOptions<ReceiveHalf> = {
  capacity: MAX_UNACCEPTED_STREAMS,
  onDropped: (half) => half.cancel(),
};

/** One session, which is a {@linkcode Connection} over HTTP/3. */
export class Http3Session extends CountedConnection
  implements Connection, DirectStreams, StreamOwner {
  readonly transport: string = "webtransport";
  /**
   * The capabilities. `resetCodes` is false, because the runtime cannot reset a stream with a code.
   * `credit` is true if both sides use flow control.
   */
  readonly capabilities: ConnectionCapabilities;
  /** The open stream halves, which end with the session. */
  readonly halves: StreamHalves = new StreamHalves();

  readonly #link: SessionLink;
  readonly #connect: ConnectStream;
  readonly #errors: SessionErrors;
  #capsules: CapsuleParser | undefined = undefined;
  #ready: PromiseWithResolvers<void> | undefined = undefined;
  readonly #closed: PromiseWithResolvers<ConnectionCloseInfo> = Promise.withResolvers();
  #draining: PromiseWithResolvers<void> | undefined = undefined;
  readonly #bidirectional: IncomingQueue<QuicStream> = new IncomingQueue(
    BIDIRECTIONAL,
    (stream) => this.#taken(stream),
  );
  readonly #unidirectional: IncomingQueue<ReceiveHalf, ReceiveStream> = new IncomingQueue(
    UNIDIRECTIONAL,
    (half) => this.#taken(half).readable,
  );
  #bidirectionalReceiver: ((stream: DirectStream) => void) | undefined = undefined;
  #unidirectionalReceiver: ((stream: DirectReadable) => void) | undefined = undefined;
  #datagrams: QuicDatagrams | undefined = undefined;
  readonly #credit: SessionCredit | undefined;
  #closesConnection = false;
  #state: "pending" | "open" | "over" = "pending";
  #protocol = "";
  #closing: Required<ConnectionCloseInfo> | undefined = undefined;
  #isSettled = false;
  #isDraining = false;
  #isWindingUp = false;
  #wasOpen = false;
  #failed: StreamHalf[] = [];
  #lingering: Timer | undefined = undefined;
  #ending: EndReason | undefined = undefined;
  #onResponse: ((payload: Uint8Array) => void) | undefined = undefined;
  #isHeld = false;
  #requiresClose = false;

  /**
   * Creates a pending session and starts to read the CONNECT stream.
   *
   * @param options `errors` creates the session's errors. `credit` holds the limits of both sides.
   * On a client, `onResponse` handles the response.
   */
  constructor(
    link: SessionLink,
    connect: ConnectStream,
    options: {
      readonly errors?: SessionErrors | undefined;
      readonly onResponse?: ((payload: Uint8Array) => void) | undefined;
      readonly credit?: SessionCreditPair | undefined;
    } = {},
  ) {
    super();
    this.#link = link;
    this.#connect = connect;
    this.#errors = options.errors ?? SKEIN_ERRORS;
    this.#onResponse = options.onResponse;
    this.#closed.promise.catch(() => {});
    connect.writer.closed.catch(() => {});
    this.capabilities = options.credit === undefined ? CAPABILITIES : WITH_CREDIT;
    this.#credit = options.credit && new SessionCredit(link.runtime, options.credit, {
      overrun: () => this.overrun(),
      report: (event) => {
        if (this.counters !== undefined) this.ledger.tell(event);
      },
      sendLimit: (type, value) => {
        if (this.#state !== "over") this.#sendCapsule(encodeVarintCapsule(type, value));
      },
    });
    void this.#run();
  }

  /** The credit for bytes; `undefined` unless both sides use flow control. */
  get dataCredit(): DataCredit | undefined {
    return this.#credit?.data;
  }

  /** The counters of unread streams, on a server. */
  get unread(): UnreadShare | undefined {
    return this.#link.unread;
  }

  /**
   * The flow control of the session, if both sides announced limits and the session was accepted.
   */
  get credit(): ConnectionCredit | undefined {
    return this.#wasOpen ? this.#credit : undefined;
  }

  /** The stream ID of the CONNECT stream. */
  get controlStreamId(): number {
    return this.id;
  }

  /** The number of the peer's streams that the application has not taken yet. */
  get unreadStreams(): number {
    return this.#bidirectional.size + this.#unidirectional.size;
  }

  /** The stream ID of the CONNECT stream. */
  get id(): number {
    return this.#connect.id;
  }

  /** True once the session has ended on this side. */
  get isOver(): boolean {
    return this.#state === "over";
  }

  get protocol(): string {
    return this.#protocol;
  }

  /** Resolves once the request has been accepted. */
  get ready(): Promise<void> {
    if (this.#ready === undefined) {
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => {}); // An unobserved rejection is not an error.
      this.#settleReady();
    }
    return this.#ready.promise;
  }

  /** Settles once the peer has confirmed a close, or the connection has ended. */
  get closed(): Promise<ConnectionCloseInfo> {
    return this.#closed.promise;
  }

  get draining(): Promise<void> {
    if (this.#draining === undefined) {
      this.#draining = Promise.withResolvers();
      if (this.#isWindingUp) this.#draining.resolve();
    }
    return this.#draining.promise;
  }

  /** The datagrams. If too many wait to be read, the oldest are dropped. */
  get datagrams(): QuicDatagrams {
    return this.#ownDatagrams;
  }

  get incomingBidirectionalStreams(): ReadableStream<QuicStream> {
    return this.#bidirectional.readable;
  }

  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#unidirectional.readable;
  }

  get direct(): DirectStreams {
    return this;
  }

  /**
   * Opens a stream. If there is no stream credit, the call waits, or fails with a `RangeError` if
   * `waitUntilAvailable` is false.
   */
  async createBidirectionalStream(options: OpenSessionStreamOptions = {}): Promise<QuicStream> {
    const leftMs = await this.#mayOpen("bidirectional", options);
    const { conn, runtime } = this.#link;
    const opening = { ...options, leftMs, wire: quicOptions(options) };
    const stream = await openBidirectional(runtime, conn, opening)
      .catch((error) => this.#openFailed("bidirectional", error, options));
    const reader = stream.readable.getReader({ mode: "byob" });
    if (this.#ending !== undefined) reader.cancel().catch(() => {});
    const account = this.account("bidirectional", "local");
    const send = this.#sendHalf(stream.writable, account, options);
    return new QuicStream(new ReceiveHalf(this, reader, { account }), send);
  }

  /**
   * Opens a stream. If there is no stream credit, the call waits, or fails with a `RangeError` if
   * `waitUntilAvailable` is false.
   */
  async createUnidirectionalStream(options: OpenSessionStreamOptions = {}): Promise<SendStream> {
    return (await this.openUnidirectional(options)).writable;
  }

  async openUnidirectional(options: OpenSessionStreamOptions = {}): Promise<SendHalf> {
    const leftMs = await this.#mayOpen("unidirectional", options);
    const { conn, runtime } = this.#link;
    const opening = { ...options, leftMs, wire: quicOptions(options) };
    const stream = await openUnidirectional(runtime, conn, opening)
      .catch((error) => this.#openFailed("unidirectional", error, options));
    const account = this.account("unidirectional", "local");
    return this.#sendHalf(stream, account, { ...options, isOneWay: true });
  }

  receiveBidirectional(receiver: (stream: DirectStream) => void): void {
    if (this.#bidirectionalReceiver !== undefined) throw new TypeError(TWO_RECEIVERS);
    this.#bidirectionalReceiver = receiver;
    for (const held of this.#bidirectional.takeHeld()) this.#hand(held, receiver);
  }

  receiveUnidirectional(receiver: (stream: DirectReadable) => void): void {
    if (this.#unidirectionalReceiver !== undefined) throw new TypeError(TWO_RECEIVERS);
    this.#unidirectionalReceiver = receiver;
    for (const held of this.#unidirectional.takeHeld()) this.#hand(held, receiver);
  }

  /** Closes the session with a code and a reason. The peer has one second to confirm the close. */
  close(options?: CloseOptions): void {
    const info = checkWireClose(options, MAX_WEBTRANSPORT_CLOSE_CODE);
    this.closeWith({ ...info, closeConnection: options?.closeConnection === true });
  }

  /** Closes the session with any code, as the W3C interface permits. */
  closeWith({ closeCode = 0, reason = "", closeConnection = false }: CloseOptions): void {
    if (this.#closing !== undefined || this.#state === "over") return;
    this.#closesConnection = closeConnection;
    const cut = cutReason(reason, MAX_WEBTRANSPORT_REASON_BYTES);
    const info = this.#closing = { closeCode, reason: cut };
    const wasOpen = this.#state === "open";
    this.#over({ message: `The connection was closed with code ${closeCode}` });
    const { reader } = this.#connect;
    if (wasOpen) {
      this.#sendCapsule(encodeCloseCapsule(info));
      this.#endConnect();
    } else {
      this.#endConnect();
      reader.cancel().catch(() => {});
    }
    this.#lingering = this.#link.runtime.setTimeout(() => {
      this.#settle();
      reader.cancel().catch(() => {});
    }, CLOSE_TIMEOUT_MS);
  }

  /** Asks the peer to drain the session. Further calls have no effect. */
  drain(): void {
    if (this.#state === "open" && !this.#isDraining) {
      this.#isDraining = true;
      this.#sendCapsule(encodeCapsule(CapsuleType.drain, new Uint8Array()));
    }
  }

  /** Closes the session. `await using` calls this method. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  requireClose(): boolean {
    // If the session has already ended, an end without a close can no longer be distinguished from
    // a close.
    return this.#requiresClose = !this.#isSettled;
  }

  protected override discardFirst(): boolean {
    const held = this.#bidirectional.takeHeld();
    held[0]?.discard();
    for (const stream of held) this.#bidirectional.push(stream);
    return held.length > 0;
  }

  /** Drops datagrams and accepts only a few streams until the peer is admitted. */
  holdUntil(admitted: Promise<unknown>): void {
    this.#isHeld = true;
    admitted.then(() => this.#isHeld = false, () => {});
  }

  /** Opens the session after this side or the peer has accepted the request. */
  establish(protocol: string): void {
    if (this.#state !== "pending") return;
    this.#state = "open";
    this.#wasOpen = true;
    this.#protocol = protocol;
    this.#onResponse = undefined;
    this.#settleReady();
  }

  /** Ends the session after this side or the peer has rejected the request. */
  reject(error: Error): void {
    if (this.#state !== "pending") return;
    this.#over({ message: error.message, error });
    this.#endConnect();
    this.#connect.reader.cancel().catch(() => {});
    this.#settleWith(() => this.#closed.reject(error));
  }

  /** Handles the peer's request to drain the session or the connection. */
  windUp(): void {
    this.#isWindingUp = true;
    this.#draining?.resolve();
  }

  /** Handles a bidirectional stream opened by the peer. */
  acceptBidirectional(stream: Deno.QuicBidirectionalStream, head: StreamHead): void {
    const onEnd = this.#credit?.opened("bidirectional");
    if (this.#state === "over" || onEnd === false) {
      return discardStream(head.reader, stream.writable);
    }
    const { reader, held, isFull } = head;
    const account = this.account("bidirectional", "remote");
    const receive = new ReceiveHalf(this, reader, { held, isFull, onEnd, account });
    const send = new SendHalf(this, stream.writable, { onEnd, account });
    const accepted = new QuicStream(receive, send);
    // A stream without an account carries the session's messages, including the token.
    if (account === undefined) return this.#bidirectional.push(accepted);
    const receiver = this.#bidirectionalReceiver;
    if (receiver !== undefined && !this.#isHeld) return this.#hand(accepted, receiver);
    if (!this.#hasRoom(this.#bidirectional)) return endStream(accepted, this.#tooMany());
    if (receiver !== undefined) return this.#hand(accepted, receiver);
    this.#bidirectional.push(accepted);
    this.#watch(receive);
  }

  /** Handles a unidirectional stream opened by the peer. */
  acceptUnidirectional(head: StreamHead): void {
    const onEnd = this.#credit?.opened("unidirectional");
    if (this.#state === "over" || onEnd === false) return discardStream(head.reader);
    const { reader, held, isFull } = head;
    const account = this.account("unidirectional", "remote");
    const half = new ReceiveHalf(this, reader, { held, isFull, onEnd, account });
    const receiver = this.#unidirectionalReceiver;
    if (receiver !== undefined && !this.#isHeld) return this.#hand(half, receiver);
    if (!this.#hasRoom(this.#unidirectional)) return half.cancel(this.#tooMany());
    if (receiver !== undefined) return this.#hand(half, receiver);
    this.#unidirectional.push(half);
    this.#watch(half);
  }

  /** Handles a received datagram, whose bytes are in a buffer of their own. */
  receiveDatagram(payload: Uint8Array): void {
    if (this.#isHeld) return this.ledger.droppedDatagram(payload.byteLength);
    if (this.#state !== "over") this.#ownDatagrams.deliver(payload);
  }

  streamError(failure: StreamFailure): Error {
    return this.#errors.stream(failure, fromHttp3StreamCode(failure.code));
  }

  connectionError(cause: unknown): Error {
    return this.#error ?? this.#errors.session("The connection is over", { cause });
  }

  overrun(): void {
    this.#broken(
      new H3ProtocolError(H3Error.flowControlError, "The peer sent more than its credit"),
    );
  }

  rejectUnread(half: StreamHalf & UnreadStream, error: Error): void {
    this.ledger.streamsRejected++;
    const stream = takeOut(this.#bidirectional, (one) => one.receivesBy(half));
    if (stream !== undefined) return endStream(stream, error);
    const receive = takeOut(this.#unidirectional, (one) => one === half);
    if (receive !== undefined) return receive.cancel(error);
    // The application already has the stream, and a normal end would hide the rejection.
    half.fail(error);
  }

  /**
   * Passes a stream to the application. From then on, the end of the stream is noticed even if the
   * application does not read.
   */
  #taken<T extends QuicStream | ReceiveHalf>(stream: T): T {
    stream.taken();
    this.#link.turnEnd.add(stream);
    return stream;
  }

  /** Passes a stream to a receiver. Most receivers start to read immediately. */
  #hand<T extends QuicStream | ReceiveHalf>(stream: T, receiver: (stream: T) => void): void {
    stream.taken();
    receiver(stream);
    if (!stream.isRead) this.#link.turnEnd.add(stream);
  }

  /** Counts a waiting stream as unread once the current turn of the event loop has ended. */
  #watch(half: ReceiveHalf): void {
    if (this.unread !== undefined) this.#link.turnEnd.add(half);
  }

  /**
   * Tells whether another stream may wait for the application. Until the peer is admitted, the
   * streams of both directions count towards one limit.
   */
  #hasRoom(queue: IncomingQueue<QuicStream> | IncomingQueue<ReceiveHalf, ReceiveStream>): boolean {
    if (this.#isHeld) return this.unreadStreams < MAX_UNREAD_STREAMS;
    return queue.size < MAX_UNREAD_STREAMS || queue.readable.locked;
  }

  /** Counts a stream that is rejected because too many streams wait. */
  #tooMany(): Error | undefined {
    this.ledger.streamsRejected++;
    return this.unread?.rejected();
  }

  get #ownDatagrams(): QuicDatagrams {
    if (this.#datagrams === undefined) this.#link.readDatagrams();
    return this.#datagrams ??= new QuicDatagrams(
      this.#link.conn,
      this,
      { quarterId: this.id / 4, error: this.#ending && (() => this.#error!) },
    );
  }

  /** Counts a stream, unless the session has ended. */
  protected override account(
    direction: StreamDirection,
    by: StreamSide,
  ): StreamAccount | undefined {
    return this.#ending === undefined ? super.account(direction, by) : undefined;
  }

  #sendHalf(
    stream: Deno.QuicSendStream,
    account: StreamAccount | undefined,
    { sendOrder, isOneWay = false }: OpenStreamOptions & { readonly isOneWay?: boolean },
  ): SendHalf {
    if (this.#ending !== undefined) {
      stream.abort().catch(() => {});
      throw this.#error;
    }
    const type = isOneWay ? UNIDIRECTIONAL_STREAM : FrameType.webTransportStream;
    const half = new SendHalf(this, stream, { head: streamHead(type, this.id), account });
    if (sendOrder === undefined) this.#link.turnEnd.add(half);
    else {
      // The head is sent before any payload, so that no later stream overtakes it.
      half.flushHead();
      half.sendOrder = sendOrder;
    }
    return half;
  }

  /** Waits for stream credit, and resolves with the time left. */
  async #mayOpen(
    kind: StreamDirection,
    options: OpenSessionStreamOptions,
  ): Promise<number | undefined> {
    const { signal, timeoutMs } = options;
    const start = timeoutMs === undefined ? 0 : this.#link.runtime.monotonic();
    signal?.throwIfAborted();
    if (this.#state === "pending") await this.ready;
    if (this.#ending !== undefined) throw this.#error;
    if (options.waitUntilAvailable === false && this.#credit?.has(kind) === false) {
      throw new RangeError(`Cannot open stream: the peer currently allows no ${kind} stream`);
    }
    await this.#credit?.take(kind, options);
    if (timeoutMs === undefined) return undefined;
    const waitedMs = Math.round(this.#link.runtime.monotonic() - start);
    return waitedMs > 0 ? Math.max(0, timeoutMs - waitedMs) : timeoutMs;
  }

  #openFailed(
    kind: StreamDirection,
    error: unknown,
    { signal }: OpenStreamOptions,
  ): never {
    this.#credit?.giveBack(kind); // The peer cannot know which session the stream belonged to.
    if (signal?.aborted || !(error instanceof Error) || error.name === "TimeoutError") throw error;
    // No stream is available, and the caller has chosen not to wait.
    if (error instanceof RangeError) throw error;
    throw this.connectionError(error);
  }

  async #run(): Promise<void> {
    const { reader, frames } = this.#connect;
    try {
      while (true) {
        for (let frame; (frame = frames.next()) !== undefined;) {
          if (this.#isSettled) return void reader.cancel().catch(() => {});
          this.#receive(frame);
        }
        const { done, value } = await reader.read(new Uint8Array(CONNECT_READ_BYTES));
        if (done) break;
        // No data may follow a close, so the rest is not read.
        if (this.#isSettled) return void reader.cancel().catch(() => {});
        frames.push(value);
      }
      // After a local close, the stream may have been cut at any point.
      if (this.#closing !== undefined) return this.#settle();
      if (this.#isSettled) return;
      if (!frames.isBetweenFrames) {
        throw new H3ProtocolError(H3Error.frameError, "The CONNECT stream ended inside a frame");
      }
      if (this.#capsules?.isBetweenCapsules === false) {
        throw new H3ProtocolError(
          H3Error.messageError,
          "The CONNECT stream ended inside a capsule",
        );
      }
      if (this.#requiresClose) return this.#fail(this.#errors.session(NO_CLOSE));
      this.#peerClosed({ closeCode: 0, reason: "" });
    } catch (error) {
      if (error instanceof H3ProtocolError) return this.#broken(error);
      await this.#lost(error);
    }
  }

  /** True if the next bytes of the CONNECT stream continue a frame or a capsule. */
  get #isInsideCapsule(): boolean {
    return !this.#connect.frames.isBetweenFrames || this.#capsules?.isBetweenCapsules === false;
  }

  #receive({ type, payload }: { readonly type: number; readonly payload: Uint8Array }): void {
    if (type === FrameType.pushPromise && this.#link.side === "client") {
      throw new H3ProtocolError(
        H3Error.idError,
        "Received PUSH_PROMISE, and push is not allowed",
      );
    }
    if (type === FrameType.headers && this.#onResponse !== undefined) {
      return this.#onResponse(payload);
    }
    if (type !== FrameType.data || this.#onResponse !== undefined) {
      // Trailers have no meaning here. Other frames are invalid on this stream.
      if (type === FrameType.headers && this.#state === "open") return;
      throw new H3ProtocolError(
        H3Error.frameUnexpected,
        `Expected capsules on the CONNECT stream, received a frame of type ${type}`,
      );
    }
    const capsules = this.#capsules ??= new CapsuleParser();
    capsules.push(payload);
    for (let capsule; (capsule = capsules.next()) !== undefined;) {
      this.#receiveCapsule(capsule.type, capsule.payload);
    }
  }

  #receiveCapsule(type: number, payload: Uint8Array): void {
    switch (type) {
      case CapsuleType.close:
        return this.#peerClosed(decodeCloseCapsule(payload));
      case CapsuleType.drain:
        return this.windUp();
      case CapsuleType.datagram:
        return this.receiveDatagram(payload.slice());
      case CapsuleType.maxStreamData:
      case CapsuleType.streamDataBlocked:
        throw new H3ProtocolError(
          H3Error.messageError,
          "Expected stream credit from QUIC, received a capsule for it",
        );
      // A malformed capsule is a violation even without flow control.
      case CapsuleType.maxData:
      case CapsuleType.dataBlocked:
        decodeVarintCapsule(payload);
        break;
      case CapsuleType.maxStreamsBidi:
      case CapsuleType.maxStreamsUni:
      case CapsuleType.streamsBlockedBidi:
      case CapsuleType.streamsBlockedUni:
        decodeStreamCount(payload);
    }
    this.#credit?.receiveCapsule(type, payload);
  }

  #sendCapsule(capsule: Uint8Array): void {
    if (this.#isSettled) return;
    this.#connect.writer.write(encodeFrame(FrameType.data, capsule)).catch(() => {});
  }

  #endConnect(): void {
    // If the connection has ended, a write would only create an error with a stack trace.
    if (!this.#link.isEnded) this.#connect.writer.close().catch(() => {});
  }

  /** Handles the peer's close, or the peer's confirmation of a local close. */
  #peerClosed(info: Required<ConnectionCloseInfo>): void {
    if (this.#closing !== undefined) return this.#settle();
    if (this.#isSettled) return;
    const { closeCode, reason } = info;
    this.#over({
      message: `The peer closed the connection with code ${closeCode}${reason && `: ${reason}`}`,
    });
    this.#endConnect();
    this.#settleWith(() => this.#closed.resolve(info));
  }

  /** Handles a violation by the peer, on this stream or on the connection. */
  #broken(error: H3ProtocolError): void {
    const isOfSession = STREAM_ERRORS.has(error.h3Code) ||
      error.h3Code === H3Error.flowControlError;
    if (!isOfSession) this.#link.fail(error);
    else if (this.#state === "open") {
      // The close capsule carries the code, because the runtime cannot reset a stream with a code.
      this.#sendCapsule(encodeCloseCapsule({ closeCode: error.h3Code, reason: error.message }));
    }
    const message = `The peer broke the protocol: ${error.message}`;
    this.#fail(this.#errors.session(message, { cause: error }), error);
  }

  /** Ends the session after the CONNECT stream was reset, or the connection has ended. */
  async #lost(cause: unknown): Promise<void> {
    if (this.#isSettled) return;
    const { ending, fault } = this.#link;
    if (fault !== undefined) return this.#broken(fault);
    if (isPeerReset(cause) || this.#closing !== undefined) {
      return this.#fail(this.#errors.session(NO_CLOSE, { cause }));
    }
    const { closeCode, reason, isTimeout } = await ending;
    if (this.#link.fault !== undefined) return this.#broken(this.#link.fault);
    if (closeCode === undefined) {
      const message = `The connection broke: ${reason}`;
      return this.#fail(this.#errors.session(message, { cause, isTimeout }));
    }
    if (this.#link.isClosedHere) {
      this.#over({ message: "The connection was closed with code 0" });
      return this.#peerClosed({ closeCode: 0, reason: "" });
    }
    const close = this.#isInsideCapsule ? undefined : sessionCloseOf({ closeCode, reason });
    if (close !== undefined) return this.#peerClosed(close);
    const what = closeCode === 0 || closeCode === H3Error.noError
      ? `${NO_CLOSE},`
      : "The peer closed the HTTP/3 connection";
    const message = `${what} with code 0x${closeCode.toString(16)}${reason && `: ${reason}`}`;
    this.#fail(this.#errors.session(message, { cause }));
  }

  /** Ends a broken session. `fault` is the peer's violation, if there was one. */
  #fail(error: Error, fault?: H3ProtocolError): void {
    if (this.#isSettled) return;
    if (this.#closing !== undefined) return this.#settle();
    this.#over({ message: error.message, error, isBroken: true });
    this.#endConnect();
    this.#connect.reader.cancel().catch(() => {});
    this.#settleWith(() => this.#closed.reject(error), fault);
  }

  /** Ends all streams and datagrams. */
  #over(ending: EndReason): void {
    if (this.#state === "over") return;
    this.#state = "over";
    this.#ending = ending;
    this.#settleReady();
    const error = () => this.#error!;
    if (this.halves.size > 0) {
      this.#failed = this.halves.toArray();
      for (const half of this.#failed) half.fail(error());
    }
    for (const queue of [this.#bidirectional, this.#unidirectional]) {
      if (ending.isBroken) queue.fail(error());
      else queue.end();
    }
    this.#datagrams?.end(error, ending.isBroken ?? false);
    this.#credit?.fail(error);
  }

  /**
   * The error of the ended session. It is created on demand, because capturing a stack trace is
   * slow.
   */
  get #error(): Error | undefined {
    const ending = this.#ending;
    return ending && (ending.error ??= this.#errors.session(ending.message));
  }

  #settleReady(): void {
    if (this.#state === "pending") return;
    if (this.#ending !== undefined && !this.#wasOpen) this.#ready?.reject(this.#error);
    else this.#ready?.resolve();
  }

  /** Completes a local close. */
  #settle(): void {
    this.#settleWith(() => this.#closed.resolve(this.#closing!));
  }

  #settleWith(settle: () => void, fault?: H3ProtocolError): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#link.runtime.clearTimeout(this.#lingering);
    for (const half of this.#failed) half.release();
    this.#failed = [];
    const gone = this.#link.sessionEnded(this.id, {
      closeConnection: this.#closesConnection,
      fault,
    });
    if (gone === undefined) settle();
    else gone.then(settle);
  }
}

interface EndReason {
  readonly message: string;
  error?: Error;
  readonly isBroken?: boolean;
}

/** Ends both directions of a stream that is not passed to the application. */
function endStream(stream: QuicStream, error?: Error): void {
  stream.cancel(error);
  stream.abort(error);
}

function discardStream(reader: ReadableStreamBYOBReader, writable?: WritableStream): void {
  reader.cancel().catch(() => {});
  writable?.abort().catch(() => {});
}

/**
 * A factory of errors for the application. It creates Skein's own errors, or the W3C interface's
 * errors.
 */
export interface SessionErrors {
  /**
   * Creates the error for a stream that the peer ended. `code` is the application's code, if the
   * peer sent one.
   */
  stream(failure: StreamFailure, code: number | undefined): Error;
  /** Creates the error for a session that has ended or could not be opened. */
  session(
    message: string,
    options?: ErrorOptions & { status?: number | undefined; isTimeout?: boolean | undefined },
  ): Error;
}

/** The factory of Skein's own errors. */
export const SKEIN_ERRORS: SessionErrors = {
  stream({ kind, code: http3Code }, code) {
    const which = code === undefined ? `HTTP/3 code ${http3Code}` : `code ${code}`;
    const what = kind === "reset" ? "reset" : "stopped reading";
    // A server on Deno's QUIC can reject a stream with code 0 only.
    const mayBeUnread = kind !== "reset" && http3Code === 0;
    const hint = mayBeUnread
      ? "; the peer's application may not read streams, or may have too many unread"
      : "";
    return new StreamError(`The peer ${what} the stream with ${which}${hint}`, {
      streamErrorCode: code ?? 0,
      by: "remote",
    });
  },
  session: (message, options) => new ConnectionError(message, options),
};

/**
 * Converts the options for opening a stream.
 *
 * @returns The options for the runtime. If the stream has a send order, its head has the highest
 * order, so that it is sent before any payload.
 */
function quicOptions(options: OpenSessionStreamOptions): Deno.QuicSendStreamOptions {
  const { sendOrder, waitUntilAvailable = true } = options;
  return sendOrder === undefined
    ? { waitUntilAvailable }
    : { waitUntilAvailable, sendOrder: HEAD_SEND_ORDER };
}
