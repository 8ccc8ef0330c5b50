/** Contract between a WebTransport session and the HTTP/3 connection. */
import type { H3ProtocolError } from "./wire/error_codes.ts";
import type { FrameParser } from "./wire/frames.ts";
import type { UnreadShare } from "../quic/unread_streams.ts";
import type { QuicEnding } from "../quic/deno_quirks.ts";
import type { TurnEnd } from "../quic/stream_owner.ts";

/** The HTTP/3 connection, as its sessions see it. */
export interface SessionLink {
  /** This end's role. */
  readonly side: "client" | "server";
  /** The QUIC connection. */
  readonly conn: Deno.QuicConn;
  /** Resolves at the end of the connection. */
  readonly ending: Promise<QuicEnding>;
  /** Fault for which this end closed the connection. */
  readonly fault: H3ProtocolError | undefined;
  /** Counters of unread streams; on a server. */
  readonly unread: UnreadShare | undefined;
  /** Starts to read datagrams; before this call the runtime holds the newest ones. */
  readDatagrams(): void;
  /**
   * Watchers for the end of the current turn, for stream halves that the application has not
   * touched.
   */
  readonly turnEnd: TurnEnd;
  /** Ends the connection because the peer violated the protocol. */
  fail(error: H3ProtocolError): void;
  /** Removes an ended session; resolves once the cleanup is complete. */
  sessionEnded(id: number, ending: SessionEnding): Promise<void> | undefined;
}

/** End of a session, as far as the connection is concerned. */
export interface SessionEnding {
  /** True if the connection has to end with the session. */
  readonly closeConnection: boolean;
  /**
   * Violation by the peer that ended the session. A connection that ends with the session uses the
   * code of this fault.
   */
  readonly fault: H3ProtocolError | undefined;
}

/** The stream of a CONNECT request after the head was read or written. */
export interface ConnectStream {
  /** Stream id, which is also the id of the session. */
  readonly id: number;
  /** Reader of the stream. */
  readonly reader: ReadableStreamBYOBReader;
  /** Writer of the stream. */
  readonly writer: WritableStreamDefaultWriter<Uint8Array>;
  /** Frame parser, with the bytes of the next frame read so far. */
  readonly frames: FrameParser;
}
