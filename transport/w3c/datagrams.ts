/**
 * Datagrams of the W3C's WebTransport.
 *
 * @module
 */
import type { DatagramDuplex, DirectDatagrams } from "../connection.ts";
import type { DatagramQueues } from "./datagram_queues.ts";
import { invalidState } from "./error.ts";
import { toInteger } from "../quic/send_order.ts";
import { constructible, defineInterface } from "./web_idl.ts";
import { viewOf } from "./options.ts";
import type {
  ForeignGroupError,
  WebTransportSendGroup,
  WebTransportSendOptions,
} from "./send_stream.ts";

/** What datagrams are part of. */
export interface DatagramsOwner {
  /** Whether the session is over. */
  isOver(): boolean;
  /** Throws an error of that name if a group is another session's. */
  groupOf(group: WebTransportSendGroup | null, error: ForeignGroupError): unknown;
}

/** What is behind a writable end for datagrams. */
export class DatagramSink implements UnderlyingSink<Uint8Array> {
  /** Whose it is. */
  readonly owner: DatagramsOwner;
  /** Higher goes first. */
  sendOrder: number;
  /** The group, as it was set. */
  sendGroup: WebTransportSendGroup | null;
  /** Who writes, if it is no pipe. */
  writer: WritableStreamDefaultWriter<Uint8Array> | undefined = undefined;

  readonly #queues: DatagramQueues;
  readonly #open: Set<DatagramSink>;
  #controller: WritableStreamDefaultController | undefined = undefined;

  /**
   * Creates what is behind a writable end.
   *
   * @param owner Whose it is.
   * @param options Its group and its place in the order.
   * @param behind Where datagrams go, and where it is listed until it is closed.
   */
  constructor(
    owner: DatagramsOwner,
    { sendGroup = null, sendOrder }: WebTransportSendOptions,
    behind: { readonly queues: DatagramQueues; readonly open: Set<DatagramSink> },
  ) {
    this.owner = owner;
    this.sendGroup = sendGroup;
    this.sendOrder = toInteger(sendOrder);
    this.#queues = behind.queues;
    this.#open = behind.open;
  }

  /** Called by the stream. */
  start(controller: WritableStreamDefaultController): void {
    this.#controller = controller;
    if (this.owner.isOver()) controller.error(invalidState("send datagrams"));
    else this.#open.add(this);
  }

  /** Called by the stream. */
  write(chunk: unknown): Promise<void> {
    const view = viewOf(chunk);
    if (view !== undefined) return this.#queues.write(view.slice(), this);
    this.#open.delete(this); // The stream errors.
    throw new TypeError(
      `Cannot write datagram: chunk must be a BufferSource, received ${typeof chunk}`,
    );
  }

  /** Called by the stream. */
  close(): void {
    this.#open.delete(this);
  }

  /** Called by the stream. */
  abort(): void {
    this.#open.delete(this);
  }

  /** Ends it with the session; a pipe cannot be closed from outside, and breaks. */
  end(error: Error, isBroken: boolean): void {
    if (isBroken || this.writer === undefined) return this.#controller?.error(error);
    this.writer.close().catch(() => this.#controller?.error(error));
  }
}

/** A writable end for datagrams. Its chunks are bytes: anything that is a `BufferSource`. */
export class WebTransportDatagramsWritable extends WritableStream<Uint8Array> {
  static {
    defineInterface(this, {
      name: "WebTransportDatagramsWritable",
      members: ["sendGroup", "sendOrder"],
    });
  }

  readonly #sink: DatagramSink;

  /**
   * @ignore Creates a writable end; only `createWritable()` can.
   *
   * @param sink What is behind it.
   */
  constructor(sink: DatagramSink | undefined = undefined) {
    const checked = constructible(sink, DatagramSink);
    super(checked);
    this.#sink = checked;
  }

  /** Higher goes first, among datagrams. */
  get sendOrder(): number {
    return this.#sink.sendOrder;
  }

  set sendOrder(value: number) {
    this.#sink.sendOrder = toInteger(value);
  }

  /** The group; setting that of another session throws an `InvalidStateError`. */
  get sendGroup(): WebTransportSendGroup | null {
    return this.#sink.sendGroup;
  }

  set sendGroup(value: WebTransportSendGroup | null) {
    this.#sink.owner.groupOf(value, "InvalidStateError");
    this.#sink.sendGroup = value;
  }

  /**
   * Locks it for a writer.
   *
   * @returns The writer.
   */
  override getWriter(): WritableStreamDefaultWriter<Uint8Array> {
    return this.#sink.writer = super.getWriter();
  }
}

/** Queues and owner behind the datagrams of a session. */
export class DatagramEnds {
  /** The session they belong to. */
  readonly owner: DatagramsOwner;
  /** Those that came. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Where datagrams wait. */
  readonly queues: DatagramQueues;
  /** Lists the writable ends that are open. */
  readonly open: Set<DatagramSink>;

  /**
   * Joins both directions.
   *
   * @param owner What they are part of.
   * @param readable Those that came.
   * @param behind Where datagrams wait, and where writable ends are listed.
   */
  constructor(
    owner: DatagramsOwner,
    readable: ReadableStream<Uint8Array>,
    behind: { readonly queues: DatagramQueues; readonly open: Set<DatagramSink> },
  ) {
    this.owner = owner;
    this.readable = readable;
    this.queues = behind.queues;
    this.open = behind.open;
  }
}

/** Datagrams in both directions. */
export class WebTransportDatagramDuplexStream implements DatagramDuplex {
  static {
    defineInterface(this, {
      name: "WebTransportDatagramDuplexStream",
      members: [
        "createWritable",
        "readable",
        "maxDatagramSize",
        "incomingMaxAge",
        "outgoingMaxAge",
        "incomingMaxBufferedDatagrams",
        "outgoingMaxBufferedDatagrams",
      ],
    });
  }

  readonly #owner: DatagramsOwner;
  readonly #queues: DatagramQueues;
  readonly #open: Set<DatagramSink>;
  readonly #readable: ReadableStream<Uint8Array>;
  #writable: WebTransportDatagramsWritable | undefined = undefined;

  /**
   * @ignore Creates the datagrams of a session; only a `WebTransport` can.
   *
   * @param ends What is behind them.
   */
  constructor(ends: DatagramEnds | undefined = undefined) {
    const { owner, readable, queues, open } = constructible(ends, DatagramEnds);
    this.#owner = owner;
    this.#readable = readable;
    this.#queues = queues;
    this.#open = open;
  }

  /** Datagrams that came; the oldest unread are dropped. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#readable;
  }

  /** Datagrams to send, as older browsers have it: one writable end for all. */
  get writable(): WebTransportDatagramsWritable {
    return this.#writable ??= this.#createWritable({});
  }

  /** The same without web streams; use either it or those. */
  get direct(): DirectDatagrams {
    return this.#queues;
  }

  /** The largest datagram that is sent; a larger one is lost. */
  get maxDatagramSize(): number {
    return this.#queues.maxDatagramSize;
  }

  /** How old a datagram may be when it is read, in milliseconds; `null`, or 0 when set, for any age. */
  get incomingMaxAge(): number | null {
    return this.#queues.incomingMaxAge;
  }

  set incomingMaxAge(value: number | null) {
    this.#queues.incomingMaxAge = checkAge(value, "incomingMaxAge");
  }

  /** How old a datagram may be when it is sent, in milliseconds; `null`, or 0 when set, for any age. */
  get outgoingMaxAge(): number | null {
    return this.#queues.outgoingMaxAge;
  }

  set outgoingMaxAge(value: number | null) {
    this.#queues.outgoingMaxAge = checkAge(value, "outgoingMaxAge");
  }

  /** Datagrams that are held for a reader; past it the oldest is dropped. At least 1. */
  get incomingMaxBufferedDatagrams(): number {
    return this.#queues.maxIncoming;
  }

  set incomingMaxBufferedDatagrams(value: number) {
    this.#queues.maxIncoming = Math.max(1, value >>> 0);
  }

  /** Datagrams that are taken ahead of the wire; past it a write waits. At least 1. */
  get outgoingMaxBufferedDatagrams(): number {
    return this.#queues.maxOutgoing;
  }

  set outgoingMaxBufferedDatagrams(value: number) {
    this.#queues.maxOutgoing = Math.max(1, value >>> 0);
  }

  /** `incomingMaxBufferedDatagrams` under its older name, with the rules it had then. */
  get incomingHighWaterMark(): number {
    return this.#queues.maxIncoming;
  }

  set incomingHighWaterMark(value: number) {
    this.#queues.maxIncoming = checkHighWaterMark(value, "incomingHighWaterMark");
  }

  /** `outgoingMaxBufferedDatagrams` under its older name, with the rules it had then. */
  get outgoingHighWaterMark(): number {
    return this.#queues.maxOutgoing;
  }

  set outgoingHighWaterMark(value: number) {
    this.#queues.maxOutgoing = checkHighWaterMark(value, "outgoingHighWaterMark");
  }

  /**
   * Creates a writable end with a place in the order of datagrams.
   *
   * @param options See {@linkcode WebTransportSendOptions}.
   * @returns The writable end.
   * @throws {TypeError} If the group is another session's.
   * @throws {DOMException} `InvalidStateError`, if the session is over.
   */
  createWritable(options: WebTransportSendOptions = {}): WebTransportDatagramsWritable {
    this.#owner.groupOf(options.sendGroup ?? null, "TypeError");
    if (this.#owner.isOver()) throw invalidState("create writable");
    return this.#createWritable(options);
  }

  #createWritable(options: WebTransportSendOptions): WebTransportDatagramsWritable {
    const behind = { queues: this.#queues, open: this.#open };
    return new WebTransportDatagramsWritable(new DatagramSink(this.#owner, options, behind));
  }
}

/** What is behind the readable end for datagrams. */
export class DatagramSource {
  /** Whether the datagrams are read as bytes. */
  readonly type: "bytes" | undefined;

  readonly #queues: DatagramQueues;
  #controller: ReadableStreamController<Uint8Array> | undefined = undefined;

  /**
   * Creates what is behind a readable end.
   *
   * @param queues Where datagrams wait.
   * @param type Whether they are read as bytes.
   */
  constructor(queues: DatagramQueues, type: "bytes" | undefined) {
    this.#queues = queues;
    this.type = type;
  }

  /** Called by the stream. */
  start(controller: ReadableStreamController<Uint8Array>): void {
    this.#controller = controller;
  }

  /** Called by the stream. */
  async pull(): Promise<void> {
    let bytes: Uint8Array | undefined;
    // A byte stream has no empty ones.
    do bytes = await this.#queues.next(); while (this.type === "bytes" && bytes?.byteLength === 0);
    const controller = this.#controller;
    if (bytes === undefined || controller === undefined) return;
    const view = this.type && (controller as ReadableByteStreamController).byobRequest?.view;
    if (view && view.byteLength < bytes.byteLength) {
      const { byteLength } = bytes;
      this.#controller = undefined; // The stream errors.
      throw new RangeError(
        `Cannot read datagram: the buffer must have ${byteLength} bytes, received ${view.byteLength}`,
      );
    }
    controller.enqueue(bytes as Uint8Array<ArrayBuffer>);
  }

  /** Called by the stream. */
  cancel(): void {
    this.#controller = undefined;
    this.#queues.maxIncoming = 1; // Nobody reads them any more.
  }

  /** Ends it with the session. */
  end(error: Error, isBroken: boolean): void {
    const controller = this.#controller;
    this.#controller = undefined;
    if (controller === undefined) return;
    if (isBroken) return controller.error(error);
    controller.close();
    if (this.type) (controller as ReadableByteStreamController).byobRequest?.respond(0);
  }

  /** The readable end. */
  readable(): ReadableStream<Uint8Array> {
    const source = this as unknown as UnderlyingDefaultSource<Uint8Array>;
    return new ReadableStream<Uint8Array>(source, { highWaterMark: 0 });
  }
}

function checkAge(value: number | null, name: string): number | null {
  const age = value === null ? 0 : Number(value);
  if (age >= 0) return age === 0 ? null : age;
  throw new RangeError(
    `Cannot set ${name}: it must be a number that is not negative, received ${value}`,
  );
}

function checkHighWaterMark(value: number, name: string): number {
  const count = Number(value);
  if (count >= 0) return Math.max(1, count);
  throw new RangeError(
    `Cannot set ${name}: it must be a number that is not negative, received ${value}`,
  );
}
