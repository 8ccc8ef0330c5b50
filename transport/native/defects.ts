/** Known defects of the runtime's own WebTransport server, as data. */

/** The name of a defect of the runtime's own WebTransport server. */
export type NativeServerDefect =
  /** A closed stream sends no end: its reader waits until the session ends. */
  | "no-stream-end"
  /** An aborted stream sends no reset: its reader waits until the session ends. */
  | "no-stream-reset"
  /** A cancelled stream sends no STOP_SENDING: its writer continues. */
  | "no-stop-sending"
  /** An idle stream does not notice that the session ended. */
  | "idle-streams-stay"
  /** Streams are returned to the peer only at the runtime's garbage collection. */
  | "stream-limit"
  /**
   * A pending read of incoming unidirectional streams never ends after a stream of HTTP/3 itself,
   * such as QPACK's.
   */
  | "foreign-stream-stall"
  /**
   * The peer's close is visible only as the end of the QUIC connection, without code and reason.
   */
  | "close-unseen"
  /**
   * The code and reason of a close are sent in the close of QUIC, which browsers do not show to
   * pages.
   */
  | "close-code-lost"
  /** The headers of the request are hidden, including Origin and the offered subprotocols. */
  | "no-request"
  /** The session is accepted before the application decides: no status can reject it. */
  | "no-refusal"
  /**
   * A connection whose request fails or never arrives leaves two streams in memory until the
   * process exits.
   */
  | "request-leak"
  /** Only one datagram waits for its reader, and the limit cannot be raised. Worked around. */
  | "one-datagram"
  /** An empty datagram during a read ends the process. Worked around. */
  | "empty-datagram-fatal";

export interface NativeServerDefectFact {
  readonly name: NativeServerDefect;
  /** Public issue; `undefined` if none is known. */
  readonly issue: string | undefined;
  /** True if `acceptNativeWebTransport()` avoids the defect. */
  readonly isWorkedAround?: boolean | undefined;
  /** Detects a fix by a feature of the runtime; absent if no feature shows a fix. */
  readonly isMended?: (() => boolean) | undefined;
}

/** One issue covers both the ends of streams and the limit on their number. */
const STREAMS_ISSUE = "https://github.com/denoland/deno/issues/36822";

/**
 * Defects of Deno 2.9.6. This is the only list: `defects_test.ts` looks for each defect and fails
 * once the runtime no longer has it, and the conformance suites skip checks by name.
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
  // A runtime that negotiates subprotocols has read the headers of the request.
  { name: "no-request", issue: undefined, isMended: hasProtocol },
  { name: "no-refusal", issue: undefined },
  { name: "request-leak", issue: undefined },
  { name: "one-datagram", issue: undefined, isWorkedAround: true },
  { name: "empty-datagram-fatal", issue: undefined, isWorkedAround: true },
];

/**
 * Lists the defects of connections from `acceptNativeWebTransport()` on this runtime, except those
 * that a feature of the runtime disproves.
 *
 * @returns The defects; empty if the runtime has no WebTransport at all.
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
