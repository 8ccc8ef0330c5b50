/**
 * The connections of a WebTransport server, with HTTP/3 or raw QUIC. This module is loaded when the
 * server starts to listen.
 */
import { Deadlines } from "../../base/deadlines.ts";
import { type QuicConnection, RawQuicConnection } from "../quic/connection.ts";
import type { AcceptedConnection, QuicProtocol } from "../quic/acceptor.ts";
import { acceptedQuic, rejectQuic } from "../quic/server.ts";
import {
  encodeControlHead,
  GRACE_MS,
  Http3Connection,
  type Http3ConnectionOptions,
  openControl,
  SETTINGS_TIMEOUT_MS,
} from "./connection.ts";
import { H3Error } from "./wire/error_codes.ts";

/** The time within which a client must send the first request, in milliseconds. */
const FIRST_REQUEST_TIMEOUT_MS = 10_000;

/** A connection of a WebTransport server. A raw QUIC connection has no sessions. */
export interface ServerConnection extends AcceptedConnection {
  /** The number of sessions, including pending ones. */
  readonly sessionCount?: number | undefined;
  /** Rejects new requests. */
  stop?(): void;
}

/** The handler of a server's connections, with their timeouts. */
export interface Http3Protocol extends QuicProtocol<ServerConnection> {
  /** Clears all timeouts. */
  clear(): void;
}

/**
 * Creates the handler of a server's connections.
 *
 * @param onQuic Called with each raw QUIC connection; `undefined` if the server has no raw QUIC.
 * MUST NOT throw.
 */
export function acceptProtocol(
  options: Omit<Http3ConnectionOptions, "firstRequests" | "lateSettings" | "graces">,
  onQuic: ((connection: QuicConnection) => void) | undefined,
): Http3Protocol {
  const { runtime, isSuccessor } = options;
  const firstRequests = new Deadlines<Http3Connection>(
    runtime,
    FIRST_REQUEST_TIMEOUT_MS,
    (connection) => connection.close(),
  );
  const lateSettings = new Deadlines<Http3Connection>(
    runtime,
    SETTINGS_TIMEOUT_MS,
    (connection) => connection.failWithoutSettings(),
  );
  const graces = new Deadlines<Http3Connection>(
    runtime,
    GRACE_MS,
    (connection) => connection.close(),
  );
  const shared = { ...options, firstRequests, lateSettings, graces };
  // The first bytes of every control stream.
  const controlHead = encodeControlHead(options);
  return {
    begin(conn) {
      // A client that receives the settings with the handshake can request a session one round trip
      // earlier. If the client's first TLS message is so long that it takes two packets, neither
      // the protocol nor the peer's credit is known before the second packet arrives, and the
      // runtime would never open the stream.
      const early = conn.protocol === "h3" ? openControl(conn, controlHead) : undefined;
      return (peer) => {
        if (onQuic === undefined || conn.protocol === "h3") {
          const control = early ?? openControl(conn, controlHead);
          return new Http3Connection(conn, shared, { ...peer, control });
        }
        const connection = new RawQuicConnection(runtime, conn, peer.unread);
        onQuic(connection);
        return acceptedQuic(connection);
      };
    },
    reject(conn) {
      if (conn.protocol !== "h3") return rejectQuic(conn);
      conn.close({ closeCode: H3Error.excessiveLoad, reason: "Too many connections" });
    },
    takesSpare: isSuccessor && ((conn) => conn.protocol === "h3"),
    clear() {
      firstRequests.clear();
      lateSettings.clear();
      graces.clear();
    },
  };
}
