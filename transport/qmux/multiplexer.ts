/** Contract between a WebSocket connection and QMux, which pages load on first use. */
import type { Runtime } from "../../base/runtime.ts";
import type {
  Connection,
  ConnectionCloseInfo,
  ConnectionObserver,
  FlowControlOptions,
} from "../connection.ts";

/** Streams, datagrams and flow control, as part of a connection. */
export interface Multiplexer extends
  Pick<
    Connection,
    | "createBidirectionalStream"
    | "createUnidirectionalStream"
    | "datagrams"
    | "incomingBidirectionalStreams"
    | "incomingUnidirectionalStreams"
    | "inspect"
  > {
  /**
   * Handles a received record. MUST NOT throw: protocol violations of the peer are reported to the
   * link.
   *
   * @param record The bytes of a binary frame, with their own memory.
   */
  receive(record: Uint8Array): void;
  /**
   * Ends every stream with the connection.
   *
   * @param isBroken True if incoming streams and datagrams fail with the error; otherwise they end.
   */
  end(error: Error, isBroken: boolean): void;
}

/** The connection as a multiplexer sees it. */
export interface MultiplexerLink {
  /** This end's role: the client opens streams 0, 4, 8 and so on. */
  readonly side: "client" | "server";
  /** Passes a record to the connection. Never blocks; watch `bufferedAmount`. */
  send(record: Uint8Array): void;
  /** The bytes that the connection still holds. */
  readonly bufferedAmount: number;
  /** Waits until the connection holds few bytes, or has ended. Never rejects. */
  drained(): Promise<void>;
  /** Called when the peer closed the connection with a frame that has an application close code. */
  peerClosed(info: Required<ConnectionCloseInfo>): void;
  /**
   * Ends the connection because the peer violated the protocol.
   *
   * @param code QUIC error code (RFC 9000 section 20.1).
   */
  fail(code: number, reason: string): void;
}

/** A connection that creates the multiplexer on first use. */
export interface StreamsHost extends Pick<MultiplexerLink, "bufferedAmount" | "drained" | "send"> {
  readonly runtime: Runtime;
  /** The name of the transport, for errors. */
  readonly transport: string;
  readonly side: "client" | "server";
  /** True if the connection can carry streams and datagrams. */
  readonly hasStreams: boolean;
  /** The limits on data that the peer may send ahead of the readers. */
  readonly flowControl: FlowControlOptions | undefined;
  /** Observer of the connection's events. */
  readonly observer: ConnectionObserver | undefined;
  /** Closes the connection. */
  close(info: ConnectionCloseInfo): void;
}
