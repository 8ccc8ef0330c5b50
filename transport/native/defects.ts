/**
 * Known defects of the runtime's own WebTransport server, as data.
 *
 * @module
 */

/** A name of a defect of the runtime's own WebTransport server. */
export type NativeServerDefect =
  /** A stream that is closed sends no end: its reader waits until the session is over. */
  | "no-stream-end"
  /** A stream that is aborted sends no reset: its reader waits until the session is over. */
  | "no-stream-reset"
  /** A stream that is cancelled sends no STOP_SENDING: its writer goes on. */
  | "no-stop-sending"
  /** A stream that is neither read nor written does not notice that the session is over. */
  | "idle-streams-stay"
  /** Streams go back to the peer only when the runtime collects its garbage. */
  | "stream-limit"
  /** A pending read of incoming unidirectional streams never ends once a stream of HTTP/3 came, such as QPACK's. */
  | "foreign-stream-stall"
  /** The close of a peer is noticed as the end of its QUIC connection, without code and reason. */
  | "close-unseen"
  /** Code and reason of a close travel in the close of QUIC, which browsers do not show to pages. */
  | "close-code-lost"
  /** The headers of the request are not shown, Origin and offered subprotocols among them. */
  | "no-request"
  /** The session is accepted before the application is asked: no status refuses it. */
  | "no-refusal"
  /** A connection whose request fails, or does not come, leaves two streams in memory until the process ends. */
  | "request-leak"
  /** One datagram waits for its reader, and the limit cannot be raised. Worked around. */
  | "one-datagram"
  /** An empty datagram ends the process while a read waits. Worked around. */
  | "empty-datagram-fatal";

/** Facts about a defect. */
export interface NativeServerDefectFact {
  /** Its name. */
  readonly name: NativeServerDefect;
  /** The public issue about it; `undefined` where none is known. */
  readonly issue: string | undefined;
  /** True if `acceptNativeWebTransport()` does not have it. */
  readonly isWorkedAround?: boolean;
  /** Tells by a feature of the runtime that it is mended; left out where no feature shows it. */
  readonly isMended?: () => boolean;
}

/** One issue covers the ends of streams, and their number. */
const STREAMS_ISSUE = "https://github.com/denoland/deno/issues/36822";

/**
 * The defects of Deno 2.9.6. No other place lists them: `defects_test.ts` looks for each one,
 * and fails where the runtime does not have it any more; the conformance suites skip checks by name.
 */
export const NATIVE_SERVER_DEFECTS: readonly NativeServerDefectFact[] = [
  { name: "no-stream-end", issue: STREAMS_ISSUE },
  { name: "no-stream-reset", issue: STREAMS_ISSUE },
  { name: "no-stop-sending", issue: undefined },
  { name: "idle-streams-stay", issue: undefined },
  { name: "stream-limit", issue: STREAMS_ISSUE },
  { name: "foreign-stream-stall", issue: undefined },
  { name: "close-unseen", issue: undefined },
  { name: "close-code-lost", issue: undefined },
  // A runtime that agrees on subprotocols has read the headers of the request.
  { name: "no-request", issue: undefined, isMended: hasProtocol },
  { name: "no-refusal", issue: undefined },
  { name: "request-leak", issue: undefined },
  { name: "one-datagram", issue: undefined, isWorkedAround: true },
  { name: "empty-datagram-fatal", issue: undefined, isWorkedAround: true },
];

/**
 * Lists the defects that connections of `acceptNativeWebTransport()` have on this runtime. A defect
 * that a feature disproves is not among them.
 *
 * @returns The defects; none if the runtime has no WebTransport at all.
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
  if (nativePrototype() === undefined) return [];
  return NATIVE_SERVER_DEFECTS
    .filter(({ isMended, isWorkedAround }) => !isWorkedAround && isMended?.() !== true)
    .map(({ name }) => name);
}

function hasProtocol(): boolean {
  return "protocol" in (nativePrototype() ?? {});
}

function nativePrototype(): object | undefined {
  return (globalThis as { WebTransport?: { readonly prototype: object } }).WebTransport?.prototype;
}
