/** Instrumentation as the watched sessions see the hooks. */
import type { CloseInfo } from "../../errors.ts";
import type { TraceContext } from "../wire/envelope.ts";
import type { UntypedMessage } from "../message.ts";
import type { SessionFace } from "../types.ts";
import type { Side } from "../contract.ts";

/** A handshake that an instrumentation follows. */
export interface FollowedHandshake {
  /** Runs the application's code of the handshake, in the hook or after the hook. */
  during<T>(run: () => T): T;
  /** Ends the handshake; only the first call counts. */
  ended(
    outcome: { readonly session: SessionFace } | {
      readonly error: unknown;
      readonly status?: number | undefined;
    },
  ): void;
}

/** Instrumentation of all sessions with the same settings. */
export interface SessionWatch {
  /** Begins a handshake; `undefined` if the instrumentation does not follow the handshake. */
  handshake(info: HandshakeInfo): FollowedHandshake | undefined;
  /** Reports an established session. */
  opened(session: SessionFace): void;
  /** Reports the end of an established session. */
  closed(session: SessionFace, info: CloseInfo): void;
  /** Runs a request by a function that receives the trace to send along. */
  asking<T>(
    session: SessionFace,
    topic: string,
    ask: (trace: TraceContext | undefined) => Promise<T>,
  ): Promise<T>;
  /** Returns the trace to send with a message. */
  sending(topic: string, session: SessionFace | undefined): TraceContext | undefined;
  /** Runs the handler of a message. */
  handle(
    message: UntypedMessage,
    session: SessionFace,
    trace: TraceContext | undefined,
  ): void | Promise<void>;
}

/** A handshake at the start. */
export interface HandshakeInfo {
  /** Side of this end. */
  readonly side: Side;
  /** URL of the client's request, without the token. */
  readonly url: string;
  /**
   * On a server: the transport of the client's request. A client does not know the transport yet.
   */
  readonly transport?: string;
  /** On a server: the client's network address, where known. */
  readonly address?: string | undefined;
}
