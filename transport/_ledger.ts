/**
 * What a connection counts of its streams and datagrams, and tells who observes it.
 *
 * @module
 */
import { StreamError } from "../errors.ts";
import type {
  ConnectionCounters,
  ConnectionEvent,
  ConnectionObserver,
  StreamDirection,
  StreamSide,
} from "./connection.ts";

/** The counters of one connection. */
export class Ledger implements ConnectionCounters {
  /** See {@linkcode ConnectionCounters}. */
  streamBytesSent = 0;
  /** See {@linkcode ConnectionCounters}. */
  streamBytesReceived = 0;
  /** See {@linkcode ConnectionCounters}. */
  localBidirectionalOpened = 0;
  /** See {@linkcode ConnectionCounters}. */
  localUnidirectionalOpened = 0;
  /** See {@linkcode ConnectionCounters}. */
  remoteBidirectionalOpened = 0;
  /** See {@linkcode ConnectionCounters}. */
  remoteUnidirectionalOpened = 0;
  /** See {@linkcode ConnectionCounters}. */
  streamsClosed = 0;
  /** See {@linkcode ConnectionCounters}. */
  bidirectionalClosed = 0;
  /** See {@linkcode ConnectionCounters}. */
  streamErrors = 0;
  /** See {@linkcode ConnectionCounters}. */
  streamsRefused = 0;
  /** See {@linkcode ConnectionCounters}. */
  datagramsSent = 0;
  /** See {@linkcode ConnectionCounters}. */
  datagramBytesSent = 0;
  /** See {@linkcode ConnectionCounters}. */
  datagramsReceived = 0;
  /** See {@linkcode ConnectionCounters}. */
  datagramBytesReceived = 0;
  /** See {@linkcode ConnectionCounters}. */
  datagramsDropped = 0;
  /** Gets what happens, if anybody does. */
  observer: ConnectionObserver | undefined = undefined;

  /**
   * Counts a stream that was opened.
   *
   * @param direction Which way it goes.
   * @param by Which end opened it.
   * @returns Is told of the end of each direction.
   */
  opened(direction: StreamDirection, by: StreamSide): StreamAccount {
    if (by === "local") {
      if (direction === "bidirectional") this.localBidirectionalOpened++;
      else this.localUnidirectionalOpened++;
    } else if (direction === "bidirectional") this.remoteBidirectionalOpened++;
    else this.remoteUnidirectionalOpened++;
    this.observer?.({ type: "streamopened", direction, by });
    return new StreamAccount(this, direction, by);
  }

  /** Counts a datagram that was handed to the wire. */
  sentDatagram(datagram: Uint8Array): void {
    this.datagramsSent++;
    this.datagramBytesSent += datagram.byteLength;
    this.observer?.({ type: "datagramsent", datagram });
  }

  /** Counts a datagram that came. */
  receivedDatagram(datagram: Uint8Array): void {
    this.datagramsReceived++;
    this.datagramBytesReceived += datagram.byteLength;
    this.observer?.({ type: "datagramreceived", datagram });
  }

  /** Counts a datagram that was lost at this end. */
  droppedDatagram(byteLength: number): void {
    this.datagramsDropped++;
    this.observer?.({ type: "datagramdropped", byteLength });
  }

  /** Tells who observes the connection; nothing is counted. */
  tell(event: ConnectionEvent): void {
    this.observer?.(event);
  }
}

/**
 * What a wire offers to who puts messages on one of its streams: that stream is
 * no stream of the connection's user, and so is in no counter and no event.
 */
export interface MessageCarrier {
  /**
   * Leaves out the first bidirectional stream of an end. To be called before
   * anything was opened at this end, and before anybody observes.
   *
   * @param by The end that opens it.
   */
  carryMessages(by: StreamSide): void;
}

/** One stream in the ledger: counted as closed once all its directions ended. */
export class StreamAccount {
  /** What it is part of. */
  readonly ledger: Ledger;
  readonly #direction: StreamDirection;
  readonly #by: StreamSide;
  #left: number;
  #error: unknown = undefined;

  /** Is made by {@linkcode Ledger.opened}. */
  constructor(ledger: Ledger, direction: StreamDirection, by: StreamSide) {
    this.ledger = ledger;
    this.#direction = direction;
    this.#by = by;
    this.#left = direction === "bidirectional" ? 2 : 1;
  }

  /**
   * One direction ended. Called once for each.
   *
   * @param error Why, if it was cut short.
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
   * This end gave up one direction, in place of {@linkcode StreamAccount.ended}.
   *
   * @param reason Why, if anybody said; an error is made of nothing only for who observes.
   * @param what What it did.
   */
  cut(reason: unknown, what: "reset" | "stopped reading"): void {
    if (reason !== undefined) return this.ended(reason);
    const isTold = this.ledger.observer !== undefined;
    const message = `This end ${what} the stream`;
    this.ended(isTold ? new StreamError(message, { streamErrorCode: 0, by: "local" }) : message);
  }

  /** The stream is no user's after all: as if it had never been. */
  discard(): void {
    const { ledger } = this;
    const isBidirectional = this.#direction === "bidirectional";
    if (this.#by === "local") {
      if (isBidirectional) ledger.localBidirectionalOpened--;
      else ledger.localUnidirectionalOpened--;
    } else if (isBidirectional) ledger.remoteBidirectionalOpened--;
    else ledger.remoteUnidirectionalOpened--;
  }
}
