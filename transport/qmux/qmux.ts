/**
 * QMux, which provides streams and datagrams on a connection that carries frames
 * (draft-ietf-quic-qmux).
 */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import type {
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionInspection,
  ConnectionObserver,
  CreditKind,
  FlowControlOptions,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
  StreamDirection,
} from "../connection.ts";
import { Ledger } from "../counters.ts";
import type { ReceiveCredit } from "../flow_control.ts";
import { IncomingQueue } from "../incoming_queue.ts";
import { varintLength } from "../quic/varint.ts";
import { type CreditHost, QmuxCredit } from "./credit.ts";
import { type DatagramHost, QmuxDatagrams } from "./datagrams.ts";
import {
  type CloseFrame,
  type DatagramFrame,
  DEFAULT_MAX_RECORD_SIZE,
  DEFAULT_PARAMETERS,
  QmuxError,
  type QmuxFrame,
  QmuxFrameReader,
  QuicError,
  RecordWriter,
  type ResetFrame,
  type StreamFrame,
  type TransportParameters,
} from "./frames.ts";
import type { Multiplexer, MultiplexerLink } from "./multiplexer.ts";
import { NO_FRAME, RecordScheduler } from "./record_scheduler.ts";
import { QmuxReceiveHalf, QmuxSendHalf, QmuxStream, type StreamHost } from "./stream.ts";
import type { QmuxVersion } from "./versions.ts";

const PINGS_PER_TIMEOUT = 3;

const MIN_PING_MS = 100;

/**
 * The maximum size of a record in both directions. A chunk of 64 KiB and its frame header fit into
 * it.
 */
export const MAX_RECORD_BYTES = 65_600;

const SMALL_RECORD_BYTES = 16_384;

/**
 * The maximum number of stream bytes per frame for peers with small records. These peers limit the
 * payload of a frame separately.
 */
const MAX_SMALL_PAYLOAD = 16_352;

/** The maximum size of a DATAGRAM frame that this side accepts. */
export const MAX_DATAGRAM_FRAME_BYTES: number = DEFAULT_MAX_RECORD_SIZE;

/**
 * The maximum number of streams held for acceptance. Once it is exceeded, the oldest stream is
 * dropped.
 */
const MAX_UNACCEPTED_STREAMS = 1_000;

/** The link of a {@linkcode Qmux}. */
export interface QmuxLink extends MultiplexerLink {
  /**
   * Called when the peer has ended the connection because this side violated the protocol. If this
   * method is absent, `fail` is called instead.
   */
  peerFailed?(code: number, reason: string): void;
}

/** The options for {@linkcode Qmux}. */
export interface QmuxOptions {
  readonly runtime: Runtime;
  readonly version: QmuxVersion;
  /**
   * The limits on data that the peer can send before it is read. The window of each stream is
   * always automatic; the option `automatic` applies to the connection's windows only.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Accepts two deviations of older peers: resets with a final size of 0 although bytes have
   * arrived, and stream frames without an offset.
   *
   * @default {false}
   */
  readonly isLenient?: boolean | undefined;
  /** Called once the peer's transport parameters have arrived. */
  readonly onOpen?: (() => void) | undefined;
}

/**
 * The multiplexer of one connection. It sends its first frame when it is first used, or when
 * {@linkcode Qmux.start} is called.
 */
export class Qmux
  implements Multiplexer, ConnectionInspection, StreamHost, CreditHost, DatagramHost {
  readonly runtime: Runtime;
  readonly ledger: Ledger = new Ledger();
  /** True while the peer's datagrams are dropped. */
  dropsDatagrams = false;

  readonly #link: QmuxLink;
  readonly #options: QmuxOptions;
  readonly credit: QmuxCredit;
  readonly dataReceived: ReceiveCredit;
  readonly scheduler: RecordScheduler;
  readonly #pings: Pings;
  readonly #streams: StreamRegistry;
  #peer: TransportParameters = DEFAULT_PARAMETERS;
  #isStarted = false;
  #isOpen = false;
  #isFaulty = false;
  #end: { readonly error: Error; readonly isBroken: boolean } | undefined = undefined;
  #isCounting = false;

  /**
   * Creates a multiplexer.
   *
   * @throws {RangeError} If a window is not an integer from 0 to 2^53 - 1.
   */
  constructor(link: QmuxLink, options: QmuxOptions) {
    const { runtime, version, flowControl = {} } = options;
    this.runtime = runtime;
    this.#link = link;
    this.#options = options;
    this.credit = new QmuxCredit(flowControl, this);
    this.dataReceived = this.credit.of("data").receive;
    const { credit, ledger } = this;
    const record = new RecordWriter(DEFAULT_MAX_RECORD_SIZE);
    this.scheduler = new RecordScheduler(runtime, { link, record, credit, ledger });
    this.#pings = new Pings(runtime, this.scheduler, version);
    this.#streams = new StreamRegistry(this, link.side, flowControl);
  }

  get inspect(): ConnectionInspection {
    return this;
  }

  /** The counters of streams and datagrams; `undefined` before the first stream or datagram. */
  get counters(): ConnectionCounters | undefined {
    const { ledger } = this;
    this.#isCounting ||= ledger.localBidirectionalOpened + ledger.localUnidirectionalOpened +
        ledger.remoteBidirectionalOpened + ledger.remoteUnidirectionalOpened +
        ledger.datagramsSent + ledger.datagramsReceived + ledger.datagramsDropped > 0;
    return this.#isCounting ? ledger : undefined;
  }

  /**
   * Excludes the client's first bidirectional stream from the counters, because it carries the
   * session's messages. This stream is allowed even if the application does not grant any streams.
   */
  excludeMessageStream(): void {
    this.#streams.excludeMessageStream();
  }

  get unreadStreams(): number {
    return this.#streams.unread;
  }

  /** Tells whether the peer's transport parameters have arrived. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** The number of stream bytes that were received but have not been read yet. */
  get heldBytes(): number {
    return this.#streams.heldBytes;
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  /** The number of streams kept because they have a frame that cannot be sent yet. */
  get waitingStreams(): number {
    return this.scheduler.waitingStreams;
  }

  /** The datagrams, which are created on first use. */
  get datagrams(): QmuxDatagrams {
    const { scheduler } = this;
    if (scheduler.datagrams === undefined) {
      scheduler.datagrams = new QmuxDatagrams(this);
      if (this.#end !== undefined) scheduler.datagrams.end(this.#end.error, this.#end.isBroken);
    }
    return scheduler.datagrams;
  }

  get incomingBidirectionalStreams(): ReadableStream<QmuxStream> {
    return this.#streams.incomingBidirectional;
  }

  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#streams.incomingUnidirectional;
  }

  /** Waits for stream credit and opens a stream. */
  createBidirectionalStream(options: OpenStreamOptions = {}): Promise<QmuxStream> {
    return this.#create("bidirectional", options);
  }

  /** Waits for stream credit and opens a stream. */
  async createUnidirectionalStream(options: OpenStreamOptions = {}): Promise<SendStream> {
    return (await this.#create("unidirectional", options)).send!.writable;
  }

  observe(observer: ConnectionObserver | undefined): void {
    this.ledger.observer = observer;
  }

  /** Sends the transport parameters now, instead of on first use. */
  start(): void {
    if (this.#isStarted || this.#end !== undefined) return;
    this.#isStarted = true;
    const { credit } = this;
    const { maxStreamData } = credit;
    const parameters: TransportParameters = {
      maxIdleTimeoutMs: 0,
      maxData: credit.of("data").receive.limit,
      maxStreamDataBidiLocal: maxStreamData,
      maxStreamDataBidiRemote: maxStreamData,
      maxStreamDataUni: maxStreamData,
      maxStreamsBidi: credit.of("bidirectional").receive.limit,
      maxStreamsUni: credit.of("unidirectional").receive.limit,
      maxDatagramFrameSize: MAX_DATAGRAM_FRAME_BYTES,
      maxRecordSize: MAX_RECORD_BYTES,
    };
    credit.dropGrants();
    this.scheduler.begin(parameters);
  }

  /** Sends the application's close after the records written so far. Nothing is sent after it. */
  close({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    this.start();
    this.scheduler.close(closeCode, reason);
  }

  /**
   * Sends a close because the peer violated the protocol. Nothing is sent after it.
   *
   * @param code The QUIC error code.
   */
  abort(code: number, reason: string): void {
    this.start();
    this.scheduler.close(code, reason, NO_FRAME);
  }

  receive(record: Uint8Array): void {
    if (this.#end !== undefined || this.#isFaulty) return;
    this.start();
    this.scheduler.hold();
    try {
      this.#receive(record);
    } catch (error) {
      const isPeerFault = error instanceof QmuxError;
      this.#fail(
        isPeerFault ? error.quicCode : QuicError.internalError,
        isPeerFault ? error.message : "This side failed to read a record",
      );
    } finally {
      this.scheduler.release();
    }
  }

  end(error: Error, isBroken: boolean): void {
    if (this.#end !== undefined) return;
    this.#end = { error, isBroken };
    this.#pings.stop();
    this.scheduler.stop();
    this.credit.fail(error);
    this.#streams.end(error, isBroken);
    this.scheduler.datagrams?.end(error, isBroken);
  }

  // The members that the streams use.

  get dataLeft(): number {
    return this.credit.of("data").send.left;
  }

  dataSent(byteLength: number): void {
    this.credit.of("data").send.takeNow(byteLength);
  }

  halfEnded(stream: QmuxStream): void {
    this.#streams.halfEnded(stream);
  }

  // The members that the credit uses.

  creditChanged(): void {
    if (this.#isStarted) this.scheduler.fill();
  }

  creditBlocked(kind: CreditKind, limit: number): void {
    if (this.#isOpen) this.ledger.tell({ type: "blocked", what: kind, by: "local", limit });
    this.scheduler.fill();
  }

  get waitingWrites(): number {
    return this.#streams.waitingWrites;
  }

  // The members that the datagrams use.

  get maxDatagramSize(): number {
    const { maxDatagramFrameSize, maxRecordSize } = this.#peer;
    const frame = this.#isOpen
      ? Math.min(maxDatagramFrameSize, maxRecordSize, MAX_RECORD_BYTES)
      : MAX_DATAGRAM_FRAME_BYTES;
    // The frame header consists of one byte for the type, and the length.
    return Math.max(0, frame - 1 - varintLength(frame));
  }

  /**
   * Tells whether the peer accepts a datagram of the given size. A peer that accepts no datagrams
   * and a peer that accepts only empty datagrams both have the maximum size 0.
   */
  takesDatagram(byteLength: number): boolean {
    return byteLength <= this.maxDatagramSize &&
      (!this.#isOpen || this.#peer.maxDatagramFrameSize > 0);
  }

  sendDatagramNow(datagram: Uint8Array): boolean {
    return this.takesDatagram(datagram.byteLength) && this.scheduler.sendDatagramNow(datagram);
  }

  wantsDatagrams(): void {
    this.start();
    this.scheduler.fill();
  }

  async #create(direction: StreamDirection, options: OpenStreamOptions): Promise<QmuxStream> {
    options.signal?.throwIfAborted();
    if (this.#end !== undefined) throw this.#end.error;
    this.start();
    const credit = this.credit.of(direction).send;
    if (!credit.takeNow(1)) await credit.take(1, options);
    if (this.#end !== undefined) throw (this.#end as { error: Error }).error;
    return this.#streams.open(direction, options.sendOrder);
  }

  #fail(code: number, reason: string): void {
    this.#isFaulty = true;
    this.#link.fail(code, reason);
  }

  #receive(record: Uint8Array): void {
    if (record.byteLength > MAX_RECORD_BYTES) {
      throw new QmuxError(
        QuicError.frameEncodingError,
        `Expected at most ${MAX_RECORD_BYTES} bytes, received a record of ${record.byteLength}`,
      );
    }
    if (record.byteLength === 0) {
      throw new QmuxError(
        QuicError.protocolViolation,
        "Expected a frame, received an empty record",
      );
    }
    const reader = new QmuxFrameReader(record);
    for (let frame; (frame = reader.next()) !== undefined;) {
      if (this.#isOpen === (frame.kind === "parameters")) {
        throw new QmuxError(
          QuicError.protocolViolation,
          "Expected transport parameters as the first frame, and only there",
        );
      }
      // The receiver of a frame may transfer the frame's memory, so only the last frame of a record
      // may keep that memory. Other frames are copied. A small frame is also copied, because it
      // would keep the whole record alive.
      const isOwn = reader.isAtEnd && "data" in frame &&
        frame.data.byteLength * 2 > record.byteLength;
      this.#dispatch(frame, isOwn);
      if (this.#end !== undefined || this.#isFaulty) return;
    }
  }

  /** Handles a frame. If `isOwn` is true, the frame may keep the record's memory. */
  #dispatch(frame: QmuxFrame, isOwn: boolean): void {
    switch (frame.kind) {
      case "stream":
        return this.#onStream(frame, isOwn);
      case "reset":
        return this.#onReset(frame);
      case "stop":
        return this.#streams.find(frame.id, "send")?.send?.stopped(frame.code);
      case "maxData":
        return this.#onCredit("data", frame.limit);
      case "maxStreams":
        return this.#onCredit(frame.direction, frame.limit);
      case "maxStreamData":
        return this.#streams.find(frame.id, "send")?.send?.raise(frame.limit);
      case "dataBlocked":
        return this.#onBlocked("data", frame.limit);
      case "streamsBlocked":
        return this.#onBlocked(frame.direction, frame.limit);
      case "streamDataBlocked":
        return this.#streams.find(frame.id, "receive")?.receive?.grantAll();
      case "datagram":
        return this.#onDatagram(frame, isOwn);
      case "close":
        return this.#onClose(frame);
      case "parameters":
        return this.#onParameters(frame.parameters);
      case "ping":
        return this.#pings.received(frame.sequence);
      case "pong":
        return this.#pings.responded(frame.sequence);
    }
  }

  #onStream({ id, offset, data, isFin }: StreamFrame, isOwn: boolean): void {
    const receive = this.#streams.find(id, "receive")?.receive;
    const { isLenient = false } = this.#options;
    const at = !Number.isNaN(offset) ? offset : isLenient ? receive?.received ?? 0 : 0;
    receive?.deliver(at, data, { isFin, isOwn: isOwn && fills(data) });
  }

  #onReset({ id, code, finalSize }: ResetFrame): void {
    const { isLenient = false } = this.#options;
    // Older peers send a final size of 0 in every reset.
    const size = isLenient && finalSize === 0 ? undefined : finalSize;
    this.#streams.find(id, "receive")?.receive?.reset(code, size);
  }

  #onDatagram({ data, frameSize }: DatagramFrame, isOwn: boolean): void {
    if (frameSize > MAX_DATAGRAM_FRAME_BYTES) {
      throw new QmuxError(
        QuicError.protocolViolation,
        `Expected a DATAGRAM frame of at most ${MAX_DATAGRAM_FRAME_BYTES} bytes, ` +
          `received one of ${frameSize}`,
      );
    }
    if (this.dropsDatagrams) return this.ledger.droppedDatagram(data.byteLength);
    this.datagrams.deliver(isOwn && fills(data) ? data : data.slice());
  }

  #onClose({ isApplication, code, reason }: CloseFrame): void {
    this.#isFaulty = true;
    if (isApplication) this.#link.peerClosed({ closeCode: code, reason });
    else if (this.#link.peerFailed !== undefined) this.#link.peerFailed(code, reason);
    else this.#link.fail(code, reason);
  }

  #onParameters(parameters: TransportParameters): void {
    this.#peer = this.#streams.peer = parameters;
    this.#isOpen = true;
    this.#raise("data", parameters.maxData);
    this.#raise("bidirectional", parameters.maxStreamsBidi);
    this.#raise("unidirectional", parameters.maxStreamsUni);
    this.scheduler.datagrams?.opened();
    const isSmall = parameters.maxRecordSize <= SMALL_RECORD_BYTES;
    this.scheduler.open(
      Math.min(MAX_RECORD_BYTES, parameters.maxRecordSize),
      isSmall ? MAX_SMALL_PAYLOAD : Infinity,
    );
    this.#pings.keepAlive(parameters.maxIdleTimeoutMs);
    this.#options.onOpen?.();
  }

  #onCredit(kind: CreditKind, limit: number): void {
    if (this.#raise(kind, limit)) this.ledger.tell({ type: "credit", what: kind, limit });
  }

  /**
   * Raises a limit. A total that is not higher than the previous one has no effect (RFC 9000
   * section 4.1).
   */
  #raise(kind: CreditKind, limit: number): boolean {
    const { send } = this.credit.of(kind);
    if (limit <= send.limit) return false;
    send.raise(limit);
    if (kind === "data") this.scheduler.unblock();
    return true;
  }

  #onBlocked(kind: CreditKind, limit: number): void {
    this.ledger.tell({ type: "blocked", what: kind, by: "remote", limit });
    this.credit.of(kind).receive.grantAll();
  }
}

/**
 * Tells whether bytes fill most of their buffer. A small view must not keep a large record alive.
 */
function fills(bytes: Uint8Array): boolean {
  return bytes.byteLength * 2 >= bytes.buffer.byteLength;
}

class Pings {
  readonly #runtime: Runtime;
  readonly #scheduler: RecordScheduler;
  readonly #version: QmuxVersion;
  #keepAlive: Timer | undefined = undefined;
  #sent = 0n;
  #last = -1n;
  #recordsAtPing = 0;

  /**
   * Creates the pings. None are sent before {@linkcode Pings.keepAlive} is called.
   *
   * @param version The protocol version. Draft 02 requires ascending ping numbers.
   */
  constructor(runtime: Runtime, scheduler: RecordScheduler, version: QmuxVersion) {
    this.#runtime = runtime;
    this.#scheduler = scheduler;
    this.#version = version;
  }

  /**
   * Sends pings so that a peer with an idle timeout keeps the connection open.
   *
   * @param timeoutMs The peer's idle timeout in milliseconds; 0 means none.
   */
  keepAlive(timeoutMs: number): void {
    const everyMs = Math.max(MIN_PING_MS, timeoutMs / PINGS_PER_TIMEOUT);
    if (timeoutMs === 0 || everyMs > MAX_TIMER_MS) return;
    const check = () => {
      this.#keepAlive = this.#runtime.setTimeout(check, everyMs);
      const { records } = this.#scheduler;
      if (records === this.#recordsAtPing) this.#scheduler.ping(this.#sent++);
      this.#recordsAtPing = this.#scheduler.records;
    };
    this.#keepAlive = this.#runtime.setTimeout(check, everyMs);
  }

  /**
   * Replies to a ping that the peer sent.
   *
   * @throws {QmuxError} If the ping's number is not higher than the previous one.
   */
  received(sequence: bigint): void {
    if (this.#version === 2 && sequence <= this.#last) {
      throw new QmuxError(
        QuicError.protocolViolation,
        `Expected a ping after ${this.#last}, received ${sequence}`,
      );
    }
    this.#last = sequence;
    this.#scheduler.pong(sequence);
  }

  /**
   * Checks the peer's reply to a ping.
   *
   * @throws {QmuxError} If this side did not send such a ping.
   */
  responded(sequence: bigint): void {
    if (this.#version !== 2 || sequence < this.#sent) return;
    throw new QmuxError(
      QuicError.protocolViolation,
      `Expected a reply to a ping that was sent, received a reply to ${sequence}`,
    );
  }

  stop(): void {
    this.#runtime.clearTimeout(this.#keepAlive);
  }
}

type Opened = Record<StreamDirection, number>;

class StreamRegistry {
  /** The peer's parameters, which set the first limit of each stream. */
  peer: TransportParameters = DEFAULT_PARAMETERS;

  readonly #host: Qmux;
  readonly #isClient: boolean;
  readonly #streams = new Map<number, QmuxStream>();
  readonly #local: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #remote: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #bidirectional: IncomingQueue<QmuxStream>;
  readonly #unidirectional: IncomingQueue<QmuxStream, ReceiveStream>;
  #unannounced: QmuxSendHalf[] = [];
  #announcing: Timer | undefined = undefined;
  #messages: Ledger | undefined = undefined;

  /**
   * Creates an empty registry.
   *
   * @param flowControl The stream limits. Limits above the default also raise the number of streams
   * held for acceptance.
   */
  constructor(host: Qmux, side: "client" | "server", flowControl: FlowControlOptions) {
    this.#host = host;
    this.#isClient = side === "client";
    const arrivals = {
      capacity: Math.max(
        MAX_UNACCEPTED_STREAMS,
        flowControl.maxStreamsBidi ?? 0,
        flowControl.maxStreamsUni ?? 0,
      ),
      onDropped: (stream: QmuxStream) => this.#reject(stream),
    };
    this.#bidirectional = new IncomingQueue(arrivals, (stream) => this.#accept(stream));
    this.#unidirectional = new IncomingQueue(
      arrivals,
      (stream) => this.#accept(stream).receive!.readable,
    );
  }

  get size(): number {
    return this.#streams.size;
  }

  get unread(): number {
    return this.#bidirectional.size + this.#unidirectional.size;
  }

  get heldBytes(): number {
    let held = 0;
    for (const { receive } of this.#streams.values()) held += receive?.heldBytes ?? 0;
    return held;
  }

  get waitingWrites(): number {
    let waiting = 0;
    for (const { send } of this.#streams.values()) {
      if (send?.waitsFor === "stream" || send?.waitsFor === "connection") waiting++;
    }
    return waiting;
  }

  get incomingBidirectional(): ReadableStream<QmuxStream> {
    return this.#bidirectional.readable;
  }

  get incomingUnidirectional(): ReadableStream<ReceiveStream> {
    return this.#unidirectional.readable;
  }

  excludeMessageStream(): void {
    this.#messages = new Ledger();
    const { receive } = this.#host.credit.of("bidirectional");
    if (!this.#isClient) receive.grant(receive.limit + 1);
  }

  /**
   * Opens a stream of this side. The caller must have taken credit for it.
   *
   * @param sendOrder The priority; a higher order is sent first.
   * @returns The stream. It is announced to the peer soon.
   */
  open(direction: StreamDirection, sendOrder: number | undefined): QmuxStream {
    const stream = this.#add(this.#local[direction]++, direction, { isRemote: false });
    const isBidirectional = direction === "bidirectional";
    const { maxStreamDataBidiRemote, maxStreamDataUni } = this.peer;
    const limit = isBidirectional ? maxStreamDataBidiRemote : maxStreamDataUni;
    const send = stream.send = this.#sendHalf(stream, limit, sendOrder);
    if (isBidirectional) stream.receive = this.#receiveHalf(stream);
    this.#announceSoon(send);
    return stream;
  }

  /**
   * Finds the stream of a received frame. A frame for a new stream of the peer opens that stream
   * and all earlier ones.
   *
   * @param half The direction that the frame concerns.
   * @returns The stream; `undefined` if the stream has ended.
   * @throws {QmuxError} If the stream cannot receive such a frame.
   */
  find(id: number, half: "send" | "receive"): QmuxStream | undefined {
    const stream = this.#streams.get(id);
    const direction = id % 4 < 2 ? "bidirectional" : "unidirectional";
    const isRemote = (id % 2 === 0) !== this.#isClient;
    const lacksHalf = direction === "unidirectional" && isRemote === (half === "send");
    const index = Math.floor(id / 4);
    if (lacksHalf || !isRemote && index >= this.#local[direction]) {
      throw new QmuxError(
        QuicError.streamStateError,
        `Received a frame that is invalid for stream ${id}`,
      );
    }
    if (stream !== undefined || !isRemote) return stream;
    return index < this.#remote[direction] ? undefined : this.#arrive(direction, index);
  }

  /** Removes a stream once both directions have ended. The peer can then open another one. */
  halfEnded(stream: QmuxStream): void {
    if (!stream.isOver || !stream.isAccepted || !this.#streams.delete(stream.id)) return;
    if (stream.isRemote && !stream.carriesMessages) {
      this.#host.credit.of(stream.direction).receive.release(1);
    }
  }

  /**
   * Ends every stream. If the connection did not break, streams that have not been accepted yet can
   * still be accepted.
   *
   * @param isBroken True if the lists of incoming streams also fail with the error.
   */
  end(error: Error, isBroken: boolean): void {
    this.#host.runtime.clearTimeout(this.#announcing);
    this.#unannounced = [];
    for (const stream of this.#streams.values()) stream.fail(error);
    this.#streams.clear();
    for (const arrivals of [this.#bidirectional, this.#unidirectional]) {
      if (isBroken) arrivals.fail(error);
      else arrivals.end();
    }
  }

  /** Announces a stream to the peer soon, even if nothing has been written to it. */
  #announceSoon(half: QmuxSendHalf): void {
    this.#unannounced.push(half);
    this.#announcing ??= this.#host.runtime.setTimeout(() => {
      this.#announcing = undefined;
      for (const one of this.#unannounced.splice(0)) one.announce();
    }, 0);
  }

  /** Adds a stream that the peer opened, and all of the peer's earlier streams. */
  #arrive(direction: StreamDirection, index: number): QmuxStream {
    const credit = this.#host.credit.of(direction).receive;
    const opened = this.#remote;
    if (index >= credit.limit) {
      throw new QmuxError(
        QuicError.streamLimitError,
        `Expected at most ${credit.limit} ${direction} streams`,
      );
    }
    let stream!: QmuxStream;
    while (opened[direction] <= index) {
      credit.receive(1);
      stream = this.#add(opened[direction]++, direction, { isRemote: true });
      // The stream that carries the session's messages is allowed in addition to the application's
      // streams.
      if (stream.carriesMessages) credit.release(1);
      stream.receive = this.#receiveHalf(stream);
      if (direction === "unidirectional") this.#unidirectional.push(stream);
      else {
        stream.send = this.#sendHalf(stream, this.peer.maxStreamDataBidiLocal);
        this.#bidirectional.push(stream);
      }
    }
    return stream;
  }

  #add(
    index: number,
    direction: StreamDirection,
    { isRemote }: { readonly isRemote: boolean },
  ): QmuxStream {
    const id = index * 4 + (direction === "bidirectional" ? 0 : 2) +
      (this.#isClient === isRemote ? 1 : 0);
    // The stream that carries the session's messages has its own ledger, so the application's
    // counters do not include it.
    const messages = id === 0 ? this.#messages : undefined;
    const ledger = messages ?? this.#host.ledger;
    const account = ledger.opened(direction, isRemote ? "remote" : "local");
    const stream = new QmuxStream(id, { direction, isRemote, account });
    stream.carriesMessages = messages !== undefined;
    this.#streams.set(id, stream);
    return stream;
  }

  #sendHalf(stream: QmuxStream, limit: number, sendOrder?: number): QmuxSendHalf {
    return new QmuxSendHalf(stream, this.#host, { limit, sendOrder });
  }

  #receiveHalf(stream: QmuxStream): QmuxReceiveHalf {
    return new QmuxReceiveHalf(stream, this.#host, this.#host.credit.maxStreamData);
  }

  /** Accepts a stream for the application. Only then can the peer open another one in its place. */
  #accept(stream: QmuxStream): QmuxStream {
    stream.isAccepted = true;
    this.halfEnded(stream);
    return stream;
  }

  #reject(stream: QmuxStream): void {
    stream.isAccepted = true;
    stream.cancel();
    stream.abort();
    this.halfEnded(stream);
  }
}
