/** Streams of one connection, open or awaiting acceptance (RFC 9000 section 2.1). */
import { Arrivals } from "../incoming_queue.ts";
import { Ledger } from "../counters.ts";
import type { FlowControlOptions, ReceiveStream, StreamDirection } from "../connection.ts";
import type { QmuxCredit } from "./_credit.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import { QmuxStream, ReceiveHalf, SendHalf, type StreamHost } from "./stream.ts";
import { DEFAULT_PARAMETERS, type TransportParameters } from "./transport_parameters.ts";
import type { Timer } from "../../base/runtime.ts";

/** Most streams held for acceptance; beyond, the oldest is dropped. */
export const MAX_UNACCEPTED_STREAMS = 1_000;

/** Most open streams of a peer without stream credit; beyond, the connection ends. */
export const MAX_UNCOUNTED_STREAMS = 10_000;

/** The connection, as the registry sees it. */
export interface RegistryHost extends StreamHost {
  readonly ledger: Ledger;
  /** Flow control; absent in the framing without credit. */
  readonly credit: QmuxCredit | undefined;
}

/** Streams opened so far in each direction. */
type Opened = Record<StreamDirection, number>;

/** All streams of a connection. */
export class StreamRegistry {
  /** Parameters of the peer; the source of the first limit of each stream. */
  peer: TransportParameters = DEFAULT_PARAMETERS;

  readonly #host: RegistryHost;
  readonly #isClient: boolean;
  readonly #streams = new Map<number, QmuxStream>();
  readonly #local: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #remote: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #bidirectional: Arrivals<QmuxStream>;
  readonly #unidirectional: Arrivals<QmuxStream, ReceiveStream>;
  #unannounced: SendHalf[] = [];
  #announcing: Timer | undefined = undefined;
  #messages: Ledger | undefined = undefined;

  /**
   * Creates an empty registry.
   *
   * @param side This end's role.
   * @param flowControl Stream limits; limits above the usual one raise the number of streams held
   * for acceptance.
   */
  constructor(host: RegistryHost, side: "client" | "server", flowControl: FlowControlOptions) {
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
    this.#bidirectional = new Arrivals(arrivals, (stream) => this.#accept(stream));
    this.#unidirectional = new Arrivals(
      arrivals,
      (stream) => this.#accept(stream).receive!.readable,
    );
  }

  /** Number of open streams. */
  get size(): number {
    return this.#streams.size;
  }

  /** Streams of the peer that the application has not accepted yet. */
  get unread(): number {
    return this.#bidirectional.size + this.#unidirectional.size;
  }

  /** Bytes received and not yet read. */
  get heldBytes(): number {
    let held = 0;
    for (const { receive } of this.#streams.values()) held += receive?.heldBytes ?? 0;
    return held;
  }

  /** Number of writes that wait for bytes granted by the peer. */
  get waitingWrites(): number {
    let waiting = 0;
    for (const { send } of this.#streams.values()) {
      if (send?.waitsFor === "stream" || send?.waitsFor === "connection") waiting++;
    }
    return waiting;
  }

  /** Bidirectional streams that the peer opened. */
  get incomingBidirectional(): ReadableStream<QmuxStream> {
    return this.#bidirectional.readable;
  }

  /** Unidirectional streams that the peer opened. */
  get incomingUnidirectional(): ReadableStream<ReceiveStream> {
    return this.#unidirectional.readable;
  }

  /**
   * Excludes the client's first bidirectional stream from the counters, because that stream carries
   * messages. The stream is allowed even if the application grants none.
   */
  excludeMessageStream(): void {
    this.#messages = new Ledger();
    const receive = this.#host.credit?.of("bidirectional").receive;
    if (!this.#isClient) receive?.grant(receive.limit + 1);
  }

  /**
   * Opens a stream of this end, after credit for the stream was taken.
   *
   * @param direction Direction of the stream.
   * @param sendOrder Priority; the higher order is sent first.
   * @returns The stream, announced to the peer soon.
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
   * @param id Stream number.
   * @param half Direction that the frame concerns.
   * @returns The stream; `undefined` if the stream is over.
   * @throws {QmuxError} If the stream cannot have such a frame.
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

  /** Removes a stream once both directions are over; the peer may then open another one. */
  halfEnded(stream: QmuxStream): void {
    if (!stream.isOver || !stream.isAccepted || !this.#streams.delete(stream.id)) return;
    if (stream.isRemote && !stream.carriesMessages) {
      this.#host.credit?.of(stream.direction).receive.release(1);
    }
  }

  /**
   * Ends every stream. After a clean end, unaccepted streams can still be accepted.
   *
   * @param error Error for readers and writers.
   * @param isBroken Whether the lists of incoming streams fail with the error too.
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

  /** Announces a stream to the peer soon, even if nothing is written to the stream at first. */
  #announceSoon(half: SendHalf): void {
    this.#unannounced.push(half);
    this.#announcing ??= this.#host.runtime.setTimeout(() => {
      this.#announcing = undefined;
      for (const one of this.#unannounced.splice(0)) one.announce();
    }, 0);
  }

  /** Adds a stream that the peer opened, and all earlier ones. */
  #arrive(direction: StreamDirection, index: number): QmuxStream {
    const credit = this.#host.credit?.of(direction).receive;
    const opened = this.#remote;
    const isAllowed = credit === undefined
      ? this.#streams.size + index - opened[direction] < MAX_UNCOUNTED_STREAMS
      : index < credit.limit;
    if (!isAllowed) {
      throw new QmuxError(
        QuicError.streamLimitError,
        `Expected at most ${credit?.limit ?? MAX_UNCOUNTED_STREAMS} ${direction} streams`,
      );
    }
    let stream!: QmuxStream;
    while (opened[direction] <= index) {
      credit?.receive(1);
      stream = this.#add(opened[direction]++, direction, { isRemote: true });
      // The stream of the messages is allowed beyond those of the application.
      if (stream.carriesMessages) credit?.release(1);
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
    // The stream of the messages has a ledger of its own, outside the application's counters.
    const messages = id === 0 ? this.#messages : undefined;
    const ledger = messages ?? this.#host.ledger;
    const account = ledger.opened(direction, isRemote ? "remote" : "local");
    const stream = new QmuxStream(id, { direction, isRemote, account });
    stream.carriesMessages = messages !== undefined;
    this.#streams.set(id, stream);
    return stream;
  }

  #sendHalf(stream: QmuxStream, limit: number, sendOrder?: number): SendHalf {
    const isCounted = this.#host.credit !== undefined;
    return new SendHalf(stream, this.#host, { limit: isCounted ? limit : Infinity, sendOrder });
  }

  #receiveHalf(stream: QmuxStream): ReceiveHalf {
    return new ReceiveHalf(stream, this.#host, this.#host.credit?.maxStreamData);
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
