/**
 * The streams of one connection: which there are, who opened them, and which of
 * them nobody took yet (RFC 9000 section 2.1).
 *
 * @module
 */
import { Arrivals } from "../_arrivals.ts";
import { Ledger } from "../_ledger.ts";
import type { FlowControlOptions, ReceiveStream, StreamDirection } from "../connection.ts";
import type { QmuxCredit } from "./_credit.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import { QmuxStream, ReceiveHalf, SendHalf, type StreamHost } from "./stream.ts";
import { DEFAULT_PARAMETERS, type TransportParameters } from "./transport_parameters.ts";

/** Streams that nobody accepted yet; past it the oldest is dropped. */
export const MAX_UNACCEPTED_STREAMS = 1_000;

/** Streams of the peer that are open, where it does not count them: past it the connection ends. */
export const MAX_UNCOUNTED_STREAMS = 10_000;

/** What the registry needs of its connection. */
export interface RegistryHost extends StreamHost {
  /** Counts. */
  readonly ledger: Ledger;
  /** Flow control; absent where nobody counts. */
  readonly credit: QmuxCredit | undefined;
}

/** How many streams of each direction there were. */
type Opened = Record<StreamDirection, number>;

/** All streams of a connection. */
export class StreamRegistry {
  /** What the peer takes of a stream at first. */
  peer: TransportParameters = DEFAULT_PARAMETERS;

  readonly #host: RegistryHost;
  readonly #isClient: boolean;
  readonly #streams = new Map<number, QmuxStream>();
  readonly #local: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #remote: Opened = { bidirectional: 0, unidirectional: 0 };
  readonly #bidirectional: Arrivals<QmuxStream>;
  readonly #unidirectional: Arrivals<QmuxStream, ReceiveStream>;
  #unannounced: SendHalf[] = [];
  #announcing: ReturnType<typeof setTimeout> | undefined = undefined;
  #messages: Ledger | undefined = undefined;

  /**
   * Creates one without streams.
   *
   * @param host Its connection.
   * @param side Which end this is.
   * @param flowControl How many streams may wait for who accepts them, if those are more than usual.
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

  /** Streams that are open. */
  get size(): number {
    return this.#streams.size;
  }

  /** Streams of the peer that nobody took yet. */
  get unread(): number {
    return this.#bidirectional.size + this.#unidirectional.size;
  }

  /** Bytes that came and were not read. */
  get heldBytes(): number {
    let held = 0;
    for (const { receive } of this.#streams.values()) held += receive?.heldBytes ?? 0;
    return held;
  }

  /** How many writes wait for bytes that the peer grants. */
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
   * Leaves the first bidirectional stream of the client out of what is counted, as it carries
   * messages; and gives that one although the application may give none.
   */
  carryMessages(): void {
    this.#messages = new Ledger();
    const receive = this.#host.credit?.of("bidirectional").receive;
    if (!this.#isClient) receive?.grant(receive.limit + 1);
  }

  /**
   * Opens a stream of this end, for which credit was taken.
   *
   * @param direction Which way it goes.
   * @param sendOrder Its order.
   * @returns The stream; the peer hears of it soon.
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
   * The stream of a frame that came. If the peer opens one by it, it is there now, and all before it.
   *
   * @param id Its number.
   * @param half The direction that the frame is about.
   * @returns The stream; `undefined` if it is over.
   * @throws {QmuxError} If there can be no such frame.
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
        `Expected no such frame of stream ${id}`,
      );
    }
    if (stream !== undefined || !isRemote) return stream;
    return index < this.#remote[direction] ? undefined : this.#arrive(direction, index);
  }

  /** A direction of a stream is over; once all of it is, the peer may open another one. */
  halfEnded(stream: QmuxStream): void {
    if (!stream.isOver || !stream.isAccepted || !this.#streams.delete(stream.id)) return;
    if (stream.isRemote && !stream.carriesMessages) {
      this.#host.credit?.of(stream.direction).receive.release(1);
    }
  }

  /**
   * Ends every stream. Those that nobody took can still be taken after a clean end.
   *
   * @param error What their users get.
   * @param isBroken Whether incoming streams end with it too.
   */
  end(error: Error, isBroken: boolean): void {
    clearTimeout(this.#announcing);
    this.#unannounced = [];
    for (const stream of this.#streams.values()) stream.fail(error);
    this.#streams.clear();
    for (const arrivals of [this.#bidirectional, this.#unidirectional]) {
      if (isBroken) arrivals.fail(error);
      else arrivals.end();
    }
  }

  /** The peer should know of a stream, even if nothing is written to it at first. */
  #announceSoon(half: SendHalf): void {
    this.#unannounced.push(half);
    this.#announcing ??= setTimeout(() => {
      this.#announcing = undefined;
      for (const one of this.#unannounced.splice(0)) one.announce();
    });
  }

  /** The peer opened a stream, and with it all before it. */
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
      // It is given beside those of the application, and is none of them.
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
    // The stream of the messages is no user's: it is counted where nobody looks.
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

  /** The application takes a stream; only now may the peer open another one for it. */
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
