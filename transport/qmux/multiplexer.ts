/** The contract between a WebSocket connection and QMux. Pages load QMux on first use. */
import type { Runtime } from "../../base/runtime.ts";
import type {
  Connection,
  ConnectionCloseInfo,
  ConnectionObserver,
  FlowControlOptions,
} from "../connection.ts";

/** The part of a connection that provides streams, datagrams and flow control. */
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
   * Handles a received record. It MUST NOT throw; the peer's protocol violations are reported to
   * the link.
   *
   * @param record The bytes of a binary frame, in a buffer that nothing else uses.
   */
  receive(record: Uint8Array): void;
  /**
   * Ends every stream when the connection ends.
   *
   * @param isBroken True if the iterables of incoming streams and datagrams throw the error.
   * Otherwise, they end normally.
   */
  end(error: Error, isBroken: boolean): void;
}

/** The part of a connection that its multiplexer uses. */
export interface MultiplexerLink {
  /** The role of this side. The client opens the streams 0, 4, 8 and so on. */
  readonly side: "client" | "server";
  /** Passes a record to the connection. This call never blocks, so watch `bufferedAmount`. */
  send(record: Uint8Array): void;
  /** The number of bytes that the connection still holds. */
  readonly bufferedAmount: number;
  /** Waits until the connection holds only a few bytes, or has ended. Never rejects. */
  drained(): Promise<void>;
  /**
   * Called when the peer has closed the connection with a frame that contains an application close
   * code.
   */
  peerClosed(info: Required<ConnectionCloseInfo>): void;
  /**
   * Ends the connection because the peer violated the protocol.
   *
   * @param code The QUIC error code (RFC 9000 section 20.1).
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
  /** The limits on data that the peer can send before it is read. */
  readonly flowControl: FlowControlOptions | undefined;
  /** The observer of the connection's events. */
  readonly observer: ConnectionObserver | undefined;
  close(info: ConnectionCloseInfo): void;
}
