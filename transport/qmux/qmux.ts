/** QMux: streams and datagrams on a connection of frames (draft-ietf-quic-qmux). */
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
  FrameReader,
  QmuxError,
  type QmuxFrame,
  QuicError,
  RecordWriter,
  type ResetFrame,
  type StreamFrame,
  type TransportParameters,
} from "./frames.ts";
import type { Multiplexer, MultiplexerLink } from "./multiplexer.ts";
import { NO_FRAME, RecordScheduler } from "./record_scheduler.ts";
import { QmuxStream, ReceiveHalf, SendHalf, type StreamHost } from "./stream.ts";
import type { QmuxVersion } from "./versions.ts";

/** Pings sent within the peer's idle timeout. */
const PINGS_PER_TIMEOUT = 3;

/** The shortest interval between pings, in milliseconds. */
const MIN_PING_MS = 100;

/** Largest record, sent and received: fits a chunk of 64 KiB with the frame header. */
export const MAX_RECORD_BYTES = 65_600;

/** Records up to this size count as small. */
const SMALL_RECORD_BYTES = 16_384;

/**
 * Maximum stream bytes per frame for peers with small records, which limit the payload of a frame
 * separately.
 */
const MAX_SMALL_PAYLOAD = 16_352;

/** Largest DATAGRAM frame that this end accepts. */
export const MAX_DATAGRAM_FRAME_BYTES: number = DEFAULT_MAX_RECORD_SIZE;

/** The maximum number of streams held for acceptance; beyond it, the oldest is dropped. */
const MAX_UNACCEPTED_STREAMS = 1_000;

/** Link of a {@linkcode Qmux}. */
export interface QmuxLink extends MultiplexerLink {
  /**
   * Called when the peer ended the connection because of this end's violation. Without this method,
   * `fail` is called.
   */
  peerFailed?(code: number, reason: string): void;
}

/** The options for {@linkcode Qmux}. */
export interface QmuxOptions {
  readonly runtime: Runtime;
  readonly version: QmuxVersion;
  /**
   * The limits on data that the peer may send ahead of the readers. The window of each stream is
   * always automatic; `automatic` applies to the connection's windows.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Accepts deviations of older peers: resets with a final size of 0 although bytes arrived, and
   * stream frames without an offset.
   *
   * @default {false}
   */
  readonly isLenient?: boolean | undefined;
  /** Called after the peer's transport parameters have arrived. */
  readonly onOpen?: (() => void) | undefined;
}

/**
 * Multiplexer of one connection. The first frame is sent on first use, or on
 * {@linkcode Qmux.start}.
 */
export class Qmux
  implements Multiplexer, ConnectionInspection, StreamHost, CreditHost, DatagramHost {
  readonly runtime: Runtime;
  readonly ledger: Ledger = new Ledger();
  /** True while datagrams of the peer are dropped. */
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

  /** The counters, flow control and events. */
  get inspect(): ConnectionInspection {
    return this;
  }

  /** The counters of streams and datagrams; `undefined` before the first of either. */
  get counters(): ConnectionCounters | undefined {
    const { ledger } = this;
    this.#isCounting ||= ledger.localBidirectionalOpened + ledger.localUnidirectionalOpened +
        ledger.remoteBidirectionalOpened + ledger.remoteUnidirectionalOpened +
        ledger.datagramsSent + ledger.datagramsReceived + ledger.datagramsDropped > 0;
    return this.#isCounting ? ledger : undefined;
  }

  /**
   * Excludes the client's first bidirectional stream from the counters, because it carries
   * messages. The stream is allowed even if the application grants none.
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

  /** The bytes of streams received and not yet read. */
  get heldBytes(): number {
    return this.#streams.heldBytes;
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  /** Streams kept for a frame that cannot be sent yet. */
  get waitingStreams(): number {
    return this.scheduler.waitingStreams;
  }

  /** The datagrams, created on first use. */
  get datagrams(): QmuxDatagrams {
    const { scheduler } = this;
    if (scheduler.datagrams === undefined) {
      scheduler.datagrams = new QmuxDatagrams(this);
      if (this.#end !== undefined) scheduler.datagrams.end(this.#end.error, this.#end.isBroken);
    }
    return scheduler.datagrams;
  }

  /** The bidirectional streams that the peer opened. */
  get incomingBidirectionalStreams(): ReadableStream<QmuxStream> {
    return this.#streams.incomingBidirectional;
  }

  /** The unidirectional streams that the peer opened. */
  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#streams.incomingUnidirectional;
  }

  /** Opens a stream; waits for stream credit. */
  createBidirectionalStream(options: OpenStreamOptions = {}): Promise<QmuxStream> {
    return this.#create("bidirectional", options);
  }

  /** Opens a stream; waits for stream credit. */
  async createUnidirectionalStream(options: OpenStreamOptions = {}): Promise<SendStream> {
    return (await this.#create("unidirectional", options)).send!.writable;
  }

  observe(observer: ConnectionObserver | undefined): void {
    this.ledger.observer = observer;
  }

  /** Sends the transport parameters now, before the first use. */
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

  /** Sends a close by the application after the records written so far, and nothing more. */
  close({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    this.start();
    this.scheduler.close(closeCode, reason);
  }

  /**
   * Sends a close because of the peer's violation, and nothing more.
   *
   * @param code QUIC error code.
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
        isPeerFault ? error.message : "This end failed to read a record",
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

  // Members for the streams.

  get dataLeft(): number {
    return this.credit.of("data").send.left;
  }

  dataSent(byteLength: number): void {
    this.credit.of("data").send.takeNow(byteLength);
  }

  halfEnded(stream: QmuxStream): void {
    this.#streams.halfEnded(stream);
  }

  // Members for the credit.

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

  // Members for the datagrams.

  get maxDatagramSize(): number {
    const { maxDatagramFrameSize, maxRecordSize } = this.#peer;
    const frame = this.#isOpen
      ? Math.min(maxDatagramFrameSize, maxRecordSize, MAX_RECORD_BYTES)
      : MAX_DATAGRAM_FRAME_BYTES;
    // One byte of type, and the length.
    return Math.max(0, frame - 1 - varintLength(frame));
  }

  /**
   * Distinguishes a peer without datagrams from a peer that accepts only empty ones: both have the
   * maximum size 0.
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
    const reader = new FrameReader(record);
    for (let frame; (frame = reader.next()) !== undefined;) {
      if (this.#isOpen === (frame.kind === "parameters")) {
        throw new QmuxError(
          QuicError.protocolViolation,
          "Expected transport parameters as the first frame, and only there",
        );
      }
      // The receiver of a frame may transfer the frame's memory. Only the last frame of a record
      // may keep that memory. Other frames are copied, and so is a small frame, which would keep
      // the whole record alive.
      const isOwn = reader.isAtEnd && "data" in frame &&
        frame.data.byteLength * 2 > record.byteLength;
      this.#dispatch(frame, isOwn);
      if (this.#end !== undefined || this.#isFaulty) return;
    }
  }

  /** Handles a frame; with `isOwn`, the frame may keep the record's memory. */
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
        return this.#pings.answered(frame.sequence);
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
    // Older peers always send a final size of 0.
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
   * Raises a limit; a total that is not higher than before has no effect (RFC 9000 section 4.1).
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
 * Tells whether bytes fill most of their buffer: a small view must not keep a large record alive.
 */
function fills(bytes: Uint8Array): boolean {
  return bytes.byteLength * 2 >= bytes.buffer.byteLength;
}

/** Pings of one connection. */
class Pings {
  readonly #runtime: Runtime;
  readonly #scheduler: RecordScheduler;
  readonly #version: QmuxVersion;
  #keepAlive: Timer | undefined = undefined;
  #sent = 0n;
  #last = -1n;
  #recordsAtPing = 0;

  /**
   * Creates the pings; none are sent before {@linkcode Pings.keepAlive}.
   *
   * @param version Protocol version; draft 02 requires ascending ping numbers.
   */
  constructor(runtime: Runtime, scheduler: RecordScheduler, version: QmuxVersion) {
    this.#runtime = runtime;
    this.#scheduler = scheduler;
    this.#version = version;
  }

  /**
   * Keeps the connection alive at a peer with an idle timeout.
   *
   * @param timeoutMs Idle timeout of the peer in milliseconds; 0 means none.
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
   * Replies to a ping of the peer.
   *
   * @throws {QmuxError} If the number is not above the previous one.
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
   * Checks a reply of the peer.
   *
   * @throws {QmuxError} If this end sent no such ping.
   */
  answered(sequence: bigint): void {
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

/** Streams opened so far in each direction. */
type Opened = Record<StreamDirection, number>;

/** All streams of a connection. */
class StreamRegistry {
  /** Parameters of the peer, which set the first limit of each stream. */
  peer: TransportParameters = DEFAULT_PARAMETERS;

  readonly #host: Qmux;
  readonly #isClient: boolean;
  readonly #streams = new Map<number, QmuxStream>();
  readonly #local: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #remote: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #bidirectional: IncomingQueue<QmuxStream>;
  readonly #unidirectional: IncomingQueue<QmuxStream, ReceiveStream>;
  #unannounced: SendHalf[] = [];
  #announcing: Timer | undefined = undefined;
  #messages: Ledger | undefined = undefined;

  /**
   * Creates an empty registry.
   *
   * @param flowControl Stream limits; limits above the default raise the number of streams held for
   * acceptance.
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
      onDropped: (stream: QmuxStream) => this.#refuse(stream),
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

  /** The streams of the peer that the application has not accepted yet. */
  get unread(): number {
    return this.#bidirectional.size + this.#unidirectional.size;
  }

  /** The bytes received and not yet read. */
  get heldBytes(): number {
    let held = 0;
    for (const { receive } of this.#streams.values()) held += receive?.heldBytes ?? 0;
    return held;
  }

  /** The number of writes that wait for bytes granted by the peer. */
  get waitingWrites(): number {
    let waiting = 0;
    for (const { send } of this.#streams.values()) {
      if (send?.waitsFor === "stream" || send?.waitsFor === "connection") waiting++;
    }
    return waiting;
  }

  /** The bidirectional streams that the peer opened. */
  get incomingBidirectional(): ReadableStream<QmuxStream> {
    return this.#bidirectional.readable;
  }

  /** The unidirectional streams that the peer opened. */
  get incomingUnidirectional(): ReadableStream<ReceiveStream> {
    return this.#unidirectional.readable;
  }

  /**
   * Excludes the client's first bidirectional stream from the counters, because it carries
   * messages. The stream is allowed even if the application grants none.
   */
  excludeMessageStream(): void {
    this.#messages = new Ledger();
    const { receive } = this.#host.credit.of("bidirectional");
    if (!this.#isClient) receive.grant(receive.limit + 1);
  }

  /**
   * Opens a stream of this end, after taking credit for it.
   *
   * @param sendOrder The priority; a higher order is sent first.
   * @returns The stream, which is soon announced to the peer.
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
   * @param half Direction that the frame concerns.
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

  /** Removes a stream after both directions have ended; the peer may then open another one. */
  halfEnded(stream: QmuxStream): void {
    if (!stream.isOver || !stream.isAccepted || !this.#streams.delete(stream.id)) return;
    if (stream.isRemote && !stream.carriesMessages) {
      this.#host.credit.of(stream.direction).receive.release(1);
    }
  }

  /**
   * Ends every stream. After a clean end, unaccepted streams can still be accepted.
   *
   * @param isBroken True if the lists of incoming streams fail with the error too.
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

  /** Announces a stream to the peer soon, even if nothing is written to it at first. */
  #announceSoon(half: SendHalf): void {
    this.#unannounced.push(half);
    this.#announcing ??= this.#host.runtime.setTimeout(() => {
      this.#announcing = undefined;
      for (const one of this.#unannounced.splice(0)) one.announce();
    }, 0);
  }

  /** Adds a stream that the peer opened, and all earlier ones. */
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
      // The stream of the messages is allowed in addition to the application's streams.
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
    // The stream of the messages has its own ledger, outside the application's counters.
    const messages = id === 0 ? this.#messages : undefined;
    const ledger = messages ?? this.#host.ledger;
    const account = ledger.opened(direction, isRemote ? "remote" : "local");
    const stream = new QmuxStream(id, { direction, isRemote, account });
    stream.carriesMessages = messages !== undefined;
    this.#streams.set(id, stream);
    return stream;
  }

  #sendHalf(stream: QmuxStream, limit: number, sendOrder?: number): SendHalf {
    return new SendHalf(stream, this.#host, { limit, sendOrder });
  }

  #receiveHalf(stream: QmuxStream): ReceiveHalf {
    return new ReceiveHalf(stream, this.#host, this.#host.credit.maxStreamData);
  }

  /** Accepts a stream for the application; only then may the peer open a replacement. */
  #accept(stream: QmuxStream): QmuxStream {
    stream.isAccepted = true;
    this.halfEnded(stream);
    return stream;
  }

  #refuse(stream: QmuxStream): void {
    stream.isAccepted = true;
    stream.cancel();
    stream.abort();
    this.halfEnded(stream);
  }
}
