/**
 * A request for a session, in the same form for all transports, so that admission has one
 * implementation.
 */
import type { Rejected } from "./rejection.ts";
import { LimitError } from "../../errors.ts";
import type { Connection } from "../../transport/connection.ts";
import type { SocketLease, UpgradeRequest } from "../../transport/websocket/server.ts";
import type { OriginRules } from "../../transport/origins.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";

/**
 * A request for a session. Exactly one of `accept` and `reject` responds to it; if `accept` throws,
 * `reject` is called next.
 *
 * @typeParam Outcome Type of the response for the transport's server.
 */
export interface SessionRequest<Outcome> {
  /** Display name of the transport. */
  readonly transport: string;
  /** Requested URL, in the form of an HTTP request. */
  readonly url: string;
  readonly headers: UpgradeRequest["headers"];
  /** The request for the application. Some transports create it on first use. */
  readonly request: Request;
  /** Network address of the peer, where known. */
  readonly address: string | undefined;
  /** `true` for a peer with Skein's own protocol. */
  readonly isSkein: boolean;
  /** `true` if the peer uses `skein.1` and announced a token message. */
  readonly announcesToken: boolean;
  /** `true` if the peer may have cookies, and its transport carries none. */
  readonly isCookieless?: boolean | undefined;
  /** Aborted if the peer leaves before the response is sent, on transports that detect this. */
  readonly signal?: AbortSignal | undefined;
  /** Rejection of a request that its transport cannot serve. */
  readonly rejection?: Rejected | undefined;
  /** Returns `true` if the rules allow the page of the peer. */
  isOriginAllowed(rules: OriginRules): boolean;
  /**
   * Accepts the request. Frees its resources on an error.
   *
   * @throws {Rejected} If there is no free slot.
   */
  accept(options: AcceptRequest): Accepted<Outcome>;
  /**
   * Rejects the request. Never throws.
   *
   * @param rejected The reason.
   * @param takeSocket Counts a socket, for a transport that rejects with the close of one.
   */
  reject(rejected: Rejected, takeSocket: () => SocketLease): Outcome;
}

/** Options for accepting a request. */
export interface AcceptRequest {
  /** Resolves once the token was accepted, if a token is required first. */
  readonly admitted: Promise<unknown> | undefined;
  /**
   * Counts the socket of the connection, on transports with sockets. Until the connection opens, the
   * caller frees it.
   *
   * @throws {Rejected} If there are too many sockets.
   */
  takeSocket(): SocketLease;
}

/** Origin of a request in the network. */
export interface RequestPeer {
  /** Network address of the peer, where known. */
  readonly address: string | undefined;
  /** The rejection of the request, if the application failed to find the address. */
  readonly rejection: Rejected | undefined;
}

export interface Accepted<Outcome> {
  readonly connection: Connection;
  /**
   * Resolves once a session can start: the response to an upgrade was sent, or the client's first
   * byte arrived. Rejects if a session can never start. `undefined` if a session starts
   * immediately.
   */
  readonly opened: Promise<unknown> | undefined;
  /** Response for the transport's server. */
  readonly response: Outcome;
}

/**
 * Returns the headers of the response to a request for a session, on every transport.
 *
 * @param rejected The rejection; `undefined` if the request is accepted.
 * @returns The headers; `undefined` if there are none.
 */
export function responseHeaders(rejected?: Rejected): Record<string, string> | undefined {
  return rejected && rejectionHeaders(rejected);
}

/**
 * Returns the headers of a rejection. For 429, 503 and faults of the application, these include the
 * time after which to retry.
 */
export function rejectionHeaders({ status, cause, fault }: Rejected): Record<string, string> {
  const { retryAfterMs = 5_000 } = cause instanceof LimitError ? cause : {};
  const seconds = Math.ceil(retryAfterMs / 1_000);
  const isForNow = status === 429 || status === 503 || fault !== undefined;
  return isForNow ? { "retry-after": String(seconds) } : {};
}

/** A connection that is about to open. If it never opens, it is disposed of. */
export interface PendingUpgrade extends Disposable {
  /** Called once the connection is open. */
  opened?(): void;
  /** Called after the upgrade was disposed of because the connection has not opened in time. */
  late?(): void;
}

/**
 * Frees the resources of connections whose session never starts. If a peer disappears before the
 * response to its upgrade, the socket emits no event.
 */
export class PendingUpgrades implements Disposable {
  readonly #waiting: Deadlines<PendingUpgrade>;

  /** Creates a registry with a time limit per connection, in milliseconds. */
  constructor(runtime: Runtime, timeoutMs: number) {
    this.#waiting = new Deadlines(runtime, timeoutMs, (upgrade) => {
      upgrade[Symbol.dispose]();
      upgrade.late?.();
    });
  }

  /** Waits until a connection opens. Disposes of the upgrade if that fails or takes too long. */
  add(opened: Promise<unknown>, upgrade: PendingUpgrade): void {
    this.#waiting.add(upgrade);
    opened.then(
      () => {
        this.#waiting.delete(upgrade);
        upgrade.opened?.();
      },
      () => {
        this.#waiting.delete(upgrade);
        upgrade[Symbol.dispose]();
      },
    );
  }

  /**
   * Stops waiting for all connections, and frees their resources. The listener stops with the
   * server, so these connections may never open.
   */
  [Symbol.dispose](): void {
    for (const upgrade of this.#waiting.clear()) upgrade[Symbol.dispose]();
  }
}
