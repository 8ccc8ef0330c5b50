/** Hooks that watch sessions from outside, for traces and metrics. */
import type { CloseInfo } from "../../errors.ts";
import type { TraceContext } from "../wire/envelope.ts";
import type { Session } from "../session.ts";
import type { UntypedMessage } from "../message.ts";
import type { HandshakeInfo } from "../settings.ts";

/** Follows a handshake. */
export interface HandshakeWatch {
  /**
   * Runs the application's code of the handshake, such as `authenticate`.
   *
   * @param run That code; the first call runs the code, and each call returns the result.
   */
  during?(run: () => unknown): void;
  /**
   * Called once, at the end of the handshake.
   *
   * @param outcome The outcome.
   */
  ended(
    outcome:
      | {
        /** The established session. */
        readonly session: Session;
      }
      | {
        /** The refusal or failure. */
        readonly error: unknown;
        /** HTTP status of the refusal, if any. */
        readonly status?: number | undefined;
      },
  ): void;
}

/** Outcome of a handshake. */
export type HandshakeOutcome = Parameters<HandshakeWatch["ended"]>[0];

/** Follows a request. */
export interface RequestWatch {
  /** Trace to send with the request, for the peer to continue; absent by default. */
  readonly trace?: TraceContext | undefined;
  /**
   * Called once, at the end of the request.
   *
   * @param outcome The error of a request without an answer; empty after an answer.
   */
  ended(outcome: { readonly error?: unknown }): void;
}

/**
 * Hooks into sessions. Every hook is optional, is called synchronously, and costs nothing if
 * absent. An error that a hook throws, or the rejection of its promise, is reported like the error
 * of a handler, and changes nothing.
 *
 * @example Reporting slow answers
 * ```ts
 * import { dial, type Instrumentation, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const asked: string[] = [];
 * const instrumentation: Instrumentation = {
 *   request(_session, topic) {
 *     return { ended: ({ error }) => void asked.push(`${topic}: ${error ?? "answered"}`) };
 *   },
 * };
 * await using server = serve({ port: 0, onListen() {}, onMessage: (message) => message.reply(1) });
 * await using session = await dial(server.url, { instrumentation });
 * await session.request("count");
 * assertEquals(asked, ["count: answered"]);
 * ```
 */
export interface Instrumentation {
  /**
   * Called at the start of a handshake: on a server with the request, on a client with the attempt
   * to connect.
   *
   * @param info The known facts about the handshake.
   * @returns A watch that follows the handshake.
   */
  handshake?(info: HandshakeInfo): HandshakeWatch | undefined | void;
  /**
   * Called when a session is established.
   *
   * @param session The session.
   */
  sessionOpened?(session: Session): void;
  /**
   * Called for each frame of messages that arrives, before it is read. A frame of `skein.1` may have
   * several messages, a line each, and the token of a client that signs in.
   *
   * @param session The session, which may not be established yet.
   * @param frame Text, or the bytes of a binary message, which MUST NOT be changed.
   */
  received?(session: Session, frame: string | Uint8Array): void;
  /**
   * Called when an established session ends.
   *
   * @param session The session.
   * @param info The end of the session.
   */
  sessionClosed?(session: Session, info: CloseInfo): void;
  /**
   * Called before this end sends a request to the peer.
   *
   * @param session The session.
   * @param topic The topic of the request.
   * @returns A watch that follows the request.
   */
  request?(session: Session, topic: string): RequestWatch | undefined | void;
  /**
   * Called when this end sends a message without a request: by `send` of a session, or of a client,
   * which may have no session yet. Called for each message, but not for publications.
   *
   * @param topic The topic.
   * @returns A trace to send with the message, for the peer to continue; absent by default.
   */
  send?(topic: string): TraceContext | undefined | void;
  /**
   * Runs the `onMessage` handler of a message. A handler that throws synchronously appears as a
   * rejected promise.
   *
   * @param session The session.
   * @param message The message.
   * @param run The handler; the first call runs the handler, and each call returns the result. A
   * handler that this hook does not run is run after the hook.
   * @param trace The trace that the peer sent with the message. The peer may lie.
   */
  handle?(
    session: Session,
    message: UntypedMessage,
    run: () => void | Promise<void>,
    trace?: TraceContext,
  ): void;
}
