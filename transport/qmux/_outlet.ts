/**
 * The way out: what is to be sent, in which order, and never more than the wire
 * should hold.
 *
 * @module
 */
import type { MultiplexerLink } from "./multiplexer.ts";
import type { QmuxCredit } from "./_credit.ts";
import type { QmuxDatagrams } from "./datagrams.ts";
import { FrameType, PARAMETERS_TYPE, PING_TYPE, PONG_TYPE } from "./frames.ts";
import { datagramFrameSize, type RecordWriter } from "./record.ts";
import type { QmuxStream, SendHalf } from "./stream.ts";
import type { TransportParameters } from "./transport_parameters.ts";

/** Orders that are kept while no stream has them; making one costs more than a small message. */
const MAX_EMPTY_LEVELS = 8;

/** From so many streams that are gone on, a level makes room for those behind them. */
const COMPACT_AT = 1_024;

/** Streams of one order, in the order in which they came. */
interface Level {
  readonly order: number;
  halves: SendHalf[];
  head: number;
}

/** Streams that have something to send: of a higher order first, of the same one after the other. */
class SendQueue {
  #levels: Level[] = [];
  #size = 0;

  /** How many streams have something to send. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds a stream behind those of its order.
   *
   * @param half One that is in no queue.
   */
  add(half: SendHalf): void {
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

  /** Takes the next stream out. */
  take(): SendHalf | undefined {
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

  /** Forgets all of them. */
  clear(): void {
    this.#levels = [];
    this.#size = 0;
  }
}

/**
 * While the wire holds more bytes than this it gets no record. So it holds at most this and one
 * record, and messages beside streams do not wait for long. It is the mark at which a WebSocket
 * counts as drained: below it streams would have a socket for themselves.
 */
export const MAX_BUFFERED_BYTES = 32_768;

/** Bytes of one stream in a row, while another of the same order waits. */
const QUANTUM_BYTES = 16_384;

const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => unknown };

/**
 * When a record goes out: at the end of the turn of the event loop, where the platform has a word
 * for that. Who writes in a loop, and waits for each write, fills records; and who ends a stream and
 * opens the next has both in one. Two small records in a row would be 40 ms apart where a client's
 * TCP waits for more, as Deno's does.
 */
const nextTurn: (callback: () => void) => unknown = setImmediate ?? queueMicrotask;

/** In a browser, whose TCP does not wait: when nothing was put into it for so many microtasks. */
const IDLE_TURNS = setImmediate === undefined ? 8 : 1;

/** From so many streams on with frames without a payload, those that are over meanwhile are looked for. */
const SWEEP_AT = 1_024;

/** What is to be sent, beside streams. */
export interface OutletSources {
  /** Flow control; absent where nobody counts. */
  readonly credit: QmuxCredit | undefined;
  /** Datagrams; absent while there were none. */
  readonly ownDatagrams: QmuxDatagrams | undefined;
  /** A record goes out: bytes of datagrams were counted. */
  sentDatagram(datagram: Uint8Array): void;
}

/** Sends the frames of one connection. */
export class Outlet {
  readonly #link: MultiplexerLink;
  readonly #record: RecordWriter;
  readonly #sources: OutletSources;
  readonly #queue = new SendQueue();
  /** Streams with bytes that wait for credit of the connection. */
  readonly #blocked = new Set<SendHalf>();
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
    if (byteLength > 0 && ++this.#idleTurns < IDLE_TURNS) return void nextTurn(this.#flush);
    this.#isFlushing = false;
    if (!this.#isOver && byteLength > 0) this.#send();
  };

  /** How many records were sent. */
  records = 0;

  /**
   * Creates it; nothing but parameters and credit goes out before {@linkcode Outlet.open}.
   *
   * @param link The wire.
   * @param record Where frames are put together.
   * @param sources What is to be sent, beside streams.
   */
  constructor(link: MultiplexerLink, record: RecordWriter, sources: OutletSources) {
    this.#link = link;
    this.#record = record;
    this.#sources = sources;
  }

  /** Streams that are kept for a frame without a payload. */
  get waitingStreams(): number {
    return this.#control.length;
  }

  /** Whether a datagram or a stream can go out at once. */
  get #isFree(): boolean {
    return this.#isOpen && !this.#isOver && !this.#isFilling && !this.#isWaiting &&
      this.#queue.size === 0;
  }

  /** Sends parameters, ahead of everything else. */
  begin(parameters: TransportParameters): void {
    this.#parameters = parameters;
    this.fill();
  }

  /** The peer said what it takes: streams and datagrams go out now. */
  open(limit: number, maxPayload: number): void {
    this.#record.limit = limit;
    this.#record.maxPayload = maxPayload;
    this.#isOpen = true;
    this.fill();
  }

  /** Collects what comes up, until {@linkcode Outlet.release}. */
  hold(): void {
    this.#holds++;
  }

  /** See {@linkcode Outlet.hold}. */
  release(): void {
    this.#holds--;
    this.fill();
  }

  /** Puts bytes of a stream into records at once, if nothing is ahead of them; tells how many. */
  sendNow(half: SendHalf, bytes: Uint8Array): number {
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

  /** Puts a datagram into a record at once, if nothing is ahead of it. */
  sendDatagramNow(datagram: Uint8Array): boolean {
    const record = this.#record;
    if (!this.#isFree || !this.#makeRoom(datagramFrameSize(datagram.byteLength))) return false;
    record.datagram(datagram);
    this.#sources.sentDatagram(datagram);
    if (record.isFull) this.#send();
    this.#flushSoon();
    return true;
  }

  /** A stream has something to send. */
  wantsToSend(half: SendHalf): void {
    if (half.waitsFor !== "nothing") return;
    half.waitsFor = "wire";
    this.#queue.add(half);
    this.fill();
  }

  /** A stream has nothing to send any more. */
  withdrawn(half: SendHalf): void {
    if (half.waitsFor === "wire") return;
    this.#blocked.delete(half);
    half.waitsFor = "nothing";
  }

  /** A stream has a frame without a payload to send. */
  wantsControl(stream: QmuxStream): void {
    if (stream.hasControl || this.#isOver) return;
    stream.hasControl = true;
    if (this.#control.push(stream) >= this.#sweepAt) this.#sweepControl();
    this.fill();
  }

  /** The peer granted bytes of the connection. */
  unblock(): void {
    if (this.#blocked.size === 0) return;
    for (const half of this.#blocked) {
      half.waitsFor = "wire";
      this.#queue.add(half);
    }
    this.#blocked.clear();
    this.fill();
  }

  /** Answers a ping; the last of several. */
  pong(sequence: bigint): void {
    this.#pong = sequence;
    this.fill();
  }

  /** Asks for an answer. */
  ping(sequence: bigint): void {
    this.#ping = sequence;
    this.fill();
  }

  /** Sends a close behind what was put into a record, and nothing more. */
  close(code: number, reason: string, frameType?: number): void {
    if (this.#isOver) return;
    if (this.#record.byteLength > 0) this.#send();
    if (this.#parameters !== undefined) this.#putParameters();
    this.#record.close(code, reason, frameType);
    this.#send();
    this.stop();
  }

  /** Sends what a write has told to be done, and nothing more. */
  stop(): void {
    if (!this.#isOver && this.#record.byteLength > 0) this.#send();
    this.#isOver = true;
    this.#queue.clear();
    this.#blocked.clear();
    this.#control = [];
  }

  /** Puts into records what there is, as far as the wire takes it. */
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
    return this.#isOpen && (this.#queue.size > 0 || (this.#sources.ownDatagrams?.waiting ?? 0) > 0);
  }

  #hasControl(): boolean {
    return this.#control.length > 0 || this.#pong !== undefined || this.#ping !== undefined ||
      this.#parameters !== undefined || (this.#sources.credit?.hasNews ?? false);
  }

  /** Fills the record; true if it has to go out before more does. */
  #fillRecord(): boolean {
    const record = this.#record;
    do {
      while (this.#fillControl()) {
        if (record.isFull) return true;
      }
      if (!this.#isOpen) return false;
      const { ownDatagrams } = this.#sources;
      for (let datagram; (datagram = ownDatagrams?.first) !== undefined;) {
        if (record.byteLength > 0 && record.room < datagramFrameSize(datagram.byteLength)) {
          return true;
        }
        record.datagram(ownDatagrams!.take());
        this.#sources.sentDatagram(datagram);
        if (record.isFull) return true;
      }
      for (let half; (half = this.#queue.take()) !== undefined;) {
        this.#fillStream(half);
        if (record.isFull) return true;
      }
    } while (this.#hasControl());
    return false;
  }

  #fillStream(half: SendHalf): void {
    half.waitsFor = "nothing";
    const hasMore = half.fill(this.#record, this.#queue.size > 0 ? QUANTUM_BYTES : Infinity);
    if (!hasMore) return;
    // What `fill` found is in there now; nobody else changed it.
    const waitsFor = half.waitsFor as SendHalf["waitsFor"];
    if (waitsFor === "connection") {
      this.#blocked.add(half);
      const { credit } = this.#sources;
      credit?.block("data", credit.of("data").send.limit);
    } else if (waitsFor === "nothing") {
      half.waitsFor = "wire";
      this.#queue.add(half);
    }
  }

  /** Puts one frame without a payload into the record, if there is any. */
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
    } else if (!(this.#sources.credit?.fill(record) ?? false)) {
      return this.#fillStreamControl();
    }
    return true;
  }

  /** A peer that reads nothing, and opens and cuts streams, would make this end keep all of them. */
  #sweepControl(): void {
    this.#control = this.#control.filter((stream) => stream.hasControl = !stream.isOver);
    this.#sweepAt = Math.max(SWEEP_AT, this.#control.length * 2);
  }

  #fillStreamControl(): boolean {
    const stream = this.#control.at(-1);
    if (stream === undefined) return false;
    // One at a time: in draft 00 each has a record for itself.
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

  /** Makes room for a frame, if the wire has some. */
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
      // What the wire calls little is enough for one, or this would turn in a circle.
      this.#isDrained = true;
      this.fill();
    });
    return false;
  }

  #send(): void {
    this.records++;
    this.#link.send(this.#record.take());
  }

  /** What is put into a record without a pause goes out together. */
  #flushSoon(): void {
    if (this.#isFlushing || this.#isOver || this.#record.byteLength === 0) return;
    this.#isFlushing = true;
    this.#flushBytes = this.#idleTurns = 0;
    nextTurn(this.#flush);
  }
}

/** A fault has no frame that it is about. */
export const NO_FRAME: number = FrameType.padding;
