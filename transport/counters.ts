/** The counters and events of a connection's streams and datagrams. */
import { StreamError } from "../errors.ts";
import type {
  ConnectionCounters,
  ConnectionEvent,
  ConnectionInspection,
  ConnectionObserver,
  ConnectionStats,
  StreamDirection,
  StreamSide,
} from "./connection.ts";

const OPENED = {
  local: { bidirectional: "localBidirectionalOpened", unidirectional: "localUnidirectionalOpened" },
  remote: {
    bidirectional: "remoteBidirectionalOpened",
    unidirectional: "remoteUnidirectionalOpened",
  },
} as const;

export class Ledger implements ConnectionCounters {
  streamBytesSent = 0;
  streamBytesReceived = 0;
  localBidirectionalOpened = 0;
  localUnidirectionalOpened = 0;
  remoteBidirectionalOpened = 0;
  remoteUnidirectionalOpened = 0;
  streamsClosed = 0;
  bidirectionalClosed = 0;
  streamErrors = 0;
  streamsRejected = 0;
  datagramsSent = 0;
  datagramBytesSent = 0;
  datagramsReceived = 0;
  datagramBytesReceived = 0;
  datagramsDropped = 0;
  observer: ConnectionObserver | undefined = undefined;

  /**
   * Counts a stream that was opened.
   *
   * @param by The end that opened the stream.
   * @returns The stream's account, which must be notified when a direction ends.
   */
  opened(direction: StreamDirection, by: StreamSide): StreamAccount {
    this[OPENED[by][direction]]++;
    this.observer?.({ type: "streamopened", direction, by });
    return new StreamAccount(this, direction, by);
  }

  /** Counts a datagram that was passed to the transport. */
  sentDatagram(datagram: Uint8Array): void {
    this.datagramsSent++;
    this.datagramBytesSent += datagram.byteLength;
    this.observer?.({ type: "datagramsent", datagram });
  }

  /** Counts a datagram that arrived. */
  receivedDatagram(datagram: Uint8Array): void {
    this.datagramsReceived++;
    this.datagramBytesReceived += datagram.byteLength;
    this.observer?.({ type: "datagramreceived", datagram });
  }

  /** Counts a datagram that was lost on this side. */
  droppedDatagram(byteLength: number): void {
    this.datagramsDropped++;
    this.observer?.({ type: "datagramdropped", byteLength });
  }

  /** Notifies the observer without counting. */
  tell(event: ConnectionEvent): void {
    this.observer?.(event);
  }
}

/**
 * The base class of connections that count their streams and datagrams. The stream that carries
 * messages, if any, has no account; its bytes are counted separately.
 */
export abstract class CountedConnection implements ConnectionInspection {
  /** The bytes written to streams without an account. */
  bytesSent = 0;
  /** The bytes read from streams without an account. */
  bytesReceived = 0;
  #ledger: Ledger | undefined = undefined;
  /** The end that opens the next bidirectional stream, if that stream carries messages. */
  #messageStreamBy: StreamSide | undefined = undefined;

  /** The counters, flow control and events, which this object implements itself. */
  get inspect(): ConnectionInspection {
    return this;
  }

  /** The counters, which are created with the first stream, datagram or observer. */
  get counters(): ConnectionCounters | undefined {
    return this.#ledger;
  }

  /** The counters, which are created on first access. */
  get ledger(): Ledger {
    return this.#ledger ??= new Ledger();
  }

  observe(observer: ConnectionObserver | undefined): void {
    if (observer !== undefined) this.ledger.observer = observer;
    else if (this.#ledger !== undefined) this.#ledger.observer = undefined;
  }

  excludeMessageStream(by: StreamSide): void {
    const isHeld = by === "remote" && this.discardFirst?.() === true;
    if (!isHeld) this.#messageStreamBy = by;
  }

  /** Returns the byte counts of messages, streams and datagrams together. */
  getStats(): Promise<ConnectionStats> {
    let { bytesSent, bytesReceived } = this;
    if (this.#ledger !== undefined) {
      bytesSent += this.#ledger.streamBytesSent + this.#ledger.datagramBytesSent;
      bytesReceived += this.#ledger.streamBytesReceived + this.#ledger.datagramBytesReceived;
    }
    return Promise.resolve({ bytesSent, bytesReceived });
  }

  /**
   * Removes the peer's first bidirectional stream from the counters, if one is waiting.
   *
   * @returns True if a stream was waiting.
   */
  protected discardFirst?(): boolean;

  /**
   * Counts a stream.
   *
   * @returns The account, or `undefined` for the stream that carries messages.
   */
  protected account(direction: StreamDirection, by: StreamSide): StreamAccount | undefined {
    if (direction === "unidirectional" || this.#messageStreamBy !== by) {
      return this.ledger.opened(direction, by);
    }
    this.#messageStreamBy = undefined;
    return undefined;
  }
}

/** The account of one stream. A stream counts as closed once all its directions have ended. */
export class StreamAccount {
  /** The counters that include this stream. */
  readonly ledger: Ledger;
  readonly #direction: StreamDirection;
  readonly #by: StreamSide;
  #left: number;
  #error: unknown = undefined;

  /** Created by {@linkcode Ledger.opened}. */
  constructor(ledger: Ledger, direction: StreamDirection, by: StreamSide) {
    this.ledger = ledger;
    this.#direction = direction;
    this.#by = by;
    this.#left = direction === "bidirectional" ? 2 : 1;
  }

  /**
   * Reports that one direction has ended. Call this once for each direction.
   *
   * @param error The cause, if the direction was cut short.
   */
  ended(error?: unknown): void {
    const { ledger } = this;
    if (error !== undefined) {
      ledger.streamErrors++;
      this.#error ??= error;
    }
    if (--this.#left > 0) return;
    ledger.streamsClosed++;
    if (this.#direction === "bidirectional") ledger.bidirectionalClosed++;
    if (ledger.observer === undefined) return;
    const event = { type: "streamclosed", direction: this.#direction, by: this.#by } as const;
    ledger.observer(this.#error === undefined ? event : { ...event, error: this.#error });
  }

  /**
   * Reports that this side has reset or stopped one direction. Call this in place of
   * {@linkcode StreamAccount.ended}.
   *
   * @param reason The caller's reason, if any. Without a reason, an error is created only if there
   * is an observer.
   */
  cut(reason: unknown, what: "reset" | "stopped reading"): void {
    if (reason !== undefined) return this.ended(reason);
    const isObserved = this.ledger.observer !== undefined;
    const message = `This side ${what} the stream`;
    this.ended(
      isObserved ? new StreamError(message, { streamErrorCode: 0, by: "local" }) : message,
    );
  }

  /** Removes the stream from the counters, because it does not belong to the user. */
  discard(): void {
    this.ledger[OPENED[this.#by][this.#direction]]--;
  }
}
