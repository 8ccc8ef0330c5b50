/**
 * What each wire makes of a peer that asks for a session: one shape, so that
 * path, origin, limits and authentication are asked about in one place.
 *
 * @module
 */
import type { Refused } from "./refusal.ts";
import { LimitError } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import type { OriginRules } from "../transport/origins.ts";

/**
 * A peer that asks for a session. Exactly one of `accept` and `refuse` answers
 * it; where `accept` throws, `refuse` follows.
 *
 * @typeParam Answer What the wire's own server is handed.
 */
export interface Invitation<Answer> {
  /** The wire's name, for people. */
  readonly transport: string;
  /** Where to, as a request of HTTP has it. */
  readonly url: string;
  /** What it says of itself. */
  readonly headers: Headers;
  /** Both, for the application. Not every wire has one before somebody asks for it. */
  readonly request: Request;
  /** Its network address, where that is known. */
  readonly address: string | undefined;
  /** Whether it speaks Skein's own protocol. */
  readonly isSkein: boolean;
  /** True if it speaks `skein.1` and announced a token in band. */
  readonly announcesToken: boolean;
  /** Aborted when it gives up before an answer, on wires that tell. */
  readonly signal?: AbortSignal;
  /** The refusal of a request that its transport cannot serve; `undefined` if it can. */
  readonly refusal?: Refused | undefined;
  /** Whether these rules let its page in. */
  isOriginAllowed(rules: OriginRules): boolean;
  /**
   * Lets it in. What it took is freed where it throws.
   *
   * @param admitted Resolves once its token was accepted, where that is to come first.
   * @throws {Refused} If there is no room for one more.
   */
  accept(admitted: Promise<unknown> | undefined): Accepted<Answer>;
  /** Turns it away. Never throws. */
  refuse(refused: Refused): Answer;
}

/** A peer that was let in. */
export interface Accepted<Answer> {
  /** Its connection. */
  readonly connection: Connection;
  /**
   * Resolves once a session can begin, and rejects if it never will: once the answer to an upgrade went
   * out, or the first byte of a client came. `undefined` if a session begins at once.
   */
  readonly opened: Promise<unknown> | undefined;
  /** For the wire's own server. */
  readonly answer: Answer;
  /** Freed if no session ever begins. */
  readonly held: readonly Disposable[];
}

/** What a refusal says in its headers, on every wire: where it is known, when there will be room. */
export function refusalHeaders({ status, cause }: Refused): Record<string, string> {
  const { retryAfterMs = 5_000 } = cause instanceof LimitError ? cause : {};
  const seconds = Math.ceil(retryAfterMs / 1_000);
  return status === 429 || status === 503 ? { "retry-after": String(seconds) } : {};
}
