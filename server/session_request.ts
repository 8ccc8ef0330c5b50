/** A request for a session in one shape for all wires, so that admission has one implementation. */
import type { Refused } from "./refusal.ts";
import { LimitError } from "../errors.ts";
import type { Session } from "../session/session.ts";
import type { Connection } from "../transport/connection.ts";
import type { UpgradeRequest } from "../transport/websocket/server.ts";
import type { OriginRules } from "../transport/origins.ts";
import { Deadlines } from "../base/deadlines.ts";
import type { Runtime } from "../base/runtime.ts";

/**
 * A request for a session. Exactly one of `accept` and `refuse` answers the request; if `accept`
 * throws, `refuse` follows.
 *
 * @typeParam Answer Type of the answer for the wire's own server.
 */
export interface SessionRequest<Answer> {
  /** Name of the wire, for people. */
  readonly transport: string;
  /** Requested URL, in the form of an HTTP request. */
  readonly url: string;
  readonly headers: UpgradeRequest["headers"];
  /** The request for the application. Some wires create the request on first use. */
  readonly request: Request;
  /** Network address of the peer, where known. */
  readonly address: string | undefined;
  /** `true` for a peer with Skein's own protocol. */
  readonly isSkein: boolean;
  /** `true` if the peer uses `skein.1` and announced a token in band. */
  readonly announcesToken: boolean;
  /** Aborted if the peer leaves before an answer, on wires that show this. */
  readonly signal?: AbortSignal | undefined;
  /** Refusal of a request that its transport cannot serve; `undefined` if servable. */
  readonly refusal?: Refused | undefined;
  /** Returns `true` if the rules allow the page of the peer. */
  isOriginAllowed(rules: OriginRules): boolean;
  /**
   * Accepts the request. Frees its resources on an error.
   *
   * @throws {Refused} If there is no place left.
   */
  accept(options: AcceptRequest): Accepted<Answer>;
  /** Refuses the request. Never throws. */
  refuse(refused: Refused): Answer;
}

/** Options for accepting a request. */
export interface AcceptRequest {
  /** Resolves once the token was accepted, if a token must come first. */
  readonly admitted: Promise<unknown> | undefined;
  /** The session from which the client moves, with which this one counts once. */
  readonly beside: Session | undefined;
}

/** Origin of a request in the network. */
export interface RequestPlace {
  /** Network address of the peer, where known. */
  readonly address: string | undefined;
  /** Refusal of the request if the application failed to find the address. */
  readonly refusal: Refused | undefined;
}

export interface Accepted<Answer> {
  readonly connection: Connection;
  /**
   * Resolves once a session can begin: the answer to an upgrade was sent, or the first byte of a
   * client came. Rejects if a session never can begin. `undefined` if a session begins at once.
   */
  readonly opened: Promise<unknown> | undefined;
  /** Answer for the wire's own server. */
  readonly answer: Answer;
  /** Resources to free if no session begins. */
  readonly held: readonly Disposable[];
}

/**
 * Returns the headers of the answer to a request for a session, on each transport: the one place for
 * a header of them all.
 *
 * @param refused The refusal; `undefined` if the request is accepted.
 * @returns The headers; `undefined` for none.
 */
export function answerHeaders(refused?: Refused): Record<string, string> | undefined {
  return refused && refusalHeaders(refused);
}

/**
 * Returns the headers of a refusal: for 429, 503 and a fault of the application the time after which
 * to try again.
 */
export function refusalHeaders({ status, cause, fault }: Refused): Record<string, string> {
  const { retryAfterMs = 5_000 } = cause instanceof LimitError ? cause : {};
  const seconds = Math.ceil(retryAfterMs / 1_000);
  const isForNow = status === 429 || status === 503 || fault !== undefined;
  return isForNow ? { "retry-after": String(seconds) } : {};
}

/** A connection that has not opened yet. */
interface Opening {
  /** Resources to free if the connection never opens. */
  readonly held: readonly Disposable[];
  /** Called when the connection has not opened in time. */
  readonly onLate: (() => void) | undefined;
}

/**
 * Frees the resources of connections whose session never begins. If a peer vanishes before the
 * response to its upgrade, the socket emits no event.
 */
export class PendingUpgrades implements Disposable {
  readonly #waiting: Deadlines<Opening>;

  /** Creates a registry with a time limit for each connection, in milliseconds. */
  constructor(runtime: Runtime, timeoutMs: number) {
    this.#waiting = new Deadlines(runtime, timeoutMs, (late) => {
      free(late);
      late.onLate?.();
    });
  }

  /**
   * Calls `begin` once the connection is open; frees the resources if opening fails or takes too
   * long, and calls `onLate` in the second case.
   */
  add(
    opened: Promise<unknown>,
    held: readonly Disposable[],
    { begin, onLate }: {
      readonly begin?: (() => void) | undefined;
      readonly onLate?: (() => void) | undefined;
    } = {},
  ): void {
    const opening = { held, onLate };
    this.#waiting.add(opening);
    opened.then(
      () => {
        this.#waiting.delete(opening);
        begin?.();
      },
      () => {
        this.#waiting.delete(opening);
        free(opening);
      },
    );
  }

  /**
   * Stops waiting for all connections, and frees their resources: the listener ends with the server,
   * so that such a connection may never open.
   */
  [Symbol.dispose](): void {
    for (const opening of this.#waiting.clear()) free(opening);
  }
}

function free({ held }: Opening): void {
  for (const one of held) one[Symbol.dispose]();
}
