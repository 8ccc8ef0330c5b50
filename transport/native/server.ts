/**
 * The server half of WebTransport as the runtime has it, `Deno.upgradeWebTransport`,
 * behind the contract of all wires. `listenWebTransport()` does more; this is for
 * those who want the runtime's own.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type { Connection } from "../connection.ts";
import { QUIC_MISSING } from "../quic/runtime.ts";
import { connectionOf, type NativeWebTransport } from "./client.ts";

/** What the runtime's own server side is known to do wrong. */
export type NativeServerDefect =
  /** The writable end of a stream sends no end: a peer that reads to the end waits for ever. */
  | "no-stream-end"
  /** A peer can open 99 bidirectional streams, and no more. */
  | "stream-limit"
  /** A close of the peer is seen as the end of its QUIC connection only, a browser's after some time. */
  | "close-unseen"
  /** Code and reason of a close reach no browser. */
  | "close-code-lost"
  /** The request's headers can not be read, and it can not be refused with a status. */
  | "no-request";

/** All that Deno 2.9 has. */
const DEFECTS: readonly NativeServerDefect[] = [
  "no-stream-end",
  "stream-limit",
  "close-unseen",
  "close-code-lost",
  "no-request",
];

/** A session that the runtime accepted. */
export interface AcceptedNativeWebTransport {
  /** The connection, established. Its QUIC connection carries no other session. */
  readonly connection: Connection;
  /** What was asked for. */
  readonly url: string;
  /** What to expect of it; see {@linkcode nativeServerDefects}. */
  readonly defects: readonly NativeServerDefect[];
}

/**
 * Lists what the runtime's own server side does wrong. It is found out by what
 * its `WebTransport` has: one that knows of subprotocols is newer than those
 * that are known to have these defects.
 *
 * @returns The defects; none if the runtime is newer, or has no WebTransport at all.
 *
 * @example Usage
 * ```ts
 * import { nativeServerDefects } from "@skein/skein/transport";
 *
 * if (nativeServerDefects().includes("stream-limit")) {
 *   console.log("Use listenWebTransport() for more than 99 streams");
 * }
 * ```
 */
export function nativeServerDefects(): readonly NativeServerDefect[] {
  const { WebTransport } = globalThis as { WebTransport?: { readonly prototype: object } };
  return WebTransport === undefined || "protocol" in WebTransport.prototype ? [] : DEFECTS;
}

/**
 * Accepts a WebTransport session on a QUIC connection with the runtime's own
 * server side.
 *
 * @param conn A connection of a `Deno.QuicListener`, with the ALPN `h3`.
 * @returns The session, and what to expect of it.
 * @throws {UnsupportedError} If the runtime has none; the message names the flag.
 */
export async function acceptNativeWebTransport(
  conn: Deno.QuicConn,
): Promise<AcceptedNativeWebTransport> {
  if (typeof Deno.upgradeWebTransport !== "function") throw new UnsupportedError(QUIC_MISSING);
  const native = await Deno.upgradeWebTransport(conn);
  await native.ready;
  const connection = connectionOf(native as unknown as NativeWebTransport, {
    streams: true,
    datagrams: "unreliable",
    resetCodes: false,
    credit: false,
    independentStreams: true,
  });
  return { connection, url: native.url, defects: nativeServerDefects() };
}
