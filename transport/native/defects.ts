/** The known defects of the runtime's own WebTransport server, as data. */

/** The name of a defect of the runtime's own WebTransport server. */
export type NativeServerDefect =
  /** A closed stream sends no end, so its reader waits until the session ends. */
  | "no-stream-end"
  /** An aborted stream sends no reset, so its reader waits until the session ends. */
  | "no-stream-reset"
  /** A cancelled stream sends no STOP_SENDING, so its writer continues. */
  | "no-stop-sending"
  /** An idle stream does not notice that the session ended. */
  | "idle-streams-stay"
  /** The peer can replace closed streams only after the runtime's garbage collection. */
  | "stream-limit"
  /**
   * After HTTP/3 itself has opened a stream, such as QPACK's, a pending read of incoming
   * unidirectional streams never ends.
   */
  | "foreign-stream-stall"
  /**
   * The peer's close is visible only as the end of the QUIC connection, without a code and reason.
   */
  | "close-unseen"
  /**
   * The code and reason of a close are sent in QUIC's close, which browsers do not expose to pages.
   */
  | "close-code-lost"
  /** The headers of the request are hidden, including Origin and the offered subprotocols. */
  | "no-request"
  /** The session is accepted before the application can decide, so no status can reject it. */
  | "no-rejection"
  /**
   * A connection whose request fails or never arrives leaves two streams in memory until the
   * process exits.
   */
  | "request-leak"
  /** Only one datagram is kept for the reader, and this limit cannot be raised. Worked around. */
  | "one-datagram"
  /** An empty datagram that arrives during a read ends the process. Worked around. */
  | "empty-datagram-fatal";

export interface NativeServerDefectFact {
  readonly name: NativeServerDefect;
  /** The URL of a public issue; `undefined` if none is known. */
  readonly issue: string | undefined;
  /** True if `acceptNativeWebTransport()` avoids the defect. */
  readonly isWorkedAround?: boolean | undefined;
  /** Detects a fix by a feature of the runtime. This is absent if no feature reveals a fix. */
  readonly isMended?: (() => boolean) | undefined;
}

/** One issue covers both how streams end and the limit on their number. */
const STREAMS_ISSUE = "https://github.com/denoland/deno/issues/36822";

/**
 * The defects of Deno 2.9.6. This is the only list of them. `defects_test.ts` checks each defect
 * and fails once the runtime no longer has it. The conformance suites use the names to skip checks.
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
  // If the runtime negotiates subprotocols, it has read the headers of the request.
  { name: "no-request", issue: undefined, isMended: hasProtocol },
  { name: "no-rejection", issue: undefined },
  { name: "request-leak", issue: undefined },
  { name: "one-datagram", issue: undefined, isWorkedAround: true },
  { name: "empty-datagram-fatal", issue: undefined, isWorkedAround: true },
];

/**
 * Lists the defects of connections from `acceptNativeWebTransport()` on this runtime, except those
 * that are fixed according to a feature of the runtime.
 *
 * @returns The defects; an empty array if the runtime has no WebTransport at all.
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
