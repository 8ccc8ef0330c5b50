/** Attempts of clients to connect, with everything that they hold. */
import type { ConnectingClient } from "../../manager/limits.ts";
import type { Login } from "../../pubsub/decisions.ts";
import { TICKET_SECRET } from "../../session/serving/requests.ts";
import type { Session } from "../../session/session.ts";
import { TICKET_KEY } from "../../session/url.ts";
import type { Connection } from "../../transport/connection.ts";
import type { SocketLease } from "../../transport/websocket/server.ts";
import type { AcceptRequest, PendingUpgrade, SessionRequest } from "./session_request.ts";
import type { Identity } from "./authentication.ts";
import type { ServerHandshake } from "./handshake.ts";

/** Most bytes of headers kept for `authenticate` while a token is pending; enough for cookies. */
export const MAX_AWAITED_HEADER_BYTES = 16_384;

/** A token that follows in a message. */
export class AwaitedToken {
  /** Request headers, including cookies: the runtime cannot read them after an upgrade. */
  readonly headers: Headers;
  /** Resolves once the token was accepted. */
  readonly admitted: PromiseWithResolvers<void> = Promise.withResolvers();
  /**
   * `true` once a token was passed to `authenticate`, after which its rejection is already
   * reported.
   */
  isAsked = false;

  private constructor(headers: Headers) {
    this.headers = headers;
  }

  /** Copies the headers of a request. Returns `undefined` if they are too large. */
  static of({ headers }: SessionRequest<unknown>): AwaitedToken | undefined {
    let bytes = 0;
    for (const [name, value] of headers) bytes += name.length + value.length;
    if (bytes > MAX_AWAITED_HEADER_BYTES) return undefined;
    return new AwaitedToken(new Headers([...headers]));
  }
}

/** An accepted connection, and what is known about the peer. */
export interface AcceptedPeer {
  readonly connection: Connection;
  readonly identity: Identity;
  /** The requested URL, without a token. */
  readonly url: string;
  /** The headers to keep; after an upgrade, the runtime can no longer read them. */
  readonly headers: HeadersInit;
}

/** The admission, as its attempts use it. */
export interface AttemptHost {
  /**
   * Counts a client's socket.
   *
   * @throws {Rejected} If there are too many sockets.
   */
  takeSocket(attempt: Attempt): SocketLease;
  /** Creates the session of an attempt whose connection is open. */
  opened(attempt: Attempt): void;
  /** Called after an attempt was disposed of because its connection has not opened in time. */
  late(attempt: Attempt): void;
  /** Called once an attempt with a connection is over. */
  over(attempt: Attempt): void;
}

/**
 * An attempt to connect, from the request until the session is established or the attempt fails.
 * It owns what it holds: disposing of it frees everything that no session has taken over.
 */
export class Attempt implements AcceptRequest, PendingUpgrade {
  readonly request: SessionRequest<unknown>;
  /** The client, as the limits count it; its slot is held until the attempt is over. */
  readonly client: ConnectingClient;
  /** The ticket of the client's earlier session, if any. */
  readonly ticket: string | undefined;
  /** The token that follows in a message, if the client announced one. */
  awaited: AwaitedToken | undefined;
  /** The login of the client, if `authenticate` was called, until the attempt is over. */
  login: Login | undefined;
  /** The handshake, until a session takes it over. */
  handshake: ServerHandshake | undefined;
  /** A slot among the sessions of the user on all nodes, until a session takes it over. */
  claim: Disposable | undefined;
  /** The connection, once the request was accepted. */
  accepted: AcceptedPeer | undefined;
  /** The session, once the connection is open. */
  session: Session | undefined;
  /** True once the session is established, or will never be. */
  isOver = false;
  readonly #host: AttemptHost;
  /** The socket, until the engine takes it over. */
  #socket: SocketLease | undefined;

  constructor(
    request: SessionRequest<unknown>,
    { host, client, handshake }: {
      readonly host: AttemptHost;
      readonly client: ConnectingClient;
      readonly handshake: ServerHandshake | undefined;
    },
  ) {
    this.request = request;
    this.client = client;
    this.handshake = handshake;
    this.ticket = ticketOf(request);
    this.#host = host;
  }

  /** The secret of the client's earlier session, which identifies a returning guest. */
  get secret(): string | undefined {
    const secret = this.ticket?.split(".")[1] ?? "";
    return TICKET_SECRET.test(secret) ? secret : undefined;
  }

  /** Resolves once the token was accepted, if the client announced one. */
  get admitted(): Promise<void> | undefined {
    return this.awaited?.admitted.promise;
  }

  /**
   * Counts the client's socket.
   *
   * @throws {Rejected} If there are too many sockets.
   */
  takeSocket(): SocketLease {
    return this.#socket = this.#host.takeSocket(this);
  }

  /** Creates the session. */
  opened(): void {
    this.#host.opened(this);
  }

  /** Reports that the connection has not opened in time. */
  late(): void {
    this.#host.late(this);
  }

  /** The session takes over the handshake and the claim, and the engine takes over the socket. */
  handOver(): void {
    this.handshake = this.claim = this.#socket = undefined;
  }

  /** Frees everything that no session has taken over. Idempotent. */
  [Symbol.dispose](): void {
    if (this.isOver) return;
    this.isOver = true;
    if (this.accepted !== undefined) this.#host.over(this);
    this.#socket?.[Symbol.dispose]();
    this.claim?.[Symbol.dispose]();
    this.handshake?.[Symbol.dispose]();
    this.login?.[Symbol.dispose]();
    this.client[Symbol.dispose]();
  }
}

/** Reads the ticket of the client's earlier session, if any. */
export function ticketOf(
  { isSkein, url }: Pick<SessionRequest<unknown>, "isSkein" | "url">,
): string | undefined {
  if (!isSkein || !url.includes(TICKET_KEY)) return undefined;
  return new URL(url).searchParams.get(TICKET_KEY.slice(0, -1)) ?? undefined;
}
