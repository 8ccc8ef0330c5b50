/**
 * An instrumentation, as the sessions that it watches see it.
 *
 * @module
 */
import type { CloseInfo } from "../../errors.ts";
import type { TraceContext } from "../wire/envelope.ts";
import type { UntypedMessage } from "../message.ts";
import type { SessionFace } from "../types.ts";
import type { Side } from "../contract.ts";

/** A handshake that an instrumentation follows. */
export interface FollowedHandshake {
  /** Runs what the application does in the handshake, in the hook or after it. */
  during<T>(run: () => T): T;
  /** The handshake is over; only the first call counts. */
  ended(
    outcome: { readonly session: SessionFace } | {
      readonly error: unknown;
      readonly status?: number | undefined;
    },
  ): void;
}

/** An instrumentation of all sessions of the same settings. */
export interface SessionWatch {
  /** A handshake begins; `undefined` if the instrumentation does not follow it. */
  handshake(info: HandshakeInfo): FollowedHandshake | undefined;
  /** A session is established. */
  opened(session: SessionFace): void;
  /** A session that was established is over. */
  closed(session: SessionFace, info: CloseInfo): void;
  /** Runs a request by a function that gets the trace to send along. */
  asking<T>(
    session: SessionFace,
    topic: string,
    ask: (trace: TraceContext | undefined) => Promise<T>,
  ): Promise<T>;
  /** The trace to send with a message. */
  sending(topic: string, session: SessionFace | undefined): TraceContext | undefined;
  /** Runs the handler of a message. */
  handle(
    message: UntypedMessage,
    session: SessionFace,
    trace: TraceContext | undefined,
  ): void | Promise<void>;
}

/** A handshake that began. */
export interface HandshakeInfo {
  /** Which end this is. */
  readonly side: Side;
  /** Where the client wants to go, without its token. */
  readonly url: string;
  /** On a server: the wire that the client asks on. A client does not know it yet. */
  readonly transport?: string;
  /** On a server: the client's network address, where it is known. */
  readonly address?: string | undefined;
}
