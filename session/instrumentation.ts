/**
 * What watches sessions from outside: traces and metrics hook in here.
 *
 * @module
 */
import type { CloseInfo } from "../errors.ts";
import type { Message } from "./message.ts";
import type { Session } from "./session.ts";

/** A handshake that began. */
export interface HandshakeInfo {
  /** Which end this is. */
  readonly side: "server" | "client";
  /** Where the client wants to go, without its token. */
  readonly url: string;
}

/** How a handshake went. */
export type HandshakeOutcome =
  | {
    /** The session that came of it. */
    readonly session: Session;
  }
  | {
    /** Why there is none: a refusal, or a failure. */
    readonly error: unknown;
    /** The HTTP status of a refusal. */
    readonly status?: number | undefined;
  };

/**
 * Hooks into sessions. Every one may be left out, is called synchronously, and
 * costs nothing where it is not there. One that throws is reported like a
 * handler, and changes nothing.
 */
export interface Instrumentation {
  /**
   * A handshake begins: on a server with the request, on a client with the attempt to connect.
   *
   * @param info What is known of it.
   * @returns Called once with how it went.
   */
  handshake?(info: HandshakeInfo): ((outcome: HandshakeOutcome) => void) | undefined;
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
   * This end asks the peer.
   *
   * @param session The session.
   * @param topic What is asked.
   * @returns Called once with why there is no answer, or with nothing.
   */
  request?(session: Session, topic: string): ((error?: unknown) => void) | undefined;
  /**
   * Runs the handler of a message.
   *
   * @param message The message.
   * @param session Its session.
   * @param run The handler; MUST be called once, synchronously, and its result returned.
   * @returns What the handler returned.
   */
  handle?<T>(message: Message, session: Session, run: () => T): T;
}
