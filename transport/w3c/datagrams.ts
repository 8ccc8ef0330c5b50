/** The datagrams of the W3C `WebTransport`. */
import type { DatagramDuplex, DirectDatagrams } from "../connection.ts";
import type { Runtime } from "../../base/runtime.ts";
import { invalidState } from "./error.ts";
import { toInteger } from "../quic/send_half.ts";
import { constructible, defineInterface } from "./web_idl.ts";
import { viewOf } from "./options.ts";
import type {
  ForeignGroupError,
  WebTransportSendGroup,
  WebTransportSendOptions,
} from "./send_stream.ts";

/** The part of a session that its datagrams use. */
export interface DatagramsOwner {
  /** Tells whether the session has ended. */
  isOver(): boolean;
  /** Throws an error of the given name if the group belongs to another session. */
  groupOf(group: WebTransportSendGroup | null, error: ForeignGroupError): unknown;
}

/** The sink of a writable for datagrams. */
export class DatagramSink implements UnderlyingSink<Uint8Array> {
  readonly owner: DatagramsOwner;
  /** The priority; a higher order is sent first. */
  sendOrder: number;
  sendGroup: WebTransportSendGroup | null;
  /** The writer that locks the stream; `undefined` if the stream is the destination of a pipe. */
  writer: WritableStreamDefaultWriter<Uint8Array> | undefined = undefined;

  readonly #queues: DatagramQueues;
  readonly #open: Set<DatagramSink>;
  #controller: WritableStreamDefaultController | undefined = undefined;

  /**
   * @param behind `queues` receives the datagrams. `open` holds the sink until it is closed.
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

  start(controller: WritableStreamDefaultController): void {
    this.#controller = controller;
    if (this.owner.isOver()) controller.error(invalidState("send datagrams"));
    else this.#open.add(this);
  }

  write(chunk: unknown): Promise<void> {
    const view = viewOf(chunk);
    if (view !== undefined) return this.#queues.write(view.slice(), this);
    this.#open.delete(this); // The stream fails with this error.
    throw new TypeError(
      `Cannot write datagram: chunk must be a BufferSource, received ${typeof chunk}`,
    );
  }

  close(): void {
    this.#open.delete(this);
  }

  abort(): void {
    this.#open.delete(this);
  }

  /**
   * Ends the sink when the session ends. A stream that is the destination of a pipe fails with an
   * error, because only a stream's writer can close it.
   */
  end(error: Error, isBroken: boolean): void {
    if (isBroken || this.writer === undefined) return this.#controller?.error(error);
    this.writer.close().catch(() => this.#controller?.error(error));
  }
}

/** A writable for datagrams. A chunk can be any `BufferSource`. */
export class WebTransportDatagramsWritable extends WritableStream<Uint8Array> {
  static {
    defineInterface(this, {
      name: "WebTransportDatagramsWritable",
      members: ["sendGroup", "sendOrder"],
    });
  }

  readonly #sink: DatagramSink;

  /**
   * @ignore Creates a writable. Only `createWritable()` can call this constructor.
   *
   * @param sink The sink of the writable.
   */
  constructor(sink: DatagramSink | undefined = undefined) {
    const checked = constructible(sink, DatagramSink);
    super(checked);
    this.#sink = checked;
  }

  /** The priority among datagrams; a higher order is sent first. */
  get sendOrder(): number {
    return this.#sink.sendOrder;
  }

  set sendOrder(value: number) {
    this.#sink.sendOrder = toInteger(value);
  }

  /**
   * The send group of the writable. Setting a group that belongs to another session throws an
   * `InvalidStateError`.
   */
  get sendGroup(): WebTransportSendGroup | null {
    return this.#sink.sendGroup;
  }

  set sendGroup(value: WebTransportSendGroup | null) {
    this.#sink.owner.groupOf(value, "InvalidStateError");
    this.#sink.sendGroup = value;
  }

  /**
   * Locks the stream for a writer.
   *
   * @returns The only writer until its lock is released.
   */
  override getWriter(): WritableStreamDefaultWriter<Uint8Array> {
    return this.#sink.writer = super.getWriter();
  }
}

/** The internal parts of a session's datagrams. */
export class DatagramEnds {
  readonly owner: DatagramsOwner;
  /** Incoming datagrams. */
  readonly readable: ReadableStream<Uint8Array>;
  readonly queues: DatagramQueues;
  readonly open: Set<DatagramSink>;

  /**
   * @param behind The datagram queues and the set of open sinks.
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

/** The datagrams of a session, in both directions. */
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
   * @ignore Creates the datagrams of a session. Only `WebTransport` can call this constructor.
   *
   * @param ends The internal parts of the datagrams.
   */
  constructor(ends: DatagramEnds | undefined = undefined) {
    const { owner, readable, queues, open } = constructible(ends, DatagramEnds);
    this.#owner = owner;
    this.#readable = readable;
    this.#queues = queues;
    this.#open = open;
  }

  /** The received datagrams. If too many wait to be read, the oldest are dropped. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#readable;
  }

  /** A single writable for datagrams, as older browsers have it. */
  get writable(): WebTransportDatagramsWritable {
    return this.#writable ??= this.#createWritable({});
  }

  /**
   * Sends and receives datagrams with plain calls. MUST NOT be used together with the web streams.
   */
  get direct(): DirectDatagrams {
    return this.#queues;
  }

  /** The size of the largest datagram that can be sent. Larger datagrams are dropped. */
  get maxDatagramSize(): number {
    return this.#queues.maxDatagramSize;
  }

  /**
   * The maximum age of a datagram when it is read, in milliseconds. `null` means no limit; setting
   * 0 also removes the limit.
   */
  get incomingMaxAge(): number | null {
    return this.#queues.incomingMaxAge;
  }

  set incomingMaxAge(value: number | null) {
    this.#queues.incomingMaxAge = checkAge(value, "incomingMaxAge");
  }

  /**
   * The maximum age of a datagram when it is sent, in milliseconds. `null` means no limit; setting
   * 0 also removes the limit.
   */
  get outgoingMaxAge(): number | null {
    return this.#queues.outgoingMaxAge;
  }

  set outgoingMaxAge(value: number | null) {
    this.#queues.outgoingMaxAge = checkAge(value, "outgoingMaxAge");
  }

  /**
   * The maximum number of datagrams held for a reader, at least 1. Once it is exceeded, the oldest
   * datagram is dropped.
   */
  get incomingMaxBufferedDatagrams(): number {
    return this.#queues.maxIncoming;
  }

  set incomingMaxBufferedDatagrams(value: number) {
    this.#queues.maxIncoming = Math.max(1, value >>> 0);
  }

  /**
   * The maximum number of datagrams that can wait to be sent, at least 1. Once it is reached, a
   * write waits.
   */
  get outgoingMaxBufferedDatagrams(): number {
    return this.#queues.maxOutgoing;
  }

  set outgoingMaxBufferedDatagrams(value: number) {
    this.#queues.maxOutgoing = Math.max(1, value >>> 0);
  }

  /** The older name of `incomingMaxBufferedDatagrams`, with the older validation rules. */
  get incomingHighWaterMark(): number {
    return this.#queues.maxIncoming;
  }

  set incomingHighWaterMark(value: number) {
    this.#queues.maxIncoming = checkHighWaterMark(value, "incomingHighWaterMark");
  }

  /** The older name of `outgoingMaxBufferedDatagrams`, with the older validation rules. */
  get outgoingHighWaterMark(): number {
    return this.#queues.maxOutgoing;
  }

  set outgoingHighWaterMark(value: number) {
    this.#queues.maxOutgoing = checkHighWaterMark(value, "outgoingHighWaterMark");
  }

  /**
   * Creates a writable with a group and a priority.
   *
   * @param options The group and priority.
   * @returns A writable with a priority of its own.
   * @throws {TypeError} If the group belongs to another session.
   * @throws {DOMException} `InvalidStateError` if the session has ended.
   */
  createWritable(options: WebTransportSendOptions = {}): WebTransportDatagramsWritable {
    options ??= {}; // Web IDL treats null as an empty dictionary.
    this.#owner.groupOf(options.sendGroup ?? null, "TypeError");
    if (this.#owner.isOver()) throw invalidState("create writable");
    return this.#createWritable(options);
  }

  #createWritable(options: WebTransportSendOptions): WebTransportDatagramsWritable {
    const behind = { queues: this.#queues, open: this.#open };
    return new WebTransportDatagramsWritable(new DatagramSink(this.#owner, options, behind));
  }
}

/** The source of the readable for datagrams. */
export class DatagramSource {
  /** `"bytes"` for a byte stream. */
  readonly type: "bytes" | undefined;

  readonly #queues: DatagramQueues;
  #controller: ReadableStreamController<Uint8Array> | undefined = undefined;

  /**
   * @param type `"bytes"` for a byte stream.
   */
  constructor(queues: DatagramQueues, type: "bytes" | undefined) {
    this.#queues = queues;
    this.type = type;
  }

  start(controller: ReadableStreamController<Uint8Array>): void {
    this.#controller = controller;
  }

  async pull(): Promise<void> {
    let bytes: Uint8Array | undefined;
    // A byte stream cannot carry empty chunks.
    do bytes = await this.#queues.next(); while (this.type === "bytes" && bytes?.byteLength === 0);
    const controller = this.#controller;
    if (bytes === undefined || controller === undefined) return;
    const view = this.type && (controller as ReadableByteStreamController).byobRequest?.view;
    if (view && view.byteLength < bytes.byteLength) {
      const { byteLength } = bytes;
      this.#controller = undefined; // The stream fails with this error.
      throw new RangeError(
        `Cannot read datagram: the buffer must have ${byteLength} bytes, received ${view.byteLength}`,
      );
    }
    controller.enqueue(bytes as Uint8Array<ArrayBuffer>);
  }

  cancel(): void {
    this.#controller = undefined;
    this.#queues.maxIncoming = 1; // Keeps the queue short if there is no reader.
  }

  /** Ends the source when the session ends. */
  end(error: Error, isBroken: boolean): void {
    const controller = this.#controller;
    this.#controller = undefined;
    if (controller === undefined) return;
    if (isBroken) return controller.error(error);
    controller.close();
    if (this.type) (controller as ReadableByteStreamController).byobRequest?.respond(0);
  }

  readable(): ReadableStream<Uint8Array> {
    const source = this as unknown as UnderlyingDefaultSource<Uint8Array>;
    return new ReadableStream<Uint8Array>(source, { highWaterMark: 0 });
  }
}

function checkAge(value: number | null, name: string): number | null {
  const age = value === null ? 0 : Number(value);
  if (age >= 0) return age === 0 ? null : age;
  throw new RangeError(
    `Cannot set ${name}: it must be 0 or more, received ${value}`,
  );
}

function checkHighWaterMark(value: number, name: string): number {
  const count = Number(value);
  if (count >= 0) return Math.max(1, count);
  throw new RangeError(
    `Cannot set ${name}: it must be 0 or more, received ${value}`,
  );
}

/** The default limit on incoming datagrams held for a reader. */
const MAX_INCOMING = 1_024;

/** The default limit on outgoing datagrams that wait to be sent. */
const MAX_OUTGOING = 64;

/**
 * The maximum number of datagrams that the runtime holds at the same time. Outgoing datagrams
 * beyond it stay in the queue, where they can still expire or be overtaken.
 */
const MAX_IN_FLIGHT = 16;

/** The maximum size of a datagram before the network path is known. */
const SAFE_BYTES = 1_024;

/** The part of a session that the queues use. */
interface DatagramsLink {
  /** The size of the largest datagram, as far as it is known. */
  readonly maxDatagramSize: number;
  /** Waits for room and sends a datagram. Never rejects. */
  write(datagram: Uint8Array): Promise<void>;
  /** Sends a datagram, or drops it if there is no room. */
  send(datagram: Uint8Array): void;
}

/** Counters of the datagrams dropped on this side. */
export interface WebTransportDatagramStats {
  /** Incoming datagrams dropped because the queue was full. */
  readonly droppedIncoming: number;
  /** Incoming datagrams dropped because they exceeded the maximum age. */
  readonly expiredIncoming: number;
  /** Outgoing datagrams dropped because they exceeded the maximum age. */
  readonly expiredOutgoing: number;
}

interface QueuedDatagram {
  readonly bytes: Uint8Array;
  readonly at: number;
}

interface OutgoingDatagram extends QueuedDatagram {
  readonly place: { readonly sendOrder: number };
  readonly sent: () => void;
}

/** The datagram queues of one session. */
export class DatagramQueues implements DirectDatagrams {
  /** The maximum age of an incoming datagram, in milliseconds. */
  incomingMaxAge: number | null = null;
  /** The maximum age of an outgoing datagram, in milliseconds. */
  outgoingMaxAge: number | null = null;
  /** The limit on incoming datagrams held for a reader. */
  maxIncoming: number = MAX_INCOMING;
  /** The limit on outgoing datagrams that wait to be sent. */
  maxOutgoing: number = MAX_OUTGOING;

  readonly #runtime: Runtime;
  readonly #incoming: QueuedDatagram[] = [];
  readonly #outgoing: OutgoingDatagram[] = [];
  readonly #stats = { droppedIncoming: 0, expiredIncoming: 0, expiredOutgoing: 0 };
  #link: DatagramsLink | undefined = undefined;
  #receiver: ((datagram: Uint8Array) => void) | undefined = undefined;
  #arrived: PromiseWithResolvers<void> | undefined = undefined;
  #isPumping = false;
  #inFlight = 0;
  #isOrdered = false;
  #isOver = false;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** The size of the largest datagram that can be sent. */
  get maxDatagramSize(): number {
    return this.#link?.maxDatagramSize ?? SAFE_BYTES;
  }

  /** The counters of dropped datagrams. */
  get stats(): WebTransportDatagramStats {
    return { ...this.#stats };
  }

  /** Connects the queues to a session, and starts to send the waiting datagrams. */
  connect(link: DatagramsLink): void {
    if (this.#isOver) return;
    this.#link = link;
    this.#pump();
  }

  /**
   * Queues an outgoing datagram.
   *
   * @param bytes The bytes, in a buffer that nothing else uses.
   * @returns A promise that resolves immediately if the queue has room, and otherwise once the
   * datagram has been sent or dropped.
   */
  write(bytes: Uint8Array, place: { readonly sendOrder: number }): Promise<void> {
    if (this.#isOver || bytes.byteLength > this.maxDatagramSize) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#isOrdered ||= place.sendOrder !== 0;
    this.#outgoing.push({ bytes, at: this.#runtime.now(), place, sent: resolve });
    if (this.#outgoing.length + this.#inFlight < this.maxOutgoing) resolve();
    // The pump starts later, so that the priority and the limit apply to datagrams that are written
    // together.
    if (this.#link !== undefined && !this.#isPumping) {
      this.#isPumping = true;
      this.#runtime.schedule(() => {
        this.#isPumping = false;
        this.#pump();
      });
    }
    return promise;
  }

  send(datagram: Uint8Array): void {
    if (this.#link !== undefined) this.#link.send(datagram);
    else if (this.#outgoing.length < this.maxOutgoing) void this.write(datagram, FIRST);
  }

  receive(receiver: (datagram: Uint8Array) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive datagrams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const { bytes } of this.#incoming.splice(0)) receiver(bytes);
  }

  /**
   * Queues a received datagram.
   *
   * @param bytes The bytes, in a buffer that nothing else uses.
   */
  deliver(bytes: Uint8Array): void {
    if (this.#isOver) return;
    if (this.#receiver !== undefined) return this.#receiver(bytes);
    this.#incoming.push({ bytes, at: this.#runtime.now() });
    while (this.#incoming.length > this.maxIncoming) {
      this.#incoming.shift();
      this.#stats.droppedIncoming++;
    }
    this.#arrived?.resolve();
  }

  /**
   * Waits for the next received datagram. Calls MUST NOT overlap.
   *
   * @returns The bytes, or `undefined` once the session has ended.
   */
  async next(): Promise<Uint8Array | undefined> {
    while (!this.#isOver) {
      const waiting = this.#incoming.shift();
      if (waiting === undefined) {
        this.#arrived = Promise.withResolvers();
        await this.#arrived.promise;
      } else if (this.#isOlder(waiting, this.incomingMaxAge)) this.#stats.expiredIncoming++;
      else return waiting.bytes;
    }
    return undefined;
  }

  /** Drops all waiting datagrams when the session ends. */
  end(): void {
    this.#isOver = true;
    this.#incoming.length = 0;
    for (const { sent } of this.#outgoing.splice(0)) sent();
    this.#arrived?.resolve();
  }

  #pump(): void {
    const link = this.#link;
    while (link !== undefined && this.#outgoing.length > 0 && this.#inFlight < MAX_IN_FLIGHT) {
      const first = this.#isOrdered ? this.#takeHighest() : this.#outgoing.shift()!;
      if (this.#isOlder(first, this.outgoingMaxAge)) {
        this.#stats.expiredOutgoing++;
        first.sent();
        continue;
      }
      this.#inFlight++;
      link.write(first.bytes).then(() => {
        this.#inFlight--;
        first.sent();
        this.#pump();
      });
    }
  }

  #isOlder({ at }: QueuedDatagram, maxAge: number | null): boolean {
    return maxAge !== null && this.#runtime.now() - at > maxAge;
  }

  #takeHighest(): OutgoingDatagram {
    const waiting = this.#outgoing;
    let best = 0;
    for (let i = 1; i < waiting.length; i++) {
      if (waiting[i]!.place.sendOrder > waiting[best]!.place.sendOrder) best = i;
    }
    return waiting.splice(best, 1)[0]!;
  }
}

const FIRST = { sendOrder: 0 };
