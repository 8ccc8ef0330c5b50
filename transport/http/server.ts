/** The server's end of a connection over HTTP. It holds events until GET requests fetch them. */
import { ConnectionError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { Deadlines } from "../../base/deadlines.ts";
import { Signal } from "../../base/signal.ts";
import type { ConnectionCloseInfo, Frame, FrameReceiver } from "../connection.ts";
import {
  CarrierError,
  type CarrierTakeOptions,
  type GivenFrames,
  type HttpCarrier,
  type HttpCarriers,
  type TakenEvents,
} from "./carrier.ts";
import {
  CLOSE_TIMEOUT_MS,
  HttpConnection,
  LOST_MS,
  OFTEN_S,
  SELDOM_LOST_MS,
} from "./connection.ts";
import { type OpenedConnection, writeClose, writeFrame } from "./events.ts";
import { readFrames } from "./frames.ts";

/**
 * The maximum bytes of events that a client has been sent but has not acknowledged. A client sends
 * an acknowledgment when a quarter of this limit is reached. A single event may be larger.
 */
export const MAX_UNACKNOWLEDGED_BYTES = 262_144;

/**
 * The maximum number of {@linkcode HttpCarrier.give} calls that wait at the same time: a request
 * and its retry.
 */
const MAX_WAITING_GIVES = 2;

/** The longest wait for a slow receiver, in milliseconds. After that, the client must retry. */
const BUSY_MS = 10_000;

/** The time within which a client retries after its frames were not accepted, in milliseconds. */
const AGAIN_MS = 5_000;

/** The fill level of the receiver at which the client's frames have to wait. */
const PAUSE_AT = 1 / 2;

/** The fill level of the receiver at which waiting frames are accepted again. */
const RESUME_AT = 1 / 4;

/** The options of {@linkcode HttpConnections}. */
export interface HttpConnectionsOptions {
  readonly runtime: Runtime;
  /** The ID of this node, which is part of each connection's ID. */
  readonly node?: string | undefined;
  /** The largest frame of a client, in bytes. */
  readonly maxFrameBytes: number;
}

/** The options of one connection. */
export interface AcceptHttpOptions {
  /** Disposed of when the connection is removed, some time after it has ended. */
  readonly lease?: Disposable | undefined;
}

/**
 * The connections of a server.
 *
 * - **Lost:** a connection ends {@linkcode LOST_MS} after its last GET request has ended, or
 *   {@linkcode SELDOM_LOST_MS} after that if the client polls more seldom.
 * - **Closed:** a closed connection is kept for {@linkcode CLOSE_TIMEOUT_MS}, or until the next poll
 *   of a client that polls seldom, so that the client can request the last events.
 */
export class HttpConnections implements HttpCarriers, Disposable {
  readonly #options: HttpConnectionsOptions;
  // The caller checks the limits for sessions and sockets, which bound this.
  readonly #connections = new Map<string, ServerHttpConnection>();
  readonly #lost: Deadlines<ServerHttpConnection>;
  /** The connections of clients that poll seldom. */
  readonly #seldom: Deadlines<ServerHttpConnection>;
  readonly #closed: Deadlines<ServerHttpConnection>;

  constructor(options: HttpConnectionsOptions) {
    const { runtime } = options;
    this.#options = options;
    this.#lost = new Deadlines(runtime, LOST_MS, (connection) => connection.lose());
    this.#seldom = new Deadlines(runtime, SELDOM_LOST_MS, (connection) => {
      if (connection.isClosed) this.#forget(connection);
      else connection.lose();
    });
    this.#closed = new Deadlines(runtime, CLOSE_TIMEOUT_MS, (connection) => {
      if (connection.isReturning) connection.lose();
      else this.#forget(connection);
    });
    this.#clear();
  }

  /** The number of connections, including those that have just ended. */
  get size(): number {
    return this.#connections.size;
  }

  accept({ lease }: AcceptHttpOptions = {}): ServerHttpConnection {
    const { runtime, node, maxFrameBytes } = this.#options;
    const id = (node === undefined ? "" : `${node}.`) + runtime.randomUUID();
    const secret = runtime.getRandomValues(new Uint8Array(16)).toBase64(IN_HEADER);
    const connection: ServerHttpConnection = new ServerHttpConnection({ session: id, secret }, {
      runtime,
      maxFrameBytes,
      lease,
      onRead: (isRead) => {
        this.#lost.delete(connection);
        this.#seldom.delete(connection);
        if (isRead || !this.#connections.has(id)) return;
        (connection.isSeldom ? this.#seldom : this.#lost).add(connection);
      },
      onClosing: () => this.#closed.add(connection),
    });
    this.#connections.set(id, connection);
    this.#lost.add(connection);
    return connection;
  }

  /** Finds a connection on this node. */
  find(id: string, secret: string): HttpCarrier {
    const connection = this.#connections.get(id);
    if (connection === undefined) {
      throw new CarrierError("unknown", "Cannot continue: the connection is closed");
    }
    if (isSameSecret(connection.opened.secret, secret)) return connection;
    throw new CarrierError(
      "forbidden",
      "Cannot continue: the secret is not of this connection",
    );
  }

  /** Ends and removes all connections. */
  [Symbol.dispose](): void {
    for (const connection of this.#connections.values()) this.#forget(connection);
    this.#clear();
  }

  #clear(): void {
    this.#lost.clear();
    this.#seldom.clear();
    this.#closed.clear();
  }

  #forget(connection: ServerHttpConnection): void {
    this.#connections.delete(connection.opened.session);
    this.#lost.delete(connection);
    this.#seldom.delete(connection);
    this.#closed.delete(connection);
    connection.forget();
  }
}

/** The base64 alphabet for secrets. */
const IN_HEADER = { alphabet: "base64url", omitPadding: true } as const;

/** Compares secrets of a known length, in a time that does not depend on their contents. */
function isSameSecret(secret: string, received: string): boolean {
  if (secret.length !== received.length) return false;
  let difference = 0;
  for (let i = 0; i < secret.length; i++) {
    difference |= secret.charCodeAt(i) ^ received.charCodeAt(i);
  }
  return difference === 0;
}

/** The options and callbacks of a {@linkcode ServerHttpConnection}. */
interface ServerHttpOptions extends AcceptHttpOptions {
  readonly runtime: Runtime;
  readonly maxFrameBytes: number;
  /** Called when GET requests start and stop waiting for events. */
  readonly onRead: (isRead: boolean) => void;
  /** Called once, when either side has closed the connection. */
  readonly onClosing: () => void;
}

const REPLACED: TakenEvents = { events: "", last: 0, state: "replaced" };

/** A connection on the server, which keeps each event until the client has received it. */
export class ServerHttpConnection extends HttpConnection implements HttpCarrier {
  /** The ID and secret. */
  readonly opened: OpenedConnection;
  readonly #options: ServerHttpOptions;
  readonly #changes = new Signal();
  /** The frames that the client has not acknowledged. */
  #events: Frame[] = [];
  /** The number of the last acknowledged event. */
  #acknowledged = 0;
  /** The number of the last event sent to the current GET request. */
  #taken = 0;
  #takenBytes = 0;
  #waitingBytes = 0;
  #reader = "";
  /** The longest time until the client's next GET request, in seconds. */
  #everyS = 0;
  #next = 1;
  #gives = 0;
  #isPaused = false;
  /** The number of requests whose frames are waiting for the receiver. */
  #waits = 0;
  /** The last time at which frames were not accepted, in monotonic milliseconds. */
  #rejectedAt = -Infinity;
  /** The pending wait for a slow receiver to change. */
  #watched: Promise<void> | undefined;
  #isForgotten = false;
  #receiver: FrameReceiver | undefined = undefined;

  constructor(opened: OpenedConnection, options: ServerHttpOptions) {
    super(options.runtime);
    this.opened = opened;
    this.#options = options;
  }

  /**
   * The number of bytes that were not sent to any GET request yet. Between two polls, the connection
   * keeps as much as an event stream would have been sent.
   */
  get bufferedAmount(): number {
    if (this.isOver) return 0;
    const room = this.#everyS > 0 ? MAX_UNACKNOWLEDGED_BYTES - this.#takenBytes : 0;
    return Math.max(0, this.#waitingBytes - Math.max(0, room));
  }

  /**
   * True while the client's frames wait for the receiver, here or at the client, and for a client
   * that polls now and then.
   */
  get isPaused(): boolean {
    if (this.#everyS > 0) return true;
    if (!this.#isPaused || this.#isBehind) return this.#isPaused;
    return this.runtime.monotonic() - this.#rejectedAt < AGAIN_MS;
  }

  /** True if the client polls more seldom than every {@linkcode OFTEN_S}. */
  get isSeldom(): boolean {
    return this.#everyS > OFTEN_S;
  }

  /** True after either side has closed the connection. */
  get isClosed(): boolean {
    return this.isOver || this.closing !== undefined;
  }

  /** True if the client will poll for the close later. */
  get isReturning(): boolean {
    return this.isSeldom && this.closing !== undefined && !this.isOver;
  }

  /** Sets the receiver. If it has `backpressure`, the client's frames wait while it is too slow. */
  override receive(receiver: FrameReceiver): void {
    this.#receiver = receiver;
    super.receive(receiver);
  }

  /** Resolves, because `find()` has already checked the secret. */
  prove(): Promise<void> {
    return this.#isGone ? Promise.reject(gone()) : Promise.resolve();
  }

  async take(after: number, options: CarrierTakeOptions): Promise<TakenEvents> {
    const { reader, isFirst, waitMs, everyS = 0, maxBytes, signal } = options;
    if (this.#isGone) throw gone();
    if (isFirst) {
      this.#rewind(after, reader);
      this.#everyS = everyS;
    } else if (this.#reader !== reader) return REPLACED;
    // The response to an earlier call was lost between two nodes.
    else if (after !== this.#taken) this.#seek(after);
    const wake = () => this.#changes.notify();
    signal.addEventListener("abort", wake);
    this.#options.onRead(true);
    try {
      const isDone = () => this.#hasEvents || this.#reader !== reader || signal.aborted;
      if (waitMs > 0 && !isDone()) await this.#until(isDone, waitMs);
      if (this.#reader !== reader) return REPLACED;
      if (this.#isGone) throw gone();
      return this.#read(signal.aborted ? 0 : maxBytes);
    } finally {
      signal.removeEventListener("abort", wake);
      if (this.#reader === reader) this.#options.onRead(false);
    }
  }

  /** Accepts the client's frames, as {@linkcode HttpCarrier.give} describes. */
  async give(number: number, frames: Uint8Array, received: number): Promise<GivenFrames> {
    if (this.#isGone) throw gone();
    this.#acknowledge(received);
    const all = readFrames(frames);
    if (all === undefined) return this.#reject("malformed", 4400, "The frames are malformed");
    const { maxFrameBytes } = this.#options;
    if (all.some((frame) => frame.length > maxFrameBytes)) {
      return this.#reject("large", 4413, `A frame has more than ${maxFrameBytes} bytes`);
    }
    if (all.length > 0 && number > this.#next) return this.#given("hole");
    if (this.#gives >= MAX_WAITING_GIVES) return this.#given("busy");
    this.#gives++;
    try {
      // A retry of the request may add frames during each wait.
      while (this.#next - number < all.length && !this.isOver) {
        if (this.#isBehind && !await this.#hasRoom()) return this.#given("busy");
        this.#isPaused = this.#waits > 0;
        const frame = all[this.#next - number];
        if (frame === undefined) break;
        this.#next++;
        this.deliver(frame);
      }
    } finally {
      this.#gives--;
    }
    // An event that immediately responds to a frame counts as written. Over HTTP/2, the runtime
    // would also delay the second of two small writes by 40 ms: after this turn, such an event is
    // part of the same write as the response.
    await new Promise<void>((resolve) => this.runtime.schedule(resolve));
    return this.#given("taken");
  }

  /** Ends the connection with the client's close. */
  end(info: Required<ConnectionCloseInfo>): Promise<void> {
    this.finish(info);
    return Promise.resolve();
  }

  /** Ends the connection of a client that has shown no sign of life. */
  lose(): void {
    const ms = this.isSeldom ? SELDOM_LOST_MS : LOST_MS;
    this.finish(new ConnectionError(`The client sent no request within ${ms} ms`));
  }

  /** Ends the connection, and frees everything else. */
  forget(): void {
    this.#isForgotten = true;
    this.#events = [];
    this.lose();
    this.#changes.notify();
    this.#options.lease?.[Symbol.dispose]();
  }

  protected override transmit(frame: Frame): void {
    this.#events.push(frame);
    this.#waitingBytes += frame.length;
    this.#changes.notify();
  }

  protected override conclude(): void {
    this.#options.onClosing();
    this.#changes.notify();
  }

  protected override release(): void {
    // If this side closed the connection, the client may request the events before the close once
    // more.
    if (this.closing === undefined) {
      this.#events = [];
      this.#options.onClosing();
    }
    this.#changes.notify();
  }

  /** True if the connection has ended and has no close to report to the client. */
  get #isGone(): boolean {
    return this.#isForgotten || this.isOver && this.closing === undefined;
  }

  /** The number of the last frame. */
  get #last(): number {
    return this.#acknowledged + this.#events.length;
  }

  get #hasEvents(): boolean {
    if (this.#isGone) return true;
    if (this.#taken < this.#last) return this.#takenBytes < MAX_UNACKNOWLEDGED_BYTES;
    return this.closing !== undefined;
  }

  get #isBehind(): boolean {
    if (this.closing !== undefined) return false;
    const fill = this.#receiver?.backpressure?.fill ?? 0;
    return fill >= PAUSE_AT || this.#isPaused && fill > RESUME_AT;
  }

  /** Waits for the receiver. Returns `false` if it stays too slow. */
  async #hasRoom(): Promise<boolean> {
    this.#isPaused = true;
    this.#waits++;
    const hasRoom = () => !this.#isBehind || this.isOver;
    const isThere = await this.#until(hasRoom, BUSY_MS);
    this.#waits--;
    return isThere;
  }

  /**
   * Waits until a condition holds.
   *
   * @param ms The longest wait, in milliseconds.
   * @returns `false` if the wait timed out.
   */
  async #until(holds: () => boolean, ms: number): Promise<boolean> {
    let isLate = false;
    const timer = this.runtime.setTimeout(() => {
      isLate = true;
      this.#changes.notify();
    }, ms);
    while (!holds() && !isLate) {
      if (this.#isBehind) this.#watchReceiver();
      await this.#changes.changed();
    }
    this.runtime.clearTimeout(timer);
    return holds();
  }

  /** Reports the next change of the receiver once, however many calls are waiting for it. */
  #watchReceiver(): void {
    this.#watched ??= this.#receiver!.backpressure!.changed().then(() => {
      this.#watched = undefined;
      this.#changes.notify();
    });
  }

  /**
   * Starts to serve another GET request. Its client has received the events up to the given number.
   */
  #rewind(after: number, reader: string): void {
    const isKnown = after >= this.#acknowledged && after <= this.#last + 1;
    if (!isKnown) {
      throw new CarrierError(
        "malformed",
        `Cannot continue: Last-Event-ID must be from ${this.#acknowledged} to ${this.#last}, received ${after}`,
      );
    }
    this.#acknowledge(after);
    this.#reader = reader;
    this.#seek(after);
  }

  /** Continues the current GET request after the given event. */
  #seek(after: number): void {
    this.#taken = Math.min(Math.max(after, this.#acknowledged), this.#last);
    const taken = this.#events.slice(0, this.#taken - this.#acknowledged);
    const bytes = taken.reduce((sum, { length }) => sum + length, 0);
    this.#waitingBytes += this.#takenBytes - bytes;
    this.#takenBytes = bytes;
    this.#changes.notify();
  }

  #acknowledge(number: number): void {
    const count = Math.min(number, this.#last) - this.#acknowledged;
    if (!(count > 0)) return;
    for (const { length } of this.#events.splice(0, count)) {
      if (++this.#acknowledged > this.#taken) this.#waitingBytes -= length;
      else this.#takenBytes -= length;
    }
    this.#taken = Math.max(this.#taken, this.#acknowledged);
    this.#changes.notify();
    this.shrunk();
  }

  #read(maxBytes: number): TakenEvents {
    let events = "";
    while (
      events.length < maxBytes && this.#taken < this.#last &&
      this.#takenBytes < MAX_UNACKNOWLEDGED_BYTES
    ) {
      const frame = this.#events[this.#taken - this.#acknowledged]!;
      this.#taken++;
      this.#takenBytes += frame.length;
      this.#waitingBytes -= frame.length;
      events += writeFrame(this.#taken, frame);
    }
    this.shrunk();
    const { closing } = this;
    const last = this.#taken;
    if (closing === undefined || last < this.#last || events.length >= maxBytes) {
      return { events, last, state: "open" };
    }
    this.finish(closing);
    return { events: events + writeClose(last + 1, closing), last: last + 1, state: "over" };
  }

  #given(result: GivenFrames["result"]): GivenFrames {
    if (result === "busy") this.#rejectedAt = this.runtime.monotonic();
    return { result, next: this.#next, written: this.#taken };
  }

  #reject(result: "malformed" | "large", closeCode: number, reason: string): GivenFrames {
    this.close({ closeCode, reason });
    return this.#given(result);
  }
}

function gone(): CarrierError {
  return new CarrierError("unknown", "Cannot continue: the connection is closed");
}
