/**
 * The counters of a connection without traffic.
 *
 * @module
 */
import type { ConnectionCounters } from "../transport/connection.ts";

/** All counters at 0. */
export const NO_COUNTERS: ConnectionCounters = {
  streamBytesSent: 0,
  streamBytesReceived: 0,
  localBidirectionalOpened: 0,
  localUnidirectionalOpened: 0,
  remoteBidirectionalOpened: 0,
  remoteUnidirectionalOpened: 0,
  streamsClosed: 0,
  bidirectionalClosed: 0,
  streamErrors: 0,
  streamsRejected: 0,
  datagramsSent: 0,
  datagramBytesSent: 0,
  datagramsReceived: 0,
  datagramBytesReceived: 0,
  datagramsDropped: 0,
};
