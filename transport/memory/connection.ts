/** One end of a memory pair, with the streams between the two sides. */
import { CloseCode, ConnectionError, StreamError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { checkWireClose, MAX_QUIC_CLOSE_CODE, streamErrorCodeOf } from "../wire_close.ts";
import type {
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionStats,
  DatagramDuplex,
  Frame,
  MessageFrames,
  OpenStreamOptions,
  StreamDirection,
} from "../connection.ts";
import { CountedConnection, type StreamAccount } from "../counters.ts";
import { SendCredit } from "../flow_control.ts";
import { FrameInbox } from "../frame_inbox.ts";
import { IncomingQueue } from "../incoming_queue.ts";
import { noDatagrams, noStreams, rejectStream } from "../unsupported.ts";
import type { PacketPath, StreamPath } from "./path.ts";

/**
 * The maximum number of streams of one direction that the peer has not accepted yet. A call that
 * opens another one waits.
 */
const MAX_UNACCEPTED_STREAMS = 100;

/** The maximum number of datagrams held for a reader. If there are more, the oldest is dropped. */
const MAX_HELD_DATAGRAMS = 256;

/** The largest datagram. It fits into a QUIC packet on any path. */
const MAX_DATAGRAM_BYTES = 1200;

/** The number of buffered bytes at or below which `drained` resolves. */
const LOW_WATER_MARK = 16 * 1024;

/** The number of unread bytes at which a write starts to wait. */
const STREAM_WINDOW_BYTES = 64 * 1024;

/** The share of the withheld credit that makes the connection worn when it is used up. */
const WORN = 0.75;
const encoder = new TextEncoder();

/** The features of a connection in memory. */
export interface MemoryWire {
  readonly runtime: Runtime;
  /**
   * @default {"memory"}
   */
  readonly transport?: string | undefined;
  /** The subprotocol. */
  readonly protocol: string;
  /** True for message frames without a stream. */
  readonly frames: boolean;
  readonly streams: boolean;
  readonly datagrams: boolean;
}

/** The credit that an end grants once. It grants no more as the peer uses the credit up. */
export interface WithheldCredit {
  /** The bytes that the peer may send in total, including messages. */
  readonly bytes: number;
  /** The number of streams of each direction that the peer may open in total; at least 100. */
  readonly streams: number;
}

/** A bidirectional stream that the other side opened, as the reader and the writer on this side. */
type IncomingMemoryStream = Pick<MemoryStream, "reader" | "writer">;

/** A connection that uses a {@linkcode PacketPath} in each direction. */
export class MemoryConnection extends CountedConnection implements Connection {
  readonly #out: PacketPath;
  readonly #in: PacketPath;
  readonly #inbox: FrameInbox = new FrameInbox();
  readonly #owner: MemoryStreamOwner = new MemoryStreamOwner();
  readonly #closing: PromiseWithResolvers<ConnectionCloseInfo> = Promise.withResolvers();
  readonly #windingUp: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #bidirectional: IncomingQueue<IncomingMemoryStream, BidirectionalStream>;
  readonly #unidirectional: IncomingQueue<ReadableStream<Uint8Array>>;
  readonly #datagrams: IncomingQueue<Uint8Array>;
  /** The number of streams that this side may still open before the peer accepts one. */
  readonly #slots: Readonly<Record<StreamDirection, SendCredit>>;
  #peer!: MemoryConnection;
  #closeError: ConnectionError | undefined = undefined;
  #drain: PromiseWithResolvers<void> | undefined = undefined;
  #datagramWriter: WritableStreamDefaultController | undefined = undefined;
  #framesSent = 0;
  #framesReceived = 0;
  readonly #worn: PromiseWithResolvers<void> = Promise.withResolvers();
  #credit: WithheldCredit | undefined = undefined;
  #usedBytes = 0;
  #taken: Record<StreamDirection, number> = { bidirectional: 0, unidirectional: 0 };
  readonly #announced: Record<StreamDirection, number> = { bidirectional: 0, unidirectional: 0 };
  /** The opened streams that have not arrived on the other side. */
  readonly #openings: Record<StreamDirection, (() => void)[]> = {
    bidirectional: [],
    unidirectional: [],
  };

  /** The name of the transport. The default is `memory`. */
  readonly transport: string;
  readonly capabilities: ConnectionCapabilities;
  readonly protocol: string;
  readonly ready: Promise<void> = Promise.resolve();
  /** Settles immediately at the end that closes. */
  readonly closed: Promise<ConnectionCloseInfo> = this.#closing.promise;
  /** Resolves when {@linkcode MemoryLink.drain} is called. */
  readonly draining: Promise<void> = this.#windingUp.promise;
  /**
   * The datagrams. The faults determine how unreliable they are. If too many are unread, the oldest
   * are dropped.
   */
  readonly datagrams: DatagramDuplex;
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;
  /** The message frames, if enabled. */
  readonly frames?: MessageFrames;

  /** Creates one end. It is complete after a call of {@linkcode MemoryConnection.link}. */
  constructor(wire: MemoryWire, out: PacketPath, inward: PacketPath) {
    super();
    this.#out = out;
    this.#in = inward;
    const slots = (direction: StreamDirection) =>
      new SendCredit(wire.runtime, `${direction} stream`, MAX_UNACCEPTED_STREAMS, () => {});
    this.#slots = {
      bidirectional: slots("bidirectional"),
      unidirectional: slots("unidirectional"),
    };
    this.transport = wire.transport ?? "memory";
    this.protocol = wire.protocol;
    this.capabilities = {
      streams: wire.streams,
      datagrams: wire.datagrams ? "unreliable" : "none",
      resetCodes: wire.streams,
      credit: false,
      independentStreams: true,
    };
    this.closed.catch(() => {}); // Callers may ignore the rejection.
    out.onShrink = () => {
      if (out.bufferedBytes <= LOW_WATER_MARK) this.#endDrain();
    };
    this.#bidirectional = new IncomingQueue({
      capacity: MAX_UNACCEPTED_STREAMS,
      onTaken: () => this.#take("bidirectional"),
      onDropped: ({ reader, writer }) => {
        reader.readable.cancel().catch(() => {});
        writer.writable.abort().catch(() => {});
      },
    }, ({ reader, writer }) => ({ readable: reader.readable, writable: writer.writable }));
    this.#unidirectional = new IncomingQueue({
      capacity: MAX_UNACCEPTED_STREAMS,
      onTaken: () => this.#take("unidirectional"),
      onDropped: (readable) => void readable.cancel().catch(() => {}),
    });
    this.#datagrams = new IncomingQueue({
      capacity: MAX_HELD_DATAGRAMS,
      onDropped: ({ byteLength }) => this.ledger.droppedDatagram(byteLength),
    });
    this.incomingBidirectionalStreams = wire.streams ? this.#bidirectional.readable : noStreams();
    this.incomingUnidirectionalStreams = wire.streams ? this.#unidirectional.readable : noStreams();
    this.datagrams = wire.datagrams ? this.#makeDatagrams() : noDatagrams(this.transport);
    if (wire.frames) this.frames = this.#makeFrames();
  }

  link(peer: MemoryConnection): void {
    this.#peer = peer;
  }

  /**
   * Stops renewing credit, as some browser engines do.
   *
   * @param credit The total credit of the other side.
   * @throws {RangeError} If `streams` is less than 100.
   */
  withhold(credit: WithheldCredit): void {
    if (!(credit.streams >= MAX_UNACCEPTED_STREAMS)) {
      throw new RangeError(
        `Cannot withhold credit: streams must be ${MAX_UNACCEPTED_STREAMS} or more, received ${credit.streams}`,
      );
    }
    this.#credit = credit;
    this.#owner.onReceived = (bytes) => {
      this.#usedBytes += bytes;
      if (this.#usedBytes >= credit.bytes * WORN) this.#worn.resolve();
      // No more bytes arrive, but neither end notices.
      if (this.#usedBytes >= credit.bytes) this.#in.stall();
    };
  }

  /** Resolves when three quarters of the withheld credit have been used up. */
  get worn(): Promise<void> {
    return this.#worn.promise;
  }

  /** Breaks the connection as a network failure does, so that `closed` rejects. */
  break(): void {
    if (this.#closeError !== undefined) return;
    const error = new ConnectionError("The connection broke: the network was disconnected");
    this.#closing.reject(error);
    this.#end(error);
    for (const arrivals of [this.#bidirectional, this.#unidirectional, this.#datagrams]) {
      arrivals.fail(error);
    }
  }

  /** Handles the other side's request to finish. */
  windUp(): void {
    this.#windingUp.resolve();
  }

  /** The number of the other side's streams that have not been accepted yet. */
  get unreadStreams(): number {
    return this.#bidirectional.size + this.#unidirectional.size;
  }

  /** Opens a stream. Waits while too many streams have not been accepted yet. */
  async createBidirectionalStream(options: OpenStreamOptions = {}): Promise<BidirectionalStream> {
    if (!this.capabilities.streams) return await rejectStream(this.transport);
    await this.#slots.bidirectional.take(1, options);
    if (this.#closeError !== undefined) throw this.#closeError;
    const peer = this.#peer;
    const { out, inward } = this.#lanes();
    const there = memoryStream(out, inward, this.#owner, peer.#owner);
    const back = memoryStream(inward, out, peer.#owner, this.#owner);
    const theirs: IncomingMemoryStream = { reader: there.reader, writer: back.writer };
    there.writer.account = back.reader.account = this.account("bidirectional", "local");
    this.#announce("bidirectional", out, () => {
      const account = peer.account("bidirectional", "remote");
      theirs.reader.account = theirs.writer.account = account;
      peer.#bidirectional.push(theirs);
    });
    return { readable: back.reader.readable, writable: there.writer.writable };
  }

  /** Opens a stream. Waits while too many streams have not been accepted yet. */
  async createUnidirectionalStream(
    options: OpenStreamOptions = {},
  ): Promise<WritableStream<Uint8Array>> {
    if (!this.capabilities.streams) return await rejectStream(this.transport);
    await this.#slots.unidirectional.take(1, options);
    if (this.#closeError !== undefined) throw this.#closeError;
    const peer = this.#peer;
    const { out, inward } = this.#lanes();
    const { writer, reader } = memoryStream(out, inward, this.#owner, peer.#owner);
    writer.account = this.account("unidirectional", "local");
    this.#announce("unidirectional", out, () => {
      reader.account = peer.account("unidirectional", "remote");
      peer.#unidirectional.push(reader.readable);
    });
    return writer.writable;
  }

  /** Closes this side immediately, and the other side after it has received all sent data. */
  close(info?: CloseOptions): void {
    const checked = checkWireClose(info, MAX_QUIC_CLOSE_CODE);
    if (this.#closeError !== undefined) return;
    const peer = this.#peer;
    this.#out.send(() => peer.#finish(checked));
    this.#finish(checked);
  }

  override async getStats(): Promise<ConnectionStats> {
    const { bytesSent = 0, bytesReceived = 0 } = await super.getStats();
    const stats = {
      bytesSent: bytesSent + this.#owner.bytesSent,
      bytesReceived: bytesReceived + this.#owner.bytesReceived,
    };
    return this.frames === undefined ? stats : {
      ...stats,
      framesSent: this.#framesSent,
      framesReceived: this.#framesReceived,
    };
  }

  protected override discardFirst(): boolean {
    const held = this.#bidirectional.takeHeld();
    const [first] = held;
    if (first !== undefined) this.#discard(first);
    for (const stream of held) this.#bidirectional.push(stream);
    return first !== undefined;
  }

  /** Closes the connection. Called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** Handles a close with a code and reason, by either side. */
  #finish(info: Required<ConnectionCloseInfo>): void {
    if (this.#closeError !== undefined) return;
    this.#closing.resolve(info);
    this.#end(new ConnectionError(`The connection was closed with code ${info.closeCode}`));
    for (const arrivals of [this.#bidirectional, this.#unidirectional, this.#datagrams]) {
      arrivals.end();
    }
  }

  /** Performs the steps that are the same however a connection ends. No more data arrives. */
  #end(error: ConnectionError): void {
    this.#closeError = error;
    this.#in.cut();
    this.#inbox.close();
    this.#owner.fail(error);
    this.#slots.bidirectional.fail(error);
    this.#slots.unidirectional.fail(error);
    this.#datagramWriter?.error(error);
    this.#endDrain();
  }

  /**
   * Removes the account of an unread stream that arrived before it was known that it carries
   * messages.
   */
  #discard({ reader, writer }: IncomingMemoryStream): void {
    const { account, heldBytes } = reader;
    if (account === undefined) return;
    account.discard();
    account.ledger.streamBytesReceived -= heldBytes;
    this.#owner.bytesReceived += heldBytes;
    reader.account = writer.account = undefined;
  }

  #endDrain(): void {
    this.#drain?.resolve();
    this.#drain = undefined;
  }

  #makeFrames(): MessageFrames {
    const out = this.#out;
    return {
      lowWaterMark: LOW_WATER_MARK,
      get bufferedAmount(): number {
        return out.bufferedBytes;
      },
      send: (frame) => this.#send(frame),
      drained: () => {
        if (this.#closeError !== undefined || out.bufferedBytes <= LOW_WATER_MARK) {
          return Promise.resolve();
        }
        this.#drain ??= Promise.withResolvers();
        return this.#drain.promise;
      },
      receive: (receiver) => this.#inbox.receive(receiver),
    };
  }

  #send(frame: Frame): void {
    if (this.#closeError !== undefined) return;
    const peer = this.#peer;
    const sent = typeof frame === "string" ? frame.toWellFormed() : new Uint8Array(frame);
    const size = typeof sent === "string" ? encoder.encode(sent).byteLength : sent.byteLength;
    this.#framesSent++;
    this.#owner.bytesSent += size;
    this.#out.send(() => peer.#receive(sent, size), size);
  }

  /**
   * Returns the paths of a new stream. The stream has its own paths if the network supports this.
   */
  #lanes(): { readonly out: StreamPath; readonly inward: StreamPath } {
    return {
      out: this.#out.lane?.() ?? this.#out,
      inward: this.#in.lane?.() ?? this.#in,
    };
  }

  /**
   * Notifies the other side of a new stream. Earlier streams of the same direction open first, as
   * in QUIC.
   */
  #announce(direction: StreamDirection, out: StreamPath, open: () => void): void {
    const number = ++this.#announced[direction];
    const openings = this.#openings[direction];
    openings.push(open);
    out.send(() => {
      while (this.#announced[direction] - openings.length < number) openings.shift()!();
    });
  }

  /** Grants the other side one more stream after a stream was accepted, while there is credit. */
  #take(direction: StreamDirection): void {
    const { streams = Infinity } = this.#credit ?? {};
    const taken = ++this.#taken[direction];
    if (taken >= streams * WORN) this.#worn.resolve();
    if (taken > streams - MAX_UNACCEPTED_STREAMS) return;
    this.#out.send(() => this.#peer.#slots[direction].giveBack(1));
  }

  #receive(frame: Frame, size: number): void {
    this.#framesReceived++;
    this.#owner.bytesReceived += size;
    this.#owner.onReceived?.(size);
    if (this.#inbox.deliver(frame)) return;
    this.close({
      closeCode: CloseCode.queueFull,
      reason: "Too many frames arrived before a receiver was set",
    });
  }

  #makeDatagrams(): DatagramDuplex {
    const writable = new WritableStream<Uint8Array>({
      start: (controller) => {
        this.#datagramWriter = controller;
      },
      write: (datagram) => {
        // A datagram that is too large is lost, as in W3C WebTransport.
        const { byteLength } = datagram;
        if (byteLength > MAX_DATAGRAM_BYTES) return this.ledger.droppedDatagram(byteLength);
        const peer = this.#peer;
        const sent = new Uint8Array(datagram);
        this.ledger.sentDatagram(sent);
        this.#out.sendDatagram(() => {
          peer.ledger.receivedDatagram(sent);
          peer.#datagrams.push(sent);
        }, byteLength);
      },
    });
    return { readable: this.#datagrams.readable, writable, maxDatagramSize: MAX_DATAGRAM_BYTES };
  }
}

/** An active end of a stream. The connection keeps it, so that a close can fail it. */
interface StreamEnd {
  /**
   * The account of the stream's bytes. Without an account, the connection counts them separately.
   */
  account: StreamAccount | undefined;
  /** Ends the stream with an error, without notifying the other side. */
  fail(error: unknown): void;
}

/** Both sides of one direction of a stream. */
interface MemoryStream {
  readonly writer: StreamEnd & { readonly writable: WritableStream<Uint8Array> };
  readonly reader: StreamEnd & {
    readonly readable: ReadableStream<Uint8Array>;
    /** The number of bytes that were received but not read yet. */
    readonly heldBytes: number;
  };
}

/** The open streams of a connection, and the counts of the bytes without an account. */
class MemoryStreamOwner {
  /** The ends that a close must fail. */
  readonly live: Set<StreamEnd> = new Set();
  /**
   * The bytes passed to the network without an account. They belong to frames, or to the stream
   * with messages.
   */
  bytesSent = 0;
  /** The bytes received from the network without an account. */
  bytesReceived = 0;
  /** Called with the size of all bytes that arrive, with or without an account. */
  onReceived: ((bytes: number) => void) | undefined = undefined;

  /** Fails every active end. */
  fail(error: unknown): void {
    for (const end of [...this.live]) end.fail(error);
  }
}

class StreamWriter implements StreamEnd {
  account: StreamAccount | undefined = undefined;
  readonly #path: StreamPath;
  readonly #owner: MemoryStreamOwner;
  readonly #reader: () => StreamReader;
  #controller!: WritableStreamDefaultController;
  #room: PromiseWithResolvers<void> | undefined = undefined;
  #unreadBytes = 0;
  readonly writable: WritableStream<Uint8Array>;

  constructor(path: StreamPath, owner: MemoryStreamOwner, reader: () => StreamReader) {
    this.#path = path;
    this.#owner = owner;
    this.#reader = reader;
    owner.live.add(this);
    this.writable = new WritableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        // Otherwise a write that is waiting for room would delay the abort.
        controller.signal.addEventListener(
          "abort",
          () => this.#room?.reject(controller.signal.reason),
          { once: true },
        );
      },
      write: (chunk) => this.#write(chunk),
      close: () => {
        if (this.#owner.live.delete(this)) this.account?.ended();
        this.#path.send(() => this.#reader().finish());
      },
      abort: (reason) => {
        if (this.#owner.live.delete(this)) this.account?.cut(reason, "reset");
        const code = streamErrorCodeOf(reason);
        this.#path.send(() => this.#reader().reset(code));
      },
    });
  }

  taken(bytes: number): void {
    this.#unreadBytes -= bytes;
    if (this.#unreadBytes < STREAM_WINDOW_BYTES) this.#room?.resolve();
  }

  stopped(streamErrorCode: number): void {
    this.fail(
      new StreamError(`The peer stopped reading the stream with code ${streamErrorCode}`, {
        streamErrorCode,
        by: "remote",
      }),
    );
  }

  fail(error: unknown): void {
    // An inactive end has already ended. An error now would only hide the cause.
    if (!this.#owner.live.delete(this)) return;
    this.account?.ended(error);
    this.#controller.error(error);
    this.#room?.reject(error);
  }

  #write(chunk: Uint8Array): Promise<void> | void {
    if (!(chunk instanceof Uint8Array)) {
      throw new TypeError(
        `Cannot write to stream: chunk must be a Uint8Array, received ${typeof chunk}`,
      );
    }
    if (chunk.byteLength === 0) return;
    const bytes = new Uint8Array(chunk);
    const size = bytes.byteLength;
    this.#unreadBytes += size;
    if (this.account === undefined) this.#owner.bytesSent += size;
    else this.account.ledger.streamBytesSent += size;
    const first = this.#path.split?.(size) ?? size;
    this.#deliver(first < size ? bytes.slice(0, first) : bytes);
    if (first < size) this.#deliver(bytes.slice(first));
    if (this.#unreadBytes < STREAM_WINDOW_BYTES) return;
    this.#room = Promise.withResolvers();
    return this.#room.promise;
  }

  #deliver(bytes: Uint8Array<ArrayBuffer>): void {
    const { byteLength } = bytes; // Read before the reader's end takes over the buffer.
    this.#path.send(() => this.#reader().deliver(bytes, byteLength), 0, byteLength);
  }
}

class StreamReader implements StreamEnd {
  account: StreamAccount | undefined = undefined;
  readonly #path: StreamPath;
  readonly #owner: MemoryStreamOwner;
  readonly #writer: () => StreamWriter;
  readonly #chunks: Uint8Array<ArrayBuffer>[] = [];
  #controller!: ReadableByteStreamController;
  #wanted = false;
  #finished = false;
  #over = false;
  readonly readable: ReadableStream<Uint8Array>;

  constructor(path: StreamPath, owner: MemoryStreamOwner, writer: () => StreamWriter) {
    this.#path = path;
    this.#owner = owner;
    this.#writer = writer;
    owner.live.add(this);
    this.readable = new ReadableStream({
      type: "bytes",
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#pull(),
      cancel: (reason) => {
        if (!this.#over) this.account?.cut(reason, "stopped reading");
        this.#end();
        if (this.#finished) return;
        const code = streamErrorCodeOf(reason);
        this.#path.send(() => this.#writer().stopped(code));
      },
    });
  }

  get heldBytes(): number {
    return this.#chunks.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  deliver(chunk: Uint8Array<ArrayBuffer>, size: number): void {
    if (this.account === undefined) this.#owner.bytesReceived += size;
    else this.account.ledger.streamBytesReceived += size;
    this.#owner.onReceived?.(size);
    if (this.#over) {
      this.#path.send(() => this.#writer().taken(size));
      return;
    }
    this.#chunks.push(chunk);
    if (this.#wanted) this.#pull();
  }

  finish(): void {
    this.#finished = true;
    this.#owner.live.delete(this); // A complete stream can be read after the connection closed.
    if (this.#chunks.length === 0) this.#close();
  }

  reset(streamErrorCode: number): void {
    this.fail(
      new StreamError(`The peer reset the stream with code ${streamErrorCode}`, {
        streamErrorCode,
        by: "remote",
      }),
    );
  }

  fail(error: unknown): void {
    if (!this.#owner.live.has(this)) return;
    this.account?.ended(error);
    this.#end();
    this.#controller.error(error);
  }

  #pull(): void {
    const chunk = this.#chunks.shift();
    this.#wanted = chunk === undefined;
    if (chunk === undefined) return;
    const size = chunk.byteLength; // Enqueueing detaches the chunk.
    this.#path.send(() => this.#writer().taken(size));
    this.#controller.enqueue(chunk);
    if (this.#finished && this.#chunks.length === 0) this.#close();
  }

  #close(): void {
    if (this.#over) return;
    this.account?.ended();
    this.#end();
    this.#controller.close();
    this.#controller.byobRequest?.respond(0);
  }

  #end(): void {
    this.#over = true;
    this.#owner.live.delete(this);
    this.#chunks.length = 0;
  }
}

/**
 * Creates one direction of a stream, with both sides open.
 *
 * @param backward The path from the reader to the writer.
 */
function memoryStream(
  forward: StreamPath,
  backward: StreamPath,
  writerOwner: MemoryStreamOwner,
  readerOwner: MemoryStreamOwner,
): MemoryStream {
  const writer: StreamWriter = new StreamWriter(forward, writerOwner, () => reader);
  const reader: StreamReader = new StreamReader(backward, readerOwner, () => writer);
  return { writer, reader };
}
