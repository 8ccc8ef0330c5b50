/**
 * What puts streams and datagrams onto a wire of frames: the seam between a
 * WebSocket and QMux, which a page loads only when it needs it.
 *
 * @module
 */
import type { Connection, ConnectionCloseInfo } from "./connection.ts";

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

/** Makes the multiplexer of a connection, when it is first needed. */
export type MakeMultiplexer = (link: MultiplexerLink) => Multiplexer;
