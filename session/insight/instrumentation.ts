/** Hooks that observe sessions, for traces and metrics. */
import type { CloseInfo } from "../../errors.ts";
import type { TraceContext } from "../wire/envelope.ts";
import type { Session } from "../session.ts";
import type { UntypedMessage } from "../message.ts";
import type { HandshakeInfo } from "../settings/settings.ts";

/** Follows a handshake. */
export interface HandshakeWatch {
  /**
   * Runs the application's handshake code, such as `authenticate`.
   *
   * @param run Runs the code on the first call; every call returns its result.
   */
  during?(run: () => unknown): void;
  /**
   * Called once, at the end of the handshake.
   *
   * @param outcome How the handshake ended: with a session, or with an error.
   */
  ended(
    outcome:
      | {
        /** The established session. */
        readonly session: Session;
      }
      | {
        /** The rejection or failure. */
        readonly error: unknown;
        /** HTTP status of the rejection, if any. */
        readonly status?: number | undefined;
      },
  ): void;
}

export type HandshakeOutcome = Parameters<HandshakeWatch["ended"]>[0];

/** Follows a request. */
export interface RequestWatch {
  /** The trace to send with the request, which the peer can continue; absent by default. */
  readonly trace?: TraceContext | undefined;
  /**
   * Called once, at the end of the request.
   *
   * @param outcome The error, if the request failed; empty if there was a reply.
   */
  ended(outcome: { readonly error?: unknown }): void;
}

/**
 * Hooks into sessions. Every hook is optional and runs synchronously; absent hooks cost nothing. If
 * a hook throws, or its promise rejects, the error is reported like that of a handler, and has no
 * other effect.
 *
 * @example Reporting slow responses
 * ```ts
 * import { dial, type Instrumentation, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const asked: string[] = [];
 * const instrumentation: Instrumentation = {
 *   request(_session, topic) {
 *     return { ended: ({ error }) => void asked.push(`${topic}: ${error ?? "replied"}`) };
 *   },
 * };
 * await using server = serve({ port: 0, onListen() {}, onMessage: (message) => message.reply(1) });
 * await using session = await dial(server.url, { instrumentation });
 * await session.request("count");
 * assertEquals(asked, ["count: replied"]);
 * ```
 */
export interface Instrumentation {
  /**
   * Called at the start of each handshake: on a server, for each request; on a client, for each
   * attempt to connect.
   *
   * @param info Known facts about the handshake.
   * @returns A watch that follows the handshake.
   */
  handshake?(info: HandshakeInfo): HandshakeWatch | undefined | void;
  /**
   * Called when a session is established.
   *
   * @param session The new session.
   */
  sessionOpened?(session: Session): void;
  /**
   * Called for each incoming frame of messages, before it is parsed. On `skein.1`, a frame may
   * contain several messages, one per line, and the token of a client that signs in.
   *
   * @param session The session, which may not be established yet.
   * @param frame Text, or the bytes of a binary message, which MUST NOT be changed.
   */
  received?(session: Session, frame: string | Uint8Array): void;
  /**
   * Called on a server for each publication of a client, after `authorize` and the schema have
   * accepted it and the server has published it. If the topic has a history, a publication that the
   * client repeats after a reconnect may be reported twice. The server's own publications are not
   * reported, because they have no session; the metric `skein.broker.published` counts all of them.
   * Writes to states and durable streams are not publications.
   *
   * @param session The session of the client.
   * @param topic The topic on which the client published.
   */
  published?(session: Session, topic: string): void;
  /**
   * Called when an established session ends.
   *
   * @param session The session, which can no longer send messages.
   * @param info How the session closed.
   */
  sessionClosed?(session: Session, info: CloseInfo): void;
  /**
   * Called before this side sends a request to the peer.
   *
   * @param session The session that sends the request.
   * @param topic The name of the request.
   * @returns A watch that follows the request.
   */
  request?(session: Session, topic: string): RequestWatch | undefined | void;
  /**
   * Called for each message sent with `send` on a session or client, but not for requests or
   * publications. A client may not have a session yet.
   *
   * @param topic The name under which the message is sent.
   * @returns The trace to send with the message, which the peer can continue; absent by default.
   */
  send?(topic: string): TraceContext | undefined | void;
  /**
   * Runs the `onMessage` handler for a message. If the handler throws synchronously, the promise of
   * `run` rejects.
   *
   * @param session The session that received the message.
   * @param message The message that the handler receives.
   * @param run Runs the handler on the first call; every call returns its result. If the hook
   * doesn't call `run`, the handler runs after the hook.
   * @param trace The trace that the peer sent with the message. Don't trust it: the peer may send
   * anything.
   */
  handle?(
    session: Session,
    message: UntypedMessage,
    run: () => void | Promise<void>,
    trace?: TraceContext,
  ): void;
}
