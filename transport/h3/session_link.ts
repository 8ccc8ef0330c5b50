/**
 * What a WebTransport session over HTTP/3 has of its connection.
 *
 * @module
 */
import type { H3ProtocolError } from "./error_codes.ts";
import type { FrameParser } from "./frames.ts";
import type { UnreadShare } from "../quic/unread_streams.ts";
import type { QuicEnding } from "../quic/runtime.ts";
import type { TurnEnd } from "../quic/stream_halves.ts";

/** What a session needs of its connection. */
export interface SessionLink {
  /** Which end this is. */
  readonly side: "client" | "server";
  /** The QUIC connection. */
  readonly conn: Deno.QuicConn;
  /** Resolves with how the connection ended. */
  readonly ending: Promise<QuicEnding>;
  /** What this end did to the connection, if it closed it for a fault. */
  readonly fault: H3ProtocolError | undefined;
  /** Counts the streams of the peer that are not read; on a server. */
  readonly unread: UnreadShare | undefined;
  /** Begins to read datagrams; until somebody wants some, the runtime holds the newest. */
  readDatagrams(): void;
  /** Acts at the end of this turn for the halves of streams that their users leave alone until then. */
  readonly turnEnd: TurnEnd;
  /** Ends the connection: the peer broke the protocol. */
  fail(error: H3ProtocolError): void;
  /** Tells that the session of a number is over; resolves once nothing of it is left. */
  sessionEnded(id: number, ending: SessionEnding): Promise<void> | undefined;
}

/** How a session ended, as far as its connection has to know. */
export interface SessionEnding {
  /** True if the connection has to end with the session. */
  readonly closeConnection: boolean;
  /** The fault of the peer that ended it. A connection that ends with it says its code. */
  readonly fault: H3ProtocolError | undefined;
}

/** The stream of a CONNECT request, whose head was read or written already. */
export interface ConnectStream {
  /** Its number, which is the session's. */
  readonly id: number;
  /** Reads it. */
  readonly reader: ReadableStreamBYOBReader;
  /** Writes it. */
  readonly writer: WritableStreamDefaultWriter<Uint8Array>;
  /** Frames, and what was read of the next one. */
  readonly frames: FrameParser;
}
