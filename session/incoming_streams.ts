/**
 * Streams, datagrams and credit of a session, beside messages.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { BidirectionalStream, CreditKind, ReceiveStream } from "../transport/connection.ts";
import type { SessionBase } from "./session_base.ts";

/** A stream that the peer opened. */
export type IncomingStream =
  | (BidirectionalStream & {
    /** Both ends write. */
    readonly direction: "bidirectional";
  })
  | {
    /** The peer writes. */
    readonly direction: "unidirectional";
    /** What it writes. */
    readonly readable: ReceiveStream;
  };

/** See `incomingStreams` of a session. */
export async function* incomingStreams(
  _session: SessionBase,
  _options: { readonly signal?: AbortSignal },
): AsyncGenerator<IncomingStream, void, undefined> {
  await Promise.reject(new Error("Under construction"));
}

/** See `sendDatagram` of a session. */
export function sendDatagram(_session: SessionBase, _data: Uint8Array): void {
  throw new Error("Under construction");
}

/** See `grantDataCredit` and `grantStreamsCredit` of a session. */
export function grantCredit({ connection }: SessionBase, kind: CreditKind, total: number): void {
  const { credit } = connection;
  if (credit === undefined) {
    throw new UnsupportedError(
      `Cannot grant credit: the peer counts none on this ${connection.transport} connection; see capabilities`,
    );
  }
  credit.grant(kind, total);
}
