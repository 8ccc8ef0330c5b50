/**
 * What watches sessions from outside: traces and metrics hook in here.
 *
 * @module
 */
import type { CloseInfo } from "../../errors.ts";
import type { TraceContext } from "../wire/envelope.ts";
import type { Session } from "../session.ts";
import type { UntypedMessage } from "../message.ts";
import type { HandshakeInfo } from "./session_watch.ts";

/** How a handshake went. */
export type HandshakeOutcome =
  | {
    /** The session that came of it. */
    readonly session: Session;
  }
  | {
    /** Why there is none: a refusal, or a failure. */
    readonly error: unknown;
    /** The HTTP status of a refusal, where it had one. */
    readonly status?: number | undefined;
  };

/** Follows a handshake. */
export interface HandshakeWatch {
  /**
   * Runs what the application does in the handshake, such as `authenticate`.
   *
   * @param run What; the first call runs it, each call returns its result.
   */
  during?(run: () => unknown): void;
  /**
   * The handshake is over; called once.
   *
   * @param outcome How it went.
   */
  ended(outcome: HandshakeOutcome): void;
}

/** Follows a request. */
export interface RequestWatch {
  /** Sent with the request, for the peer to go on with; nothing by default. */
  readonly trace?: TraceContext | undefined;
  /**
   * The request is over; called once.
   *
   * @param outcome Why there is no answer; empty if there is one.
   */
  ended(outcome: { readonly error?: unknown }): void;
}

/**
 * Hooks into sessions. Every one may be left out, is called synchronously, and
 * costs nothing where it is not there. One that throws, or whose promise
 * rejects, is reported like a handler that does, and changes nothing.
 *
 * @example Who is slow to answer
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
   * A handshake begins: on a server with the request, on a client with the attempt to connect.
   *
   * @param info What is known of it.
   * @returns What follows it.
   */
  handshake?(info: HandshakeInfo): HandshakeWatch | undefined | void;
  /**
   * A session is established.
   *
   * @param session The session.
   */
  sessionOpened?(session: Session): void;
  /**
   * A session that was established is over.
   *
   * @param session The session.
   * @param info How it ended.
   */
  sessionClosed?(session: Session, info: CloseInfo): void;
  /**
   * This end asks the peer; called before the request is sent.
   *
   * @param session The session.
   * @param topic What is asked.
   * @returns What follows it.
   */
  request?(session: Session, topic: string): RequestWatch | undefined | void;
  /**
   * This end sends a message that asks for no answer: by `send` of a session, or of a client, which
   * may have no session yet. Called for each message, but not for publications.
   *
   * @param topic The topic.
   * @returns Sent with the message, for the peer to go on with; nothing by default.
   */
  send?(topic: string): TraceContext | undefined | void;
  /**
   * Runs the `onMessage` handler of a message. A handler that throws at once is seen as one whose
   * promise rejects.
   *
   * @param session The session.
   * @param message The message.
   * @param run The handler; the first call runs it, each call returns its result. It runs in any
   * case: after this, if not in it.
   * @param trace What the peer sent with the message. Nothing says that it tells the truth.
   */
  handle?(
    session: Session,
    message: UntypedMessage,
    run: () => void | Promise<void>,
    trace?: TraceContext,
  ): void;
}
