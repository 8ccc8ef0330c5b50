/**
 * The scheduler of outgoing records, which handles priorities, fairness, and a limit on buffered
 * bytes.
 */
import type { Runtime } from "../../base/runtime.ts";
import type { Ledger } from "../counters.ts";
import type { QmuxCredit } from "./credit.ts";
import type { QmuxDatagrams } from "./datagrams.ts";
import {
  datagramFrameSize,
  FrameType,
  PARAMETERS_TYPE,
  PING_TYPE,
  PONG_TYPE,
  type RecordWriter,
  type TransportParameters,
} from "./frames.ts";
import type { MultiplexerLink } from "./multiplexer.ts";
import type { QmuxSendHalf, QmuxStream } from "./stream.ts";

/**
 * If the connection has more buffered bytes than this, no further record is sent. The connection
 * thus holds at most this number of bytes plus one record, so messages that share the connection
 * with streams do not wait long. A WebSocket counts as drained at the same mark.
 */
export const MAX_BUFFERED_BYTES = 32_768;

/**
 * The number of bytes that one stream sends in a row while another stream of the same order waits.
 */
const QUANTUM_BYTES = 16_384;

/**
 * True if the platform has a call for the end of a turn of the event loop, as Deno, Node and Bun
 * do. In browsers, {@linkcode Runtime.schedule} posts a message, which takes longer than a few
 * microtasks.
 */
const HAS_TURN_END = "setImmediate" in globalThis;

/**
 * In a browser, the number of microtasks without a new frame after which a record is sent; a
 * browser's TCP does not delay segments. Elsewhere, the record is sent at the end of the turn of
 * the event loop.
 */
const IDLE_TURNS = HAS_TURN_END ? 1 : 8;

/** When this many streams have pending control frames, streams that have ended are removed. */
const SWEEP_AT = 1_024;

/**
 * The maximum number of empty levels kept for reuse. Creating a level costs more than sending a
 * small message.
 */
const MAX_EMPTY_LEVELS = 8;

/** When this many entries of a level have been consumed, the level may shrink its array. */
const COMPACT_AT = 1_024;

/** The frame type in a CONNECTION_CLOSE that does not concern a frame. */
export const NO_FRAME: number = FrameType.padding;

/** The parts that a {@linkcode RecordScheduler} works with. */
export interface RecordSchedulerParts {
  readonly link: MultiplexerLink;
  /** The writer to which frames are written. */
  readonly record: RecordWriter;
  /** The flow control, which has its own frames. */
  readonly credit: QmuxCredit;
  /** The counters, which include the datagrams that are sent. */
  readonly ledger: Ledger;
}

/** Sends the frames of one connection. */
export class RecordScheduler {
  readonly #runtime: Runtime;
  readonly #link: MultiplexerLink;
  readonly #record: RecordWriter;
  readonly #credit: QmuxCredit;
  readonly #ledger: Ledger;
  readonly #queue = new RecordQueue();
  /** The streams with bytes that wait for the connection's credit. */
  readonly #blocked = new Set<QmuxSendHalf>();
  #control: QmuxStream[] = [];
  #sweepAt = SWEEP_AT;
  #parameters: TransportParameters | undefined = undefined;
  #pong: bigint | undefined = undefined;
  #ping: bigint | undefined = undefined;
  #isOpen = false;
  #isOver = false;
  #isFilling = false;
  #isWaiting = false;
  #isDrained = false;
  #isFlushing = false;
  #holds = 0;
  #flushBytes = 0;
  #idleTurns = 0;
  readonly #flush = (): void => {
    const { byteLength } = this.#record;
    if (byteLength !== this.#flushBytes) this.#idleTurns = 0;
    this.#flushBytes = byteLength;
    if (byteLength > 0 && ++this.#idleTurns < IDLE_TURNS) return this.#nextTurn();
    this.#isFlushing = false;
    if (!this.#isOver && byteLength > 0) this.#send();
  };

  /** The number of records sent so far. */
  records = 0;
  /** The datagrams that wait to be sent; `undefined` until they are first used. */
  datagrams: QmuxDatagrams | undefined = undefined;

  /**
   * Creates a scheduler. Before {@linkcode RecordScheduler.open} is called, it sends only
   * parameters and credit.
   */
  constructor(runtime: Runtime, { link, record, credit, ledger }: RecordSchedulerParts) {
    this.#runtime = runtime;
    this.#link = link;
    this.#record = record;
    this.#credit = credit;
    this.#ledger = ledger;
  }

  /** The number of streams that have pending frames without a payload. */
  get waitingStreams(): number {
    return this.#control.length;
  }

  /** Tells whether a datagram or a stream can be sent immediately. */
  get #isFree(): boolean {
    return this.#isOpen && !this.#isOver && !this.#isFilling && !this.#isWaiting &&
      this.#queue.size === 0;
  }

  /** Sends the parameters before all other frames. */
  begin(parameters: TransportParameters): void {
    this.#parameters = parameters;
    this.fill();
  }

  /** Allows streams and datagrams to be sent, because the peer has announced its limits. */
  open(limit: number, maxPayload: number): void {
    this.#record.limit = limit;
    this.#record.maxPayload = maxPayload;
    this.#isOpen = true;
    this.fill();
  }

  /** Collects frames without sending them, until {@linkcode RecordScheduler.release} is called. */
  hold(): void {
    this.#holds++;
  }

  /** Ends a {@linkcode RecordScheduler.hold} and sends the collected frames. */
  release(): void {
    this.#holds--;
    this.fill();
  }

  sendNow(half: QmuxSendHalf, bytes: Uint8Array): number {
    if (!this.#isFree) return 0;
    const record = this.#record;
    let at = 0;
    while (at < bytes.byteLength) {
      if (record.byteLength === 0 && !this.#hasRoom()) break;
      const count = half.put(record, bytes, at, Infinity);
      if (count === 0) break;
      at += count;
      if (record.isFull) this.#send();
    }
    this.#flushSoon();
    return at;
  }

  sendDatagramNow(datagram: Uint8Array): boolean {
    const record = this.#record;
    if (!this.#isFree || !this.#makeRoom(datagramFrameSize(datagram.byteLength))) return false;
    record.datagram(datagram);
    this.#ledger.sentDatagram(datagram);
    if (record.isFull) this.#send();
    this.#flushSoon();
    return true;
  }

  /** Queues a stream that has bytes or its end to send. */
  wantsToSend(half: QmuxSendHalf): void {
    if (half.waitsFor !== "nothing") return;
    half.waitsFor = "wire";
    this.#queue.add(half);
    this.fill();
  }

  /** Removes a stream that has nothing more to send. */
  withdrawn(half: QmuxSendHalf): void {
    if (half.waitsFor === "wire") return;
    this.#blocked.delete(half);
    half.waitsFor = "nothing";
  }

  /** Queues a stream that has a frame without a payload to send. */
  wantsControl(stream: QmuxStream): void {
    if (stream.hasControl || this.#isOver) return;
    stream.hasControl = true;
    if (this.#control.push(stream) >= this.#sweepAt) this.#sweepControl();
    this.fill();
  }

  /**
   * Queues the blocked streams again, because the peer has granted more bytes for the connection.
   */
  unblock(): void {
    if (this.#blocked.size === 0) return;
    for (const half of this.#blocked) {
      half.waitsFor = "wire";
      this.#queue.add(half);
    }
    this.#blocked.clear();
    this.fill();
  }

  /** Replies to a ping. If several pings are pending, only the last one receives a reply. */
  pong(sequence: bigint): void {
    this.#pong = sequence;
    this.fill();
  }

  ping(sequence: bigint): void {
    this.#ping = sequence;
    this.fill();
  }

  /** Sends a close after the current record. Nothing is sent after it. */
  close(code: number, reason: string, frameType?: number): void {
    if (this.#isOver) return;
    if (this.#record.byteLength > 0) this.#send();
    if (this.#parameters !== undefined) this.#putParameters();
    this.#record.close(code, reason, frameType);
    this.#send();
    this.stop();
  }

  /** Sends the current record, because its writes were already reported as done, and stops. */
  stop(): void {
    if (!this.#isOver && this.#record.byteLength > 0) this.#send();
    this.#isOver = true;
    this.#queue.clear();
    this.#blocked.clear();
    this.#control = [];
  }

  /** Fills and sends records as long as the connection accepts them. */
  fill(): void {
    if (this.#isOver || this.#isFilling || this.#holds > 0) return;
    this.#isFilling = true;
    while (!this.#isOver) {
      if (this.#record.byteLength === 0 && (!this.#hasWork() || !this.#hasRoom())) break;
      if (!this.#fillRecord()) break;
      this.#send();
    }
    this.#isFilling = false;
    this.#flushSoon();
  }

  #hasWork(): boolean {
    if (this.#hasControl()) return true;
    return this.#isOpen && (this.#queue.size > 0 || (this.datagrams?.waiting ?? 0) > 0);
  }

  #hasControl(): boolean {
    return this.#control.length > 0 || this.#pong !== undefined || this.#ping !== undefined ||
      this.#parameters !== undefined || this.#credit.hasFrames;
  }

  /** Fills the record. Returns true if the record must be sent before more frames are written. */
  #fillRecord(): boolean {
    const record = this.#record;
    do {
      while (this.#fillControl()) {
        if (record.isFull) return true;
      }
      if (!this.#isOpen) return false;
      const { datagrams } = this;
      for (let datagram; (datagram = datagrams?.first) !== undefined;) {
        if (record.byteLength > 0 && record.room < datagramFrameSize(datagram.byteLength)) {
          return true;
        }
        record.datagram(datagrams!.take());
        this.#ledger.sentDatagram(datagram);
        if (record.isFull) return true;
      }
      for (let half; (half = this.#queue.take()) !== undefined;) {
        this.#fillStream(half);
        if (record.isFull) return true;
      }
    } while (this.#hasControl());
    return false;
  }

  #fillStream(half: QmuxSendHalf): void {
    half.waitsFor = "nothing";
    const hasMore = half.fill(this.#record, this.#queue.size > 0 ? QUANTUM_BYTES : Infinity);
    if (!hasMore) return;
    // `fill` has set this field, and no other code has run since.
    const waitsFor = half.waitsFor as QmuxSendHalf["waitsFor"];
    if (waitsFor === "connection") {
      this.#blocked.add(half);
      this.#credit.block("data", this.#credit.of("data").send.limit);
    } else if (waitsFor === "nothing") {
      half.waitsFor = "wire";
      this.#queue.add(half);
    }
  }

  #fillControl(): boolean {
    const record = this.#record;
    if (this.#parameters !== undefined) {
      this.#putParameters();
    } else if (this.#pong !== undefined) {
      record.ping(PONG_TYPE, this.#pong);
      this.#pong = undefined;
    } else if (this.#ping !== undefined) {
      record.ping(PING_TYPE, this.#ping);
      this.#ping = undefined;
    } else if (!this.#credit.fill(record)) {
      return this.#fillStreamControl();
    }
    return true;
  }

  /**
   * Drops streams that have ended. Otherwise, a peer that reads nothing and only opens and resets
   * streams would make this side keep all of them.
   */
  #sweepControl(): void {
    this.#control = this.#control.filter((stream) => stream.hasControl = !stream.isOver);
    this.#sweepAt = Math.max(SWEEP_AT, this.#control.length * 2);
  }

  #fillStreamControl(): boolean {
    const stream = this.#control.at(-1);
    if (stream === undefined) return false;
    if (stream.receive?.hasControl) stream.receive.fillControl(this.#record);
    else if (stream.send?.hasControl) stream.send.fillControl(this.#record);
    if (!(stream.receive?.hasControl || stream.send?.hasControl)) {
      this.#control.pop();
      stream.hasControl = false;
    }
    return true;
  }

  #putParameters(): void {
    this.#record.parameters(PARAMETERS_TYPE, this.#parameters!);
    this.#parameters = undefined;
  }

  #makeRoom(byteLength: number): boolean {
    const record = this.#record;
    if (record.byteLength > 0 && record.room < byteLength) this.#send();
    return record.byteLength > 0 || this.#hasRoom();
  }

  #hasRoom(): boolean {
    if (this.#isWaiting) return false;
    if (this.#isDrained || this.#link.bufferedAmount <= MAX_BUFFERED_BYTES) {
      this.#isDrained = false;
      return true;
    }
    this.#isWaiting = true;
    void this.#link.drained().then(() => {
      this.#isWaiting = false;
      // After each drain, one record is sent even if the connection still holds more bytes than the
      // mark. Otherwise, the wait would restart immediately, forever.
      this.#isDrained = true;
      this.fill();
    });
    return false;
  }

  #send(): void {
    this.records++;
    this.#link.send(this.#record.take());
  }

  /** Sends the record soon, so that frames written without a pause go into the same record. */
  #flushSoon(): void {
    if (this.#isFlushing || this.#isOver || this.#record.byteLength === 0) return;
    this.#isFlushing = true;
    this.#flushBytes = this.#idleTurns = 0;
    this.#nextTurn();
  }

  /**
   * Delays a record until the end of the turn of the event loop, if the platform has a call for
   * that. A loop of awaited writes then fills whole records, and the end of one stream goes into
   * the same record as the start of the next. Otherwise, two small records in a row would be sent
   * 40 ms apart if the client's TCP stack delays small segments, as Deno's does.
   */
  #nextTurn(): void {
    if (HAS_TURN_END) this.#runtime.schedule(this.#flush);
    else queueMicrotask(this.#flush);
  }
}

/** The streams of one send order, first in, first out. */
interface Level {
  readonly order: number;
  halves: QmuxSendHalf[];
  head: number;
}

/**
 * The streams with data to send. Streams with a higher send order come first; streams of the same
 * order take turns.
 */
class RecordQueue {
  #levels: Level[] = [];
  #size = 0;

  /** The number of streams with data to send. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds a stream after the others of the same order.
   *
   * @param half A stream that is not in a queue.
   */
  add(half: QmuxSendHalf): void {
    this.#size++;
    const order = half.sendOrder;
    let at = 0;
    while (at < this.#levels.length && this.#levels[at]!.order > order) at++;
    const level = this.#levels[at];
    if (level?.order === order) return void level.halves.push(half);
    if (this.#levels.length > MAX_EMPTY_LEVELS) {
      this.#levels = this.#levels.filter(({ halves }) => halves.length > 0);
      at = this.#levels.findIndex((other) => other.order < order);
      if (at < 0) at = this.#levels.length;
    }
    this.#levels.splice(at, 0, { order, halves: [half], head: 0 });
  }

  /** Removes and returns the next stream. */
  take(): QmuxSendHalf | undefined {
    for (const level of this.#levels) {
      const half = level.halves[level.head];
      if (half === undefined) continue;
      this.#size--;
      level.head++;
      if (level.head === level.halves.length) {
        level.halves.length = level.head = 0;
      } else if (level.head >= COMPACT_AT && level.head * 2 > level.halves.length) {
        level.halves = level.halves.slice(level.head);
        level.head = 0;
      }
      return half;
    }
    return undefined;
  }

  clear(): void {
    this.#levels = [];
    this.#size = 0;
  }
}
