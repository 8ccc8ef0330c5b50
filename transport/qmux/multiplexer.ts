/**
 * What puts streams and datagrams onto a wire of frames: the seam between a
 * WebSocket and QMux, which a page loads only when it needs it.
 *
 * @module
 */
import type {
  Connection,
  ConnectionCloseInfo,
  ConnectionObserver,
  FlowControlOptions,
} from "../connection.ts";

/** Streams, datagrams and their flow control; a part of a connection. */
export interface Multiplexer extends
  Pick<
    Connection,
    | "counters"
    | "createBidirectionalStream"
    | "createUnidirectionalStream"
    | "credit"
    | "datagrams"
    | "incomingBidirectionalStreams"
    | "incomingUnidirectionalStreams"
    | "observe"
    | "unreadStreams"
  > {
  /**
   * Takes a record. MUST NOT throw: what the peer may not send is told to the link.
   *
   * @param record The bytes of a binary frame, its own.
   */
  receive(record: Uint8Array): void;
  /**
   * Ends every stream: the connection is over.
   *
   * @param error What their users get.
   * @param isBroken Whether incoming streams and datagrams end with the error too; without it they just end.
   */
  end(error: Error, isBroken: boolean): void;
}

/** What a multiplexer needs of its wire. */
export interface MultiplexerLink {
  /** Which end this is: the client opens streams 0, 4, 8 and so on. */
  readonly side: "client" | "server";
  /** Hands a record to the wire. Never blocks; watch `bufferedAmount`. */
  send(record: Uint8Array): void;
  /** Bytes that the wire still holds. */
  readonly bufferedAmount: number;
  /** Waits until the wire holds little, or is over. Never rejects. */
  drained(): Promise<void>;
  /** The peer closed the connection by a frame of its own, with a code of its application. */
  peerClosed(info: Required<ConnectionCloseInfo>): void;
  /**
   * Ends the connection: the peer broke the protocol.
   *
   * @param code QUIC's code of the fault, RFC 9000 section 20.1.
   * @param reason In words.
   */
  fail(code: number, reason: string): void;
}

/** A connection whose multiplexer is made when it is first needed. */
export interface StreamsHost extends Pick<MultiplexerLink, "bufferedAmount" | "drained" | "send"> {
  /** The wire's name, for errors. */
  readonly transport: string;
  /** Which end this is. */
  readonly side: "client" | "server";
  /** Whether the wire carries streams and datagrams at all. */
  readonly hasStreams: boolean;
  /** How much the peer may send ahead of who reads it. */
  readonly flowControl: FlowControlOptions | undefined;
  /** Gets what happens. */
  readonly observer: ConnectionObserver | undefined;
  /** Closes the connection. */
  close(info: ConnectionCloseInfo): void;
}
