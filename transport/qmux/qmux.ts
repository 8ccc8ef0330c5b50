/**
 * QMux: streams, datagrams and their flow control on a wire of frames
 * (draft-ietf-quic-qmux, on RFC 9000 and RFC 9221).
 *
 * @module
 */
import { ReceiveCredit } from "../_flow_control.ts";
import { Ledger } from "../_ledger.ts";
import type { Multiplexer, MultiplexerLink } from "./multiplexer.ts";
import { noDatagrams } from "../_unsupported.ts";
import { varintLength } from "../quic/varint.ts";
import type {
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionObserver,
  CreditKind,
  DatagramDuplex,
  FlowControlOptions,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
  StreamDirection,
} from "../connection.ts";
import { CREDIT_KINDS, type CreditHost, QmuxCredit } from "./_credit.ts";
import { NO_FRAME, Outlet, type OutletSources } from "./_outlet.ts";
import { type RegistryHost, StreamRegistry } from "./_registry.ts";
import { type DatagramHost, QmuxDatagrams } from "./datagrams.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import {
  type CloseFrame,
  type DatagramFrame,
  FrameReader,
  type QmuxFrame,
  type ResetFrame,
  type StreamFrame,
} from "./frames.ts";
import { decodeLegacyFrame } from "./legacy_frames.ts";
import { RecordWriter } from "./record.ts";
import type { QmuxStream, SendHalf } from "./stream.ts";
import {
  DEFAULT_MAX_RECORD_SIZE,
  DEFAULT_PARAMETERS,
  type TransportParameters,
} from "./transport_parameters.ts";
import type { QmuxVersion } from "./versions.ts";
import { MAX_TIMER_MS } from "../within.ts";

/** In the time after which a peer closes for silence, something is said so often. */
const PINGS_PER_TIMEOUT = 3;

/** No peer is told that this end is alive more often than so, in milliseconds. */
const MIN_PING_MS = 100;

/** The pings of one connection. */
class Pings {
  readonly #outlet: Outlet;
  readonly #version: QmuxVersion;
  #keepAlive: ReturnType<typeof setInterval> | undefined = undefined;
  #sent = 0n;
  #last = -1n;
  #recordsAtPing = 0;

  /**
   * Creates it; nothing is sent before it is asked for.
   *
   * @param outlet The way out.
   * @param version The version of the wire: draft 02 has rules for the numbers of pings.
   */
  constructor(outlet: Outlet, version: QmuxVersion) {
    this.#outlet = outlet;
    this.#version = version;
  }

  /**
   * Keeps a peer from closing for silence.
   *
   * @param timeoutMs After how much it does so, in milliseconds; 0 is never.
   */
  keepAlive(timeoutMs: number): void {
    const everyMs = Math.max(MIN_PING_MS, timeoutMs / PINGS_PER_TIMEOUT);
    if (timeoutMs === 0 || everyMs > MAX_TIMER_MS || this.#version === 0) return;
    this.#keepAlive = setInterval(() => {
      const { records } = this.#outlet;
      if (records === this.#recordsAtPing) this.#outlet.ping(this.#sent++);
      this.#recordsAtPing = this.#outlet.records;
    }, everyMs);
  }

  /**
   * The peer asks for an answer.
   *
   * @param sequence Its number.
   * @throws {QmuxError} If that is not later than the one before.
   */
  received(sequence: bigint): void {
    if (this.#version === 2 && sequence <= this.#last) {
      throw new QmuxError(
        QuicError.protocolViolation,
        `Expected a ping after ${this.#last}, received ${sequence}`,
      );
    }
    this.#last = sequence;
    this.#outlet.pong(sequence);
  }

  /**
   * The peer answers.
   *
   * @param sequence To which ping.
   * @throws {QmuxError} If there was none such.
   */
  answered(sequence: bigint): void {
    if (this.#version !== 2 || sequence < this.#sent) return;
    throw new QmuxError(
      QuicError.protocolViolation,
      `Expected the answer to a ping, received one to ${sequence}`,
    );
  }

  /** Sends no more. */
  stop(): void {
    clearInterval(this.#keepAlive);
  }
}

/** Largest record, sent and received: a chunk of 64 KiB fits, with what is before it. */
export const MAX_RECORD_BYTES = 65_600;

/** Largest frame where a message is one, in draft 00 and before. */
const MAX_SINGLE_FRAME_BYTES = 16_384;

/** Most bytes of a stream in one frame that peers take whose records are small: theirs have a bound of their own. */
const MAX_SMALL_PAYLOAD = 16_352;

/** Largest DATAGRAM frame that this end takes. */
export const MAX_DATAGRAM_FRAME_BYTES: number = DEFAULT_MAX_RECORD_SIZE;

/** Bytes that nobody read yet, where the peer does not count them: past it the connection ends. */
export const MAX_UNCOUNTED_BYTES = 16_777_216;

/** Ahead of who reads it, until the peer is admitted: the stream of its token, and few others. */
const HELD = { data: 16_384, bidirectional: 8, unidirectional: 8 };

/** What a {@linkcode Qmux} may be told by its wire, beside the rest. */
export interface QmuxLink extends MultiplexerLink {
  /** The peer ended the connection by a fault that it found; without this, as a fault of the peer. */
  peerFailed?(code: number, reason: string): void;
}

/** Options for {@linkcode Qmux}. */
export interface QmuxOptions {
  /** The version of the wire. */
  readonly version: QmuxVersion;
  /**
   * How much the peer may send ahead of who reads it. The window of each stream always moves
   * by itself; `automatic` is about those of the connection.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Whether the peer may be one of the older ones: their resets say that there were no bytes even
   * if some came, and their bytes do not say where in the stream they are.
   *
   * @default {false}
   */
  readonly isLenient?: boolean;
  /** Called once the peer has said what it takes. */
  readonly onOpen?: () => void;
}

/** The multiplexer of one connection. It says nothing before it has to, or {@linkcode Qmux.start} was called. */
export class Qmux implements Multiplexer, RegistryHost, OutletSources, CreditHost, DatagramHost {
  /** What was counted. */
  readonly ledger: Ledger = new Ledger();

  readonly #link: QmuxLink;
  readonly #options: QmuxOptions;
  readonly #isLegacy: boolean;
  /** Bytes of all streams that the peer may send. */
  readonly dataReceived: ReceiveCredit;
  readonly #credit: QmuxCredit | undefined;
  readonly #outlet: Outlet;
  readonly #pings: Pings;
  readonly #streams: StreamRegistry;
  #datagrams: QmuxDatagrams | undefined = undefined;
  #noDatagrams: DatagramDuplex | undefined = undefined;
  #peer: TransportParameters = DEFAULT_PARAMETERS;
  #isStarted = false;
  #isOpen = false;
  #isFaulty = false;
  #isHeld = false;
  #end: { readonly error: Error; readonly isBroken: boolean } | undefined = undefined;
  #isCounting = false;

  /**
   * Creates a multiplexer.
   *
   * @param link Its wire.
   * @param options See {@linkcode QmuxOptions}.
   * @throws {RangeError} If a window is not an integer from 0 to 2^53 - 1.
   */
  constructor(link: QmuxLink, options: QmuxOptions) {
    const { version, flowControl = {} } = options;
    this.#link = link;
    this.#options = options;
    this.#isLegacy = version === "webtransport";
    const isSingle = this.#isLegacy || version === 0;
    const record = new RecordWriter(
      isSingle ? MAX_SINGLE_FRAME_BYTES : DEFAULT_MAX_RECORD_SIZE,
      { isSingle, isLegacy: this.#isLegacy },
    );
    if (!this.#isLegacy) this.#credit = new QmuxCredit(flowControl, this);
    this.dataReceived = this.#credit?.of("data").receive ??
      new ReceiveCredit(MAX_UNCOUNTED_BYTES, () => {});
    this.#outlet = new Outlet(link, record, this);
    this.#pings = new Pings(this.#outlet, version);
    this.#streams = new StreamRegistry(this, link.side, flowControl);
    if (this.#isLegacy) {
      this.#isStarted = this.#isOpen = true;
      this.#outlet.open(MAX_SINGLE_FRAME_BYTES, Infinity);
    }
  }

  /** Streams and datagrams so far, once there were any. */
  get counters(): ConnectionCounters | undefined {
    const { ledger } = this;
    this.#isCounting ||= ledger.localBidirectionalOpened + ledger.localUnidirectionalOpened +
        ledger.remoteBidirectionalOpened + ledger.remoteUnidirectionalOpened +
        ledger.datagramsSent + ledger.datagramsReceived + ledger.datagramsDropped > 0;
    return this.#isCounting ? ledger : undefined;
  }

  /**
   * Leaves the first bidirectional stream of the client out of what is counted, as it carries
   * messages; and gives that one although the application may give none.
   */
  carryMessages(): void {
    this.#streams.carryMessages();
  }

  /**
   * Takes no datagrams, and only a little of streams, until the peer is admitted; to be called before
   * the start.
   *
   * @param admitted Resolves once it is.
   */
  holdUntil(admitted: Promise<unknown>): void {
    const windows = CREDIT_KINDS.map((kind) => {
      const { receive } = this.#credit!.of(kind);
      const { window } = receive;
      receive.resize(Math.min(window, HELD[kind]));
      return () => receive.resize(window);
    });
    this.#isHeld = true;
    admitted.then(() => {
      this.#isHeld = false;
      if (this.#end === undefined) windows.forEach((open) => open());
    }, () => {});
  }

  /** Streams of the peer that nobody took yet. */
  get unreadStreams(): number {
    return this.#streams.unread;
  }

  /** Flow control; absent in the framing from before the drafts. */
  get credit(): QmuxCredit | undefined {
    return this.#credit;
  }

  /** Whether the peer has said what it takes. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Bytes of streams that came and were not read. */
  get heldBytes(): number {
    return this.#streams.heldBytes;
  }

  /** Streams that are open. */
  get openStreams(): number {
    return this.#streams.size;
  }

  /** Streams that are kept for a frame that the wire does not take yet. */
  get waitingStreams(): number {
    return this.#outlet.waitingStreams;
  }

  /** Datagrams; none in draft 00 and before. */
  get datagrams(): DatagramDuplex {
    if (this.#hasDatagrams) return this.#allDatagrams;
    return this.#noDatagrams ??= noDatagrams("qmux-00");
  }

  /** Bidirectional streams that the peer opened. */
  get incomingBidirectionalStreams(): ReadableStream<QmuxStream> {
    return this.#streams.incomingBidirectional;
  }

  /** Unidirectional streams that the peer opened. */
  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#streams.incomingUnidirectional;
  }

  /** Opens a stream, waiting while the peer allows no more. */
  createBidirectionalStream(options: OpenStreamOptions = {}): Promise<QmuxStream> {
    return this.#create("bidirectional", options);
  }

  /** Opens a stream, waiting while the peer allows no more. */
  async createUnidirectionalStream(options: OpenStreamOptions = {}): Promise<SendStream> {
    return (await this.#create("unidirectional", options)).send!.writable;
  }

  /** Sets who is told what happens. */
  observe(observer: ConnectionObserver | undefined): void {
    this.ledger.observer = observer;
  }

  /** Says now what this end takes, and not when it is first needed. */
  start(): void {
    if (this.#isStarted || this.#end !== undefined) return;
    this.#isStarted = true;
    const credit = this.#credit!;
    const { maxStreamData } = credit;
    const parameters: TransportParameters = {
      maxIdleTimeoutMs: 0,
      maxData: credit.of("data").receive.limit,
      maxStreamDataBidiLocal: maxStreamData,
      maxStreamDataBidiRemote: maxStreamData,
      maxStreamDataUni: maxStreamData,
      maxStreamsBidi: credit.of("bidirectional").receive.limit,
      maxStreamsUni: credit.of("unidirectional").receive.limit,
      maxDatagramFrameSize: this.#hasDatagrams ? MAX_DATAGRAM_FRAME_BYTES : 0,
      maxRecordSize: this.#options.version === 0 ? DEFAULT_MAX_RECORD_SIZE : MAX_RECORD_BYTES,
    };
    credit.allTold();
    this.#outlet.begin(parameters);
  }

  /**
   * Sends a close of the application, behind what was put into records before. Nothing is sent after it.
   *
   * @param info Code and reason.
   */
  close({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    this.start();
    this.#outlet.close(closeCode, reason);
  }

  /**
   * Sends a close because of a fault of the peer. Nothing is sent after it.
   *
   * @param code QUIC's code of the fault.
   * @param reason In words.
   */
  abort(code: number, reason: string): void {
    this.start();
    this.#outlet.close(code, reason, NO_FRAME);
  }

  /** Takes a record. */
  receive(record: Uint8Array): void {
    if (this.#end !== undefined || this.#isFaulty) return;
    this.start();
    this.#outlet.hold();
    try {
      this.#receive(record);
    } catch (error) {
      const isTheirs = error instanceof QmuxError;
      this.#fail(
        isTheirs ? error.quicCode : QuicError.internalError,
        isTheirs ? error.message : "This end failed to read a record",
      );
    } finally {
      this.#outlet.release();
    }
  }

  /** Ends every stream, and all datagrams. */
  end(error: Error, isBroken: boolean): void {
    if (this.#end !== undefined) return;
    this.#end = { error, isBroken };
    this.#pings.stop();
    this.#outlet.stop();
    this.#credit?.fail(error);
    this.#streams.end(error, isBroken);
    this.#datagrams?.end(error, isBroken);
  }

  // What streams need.

  /** See {@linkcode RegistryHost}. */
  get dataLeft(): number {
    return this.#credit?.of("data").send.left ?? Infinity;
  }

  /** See {@linkcode RegistryHost}. */
  dataSent(byteLength: number): void {
    this.#credit?.of("data").send.takeNow(byteLength);
  }

  /** See {@linkcode RegistryHost}. */
  sendNow(half: SendHalf, bytes: Uint8Array): number {
    return this.#outlet.sendNow(half, bytes);
  }

  /** See {@linkcode RegistryHost}. */
  wantsToSend(half: SendHalf): void {
    this.#outlet.wantsToSend(half);
  }

  /** See {@linkcode RegistryHost}. */
  withdrawn(half: SendHalf): void {
    this.#outlet.withdrawn(half);
  }

  /** See {@linkcode RegistryHost}. */
  wantsControl(stream: QmuxStream): void {
    this.#outlet.wantsControl(stream);
  }

  /** See {@linkcode RegistryHost}. */
  halfEnded(stream: QmuxStream): void {
    this.#streams.halfEnded(stream);
  }

  // What the way out needs.

  /** See {@linkcode OutletSources}. */
  get ownDatagrams(): QmuxDatagrams | undefined {
    return this.#datagrams;
  }

  /** See {@linkcode OutletSources}. */
  sentDatagram(datagram: Uint8Array): void {
    this.ledger.sentDatagram(datagram);
  }

  // What credit needs.

  /** See {@linkcode CreditHost}. */
  creditChanged(): void {
    if (this.#isStarted) this.#outlet.fill();
  }

  /** See {@linkcode CreditHost}. */
  creditBlocked(kind: CreditKind, limit: number): void {
    if (this.#isOpen) this.ledger.tell({ type: "blocked", what: kind, by: "local", limit });
    this.#outlet.fill();
  }

  /** See {@linkcode CreditHost}. */
  get waitingWrites(): number {
    return this.#streams.waitingWrites;
  }

  // What datagrams need.

  /** See {@linkcode DatagramHost}. */
  get maxDatagramSize(): number {
    const { maxDatagramFrameSize, maxRecordSize } = this.#peer;
    const frame = this.#isOpen
      ? Math.min(maxDatagramFrameSize, maxRecordSize, MAX_RECORD_BYTES)
      : MAX_DATAGRAM_FRAME_BYTES;
    // A byte of type, and the length.
    return Math.max(0, frame - 1 - varintLength(frame));
  }

  /** See {@linkcode DatagramHost}. Of a peer that takes none the largest size is 0 too. */
  takesDatagram(byteLength: number): boolean {
    return byteLength <= this.maxDatagramSize &&
      (!this.#isOpen || this.#peer.maxDatagramFrameSize > 0);
  }

  /** See {@linkcode DatagramHost}. */
  sendDatagramNow(datagram: Uint8Array): boolean {
    return this.takesDatagram(datagram.byteLength) && this.#outlet.sendDatagramNow(datagram);
  }

  /** See {@linkcode DatagramHost}. */
  wantsDatagrams(): void {
    this.start();
    this.#outlet.fill();
  }

  // Streams.

  async #create(direction: StreamDirection, options: OpenStreamOptions): Promise<QmuxStream> {
    options.signal?.throwIfAborted();
    if (this.#end !== undefined) throw this.#end.error;
    this.start();
    const credit = this.#credit?.of(direction).send;
    if (credit !== undefined && !credit.takeNow(1)) await credit.take(1, options);
    if (this.#end !== undefined) throw (this.#end as { error: Error }).error;
    return this.#streams.open(direction, options.sendOrder);
  }

  // What comes.

  get #hasDatagrams(): boolean {
    return this.#options.version === 1 || this.#options.version === 2;
  }

  get #allDatagrams(): QmuxDatagrams {
    if (this.#datagrams === undefined) {
      this.#datagrams = new QmuxDatagrams(this);
      if (this.#end !== undefined) this.#datagrams.end(this.#end.error, this.#end.isBroken);
    }
    return this.#datagrams;
  }

  #fail(code: number, reason: string): void {
    this.#isFaulty = true;
    this.#link.fail(code, reason);
  }

  #receive(record: Uint8Array): void {
    if (this.#isLegacy) {
      return this.#dispatch(decodeLegacyFrame(record), true);
    }
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
      // Whoever gets it may hand its memory on: only the last frame may have it, the others get
      // copies, and so does a small one, which would hold all of the record.
      const isOwn = reader.isAtEnd && "data" in frame &&
        frame.data.byteLength * 2 > record.byteLength;
      this.#dispatch(frame, isOwn);
      if (this.#end !== undefined || this.#isFaulty) return;
    }
  }

  /** Acts on a frame; whether it has the memory of its record for itself. */
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
    const follows = this.#isLegacy || (this.#options.isLenient ?? false);
    const at = !Number.isNaN(offset) ? offset : follows ? receive?.received ?? 0 : 0;
    receive?.deliver(at, data, { isFin, isOwn: isOwn && fills(data) });
  }

  #onReset({ id, code, finalSize }: ResetFrame): void {
    const { isLenient = false } = this.#options;
    // Older peers forget to say how much there was.
    const size = isLenient && finalSize === 0 ? undefined : finalSize;
    this.#streams.find(id, "receive")?.receive?.reset(code, size);
  }

  #onDatagram({ data, frameSize }: DatagramFrame, isOwn: boolean): void {
    if (!this.#hasDatagrams || frameSize > MAX_DATAGRAM_FRAME_BYTES) {
      throw new QmuxError(
        QuicError.protocolViolation,
        `Expected a DATAGRAM frame of at most ${
          this.#hasDatagrams ? MAX_DATAGRAM_FRAME_BYTES : 0
        } bytes, received one of ${frameSize}`,
      );
    }
    if (this.#isHeld) return this.ledger.droppedDatagram(data.byteLength);
    this.#allDatagrams.deliver(isOwn && fills(data) ? data : data.slice());
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
    const { version, onOpen } = this.#options;
    this.#raise("data", parameters.maxData);
    this.#raise("bidirectional", parameters.maxStreamsBidi);
    this.#raise("unidirectional", parameters.maxStreamsUni);
    this.#datagrams?.opened();
    const isSmall = parameters.maxRecordSize <= MAX_SINGLE_FRAME_BYTES;
    this.#outlet.open(
      version === 0 ? MAX_SINGLE_FRAME_BYTES : Math.min(MAX_RECORD_BYTES, parameters.maxRecordSize),
      isSmall ? MAX_SMALL_PAYLOAD : Infinity,
    );
    this.#pings.keepAlive(parameters.maxIdleTimeoutMs);
    onOpen?.();
  }

  #onCredit(kind: CreditKind, limit: number): void {
    if (this.#raise(kind, limit)) this.ledger.tell({ type: "credit", what: kind, limit });
  }

  /** A total that is no higher than before changes nothing, RFC 9000 section 4.1. */
  #raise(kind: CreditKind, limit: number): boolean {
    const { send } = this.#credit!.of(kind);
    if (limit <= send.limit) return false;
    send.raise(limit);
    if (kind === "data") this.#outlet.unblock();
    return true;
  }

  #onBlocked(kind: CreditKind, limit: number): void {
    this.ledger.tell({ type: "blocked", what: kind, by: "remote", limit });
    this.#credit!.of(kind).receive.grantAll();
  }
}

/** Whether bytes are most of the memory that they are in: what is small does not keep a large record alive. */
function fills(bytes: Uint8Array): boolean {
  return bytes.byteLength * 2 >= bytes.buffer.byteLength;
}
